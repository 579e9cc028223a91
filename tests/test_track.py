"""Ids over time: association alone, scene cuts, and the whole tracker with a scripted detector."""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import pytest
from skimage.data import astronaut, camera

from streamface.association import Tracker, TrackSettings
from streamface.frame import Colour, Face, Planes
from streamface.geometry import iou
from streamface.shots import ShotWatch
from streamface.track import CALM_FACTOR, FaceTracker

BOX = (178.0, 63.0, 268.0, 177.0)
LANDMARKS = np.array([(200, 102), (247, 103), (220, 125), (199, 143), (240, 144)], np.float32)


def face(x, y=100.0, side=60.0, score=0.9):
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return Face(box, np.full((5, 2), (x, y), np.float32), score)


def look(seed):
    vector = np.random.default_rng(seed).normal(size=144).astype(np.float32)
    vector -= vector.mean()
    return vector / np.linalg.norm(vector)


def ids(tracker, xs, time_s, looks=None):
    return [t.track_id for t in tracker.update([face(x) for x in xs], time_s, looks=looks)]


def test_ids_begin_at_1_and_stay_with_moving_faces():
    tracker = Tracker()
    for k in range(20):
        assert ids(tracker, [100 + 8 * k, 500 - 8 * k], k / 10) == ([1, 2])


def test_order_of_detections_does_not_matter():
    tracker = Tracker()
    assert ids(tracker, [100, 300], 0.0) == [1, 2]
    assert ids(tracker, [305, 104], 0.1) == [2, 1]


def test_an_id_survives_a_short_miss_but_not_a_long_one():
    tracker = Tracker(TrackSettings(coast_s=1.5))
    looks = [look(1)]
    assert ids(tracker, [100], 0.0, looks) == [1]
    assert ids(tracker, [], 0.2) == []
    assert ids(tracker, [120], 0.6, looks) == [1]
    assert ids(tracker, [], 0.8) == []
    assert ids(tracker, [120], 2.6, looks) == [2]


def test_someone_elsewhere_gets_a_new_id():
    tracker = Tracker()
    assert ids(tracker, [100], 0.0) == [1]
    assert ids(tracker, [600], 0.1) == [2]


def test_someone_else_in_the_same_place_after_a_while_gets_a_new_id():
    tracker = Tracker()
    assert ids(tracker, [100], 0.0, [look(1)]) == [1]
    ids(tracker, [], 0.1)
    assert ids(tracker, [110], 1.0, [look(2)]) == [2]


def test_a_face_of_another_size_is_another_face():
    tracker = Tracker()
    tracker.update([face(100)], 0.0)
    tracker.update([], 0.1)
    assert [t.track_id for t in tracker.update([face(100, side=120)], 0.2)] == [2]


def test_crossing_faces_are_told_apart_by_their_looks():
    tracker = Tracker()
    a, b = look(1), look(2)
    tracker.update([face(100), face(130)], 0.0, looks=[a, b])
    # Both detections lie exactly between where the two were.
    found = tracker.update([face(116), face(114)], 0.1, looks=[a, b])
    assert [t.track_id for t in found] == [1, 2]


def test_several_trackers_can_share_their_ids():
    shared = itertools.count(7)
    first, second = Tracker(ids=shared), Tracker(ids=shared)
    assert ids(first, [100], 0.0) + ids(second, [100], 0.0) + ids(first, [100, 400], 0.1) == [
        7, 8, 7, 9,
    ]  # fmt: skip


def test_a_face_seen_once_and_not_confirmed_is_no_longer_reported():
    tracker = Tracker()
    tracker.update([face(100)], 0.0)
    tracker.update([], 0.1)
    assert not tracker.tracks[0].visible


def test_a_face_of_low_score_is_no_longer_reported_once_missed():
    tracker = Tracker()
    for k in range(5):
        tracker.update([face(100, score=0.65)], k / 10)[0].patch = object()
    tracker.update([], 0.5)
    assert not tracker.tracks[0].visible


def test_a_face_of_high_score_may_be_missed_for_a_while():
    tracker = Tracker()
    for k in range(5):
        tracker.update([face(100)], k / 10)[0].patch = object()
    tracker.update([], 0.5)
    assert tracker.tracks[0].visible
    tracker.update([], 1.2)
    assert not tracker.tracks[0].visible


def test_a_face_that_the_search_was_too_coarse_for_is_not_doubted():
    tracker = Tracker()
    tracker.tracks = tracker.update([face(100, side=20)], 0.0)
    tracker.tracks[0].patch = object()
    tracker.update([], 0.1, least_px=40)
    assert tracker.tracks[0].visible
    tracker.update([], 0.2, least_px=10)
    assert not tracker.tracks[0].visible


# Scene cuts


