"""``streamface batch`` as a user meets it, with real videos, on worker processes and on Ray."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clips
import pytest

from streamface import cli
from streamface.batch import console
from streamface.batch.command import exit_code, shares
from streamface.batch.driver import BatchTally

FRAMES = 6


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder of three clips, one of them in a folder below."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    clips.write_clip(tmp_path / "in" / "a.mp4", FRAMES, audio_codec="aac")
    clips.write_clip(tmp_path / "in" / "sub" / "b.mkv", FRAMES + 1)
    clips.write_clip(tmp_path / "in" / "sub" / "c.mp4", FRAMES + 2)
    return tmp_path / "in"


def batch(*arguments):
    """Run the command; return its exit code and what it printed as JSON."""
    code = cli.main(["batch", *map(str, arguments), "--quiet", "--json", "report.json"])
    path = Path("report.json")
    return code, json.loads(path.read_text()) if path.exists() else None


def made(folder):
    """Return all outputs below a folder, by name, without what a batch keeps for itself."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".streamface-batch" not in path.parts and "manifest" not in path.name
    }


def by_run(source, *arguments):
    """Return what ``run`` makes of each file, named as a batch names it."""
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        stem = path.relative_to(source).with_suffix("").as_posix()
        target = Path("by-run") / f"{stem}"
        target.parent.mkdir(parents=True, exist_ok=True)
        done = cli.main(
            ["run", "--source", str(path.relative_to(Path.cwd())), "--quiet",
             "--output", f"{target}.mp4", "--save-jsonl", f"{target}.jsonl",
             "--save-vtt", f"{target}.vtt", *arguments]
        )  # fmt: skip
        assert done == 0
    return made(Path("by-run"))


def test_a_batch_makes_what_run_makes_byte_for_byte_and_only_once(source):
    code, report = batch("in", "--output", "out", "--save-jsonl", "--save-vtt", "--workers", 2)
    assert code == 0
    assert {name: report[name] for name in ("files", "done", "skipped", "failed")} == {
        "files": 3, "done": 3, "skipped": 0, "failed": 0
    }  # fmt: skip
    assert report["frames"] == 3 * FRAMES + 3
    assert report["media_seconds"] == pytest.approx((3 * FRAMES + 3) / 30, abs=1e-3)
    expected = by_run(source)
    outputs = made(Path("out"))
    assert outputs.keys() == expected.keys()
    assert len(outputs) == 9
    for name, content in expected.items():
        # x264 with another number of threads writes other bytes, so videos are compared by frames.
        if name.endswith(".mp4"):
            assert clips.video_times(Path("out", name)) == clips.video_times(Path("by-run", name))
        else:
            assert outputs[name] == content, name
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.*p4")}
    code, report = batch("in", "--output", "out", "--save-jsonl", "--save-vtt")
    assert (code, report["done"], report["skipped"]) == (0, 0, 3)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(Path("out/.streamface-batch/unfinished").iterdir())


def test_ray_makes_the_same(source, two_nodes, quiet_ray):
    code, report = batch(
        "in", "--output", "out", "--save-jsonl", "--save-vtt", "--cluster", two_nodes.address
    )
    assert (code, report["done"], report["workers"]) == (0, 3, 2)
    expected, outputs = by_run(source), made(Path("out"))
    assert outputs.keys() == expected.keys()
    for name in expected:
        if not name.endswith(".mp4"):
            assert outputs[name] == expected[name], name


def test_one_bad_file_stops_no_other_and_can_be_tried_alone(source):
    (source / "bad.mp4").write_text("no video")
    code, report = batch("in", "--output", "out", "--no-video", "--retries", 0)
    assert (code, report["done"], report["failed"]) == (3, 3, 1)
    assert report["failures"][0]["source"] == "in/bad.mp4"
    assert report["failures"][0]["kind"] == "source"
    shutil.copy(source / "a.mp4", source / "bad.mp4")
    code, report = batch("in", "--output", "out", "--no-video", "--only-failed")
    assert (code, report["files"], report["done"]) == (0, 1, 1)


def test_nothing_done_is_a_failure(source):
    for path in source.rglob("*.m*"):
        path.write_text("no video")
    code, report = batch("in", "--output", "out", "--retries", 0, "--workers", 1)
    assert (code, report["failed"]) == (1, 3)


def test_options_of_run_hold_for_every_file(source):
    code, report = batch("in", "--output", "out", "--max-frames", 2, "--no-video", "--tasks", "")
    assert (code, report["frames"]) == (0, 6)
    assert set(made(Path("out"))) == {"a.jsonl", "sub/b.jsonl", "sub/c.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["in", "--output", "out", "--workers", "0"], 2, "--workers must be 1"),
        (["in"], 2, "--output"),
        (["gone", "--output", "out"], 1, "gone does not exist"),
        (["empty", "--output", "out"], 1, "no video or image in empty"),
        (["ftp://server/x", "--output", "out"], 2, "ftp://"),
        (["in", "--output", "https://lab.example/out"], 2, "https://"),
        (["in", "--output", "out", "--split", "0"], 2, "--split must be 1"),
        (["in", "--output", "out", "--simulate-live"], 2, "--simulate-live"),
        (["in", "--output", "out", "--conf", "7"], 2, "--conf must be"),
        (["in", "--output", "in/a.mp4"], 1, "cannot write"),
        (["in", "--output", "in"], 2, "is source and --output"),
        (["in", "--output", "out", "--cluster", "somewhere"], 2, "HOST:PORT"),
        (["in", "--output", "out", "--serve", "8000"], 2, "for `streamface run`"),
        (["in", "--output", "out", "--segment", "10m"], 2, "for `streamface run`"),
    ],
)
def test_what_cannot_be_is_one_line(source, capfd, arguments, code, said):
    Path("empty").mkdir()
    assert cli.main(["batch", *arguments]) == code
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("streamface: error: ")
    assert said in lines[0]


