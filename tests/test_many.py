"""Several streams at once: each with its own order, tracks, outputs and end."""

from __future__ import annotations

import json
import threading

import av
import clips
import pytest

from streamface import app, cli, console
from streamface.app import Run
from streamface.decode import ReadOptions
from streamface.errors import SinkError, SourceError, UsageError
from streamface.gather import Gathering
from streamface.settings import Settings
from streamface.sinks import VideoSink
from streamface.sources import Input, open_source
from streamface.streams import LiveStream
from streamface.testing import CountingSource, FixedDetector


@pytest.fixture(autouse=True)
def _fixed_face(monkeypatch):
    """Every frame has one face, found without a model."""
    monkeypatch.setattr(app, "open_detector", lambda _settings: FixedDetector())


class Opener:
    """Opens fake live sources: a length, an error, or (length, hook before each frame)."""

    def __init__(self, *plans, is_live=True):
        self.plans = plans
        self.is_live = is_live
        self.opened = {}

    def __call__(self, _what, _options, *, stream):
        plan = self.plans[stream]
        if isinstance(plan, Exception):
            raise plan
        length, hook = plan if isinstance(plan, tuple) else (plan, None)
        source = CountingSource(length, stream=stream, is_live=self.is_live, on_frame=hook)
        self.opened[stream] = source
        return source


def settings(count, folder, **options):
    folder.mkdir(exist_ok=True)
    defaults = {
        "output": folder,
        "preset": "ultrafast",
        "tasks": ("emotion",),
        "data": {"jsonl": str(folder / "all.jsonl")},
        "source": tuple(f"{n}" for n in range(count)),
    }
    return Settings(**(defaults | options))


def execute(chosen, opener):
    with Run(chosen, opener=opener) as run:
        run.execute()
    return run


def numbers_of(folder):
    """Return the frame numbers in the data file, by source."""
    _, *lines = (json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines())
    found = {}
    for line in lines:
        found.setdefault(line["source"], []).append(line["frame"])
    return found, lines


def frame_count(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


# -- sources that are gathered


def gathering(*plans):
    opener = Opener(*plans)
    inputs = [Input("camera", str(n), f"camera {n}") for n in range(len(plans))]
    return Gathering(inputs, ReadOptions(), opener=opener), opener


def test_construction_waits_for_the_first_that_opens_only():
    """A camera that does not answer yet keeps nobody waiting."""
    answer = threading.Event()

    class Late(Opener):
        def __call__(self, what, options, *, stream):
            if stream == 0:
                assert answer.wait(20)
            return super().__call__(what, options, stream=stream)

    opener = Late(1, 1)
    inputs = [Input("camera", str(n), f"camera {n}") for n in range(2)]
    both = Gathering(inputs, ReadOptions(), opener=opener)
    assert both.first is opener.opened[1]
    assert [frame.stream for frame in both.frames(1)] == [1]
    answer.set()
    assert [frame.stream for frame in both.frames(0)] == [0]
    both.close()
    assert [opener.opened[n].closed for n in (0, 1)] == [1, 1]


def test_none_that_opens_is_an_error():
    with pytest.raises(SourceError, match="none of the 2 inputs could be read; the first: gone"):
        gathering(SourceError("gone"), SourceError("gone as well"))


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (SourceError("cannot open camera 1"), "cannot open camera 1"),
        ((3, {}.__getitem__), "camera 1: KeyError: 0"),
        (0, "camera 1: it has no frame in the chosen time range"),
    ],
)
def test_whatever_ends_a_stream_is_noted_and_ends_only_that(plan, reason):
    several, _ = gathering(2, plan)
    assert len(list(several.frames(0))) == 2
    list(several.frames(1))
    assert several.failures == {1: reason}
    several.close()


def test_a_live_stream_that_breaks_off_has_failed():
    several, opener = gathering(2)
    opener.opened[0].damage.ended_early = "reading ended early: Input/output error"
    list(several.frames(0))
    assert several.failures == {0: "camera 0: reading ended early: Input/output error"}
    several.release(0)
    assert several.damage == {}  # it is told already
    several.close()


# -- whole runs


