"""Whole runs: files whole or absent, faults in every stage, stopping, several inputs."""

from __future__ import annotations

import json
import threading

import av
import clips
import pytest

from streamface import app
from streamface.app import Nets, Run
from streamface.atomic import AtomicPath
from streamface.datasinks import JsonlSink
from streamface.errors import SinkError, SourceError, StageError, UsageError
from streamface.settings import Settings
from streamface.sinks import VideoSink
from streamface.stages import Classify, FindFaces, Paint
from streamface.testing import CountingSource, FixedDetector

COUNT = 12


@pytest.fixture
def fixed_face(monkeypatch):
    """Every frame has one face, found without a model."""
    monkeypatch.setattr(app, "open_detector", lambda _settings: FixedDetector())


@pytest.fixture
def clip(tmp_path):
    return clips.write_clip(tmp_path / "clip.mp4", COUNT, audio_codec="aac")


def settings(source, folder, **options):
    folder.mkdir(exist_ok=True)
    defaults = {
        "output": folder / "out.mp4",
        "preset": "ultrafast",
        "tasks": ("emotion",),
        "data": {"jsonl": str(folder / "out.jsonl"), "csv": str(folder / "out.csv")},
    }
    return Settings(source=str(source), **(defaults | options))


def execute(chosen):
    with Run(chosen) as run:
        run.execute()
    return run


