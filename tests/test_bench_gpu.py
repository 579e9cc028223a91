"""The bench of all runtimes measures what there is on a CPU, and names what is missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="operations are counted with onnx (extra [dev])")
BENCH = Path(__file__).parents[1] / "tools" / "bench_gpu.py"
NETS = ("emotion", "gender")


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def run(*words):
    done = subprocess.run(
        [sys.executable, BENCH, *words], capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout, done.stderr


def test_several_nets_are_measured_one_after_the_other():
    code, out, err = run(
        "+".join(NETS), "--device", "cpu", "--batches", "1,3", "--seconds", "0", "--json", "-"
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["machine"]["gpu"] is None
    ways = report["models"]["emotion+gender"]["ways"]
    assert set(ways) == {"torch eager", "onnxruntime fp32", "onnxruntime int8"}
    plain = ways["onnxruntime fp32"]
    assert set(plain["parity"]) == set(NETS)
    assert plain["parity_fault"] is None
    assert [*plain["batches"]] == ["1", "3"]
    for figures in plain["batches"].values():
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        assert figures["runs"] >= 30
    if importlib.util.find_spec("torch") is None:
        # Rich takes square brackets for markup unless it is told not to.
        assert "pip install 'streamface[torch]'" in ways["torch eager"]["missing"]
        assert "streamface[torch]" in " ".join(err.replace("│", " ").split())


def test_what_two_nets_do_is_the_sum_of_what_each_does(bench):
    works = []
    for name in NETS:
        path = bench.card_path(name)
        card = bench.load(path)
        works.append(bench.work_of(card, bench.read_onnx(card, path)))
    both = works[0] + works[1]
    assert both.flops_per_face == works[0].flops_per_face + works[1].flops_per_face
    assert both.weight_values == works[0].weight_values + works[1].weight_values
    # A grey face of 48 x 48 and a coloured one of 96 x 96, seven emotions and two genders.
    assert both.value_count_per_face == 48 * 48 + 7 + 3 * 96 * 96 + 2


def test_a_multiply_add_is_two_operations(bench):
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    weights = {"kernels": (8, 1, 3, 3), "columns": (8, 5)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["crops", "kernels"], ["maps"], strides=[2, 2], pads=[1] * 4),
            helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
            helper.make_node("Flatten", ["means"], ["row"]),
            helper.make_node("MatMul", ["row", "columns"], ["logits"]),
        ],
        "toy",
        [helper.make_tensor_value_info("crops", floats, ["n", 1, 6, 4])],
        [helper.make_tensor_value_info("logits", floats, ["n", 5])],
        [
            onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)
            for name, shape in weights.items()
        ],
    )
    card = SimpleNamespace(
        input=SimpleNamespace(shape=(1, 6, 4)), conditions={}, outputs=("logits",)
    )
    work = bench.work_of(card, helper.make_model(graph).SerializeToString())
    assert work == bench.Work(2 * (9 * 8 * 3 * 2 + 8 * 5), 8 * 9 + 8 * 5, 6 * 4 + 5)


def test_the_least_time_is_that_of_what_takes_longest(bench):
    work, peak = bench.Work(200, 10, 30), bench.Peak(1000.0, 100.0)
    assert bench._least_s(work, 4, 2, peak) == (2 * 10 + 4 * 4 * 30) / 100.0
    assert bench._least_s(work, 4, 2, bench.Peak(100.0, 1e9)) == 4 * 200 / 100.0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("age", "--device", "cpu"), "no shipped model is named 'age'"),
        (("--device", "cuda:99"), "--device cuda:99: GPUs here: "),
        (("--device", "tpu"), "--device must be"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, told):
    code, _, err = run(*words)
    assert code in {1, 2}
    assert told in err.splitlines()[-1]
    assert "Traceback" not in err
