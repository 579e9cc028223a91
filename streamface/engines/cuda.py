"""The little of CUDA that an engine needs, without torch: memory, streams and graphs of one GPU.

A thin layer over ``cuda.bindings.runtime`` (package cuda-bindings, 12.8 or later) that looks at
every error code. Handles and device addresses are plain integers, as TensorRT wants them. Written
against cuda-bindings 12.8 and 13.5, which take what they are given here; it has not run on a GPU
yet.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import weakref
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamface.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_LOG: Final = logging.getLogger("streamface.engines")
# What cudaGetDeviceCount says where there is no GPU, or no driver that this runtime can use.
_NO_GPU: Final = ("cudaErrorNoDevice", "cudaErrorInsufficientDriver")
_HELP: Final = "install or update the NVIDIA driver"
# What a capture ends with if something in it cannot be captured; the stream is as good as before.
_CAPTURE_ERRORS: Final = ("cudaErrorStreamCapture", "cudaErrorCapturedEvent")


class CudaError(BackendUnavailable):
    """A call of CUDA failed."""

    def __init__(self, where: str, call: str, name: str, text: str) -> None:
        super().__init__(f"{where}: {call} failed: {name}: {text}")
        self.name = name
        """CUDA's name of the error, such as cudaErrorMemoryAllocation."""
        self.text = text

    @property
    def in_capture(self) -> bool:
        """Whether only a capture has failed, so that the same work may run without a graph."""
        return self.name.startswith(_CAPTURE_ERRORS)


class Cuda:
    """One GPU. Any number of threads may use it, each after a call of ``use``."""

    def __init__(self, device: int = 0, runtime: Any = None) -> None:
        """Make the GPU ready in the calling thread.

        runtime: what to use as ``cuda.bindings.runtime``. Raises BackendUnavailable if there is no
        such GPU, no driver or no cuda-bindings.
        """
        self._runtime = _runtime() if runtime is None else runtime
        self._where = f"cuda:{device}"
        count = _count(self._runtime)
        if not 0 <= device < count:
            found = ", ".join(f"cuda:{index}" for index in range(count)) or "none"
            raise BackendUnavailable(f"cuda:{device} does not exist; GPUs here: {found}")
        facts = _checked(self._runtime, self._where, self._runtime.cudaGetDeviceProperties, device)
        self.device = device
        self.name: str = facts.name.decode()
        """What the card is called."""
        self._where = f"cuda:{device} ({self.name})"
        self.use()

    def use(self) -> None:
        """Make this the GPU of the calling thread; needed there before any other call.

        CUDA keeps a current device a thread, 0 at first. Setting it again costs next to nothing.
        """
        self._checked(self._runtime.cudaSetDevice, self.device)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of device memory, aligned to 256 bytes; ``free`` releases it."""
        return int(self._checked(self._runtime.cudaMalloc, size_bytes))

    def free(self, address: int) -> None:
        """Release what ``allocate`` returned."""
        self._checked(self._runtime.cudaFree, address)

    def pinned(self, size_bytes: int) -> NDArray[np.uint8]:
        """Return zeroed page-locked memory of the host, which copies need to be asynchronous.

        It is freed when the last view of it is gone, so a forgotten view never dangles.
        """
        runtime = self._runtime
        address = int(
            self._checked(runtime.cudaHostAlloc, size_bytes, runtime.cudaHostAllocDefault)
        )
        block = (ctypes.c_uint8 * size_bytes).from_address(address)
        freeing = weakref.finalize(block, _free_pinned, self, address)
        freeing.atexit = False  # the end of the process frees it anyway
        memory = np.ctypeslib.as_array(block)
        memory[:] = 0
        return memory

    def new_stream(self) -> int:
        """Return a stream of its own, which does not wait for the default stream."""
        runtime = self._runtime
        flags = runtime.cudaStreamNonBlocking
        return int(self._checked(runtime.cudaStreamCreateWithFlags, flags))

    def free_stream(self, stream: int) -> None:
        """Release a stream; what is under way on it still ends."""
        self._checked(self._runtime.cudaStreamDestroy, stream)

    def synchronize(self, stream: int) -> None:
        """Wait until everything that was put on the stream is done."""
        self._checked(self._runtime.cudaStreamSynchronize, stream)

    def copy_in(self, address: int, host: int, size_bytes: int, stream: int) -> None:
        """Put a copy from pinned memory at the address ``host`` to the device on the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._checked(self._runtime.cudaMemcpyAsync, address, host, size_bytes, kind, stream)

    def copy_within(self, to: int, address: int, size_bytes: int, stream: int) -> None:
        """Put a copy from one place on the device to another on the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._checked(self._runtime.cudaMemcpyAsync, to, address, size_bytes, kind, stream)

    def copy_out(self, host: int, address: int, size_bytes: int, stream: int) -> None:
        """Put a copy from the device to pinned memory at the address ``host`` on the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._checked(self._runtime.cudaMemcpyAsync, host, address, size_bytes, kind, stream)

    def capture(self, stream: int, issue: Callable[[], None]) -> int:
        """Return a graph of what ``issue`` puts on the stream; nothing of it runs yet.

        The capture is local to the thread: others may allocate, wait and capture meanwhile, while
        this thread may not. If ``issue`` raises, or CUDA says that something in it cannot be
        captured (a CudaError with ``in_capture``), the capture is ended and what it holds dropped.
        """
        runtime = self._runtime
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._checked(runtime.cudaStreamBeginCapture, stream, mode)
        try:
            issue()
        except BaseException:
            # Where the capture itself is spoilt this raises too, and then that is the reason.
            self._checked(runtime.cudaGraphDestroy, self._end_capture(stream))
            raise
        graph = self._end_capture(stream)
        with ExitStack() as on_error:
            try:
                launchable = int(self._checked(runtime.cudaGraphInstantiate, graph, 0))
                on_error.callback(self.free_graph, launchable)
            finally:
                self._checked(runtime.cudaGraphDestroy, graph)
            on_error.pop_all()
        return launchable

    def launch(self, graph: int, stream: int) -> None:
        """Put everything that the graph holds on the stream, in one call."""
        self._checked(self._runtime.cudaGraphLaunch, graph, stream)

    def free_graph(self, graph: int) -> None:
        """Release what ``capture`` returned."""
        self._checked(self._runtime.cudaGraphExecDestroy, graph)

    def free_pinned(self, address: int) -> None:
        """Release pinned memory; ``pinned`` sees to it by itself."""
        self._checked(self._runtime.cudaFreeHost, address)

    def _end_capture(self, stream: int) -> Any:
        return self._checked(self._runtime.cudaStreamEndCapture, stream)

    def _checked(self, function: Any, *args: Any) -> Any:
        return _checked(self._runtime, self._where, function, *args)


