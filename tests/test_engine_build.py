"""Engines by the real TensorRT-RTX, which needs no GPU; a stand-in for TensorRT proper."""

from __future__ import annotations

import itertools
import logging
import signal
import subprocess
import sys
import threading
import types
from enum import IntEnum
from functools import cache

import pytest
from engine_graphs import NAMES, graph_of

from streamface.card import load, read_onnx
from streamface.engines import flavour
from streamface.engines.build import (
    MAX_BATCH,
    BuildOptions,
    TensorFacts,
    build_plan,
    network_facts,
)
from streamface.errors import BackendUnavailable, ModelError, SinkError, UsageError
from streamface.model import card_path

onnx = pytest.importorskip("onnx", reason="engine graphs are made with onnx (extra [dev])")
RTX = "tensorrt_rtx"


@pytest.fixture
def rtx():
    return pytest.importorskip(RTX, reason="needs tensorrt-rtx")


@cache
def card_of(name):
    return load(card_path(name))


def options(**changes):
    return BuildOptions(**{"flavour": RTX, "precision": "fp16", "max_batch": 64, **changes})


# What RTX builds.


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_model_builds_without_a_gpu(rtx, name, precision):
    told = []
    plan = build_plan(
        graph_of(name, precision),
        card_of(name),
        options(precision=precision),
        progress=lambda *step: told.append(step),
    )
    # All weights are in it.
    assert len(plan) > 0.9 * len(graph_of(name, precision))
    assert told
    assert all(0 <= done <= steps for _, done, steps in told)
    assert ("Building engine", 0) in {(phase, done) for phase, done, _ in told}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", NAMES)
def test_rtx_reads_the_cards_inputs_outputs_and_profile(rtx, name, precision):
    card = card_of(name)
    found = network_facts(
        graph_of(name, precision), card, options(precision=precision, max_batch=100, opt_batch=24)
    )
    rows = {"crops": card.input.shape, **card.conditions}
    assert found.inputs == tuple(
        TensorFacts(
            each,
            "uint8" if each == "crops" else "float32",
            (-1, *row),
            tuple((batch, *row) for batch in (1, 24, 100)),
        )
        for each, row in rows.items()
    )
    shapes = {"logits": (len(card.labels),), "vectors": (128,), "oddness": (1,)}
    assert found.outputs == tuple(
        TensorFacts(each, "float32", (-1, *shapes.get(each, card.input.shape)))
        for each in card.outputs
    )
    assert found.layers > 40


def test_options_reach_rtx(rtx):
    changed = options(max_batch=1, workspace_bytes=1 << 28, optimisation_level=0, target="portable")
    assert build_plan(graph_of("gender", "fp16"), card_of("gender"), changed)


def test_a_timing_cache_is_left_alone_by_rtx(rtx, tmp_path):
    """There they are deprecated and do nothing; asking would be a warning, here an error."""
    path = tmp_path / "missing" / "timing.cache"
    assert build_plan(graph_of("gender", "fp16"), card_of("gender"), options(timing_cache=path))
    assert not path.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("enough")])
def test_who_listens_can_stop_the_build(rtx, error):
    told = []

    def listen(*step):
        told.append(step)
        if len(told) == 5:
            raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        build_plan(graph_of("gender", "fp16"), card_of("gender"), options(), progress=listen)
    assert len(told) == 5


# What RTX refuses.


def refusal(graph, name="emotion", error=ModelError, **changes):
    """Return the one line of an error."""
    with pytest.raises(error) as caught:
        build_plan(graph, card_of(name), options(**changes))
    assert type(caught.value) is error
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("garbage", [b"", b"hello" * 100])
def test_garbage_that_reads_as_an_empty_graph_is_refused(rtx, garbage):
    assert "has nothing, but its card says crops" in refusal(garbage)


def test_garbage_is_refused_in_tensorrts_words(rtx):
    line = refusal(graph_of("emotion", "fp16")[:5000])
    assert line.startswith(f"tensorrt_rtx {rtx.__version__} cannot read emotion: ")
    assert line.endswith("Failed to parse the ONNX model.")


def test_the_int8_of_cpus_is_refused_in_tensorrts_words(rtx):
    """Unsigned activations with a zero point, as ONNX Runtime likes them."""
    path = card_path("emotion-int8")
    line = refusal(read_onnx(load(path), path))
    assert "crops_QuantizeLinear: " in line
    assert "Non-zero zero point is not supported" in line


