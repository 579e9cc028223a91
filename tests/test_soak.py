"""Runs for weeks: nothing that a run remembers grows with the number of frames."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from streamface import app
from streamface.anonymize import Cover, CoverSettings
from streamface.app import Run
from streamface.classify import FaceClassifier
from streamface.frame import Colour, Emotion, Frame, Planes
from streamface.model import Model
from streamface.settings import Settings
from streamface.tally import DistinctIds, StreamTally, Tally
from streamface.testing import CountingSource, FixedDetector, face
from streamface.track import FaceTracker

SIZE_PX = (64, 48)
RATE = 30


QUICK_AND_LONG = (6_000, pytest.param(100_000, marks=pytest.mark.slow))


def grown_bytes(work, frames):
    """Return by how much Python's memory grows over the second half of ``frames``."""
    gc.collect()
    tracemalloc.start()
    try:
        for index in range(frames // 2):
            work(index)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for index in range(frames // 2, frames):
            work(index)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before


PLANES = Planes.allocate(SIZE_PX, Colour())
PROBS = np.full(7, 1 / 7, np.float32)
FACES = [
    replace(face((4.0, 4, 24, 28)), emotion=Emotion(label, PROBS, PROBS))
    for label in ("happy", "sad", "neutral")
]


def frame(index, faces=()):
    time_s = index / RATE
    return Frame(0, index, index, Fraction(1, RATE), PLANES, captured_s=1000 + time_s, faces=faces)


def passers_by(index):
    """Return the faces of a frame: somebody new ten times a second, who stays for three frames."""
    return tuple(replace(each, track_id=index // 3 + n) for n, each in enumerate(FACES))


@pytest.mark.parametrize("frames", QUICK_AND_LONG)
def test_what_a_run_counts_stays_small(frames):
    """Tallies of all and of a stream, however many people came by."""
    tally = Tally(streams={0: StreamTally("hall")})

    def work(index):
        each = frame(index, passers_by(index))
        tally.count(each)
        tally.streams[0].ages.add(each.captured_s, 0.01)
        tally.streams[0].latency.add(0.01)

    assert grown_bytes(work, frames) < 30_000
    assert len(tally.tracks) == -(-frames // 3) + 2
    assert tally.frames == tally.streams[0].frames == frames


def test_ids_are_counted_exactly_in_bounded_memory():
    ids = DistinctIds()
    for number in range(50_000):
        ids.add(number)
        ids.add(max(0, number - 50))
    assert len(ids) == 50_000
    assert sum(1 for _ in ids) < 2_000
    assert 49_999 in ids


class Unmoved:
    """An emotion net that always answers the same."""

    input_dtype = np.dtype(np.float32)
    takes_tensors = False

    def __init__(self):
        with_card = Model.open("emotion")
        self.card = with_card.card
        with_card.close()

    def predict(self, batch):
        return np.tile(PROBS, (len(batch), 1))


@pytest.mark.parametrize("frames", QUICK_AND_LONG)
@pytest.mark.parametrize("stage", ["classify", "cover"])
def test_what_is_remembered_of_faces_stays_small(stage, frames):
    """Of hundreds of people, all of whom have gone again."""
    if stage == "classify":
        worker = FaceClassifier(Unmoved(), None).classify
    else:
        worker = Cover(CoverSettings("solid", look_ahead_s=0.0)).process

    def work(index):
        worker([frame(index, passers_by(index // 10)[:1])])

    assert grown_bytes(work, frames) < 100_000


@pytest.mark.parametrize("frames", QUICK_AND_LONG)
def test_what_a_tracker_remembers_stays_small(frames):
    """Faces that come and go."""
    detector = FixedDetector()
    tracker = FaceTracker(detector, ids=itertools.count(1))
    boxes = [(4.0, 4, 24, 28), (30.0, 10, 54, 40)]

    def work(index):
        detector.faces = tuple(face(box) for box in boxes[: (index // 90) % 3])
        tracker.update(PLANES, index / RATE)

    assert grown_bytes(work, frames) < 50_000
    assert len(tracker._tracker.tracks) <= 4


def descriptors():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.parametrize("frames", [600, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_long_run_keeps_threads_descriptors_and_memory(tmp_path, monkeypatch, frames):
    """Frames of four tiny cameras through the whole run, files and all."""
    monkeypatch.setattr(app, "open_detector", lambda _settings: FixedDetector(()))
    seen = []

    def note():
        gc.collect()
        seen.append((threading.active_count(), descriptors(), tracemalloc.get_traced_memory()[0]))

    def opener(_what, _options, *, stream):
        return CountingSource(10**9, stream=stream, size_px=SIZE_PX, is_live=True)

    settings = Settings(
        source=("0", "1", "2", "3"),
        output=tmp_path / "out",
        data={"jsonl": str(tmp_path / "all.jsonl")},
        preset="ultrafast",
        tasks=(),
    )
    tracemalloc.start()
    try:
        with Run(settings, opener=opener) as run:
            for number, _ in enumerate(run.frames()):
                if number in (frames // 3, 2 * frames // 3, frames):
                    note()
                if number == frames:
                    run.stop()
    finally:
        tracemalloc.stop()
    (threads, files, _), (_, _, middle), (threads_at_end, files_at_end, end) = seen
    assert threads_at_end == threads
    assert files_at_end == files
    assert end - middle < 500_000
    assert run.tally.frames > frames
    assert os.path.getsize(tmp_path / "all.jsonl") > 50 * frames
