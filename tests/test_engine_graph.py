"""What engines are built of, run by ONNX Runtime beside the float32 model that it is made from."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from engine_graphs import NAMES, graph_of, model_of, rows_of

from streamface.backends.onnx_runtime import ort
from streamface.engines.graph import PRECISIONS, Calibration, engine_graph
from streamface.errors import BackendUnavailable, ModelError
from streamface.model import CLASSIFIER, softmax

onnx = pytest.importorskip("onnx", reason="engine graphs are made with onnx (extra [dev])")

CODE_NETS = ("vqvae", "vqvae-prior")
HALVES = ("fp16", "int8")
FLOAT, FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
INT8, UINT8 = onnx.TensorProto.INT8, onnx.TensorProto.UINT8


def proto_of(name, precision):
    return onnx.load_from_string(graph_of(name, precision))


def run(content, feeds, outputs):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(outputs, feeds)


def answers(name, precision, count=16):
    """Return outputs of the model and of its engine graph, for the same grey levels."""
    card, content = model_of(name)
    rows = rows_of(card, count, seed=2)
    mean, std = (
        np.array(each, np.float32)[:, None, None] for each in (card.input.mean, card.input.std)
    )
    normalised = (rows.crops.astype(np.float32) - mean) / std
    expected = run(content, {"crops": normalised, **rows.conditions}, list(card.outputs))
    engine = graph_of(name, precision)
    return expected, run(engine, {"crops": rows.crops, **rows.conditions}, list(card.outputs))


def psnr_db(first, second):
    return 10 * np.log10(255**2 / np.mean((first - second) ** 2))


@pytest.mark.parametrize("name", NAMES)
def test_float32_gives_what_the_model_gives(name):
    for expected, found in zip(*answers(name, "fp32"), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.01), ("int8", 0.1)])
@pytest.mark.parametrize("name", ["emotion", "gender"])
def test_probabilities_stay_near(name, precision, tolerance):
    (expected,), (found,) = answers(name, precision)
    assert np.abs(softmax(found) - softmax(expected)).max() < tolerance


@pytest.mark.parametrize(("precision", "least_cosine"), [("fp16", 0.999), ("int8", 0.95)])
def test_vectors_point_the_same_way(precision, least_cosine):
    (expected, odd), (found, odd_too) = answers("likeness", precision)
    assert (expected * found).sum(1).min() > least_cosine
    np.testing.assert_allclose(odd_too, odd, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("precision", "at_least_db"), [("fp16", 45), ("int8", 28)])
@pytest.mark.parametrize("name", CODE_NETS)
def test_pictures_stay_near(name, precision, at_least_db):
    for expected, found in zip(*answers(name, precision), strict=True):
        assert psnr_db(expected, found) > at_least_db


@pytest.mark.parametrize("name", CODE_NETS)
def test_half_precision_leaves_nearly_every_code(name):
    card, content = model_of(name)
    rows = rows_of(card, 16, seed=2)
    mean, std = np.float32(card.input.mean[0]), np.float32(card.input.std[0])
    expected = codes_of(content, {"crops": (rows.crops - mean) / std, **rows.conditions})
    found = codes_of(graph_of(name, "fp16"), {"crops": rows.crops, **rows.conditions})
    assert len(expected) == len(found) > 0
    for first, second in zip(expected, found, strict=True):
        assert np.mean(first == second) > 0.99


def codes_of(content, feeds):
    model = onnx.load_from_string(content)
    names = [node.output[0] for node in model.graph.node if node.op_type == "ArgMax"]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return run(model.SerializeToString(), feeds, names)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_outputs_are_the_cards(name, precision):
    card, _ = model_of(name)
    graph = proto_of(name, precision).graph
    assert [facts(value) for value in graph.input] == [
        ("crops", UINT8, ["n", *card.input.shape]),
        *((each, FLOAT, ["n", *shape]) for each, shape in card.conditions.items()),
    ]
    assert [value.name for value in graph.output] == list(card.outputs)
    assert all(value.type.tensor_type.elem_type == FLOAT for value in graph.output)


def facts(value):
    tensor = value.type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    return value.name, tensor.elem_type, shape


def test_each_card_of_a_shared_file_gets_its_own_answer():
    """One net answers for FER-2013 and FER+; an engine computes what its card asks for."""
    card, content = model_of("emotion-ferplus")
    graph = onnx.load_from_string(engine_graph(card, content, "fp16")).graph
    assert [value.name for value in graph.output] == ["logits_ferplus"]


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_half_precision(name):
    graph = proto_of(name, "fp16").graph
    types = {each.name: each.data_type for each in graph.initializer}
    exact = exact_nodes(graph)
    layers = [node for node in graph.node if node.op_type in {"Conv", "Gemm"}]
    halves = [node for node in layers if node.name not in exact]
    assert halves
    assert {types[node.input[1]] for node in halves} == {FLOAT16}
    exactly = [node for node in layers if node.name in exact]
    assert len(exactly) == {"vqvae": 2, "vqvae-prior": 1}.get(name, 0)
    assert {types[node.input[1]] for node in exactly} <= {FLOAT}


def exact_nodes(graph):
    """Return the names of what the numbers of codes come from."""
    maker = {output: node for node in graph.node for output in node.output}
    return {maker[node.input[0]].name for node in graph.node if node.op_type == "ArgMax"}


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("name", CODE_NETS)
def test_codes_and_pictures_never_pass_through_a_half(name, precision):
    """Between the distances and the choice of a code, and behind the last layer."""
    graph = proto_of(name, precision).graph
    maker = {output: node for node in graph.node for output in node.output}
    choosing = [node for node in graph.node if node.op_type == "ArgMax"]
    assert {maker[node.input[0]].op_type for node in choosing} == {"Conv"}
    for value in graph.output:
        assert maker[value.name].op_type in {"Mul", "Slice"}  # no cast
    for node in graph.node:
        before = maker.get(node.input[0]) if casts_to(node, FLOAT) else None
        assert before is None or not casts_to(before, FLOAT16), f"{node.name}: there and back"


def casts_to(node, kind):
    return node.op_type == "Cast" and node.attribute[0].i == kind


@pytest.mark.parametrize("name", NAMES)
def test_int8_pairs_are_such_as_tensorrt_takes(name):
    """Symmetric, signed, of half precision outside, and per channel where they hold weights."""
    card, _ = model_of(name)
    graph = proto_of(name, "int8").graph
    values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    for node in pairs:
        scale, zero = values[node.input[1]], values[node.input[2]]
        assert (scale.dtype, zero.dtype) == (np.float16, np.int8)
        assert not zero.any()
        assert (scale > 0).all()
    maker = {output: node for node in graph.node for output in node.output}
    kinds = {"Conv", "Gemm"} if card.kind == CLASSIFIER else {"Conv"}
    layers = [node for node in graph.node if node.op_type in kinds]
    quantised = [node for node in layers if node.input[1] not in values]
    plain = [node for node in layers if node.input[1] in values]
    assert len(pairs) == 2 * 2 * len(quantised)  # nothing else has any
    exact = exact_nodes(graph)
    assert exact <= {node.name for node in plain}
    assert all(node.name in exact or reads_crops(node, maker) for node in plain)
    for node in quantised:
        assert maker[node.input[0]].op_type == "DequantizeLinear"
        weights = maker[node.input[1]]
        stored = values[maker[weights.input[0]].input[0]]
        assert values[weights.input[1]].shape == (len(stored),)
        assert node.input[2] in values  # its offsets, as they are


def reads_crops(node, maker):
    """Return whether only the cast and the normalisation stand between the crops and a node."""
    name = node.input[0]
    while name in maker and maker[name].op_type in {"Cast", "Div", "Sub"}:
        name = maker[name].input[0]
    return name == "crops"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_input_gives_the_same_bytes(precision):
    """An engine is known by the hash of what it was built of."""
    card, content = model_of("gender")
    calibration = rows_of(card, 24, seed=1) if precision == "int8" else None
    assert engine_graph(card, content, precision, calibration) == graph_of("gender", precision)


@pytest.mark.parametrize("content", [b"", b"no ONNX at all", b"\x08\x07\x12\xff\xff\xff\xff"])
def test_what_is_no_onnx_is_refused(content):
    card, _ = model_of("emotion")
    with pytest.raises(ModelError, match="not a usable ONNX"):
        engine_graph(card, content, "fp32")


def test_another_models_file_is_refused():
    card, _ = model_of("emotion")
    _, content = model_of("gender")
    with pytest.raises(ModelError, match=r"takes crops \(3, 96, 96\), but its card says"):
        engine_graph(card, content, "fp16")


def test_other_conditions_are_refused():
    card, _ = model_of("vqvae")
    _, content = model_of("vqvae-prior")
    with pytest.raises(ModelError, match=r"scenes \(48,\).* but its card says .*emotions \(7,\)"):
        engine_graph(card, content, "fp16")


def test_a_missing_output_is_named():
    card, content = model_of("emotion")
    model = onnx.load_from_string(content)
    model.graph.output[0].name = "logits_ferplus"
    del model.graph.output[1]
    with pytest.raises(ModelError, match="no output named 'logits'"):
        engine_graph(card, model.SerializeToString(), "fp32")


def test_int8_without_faces_is_refused():
    card, content = model_of("vqvae")
    rows = rows_of(card, 3, seed=0)
    with pytest.raises(ValueError, match="calibration crops; none"):
        engine_graph(card, content, "int8")
    for crops in (rows.crops[:0], rows.crops[:, :1], rows.crops.astype(np.float32)):
        with pytest.raises(ValueError, match=r"must be \(N, 3, 64, 64\) uint8"):
            engine_graph(card, content, "int8", Calibration(crops, rows.conditions))
    for conditions in ({}, {"emotions": rows.conditions["emotions"][:2]}):
        with pytest.raises(ValueError, match=r"must hold emotions: \(3, 7\)"):
            engine_graph(card, content, "int8", Calibration(rows.crops, conditions))


def test_an_unknown_precision_is_refused():
    card, content = model_of("emotion")
    with pytest.raises(ValueError, match="one of fp32, fp16, int8"):
        engine_graph(card, content, "fp8")


def test_a_missing_package_is_named(monkeypatch):
    card, content = model_of("emotion")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailable, match="pip install onnx"):
        engine_graph(card, content, "fp32")
