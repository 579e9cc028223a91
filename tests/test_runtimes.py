"""What was asked for is what runs; auto takes the fastest there is and says why not another."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from streamface import runtimes
from streamface.compute import Compute
from streamface.engines.gpu import Gpu
from streamface.engines.store import key_for
from streamface.errors import BackendUnavailable, ModelError, UsageError
from streamface.model import Model, card_path
from streamface.runtimes import Runtimes

H100 = Gpu(0, "NVIDIA H100", (9, 0), 80 << 30, "580.1")
EMOTION, SMALL = card_path("emotion"), card_path("emotion-int8")


def machine(*, gpus=1, flavours=(), torch=False, torch_cuda=False):
    return SimpleNamespace(
        gpus=(H100,) * gpus, flavours=flavours, has_torch=torch, torch_has_cuda=torch_cuda
    )


class FakeBackend:
    on_gpu = True

    def __init__(self, provider):
        self.provider = provider

    def close(self):
        pass


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Stand in for what opens a model; return what was opened, as (runtime, card's name, more)."""
    opened = []

    def torch_backend(path, *, device, precision, threads):
        opened.append(("torch", path.stem, device, precision))
        return FakeBackend(f"torch {precision} {device}")

    def ort_backend(path, *, threads, provider):
        opened.append(("onnxruntime", path.stem, provider))
        if provider.startswith("cuda"):
            raise BackendUnavailable("this onnxruntime has no provider 'cuda'")
        backend = FakeBackend(f"onnxruntime {provider}")
        backend.on_gpu = False
        return backend

    def engine(card, found, store, gpu):
        opened.append(("engine", found.key.flavour, found.key.precision, gpu.name))
        return FakeBackend("tensorrt")

    monkeypatch.setattr(runtimes, "open_torch", torch_backend)
    monkeypatch.setattr(runtimes, "open_backend", ort_backend)
    monkeypatch.setattr(runtimes, "open_engine", engine)
    monkeypatch.setattr(runtimes, "flavour_version", lambda flavour: "11.4")
    monkeypatch.setenv("STREAMFACE_ENGINES", str(tmp_path))
    return opened


def keep_engine(folder, flavour="tensorrt", precision="fp16"):
    import hashlib

    from streamface.card import load
    from streamface.engines.store import EngineRecord, EngineStore

    key = key_for(load(EMOTION), flavour=flavour, version="11.4", precision=precision, gpu=H100)
    record = EngineRecord(
        key=key, sha256=hashlib.sha256(b"x").hexdigest(), size_bytes=1, build_s=0.0
    )
    with EngineStore(folder).lock(key):
        EngineStore(folder).save(record, b"x")


def opened_by(fakes, compute=None, *, named=False, path=SMALL, **has):
    chosen = Runtimes(compute or Compute(), machine(**has))
    chosen.open(path, named=named)
    return fakes[-1], chosen.notes


def test_without_a_gpu_auto_is_int8_on_the_cpu_and_nothing_is_told(fakes):
    assert opened_by(fakes, gpus=0) == (("onnxruntime", "emotion-int8", "cpu"), [])
    assert opened_by(fakes, gpus=0, torch=True, flavours=("tensorrt",))[1] == []


def test_a_model_named_by_hand_is_the_one_that_runs_on_a_cpu(fakes):
    assert opened_by(fakes, gpus=0, named=True, path=EMOTION)[0][1] == "emotion"
    assert opened_by(fakes, gpus=0, named=True, path=SMALL)[0][1] == "emotion-int8"


def test_auto_takes_a_matching_engine(fakes, tmp_path):
    keep_engine(tmp_path)
    chosen, notes = opened_by(fakes, flavours=("tensorrt",), torch=True, torch_cuda=True)
    assert chosen == ("engine", "tensorrt", "fp16", "NVIDIA H100")
    assert notes == []


def test_auto_without_an_engine_takes_torch_and_says_how_to_get_one(fakes):
    chosen, notes = opened_by(fakes, flavours=("tensorrt",), torch=True, torch_cuda=True)
    assert chosen == ("torch", "emotion", "cuda:0", "fp16")
    (note,) = notes
    assert note.startswith("emotion on torch fp16 cuda:0: no engine for emotion in ")
    assert "`streamface models build emotion` makes one" in note


def test_auto_with_a_gpu_that_nothing_can_use_says_so_in_one_line(fakes):
    chosen, notes = opened_by(fakes, torch=True)
    assert chosen == ("onnxruntime", "emotion-int8", "cpu")
    (note,) = notes
    assert "TensorRT is not installed" in note
    assert "the installed torch cannot use the GPU" in note
    assert "no provider 'cuda'" in note


def test_models_that_fare_alike_share_a_line(fakes):
    chosen = Runtimes(Compute(), machine(torch=True))
    for name in ("emotion-int8", "gender-int8"):
        chosen.open(card_path(name), named=False)
    (note,) = chosen.notes
    assert note.startswith("emotion-int8, gender-int8 on onnxruntime cpu: ")


