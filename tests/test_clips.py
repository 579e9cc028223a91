"""Whole runs over the research clips: every frame, its time, its size and its sound.

By default a few short ones of each kind; all of them with ``-m slow`` or STREAMFACE_ALL_CLIPS=1.
"""

from __future__ import annotations

import csv
import os
from fractions import Fraction
from pathlib import Path

import av
import clips
import pytest

from streamface import cli

pytestmark = pytest.mark.clips

SHARED = Path(os.environ.get("STREAMFACE_SHARED", Path(__file__).parents[2] / "shared"))
# One of each kind: 10 bit, AV1 with Opus, MJPEG, odd 4:4:4, rotated, VFR, raw, full range.
FEW = (
    "derived_av1_opus.mkv",
    "derived_hevc_10bit.mp4",
    "derived_mjpeg_noaudio.avi",
    "derived_odd_size_yuv444.mp4",
    "derived_rot180_displaymatrix.mp4",
    "derived_vfr.mp4",
    "intel_asl_eat.mkv",
    "pyfeat_single_face.mp4",
)


def rows():
    """Return the rows of videos.csv by file; nothing where the clips are not there."""
    listing = SHARED / "clips" / "videos.csv"
    if not listing.is_file():
        return {}
    with listing.open(encoding="utf-8", newline="") as lines:
        return {row["file"]: row for row in csv.DictReader(lines)}


ROWS = rows()
EVERY = os.environ.get("STREAMFACE_ALL_CLIPS") == "1"
CASES = [
    pytest.param(name, marks=() if EVERY or name in FEW else pytest.mark.slow)
    for name in sorted(ROWS or FEW)
]


def decoded(path):
    """Return (times in seconds or None, (width, height) as coded) of all frames of a file."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.video[0]))
    sizes = {(frame.width, frame.height) for frame in frames}
    times = [None if f.pts is None else Fraction(f.pts * f.time_base) for f in frames]
    return times, sizes.pop() if len(sizes) == 1 else sizes


def has_sound(path):
    with av.open(str(path)) as container:
        return bool(container.streams.audio)


@pytest.mark.usefixtures("shared")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_every_clip_keeps_its_frames_times_size_and_sound(tmp_path, capfd, name):
    """Exit 0, as many frames as decode, their times, upright, sound copied packet for packet."""
    row = ROWS[name]
    source, target = SHARED / "clips" / name, tmp_path / "out.mp4"
    code = cli.main(
        ["run", "--source", str(source), "--output", str(target), "--preset", "ultrafast",
         "--no-progress"]
    )  # fmt: skip
    said = capfd.readouterr().err
    assert code == 0, said
    before, (width, height) = decoded(source)
    after, written_px = decoded(target)
    assert len(after) == len(before)
    if None not in before:
        assert after == before
    if int(row["rotation"]) % 180:
        width, height = height, width
    assert written_px == (width + width % 2, height + height % 2)
    if has_sound(source):
        assert has_sound(target)
        if "re-encoded" not in said:
            assert clips.audio_packets(target) == clips.audio_packets(source)
