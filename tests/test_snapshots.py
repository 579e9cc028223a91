"""One picture as PNG: what was seen, whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from streamface.errors import SinkError, UsageError
from streamface.frame import Colour, Planes
from streamface.snapshots import save_png


def planes():
    return Planes.from_rgb(np.full((5, 7, 3), (200, 90, 30), np.uint8), Colour("bt601"))


def test_the_file_holds_the_picture(tmp_path):
    save_png(planes(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), planes().to_rgb())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_file_that_exists_stays_unless_told(tmp_path):
    target = tmp_path / "a.png"
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        save_png(planes(), target)
    assert target.read_text() == "mine"
    save_png(planes(), target, overwrite=True)
    with Image.open(target) as image:
        assert image.size == (7, 5)


def test_a_picture_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(SinkError, match="No space left"):
        save_png(planes(), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
