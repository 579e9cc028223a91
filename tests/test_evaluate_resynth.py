"""The judging of re-made faces: its measures, its judges, and reports that hold for any weights."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import zipfile
from contextlib import closing
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from PIL import Image
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from streamface.card import load
from streamface.decode import ReadOptions
from streamface.errors import ModelError
from streamface.evaluation import flicker, judges, resynth
from streamface.frame import EMOTIONS, Planes
from streamface.model import card_path
from streamface.remake import Remake
from streamface.resynth import Reenactor
from streamface.sources import find_inputs, open_source
from streamface.training.data import FAIRFACE_LANDMARKS_PX, FAIRFACE_SIDE_PX, load_gender
from streamface.training.folders import FaceFinder, cut

ROOT = Path(__file__).parents[1]
SIDE = FAIRFACE_SIDE_PX


@pytest.fixture(scope="module")
def evaluate():
    spec = importlib.util.spec_from_file_location("evaluate", ROOT / "tools" / "evaluate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def portrait():
    """Eileen Collins, as FairFace frames faces: (144, 144, 3)."""
    picture = astronaut()
    return cut(picture, FaceFinder().landmarks(picture), FAIRFACE_LANDMARKS_PX, SIDE)


@pytest.fixture(scope="module")
def people(portrait, tmp_path_factory):
    """A set of four pictures, one of them for training."""
    path = tmp_path_factory.mktemp("people") / "people.zip"
    shades = (portrait, portrait[:, ::-1], portrait // 2, 255 - portrait)
    with zipfile.ZipFile(path, "w") as archive:
        rows = ["file,split,gender,age_group,race"]
        for i, picture in enumerate(shades):
            content = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(picture)).save(content, "PNG")
            archive.writestr(f"{i}.png", content.getvalue())
            rows.append(f"{i}.png,{'val' if i else 'train'},{i % 2},30-39,White")
        archive.writestr("labels.csv", "\n".join(rows))
    return path


@pytest.fixture(scope="module")
def identity():
    return judges.IdentityJudge()


def pair_of_pictures():
    rng = np.random.default_rng(0)
    picture = astronaut()[60:124, 200:264].astype(np.float32)
    return picture, np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.float32)


def test_ssim_is_that_of_scikit_image():
    a, b = pair_of_pictures()
    expected = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=255, channel_axis=2,
    )  # fmt: skip
    assert resynth.ssim(a, b) == pytest.approx(expected, abs=1e-6)
    assert resynth.ssim(a, a) == pytest.approx(1)


def test_psnr_is_that_of_scikit_image_and_finite_for_equal_pictures():
    a, b = pair_of_pictures()
    assert resynth.psnr_db(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255))
    assert np.isfinite(resynth.psnr_db(a, a))


class Spy:
    """A net that only remembers what it was shown."""

    def setInput(self, blob, name):  # noqa: N802 - OpenCV's name
        self.blob, self.name = blob, name

    def forward(self):
        return np.full((1, 128), 2, np.float32)


@pytest.mark.parametrize("factor", [1, 2])
def test_a_face_on_the_template_is_seen_as_it_is(identity, factor, monkeypatch):
    """To the pixel, whatever the scale: a shift of half of one would show."""
    monkeypatch.setattr(identity, "_net", Spy())
    small = np.random.default_rng(1).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    picture = small.repeat(factor, 0).repeat(factor, 1)
    vector = identity.embed(picture, judges.SFACE_LANDMARKS_PX * np.float32(factor))
    assert identity._net.name == "data"
    assert identity._net.blob.dtype == np.float32
    assert np.abs(identity._net.blob[0].transpose(1, 2, 0) - small).max() <= 1
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_one_picture_is_one_person_turned_or_not_and_noise_is_nobody(identity, portrait):
    noise = np.random.default_rng(0).integers(0, 256, portrait.shape).astype(np.uint8)
    # The person stands as the template does in both, mirrored but for the eyes' own height.
    turned = np.ascontiguousarray(portrait[::-1, ::-1])
    upside_down = SIDE - FAIRFACE_LANDMARKS_PX
    vectors = identity.embed_all(
        [portrait, portrait, turned, noise],
        np.stack([FAIRFACE_LANDMARKS_PX, FAIRFACE_LANDMARKS_PX, upside_down, upside_down]),
    )
    same, upright, other = vectors[1:] @ vectors[0]
    assert same == pytest.approx(1)
    assert upright > 0.95
    assert other < judges.SAME_PERSON


def test_the_judge_of_emotions_cuts_faces_as_its_card_says(portrait):
    judge = judges.EmotionJudge.open("emotion")
    landmarks = np.stack([FAIRFACE_LANDMARKS_PX] * 2)
    said = judge.labels([portrait, np.zeros_like(portrait)], landmarks)
    crops = judges.crops_of([Planes.from_rgb(portrait)], landmarks[:1], judge.model.card.input)
    assert said[0] == judge.model.predict(crops).argmax() == EMOTIONS.index("happy")
    assert said.shape == (2,)
    judge.close()


def test_what_reads_no_emotions_is_no_judge_of_them():
    with pytest.raises(ModelError, match="gender: answers .*not emotions"):
        judges.EmotionJudge.open("gender")


def test_a_missing_judge_is_named_with_the_tool_that_makes_it(
    evaluate, people, monkeypatch, capsys
):
    monkeypatch.setattr(judges, "JUDGE", people.parent / "judge-emotion.json")
    assert evaluate.main(["resynth", "--data", str(people), "--json", "-"]) != 0
    caught = capsys.readouterr()
    assert caught.out == ""
    assert caught.err.count("\n") == 1
    assert "judge-emotion.json" in caught.err
    assert "tools/train_judge.py" in caught.err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("SFACE_SHA256", "0" * 64, "not the official"), ("SFACE_FILE", "none.onnx", "is missing")],
)
def test_only_the_official_sface_is_believed(monkeypatch, name, value, words):
    monkeypatch.setattr(judges, name, value)
    with pytest.raises(ModelError, match=words):
        judges.IdentityJudge()


def test_an_invented_face_keeps_its_landmarks_when_it_is_enlarged():
    made = np.zeros((3, 64, 64), np.float32)
    made[:, 20:22, 30:34] = 255  # around (32, 21), pixel centres at integer + 0.5
    large = resynth._enlarged(made)[..., 0].astype(float)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    centre = np.array(((columns * large).sum(), (rows * large).sum())) / large.sum()
    assert centre == pytest.approx(np.array((32, 21)) * SIDE / 64, abs=0.1)


def test_pairs_are_of_different_people_of_one_video():
    one, other = resynth._pairs(6)
    assert [*zip(one, other, strict=True)] == [*combinations(range(4), 2), (4, 5)]
    assert [len(each) for each in resynth._pairs(1)] == [0, 0]


def sitter_of(picture):
    face = resynth._face(FAIRFACE_LANDMARKS_PX)
    return resynth.Sitter(Planes.from_rgb(picture), face)


def test_a_crowd_shows_the_same_face_eight_times(portrait):
    planes, faces = resynth._crowd(sitter_of(portrait[:-1]))
    spec = load(card_path("vqvae")).input
    landmarks = np.stack([face.landmarks_px for face in faces])
    crops = judges.crops_of([planes] * 8, landmarks, spec)
    inner = crops[:, :, 16:48, 16:48]  # the rest reaches over the picture's border
    assert np.abs(inner - inner[0]).mean((1, 2, 3)).max() < 1 / 127.5
    assert len({face.track_id for face in faces}) == 8


def test_re_making_leaves_the_picture_itself_alone(portrait):
    sitter = sitter_of(portrait)
    before = sitter.planes.to_rgb()
    model = Reenactor.open("vqvae")
    made = resynth.reenacted(sitter, Remake(model, "same"))
    model.close()
    assert np.array_equal(sitter.planes.to_rgb(), before)
    assert made.shape == before.shape
    assert not np.array_equal(made, before)
    assert np.array_equal(made[:4, :4], before[:4, :4])  # far from the face


def test_codes_are_counted_once_each(portrait):
    pytest.importorskip("onnx", reason="reading the codes needs onnx (extra [train])")
    path = card_path("vqvae")
    card = load(path)
    reader = resynth.CodeReader.open(card, path)
    crops = judges.crops_of([Planes.from_rgb(portrait)], FAIRFACE_LANDMARKS_PX[None], card.input)
    reader.read(crops)
    once = reader.used.copy()
    assert 1 <= once.sum() < len(once)
    reader.read(np.concatenate([crops, crops]))
    assert np.array_equal(reader.used, once)


def test_without_onnx_codes_are_not_counted(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    path = card_path("vqvae")
    assert resynth.CodeReader.open(load(path), path) is None


def test_the_report_has_every_figure_and_the_pictures_are_drawn(
    evaluate, people, tmp_path, monkeypatch, capsys
):
    for name in ("_TIMED", "_TIMED_CROWDS", "_WARM_UP"):
        monkeypatch.setattr(resynth, name, 1)
    out, grid, nearest = (tmp_path / name for name in ("r.json", "grid.png", "nearest.png"))
    words = ["resynth", "--data", str(people), "--judge", "emotion", "--generated", "1"]
    words += ["--limit", "2", "--json", str(out), "--grid", str(grid), "--nearest", str(nearest)]
    assert evaluate.main(words) == 0
    assert "reenact_mean" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert (report["task"], report["faces"], report["generated"]) == ("resynth", 2, 7)
    for name in ("reenact", "generated_agreement"):
        assert set(report[name]) == set(EMOTIONS)
        assert all(0 <= rate <= 1 for rate in report[name].values())
    shares = (
        "reenact_mean", "identity_kept", "reidentified", "reidentified_first", "expression_kept",
        "reidentified_own_rank", "reidentified_own_rank_by_likeness", "strangers_told_apart",
        "originals_told_apart", "generated_agreement_mean", "generated_distinct",
    )  # fmt: skip
    assert all(0 <= report[name] <= 1 for name in shares)
    assert report["reenact_mean"] == pytest.approx(
        np.mean(list(report["reenact"].values())), abs=1e-3
    )
    assert report["psnr_db"] > 0
    assert -1 <= report["ssim"] <= 1
    assert report["codebook_used"] is None or 0 < report["codebook_used"] <= 1
    assert (report["reenact_skipped"], report["anonymise_skipped"]) == (0, 0)
    assert min(report[f"ms_per_face{kind}"] for kind in ("", "_batch8", "_synth")) > 0
    assert sum(report["said_as"]["happy"].values()) == 2
    assert len(report["nearest_cosine"]) == 7
    assert max(map(abs, report["nearest_cosine"])) <= 1
    # Of two judged pictures one is the portrait that training knows, mirrored.
    assert report["nearest_cosine_real"] > report["nearest_cosine_generated"]
    with Image.open(grid) as picture:
        assert picture.size == (11 * SIDE, 2 * SIDE)
    with Image.open(nearest) as picture:
        assert picture.size == (7 * SIDE, 2 * SIDE)


def test_a_rank_is_how_many_others_are_more_alike():
    first, last = np.eye(3, dtype=np.float32), 1 - np.eye(3, dtype=np.float32)
    assert (resynth._own_rank(first), resynth._own_rank(last)) == (0, 1)
    assert resynth._own_rank(np.arange(9, dtype=np.float32).reshape(3, 3)) == 0.5
    assert resynth._own_rank(first[:1, :1]) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "none"], "has no split 'none'; it has train, val"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--generated", "0"], "--generated must be at least 1"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--grid", "nowhere/grid.png"], "no such folder"),
        (["--model", "emotion"], "'reenactor' is needed"),
        (["--prior", "vqvae"], "'inventor' is needed"),
    ],
)
def test_wrong_words_are_one_line_on_stderr(evaluate, people, capsys, words, said):
    assert evaluate.main(["resynth", "--data", str(people), "--judge", "emotion", *words]) != 0
    caught = capsys.readouterr()
    assert said in caught.err
    assert caught.err.count("\n") == 1


def test_flicker_is_counted_where_the_source_is_still():
    changes = np.array([(0, 9), (0.5, 1), (1, 1), (2, 2), (4, 40)])
    found = flicker.ratios(changes)
    assert found["pairs"] == 2  # 0.5 and 1 lie below the median, 1.5, of those that are not repeats
    assert (found["ratio_median"], found["ratio_mean"]) == (1.5, 1.5)
    assert (found["pairs_moving"], found["pairs_repeated"]) == (2, 1)
    nothing = flicker.ratios(changes[:1])
    assert (nothing["pairs"], nothing["ratio_median"]) == (0, None)


def test_flicker_reports_a_whole_run(evaluate, capsys):
    words = [
        "flicker",
        "--clip",
        "demo:portrait",
        "--reenact",
        "same",
        "--max-frames",
        "8",
        "--json",
        "-",
    ]
    assert evaluate.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["what"]) == ("flicker", "same")
    assert report["pairs"] > 0
    assert report["ratio_median"] > 0
    assert report["ratio_mean"] > 0


def test_a_clip_without_faces_has_no_flicker(evaluate, tmp_path, capsys):
    clip = write_clip(tmp_path / "numbers.mp4", 4)
    assert evaluate.main(["flicker", "--clip", str(clip), "--anonymize", "blur"]) != 0
    assert "no face is seen in two frames" in capsys.readouterr().err


@pytest.mark.clips
def test_sface_knows_a_person_again_and_tells_most_strangers_apart(identity, shared):
    data = load_gender(shared / "data" / "fairface_aligned_144.zip")
    rows = np.flatnonzero(data.split == "val")[::80]
    strangers = identity.embed_all(list(data.pictures(rows)), data.landmarks_px[rows])
    cosines = (strangers @ strangers.T)[np.triu_indices(len(rows), 1)]
    assert (cosines < judges.SAME_PERSON).mean() > 0.8
    source = open_source(find_inputs(str(shared / "clips" / "fer_test.mp4"))[0], ReadOptions())
    with closing(source):
        pictures = [frame.planes.to_rgb() for frame in source if frame.index in {0, 60}]
    finder = FaceFinder()
    first, later = (identity.embed(each, finder.landmarks(each)) for each in pictures)
    assert first @ later > 0.4
    assert (strangers @ first < judges.SAME_PERSON).mean() > 0.9
