"""The training tools from their command line: a tiny run of each, resumed, exported and scored."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="training needs torch (extra [train])")
pytest.importorskip("onnx", reason="export needs onnx (extra [train])")

from streamface.frame import EMOTIONS
from streamface.likeness import Likeness
from streamface.resynth import Imagination, Inventor, Reenactor, expression
from streamface.training import likeness
from streamface.training.aligned import input_spec

ROOT = Path(__file__).parents[1]


def tool(name, *words, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
    return module.main()


def picture(rng, shape):
    return Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8))


@pytest.fixture
def faces(tmp_path):
    """Write a folder of 24 noise pictures, six of them for validation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 18), ("val", 6)):
        for i in range(count):
            folder = tmp_path / "faces" / split / EMOTIONS[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            picture(rng, (48, 48)).save(folder / f"{i}.png")
    return tmp_path / "faces"


@pytest.fixture
def genders(tmp_path):
    rng = np.random.default_rng(1)
    rows = ["file,split,gender,age_group,race"]
    folder = tmp_path / "genders"
    folder.mkdir()
    for i in range(40):
        picture(rng, (144, 144, 3)).save(folder / f"{i}.png")
        rows.append(f"{i}.png,train,{i % 2},20-29,White")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_emotion_from_a_folder_is_trained_resumed_and_scored(faces, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    words = ("--data", faces, "--out", out, "--batch-size", 8)
    assert tool("train_emotion", *words, "--epochs", 1, monkeypatch=monkeypatch) == 0
    for name in (
        "emotion.onnx emotion.json curves.png emotion-confusion.png emotion-reliability.png "
        "metrics.jsonl config.json checkpoint.pt landmarks.npy"
    ).split():
        assert (out / name).stat().st_size > 0
    assert not (out / "emotion-ferplus.json").exists()  # a folder has no votes
    with_more = tool("train_emotion", *words, "--epochs", 2, "--resume", monkeypatch=monkeypatch)
    assert with_more == 1
    assert "other options" in capsys.readouterr().err
    again = tool("train_emotion", *words, "--epochs", 1, "--resume", monkeypatch=monkeypatch)
    assert again == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1  # nothing was left to do
    capsys.readouterr()
    words = ("emotion", "--data", faces, "--model", out / "emotion.json", "--json", "-")
    assert tool("evaluate", *words, monkeypatch=monkeypatch) in {0, None}


def test_gender_is_trained_and_quantised(genders, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    words = ("--data", genders, "--out", out, "--batch-size", 8, "--epochs", 1)
    assert tool("train_gender", *words, monkeypatch=monkeypatch) == 0
    words = (out / "gender.json", "--data", genders, "--precision", "int8", "--faces", 8)
    assert tool("quantize", *words, "--out", out, monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    for name in ("gender", "gender-int8"):
        report = tmp_path / f"{name}.report"
        words = ("gender", "--data", genders, "--split", "train", "--json", report)
        words = (*words, "--model", out / f"{name}.json")
        assert tool("evaluate", *words, monkeypatch=monkeypatch) in {0, None}
        assert json.loads(report.read_text())["by_age"]["20-29"]["faces"] == 40


def test_baselines_run_one_after_the_other(faces, tmp_path, monkeypatch, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    words = ("--data", faces, "--epochs", 1)
    name = "train_baselines"
    assert tool(name, "emotion", *words, "--out", first, monkeypatch=monkeypatch) == 0
    words = (*words, "--first", first, "--out", second)
    assert tool(name, "two-phase", *words, monkeypatch=monkeypatch) == 0
    assert (second / "emotion.json").exists()
    words = ("two-phase", "--data", faces, "--first", tmp_path / "none", "--out", second)
    assert tool(name, *words, monkeypatch=monkeypatch) == 1
    assert "no checkpoint" in capsys.readouterr().err


def test_code_nets_are_trained_exported_and_quantised(genders, tmp_path, monkeypatch, capsys):
    data = ("--data", genders)
    once = ("--epochs", 1, "--batch-size", 8)
    codes, shipped = tmp_path / "codes", tmp_path / "shipped"
    words = (*data, "--out", codes, "--codes", 32, *once)
    assert tool("train_vqvae", *words, monkeypatch=monkeypatch) == 0
    for net, more in (("editor", ("--jitter",)), ("inventor", ())):
        words = (net, *data, "--vqvae", codes, "--out", tmp_path / net, *once, *more)
        assert tool("train_resynth", *words, monkeypatch=monkeypatch) == 0
        assert (tmp_path / net / "preview-001.png").stat().st_size > 0
    editor, inventor = tmp_path / "editor", tmp_path / "inventor"
    runs = (*data, "--vqvae", codes, "--ship", shipped)
    words = (*runs, "--editor", editor, editor, "--inventor", inventor)
    assert tool("export_resynth", *words, monkeypatch=monkeypatch) == 0
    for name in ("vqvae", "vqvae-prior"):
        words = (shipped / f"{name}.json", *data, "--precision", "int8", "--faces", 8)
        assert tool("quantize", *words, "--out", shipped, monkeypatch=monkeypatch) == 0
    Reenactor.open(shipped / "vqvae-int8.json").close()
    Inventor.open(shipped / "vqvae-prior-int8.json").close()
    start = (*data, "--vqvae", shipped / "vqvae.onnx", *once, "--out", tmp_path / "more")
    words = ("inventor", *start, "--init", shipped / "vqvae-prior.onnx")
    assert tool("train_resynth", *words, monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    words = ("editor", *start, "--init", shipped / "vqvae-prior.onnx")
    assert tool("train_resynth", *words, monkeypatch=monkeypatch) == 1
    assert "no weights of 'editor.'" in capsys.readouterr().err
    alone = tmp_path / "alone"
    words = (*data, "--vqvae", shipped / "vqvae.onnx", "--ship", alone)
    assert tool("export_resynth", *words, "--inventor", inventor, monkeypatch=monkeypatch) == 0
    assert {each.name for each in alone.iterdir()} == {"vqvae-prior.json", "vqvae-prior.onnx"}
    capsys.readouterr()
    assert tool("export_resynth", *words, monkeypatch=monkeypatch) == 2
    assert "nothing to export: give --editor, --inventor" in capsys.readouterr().err
    words = ("inventor", *start, "--jitter")
    assert tool("train_resynth", *words, monkeypatch=monkeypatch) == 2
    assert "--jitter is for the editor" in capsys.readouterr().err
    words = (*runs, "--editor", inventor, "--inventor", inventor)
    assert tool("export_resynth", *words, monkeypatch=monkeypatch) == 1
    assert "is of an inventor, not of an editor" in capsys.readouterr().err


class Teacher:
    """Stands for dlib's recogniser: what a face is like at a glance."""

    def embed(self, picture, landmarks_px):
        assert np.isfinite(landmarks_px).all()
        small = np.asarray(Image.fromarray(picture).resize((8, 8)).convert("L"), np.float32)
        return np.tile(small.ravel(), 2) / 255


def test_likeness_is_learned_from_a_teacher(tmp_path, monkeypatch, capsys):
    folder, out = tmp_path / "people", tmp_path / "run"
    folder.mkdir()
    imagination, rng = Imagination.open(), np.random.default_rng(0)
    expressions, females = np.tile(expression("happy"), (30, 1)), np.ones(30, np.float32)
    rows = ["file,split,gender,age_group,race"]
    for i, made in enumerate(imagination.invent(expressions, females, rng)):
        drawn = Image.fromarray(made.transpose(1, 2, 0).astype(np.uint8))
        drawn.resize((144, 144), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        rows.append(f"{i}.png,train,1,20-29,White")
    imagination.close()
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(likeness, "Recogniser", Teacher)
    words = ("--data", folder, "--out", out, "--batch-size", 8)
    once = (*words, "--epochs", 1, "--ship", tmp_path / "shipped")
    assert tool("train_likeness", *once, monkeypatch=monkeypatch) == 0
    net = Likeness.open(input_spec(64), tmp_path / "shipped" / "likeness.json")
    looks = net.look(np.zeros((2, *net.spec.shape), np.float32))
    assert looks.vectors.shape == (2, likeness.WIDTH)
    assert np.isfinite(looks.oddness).all()
    net.close()
    monkeypatch.setattr(Teacher, "embed", None)  # it is asked once
    assert tool("train_likeness", *once, "--resume", monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    more = (*words, "--epochs", 2, "--resume")
    assert tool("train_likeness", *more, monkeypatch=monkeypatch) == 1
    assert "other options" in capsys.readouterr().err
    assert tool("train_likeness", *words, "--faces", 0, monkeypatch=monkeypatch) == 2
    words = (*words, "--epochs", 1, "--init", tmp_path / "none")
    assert tool("train_likeness", *words, monkeypatch=monkeypatch) == 1
    assert "no checkpoint" in capsys.readouterr().err


def test_without_its_teacher_likeness_is_not_trained(genders, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dlib", None)
    words = ("--data", genders, "--out", tmp_path / "run")
    assert tool("train_likeness", *words, monkeypatch=monkeypatch) == 1
    assert "pip install dlib-bin" in capsys.readouterr().err


def test_the_judge_is_trained(faces, tmp_path, monkeypatch):
    words = ("--data", faces, "--out", tmp_path / "run", "--batch-size", 8, "--epochs", 1)
    assert tool("train_judge", *words, monkeypatch=monkeypatch) == 0
    assert (tmp_path / "run" / "judge-emotion.json").exists()


def test_wrong_options_are_one_line(faces, tmp_path, monkeypatch, capsys):
    words = ("--data", faces, "--out", tmp_path / "run")
    for more in (("--epochs", 0), ("--peak-rate", 7), ("--device", "cuda:99")):
        assert tool("train_emotion", *words, *more, monkeypatch=monkeypatch) in {1, 2}
        assert capsys.readouterr().err.count("\n") == 1
    assert tool("ablate", *words, monkeypatch=monkeypatch) in {1, 2}
    assert "no FER+ votes" in capsys.readouterr().err
