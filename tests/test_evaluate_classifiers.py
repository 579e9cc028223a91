"""The evaluation of classifiers: its figures worked out by hand, and its command line."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamface.errors import SourceError
from streamface.evaluation import classifiers
from streamface.frame import EMOTIONS, GENDERS
from streamface.model import card_path

ROOT = Path(__file__).parents[1]
FAIRFACE = Path(os.environ.get("STREAMFACE_SHARED", ROOT.parent / "shared")) / (
    "data/fairface_aligned_144.zip"
)


@pytest.fixture(scope="module")
def evaluate():
    spec = importlib.util.spec_from_file_location("evaluate", ROOT / "tools" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fer_csv(path, count=6):
    rng = np.random.default_rng(0)
    lines = ["emotion,pixels,Usage"]
    for i in range(count):
        pixels = " ".join(map(str, rng.integers(0, 256, 48 * 48)))
        lines.append(f"{i % 7},{pixels},{'PrivateTest' if i else 'Training'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def fairface_zip(path, table):
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(len(table)):
            with archive.open(f"{i}.png", "w") as file:
                picture = rng.integers(0, 256, (144, 144, 3)).astype(np.uint8)
                Image.fromarray(picture).save(file, "PNG")
        rows = [f"{i}.png,{row}" for i, row in enumerate(table)]
        archive.writestr("labels.csv", "\n".join(["file,split,gender,age_group,race", *rows]))
    return path


def answers(said, labels, classes=7):
    probs = np.full((len(said), classes), 0.1 / classes, np.float32)
    probs[np.arange(len(said)), said] += 0.9
    return classifiers.Answers(probs, np.array(labels), 1.0)


def test_recall_and_confusion_by_hand():
    summary = answers([2, 5, 5, 3], [2, 2, 5, 3]).summary(EMOTIONS)
    assert summary["accuracy"] == 0.75
    assert summary["recall"]["fear"] == 0.5
    assert summary["confusion"]["fear"] == dict.fromkeys(EMOTIONS, 0) | {"fear": 1, "surprise": 1}
    assert summary["recall"]["disgust"] == 0


def test_groups_count_adults_only():
    groups = classifiers._by_group(
        answers([0, 1, 1, 0], [0, 0, 1, 1], classes=2),
        np.array(["A", "A", "B", "B"]),
        np.array([True, True, True, False]),
    )
    assert groups == {"A male": {"error": 0.5, "faces": 2}, "B female": {"error": 0, "faces": 1}}


def test_emotion_report_is_json_alone_on_stdout(evaluate, tmp_path, capsys):
    path = fer_csv(tmp_path / "fer.csv")
    assert evaluate.main(["emotion", "--data", str(path), "--split", "private", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["faces"] == report["faces_clean"] == 5
    assert set(report["recall"]) == set(EMOTIONS)
    assert report["faces_ferplus"] == 0
    assert report["ferplus_accuracy"] is None
    assert {"accuracy", "accuracy_clean", "fear_as_surprise", "ece", "ms_per_face"} <= set(report)


def test_gender_report_has_every_group(evaluate, tmp_path, capsys):
    rows = ["val,0,20-29,Black", "val,1,70+,White", "val,1,3-9,White", "train,1,30-39,White"]
    path = fairface_zip(tmp_path / "fair.zip", rows)
    out = tmp_path / "report.json"
    assert evaluate.main(["gender", "--data", str(path), "--json", str(out)]) == 0
    assert "accuracy_adults" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert (report["faces"], report["faces_adults"]) == (3, 2)
    assert set(report["by_group"]) == {"Black male", "White female"}
    worst = max(group["error"] for group in report["by_group"].values())
    assert report["worst_group_error_adults"] == worst


def test_figures_are_recorded_in_the_card_without_harm(evaluate, tmp_path):
    for path in (card_path("emotion"), card_path("emotion").with_suffix(".onnx")):
        shutil.copy(path, tmp_path)
    card = tmp_path / "emotion.json"
    data = fer_csv(tmp_path / "fer.csv")
    words = ["emotion", "--data", str(data), "--model", str(card), "--record", "--json", "-"]
    assert evaluate.main(words) == 0
    metrics = classifiers.Model.open(card).card.trained["metrics"]
    assert metrics["fer.csv private"]["faces"] == 5
    assert "validation" in metrics


def test_a_folder_of_small_pictures_by_class_is_scored(evaluate, tmp_path, capsys):
    for name in ("happy", "sad"):
        (tmp_path / name).mkdir()
        Image.new("L", (48, 48), 90).save(tmp_path / name / "a.png")
    assert evaluate.main(["emotion", "--data", str(tmp_path), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["faces"] == 2
    assert report["without_face"] == []


def test_a_folder_of_photographs_is_searched_for_faces(evaluate, tmp_path, capsys):
    skimage = pytest.importorskip("skimage.data", reason="the portrait needs scikit-image")
    for name in GENDERS:
        (tmp_path / name).mkdir()
    Image.fromarray(skimage.astronaut()).save(tmp_path / "female" / "astronaut.png")
    Image.new("RGB", (200, 200)).save(tmp_path / "male" / "nobody.png")
    assert evaluate.main(["gender", "--data", str(tmp_path), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["faces"] == 1
    assert report["without_face"] == [os.path.join("male", "nobody.png")]


@pytest.mark.parametrize(
    ("task", "make", "words"),
    [
        ("emotion", lambda folder: folder / "none.npz", "no such file"),
        ("gender", lambda folder: folder / "none.zip", "no such file"),
        ("emotion", lambda folder: folder, "no pictures in folders"),
        (
            "gender",
            lambda folder: fairface_zip(folder / "f.zip", ["train,0,3-9,White"]),
            "no split",
        ),
    ],
)
def test_wrong_data_is_one_line_on_stderr(  # noqa: PLR0917 - fixtures and cases
    evaluate, tmp_path, capsys, task, make, words
):
    code = evaluate.main([task, "--data", str(make(tmp_path)), "--json", "-"])
    caught = capsys.readouterr()
    assert code in {1, 2}
    assert caught.out == ""
    assert words in caught.err
    assert caught.err.count("\n") == 1


def test_an_undecodable_picture_is_named(tmp_path):
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy" / "a.png").write_text("no picture")
    with pytest.raises(SourceError, match=r"a\.png"):
        classifiers.load_folder(tmp_path, EMOTIONS, "emotion")


@pytest.mark.skipif(not FAIRFACE.exists(), reason="needs ../shared/data/fairface_aligned_144.zip")
def test_shipped_gender_model_tells_fairface_apart():
    """A few pictures it was trained on: enough to see that file and road fit together."""
    data = classifiers.load_gender(FAIRFACE)
    rows = np.flatnonzero(data.split == "train")[::200]
    model = classifiers.Model.open("gender")
    pictures = (classifiers.planes_of(picture) for picture in data.pictures(rows))
    faces = zip(pictures, data.landmarks_px[rows], strict=True)
    answers = classifiers.ask(model, faces, data.labels[rows])
    assert answers.right.mean() > 0.75
