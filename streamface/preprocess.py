"""The only road from uint8 pixels to the float tensors of a classifier.

Training data, evaluation and video all pass through ``crop_into``; change it only with a retrain.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamface.align import invert, similarity
from streamface.frame import Colour, Planes
from streamface.kernels.crop import crop_grey, crop_rgb, taps_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streamface.backends.device_crops import Crops
    from streamface.card import InputSpec
    from streamface.frame import Frame, PlaneU8, PointsF32

_LEVELS: Final = np.array([[1, 1, 1], [0, 0, 0]], np.float32)
"""Gains that leave levels as they are."""


def crop_into(
    planes: Planes, landmarks_px: PointsF32, spec: InputSpec, out: NDArray[np.float32 | np.uint8]
) -> None:
    """Cut, align and normalise one face into one slot of a batch.

    landmarks_px: (5, 2) float32 in pixels of the frame, order of frame.LANDMARKS. out: (C, H, W)
    as ``spec`` says, C-contiguous, overwritten: float32 for normalised values, or uint8 for the
    grey levels before that, rounded, as runtimes want them that normalise by themselves. Pixels
    beyond the frame repeat its border. The GIL is released while pixels are read. Raises
    ValueError for a wrong ``out``, or for landmarks that are not finite or all in one point.
    """
    if out.shape != spec.shape or not out.flags.c_contiguous:
        raise ValueError(f"out must be {spec.shape} C-contiguous, not {out.shape}")
    if out.dtype == np.float32:
        _crop(planes, landmarks_px, spec, _normalisation(spec.mean, spec.std), out)
    elif out.dtype == np.uint8:
        levels = np.empty(spec.shape, np.float32)
        _crop(planes, landmarks_px, spec, _LEVELS[:, : spec.channels], levels)
        np.rint(levels, out=out, casting="unsafe")
    else:
        raise ValueError(f"out must be float32 or uint8, not {out.dtype}")


def _crop(
    planes: Planes,
    landmarks_px: PointsF32,
    spec: InputSpec,
    gains: NDArray[np.float32],
    out: NDArray[Any],
) -> None:
    to_luma = invert(similarity(landmarks_px, spec.landmarks_px))
    scale = math.hypot(to_luma[0, 0], to_luma[1, 0])  # pixels of the frame in one of the crop
    if spec.colour == "grey":
        levels = (1.0, 0.0) if planes.colour.full_range else (255 / 219, -16 * 255 / 219)
        crop_grey(planes.y, to_luma, taps_for(scale), levels, gains, out)
    else:
        maps, taps = (to_luma, to_luma / 2), (taps_for(scale), taps_for(scale / 2))
        colours = (planes.y, planes.u, planes.v)
        crop_rgb(colours, maps, taps, _to_rgb(planes.colour), gains, out)


def crop_faces(
    faces: Sequence[tuple[Frame, PointsF32]],
    spec: InputSpec,
    dtype: np.dtype[Any],
    *,
    on_device: bool,
) -> NDArray[Any] | Crops:
    """Return the crops of faces, each given by its frame and its (5, 2) landmarks.

    That is (N, C, H, W) of a ``dtype`` that ``crop_into`` takes; or, where ``on_device`` allows it
    and a GPU holds every one of the frames, a uint8 tensor in its memory. The frames must be held
    until the crops have been used.
    """
    device = [frame.device for frame, _ in faces if frame.device is not None]
    if on_device and faces and len(device) == len(faces):
        from streamface.backends.device_crops import crop_batch

        return crop_batch(device, np.stack([points for _, points in faces]), spec)
    batch: NDArray[Any] = np.empty((len(faces), *spec.shape), dtype)
    for slot, (frame, points) in zip(batch, faces, strict=True):
        crop_into(frame.planes, points, spec, slot)
    return batch


@lru_cache(maxsize=16)
def _to_rgb(colour: Colour) -> NDArray[np.float32]:
    return colour.to_rgb()


@lru_cache(maxsize=16)
def _normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    rows = [[1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]]
    return np.array(rows, np.float32)


def as_input(batch: NDArray[Any], spec: InputSpec, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return (N, C, H, W) crops as a runtime takes them; the same array where they are so already.

    batch: float32 normalised or uint8 levels, as ``crop_into`` makes them. dtype: the wanted one.
    """
    if batch.dtype == dtype:
        return batch
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (spec.mean, spec.std))
    if dtype == np.uint8:
        return np.asarray(np.rint(np.clip(batch * std + mean, 0, 255)), np.uint8)
    return np.asarray((batch - mean) / std, np.float32)


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
