"""The Python API: results in order, pictures, and what is left behind when one leaves early."""

from __future__ import annotations

import gc
from contextlib import closing

import av
import clips
import numpy as np
import pytest

import streamface
from streamface import app
from streamface.demo import portrait
from streamface.testing import FixedDetector


@pytest.fixture
def fixed_face(monkeypatch):
    """Every frame has one face, found without a model."""
    monkeypatch.setattr(app, "open_detector", lambda _settings: FixedDetector())


@pytest.fixture
def clip(tmp_path):
    return clips.write_clip(tmp_path / "clip.mp4", 20)


def test_a_stream_yields_every_frame_in_order_with_its_faces(clip):
    """Names, numbers, times and pictures of a clip without faces."""
    results = list(streamface.stream(clip))
    assert [result.frame for result in results] == list(range(20))
    assert [round(result.time_s * 30) for result in results] == list(range(20))
    assert {result.source for result in results} == {str(clip)}
    assert results[0].faces == ()
    assert results[0].rgb().shape == (120, 160, 3)
    assert results[3].to_dict()["frame"] == 3


@pytest.mark.usefixtures("fixed_face")
def test_results_are_the_callers_to_keep(clip):
    """Pictures and faces of earlier frames do not change when later ones come."""
    kept = list(streamface.stream(clip, tasks=()))
    numbers = [clips.read_number(result._frame.planes) for result in kept]
    assert numbers == list(range(20))
    assert {face.track_id for result in kept for face in result.faces} == {1}


@pytest.mark.usefixtures("fixed_face")
def test_a_finished_stream_leaves_whole_files(clip, tmp_path):
    """Text paths will do; the pictures of the results carry the labels, too."""
    target = tmp_path / "o.mp4"
    results = list(streamface.stream(clip, output=str(target), data={"csv": str(tmp_path / "c")}))
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20
    assert len((tmp_path / "c").read_text().splitlines()) == 21
    drawn = results[10].rgb().astype(int) - clips.numbered(10).to_rgb()
    assert np.abs(drawn[20:]).max() > 50, "a box and a label are drawn on the grey clip"


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize("taken", [0, 1, 5])
def test_leaving_early_removes_the_unfinished_file(clip, tmp_path, taken):
    """Closed, or just forgotten, and even if nobody ever took a frame."""
    folder = tmp_path / "out"
    folder.mkdir()
    with closing(streamface.stream(clip, output=folder / "a.mp4")) as results:
        for _ in range(taken):
            next(results)
    assert list(folder.iterdir()) == []
    forgotten = streamface.stream(clip, output=folder / "a.mp4")
    for _ in range(taken):
        next(forgotten)
    del forgotten
    gc.collect()
    assert list(folder.iterdir()) == []


def test_what_is_wrong_is_raised_by_the_call_itself(tmp_path):
    """Not by the first step of the loop."""
    with pytest.raises(streamface.SourceError, match="does not exist"):
        streamface.stream(tmp_path / "none.mp4")
    with pytest.raises(streamface.UsageError, match="--conf must be"):
        streamface.stream("demo", conf=float("nan"))
    with pytest.raises(
        TypeError,
        match="unknown option 'confidence'; known: adapt, anonymize, audio, build_engines",
    ):
        streamface.stream("demo", confidence=0.5)
    with pytest.raises(TypeError, match="unknown option 'confidence'"):
        streamface.Analyzer(confidence=0.5)


def test_a_real_face_in_one_picture_is_found_and_read():
    """The shipped models on the shipped portrait."""
    (face,) = streamface.analyze(portrait())
    assert face.emotion is not None
    assert face.emotion.probs.sum() == pytest.approx(1, abs=1e-4)
    assert face.gender is not None
    assert (face.track_id, face.covered_by) == (1, "detection")
    x0, y0, x1, y1 = face.box_px
    assert x0 < 223 < x1
    assert y0 < 118 < y1


def test_an_analyzer_is_used_many_times_and_remembers_nothing():
    """The same picture gives the same answer; a picture without a face gives none."""
    analyze = streamface.Analyzer(tasks=("emotion",))
    first, second = analyze(portrait()), analyze(portrait())
    assert np.array_equal(first[0].emotion.probs, second[0].emotion.probs)
    assert first[0].gender is None
    assert analyze(np.zeros((50, 60, 3), np.uint8)) == ()
    mirrored = analyze(portrait()[:, ::-1])
    assert len(mirrored) == 1, "a view of an array will do"


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_what_is_no_picture_is_refused(image):
    """Grey, RGBA and float arrays are named as what they are."""
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\) uint8"):
        streamface.Analyzer(tasks=())(image)


def test_every_public_name_is_there():
    """What __all__ promises can be imported, and nothing else is made up."""
    assert all(getattr(streamface, name) is not None for name in streamface.__all__)
    assert dir(streamface) == sorted(streamface.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = streamface.nonesuch
