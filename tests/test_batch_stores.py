"""Batches from and into buckets: a real S3 protocol server on loopback, with faults."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import pytest
import store_servers

from streamface import cli
from streamface.batch import lease as leases
from streamface.batch.home import workshop_root
from streamface.batch.job import BatchOptions
from streamface.batch.journal import StoreJournal
from streamface.batch.lease import Lease
from streamface.batch.listing import check_places, find, targets_of
from streamface.errors import SinkError, UsageError
from streamface.settings import Settings
from streamface.storage import Fingerprint, NothingThere, Stored, opened, store_for

OUT = "s3://lab/out"
LEASE = f"{OUT}/.streamface-batch/lease.json"
QUIET = ("--quiet", "--json", "report.json", "--preset", "ultrafast")


@pytest.fixture
def s3(monkeypatch, tmp_path):
    pytest.importorskip("s3fs", reason="needs streamface[s3]")
    pytest.importorskip("moto.server", reason="needs moto[server]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    with store_servers.s3_bucket(monkeypatch) as faults:
        yield faults


@pytest.fixture
def source(s3, tmp_path):
    """A prefix of two clips, one of them deeper, and what is no video."""
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("a.mp4", "sub/b.mkv")):
        clip = clips.write_clip(
            tmp_path / "in" / name.replace("/", "-"), 5 + number, audio_codec="aac"
        )
        put(f"s3://lab/in/{name}", clip.read_bytes())
    put("s3://lab/in/notes.txt", b"no video")
    return "s3://lab/in/"


def put(location, data):
    store_for(location).write(location, data)


def get(location):
    with opened(location) as file:
        return file.read()


def stored(prefix=OUT):
    """Return the names of all that is below a prefix, without what a batch keeps for itself."""
    try:
        return {each.location.removeprefix(f"{prefix}/") for each in store_for(prefix).list(prefix)}
    except NothingThere:
        return set()


def batch(*arguments):
    """Run the command; return its exit code and its report."""
    code = cli.main(["batch", *map(str, arguments), *QUIET])
    path = Path("report.json")
    return code, json.loads(path.read_text()) if path.exists() else None


def options(*sources, **values):
    values.setdefault("output", OUT)
    return BatchOptions(sources=sources, how=Settings(source="demo"), **values)


def found(*sources, **values):
    told = []
    listed = list(find(options(*sources, **values), lambda _, exc: told.append(str(exc))))
    return {each.name: each for each in listed}, told


# -- listing


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("s3://lab/in/", ["a.mp4", "sub/b.mkv"]),
        ("s3://lab/in", ["a.mp4", "sub/b.mkv"]),
        ("s3://lab/in/sub/b.mkv", ["b.mkv"]),
        ("s3://lab/in/**/*.mkv", ["sub/b.mkv"]),
        ("s3://lab", ["in/a.mp4", "in/sub/b.mkv"]),
    ],
)
def test_what_is_in_a_bucket_is_named_below_what_was_asked_for(source, given, names):
    listed, told = found(given)
    assert list(listed) == names
    assert told == []
    (first, *_) = listed.values()
    assert first.source == first.key
    assert first.size_bytes == len(get(first.source))


def test_a_fingerprint_changes_with_the_object(source):
    before = found(source)[0]["a.mp4"].fingerprint
    assert found(source)[0]["a.mp4"].fingerprint == before
    put("s3://lab/in/a.mp4", b"x" * len(get("s3://lab/in/a.mp4")))
    assert found(source)[0]["a.mp4"].fingerprint != before


def test_outputs_are_not_sources_and_places_are_checked(source):
    put(f"{OUT}/sub/b.mp4", b"made before")
    assert "out/sub/b.mp4" not in found("s3://lab")[0]
    check_places(options(source))
    with pytest.raises(UsageError, match="is source and --output"):
        check_places(options(f"{OUT}/"))
    with pytest.raises(UsageError, match="a web server takes no files"):
        check_places(options(source, output="https://lab.example/out"))


def test_a_name_that_would_leave_the_output_is_refused(monkeypatch):
    class Evil:
        def list(self, location):
            for name in ("a.mp4", "x/../../../evil.mp4", "b.txt", "y//c.mp4", "sub/d.mkv"):
                yield Stored(f"s3://lab/in/{name}", Fingerprint(1, "e"))

    monkeypatch.setattr("streamface.batch.listing.store_for", lambda _: Evil())
    listed, told = found("s3://lab/in/", output="out")
    assert list(listed) == ["a.mp4", "sub/d.mkv"]
    assert [line.partition(" is no name")[0] for line in told] == [
        "s3://lab/in/x/../../../evil.mp4", "s3://lab/in/y//c.mp4"
    ]  # fmt: skip


def test_what_is_not_there_is_told(s3):
    listed, told = found("s3://lab/nowhere/")
    assert listed == {}
    assert told == ["s3://lab/nowhere/ does not exist, or holds nothing"]


def test_the_key_of_a_signed_url_holds_no_secret(tmp_path):
    pytest.importorskip("fsspec", reason="needs streamface[cloud]")
    pytest.importorskip("aiohttp", reason="needs streamface[cloud]")
    with store_servers.web_server({"talks/a%20b.mp4": b"12345"}) as (base, _):
        url = f"{base}/talks/a%20b.mp4?X-Amz-Signature=abc123"
        listed, told = found(url, output=str(tmp_path))
    assert told == []
    assert "abc123" not in listed["a b.mp4"].key
    assert listed["a b.mp4"].source == url
    made = targets_of(listed["a b.mp4"], options(url, output=str(tmp_path)))
    assert made == {"video": f"{tmp_path}/a b.mp4", "jsonl": f"{tmp_path}/a b.jsonl"}


# -- whole batches


def test_a_bucket_becomes_a_bucket_and_nothing_is_done_twice(source, s3, capfd, tmp_path):
    code, report = batch(source, "--output", OUT, "--workers", 2)
    assert (code, report["done"], report["failed"]) == (0, 2, 0)
    made = {"a.mp4", "a.jsonl", "sub/b.mp4", "sub/b.jsonl"}
    assert made <= stored()
    assert any(name.startswith("manifest.") for name in stored())
    assert report["manifest"].startswith(f"{OUT}/manifest.")
    with pytest.raises(NothingThere):
        get(LEASE)
    assert not list(workshop_root(OUT).iterdir())

    # What `run` makes of the same object is the same to the byte.
    for name in ("a.mp4", "sub/b.mkv"):
        stem = name.rpartition(".")[0]
        assert cli.main(
            ["run", "--source", f"s3://lab/in/{name}", "--save-jsonl", "by-run.jsonl", "--quiet",
             "--overwrite"]
        ) == 0  # fmt: skip
        assert get(f"{OUT}/{stem}.jsonl") == Path("by-run.jsonl").read_bytes()

    s3.requests.clear()
    code, report = batch(source, "--output", OUT, "--workers", 2)
    assert (code, report["done"], report["skipped"]) == (0, 0, 2)
    assert ("PUT", "/lab/out/a.mp4") not in s3.requests
    # Whether outputs stand is asked by listing, not one by one.
    assert ("HEAD", "/lab/out/a.mp4") not in s3.requests

    store_for(OUT).delete(f"{OUT}/a.jsonl")
    put(f"{OUT}/sub/b.mp4", b"cut short")
    code, report = batch(source, "--output", OUT, "--workers", 1)
    assert (code, report["done"]) == (0, 2)
    assert store_servers.SECRET not in capfd.readouterr().err
    assert store_servers.SECRET not in Path("report.json").read_text()


def test_a_bucket_becomes_a_folder_and_a_folder_a_bucket(source, tmp_path):
    code, report = batch(source, "--output", "here", "--no-video")
    assert (code, report["done"]) == (0, 2)
    assert Path("here/sub/b.jsonl").is_file()
    code, report = batch("in", "--output", OUT, "--no-video")
    assert (code, report["done"]) == (0, 2)
    assert {"a.jsonl", "sub-b.jsonl"} <= stored()


def test_what_somebody_else_put_there_stays(source):
    put(f"{OUT}/a.jsonl", b"theirs")
    code, report = batch(source, "--output", OUT, "--no-video")
    assert (code, report["done"], report["failed"]) == (3, 1, 1)
    assert "pass --overwrite" in report["failures"][0]["error"]
    assert get(f"{OUT}/a.jsonl") == b"theirs"
    code, report = batch(source, "--output", OUT, "--no-video", "--overwrite")
    assert (code, report["done"], report["skipped"]) == (0, 1, 1)


def test_an_object_that_is_gone_fails_alone(source, monkeypatch):
    put("s3://lab/in/broken.mp4", b"no video at all")
    code, report = batch(source, "--output", OUT, "--no-video", "--retries", 0)
    assert (code, report["done"], report["failed"]) == (3, 2, 1)
    assert report["failures"][0]["source"] == "s3://lab/in/broken.mp4"


def test_a_store_that_stumbles_costs_time_only(source, s3):
    s3.add(None, None, 500, None, 503, 500, None, None, 500)
    code, report = batch(source, "--output", OUT, "--no-video", "--workers", 1)
    assert (code, report["done"]) == (0, 2)


def test_a_store_that_stays_broken_is_one_line_and_the_next_batch_goes_on(
    source, s3, monkeypatch, capfd
):
    monkeypatch.setattr("streamface.storage.time.sleep", lambda _: None)
    s3.add(*[None] * 12, *[500] * 400)
    assert cli.main(["batch", source, "--output", OUT, "--no-video", "--workers", "1", *QUIET]) == 1
    s3._next.clear()
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if "error" in line] == said[-1:]
    assert "the store answered 500" in said[-1]
    left_by(machine=leases._machine(), pid=999_999_999)
    code, report = batch(source, "--output", OUT, "--no-video", "--workers", 1)
    assert (code, report["failed"], report["done"] + report["skipped"]) == (0, 0, 2)


def test_after_a_killed_driver_all_is_done_once(source, s3, tmp_path):
    """Nothing lost: what was published counts, the rest is done by the next batch at once."""
    for number in range(6):
        put(f"s3://lab/in/more{number}.mp4", get("s3://lab/in/a.mp4"))
    command = [sys.executable, "-m", "streamface", "batch", source, "--output", OUT, *QUIET,
               "--workers", "1", "--threads", "1"]  # fmt: skip
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, env={**os.environ, **paths}) as driver:
        until_s = time.monotonic() + 60
        while len([name for name in stored() if name.endswith(".jsonl")]) < 3:
            assert time.monotonic() < until_s
            assert driver.poll() is None
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
    before = {each.location: each.fingerprint for each in store_for(OUT).list(f"{OUT}/")}
    code, report = batch(source, "--output", OUT, "--workers", 1, "--threads", 1)
    assert (code, report["failed"]) == (0, 0)
    assert report["done"] + report["skipped"] == 8
    # All but the file whose note was on its way when the driver died.
    assert report["skipped"] >= len([n for n in before if n.endswith(".jsonl")]) - 1
    assert len([name for name in stored() if name.endswith(".mp4")]) == 8
    assert not list(workshop_root(OUT).iterdir())


def test_two_batches_on_one_bucket_refuse_each_other(source, monkeypatch, capfd):
    lease = Lease(LEASE, OUT)
    lease.take()
    monkeypatch.setattr(leases, "_LOOK_S", 0.05)
    monkeypatch.setattr(leases, "_RENEW_S", 0.02)
    lease._over.set()
    lease._thread.join()
    lease._over.clear()
    lease._thread = leases.threading.Thread(target=lease._renew)
    lease._thread.start()
    try:
        assert cli.main(["batch", source, "--output", OUT, *QUIET]) == 2
    finally:
        lease.free()
    said = capfd.readouterr().err
    assert "another batch is at work on s3://lab/out" in said
    assert f"process {os.getpid()}" in said
    assert not {name for name in stored() if name.endswith(".jsonl")}


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("s3://nowhere/out", r"cannot write s3://nowhere/out/.*lease.json: "),
        ("s3://lab/denied", r"cannot (read|write) s3://lab/denied/.*lease.json: access is denied"),
    ],
)
def test_a_bucket_that_cannot_be_written_is_called_so(source, s3, capfd, output, said):
    if "denied" in output:
        s3.add(404, 403)
    assert cli.main(["batch", source, "--output", output, "--no-video", *QUIET]) == 1
    (line,) = (each for each in capfd.readouterr().err.splitlines() if "error" in each)
    assert re.search(said, line), line


def test_a_folder_goes_with_all_that_is_in_it_and_nothing_else(s3):
    for name in ("gone/a", "gone/b/c", "gonelike/d", "kept"):
        put(f"{OUT}/{name}", b"1")
    store_for(OUT).delete_folder(f"{OUT}/gone")
    store_for(OUT).delete_folder(f"{OUT}/never")
    assert stored() == {"gonelike/d", "kept"}


# -- the lease


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE_S", 0.3)
    monkeypatch.setattr(leases, "_LOOK_S", 0.02)


def left_by(**values):
    said = {"mark": "m", "host": "elsewhere", "machine": "", "pid": 1, "beat": 7, **values}
    put(LEASE, json.dumps(said).encode())


def test_a_lease_that_is_not_renewed_is_taken(s3, soon):
    left_by()
    began_s = time.monotonic()
    lease = Lease(LEASE, OUT)
    lease.take()
    assert time.monotonic() - began_s >= 0.3
    assert lease.was_taken_over
    assert json.loads(get(LEASE))["pid"] == os.getpid()
    lease.free()
    with pytest.raises(NothingThere):
        get(LEASE)


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_at_once(s3):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    machine = leases._machine()
    if not machine:
        pytest.skip("this system does not name the space of its process numbers")
    left_by(machine=machine, pid=dead.pid)
    waited = []
    lease = Lease(LEASE, OUT)
    lease.take(waited.append)
    assert sum(waited) <= 2
    lease.free()


def test_a_lease_that_somebody_else_took_is_lost(s3, monkeypatch):
    monkeypatch.setattr(leases, "_RENEW_S", 0.02)
    lease = Lease(LEASE, OUT)
    lease.take()
    lease.check()
    until_s = time.monotonic() + 20
    with pytest.raises(SinkError, match="has taken over s3://lab/out"):
        while time.monotonic() < until_s:
            # Again and again: a renewal that has just looked writes over it, and who took the lease
            # finds that out before he begins.
            left_by(mark="another")
            lease.check()
            time.sleep(0.01)
    lease.free()
    assert json.loads(get(LEASE))["mark"] == "another"


def test_who_could_not_renew_in_time_looks_before_anything_is_written(s3, monkeypatch):
    lease = Lease(LEASE, OUT)
    lease.take()
    lease._renewed_s -= leases._STALE_S + 1
    waited = []
    lease.check(waited.append)  # nobody took it meanwhile
    assert waited
    assert leases._STALE_S < leases.PATIENCE_S
    lease._renewed_s -= leases._STALE_S + 1
    left_by(mark="another")
    with pytest.raises(SinkError, match="has taken over"):
        lease.check(waited.append)
    lease.free()


def test_a_store_that_is_away_is_not_written_to(s3):
    lease = Lease(LEASE, OUT)
    lease.take()
    lease._renewed_s -= leases._STALE_S + 1
    s3.add(*[500] * 8)
    with pytest.raises(SinkError, match="cannot be reached, so that another batch may"):
        lease.check(lambda _: None)
    s3._next.clear()
    lease.check(lambda _: None)  # it is back, and still ours
    lease.free()


# -- the journal


def journal(is_ours=lambda: None):
    return StoreJournal(f"{OUT}/journal", Path("scratch"), is_ours)


def test_a_journal_in_a_bucket_remembers_what_was_flushed(s3, monkeypatch):
    monkeypatch.setattr("streamface.batch.journal._PIECE_BYTES", 100)
    first = journal()
    assert list(first.records()) == []
    for number in range(10):
        first.append({"n": number, "text": "x" * 20}, durable=True)
        first.flush()
    first.append({"n": "lost"}, durable=True)
    first.close()
    assert len(stored(f"{OUT}/journal")) > 2
    second = journal()
    assert [each["n"] for each in second.records()] == list(range(10))
    second.append({"n": 10}, durable=True)
    second.flush()
    second.close()
    third = journal()
    assert [each["n"] for each in third.records()] == list(range(11))
    third.rewrite([json.dumps({"n": 99})])
    third.append({"n": 100}, durable=True)
    third.flush()
    third.close()
    assert [each["n"] for each in journal().records()] == [99, 100]
    assert len(stored(f"{OUT}/journal")) == 1


def test_a_journal_whose_lease_is_lost_writes_nothing(s3):
    def lost():
        raise SinkError("another batch has taken over")

    kept = journal(lost)
    kept.append({"n": 1}, durable=True)
    with pytest.raises(SinkError, match="taken over"):
        kept.flush()
    kept.close()
    assert stored(f"{OUT}/journal") == set()