def test_streams_run_at_once_each_with_its_file_tracks_and_order(tmp_path):
    """Both are under way before either ends; one data file holds all rows."""
    both = threading.Barrier(2, timeout=20)
    meet = (40, lambda index: both.wait() if index == 1 else None)
    run = execute(settings(2, tmp_path / "out"), Opener(meet, meet))
    found, lines = numbers_of(tmp_path / "out")
    assert set(found) == {"camera 0", "camera 1"}
    for stream, name in enumerate(found):
        number = int(name[-1])
        assert found[name] == sorted(set(found[name]))
        lost = run.stats.drops_of(number).get("busy", 0)
        assert len(found[name]) + lost == 40
        in_file = frame_count(tmp_path / "out" / f"camera_{number}.mp4")
        assert in_file + run.stats.drops_of(number).get("output", 0) == len(found[name])
        assert run.tally.streams[number].frames == len(found[name]), stream
    ids = [
        {f["track_id"] for line in lines if line["source"] == name for f in line["faces"]}
        for name in found
    ]
    assert ids[0].isdisjoint(ids[1])
    assert run.playlist.failures == {}
    assert all(stream.has_ended for stream in run.tally.streams.values())
    assert all(len(stream.latency) for stream in run.tally.streams.values())


def test_a_dying_stream_is_finished_and_told_while_the_others_go_on(tmp_path):
    """Its file is whole and its source closed long before the end."""

    def dies(index):
        if index == 5:
            raise SourceError("camera 0 was unplugged")

    opener = Opener((10, dies), 10**9)
    with Run(settings(2, tmp_path / "out"), opener=opener) as run:
        for _ in run.frames():
            if opener.opened[0].closed and 1 in run.tally.streams and not run.stopping:
                assert run.tally.streams[0].has_ended
                assert frame_count(tmp_path / "out" / "camera_0.mp4") >= 1
                assert not run.tally.streams[1].has_ended
                run.stop()
    assert run.tally.streams[0].has_ended
    assert run.playlist.failures == {0: "camera 0 was unplugged"}
    found, _ = numbers_of(tmp_path / "out")
    assert 1 <= len(found["camera 0"]) <= 5
    assert frame_count(tmp_path / "out" / "camera_1.mp4") > 0


def test_a_file_that_takes_long_to_finish_holds_no_other_stream_up(tmp_path, monkeypatch):
    """While one stream's file is being closed, frames of the other go on coming."""
    closing, go_on = threading.Event(), threading.Event()
    close = VideoSink.close

    def slow(self, tail_packets=()):
        if self._file.target.name == "camera_0.mp4":
            closing.set()
            assert go_on.wait(20)
        close(self, tail_packets)

    monkeypatch.setattr(VideoSink, "close", slow)
    more = 0
    with Run(settings(2, tmp_path / "out"), opener=Opener(5, 10**9)) as run:
        for frame in run.frames():
            more += closing.is_set() and not go_on.is_set() and frame.stream == 1
            if more == 50:
                go_on.set()
                run.stop()
    assert frame_count(tmp_path / "out" / "camera_0.mp4") >= 1
    assert frame_count(tmp_path / "out" / "camera_1.mp4") >= 1


def fill_the_disk(monkeypatch, stream=0):
    """Let pictures of a stream meet a full disk from its second frame on."""
    write = VideoSink.write

    def full(self, frame):
        if frame.stream == stream and frame.index >= 1:
            raise SinkError(f"cannot write {self._file.target}: No space left on device")
        write(self, frame)

    monkeypatch.setattr(VideoSink, "write", full)


def test_an_output_that_fails_ends_only_its_own_stream(tmp_path, monkeypatch):
    fill_the_disk(monkeypatch)
    run = execute(settings(2, tmp_path / "out", data={}), Opener(10**9, 40))
    assert "No space left" in run.playlist.failures[0]
    assert run.failed_outputs == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["camera_1.mp4"]


@pytest.mark.parametrize("count", [1, 2])
def test_data_go_on_without_the_pictures_of_a_live_source(tmp_path, monkeypatch, count):
    """A disk that is full is no reason to lose what is measured."""
    fill_the_disk(monkeypatch)
    run = execute(settings(count, tmp_path / "out"), Opener(30, 40))
    assert run.playlist.failures == {}
    (line,) = run.failed_outputs
    assert "No space left" in line
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [
        "all.jsonl", "camera_1.mp4"
    ][:count]  # fmt: skip
    found, _ = numbers_of(tmp_path / "out")
    assert [numbers[-1] for numbers in found.values()] == [29, 39][:count]
    assert f"output lost: {line}" in console.summary(run)


def test_pictures_go_on_without_data(tmp_path, monkeypatch):
    from streamface.datasinks import JsonlSink

    def full(self, frame, source):
        raise SinkError("cannot write all.jsonl: No space left on device")

    monkeypatch.setattr(JsonlSink, "write", full)
    run = execute(settings(1, tmp_path / "out"), Opener(30))
    assert run.failed_outputs == ["cannot write all.jsonl: No space left on device"]
    (made,) = (tmp_path / "out").iterdir()
    assert frame_count(made) == 30 - sum(run.stats.drops.values())


