"""The tools that measure and torment a batch work, and the tormentor sees what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


def tool(name, *arguments):
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, str(TOOLS / name), *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_cost_of_a_file_that_needs_no_work_is_measured():
    found = tool("bench.py", "batch-of-nothing", "--files", "30", "--workers", "1")
    assert set(found) == {"overhead_ms_per_file", "driver_rss_mb", "first_start_s"}
    assert all(value > 0 for value in found.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_batch_outlives_chaos():
    found = tool("chaos_batch.py", "--rounds", "3", "--executor", "pool", "--json", "-")
    assert found["rounds"] == 3
    assert sum(found["hits"].values()) > 0