def still(picture):
    return Planes.from_rgb(np.ascontiguousarray(picture))


def grey(picture):
    return np.repeat(picture[..., None], 3, axis=2)


def test_another_picture_is_a_cut_and_the_same_is_not():
    watch = ShotWatch()
    assert not watch.is_cut(still(astronaut()))
    assert not watch.is_cut(still(astronaut()))
    assert watch.is_cut(still(grey(camera())))
    assert not watch.is_cut(still(grey(camera())))


def test_a_flash_a_fade_and_a_pan_are_no_cuts():
    watch = ShotWatch()
    picture = astronaut()
    shown = [
        picture,
        picture // 2 + 120,
        picture,
        picture // 2,
        picture // 4,
        np.roll(picture // 4, 40, axis=1),
    ]
    assert [watch.is_cut(still(p)) for p in shown] == [False] * 6


def test_after_reset_nothing_is_a_cut():
    watch = ShotWatch()
    watch.is_cut(still(astronaut()))
    watch.reset()
    assert not watch.is_cut(still(grey(camera())))


def test_only_what_is_no_known_face_stirs():
    watch = ShotWatch()
    picture = astronaut()
    watch.is_cut(still(picture))
    watch.mark_searched()
    assert not watch.has_stirred([])
    changed = picture.copy()
    changed[80:160, 190:260] = 255
    watch.is_cut(still(changed))
    assert watch.has_stirred([])
    assert not watch.has_stirred([BOX])
    assert watch.has_stirred([(0, 300, 50, 360)])


# The whole tracker


class Script:
    """A detector that knows where the face is, and what it was asked."""

    imgsz = 640

    def __init__(self):
        self.where = lambda: [(BOX, LANDMARKS)]
        self.asked = []

    def detect(self, planes, imgsz=None, *, clip=True):
        self.asked.append(imgsz)
        return tuple(Face(box, landmarks, 0.9) for box, landmarks in self.where())


class Stage:
    """The portrait at a moving place, with a detector that knows it."""

    def __init__(self, size_px=(512, 512), **options):
        self.detector, self.size_px, self.shift = Script(), size_px, (0.0, 0.0)
        self.detector.where = self._where
        self.tracker = FaceTracker(self.detector, **options)
        self.hidden = False

    def _where(self):
        x, y = self.shift
        box = (BOX[0] + x, BOX[1] + y, BOX[2] + x, BOX[3] + y)
        return [] if self.hidden else [(box, LANDMARKS + np.float32(self.shift))]

    def box(self):
        return self._where()[0][0]

    def show(self, time_s, shift=(0.0, 0.0)):
        self.shift = shift
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], float)
        moved = cv2.warpAffine(astronaut(), matrix, self.size_px, borderMode=cv2.BORDER_REPLICATE)
        return self.tracker.update(Planes.from_rgb(np.asarray(moved, np.uint8)), time_s)


def test_between_detections_faces_move_by_flow_and_keep_their_id():
    stage = Stage(detect_every=5)
    for k in range(23):
        faces = stage.show(k / 30, (4 * k, 2 * math.sin(k)))
        assert [f.track_id for f in faces] == [1]
        assert iou(faces[0].box_px, stage.box()) > 0.9
        assert faces[0].covered_by == ("tracking" if k % 5 else "detection")
    stats = stage.tracker.stats
    assert (stats.detections, stats.flowed, stats.cuts) == (5, 18, 0)


def test_every_frame_is_searched_at_full_size_where_that_is_asked_for():
    stage = Stage(detect_every=1)
    faces = [stage.show(k / 30)[0] for k in range(5)]
    assert stage.detector.asked == [640] * 5
    assert {f.covered_by for f in faces} == {"detection"}


def test_most_searches_are_at_half_size():
    stage = Stage(detect_every=2)
    for k in range(22):
        stage.show(k / 30, (6 * k, 0))
    assert stage.detector.asked == [640, *[320] * 4, 640, *[320] * 4, 640]


def test_a_still_scene_is_searched_less_often():
    stage = Stage(detect_every=4)
    for k in range(4 * CALM_FACTOR * 2 + 1):
        stage.show(k / 60)
    assert stage.tracker.stats.detections == 3


def test_a_doubtful_face_is_looked_at_again_soon():
    stage = Stage(detect_every=8)
    sure = stage.detector.detect
    stage.detector.detect = lambda *args, **kw: tuple(
        Face(f.box_px, f.landmarks_px, 0.62) for f in sure(*args, **kw)
    )
    how = [stage.show(k / 60)[0].covered_by for k in range(6)]
    assert how == ["detection"] + ["tracking"] * 3 + ["detection", "tracking"]


