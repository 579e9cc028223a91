"""Words as coverage masks, rendered once and kept: a percentage costs nothing the second time.

The font is Pillow's own (Aileron), so text looks the same on every machine. All masks of one size
have the same height and baseline; they are cached, and therefore read-only.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from streamface.frame import PlaneU8


class LineMetrics(NamedTuple):
    """How far a line of text reaches from its baseline, in pixels."""

    ascent_px: int
    """Up to the top of "H" and "l"."""
    descent_px: int
    """Down to the foot of "g" and "y"."""


@lru_cache(maxsize=32)
def line_metrics(size_px: int) -> LineMetrics:
    """Return the reach of a line at a font size."""
    _, top, _, bottom = _font(size_px).getbbox("Hlgy%", anchor="ls")
    return LineMetrics(ceil(-top), ceil(bottom))


# 512 words hold every label, percentage and a few hundred track ids; at 4K that is below 10 MB.
@lru_cache(maxsize=512)
def mask(text: str, size_px: int) -> PlaneU8:
    """Return a word's coverage, (ascent + descent, width) uint8, 255 where ink covers fully.

    The width is the word's advance, so words can be set side by side without measuring.
    """
    font, line = _font(size_px), line_metrics(size_px)
    width = max(1, ceil(font.getlength(text)))
    image = Image.new("L", (width, line.ascent_px + line.descent_px))
    ImageDraw.Draw(image).text((0, line.ascent_px), text, fill=255, font=font, anchor="ls")
    coverage: PlaneU8 = np.array(image, np.uint8)
    coverage.setflags(write=False)
    return coverage


def width_px(text: str, size_px: int) -> int:
    """Return how wide a word is set."""
    return len(mask(text, size_px)[0])


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    # Without FreeType Pillow falls back to a bitmap font; its wheels always have FreeType.
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
