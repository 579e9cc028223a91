"""Smaller numbers for a finished model: int8 for CPUs, float16 for GPUs; cards go along."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import onnx

from streamface.backends import onnx_runtime  # noqa: F401 - first: it keeps ONNX Runtime quiet
from streamface.card import load, read_onnx, save
from streamface.errors import UsageError
from streamface.model import CLASSIFIER
from streamface.training import cpu_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamface.card import ModelCard
    from streamface.frame import BatchF32

Precision: TypeAlias = Literal["int8", "fp16"]
PRECISIONS: Final[tuple[Precision, ...]] = ("int8", "fp16")
_STEP: Final = 64


def convert(
    card_paths: Sequence[Path],
    precision: Precision,
    crops: BatchF32,
    folder: Path,
    conditions: Mapping[str, BatchF32] | None = None,
) -> list[ModelCard]:
    """Write the ONNX that the cards share in another precision, and a card for each; return them.

    crops: (N, C, H, W) float32 of real faces, as ``crop_into`` makes them; int8 takes its ranges
    from them. conditions: the same of the model's further inputs, by name. Files and cards are
    named after the first with ``-int8`` or ``-fp16`` added. Inputs
    and outputs stay float32. Raises UsageError if the cards are of different ONNX files.
    """
    cards = [load(path) for path in card_paths]
    if len({card.sha256 for card in cards}) != 1:
        raise UsageError("cards of different ONNX files cannot be converted together")
    folder.mkdir(parents=True, exist_ok=True)
    onnx_path = folder / f"{Path(cards[0].onnx).stem}-{precision}.onnx"
    content = read_onnx(cards[0], card_paths[0])
    if precision == "fp16":
        _write_fp16(content, onnx_path)
    else:
        feeds = {"crops": crops, **(conditions or {})}
        _write_int8(content, onnx_path, feeds, draws=cards[0].kind != CLASSIFIER)
    sha256 = hashlib.sha256(onnx_path.read_bytes()).hexdigest()
    out = []
    for card in cards:
        known = {key: value for key, value in card.trained.items() if key != "metrics"}
        made_from = {"made_from_sha256": card.sha256, "precision": precision}
        changed = replace(
            card,
            name=f"{card.name}-{precision}",
            onnx=onnx_path.name,
            sha256=sha256,
            trained={**known, **made_from},
        )
        save(changed, folder / f"{changed.name}.json")
        out.append(changed)
    return out


def _write_fp16(content: bytes, path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load_from_string(content), keep_io_types=True)
    onnx.save(model, str(path))


def _write_int8(content: bytes, path: Path, feeds: Mapping[str, BatchF32], *, draws: bool) -> None:
    """Quantise weights per channel and activations per tensor, as explicit Q/DQ pairs.

    draws: whether the net makes pictures. Then only its convolutions are quantised, which loses
    0.05 dB of a re-made face where quantising everything loses 0.8 and is hardly faster; and not
    those that tell the codes apart, if ``cpu_graph`` leaves any.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch:
        plain, ready = Path(scratch) / "plain.onnx", Path(scratch) / "ready.onnx"
        plain.write_bytes(content)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        whole: list[str] = []
        if draws:
            model = onnx.load(ready)
            cpu_graph.rewrite(model)
            onnx.save(model, ready)
            whole = _telling_codes(model)
        quantize_static(
            ready,
            path,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Seven bits of weight: with eight, sums saturate on CPUs that have AVX2 but not VNNI.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv"] if draws else None,
            nodes_to_exclude=whole,
            extra_options={"CalibMovingAverage": True},
        )


class _Reader:
    """Hands calibration faces out in batches."""

    def __init__(self, feeds: Mapping[str, BatchF32]) -> None:
        parts = max(1, len(feeds["crops"]) // _STEP)
        split = {name: np.array_split(values, parts) for name, values in feeds.items()}
        self._batches = iter([{name: split[name][i] for name in split} for i in range(parts)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _telling_codes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes whose largest output is the number of a code."""
    maker = {output: node.name for node in model.graph.node for output in node.output}
    return [maker[node.input[0]] for node in model.graph.node if node.op_type == "ArgMax"]
