"""Where and how nets are to run, as somebody asks for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from streamface.errors import UsageError

AUTO: Final = "auto"
Flavour: TypeAlias = Literal["tensorrt", "tensorrt_rtx"]
Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
FLAVOURS: Final[tuple[Flavour, ...]] = get_args(Flavour)
"""Of TensorRT, by the names of their modules."""
RUNTIMES: Final = (AUTO, "onnxruntime", "torch", *FLAVOURS)
"""``tensorrt`` is either flavour, whichever is installed and has an engine."""
PRECISIONS: Final = (AUTO, "fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What was asked for. Raises UsageError for what can never be had."""

    device: str = AUTO
    """auto, cpu, cuda or cuda:N."""
    runtime: str = AUTO
    precision: Precision | Literal["auto"] = AUTO
    """Auto: fp16 on a GPU, int8 on a CPU where the model comes so."""
    provider: str | None = None
    """Of ONNX Runtime: NAME or NAME:DEVICE of ``backends.ort_backend.PROVIDERS``."""
    require_gpu: bool = False
    """Fail rather than run any net on the CPU."""
    build_engines: bool = False
    """Build an engine that is missing, on first use."""

    def __post_init__(self) -> None:
        if re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device) is None:
            raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, not '{self.device}'")
        if self.runtime not in RUNTIMES:
            raise UsageError(f"--runtime must be one of {', '.join(RUNTIMES)}: '{self.runtime}'")
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"--precision must be one of {', '.join(PRECISIONS)}, not '{self.precision}'"
            )
        if self.device == "cpu":
            self._check_cpu()
        if self.provider is not None and self.runtime not in {AUTO, "onnxruntime"}:
            raise UsageError(f"--provider is for onnxruntime, not for --runtime {self.runtime}")
        if self.provider is not None and self.device != AUTO:
            raise UsageError("--provider says where to compute; leave --device out")
        if self.build_engines and self.runtime not in {AUTO, *FLAVOURS}:
            raise UsageError(f"--build-engines is for TensorRT, not for --runtime {self.runtime}")

    def _check_cpu(self) -> None:
        if self.runtime in FLAVOURS:
            raise UsageError(f"--runtime {self.runtime} needs a GPU; it cannot run on --device cpu")
        if self.require_gpu:
            raise UsageError("--require-gpu and --device cpu exclude each other")
        if self.precision == "fp16":
            raise UsageError("--precision fp16 is for GPUs; give fp32 or int8 for --device cpu")

    @property
    def gpu_index(self) -> int:
        """The GPU's number, 0 unless another was asked for."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def wants_gpu(self) -> bool:
        """Whether nothing but a GPU will do."""
        return (
            self.require_gpu
            or self.device.startswith("cuda")
            or self.provider is not None
            or self.runtime in FLAVOURS
        )
