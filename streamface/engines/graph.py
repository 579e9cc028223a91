"""The ONNX that an engine is built of: grey levels in, precision written into the graph.

A strongly typed network computes in the types that its graph says, so half precision and int8 are
put there here, on top of the float32 ONNX beside a card. Its first input becomes ``crops``, uint8
(n, C, H, W): a quarter of the bytes to upload. ONNX Runtime runs these graphs too, which is how
they are tested without a GPU.
"""

from __future__ import annotations

import importlib
import tempfile
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import numpy as np

from streamface.compute import Precision
from streamface.errors import BackendUnavailable, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from streamface.card import InputSpec, ModelCard
    from streamface.frame import BatchF32

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
INPUT: Final = "crops"
"""Name of the first input of every engine."""
_CLASSIFIER: Final = "classifier"
_QDQ_OPSET: Final = 19  # the first whose QuantizeLinear and DequantizeLinear know half precision
_ROWS: Final = 64  # calibration rows at a time
_POINTWISE: Final = frozenset(("Add", "Cast", "Clip", "Div", "Mul", "Slice", "Sub"))


class Calibration(NamedTuple):
    """What int8 takes the ranges of a model's numbers from."""

    crops: NDArray[np.uint8]
    """(N, C, H, W) grey levels of faces, as many and as different as can be had."""
    conditions: Mapping[str, BatchF32]
    """(N, ...) float32 each: the same of the model's further inputs, by name."""


def engine_graph(
    card: ModelCard, onnx: bytes, precision: Precision, calibration: Calibration | None = None
) -> bytes:
    """Return the ONNX of a card's engine.

    onnx: the card's own, float32. Inputs of the result: ``crops``, uint8 (n, C, H, W), what
    ``crop_into`` gives before it normalises, rounded; then the conditions as they were. Outputs:
    float32, those of the card and in its order. n is free.

    fp16: the nets compute in half precision, but for what tells codes apart and what turns the
    last layer into pictures. int8: on top of that, the inputs and weights of convolutions (and
    of a classifier's other products) pass through symmetric 8-bit pairs of QuantizeLinear and
    DequantizeLinear, which is what TensorRT takes; ``calibration`` gives the ranges.

    Raises ModelError if ``onnx`` is none or not the card's, ValueError for int8 without
    calibration or with some that does not fit the card, BackendUnavailable without the package
    onnx.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    model = _parsed(card, onnx)
    _keep_outputs(model.graph, card)
    _drop_identities(model.graph)
    if precision == "int8":
        if calibration is None:
            raise ValueError("int8 takes its ranges from calibration crops; none were given")
        model = _quantised(model, card, calibration)
        _drop_foreign_opsets(model)
    if precision != "fp32":
        model = _halved(model)
    _take_grey_levels(model.graph, card.input)
    _sort(model.graph)
    del model.graph.value_info[:]  # some is of tensors that are no more
    _package("onnx").checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _package(name: str) -> Any:
    """Return the package onnx, or a module of it; raises BackendUnavailable without it."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise BackendUnavailable(
            f"engines are built with the package onnx, which cannot be imported: {exc}; "
            "pip install onnx"
        ) from exc


def _parsed(card: ModelCard, content: bytes) -> Any:
    """Return the ONNX as a ModelProto whose nodes all have names; ModelError if it is not one."""
    onnx = _package("onnx")
    decode_error = _package("google.protobuf.message").DecodeError
    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
    except (decode_error, onnx.checker.ValidationError) as exc:
        reason = " ".join(str(exc).split())
        raise ModelError(f"{card.onnx}: not a usable ONNX: {reason}") from exc
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    _check_inputs(model.graph, card)
    return model


def _check_inputs(graph: Any, card: ModelCard) -> None:
    weights = {value.name for value in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    float32 = _package("onnx").TensorProto.FLOAT
    found = {value.name: _row(value) for value in inputs}
    wanted = dict(zip(found, (card.input.shape,), strict=False)) | dict(card.conditions)
    typed = all(value.type.tensor_type.elem_type == float32 for value in inputs)
    if found != wanted or list(found)[1:] != list(card.conditions) or not typed:
        takes = ", ".join(f"{name} {shape}" for name, shape in found.items()) or "nothing"
        says = ", ".join(f"{name} {shape}" for name, shape in wanted.items()) or "otherwise"
        raise ModelError(f"{card.onnx}: takes {takes}, but its card says {says}, all float32")


def _row(value: Any) -> tuple[int, ...]:
    """Return the shape of one row of an input; 0 stands for an axis of no fixed length."""
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)[1:]


