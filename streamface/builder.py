"""``streamface models build`` and ``tools/build_engine.py``: from a model to a checked engine.

A model's ONNX becomes the graph that engines are built of, the graph an engine, and the engine's
answers are held against ONNX Runtime's before it gets its name. Where there is no GPU,
TensorRT-RTX builds all the same, for every GPU that it supports, and the check is left for later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamface.card import load, read_onnx
from streamface.compute import FLAVOURS
from streamface.engines.graph import PRECISIONS
from streamface.errors import BackendUnavailable, ModelError, StreamfaceError, UsageError
from streamface.model import card_path, check_probe
from streamface.parity import compare, conditions_of, fault
from streamface.preprocess import crop_into

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from streamface.backends import Backend
    from streamface.card import InputSpec
    from streamface.compute import Flavour, Precision
    from streamface.engines.gpu import Gpu
    from streamface.engines.store import EngineKey, EngineRecord
    from streamface.frame import Planes, PointsF32

    Progress = Callable[[str, int, int], None]

_log = logging.getLogger(__name__)
MAX_BATCH: Final = 64
_CHECK_FACES: Final = 512  # of so many, one may get another label
_CALIBRATION_FACES: Final = 512
_LOOKS_A_SECOND: Final = 2.0
"""At the faces of a video: neighbours are too much alike to tell anything new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build. Raises UsageError for what can never be built."""

    flavour: Flavour | None = None
    """None: the one that is installed, tensorrt before."""
    precision: Precision = "fp16"
    max_batch: int = MAX_BATCH
    folder: Path | None = None
    faces: str | None = None
    """Pictures or videos with the faces to check with; None: generated faces, which int8 cannot
    do with."""

    @property
    def kept_in(self) -> Path:
        """The folder that engines are kept in."""
        from streamface.engines.store import default_folder

        return self.folder or default_folder()

    def __post_init__(self) -> None:
        if self.flavour is not None and self.flavour not in FLAVOURS:
            raise UsageError(f"--flavour must be one of {', '.join(FLAVOURS)}: '{self.flavour}'")
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision must be one of {', '.join(PRECISIONS)}")
        if not 1 <= self.max_batch <= 1024:
            raise UsageError(f"--max-batch must be 1 to 1024, got {self.max_batch}")
        if self.precision == "int8" and self.faces is None:
            raise UsageError(
                "int8 takes the range of every layer's numbers from real faces: give --faces with "
                "a video or a folder of pictures"
            )


def build(
    name_or_card_path: str | Path,
    request: BuildRequest,
    *,
    gpu: Gpu | None,
    progress: Progress | None = None,
) -> EngineRecord:
    """Build, check and keep one engine; return what is known of it.

    Raises ModelError where its answers are not the model's (then nothing is kept),
    BackendUnavailable where it cannot be built here, and other StreamfaceErrors.
    """
    from streamface.engines import flavour
    from streamface.engines.store import EngineStore, key_for

    path = card_path(name_or_card_path)
    card = load(path)
    if card.precision != "fp32":
        raise UsageError(f"{path} is {card.precision}; engines are built of float32 models")
    check_probe(card, path)
    which = request.flavour or _installed_flavour()
    flavour.load(which)
    if gpu is None and which == "tensorrt":
        raise BackendUnavailable(
            "tensorrt builds on the GPU that will run the engine, and there is none here; "
            "`--flavour tensorrt_rtx` builds without"
        )
    key = key_for(
        card,
        flavour=which,
        version=flavour.version(which),
        precision=request.precision,
        gpu=gpu,
        batches=(min(8, request.max_batch), request.max_batch),
    )
    store = EngineStore(request.kept_in)
    with store.lock(key):
        return store.save(*_built(path, key, request, gpu, progress))


def build_missing(path: Path, key: EngineKey, gpu: Gpu) -> EngineRecord:
    """Build an engine on first use, with a line of progress; see ``runtimes.Builder``.

    Raises BackendUnavailable for int8, whose ranges are taken from faces that nobody gave here.
    """
    if key.precision == "int8":
        raise BackendUnavailable(
            "int8 takes its ranges from faces that you choose; `streamface models build "
            f"{key.model} --int8 --faces VIDEO` builds the engine"
        )
    request = BuildRequest(flavour=key.flavour, precision=key.precision)
    with _progress_bar(quiet=False) as progress:
        return build(path, request, gpu=gpu, progress=progress)


def check_kept(path: Path, record: EngineRecord, gpu: Gpu) -> EngineRecord:
    """Hold an engine that was built without a GPU to its model; see ``runtimes.Checker``."""
    from streamface.engines.store import EngineStore

    store = EngineStore(record.path.parent)
    plan = store.read(record)
    checked = replace(record, check=_checked(path, plan, record.key, gpu, None))
    try:
        with store.lock(record.key):
            return store.save(checked, plan)
    except StreamfaceError as exc:  # a folder of somebody else's: it is checked again next time
        _log.info("%s: checked, but that cannot be noted: %s", record.path, exc)
        return record


def _built(
    path: Path, key: EngineKey, request: BuildRequest, gpu: Gpu | None, progress: Progress | None
) -> tuple[EngineRecord, bytes]:
    """Return an engine that answers as its model, and its bytes."""
    from streamface.engines.build import BuildOptions, build_plan
    from streamface.engines.cuda import Cuda
    from streamface.engines.graph import Calibration, engine_graph
    from streamface.engines.store import EngineRecord

    card, faces = load(path), request.faces
    calibration, calibrated = None, None
    if key.precision == "int8":
        levels = face_crops(card.input, _CALIBRATION_FACES, faces)
        calibration = Calibration(levels, conditions_of(card, len(levels)))
        calibrated = f"{len(levels)} faces of {faces}"
    began_s = time.monotonic()
    graph = engine_graph(card, read_onnx(card, path), key.precision, calibration)
    options = BuildOptions(
        flavour=key.flavour,
        precision=key.precision,
        max_batch=key.max_batch,
        opt_batch=key.opt_batch,
        target="portable" if gpu is None else "current",
        timing_cache=None if gpu is None else request.kept_in / f"{key.flavour}.timing",
    )
    begin = None if gpu is None else Cuda(gpu.index).use
    plan = build_plan(graph, card, options, progress=progress, begin=begin)
    record = EngineRecord(
        key=key,
        sha256=hashlib.sha256(plan).hexdigest(),
        size_bytes=len(plan),
        build_s=round(time.monotonic() - began_s, 2),
        calibration=calibrated,
    )
    if gpu is not None:
        record = replace(record, check=_checked(path, plan, key, gpu, faces))
    return record, plan


def _checked(
    path: Path, plan: bytes, key: EngineKey, gpu: Gpu, faces: str | None
) -> dict[str, object]:
    """Return how an engine's answers compare. Raises ModelError where they are not the model's."""
    from streamface.backends import open_backend
    from streamface.backends.tensorrt import open_engine

    card = load(path)
    levels = face_crops(card.input, _CHECK_FACES, faces)
    engine: Backend = open_engine(plan, card, key.flavour, key.precision, device=gpu.index)
    reference = open_backend(path)
    try:
        figures = compare(card, engine, reference, levels)
    finally:
        engine.close()
        reference.close()
    wrong = fault(figures, key.precision)
    if wrong is not None:
        raise ModelError(
            f"the engine of {card.name} does not answer as its model: {wrong}; nothing was kept. "
            "Try --precision fp32"
        )
    return {**figures, "crops": faces or "generated faces"}


def _installed_flavour() -> Flavour:
    from streamface.engines import flavour

    found = flavour.installed()
    if not found:
        raise BackendUnavailable(
            "no TensorRT is installed: pip install 'streamface[tensorrt-rtx]' (or [tensorrt])"
        )
    return found[0]


# -- faces to ask with


@lru_cache(maxsize=4)
def _drawn(count: int) -> tuple[list[Planes], PointsF32]:
    """Return generated faces and where their landmarks lie."""
    from streamface.frame import EMOTIONS, Planes
    from streamface.resynth import Imagination, expression

    artist = Imagination.open()
    rng = np.random.default_rng(6)
    emotions = np.stack([expression(EMOTIONS[i % len(EMOTIONS)]) for i in range(count)])
    females = np.where(np.arange(count) % 2, 1, -1).astype(np.float32)
    made = np.rint(artist.invent(emotions, females, rng)).astype(np.uint8)
    artist.close()
    pictures = [Planes.from_rgb(np.ascontiguousarray(each.transpose(1, 2, 0))) for each in made]
    return pictures, artist.spec.landmarks_px


def face_crops(spec: InputSpec, count: int, faces: str | None = None) -> NDArray[np.uint8]:
    """Return up to (count, C, H, W) uint8 crops: faces of pictures and videos, or generated ones.

    faces: what ``--source`` takes. Raises SourceError where that cannot be read, ModelError where
    no face is found in it.
    """
    if faces is None:
        pictures, landmarks = _drawn(count)
        found: Iterator[tuple[Planes, PointsF32]] = ((each, landmarks) for each in pictures)
    else:
        found = _found(faces)
    out = np.empty((count, *spec.shape), np.uint8)
    filled = 0
    for (planes, points), slot in zip(found, out, strict=False):
        crop_into(planes, points, spec, slot)
        filled += 1
    if not filled:
        raise ModelError(f"no face was found in {faces}")
    return out[:filled]


def _found(source: str) -> Iterator[tuple[Planes, PointsF32]]:
    from streamface.classify import can_be_aligned
    from streamface.decode import ReadOptions
    from streamface.detect import YuNetDetector, find_model
    from streamface.sources import find_inputs, open_source

    detector = YuNetDetector(find_model())
    for each in find_inputs(source):
        with closing(open_source(each, ReadOptions())) as opened:
            next_s = 0.0
            for frame in opened:
                if frame.time_s < next_s:
                    continue
                next_s = frame.time_s + 1 / _LOOKS_A_SECOND
                for face in detector.detect(frame.planes):
                    if can_be_aligned(face):
                        yield frame.planes, face.landmarks_px


# -- the command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both commands."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="emotion, gender, vqvae …, or a card's path"
    )
    parser.add_argument(
        "--flavour", type=lambda text: text.replace("-", "_"), choices=FLAVOURS,
        help="tensorrt or tensorrt_rtx (default: the installed one)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp16", help="default: %(default)s"
    )
    parser.add_argument(
        "--int8", dest="precision", action="store_const", const="int8", help="--precision int8"
    )
    parser.add_argument(
        "--max-batch", type=int, default=MAX_BATCH, metavar="N",
        help="most faces in one go (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--faces", metavar="S",
        help="a video or a folder of pictures whose faces the engine is checked with, and int8 "
        "calibrated (default: generated faces)",
    )  # fmt: skip
    parser.add_argument("--device", default="cuda:0", metavar="D", help="cuda or cuda:N")
    parser.add_argument(
        "--output", type=Path, metavar="DIR",
        help="where engines are kept and looked for (default: $STREAMFACE_ENGINES, or engines/ in "
        "a checkout, or the user's cache)",
    )  # fmt: skip
    parser.add_argument("--json", choices=("-",), help="print JSON to stdout instead of lines")


def main(arguments: argparse.Namespace, *, gpus: Sequence[Gpu] | None = None) -> int:
    """Build all that was asked for; return 0, or 1 if any of it failed. Raises UsageError."""
    from streamface.compute import Compute

    if gpus is None:
        from streamface.engines.gpu import gpus as find_gpus

        gpus = find_gpus()
    index = Compute(device=arguments.device).gpu_index
    if index and index >= len(gpus):
        raise BackendUnavailable(f"there is no cuda:{index}; GPUs here: {len(gpus)}")
    gpu = gpus[index] if gpus else None
    request = BuildRequest(
        flavour=arguments.flavour,
        precision=arguments.precision,
        max_batch=arguments.max_batch,
        folder=arguments.output,
        faces=arguments.faces,
    )
    reports = []
    for name in arguments.models:
        with _progress_bar(quiet=arguments.json is not None) as progress:
            reports.append(_report(name, request, gpu, progress))
        if arguments.json is None:
            sys.stdout.write(_line(reports[-1]) + "\n")
    if arguments.json is not None:
        sys.stdout.write(json.dumps(reports, indent=1) + "\n")
    return 1 if any(report["error"] for report in reports) else 0


def _report(
    name: str, request: BuildRequest, gpu: Gpu | None, progress: Progress | None
) -> dict[str, Any]:
    try:
        record = build(name, request, gpu=gpu, progress=progress)
    except UsageError:
        raise
    except StreamfaceError as exc:
        return {"name": name, "error": str(exc)}
    key = record.key
    return {
        "name": key.model,
        "error": None,
        "engine": str(record.path),
        "flavour": key.flavour,
        "version": key.version,
        "precision": key.precision,
        "max_batch": key.max_batch,
        "gpu": key.gpu,
        "driver": key.driver,
        "size_mb": round(record.size_bytes / 1e6, 2),
        "build_s": record.build_s,
        "check": record.check,
        "awaits_gpu": record.check is None,
    }


def _line(report: dict[str, Any]) -> str:
    if report["error"]:
        return f"{report['name']}: failed: {report['error']}"
    check = report["check"]
    told = "its outputs await a check on a GPU: build it again there"
    if check is not None:
        told = "checked: " + ", ".join(f"{name} {value}" for name, value in check.items())
    return (
        f"{report['name']}: {report['engine']}, {report['size_mb']} MB, built in "
        f"{report['build_s']} s; {told}"
    )


@contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Progress | None]:
    """Yield what shows how a build goes, on stderr; on a terminal only."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        with nullcontext():
            yield None
        return
    with Bar(console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(phase: str, step: int, steps: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(escape(phase), total=steps)
            bar.update(tasks[phase], completed=step, total=steps)

        yield show
