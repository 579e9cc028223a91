"""The same function in operators that a CPU does faster, for graphs of code nets.

ONNX Runtime looks for a largest score through 1,024 planes of memory at twice the cost of looking
along rows, and rearranges a picture number by number, so that few numbers should be rearranged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_ROWS_LAST: Final = (0, 2, 3, 1)
_TWICE: Final = 2


def rewrite(model: onnx.ModelProto) -> None:
    """Rewrite a model in place; what it computes stays the same but for rounding.

    Weights must stand in it as such: what ``quant_pre_process`` leaves.
    """
    graph = _Graph(model)
    sizes = {
        each.name: each.type.tensor_type.shape.dim
        for each in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for node in list(model.graph.node):
        if node.op_type == "Gather":
            _size_as_number(graph, node, sizes)
        elif node.op_type == "ArgMax":
            _look_along_rows(graph, node)
        elif node.op_type == "Conv":
            _shuffle_last(graph, node)
    unused = set(graph.weights) - {value for node in model.graph.node for value in node.input}
    for name in unused:
        model.graph.initializer.remove(graph.weights[name])
    model.graph.ClearField("value_info")  # of the former shapes
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))


class _Graph:
    """Who makes a value, who takes it, and what the weights are."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.proto = model.graph
        self.weights = {each.name: each for each in model.graph.initializer}

    def maker(self, value: str) -> onnx.NodeProto | None:
        return next((node for node in self.proto.node if value in node.output), None)

    def takers(self, value: str) -> list[onnx.NodeProto]:
        return [node for node in self.proto.node if value in node.input]

    def is_output(self, value: str) -> bool:
        return any(each.name == value for each in self.proto.output)

    def weight(self, name: str) -> NDArray[np.float32]:
        return np.asarray(numpy_helper.to_array(self.weights[name]), np.float32)

    def add_weight(self, name: str, value: NDArray[Any]) -> str:
        """Give the graph another weight; a name that it has is taken for the same one."""
        if name not in self.weights:
            self.proto.initializer.append(numpy_helper.from_array(value, name))
            self.weights[name] = self.proto.initializer[-1]
        return name

    def replace(self, node: onnx.NodeProto, *others: onnx.NodeProto) -> None:
        place = list(self.proto.node).index(node)
        self.proto.node.remove(node)
        for other in reversed(others):
            self.proto.node.insert(place, other)


def _size_as_number(
    graph: _Graph, gather: onnx.NodeProto, sizes: Mapping[str, Sequence[Any]]
) -> None:
    """Put a number where the size of a value is asked for that is the same for any N.

    The exporter asks in every pass; what follows from a number is worked out once.
    """
    shape = graph.maker(gather.input[0])
    if shape is None or shape.op_type != "Shape" or gather.input[1] not in graph.weights:
        return
    places = numpy_helper.to_array(graph.weights[gather.input[1]])
    dims = sizes.get(shape.input[0], ())
    if any(i >= len(dims) or not dims[i].HasField("dim_value") for i in places.flat):
        return
    size = np.array([dims[i].dim_value for i in places.flat], np.int64).reshape(places.shape)
    number = graph.add_weight(f"{gather.output[0]}_size", size)
    for taker in graph.takers(gather.output[0]):
        for i, value in enumerate(taker.input):
            if value == gather.output[0]:
                taker.input[i] = number
    graph.proto.node.remove(gather)
    if not graph.takers(shape.output[0]):
        graph.proto.node.remove(shape)


def _look_along_rows(graph: _Graph, asked: onnx.NodeProto) -> None:
    """Score codes by a product of matrices, so that those of a place lie side by side."""
    scores = graph.maker(asked.input[0])
    if scores is None or scores.op_type != "Conv" or _attributes(asked).get("axis") != 1:
        return
    vectors, name, *bias = scores.input
    if bias or name not in graph.weights or graph.weights[name].dims[2:] != [1, 1]:
        return
    if len(graph.takers(scores.output[0])) != 1 or graph.is_output(scores.output[0]):
        return
    codes = graph.weight(name)
    rows = f"{scores.output[0]}_rows"
    table = graph.add_weight(f"{name}_table", np.ascontiguousarray(codes[:, :, 0, 0].T))
    graph.replace(
        scores,
        helper.make_node("Transpose", [vectors], [rows], f"{scores.name}_rows", perm=_ROWS_LAST),
        helper.make_node("MatMul", [rows, table], scores.output, f"{scores.name}_product"),
    )
    along = helper.make_node("ArgMax", asked.input, asked.output, asked.name, axis=-1, keepdims=0)
    graph.replace(asked, along)