def _runtime() -> Any:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as exc:
        raise BackendUnavailable(f"CUDA needs a package: {exc}; pip install cuda-bindings") from exc


def _checked(runtime: Any, where: str, function: Any, *args: Any) -> Any:
    """Return what a call gives beside its error code; raises CudaError for a code."""
    error, *values = function(*args)
    if error != runtime.cudaError_t.cudaSuccess:
        # CUDA keeps the last error of a thread; left there, TensorRT would take it for its own.
        runtime.cudaGetLastError()
        name, text = (
            each(error)[1].decode()
            for each in (runtime.cudaGetErrorName, runtime.cudaGetErrorString)
        )
        raise CudaError(where, function.__name__, name, text)
    return values[0] if values else None


def _count(runtime: Any) -> int:
    """Return the number of GPUs, 1 or more."""
    try:
        return int(_checked(runtime, "CUDA", runtime.cudaGetDeviceCount))
    except CudaError as exc:
        if exc.name not in _NO_GPU:
            raise
        why = f"{exc.name}: {exc.text}; {_HELP}"
        raise BackendUnavailable(f"no NVIDIA GPU can be used here: {why}") from exc
    except RuntimeError as exc:
        # cuda-bindings before 13 raises this where there is no libcuda.
        raise BackendUnavailable(f"no NVIDIA GPU can be used here: {exc}; {_HELP}") from exc


def _free_pinned(cuda: Cuda, address: int) -> None:
    """Free pinned memory when its last view is gone, in whatever thread that happens."""
    try:
        cuda.free_pinned(address)
    except CudaError as exc:
        _LOG.warning("pinned memory was not freed: %s", exc)  # nobody could catch it here
