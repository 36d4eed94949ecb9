"""Muon for the filters, Nesterov's momentum for everything else."""

import torch
from torch import Tensor, nn

MOMENTUM = 0.9
FILTER_RATE = 0.5
"""Times the learning rate: the share of their own length by which a layer's filters turn in one step."""


def orthogonalise(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Nearly the nearest matrix whose singular values are all 1: those that are not tiny end between 0.5 and 1.5.

    Three rounds of the quintic Newton-Schulz iteration; its coefficients, which climb fastest from zero, are those of
    Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024, https://kellerjordan.github.io/posts/muon/.
    """
    x = matrix.to(dtype)
    x = x / (x.norm() + 1e-7)
    wide = x if len(x) <= x.shape[1] else x.T
    for _ in range(3):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return (wide if len(x) <= x.shape[1] else wide.T).float()


class Muon(torch.optim.Optimizer):
    """Steps for a network whose filters stand before a BatchNorm each, so that only their direction counts.

    Filters are held at the length √n_filters, where an orthogonal update of equal length changes them by the rate
    itself: the learning rate needs no weight decay to mean the same from first to last. The first layer's, which see
    three channels only, the norms and the head learn by Nesterov's momentum; `weight_decay` is for their matrices.
    """

    def __init__(
        self, network: nn.Module, rate: float, weight_decay: float, dtype: torch.dtype = torch.float32
    ) -> None:
        self.dtype = dtype
        filters, matrices, others = [], [], []
        for weight in network.parameters():
            if weight.ndim == 4 and weight.shape[1] > 3:
                filters.append(weight)
            elif weight.ndim > 1:
                matrices.append(weight)
            else:
                others.append(weight)
        groups = [
            {"params": filters, "filters": True, "weight_decay": 0.0},
            {"params": matrices, "filters": False, "weight_decay": weight_decay},
            {"params": others, "filters": False, "weight_decay": 0.0},
        ]
        super().__init__(groups, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002
        """One step along the gradients; there is no closure that would ask for the loss again."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = weight.grad
                if group["weight_decay"]:
                    gradient = gradient.add(weight, alpha=group["weight_decay"])
                speed = self.state[weight].setdefault("speed", torch.zeros_like(weight))
                speed.mul_(MOMENTUM).add_(gradient)
                update = gradient.add(speed, alpha=MOMENTUM)
                if not group["filters"]:
                    weight.add_(update, alpha=-group["lr"])
                    continue
                direction = orthogonalise(update.flatten(1), self.dtype).reshape(update.shape)
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.add_(direction, alpha=-group["lr"] * FILTER_RATE)