def _shuffle_last(graph: _Graph, last: onnx.NodeProto) -> None:
    """Convolve before a sub-pixel shuffle, not after it, where fewer channels come out.

    A 3x3 convolution of the finer picture is one of the coarser, too: for each of the four pixels
    that one becomes it sees those on whose four they lie.
    """
    between = _silu(graph, last.input[0])
    if between is None or not set(last.input[1:]) <= set(graph.weights):
        return
    shuffle, *silu = between
    fine = graph.weight(last.input[1])
    makes, takes, *size = fine.shape
    wanted: dict[str, Any] = {
        "pads": [1] * 4, "strides": [1] * 2, "dilations": [1] * 2, "group": 1,
    }  # fmt: skip
    told = _attributes(last)
    if (
        size != [3, 3]
        or _TWICE**2 * makes >= takes
        or any(told.get(name, value) != value for name, value in wanted.items())
        or _attributes(shuffle) != {"mode": b"CRD", "blocksize": _TWICE}
    ):
        return
    for node in silu:
        for place, value in enumerate(node.input):
            if value == shuffle.output[0]:
                node.input[place] = shuffle.input[0]
    coarse = graph.add_weight(f"{last.input[1]}_coarse", coarser(fine))
    inputs = [last.input[0], coarse]
    if len(last.input) > len(inputs):
        bias = np.repeat(graph.weight(last.input[2]), _TWICE**2)
        inputs.append(graph.add_weight(f"{last.input[2]}_coarse", bias))
    before = f"{last.output[0]}_coarse"
    graph.proto.node.remove(shuffle)
    graph.replace(
        last,
        helper.make_node("Conv", inputs, [before], f"{last.name}_coarse", **wanted),
        helper.make_node(
            "DepthToSpace", [before], last.output, shuffle.name, blocksize=_TWICE, mode="CRD"
        ),
    )


def coarser(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (4 * M, 4 * N, 3, 3) weights that do on shuffled pixels what (M, N, 3, 3) did.

    Channels lie by fours, as DepthToSpace has them in its mode CRD.
    """
    makes, takes = fine.shape[:2]
    out = np.zeros((makes, 2, 2, takes, 2, 2, 3, 3), np.float32)
    for to_row, to_column, row, column in np.ndindex(2, 2, 3, 3):
        down, from_row = divmod(to_row + row - 1, _TWICE)
        across, from_column = divmod(to_column + column - 1, _TWICE)
        place = (to_row, to_column, slice(None), from_row, from_column, down + 1, across + 1)
        out[:, *place] = fine[:, :, row, column]
    return out.reshape(4 * makes, 4 * takes, 3, 3)


def _silu(graph: _Graph, value: str) -> Sequence[onnx.NodeProto] | None:
    """Return the shuffle, the sigmoid and the product that make a value; None if others do."""
    product = graph.maker(value)
    if product is None or product.op_type != "Mul":
        return None
    makers = [graph.maker(each) for each in product.input]
    found = {node.op_type: node for node in makers if node is not None}
    shuffle, sigmoid = found.get("DepthToSpace"), found.get("Sigmoid")
    if shuffle is None or sigmoid is None or sigmoid.input[0] != shuffle.output[0]:
        return None
    takers = {value: 1, shuffle.output[0]: 2, sigmoid.output[0]: 1}
    if any(len(graph.takers(v)) != n or graph.is_output(v) for v, n in takers.items()):
        return None
    return shuffle, sigmoid, product


def _attributes(node: onnx.NodeProto) -> Mapping[str, object]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