def frame_count(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def lines_of(path):
    header, *frames = (json.loads(line) for line in path.read_text().splitlines())
    return header, frames


# -- the real thing


def test_runs_share_the_nets_that_they_are_given(tmp_path):
    """What the second run writes is what it writes with nets of its own."""
    nets = Nets()
    options = {"max_frames": 6, "output": None, "tasks": ("emotion", "gender")}
    opened = []
    for name in ("a", "b"):
        with Run(settings("demo", tmp_path / name, **options), nets=nets) as run:
            run.execute()
            opened.append(run._models)
    assert opened[0] == opened[1]
    execute(settings("demo", tmp_path / "c", **options))
    lines = {(tmp_path / name / "out.jsonl").read_bytes() for name in "abc"}
    assert len(lines) == 1
    nets.close()
    with Run(settings("demo", tmp_path / "d", **options), nets=nets) as run:
        assert run._models["emotion"] is not opened[0]["emotion"]
    nets.close()


def test_the_demo_runs_with_the_shipped_models(tmp_path):
    """The portrait's face is found, followed under one id and read in every early frame."""
    options = {"max_frames": 20, "tasks": ("emotion", "gender")}
    run = execute(settings("demo:portrait", tmp_path, **options))
    header, frames = lines_of(tmp_path / "out.jsonl")
    assert frame_count(tmp_path / "out.mp4") == len(frames) == run.tally.frames == 20
    assert header["schema"] == "streamface.frames/1"
    assert set(header["models"]) == {"detector", "emotion", "gender"}
    faces = [face for frame in frames for face in frame["faces"]]
    assert len(faces) >= 18
    assert len({face["track_id"] for face in faces}) == 1
    assert all(sum(face["emotion_probs"].values()) == pytest.approx(1, abs=1e-3) for face in faces)
    assert all(face["gender_prob"] >= 0.5 for face in faces)
    assert run.warnings == []


def test_the_people_of_the_demo_are_found_and_keep_their_ids(tmp_path):
    run = execute(settings("demo", tmp_path, max_frames=30, tasks=("emotion", "gender")))
    assert len(run.tally.tracks) == 3
    assert run.tally.face_frames >= 80
    assert run.tally.labels["happy"] > 0


# -- faults


def failing(method, at):
    """Return ``method`` as it is, but for frame number ``at``, where it raises."""

    def wrapped(self, what, *rest):
        for frame in what if isinstance(what, (list, tuple)) else [what]:
            if frame.index == at:
                raise RuntimeError(f"broken at {frame.index}")
        return method(self, what, *rest)

    return wrapped


STAGES = {
    "find": (FindFaces, "process"),
    "classify": (Classify, "process"),
    "paint": (Paint, "process"),
    "write": (VideoSink, "write"),
    "write data": (JsonlSink, "write"),
}


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize("at", [0, COUNT // 2, COUNT - 1])
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_anywhere_is_one_error_and_leaves_nothing(tmp_path, clip, monkeypatch, stage, at):
    """First, middle or last frame, any stage: its name, the frame, no thread, no file."""
    owner, name = STAGES[stage]
    monkeypatch.setattr(owner, name, failing(getattr(owner, name), at))
    folder = tmp_path / "out"
    with pytest.raises(StageError, match=f"RuntimeError: broken at {at}") as caught:
        execute(settings(clip, folder))
    assert caught.value.stage == stage.removesuffix(" data")
    # A stage that works in batches names the first frame of the batch.
    assert at - Classify.max_batch < caught.value.frame <= at
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []
    assert threading.active_count() == 1


@pytest.mark.usefixtures("fixed_face")
def test_a_full_disk_names_file_stage_and_frame(tmp_path, clip, monkeypatch):
    """What could not be written, why, and when."""

    def write(_self, frame, *_):
        if frame.index == 3:
            raise SinkError("cannot write out.mp4: No space left on device")

    monkeypatch.setattr(VideoSink, "write", write)
    with pytest.raises(SinkError) as caught:
        execute(settings(clip, tmp_path / "out"))
    assert str(caught.value) == (
        "cannot write out.mp4: No space left on device (stage 'write', frame 3)"
    )
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")])
def test_a_fault_while_a_file_is_finished_leaves_nothing_unfinished(
    tmp_path, clip, monkeypatch, error
):
    """Also the last step, naming the file, may fail or be interrupted."""

    def publish(_self):
        raise error

    monkeypatch.setattr(AtomicPath, "publish", publish)
    with pytest.raises((KeyboardInterrupt, StageError)):
        execute(settings(clip, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wrong_output_is_an_error_before_the_first_frame(tmp_path, clip):
    """Of several outputs the wrong one is named, and the others leave nothing behind."""
    chosen = settings(clip, tmp_path / "out", data={"jsonl": str(tmp_path / "out" / "a.jsonl")})
    with pytest.raises(UsageError, match="encodes audio"):
        Run(Settings(source=str(clip), output=chosen.output, codec="aac", data=chosen.data))
    assert list((tmp_path / "out").iterdir()) == []


# -- stopping


@pytest.mark.usefixtures("fixed_face")
def test_stop_finishes_what_is_under_way_and_the_file_plays(tmp_path):
    """After stop the frames that were read come out, and the files hold exactly those."""
    clip = clips.write_clip(tmp_path / "long.mp4", 60, audio_codec="aac")
    drained = []
    with Run(settings(clip, tmp_path / "out")) as run:
        for frame in run.frames():
            drained.append(frame.index)
            if frame.index == 5:
                run.stop()
    assert drained == list(range(len(drained)))
    assert 6 <= len(drained) < 60
    assert frame_count(tmp_path / "out" / "out.mp4") == len(drained)
    assert len(lines_of(tmp_path / "out" / "out.jsonl")[1]) == len(drained)
    sound = clips.audio_packets(tmp_path / "out" / "out.mp4")
    assert sound == clips.audio_packets(clip)[: len(sound)]
    assert abs(len(sound) * 1024 / 48_000 - len(drained) / 30) < 0.15


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_an_interrupt_removes_the_unfinished_files(tmp_path, clip, error):
    """Ctrl-C in the caller's thread: no thread and no file is left."""
    with pytest.raises(error), Run(settings(clip, tmp_path / "out")) as run:
        for frame in run.frames():
            if frame.index == 5:
                raise error
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("fixed_face")
def test_a_run_that_is_left_unused_leaves_nothing(tmp_path, clip):
    """Opened and closed without a frame: no empty file."""
    with Run(settings(clip, tmp_path / "out")):
        pass
    assert list((tmp_path / "out").iterdir()) == []


# -- several inputs


@pytest.mark.usefixtures("fixed_face")
def test_one_bad_input_of_several_is_listed_and_the_others_are_done(tmp_path):
    """The folder of results holds all but the bad one; track ids are unique over all."""
    folder = tmp_path / "in"
    folder.mkdir()
    clips.write_clip(folder / "a.mp4", 5, audio_codec="aac")
    (folder / "b.mp4").write_text("no video at all")
    clips.write_clip(folder / "c.mkv", 7, size_px=(320, 240))
    run = execute(settings(folder, tmp_path / "out", output=tmp_path / "out"))
    assert list(run.playlist.failures) == [1]
    assert "b.mp4" in run.playlist.failures[1]
    results = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert results == ["a.mp4", "c.mkv", "out.csv", "out.jsonl"]
    assert frame_count(tmp_path / "out" / "a.mp4") == 5
    assert frame_count(tmp_path / "out" / "c.mkv") == 7
    assert clips.audio_packets(tmp_path / "out" / "a.mp4") == clips.audio_packets(folder / "a.mp4")
    _, frames = lines_of(tmp_path / "out" / "out.jsonl")
    assert [(f["source"][-5:], f["frame"]) for f in frames] == [
        *(("a.mp4", n) for n in range(5)),
        *(("c.mkv", n) for n in range(7)),
    ]
    ids = {f["source"][-5:]: {face["track_id"] for face in f["faces"]} for f in frames}
    assert ids["a.mp4"].isdisjoint(ids["c.mkv"])


def test_all_inputs_bad_is_an_error(tmp_path):
    """Nothing readable: an error, and no empty outputs."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_text("no video at all")
    with pytest.raises(SourceError, match="none of the 2 inputs could be read"):
        execute(settings(folder, tmp_path / "out", output=tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("fixed_face")
def test_an_input_without_frames_in_range_does_not_lend_its_name_to_the_next(tmp_path):
    """The first of two clips ends before --start: only the second's file is written."""
    folder = tmp_path / "in"
    folder.mkdir()
    clips.write_clip(folder / "a.mp4", 5)
    clips.write_clip(folder / "b.mp4", 40, size_px=(320, 240))
    run = execute(settings(folder, tmp_path / "out", output=tmp_path / "out", start_s=1.0))
    assert list(run.playlist.failures) == [0]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["b.mp4"]
    assert frame_count(tmp_path / "out" / "b.mp4") == 10


@pytest.mark.parametrize("options", [{"start_s": 9.0}, {"start_s": 0.01, "end_s": 0.02}])
def test_no_frame_in_range_is_an_error(tmp_path, clip, options):
    """A range beyond the clip, or between two frames, says so."""
    with pytest.raises(SourceError, match="no frame in the chosen time range"):
        execute(settings(clip, tmp_path / "out", **options))
    assert list((tmp_path / "out").iterdir()) == []


# -- what must not be written over


def test_outputs_never_clobber_the_source_or_each_other(tmp_path, clip):
    """Not even with --overwrite, and not through a link."""
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    before = clip.read_bytes()
    same = str(tmp_path / "same")
    cases = [
        ({"data": {"jsonl": str(clip)}}, "is the source itself; choose another --save-jsonl"),
        ({"output": clip}, "is the source itself"),
        ({"output": link}, "is the source itself"),
        ({"data": {"csv": str(link)}}, "is the source itself"),
        ({"data": {"jsonl": same, "csv": same}}, "--save-jsonl and --save-csv would both write"),
        (
            {"output": tmp_path / "x.mp4", "data": {"vtt": str(tmp_path / "x.mp4")}},
            "--output and --save-vtt would both write",
        ),
    ]
    for options, reason in cases:
        with pytest.raises(UsageError, match=reason):
            Run(settings(clip, tmp_path / "out", overwrite=True, **options))
    assert clip.read_bytes() == before


def test_an_existing_result_of_a_later_input_is_refused_before_the_first_is_begun(tmp_path):
    """A run over a folder does not stop half-way because of what could be known at once."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        clips.write_clip(folder / name, 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.mp4").write_text("precious")
    with pytest.raises(UsageError, match=r"b\.mp4 exists; pass --overwrite"):
        Run(settings(folder, tmp_path / "out", output=tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.mp4"]


# -- live and data


@pytest.mark.usefixtures("fixed_face")
def test_a_live_source_drops_at_the_head_only_and_counts_it(tmp_path, monkeypatch):
    """While the first frame is held back, newer ones replace waiting ones; order is kept."""
    begun, all_read = threading.Event(), threading.Event()

    def on_frame(index):
        if index == 1:
            assert begun.wait(20)
        if index == 29:
            all_read.set()

    source = CountingSource(30, is_live=True, on_frame=on_frame)
    monkeypatch.setattr(app, "_opener", lambda *_: lambda *_args, **_options: source)
    process = FindFaces.process

    def slow(self, items):
        begun.set()
        assert all_read.wait(20)
        return process(self, items)

    monkeypatch.setattr(FindFaces, "process", slow)
    run = execute(settings("0", tmp_path / "out"))
    _, frames = lines_of(tmp_path / "out" / "out.jsonl")
    numbers = [frame["frame"] for frame in frames]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert run.stats.drops["busy"] == 30 - len(numbers) > 0
    assert frame_count(tmp_path / "out" / "out.mp4") == len(numbers)
    assert source.closed == 1


@pytest.mark.usefixtures("fixed_face")
def test_damage_and_sinks_warn_once_and_name_the_input(tmp_path):
    """What could not be carried over is one line with the input's name."""
    clip = clips.write_clip(tmp_path / "in.mp4", 5, audio_codec="aac")
    run = execute(settings(clip, tmp_path / "out", output=tmp_path / "out" / "a.webm", preset="8"))
    assert run.warnings == [f"{clip}: a .webm file cannot carry aac audio; re-encoded as libopus"]
