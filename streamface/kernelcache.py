"""Where Numba keeps the compiled kernels, and whether they are there yet.

Numba writes them into ``__pycache__`` beside the kernels, else into a folder of the user's, and
refuses to import a kernel where it can do neither: a read-only installation without a home folder
(a container, a service). ``prepare`` gives it a folder before that happens.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

KERNELS = Path(__file__).with_name("kernels")
_VARIABLE = "NUMBA_CACHE_DIR"


def prepare(kernels: Path = KERNELS) -> Path:
    """Make sure that Numba can keep compiled kernels; return the folder where it will.

    Call it before the first import of a kernel. The user's own NUMBA_CACHE_DIR wins, then the
    installation's ``__pycache__``; only where neither can be written is the variable set, to a
    folder of this user alone, for Numba unpickles what it finds there.
    """
    for folder in (_given(kernels), kernels / "__pycache__"):
        if folder is not None and _writable(folder):
            return folder
    for root in (_user_cache(), Path(tempfile.gettempdir()) / f"streamface-{_user()}"):
        if root is not None and _writable(root) and _private(root):
            break
    else:
        root = Path(tempfile.mkdtemp(prefix="streamface-"))
    os.environ[_VARIABLE] = str(root)
    if "numba" in sys.modules:  # it has read the environment already
        sys.modules["numba"].config.CACHE_DIR = str(root)
    return _inside(root, kernels)


def is_cold(names: tuple[str, ...], folder: Path, kernels: Path = KERNELS) -> bool:
    """Return whether a run will have to compile a kernel of the modules ``names`` first."""
    for name in names:
        with suppress(OSError):
            changed_s = (kernels / f"{name}.py").stat().st_mtime
            compiled = list(folder.glob(f"{name}.*.nbi")) if folder.is_dir() else []
            if not any(path.stat().st_mtime >= changed_s for path in compiled):
                return True
    return False


def _given(kernels: Path) -> Path | None:
    given = os.environ.get(_VARIABLE)
    return _inside(Path(given), kernels) if given else None


def _inside(root: Path, kernels: Path) -> Path:
    """Return the folder in a cache directory that Numba names after the kernels' own."""
    digest = hashlib.sha1(os.path.abspath(kernels).encode(), usedforsecurity=False).hexdigest()  # noqa: PTH100 - as Numba does, links unresolved
    return root / f"{kernels.name}_{digest}"


def _user_cache() -> Path | None:
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "streamface"
    try:
        return Path.home() / ".cache" / "streamface"
    except RuntimeError:  # no such user, no HOME
        return None


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _private(folder: Path) -> bool:
    """Whether the folder is this user's own and nobody else can write to it."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.lstat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022 and not folder.is_symlink()
