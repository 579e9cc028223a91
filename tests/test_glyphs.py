"""Words come out of a real font, once, and sit on one baseline."""

import numpy as np
import pytest

from streamface import glyphs
from streamface.frame import EMOTIONS, GENDERS, UNCERTAIN

SIZES = (9, 10, 11, 19, 27, 50)


@pytest.mark.parametrize("size_px", SIZES)
def test_all_words_of_a_size_share_height_and_baseline(size_px):
    line = glyphs.line_metrics(size_px)
    for word in (*EMOTIONS, *GENDERS, UNCERTAIN, "#1234567890", "100 %"):
        mask = glyphs.mask(word, size_px)
        assert mask.shape[0] == line.ascent_px + line.descent_px
        assert mask.shape[1] == glyphs.width_px(word, size_px)
        assert mask.dtype == np.uint8
        assert mask.max() > 200  # really inked


@pytest.mark.parametrize("size_px", SIZES)
def test_nothing_is_cut_off(size_px):
    """A glyph's ink, set in a far larger field, is all in the mask."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size_px)
    for word in ("happy", "disgust", "fear", "surprise", "#39", "88 %"):
        field = Image.new("L", (30 * size_px, 4 * size_px))
        ImageDraw.Draw(field).text((size_px, 2 * size_px), word, fill=255, font=font, anchor="ls")
        ink = np.array(field, float).sum()
        assert glyphs.mask(word, size_px).sum() == pytest.approx(ink, rel=0.02)


def test_edges_are_anti_aliased():
    levels = np.unique(glyphs.mask("disgust", 19))
    assert len(levels) > 20


def test_digits_are_equally_wide():
    """So that a percentage does not shiver while it changes."""
    assert len({glyphs.width_px(digit, 19) for digit in "0123456789"}) == 1


def test_a_word_is_rendered_once_and_cannot_be_changed():
    mask = glyphs.mask("happy", 19)
    assert glyphs.mask("happy", 19) is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0, 0] = 1


def test_the_cache_is_bounded():
    assert glyphs.mask.cache_info().maxsize == 512
