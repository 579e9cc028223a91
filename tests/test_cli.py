"""The command line: exit codes, one line for every mistake, signals, pipes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path

import av
import clips
import numpy as np
import pytest

from streamface import app, cli
from streamface.atomic import AtomicPath
from streamface.frame import EMOTIONS
from streamface.pipeline import Pipeline
from streamface.settings import Settings
from streamface.testing import CountingSource, FixedDetector

MODELS = Path(str(resources.files("streamface") / "models"))


@pytest.fixture
def fixed_face(monkeypatch):
    """Every frame has one face, found without a model."""
    monkeypatch.setattr(app, "open_detector", lambda _settings: FixedDetector())


@pytest.fixture
def clip(tmp_path):
    return clips.write_clip(tmp_path / "clip.mp4", 6, audio_codec="aac")


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def run(*arguments, quiet=True):
    return cli.main(["run", *map(str, arguments), *(["--quiet"] if quiet else [])])


def complaint(capfd):
    """Return the one line on stderr, having checked that it is one and no traceback."""
    said = capfd.readouterr().err
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("streamface: error: "), said
    return lines[0]


# -- sources that cannot be read


def truncated(path):
    data = clips.write_clip(path, [clips.noisy(n) for n in range(20)]).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def no_video(path):
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48_000, layout="mono")
        clips._write_tone(container, sound, 1)


def no_frames(path):
    """Write an MP4 whose video track is there and empty: its samples are cut away."""
    data = clips.write_clip(path, 3, options={"movflags": "+faststart"}).read_bytes()
    path.write_bytes(data[: data.find(b"mdat") + 4])


SOURCES = {
    "missing": (None, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path: path.write_text("no video\n" * 99), "not a video or image"),
    "zeros": (lambda path: path.write_bytes(bytes(9999)), "cannot open"),
    "truncated before its index": (truncated, "cannot open"),
    "sound only": (no_video, "holds no video"),
    "zero frames": (no_frames, "cannot"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_source_that_cannot_be_read_is_exit_1_and_one_line(tmp_path, out, capfd, case):
    """The line names the file and the reason; no output appears."""
    make, reason = SOURCES[case]
    path = tmp_path / "bad.mp4"
    if make is not None:
        make(path)
    assert run("--source", path, "--output", out / "o.mp4", "--save-csv", out / "o.csv") == 1
    said = complaint(capfd)
    assert reason in said
    assert str(path) in said
    assert list(out.iterdir()) == []


def test_a_video_damaged_in_the_middle_is_processed_with_a_counted_warning(tmp_path, out, capfd):
    """Bit flips cost pictures, not the run: exit 0, and the loss is told."""
    path = clips.write_clip(
        tmp_path / "flipped.mp4", [clips.noisy(n) for n in range(30)], options={"g": "10"}
    )
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 4000
    for at in np.random.default_rng(3).integers(start, len(data) - 4000, 150):
        data[at] ^= 0xFF
    path.write_bytes(data)
    assert run("--source", path, "--output", out / "o.mp4", quiet=False) == 0
    said = capfd.readouterr().err
    assert "streamface: warning: " in said
    assert "Traceback" not in said
    assert [p.name for p in out.iterdir()] == ["o.mp4"]


# -- outputs that cannot be written


def test_outputs_that_cannot_be_written_are_one_line(tmp_path, clip, out, capfd):
    """Missing folder, existing file, a folder as a file, the source itself, a full device."""
    (out / "there.mp4").write_text("precious")
    (out / "folder.mp4").mkdir()
    (out / "loop.mp4").symlink_to(out / "loop.mp4")
    cases = [
        (["--output", out / "none" / "o.mp4"], 1, "its folder does not exist"),
        (["--output", out / "there.mp4"], 2, "exists; pass --overwrite"),
        (["--output", out / "o.mp4", "--save-csv", out / "there.mp4"], 2, "exists"),
        (["--save-vtt", out / "folder.mp4"], 1, "it is a folder"),
        (["--output", clip, "--overwrite"], 2, "is the source itself"),
        (["--output", out / "o.mp4", "--codec", "h26five"], 2, "no encoder named 'h26five'"),
        (["--output", out / "o.webm", "--codec", "h264"], 2, "cannot carry libx264"),
        (["--output", out / "o.mp4", "--preset", "warp"], 2, "no preset 'warp'"),
        (["--output", out / "o.xyz"], 2, "cannot write a .xyz video"),
        (["--output", out / "o.png"], 2, "holds one picture"),
        (["--save-csv", "-"], 2, "cannot go to stdout"),
        (["--output", ""], 2, "the name is empty"),
        (["--output", out / f"{'x' * 300}.mp4"], 1, "File name too long"),
        (["--output", out / "loop.mp4"], 1, "cannot write"),
    ]
    if os.path.exists("/dev/full"):
        (out / "full.mp4").symlink_to("/dev/full")
        cases += [
            (["--output", out / "full.mp4"], 1, "No space left on device"),
            (["--save-jsonl", "/dev/full"], 1, "No space left on device"),
            (["--save-csv", "/dev/full"], 1, "No space left on device"),
        ]
    before = sorted(path.name for path in out.iterdir())
    for arguments, code, reason in cases:
        assert run("--source", clip, *arguments) == code, arguments
        assert reason in complaint(capfd)
        assert sorted(path.name for path in out.iterdir()) == before
    assert (out / "there.mp4").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_line(clip, out, capfd):
    """An unwritable folder says so before anything is processed."""
    out.chmod(0o500)
    assert run("--source", clip, "--output", out / "o.mp4") == 1
    assert "Permission denied" in complaint(capfd)


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs Linux's /sys")
def test_a_folder_that_refuses_new_files_is_one_line(clip, capfd):
    """The same for root: the system's own reason is passed on."""
    assert run("--source", clip, "--output", "/sys/o.mp4") == 1
    assert "cannot write /sys/o.mp4: " in complaint(capfd)


