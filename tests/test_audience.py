"""Those who watch a run: the page with its record button, the window, the virtual camera."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import closing
from datetime import datetime
from types import SimpleNamespace

import clips
import pytest
from sample_faces import face, frame

from streamface import audience
from streamface.app import Run
from streamface.cli import main
from streamface.encode import VideoOptions
from streamface.errors import SinkError
from streamface.recording import Recording
from streamface.settings import Settings
from streamface.testing import CountingSource

FAST = VideoOptions(preset="ultrafast")


def info():
    return CountingSource(1).info


def recorder(tmp_path):
    return Recording(tmp_path, FAST, now=lambda: datetime(2026, 3, 4, 5, 6, 7))  # noqa: DTZ001


def test_a_recording_holds_what_came_between_start_and_stop(tmp_path):
    kept = recorder(tmp_path)
    for number in range(30):
        if number == 10:
            kept.start()
        if number == 16:
            kept.stop()
        kept.write(frame(face(), index=number), info(), "rtsp://***@cam/1")
    path = tmp_path / "rtsp_______cam_1-2026-03-04-050607.mp4"
    assert [f.name for f in tmp_path.iterdir()] == [path.name]
    assert len(clips.video_times(path)) == 6
    assert clips.video_times(path)[0] == 0
    assert not kept.recording


def test_a_recording_is_finished_with_the_run(tmp_path):
    kept = recorder(tmp_path)
    kept.start()
    for stream in (0, 1):
        made = frame(index=0)
        made.stream = stream
        kept.write(made, info(), f"cam {stream}")
    kept.close()
    assert sorted(f.name[:5] for f in tmp_path.iterdir()) == ["cam_0", "cam_1"]


def test_a_recording_that_cannot_be_written_ends_alone_and_is_told(tmp_path, caplog):
    kept = recorder(tmp_path / "missing")
    kept.start()
    kept.write(frame(), info(), "demo")
    assert not kept.recording
    assert "the recording ends: cannot write" in caplog.text
    kept.write(frame(), info(), "demo")


def answer(run, path, data=None):
    request = urllib.request.Request(run.audience.url.rstrip("/") + path, data=data)
    with urllib.request.urlopen(request, timeout=10) as got:
        return got.read()


def test_a_run_serves_its_page_and_records_on_demand(tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="needs aiohttp (extra [web])")
    monkeypatch.chdir(tmp_path)
    with Run(Settings(source="demo", serve="0", max_frames=40)) as run:
        assert "text/html" in answer(run, "/").decode()[:2000] or answer(run, "/")
        seen = 0
        with closing(run.frames()) as frames:
            for _ in frames:
                seen += 1
                if seen == 10:
                    assert json.loads(answer(run, "/healthz"))
                    answer(run, "/record/start", b"")
                if seen == 30:
                    answer(run, "/record/stop", b"")
        assert b"streamface_frames_total 40" in answer(run, "/metrics")
    (recorded,) = tmp_path.glob("demo-*.mp4")
    assert len(clips.video_times(recorded)) == 20


def test_the_page_shows_what_is_painted(tmp_path):
    pytest.importorskip("aiohttp", reason="needs aiohttp (extra [web])")
    with Run(Settings(source="demo", serve="0", max_frames=2)) as run:
        assert "paint" in [stage.name for stage in run.stats.stages]
        run.execute()


def test_a_window_drives_the_run_and_gets_every_frame(monkeypatch):
    shown = []

    class FakeWindow:
        def __init__(self, panes, run, *, stays):
            assert [pane.name for pane in panes] == ["demo"]
            assert not stays

        def show(self, made, pane):
            shown.append((made.index, pane))

        def drive(self, work):
            shown.append("driven")
            work()

        def close(self):
            shown.append("closed")

    monkeypatch.setattr("streamface.window.Window", FakeWindow)
    with Run(Settings(source="demo", show=True, max_frames=5)) as run:
        run.drive(run.execute)
    assert shown == ["driven", *((i, 0) for i in range(5)), "closed"]


def test_a_virtual_camera_gets_the_first_stream(monkeypatch):
    sent = []

    class FakeCamera:
        device = "/dev/video9"
        warnings = ()

        def __init__(self, source, device):
            assert device == "/dev/video9"
            assert source.size_px == (640, 480)

        def write(self, made):
            sent.append(made.index)

        def close(self, tail_packets=()):
            pass

        def abort(self):
            sent.append("closed")

    monkeypatch.setattr("streamface.vcam.VirtualCamera", FakeCamera)
    with Run(Settings(source="demo", virtual_camera="/dev/video9", max_frames=4)) as run:
        run.execute()
    assert sent[-1] == "closed"
    assert set(sent[:-1]) <= set(range(4))


class BrokenCamera:
    device = "/dev/video9"
    warnings = ()

    def __init__(self, source, device):
        pass

    def write(self, made):
        raise SinkError("/dev/video9 takes no more pictures")

    def abort(self):
        pass


def slow(run):
    """Run, at a pace at which the camera's thread comes to its first frame."""
    for _ in run.frames():
        time.sleep(0.01)


def test_a_virtual_camera_that_fails_costs_the_file_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("streamface.vcam.VirtualCamera", BrokenCamera)
    out = tmp_path / "o.mp4"
    with Run(Settings(source="demo", output=out, virtual_camera="", max_frames=40)) as run:
        slow(run)
        assert run.failed_outputs == ["/dev/video9 takes no more pictures"]
    assert len(clips.video_times(out)) == 40


def test_a_virtual_camera_that_fails_ends_a_run_that_is_for_nothing_else(monkeypatch):
    monkeypatch.setattr("streamface.vcam.VirtualCamera", BrokenCamera)
    with (
        Run(Settings(source="demo", virtual_camera="", max_frames=40)) as run,
        pytest.raises(SinkError, match="takes no more"),
    ):
        slow(run)


def test_what_is_changed_must_be_seen_somewhere(capsys, monkeypatch):
    assert main(["run", "--source", "demo", "--reenact", "happy"]) == 2
    assert "needs --output or --show" in capsys.readouterr().err


def test_recordings_lie_beside_the_output(tmp_path):
    for output in (tmp_path, tmp_path / "o.mp4", ("rtmp://server/live/key", tmp_path / "o.mp4")):
        given = Settings(source="demo", output=output)
        assert audience._folder(given) == tmp_path
    assert str(audience._folder(Settings(source="demo", output="udp://h:1"))) == "."


def test_an_audience_that_cannot_be_opened_leaves_nothing(monkeypatch):
    closed = []
    window = SimpleNamespace(close=lambda: closed.append("window"))
    monkeypatch.setattr(audience, "_opened_window", lambda run, streams: window)
    code = main(["run", "--source", "demo", "--show", "--serve", "nowhere:x"])
    assert code == 2
    assert closed == ["window"]
