"""The demo of one real face (demo:portrait): a moving camera over a photograph.

The portrait is NASA's of Eileen Collins (public domain; assets/CREDITS.md). Nothing is random:
the same call yields the same pictures.
"""

from __future__ import annotations

from fractions import Fraction
from importlib import resources
from itertools import count, takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

import cv2
import numpy as np

from streamface.frame import Colour, Planes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from streamface.frame import ImageU8

SIZE_PX: Final = (640, 480)
RATE: Final = Fraction(30)
FRAMES: Final = 300

_COLOUR: Final = Colour("bt709")


class _View(NamedTuple):
    """Where the camera looks: a window on the portrait."""

    centre_x: float
    """Pixels of the portrait, as are the next two."""
    centre_y: float
    width_px: float
    roll_deg: float


# The face is about 95 x 125 pixels around (223, 118) in the 512 x 512 portrait. The path starts
# wide, closes in, lets the face drift to each edge, loses it for half a second and finds it again.
_PATH: Final = (
    _View(256, 200, 500, 0.0),
    _View(225, 140, 300, -3.0),
    _View(222, 122, 250, 2.5),
    _View(300, 150, 330, 5.0),
    _View(180, 160, 320, -4.0),
    _View(250, 296, 330, 0.0),
    _View(230, 130, 310, 3.0),
    _View(214, 190, 380, -2.0),
)
_PATH_S: Final = 10.0


def portrait() -> ImageU8:
    """Return the portrait, (512, 512, 3) RGB uint8, a fresh array."""
    file = resources.files("streamface") / "assets" / "eileen_collins.webp"
    data = np.frombuffer(file.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image is not None, "the portrait is part of the package"
    return np.ascontiguousarray(image[:, :, ::-1], np.uint8)


def frames(
    *,
    size_px: tuple[int, int] = SIZE_PX,
    fps: Fraction = RATE,
    duration_s: float = float(FRAMES / RATE),
) -> Iterator[Planes]:
    """Yield the clip's pictures, fresh writable planes each; it loops every 10 seconds.

    Frame i shows the time i / fps; there are as many as begin before ``duration_s``.
    Raises ValueError where a size or the rate is not positive.
    """
    if min(size_px) < 1 or fps <= 0:
        raise ValueError(f"size_px and fps must be positive, not {size_px} and {fps}")
    source = _full_chroma(portrait())
    times_s = takewhile(lambda time: time < duration_s, (index / fps for index in count()))
    return (_render(source, _view(float(time)), size_px) for time in times_s)


def _full_chroma(image: ImageU8) -> tuple[ImageU8, ...]:
    """Return Y, U and V at full resolution: a view that closes in has no chroma to spare."""
    doubled = np.repeat(np.repeat(image, 2, 0), 2, 1)
    planes = Planes.from_rgb(doubled, _COLOUR)
    return np.ascontiguousarray(planes.y[::2, ::2]), planes.u, planes.v


def _view(time_s: float) -> _View:
    """Return the view at a time, on a closed Catmull-Rom curve through the path's points."""
    position = time_s / _PATH_S * len(_PATH)
    index, t = int(position), position % 1.0
    points = np.array([_PATH[(index + i) % len(_PATH)] for i in (-1, 0, 1, 2)])
    weights = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1.0 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2.0 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    return _View(*(weights @ points).tolist())


def _render(source: tuple[ImageU8, ...], view: _View, size_px: tuple[int, int]) -> Planes:
    planes = Planes.allocate(size_px, _COLOUR)
    to_portrait = _output_to_portrait(view, size_px)
    for plane, out, scale in zip(source, (planes.y, planes.u, planes.v), (1, 2, 2), strict=True):
        cv2.warpAffine(
            plane,
            _in_samples(to_portrait, scale),
            (out.shape[1], out.shape[0]),
            dst=out,
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    return planes


def _output_to_portrait(view: _View, size_px: tuple[int, int]) -> NDArray[np.float64]:
    """Return the (2, 3) affine map from points of the picture to points of the portrait."""
    width, height = size_px
    # The window keeps the picture's shape and its area, whatever that shape is: 4:3 is nominal.
    scale = view.width_px / (width * height * 4 / 3) ** 0.5
    angle = np.deg2rad(view.roll_deg)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array([view.centre_x, view.centre_y]) - turn @ (width / 2, height / 2)
    return np.column_stack([turn, shift])


def _in_samples(point_map: NDArray[np.float64], step_px: int) -> NDArray[np.float64]:
    """Turn a map of points into one of sample indices, for a plane with a sample every step_px.

    Sample i is centred at (i + 0.5) * step_px; the portrait's sample j at j + 0.5.
    """
    turn = point_map[:, :2]
    shift = turn @ np.full(2, 0.5 * step_px) + point_map[:, 2] - 0.5
    return np.column_stack([turn * step_px, shift])
