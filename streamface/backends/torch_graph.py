"""An ONNX graph as a torch module: the operators that our exporters write, and no others.

The graph is read once into a list of steps. Three kinds of values pass between them: tensors;
single numbers of floating point, which are Python floats; and lists of whole numbers (axes, sizes),
which are tuples of Python ints. The last matter most. Exporters write ``x.chunk(2)`` as a chain of
Shape, Gather, Add, Div, Mul and Slice; the size of a tensor is known to the host, so all of the
chain is arithmetic of Python ints here. No number is ever read back from a tensor: a forward pass
never waits for a GPU, and a CUDA graph can be captured of it.

What depends on no input is computed once, when the graph is read. What is not known, an operator,
an attribute or one of its values, is refused then, by name, and not when the model runs.
"""

# Where torch is not installed its classes are unknown to mypy, and the module derives from one.
# mypy: disallow-subclassing-any=False

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np

from streamface.backends.torch_runtime import INSTALL, F, nn, torch
from streamface.errors import BackendUnavailable, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx
    from numpy.typing import NDArray
    from torch import Tensor

    _Ints: TypeAlias = tuple[int, ...]
    _Value: TypeAlias = Tensor | float | _Ints | None
    """What passes between steps; None is an optional input that was left out."""
    _Op: TypeAlias = Callable[..., Any]

_OPSET: Final = 17
"""What our exporters write; other versions give operators other attributes and inputs."""
_REHEARSED_ROWS: Final = (1, 2, 3)
_SPATIAL: Final = 2


def parse(content: bytes, where: str) -> onnx.ModelProto:
    """Return the parsed ONNX; raises ModelError, or BackendUnavailable without package onnx."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as exc:
        raise BackendUnavailable(f"the torch runtime needs onnx ({exc}): {INSTALL}") from exc
    try:
        return onnx.load_from_string(content)
    except DecodeError as exc:
        raise ModelError(f"{where}: not a usable ONNX: {exc}") from exc


class OnnxGraph(nn.Module):
    """A float32 ONNX graph; its initialisers are buffers, so ``to(device)`` moves the model."""

    def __init__(
        self, model: onnx.ModelProto, outputs: Sequence[str], where: str, *, half: bool = False
    ) -> None:
        """Read a graph.

        outputs: names of those that are wanted. where: names the file in messages. half: keep
        weights in float16 and compute so, except in the nodes whose largest output tells a code:
        there a rounding decides between two codes, so they stay float32. Raises ModelError.
        """
        super().__init__()
        self.inputs: Mapping[str, tuple[int, ...]] = _inputs(model, where)
        """Names of the inputs to the shapes of their rows."""
        self._outputs = tuple(outputs)
        self._half = half
        constants = _constants(model, where)
        steps = _fused(_read_steps(model, constants, where), self._outputs)
        known = {*self.inputs, *constants, *(name for step in steps for name in step.outputs)}
        for name in self._outputs:
            if name not in known:
                raise ModelError(f"{where}: has no output named {name!r}")
        self._steps = _with_drops(steps, {*self._outputs, *constants})
        self._host = {k: v for k, v in constants.items() if not isinstance(v, torch.Tensor)}
        self._buffer_names = tuple(k for k, v in constants.items() if isinstance(v, torch.Tensor))
        for number, name in enumerate(self._buffer_names):
            value = cast("Tensor", constants[name])
            if value.ndim == _SPATIAL + 2:
                value = value.contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"constant_{number}", value)
        self._rehearse(where)
        if half:
            self._halve()

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs, float32, in the order asked for.

        inputs: by name, (N, ...) float32 each, of one N. The outputs have N rows each.
        """
        values = self._start(inputs)
        for step in self._steps:
            step.run(values)
        return self._finish(values)

    def _start(self, inputs: Mapping[str, Tensor]) -> dict[str, _Value]:
        values: dict[str, _Value] = dict(self._host)
        buffers = self.named_buffers(remove_duplicate=False)
        values.update(
            (name, value) for name, (_, value) in zip(self._buffer_names, buffers, strict=True)
        )
        for name in self.inputs:
            values[name] = inputs[name].half() if self._half else inputs[name]
        return values

    def _finish(self, values: Mapping[str, _Value]) -> tuple[Tensor, ...]:
        return tuple(cast("Tensor", values[name]).float() for name in self._outputs)

    def _halve(self) -> None:
        kept = {name for step in _telling_codes(self._steps) for name in step.inputs}
        for number, name in enumerate(self._buffer_names):
            if name not in kept:
                key = f"constant_{number}"
                setattr(self, key, self.get_buffer(key).half())

    def _rehearse(self, where: str) -> None:
        """Run small batches of zeros, so that what cannot run is told now and by name."""
        for rows in _REHEARSED_ROWS:
            zeros = {name: torch.zeros(rows, *shape) for name, shape in self.inputs.items()}
            with torch.inference_mode():
                values = self._start(zeros)
                for step in self._steps:
                    step.rehearse(values, where)
            for name in self._outputs:
                value = values[name]
                if not isinstance(value, torch.Tensor) or value.shape[:1] != (rows,):
                    raise ModelError(f"{where}: output {name!r} has not one row for each crop")


