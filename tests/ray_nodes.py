"""Ray nodes on this machine, for tests: nothing of them listens or tells beyond it."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

OBJECT_STORE_BYTES = 80 << 20


def needs_ray():
    """Skip without Ray; where it is, set what it reads when it is imported for the first time."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray (pip install ray)")
    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_DISABLE_IMPORT_WARNING="1",
        RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
        # Off: a driver would look for 127.0.0.1 at the machine's address on the network.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        # Workers import what we can.
        PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
    )


@contextmanager
def cluster(nodes):
    """Start that many nodes of one core each, the first as head; end them all."""
    needs_ray()
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
        },
    )
    try:
        for _ in range(nodes - 1):
            add_node(made)
        yield made
    finally:
        import ray

        ray.shutdown()
        made.shutdown()


def add_node(made):
    """Start another node and wait for it."""
    return made.add_node(
        num_cpus=1,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        node_ip_address="127.0.0.1",
    )


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
