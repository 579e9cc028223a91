"""Face-true augmentation of whole batches: what a camera and a landmark detector can do to a face.

Randomness is drawn from a numpy Generator, so a checkpoint can store and restore it exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Change: TypeAlias = Callable[[Tensor, np.random.Generator], Tensor]


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Ranges are half-widths around no change; probabilities are for one image."""

    rotate_deg: float = 12.0
    scale_frac: float = 0.12
    aspect_frac: float = 0.05
    shift_frac: float = 0.06  # of the crop's width; covers landmark noise and loose framing
    brightness: float = 0.08  # of full scale
    contrast_frac: float = 0.25
    gamma_frac: float = 0.25
    tint_frac: float = 0.1  # per-channel gain of colour crops
    grey_prob: float = 0.05  # colour crops only
    blur_prob: float = 0.07
    shrink_prob: float = 0.08  # down and up again, as with a small face
    jpeg_prob: float = 0.08
    noise_prob: float = 0.08
    noise_max: float = 0.03
    occlude_prob: float = 0.12
    occlude_frac: float = 0.35  # longest side of the patch, of the crop


LIGHT: Final = AugmentConfig(
    rotate_deg=6.0,
    scale_frac=0.06,
    shift_frac=0.03,
    blur_prob=0.05,
    shrink_prob=0.05,
    jpeg_prob=0.05,
    noise_prob=0.05,
    occlude_prob=0.05,
)
"""For aligned faces, which leave little to jitter, and nets that underfit before they overfit."""


