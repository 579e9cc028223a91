"""Building where there is a GPU, with the graph itself for an engine: ONNX Runtime computes it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from streamface import builder
from streamface.backends.onnx_runtime import ort
from streamface.builder import BuildRequest, build, build_missing, check_kept
from streamface.card import load
from streamface.compute import Compute
from streamface.engines.gpu import Gpu
from streamface.engines.store import EngineStore
from streamface.errors import BackendUnavailable, ModelError, SinkError
from streamface.model import card_path
from streamface.runtimes import Runtimes

pytest.importorskip("onnx", reason="engine graphs are made with onnx (extra [dev])")
H100 = Gpu(0, "NVIDIA H100", (9, 0), 80 << 30, "580.1")
HERE = SimpleNamespace(gpus=(H100,), flavours=("tensorrt",), has_torch=False, torch_has_cuda=False)


class OnnxEngine:
    """A plan that is an ONNX graph of ours, run as an engine of it would be."""

    input_dtype = np.dtype(np.uint8)
    on_gpu = True
    max_batch = 64
    wrong = False

    def __init__(self, plan, card, device):
        self.provider = f"a stand-in on cuda:{device}"
        self._session = ort.InferenceSession(plan)
        self._outputs = list(card.outputs)
        self.names = [each.name for each in self._session.get_inputs()]

    def run(self, *values):
        made = self._session.run(self._outputs, dict(zip(self.names, values, strict=True)))
        return tuple(each[::-1] if self.wrong else each for each in made)

    def close(self):
        pass


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Stand in for TensorRT and CUDA; return what was done, and keep engines in tmp_path."""
    done = SimpleNamespace(built=[], used=[], opened=[])

    def build_plan(graph, card, options, *, progress, begin):
        begin()
        done.built.append((card.name, options.builds_for, options.timing_cache))
        return graph

    def open_engine(plan, card, flavour, precision, *, device):
        done.opened.append((card.name, flavour, precision))
        return OnnxEngine(plan, card, device)

    class Cuda:
        def __init__(self, device):
            self.use = lambda: done.used.append(device)

    monkeypatch.setenv("STREAMFACE_ENGINES", str(tmp_path))
    monkeypatch.setattr("streamface.engines.build.build_plan", build_plan)
    monkeypatch.setattr("streamface.engines.cuda.Cuda", Cuda)
    monkeypatch.setattr("streamface.engines.flavour.load", lambda name: None)
    monkeypatch.setattr("streamface.engines.flavour.version", lambda name: "11.4")
    monkeypatch.setattr("streamface.backends.tensorrt.open_engine", open_engine)
    monkeypatch.setattr(builder, "_CHECK_FACES", 24)
    return done


def kept(folder):
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


@pytest.mark.parametrize("name", ["gender", "likeness", "vqvae-prior"])
def test_an_engine_is_held_to_its_model_before_it_is_kept(name, gpu, tmp_path):
    record = build(name, BuildRequest(flavour="tensorrt"), gpu=H100)
    assert gpu.used == [0]
    assert gpu.built == [(name, "current", tmp_path / "tensorrt.timing")]
    assert record.check["faces"] == 24
    assert record.check["crops"] == "generated faces"
    (said,) = kept(tmp_path)
    assert said["check"] == record.check
    assert said["key"]["gpu"] == "NVIDIA H100"
    assert EngineStore().read(record)


def test_an_engine_that_answers_otherwise_is_not_kept(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxEngine, "wrong", True)
    with pytest.raises(
        ModelError, match=r"of gender does not answer as its model: a probability .*fp32"
    ):
        build("gender", BuildRequest(flavour="tensorrt"), gpu=H100)
    assert kept(tmp_path) == []
    assert not list(tmp_path.glob("*.engine"))


def unchecked(tmp_path):
    """Return what is known of an engine that was built where there is no GPU."""
    request = BuildRequest(flavour="tensorrt_rtx", folder=tmp_path)
    return build("gender", request, gpu=None)


def without_a_gpu(monkeypatch):
    monkeypatch.setattr("streamface.engines.build.build_plan", lambda graph, *_, **__: graph)


def test_one_that_was_built_without_a_gpu_is_checked_when_one_runs_it(gpu, tmp_path, monkeypatch):
    without_a_gpu(monkeypatch)
    record = unchecked(tmp_path)
    assert record.check is None
    checked = check_kept(card_path("gender"), record, H100)
    assert checked.check["faces"] == 24
    assert kept(tmp_path)[0]["check"] == checked.check
    monkeypatch.setattr(OnnxEngine, "wrong", True)
    with pytest.raises(ModelError, match="does not answer as its model"):
        check_kept(card_path("gender"), record, H100)


def test_a_check_that_cannot_be_noted_still_counts(gpu, tmp_path, monkeypatch):
    without_a_gpu(monkeypatch)
    record = unchecked(tmp_path)

    def no_lock(store, key):
        raise SinkError("read-only")

    monkeypatch.setattr(EngineStore, "lock", no_lock)
    assert check_kept(card_path("gender"), record, H100) == record
    assert kept(tmp_path)[0]["check"] is None


def test_a_run_builds_what_is_missing_once(gpu, tmp_path):
    def opened():
        runtimes = Runtimes(
            Compute(build_engines=True), HERE, build=build_missing, check=check_kept
        )
        card, backend = runtimes.open(card_path("gender-int8"), named=False)
        assert runtimes.notes == []
        return card, backend

    card, backend = opened()
    assert card.name == load(card_path("gender")).name
    assert backend.provider == "a stand-in on cuda:0"
    assert len(gpu.built) == 1
    opened()
    assert len(gpu.built) == 1  # the second run finds it
    assert kept(tmp_path)[0]["check"]["faces"] == 24


def test_a_run_cannot_build_for_int8_and_says_what_can(gpu):
    def opened(**asked):
        compute = Compute(build_engines=True, precision="int8", **asked)
        runtimes = Runtimes(compute, HERE, build=build_missing)
        _, backend = runtimes.open(card_path("gender"), named=False)
        return backend, runtimes.notes

    with pytest.raises(BackendUnavailable, match="models build gender --int8 --faces VIDEO"):
        opened(runtime="tensorrt")
    backend, notes = opened()
    assert not backend.on_gpu
    assert "models build gender --int8 --faces VIDEO" in notes[0]
    backend.close()
