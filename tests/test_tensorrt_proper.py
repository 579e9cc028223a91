"""TensorRT proper, as far as it goes without a GPU: by its real Python bindings.

Its libraries do nothing without a driver, and pip gets them from NVIDIA's own index; the bindings
are an ordinary package. Here they are loaded in a process of their own over libraries that only
say no. Over those of TensorRT-RTX, whose interface is the same in the versions named here, they
even build.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from engine_graphs import NAMES

BINDINGS = "tensorrt-cu13-bindings"
SAME_INTERFACE = {("11.4.0.106", "1.7.1.116")}
"""Versions of the bindings and of TensorRT-RTX that were seen to work together."""
REFUSING = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}
"""What the bindings look for in each library."""
PREAMBLE = """
import json, sys
import tensorrt_bindings as trt
sys.modules["tensorrt"] = trt  # what the package tensorrt is made of
"""


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return pytest.skip(f"needs {name} (extra [test-engines])")


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """Return a folder with libraries that the bindings can be loaded over, and that refuse."""
    version = installed(BINDINGS)
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("refusing")
    for library, names in REFUSING.items():
        source = folder / f"{library}.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in names))
        target = folder / f"lib{library}.so.{version.split('.')[0]}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
    return folder


@pytest.fixture(scope="module")
def building(refusing, tmp_path_factory):
    """Return a folder with libraries that build."""
    versions = installed(BINDINGS), installed("tensorrt-rtx")
    if versions not in SAME_INTERFACE:
        pytest.skip(f"not known whether these versions have the same interface: {versions}")
    (libraries,) = find_spec("tensorrt_rtx_libs").submodule_search_locations
    folder = tmp_path_factory.mktemp("building")
    for library in refusing.glob("lib*"):
        (folder / library.name).symlink_to(library)
    for name, rtx in (("nvinfer", "tensorrt_rtx"), ("nvonnxparser", "tensorrt_onnxparser_rtx")):
        (library,) = folder.glob(f"lib{name}.so.*")
        library.unlink()
        library.symlink_to(Path(libraries) / f"lib{rtx}.so.1")
    (folder / "libtensorrt_rtx.so.1").symlink_to(Path(libraries) / "libtensorrt_rtx.so.1")
    return folder


def in_a_process(libraries, script, *arguments):
    """Return what a script prints as JSON; it has the bindings as ``trt``, over some libraries."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)],
        env={**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_bindings_have_what_is_used(refusing):
    script = """
from tensorrt_names import BUILDER, RUNTIME, missing
print(json.dumps(missing(trt, BUILDER, RUNTIME)))
"""
    assert in_a_process(refusing, script) == []


def test_where_tensorrt_refuses_to_begin_that_is_said(refusing):
    script = """
from engine_graphs import graph_of
from streamface.card import load
from streamface.engines.build import BuildOptions, build_plan
from streamface.errors import BackendUnavailable
from streamface.model import card_path
try:
    card = load(card_path("gender"))
    build_plan(graph_of("gender", "fp16"), card, BuildOptions("tensorrt", "fp16", 8))
except BackendUnavailable as error:
    print(json.dumps(str(error)))
"""
    told = in_a_process(refusing, script)
    assert told == (
        f"tensorrt {installed(BINDINGS)} cannot build on this machine: it gives no reason; "
        "it needs an NVIDIA GPU and its driver (tensorrt_rtx builds without)"
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_bindings_build_every_shipped_model(building, name, tmp_path):
    script = """
from pathlib import Path
from engine_graphs import graph_of
from streamface.card import load
from streamface.engines.build import BuildOptions, build_plan, network_facts
from streamface.model import card_path
name, cache, card = sys.argv[1], Path(sys.argv[2]), load(card_path(sys.argv[1]))
out = {}
for precision in ("fp32", "fp16", "int8"):
    graph, steps = graph_of(name, precision), []
    options = BuildOptions("tensorrt", precision, 64, timing_cache=cache, optimisation_level=2)
    crops = network_facts(graph, card, options).inputs[0]
    plan = build_plan(graph, card, options, progress=lambda *step: steps.append(step))
    out[precision] = {
        "plan": len(plan), "crops": [crops.dtype, crops.profile[-1][0]], "steps": len(steps),
        "cache": cache.stat().st_size,
    }
print(json.dumps(out))
"""
    told = in_a_process(building, script, name, tmp_path / "timing.cache")
    assert told["fp32"]["plan"] > told["fp16"]["plan"] > 1e6
    for each in told.values():
        assert each["crops"] == ["uint8", 64]
        assert each["steps"] > 10
        assert each["cache"] > 0


def test_the_bindings_complain_in_their_own_words_and_can_be_stopped(building):
    script = """
from engine_graphs import graph_of
from streamface.card import load
from streamface.engines.build import BuildOptions, build_plan
from streamface.errors import ModelError
from streamface.model import card_path
card, options = load(card_path("emotion")), BuildOptions("tensorrt", "fp16", 8)
told = []
def stop(*step):
    raise KeyboardInterrupt
for graph, progress in ((b"garbage", None), (graph_of("emotion", "fp16"), stop)):
    try:
        build_plan(graph, card, options, progress=progress)
    except (ModelError, KeyboardInterrupt) as error:
        told.append([type(error).__name__, str(error)])
print(json.dumps(told))
"""
    (kind, words), stopped = in_a_process(building, script)
    assert kind == "ModelError"
    assert "cannot read emotion: the file: " in words
    assert stopped == ["KeyboardInterrupt", ""]
