"""A net behind buffers that stay where they are: one recorded pass for each size of batch.

A CUDA graph replays kernels with the addresses and shapes that they were captured with. So batches
are copied to the front of buffers that are allocated once, and a batch of N runs the graph of its
bucket, the next power of two. The rows beyond N keep what an earlier batch left there, or zeros:
no row of a net knows of another, and nobody reads theirs.

Nothing here is bound to CUDA but ``CudaRecorder``. It has not run on a GPU yet; it was written
after https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. The tests put a recorder in
its place that runs each recorded pass again on the same buffers.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from streamface.backends.torch_runtime import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from streamface.frame import BatchF32

    Net: TypeAlias = Callable[..., tuple[Tensor, ...]]
    """uint8 crops and float32 conditions to float32 outputs, C-contiguous, N rows each."""

_WARM_UPS: Final = 3  # libraries choose algorithms and allocate in the first passes
_CAPTURE: Final = threading.Lock()  # one capture at a time in a process


class Recording(NamedTuple):
    """A pass that can be run again."""

    replay: Callable[[], object]
    """Queue the same work on the same buffers."""
    outputs: tuple[Tensor, ...]
    """What every replay writes to."""


class Recorder(Protocol):
    """Where a net computes, and how its passes are recorded."""

    device: torch.device

    def active(self) -> AbstractContextManager[None]:
        """Have what torch does meanwhile done on this device, in this order."""

    def follow(self) -> None:
        """Begin nothing before what the caller has queued so far is done; not while active."""

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return host memory of zeros that the device copies from and to by itself."""

    def record(self, work: Callable[[], tuple[Tensor, ...]]) -> Recording:
        """Record what ``work`` queues; to be called while active."""

    def wait(self) -> None:
        """Return when everything queued so far is done."""


class BucketedNet:
    """A net that runs recorded passes; used by one thread at a time."""

    def __init__(
        self, net: Net, row_shapes: Sequence[tuple[int, ...]], recorder: Recorder, max_batch: int
    ) -> None:
        """row_shapes: of one crop, then of one row of each condition. max_batch: a power of two."""
        self._net = net
        self._recorder = recorder
        self._recordings: dict[int, Recording] = {}
        self._max_batch = max_batch
        types = [torch.uint8] + [torch.float32] * (len(row_shapes) - 1)
        shapes = [(max_batch, *shape) for shape in row_shapes]
        with recorder.active():
            self._fixed = [
                torch.zeros(shape, dtype=dtype, device=recorder.device)
                for shape, dtype in zip(shapes, types, strict=True)
            ]
            self._staged = [
                recorder.pinned(shape, dtype) for shape, dtype in zip(shapes, types, strict=True)
            ]
            # The zeros are there before another stream, a caller's, is waited for.
            recorder.wait()
        self._made: list[Tensor] = []

    def run(self, crops: NDArray[np.uint8], conditions: Sequence[BatchF32]) -> tuple[BatchF32, ...]:
        """Return the outputs of a batch, valid until the next one; see Backend.run."""
        count = len(crops)
        with self._recorder.active():
            recording = self._recorded(count)
            self._upload(0, crops)
            for i, rows in enumerate(conditions, 1):
                self._upload(i, rows)
            return self._replayed(recording, count)

    def run_tensor(self, crops: Tensor, conditions: Sequence[BatchF32]) -> tuple[BatchF32, ...]:
        """Do the same with crops that are on the device already, as the caller's stream left them.

        They are copied, and are the caller's again when this returns.
        """
        count = len(crops)
        self._recorder.follow()
        with self._recorder.active():
            recording = self._recorded(count)
            self._fixed[0][:count].copy_(crops, non_blocking=True)
            for i, rows in enumerate(conditions, 1):
                self._upload(i, rows)
            return self._replayed(recording, count)

    def warm_up(self) -> None:
        """Record a pass for every bucket; overwrites the outputs of the last batch."""
        with self._recorder.active():
            for power in range(self._max_batch.bit_length()):
                self._recorded(1 << power)

    def close(self) -> None:
        """Drop the recordings and all buffers."""
        self._recordings.clear()
        self._fixed, self._staged, self._made = [], [], []

    def _upload(self, index: int, rows: NDArray[Any]) -> None:
        count = len(rows)
        self._staged[index].numpy()[:count] = rows
        self._fixed[index][:count].copy_(self._staged[index][:count], non_blocking=True)

    def _recorded(self, count: int) -> Recording:
        """Return the recording of the bucket of a batch; the first such batch makes it."""
        rows = bucket(count)
        if rows not in self._recordings:
            inputs = [buffer[:rows] for buffer in self._fixed]
            recording = self._recorder.record(lambda: self._net(*inputs))
            if not self._made:
                shapes = [(self._max_batch, *each.shape[1:]) for each in recording.outputs]
                self._made = [self._recorder.pinned(shape, torch.float32) for shape in shapes]
            self._recordings[rows] = recording
        return self._recordings[rows]

    def _replayed(self, recording: Recording, count: int) -> tuple[BatchF32, ...]:
        recording.replay()
        for host, output in zip(self._made, recording.outputs, strict=True):
            host[:count].copy_(output[:count], non_blocking=True)
        self._recorder.wait()
        return tuple(host[:count].numpy() for host in self._made)


def bucket(count: int) -> int:
    """Return the smallest power of two that is not less than a count of at least 1."""
    return 1 << (count - 1).bit_length()


class CudaRecorder:
    """CUDA graphs on a stream of their own.

    The graphs share one private pool of memory: none runs while another does, and what one made is
    copied out before the next one starts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            streams: Any = torch.cuda  # torch has no types for making one
            self._stream = streams.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device and its stream the current ones of this thread."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield

    def follow(self) -> None:
        """Have the stream wait for the one that is current on the device."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return page-locked zeros."""
        return torch.zeros(tuple(shape), dtype=dtype, pin_memory=True)

    def record(self, work: Callable[[], tuple[Tensor, ...]]) -> Recording:
        """Capture a graph.

        Only this thread's calls can spoil the capture; others may go on using CUDA. TF32 is off, so
        that fp32 is what it says, and cuDNN times its algorithms, as it is asked but once.
        """
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
        with _CAPTURE, exact:
            for _ in range(_WARM_UPS):
                work()
            self.wait()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                outputs = work()
        return Recording(graph.replay, outputs)

    def wait(self) -> None:
        """Wait for the stream; the GIL is released meanwhile."""
        self._stream.synchronize()