def test_of_a_file_the_first_output_that_fails_is_an_error(tmp_path, monkeypatch):
    clip = clips.write_clip(tmp_path / "clip.mp4", 9)
    fill_the_disk(monkeypatch)
    with (
        pytest.raises(SinkError, match="No space left"),
        Run(settings(1, tmp_path / "out", source=str(clip))) as run,
    ):
        run.execute()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_beside_a_camera_keeps_its_own_pace(tmp_path):
    """It does not take the camera's time by being read as fast as it can be."""
    clip = clips.write_clip(tmp_path / "clip.mp4", 15)

    def opener(what, options, *, stream):
        if what.kind == "camera":
            return CountingSource(200, stream=stream, is_live=True)
        return open_source(what, options, stream=stream)

    chosen = settings(0, tmp_path / "out", source=("0", str(clip)))
    with Run(chosen, opener=opener) as run:
        frames = [frame for frame in run.frames() if frame.stream == 1]
        assert run.playlist.first.info.is_live
    captured_s = [frame.captured_s - frame.time_s for frame in frames]
    assert captured_s == pytest.approx([captured_s[0]] * len(captured_s))
    dropped = run.stats.drops_of(1).get("busy", 0)
    assert len(numbers_of(tmp_path / "out")[0][str(clip)]) + dropped == 15
    assert run.playlist.failures == {}


def test_stale_frames_are_not_worked_on(tmp_path):
    """All of a stream whose frames come an hour old, none of the other's."""

    class Old(CountingSource):
        def __iter__(self):
            for frame in super().__iter__():
                frame.captured_s -= 3600
                yield frame

    def opener(_what, _options, *, stream):
        kind = Old if stream == 0 else CountingSource
        return kind(20, stream=stream, is_live=True)

    run = execute(settings(2, tmp_path / "out", max_staleness_s=60), opener)
    drops = run.stats.drops_of(0)
    assert drops["stale"] + drops.get("busy", 0) == 20
    assert "stale" not in run.stats.drops_of(1)
    assert 0 not in run.tally.streams
    assert [path.name for path in (tmp_path / "out").glob("*.mp4")] == ["camera_1.mp4"]


