"""torch: the reference on the CPU, and CUDA graphs where TensorRT cannot be installed.

The CUDA path has not run on a GPU yet. Its logic is tested with a stand-in (see torch_buckets).
"""

# Where torch is not installed its classes are unknown to mypy, and the net derives from one.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import numpy as np

from streamface.backends.feeds import check_batch, check_conditions, listed
from streamface.backends.torch_buckets import BucketedNet, CudaRecorder
from streamface.backends.torch_graph import OnnxGraph, parse
from streamface.backends.torch_runtime import nn, torch
from streamface.card import load, read_onnx
from streamface.errors import BackendUnavailable, ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray
    from torch import Tensor

    from streamface.card import ModelCard
    from streamface.frame import BatchF32


_CPU: Final = "cpu"
_CPU_BATCH: Final = 16  # as of ONNX Runtime: more gains nothing on a CPU
_CUDA_BATCH: Final = 256
_QUANTISED: Final = "-int8"


class TorchBackend:
    """A float32 model on torch; see Backend for what the methods promise.

    On the CPU it runs eagerly. On a GPU the first batch of 1, 2, 3..4, 5..8 and so on crops waits
    until a CUDA graph of that size has been captured.
    """

    input_dtype: np.dtype[Any] = np.dtype(np.uint8)
    """Crops are grey levels; they are normalised as the card says behind the upload."""

    def __init__(
        self,
        card_path: Path,
        *,
        device: str = _CPU,
        precision: str = "fp32",
        threads: int = 1,
        graphs: bool = True,
    ) -> None:
        """Open the model of a card.

        device: "cpu" or "cuda:N". precision: fp16 needs a GPU; what tells codes apart stays
        float32, and so do conditions and outputs. threads: of one pass on the CPU. graphs: on a
        GPU, replay CUDA graphs; without them it is the yardstick of benchmarks. Raises
        UsageError for a precision that there is not and for a model that is not float32,
        BackendUnavailable for a device that there is not, ModelError for a card or file that is
        missing or malformed.
        """
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        self._device = _device(device)
        _check_precision(precision, self._device)
        card = load(card_path)
        with _threads(threads):
            net = _net(card, card_path, half=precision == "fp16")
        self._name = card.name
        self._shape = card.input.shape
        self._conditions = dict(card.conditions)
        on_cpu = self._device.type == _CPU
        self.on_gpu = not on_cpu
        self.max_batch: int = _CPU_BATCH if on_cpu else _CUDA_BATCH
        where = "CPU" if on_cpu else f"on {torch.cuda.get_device_name(self._device)}"
        self.provider: str = f"torch {torch.__version__.split('+')[0]} {precision} {where}"
        self._runner: _Runner | None
        with self._translated():
            plain = on_cpu or not graphs
            self._runner = _EagerNet(net, self._device, threads) if plain else self._bucketed(net)

    def run(self, batch: NDArray[np.uint8], *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Return the outputs of (N, C, H, W) uint8; raises ValueError for another shape."""
        runner = self._checked(batch.shape, str(batch.dtype), conditions)
        with self._translated(), torch.inference_mode():
            return runner.run(batch, conditions)

    def run_tensor(self, crops: Tensor, *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Return the outputs of crops that are a torch tensor on this backend's device already.

        crops: (N, C, H, W) uint8, as the current stream leaves them; they are only read, and are
        the caller's again when this returns. conditions and outputs: as of ``run``.
        """
        kind = str(crops.dtype).removeprefix("torch.")
        runner = self._checked(tuple(crops.shape), kind, conditions)
        if crops.device != self._device:
            raise ValueError(f"crops must be on {self._device}, not on {crops.device}")
        with self._translated(), torch.inference_mode():
            return runner.run_tensor(crops, conditions)

    def warm_up(self) -> None:
        """Capture the graph of every size of batch."""
        if self._runner is None:
            raise ValueError("the backend is closed")
        with self._translated(), torch.inference_mode():
            self._runner.warm_up()

    def close(self) -> None:
        """Drop the net, its buffers and its graphs."""
        if self._runner is not None:
            self._runner.close()
        self._runner = None

    def _bucketed(self, net: _CropNet) -> BucketedNet:
        recorder = CudaRecorder(self._device)
        with recorder.active():
            net.to(recorder.device)
        shapes = (self._shape, *self._conditions.values())
        return BucketedNet(net, shapes, recorder, self.max_batch)

    def _checked(
        self, shape: tuple[int, ...], kind: str, conditions: Sequence[BatchF32]
    ) -> _Runner:
        check_batch(shape, kind, row=self._shape, wanted="uint8", most=self.max_batch)
        if self._runner is None:
            raise ValueError("the backend is closed")
        check_conditions(conditions, self._conditions, shape[0])
        return self._runner

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Tell what torch raises in one line."""
        try:
            yield
        except torch.OutOfMemoryError as exc:
            raise BackendUnavailable(
                f"{self._device} has too little memory free for '{self._name}' on torch; "
                "close what else uses it, or choose another device"
            ) from exc
        except RuntimeError as exc:
            reason = " ".join(str(exc).split())
            raise BackendUnavailable(
                f"torch failed to run '{self._name}' on {self._device}: {reason}"
            ) from exc


class _Runner(Protocol):
    def run(self, crops: NDArray[np.uint8], conditions: Sequence[BatchF32]) -> tuple[BatchF32, ...]:
        """See TorchBackend.run."""

    def run_tensor(self, crops: Tensor, conditions: Sequence[BatchF32]) -> tuple[BatchF32, ...]:
        """See TorchBackend.run_tensor."""

    def warm_up(self) -> None:
        """See TorchBackend.warm_up."""

    def close(self) -> None:
        """Release memory."""


class _CropNet(nn.Module):
    """A graph with the way from grey levels to what it takes before it."""

    def __init__(self, graph: OnnxGraph, card: ModelCard) -> None:
        super().__init__()
        self.graph = graph
        self._crops = next(iter(graph.inputs))
        self._conditions = tuple(card.conditions)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(card.input, name), dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])

    def forward(self, crops: Tensor, *conditions: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of (N, C, H, W) uint8 crops, each float32 and C-contiguous."""
        levels = crops.to(torch.float32, memory_format=torch.channels_last)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        inputs = {
            self._crops: (levels - mean) / std,
            **dict(zip(self._conditions, conditions, strict=True)),
        }
        outputs = cast("tuple[Tensor, ...]", self.graph(inputs))
        return tuple(output.contiguous() for output in outputs)


class _EagerNet:
    """A net that runs as torch runs it, with a number of CPU threads that is its own."""

    def __init__(self, net: _CropNet, device: torch.device, threads: int) -> None:
        self._net: _CropNet | None = net.to(device)
        self._device = device
        self._threads = threads

    def run(self, crops: NDArray[np.uint8], conditions: Sequence[BatchF32]) -> tuple[BatchF32, ...]:
        return self.run_tensor(_tensor(crops), conditions)

    def run_tensor(self, crops: Tensor, conditions: Sequence[BatchF32]) -> tuple[BatchF32, ...]:
        assert self._net is not None
        with _threads(self._threads):
            inputs = (crops, *map(_tensor, conditions))
            outputs = self._net(*(each.to(self._device) for each in inputs))
        return tuple(output.cpu().numpy() for output in outputs)

    def warm_up(self) -> None:
        """Nothing is recorded."""

    def close(self) -> None:
        self._net = None


def _tensor(values: NDArray[Any]) -> Tensor:
    # torch takes no array that is read-only, although it only reads here: such a one is copied.
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Have this thread's operators use so many threads, and then as many as before.

    torch remembers the number for each calling thread, beside a default for threads that have not
    called it yet. Both are put back; only a thread that calls torch first meanwhile sees ours.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    seen = (_CPU, *(f"cuda:{i}" for i in range(count)))
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in seen:
        raise BackendUnavailable(
            f"torch {torch.__version__} sees no device '{name}'; it sees: {', '.join(seen)}"
        )
    return torch.device(wanted)


def _check_precision(precision: str, device: torch.device) -> None:
    if precision not in ("fp32", "fp16"):
        raise UsageError(f"the torch runtime computes in fp32 or fp16, not in '{precision}'")
    if precision == "fp16" and device.type == _CPU:
        raise UsageError("fp16 needs a GPU; on the CPU the torch runtime computes in fp32")


def _net(card: ModelCard, card_path: Path, *, half: bool) -> _CropNet:
    where = str(card_path.parent / card.onnx)
    model = parse(read_onnx(card, card_path), where)
    _refuse_quantised(card, model)
    graph = OnnxGraph(model, card.outputs, where, half=half)
    (_, crops), *further = graph.inputs.items()
    if crops != card.input.shape or dict(further) != dict(card.conditions):
        takes = listed(crops, dict(further))
        says = listed(card.input.shape, card.conditions)
        raise ModelError(f"{where}: takes {takes}, but its card says {says}")
    net = _CropNet(graph, card)
    net.eval()
    return net


def _refuse_quantised(card: ModelCard, model: onnx.ModelProto) -> None:
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        advice = "use the model that it was made from"
        if card.name.endswith(_QUANTISED):
            advice = f"use {card.name.removesuffix(_QUANTISED)} without {_QUANTISED}"
        raise UsageError(f"'{card.name}': the torch runtime runs float32 models; {advice}")
