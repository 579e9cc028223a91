"""Long files of a batch: cut, done in steps by any worker, joined, and done whole if need be."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import av
import clips
import numpy as np
import pytest
from batch_bodies import Instantly

from streamface import cli
from streamface.batch import command as commands
from streamface.batch import driver, split, steps
from streamface.batch.driver import Batch
from streamface.batch.job import BatchOptions, TaskResult
from streamface.batch.journal import FileJournal
from streamface.batch.manifest import Manifest
from streamface.batch.work import Work, kind_of
from streamface.errors import SplitError, StageError, UsageError
from streamface.settings import Settings

COUNT = 90
X264 = {"g": "15", "bf": "3", "x264-params": "scenecut=0"}
HOW = Settings(source="demo", preset="ultrafast", crf=0, tasks=(), detect_every=1)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with one clip of three seconds that can be cut every half second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "_FIRST_WAIT_S", 0.0)
    (tmp_path / "in").mkdir()
    clips.write_clip(tmp_path / "in" / "a.mp4", COUNT, options=X264, audio_codec="aac")
    return tmp_path


class Observed:
    """A body that does the real work, after it was told of each task."""

    def __init__(self, options, before=lambda _task: None):
        self._work = Work(options, str(Path.cwd()))
        self._before = before
        self.steps = []

    def __call__(self, task):
        self.steps.append((task.source, task.step.what if task.step else "whole"))
        special = self._before(task)
        return special if special is not None else self._work(task)

    def close(self):
        self._work.close()


def options(*sources, **values):
    values.setdefault("split", 1.0)
    return BatchOptions(
        sources=sources or ("in",), output="out", how=values.pop("how", HOW), **values
    )


def do(asked, before=lambda _task: None, capacity=2):
    """Run a batch in this process; return it, its steps and the warnings of its results."""
    warnings = []
    journal = Path("out/.streamface-batch/journal.jsonl")
    journal.parent.mkdir(parents=True, exist_ok=True)
    body = Observed(asked, before)
    with closing(body), Manifest(FileJournal(journal), "w") as manifest:
        batch = Batch(
            asked,
            Instantly(body, capacity),
            manifest,
            on_result=lambda result, _status: warnings.extend(result.warnings),
        )
        batch.execute()
    return batch, body.steps, warnings


def parts():
    return [path for path in Path("out/.streamface-batch/parts").rglob("*") if path.is_file()]


def frames(path):
    with av.open(str(path)) as container:
        return [(f.pts, f.reformat(format="gray").to_ndarray()) for f in container.decode(video=0)]


def sound(path):
    with av.open(str(path)) as container:
        return [(p.pts, p.duration, bytes(p)) for p in container.demux(audio=0) if p.size]


def assert_same(made, whole):
    for (pts, luma), (other_pts, other) in zip(frames(made), frames(whole), strict=True):
        assert pts == other_pts
        assert np.array_equal(luma, other)
    assert sound(made) == sound(whole)


def by_run(name="whole", **values):
    """Return the video that ``run`` makes of the clip, and its data beside it."""
    from streamface.app import Run

    target = Path(f"{name}.mp4").absolute()
    data = {"jsonl": f"{name}.jsonl"}
    with Run(replace(HOW, source="in/a.mp4", output=target, data=data, **values)) as run:
        run.execute()
    return target


def test_a_long_file_is_done_in_segments_and_is_what_run_makes():
    batch, did, warnings = do(options())
    assert (batch.tally.done, batch.tally.split, batch.tally.failed) == (1, 1, 0)
    assert batch.tally.frames == COUNT
    assert batch.tally.media_s == pytest.approx(COUNT / 30, abs=1e-3)
    assert [what for _, what in did] == [
        "whole", "find", "find", "find", "stitch", "draw", "draw", "draw", "join"
    ]  # fmt: skip
    assert warnings == []
    whole = by_run()
    assert_same("out/a.mp4", whole)
    assert Path("out/a.jsonl").read_bytes() == whole.with_suffix(".jsonl").read_bytes()
    assert parts() == []
    # And it is done: with the same words nothing is done again, with others it is.
    batch, did, _ = do(options())
    assert (batch.tally.skipped, did) == (1, [])


def test_data_alone_need_no_drawing():
    _, did, _ = do(options(video=False))
    assert [what for _, what in did] == ["whole", "find", "find", "find", "stitch", "join"]
    whole = by_run()
    assert Path("out/a.jsonl").read_bytes() == whole.with_suffix(".jsonl").read_bytes()


def test_what_was_done_of_a_file_is_not_done_again(monkeypatch):
    """A batch that ends in the middle, however, leaves segments that the next one takes."""

    def stop(task):
        if task.step is not None and task.step.what == "draw" and task.step.number == 1:
            batch_stops.append(task)
            return TaskResult(task=task, kind="no-space", line="the disk is full")
        return None

    batch_stops = []
    first, _, _ = do(options(retries=0), stop)
    assert batch_stops
    assert first.tally.stopped == "the disk is full"
    assert not Path("out/a.mp4").exists()
    assert len([path for path in parts() if path.name.startswith("find-")]) == 3

    def never(*_arguments, **_options):
        raise AssertionError("was done before")

    monkeypatch.setattr(steps, "find_segment", never)
    drawn = []
    draw = steps.draw_segment

    def noted(plan, number, *others):
        drawn.append(number)
        return draw(plan, number, *others)

    monkeypatch.setattr(steps, "draw_segment", noted)
    batch, _, _ = do(options())
    assert (batch.tally.done, batch.tally.split) == (1, 1)
    assert 0 not in drawn
    assert 1 in drawn
    assert_same("out/a.mp4", by_run())
    assert parts() == []


@pytest.mark.parametrize("change", ["fingerprint", "segments"])
def test_segments_of_another_file_or_another_plan_are_not_taken(change, monkeypatch):
    do(options(retries=0), _full_at_the_end)
    assert parts()
    asked = options()
    if change == "fingerprint":
        shutil.copy("in/a.mp4", "in/b.mp4")
        Path("in/b.mp4").replace("in/a.mp4")
    else:
        asked = options(split=1.4)
    found = []
    find = steps.find_segment
    monkeypatch.setattr(steps, "find_segment", lambda *a: found.append(a[1]) or find(*a))
    batch, _, _ = do(asked)
    assert batch.tally.done == 1
    assert len(found) == (3 if change == "fingerprint" else 2)
    assert parts() == []


def _full_at_the_end(task):
    if task.step is not None and task.step.what == "join":
        return TaskResult(task=task, kind="no-space", line="the disk is full")
    return None


@pytest.mark.parametrize("what", ["find", "stitch", "draw", "join"])
def test_what_does_not_fit_together_is_done_whole_and_told(what, caplog):
    def odd(task):
        if task.step is not None and task.step.what == what:
            return TaskResult(task=task, kind="split", line="the pictures differ")
        return None

    batch, did, _ = do(options(), odd)
    assert (batch.tally.done, batch.tally.split, batch.tally.failed) == (1, 0, 0)
    assert did[-1] == ("in/a.mp4", "whole")
    assert "in/a.mp4: done whole, not in segments: the pictures differ" in caplog.text
    assert_same("out/a.mp4", by_run())
    assert parts() == []


def test_a_split_error_is_known_in_whatever_stage_it_was_raised():
    wrapped = StageError("find", 3, SplitError("the frame was not there"))
    wrapped.__cause__ = wrapped.cause
    assert kind_of(wrapped) == kind_of(SplitError("x")) == "split"
    assert kind_of(StageError("find", 3, ValueError("x"))) == "stage"


def test_a_segment_that_kills_its_workers_sets_the_file_aside_and_others_are_done():
    clips.write_clip(Path("in/z.mp4"), 5)

    def deadly(task):
        if task.step is not None and task.step.number == 2:
            return TaskResult(task=task, kind="crashed", line="its worker died")
        return None

    batch, did, _ = do(options(), deadly)
    assert (batch.tally.done, batch.tally.failed) == (1, 1)
    (failure,) = batch.tally.failures
    assert (failure.kind, failure.task.step) == ("crashed", None)
    assert ("in/z.mp4", "whole") in did
    assert not Path("out/a.mp4").exists()


def test_who_dies_after_joining_is_followed_by_one_who_joins_again(place):
    """Its outputs stand, but nobody knows: the segments must still be there."""
    work, died = Work(options(), str(place)), []

    def die(task):
        if task.step is None or task.step.what != "join" or died:
            return None
        assert work(task).kind is None
        died.append(task)
        return TaskResult(task=task, kind="crashed", line="its worker died")

    with closing(work):
        batch, _, _ = do(options(), die)
    assert died
    assert (batch.tally.done, batch.tally.failed) == (1, 0)
    assert_same("out/a.mp4", by_run())
    assert parts() == []


def test_steps_that_wait_to_be_tried_again_end_with_what_they_are_part_of(monkeypatch):
    monkeypatch.setattr(driver, "_FIRST_WAIT_S", 0.2)

    def odd(task):
        if task.step is None or task.step.what != "find":
            return None
        kind = "source" if task.step.number == 0 else "split"
        return TaskResult(task=task, kind=kind, line="the pictures differ")

    batch, did, _ = do(options(), odd)
    assert (batch.tally.done, batch.tally.retried) == (1, 1)
    assert [what for _, what in did] == ["whole", "find", "find", "whole"]


def test_a_segment_that_fails_once_is_tried_again():
    failed = []

    def once(task):
        if task.step is not None and task.step.what == "draw" and not failed:
            failed.append(task)
            return TaskResult(task=task, kind="source", line="the store stumbled")
        return None

    batch, _, _ = do(options(), once)
    assert (batch.tally.done, batch.tally.retried) == (1, 1)
    assert_same("out/a.mp4", by_run())


def test_what_is_too_short_is_done_at_once_and_nothing_is_said():
    batch, did, warnings = do(options(split=600.0))
    assert did == [("in/a.mp4", "whole")]
    assert (batch.tally.done, batch.tally.split, warnings) == (1, 0, [])


def test_what_cannot_be_cut_is_done_at_once_and_told(place):
    Path("in/a.mp4").unlink()
    clips.write_clip(
        place / "in" / "one.mp4", COUNT, options={"g": "500", "x264-params": "scenecut=0"}
    )
    _, did, warnings = do(options())
    assert did == [("in/one.mp4", "whole")]
    (line,) = warnings
    assert line.startswith("in/one.mp4: done whole, not in segments: it has no key frame to cut")


@pytest.mark.parametrize(
    ("capacity", "others", "is_cut"), [(4, 0, True), (4, 3, False), (1, 0, False)]
)
def test_auto_cuts_where_workers_would_be_idle(monkeypatch, capacity, others, is_cut):
    monkeypatch.setattr(split, "_SHORTEST_S", 1.0)
    for number in range(others):
        clips.write_clip(Path(f"in/z{number}.mp4"), 5)
    batch, _, _ = do(options(split="auto"), capacity=capacity)
    assert batch.tally.done == 1 + others
    assert batch.tally.split == is_cut


def test_the_command_cuts_on_real_workers():
    code = cli.main(
        ["batch", "in", "--output", "out", "--split", "1", "--workers", "2", "--quiet",
         "--preset", "ultrafast", "--json", "report.json"]
    )  # fmt: skip
    assert code == 0
    report = json.loads(Path("report.json").read_text())
    assert (report["done"], report["split"], report["frames"]) == (1, 1, COUNT)
    assert len(frames("out/a.mp4")) == COUNT
    assert not list(Path("out/.streamface-batch/unfinished").iterdir())


@pytest.mark.parametrize("given", ["0.5", "often", "-3", "nan"])
def test_a_wrong_split_is_a_usage_error(given, capfd):
    assert cli.main(["batch", "in", "--output", "out", "--split", given]) == 2
    assert "--split" in capfd.readouterr().err


def test_what_is_cut_and_what_is_not_are_different_work():
    from streamface.batch.job import work_id

    assert work_id(options(), {}, "1") != work_id(options(split="never"), {}, "1")
    with pytest.raises(UsageError):
        options(split=0.1)
    assert commands._split("auto") == "auto"
