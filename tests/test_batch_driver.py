"""What is done next, tried again and given up; with workers that do as the source says."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_bodies import Instantly, obey

from streamface.batch import driver
from streamface.batch.driver import Batch
from streamface.batch.executor import PoolExecutor
from streamface.batch.job import BatchOptions, TaskResult
from streamface.batch.journal import FileJournal
from streamface.batch.listing import Found
from streamface.batch.manifest import Manifest
from streamface.settings import Settings


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Nothing waits before it is tried again."""
    monkeypatch.setattr(driver, "_FIRST_WAIT_S", 0.0)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Return what runs a batch over made-up sources: (batch, results told)."""
    monkeypatch.chdir(tmp_path)

    def run(sources, executor, *, fingerprint="f", work="w", prepare=None, **values):
        found = [Found(s, f"{n}", 1, fingerprint) for n, s in enumerate(sources)]
        monkeypatch.setattr(driver, "find", lambda _options, _on_error: iter(found))
        options = BatchOptions(
            sources=("in",), output="out", how=Settings(source="demo"), video=False, **values
        )
        told = []
        with Manifest(FileJournal(tmp_path / "journal.jsonl"), work) as manifest:
            batch = Batch(
                options, executor, manifest, on_result=lambda r, s: told.append((r.task.source, s))
            )
            if prepare is not None:
                prepare(batch)
            batch.execute()
        return batch, told

    return run


def test_all_is_done_and_none_of_it_again(begin):
    sources = [f"ok:{n}" for n in range(30)]
    executor = Instantly()
    batch, told = begin(sources, executor)
    assert (batch.tally.done, batch.tally.frames, batch.tally.failed) == (30, 30, 0)
    assert told == [(source, "done") for source in sources]
    assert executor.most_at_once == 2
    again = Instantly()
    batch, _ = begin(sources, again)
    assert (batch.tally.done, batch.tally.skipped, again.done) == (0, 30, [])


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "f2"},
        {"work": "w2"},
        {"data": ("csv",)},
    ],
)
def test_what_has_changed_is_done_again(begin, change):
    begin(["ok:1"], Instantly())
    batch, _ = begin(["ok:1"], Instantly(), **change)
    assert (batch.tally.done, batch.tally.skipped) == (1, 0)


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_text("short")])
def test_an_output_that_is_gone_or_of_another_size_is_made_again(begin, harm):
    begin(["ok:12345", "ok:2"], Instantly())
    harm(Path("out/0.jsonl"))
    executor = Instantly()
    begin(["ok:12345", "ok:2"], executor)
    assert executor.done == ["ok:12345"]
    assert Path("out/0.jsonl").read_text() == "ok:12345"


def test_a_failure_is_tried_again_as_often_as_asked(begin):
    executor = Instantly()
    batch, told = begin(["fail:broken", "ok"], executor, retries=2)
    assert executor.done.count("fail:broken") == 3
    assert [status for source, status in told if source == "fail:broken"] == [None, None, "failed"]
    assert (batch.tally.done, batch.tally.failed, batch.tally.retried) == (1, 1, 2)
    assert batch.tally.failures[0].line == "broken"


def test_what_works_the_second_time_is_done(begin, tmp_path):
    batch, _ = begin([f"fail-once:{tmp_path}/tried"], Instantly(), retries=1)
    assert (batch.tally.done, batch.tally.failed) == (1, 0)


@pytest.mark.parametrize("kind", ["usage", "model"])
def test_what_cannot_get_better_is_not_tried_again(begin, kind):
    def refuse(task):
        executor.done.append(task.source)
        return TaskResult(task=task, kind=kind, line="never")

    executor = Instantly(refuse)
    batch, _ = begin(["x"], executor, retries=5)
    assert len(executor.done) == 2  # each is noted by the executor and by its body
    assert batch.tally.failed == 1


def test_a_file_that_kills_its_worker_twice_is_set_aside(begin, tmp_path):
    sources = ["die", f"die-once:{tmp_path}/tried", "ok:1", "ok:2"]
    with PoolExecutor(obey, 2) as executor:
        batch, told = begin(sources, executor, retries=0)
    assert [status for source, status in told if source == "die"] == [None, "set aside"]
    assert (batch.tally.done, batch.tally.failed) == (3, 1)
    assert "SIGKILL" in batch.tally.failures[0].line


def test_a_lost_worker_is_not_the_files_fault_but_not_for_ever(begin):
    losses = iter(range(5))

    def lose(task):
        lost = next(losses, None) is not None
        return TaskResult(task=task, kind="lost" if lost else None, line="gone")

    batch, _ = begin(["x"], Instantly(lose), retries=0)
    assert (batch.tally.done, batch.tally.retried) == (1, 5)
    batch, _ = begin(
        ["y"], Instantly(lambda task: TaskResult(task=task, kind="lost", line="gone")), retries=0
    )
    assert (batch.tally.failed, batch.tally.retried) == (1, 9)


def test_a_full_disk_ends_the_batch_and_not_every_file(begin):
    executor = Instantly(capacity=1)
    batch, _ = begin(["ok:1", "fill", "ok:2", "ok:3"], executor)
    assert executor.done == ["ok:1", "fill"]
    assert batch.tally.stopped == "no space left"
    assert (batch.tally.done, batch.tally.failed) == (1, 1)


def test_a_stop_finishes_what_is_under_way_and_begins_nothing(begin):
    def stopping(task):
        batch_of[0].stop()
        return obey(task)

    batch_of = []
    executor = Instantly(stopping)
    batch, _ = begin([f"ok:{n}" for n in range(10)], executor, prepare=batch_of.append)
    assert batch.tally.done == 2
    assert not batch.is_listed


def test_somebody_elses_file_is_not_replaced_unasked(begin):
    Path("out").mkdir()
    Path("out/0.jsonl").write_text("precious")
    batch, _ = begin(["ok:1"], Instantly())
    assert batch.tally.failures[0].kind == "exists"
    assert Path("out/0.jsonl").read_text() == "precious"
    batch, _ = begin(["ok:1"], Instantly(), overwrite=True)
    assert batch.tally.done == 1


def test_what_was_published_before_a_kill_is_replaced(begin, tmp_path):
    """The output stands, but nobody noted that it does: it is ours all the same."""

    def killed(_task):
        obey(_task)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin(["ok:1"], Instantly(killed))
    assert Path("out/0.jsonl").exists()
    batch, _ = begin(["ok:1"], Instantly())
    assert batch.tally.done == 1


def test_two_sources_with_one_output_are_told(begin, monkeypatch):
    found = [Found("b.mov", "b.mov", 1, "f"), Found("b.avi", "b.avi", 1, "f")]
    executor = Instantly(lambda task: TaskResult(task=task))

    def prepare(batch):
        batch._sources = iter(found)

    batch, _ = begin([], executor, prepare=prepare)
    assert executor.done == ["b.mov"]
    assert batch.tally.failures[0].kind == "clash"
    assert "b.avi and" in batch.tally.failures[0].line


def test_what_is_named_twice_is_done_once(begin):
    found = [Found("b.mov", "b.mov", 1, "f")] * 2

    def prepare(batch):
        batch._sources = iter(found)

    executor = Instantly(lambda task: TaskResult(task=task))
    batch, _ = begin([], executor, prepare=prepare)
    assert (batch.tally.files, executor.done) == (1, ["b.mov"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_never_its_own_output(begin, tmp_path, overwrite):
    """Not even where it is asked to overwrite."""
    Path("out").mkdir()
    path = tmp_path / "out" / "a.jsonl"
    path.write_text("a source")
    batch, _ = begin(
        [],
        Instantly(),
        overwrite=overwrite,
        prepare=lambda batch: setattr(batch, "_sources", iter([Found("out/a.jsonl", "a", 1, "f")])),
    )
    assert batch.tally.failures[0].kind == "exists"
    assert path.read_text() == "a source"


def test_only_failed_does_only_those(begin):
    begin(["ok:1", "fail:x"], Instantly(), retries=0)
    executor = Instantly()
    batch, _ = begin(["ok:1", "fail:x", "ok:new"], executor, retries=0, only_failed=True)
    assert executor.done == ["fail:x"]
    assert batch.tally.files == 1


def test_the_driver_holds_no_more_than_is_under_way(begin):
    """Sources are asked for when a worker is free, not before."""
    asked = []

    def watched(batch):
        sources = batch._sources

        def one_by_one():
            for source in sources:
                asked.append(source)
                yield source

        batch._sources = one_by_one()

    def look(task):
        most = len(executor.done) + executor.capacity
        assert len(asked) <= most, "listed ahead of the work"
        return obey(task)

    executor = Instantly(look, capacity=3)
    begin([f"ok:{n}" for n in range(50)], executor, prepare=watched)
    assert len(asked) == 50