def test_one_batch_at_a_time(source, capfd):
    from streamface.locks import FileLock

    Path("out/.streamface-batch").mkdir(parents=True)
    lock = FileLock(Path("out/.streamface-batch/lock"))
    assert lock.take()
    assert cli.main(["batch", "in", "--output", "out"]) == 2
    assert "another batch is at work on out" in capfd.readouterr().err
    lock.free()


def started(*arguments):
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", "streamface", "batch", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition, what, seconds=90):
    until_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until_s, f"no {what} for {seconds} s"
        time.sleep(0.02)


def journal_has(text):
    path = Path("out/.streamface-batch/journal.jsonl")
    return path.exists() and text in path.read_text()


def test_a_killed_driver_goes_on_where_it_was(source):
    """The first file is not done again, the others are, and nothing half is left."""
    for number in range(4):
        shutil.copy(source / "a.mp4", source / f"d{number}.mp4")
    process = started("in", "--output", "out", "--workers", 1, "--no-video")
    wait_for(lambda: journal_has('"status": "done"'), "finished file")
    process.kill()
    process.communicate()
    done = Path("out/.streamface-batch/journal.jsonl").read_text().count('"status": "done"')
    code, report = batch("in", "--output", "out", "--no-video")
    assert code == 0
    assert report["skipped"] >= done
    assert report["done"] + report["skipped"] == 7
    assert not list(Path("out").rglob("*.part*"))
    assert not list(Path("out/.streamface-batch/unfinished").iterdir())


def test_ctrl_c_finishes_what_is_under_way(source):
    for number in range(30):
        shutil.copy(source / "a.mp4", source / f"d{number}.mp4")
    process = started("in", "--output", "out", "--workers", 1, "--no-video", "--json", "-")
    wait_for(lambda: journal_has('"status": "done"'), "finished file")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    report = json.loads(out)
    assert report["interrupted"]
    assert 0 < report["done"] < 33
    assert "left" in err
    assert len(made(Path("out"))) == report["done"]


def test_the_summary_names_failures_and_how_to_try_them_again(source, capfd):
    (source / "bad.mp4").write_text("no video")
    assert cli.main(["batch", "in", "--output", "out", "--retries", "0", "--no-video"]) == 3
    said = capfd.readouterr().err
    assert "3 done, 0 skipped (done before), 1 failed" in said
    assert "manifest: out/manifest." in said
    assert re.search(r"^ {2}cannot open in/bad.mp4: ", said, re.MULTILINE)
    assert "to try just these again: the same command with --only-failed" in said


@pytest.mark.parametrize(
    ("report", "code"),
    [
        ({"done": 2, "skipped": 0, "failed": 0}, 0),
        ({"done": 0, "skipped": 2, "failed": 0}, 0),
        ({"done": 1, "skipped": 0, "failed": 1}, 3),
        ({"done": 0, "skipped": 1, "failed": 1}, 3),
        ({"done": 0, "skipped": 0, "failed": 2}, 1),
        ({"done": 1, "skipped": 0, "failed": 0, "stopped": "full"}, 3),
        ({"done": 1, "skipped": 0, "failed": 0, "interrupted": True}, 130),
    ],
)
def test_exit_codes(report, code):
    assert exit_code({"stopped": None, "interrupted": False, **report}) == code


def test_cores_are_shared_among_the_workers():
    assert shares(None, None, 8) == (8, 1)
    assert shares(2, None, 8) == (2, 4)
    assert shares(None, 4, 8) == (2, 4)
    assert shares(3, 1, 8) == (3, 1)
    assert shares(20, None, 8) == (20, 1)


class _Census:
    files, bytes, is_complete = 10, 1000, True


def test_what_is_left_is_judged_by_bytes():
    tally = BatchTally(files=5, done=5, bytes_over=250, media_s=60.0, began_s=0.0, ended_s=30.0)
    assert console.left_s(tally, _Census()) == pytest.approx(90.0)
    assert console.progress_line(tally, _Census()) == "5 of 10 files, 2.0x real time, 1:30 left"
    assert console.left_s(BatchTally(), _Census()) is None


def test_the_panel_shows_workers_and_counts():
    from types import SimpleNamespace

    from rich.console import Console

    task = SimpleNamespace(source="in/long/name.mp4", doing="drawing, segment 2 of 5")
    shown = SimpleNamespace(
        tally=BatchTally(files=5, done=3, failed=1, skipped=1, began_s=0.0, ended_s=1.0),
        executor=SimpleNamespace(at_work={"w1": (task, 65.0)}),
        options=SimpleNamespace(output="out"),
        stopping=False,
    )
    plain = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    plain.print(console.panel(shown, _Census()))
    plain.file.close()
    text = plain.export_text()
    for part in (
        "done 3",
        "skipped 1",
        "failed 1",
        "5/10",
        "w1",
        "1:05",
        "in/long/name.mp4 drawing, seg",
    ):
        assert part in text
