"""What the two evaluations count, on cases small enough to count by hand."""

from __future__ import annotations

import argparse
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from streamface.errors import UsageError
from streamface.evaluation import detection, tracking
from streamface.frame import Face

SHARED = Path(os.environ.get("STREAMFACE_SHARED", Path(__file__).parents[2] / "shared"))
POINTS = np.zeros((5, 2), np.float32)


def face(x0, y0, side=40, track_id=1, covered_by="detection"):
    return Face((x0, y0, x0 + side, y0 + side), POINTS, 0.9, track_id, covered_by)


def boxes(*corners):
    return np.array(corners, np.float64).reshape(-1, 4)


def scored(truth, ignored, faces, px=20):
    score = detection.Score()
    score.add(truth, ignored, faces, px)
    return score.faces, score.found, score.false


def test_a_face_is_found_once_and_the_second_box_on_it_is_false():
    truth = boxes((0, 0, 40, 40), (100, 0, 140, 40))
    assert scored(truth, boxes(), (face(2, 2), face(3, 3))) == (2, 1, 1)


def test_boxes_that_overlap_too_little_are_false():
    assert scored(boxes((0, 0, 40, 40)), boxes(), (face(25, 25),)) == (1, 0, 1)


def test_small_faces_neither_count_nor_cost():
    truth = boxes((0, 0, 15, 15))
    assert scored(truth, boxes(), (face(0, 0, 15), face(60, 60, 12))) == (0, 0, 0)
    assert scored(truth, boxes(), (face(0, 0, 15),), px=10) == (1, 1, 0)


def test_boxes_on_ignored_regions_cost_nothing():
    regions = boxes((0, 0, 300, 300))
    assert scored(boxes(), regions, (face(50, 50), face(285, 0), face(400, 400))) == (0, 0, 2)


def truth(person, x0, y0, side=40, *, ignored=False):
    return tracking.Truth(person, (x0, y0, x0 + side, y0 + side), ignored)


def test_tracking_counts_a_perfect_run():
    scorer = tracking.ClipScorer()
    for k in range(4):
        kind = "tracking" if k % 2 else "detection"
        scorer.add([truth(0, k, 0)], [face(k, 0, covered_by=kind)])
    found = scorer.score.summary()
    assert (found["recall"], found["precision"], found["id_switches"]) == (1, 1, 0)
    assert (found["iou_tracking"], found["delay_frames"], found["fragments"]) == (1, 0, 0)


def test_tracking_counts_late_faces_gaps_switches_and_inventions():
    scorer = tracking.ClipScorer()
    scorer.add([truth(0, 0, 0)], [])
    scorer.add([truth(0, 0, 0)], [face(0, 0, track_id=5)])
    scorer.add([truth(0, 0, 0)], [face(300, 0, track_id=5)])
    scorer.add([truth(0, 0, 0)], [face(0, 0, track_id=6)])
    score = scorer.score
    assert (score.faces, score.found, score.false) == (4, 2, 1)
    assert (score.switches, score.fragments, score.delays, score.ids) == (1, 1, [1], 2)


def test_a_match_stays_although_another_box_fits_better():
    scorer = tracking.ClipScorer()
    scorer.add([truth(0, 0, 0)], [face(0, 0, track_id=1)])
    scorer.add([truth(0, 0, 0)], [face(4, 0, track_id=1), face(0, 0, track_id=2)])
    assert (scorer.score.switches, scorer.score.false) == (0, 1)


def test_hardly_visible_faces_are_ignored():
    scorer = tracking.ClipScorer()
    scorer.add([truth(0, 0, 0, ignored=True)], [face(5, 0)])
    scorer.add([truth(0, 0, 0, ignored=True)], [])
    assert (scorer.score.faces, scorer.score.found, scorer.score.false) == (0, 0, 0)


def parse(module, *arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    module.add_arguments(parser)
    return parser.parse_args(arguments)


def make_set(path):
    picture = io.BytesIO()
    Image.fromarray(astronaut()).save(picture, "PNG")
    entry = {"file": "a.png", "boxes": [[178, 63, 90, 114]], "ignore": []}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", picture.getvalue())
        archive.writestr("annotations.json", json.dumps([entry]))
    return path


def test_detection_scores_a_set_of_one(tmp_path):
    data = make_set(tmp_path / "set.zip")
    found = detection.run(parse(detection, "--data", str(data), "--imgsz", "320", "512"))
    json.dumps(found)
    assert found["pictures"] == 1
    for size in ("320", "512"):
        assert found["imgsz"][size]["recall_32px"] == 1
        assert found["imgsz"][size]["precision_32px"] == 1


@pytest.mark.parametrize("content", [None, b"no zip"])
def test_what_is_no_detection_set_is_refused(tmp_path, content):
    data = tmp_path / "set.zip"
    if content is not None:
        data.write_bytes(content)
    with pytest.raises(UsageError, match="not a detection set"):
        detection.run(parse(detection, "--data", str(data)))


def test_a_clip_without_truth_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no \\*.gt.json"):
        tracking.run(parse(tracking, "--data", str(tmp_path)))
    (tmp_path / "a.gt.json").write_text("{}")
    with pytest.raises(UsageError, match="beside its clip"):
        tracking.run(parse(tracking, "--data", str(tmp_path / "a.gt.json")))


@pytest.mark.clips
def test_known_faces_of_a_real_clip_keep_their_ids():
    clip = SHARED / "clips" / "derived_two_faces_640x360.gt.json"
    if not clip.is_file():
        pytest.skip(f"{clip} is absent")
    found = tracking.run(parse(tracking, "--data", str(clip)))
    assert found["recall"] > 0.97
    assert found["precision"] > 0.97
    assert found["id_switches"] <= 1
    assert found["iou_tracking"] > 0.85
    assert set(found["clips"]) == {clip.name.replace(".gt.json", ".mp4")}
