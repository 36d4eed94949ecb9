"""Random variations of a whole batch at once, on tensors: a photo per thread would cost more than the network."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def _uniform(n: int, low: float, high: float, like: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 1, 1, 1) numbers; drawn on the CPU so that a seed means the same on every device."""
    return (torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low).to(like.device)


def _chance(n: int, p: float, like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(n, 1, 1, 1, generator=generator) < p).to(like.device)


def move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip, shift ±11 % of the width, scale ±18 %, rotate ±12°, shear: one bilinear resampling for all of them."""
    n = len(images)
    angle, shear, zoom, aspect, dx, dy, side = torch.rand(7, n, generator=generator)
    angle = (angle * 2 - 1) * math.radians(12)
    shear = (shear * 2 - 1) * 0.12
    zoom = torch.exp((zoom * 2 - 1) * 0.18)
    aspect = torch.exp((aspect * 2 - 1) * 0.07)
    flip = torch.where(side < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([flip * zoom * aspect * cos, zoom * (shear * cos - sin), (dx * 2 - 1) * 0.22], dim=1),
            torch.stack([flip * zoom * sin, zoom / aspect * (shear * sin + cos), (dy * 2 - 1) * 0.22], dim=1),
        ],
        dim=1,
    ).to(images.device)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation; grey in 10 %, blur and noise in 12 % of the images."""
    n = len(images)
    grey = images.mean(dim=1, keepdim=True)
    saturation = _uniform(n, 0.6, 1.4, images, generator).masked_fill(_chance(n, 0.10, images, generator), 0.0)
    images = grey + (images - grey) * saturation
    centre = images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = _uniform(n, 0.65, 1.35, images, generator)
    images = (images - centre) * contrast + centre * _uniform(n, 0.65, 1.35, images, generator)
    blurred = _chance(n, 0.12, images, generator).flatten()
    if blurred.any():
        side = torch.tensor([0.25, 0.5, 0.25], device=images.device)
        kernel = torch.outer(side, side).expand(3, 1, 3, 3)
        images[blurred] = functional.conv2d(
            functional.pad(images[blurred], (1, 1, 1, 1), mode="reflect"), kernel, groups=3
        )
    level = _uniform(n, 0.01, 0.08, images, generator) * _chance(n, 0.12, images, generator)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return (images + noise * level).clamp(0.0, 1.0)


def cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    """Hide a square of up to 40 % of the width in half of the images."""
    n, _, height, width = images.shape
    half = _uniform(n, 0.10, 0.20, images, generator) * _chance(n, 0.5, images, generator)
    x = (torch.arange(width, device=images.device) + 0.5).reshape(1, 1, 1, -1) / width
    y = (torch.arange(height, device=images.device) + 0.5).reshape(1, 1, -1, 1) / height
    centre_x, centre_y = _uniform(n, 0, 1, images, generator), _uniform(n, 0, 1, images, generator)
    hidden = ((x - centre_x).abs() < half) & ((y - centre_y).abs() < half)
    return torch.where(hidden, torch.rand(n, 3, 1, 1, generator=generator).to(images.device), images)


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images in [0, 1], shape (n, 3, H, W): a new variation of each."""
    return cut_out(recolour(move(images, generator), generator), generator)


def blend(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix within the batch, a third each, else unchanged; targets are (n, n_classes) shares."""
    kind, u, cx, cy = torch.rand(4, generator=generator).tolist()
    if kind < 1 / 3:
        return images, targets
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    if kind < 2 / 3:
        share = 1.0 - 0.4 * u
        mixed = images * share + images[partner] * (1.0 - share)
    else:
        height, width = images.shape[-2:]
        side = math.sqrt(0.5 * u)
        h, w = round(height * side), round(width * side)
        top, left = int(cy * (height - h + 1)), int(cx * (width - w + 1))
        share = 1.0 - h * w / (height * width)
        mixed = images.clone()
        mixed[:, :, top : top + h, left : left + w] = images[partner, :, top : top + h, left : left + w]
    return mixed, targets * share + targets[partner] * (1.0 - share)
