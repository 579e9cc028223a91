"""Parity, latency and throughput of every way to run the nets here, in a single call.

    python tools/bench_gpu.py --json gpu.json                  all runtimes on cuda:0, and a table
    python tools/bench_gpu.py --device cpu --batches 1,8       the same on the CPU
    python tools/bench_gpu.py --clip talk-1080p.mp4            end to end as well

Every time is from numpy crops to numpy answers, copies to the card and back included, and of one
batch after another; of ``emotion+gender``, of one net after the other, as the pipeline runs them.
``roofline_share`` is the least time that the card could need (its operations at the rate of a large
matrix product, or its bytes at that of a large copy, both measured in the same call) over the time
it took; it is told of GPUs only. torch without CUDA graphs is the yardstick of ``speedup``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamface.backends import open_backend
from streamface.builder import BuildRequest, build, face_crops
from streamface.card import load, read_onnx
from streamface.compute import FLAVOURS, Compute
from streamface.errors import StreamfaceError, UsageError
from streamface.model import card_path
from streamface.parity import compare, conditions_of, fault
from streamface.preprocess import as_input

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamface.backends import Backend
    from streamface.card import ModelCard
    from streamface.compute import Flavour, Precision
    from streamface.engines.gpu import Gpu
    from streamface.engines.store import EngineRecord

Report = dict[str, Any]

MODELS = ("emotion", "gender", "emotion+gender", "vqvae", "vqvae-prior")
BATCHES = (1, 8, 64, 256)
EAGER = "torch eager"
_CHECKED_ON_GPU, _CHECKED_ON_CPU = 512, 64
"""Least faces that answers are compared for; of 512, one label may differ."""
_WARM_UP = 10
_LEAST_RUNS, _MOST_RUNS = 30, 2000


@dataclass(frozen=True, slots=True)
class Peak:
    """What the device does at its best, as measured."""

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a model has to do, whatever runs it."""

    flops_per_face: int
    weight_values: int
    value_count_per_face: int
    """Numbers that must be read or written for every face: the crop and the answers."""

    def __add__(self, other: Work) -> Work:
        """Return what two models have to do."""
        return Work(
            self.flops_per_face + other.flops_per_face,
            self.weight_values + other.weight_values,
            self.value_count_per_face + other.value_count_per_face,
        )


def work_of(card: ModelCard, content: bytes) -> Work:
    """Count the multiply-adds (two operations each) of convolutions and products of an ONNX."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    graph = model.graph
    weights = {each.name: tuple(each.dims) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            weights[node.output[0]] = tuple(node.attribute[0].t.dims)
    shapes = {each.name: _shape(each) for each in (*graph.value_info, *graph.output)}
    flops = 0
    for node in graph.node:
        if node.op_type == "Conv":
            _, *kernel = weights[node.input[1]]
            flops += 2 * math.prod(kernel) * math.prod(shapes[node.output[0]])
        elif node.op_type in {"Gemm", "MatMul"} and node.input[1] in weights:
            flops += 2 * math.prod(weights[node.input[1]]) * _rows(shapes.get(node.output[0], (1,)))
    inputs = math.prod(card.input.shape) + sum(map(math.prod, card.conditions.values()))
    outputs = sum(math.prod(shapes[name]) for name in card.outputs)
    return Work(flops, sum(map(math.prod, weights.values())), inputs + outputs)


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a value for one face."""
    return tuple(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)


def _rows(shape: tuple[int, ...]) -> int:
    """Return how many rows of a matrix product there are for one face."""
    return math.prod(shape[:-1]) if shape else 1


def measure_peak(device: str, precision: str) -> Peak | None:
    """Return the rates of a large product and a large copy on a GPU; None for what torch lacks."""
    if device == "cpu" or find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    kind, side = (torch.float16 if precision == "fp16" else torch.float32), 8192
    left, right = (torch.rand((side, side), device=device, dtype=kind) for _ in range(2))
    product_s = _device_time_s(lambda: torch.mm(left, right), device)
    there = torch.empty_like(left)
    copy_s = _device_time_s(lambda: there.copy_(left), device)
    return Peak(2 * side**3 / product_s, 2 * left.numel() * left.element_size() / copy_s)


