"""Put a re-made face back into the frame that it was cut from: the way back of preprocess.

What changes is worked out once, at the size of the crop and in the frame's own Y, U and V; the
kernel then reads it at every pixel of the frame. The frame is never turned into RGB, and pixels
that nothing is to happen to stay as they are, to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamface.align import invert, similarity, transform
from streamface.kernels.paste import blend_field

if TYPE_CHECKING:
    from streamface.card import InputSpec
    from streamface.frame import Colour, Planes, PlaneU8, PointsF32

FieldF32: TypeAlias = NDArray[np.float32]
"""(h, w) float32: a number for every pixel of a crop, or of a crop made larger or smaller."""

# Where a face is drawn anew, the detail of the old one (the edge of a lip that has moved) would
# shine through; where it is not, its pores are better than what any codes make of them.
_KEPT_BELOW_LEVELS: Final = 10.0
_GONE_ABOVE_LEVELS: Final = 40.0
_BLUR: Final = 1 / 80  # of the crop's width: what is next to a change has changed as well
# Pixels of the crop in one of the plane: from where on fields are read at another size.
_FINER_BELOW: Final = 0.98
_MUCH_FINER_BELOW: Final = 0.5
_COARSER_ABOVE: Final = 1.5
_NOISE_VALUES: Final = 1 << 16  # a power of two, as the kernel wants it

# Of the template: the face reaches this far, in distances from eyes to mouth (above the eyes, below
# the mouth) and between the eyes (to either side of the middle).
_UP: Final = 1.1
_DOWN: Final = 0.8
_ASIDE: Final = 1.1
_SQUARENESS: Final = 2.6  # the exponent; 2 is an ellipse
_FEATHER: Final = 0.25  # of the way from the middle to the edge
_HEAD_SQUARENESS: Final = 5.0  # at 3 a recogniser knows twice as many by what is left
_HEAD_FEATHER: Final = 0.12

_CHEEK: Final = (0.25, 0.75)  # of the way from the eyes to the mouth
_MIN_CHEEK_PX: Final = 12
_MAX_GRAIN_LEVELS: Final = 6.0
_ENOUGH_VALUES: Final = 8192  # for a median good to 2%
# Immerkaer (1996): blind to planes, edges along an axis and even curvature.
_HIGH_PASS: Final = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
# A median deviation is 0.6745 of a normal one, and _HIGH_PASS makes that of white noise 6 times it.
_MEDIAN_TO_SIGMA: Final = 1 / 0.6745 / 6


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A re-made crop and where it applies."""

    made: NDArray[np.float32]
    """(3, S, S) RGB 0..255."""
    base: NDArray[np.float32] | None
    """(3, S, S) RGB 0..255: what the codes make of the unaltered face. With it the source's own
    fine detail stays where little is changed; None: nothing of the source may show through."""
    mask: FieldF32
    """(S, S) 0..1, how much of the patch is taken."""
    grain: float = 0.0
    """Standard deviation of noise to add, in luma levels."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What happens to a plane: old + share * (target - old) + shift.

    Targets and shifts apart, rather than one offset, so that shares may be clipped after resizing
    and what is added still fits them.
    """

    share: FieldF32
    """0..1."""
    targets: NDArray[np.float32]
    """(3, h, w) in the frame's Y, U and V."""
    shifts: NDArray[np.float32] | None
    """(3, h, w); None: nothing."""


def paste(
    planes: Planes, landmarks_px: PointsF32, spec: InputSpec, patch: Patch, *, seed: int = 0
) -> None:
    """Blend a re-made crop into the planes, where ``crop_into`` cut it from.

    landmarks_px: (5, 2) float32 in pixels of the frame, the same that were given to ``crop_into``.
    What lies outside the frame is skipped. seed: of the grain; another one for every frame, else
    the grain stands still. The GIL is released while pixels are blended. Raises ValueError for a
    patch of another size than ``spec`` says, or for landmarks that span no face.
    """
    width, height = spec.size_px
    for values in (patch.made, patch.base):
        if values is not None and values.shape != (3, height, width):
            raise ValueError(f"a patch must be {(3, height, width)}, not {values.shape}")
    if patch.mask.shape != (height, width):
        raise ValueError(f"the mask must be {(height, width)}, not {patch.mask.shape}")
    to_crop = similarity(landmarks_px, spec.landmarks_px)
    if _area(planes.y, to_crop, spec.size_px) is None:
        return
    change = _change(patch, planes.colour)
    grain = patch.mask * np.float32(patch.grain) if patch.grain > 0 else None
    from_chroma = to_crop * (2, 2, 1)
    _apply(planes.y, to_crop, change, 0, grain=grain, seed=seed)
    _apply(planes.u, from_chroma, change, 1)
    _apply(planes.v, from_chroma, change, 2)


