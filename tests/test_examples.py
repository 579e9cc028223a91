"""The examples run as they stand, on the demo."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "tools" / "examples"
ARGUMENTS = {
    "analyze_image": [],
    "annotate_video": ["--max-frames", "8", "--output", "out.mp4"],
    "draw_yourself": ["--max-frames", "2", "--output", "pictures"],
    "print_emotions": ["--max-frames", "8"],
    "summarize_tracks": ["--max-frames", "8"],
    "watch_live": ["--max-frames", "8"],
}
SAYS = {
    "analyze_image": "demo: ",
    "annotate_video": "written: out.mp4",
    "draw_yourself": "written: pictures",
    "print_emotions": "face 1: ",
    "summarize_tracks": "track_id,first_s,last_s,frames,angry",
    "watch_live": "",
}


def test_every_example_is_tried_here():
    """A new example needs a line above."""
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_runs_and_stays_short(tmp_path, monkeypatch, capsys, name):
    """No argument is needed; none is longer than a screen."""
    path = EXAMPLES / f"{name}.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *ARGUMENTS[name]])
    runpy.run_path(str(path), run_name="__main__")
    assert SAYS[name] in capsys.readouterr().out
    assert len(path.read_text().splitlines()) <= 50
