"""How far an engine's answers differ, and when that is too far."""

from __future__ import annotations

import numpy as np
import pytest

from streamface.backends import open_backend
from streamface.card import load
from streamface.model import card_path
from streamface.parity import compare, conditions_of, fault


class Off:
    """Answers as another backend does, but for what is done to every output."""

    def __init__(self, name, change):
        self._inner = open_backend(card_path(name))
        self._change = change
        self.max_batch = 3
        self.input_dtype = np.dtype(np.uint8)
        self._card = load(card_path(name))

    def run(self, batch, *conditions):
        from streamface.preprocess import as_input

        assert batch.dtype == np.uint8
        crops = as_input(batch, self._card.input, np.dtype(np.float32))
        return tuple(self._change(out) for out in self._inner.run(crops, *conditions))


def compared(name, change, count=8):
    card = load(card_path(name))
    levels = np.random.default_rng(0).integers(0, 256, (count, *card.input.shape), np.uint8)
    return compare(card, Off(name, change), open_backend(card_path(name)), levels)


def test_the_same_answers_are_no_fault():
    figures = compared("gender", lambda out: out)
    assert figures["faces"] == 8
    assert figures["max_abs_probability"] < 1e-5
    assert figures["label_agreement"] == 1.0
    for precision in ("fp32", "fp16", "int8"):
        assert fault(figures, precision) is None


def test_a_classifier_that_answers_otherwise_is_a_fault():
    figures = compared("gender", lambda out: out[:, ::-1])
    assert figures["label_agreement"] == 0.0
    assert "a probability differs" in fault(figures, "fp16")
    assert "labels agree" in fault({"label_agreement": 0.99}, "fp16")


def test_pictures_are_compared_in_decibels():
    figures = compared("vqvae", lambda out: out + np.float32(2.55))
    assert figures["psnr_db"] == pytest.approx(40.0, abs=0.05)
    assert figures["mean_abs_levels"] == pytest.approx(2.55, abs=0.01)
    assert fault(figures, "fp16") is None
    assert "dB alike" in fault(compared("vqvae", lambda out: out + 20), "fp16")


def test_vectors_of_likeness_may_turn_a_little():
    same = compared("likeness", lambda out: out)
    assert same["least_cosine"] == pytest.approx(1, abs=1e-5)
    assert fault(same, "fp32") is None
    turned = compared("likeness", lambda out: np.roll(out, 1, axis=1))
    assert "a vector turned" in fault(turned, "int8")


@pytest.mark.parametrize("name", ["emotion", "vqvae", "vqvae-prior"])
def test_conditions_have_the_cards_names_and_shapes(name):
    card = load(card_path(name))
    made = conditions_of(card, 5)
    assert {key: value.shape[1:] for key, value in made.items()} == dict(card.conditions)
    assert all(value.dtype == np.float32 and len(value) == 5 for value in made.values())