def _keep_outputs(graph: Any, card: ModelCard) -> None:
    """Leave the card's outputs, in its order, and the nodes that they need."""
    found = {value.name: value for value in graph.output}
    missing = [name for name in card.outputs if name not in found]
    if missing:
        raise ModelError(f"{card.onnx}: has no output named {missing[0]!r}, as its card says")
    del graph.output[:]
    graph.output.extend(found[name] for name in card.outputs)
    _drop_unread(graph)


def _drop_unread(graph: Any) -> None:
    """Drop the nodes that no output needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed.update(node.input)
            kept.append(node)
    _set_nodes(graph, reversed(kept))


def _set_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _rename_read(graph: Any, names: Mapping[str, str]) -> None:
    """Let every node that reads a key of ``names`` read its value instead."""
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in names:
                node.input[place] = names[name]


def _drop_identities(graph: Any) -> None:
    """Let nodes read what they read through an Identity; outputs keep theirs.

    The two lookups of a code net share their weights through one, and as a node of half
    precision it would take the weights with it.
    """
    outputs = {value.name for value in graph.output}
    sources: dict[str, str] = {}
    for node in graph.node:  # in order, so that a chain of them leads to its beginning
        if node.op_type == "Identity" and node.output[0] not in outputs:
            sources[node.output[0]] = sources.get(node.input[0], node.input[0])
    _rename_read(graph, sources)
    _drop_unread(graph)


def _exact_nodes(graph: Any) -> list[str]:
    """Return the names of the nodes that stay in float32 whatever the precision.

    Those that tell which code is the nearest: halves tie, and another code is another patch of a
    face. And the pointwise ones behind the last layer, for a half has steps of an eighth in the
    upper grey levels.
    """
    maker = {output: node for node in graph.node for output in node.output}
    choosing = [node for node in graph.node if node.op_type == "ArgMax"]
    exact = {node.name for node in choosing}
    exact |= {maker[node.input[0]].name for node in choosing if node.input[0] in maker}
    left = [value.name for value in graph.output]
    while left:
        node = maker.get(left.pop())
        if node is not None and node.op_type in _POINTWISE and node.name not in exact:
            exact.add(node.name)
            left.extend(node.input)
    return sorted(exact)


def _halved(model: Any) -> Any:
    """Return the model in half precision, its inputs and outputs still float32."""
    _package("onnx")
    from streamface.backends import onnx_runtime  # noqa: F401, I001 - first: it keeps ONNX Runtime quiet
    from onnxruntime.transformers.float16 import convert_float_to_float16

    exact = _exact_nodes(model.graph)
    model = convert_float_to_float16(model, keep_io_types=True, node_block_list=exact)
    _sort(model.graph)
    _drop_round_trips(model.graph)
    return model


def _drop_round_trips(graph: Any) -> None:
    """Join the nodes in float32 that the conversion has parted: it casts to half and back between.

    Only casts of float32 are made to half in there, so both of a pair can go.
    """
    types = _package("onnx").TensorProto
    outputs = {value.name for value in graph.output}
    maker = {output: node for node in graph.node for output in node.output}
    names: dict[str, str] = {}
    for back in graph.node:
        there = maker.get(back.input[0]) if _casts_to(back, types.FLOAT) else None
        if there is None or not _casts_to(there, types.FLOAT16):
            continue
        if back.output[0] not in outputs:
            names[back.output[0]] = there.input[0]
        elif there.input[0] in maker:  # the output keeps its name: what makes it takes it over
            made = maker[there.input[0]]
            made.output[list(made.output).index(there.input[0])] = back.output[0]
            names[there.input[0]] = back.output[0]
            back.output[0] = f"{back.output[0]}_unread"
    _rename_read(graph, names)
    _drop_unread(graph)


def _casts_to(node: Any, kind: int) -> bool:
    return bool(node.op_type == "Cast" and node.attribute[0].i == kind)


def _quantised(model: Any, card: ModelCard, calibration: Calibration) -> Any:
    """Return the float32 model with 8-bit pairs before its convolutions, and what they read.

    Only inputs are quantised: TensorRT fuses a convolution with the additions and activations
    behind it, up to the next pair. A convolution that reads the crops stays as it is: it has
    three channels at most, and their grey levels would lose their last bit to the sign.
    """
    onnx = _package("onnx")
    from streamface.backends import onnx_runtime  # noqa: F401, I001 - first: it keeps ONNX Runtime quiet
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = _feeds(card, model.graph.input[0].name, calibration)
    quantised = ["Conv", "Gemm"] if card.kind == _CLASSIFIER else ["Conv"]
    with tempfile.TemporaryDirectory() as scratch:
        plain, ready, done = (Path(scratch) / f"{name}.onnx" for name in ("plain", "ready", "done"))
        onnx.save(onnx.version_converter.convert_version(model, _QDQ_OPSET), str(plain))
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        prepared = onnx.load(str(ready))
        first = prepared.graph.input[0].name
        reads_crops = [node.name for node in prepared.graph.node if first in node.input]
        quantize_static(
            ready,
            done,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=quantised,
            nodes_to_exclude=[*_exact_nodes(prepared.graph), *reads_crops],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "AddQDQPairToWeight": True,
                "OpTypesToExcludeOutputQuantization": quantised,
                "CalibMovingAverage": True,
            },
        )
        return onnx.load(str(done))


def _drop_foreign_opsets(model: Any) -> None:
    """Leave the operator sets that nodes are of; ONNX Runtime adds all that it knows."""
    used = {node.domain for node in model.graph.node}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _feeds(card: ModelCard, first: str, calibration: Calibration) -> dict[str, BatchF32]:
    """Return the calibration rows as the float32 model takes them; ValueError if they don't fit."""
    crops = calibration.crops
    if crops.shape != (len(crops), *card.input.shape) or crops.dtype != np.uint8 or not len(crops):
        wanted = ", ".join(map(str, ("N", *card.input.shape)))
        raise ValueError(f"calibration crops must be ({wanted}) uint8, not {crops.shape}")
    for name, shape in card.conditions.items():
        rows = calibration.conditions.get(name)
        if rows is None or rows.shape != (len(crops), *shape):
            raise ValueError(f"calibration conditions must hold {name}: {(len(crops), *shape)}")
    mean, std = _columns(card.input)
    feeds = {name: calibration.conditions[name] for name in card.conditions}
    return {first: (crops.astype(np.float32) - mean) / std, **feeds}


