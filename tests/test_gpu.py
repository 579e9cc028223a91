"""What only a GPU can tell: that engines and CUDA graphs answer as ONNX Runtime does."""

from __future__ import annotations

import importlib.util

import pytest

from streamface.backends import open_backend
from streamface.builder import BuildRequest, build, face_crops
from streamface.card import load
from streamface.compute import FLAVOURS
from streamface.model import card_path
from streamface.parity import compare, fault

pytestmark = pytest.mark.gpu
MODELS = ("emotion", "gender", "vqvae", "vqvae-prior")
ENGINES = (*MODELS, "likeness")  # which no run opens on a GPU, nor torch anywhere


@pytest.fixture
def gpu():
    from streamface.engines.gpu import gpus

    return gpus()[0]


def held_to_the_model(name, backend, precision):
    card, reference = load(card_path(name)), open_backend(card_path(name))
    levels = face_crops(card.input, 100)
    assert fault(compare(card, backend, reference, levels), precision) is None
    # Another batch, then the first again: nothing of one stays in the next.
    again = compare(card, backend, reference, levels[:3])
    assert fault(again, precision) is None
    reference.close()
    backend.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_answers_as_its_model(name, flavour, precision, gpu, tmp_path):
    pytest.importorskip(flavour, reason=f"needs {flavour}")
    from streamface.engines.store import EngineStore
    from streamface.runtimes import open_engine

    request = BuildRequest(flavour=flavour, precision=precision, folder=tmp_path)
    record = build(name, request, gpu=gpu)
    assert record.check is not None
    backend = open_engine(load(card_path(name)), record, EngineStore(tmp_path), gpu)
    assert backend.on_gpu
    held_to_the_model(name, backend, precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_torch_graphs_answer_as_the_model(name, precision):
    torch = pytest.importorskip("torch", reason="needs torch (extra [torch])")
    if not torch.cuda.is_available():
        pytest.skip("the installed torch has no CUDA")
    from streamface.backends.torch_backend import TorchBackend

    backend = TorchBackend(card_path(name), device="cuda:0", precision=precision)
    assert backend.on_gpu
    held_to_the_model(name, backend, precision)


def test_a_run_uses_the_gpu(tmp_path):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch (extra [torch])")
    from streamface.app import Run
    from streamface.settings import Settings

    settings = Settings(
        source="demo", output=tmp_path / "out.mp4", max_frames=30, require_gpu=True, runtime="torch"
    )
    with Run(settings) as run:
        run.execute()
        assert "torch" in run.providers()["classify"]
        assert run.tally.face_frames > 60