def _device_time_s(call: Callable[[], object], device: str) -> float:
    import torch

    runs = 20
    for _ in range(3):
        call()
    torch.cuda.synchronize(device)
    began_s = time.perf_counter()
    for _ in range(runs):
        call()
    torch.cuda.synchronize(device)
    return (time.perf_counter() - began_s) / runs


def ways(
    path: Path, device: str, precision: Precision, gpu: Gpu | None
) -> Iterator[tuple[str, Any]]:
    """Yield (name, what opens it) of every way that may run a model on a device."""

    def torch(*, graphs: bool) -> Backend:
        from streamface.backends.torch_backend import TorchBackend

        return TorchBackend(path, device=device, precision=precision, graphs=graphs)

    yield EAGER, lambda: torch(graphs=False)
    if device == "cpu":
        yield "onnxruntime fp32", lambda: open_backend(path)
        small = path.with_name(f"{path.stem}-int8.json")
        if small.is_file():
            yield "onnxruntime int8", lambda: open_backend(small)
        return
    yield "torch CUDA graph", lambda: torch(graphs=True)
    for flavour in FLAVOURS:
        yield flavour, lambda flavour=flavour: _engine(path, flavour, precision, gpu)
    yield "onnxruntime cuda", lambda: open_backend(path, provider=f"cuda:{device[5:] or 0}")


def _engine(path: Path, flavour: Flavour, precision: Precision, gpu: Gpu | None) -> Backend:
    """Open an engine that is built for this call, in the usual folder."""
    from streamface.engines.store import EngineStore
    from streamface.runtimes import open_engine

    assert gpu is not None
    return open_engine(load(path), _built(path, flavour, precision, gpu), EngineStore(), gpu)


@cache
def _built(path: Path, flavour: Flavour, precision: Precision, gpu: Gpu) -> EngineRecord:
    request = BuildRequest(flavour=flavour, precision=precision, max_batch=max(BATCHES))
    return build(path, request, gpu=gpu)


