"""TensorRT and TensorRT-RTX: runs an engine that was built for this GPU.

Everything that a call needs is there before it: buffers on the device and pinned ones on the host,
a stream, and for each size of batch (1, 2, 4 ... the engine's largest) an execution context with a
CUDA graph of the copies in, the net and the copies out. A call fills the pinned buffers, launches
one graph and waits. A batch between two sizes takes the larger one, filled up with rows of zeros.
More rows than the engine's largest batch go in turns through two such slots, so that the copies of
one overlap with the computing of the other.

It has not run on a GPU yet: its logic is tested against stand-ins for TensorRT and CUDA that hold
it to their rules.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamface.backends.feeds import check_batch, check_conditions
from streamface.engines.cuda import Cuda, CudaError
from streamface.engines.flavour import engine_log, load
from streamface.engines.graph import INPUT
from streamface.errors import BackendUnavailable, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from streamface.backends.device_crops import Crops
    from streamface.card import ModelCard
    from streamface.compute import Flavour
    from streamface.engines.flavour import EngineLog
    from streamface.frame import BatchF32

_LOG: Final = logging.getLogger("streamface.engines")
_CHUNKS: Final = 4  # how many of the engine's largest batches one call takes: enough to overlap
_DLPACK_CUDA: Final = 2  # kDLCUDA
_DTYPES: Final = {"UINT8": "uint8", "FLOAT": "float32"}
"""TensorRT's names of the types that an engine of ours has, to NumPy's."""


class TensorRtBackend:
    """An engine with its buffers; see Backend for what the methods promise.

    It may be opened in one thread, used in another and closed in a third, one after the other: each
    method makes its GPU the thread's own first. Several in as many threads do not disturb each
    other. Outputs may be read until the next ``run``, and after ``close`` too.
    """

    input_dtype: np.dtype[Any] = np.dtype(np.uint8)
    on_gpu = True

    def __init__(
        self,
        plan: bytes,
        card: ModelCard,
        trt: Any,
        cuda: Cuda,
        *,
        label: str,
        log: EngineLog,
    ) -> None:
        """Make an engine ready.

        plan: the serialised engine. trt: the module ``tensorrt`` (10.1 or later) or
        ``tensorrt_rtx``. label: runtime, version and precision, for people. Raises ModelError
        if the engine cannot be read here or is not the card's, BackendUnavailable if the GPU or
        TensorRT fails.
        """
        self.provider = f"{label} on {cuda.name}"
        self._cuda = cuda
        self._engine: _Engine | None = None
        self._slots: list[_Slot] = []
        self._joined: list[BatchF32] = []
        self._shape = card.input.shape
        self._conditions = dict(card.conditions)
        cuda.use()
        try:
            self._engine = _Engine(plan, card, trt, _Words(self.provider, log))
            self.max_batch = _CHUNKS * self._engine.largest
            # The smallest batch is made ready now: an engine that cannot run here fails at once.
            self._slot(self._engine, 0).prepare(1)
        except BaseException:
            self.close()
            raise

    def warm_up(self) -> None:
        """Make every size of batch ready, which else happens when it is first needed.

        TensorRT-RTX compiles kernels then, so a live run does this before its first frame. As
        ``run`` does, it overwrites the outputs of the last run.
        """
        engine = self._opened()
        self._cuda.use()
        for rows in engine.sizes:
            self._slot(engine, 0).prepare(rows)

    def run(self, batch: NDArray[np.uint8], *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Return the outputs of (N, C, H, W) uint8; raises ValueError for another shape.

        Raises BackendUnavailable if the GPU fails or TensorRT refuses to run.
        """
        self._check(batch.shape, str(batch.dtype), conditions)
        engine = self._opened()
        self._cuda.use()
        values: tuple[NDArray[Any], ...] = (batch, *conditions)
        if len(batch) > engine.largest:
            return self._run_in_turns(engine, values)
        slot = self._slots[0]
        slot.start(values)
        return slot.wait()

    def run_tensor(self, crops: Crops, *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Return the outputs of crops that torch holds on this GPU; see backends.TensorBackend.

        crops: (N, C, H, W) uint8, contiguous, as torch's current stream leaves them: their DLPack
        makes this engine's stream wait for that one. Raises ValueError for others.
        """
        shape, here = tuple(crops.shape), (_DLPACK_CUDA, self._cuda.device)
        self._check(shape, str(crops.dtype).removeprefix("torch."), conditions)
        if not crops.is_contiguous() or tuple(crops.__dlpack_device__()) != here:
            raise ValueError(f"crops must be contiguous on cuda:{self._cuda.device}")
        engine = self._opened()
        self._cuda.use()
        slot, parts = self._slot(engine, 0), []
        for start in range(0, shape[0], engine.largest):
            rows = slice(start, start + engine.largest)
            slot.start_resident(crops[rows], [value[rows] for value in conditions])
            made = slot.wait()
            parts.append([each.copy() for each in made] if shape[0] > engine.largest else made)
        if len(parts) == 1:
            return tuple(parts[0])
        return tuple(np.concatenate(each) for each in zip(*parts, strict=True))

    def close(self) -> None:
        """Free everything on the GPU."""
        if self._engine is None and not self._slots:
            return
        with _logged():
            self._cuda.use()
        while self._slots:
            self._slots.pop().close()
        self._engine = None
        self._joined = []

    def _run_in_turns(
        self, engine: _Engine, values: tuple[NDArray[Any], ...]
    ) -> tuple[BatchF32, ...]:
        """Run more rows than the engine's largest batch, two batches under way at a time.

        If one fails, the other may still be under way. That does no harm: what comes next on its
        stream comes after it, and ``close`` waits for it.
        """
        count = len(values[0])
        slots = [self._slot(engine, number) for number in (0, 1)]
        if not self._joined:
            self._joined = [
                np.empty((self.max_batch, *each.row), np.float32) for each in engine.outputs
            ]
        under_way: deque[tuple[int, _Slot]] = deque()
        for number, start in enumerate(range(0, count, engine.largest)):
            if len(under_way) == len(slots):
                self._collect(*under_way.popleft())
            slot = slots[number % len(slots)]
            slot.start([value[start : start + engine.largest] for value in values])
            under_way.append((start, slot))
        while under_way:
            self._collect(*under_way.popleft())
        return tuple(each[:count] for each in self._joined)

    def _collect(self, start: int, slot: _Slot) -> None:
        for joined, part in zip(self._joined, slot.wait(), strict=True):
            joined[start : start + len(part)] = part

    def _slot(self, engine: _Engine, number: int) -> _Slot:
        """Return a slot by its number; the second is made only where it is needed."""
        while len(self._slots) <= number:
            self._slots.append(_Slot(engine, self._cuda, self._tell_no_graph))
        return self._slots[number]

    def _tell_no_graph(self, rows: int, reason: str) -> None:
        told = ", no CUDA graph"
        _LOG.warning("%s: no CUDA graph for a batch of %d: %s", self.provider, rows, reason)
        self.provider = self.provider.removesuffix(told) + told

    def _opened(self) -> _Engine:
        if self._engine is None:
            raise ValueError("the backend is closed")
        return self._engine

    def _check(self, shape: tuple[int, ...], kind: str, conditions: Sequence[BatchF32]) -> None:
        check_batch(shape, kind, row=self._shape, wanted="uint8", most=self.max_batch)
        check_conditions(conditions, self._conditions, shape[0])


def open_engine(
    plan: bytes, card: ModelCard, flavour: Flavour, precision: str, *, device: int = 0
) -> TensorRtBackend:
    """Open a serialised engine on a GPU with an installed flavour of TensorRT.

    device: N of ``cuda:N``. Raises BackendUnavailable if the flavour or the GPU is not there;
    further errors as of TensorRtBackend.
    """
    trt, log = load(flavour), engine_log(flavour)
    label = f"{flavour} {trt.__version__} {precision}"
    return TensorRtBackend(plan, card, trt, Cuda(device), label=label, log=log)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output of an engine."""

    name: str
    row: tuple[int, ...]
    """Shape without the batch axis."""
    dtype: str
    """NumPy's name."""
    free_batch: bool = True
    """Whether the batch axis is dynamic, as it has to be."""

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        axes = ("n" if self.free_batch else "fixed", *map(str, self.row))
        return f"{self.name} ({', '.join(axes)}) {self.dtype}"


@dataclass(frozen=True, slots=True)
class _Words:
    """Errors about one engine, in one line, with TensorRT's own words."""

    where: str
    log: EngineLog

    def refused(self, what: str) -> BackendUnavailable:
        return BackendUnavailable(f"{self.where}: TensorRT refused {what}: {self.log.reason()}")

    def unusable(self, why: str) -> ModelError:
        return ModelError(f"{self.where}: {why}; rebuild the engine")


class _Engine:
    """An engine that is what its card says."""

    def __init__(self, plan: bytes, card: ModelCard, trt: Any, words: _Words) -> None:
        self.words = words
        self._trt = trt
        words.log.forget()
        self._runtime = trt.Runtime(words.log.handle)  # has to outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise words.unusable(f"TensorRT cannot read the engine here: {words.log.reason()}")
        self.inputs = self._checked_inputs(card)
        self.outputs = self._checked_outputs(card)
        self.largest = self._checked_largest()
        """Most rows of one batch."""
        powers = (1 << power for power in range(self.largest.bit_length()))
        self.sizes = sorted({*powers, self.largest})
        """How many rows a batch may really have, ascending."""
        self.scratch_bytes = int(self._engine.device_memory_size_v2)
        """Device memory that an execution context needs while it runs."""

    def new_context(self) -> Any:
        """Return an execution context that awaits its scratch memory.

        TensorRT-RTX else starts with slow kernels that fit every shape, and compiles those for the
        shape at hand in the background: a CUDA graph would keep the slow ones for good.
        """
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        kernels = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is None:
            context = self._engine.create_execution_context(strategy)
        else:
            config = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
            context = self._engine.create_execution_context(config)
        if context is None:
            raise self.words.refused("to make an execution context")
        return context

    def _checked_inputs(self, card: ModelCard) -> tuple[_Tensor, ...]:
        wanted = (
            _Tensor(INPUT, card.input.shape, "uint8"),
            *(_Tensor(name, row, "float32") for name, row in card.conditions.items()),
        )
        found = self._tensors(self._trt.TensorIOMode.INPUT)
        if set(found.values()) != set(wanted):
            raise self.words.unusable(
                f"the engine takes {_listed(found.values())}, "
                f"but the card of '{card.name}' says {_listed(wanted)}"
            )
        return wanted

    def _checked_outputs(self, card: ModelCard) -> tuple[_Tensor, ...]:
        found = self._tensors(self._trt.TensorIOMode.OUTPUT)
        good = all(
            each.dtype == "float32" and each.free_batch and min(each.row, default=0) > 0
            for each in found.values()
        )
        if set(found) != set(card.outputs) or not good:
            raise self.words.unusable(
                f"the engine gives {_listed(found.values())}, "
                f"but the card of '{card.name}' says {', '.join(card.outputs)}, float32 each"
            )
        return tuple(found[name] for name in card.outputs)

    def _checked_largest(self) -> int:
        """Return the most rows that the engine's only profile takes, of every input alike."""
        ranges = {
            tuple(int(shape[0]) for shape in self._engine.get_tensor_profile_shape(each.name, 0))
            for each in self.inputs
        }
        smallest = {each[0] for each in ranges}
        largest = {each[-1] for each in ranges}
        if smallest != {1} or len(largest) != 1:
            raise self.words.unusable(
                f"the engine takes batches of {sorted(ranges)} (least, best, most); "
                "one range from 1 on for every input is needed"
            )
        return largest.pop()

    def _tensors(self, mode: Any) -> Mapping[str, _Tensor]:
        engine = self._engine
        names = (engine.get_tensor_name(index) for index in range(engine.num_io_tensors))
        return {name: self._tensor(name) for name in names if engine.get_tensor_mode(name) == mode}

    def _tensor(self, name: str) -> _Tensor:
        batch, *row = (int(size) for size in self._engine.get_tensor_shape(name))
        dtype = self._engine.get_tensor_dtype(name).name
        return _Tensor(name, tuple(row), _DTYPES.get(dtype, dtype.lower()), batch == -1)


def _listed(tensors: Iterable[_Tensor]) -> str:
    return ", ".join(map(str, tensors))


@dataclass(frozen=True, slots=True)
class _Buffer:
    """Where an input or output of the largest batch lies, twice."""

    tensor: _Tensor
    address: int
    """On the device."""
    host: NDArray[Any]
    """(largest, *row), pinned."""
    host_address: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """A size of batch that has been made ready."""

    rows: int
    context: Any
    graph: int | None
    """None where this engine cannot be captured; then each call is put on the stream one by one."""


class _Slot:
    """Buffers and a stream for one batch at a time, and an execution context for each size.

    The contexts share one block of scratch memory: NVIDIA allows that where they never run at the
    same time (TensorRT issue 3798), and one stream runs them one after the other. With a block each
    they would take as many times the memory of the largest batch.
    """

    def __init__(
        self, engine: _Engine, cuda: Cuda, tell_no_graph: Callable[[int, str], None]
    ) -> None:
        self._engine = engine
        self._cuda = cuda
        self._tell_no_graph = tell_no_graph
        self._held = ExitStack()
        self._inputs: list[_Buffer] = []
        self._outputs: list[_Buffer] = []
        self._batches: dict[tuple[int, bool], _Batch] = {}
        self._count = 0
        self._scratch = 0
        self._stream = 0
        try:
            self._stream = cuda.new_stream()
            self._held.callback(cuda.free_stream, self._stream)
            if engine.scratch_bytes:
                self._scratch = self._allocated(engine.scratch_bytes)
            for tensors, buffers in (
                (engine.inputs, self._inputs),
                (engine.outputs, self._outputs),
            ):
                for tensor in tensors:
                    buffers.append(self._buffer(tensor))
        except BaseException:
            self.close()
            raise

    def start(self, values: Sequence[NDArray[Any]]) -> None:
        """Put a batch on the stream: one array an input, 1..largest rows each."""
        self._start(values, len(values[0]), resident=False)

    def start_resident(self, crops: Crops, conditions: Sequence[NDArray[Any]]) -> None:
        """Put a batch on the stream whose crops are on the device; rows beyond it keep old ones."""
        crops.__dlpack__(stream=self._stream)  # the stream now waits for the one that made them
        first, count = self._inputs[0], len(crops)
        size_bytes = count * first.tensor.row_bytes
        rows = self._rows(count)
        if (rows, True) not in self._batches:
            self.prepare(rows, resident=True)
        self._cuda.copy_within(first.address, crops.data_ptr(), size_bytes, self._stream)
        self._start(conditions, count, resident=True)

    def _rows(self, count: int) -> int:
        """Return the size of the smallest batch that holds so many rows."""
        sizes = self._engine.sizes
        return sizes[bisect_left(sizes, count)]

    def _start(self, values: Sequence[NDArray[Any]], count: int, *, resident: bool) -> None:
        rows = self._rows(count)
        batch = self._batches.get((rows, resident)) or self.prepare(rows)
        for buffer, value in zip(self._inputs[resident:], values, strict=True):
            buffer.host[:count] = value
            if count < rows:
                buffer.host[count:rows] = 0
        self._count = count
        if batch.graph is None:
            self._issue(batch.context, rows, resident=resident)
        else:
            self._cuda.launch(batch.graph, self._stream)

    def wait(self) -> tuple[BatchF32, ...]:
        """Return the outputs of the batch that was started, valid until the next one is."""
        self._cuda.synchronize(self._stream)
        return tuple(each.host[: self._count] for each in self._outputs)

    def prepare(self, rows: int, *, resident: bool = False) -> _Batch:
        """Make a size of batch ready, if it is not; overwrites the outputs.

        resident: for crops that are on the device already.
        """
        if (rows, resident) in self._batches:
            return self._batches[rows, resident]
        context = self._bound_context(rows)
        # TensorRT puts off some of its work, allocations too, to the first run: never in a capture.
        self._issue(context, rows, resident=resident)
        self._cuda.synchronize(self._stream)
        graph = self._captured(context, rows, resident=resident)
        batch = self._batches[rows, resident] = _Batch(rows, context, graph)
        self._held.callback(self._batches.pop, (rows, resident))
        if graph is not None:
            self._held.callback(self._cuda.free_graph, graph)
        return batch

    def close(self) -> None:
        """Free what the slot holds, once nothing uses it any more."""
        if self._stream:
            with _logged():
                self._cuda.synchronize(self._stream)
        with _logged():
            self._held.close()
        self._inputs.clear()
        self._outputs.clear()

    def _allocated(self, size_bytes: int) -> int:
        address = self._cuda.allocate(size_bytes)
        self._held.callback(self._cuda.free, address)
        return address

    def _buffer(self, tensor: _Tensor) -> _Buffer:
        size_bytes = self._engine.largest * tensor.row_bytes
        address = self._allocated(size_bytes)
        memory = self._cuda.pinned(size_bytes)
        host = memory.view(tensor.dtype).reshape(self._engine.largest, *tensor.row)
        return _Buffer(tensor, address, host, host.ctypes.data)

    def _bound_context(self, rows: int) -> Any:
        """Return a new context that knows its shapes and addresses, which never change again."""
        words = self._engine.words
        context = self._engine.new_context()
        if self._scratch:
            context.set_device_memory(self._scratch, self._engine.scratch_bytes)
        for each in self._inputs:
            if not context.set_input_shape(each.tensor.name, (rows, *each.tensor.row)):
                raise words.refused(f"{each.tensor} with n = {rows}")
        for each in (*self._inputs, *self._outputs):
            if not context.set_tensor_address(each.tensor.name, each.address):
                raise words.refused(f"the address of {each.tensor.name}")
        return context

    def _captured(self, context: Any, rows: int, *, resident: bool) -> int | None:
        """Return a CUDA graph of ``_issue``, or None, told, where the engine cannot be captured.

        A refusal inside the capture is an error all the same: the graph would leave out the net
        and give old outputs for ever.
        """
        capturable = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX has it
        if capturable is not None and not capturable(self._stream):
            self._tell_no_graph(rows, "TensorRT says that the engine cannot be captured")
            return None
        try:
            return self._cuda.capture(
                self._stream, lambda: self._issue(context, rows, resident=resident)
            )
        except CudaError as exc:
            if not exc.in_capture:
                raise
            self._tell_no_graph(rows, str(exc))
            return None

    def _issue(self, context: Any, rows: int, *, resident: bool) -> None:
        """Put the copies in, the net and the copies out on the stream."""
        cuda, stream = self._cuda, self._stream
        for each in self._inputs[resident:]:  # crops on the device were copied before
            cuda.copy_in(each.address, each.host_address, rows * each.tensor.row_bytes, stream)
        if not context.execute_async_v3(stream):
            raise self._engine.words.refused(f"to run a batch of {rows}")
        for each in self._outputs:
            cuda.copy_out(each.host_address, each.address, rows * each.tensor.row_bytes, stream)


@contextmanager
def _logged() -> Iterator[None]:
    """Log a CUDA error while things are freed: it would hide the error that led there."""
    try:
        yield
    except CudaError as exc:
        _LOG.warning("not everything was freed: %s", exc)