def _apply(  # noqa: PLR0917 - the plane, its map and what happens to it
    plane: PlaneU8,
    to_crop: NDArray[np.float64],
    change: _Change,
    number: int,
    grain: FieldF32 | None = None,
    seed: int = 0,
) -> None:
    """Change one plane; number: 0 for Y, 1 for U, 2 for V."""
    height, width = change.share.shape
    area = _area(plane, to_crop, (width, height))
    if area is None:
        return
    size = _field_size((width, height), math.hypot(to_crop[0, 0], to_crop[1, 0]))
    share = np.clip(_resized(change.share, size), 0, 1)
    offset = share * _resized(change.targets[number], size)
    if change.shifts is not None:
        offset += _resized(change.shifts[number], size)
    to_field = to_crop * ((size[0] / width,), (size[1] / height,))
    if grain is None:
        blend_field(plane, to_field, area, 1 - share, offset, share, _SILENCE, 0)
    else:
        grains = _resized(grain, size)
        start = seed & 0xFFFFFFFF
        blend_field(plane, to_field, area, 1 - share, offset, grains, _noise(), start)


def _area(
    plane: PlaneU8, to_crop: NDArray[np.float64], size_px: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return the pixels of a plane that a crop may reach, half-open; None where there are none."""
    width, height = size_px
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float32)
    inside = np.clip(transform(invert(to_crop), corners), 0, plane.shape[::-1])
    (x0, y0), (x1, y1) = inside.min(axis=0).tolist(), inside.max(axis=0).tolist()
    if x0 >= x1 or y0 >= y1:
        return None
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)


def _field_size(size_px: tuple[int, int], density: float) -> tuple[int, int]:
    """Return how large the fields of a crop should be.

    density: pixels of the crop in one of the plane. Where it is low, the fields are made finer, for
    bilinear reading shows the lattice of what it reads; where it is high they are made coarser, for
    reading skips samples.
    """
    factor = 1.0
    if density > _COARSER_ABOVE:
        factor = 1 / round(density)
    elif density < _FINER_BELOW:
        factor = 4.0 if density < _MUCH_FINER_BELOW else 2.0
    return max(1, round(size_px[0] * factor)), max(1, round(size_px[1] * factor))


def _resized(field: FieldF32, size_px: tuple[int, int]) -> FieldF32:
    """Return a field of another (width, height); pixel centres stay at integer + 0.5."""
    import cv2

    height, width = field.shape
    if (width, height) == size_px:
        return field
    how = cv2.INTER_CUBIC if size_px[0] > width else cv2.INTER_AREA
    return np.asarray(cv2.resize(field, size_px, interpolation=how), np.float32)


def _change(patch: Patch, colour: Colour) -> _Change:
    made = _to_yuv(patch.made, colour)
    if patch.base is None:
        return _Change(patch.mask, made, None)
    base = _to_yuv(patch.base, colour)
    difference = made - base
    # A level of limited range is more than one of 255.
    levels = difference[0] / _from_rgb(colour)[0, :3].sum()
    return _Change(patch.mask * _gone(levels), base, patch.mask * difference)


def _gone(levels: FieldF32) -> FieldF32:
    """Return which share, 0..1, of the source's detail is dropped where luma differs by levels."""
    import cv2

    blurred = cv2.GaussianBlur(np.abs(levels), (0, 0), _BLUR * levels.shape[1])
    ramp = (blurred - _KEPT_BELOW_LEVELS) / (_GONE_ABOVE_LEVELS - _KEPT_BELOW_LEVELS)
    return _smooth(np.asarray(ramp, np.float32))


def _smooth(ramp: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a ramp from 0 to 1 with its corners rounded (smoothstep)."""
    inside = np.clip(ramp, 0, 1)
    return inside * inside * (3 - 2 * inside)


def _to_yuv(crop: NDArray[np.float32], colour: Colour) -> NDArray[np.float32]:
    """Return a (3, h, w) RGB crop in a frame's own Y, U and V, each 0..255."""
    forward = _from_rgb(colour)
    yuv = (forward[:, :3] @ crop.reshape(3, -1)).reshape(crop.shape)
    yuv += forward[:, 3:, None]
    return yuv


@lru_cache(maxsize=16)
def _from_rgb(colour: Colour) -> NDArray[np.float32]:
    """Return the (3, 4) inverse of Colour.to_rgb()."""
    return np.linalg.inv(np.vstack([colour.to_rgb(), [0, 0, 0, 1]]))[:3].astype(np.float32)


_SILENCE: Final = np.empty(0, np.float32)


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(_NOISE_VALUES, np.float32)


def face_mask(spec: InputSpec) -> FieldF32:
    """Return the (S, S) mask, 0..1, of the face that ``spec`` aligns to; it cannot be written to.

    A super-ellipse from the hairline to the chin of the template, with a soft edge; 0 in all pixels
    along the crop's border.
    """
    right_eye, left_eye, _, right_mouth, left_mouth = spec.landmarks_px.tolist()
    eyes_y, mouth_y = (right_eye[1] + left_eye[1]) / 2, (right_mouth[1] + left_mouth[1]) / 2
    middle_x = (right_eye[0] + left_eye[0] + right_mouth[0] + left_mouth[0]) / 4
    aside, length = _ASIDE * (left_eye[0] - right_eye[0]), mouth_y - eyes_y
    box = (middle_x - aside, eyes_y - _UP * length, middle_x + aside, mouth_y + _DOWN * length)
    return _ellipse(spec.size_px, box)


def head_mask(spec: InputSpec) -> FieldF32:
    """Return the (S, S) mask of nearly all of the crop, 0 along its border; likewise read-only.

    For faces that nobody may tell: the outline of a jaw, left to see, gives many of them away.
    """
    width, height = spec.size_px
    return _ellipse(spec.size_px, (0.0, 0.0, width, height), _HEAD_SQUARENESS, _HEAD_FEATHER)


@lru_cache(maxsize=8)
def _ellipse(
    size_px: tuple[int, int],
    box: tuple[float, float, float, float],
    squareness: float = _SQUARENESS,
    feather: float = _FEATHER,
) -> FieldF32:
    """Return a soft super-ellipse in a box, or in what of the box lies inside the border."""
    width, height = size_px
    x0, y0 = max(box[0], 1.0), max(box[1], 1.0)
    x1, y1 = min(box[2], width - 1.0), min(box[3], height - 1.0)
    x = np.abs(np.arange(width) + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 0.5)
    y = np.abs(np.arange(height) + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 0.5)
    radius = (x**squareness + y[:, None] ** squareness) ** (1 / squareness)
    mask = _smooth(((1 - radius) / feather).astype(np.float32))
    mask.setflags(write=False)  # everybody gets the same one
    return mask


def grain_of(planes: Planes, landmarks_px: PointsF32) -> float:
    """Return the standard deviation of the fine noise on a face, in luma levels, up to 6.

    landmarks_px: (5, 2) float32 in pixels of the frame. Looked for on and between the cheeks, where
    little else is fine; 0 where they are smaller than 12 pixels, or outside the frame.
    """
    import cv2

    cheeks = _cheeks(planes.y, landmarks_px)
    if min(cheeks.shape) < _MIN_CHEEK_PX:
        return 0.0
    response = cv2.filter2D(cheeks, cv2.CV_32F, _HIGH_PASS)[1:-1, 1:-1].ravel()
    some = response[:: math.ceil(response.size / _ENOUGH_VALUES)]
    deviation = float(np.median(np.abs(some - np.median(some))))
    return min(_MAX_GRAIN_LEVELS, deviation * _MEDIAN_TO_SIGMA)


def _cheeks(y: PlaneU8, landmarks_px: PointsF32) -> PlaneU8:
    """Return the part of a plane between eyes and mouth; empty where that lies outside."""
    eyes, mouth = landmarks_px[:2], landmarks_px[3:]
    corners = np.concatenate([eyes + share * (mouth - eyes) for share in _CHEEK])
    inside = np.clip(corners, 0, y.shape[::-1])
    (x0, y0), (x1, y1) = inside.min(axis=0).tolist(), inside.max(axis=0).tolist()
    return y[round(y0) : round(y1), round(x0) : round(x1)]