def test_a_second_open_axis_is_refused_in_tensorrts_words(rtx):
    model = onnx.load_from_string(graph_of("emotion", "fp16"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    line = refusal(model.SerializeToString())
    assert "Dynamic input tensor crops is missing dimensions in profile" in line


def test_a_cards_own_onnx_is_refused(rtx):
    path = card_path("emotion")
    line = refusal(read_onnx(load(path), path))
    assert (
        "has crops float32 (-1, 1, 48, 48), but its card says crops uint8 (-1, 1, 48, 48)" in line
    )
    assert line.endswith("make it with engine_graph")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "gender",
            "has crops uint8 (-1, 1, 48, 48), but its card says crops uint8 (-1, 3, 96, 96)",
        ),
        ("vqvae", "has crops, but its card says crops, emotions"),
        ("emotion-ferplus", "has logits float32, but its card says logits_ferplus float32"),
    ],
)
def test_another_models_graph_is_refused(rtx, name, told):
    assert told in refusal(graph_of("emotion", "fp16"), name)


def test_the_gpu_at_hand_is_missed_where_there_is_none(rtx):
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    if cudart.cudaGetDeviceCount()[0] == cudart.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU")
    line = refusal(graph_of("emotion", "fp16"), error=BackendUnavailable, target="current")
    assert "cannot build emotion: " in line
    assert "CUDA driver version is insufficient" in line


def test_an_error_is_not_told_twice(rtx):
    """Each build has its own words, though the log is one."""
    refusal(graph_of("emotion", "fp16")[:5000])
    assert build_plan(graph_of("gender", "fp16"), card_of("gender"), options())
    assert flavour.engine_log(RTX).reason() == "it gives no reason"


# Options.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_batch": 0}, f"in 1..{MAX_BATCH}, not 0"),
        ({"max_batch": MAX_BATCH + 1}, f"in 1..{MAX_BATCH}, not {MAX_BATCH + 1}"),
        ({"max_batch": 4, "opt_batch": 5}, "in 1..4, the largest, not 5"),
        ({"opt_batch": 0}, "in 1..64, the largest, not 0"),
        ({"workspace_bytes": 0}, "must be positive, not 0 bytes"),
        ({"optimisation_level": 6}, "in 0..5, not 6"),
        ({"flavour": "tensorrt", "target": "portable"}, "GPU at hand only; use tensorrt_rtx"),
    ],
)
def test_impossible_options_are_refused(changes, told):
    with pytest.raises(UsageError, match=told):
        options(**changes)


@pytest.mark.parametrize("changes", [{"flavour": "tensorrt_lean"}, {"precision": "fp8"}])
def test_unknown_names_are_misuse(changes):
    with pytest.raises(ValueError, match="can be built"):
        options(**changes)


@pytest.mark.parametrize(("largest", "usual"), [(1, 1), (7, 7), (8, 8), (MAX_BATCH, 8)])
def test_the_usual_batch_is_eight_where_it_can_be(largest, usual):
    assert options(max_batch=largest).batches == (1, usual, largest)


@pytest.mark.parametrize(("name", "target"), [("tensorrt", "current"), (RTX, "portable")])
def test_what_a_plan_is_for_unless_it_is_said(name, target):
    assert options(flavour=name).builds_for == target


# Flavours.


def test_installed_names_what_can_be_found():
    assert set(flavour.installed()) <= {"tensorrt", RTX}


def test_rtx_tells_its_version(rtx):
    assert RTX in flavour.installed()
    assert flavour.version(RTX) == rtx.__version__


