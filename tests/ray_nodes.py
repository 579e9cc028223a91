"""Ray nodes on this machine, for tests: nothing of them listens or tells beyond it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest

NODE = {
    "num_cpus": 1,
    "object_store_memory": 80 << 20,
    "include_dashboard": False,
    "node_ip_address": "127.0.0.1",
}


@contextmanager
def _folder():
    """Give Ray a folder for its logs and sockets; a short path, since sockets must be."""
    folder = tempfile.mkdtemp(prefix="sf-ray-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(nodes):
    """Start that many nodes of one core each, the first as head; end them all."""
    # Ray reads these when it is imported for the first time, or hands them on to its workers.
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Off: a driver would look for 127.0.0.1 at the machine's address on the network.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Workers import what we can.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with (
        _folder() as folder,
        pytest.MonkeyPatch.context() as environment,
        warnings.catch_warnings(),
    ):
        for name, value in {**settings, "RAY_TMPDIR": folder}.items():
            environment.setenv(name, value)
        warnings.simplefilter("ignore")
        import ray
        from ray.cluster_utils import Cluster

        logging.getLogger("ray").setLevel(logging.ERROR)
        made = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            for _ in range(nodes - 1):
                add_node(made)
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def add_node(made):
    """Start another node and wait for it."""
    return made.add_node(**NODE)


def kill_node(made, node):
    """``kill -9`` all processes of a node, as a power cut would end them."""
    for kind, processes in node.all_processes.items():
        if kind in ("raylet", "reaper"):
            for each in processes:
                for child in _children(each.process.pid):
                    _kill(child)
                _kill(each.process.pid)
    made.remove_node(node, allow_graceful=False)


def _children(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *_children(child)]
    return found


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