# -- option values

HUGE = "9" * 400
WRONG_VALUES = [
    *((f"--{name}", value)
      for name in ("imgsz", "max-faces", "detect-every", "classify-every", "vid-stride",
                   "max-frames")
      for value in ("0", "-1", "nan", "1.5", "many", HUGE)),
    *(("--conf", value) for value in ("-0.1", "1.1", "nan", "inf", "high", HUGE)),
    *(("--smoothing", value) for value in ("-1", "nan", "inf", "61", "x")),
    *(("--crf", value) for value in ("-1", "64", "nan", "inf", "good")),
    *(("--start", value) for value in ("-1", "nan", "inf", "1e3", "1:2:3:4", "soon", HUGE)),
    *(("--end", value) for value in ("0", "-1", "nan", "soon", HUGE, f"{HUGE}:00:00")),
    ("--tasks", "emotion,age"),
    ("--log-level", "loud"),
    ("--no-such-option", "1"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), WRONG_VALUES)
def test_a_wrong_value_is_exit_2_and_one_line(clip, out, capfd, option, value):
    """Negative, NaN, huge or no number at all: usage errors that name the option."""
    code = run("--source", clip, "--output", out / "o.mp4", f"{option}={value}")
    said = complaint(capfd)
    assert code == 2
    assert option in said
    assert len(said) < 400
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["run"], ["dance"], ["run", "--source", ""]])
def test_a_missing_argument_is_exit_2_and_one_line(capfd, arguments):
    """No command, no source, an unknown command, an empty source."""
    assert cli.main(arguments) == 2
    complaint(capfd)


