"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np

from streamface.backends.onnx_runtime import ort
from streamface.card import load, read_onnx
from streamface.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamface.frame import BatchF32

_MAX_BATCH: Final = 16  # a batch this large gains nothing more on a CPU, and stays in its cache
_ERRORS_ONLY: Final = 3
# ONNX Runtime's errors share no base class but Exception.
_ORT_ERRORS: Final = tuple(
    error
    for error in vars(ort.capi.onnxruntime_pybind11_state).values()
    if isinstance(error, type) and issubclass(error, Exception)
)


class OnnxRuntimeBackend:
    """One session with its own threads; see Backend for what the methods promise."""

    max_batch: int = _MAX_BATCH

    def __init__(self, card_path: Path, *, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        card = load(card_path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin would take the cores of the decoder and the encoder.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = ort.InferenceSession(
                read_onnx(card, card_path), options, providers=["CPUExecutionProvider"]
            )
        except _ORT_ERRORS as exc:
            reason = " ".join(str(exc).split())
            raise ModelError(
                f"{card_path.parent / card.onnx}: not a usable ONNX: {reason}"
            ) from exc
        self._outputs = list(card.outputs)
        self._shape = card.input.shape
        self._conditions = dict(card.conditions)
        self._input = self._checked_input(card_path.parent / card.onnx)
        self.provider = f"onnxruntime {ort.__version__} CPU"

    def run(self, batch: BatchF32, *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Return the outputs of (N, C, H, W) float32; raises ValueError for another shape."""
        count_ok = batch.ndim == 4 and 1 <= len(batch) <= self.max_batch
        if not count_ok or batch.shape[1:] != self._shape or batch.dtype != np.float32:
            wanted = f"(1..{self.max_batch}, {', '.join(map(str, self._shape))}) float32"
            raise ValueError(f"batch must be {wanted}, not {batch.shape} {batch.dtype}")
        if self._session is None:
            raise ValueError("the backend is closed")
        feeds = {self._input: batch, **self._checked_conditions(len(batch), conditions)}
        return tuple(cast("list[BatchF32]", self._session.run(self._outputs, feeds)))

    def _checked_conditions(
        self, count: int, conditions: Sequence[BatchF32]
    ) -> dict[str, BatchF32]:
        if len(conditions) != len(self._conditions):
            wanted = ", ".join(self._conditions) or "none"
            raise ValueError(f"{len(conditions)} conditions were given; the model takes: {wanted}")
        feeds = dict(zip(self._conditions, conditions, strict=True))
        for name, value in feeds.items():
            shape = (count, *self._conditions[name])
            if value.shape != shape or value.dtype != np.float32:
                raise ValueError(f"{name} must be {shape} float32, not {value.shape} {value.dtype}")
        return feeds

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None

    def _checked_input(self, onnx: Path) -> str:
        inputs = self._session.get_inputs()
        outputs = {value.name for value in self._session.get_outputs()}
        missing = [name for name in self._outputs if name not in outputs]
        if missing:
            raise ModelError(f"{onnx}: has no output named {missing[0]!r}, as its card says")
        found = tuple(inputs[0].shape[1:])
        further = {each.name: tuple(each.shape[1:]) for each in inputs[1:]}
        if found != self._shape or further != self._conditions:
            takes, says = _listed(found, further), _listed(self._shape, self._conditions)
            raise ModelError(f"{onnx}: takes {takes}, but its card says {says}")
        return str(inputs[0].name)


def _listed(shape: tuple[int, ...], conditions: dict[str, tuple[int, ...]]) -> str:
    return ", ".join((str(shape), *(f"{name} {each}" for name, each in conditions.items())))
