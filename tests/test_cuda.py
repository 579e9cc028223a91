"""The layer over CUDA: what it says of GPUs and errors, and how captures and pinned memory end."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
from fake_cuda import Error, FakeCuda

from streamface.engines.cuda import Cuda, CudaError
from streamface.engines.gpu import gpus
from streamface.errors import BackendUnavailable


@pytest.fixture
def fake():
    return FakeCuda(devices=2)


def test_without_a_gpu_there_are_none_and_the_reason_is_told():
    none = FakeCuda(devices=0)
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA GPU .*cudaErrorNoDevice.*driver$"):
        Cuda(0, none)


def test_an_old_driver_is_told_too(fake):
    fake.broken["cudaGetDeviceCount"] = Error.cudaErrorInsufficientDriver
    with pytest.raises(BackendUnavailable, match="update the NVIDIA driver"):
        Cuda(0, fake)


def test_a_driver_that_fails_is_not_taken_for_none(fake):
    fake.broken["cudaGetDeviceCount"] = Error.cudaErrorLaunchFailure
    with pytest.raises(CudaError, match="cudaGetDeviceCount failed: cudaErrorLaunchFailure"):
        Cuda(0, fake)


def test_bindings_that_raise_without_libcuda_mean_no_gpu(fake, monkeypatch):
    def raises():
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(fake, "cudaGetDeviceCount", raises)
    with pytest.raises(BackendUnavailable, match=r"libcuda\.so\.1; install or update"):
        Cuda(0, fake)


def test_without_the_package_there_are_none_and_pip_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendUnavailable, match="pip install cuda-bindings"):
        Cuda(0)


def test_the_real_bindings_without_a_driver_mean_no_gpu():
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    if gpus():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendUnavailable, match=r"^no NVIDIA GPU can be used here: .*driver$"):
        Cuda(0, runtime)


def test_the_real_bindings_have_what_is_used():
    """Every name that ``Cuda`` takes of the runtime is there; the stand-in has no others."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    used = [name for name in dir(FakeCuda) if name.startswith("cuda")]
    assert [name for name in used if not hasattr(runtime, name)] == []
    for group in ("cudaStreamCaptureMode", "cudaMemcpyKind"):
        for name in vars(getattr(FakeCuda, group)):
            assert hasattr(getattr(runtime, group), name)
    for error in Error:
        assert getattr(runtime.cudaError_t, error.name) == error


def test_a_device_that_is_not_there_is_named_with_those_that_are(fake):
    with pytest.raises(
        BackendUnavailable, match="cuda:2 does not exist; GPUs here: cuda:0, cuda:1"
    ):
        Cuda(2, fake)


def test_an_error_names_gpu_call_code_and_text(fake):
    cuda = Cuda(1, fake)
    fake.broken["cudaMalloc"] = Error.cudaErrorMemoryAllocation
    with pytest.raises(CudaError) as caught:
        cuda.allocate(1)
    assert str(caught.value) == (
        "cuda:1 (Fake GPU 1): cudaMalloc failed: cudaErrorMemoryAllocation: "
        "the text of cudaErrorMemoryAllocation"
    )
    assert not caught.value.in_capture


def test_bytes_go_there_and_back(fake):
    cuda = Cuda(0, fake)
    stream, address = cuda.new_stream(), cuda.allocate(8)
    host = cuda.pinned(16)
    assert not host.any()
    host[:8] = range(8)
    cuda.copy_in(address, host.ctypes.data, 8, stream)
    cuda.copy_out(host.ctypes.data + 8, address, 8, stream)
    assert not host[8:].any()
    cuda.synchronize(stream)
    np.testing.assert_array_equal(host[8:], range(8))
    cuda.free(address)
    cuda.free_stream(stream)
    del host
    assert fake.leaks() == []


def test_pinned_memory_lives_as_long_as_its_last_view(fake):
    cuda = Cuda(0, fake)
    view = cuda.pinned(64).view(np.float32).reshape(4, 4)[1:, :2]
    gc.collect()
    view[:] = 7
    assert fake.leaks() != []
    assert (view == 7).all()
    del view
    assert fake.leaks() == []


def test_pinned_memory_that_cannot_be_freed_is_logged(fake, caplog):
    host = Cuda(0, fake).pinned(4)
    fake.broken["cudaFreeHost"] = Error.cudaErrorLaunchFailure
    del host
    assert "pinned memory was not freed: cuda:0" in caplog.text


def test_a_graph_replays_what_was_captured(fake):
    cuda = Cuda(0, fake)
    stream, address = cuda.new_stream(), cuda.allocate(4)
    host = cuda.pinned(8)
    there, back = host.ctypes.data, host.ctypes.data + 4

    def issue():
        cuda.copy_in(address, there, 4, stream)
        cuda.copy_out(back, address, 4, stream)

    graph = cuda.capture(stream, issue)
    for value in (3, 4):
        host[:4] = value
        cuda.launch(graph, stream)
        cuda.synchronize(stream)
        assert (host[4:] == value).all()
    cuda.free_graph(graph)
    cuda.free(address)
    cuda.free_stream(stream)
    del host
    assert fake.leaks() == []


def test_a_capture_that_raises_is_ended_and_dropped(fake):
    cuda = Cuda(0, fake)
    stream = cuda.new_stream()

    def issue():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        cuda.capture(stream, issue)
    cuda.synchronize(stream)  # would be refused inside a capture
    cuda.free_stream(stream)
    assert fake.leaks() == []


def test_what_cannot_be_captured_says_so(fake):
    cuda = Cuda(0, fake)
    stream = cuda.new_stream()
    with pytest.raises(CudaError) as caught:
        cuda.capture(stream, lambda: cuda.synchronize(stream))
    assert caught.value.in_capture
    cuda.synchronize(stream)


def test_a_graph_that_cannot_be_made_leaves_nothing(fake):
    cuda = Cuda(0, fake)
    stream = cuda.new_stream()
    fake.broken["cudaGraphInstantiate"] = Error.cudaErrorMemoryAllocation
    with pytest.raises(CudaError, match="cudaGraphInstantiate failed"):
        cuda.capture(stream, lambda: None)
    cuda.free_stream(stream)
    assert fake.leaks() == []


def test_importing_the_layer_imports_no_cuda():
    code = (
        "import sys, streamface.engines.cuda, streamface.backends.tensorrt\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(done.stdout.split()) & {"cuda", "tensorrt", "tensorrt_rtx", "torch"}
