"""What is remembered of streams: as long as they give frames, and no longer."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from streamface.anonymize import Cover, CoverSettings, CoverTally
from streamface.frame import Colour, Frame, Planes
from streamface.memory import FORGET_S, StreamMemory
from streamface.stages import FindFaces
from streamface.testing import face


def frame(stream, index=0, captured_s=0.0, faces=()):
    planes = Planes.allocate((64, 48), Colour())
    planes.y[:], planes.u[:], planes.v[:] = 110, 128, 128
    return Frame(stream, index, index, Fraction(1, 30), planes, captured_s=captured_s, faces=faces)


def test_streams_in_turn_are_all_remembered():
    memory = StreamMemory(list)
    for index in range(300):
        memory.of(frame(index % 3, index, captured_s=float(index))).append(index)
    assert [len(values) for values in memory.values()] == [100, 100, 100]


def test_a_stream_that_is_over_is_forgotten_when_others_begin():
    memory = StreamMemory(list)
    for stream in range(500):
        memory.of(frame(stream, captured_s=stream * 1.0))
    assert len(memory) <= FORGET_S + 2
    memory.clear()
    assert len(memory) == 0


def test_a_stalled_stream_is_kept_while_no_other_begins():
    memory = StreamMemory(list)
    first = memory.of(frame(0))
    assert memory.of(frame(0, 1, captured_s=10 * FORGET_S)) is first


def test_trackers_of_a_folder_do_not_pile_up():
    made = []

    class Tracker:
        detect_every = 4

        def __init__(self):
            made.append(self)

        def update(self, *_):
            return ()

    stage = FindFaces(Tracker)
    for stream in range(300):
        stage.process([frame(stream, captured_s=float(stream))])
    assert len(made) == 300
    assert len(stage._trackers) <= FORGET_S + 2


def test_streams_in_turn_are_covered_each_in_its_own_places():
    """The face of one stream is not covered in the other, whose frames come in between."""
    stage = Cover(CoverSettings("solid", look_ahead_s=0.0))
    known = replace(face((20, 14, 40, 34)), track_id=1)
    out = []
    for index in range(6):
        for stream in (0, 1):
            out += stage.process([frame(stream, index, faces=(known,) if stream == 0 else ())])
    assert [(each.stream, each.index) for each in out] == [(s, i) for i in range(6) for s in (0, 1)]
    for each in out:
        assert bool(np.any(each.planes.y == 60)) == (each.stream == 0)
    assert stage.tally.seen == 6


def test_frames_that_are_held_are_never_lost_to_a_late_stream():
    stage = Cover(CoverSettings("solid", look_ahead_s=1.0))
    out = [*stage.process([frame(0, index) for index in range(5)])]
    out += stage.process([frame(1, captured_s=10 * FORGET_S)])
    out += stage.finish()
    assert [(each.stream, each.index) for each in out] == [*((0, i) for i in range(5)), (1, 0)]


def test_unseen_faces_are_counted_in_bounded_memory():
    tally = CoverTally()
    for track_id in range(10_000):
        tally.count_unseen(track_id)
        tally.count_unseen(7)
    assert tally.unseen.total() + tally.unseen_elsewhere == 20_000
    assert tally.unseen.most_common(1) == [(7, 10_001)]
    assert len(tally.unseen) <= 2000
