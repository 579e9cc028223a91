"""``streamface models build`` and tools/build_engine.py, with the real TensorRT-RTX and no GPU."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import clips
import numpy as np
import pytest

from streamface import builder
from streamface.builder import BuildRequest, build, face_crops
from streamface.card import load
from streamface.cli import main
from streamface.errors import BackendUnavailable, ModelError, SourceError, UsageError
from streamface.model import card_path

MODELS = ("emotion", "emotion-ferplus", "gender", "likeness", "vqvae", "vqvae-prior")
rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="needs tensorrt-rtx (extra [test-engines])",
)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Also where there is one: what is tested here is the road without."""
    monkeypatch.setattr("streamface.engines.gpu.gpus", lambda: ())


@rtx
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_model_builds_without_a_gpu_and_says_what_is_left(precision, tmp_path, capsys):
    code = main(
        ["models", "build", *MODELS, "--precision", precision, "--output", str(tmp_path),
         "--json", "-"]
    )  # fmt: skip
    reports = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [report["name"] for report in reports] == list(MODELS)
    for report in reports:
        assert report["error"] is None
        assert (report["awaits_gpu"], report["check"], report["gpu"]) == (True, None, "any")
        engine = Path(report["engine"])
        assert engine.stat().st_size == pytest.approx(1e6 * report["size_mb"], abs=5e3)
        assert json.loads(engine.with_suffix(".json").read_text())["key"]["precision"] == precision
    assert not list(tmp_path.glob("*.part*"))


@rtx
def test_lines_for_people_say_that_a_check_awaits_a_gpu(tmp_path, capsys):
    assert main(["models", "build", "gender", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("gender: ")
    assert "await a check on a GPU" in told


@rtx
def test_one_that_fails_does_not_keep_the_others_from_being_built(tmp_path, capsys, monkeypatch):
    real = builder.build

    def failing(name, request, **more):
        if name == "gender":
            raise ModelError("no luck")
        return real(name, request, **more)

    monkeypatch.setattr(builder, "build", failing)
    code = main(["models", "build", "gender", "emotion", "--output", str(tmp_path)])
    assert code == 1
    assert "gender: failed: no luck" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.engine"))) == 1


@rtx
def test_int8_takes_its_ranges_from_the_faces_it_is_given(tmp_path, capsys):
    code = main(
        ["models", "build", "emotion", "--int8", "--faces", "demo:portrait",
         "--output", str(tmp_path / "out"), "--json", "-"]
    )  # fmt: skip
    (report,) = json.loads(capsys.readouterr().out)
    assert (code, report["precision"]) == (0, "int8")
    kept = json.loads(Path(report["engine"]).with_suffix(".json").read_text())
    assert kept["calibration"].endswith("faces of demo:portrait")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["emotion", "--max-batch", "0"], "--max-batch must be"),
        (["emotion", "--int8"], "give --faces"),
        (["emotion-int8"], "engines are built of float32 models"),
        (["emotion", "--device", "tpu"], "--device must be"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(arguments, why, capsys):
    assert main(["models", "build", *arguments]) == 2
    told = capsys.readouterr().err
    assert why in told
    assert told.count("\n") == 1


def test_a_model_that_is_not_there_is_a_failure(capsys):
    assert main(["models", "build", "age"]) == 1
    assert "no shipped model is named 'age'" in capsys.readouterr().out


def test_tensorrt_proper_needs_a_gpu(monkeypatch):
    monkeypatch.setattr("streamface.engines.flavour.load", lambda name: None)
    with pytest.raises(BackendUnavailable, match="--flavour tensorrt_rtx` builds without"):
        build("emotion", BuildRequest(flavour="tensorrt"), gpu=None)


def test_a_card_that_is_not_there_cannot_be_built_for(capsys):
    assert main(["models", "build", "emotion", "--device", "cuda:2"]) == 1
    assert "no cuda:2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["emotion", "gender"])
def test_faces_to_check_with_are_drawn_where_none_are_given(name):
    spec = load(card_path(name)).input
    made = face_crops(spec, 6)
    assert made.shape == (6, *spec.shape)
    assert made.dtype == np.uint8
    assert made.std(axis=(1, 2, 3)).min() > 10
    assert np.abs(made[0].astype(int) - made[1]).mean() > 5


def test_faces_are_found_in_what_is_given(tmp_path):
    spec = load(card_path("gender")).input
    found = face_crops(spec, 3, "demo:portrait")
    assert 1 <= len(found) <= 3
    with pytest.raises(ModelError, match="no face was found"):
        face_crops(spec, 3, str(clips.write_clip(tmp_path / "empty.mp4", 4)))
    with pytest.raises(SourceError, match="does not exist"):
        face_crops(spec, 3, str(tmp_path / "none.mp4"))


def test_requests_that_cannot_be_built_are_refused():
    with pytest.raises(UsageError, match="--flavour must be"):
        BuildRequest(flavour="onnx")
    with pytest.raises(UsageError, match="--precision must be"):
        BuildRequest(precision="fp8")
