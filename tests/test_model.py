"""Models: the shipped ones, and what is refused on opening."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from skimage.data import astronaut

import streamface
from streamface.backends import open_backend, ort_backend
from streamface.backends.ort_backend import PROVIDERS, providers
from streamface.card import load
from streamface.errors import BackendUnavailable, ModelError, UsageError
from streamface.frame import EMOTIONS, GENDERS, Planes
from streamface.model import DEFAULT_MODELS, Model, card_path, shipped_names, softmax
from streamface.preprocess import as_input, crop_into

SHIPPED = {
    f"{name}{precision}": labels
    for name, labels in (("emotion", EMOTIONS), ("emotion-ferplus", EMOTIONS), ("gender", GENDERS))
    for precision in ("", "-int8")
}


@pytest.fixture(params=SHIPPED)
def copy(request, tmp_path):
    """Copy a shipped model, so that a test may damage it."""
    source = card_path(request.param)
    for path in (source, source.parent / load(source).onnx):
        shutil.copy(path, tmp_path)
    return tmp_path / source.name


def crops(model, count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *model.card.input.shape)).astype(np.float32)


def change(path, **fields):
    data = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(data | fields), "utf-8")


@pytest.mark.parametrize(("name", "labels"), SHIPPED.items())
def test_shipped_models_open_and_give_probabilities(name, labels):
    model = Model.open(name)
    assert name in shipped_names()
    assert model.card.labels == labels
    assert "onnxruntime" in model.provider
    probs = model.predict(crops(model, 3))
    assert probs.shape == (3, len(labels))
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)
    model.close()


@pytest.mark.parametrize("name", SHIPPED)
def test_cards_tell_where_a_model_comes_from(name):
    trained = Model.open(name).card.trained
    for field in ("data", "licence_of_data", "seed", "commit", "metrics", "intended_use", "limits"):
        assert trained[field] or trained[field] == 0


def test_what_run_uses_is_shipped():
    assert set(DEFAULT_MODELS) == {"emotion", "gender"}
    assert set(DEFAULT_MODELS.values()) <= set(shipped_names())


@pytest.mark.parametrize("name", ["emotion", "emotion-ferplus", "gender"])
def test_int8_answers_like_the_float32_it_was_made_from(name):
    """On faces; of noise they may think differently."""
    plain, quantised = Model.open(name), Model.open(f"{name}-int8")
    assert quantised.card.trained["made_from_sha256"] == plain.card.sha256
    spec = plain.card.input
    (found,) = streamface.analyze(astronaut())
    planes = Planes.from_rgb(astronaut())
    batch = np.empty((3, *spec.shape), np.float32)
    for crop, shift in zip(batch, (-2, 0, 2), strict=True):
        crop_into(planes, found.landmarks_px + np.float32(shift), spec, crop)
    np.testing.assert_allclose(quantised.predict(batch), plain.predict(batch), atol=0.08)


def test_any_batch_is_answered_as_its_faces_one_by_one():
    model = Model.open("emotion")
    batch = crops(model, 37)
    whole = model.predict(batch)
    single = np.concatenate([model.predict(batch[i : i + 1]) for i in range(len(batch))])
    np.testing.assert_allclose(whole, single, atol=1e-5)
    assert model.predict(batch[:0]).shape == (0, 7)


def test_results_belong_to_the_caller():
    model = Model.open("gender")
    first = model.predict(crops(model, 2))
    kept = first.copy()
    model.predict(crops(model, 2, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_probabilities_are_softened_by_the_cards_temperature():
    class Fixed:
        max_batch = 2
        provider = "fake"
        input_dtype = np.dtype(np.float32)

        def run(self, batch):
            return (np.tile(np.array([0, 1, 2, 3, 4, 5, 6], np.float32), (len(batch), 1)),)

        def close(self):
            pass

    card = dataclasses.replace(Model.open("emotion").card, temperature=2.0)
    probs = Model(card, Fixed()).predict(np.zeros((3, *card.input.shape), np.float32))
    np.testing.assert_allclose(probs[2], softmax(np.arange(7, dtype=np.float32)[None] / 2)[0])


def test_an_altered_onnx_is_refused(copy):
    onnx = copy.parent / load(copy).onnx
    onnx.write_bytes(onnx.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match="SHA-256"):
        Model.open(copy)


def test_an_onnx_that_is_none_is_refused(copy):
    import hashlib

    (copy.parent / load(copy).onnx).write_bytes(b"not a net")
    change(copy, sha256=hashlib.sha256(b"not a net").hexdigest())
    with pytest.raises(ModelError, match="not a usable ONNX") as caught:
        Model.open(copy)
    assert "\n" not in str(caught.value)


def test_a_card_that_describes_another_net_is_refused(copy):
    change(copy, outputs=["nothing"])
    with pytest.raises(ModelError, match="no output named 'nothing'"):
        open_backend(copy)
    data = json.loads(copy.read_text("utf-8"))
    data["input"]["size_px"] = [40, 40]
    change(copy, outputs=["logits"], input=data["input"])
    with pytest.raises(ModelError, match="its card says"):
        open_backend(copy)


def test_a_model_made_for_other_preprocessing_is_refused(copy):
    change(copy, preprocess_probe=[0.0] * 16)
    with pytest.raises(ModelError, match="other pre-processing"):
        Model.open(copy)


def test_unknown_names_list_the_shipped_ones():
    with pytest.raises(ModelError, match="shipped: emotion, .*gender-int8"):
        Model.open("age")


def test_unknown_providers_list_the_known_ones():
    with pytest.raises(UsageError, match="one of cpu, cuda, tensorrt, openvino"):
        open_backend(card_path("emotion"), provider="abacus")


def test_a_provider_that_this_onnxruntime_lacks_is_told_with_what_it_has():
    missing = next(name for name in PROVIDERS if name not in providers())
    with pytest.raises(BackendUnavailable, match=f"no provider '{missing}' .it has .*cpu"):
        open_backend(card_path("emotion"), provider=missing)


@pytest.mark.parametrize(("provider", "why"), [("cpu:1", "no device"), ("cuda:x", "a number")])
def test_a_provider_with_a_device_it_cannot_have_is_refused(provider, why):
    with pytest.raises(UsageError, match=why):
        open_backend(card_path("emotion"), provider=provider)


def test_a_provider_that_does_not_start_is_no_silent_fall_back(monkeypatch):
    """ONNX Runtime goes on with the CPU where a provider's libraries are missing."""

    class OnTheCpuAfterAll:
        def __init__(self, content, options, providers):
            assert providers[0] == ("CUDAExecutionProvider", {"device_id": "1"})

        def get_providers(self):
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(ort_backend, "providers", lambda: ("cpu", "cuda"))
    monkeypatch.setattr(ort_backend.ort, "InferenceSession", OnTheCpuAfterAll)
    with pytest.raises(BackendUnavailable, match="'cuda' did not start"):
        open_backend(card_path("emotion"), provider="cuda:1")