def package(folder, monkeypatch, name, content):
    """Put a package in front of whatever is installed under its name."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_bindings_without_their_libraries_say_what_is_missing(tmp_path, monkeypatch):
    words = "libnvonnxparser.so.11: cannot open shared object file: No such file or directory"
    package(tmp_path, monkeypatch, "tensorrt", f"raise ImportError({words!r})")
    assert "tensorrt" in flavour.installed()
    with pytest.raises(
        BackendUnavailable, match=r"cannot be loaded: libnvonnxparser\.so\.11: .*; "
    ):
        flavour.load("tensorrt")


def test_a_flavour_that_misses_a_part_is_broken_not_absent(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, "tensorrt", "import tensorrt_bindings_of_nobody")
    with pytest.raises(BackendUnavailable, match="is installed but cannot be loaded: No module"):
        flavour.load("tensorrt")


@pytest.mark.parametrize(("name", "pip"), [("tensorrt", "tensorrt"), (RTX, "tensorrt-rtx")])
def test_a_missing_flavour_comes_with_its_pip_line(monkeypatch, name, pip):
    def missing(module):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(flavour.importlib, "import_module", missing)
    with pytest.raises(BackendUnavailable, match=rf"^{name} is not installed; pip install {pip}$"):
        flavour.load(name)
    with pytest.raises(ValueError, match="one of tensorrt, tensorrt_rtx"):
        flavour.load("tensorrt_lean")


# TensorRT proper, which cannot run here: a stand-in with its names, and with none that 11 removed.


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class Logger:
    """The real one is of pybind11, which wants its __init__ called by name."""

    Severity = Severity

    def __init__(self):
        self.made = True


class Monitor:
    def __init__(self):
        self.made = True


class Tensor:
    def __init__(self, value):
        tensor = value.type.tensor_type
        self.name = value.name
        self.dtype = tensor.elem_type
        self.shape = [axis.dim_value or -1 for axis in tensor.shape.dim]


class Network:
    num_layers = 3

    def __init__(self, flags):
        self.flags = flags
        self.inputs, self.outputs = [], []

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_input(self, number):
        return self.inputs[number]

    def get_output(self, number):
        return self.outputs[number]


class Parser:
    num_errors = 0

    def __init__(self, network, log):
        assert log.made
        self.network = network

    def parse(self, graph):
        model = onnx.load_from_string(graph)
        self.network.inputs = [Tensor(each) for each in model.graph.input]
        self.network.outputs = [Tensor(each) for each in model.graph.output]
        return True


class Cache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return memoryview(self.content)


class Config:
    def __init__(self):
        self.cleared, self.limits, self.profiles, self.offered = [], {}, [], []
        self.kept = None

    def clear_flag(self, flag):
        self.cleared.append(flag)

    def set_memory_pool_limit(self, pool, size_bytes):
        self.limits[pool] = size_bytes

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, content):
        return Cache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.offered.append(cache.content)
        if cache.content.startswith(b"foreign"):
            return False
        self.kept = cache
        return True

    def get_timing_cache(self):
        return self.kept


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, *shapes):
        self.shapes[name] = shapes


class Builder:
    """Builds a plan of one word, and fails as the real one does where it is told to."""

    fails: str | None = None

    def __init__(self, log):
        self.log = log
        if self.fails == "begin":
            log.log(
                Severity.ERROR,
                "createInferBuilder: Error Code 6: API Usage Error (CUDA initialization failure "
                "with error: 35)\n",
            )
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags):
        self.network = Network(flags)
        return self.network

    def create_builder_config(self):
        self.config = Config()
        return self.config

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        assert monitor.made
        monitor.phase_start("Building", None, 2)
        steps = itertools.count() if self.fails == "never ends" else range(2)
        for step in steps:
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
        self.log.log(Severity.VERBOSE, "much")
        self.log.log(Severity.INFO, "little")
        self.log.log(Severity.WARNING, "odd")
        if self.fails == "memory":
            self.log.log(Severity.ERROR, "Error Code 2: OutOfMemory (CUDA out of memory)")
            return None
        if self.fails == "silently":
            return None
        if config.kept is not None:
            config.kept.content += b"+1"
        type(self).last = self
        return memoryview(b"plan")


@pytest.fixture(params=[("10.16.1.11", 1), ("11.4.0.106", 0)], ids=["10.x", "11.x"])
def proper(request, monkeypatch):
    """Return a stand-in of TensorRT proper, in place of whatever is installed."""
    release, typed = request.param
    module = types.ModuleType("tensorrt")
    module.__version__ = release
    module.ILogger, module.IProgressMonitor, module.OnnxParser = Logger, Monitor, Parser
    module.Builder = type("FreshBuilder", (Builder,), {})
    module.NetworkDefinitionCreationFlag = IntEnum("Flag", {"STRONGLY_TYPED": typed})
    module.BuilderFlag = IntEnum("BuilderFlag", {"TF32": 7})
    module.MemoryPoolType = IntEnum("MemoryPoolType", {"WORKSPACE": 0})
    module.nptype = lambda kind: onnx.helper.tensor_dtype_to_np_dtype(kind).type
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    flavour.engine_log.cache_clear()
    yield module
    flavour.engine_log.cache_clear()


def build_proper(**changes):
    told = []
    plan = build_plan(
        graph_of("vqvae", "fp16"),
        card_of("vqvae"),
        options(flavour="tensorrt", **changes),
        progress=lambda *step: told.append(step),
    )
    return plan, told


def test_tensorrt_proper_gets_a_strongly_typed_network_and_a_profile(proper):
    plan, told = build_proper(max_batch=32, workspace_bytes=1 << 30, optimisation_level=4)
    assert plan == b"plan"
    assert told == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2), ("Building", 2, 2)]
    built = proper.Builder.last
    assert built.network.flags == 1 << int(proper.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert built.config.cleared == [proper.BuilderFlag.TF32]
    assert built.config.limits == {proper.MemoryPoolType.WORKSPACE: 1 << 30}
    assert built.config.builder_optimization_level == 4
    (profile,) = built.config.profiles
    assert profile == {
        "crops": ((1, 3, 64, 64), (8, 3, 64, 64), (32, 3, 64, 64)),
        "emotions": ((1, 7), (8, 7), (32, 7)),
    }


def test_the_timing_cache_grows_from_build_to_build(proper, tmp_path):
    path = tmp_path / "timing.cache"
    for offered, kept in (([b""], b"+1"), ([b"+1"], b"+1+1")):
        build_proper(timing_cache=path)
        assert proper.Builder.last.config.offered == offered
        assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]


def test_a_timing_cache_of_another_gpu_is_replaced(proper, tmp_path):
    path = tmp_path / "timing.cache"
    path.write_bytes(b"foreign")
    build_proper(timing_cache=path)
    assert proper.Builder.last.config.offered == [b"foreign", b""]
    assert path.read_bytes() == b"+1"


def test_a_timing_cache_that_cannot_be_is_said(proper, tmp_path):
    with pytest.raises(SinkError, match="cannot read the timing cache"):
        build_proper(timing_cache=tmp_path)
    with pytest.raises(SinkError, match="its folder does not exist"):
        build_proper(timing_cache=tmp_path / "missing" / "timing.cache")


def test_a_failed_build_leaves_the_timing_cache(proper, tmp_path):
    path = tmp_path / "timing.cache"
    path.write_bytes(b"old")
    proper.Builder.fails = "silently"
    with pytest.raises(ModelError, match="cannot build vqvae: it gives no reason"):
        build_proper(timing_cache=path)
    assert path.read_bytes() == b"old"


def test_without_a_driver_tensorrt_proper_says_so(proper):
    proper.Builder.fails = "begin"
    with pytest.raises(BackendUnavailable) as caught:
        build_proper()
    line = str(caught.value)
    assert line.startswith(f"tensorrt {proper.__version__} cannot build on this machine: ")
    assert "CUDA initialization failure with error: 35" in line
    assert "(tensorrt_rtx builds without)" in line
    assert "\n" not in line


def test_a_gpu_that_fails_is_not_the_models_fault(proper):
    proper.Builder.fails = "memory"
    with pytest.raises(BackendUnavailable, match="CUDA out of memory"):
        build_proper()


@pytest.fixture
def heeds_ctrl_c():
    """Python ignores it where the shell that started it in the background says so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals another thread")