@pytest.mark.parametrize(
    ("asked", "has", "why"),
    [
        ({"device": "cuda"}, {"gpus": 0}, "no NVIDIA GPU"),
        ({"device": "cuda:1"}, {"torch": True, "torch_cuda": True}, "no cuda:1: .* 1 GPU"),
        ({"device": "cuda"}, {}, "a GPU was asked for: TensorRT is not installed"),
        ({"require_gpu": True}, {"gpus": 0}, "no NVIDIA GPU"),
        ({"require_gpu": True}, {"torch": True}, "cannot use the GPU"),
        ({"runtime": "tensorrt"}, {"gpus": 0}, "no NVIDIA GPU"),
        ({"runtime": "tensorrt"}, {"torch": True, "torch_cuda": True}, "is not installed"),
        ({"runtime": "tensorrt_rtx"}, {"flavours": ("tensorrt",)}, "is not installed"),
        ({"runtime": "tensorrt"}, {"flavours": ("tensorrt",)}, "no engine for emotion"),
        ({"runtime": "torch", "device": "cuda"}, {}, "torch is not installed"),
        ({"runtime": "torch", "precision": "int8"}, {"torch_cuda": True, "torch": True}, "no int8"),
        ({"runtime": "onnxruntime", "device": "cuda"}, {}, "no provider 'cuda'"),
        ({"precision": "fp16"}, {"gpus": 0}, "fp16"),
    ],
)
def test_what_was_asked_for_by_name_never_falls_back(fakes, asked, has, why):
    with pytest.raises(BackendUnavailable, match=why):
        opened_by(fakes, Compute(**asked), **has)


def test_torch_by_name_runs_where_it_can(fakes):
    assert opened_by(fakes, Compute(runtime="torch"), gpus=0)[0] == (
        "torch", "emotion", "cpu", "fp32",
    )  # fmt: skip
    chosen, _ = opened_by(fakes, Compute(runtime="torch"), torch=True, torch_cuda=True)
    assert chosen[2:] == ("cuda:0", "fp16")


def test_precision_by_name_picks_the_sibling(fakes):
    assert opened_by(fakes, Compute(precision="fp32"), gpus=0)[0][1] == "emotion"
    named = {"named": True, "path": EMOTION, "gpus": 0}
    assert opened_by(fakes, Compute(precision="int8"), **named)[0][1] == "emotion-int8"


def test_a_model_without_the_wanted_sibling_says_how_to_make_it(fakes, tmp_path):
    alone = tmp_path / "mine.json"
    alone.write_bytes(EMOTION.read_bytes())
    with pytest.raises(ModelError, match=r"no int8 model beside it as mine-int8.json"):
        opened_by(fakes, Compute(precision="int8"), named=True, path=alone, gpus=0)


def test_int8_by_name_is_int8_on_tensorrt_too(fakes, tmp_path):
    keep_engine(tmp_path, "tensorrt_rtx", "int8")
    asked = Compute(runtime="tensorrt")
    chosen, _ = opened_by(fakes, asked, named=True, flavours=("tensorrt", "tensorrt_rtx"))
    assert chosen[:3] == ("engine", "tensorrt_rtx", "int8")


def test_a_missing_engine_is_built_where_that_was_asked_for(fakes):
    built = []

    def build(path, key, gpu):
        built.append((path.stem, key.precision, gpu.name))
        return SimpleNamespace(key=key, check={})

    asked = Runtimes(Compute(build_engines=True), machine(flavours=("tensorrt",)), build=build)
    asked.open(SMALL, named=False)
    assert built == [("emotion", "fp16", "NVIDIA H100")]
    assert fakes[-1][0] == "engine"


def test_an_engine_that_no_gpu_has_run_is_held_to_its_model_first(fakes, tmp_path):
    keep_engine(tmp_path)
    asked = []

    def check(path, record, gpu):
        asked.append((path.stem, record.key.model, gpu.name))
        if len(asked) == 2:
            raise ModelError("it does not answer as its model")
        return record

    has = machine(flavours=("tensorrt",), torch=True, torch_cuda=True)
    Runtimes(Compute(), has, check=check).open(SMALL, named=False)
    assert asked == [("emotion", "emotion", "NVIDIA H100")]
    assert fakes[-1][0] == "engine"
    auto = Runtimes(Compute(), has, check=check)
    auto.open(SMALL, named=False)
    assert fakes[-1][0] == "torch"
    assert "does not answer as its model" in auto.notes[0]
    asked.pop()
    with pytest.raises(BackendUnavailable, match="does not answer"):
        Runtimes(Compute(runtime="tensorrt"), has, check=check).open(SMALL, named=False)


def test_a_provider_by_name_is_taken_as_it_is(fakes):
    assert opened_by(fakes, Compute(provider="openvino"), gpus=0)[0] == (
        "onnxruntime", "emotion-int8", "openvino",
    )  # fmt: skip
    with pytest.raises(BackendUnavailable, match="is no GPU"):
        opened_by(fakes, Compute(provider="openvino", require_gpu=True), gpus=0)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"device": "gpu"}, "--device must be"),
        ({"device": "cuda:"}, "--device must be"),
        ({"runtime": "tf"}, "--runtime must be"),
        ({"precision": "bf16"}, "--precision must be"),
        ({"device": "cpu", "runtime": "tensorrt"}, "needs a GPU"),
        ({"device": "cpu", "require_gpu": True}, "exclude each other"),
        ({"device": "cpu", "precision": "fp16"}, "for GPUs"),
        ({"runtime": "torch", "provider": "cuda"}, "is for onnxruntime"),
        ({"device": "cuda", "provider": "cuda"}, "leave --device out"),
        ({"runtime": "torch", "build_engines": True}, "is for TensorRT"),
    ],
)
def test_what_can_never_be_had_is_wrong_usage(asked, why):
    with pytest.raises(UsageError, match=why):
        Compute(**asked)


def test_a_real_model_opens_through_it():
    model = Model.open("emotion-int8", Runtimes(Compute(device="cpu", precision="fp32")).open)
    assert model.card.name == "emotion"
    assert "fp32 CPU" in model.provider
    assert not model.on_gpu
    assert model.predict(np.zeros((2, 1, 48, 48), np.uint8)).shape == (2, 7)
    model.close()
