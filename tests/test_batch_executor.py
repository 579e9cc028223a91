"""One contract for whoever does tasks: worker processes of this machine, and a Ray cluster."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from batch_bodies import CannotBeLoaded, obey
from ray_nodes import add_node, kill_node

from streamface.batch import worker
from streamface.batch.executor import PoolExecutor
from streamface.batch.job import Limits, Task
from streamface.batch.worker import share
from streamface.errors import BackendUnavailable, UsageError

WAIT_S = 60.0


def pool(_request, **limits):
    return PoolExecutor(obey, 2, Limits(**limits))


def on_ray(request, **limits):
    nodes = request.getfixturevalue("two_nodes")
    from streamface.batch.ray_executor import Placement, RayExecutor

    return RayExecutor(obey, Limits(**limits), nodes.address, Placement())


@pytest.fixture(params=[pool, on_ray], ids=["pool", "ray"])
def start(request, quiet_ray):
    """Return what starts an executor of two workers; none of it is left afterwards."""
    began = []

    def begin(**limits):
        began.append(request.param(request, **limits))
        return began[-1]

    yield begin
    for executor in began:
        executor.close()
    until_s = time.monotonic() + WAIT_S
    while workers_of(os.getpid()):
        assert time.monotonic() < until_s, "workers were left behind"
        time.sleep(0.05)


def workers_of(pid):
    """Return the worker processes below a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child] if b"streamface.batch.worker" in command else workers_of(child)
    return found


def do_all(executor, sources):
    """Have all sources done; return their results by source."""
    waiting = [Task(number=n, source=source, key=source) for n, source in enumerate(sources)]
    results, under_way, until_s = {}, 0, time.monotonic() + WAIT_S
    while waiting or under_way:
        assert time.monotonic() < until_s, f"no result for {WAIT_S} s; only {results}"
        while waiting and under_way < executor.capacity:
            executor.submit(waiting.pop(0))
            under_way += 1
        result = executor.next(1.0)
        if result is not None:
            assert result.task.source not in results, "one result a task"
            results[result.task.source] = result
            under_way -= 1
    assert executor.next(0.0) is None
    return results


def test_every_task_comes_back_once_and_two_workers_did_them(start):
    results = do_all(start(), [f"ok:{n}" for n in range(40)])
    assert len(results) == 40
    assert {result.kind for result in results.values()} == {None}
    # Processes are kept: starting one for each task would be seen here.
    assert len({result.line for result in results.values()}) <= 2


def test_no_more_is_taken_than_there_are_workers(start):
    executor = start()
    while executor.capacity < 2:
        assert executor.next(0.1) is None
    for number in range(2):
        executor.submit(Task(number=number, source="ok", key=str(number)))
    assert {task.key for task, _ in executor.at_work.values()} == {"0", "1"}
    with pytest.raises(ValueError, match="all workers have a task"):
        executor.submit(Task(number=3, source="ok", key="3"))


def test_a_failure_is_a_result_like_any_other(start):
    results = do_all(start(), ["fail:cannot open it", "ok"])
    assert results["fail:cannot open it"].kind == "source"
    assert results["ok"].kind is None


def test_a_task_that_kills_its_worker_is_told_from_others_that_go_on(start):
    results = do_all(start(), ["ok:1", "die", "exit:7", "ok:2", "ok:3", "ok:4"])
    assert results["die"].kind == results["exit:7"].kind == "crashed"
    assert "SIGKILL" in results["die"].line
    assert "exit code 7" in results["exit:7"].line
    assert {results[f"ok:{n}"].kind for n in range(1, 5)} == {None}


def test_a_task_that_takes_too_long_is_ended(start, tmp_path):
    hang = f"hang:{tmp_path / 'began'}"
    results = do_all(start(timeout_s=1.0), [hang, "ok:1", "ok:2"])
    assert (tmp_path / "began").exists()
    assert results[hang].kind == "timeout"
    assert "longer than 1 s" in results[hang].line
    assert results["ok:1"].kind is results["ok:2"].kind is None


def test_a_task_that_takes_too_much_memory_is_ended(start):
    results = do_all(start(memory_mb=300), ["eat:600", "ok:1", "ok:2"])
    assert results["eat:600"].kind == "memory"
    assert "300 MiB" in results["eat:600"].line
    assert results["ok:1"].kind is results["ok:2"].kind is None


def test_what_prints_to_stdout_does_not_harm_the_answers(start):
    results = do_all(start(), ["print:hello", "ok"])
    assert results["print:hello"].kind is results["ok"].kind is None


def test_closing_ends_workers_in_the_middle_of_a_task(start, tmp_path):
    executor = start()
    began = tmp_path / "began"
    while not executor.capacity:
        executor.next(0.1)
    executor.submit(Task(number=0, source=f"hang:{began}", key="a"))
    until_s = time.monotonic() + WAIT_S
    while not began.exists():
        assert time.monotonic() < until_s
        executor.next(0.1)
    executor.close()  # the fixture sees that no process is left


def test_a_worker_killed_from_outside_is_replaced(start):
    executor = start()
    lines = {result.line for result in do_all(executor, [f"ok:{n}" for n in range(10)]).values()}
    for pid in lines:
        os.kill(int(pid), 9)
    results = do_all(executor, [f"ok:{n}" for n in range(10, 20)])
    assert len(results) == 10
    assert not {result.line for result in results.values() if result.kind is None} & lines