def augment(
    images: Tensor,
    crop_to_image: Tensor,
    size_px: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Tensor:
    """Return (N, C, h, w) float32 crops in 0..255, warped once and then photographed badly.

    images: (N, C, H, W) uint8. crop_to_image: (N, 2, 3) float32, pixels of the crop to pixels of
    the image when nothing is jittered. size_px: (w, h) of the crop.
    """
    matrices = compose(crop_to_image, jitter(len(images), size_px, config, rng))
    x = warp(images.float() / 255, matrices, size_px)
    x = _relight(x, config, rng)
    x = _on_some(x, config.blur_prob, rng, _blur)
    x = _on_some(x, config.shrink_prob, rng, _shrink)
    x = _on_some(x, config.jpeg_prob, rng, _jpeg)
    x = _on_some(x, config.noise_prob, rng, lambda y, r: _noise(y, config.noise_max, r))
    x = _on_some(x, config.occlude_prob, rng, lambda y, r: occlude(y, config.occlude_frac, r))
    return x.clamp_(0, 1) * 255


def jitter(
    count: int, size_px: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> Tensor:
    """Return (count, 2, 3) maps of the crop onto itself: turn, scale, stretch, shift, mirror."""
    width, height = size_px
    angle = np.radians(rng.uniform(-config.rotate_deg, config.rotate_deg, count))
    scale = np.exp(rng.uniform(-config.scale_frac, config.scale_frac, count))
    aspect = np.exp(rng.uniform(-config.aspect_frac, config.aspect_frac, count))
    mirror = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.stack((cos * aspect, -sin, sin, cos / aspect), 1).reshape(-1, 2, 2)
    linear[:, :, 0] *= mirror[:, None]
    centre = np.array((width / 2, height / 2))
    shift = rng.uniform(-config.shift_frac, config.shift_frac, (count, 2)) * (width, height)
    offset = centre + shift - linear @ centre
    return torch.from_numpy(np.concatenate((linear, offset[:, :, None]), 2).astype(np.float32))


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Return the (N, 2, 3) maps that apply ``inner`` first, then ``outer``."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    return torch.cat((linear, outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]), 2)


def warp(images: Tensor, crop_to_image: Tensor, size_px: tuple[int, int]) -> Tensor:
    """Sample (N, C, H, W) float images bilinearly into (N, C, h, w); borders are replicated."""
    width, height = size_px
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1).reshape(-1, 3)  # (h * w, 3)
    where = points @ crop_to_image.transpose(1, 2)  # (N, h * w, 2), pixels of the image
    where = where * 2 / torch.tensor((images.shape[3], images.shape[2])) - 1
    grid = where.reshape(-1, height, width, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _relight(x: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    count, channels = x.shape[:2]
    x = x.clamp(1e-4, 1) ** _column(np.exp(_spread(rng, config.gamma_frac, count)))
    if channels == 3:
        gain = 1 + _spread(rng, config.tint_frac, count * 3).reshape(count, 3, 1, 1)
        x = x * torch.from_numpy(gain.astype(np.float32))
        grey = torch.from_numpy(rng.random(count) < config.grey_prob)
        x[grey] = x[grey].mean(1, keepdim=True)
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    contrast = _column(np.exp(_spread(rng, config.contrast_frac, count)))
    return (x - middle) * contrast + middle + _column(_spread(rng, config.brightness, count))


def _on_some(x: Tensor, prob: float, rng: np.random.Generator, change: _Change) -> Tensor:
    chosen = torch.from_numpy(np.flatnonzero(rng.random(len(x)) < prob))
    if len(chosen):
        x[chosen] = change(x[chosen], rng)
    return x


def _blur(x: Tensor, rng: np.random.Generator) -> Tensor:
    sigma = float(rng.uniform(0.5, 1.4)) * x.shape[3] / 48
    reach = math.ceil(2 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    channels = x.shape[1]
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, taps.expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def _shrink(x: Tensor, rng: np.random.Generator) -> Tensor:
    size = (x.shape[2], x.shape[3])
    factor = float(rng.uniform(0.35, 0.8))
    small = F.interpolate(x, scale_factor=factor, mode="bilinear", antialias=True)
    return F.interpolate(small, size=size, mode="bilinear")


def _jpeg(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Round the 8x8 cosine transform of every plane as JPEG's luminance table does."""
    count, channels, height, width = x.shape
    basis = _cosine_basis()
    blocks = x.reshape(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4) * 255 - 128
    u = torch.arange(8.0)
    # A smooth stand-in for ITU-T T.81 table K.1: coarser with frequency.
    table = (10 + 7 * (u[:, None] + u)) * float(rng.uniform(0.5, 3.0))
    coefficients = basis @ blocks @ basis.T
    blocks = basis.T @ (torch.round(coefficients / table) * table) @ basis
    return (blocks.transpose(3, 4).reshape(x.shape) + 128) / 255


def _noise(x: Tensor, strongest: float, rng: np.random.Generator) -> Tensor:
    level = _column(rng.uniform(0, strongest, len(x)))
    return x + level * torch.from_numpy(rng.standard_normal(tuple(x.shape), np.float32))


def occlude(x: Tensor, longest: float, rng: np.random.Generator) -> Tensor:
    """Hide a rectangle of each picture, (N, C, H, W) in 0..1, up to ``longest`` of its sides."""
    count, _, height, width = x.shape
    half = rng.uniform(0.1, longest, (2, count)) / 2
    centre = rng.uniform(0, 1, (2, count))
    rows = torch.from_numpy(np.abs((np.arange(height) + 0.5) / height - centre[0][:, None]))
    columns = torch.from_numpy(np.abs((np.arange(width) + 0.5) / width - centre[1][:, None]))
    hidden = (rows < torch.from_numpy(half[0])[:, None])[:, None, :, None] & (
        columns < torch.from_numpy(half[1])[:, None]
    )[:, None, None, :]
    return torch.where(hidden, _column(rng.uniform(0, 1, count)), x)


def _spread(rng: np.random.Generator, half_width: float, count: int) -> NDArray[np.float64]:
    return rng.uniform(-half_width, half_width, count)


def _column(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)


@cache
def _cosine_basis() -> Tensor:
    k = np.arange(8)
    basis = np.cos(np.pi * (2 * k + 1) * k[:, None] / 16) / 2
    basis[0] /= math.sqrt(2)
    return torch.from_numpy(basis.astype(np.float32))
