"""The overlay's paper and pencils: sizes that suit a frame, colours, shapes and words on planes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from streamface import glyphs
from streamface.kernels.blend import blend_mask, blend_rounded

if TYPE_CHECKING:
    from streamface.frame import Box, Colour, Planes

Rgb: TypeAlias = tuple[int, int, int]

# The palette of Okabe and Ito, whose colours stay apart under any common colour vision (Wong,
# "Points of view: Color blindness", Nature Methods 8, 2011). No text stands on them.
PALETTE: Final[dict[str, Rgb]] = {
    "angry": (213, 94, 0),
    "disgust": (0, 158, 115),
    "fear": (204, 121, 167),
    "happy": (240, 228, 66),
    "sad": (0, 114, 178),
    "surprise": (230, 159, 0),
    "neutral": (86, 180, 233),
}
GREY: Final[Rgb] = (170, 176, 184)
WHITE: Final[Rgb] = (255, 255, 255)
MUTED: Final[Rgb] = (200, 205, 212)
DARK: Final[Rgb] = (18, 20, 24)

PLATE_OPACITY: Final = 0.74
SEAM_OPACITY: Final = 0.4
GROOVE_OPACITY: Final = 0.2

_MIN_TEXT_PX: Final = 10
"""Below this Pillow's font is no longer read without effort: its counters close."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The sizes that suit one frame, in pixels."""

    size_px: tuple[int, int]
    text_px: int
    line_px: float

    @staticmethod
    @lru_cache(maxsize=16)
    def of(size_px: tuple[int, int], scale: float) -> Metrics:
        """Return the sizes for a frame of (width, height).

        The offset makes text of small frames relatively larger: 19 px at 720p, 50 px at 2160p.
        """
        short = min(size_px)
        text_px = max(_MIN_TEXT_PX, round((3 + 0.022 * short) * scale))
        return Metrics(size_px, text_px, max(1.5, 0.004 * short * scale))

    @property
    def gap_px(self) -> int:
        """From a box to the plate beside it."""
        return round(self.line_px + 0.12 * self.text_px)


@lru_cache(maxsize=512)
def _yuv(colour: Colour, rgb: Rgb) -> tuple[int, int, int]:
    return colour.from_rgb(*rgb)


class Canvas:
    """Draws in RGB colours on one frame's planes."""

    def __init__(self, planes: Planes) -> None:
        self._planes = (planes.y, planes.u, planes.v)
        self._colour = planes.colour

    def rounded(
        self, rect: Box, rgb: Rgb, radius_px: float, *, stroke_px: float = 0.0, opacity: float = 1.0
    ) -> None:
        """Draw a filled rounded rectangle, or with ``stroke_px`` its border."""
        half = 0.5 * min(rect[2] - rect[0], rect[3] - rect[1])
        radius_px = max(0.0, min(radius_px, half))
        yuv = _yuv(self._colour, rgb)
        blend_rounded(*self._planes, rect, radius_px, stroke_px, yuv, opacity)

    def word(self, text: str, text_px: int, left: int, top: int, rgb: Rgb) -> None:
        """Draw a word whose line's left top corner is given."""
        yuv = _yuv(self._colour, rgb)
        blend_mask(*self._planes, glyphs.mask(text, text_px), left, top, yuv, 1.0)