def test_several_outputs_of_each_stream(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    outputs = (tmp_path / "a", tmp_path / "b")
    execute(settings(2, tmp_path / "out", output=outputs), Opener(20, 20))
    names = [sorted(path.name for path in output.iterdir()) for output in outputs]
    assert names == [["camera_0.mp4", "camera_1.mp4"]] * 2


def test_two_outputs_of_a_file_are_alike(tmp_path):
    clip = clips.write_clip(tmp_path / "clip.mp4", 12, audio_codec="aac")
    targets = (tmp_path / "x.mp4", tmp_path / "y.mkv")
    with Run(Settings(source=str(clip), output=targets, tasks=())) as run:
        run.execute()
    assert [frame_count(target) for target in targets] == [12, 12]
    assert clips.audio_packets(targets[0]) == clips.audio_packets(targets[1])
    with pytest.raises(UsageError, match="--output and --output would both write"):
        Run(Settings(source=str(clip), output=(targets[0],) * 2, overwrite=True))


def test_an_interrupt_leaves_nothing_of_any_stream(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        Run(settings(3, tmp_path / "out"), opener=Opener(*[10**9] * 3)) as run,
    ):
        for _ in run.frames():
            if len(run.tally.streams) == 3:
                raise KeyboardInterrupt
    assert list((tmp_path / "out").iterdir()) == []


def test_stop_finishes_every_file(tmp_path):
    with Run(settings(3, tmp_path / "out"), opener=Opener(*[10**9] * 3)) as run:
        for _ in run.frames():
            if len(run.tally.streams) == 3:
                run.stop()
    names = sorted(path.name for path in (tmp_path / "out").glob("*.mp4"))
    assert names == ["camera_0.mp4", "camera_1.mp4", "camera_2.mp4"]
    assert all(frame_count(tmp_path / "out" / name) for name in names)


def test_a_wrong_codec_is_an_error_before_the_first_frame(tmp_path):
    with pytest.raises(UsageError, match="encodes audio"):
        Run(settings(2, tmp_path / "out", codec="aac"), opener=Opener(5, 5))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_line_runs_clips_at_once_and_reports_a_failure(tmp_path, capfd):
    """Two clips played live and one that is none: exit 3, two files, a line for each stream."""
    for name in ("a", "b"):
        clips.write_clip(tmp_path / f"{name}.mp4", 15)
    (tmp_path / "bad.mp4").write_text("no video")
    listing = tmp_path / "hall.streams"
    listing.write_text("one = a.mp4\ntwo = b.mp4\nthree = bad.mp4\n")
    arguments = ["run", "-s", str(listing), "--simulate-live", "-o", str(tmp_path / "out"),
                 "--tasks", "emotion", "--no-progress", "--max-staleness", "30"]  # fmt: skip
    assert cli.main(arguments) == cli.PARTIAL
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.mp4", "two.mp4"]
    said = capfd.readouterr().err
    assert "3 streams at once" in said
    assert "2 of 3 inputs:" in said
    assert "  one: 15 frames; p50" in said
    assert "cannot open three" in said


def test_a_live_run_does_less_when_it_cannot_keep_up(tmp_path, monkeypatch, caplog):
    """Knobs of detector, tracker and classifier are turned, and it is said."""
    changes = iter(["cannot keep up: now less"])

    def update(adaptation, _now_s, _stats, done):
        if done and (said := next(changes, None)):
            adaptation._controller.step = 4
            adaptation._turn(320, 8, 2)
            return said
        return None

    monkeypatch.setattr(app.Adaptation, "update", update)
    waited = (20, lambda _: None)
    run = execute(settings(1, tmp_path / "out", output=None), Opener(waited))
    assert run._detector.imgsz == 320
    assert run._finder.detect_every == 8
    assert run._classifier.rarer == 2
    assert run.tally.lowered == "detector 320 px, detect every 8, emotions 2 times rarer"
    assert "cannot keep up: now less" in caplog.text
    still = execute(settings(1, tmp_path / "o", output=None, adapt=False), Opener(waited))
    assert still._adaptation is None


# -- streams that come and go


class ByName:
    """Opens endless fake cameras; ``close`` of those that are slow waits for an event."""

    def __init__(self):
        self.opened, self.go_on = {}, threading.Event()

    def __call__(self, what, _options, *, stream):
        source = CountingSource(10**9, stream=stream, is_live=True)
        if what.location == "slow":
            close = source.close

            def slowly():
                assert self.go_on.wait(20)
                close()

            source.close = slowly
        self.opened[what.name] = source
        return source


def live(name, folder, location="camera"):
    return LiveStream(Input("url", location, name), (folder / f"{name}.mp4",))


def changing(folder, *names):
    """Return a run of these streams, to which more may be added."""
    chosen = settings(1, folder, data={"jsonl": str(folder / "all.jsonl")})
    opener = ByName()
    return Run(chosen, streams=[live(name, folder) for name in names], opener=opener), opener


def test_streams_may_come_and_go_while_others_run(tmp_path):
    folder = tmp_path / "out"
    run, opener = changing(folder, "a", "b")
    added = None
    with run:
        for _ in run.frames():
            streams = run.tally.streams
            if len(streams) == 2 and added is None:
                added = run.add(live("c", folder))
                run.end(0)
            if run.stopping or added not in streams:
                continue
            if streams[0].has_ended and opener.opened["a"].closed:
                assert frame_count(folder / "a.mp4") > 0
                assert not streams[1].has_ended
                run.stop()
    assert added == 2
    assert run.playlist.failures == {}
    found, _ = numbers_of(folder)
    assert set(found) == {"a", "b", "c"}
    for number, name in enumerate("abc"):
        lost = run.stats.drops_of(number).get("output", 0)
        assert frame_count(folder / f"{name}.mp4") == len(found[name]) - lost
        assert run.tally.streams[number].face_frames == len(found[name])


def test_what_was_ended_keeps_nobody_waiting_for_its_connection(tmp_path):
    folder = tmp_path / "out"
    run, opener = changing(folder, "a")
    frames = None
    with run:
        for _ in run.frames():
            if run.tally.frames == 1:
                assert run.add(live("b", folder, "slow")) == 1
            if 1 in run.tally.streams:
                run.end(1)
            if 1 in run.tally.streams and run.tally.streams[1].has_ended:
                frames = frames or run.tally.frames
                if run.tally.frames > frames + 20:
                    opener.go_on.set()
                    run.stop()
    assert opener.opened["b"].closed == 1


def test_a_run_that_ends_takes_nothing_in_any_more(tmp_path):
    folder = tmp_path / "out"
    run, opener = changing(folder, "a")
    with run:
        for _ in run.frames():
            run.stop()
            assert run.add(live("b", folder)) is None
    assert run.add(live("c", folder)) is None
    assert set(opener.opened) == {"a"}


def test_another_thread_can_cancel(tmp_path):
    folder = tmp_path / "out"
    run, _ = changing(folder, "a", "b")
    with pytest.raises(KeyboardInterrupt), run:
        for _ in run.frames():
            thread = threading.Thread(target=run.cancel)
            thread.start()
            thread.join()
    assert list(folder.iterdir()) == []