def test_ctrl_c_stops_a_build_that_takes_long(proper, heeds_ctrl_c):
    """The thread that waits is hit, and the one that builds is told; no_thread_survives looks."""
    proper.Builder.fails = "never ends"

    def listen(_phase, done, _steps):
        if done == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_plan(
            graph_of("vqvae", "fp16"),
            card_of("vqvae"),
            options(flavour="tensorrt"),
            progress=listen,
        )


def test_the_gpu_is_chosen_in_the_thread_that_builds(proper):
    where = []
    build_plan(
        graph_of("vqvae", "fp16"),
        card_of("vqvae"),
        options(flavour="tensorrt"),
        progress=lambda *_: where.append(threading.get_ident()),
        begin=lambda: where.append(threading.get_ident()),
    )
    assert len(set(where)) == 1
    assert where[0] != threading.get_ident()


def test_a_gpu_that_cannot_be_chosen_is_said(proper):
    def begin():
        raise BackendUnavailable("no such GPU")

    with pytest.raises(BackendUnavailable, match="no such GPU"):
        build_plan(
            graph_of("vqvae", "fp16"), card_of("vqvae"), options(flavour="tensorrt"), begin=begin
        )


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = (
        "import sys, streamface.engines.build, streamface.engines.flavour\n"
        "streamface.engines.flavour.installed()\n"
        "print(*{name.split('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(done.stdout.split()) & {"onnx", "onnxruntime", "tensorrt", RTX, "cuda", "cv2"}


def test_messages_go_to_the_log_at_levels_that_do_not_shout(proper, caplog):
    caplog.set_level(logging.DEBUG, logger="streamface.engines")
    proper.Builder.fails = "memory"
    with pytest.raises(BackendUnavailable):
        build_proper()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "little"),
        ("INFO", "odd"),
        ("INFO", "Error Code 2: OutOfMemory (CUDA out of memory)"),
    ]