def test_workers_that_do_not_start_are_an_error():
    executor = PoolExecutor(CannotBeLoaded(), 1)
    try:
        executor.submit(Task(number=0, source="ok", key="a"))
        with pytest.raises(BackendUnavailable, match="this body cannot be loaded"):
            do_all_lost(executor)
    finally:
        executor.close()


def do_all_lost(executor):
    """Submit what comes back as lost, until workers are given up."""
    while True:
        result = executor.next(WAIT_S)
        assert result.kind == "lost"
        executor.submit(result.task)


def test_workers_end_with_their_parent(tmp_path):
    """Also with one that is killed; they hold the end of a pipe, not a promise."""
    import subprocess
    import sys

    code = (
        "import sys, time\n"
        "from batch_bodies import obey\n"
        "from streamface.batch.executor import PoolExecutor\n"
        "from streamface.batch.job import Task\n"
        "pool = PoolExecutor(obey, 2)\n"
        "pool.submit(Task(number=0, source='hang:' + sys.argv[1], key='a'))\n"
        "pool.next(600)\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "PYTHONPATH": paths}
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "began")], env=env)
    until_s = time.monotonic() + WAIT_S
    while not (tmp_path / "began").exists():
        assert time.monotonic() < until_s
        time.sleep(0.05)
    children = workers_of(parent.pid)
    assert len(children) == 2
    parent.kill()
    parent.wait()
    while any(Path(f"/proc/{child}/cmdline").exists() and alive(child) for child in children):
        assert time.monotonic() < until_s, "workers outlived their parent"
        time.sleep(0.05)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def pinning(tmp_path, monkeypatch):
    """Other workers of this machine are not met; what this process keeps to is put back."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("nothing to choose from here")
    before = os.sched_getaffinity(0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in worker._THREAD_COUNTS:
        monkeypatch.setenv(name, "7")
    yield sorted(before)
    os.sched_setaffinity(0, before)


def test_workers_keep_to_their_share_of_the_cores(pinning):
    with PoolExecutor(obey, 2, threads=1) as executor:
        for number in range(2):
            executor.submit(Task(number=number, source="cores", key=str(number)))
        lines = set()
        while len(lines) < 2:
            result = executor.next(WAIT_S)
            assert result is not None
            lines.add(result.line)
    assert lines <= {str(core) for core in pinning}


def test_a_worker_moves_to_cores_that_become_free(pinning):
    """Else two would share a core for hours because a third was there when they began."""
    taken = [worker.FileLock(worker.Cores(1)._folder / f"{n}.lock") for n in range(1, len(pinning))]
    assert all(lock.take() for lock in taken)
    os.sched_setaffinity(0, pinning)
    late = worker.Cores(1)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.sched_getaffinity(0) == {pinning[0]}  # shared with the very first
    late.look_again()
    assert os.sched_getaffinity(0) == {pinning[0]}
    taken[0].free()
    late.look_again()
    assert os.sched_getaffinity(0) == {pinning[1]}


def test_shares_of_cores_begin_again_where_they_end():
    assert share([0, 1, 2, 3], 2, 0) == {0, 1}
    assert share([0, 1, 2, 3], 2, 1) == {2, 3}
    assert share([0, 1, 2, 3], 2, 2) == {0, 1}
    assert share([4, 7], 8, 5) == {4, 7}
    assert share([0, 1, 2], 2, 1) == {2, 0}


def test_a_memory_ceiling_needs_proc(monkeypatch, tmp_path):
    monkeypatch.setattr("streamface.batch.executor._STATM", tmp_path / "none")
    with pytest.raises(UsageError, match="--memory needs /proc"):
        PoolExecutor(obey, 1, Limits(memory_mb=100))


def test_ray_finishes_elsewhere_what_a_killed_node_had(two_nodes, quiet_ray, tmp_path):
    """A node's tasks come back as lost, through no fault of theirs, and others take them."""
    from streamface.batch.ray_executor import Placement, RayExecutor

    node = add_node(two_nodes)
    with RayExecutor(obey, Limits(), two_nodes.address, Placement(workers=3)) as executor:
        while executor.capacity < 3:
            assert executor.next(0.1) is None
        began = [tmp_path / f"{n}" for n in range(3)]
        for n, path in enumerate(began):
            executor.submit(Task(number=n, source=f"hang:{path}", key=str(n)))
        until_s = time.monotonic() + WAIT_S
        while not all(path.exists() for path in began):
            assert time.monotonic() < until_s
            executor.next(0.1)
        kill_node(two_nodes, node)
        result = executor.next(WAIT_S)
        assert result.kind == "lost"
        assert "was lost" in result.line
        assert executor.capacity == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("streamface-")]


def test_ray_needs_a_cluster(two_nodes):
    from streamface.batch.ray_executor import Placement, RayExecutor

    with pytest.raises(BackendUnavailable, match="no Ray cluster at '127.0.0.1:1'"):
        RayExecutor(obey, Limits(), "127.0.0.1:1", Placement())


def test_without_ray_it_says_what_to_install(monkeypatch):
    import sys

    from streamface.batch.ray_executor import Placement, RayExecutor

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendUnavailable, match="streamface\\[ray\\]"):
        RayExecutor(obey, Limits(), "auto", Placement())
