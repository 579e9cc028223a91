"""The net that keeps stand-ins apart from whom they stand in for, as it ships."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from streamface.card import save
from streamface.errors import ModelError
from streamface.likeness import Likeness
from streamface.model import card_path
from streamface.resynth import INVENT_MODEL, Inventor, expression
from streamface.training.aligned import input_spec


@pytest.fixture(scope="module")
def likeness():
    net = Likeness.open(input_spec(64))
    yield net
    net.close()


def strangers(count, seed=0):
    """Return (count, 3, S, S) crops of people who do not exist."""
    inventor = Inventor.open(INVENT_MODEL)
    rng = np.random.default_rng(seed)
    keys, scenes = inventor.draw_keys(count, rng), inventor.draw_scenes(count, rng)
    females = np.ones(count, np.float32)
    drawn = inventor.draw(np.tile(expression("neutral"), (count, 1)), females, keys, scenes)
    inventor.close()
    return (drawn / 127.5 - 1).astype(np.float32)


def test_vectors_have_length_one_and_no_face_no_looks(likeness):
    looks = likeness.look(strangers(5))
    assert (looks.vectors.shape, looks.oddness.shape) == ((5, 128), (5,))
    np.testing.assert_allclose(np.linalg.norm(looks.vectors, axis=1), 1, atol=1e-5)
    assert [len(each) for each in likeness.look(strangers(0))] == [0, 0]


def test_more_faces_than_a_batch_are_read_as_one_by_one(likeness):
    crops = strangers(3)
    few, many = likeness.look(crops), likeness.look(np.tile(crops, (50, 1, 1, 1)))
    np.testing.assert_allclose(many.vectors, np.tile(few.vectors, (50, 1)), atol=1e-5)
    np.testing.assert_allclose(many.oddness, np.tile(few.oddness, 50), rtol=1e-4)


def test_a_face_is_more_like_itself_in_other_light_than_like_others(likeness):
    crops = strangers(12)
    darker = 0.8 * crops - 0.1
    pairs = likeness.look(crops).vectors @ likeness.look(darker).vectors.T
    others = pairs[~np.eye(len(crops), dtype=bool)]
    assert np.diag(pairs).min() > np.quantile(others, 0.95)


def test_a_face_is_odd_with_a_blotch_or_turned_over_and_not_in_other_light(likeness):
    crops = strangers(12)
    usual = likeness.look(crops).oddness
    assert 0.3 < np.median(usual) < 2
    blotched = crops.copy()
    blotched[:, 0, 36:46, 24:34] += 1.0
    over = np.ascontiguousarray(crops[:, :, ::-1])
    for odd in (blotched, over):
        share = likeness.look(odd).oddness / usual
        assert share.min() > 1
        assert np.median(share) > 1.2
    slope = np.linspace(-0.2, 0.2, 64, dtype=np.float32)
    for lit in (0.7 * crops - 0.1, 0.7 * crops + slope):
        np.testing.assert_allclose(likeness.look(lit).oddness, usual, rtol=0.1)


def test_a_net_that_tells_less_is_refused(likeness, tmp_path):
    (tmp_path / "likeness.onnx").write_bytes(
        card_path("likeness").with_suffix(".onnx").read_bytes()
    )
    save(replace(likeness.card, outputs=("vectors",)), tmp_path / "likeness.json")
    with pytest.raises(ModelError, match="gives vectors; it should give vectors, oddness"):
        Likeness.open(input_spec(64), tmp_path / "likeness.json")


def test_faces_cut_otherwise_than_it_learned_are_refused():
    inventor = Inventor.open(INVENT_MODEL)
    Likeness.open(inventor.spec).close()
    moved = replace(inventor.spec, landmarks_px=inventor.spec.landmarks_px + np.float32(3))
    larger = replace(inventor.spec, size_px=(128, 128))
    inventor.close()
    for other in (moved, larger):
        with pytest.raises(ModelError, match="is for faces cut to 64x64 rgb"):
            Likeness.open(other)


def test_another_kind_of_model_is_refused():
    with pytest.raises(ModelError, match="'classifier'; a 'likeness' is needed here"):
        Likeness.open(input_spec(64), "emotion")


def test_its_card_tells_where_it_comes_from(likeness):
    trained = likeness.card.trained
    for field in ("data", "licence_of_data", "teacher", "commit", "metrics", "limits"):
        assert trained[field]
    assert card_path("likeness").is_file()
