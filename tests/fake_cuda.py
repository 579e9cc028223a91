"""A stand-in for cuda.bindings.runtime that is stricter than CUDA.

Its devices compute with real bytes. Work on a stream is put off until somebody waits for it, so
whoever reads too early, or fills a buffer that is still to be copied, gets wrong numbers; with
``lazy=False`` it is done at once, the other extreme. What CUDA forbids gives the error CUDA gives.
"""

# ruff: noqa: N802, N815 - the names are CUDA's
from __future__ import annotations

import contextlib
import enum
import itertools
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np


class cudaError_t(enum.IntEnum):  # noqa: N801 - CUDA's name
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchFailure = 719
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureWrongThread = 908


ENDING = (
    "cudaFree",
    "cudaFreeHost",
    "cudaStreamDestroy",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
    "cudaStreamEndCapture",
)
OK = cudaError_t.cudaSuccess
Error = cudaError_t


class Refused(Exception):  # noqa: N818 - an answer
    """What a call answers instead of success."""

    def __init__(self, error):
        super().__init__(error.name)
        self.error = error


@dataclass
class Block:
    """Memory of a device, or pinned memory of the host (device None)."""

    address: int
    memory: np.ndarray
    device: int | None
    freed: bool = False


@dataclass
class Capture:
    thread: int
    thread_local: bool
    work: list = field(default_factory=list)
    spoilt: bool = False


@dataclass
class Stream:
    handle: int
    device: int
    work: list = field(default_factory=list)
    capture: Capture | None = None
    freed: bool = False


@dataclass
class Graph:
    handle: int
    work: list
    freed: bool = False


def call(function):
    """Make a method a call of CUDA: counted, made to fail where asked for, its error returned."""

    def wrapped(self, *args):
        with self.lock:
            self.calls[function.__name__] += 1
            self.total += 1
            error, result = self.answer(function, args)
            if error != OK:
                self.thread.last_error = error
            return error, result

    wrapped.__name__ = function.__name__
    return wrapped


