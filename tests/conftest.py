"""Shared fixtures. Nothing here needs a network, a GPU, a camera or the research data."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import warnings
from pathlib import Path

import hypothesis
import pytest

# A busy machine is no fault: timings live in benchmarks.
hypothesis.settings.register_profile("streamface", deadline=None)
hypothesis.settings.load_profile("streamface")


@pytest.fixture(autouse=True)
def no_thread_survives():
    """No test leaves a thread of ours behind; one that fails may, and is told of once."""
    before = set(threading.enumerate())
    yield
    new = set(threading.enumerate()) - before
    left = [thread.name for thread in new if thread.name.startswith("streamface-")]
    assert not left, f"threads left behind: {left}"


@pytest.fixture(autouse=True)
def logging_stays_as_it_was():
    """The command line sets up logging for the process; no test inherits that from another."""
    root, ours = logging.getLogger(), logging.getLogger("streamface")
    before = root.level, ours.level
    yield
    root.setLevel(before[0])
    ours.setLevel(before[1])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip what is marked ``gpu`` where there is none; with $STREAMFACE_REQUIRE_GPU, fail it."""
    if item.get_closest_marker("gpu") is None:
        return
    from streamface.engines.gpu import gpus

    if gpus():
        return
    if os.environ.get("STREAMFACE_REQUIRE_GPU"):
        pytest.fail("STREAMFACE_REQUIRE_GPU is set, but no NVIDIA driver shows a GPU")
    pytest.skip("needs an NVIDIA GPU ($STREAMFACE_REQUIRE_GPU=1 makes this a failure)")


@pytest.fixture(scope="session")
def two_nodes():
    """Two Ray nodes of one core each on this machine, or a skip where there is no Ray."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray (pip install 'streamface[ray]')")
    from ray_nodes import cluster

    with cluster(2) as nodes:
        yield nodes


@pytest.fixture
def quiet_ray():
    """Let Ray warn of what comes; here warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the research data, or a skip that names it."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("STREAMFACE_SHARED", default))
    if not (folder / "clips").is_dir():
        pytest.skip("needs the research data in ../shared (or $STREAMFACE_SHARED)")
    return folder