def test_slow_cameras_are_searched_by_time_not_by_frames():
    stage = Stage(detect_every=8)
    for k in range(10):
        stage.show(k / 5, (6 * k, 0))
    assert stage.tracker.stats.detections >= 5


def test_a_new_face_is_reported_in_its_first_detection_frame():
    stage = Stage(detect_every=3)
    stage.hidden = True
    reported = []
    for k in range(9):
        stage.hidden = k < 4
        reported.append(len(stage.show(k / 30, (8 * k, 0))))
    assert reported == [0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_a_lost_face_is_searched_for_at_once_and_comes_back_with_its_id():
    stage = Stage(detect_every=10)
    for k in range(6):
        stage.show(k / 30)
    covered = Planes.from_rgb(astronaut())
    covered.y[30:200, 150:300] = np.random.default_rng(0).integers(0, 256, (170, 150))
    stage.hidden = True
    gone = stage.tracker.update(covered, 6 / 30)
    assert gone == ()
    assert stage.tracker.stats.detections == 2
    stage.hidden = False
    for k in range(7, 18):
        faces = stage.show(k / 30)
    assert stage.tracker.stats.cuts == 0
    assert [f.track_id for f in faces] == [1]


def test_a_cut_forces_a_detection_and_new_ids():
    stage = Stage(detect_every=30)
    assert [f.track_id for f in stage.show(0.0)] == [1]
    other = still(grey(camera()))
    stage.hidden = True
    assert stage.tracker.update(other, 1 / 30) == ()
    stage.hidden = False
    back = stage.show(2 / 30)
    assert [(f.track_id, f.covered_by) for f in back] == [(2, "detection")]
    assert stage.tracker.stats.cuts == 2


def test_a_change_of_size_starts_afresh_without_harm():
    stage = Stage(detect_every=9)
    sizes = [(512, 512), (512, 512), (400, 300), (641, 361), (33, 17), (1, 1), (512, 512)]
    for k, size_px in enumerate(sizes):
        stage.size_px = size_px
        for found in stage.show(k / 30):
            assert 0 <= found.box_px[0] < found.box_px[2] <= size_px[0]
            assert 0 <= found.box_px[1] < found.box_px[3] <= size_px[1]
    assert stage.tracker.stats.detections == 6


def test_boxes_leave_the_frame_clipped():
    stage = Stage(detect_every=4)
    seen = []
    for k in range(20):
        for found in stage.show(k / 30, (-16 * k, 0)):
            x0, y0, x1, y1 = found.box_px
            assert 0 <= x0 < x1 <= 512
            assert 0 <= y0 < y1 <= 512
            seen.append(x1 - x0)
    assert min(seen) < 60


def test_repeated_times_keep_ids_and_a_jump_back_starts_afresh():
    stage = Stage(detect_every=4)
    times = [0.0, 0.04, 0.04, 0.04, 0.02, 0.08, 0.12]
    assert {stage.show(t)[0].track_id for t in times} == {1}
    stage.tracker.update(still(astronaut()), 60.0)
    assert stage.show(0.0)[0].track_id > 1


def test_reset_forgets_faces_but_not_ids():
    stage = Stage()
    assert stage.show(0.0)[0].track_id == 1
    stage.tracker.reset()
    again = stage.show(0.1)[0]
    assert (again.track_id, again.covered_by) == (2, "detection")


def test_detection_noise_is_smoothed_without_lag():
    stage = Stage(detect_every=1)
    rng = np.random.default_rng(0)
    true = [(6.0 * k, 0.0) for k in range(25)]
    exact = stage._where
    stage.detector.where = lambda: [
        (tuple(v + n for v, n in zip(box, rng.normal(0, 3, 4), strict=True)), points)
        for box, points in exact()
    ]
    errors = []
    for k, shift in enumerate(true):
        found = stage.show(k / 30, shift)[0]
        errors.append(np.subtract(found.box_px, stage.box()))
    errors = np.array(errors[5:])
    assert errors.std() < 3
    assert abs(errors.mean()) < 1.2  # a lag of one frame would be 6 px


def test_senseless_intervals_are_refused():
    with pytest.raises(ValueError, match="detect_every"):
        FaceTracker(Script(), detect_every=0)


def test_the_same_frames_give_the_same_faces():
    runs = []
    for _ in range(2):
        stage = Stage(detect_every=3)
        runs.append([stage.show(k / 30, (5 * k, k))[0].box_px for k in range(10)])
    assert runs[0] == runs[1]


def test_empty_frames_have_no_faces():
    stage = Stage()
    stage.hidden = True
    planes = Planes.allocate((64, 48), Colour())
    for plane in (planes.y, planes.u, planes.v):
        plane[:] = 128
    assert [stage.tracker.update(planes, k / 30) for k in range(8)] == [()] * 8
