"""The card that is shown while a live source is away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from streamface.frame import Planes

if TYPE_CHECKING:
    from streamface.frame import Colour

_GROUND_RGB: Final = (24, 26, 30)
_TITLE_RGB: Final = (235, 235, 235)
_NOTE_RGB: Final = (150, 155, 165)
# Shares of the picture's height, and of its width for the longest line.
_TITLE_HEIGHT: Final = 0.075
_NOTE_HEIGHT: Final = 0.045
_WIDEST: Final = 0.9


def draw_slate(size_px: tuple[int, int], colour: Colour, title: str, note: str) -> Planes:
    """Return a plain dark card of (width, height) with two centred lines of text."""
    width, height = size_px
    image = Image.new("RGB", size_px, _GROUND_RGB)
    draw = ImageDraw.Draw(image)
    lines = (
        (title, _TITLE_HEIGHT, _TITLE_RGB, 0.46),
        (note, _NOTE_HEIGHT, _NOTE_RGB, 0.57),
    )
    for text, share, ink, middle in lines:
        size = max(6.0, height * share)
        font = ImageFont.load_default(size)
        widest = draw.textlength(text, font=font)
        if widest > width * _WIDEST:
            font = ImageFont.load_default(max(6.0, size * width * _WIDEST / widest))
        draw.text((width / 2, height * middle), text, fill=ink, font=font, anchor="mm")
    return Planes.from_rgb(np.asarray(image, np.uint8), colour)
