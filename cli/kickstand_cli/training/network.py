"""The network: a small residual network whose classes include the foreign ones."""

import torch
from torch import Tensor, nn


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two convolutions around a shortcut; the shape stays."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Network(nn.Module):
    """ResNet-9: images (n, 3, H, W), normalised → one logit per class (n, n_classes).

    Classes are the labels first, then every foreign class; `with_neither` folds the foreign ones into one.
    """

    def __init__(self, n_classes: int, width: int = 24, dropout: float = 0.1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(3, width),
            _convolution(width, 2 * width),
            nn.MaxPool2d(2),
            Residual(2 * width),
            _convolution(2 * width, 4 * width),
            nn.MaxPool2d(2),
            _convolution(4 * width, 8 * width),
            nn.MaxPool2d(2),
            Residual(8 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(8 * width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits

    def forget_labels(self, n_labels: int) -> None:
        """Start the rows of the labels afresh: pretraining has only ever pushed them down."""
        with torch.no_grad():
            nn.init.normal_(self.head.weight[:n_labels], std=0.01)
            self.head.bias[:n_labels] = self.head.bias[n_labels:].mean()


def with_neither(logits: Tensor, n_labels: int) -> Tensor:
    """(n, n_classes) → (n, n_labels + 1): the foreign classes' probability mass becomes "neither"."""
    return torch.cat([logits[:, :n_labels], torch.logsumexp(logits[:, n_labels:], dim=1, keepdim=True)], dim=1)
