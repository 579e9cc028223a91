"""Outputs beside the live path: in threads, in segments, to servers on loopback."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from fractions import Fraction

import av
import clips
import pytest
from streams import RtspServer, Server, Silent

from streamface.decode import ReadOptions
from streamface.encode import VideoOptions
from streamface.errors import SinkError, UsageError
from streamface.fanout import QueuedSink
from streamface.network import Backoff
from streamface.push import HlsSink, PushSink, open_live_sink, push_name
from streamface.segments import SegmentSink
from streamface.sinks import VideoSink, open_sink
from streamface.sources import find_inputs, open_source
from streamface.testing import CountingSource

FAST = VideoOptions(preset="ultrafast")
TIMEOUT_S = 20


def test_several_sinks_may_take_the_same_frames(tmp_path):
    """Sound included: one copies it, one re-encodes it, in threads of their own."""
    clip = clips.write_clip(tmp_path / "in.mp4", 40, audio_codec="aac")
    source = open_source(find_inputs(str(clip))[0], ReadOptions())
    targets = [tmp_path / "a.mp4", tmp_path / "b.webm", tmp_path / "c.mkv"]
    sinks = [
        QueuedSink(
            open_sink(target, source.info, VideoOptions(live=True)), target.name, capacity=100
        )
        for target in targets
    ]
    for frame in source:
        for sink in sinks:
            sink.write(frame)
    for sink in sinks:
        sink.close(source.tail_packets)
    source.close()
    for target in targets:
        assert len(clips.video_times(target)) == 40
    assert clips.audio_packets(targets[0]) == clips.audio_packets(clip)
    assert clips.audio_packets(targets[2]) == clips.audio_packets(clip)
    assert len(clips.audio_packets(targets[1])) > 60


# -- segments


def test_a_recording_is_cut_into_whole_files(tmp_path):
    clip = clips.write_clip(tmp_path / "in.mkv", 100, audio_codec="aac")
    source = open_source(find_inputs(str(clip))[0], ReadOptions())
    sink = SegmentSink(tmp_path / "out.mp4", source.info, FAST, seconds=1)
    for frame in source:
        sink.write(frame)
    files = [tmp_path / f"out-00{i}.mp4" for i in range(4)]
    assert sink.files == files
    assert [file.exists() for file in files] == [True, True, True, False]
    sink.close(source.tail_packets)
    source.close()
    assert [len(clips.video_times(file)) for file in files] == [30, 30, 30, 10]
    sound = [packet for file in files for packet in clips.audio_packets(file)]
    assert sound == clips.audio_packets(clip)
    for file in files:
        with av.open(str(file)) as container:
            first = next(iter(container.decode(video=0)))
            assert first.key_frame
            assert first.pts == 0


def test_sound_that_is_encoded_again_goes_on_in_every_segment(tmp_path):
    clip = clips.write_clip(tmp_path / "in.mkv", 60, audio_codec="aac")
    source = open_source(find_inputs(str(clip))[0], ReadOptions())
    sink = SegmentSink(tmp_path / "out.webm", source.info, VideoOptions(live=True), seconds=1)
    for frame in source:
        sink.write(frame)
    sink.close(source.tail_packets)
    source.close()
    assert [len(clips.audio_packets(file)) > 40 for file in sink.files] == [True, True]


def test_a_segment_that_fails_leaves_those_before_it(tmp_path):
    source = CountingSource(100)
    (tmp_path / "out-002.mp4").write_bytes(b"mine")
    sink = SegmentSink(tmp_path / "out.mp4", source.info, FAST, seconds=1)
    with pytest.raises(UsageError, match=r"out-002\.mp4 exists"):
        for frame in source:
            sink.write(frame)
    sink.abort()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "out-000.mp4", "out-001.mp4", "out-002.mp4",
    ]  # fmt: skip
    assert (tmp_path / "out-002.mp4").read_bytes() == b"mine"


def test_an_aborted_segment_is_removed(tmp_path):
    source = CountingSource(40)
    sink = SegmentSink(tmp_path / "out.mp4", source.info, FAST, seconds=1)
    for frame in source:
        sink.write(frame)
    sink.abort()
    sink.abort()
    assert [file.name for file in tmp_path.iterdir()] == ["out-000.mp4"]


def test_segments_of_no_length_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--segment must be at least 1 s, got 0"):
        SegmentSink(tmp_path / "out.mp4", CountingSource(1).info, FAST, seconds=0)
    assert list(tmp_path.iterdir()) == []


# -- HLS


def test_hls_keeps_the_latest_segments_and_ends_its_playlist(tmp_path):
    source = CountingSource(600)
    sink = open_live_sink(str(tmp_path / "live.m3u8"), source.info, FAST)
    assert isinstance(sink, HlsSink)
    for frame in source:
        sink.write(frame)
        if frame.index == 300:
            assert "#EXT-X-ENDLIST" not in (tmp_path / "live.m3u8").read_text()
    sink.close()
    text = (tmp_path / "live.m3u8").read_text()
    assert "#EXT-X-ENDLIST" in text
    assert text.count(".ts") == 6
    assert len(list(tmp_path.glob("*.ts"))) < 10
    with av.open(str(tmp_path / "live.m3u8")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 360


def test_hls_replaces_nothing_unasked(tmp_path):
    (tmp_path / "live.m3u8").write_text("mine")
    with pytest.raises(UsageError, match="exists; pass --overwrite"):
        HlsSink(tmp_path / "live.m3u8", CountingSource(1).info, FAST)
    with pytest.raises(SinkError, match="its folder does not exist"):
        HlsSink(tmp_path / "no" / "live.m3u8", CountingSource(1).info, FAST)


# -- push


class Receiver:
    """FFmpeg that listens, in a thread: gives the pictures' numbers and the sound's packets."""

    def __init__(self, url, **options):
        self.numbers = []
        self.sound = 0
        self.error = None
        self.some = threading.Event()
        self._thread = threading.Thread(target=self._receive, args=(url, options))
        self._thread.start()

    def _receive(self, url, options):
        try:
            with av.open(url, options=options, timeout=(TIMEOUT_S, TIMEOUT_S)) as container:
                for packet in container.demux():
                    if packet.stream.type == "audio":
                        self.sound += bool(packet.size)
                        continue
                    for frame in packet.decode():
                        planes = frame.reformat(format="gray").to_ndarray()
                        self.numbers.append(clips.read_number(Luma(planes)))
                        self.some.set()
        except (av.FFmpegError, OSError) as exc:
            self.error = exc

    def join(self):
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self.numbers


class Hangup(Server):
    """Takes some bytes and breaks off; takes more from whoever comes then."""

    def __init__(self):
        self.visits = 0
        self.taken = b""
        self.second = threading.Event()
        super().__init__()

    def serve(self, connection):
        self.visits += 1
        if self.visits == 1:
            connection.recv(1000)
            return
        while data := connection.recv(65536):
            if self.visits == 2:
                self.taken += data
            if len(self.taken) > 20_000:
                self.second.set()


class Luma:
    def __init__(self, y):
        self.y = y


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def push(clip, url, *, until=None, **more):
    """Send a clip, over and over until something happened; return the sink."""
    source = open_source(find_inputs(str(clip))[0], ReadOptions())
    more = {"backoff": Backoff(first_s=0.01, most_s=0.05), "timeout_s": 30, **more}
    sink = PushSink(url, source.info, FAST, **more)
    frames = list(source)
    pace = threading.Event()
    for round_ in range(1000):
        for frame in frames:
            pts = frame.pts + round_ * (frames[-1].pts + frame.duration)
            packets = frame.packets if round_ == 0 else ()
            sink.write(replace(frame, pts=pts, packets=packets))
            pace.wait(0.002)
        if until is None or until():
            break
    sink.close(source.tail_packets if until is None else ())
    source.close()
    return sink


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return clips.write_clip(tmp_path_factory.mktemp("push") / "a.mp4", 60, audio_codec="aac")


def test_rtmp_arrives_with_sound(clip):
    url = f"rtmp://127.0.0.1:{free_port()}/live/key"
    receiver = Receiver(url, listen="1")
    sink = push(clip, url)
    numbers = receiver.join()
    # The listener may not be there yet when the first frames are sent.
    assert numbers
    assert numbers[-1] == 59
    assert len(numbers) + sink.unsent >= 58
    assert receiver.sound > 10
    if not sink.losses:
        assert sink.warnings == []


def test_mpegts_over_tcp_arrives(clip):
    url = f"tcp://127.0.0.1:{free_port()}"
    receiver = Receiver(url + "?listen=1")
    push(clip, url)
    assert receiver.join()[-1] == 59


def test_rtsp_is_announced_to_a_server(clip):
    with RtspServer() as server:
        sink = push(clip, server.url(), until=lambda: len(server.received) > 5000)
    assert b"m=video" in server.received
    assert b"m=audio" in server.received
    assert sink.losses == 0


def test_a_server_that_refuses_is_tried_again_and_loses_no_run(clip):
    port = free_port()
    sink = push(clip, f"rtmp://bob:s3cret@127.0.0.1:{port}/live/streamkey")
    assert sink.losses
    assert sink.unsent >= 60
    assert "Connection refused" in sink.warnings[-1]
    assert f"rtmp://***@127.0.0.1:{port}/live/***" in sink.warnings[-1]
    assert "s3cret" not in sink.warnings[-1]
    assert "streamkey" not in sink.warnings[-1]


def test_a_server_that_never_answers_stops_no_other_thread(clip):
    """PyAV would hold the global lock here; our process for it takes that away from the run."""
    ticks = []
    over = threading.Event()

    def tick():
        while not over.wait(0.01):
            ticks.append(1)

    noisy = [clips.noisy(i, (640, 480)) for i in range(40)]
    with Silent() as server:
        source = CountingSource(40, size_px=(640, 480))
        ticker = threading.Thread(target=tick)
        ticker.start()
        sink = PushSink(
            f"rtmp://127.0.0.1:{server.port}/live/x", source.info, replace(FAST, crf=5),
            timeout_s=0.3,
        )  # fmt: skip
        for frame in source:
            sink.write(replace(frame, planes=noisy[frame.index]))
            if sink.losses:
                break
        over.set()
        ticker.join()
        sink.abort()
    assert sink.losses == 1
    assert "took nothing for 0.3 s" in sink.warnings[-1]
    assert len(ticks) > 5


def test_a_server_that_goes_away_gets_the_stream_when_it_is_back(clip):
    """The stream begins again, with a picture that can be decoded by itself."""
    with Hangup() as server:
        sink = push(clip, f"tcp://127.0.0.1:{server.port}", until=server.second.is_set)
    assert sink.losses >= 1
    assert "connection lost" in sink.warnings[-1]
    with av.open(io.BytesIO(server.taken)) as container:
        assert next(iter(container.decode(video=0))).key_frame


def test_names_hide_the_channels_key():
    assert push_name("rtmp://live.example/app/abcd-1234") == "rtmp://live.example/app/***"
    assert push_name("rtsp://u:p@cam.example/x/y") == "rtsp://***@cam.example/x/y"
    assert push_name("rtmps://u:p@h:443/a/b?token=1") == "rtmps://***@h:443/a/***"


@pytest.mark.parametrize(
    ("url", "codec", "what"),
    [
        ("ftp://host/x", None, "cannot send to ftp://host/x; use one of rtmp"),
        ("rtmp://host/app/x", "vp9", r"rtmp://host/app/\*\*\* cannot carry libvpx-vp9"),
    ],
)
def test_what_cannot_be_sent_is_said_at_once(url, codec, what):
    with pytest.raises(UsageError, match=what):
        PushSink(url, CountingSource(1).info, VideoOptions(codec=codec))


def test_live_encoding_gives_each_frame_at_once(tmp_path):
    """No frame waits in the encoder for those that follow."""
    source = CountingSource(3)
    sink = VideoSink(tmp_path / "a.mkv", source.info, VideoOptions(live=True))
    muxed = []
    inner = sink._encoding.container
    mux = inner.mux

    class Counted:
        def __getattr__(self, name):
            return getattr(inner, name)

        def mux(self, packets):
            packets = list(packets)
            muxed.append(len(packets))
            mux(packets)

    sink._encoding.container = Counted()
    for frame in source:
        sink.write(frame)
    assert muxed == [1, 1, 1]
    sink.close()
    assert clips.video_times(tmp_path / "a.mkv")[0] == Fraction(0)