@pytest.mark.skipif("openvino" not in providers(), reason="needs onnxruntime-openvino")
@pytest.mark.parametrize("name", SHIPPED)
def test_openvino_answers_as_the_cpu_does(name):
    plain, other = (
        Model(load(card_path(name)), open_backend(card_path(name), provider=provider))
        for provider in ("cpu", "openvino")
    )
    assert "openvino" in other.provider
    assert not other.on_gpu
    batch = crops(plain, 5)
    np.testing.assert_allclose(other.predict(batch), plain.predict(batch), atol=0.05)


def test_grey_levels_are_answered_as_normalised_crops_are():
    model = Model.open("gender")
    levels = np.random.default_rng(0).integers(0, 256, (3, *model.card.input.shape), np.uint8)
    normalised = as_input(levels, model.card.input, np.dtype(np.float32))
    np.testing.assert_array_equal(model.predict(levels), model.predict(normalised))
    back = as_input(normalised, model.card.input, np.dtype(np.uint8))
    np.testing.assert_array_equal(back, levels)


def test_a_backend_refuses_other_shapes():
    backend = open_backend(card_path("emotion"))
    for bad in (
        np.zeros((0, 1, 48, 48), np.float32),
        np.zeros((backend.max_batch + 1, 1, 48, 48), np.float32),
        np.zeros((1, 3, 48, 48), np.float32),
        np.zeros((1, 1, 48, 48)),
        np.zeros((1, 48, 48), np.float32),
    ):
        with pytest.raises(ValueError, match="batch must be"):
            backend.run(bad)
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.run(np.zeros((1, 1, 48, 48), np.float32))


def test_nothing_is_collected_or_kept_about_the_user(tmp_path):
    """ONNX Runtime's telemetry is off: no device id, no event store, no file at all."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # Any of these would switch it off by itself.
        if name not in ("ORT_DISABLE_TELEMETRY", "CI") and "BUILD" not in name
    }
    code = (
        "import numpy as np; from streamface.model import Model; model = Model.open('emotion');"
        "model.predict(np.zeros((1, *model.card.input.shape), np.float32)); model.close()"
    )
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    subprocess.run([sys.executable, "-c", code], env=environment | homes, check=True)
    assert not list(tmp_path.rglob("*onnxruntime*"))
    assert not list(tmp_path.rglob("deviceid"))
