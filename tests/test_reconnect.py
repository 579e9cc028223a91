"""Live sources that are lost and come back: against servers on loopback, and with fakes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import streams
from streams import RtspServer, Script, Silent, WebServer

from streamface.decode import ReadOptions
from streamface.errors import SourceError
from streamface.frame import Colour, Frame, Planes
from streamface.network import Backoff, NetworkOptions
from streamface.reconnect import ReconnectingSource, open_lasting
from streamface.sources import find_inputs, open_source
from streamface.testing import CountingSource

QUICK = NetworkOptions(open_timeout_s=5, read_timeout_s=0.4, hold_after_s=0.1)
TIMEOUT_S = 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return streams.h264_clip(tmp_path_factory.mktemp("h264"))


def open_url(url, network=QUICK, options=None, **more):
    source = open_source(find_inputs(url)[0], options or ReadOptions(), network=network, **more)
    if isinstance(source, ReconnectingSource):
        source._backoff.first_s = 0.01
    return source


def take(source, enough):
    """Return frames until ``enough(frames)``."""
    frames = []
    for frame in source:
        frames.append(frame)
        if enough(frames):
            break
    source.close()
    return frames


def kinds(source):
    return [event.kind for event in source.events]


def true_frames(frames):
    return [frame for frame in frames if not frame.held]


def check_order(frames):
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(b.pts > a.pts for a, b in pairwise(frames))
    assert len({frame.time_base for frame in frames}) == 1
    assert len({frame.planes.size_px for frame in frames}) == 1


# -- RTSP


def test_a_server_that_dies_is_found_again_and_the_gap_is_bridged(clip):
    with RtspServer(Script(clip, 20), Script(clip)) as server:
        source = open_url(server.url())
        frames = take(source, lambda frames: len(true_frames(frames)) == 50)
    check_order(frames)
    numbers = [clips.read_number(frame.planes) for frame in true_frames(frames)]
    assert numbers == [*range(20), *range(30)]
    assert kinds(source) == ["lost", "back"]
    assert source.damage.gaps == 1
    assert "lost once" in " ".join(source.damage.lines())


def test_the_last_picture_is_held_while_nothing_comes(clip):
    with RtspServer(Script(clip, 20, "stall"), Script(clip)) as server:
        source = open_url(server.url())
        frames = take(source, lambda frames: len(true_frames(frames)) == 30)
    check_order(frames)
    held = [frame for frame in frames if frame.held]
    assert held
    # FFmpeg's parser keeps a picture until the next one begins, or the stream ends.
    assert {clips.read_number(frame.planes) for frame in held} <= {18, 19}
    assert source.damage.held_frames == len(held)
    assert len({id(frame.planes.y) for frame in held}) == len(held), "each is drawn on"


def test_a_card_says_since_when_the_source_is_away(clip):
    network = replace(QUICK, on_gap="slate")
    with RtspServer(Script(clip, 10), Script(clip, 0)) as server:
        source = open_url(server.url(), network)
        frames = take(source, lambda frames: sum(frame.held for frame in frames) == 5)
    card = frames[-1].planes
    assert card.size_px == frames[0].planes.size_px
    assert card.colour == frames[0].planes.colour
    assert card.y[5, 5] < 60
    assert card.y.max() > 120, "something is written on it"


def test_nothing_is_made_up_where_that_is_not_wanted(clip):
    network = replace(QUICK, on_gap="skip")
    with RtspServer(Script(clip, 20, "stall"), Script(clip)) as server:
        source = open_url(server.url(), network)
        frames = take(source, lambda frames: len(frames) == 40)
    check_order(frames)
    assert not any(frame.held for frame in frames)
    longest = max(b.pts - a.pts for a, b in pairwise(frames)) * frames[0].time_base
    assert longest > Fraction(3, 10)


def test_garbage_counts_as_silence(clip):
    with RtspServer(Script(clip, 20, "garbage"), Script(clip)) as server:
        source = open_url(server.url())
        frames = take(source, lambda frames: len(true_frames(frames)) == 40)
    check_order(frames)
    assert kinds(source)[:2] == ["lost", "back"]


def test_another_size_is_fitted_into_the_first(clip, tmp_path):
    tall = streams.h264_clip(tmp_path, size_px=(96, 144))
    with RtspServer(Script(clip, 20), Script(tall)) as server:
        source = open_url(server.url())
        frames = take(source, lambda frames: len(true_frames(frames)) == 40)
    check_order(frames)
    planes = frames[-1].planes
    # 96x144 becomes 80x120 in the middle of 160x120, grey between black bars.
    assert planes.y[60, 20] < 30
    assert planes.y[60, 140] < 30
    assert planes.y[60, 80] == pytest.approx(110, abs=12)
    assert kinds(source) == ["lost", "back", "changed"]
    assert "now 96x144; fitted into 160x120" in source.events[-1].text
    assert source.damage.rescaled_frames >= 20


def test_another_codec_goes_on(clip, tmp_path):
    """The wrapper asks nothing of the second connection but pictures."""
    other = clips.write_clip(tmp_path / "other.mkv", 10, codec="mpeg4")
    with RtspServer(Script(clip, 10)) as server:
        first = open_source(find_inputs(server.url())[0], ReadOptions(), network=None)
        again = [open_source(find_inputs(str(other))[0], ReadOptions())]
        again[0].info = replace(again[0].info, is_live=True)

        def reopen():
            if not again:
                raise SourceError("gone")
            return again.pop()

        network = replace(QUICK, reconnect=1)
        source = ReconnectingSource(
            first, reopen, ReadOptions(), network, name="x", pause=lambda _: True
        )
        frames = take(source, lambda _: False)
    check_order(frames)
    assert len(true_frames(frames)) == 20
    assert source.gave_up


def test_it_gives_up_after_so_many_attempts_and_says_why(clip):
    with RtspServer(Script(clip, 10)) as server:
        source = open_url(server.url("bob:s3cret@"), replace(QUICK, reconnect=2))
        frames = iter(source)
        next(frames)
    rest = list(frames)
    source.close()
    assert rest
    assert source.gave_up
    assert kinds(source) == ["lost", "failed", "failed", "gave up"]
    line = source.damage.lines()[-1]
    assert re.fullmatch(r"lost at \d\d:\d\d:\d\d UTC: .*; not back after 2 attempt\(s\)", line)
    assert "s3cret" not in repr(source.events) + source.info.name + line


def test_no_attempt_is_made_where_none_is_wanted(clip):
    with RtspServer(Script(clip, 10), Script(clip)) as server:
        source = open_url(server.url(), replace(QUICK, reconnect=0))
        assert len(true_frames(take(source, lambda _: False))) == 10
        assert server.plays == 1


def test_limits_count_over_all_connections(clip):
    with RtspServer(Script(clip, 10), Script(clip)) as server:
        frames = take(open_url(server.url(), options=ReadOptions(max_frames=25)), lambda _: False)
        assert len(frames) == 25
        late = open_url(server.url(), options=ReadOptions(end_s=0.5))
        frames = take(late, lambda _: False)
    assert 10 <= len(frames) <= 20
    assert all(frame.time_s - frames[0].time_s < 0.5 for frame in frames)


def test_closing_does_not_wait_for_a_source_that_says_nothing(clip):
    """A stalled read ends with its time-out; the iterating thread does not wait even for that."""
    with RtspServer(Script(clip, 20, "stall")) as server:
        source = open_url(server.url(), replace(QUICK, read_timeout_s=2, on_gap="skip"))
        came = []
        ten = threading.Event()

        def iterate():
            for frame in source:
                came.append(frame)
                if len(came) == 10:
                    ten.set()

        thread = threading.Thread(target=iterate)
        thread.start()
        assert ten.wait(TIMEOUT_S)
        source.stop()
        thread.join(1.5)
        assert not thread.is_alive()
        source.close()
    assert 10 <= len(came) <= 20


def test_closing_ends_a_long_wait_between_attempts(clip):
    with RtspServer(Script(clip, 5)) as server:
        lost = threading.Event()
        source = open_source(
            find_inputs(server.url())[0],
            ReadOptions(),
            network=replace(QUICK, on_gap="skip"),
            on_event=lambda event: lost.set() if event.kind == "lost" else None,
        )
        source._backoff.first_s = 3600.0
        thread = threading.Thread(target=lambda: list(source))
        thread.start()
        assert lost.wait(TIMEOUT_S)
        source.close()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def test_a_source_that_was_never_iterated_can_be_closed_twice(clip):
    with RtspServer(Script(clip)) as server:
        source = open_url(server.url())
        source.close()
        source.close()


def test_a_hundred_reconnects_leave_nothing_behind(clip):
    """Threads, descriptors and memory are those of one connection."""
    with RtspServer(Script(clip, 4, pace_s=0)) as server:
        source = open_url(server.url())
        source._pause = lambda _: not source._handoff.stopped
        counts = {}
        for _ in source:
            if source.damage.gaps in (10, 110) and source.damage.gaps not in counts:
                counts[source.damage.gaps] = (descriptors(), threads(), rss_mb())
            if source.damage.gaps > 110:
                break
        source.close()
    assert abs(counts[110][0] - counts[10][0]) <= 4, counts
    assert counts[110][1] == counts[10][1]
    assert counts[110][2] - counts[10][2] < 15, counts
    assert not any(kind in ("failed", "gave up") for kind in kinds(source))


def descriptors():
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0


def threads():
    return sum(t.name.startswith("streamface-") for t in threading.enumerate())


def rss_mb():
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


# -- the first attempt


def test_nobody_listening_is_one_clear_line_at_once():
    with pytest.raises(SourceError, match=r"^cannot open rtsp://\*\*\*@127.*: Connection refused$"):
        open_url("rtsp://bob:s3cret@127.0.0.1:9/live")


def test_a_server_that_never_answers_ends_with_the_time_out():
    with Silent() as server:
        network = replace(QUICK, open_timeout_s=0.5)
        with pytest.raises(SourceError, match=r"no answer within 0\.5 s"):
            open_url(f"rtsp://127.0.0.1:{server.port}/live", network)


def test_a_protocol_that_ffmpeg_lacks_is_named():
    with pytest.raises(SourceError, match="does not speak nonsense"):
        open_url("nonsense://127.0.0.1:9")


def test_the_first_attempt_is_repeated_where_that_is_wanted(clip):
    attempts, slept_s = [], []

    def once(_options):
        attempts.append(1)
        if len(attempts) < 4:
            raise SourceError("cannot open it")
        return CountingSource(3)

    network = replace(QUICK, wait_for_first=True)
    source = open_lasting(once, "x", ReadOptions(), network, sleep=slept_s.append)
    assert isinstance(source, CountingSource)
    assert len(slept_s) == 3
    with pytest.raises(SourceError, match="cannot open it"):
        attempts.clear()
        open_lasting(once, "x", ReadOptions(), QUICK)


# -- HTTP


def send(handler, kind, body=None, *, length=True):
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    if body is not None and length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if body is not None:
        handler.wfile.write(body)


def test_a_file_on_a_web_server_is_no_live_source(tmp_path):
    """It ends where it ends, also where its format tells no duration."""
    for name in ("a.mp4", "a.h264"):
        body = clips.write_clip(tmp_path / name, 12).read_bytes()
        with WebServer(lambda handler, body=body: send(handler, "video/any", body)) as server:
            source = open_url(server.url(f"/{name}"))
            assert not source.info.is_live
            assert [clips.read_number(f.planes) for f in source] == list(range(12))
            source.close()


def test_a_jpeg_camera_over_http_comes_back():
    asked = []

    def answer(handler):
        asked.append(1)
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        handler.end_headers()
        for number in range(20):
            jpeg = jpeg_of(number)
            head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            handler.wfile.write(head.encode() + jpeg + b"\r\n")

    with WebServer(answer) as server:
        source = open_url(server.url("/video.mjpg"))
        assert source.info.is_live
        frames = take(source, lambda frames: len(true_frames(frames)) == 30)
    check_order(frames)
    assert len(asked) >= 2


def jpeg_of(number):
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt = 160, 120, "yuvj420p"
    codec.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(clips.numbered(number).to_rgb(), format="rgb24")
    return b"".join(bytes(p) for f in (frame.reformat(format="yuvj420p"), None)
                    for p in codec.encode(f))  # fmt: skip


def hls(folder, *, ended):
    path = folder / "live.m3u8"
    options = {"hls_time": "0.5", "hls_list_size": "0"}
    with av.open(str(path), "w", format="hls", options=options) as container:
        stream = container.add_stream("libx264", rate=30, options=streams.LIVE | {"g": "15"})
        stream.width, stream.height = 160, 120
        for number in range(60):
            picture = av.VideoFrame.from_ndarray(clips.numbered(number).to_rgb(), format="rgb24")
            picture.pts = number
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    text = path.read_text()
    return text if ended else text.replace("#EXT-X-ENDLIST", "")


def test_an_hls_playlist_ends_when_it_is_closed(tmp_path):
    """While it is open it is live; once it has an end, losing it is the end."""
    texts = [hls(tmp_path, ended=False), hls(tmp_path, ended=True)]

    def answer(handler):
        name = handler.path.strip("/")
        if name == "live.m3u8":
            return send(handler, "application/vnd.apple.mpegurl", texts[0].encode())
        return send(handler, "video/mp2t", (tmp_path / name).read_bytes())

    with WebServer(answer) as server:
        network = replace(QUICK, read_timeout_s=10)
        source = open_url(server.url("/live.m3u8"), network)
        assert source.info.is_live
        frames = []
        for frame in source:
            frames.append(frame)
            texts[0] = texts[1]
        source.close()
    check_order(frames)
    assert clips.read_number(true_frames(frames)[-1].planes) == 59
    spent_s = frames[-1].captured_s - frames[0].captured_s
    assert spent_s > 0.5, "segments are played, not spilled"


# -- UDP


def test_mpegts_over_udp_comes_back_after_silence(tmp_path):
    import socket

    path = clips.write_clip(tmp_path / "a.ts", 90, options=streams.LIVE)
    data = path.read_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    speak, over = threading.Event(), threading.Event()
    speak.set()

    def send_all():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not over.is_set():
                for at in range(0, len(data), 1316):
                    speak.wait()
                    if over.wait(0.002):
                        return
                    sender.sendto(data[at : at + 1316], ("127.0.0.1", port))

    thread = threading.Thread(target=send_all)
    thread.start()
    try:
        # A port is taken anew while FFmpeg still closes the last one.
        source = open_url(f"udp://127.0.0.1:{port}?reuse=1", replace(QUICK, read_timeout_s=1))
        assert source.info.is_live
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 40:
                speak.clear()
            if "lost" in kinds(source):
                speak.set()
            if "back" in kinds(source) and not frame.held:
                break
        source.close()
    finally:
        over.set()
        speak.set()
        thread.join()
    check_order(frames)
    assert any(frame.held for frame in frames)


# -- sound


class Scripted:
    """A source whose connections are made in the test."""

    def __init__(self, frames, **info):
        self._fake = CountingSource(0, is_live=True)
        self.info = replace(self._fake.info, **info)
        self.damage = self._fake.damage
        self.tail_packets = ()
        self.exhausted = False
        self.in_bursts = False
        self.closed = 0
        self._frames = frames
        self._last = None

    def __iter__(self):
        for frame in self._frames:
            self._last = frame
            yield frame
        self.exhausted = True

    def last_picture(self):
        return self._last and clips.numbered(7)

    def close(self):
        self.closed += 1


def frame_at(pts, captured_s, packets=(), time_base=Fraction(1, 30)):
    planes = clips.numbered(pts % 4000)
    return Frame(0, pts, pts, time_base, planes, captured_s=captured_s, packets=packets)


def lasting(first, *later, network=None, now=None):
    later = list(later)

    def reopen():
        if not later:
            raise SourceError("cannot open it")
        return later.pop(0)

    network = network or NetworkOptions(on_gap="skip", reconnect=1)
    return ReconnectingSource(
        first, reopen, ReadOptions(), network, name="x", pause=lambda _: True, backoff=Backoff(),
        **({"now": now} if now else {}),
    )  # fmt: skip


def test_a_gap_is_as_long_as_it_was_in_the_first_time_base():
    first = Scripted([frame_at(900 + i, 10 + i / 30) for i in range(3)])
    tick = Fraction(1, 90_000)
    second = Scripted([frame_at(5 + 3000 * i, 20 + i / 30, time_base=tick) for i in range(3)],
                      time_base=tick)  # fmt: skip
    source = lasting(first, second)
    frames = list(source)
    source.close()
    # The last picture came at 10.067, the next one at 20: 298 frames later.
    assert [frame.pts for frame in frames] == [900, 901, 902, 1200, 1201, 1202]
    assert {frame.time_base for frame in frames} == {Fraction(1, 30)}
    assert (first.closed, second.closed) == (1, 1)


@pytest.mark.parametrize("jump", [900_000, -900_000])
def test_a_clock_that_is_set_moves_no_frame(jump):
    """A camera that learns the time of day goes on where it was."""
    pts = [1_000_000, 1_000_001, 1_000_002 + jump, 1_000_003 + jump]
    source = lasting(Scripted([frame_at(p, 10 + i / 30) for i, p in enumerate(pts)]))
    frames = list(source)
    source.close()
    assert [frame.pts - 1_000_000 for frame in frames] == [0, 1, 2, 3]


def test_frames_that_come_too_late_are_left_out_and_counted():
    """A stall was bridged; what it held up comes in a burst, then the present."""
    release = threading.Event()

    def frames():
        for i in range(3):
            yield frame_at(i, 10 + i / 30)
        assert release.wait(TIMEOUT_S)
        for i in range(3, 33):
            yield frame_at(i, 11.0 + i / 10_000)
        yield frame_at(34, 11.14)

    clock = iter([10 + i / 30 for i in range(4000)])
    lock = threading.Lock()

    def now():
        with lock:
            return next(clock)

    network = NetworkOptions(on_gap="hold", reconnect=0, hold_after_s=0.01)
    source = lasting(Scripted(frames()), network=network, now=now)
    came = []
    for frame in source:
        came.append(frame)
        if sum(each.held for each in came) == 5:
            release.set()
    source.close()
    check_order(came)
    assert source.damage.late_frames > 0
    late = source.damage.late_frames
    assert len(true_frames(came)) + late == 34


def test_sound_goes_on_after_the_gap_and_never_back_in_time(tmp_path):
    """Its packets move with the pictures, into streams that outlive their connection."""
    sound = clips.write_clip(tmp_path / "a.mkv", 30, audio_codec="aac")
    opened = [open_source(find_inputs(str(sound))[0], ReadOptions()) for _ in range(2)]
    for each in opened:
        each.info = replace(each.info, is_live=True)
    source = lasting(opened[0], opened[1])
    target = tmp_path / "out.mkv"
    times = []
    out = None
    for frame in source:
        if out is None:
            out = av.open(str(target), "w")
            copied = [out.add_stream_from_template(each) for each in source.info.copied]
        for packet in frame.packets:
            times.append(packet.dts * packet.time_base)
            packet.stream = copied[packet.stream_index]
            out.mux(packet)
    for packet in source.tail_packets:
        times.append(packet.dts * packet.time_base)
        packet.stream = copied[packet.stream_index]
        out.mux(packet)
    out.close()
    source.close()
    assert len(clips.audio_packets(target)) == len(times) > 80
    assert all(b > a for a, b in pairwise(times))


# -- cameras


def test_a_camera_that_is_unplugged_is_opened_again(tmp_path):
    path = str(clips.write_clip(tmp_path / "camera.mjpeg", 10, codec="mjpeg", pix_fmt="yuvj420p"))
    calls = []

    def opener(_location, *, mode, **_):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(19, "No such device")
        return av.open(path, mode)

    told = []
    source = open_source(
        find_inputs("0")[0], ReadOptions(), opener=opener, platform="linux",
        network=QUICK, on_event=told.append,
    )  # fmt: skip
    source._backoff.first_s = 0.001
    frames = take(source, lambda frames: len(true_frames(frames)) == 15)
    check_order(frames)
    assert [event.kind for event in told][:3] == ["lost", "failed", "back"]
    assert "No such device" in told[1].text
    assert told[0].source == "camera 0"


# -- a server of somebody else's


GSTREAMER = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_service("0")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=25/1"
    " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 ! rtph264pay name=pay0 )"
)
factory.set_shared(True)
server.get_mount_points().add_factory("/test", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


def start_gstreamer():
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip("needs Debian's python3")
    process = subprocess.Popen(
        [python, "-c", GSTREAMER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    port = process.stdout.readline().strip()
    if not port:
        process.stdout.close()
        process.wait()
        pytest.skip("needs gir1.2-gst-rtsp-server-1.0 and GStreamer's x264enc")
    return process, port


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_gstreamers_rtsp_server_is_read_and_its_death_survived(transport):
    process, port = start_gstreamer()
    network = NetworkOptions(rtsp_transport=transport, read_timeout_s=1, hold_after_s=0.2)
    try:
        source = open_url(f"rtsp://127.0.0.1:{port}/test", network)
        assert source.info.size_px == (320, 240)
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 20:
                process.kill()
            if sum(each.held for each in frames) == 10:
                break
        source.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    check_order(frames)
    assert np.ptp(frames[-1].planes.y) > 100, "the test picture is held"


def test_planes_of_another_colour_are_converted():
    """What is written carries the first connection's tags."""
    from streamface.pixels import fitted

    narrow = Planes.allocate((64, 48), Colour("bt601"))
    narrow.y[:], narrow.u[:], narrow.v[:] = 235, 128, 128
    full = fitted(narrow, (64, 48), Colour("bt709", full_range=True))
    assert int(full.y[20, 20]) == pytest.approx(255, abs=2)
    wide = fitted(narrow, (64, 48), Colour("bt601"), Fraction(2))
    assert int(wide.y[2, 32]) == 16, "wider pixels leave room above and below"
    assert int(wide.y[24, 2]) == pytest.approx(235, abs=2)


@pytest.mark.parametrize("how", ["stop", "leave"])
def test_a_pipeline_ends_a_source_that_waits(clip, how):
    """Neither the first nor the second Ctrl-C waits for a camera to come back."""
    from streamface.pipeline import Pipeline
    from streamface.playlist import Playlist

    lost = threading.Event()

    def opener(*arguments, **options):
        source = open_source(
            *arguments, **options, network=replace(QUICK, on_gap="skip"),
            on_event=lambda event: lost.set() if event.kind == "lost" else None,
        )  # fmt: skip
        source._backoff.first_s = 3600.0
        return source

    with RtspServer(Script(clip, 10)) as server:
        playlist = Playlist([*find_inputs(server.url())] * 2, ReadOptions(), opener=opener)
        pipeline = Pipeline(playlist, [], number=lambda frame: frame.index, on_stop=playlist.stop)
        with pipeline as frames:
            came = [next(frames)]
            if how == "stop":
                came += [next(frames) for _ in range(9)]
                assert lost.wait(TIMEOUT_S)
                pipeline.stop()
                came += list(frames)
        playlist.close()
        assert server.plays == 1, "the next input is not opened any more"
    assert len(came) == (10 if how == "stop" else 1)
