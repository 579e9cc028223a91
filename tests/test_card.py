"""Model cards: what is read back, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamface.card import InputSpec, ModelCard, load, read_onnx, save
from streamface.errors import ModelError

POINTS = np.array([(15, 18), (32, 18), (24, 28), (17, 36), (31, 36)], np.float32)
SPEC = InputSpec((48, 40), "grey", POINTS, (128.0,), (64.0,))
CARD = ModelCard(
    name="toy",
    kind="classifier",
    onnx="toy.onnx",
    sha256=hashlib.sha256(b"net").hexdigest(),
    input=SPEC,
    outputs=("logits",),
    labels=("a", "b"),
    temperature=1.25,
    uncertain_below=0.4,
    preprocess_probe=(0.5, -1.0),
    trained={"seed": 1, "metrics": {"accuracy": 0.5}},
)


def as_json(card, path):
    save(card, path)
    return json.loads(path.read_text("utf-8"))


@given(
    temperature=st.floats(0.01, 100),
    uncertain_below=st.floats(0, 1),
    points=st.lists(st.floats(-9, 99, width=32), min_size=10, max_size=10, unique=True),
)
def test_a_card_comes_back_as_it_was_saved(tmp_path_factory, temperature, uncertain_below, points):
    path = tmp_path_factory.mktemp("card") / "toy.json"
    spec = dataclasses.replace(SPEC, landmarks_px=np.array(points, np.float32).reshape(5, 2))
    card = dataclasses.replace(
        CARD, input=spec, temperature=temperature, uncertain_below=uncertain_below
    )
    save(card, path)
    back = load(path)
    for field in dataclasses.fields(ModelCard):
        if field.name != "input":
            assert getattr(back, field.name) == getattr(card, field.name)
    np.testing.assert_array_equal(back.input.landmarks_px, spec.landmarks_px)
    assert back.input.landmarks_px.dtype == np.float32
    assert (back.input.size_px, back.input.colour) == (spec.size_px, spec.colour)
    assert (back.input.mean, back.input.std) == (spec.mean, spec.std)


def test_shape_is_channels_height_width():
    assert SPEC.shape == (1, 40, 48)


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("sha256", "beef", "64 lower-case"),
        ("labels", ["a", "a"], "distinct"),
        ("labels", "ab", "list of strings"),
        ("onnx", "../toy.onnx", "bare file name"),
        ("temperature", 0, "positive"),
        ("temperature", "hot", "hold numbers"),
        ("uncertain_below", 2, "0..1"),
        ("outputs", [], "at least one"),
        ("input.size_px", [48.5, 48], "whole numbers"),
        ("input.size_px", [0, 48], "1..1024"),
        ("input.colour", "bgr", "grey, rgb"),
        ("input.landmarks_px", [[1, 2]], r"\(5, 2\)"),
        ("input.landmarks_px", "here", "list of"),
        ("input.mean", [1, 2], "1 finite"),
        ("input.std", [0], "positive"),
        ("trained", [], "JSON object"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, where, value, words):
    path = tmp_path / "toy.json"
    data = as_json(CARD, path)
    target = data
    *parents, name = where.split(".")
    for parent in parents:
        target = target[parent]
    target[name] = value
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(ModelError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named(tmp_path):
    path = tmp_path / "toy.json"
    data = as_json(CARD, path)
    del data["input"]["mean"]
    path.write_text(json.dumps(data), "utf-8")
    with pytest.raises(ModelError, match=r"'input\.mean' is missing"):
        load(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_file_that_is_no_card_is_refused(tmp_path, content):
    path = tmp_path / "toy.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ModelError, match=r"toy\.json"):
        load(path)


def test_a_missing_card_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no such model card"):
        load(tmp_path / "none.json")


def test_an_altered_onnx_is_refused_with_both_hashes(tmp_path):
    path = tmp_path / "toy.json"
    (tmp_path / "toy.onnx").write_bytes(b"net")
    assert read_onnx(CARD, path) == b"net"
    (tmp_path / "toy.onnx").write_bytes(b"other")
    with pytest.raises(ModelError) as caught:
        read_onnx(CARD, path)
    message = str(caught.value)
    assert CARD.sha256 in message
    assert hashlib.sha256(b"other").hexdigest() in message
    assert "reinstall" in message


def test_a_missing_onnx_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot read the model"):
        read_onnx(CARD, tmp_path / "toy.json")
