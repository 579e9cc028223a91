"""Which files a batch finds, in which order, and what their outputs are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamface.batch.job import BatchOptions, expected_models, work_id
from streamface.batch.listing import check_places, find, targets_of
from streamface.errors import SourceError, UsageError
from streamface.settings import Settings

HOW = Settings(source="demo")


def options(*sources, **values):
    values.setdefault("output", "out")
    return BatchOptions(sources=tuple(map(str, sources)), how=values.pop("how", HOW), **values)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "in/b.mp4 in/a.MOV in/sub/c.mkv in/sub/.hidden.mp4 in/d.txt in/p.bmp in/.git/x.mp4".split()
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


def names(*sources, **values):
    def never(_place, exc):
        raise exc

    return [found.name for found in find(options(*sources, **values), never)]


def test_a_folder_is_searched_in_order_with_all_below_it(tree):
    assert names("in") == ["a.MOV", "b.mp4", "p.bmp", "sub/c.mkv"]


def test_what_is_found_is_named_as_it_was_typed_and_known_by_one_key(tree):
    (here,) = find(options("in/b.mp4"), print)
    (there,) = find(options(tree / "in" / "b.mp4"), print)
    assert (here.source, there.source) == ("in/b.mp4", str(tree / "in/b.mp4"))
    assert here.key == there.key == str(tree / "in/b.mp4")
    assert here.size_bytes == 5


def test_a_fingerprint_changes_with_the_file(tree):
    def fingerprint():
        return next(iter(find(options("in/b.mp4"), print))).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    Path("in/b.mp4").write_bytes(b"123456")
    assert fingerprint() != before


def test_patterns_go_on_from_the_last_folder_without_one(tree):
    assert names("in/*.mp4") == ["b.mp4"]
    assert names("in/**/*.m*") == ["b.mp4", "sub/c.mkv"]
    assert names("in/s*") == ["sub/c.mkv"]


def test_an_output_inside_the_source_is_not_a_source(tree):
    Path("in/out").mkdir()
    Path("in/out/b.mp4").touch()
    assert names("in", output="in/out") == ["a.MOV", "b.mp4", "p.bmp", "sub/c.mkv"]
    assert "out/b.mp4" not in names("in/**/*.mp4", output="in/out")


def test_a_link_to_a_folder_above_does_not_go_round_for_ever(tree):
    Path("in/loop").symlink_to(tree / "in")
    assert len(names("in")) == 4


def test_listing_is_lazy(tree, monkeypatch):
    """The first file is there before folders below are looked at."""
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(str(path)) or scandir(path))
    sources = find(options("in"), print)
    assert next(sources).name == "a.MOV"
    assert scanned == ["in"]


def test_a_folder_that_cannot_be_read_is_told_and_the_others_follow(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    Path("in/z").mkdir()
    Path("in/z/z.mp4").touch()
    monkeypatch.setattr(os, "scandir", refuse)
    told = []
    found = [each.name for each in find(options("in"), lambda _place, exc: told.append(exc))]
    assert found == ["a.MOV", "b.mp4", "p.bmp", "z/z.mp4"]
    assert [str(exc) for exc in told] == ["cannot list in/sub: Permission denied"]


def test_outputs_are_named_after_their_source(tree):
    found = {each.name: each for each in find(options("in"), print)}
    asked = options("in", data=("jsonl", "vtt"))
    assert targets_of(found["sub/c.mkv"], asked) == {
        "video": f"{tree}/out/sub/c.mp4",
        "jsonl": f"{tree}/out/sub/c.jsonl",
        "vtt": f"{tree}/out/sub/c.vtt",
    }
    assert targets_of(found["a.MOV"], asked)["video"] == f"{tree}/out/a.mp4"
    assert targets_of(found["p.bmp"], asked)["video"] == f"{tree}/out/p.png"
    assert "video" not in targets_of(found["p.bmp"], options("in", video=False))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("gone.mp4", SourceError),
        ("ftp://server/x", UsageError),
        ("rtsp://camera", UsageError),
        ("out", UsageError),
        ("in/../out/", UsageError),
    ],
)
def test_what_cannot_be_read_or_written_is_refused_at_once(tree, source, error):
    with pytest.raises(error):
        check_places(options("in", source))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"workers": 0}, "--workers"),
        ({"retries": -1}, "--retries"),
        ({"timeout_s": 0.0}, "--timeout"),
        ({"memory_mb": 1}, "--memory"),
        ({"data": ("xml",)}, "xml"),
        ({"video": False, "data": ()}, "nothing would be written"),
        ({"suffix": ".gif"}, ".gif"),
        ({"output": " "}, "--output"),
        ({"how": Settings(source="demo", simulate_live=True)}, "--simulate-live"),
        ({"how": Settings(source="demo", anonymize="blur"), "video": False}, "--no-video"),
    ],
)
def test_wrong_options_are_one_line(values, said):
    with pytest.raises(UsageError, match=said):
        options("in", **values)


def test_work_is_other_work_with_other_options_models_or_version():
    models = expected_models(HOW)
    base = work_id(options("in"), models, "1")
    assert base == work_id(options("elsewhere", output="o", workers=3, retries=0), models, "1")
    others = [
        work_id(options("in", how=Settings(source="demo", conf=0.7)), models, "1"),
        work_id(options("in", data=("csv",)), models, "1"),
        work_id(options("in", suffix=".mkv"), models, "1"),
        work_id(options("in"), {**models, "emotion": "0" * 64}, "1"),
        work_id(options("in"), models, "2"),
    ]
    assert base not in others
    assert len(set(others)) == len(others)


def test_models_are_those_that_may_be_used():
    assert set(expected_models(HOW)) == {
        "detector", "emotion", "emotion-int8", "gender", "gender-int8"
    }  # fmt: skip
    assert set(expected_models(Settings(source="demo", tasks=()))) == {"detector"}
    synth = expected_models(Settings(source="demo", tasks=(), anonymize="synth"))
    assert {"vqvae-prior-int8", "emotion-int8", "likeness"} <= set(synth)
    assert "vqvae-int8" in expected_models(Settings(source="demo", reenact="happy"))