def test_help_and_version_are_exit_0(capfd):
    """Both go to stdout."""
    assert cli.main(["--version"]) == cli.main(["--help"]) == cli.main(["run", "--help"]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "--save-jsonl" in said.out


def test_times_are_read_as_people_write_them():
    """Seconds, minutes and hours."""
    assert [cli._seconds(text) for text in ("90", "1:30", "0:01:30.5", ".5")] == [90, 90, 90.5, 0.5]


def test_every_setting_can_be_given_on_the_command_line():
    """An option that is forgotten here could never be used."""
    arguments = cli._parser().parse_args(["run", "--source", "demo"])
    assert cli._settings(arguments) == Settings(source="demo")


# -- models


def test_a_model_that_is_not_what_its_card_says_is_refused(tmp_path, clip, out, capfd):
    """A changed ONNX, a missing one, a card that is no card, a shipped name that is none."""
    for name in ("emotion.json", "emotion.onnx"):
        shutil.copy(MODELS / name, tmp_path / name)
    onnx = tmp_path / "emotion.onnx"
    data = bytearray(onnx.read_bytes())
    data[len(data) // 2] ^= 1
    onnx.write_bytes(data)
    card = tmp_path / "emotion.json"
    command = ["--source", clip, "--output", out / "o.mp4", "--emotion-model"]
    assert run(*command, card) == 1
    assert "has SHA-256" in complaint(capfd)
    onnx.unlink()
    assert run(*command, card) == 1
    assert "cannot read the model" in complaint(capfd)
    card.write_text("{}")
    assert run(*command, card) == 1
    assert str(card) in complaint(capfd)
    for wrong in (tmp_path / "none.json", "nonesuch"):
        assert run(*command, wrong) == 1
        assert str(wrong) in complaint(capfd)
    assert list(out.iterdir()) == []


def test_a_detector_that_is_no_yunet_is_refused(tmp_path, clip, out, capfd):
    """A missing file, text, and another ONNX."""
    (tmp_path / "text.onnx").write_text("no model")
    for wrong in (tmp_path / "none.onnx", tmp_path / "text.onnx", MODELS / "emotion.onnx"):
        code = run("--source", clip, "--output", out / "o.mp4", "--detector-model", wrong)
        assert code == 1
        assert str(wrong) in complaint(capfd)
    assert list(out.iterdir()) == []


# -- what comes out


@pytest.mark.usefixtures("fixed_face")
def test_the_schema_of_the_jsonl_is_as_documented(clip, out):
    """Others read these names: header, frames with and without faces, faces."""
    assert run("--source", clip, "--save-jsonl", out / "o.jsonl") == 0
    header, *frames = map(json.loads, (out / "o.jsonl").read_text().splitlines())
    assert header["schema"] == "streamface.frames/1"
    assert [frame["frame"] for frame in frames] == list(range(6))
    for frame in frames:
        assert frame.keys() >= {"frame", "pts", "time_s", "faces"}
        (face,) = frame["faces"]
        assert set(face) == {
            "track_id", "box", "landmarks", "score", "emotion", "emotion_probs",
            "emotion_smoothed", "gender", "gender_prob", "covered_by",
        }  # fmt: skip
        assert len(face["box"]) == 4
        assert [len(point) for point in face["landmarks"]] == [2] * 5
        assert set(face["emotion_probs"]) == set(face["emotion_smoothed"]) == set(EMOTIONS)
        assert face["emotion"] in (*EMOTIONS, "uncertain")
        assert face["gender"] in ("male", "female")
        assert face["covered_by"] in ("detection", "tracking")
        assert isinstance(face["track_id"], int)


@pytest.mark.usefixtures("fixed_face")
def test_data_on_stdout_is_only_data(clip, capfd):
    """With --save-jsonl - every line of stdout is JSON; all else goes to stderr."""
    assert run("--source", clip, "--save-jsonl", "-", quiet=False) == 0
    said = capfd.readouterr()
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert len(lines) == 7
    assert "6 frames" in said.err


@pytest.mark.usefixtures("fixed_face")
def test_quiet_says_nothing_and_a_log_has_plain_lines(clip, out, capfd):
    """--quiet is silent; without a terminal there are lines without escape codes."""
    assert run("--source", clip, "--output", out / "a.mp4") == 0
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert run("--source", clip, "--output", out / "b.mp4", quiet=False) == 0
    said = capfd.readouterr().err
    assert "\x1b" not in said
    assert f"{clip}: 6 frames in" in said
    assert f"written: {out / 'b.mp4'}" in said


@pytest.mark.usefixtures("fixed_face")
def test_some_of_several_inputs_failing_is_exit_3(tmp_path, out, capfd):
    """The good ones are done, the bad one is listed."""
    folder = tmp_path / "in"
    folder.mkdir()
    clips.write_clip(folder / "a.mp4", 3)
    (folder / "b.mp4").write_text("no video")
    assert run("--source", folder, "--output", out, quiet=False) == 3
    said = capfd.readouterr().err
    assert "failed: 1 of 2 inputs" in said
    assert [path.name for path in out.iterdir()] == ["a.mp4"]


def test_an_error_that_nobody_foresaw_is_still_one_line(clip, capfd, monkeypatch):
    """Even a bug of ours shows no traceback."""

    def broken(_settings):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(app, "open_detector", broken)
    assert run("--source", clip) == 1
    assert "unexpected ZeroDivisionError: oh" in complaint(capfd)


# -- signals, in this process: the source sends them at an exact frame


@pytest.fixture
def signalling(monkeypatch):
    """Let source ``input.mp4`` send this process a signal when given frames are read."""

    def install(signals, count=40, *, is_live=False):
        def on_frame(index):
            if index in signals:
                os.kill(os.getpid(), signals[index])

        def opener(_what, _options, *, stream):
            return CountingSource(count, stream=stream, on_frame=on_frame, is_live=is_live)

        original = app.Playlist
        monkeypatch.setattr(
            app, "Playlist", lambda inputs, options, **_: original(inputs, options, opener=opener)
        )

    return install


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_a_file_that_plays_and_is_exit_130(
    tmp_path, out, signalling, number
):
    """Ctrl-C, or SIGTERM: what was read is written; the file holds exactly that."""
    (tmp_path / "input.mp4").write_bytes(b"x")
    signalling({10: number}, count=2000)
    before = signal.getsignal(number)
    target = out / "o.mp4"
    code = run("--source", tmp_path / "input.mp4", "--output", target,
               "--save-jsonl", out / "o.jsonl", "--preset", "ultrafast")  # fmt: skip
    assert code == 130
    frames = len((out / "o.jsonl").read_text().splitlines()) - 1
    assert 0 < frames < 2000
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("fixed_face")
def test_stopping_a_live_source_is_how_it_ends(out, signalling):
    """Ctrl-C on a camera is no failure: exit 0."""
    signalling({10: signal.SIGINT}, count=2000, is_live=True)
    assert run("--source", "0", "--output", out / "o.mp4", "--preset", "ultrafast") == 0
    assert [path.name for path in out.iterdir()] == ["o.mp4"]


@pytest.mark.usefixtures("fixed_face")
def test_the_second_signal_cancels_and_leaves_nothing(
    tmp_path, out, signalling, capfd, monkeypatch
):
    """Twice, and more often: one line, exit 130, no file."""
    monkeypatch.setattr(cli._Interrupts, "SAME_PRESS_S", 0.0)
    (tmp_path / "input.mp4").write_bytes(b"x")
    reads = dict.fromkeys((5,), signal.SIGINT)
    signalling(reads, count=2000)
    original = app.Run.stop

    def stop_and_again(self):
        original(self)
        os.kill(os.getpid(), signal.SIGINT)

    app.Run.stop, restore = stop_and_again, original
    try:
        code = run("--source", tmp_path / "input.mp4", "--output", out / "o.mp4")
    finally:
        app.Run.stop = restore
    assert code == 130
    assert "interrupted; unfinished files were removed" in complaint(capfd)
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("fixed_face")
def test_two_signals_at_once_are_one_press(tmp_path, out, signalling, monkeypatch):
    """``timeout`` signals the process and its group: the file must still be finished."""
    (tmp_path / "input.mp4").write_bytes(b"x")
    signalling({10: signal.SIGINT}, count=2000)
    original = app.Run.stop

    def stop_and_again(self):
        original(self)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(app.Run, "stop", stop_and_again)
    assert run("--source", tmp_path / "input.mp4", "--output", out / "o.mp4") == 130
    assert [path.name for path in out.iterdir()] == ["o.mp4"]


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize("when", ["starting", "ending"])
def test_signals_while_threads_start_or_end_leave_none_behind(clip, out, capfd, monkeypatch, when):
    """An exception just there would lose threads: it waits until it can do no harm."""
    monkeypatch.setattr(cli._Interrupts, "SAME_PRESS_S", 0.0)
    enter, leave = Pipeline.__enter__, Pipeline.__exit__

    def thrice():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)

    def entering(self):
        frames = enter(self)
        thrice()
        return frames

    def leaving(self, *details):
        thrice()
        leave(self, *details)

    if when == "starting":
        monkeypatch.setattr(Pipeline, "__enter__", entering)
    else:
        monkeypatch.setattr(Pipeline, "__exit__", leaving)
    assert run("--source", clip, "--output", out / "o.mp4") == 130
    assert "interrupted; unfinished files were removed" in complaint(capfd)
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("fixed_face")
def test_signals_while_files_get_their_names_leave_whole_files(clip, out, monkeypatch):
    """That close to the end the run is completed; a half-named file would be worse."""
    monkeypatch.setattr(cli._Interrupts, "SAME_PRESS_S", 0.0)
    publish = AtomicPath.publish

    def interrupted(self):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        publish(self)

    monkeypatch.setattr(AtomicPath, "publish", interrupted)
    assert run("--source", clip, "--output", out / "o.mp4") == 130
    assert [path.name for path in out.iterdir()] == ["o.mp4"]
    with av.open(str(out / "o.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_a_signal_while_models_are_loaded_cancels(clip, out, capfd, monkeypatch):
    """Before there is anything to finish, one is enough; SIGTERM, too."""

    def load(_settings):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal came too late")

    monkeypatch.setattr(app, "open_detector", load)
    assert run("--source", clip, "--output", out / "o.mp4") == 130
    assert "interrupted" in complaint(capfd)
    assert list(out.iterdir()) == []


# -- real processes


def streamface(*arguments, **options):
    command = [sys.executable, "-m", "streamface", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_real_process_writes_the_demo(out):
    """The README's first command, shortened."""
    target = out / "demo.mp4"
    with streamface("run", "--source", "demo", "--max-frames", 20, "--output", target) as process:
        said, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert said == ""
    assert "demo: 20 frames" in errors
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_signal_to_a_real_process_leaves_a_file_that_plays(out, number):
    """Sent once the tenth line of data is out: exit 130 and a file of just those frames."""
    target = out / "demo.mp4"
    with streamface(
        "run", "--source", "demo", "--output", target, "--save-jsonl", "-", "--quiet"
    ) as process:
        lines = [process.stdout.readline() for _ in range(10)]
        process.send_signal(number)
        # Not communicate(): it would pass over what readline has read ahead.
        lines += process.stdout.readlines()
        errors = process.stderr.read()
    assert process.returncode == 130, errors
    assert errors == ""
    assert 10 <= len(lines) < 301
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(lines) - 1


def test_a_reader_that_leaves_ends_the_process_without_traceback_or_hang(out):
    """``streamface … --save-jsonl - | head -2``: one line at most, and the video is not left."""
    with streamface(
        "run", "--source", "demo", "--output", out / "o.mp4", "--save-jsonl", "-", "--quiet"
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=100)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert "its reader has gone" in errors
    assert list(out.iterdir()) == []


# -- covering faces


def test_anonymized_video_loses_sound_and_metadata_and_says_so(clip, out, capfd):
    target = out / "hidden.mp4"
    how = ("--source", clip, "--output", target, "--anonymize", "solid")
    assert run(*how, quiet=False) == 0
    told = capfd.readouterr().err
    assert "covered (solid)" in told
    assert "left out: sound, subtitles, metadata" in told
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.metadata["comment"] == "faces covered by streamface (solid)"
    assert run(*how, "--keep-audio", "--overwrite") == 0
    with av.open(str(target)) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "video"]


def test_anonymize_without_output_is_refused(clip, capfd):
    assert cli.main(["run", "--source", str(clip), "--anonymize", "blur"]) == 2
    assert "--output" in capfd.readouterr().err


def test_unknown_ways_to_cover_are_refused(clip, capfd):
    assert cli.main(["run", "--source", str(clip), "--anonymize", "eyes"]) == 2
    assert "blur" in capfd.readouterr().err
    from streamface.errors import UsageError

    with pytest.raises(UsageError, match="blur, pixelate, solid"):
        Settings(source="x", anonymize="eyes")


@pytest.mark.parametrize(
    ("options", "told", "comment"),
    [
        (("--reenact", "happy"), "re-made (happy): ", "altered by streamface (reenact happy)"),
        (("--anonymize", "synth", "--seed", "3"), "by somebody else", "replaced by generated ones"),
    ],
)
def test_remade_faces_are_told_and_written_into_the_file(out, capfd, options, told, comment):
    plain, target = out / "plain.mp4", out / "remade.mp4"
    demo = ("--source", "demo:portrait", "--max-frames", "12", "--hide-boxes", "--hide-labels")
    assert run(*demo, "--output", plain) == 0
    assert run(*demo, "--output", target, *options, quiet=False) == 0
    assert told in capfd.readouterr().err
    with av.open(str(target)) as container:
        assert comment in container.metadata["comment"]
        changed = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    with av.open(str(plain)) as container:
        before = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(changed) == len(before) == 12
    different = np.abs(changed[-1].astype(int) - before[-1]) > 12
    assert 0.001 < different.mean() < 0.3


def test_a_mark_says_that_a_picture_was_altered_unless_it_is_not_wanted(out):
    demo = ("--source", "demo", "--max-frames", "2", "--hide-boxes", "--hide-labels")
    corners = {}
    for name, more in {"marked": (), "bare": ("--no-mark",)}.items():
        assert run(*demo, "--reenact", "sad", "--output", out / f"{name}.mp4", *more) == 0
        with av.open(str(out / f"{name}.mp4")) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="gray")
        corners[name] = picture[-40:, :120].astype(int)
    assert (np.abs(corners["marked"] - corners["bare"]) > 40).mean() > 0.1


def test_reenact_is_refused_where_it_makes_no_sense(clip, capfd):
    for options, reason in (
        (("--reenact", "happy"), "needs --output"),
        (("--reenact", "bored", "--output", "x.mp4"), "invalid choice"),
        (("--reenact", "sad", "--anonymize", "blur", "--output", "x.mp4"), "give one"),
        (("--seed", "-1", "--output", "x.mp4"), "--seed must be 0"),
    ):
        assert cli.main(["run", "--source", str(clip), *options]) == 2
        told = capfd.readouterr().err
        assert reason in told
        assert told.count("\n") == 1
