"""``streamface doctor`` and ``streamface models``: what they tell, to the letter."""

from __future__ import annotations

import json
import shutil

import pytest

from streamface import runtimes
from streamface.cli import main
from streamface.engines.gpu import Gpu
from streamface.model import card_path, shipped_names

H100 = Gpu(0, "NVIDIA H100 [MIG 1g]", (9, 0), 80_000_000_000, "580.1")


def told(capsys, *words, code=0):
    assert main(list(words)) == code
    return capsys.readouterr().out


def test_the_doctor_tells_of_every_model_and_what_runs_it(capsys):
    lines = told(capsys, "doctor").splitlines()
    assert lines[0].startswith("Python 3.")
    for name in shipped_names():
        (line,) = (each for each in lines if each.startswith(f"model {name}: "))
        assert " (whole), runs on onnxruntime " in line
    assert any(each.startswith("--reenact: vqvae-int8 on onnxruntime") for each in lines)


def test_the_doctor_says_why_a_gpu_is_not_used(capsys, monkeypatch):
    monkeypatch.setattr("streamface.engines.gpu.gpus", lambda: (H100,))
    monkeypatch.setattr("streamface.engines.flavour.installed", lambda: ())
    monkeypatch.setattr(runtimes.Machine, "has_torch", False)
    lines = told(capsys, "doctor").splitlines()
    assert "cuda:0: NVIDIA H100 [MIG 1g], compute capability 9.0, 80 GB, driver 580.1" in lines
    # Square brackets are markup to Rich, which would take the extra's name for a style.
    (why,) = (each for each in lines if "TensorRT is not installed" in each)
    assert "(pip install 'streamface[tensorrt-rtx]' or [tensorrt])" in why
    assert "(pip install 'streamface[torch]')" in why


def test_the_doctor_fails_if_a_model_is_damaged(capsys, monkeypatch, tmp_path):
    package = tmp_path / "package [old]"
    shutil.copytree(card_path("gender").parent, package / "models")
    (package / "models" / "gender.onnx").write_bytes(b"not a net")
    monkeypatch.setattr("streamface.model.resources.files", lambda name: package)
    assert f"{package / 'models' / 'gender.onnx'} " in told(capsys, "doctor", code=1)


def test_the_models_are_listed_with_what_uses_them(capsys):
    out = told(capsys, "models")
    for name in shipped_names():
        assert f"model {name}: " in out
        assert f"  card {card_path(name)}\n" in out
    assert ", used by --anonymize synth and generate\n" in out


def test_a_card_is_told_whole_wherever_it_lies(capsys, tmp_path):
    folder = tmp_path / "mine [2]"
    folder.mkdir()
    path = card_path("emotion")
    for each in (path, path.with_suffix(".onnx")):
        shutil.copy(each, folder)
    out = told(capsys, "models", str(folder / path.name))
    card = json.loads(path.read_text("utf-8"))
    assert out.startswith(f"{card['name']}  {folder / path.name}\n")
    assert card["sha256"] in out
    assert "happy" in out
    assert told(capsys, "models", "nobody", code=1) == ""


@pytest.mark.parametrize("words", [["doctor", "now"], ["models", "emotion", "gender"]])
def test_other_words_are_misuse(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("streamface: error: unrecognized arguments: ")