class Asked:
    """A model, the faces that it is asked about, and the answers that it should give."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        """Read all that; raises StreamfaceError for no such model and for no such faces."""
        self.path = card_path(name)
        self.card = load(self.path)
        self.work = work_of(self.card, read_onnx(self.card, self.path))
        least = _CHECKED_ON_CPU if args.device == "cpu" else _CHECKED_ON_GPU
        count = max(least, *args.batches)
        self.levels = face_crops(self.card.input, count, args.faces)
        self.ways = dict(ways(self.path, args.device, args.precision, args.gpu))

    def parity(self, backend: Backend) -> Report:
        """Return how far a backend's answers are from ONNX Runtime's."""
        with closing(open_backend(self.path)) as reference:
            return compare(self.card, backend, reference, self.levels)

    def batch(self, backend: Backend, count: int) -> Callable[[], None]:
        """Return what runs a batch of so many faces."""
        rows = np.resize(self.levels, (count, *self.levels.shape[1:]))
        crops = as_input(rows, self.card.input, backend.input_dtype)
        conditions = list(conditions_of(self.card, count).values())
        step = backend.max_batch

        def run_all() -> None:
            for start in range(0, count, step):
                part = slice(start, start + step)
                backend.run(crops[part], *(each[part] for each in conditions))

        return run_all


@contextmanager
def _opened(opening: Callable[[], Backend]) -> Iterator[Backend]:
    """Open a backend and close it; that it cannot be closed ends nothing."""
    backend = opening()
    try:
        yield backend
    finally:
        with suppress(StreamfaceError):
            backend.close()


def bench_model(name: str, args: argparse.Namespace, peak: Peak | None) -> Report:
    """Return what every way makes of a model, or of several ("one+other"), and how fast."""
    asked = [Asked(each, args) for each in name.split("+")]
    work = asked[0].work
    for each in asked[1:]:
        work += each.work
    report: Report = {"mflop_per_face": round(work.flops_per_face / 1e6, 1), "ways": {}}
    for way in asked[0].ways:
        if not all(way in each.ways for each in asked):  # there is no int8 of one of them
            continue
        with ExitStack() as opened:
            try:
                backends = [opened.enter_context(_opened(each.ways[way])) for each in asked]
            except StreamfaceError as error:
                report["ways"][way] = {"missing": str(error)}
                continue
            try:
                report["ways"][way] = _bench(asked, backends, args, work, peak)
            except StreamfaceError as error:  # what one runtime cannot do must not end the others
                report["ways"][way] = {"failed": str(error)}
    _compare_with_eager(report["ways"])
    return report


def _bench(
    asked: list[Asked],
    backends: list[Backend],
    args: argparse.Namespace,
    work: Work,
    peak: Peak | None,
) -> Report:
    pairs = list(zip(asked, backends, strict=True))
    figures = {each.card.name: each.parity(backend) for each, backend in pairs}
    providers = list(dict.fromkeys(each.provider for each in backends))
    kind = "int8" if "int8" in providers[0] else args.precision
    out: Report = {"provider": ", ".join(providers), "parity": figures, "batches": {}}
    faults = (fault(each, kind) for each in figures.values())
    out["parity_fault"] = next(filter(None, faults), None)
    width = 2 if args.precision == "fp16" else 4
    for count in args.batches:
        calls = [each.batch(backend, count) for each, backend in pairs]
        times_ms = _times_ms(calls, args.seconds)
        p50 = float(np.median(times_ms))
        out["batches"][str(count)] = {
            "p50_ms": round(p50, 4),
            "p99_ms": round(float(np.percentile(times_ms, 99)), 4),
            "faces_per_s": round(1e3 * count / p50),
            "runs": len(times_ms),
        }
        if peak is not None:
            least_ms = 1e3 * _least_s(work, count, width, peak)
            out["batches"][str(count)]["roofline_share"] = round(least_ms / p50, 4)
    return out


def _least_s(work: Work, count: int, width: int, peak: Peak) -> float:
    """Return the least time of a batch; width: bytes of a weight."""
    moved = width * work.weight_values + count * 4 * work.value_count_per_face
    return max(count * work.flops_per_face / peak.flops_per_s, moved / peak.bytes_per_s)


def _times_ms(calls: list[Callable[[], None]], seconds: float) -> list[float]:
    """Return how long all calls together took, time after time."""
    for call in calls * _WARM_UP:
        call()
    times_ms: list[float] = []
    until_s = time.perf_counter() + seconds
    while len(times_ms) < _LEAST_RUNS or (
        time.perf_counter() < until_s and len(times_ms) < _MOST_RUNS
    ):
        began_s = time.perf_counter()
        for call in calls:
            call()
        times_ms.append(1e3 * (time.perf_counter() - began_s))
    return times_ms


def _compare_with_eager(ways: Report) -> None:
    eager = ways.get(EAGER, {}).get("batches", {})
    for each in ways.values():
        for count, figures in each.get("batches", {}).items():
            if count in eager:
                figures["speedup"] = round(eager[count]["p50_ms"] / figures["p50_ms"], 2)


def end_to_end(clip: Path, args: argparse.Namespace) -> Report:
    """Return how fast whole runs over a clip are, with the nets on the device and on the CPU."""
    import tempfile

    from streamface.app import Run
    from streamface.settings import Settings

    out: Report = {}
    for device in dict.fromkeys((args.device, "cpu")):
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "out.mp4"
            settings = Settings(source=str(clip), output=target, device=device, preset="ultrafast")
            with Run(settings) as run:
                run.execute()
                out[device] = {
                    "fps": round(run.tally.fps, 1),
                    "frames": run.tally.frames,
                    "on": run.providers(),
                    "latency_ms": {
                        f"p{p}": round(1e3 * run.stats.latency.percentile_s(p), 1) for p in (50, 99)
                    },
                }
    return out


def table_of(name: str, report: Report) -> Table:
    """Return a model's figures for people."""
    table = Table(title=f"{name}, {report['mflop_per_face']} MFLOP a face", title_justify="left")
    for column in ("way", "batch", "p50 ms", "p99 ms", "faces/s", "roofline", "x eager", "parity"):
        table.add_column(column, justify="left" if column in {"way", "parity"} else "right")
    for way, told in report["ways"].items():
        if "batches" not in told:
            table.add_row(way, *[""] * 6, Text(told.get("missing") or told.get("failed")))
            continue
        parity = told["parity_fault"] or "\n".join(
            ", ".join(f"{key} {value}" for key, value in each.items() if key != "faces")
            for each in told["parity"].values()
        )
        for number, (count, figures) in enumerate(told["batches"].items()):
            table.add_row(
                way if not number else "",
                count,
                f"{figures['p50_ms']:.3f}",
                f"{figures['p99_ms']:.3f}",
                f"{figures['faces_per_s']}",
                f"{figures['roofline_share']:.1%}" if "roofline_share" in figures else "",
                f"{figures.get('speedup', '')}",
                parity if not number else "",
            )
    return table


