"""The journal outlives kills at any byte and full disks; the manifest answers from it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamface.batch.home import sweep
from streamface.batch.job import Task, TaskResult
from streamface.batch.journal import FileJournal
from streamface.batch.manifest import COLUMNS, DONE, FAILED, Manifest
from streamface.batch.work import Workshop
from streamface.errors import SinkError
from streamface.locks import FileLock


def task(name, **values):
    return Task(number=1, source=name, key=f"/in/{name}", fingerprint="f1",
                targets={"jsonl": f"/out/{name}.jsonl"}, **values)  # fmt: skip


def result(name, **values):
    return TaskResult(task=task(name), frames=5, outputs={f"/out/{name}.jsonl": 9}, **values)


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal.jsonl"


def test_what_was_finished_is_known_to_the_next_batch(journal):
    with Manifest(FileJournal(journal), "w") as manifest:
        manifest.begin(task("a"))
        manifest.finish(result("a"), DONE)
        manifest.finish(result("b", kind="source", line="broken"), FAILED)
    with Manifest(FileJournal(journal), "w") as manifest:
        known = manifest.last("/in/a")
        assert known.is_done
        assert known.outputs == {"/out/a.jsonl": 9}
        assert known.matches("f1", "w")
        assert not known.matches("f2", "w")
        assert not known.matches("f1", "other")
        assert manifest.is_ours("/out/a.jsonl")
        assert not manifest.is_ours("/out/c.jsonl")
        assert manifest.last("/in/c") is None
        assert [record["key"] for record in manifest.failed()] == ["/in/b"]


def test_an_output_is_ours_once_it_was_begun(journal):
    """Else one that was published just before a kill would be taken for somebody else's."""
    with Manifest(FileJournal(journal), "w") as manifest:
        manifest.begin(task("a"))
    with Manifest(FileJournal(journal), "w") as manifest:
        assert manifest.is_ours("/out/a.jsonl")
        assert manifest.last("/in/a") is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_journal_cut_anywhere_loses_only_its_last_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "journal.jsonl"
    names = [f"file{n}" for n in range(4)]
    with Manifest(FileJournal(path), "w") as manifest:
        for name in names:
            manifest.finish(result(name), DONE)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    lines = whole[:cut].count(b"\n")
    with Manifest(FileJournal(path), "w") as manifest:
        known = [manifest.last(f"/in/{name}") for name in names]
        assert [each is not None for each in known] == [n < lines for n in range(4)]
        manifest.finish(result("after"), DONE)
    # What is appended after it is no part of the cut line.
    assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_damaged_line_in_the_middle_is_left_out(journal, caplog):
    with Manifest(FileJournal(journal), "w") as manifest:
        for name in "abc":
            manifest.finish(result(name), DONE)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + b"\0" * 40 + b"\n" + lines[2])
    with Manifest(FileJournal(journal), "w") as manifest:
        assert [manifest.last(f"/in/{n}") is not None for n in "abc"] == [True, False, True]
    assert "damaged line" in caplog.text


def test_a_full_disk_leaves_no_half_line(journal, monkeypatch):
    kept = FileJournal(journal)
    kept.append({"is": "work", "n": 1}, durable=True)
    write = os.write

    def full(descriptor, data):
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", lambda d, data: full(d, data) if len(data) > 10 else fail())

    def fail():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SinkError, match="No space left"):
        kept.append({"n": 123}, durable=True)
    monkeypatch.undo()
    kept.append({"is": "work", "n": 2}, durable=True)
    kept.close()
    assert [json.loads(line)["n"] for line in journal.read_text().splitlines()] == [1, 2]


def test_two_files_cannot_claim_one_output(journal):
    with Manifest(FileJournal(journal), "w") as manifest:
        assert manifest.claim(["/out/b.mp4"], "/in/b.mov") is None
        assert manifest.claim(["/out/b.mp4"], "/in/b.mov") == "/in/b.mov"
        assert manifest.claim(["/out/b.jsonl", "/out/b.mp4"], "/in/b.avi") == "/in/b.mov"


def test_names_that_are_no_utf8_are_remembered(journal):
    odd = os.fsdecode(b"caf\xe9.mp4")
    with Manifest(FileJournal(journal), "w") as manifest:
        manifest.finish(result(odd), DONE)
    with Manifest(FileJournal(journal), "w") as manifest:
        assert manifest.last(f"/in/{odd}").is_done


def test_the_journal_is_written_anew_when_most_of_it_is_useless(journal):
    with Manifest(FileJournal(journal), "w") as manifest:
        manifest.describe({"conf": 0.6}, "1")
        for _ in range(5):
            manifest.finish(result("a"), DONE)
        manifest.compact()
        assert len(journal.read_bytes().splitlines()) == 2
        manifest.finish(result("b"), DONE)
    with Manifest(FileJournal(journal), "w") as manifest:
        assert manifest.last("/in/a").is_done
        assert manifest.last("/in/b").is_done
        before = journal.read_bytes()
        manifest.compact()
        assert journal.read_bytes() == before


def filled(manifest):
    manifest.describe({"conf": 0.6}, "0.1.0")
    manifest.finish(result("a", warnings=("no sound",)), DONE)
    manifest.finish(result("b", kind="source", line="broken"), FAILED)


def test_the_table_is_parquet(journal, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    (tmp_path / "manifest.jsonl").write_text("out of date")
    with Manifest(FileJournal(journal), "w") as manifest:
        filled(manifest)
        path = Path(manifest.export(str(tmp_path)))
    assert path.name == "manifest.parquet"
    assert not (tmp_path / "manifest.jsonl").exists()
    rows = pq.read_table(path).to_pylist()
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["source"], row["status"], row["error"]) for row in rows] == [
        ("a", "done", None),
        ("b", "failed", "broken"),
    ]
    assert json.loads(rows[0]["options"]) == {"conf": 0.6}
    assert json.loads(rows[0]["outputs"]) == {"/out/a.jsonl": 9}
    assert rows[0]["version"] == "0.1.0"


def test_the_table_is_json_lines_without_pyarrow(journal, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with Manifest(FileJournal(journal), "w") as manifest:
        filled(manifest)
        path = Path(manifest.export(str(tmp_path)))
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert path.name == "manifest.jsonl"
    assert [row["status"] for row in rows] == ["done", "failed"]
    assert list(rows[0]) == list(COLUMNS)


def test_a_lock_is_one_holders_only(tmp_path):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.take()
    assert not second.take()
    first.free()
    assert second.take()
    second.free(remove=True)
    assert not (tmp_path / "lock").exists()


def test_only_what_the_dead_left_is_swept(tmp_path):
    dead = tmp_path / "123-dead"
    dead.mkdir()
    (dead / "half.mp4").touch()
    (tmp_path / "123-dead.lock").touch()
    living = Workshop(tmp_path)
    with living.room() as room:
        (room / "half.mp4").touch()
        assert sweep(tmp_path) == 1
        assert not dead.exists()
        assert (room / "half.mp4").exists()
    assert not room.exists()
    living.close()
    assert sweep(tmp_path) == 0
    assert not list(tmp_path.iterdir())


def test_a_table_that_cannot_be_written_leaves_the_old_one_and_nothing_half(
    journal, tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    (tmp_path / "manifest.jsonl").write_text("old")
    with Manifest(FileJournal(journal), "w") as manifest:
        filled(manifest)

        def fail(_descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(SinkError, match="manifest.jsonl: No space left"):
            manifest.export(str(tmp_path))
    assert (tmp_path / "manifest.jsonl").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.jsonl", "manifest.jsonl"]
