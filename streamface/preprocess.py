"""The only road from uint8 pixels to the float tensors of a classifier.

Training data, evaluation and video all pass through ``crop_into``; change it only with a retrain.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.align import invert, similarity
from streamface.frame import Colour, Planes
from streamface.kernels.crop import crop_grey, crop_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.card import InputSpec
    from streamface.frame import PlaneU8, PointsF32

MAX_TAPS: Final = 5
"""Samples a side in one pixel of the crop; 25 keep the cost of a screen-high face bounded."""


def crop_into(
    planes: Planes, landmarks_px: PointsF32, spec: InputSpec, out: NDArray[np.float32]
) -> None:
    """Cut, align and normalise one face into one slot of a batch.

    landmarks_px: (5, 2) float32 in pixels of the frame, order of frame.LANDMARKS. out: (C, H, W)
    float32 as ``spec`` says, C-contiguous, overwritten. Pixels beyond the frame repeat its border.
    The GIL is released while pixels are read. Raises ValueError for a wrong ``out``, or for
    landmarks that are not finite or all in one point.
    """
    if out.shape != spec.shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"out must be {spec.shape} float32 C-contiguous, not {out.shape}")
    to_luma = invert(similarity(landmarks_px, spec.landmarks_px))
    scale = math.hypot(to_luma[0, 0], to_luma[1, 0])  # pixels of the frame in one of the crop
    gains = _normalisation(spec.mean, spec.std)
    if spec.colour == "grey":
        levels = (1.0, 0.0) if planes.colour.full_range else (255 / 219, -16 * 255 / 219)
        crop_grey(planes.y, to_luma, _taps(scale), levels, gains, out)
    else:
        maps, taps = (to_luma, to_luma / 2), (_taps(scale), _taps(scale / 2))
        colours = (planes.y, planes.u, planes.v)
        crop_rgb(colours, maps, taps, _to_rgb(planes.colour), gains, out)


def _taps(scale: float) -> int:
    # Samples may lie up to 1.25 pixels apart before what is between them is missed.
    return min(MAX_TAPS, max(1, math.ceil(scale - 0.25)))


@lru_cache(maxsize=16)
def _to_rgb(colour: Colour) -> NDArray[np.float32]:
    return colour.to_rgb()


@lru_cache(maxsize=16)
def _normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    rows = [[1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]]
    return np.array(rows, np.float32)


def planes_from_grey(image: PlaneU8) -> Planes:
    """Return a (H, W) uint8 grey picture as planes; every value stays what it is."""
    height, width = image.shape
    chroma = np.full(((height + 1) // 2, (width + 1) // 2), 128, np.uint8)
    return Planes(np.ascontiguousarray(image), chroma, chroma.copy(), Colour(full_range=True))


def probe(spec: InputSpec) -> tuple[float, ...]:
    """Return what ``crop_into`` makes of a fixed pattern: 16 values, to compare with a card's.

    The pattern is limited-range BT.709, and the face in it is turned and larger than the crop, so
    every branch that run-time pixels take has a say.
    """
    rows, columns = np.mgrid[0:90, 0:120]
    luma = 16 + (rows * 7 + columns * 3 + rows * columns // 5) % 220
    u, v = 128 + (rows[::2, ::2] - 45), 128 + (columns[::2, ::2] - 60) // 2
    planes = Planes(luma.astype(np.uint8), u.astype(np.uint8), v.astype(np.uint8))
    angle, scale = 0.2, 1.4 * 48 / spec.size_px[0]
    turn = scale * np.array(
        ((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle)))
    )
    centred = spec.landmarks_px - np.array(spec.size_px) / 2
    landmarks = (centred @ turn.T + (60, 45)).astype(np.float32)
    crop = np.empty(spec.shape, np.float32)
    crop_into(planes, landmarks, spec, crop)
    where = np.linspace(0, crop.size - 1, 16).round().astype(np.int64)
    return tuple(round(float(value), 4) for value in crop.reshape(-1)[where])