@dataclass(frozen=True, slots=True)
class _Step:
    """One node, ready to run."""

    what: str
    """Operator and name, for messages."""
    kind: str
    op: _Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    drops: tuple[str, ...] = ()
    """Values that no later step needs; dropping them bounds the memory of a pass."""

    def run(self, values: dict[str, _Value]) -> None:
        """Compute the outputs of the inputs, in place."""
        made = self.op(*[values[name] for name in self.inputs])
        if len(self.outputs) == 1:
            values[self.outputs[0]] = made
        else:
            values.update(zip(self.outputs, made, strict=True))
        for name in self.drops:
            del values[name]

    def rehearse(self, values: dict[str, _Value], where: str) -> None:
        """Run, and raise ModelError that names the node if that fails."""
        try:
            self.run(values)
        except (RuntimeError, ValueError, TypeError, LookupError) as exc:
            reason = " ".join(str(exc).split())
            raise ModelError(f"{where}: {self.what} cannot run: {reason}") from exc


class _Node:
    """A node while it is read; whatever of it nobody asks for is refused."""

    def __init__(self, proto: onnx.NodeProto, where: str) -> None:
        from onnx.helper import get_attribute_value

        self.kind = proto.op_type
        self.inputs = tuple(proto.input)
        self.outputs = tuple(proto.output)
        self.what = f"operator {self.kind} ({proto.name or ', '.join(self.outputs)})"
        self._where = where
        self._attributes = {each.name: get_attribute_value(each) for each in proto.attribute}
        if proto.domain:
            raise self.refused(f"of domain {proto.domain!r}")

    def take(self, name: str, default: Any = None) -> Any:
        """Return an attribute, which is then known."""
        return self._attributes.pop(name, default)

    def expect(self, name: str, *allowed: object) -> None:
        """Refuse an attribute with another value than those; if it is missing, it is the first."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise self.refused(f"with {name} = {value!r}")

    def finish(self) -> None:
        """Refuse the attributes that nobody took."""
        for name in self._attributes:
            raise self.refused(f"with attribute {name!r}")

    def refused(self, reason: str = "") -> ModelError:
        """Return the error that says what of this node is not known."""
        parts = " ".join(part for part in (self.what, reason) if part)
        return ModelError(f"{self._where}: {parts} is not known to the torch runtime")


def _inputs(model: onnx.ModelProto, where: str) -> dict[str, tuple[int, ...]]:
    from onnx import TensorProto

    weights = {each.name for each in model.graph.initializer}
    shapes = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        if kind.elem_type != TensorProto.FLOAT:
            raise ModelError(f"{where}: input {value.name!r} must be float32")
        if not dims or dims[0] or not all(dims[1:]):
            raise ModelError(f"{where}: input {value.name!r} must be dynamic in the batch alone")
        shapes[value.name] = tuple(dims[1:])
    return shapes


def _constants(model: onnx.ModelProto, where: str) -> dict[str, _Value]:
    from onnx import numpy_helper

    constants: dict[str, _Value] = {"": None}  # the name of inputs that are left out
    for weight in model.graph.initializer:
        value = numpy_helper.to_array(weight)
        constants[weight.name] = _constant(value, f"{where}: initialiser {weight.name!r}")
    return constants


def _constant(value: NDArray[Any], what: str) -> _Value:
    """Return what stands for an array: see the module on the kinds of values."""
    if value.dtype == np.float32:
        return torch.from_numpy(value.copy()) if value.ndim else float(value)
    if value.dtype == np.int64 and value.ndim == 1:
        return tuple(map(int, value))
    raise ModelError(
        f"{what} is {value.dtype} of shape {value.shape}; the torch runtime knows float32, "
        "and int64 in one dimension"
    )


def _read_steps(
    model: onnx.ModelProto, constants: dict[str, _Value], where: str
) -> tuple[_Step, ...]:
    """Return the steps that need the inputs; add what the others give to ``constants``."""
    versions = {each.domain: each.version for each in model.opset_import}
    if versions.get("") != _OPSET:
        raise ModelError(
            f"{where}: is of ONNX opset {versions.get('')}; the torch runtime knows {_OPSET}"
        )
    steps = []
    lists = {name for name, value in constants.items() if isinstance(value, tuple)}
    for proto in model.graph.node:
        node = _Node(proto, where)
        if node.kind == "Constant":
            constants[node.outputs[0]] = value = _value_of(node)
            lists |= set(node.outputs) if isinstance(value, tuple) else set()
            continue
        on_lists = lists.issuperset(node.inputs)
        make = (_ON_LISTS if on_lists else _ON_TENSORS).get(node.kind)
        if make is None:
            raise node.refused("on sizes" if on_lists else "")
        step = _Step(node.what, node.kind, make(node), node.inputs, node.outputs)
        node.finish()
        lists |= set(node.outputs) if on_lists or node.kind == "Shape" else set()
        if constants.keys() >= set(node.inputs):
            step.rehearse(constants, where)
        else:
            steps.append(step)
    return tuple(steps)


def _value_of(node: _Node) -> _Value:
    from onnx import numpy_helper

    value = node.take("value")
    if value is None:
        raise node.refused("without a value")
    node.finish()
    return _constant(numpy_helper.to_array(value), node.what)


def _fused(steps: tuple[_Step, ...], outputs: Sequence[str]) -> tuple[_Step, ...]:
    """Return the steps with every x * sigmoid(x) made one, which reads the tensor once."""
    uses = Counter(outputs)
    uses.update(name for step in steps for name in step.inputs)
    gates = {
        step.outputs[0]: step
        for step in steps
        if step.kind == "Sigmoid" and uses[step.outputs[0]] == 1
    }
    gone, fused = set(), []
    for step in steps:
        gate = gates.get(step.inputs[-1])
        if step.kind == "Mul" and gate and gate.inputs == step.inputs[:1]:
            gone.add(gate.outputs[0])
            fused.append(_Step(step.what, "Silu", F.silu, gate.inputs, step.outputs))
        else:
            fused.append(step)
    return tuple(step for step in fused if step.outputs[0] not in gone)


def _with_drops(steps: Sequence[_Step], kept: set[str]) -> tuple[_Step, ...]:
    """Return the steps, each with the values that are needed after it no more."""
    finished: list[_Step] = []
    needed = set(kept)
    for step in reversed(steps):
        seen = {*step.inputs, *step.outputs}
        drops = tuple(sorted(seen - needed))
        needed |= seen
        finished.append(_Step(step.what, step.kind, step.op, step.inputs, step.outputs, drops))
    return tuple(reversed(finished))


def _telling_codes(steps: Sequence[_Step]) -> list[_Step]:
    """Return the steps whose largest output is the number of a code."""
    maker = {name: step for step in steps for name in step.outputs}
    asked = [step.inputs[0] for step in steps if step.kind == "ArgMax"]
    return [maker[name] for name in asked if name in maker]


# Lists of whole numbers ---------------------------------------------------------------------------


def _on_pairs(function: Callable[[int, int], int]) -> Callable[[_Node], _Op]:
    def run(a: _Ints, b: _Ints) -> _Ints:
        length = max(len(a), len(b))
        a, b = (each * length if len(each) == 1 else each for each in (a, b))
        return tuple(function(*pair) for pair in zip(a, b, strict=True))

    return lambda _: run


def _list_gather(node: _Node) -> _Op:
    node.expect("axis", 0)
    return lambda values, wanted: tuple(values[i] for i in wanted)


def _list_slice(_: _Node) -> _Op:
    def run(values: _Ints, starts: _Ints, ends: _Ints, axes: _Ints = (0,)) -> _Ints:
        if axes != (0,):
            raise ValueError(f"a list has no axes {axes}")
        return values[starts[0] : ends[0]]

    return run


def _list_concat(node: _Node) -> _Op:
    node.expect("axis", 0)
    return lambda *parts: tuple(value for part in parts for value in part)


# Sizes are never negative, so rounding down is ONNX's rounding towards zero.
_ON_LISTS: Final[Mapping[str, Callable[[_Node], _Op]]] = {
    "Add": _on_pairs(operator.add),
    "Concat": _list_concat,
    "Div": _on_pairs(operator.floordiv),
    "Gather": _list_gather,
    "Mul": _on_pairs(operator.mul),
    "Slice": _list_slice,
}


# Tensors ------------------------------------------------------------------------------------------


def _plain(function: _Op) -> Callable[[_Node], _Op]:
    """Return the maker of an operator that has no attributes."""
    return lambda _: function


def _window(node: _Node) -> dict[str, Any]:
    """Return kernel, stride and padding of a window that moves over pictures."""
    node.expect("auto_pad", b"NOTSET")
    size = node.take("kernel_shape")
    pads = node.take("pads", [0] * 2 * _SPATIAL)
    if len(size or ()) != _SPATIAL:
        raise node.refused(f"with kernel_shape = {size}")
    if pads[:_SPATIAL] != pads[_SPATIAL:]:
        raise node.refused(f"with pads = {pads}")
    strides = tuple(node.take("strides", [1] * _SPATIAL))
    return {"kernel_size": tuple(size), "stride": strides, "padding": tuple(pads[:_SPATIAL])}


def _conv(node: _Node) -> _Op:
    options = _window(node)
    del options["kernel_size"]  # the weights have it
    options |= {"dilation": tuple(node.take("dilations", [1, 1])), "groups": node.take("group", 1)}

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(_as_of(x, weight), weight, bias, **options)

    return run


def _as_of(x: Tensor, weight: Tensor) -> Tensor:
    """Return x in the precision of the weights, which decide what a product is computed in."""
    return x.to(weight.dtype)


def _max_pool(node: _Node) -> _Op:
    options = _window(node)
    node.expect("ceil_mode", 0)
    node.expect("storage_order", 0)
    node.expect("dilations", [1, 1])
    return lambda x: F.max_pool2d(x, **options)


def _average_pool(node: _Node) -> _Op:
    options = _window(node)
    node.expect("ceil_mode", 0)
    options["count_include_pad"] = bool(node.take("count_include_pad", 0))
    return lambda x: F.avg_pool2d(x, **options)


def _gemm(node: _Node) -> _Op:
    node.expect("alpha", 1.0)
    node.expect("beta", 1.0)
    node.expect("transA", 0)
    if not node.take("transB", 0):
        raise node.refused("with transB = 0")
    return lambda x, weight, bias=None: F.linear(_as_of(x, weight), weight, bias)


def _reduce_mean(node: _Node) -> _Op:
    axes, keep = tuple(node.take("axes", ())), bool(node.take("keepdims", 1))
    if not axes:
        raise node.refused("without axes")
    return lambda x: x.mean(axes, keepdim=keep)


def _reduce_sum(node: _Node) -> _Op:
    node.expect("noop_with_empty_axes", 0)
    keep = bool(node.take("keepdims", 1))
    return lambda x, axes: x.sum(axes, keepdim=keep)


def _split(node: _Node) -> _Op:
    axis = node.take("axis", 0)
    return lambda x, sizes: torch.split(x, list(sizes), axis)


def _argmax(node: _Node) -> _Op:
    axis, keep = node.take("axis", 0), bool(node.take("keepdims", 1))
    node.expect("select_last_index", 0)
    return lambda x: x.argmax(axis, keepdim=keep)


def _gather(node: _Node) -> _Op:
    node.expect("axis", 0)
    return lambda table, numbers: F.embedding(numbers, table)


def _transpose(node: _Node) -> _Op:
    order = node.take("perm")
    if order is None:
        raise node.refused("without perm")
    return lambda x: x.permute(order)


def _unsqueeze(_: _Node) -> _Op:
    def run(x: Tensor, axes: _Ints) -> Tensor:
        for axis in sorted(axes):
            x = x.unsqueeze(axis)
        return x

    return run


def _slice(_: _Node) -> _Op:
    def run(x: Tensor, starts: _Ints, ends: _Ints, axes: _Ints, steps: _Ints = ()) -> Tensor:
        if set(steps) - {1}:
            raise ValueError(f"steps of {steps} are not known")
        for start, end, axis in zip(starts, ends, axes, strict=True):
            size = x.shape[axis]
            first, stop, _ = slice(start, end).indices(size)
            x = x.narrow(axis, first, max(0, stop - first))
        return x

    return run


def _depth_to_space(node: _Node) -> _Op:
    size = node.take("blocksize")
    if node.take("mode", b"DCR") != b"CRD":  # torch's pixel shuffle orders channels as CRD does
        raise node.refused("with another mode than 'CRD'")
    return lambda x: F.pixel_shuffle(x, size)


def _clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    return x.clamp(low, high)


def _concat(node: _Node) -> _Op:
    axis = node.take("axis")
    return lambda *parts: torch.cat(parts, axis)


def _cast(node: _Node) -> _Op:
    from onnx import TensorProto

    node.expect("to", TensorProto.FLOAT)
    return lambda x: x.float()


def _reshape(node: _Node) -> _Op:
    node.expect("allowzero", 0)

    def run(x: Tensor, sizes: _Ints) -> Tensor:
        return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])

    return run


def _resize(node: _Node) -> _Op:
    node.expect("coordinate_transformation_mode", b"half_pixel")
    node.take("cubic_coeff_a")
    node.take("nearest_mode")
    if node.take("mode", b"nearest") != b"linear":
        raise node.refused("with another mode than 'linear'")

    def run(x: Tensor, roi: None, scales: None, sizes: _Ints) -> Tensor:
        if roi is not None or scales is not None or tuple(x.shape[:_SPATIAL]) != sizes[:_SPATIAL]:
            raise ValueError("only pictures are resized, to given sizes")
        return F.interpolate(x, size=sizes[_SPATIAL:], mode="bilinear", align_corners=False)

    return run


def _shape(_: _Node) -> _Op:
    return lambda x: tuple(x.shape)


_ON_TENSORS: Final[Mapping[str, Callable[[_Node], _Op]]] = {
    "Add": _plain(operator.add),
    "ArgMax": _argmax,
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _plain(_clip),
    "Concat": _concat,
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "Div": _plain(operator.truediv),
    "Erf": _plain(torch.erf),
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": _plain(lambda x: x),
    "MatMul": _plain(lambda a, b: torch.matmul(_as_of(a, b), b)),
    "MaxPool": _max_pool,
    "Mul": _plain(operator.mul),
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Split": _split,
    "Sub": _plain(operator.sub),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
