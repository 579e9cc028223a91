"""Where compiled kernels are kept, also where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from streamface import app, kernelcache
from streamface.kernelcache import is_cold, prepare
from streamface.settings import Settings


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A folder of kernels in which Numba has compiled nothing, and a user without a cache."""
    folder = tmp_path / "package" / "kernels"
    folder.mkdir(parents=True)
    (folder / "shrink.py").write_text("# a kernel")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    numba = sys.modules.get("numba")
    if numba is not None:
        monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)
    return folder


def refuse(monkeypatch, *folders):
    """Make these folders, and what is in them, unwritable."""
    writable = kernelcache._writable

    def judged(folder):
        return not any(folder.is_relative_to(each) for each in folders) and writable(folder)

    monkeypatch.setattr(kernelcache, "_writable", judged)


def test_a_writable_installation_needs_nothing(kernels):
    """Numba's own place is used, and the environment is left alone."""
    assert prepare(kernels) == kernels / "__pycache__"
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_the_users_own_choice_wins(kernels, tmp_path, monkeypatch):
    """NUMBA_CACHE_DIR is respected."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    assert prepare(kernels).parent == tmp_path / "mine"
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "mine")


def test_a_read_only_installation_uses_the_users_cache(kernels, tmp_path, monkeypatch):
    """Nothing fails; the variable names a folder of the user's."""
    refuse(monkeypatch, kernels)
    assert prepare(kernels).parent == tmp_path / "cache" / "streamface"
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "cache" / "streamface")


def test_without_a_home_a_private_temporary_folder_is_used(kernels, tmp_path, monkeypatch):
    """Read-only installation, no writable home: still no failure, and nobody else can write."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refuse(monkeypatch, kernels, tmp_path / "cache")
    root = prepare(kernels).parent
    assert root.parent == tmp_path
    assert root.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_a_folder_that_others_can_write_to_is_not_trusted(kernels, tmp_path, monkeypatch):
    """Numba unpickles its cache: a folder somebody else prepared is passed over."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refuse(monkeypatch, kernels, tmp_path / "cache")
    trap = tmp_path / f"streamface-{os.getuid()}"
    trap.mkdir()
    trap.chmod(0o777)
    root = prepare(kernels).parent
    assert root != trap
    assert root.stat().st_mode & 0o077 == 0


def test_the_cache_is_cold_until_a_kernel_was_compiled_after_its_last_change(kernels, tmp_path):
    """No index, or one older than the source, means compiling."""
    folder = tmp_path / "compiled"
    assert is_cold(("shrink",), folder, kernels)
    folder.mkdir()
    index = folder / "shrink.shrink-12.py311.nbi"
    index.write_bytes(b"")
    os.utime(index, (1, 1))
    assert is_cold(("shrink",), folder, kernels)
    os.utime(index)
    os.utime(kernels / "shrink.py", (2, 2))
    assert not is_cold(("shrink",), folder, kernels)


def test_the_first_run_says_why_it_is_slow(tmp_path, monkeypatch, caplog):
    """One INFO line, only when kernels must be compiled."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    with caplog.at_level("INFO", logger="streamface"):
        app._announce_compilation(Settings(source="demo"))
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "compiling kernels" in caplog.text
        caplog.clear()
        monkeypatch.setattr(app, "is_cold", lambda *_: False)
        app._announce_compilation(Settings(source="demo"))
        assert caplog.records == []


def test_numba_looks_where_we_say_it_does(tmp_path):
    """Our idea of the folder's name is Numba's own: after a compilation it is not cold."""
    code = (
        "from streamface.kernelcache import is_cold, prepare\n"
        "folder = prepare()\n"
        "assert is_cold(('motion',), folder)\n"
        "from streamface.kernels import motion\n"
        "from numba.core.registry import CPUDispatcher\n"
        "kernels = [v for v in vars(motion).values() if isinstance(v, CPUDispatcher)]\n"
        "assert kernels and all(k.stats.cache_path == str(folder) for k in kernels)\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