class _Reader:
    """Hands calibration rows out in batches."""

    def __init__(self, feeds: Mapping[str, BatchF32]) -> None:
        rows = len(next(iter(feeds.values())))
        self._batches = iter(
            {name: values[start : start + _ROWS] for name, values in feeds.items()}
            for start in range(0, rows, _ROWS)
        )

    def get_next(self) -> dict[str, BatchF32] | None:
        return next(self._batches, None)


def _columns(spec: InputSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation, (1, C, 1, 1) each."""
    mean, std = (np.array(each, np.float32) for each in (spec.mean, spec.std))
    return mean[None, :, None, None], std[None, :, None, None]


def _take_grey_levels(graph: Any, spec: InputSpec) -> None:
    """Put the cast and the normalisation of ``crop_into`` before everything else."""
    onnx = _package("onnx")
    helper, types = onnx.helper, onnx.TensorProto
    levels, centred, normalised = (
        f"{INPUT}_{each}" for each in ("levels", "centred", "normalised")
    )
    _rename_read(graph, {graph.input[0].name: normalised})
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, types.UINT8, ["n", *spec.shape]))
    for name, values in zip((f"{INPUT}_mean", f"{INPUT}_std"), _columns(spec), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    graph.node.extend(
        helper.make_node(kind, inputs, [output], name=f"/{output}", **more)
        for kind, inputs, output, more in (
            ("Cast", [INPUT], levels, {"to": types.FLOAT}),
            ("Sub", [levels, f"{INPUT}_mean"], centred, {}),
            ("Div", [centred, f"{INPUT}_std"], normalised, {}),
        )
    )


def _sort(graph: Any) -> None:
    """Put every node behind what it reads, as ONNX asks."""
    maker = {output: number for number, node in enumerate(graph.node) for output in node.output}
    needs = {
        number: [maker[name] for name in node.input if name in maker]
        for number, node in enumerate(graph.node)
    }
    _set_nodes(graph, [graph.node[number] for number in TopologicalSorter(needs).static_order()])
