"""A stand-in for TensorRT that computes on the fake CUDA's memory and holds callers to the rules.

The net: a row's sum, plus two, three ... times the sum of each condition, times a weight for each
class; and the grey levels' negatives as a picture. All of it is exact in float32.
"""

from __future__ import annotations

import enum
import weakref
from dataclasses import dataclass, field

import numpy as np
from fake_cuda import Error, Refused

PLAN = b"a good plan"
CLASSES = 3
DataType = enum.Enum("DataType", "FLOAT HALF UINT8 INT32")
TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
ExecutionContextAllocationStrategy = enum.Enum(
    "ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED"
)
DynamicShapesKernelSpecializationStrategy = enum.Enum(
    "DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE"
)
NUMPY = {DataType.FLOAT: np.float32, DataType.UINT8: np.uint8}


def net(crops, *conditions):
    """Return (logits, picture) of (n, C, H, W) uint8 and (n, ...) float32."""
    sums = crops.reshape(len(crops), -1).sum(axis=1, dtype=np.float32)
    for weight, each in enumerate(conditions, 2):
        sums = sums + weight * each.reshape(len(each), -1).sum(axis=1)
    logits = sums[:, None] * np.arange(1, CLASSES + 1, dtype=np.float32)
    return logits.astype(np.float32), 255 - crops.astype(np.float32)


class Log:
    """As engines.flavour.EngineLog."""

    def __init__(self):
        self.handle = self
        self.lines = []

    def forget(self):
        self.lines.clear()

    def reason(self):
        return "; ".join(self.lines) or "it gives no reason"


@dataclass
class Model:
    """What the plan holds, and how the engine misbehaves."""

    shape: tuple = (1, 2, 3)
    conditions: dict = field(default_factory=dict)
    largest: int = 4
    smallest: int = 1
    scratch_bytes: int = 512
    outputs: tuple = ("picture", "logits")  # not the card's order
    crops_dtype: DataType = DataType.UINT8
    logits_dtype: DataType = DataType.FLOAT
    batch: int = -1
    ranges: dict = field(default_factory=dict)
    refuse: object = None  # a function of (rows, capturing): whether to refuse
    spoil_captures: bool = False
    capturable: bool = True
    no_context: bool = False
    in_capture: object = None  # called while a capture of this engine is under way

    def tensors(self):
        """Return name -> (mode, dtype, shape of a row)."""
        rows = {"logits": (CLASSES,), "picture": self.shape}
        dtypes = {"logits": self.logits_dtype}
        return {
            # Neither inputs nor outputs stand in the card's order.
            **{
                n: (TensorIOMode.INPUT, DataType.FLOAT, s)
                for n, s in reversed(self.conditions.items())
            },
            **{
                n: (TensorIOMode.OUTPUT, dtypes.get(n, DataType.FLOAT), rows.get(n, (1,)))
                for n in self.outputs
            },
            "crops": (TensorIOMode.INPUT, self.crops_dtype, self.shape),
        }


class FakeTensorRt:
    """The module ``tensorrt``; with ``rtx`` the module ``tensorrt_rtx``."""

    __version__ = "10.99"
    DataType = DataType
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, cuda, model, *, rtx=False):
        self.cuda = cuda
        self.model = model
        self.rtx = rtx
        self.contexts = weakref.WeakSet()
        self.ended_elsewhere = 0  # contexts that ended while another device was current
        self.scratch_users = {}  # address of scratch memory -> the stream that may be using it
        if rtx:
            self.DynamicShapesKernelSpecializationStrategy = (
                DynamicShapesKernelSpecializationStrategy
            )

    def Runtime(self, logger):  # noqa: N802 - TensorRT's name
        return Runtime(self, logger)


class Runtime:
    def __init__(self, trt, logger):
        self.trt, self.logger = trt, logger

    def deserialize_cuda_engine(self, plan):
        if plan != PLAN:
            self.logger.lines.append("Error Code 6: the engine plan file is not compatible")
            return None
        return Engine(self.trt, self.logger)


class RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
    strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy


class Engine:
    def __init__(self, trt, logger):
        self.trt, self.logger = trt, logger
        self.device = trt.cuda.device  # an engine stays on the device that was current
        self.tensors = trt.model.tensors()
        self.device_memory_size_v2 = trt.model.scratch_bytes
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.tensors[name][0]

    def get_tensor_dtype(self, name):
        return self.tensors[name][1]

    def get_tensor_shape(self, name):
        return (self.trt.model.batch, *self.tensors[name][2])

    def get_tensor_profile_shape(self, name, index):
        assert index == 0
        assert self.tensors[name][0] == TensorIOMode.INPUT
        model = self.trt.model
        least, most = model.ranges.get(name, (model.smallest, model.largest))
        return [(n, *self.tensors[name][2]) for n in (least, most, most)]

    def create_runtime_config(self):
        return RuntimeConfig()

    def create_execution_context(self, how):
        config = how
        if not self.trt.rtx:
            assert isinstance(how, ExecutionContextAllocationStrategy)
            config = RuntimeConfig()
            config.strategy = how
        if self.trt.model.no_context:
            self.logger.lines.append("Error Code 2: out of memory")
            return None
        context = (RtxContext if self.trt.rtx else Context)(self, config)
        self.trt.contexts.add(context)
        weakref.finalize(context, self._note_the_end_of_a_context)
        return context

    def _note_the_end_of_a_context(self):
        if self.trt.cuda.device != self.device:
            self.trt.ended_elsewhere += 1


class Context:
    def __init__(self, engine, config):
        self.engine, self.config = engine, config
        self.shapes, self.addresses = {}, {}
        self.scratch = None
        self.warm = False

    def set_device_memory(self, address, size_bytes):
        assert self.config.strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        assert address % 256 == 0
        assert size_bytes >= self.engine.device_memory_size_v2
        self.scratch = address

    def set_input_shape(self, name, shape):
        if name not in self.engine.tensors:
            return self._no(f"no input {name}")
        mode, _, row = self.engine.tensors[name]
        least, _, most = self.engine.get_tensor_profile_shape(name, 0)
        if mode != TensorIOMode.INPUT or shape[1:] != row or not least[0] <= shape[0] <= most[0]:
            return self._no(f"{shape} of {name} is out of the profile")
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, address):
        if name not in self.engine.tensors or not isinstance(address, int):
            return self._no(f"no tensor {name}")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, handle):
        trt, engine = self.engine.trt, self.engine
        cuda, model = trt.cuda, trt.model
        inputs = [n for n, (mode, *_) in engine.tensors.items() if mode == TensorIOMode.INPUT]
        for wrong, why in (
            (cuda.last_error, f"an error of somebody else's: {cuda.last_error.name}"),
            (cuda.device != engine.device, "the engine is on another device"),
            (set(self.addresses) != set(engine.tensors), "an address is not set"),
            (set(self.shapes) != set(inputs), "a shape is not set"),
            (len({shape[0] for shape in self.shapes.values()}) != 1, "batches differ"),
            (engine.device_memory_size_v2 and self.scratch is None, "no scratch memory"),
        ):
            if wrong:
                return self._no(why)
        rows = self.shapes["crops"][0]
        stream = cuda.stream(handle)
        capture = stream.capture
        if capture is not None and model.in_capture is not None:
            model.in_capture()
        if capture is not None and (model.spoil_captures or not self.warm):
            capture.spoilt = True
            return self._no("operation not permitted when stream is capturing")
        if model.refuse is not None and model.refuse(rows, capture is not None):
            return self._no("Error Code 3: the enqueue is refused")
        try:
            with cuda.lock:
                cuda.put(handle, self._work(rows, handle))
        except Refused as exc:
            return self._no(exc.error.name)
        self.warm = True
        return True

    def _work(self, rows, handle):
        """Return what the device does, with the addresses and shapes as they are now."""
        engine, cuda = self.engine, self.engine.trt.cuda
        addresses, scratch, device = dict(self.addresses), self.scratch, engine.device
        me = weakref.ref(self)

        def memory(name):
            _, dtype, row = engine.tensors[name]
            dtype = np.dtype(NUMPY[dtype])
            size = rows * int(np.prod(row)) * dtype.itemsize
            found = cuda.at(addresses[name], size, device)
            return found.view(dtype).reshape(rows, *row)

        def compute():
            if me() is None:
                raise Refused(Error.cudaErrorIllegalAddress)  # the context is gone
            if scratch is not None:
                cuda.at(scratch, engine.device_memory_size_v2, device)[:] = 0xCC
                user = engine.trt.scratch_users.setdefault(scratch, handle)
                assert user == handle, "two streams share scratch memory"
            crops = memory("crops")
            given = [memory(name) for name in engine.trt.model.conditions]
            results = dict(zip(("logits", "picture"), net(crops, *given), strict=True))
            for name, (mode, *_) in engine.tensors.items():
                if mode == TensorIOMode.OUTPUT:
                    memory(name)[:] = results[name]

        return compute

    def _no(self, why):
        self.engine.logger.lines.append(why)
        return False


class RtxContext(Context):
    def is_stream_capturable(self, stream):
        eager = DynamicShapesKernelSpecializationStrategy.EAGER
        chosen = self.config.dynamic_shapes_kernel_specialization_strategy
        return self.warm and self.engine.trt.model.capturable and chosen == eager
