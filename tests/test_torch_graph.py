"""An ONNX graph on torch: the numbers of ONNX Runtime, and nothing that would wait for a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch runtime needs torch (extra [torch])")
onnx = pytest.importorskip("onnx", reason="the torch runtime needs onnx (extra [torch])")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from streamface import card as cards  # noqa: E402
from streamface.backends.onnx_runtime import ort  # noqa: E402
from streamface.backends.torch_graph import OnnxGraph, parse  # noqa: E402
from streamface.errors import ModelError  # noqa: E402
from streamface.model import card_path  # noqa: E402

JUDGE = Path(__file__).parents[1] / "engines" / "judge-emotion.json"
CARDS = {
    **{name: card_path(name) for name in ("emotion", "gender", "vqvae", "vqvae-prior")},
    "judge-emotion": JUDGE,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(name, **options):
    card = cards.load(CARDS[name])
    content = cards.read_onnx(card, CARDS[name])
    return OnnxGraph(parse(content, name), card.outputs, name, **options), card, content


def fed(graph, rows, seed=0):
    """Return smooth crops in -1..1 and whatever conditions a graph takes."""
    rng = np.random.default_rng(seed)
    feeds = {name: rng.standard_normal((rows, *s)) for name, s in graph.inputs.items()}
    channels, side, _ = graph.inputs["crops"]
    cells = rng.uniform(-1, 1, (rows, channels, 8, 8))
    feeds["crops"] = cells.repeat(side // 8, 2).repeat(side // 8, 3)
    return {name: value.astype(np.float32) for name, value in feeds.items()}


def passed(graph, feeds):
    with torch.inference_mode():
        outputs = graph({name: torch.from_numpy(value) for name, value in feeds.items()})
    return [output.numpy() for output in outputs]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CARDS)
def test_every_shipped_model_gives_what_onnx_runtime_gives(name, rows):
    graph, card, content = opened(name)
    feeds = fed(graph, rows)
    expected = ort.InferenceSession(content).run(list(card.outputs), feeds)
    found = passed(graph, feeds)
    # Pictures go to 255, so their tolerance is in grey levels. A code whose two best scores are as
    # good as equal may be told differently and change a patch; with these crops none is.
    tolerance = 1e-4 if card.kind == "classifier" else 0.05
    for one, other in zip(expected, found, strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance)
        assert np.ptp(one) > 0.1  # the crops make the net say something


@pytest.mark.parametrize("name", CARDS)
def test_no_row_knows_of_another(name):
    """What lets a batch be filled up with rows of no meaning."""
    graph, card, _ = opened(name)
    feeds = fed(graph, 4)
    some = passed(graph, {key: value[:2] for key, value in feeds.items()})
    tolerance = 1e-4 if card.kind == "classifier" else 0.05
    for one, other in zip(passed(graph, feeds), some, strict=True):
        np.testing.assert_allclose(one[:2], other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", CARDS)
def test_a_forward_pass_reads_no_number_back_from_a_tensor(name, half):
    """Tensors on "meta" have a shape and no content: whoever needs a content raises."""
    graph, card, _ = opened(name, half=half)
    graph.to("meta")
    for rows in (1, 2, 256):
        crops = {
            key: torch.empty(rows, *shape, device="meta") for key, shape in graph.inputs.items()
        }
        outputs = graph(crops)
        assert len(outputs) == len(card.outputs)
        assert all(output.dtype == torch.float32 and len(output) == rows for output in outputs)
        assert all(output.device.type == "meta" for output in outputs)


@pytest.mark.parametrize("name", ["emotion", "vqvae", "vqvae-prior"])
def test_a_forward_pass_can_be_traced_and_never_leaves_its_device(name):
    from torch.fx.experimental.proxy_tensor import make_fx

    graph, _, _ = opened(name)
    feeds = {key: torch.from_numpy(value) for key, value in fed(graph, 2).items()}
    traced = make_fx(graph)(feeds)  # raises where a tensor becomes a number
    calls = [each for each in traced.graph.nodes if each.op == "call_function"]
    names = {str(each.target) for each in calls}
    assert any("convolution" in name for name in names)
    assert not [name for name in names if "_local_scalar_dense" in name or "nonzero" in name]
    assert not [each for each in calls if "device" in each.kwargs]


def test_half_keeps_what_tells_the_codes_apart_in_float32():
    whole, card, content = opened("vqvae")
    half = opened("vqvae", half=True)[0]
    kept = [buffer for buffer in half.buffers() if buffer.dtype == torch.float32]
    model = onnx.load_from_string(content)
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    maker = {output: node for node in model.graph.node for output in node.output}
    asked = [maker[node.input[0]] for node in model.graph.node if node.op_type == "ArgMax"]
    assert len(asked) == 2
    assert len({buffer.data_ptr() for buffer in kept}) == 1  # both ask the same codes
    codes = next(weights[node.input[1]] for node in asked if node.input[1] in weights)
    for buffer in kept:
        np.testing.assert_array_equal(buffer, codes)
    assert sum(b.dtype == torch.float16 for b in half.buffers()) > 50
    assert all(b.dtype == torch.float32 for b in whole.buffers())
    assert card.kind == "reenactor"


def test_half_gives_nearly_the_same_probabilities():
    whole, half = opened("gender")[0], opened("gender", half=True)[0]
    feeds = fed(whole, 2)
    (one,), (other,) = passed(whole, feeds), passed(half, feeds)
    assert 0 < np.abs(one - other).max() < 0.02


def test_a_pass_keeps_only_what_is_still_needed():
    graph, _, _ = opened("vqvae")
    feeds = {key: torch.from_numpy(value) for key, value in fed(graph, 1).items()}
    with torch.inference_mode():
        values = graph._start(feeds)
        constants, most = set(values) - set(feeds), 0
        for step in graph._steps:
            step.run(values)
            most = max(most, len(set(values) - constants))
    assert set(values) - constants == set(graph._outputs)
    assert most < 20  # of 150 steps


def test_what_depends_on_no_input_is_computed_once():
    nodes = [
        helper.make_node("Add", ["one", "two"], ["three"]),
        helper.make_node("Identity", ["three"], ["same"]),
        helper.make_node("Mul", ["crops", "same"], ["logits"]),
    ]
    weights = {"one": np.array([1, 2], np.float32), "two": np.array(1, np.float32)}
    graph = OnnxGraph(small(nodes, weights), ["logits"], "x.onnx")
    assert [step.kind for step in graph._steps] == ["Mul"]
    (out,) = passed(graph, {"crops": np.array([[[[3, 5]]]], np.float32)})
    np.testing.assert_array_equal(out, [[[[6, 15]]]])


def test_a_gate_that_is_wanted_itself_stays():
    nodes = [
        helper.make_node("Sigmoid", ["crops"], ["gate"]),
        helper.make_node("Mul", ["crops", "gate"], ["logits"]),
    ]
    crops = np.array([[[[0, 2]]]], np.float32)
    for outputs, steps in (["logits"], 1), (["logits", "gate"], 2):
        graph = OnnxGraph(small(nodes), outputs, "x.onnx")
        assert len(graph._steps) == steps
        gate = 1 / (1 + np.exp(-crops))
        for name, found in zip(outputs, passed(graph, {"crops": crops}), strict=True):
            right = crops * gate if name == "logits" else gate
            np.testing.assert_allclose(found, right, rtol=1e-6)


def small(nodes, weights=None, shape=(1, 1, 2), opset=17, kind=TensorProto.FLOAT):
    """Return a model of a few nodes from "crops" to "logits"."""
    values = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    crops = helper.make_tensor_value_info("crops", kind, ["n", *shape])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "small", [crops], [logits], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(kind, inputs="crops", **attributes):
    return helper.make_node(kind, inputs.split(), ["logits"], "here", **attributes)


WINDOW = {"kernel_shape": [1, 1]}
INTS = {"ints": np.array([-1, 1], np.int64)}


@pytest.mark.parametrize(
    ("made", "weights", "message"),
    [
        (node("Tan"), {}, r"operator Tan \(here\) is not known"),
        (node("QuantizeLinear", "crops s"), {"s": np.float32([1])}, "operator QuantizeLinear"),
        (node("Relu", domain="com.microsoft"), {}, "of domain 'com.microsoft' is not known"),
        (node("Relu", alpha=1.0), {}, "with attribute 'alpha' is not known"),
        (node("MaxPool", ceil_mode=1, **WINDOW), {}, "with ceil_mode = 1"),
        (node("MaxPool", pads=[0, 0, 1, 1], **WINDOW), {}, r"with pads = \[0, 0, 1, 1\]"),
        (node("MaxPool", auto_pad="SAME_UPPER", **WINDOW), {}, "with auto_pad = b'SAME_UPPER'"),
        (node("AveragePool", kernel_shape=[1]), {}, r"with kernel_shape = \[1\]"),
        (node("Gemm", "crops w"), {"w": np.eye(2, dtype=np.float32)}, "with transB = 0"),
        (node("DepthToSpace", blocksize=1), {}, "with another mode than 'CRD'"),
        (node("Resize", "crops   ", mode="cubic"), {}, "another mode than 'linear'"),
        (node("Cast", to=TensorProto.DOUBLE), {}, "with to = 11"),
        (node("ArgMax", select_last_index=1), {}, "with select_last_index = 1"),
        (node("Transpose"), {}, "without perm"),
        (node("Reshape", "crops ints"), INTS, "output 'logits' has not one row for each crop"),
        (node("Conv", "crops w"), {"w": np.ones((1, 9, 1, 1), np.float32)}, "kernel_shape = None"),
        (node("Conv", "crops w", **WINDOW), {"w": np.ones((1, 9, 1, 1), np.float32)}, "cannot run"),
        (node("Add", "crops w"), {"w": np.float64([1])}, "initialiser 'w' is float64"),
        (node("Shape"), {}, "output 'logits' has not one row"),
        (node("Relu", "nobody"), {}, r"operator Relu \(here\) cannot run: 'nobody'"),
        (node("MatMul", "w w"), {"w": np.ones((1, 2), np.float32)}, "MatMul .* cannot run"),
    ],
)
def test_what_is_not_known_is_refused_by_name_when_it_is_loaded(made, weights, message):
    with pytest.raises(ModelError, match=message):
        OnnxGraph(small([made], weights), ["logits"], "x.onnx")


def test_arithmetic_of_sizes_that_is_not_known_is_refused():
    nodes = [
        helper.make_node("Shape", ["crops"], ["sizes"]),
        helper.make_node("Pow", ["sizes", "sizes"], ["powers"], "here"),
        helper.make_node("Reshape", ["crops", "powers"], ["logits"]),
    ]
    with pytest.raises(ModelError, match=r"operator Pow \(here\) on sizes is not known"):
        OnnxGraph(small(nodes), ["logits"], "x.onnx")


def test_halves_of_a_batch_are_cut_wherever_it_ends():
    """The chain of nodes that chunk(2) is exported as, on one crop and on many."""
    ints = {"zero": [0], "one": [1], "two": [2]}
    nodes = [
        helper.make_node("Concat", ["crops", "crops"], ["both"], axis=0),
        helper.make_node("Shape", ["both"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["rows"], axis=0),
        helper.make_node("Add", ["rows", "one"], ["more"]),
        helper.make_node("Div", ["more", "two"], ["half"]),
        helper.make_node("Mul", ["half", "two"], ["end"]),
        helper.make_node("Slice", ["both", "half", "end", "zero"], ["logits"]),
    ]
    weights = {name: np.array(value, np.int64) for name, value in ints.items()}
    graph = OnnxGraph(small(nodes, weights), ["logits"], "x.onnx")
    for rows in (1, 2, 5):
        crops = np.arange(rows * 2, dtype=np.float32).reshape(rows, 1, 1, 2)
        np.testing.assert_array_equal(passed(graph, {"crops": crops})[0], crops)


def test_a_slice_may_name_its_steps_if_they_are_of_one():
    ints = {"first": [1], "end": [4], "axis": [1], "one": [1], "two": [2]}
    weights = {name: np.array(value, np.int64) for name, value in ints.items()}

    def sliced(steps):
        nodes = [helper.make_node("Slice", ["crops", "first", "end", "axis", steps], ["logits"])]
        graph = OnnxGraph(small(nodes, weights, shape=(5, 1, 1)), ["logits"], "x.onnx")
        return passed(graph, {"crops": np.arange(10, dtype=np.float32).reshape(2, 5, 1, 1)})[0]

    np.testing.assert_array_equal(sliced("one").ravel(), (1, 2, 3, 6, 7, 8))
    with pytest.raises(ModelError, match="steps of"):
        sliced("two")


def test_other_files_are_refused():
    with pytest.raises(ModelError, match=r"x\.onnx: not a usable ONNX"):
        parse(b"no model", "x.onnx")
    with pytest.raises(ModelError, match="has no output named 'more'"):
        OnnxGraph(small([node("Relu")]), ["more"], "x.onnx")
    with pytest.raises(ModelError, match=r"of ONNX opset 18; the torch runtime knows 17"):
        OnnxGraph(small([node("Relu")], opset=18), ["logits"], "x.onnx")
    with pytest.raises(ModelError, match="'crops' must be dynamic in the batch alone"):
        OnnxGraph(small([node("Relu")], shape=("c", 1, 2)), ["logits"], "x.onnx")
    with pytest.raises(ModelError, match="'crops' must be float32"):
        OnnxGraph(small([node("Relu")], kind=TensorProto.UINT8), ["logits"], "x.onnx")