class FakeCuda:
    """The module; give it to ``Cuda`` as ``runtime``."""

    cudaError_t = cudaError_t
    cudaHostAllocDefault = 0
    cudaStreamNonBlocking = 1
    cudaStreamCaptureMode = SimpleNamespace(
        cudaStreamCaptureModeGlobal="global", cudaStreamCaptureModeThreadLocal="thread-local"
    )
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="in",
        cudaMemcpyDeviceToHost="out",
        cudaMemcpyDeviceToDevice="within",
    )

    def __init__(self, devices=1, *, lazy=True):
        self.lock = threading.RLock()
        self.devices = devices
        self.lazy = lazy
        self.broken = {}  # name of a call -> the error that it gives from now on
        self.fail_at = 0  # number of the call, over all, that fails
        self.calls = Counter()
        self.total = 0
        self.thread = threading.local()
        self.numbers = itertools.count(1)
        self.blocks = {}
        self.streams = {}
        self.graphs = {}
        self.launchable = {}
        self.device_bytes = 0

    # What tests and the stand-in for TensorRT look at.

    @property
    def device(self):
        return getattr(self.thread, "device", 0)

    @property
    def last_error(self):
        return getattr(self.thread, "last_error", OK)

    def answer(self, function, args):
        """Return (error, result) of a call."""
        if self.total == self.fail_at:
            if function.__name__ in ENDING:
                with contextlib.suppress(Refused):
                    function(self, *args)  # they do their work, and report what failed before
            return Error.cudaErrorLaunchFailure, None
        if function.__name__ in self.broken:
            for stream in self.streams.values():
                stream.work.clear()  # the device does nothing any more
            return self.broken[function.__name__], None
        try:
            return OK, function(self, *args)
        except Refused as exc:
            return exc.error, None

    def leaks(self):
        """Return what has been made and not been freed, in words."""
        kinds = {
            "block": self.blocks,
            "stream": self.streams,
            "graph": self.graphs,
            "launchable graph": self.launchable,
        }
        return [
            f"{kind} {key:#x}"
            for kind, made in kinds.items()
            for key, each in made.items()
            if not each.freed
        ]

    def at(self, address, size_bytes, device):
        """Return the bytes at an address of a device, or of pinned memory (device None)."""
        for block in self.blocks.values():
            offset = address - block.address
            if offset >= 0 and offset + size_bytes <= len(block.memory):
                if block.freed or block.device != device:
                    break
                return block.memory[offset : offset + size_bytes]
        raise Refused(Error.cudaErrorIllegalAddress)

    def put(self, handle, work):
        """Put work on a stream, or into what is being captured from it."""
        stream = self.stream(handle)
        if stream.device != self.device:
            raise Refused(Error.cudaErrorInvalidResourceHandle)
        if stream.capture is None:
            stream.work.append(work)
            if not self.lazy:
                self.finish(stream)
            return
        if stream.capture.spoilt:
            raise Refused(Error.cudaErrorStreamCaptureInvalidated)
        stream.capture.work.append(work)

    def finish(self, stream):
        work, stream.work = stream.work, []
        for each in work:
            each()

    def stream(self, handle):
        stream = self.streams.get(handle)
        if stream is None or stream.freed:
            raise Refused(Error.cudaErrorInvalidResourceHandle)
        return stream

    def forbidden_while_capturing(self):
        """Spoil the captures that a call like cudaMalloc or a wait in this thread spoils."""
        for stream in self.streams.values():
            capture = stream.capture
            mine = capture is not None and capture.thread == threading.get_ident()
            if capture is not None and (mine or not capture.thread_local):
                capture.spoilt = True
                raise Refused(Error.cudaErrorStreamCaptureUnsupported)

    def _live(self, made, key):
        if key not in made or made[key].freed:
            raise Refused(Error.cudaErrorInvalidValue)
        return made[key]

    # What CUDA has.

    @call
    def cudaGetDeviceCount(self):
        if not self.devices:
            raise Refused(Error.cudaErrorNoDevice)
        return self.devices

    @call
    def cudaGetDeviceProperties(self, index):
        return SimpleNamespace(
            name=b"Fake GPU %d" % index, major=8, minor=9, totalGlobalMem=1 << 34
        )

    @call
    def cudaSetDevice(self, index):
        if not 0 <= index < self.devices:
            raise Refused(Error.cudaErrorInvalidDevice)
        self.thread.device = index

    def cudaGetLastError(self):
        error, self.thread.last_error = self.last_error, OK
        return (error,)

    def cudaGetErrorName(self, error):
        return OK, error.name.encode()

    def cudaGetErrorString(self, error):
        return OK, b"the text of " + error.name.encode()

    @call
    def cudaMalloc(self, size_bytes):
        self.forbidden_while_capturing()
        address = 0x7F0000000000 + next(self.numbers) * (1 << 24)
        assert size_bytes < 1 << 24
        rubbish = np.full(size_bytes, 0xA5, np.uint8)
        self.blocks[address] = Block(address, rubbish, self.device)
        self.device_bytes += size_bytes
        return address

    @call
    def cudaFree(self, address):
        self.forbidden_while_capturing()
        block = self._live(self.blocks, address)
        if block.device is None:
            raise Refused(Error.cudaErrorInvalidValue)
        for stream in self.streams.values():
            if stream.device == block.device:
                self.finish(stream)  # as CUDA waits
        block.freed = True
        block.memory[:] = 0x5A
        self.device_bytes -= len(block.memory)

    @call
    def cudaHostAlloc(self, size_bytes, flags):
        self.forbidden_while_capturing()
        memory = np.full(size_bytes, 0xA5, np.uint8)
        address = memory.ctypes.data
        self.blocks[address] = Block(address, memory, None)
        return address

    @call
    def cudaFreeHost(self, address):
        self.forbidden_while_capturing()
        block = self._live(self.blocks, address)
        block.freed = True
        block.memory[:] = 0x5A  # kept, so that a late look sees rubbish and not another's memory

    @call
    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        handle = next(self.numbers)
        self.streams[handle] = Stream(handle, self.device)
        return handle

    @call
    def cudaStreamDestroy(self, handle):
        self.stream(handle).freed = True

    @call
    def cudaStreamSynchronize(self, handle):
        self.forbidden_while_capturing()
        self.finish(self.stream(handle))

    @call
    def cudaMemcpyAsync(self, to, source, size_bytes, kind, handle):
        device = self.device
        where = {"in": (device, None), "out": (None, device), "within": (device, device)}[kind]
        self.at(to, size_bytes, where[0])
        self.at(source, size_bytes, where[1])

        def copy():
            self.at(to, size_bytes, where[0])[:] = self.at(source, size_bytes, where[1])

        self.put(handle, copy)

    @call
    def cudaStreamBeginCapture(self, handle, mode):
        stream = self.stream(handle)
        if stream.capture is not None:
            raise Refused(Error.cudaErrorInvalidValue)
        stream.capture = Capture(threading.get_ident(), mode == "thread-local")

    @call
    def cudaStreamEndCapture(self, handle):
        stream = self.stream(handle)
        capture, stream.capture = stream.capture, None
        if capture is None:
            raise Refused(Error.cudaErrorInvalidValue)
        if self.total == self.fail_at:
            raise Refused(Error.cudaErrorLaunchFailure)
        if capture.thread != threading.get_ident():
            raise Refused(Error.cudaErrorStreamCaptureWrongThread)
        if capture.spoilt:
            raise Refused(Error.cudaErrorStreamCaptureInvalidated)
        handle = next(self.numbers)
        self.graphs[handle] = Graph(handle, capture.work)
        return handle

    @call
    def cudaGraphInstantiate(self, graph, flags):
        handle = next(self.numbers)
        self.launchable[handle] = Graph(handle, self._live(self.graphs, graph).work)
        return handle

    @call
    def cudaGraphDestroy(self, graph):
        self._live(self.graphs, graph).freed = True

    @call
    def cudaGraphExecDestroy(self, graph):
        self._live(self.launchable, graph).freed = True

    @call
    def cudaGraphLaunch(self, graph, handle):
        for work in self._live(self.launchable, graph).work:
            self.put(handle, work)