def _machine(gpu: Gpu | None, peak: Peak | None) -> Report:
    out: Report = {
        "gpu": None if gpu is None else f"{gpu.name}, driver {gpu.driver}",
        "cpu": f"{platform.machine()}, {os.cpu_count()} logical CPUs",
        "torch": version("torch") if find_spec("torch") else None,
    }
    if peak is not None:
        out["peak_tflops"] = round(peak.flops_per_s / 1e12, 2)
        out["peak_gb_per_s"] = round(peak.bytes_per_s / 1e9, 1)
    return out


def run(args: argparse.Namespace) -> Report:
    """Measure all that was asked for. Raises StreamfaceError."""
    from streamface.engines.gpu import gpus

    compute = Compute(device=args.device)
    found = gpus()
    args.gpu = None
    if args.device != "cpu":
        if compute.gpu_index >= len(found):
            raise UsageError(f"--device {args.device}: GPUs here: {len(found)}; try --device cpu")
        args.gpu = found[compute.gpu_index]
    elif args.precision == "fp16":
        args.precision = "fp32"
    peak = measure_peak(args.device, args.precision)
    report: Report = {
        "machine": _machine(args.gpu, peak),
        "precision": args.precision,
        "models": {},
    }
    console = Console(stderr=args.json == "-", width=140)
    console.print(report["machine"])
    for name in args.models:
        report["models"][name] = bench_model(name, args, peak)
        console.print(table_of(name, report["models"][name]))
    if args.clip is not None:
        report["end_to_end"] = end_to_end(args.clip, args)
        console.print(report["end_to_end"])
    return report


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of whole numbers from 1")
    return numbers


def main() -> int:
    """Parse, measure, print; our own errors in one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="*", default=list(MODELS), help="default: all; one+other: both"
    )
    parser.add_argument("--device", default="cuda:0", help="cuda:N or cpu (default: %(default)s)")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16")
    parser.add_argument("--batches", type=_numbers, default=list(BATCHES), help="1,8,64,256")
    parser.add_argument("--faces", help="a video or folder of real faces (default: generated)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--clip", type=Path, help="a video to process end to end as well")
    parser.add_argument("--json", metavar="F", help="write the report, '-': to stdout")
    args = parser.parse_args()
    try:
        report = run(args)
    except (StreamfaceError, ImportError) as error:
        print(f"bench_gpu: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    text = json.dumps(report, indent=1)
    if args.json == "-":
        print(text)
    elif args.json:
        Path(args.json).write_text(text + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
