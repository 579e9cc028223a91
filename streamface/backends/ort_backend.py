"""ONNX Runtime, on the CPU or on whatever else the user's build of it can compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from streamface.backends.feeds import check_batch, check_conditions, listed
from streamface.backends.onnx_runtime import ort
from streamface.card import load, read_onnx
from streamface.errors import BackendUnavailable, ModelError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from streamface.card import ModelCard
    from streamface.frame import BatchF32

_MAX_BATCH: Final = 16  # a batch this large gains nothing more on a CPU, and stays in its cache
_MAX_BATCH_GPU: Final = 64
_ERRORS_ONLY: Final = 3
_FATAL_ONLY: Final = 4  # why a provider would not start is told by us, in one line
PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""Names for people to ONNX Runtime's own; which of them a build has differs."""
_ON_GPU: Final = frozenset({"cuda", "tensorrt", "directml"})
_PACKAGES: Final = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "openvino": "onnxruntime-openvino",
    "coreml": "onnxruntime (on macOS)",
    "directml": "onnxruntime-directml",
}
"""What brings a provider; these replace the package ``onnxruntime``, they do not add to it."""
# ONNX Runtime's errors share no base class but Exception.
_ORT_ERRORS: Final = tuple(
    error
    for error in vars(ort.capi.onnxruntime_pybind11_state).values()
    if isinstance(error, type) and issubclass(error, Exception)
)


class OnnxRuntimeBackend:
    """One session with its own threads; see Backend for what the methods promise.

    provider: ``NAME`` or ``NAME:DEVICE`` of PROVIDERS, where DEVICE is a number for cuda, tensorrt
    and directml, and a device name such as GPU or NPU for openvino. What a provider cannot do of a
    model, ONNX Runtime does on the CPU. Raises UsageError for an unknown name, BackendUnavailable
    where this build has no such provider or the provider does not start.
    """

    input_dtype = np.dtype(np.float32)

    def __init__(self, card_path: Path, *, threads: int = 1, provider: str = "cpu") -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        name, _, device = provider.partition(":")
        card = load(card_path)
        self._session: Any = _session(card, card_path, threads, name, device)
        self.on_gpu = name in _ON_GPU or (name == "openvino" and device.upper().startswith("GPU"))
        self.max_batch = _MAX_BATCH_GPU if self.on_gpu else _MAX_BATCH
        self._outputs = list(card.outputs)
        self._shape = card.input.shape
        self._conditions = dict(card.conditions)
        self._input = self._checked_input(card_path.parent / card.onnx)
        where = "CPU" if name == "cpu" else provider
        self.provider = f"onnxruntime {ort.__version__} {card.precision} {where}"

    def run(self, batch: BatchF32, *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Return the outputs of (N, C, H, W) float32; raises ValueError for another shape."""
        check_batch(
            batch.shape, str(batch.dtype), row=self._shape, wanted="float32", most=self.max_batch
        )
        if self._session is None:
            raise ValueError("the backend is closed")
        check_conditions(conditions, self._conditions, len(batch))
        feeds = {self._input: batch, **dict(zip(self._conditions, conditions, strict=True))}
        return tuple(cast("list[BatchF32]", self._session.run(self._outputs, feeds)))

    def warm_up(self) -> None:
        """Nothing waits to be made ready."""

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
            takes, says = listed(found, further), listed(self._shape, self._conditions)
            raise ModelError(f"{onnx}: takes {takes}, but its card says {says}")
        return str(inputs[0].name)


def providers() -> tuple[str, ...]:
    """Return the names of PROVIDERS that this build of ONNX Runtime brings."""
    built = ort.get_available_providers()
    return tuple(name for name, own in PROVIDERS.items() if own in built)


def _session(card: ModelCard, card_path: Path, threads: int, name: str, device: str) -> Any:
    own = _checked_provider(name, device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin would take the cores of the decoder and the encoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERRORS_ONLY if name == "cpu" else _FATAL_ONLY
    chosen: list[Any] = [(own, _provider_options(name, device))]
    if name == "directml":
        options.enable_mem_pattern = False  # it works without, as its documentation says
    if name != "cpu":
        chosen.append(PROVIDERS["cpu"])
    content = read_onnx(card, card_path)
    try:
        session = ort.InferenceSession(content, options, providers=chosen)
    except _ORT_ERRORS as exc:
        reason = " ".join(str(exc).split())
        if name != "cpu":
            raise BackendUnavailable(
                f"onnxruntime's provider '{name}' cannot run {card.name}: {reason}"
            ) from exc
        raise ModelError(f"{card_path.parent / card.onnx}: not a usable ONNX: {reason}") from exc
    # It would go on with the CPU and say so only in its log.
    if own not in session.get_providers():
        raise BackendUnavailable(
            f"onnxruntime's provider '{name}' did not start: its libraries, its driver or the "
            "device are missing; run with --provider cpu"
        )
    return session


def _checked_provider(name: str, device: str) -> str:
    if name not in PROVIDERS:
        raise UsageError(f"--provider must be one of {', '.join(PROVIDERS)}, not '{name}'")
    if device and name in {"cpu", "coreml"}:
        raise UsageError(f"--provider {name} takes no device, got '{device}'")
    if device and name != "openvino" and not device.isdecimal():
        raise UsageError(f"--provider {name}: the device must be a number, not '{device}'")
    if name not in providers():
        raise BackendUnavailable(
            f"this onnxruntime has no provider '{name}' (it has {', '.join(providers())}); "
            f"install {_PACKAGES[name]} in its place"
        )
    return PROVIDERS[name]


def _provider_options(name: str, device: str) -> dict[str, str]:
    if name == "openvino":
        return {"device_type": device.upper() or "CPU"}
    return {"device_id": device} if device else {}
