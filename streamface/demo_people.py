"""A demo clip of people who do not exist: three portraits whose expressions change.

Each is one key of the inventing net, which draws it with many expressions. The portraits drift
and turn before a plain backdrop, and one of them leaves the picture and comes back. Nothing is
random: the same call yields the same pictures.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import count, takewhile
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import cv2
import numpy as np

from streamface.frame import Colour, Planes
from streamface.resynth import Imagination, expression

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from streamface.frame import PlaneU8

_Sample = TypeVar("_Sample", np.uint8, np.float32)

SIZE_PX: Final = (640, 480)
RATE: Final = Fraction(30)
FRAMES: Final = 300

_COLOUR: Final = Colour("bt709")
_LOOP_S: Final = 10.0
_CHANGE_S: Final = 0.8
"""How long one expression takes to become the next, which then stays."""
_STEPS: Final = 8
"""The net draws a change in so many steps; what is shown between them is a blend."""
_BACKDROP_RGB: Final = ((203, 208, 212), (118, 128, 140))
"""Its top and its bottom."""
_FRAME_RGB: Final = (244, 240, 232)
_SHADE_RGB: Final = (40, 44, 50)
_ENLARGED: Final = 3
"""A medallion has so many pixels for one of the crop, about as many as are shown."""
# In sides of the crop: half axes of the oval that is seen of it, the frame's width, the shade's.
_OVAL: Final = (0.45, 0.49)
_FRAME: Final = 0.018
_SHADE: Final = 0.08
_DARKEST: Final = 0.35
"""Opacity of the shade where it begins."""


class _Person(NamedTuple):
    """Who somebody is, what they show and how they move."""

    seed: int
    female: float
    """-1 male, 1 female."""
    moods: tuple[str, ...]
    """Of EMOTIONS, one after another, each for an equal part of the loop."""
    first_s: float
    """When the first of them begins."""
    centre: tuple[float, float]
    """Around where the portrait drifts, in widths and heights of the picture."""
    leaves_s: float | None = None
    """When it sets out to leave the picture, if it does."""


_PEOPLE: Final = (
    _Person(38, -1, ("neutral", "happy", "surprise", "sad", "angry"), 0.4, (0.18, 0.43)),
    _Person(42, 1, ("happy", "neutral", "fear", "surprise"), 1.1, (0.5, 0.56)),
    _Person(5, -1, ("sad", "disgust", "neutral", "happy"), 1.9, (0.82, 0.43), leaves_s=5.2),
)
_SIDE: Final = 0.42
"""Side of a crop as shown, in heights of a 4:3 picture."""
_DRIFT: Final = (0.013, 0.05)
"""How far it drifts from its centre, in widths and heights of the picture."""
_ROLL_DEG: Final = 4.0
_ZOOM: Final = 0.05
_LEAVE_S: Final = 1.4
"""How long it takes to go, and to come back."""
_AWAY: Final = 0.39
"""How far it goes, in widths of the picture: out of sight, and for the half second of turning."""


class _Pose(NamedTuple):
    """How a crop lies in the picture."""

    x_px: float
    y_px: float
    side_px: float
    roll_rad: float


class _Window(NamedTuple):
    """A part of the picture in pixels, half-open; begins at even ones, where chroma does."""

    x0: int
    y0: int
    x1: int
    y1: int

    def of(self, plane: PlaneU8, step_px: int) -> PlaneU8:
        """Return the view of this part of a plane that has a sample every ``step_px``."""
        rows = slice(self.y0 // step_px, -(-self.y1 // step_px))
        return plane[rows, self.x0 // step_px : -(-self.x1 // step_px)]


class _Medallion(NamedTuple):
    """A square with a framed oval portrait on it, as planes."""

    y: PlaneU8
    """(C, C)."""
    u: PlaneU8
    """(C / 2, C / 2), as ``v``."""
    v: PlaneU8


class _Frame(NamedTuple):
    """What all medallions have in common: an oval, a frame around it, and a soft shade."""

    inside: NDArray[np.float32]
    """(C, C, 1): how much of each pixel shows the crop, 0..1."""
    around: NDArray[np.float32]
    """(C, C, 3) RGB of frame and shade, weighted with what ``inside`` leaves of each pixel."""
    opacity: tuple[NDArray[np.float32], NDArray[np.float32]]
    """(C, C) for luma and (C / 2, C / 2) for chroma, 0..1."""


def frames(
    *,
    size_px: tuple[int, int] = SIZE_PX,
    fps: Fraction = RATE,
    duration_s: float = float(FRAMES / RATE),
) -> Iterator[Planes]:
    """Yield the clip's pictures, fresh writable planes each; it loops every 10 seconds.

    Frame i shows the time i / fps; there are as many as begin before ``duration_s``.
    Raises ValueError where a size or the rate is not positive; with the first picture ModelError
    where the net cannot be used.
    """
    if min(size_px) < 1 or fps <= 0:
        raise ValueError(f"size_px and fps must be positive, not {size_px} and {fps}")
    times_s = takewhile(lambda time: time < duration_s, (index / fps for index in count()))
    return _render(size_px, times_s)


def _render(size_px: tuple[int, int], times_s: Iterator[Fraction]) -> Iterator[Planes]:
    """Yield a picture of each time; the thread that asks for them opens and closes the net."""
    model = Imagination.open()
    try:
        backdrop = _backdrop(size_px)
        portraits = [_Portrait(model, person) for person in _PEOPLE]
        for time_s in times_s:
            planes = _copied(backdrop)
            for portrait in portraits:
                portrait.draw(planes, float(time_s) % _LOOP_S)
            yield planes
    finally:
        model.close()


class _Portrait:
    """One person; the net draws each expression when the clip first comes to it."""

    def __init__(self, model: Imagination, person: _Person) -> None:
        rng = np.random.default_rng(person.seed)
        self._person = person
        self._model = model
        self._key = model.draw_keys(1, rng)
        self._scene = model.draw_scenes(1, rng)
        self._crop_px = model.spec.size_px[0] * _ENLARGED
        self._frame = _frame(self._crop_px)
        self._drawn: dict[bytes, _Medallion] = {}

    def draw(self, planes: Planes, time_s: float) -> None:
        """Draw the portrait onto the picture as it is at a time of the loop."""
        pose = _pose(self._person, time_s, planes.size_px)
        window = _window(pose, planes.size_px)
        if window is None:
            return
        medallion = self._medallion(time_s)
        to_medallion = _picture_to_medallion(pose, self._crop_px, len(medallion.y))
        opacity = [
            _warped(each, to_medallion, window, step)
            for each, step in zip(self._frame.opacity, (1, 2), strict=True)
        ]
        for source, plane, step in zip(
            medallion, (planes.y, planes.u, planes.v), (1, 2, 2), strict=True
        ):
            part, over = window.of(plane, step), opacity[step - 1]
            cv2.blendLinear(
                _warped(source, to_medallion, window, step), part, over, 1 - over, dst=part
            )

    def _medallion(self, time_s: float) -> _Medallion:
        before, after, share = _mood(self._person, time_s)
        step, rest = divmod(share * _STEPS, 1.0)
        low = self._key_medallion(before, after, step / _STEPS)
        if not rest:
            return low
        high = self._key_medallion(before, after, (step + 1) / _STEPS)
        blends = (cv2.addWeighted(a, 1 - rest, b, rest, 0) for a, b in zip(low, high, strict=True))
        return _Medallion(*(np.asarray(blend, np.uint8) for blend in blends))

    def _key_medallion(self, before: str, after: str, share: float) -> _Medallion:
        """Return the medallion of a face so far on its way from one expression to another."""
        eased = np.float32(_ease(share))
        wanted = (1 - eased) * expression(before) + eased * expression(after)
        known = wanted.tobytes()
        if known not in self._drawn:
            female = np.array([self._person.female], np.float32)
            (made,) = self._model.draw(wanted[None], female, self._key, self._scene)
            self._drawn[known] = _framed(made, self._frame)
        return self._drawn[known]


def _framed(picture: NDArray[np.float32], frame: _Frame) -> _Medallion:
    """Return the medallion of a (3, S, S) RGB picture, 0..255."""
    crop = np.ascontiguousarray(picture.transpose(1, 2, 0))
    size = (len(crop) * _ENLARGED,) * 2
    large = cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC)
    margin = (len(frame.inside) - len(large)) // 2
    whole = np.pad(large, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    image = frame.inside * whole + frame.around
    planes = Planes.from_rgb(np.clip(np.rint(image), 0, 255).astype(np.uint8), _COLOUR)
    return _Medallion(planes.y, planes.u, planes.v)


def _frame(crop_px: int) -> _Frame:
    """Return the frame around crops of so many pixels a side."""
    margin = math.ceil(_margin(crop_px) / 2) * 2
    places = (np.arange(-margin, crop_px + margin, dtype=np.float32) + 0.5) / crop_px - 0.5
    distance = np.hypot(places / _OVAL[0], places[:, None] / _OVAL[1])
    # Pixels from the oval's rim inwards; exact enough so near to it.
    depth = ((1 - distance) * min(_OVAL) * crop_px)[..., None]
    inside = np.clip(depth + 0.5, 0, 1)
    framed = np.clip(depth + _FRAME * crop_px + 0.5, 0, 1)
    shade = np.clip(1 + (depth / crop_px + _FRAME) / _SHADE, 0, 1) ** 2
    around = (framed - inside) * np.array(_FRAME_RGB) + (1 - framed) * np.array(_SHADE_RGB)
    opacity = np.maximum(framed, _DARKEST * shade)[..., 0].astype(np.float32)
    half = opacity.reshape(len(opacity) // 2, 2, -1, 2).mean((1, 3))
    return _Frame(inside.astype(np.float32), around.astype(np.float32), (opacity, half))


def _margin(crop_px: float) -> float:
    """Return how far the shade reaches beyond the side of a crop; likewise in a picture."""
    return (max(_OVAL) - 0.5 + (_FRAME + _SHADE) * max(_OVAL) / min(_OVAL)) * crop_px


def _mood(person: _Person, time_s: float) -> tuple[str, str, float]:
    """Return which expression becomes which, and how far it has, 0..1."""
    each_s = _LOOP_S / len(person.moods)
    index, since_s = divmod((time_s - person.first_s) % _LOOP_S, each_s)
    number = int(index) % len(person.moods)
    return person.moods[number - 1], person.moods[number], min(since_s / _CHANGE_S, 1.0)


def _pose(person: _Person, time_s: float, size_px: tuple[int, int]) -> _Pose:
    """Return where a portrait is; everything swings a whole number of times in a loop."""
    width, height = size_px
    angle = math.tau * (time_s / _LOOP_S + person.centre[0])
    x = person.centre[0] + _DRIFT[0] * math.sin(angle)
    y = person.centre[1] + _DRIFT[1] * math.sin(2 * angle)
    if person.leaves_s is not None:
        x += math.copysign(_AWAY, person.centre[0] - 0.5) * _absence(time_s - person.leaves_s)
    side_px = _SIDE * min(height, width * 3 / 4) * (1 + _ZOOM * math.cos(angle))
    roll_rad = math.radians(_ROLL_DEG) * math.cos(2 * angle)
    return _Pose(x * width, y * height, side_px, roll_rad)


def _absence(since_s: float) -> float:
    """Return how far somebody is gone, 0..1, who set out so many seconds ago."""
    return _ease(max(0.0, 1 - abs(since_s / _LEAVE_S - 1)))


def _ease(share: float) -> float:
    """Return 0..1 of 0..1, slow at both ends."""
    return share * share * (3 - 2 * share)


def _window(pose: _Pose, size_px: tuple[int, int]) -> _Window | None:
    """Return the part of the picture that a portrait may cover, None where that is none."""
    reach = pose.side_px / 2 + _margin(pose.side_px)
    x0, y0 = (max(0, int(c - reach)) // 2 * 2 for c in (pose.x_px, pose.y_px))
    ends = (math.ceil((c + reach) / 2) * 2 for c in (pose.x_px, pose.y_px))
    x1, y1 = (min(size, end) for size, end in zip(size_px, ends, strict=True))
    return _Window(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _picture_to_medallion(pose: _Pose, crop_px: int, medallion_px: int) -> NDArray[np.float64]:
    """Return the (2, 3) affine map from points of the picture to points of the medallion."""
    cos, sin = math.cos(pose.roll_rad), math.sin(pose.roll_rad)
    turn = crop_px / pose.side_px * np.array([[cos, sin], [-sin, cos]])
    shift = np.full(2, medallion_px / 2) - turn @ (pose.x_px, pose.y_px)
    return np.column_stack([turn, shift])


def _warped(
    plane: NDArray[_Sample], to_medallion: NDArray[np.float64], window: _Window, step_px: int
) -> NDArray[_Sample]:
    """Return a medallion's plane as it lies in a window of the picture.

    Both have a sample every ``step_px``, of which number i is centred at (i + 0.5) * step_px.
    """
    turn = to_medallion[:, :2]
    first = turn @ (np.array([window.x0, window.y0]) + 0.5 * step_px) + to_medallion[:, 2]
    size = [-(-(end - start) // step_px) for start, end in (window[::2], window[1::2])]
    warped = cv2.warpAffine(
        plane,
        np.column_stack([turn, first / step_px - 0.5]),
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(warped, plane.dtype)


def _backdrop(size_px: tuple[int, int]) -> Planes:
    """Return what is behind the portraits: a gradient, dithered so that it shows no bands."""
    width, height = size_px
    share = ((np.arange(height) + 0.5) / height)[:, None, None]
    top, bottom = (np.array(colour, np.float64) for colour in _BACKDROP_RGB)
    grain = np.random.default_rng(0).random((height, width, 1))
    image = (1 - share) * top + share * bottom + grain
    return Planes.from_rgb(image.astype(np.uint8), _COLOUR)


def _copied(planes: Planes) -> Planes:
    out = Planes.allocate(planes.size_px, planes.colour)
    for target, source in zip((out.y, out.u, out.v), (planes.y, planes.u, planes.v), strict=True):
        target[:] = source
    return out
