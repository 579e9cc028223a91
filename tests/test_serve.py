"""The browser page's server: what it answers, whom it refuses, and that nobody can slow a run."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import struct
import sys
import threading
import weakref
from contextlib import asynccontextmanager
from dataclasses import replace

import cv2
import numpy as np
import pytest
import sample_faces as made

from streamface import records
from streamface.errors import SinkError, UsageError
from streamface.frame import Colour, Planes
from streamface.pipeline import PipelineStats, StageStats
from streamface.pixels import shrunk_bgr
from streamface.serve import LiveHub, pictures, serve
from streamface.serve.pictures import PictureStyle, encode_jpeg
from streamface.serve.server import Address

aiohttp = pytest.importorskip("aiohttp")

TOKEN = "correct-horse-battery"


def frame(index=0, stream=0, *faces, **changes):
    return replace(made.frame(*(faces or (made.face(),)), index=index), stream=stream, **changes)


def publish(hub, count, *, start=0, stream=0, source="talk.mp4"):
    for index in range(start, start + count):
        hub.publish(frame(index, stream), source)


class FakeRecorder:
    def __init__(self, error=None):
        self.recording = False
        self.error = error

    def start(self):
        if self.error:
            raise self.error
        self.recording = True

    def stop(self):
        self.recording = False


@pytest.fixture
def hub():
    return LiveHub()


@pytest.fixture
def server(hub):
    with serve(hub, "0") as server:
        yield server


@pytest.fixture
def encodings(monkeypatch):
    """The sizes of all pictures encoded."""
    seen = []

    def encode(planes, style, columns=1):
        seen.append(planes.size_px)
        return encode_jpeg(planes, style, columns)

    monkeypatch.setattr(pictures, "encode_jpeg", encode)
    return seen


def ask(url, path="", method="GET", **options):
    """Return (status, headers, body) of one request."""

    async def asked():
        async with aiohttp.ClientSession() as session:
            options.setdefault("allow_redirects", False)
            async with session.request(method, url + path, **options) as answer:
                return answer.status, answer.headers, await answer.read()

    return asyncio.run(asked())


@asynccontextmanager
async def page(url, **options):
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url.replace("http", "ws") + "live", **options) as connection,
    ):
        yield connection


async def picture(connection, drew=0, *, wanted=True):
    """Ask for a picture and return its header and JPEG."""
    await connection.send_json({"drew": drew, "picture": wanted})
    while True:
        message = await connection.receive(timeout=60)
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.BINARY:
            length = struct.unpack(">I", message.data[:4])[0]
            return json.loads(message.data[4 : 4 + length]), message.data[4 + length :]


# The hub.


def test_the_newest_frame_of_each_stream_is_kept(hub):
    publish(hub, 3)
    publish(hub, 2, stream=1, source="door")
    newest = {key: note.frame.index for key, (note, _) in hub.newest().items()}
    assert newest == {0: 2, 1: 1}
    assert hub.count == 5
    assert [state.source for state in hub.streams().values()] == ["talk.mp4", "door"]
    hub.forget(0)
    assert list(hub.newest()) == [1]


def test_old_pictures_are_let_go(hub):
    """Whatever was published, the hub holds one picture a stream."""
    pixels = []
    for index in range(300):
        shown = frame(index)
        pixels.append(weakref.ref(shown.planes.y.base))
        hub.publish(shown, "talk.mp4")
    del shown
    gc.collect()
    assert [ref() is not None for ref in pixels] == [False] * 299 + [True]
    assert len(hub.since(0)[0]) == 256


def test_streams_are_bounded(hub):
    for stream in range(100):
        publish(hub, 1, stream=stream)
    assert list(hub.streams()) == list(range(36, 100))


def test_notes_follow_in_order_and_tell_what_is_gone(hub):
    publish(hub, 10)
    notes, lost = hub.since(7)
    assert [note.number for note in notes] == [8, 9, 10]
    assert lost == 0
    publish(hub, 300, start=10)
    notes, lost = hub.since(7)
    assert notes[0].number == 7 + lost + 1
    assert len(notes) + lost == 303
    assert hub.since(310) == ([], 0)


def test_a_published_frame_may_be_emptied_afterwards(hub):
    shown = frame(4)
    hub.publish(shown, "talk.mp4")
    shown.faces = ()
    assert len(hub.newest()[0][0].frame.faces) == 1


def test_the_rate_is_that_of_the_last_seconds():
    clock = [0.0]
    hub = LiveHub(now=lambda: clock[0])
    for index in range(100):
        clock[0] = 5.0 + index / 20
        publish(hub, 1, start=index)
    assert hub.streams()[0].fps == pytest.approx(20)
    assert hub.silent_s() == 0
    clock[0] += 4
    assert hub.streams()[0].fps == 0
    assert hub.streams()[0].silent_s == pytest.approx(4)


# Pictures.


@pytest.mark.parametrize("colour", [Colour("bt601"), Colour("bt709"), Colour("bt709", True)])
def test_a_shrunk_picture_keeps_its_colours(colour):
    rgb = np.zeros((240, 320, 3), np.uint8)
    rgb[:, :160], rgb[:, 160:] = (200, 40, 60), (30, 90, 220)
    bgr = shrunk_bgr(Planes.from_rgb(rgb, colour), (160, 120))
    assert bgr.shape == (120, 160, 3)
    assert np.abs(bgr[60, 20, ::-1].astype(int) - (200, 40, 60)).max() <= 3
    assert np.abs(bgr[60, 140, ::-1].astype(int) - (30, 90, 220)).max() <= 3


@pytest.mark.parametrize(
    ("size", "columns", "expected"),
    [
        ((1920, 1080), 1, (960, 540)),
        ((1920, 1080), 2, (480, 270)),
        ((1920, 1080), 9, (320, 180)),
        ((321, 243), 1, (321, 243)),
        ((4000, 2), 1, (960, 1)),
        ((1, 1), 1, (1, 1)),
    ],
)
def test_pictures_shrink_to_their_share_and_never_grow(size, columns, expected):
    planes = Planes.allocate(size, Colour())
    planes.y[:], planes.u[:], planes.v[:] = 126, 128, 128
    data = np.frombuffer(encode_jpeg(planes, PictureStyle(), columns), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert image.shape[1::-1] == expected
    assert np.abs(image.astype(int) - 128).max() <= 3


@pytest.mark.parametrize("wrong", [{"width_px": 8}, {"fps": 0}, {"quality": 101}])
def test_a_style_has_bounds(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PictureStyle(**wrong)


# Where it listens.


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8000", "127.0.0.1", 8000),
        ("0", "127.0.0.1", 0),
        ("localhost:81", "127.0.0.1", 81),
        ("0.0.0.0:8000", "0.0.0.0", 8000),
        ("[::1]:8000", "::1", 8000),
        ("cam.local:8000", "cam.local", 8000),
    ],
)
def test_addresses(text, host, port):
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", "eighty", ":8000", "host:", "host:70000", "::1:80", "1.5", "²"]
)
def test_wrong_addresses_are_refused_in_one_line(text):
    with pytest.raises(UsageError, match=r"--serve takes \[HOST:\]PORT") as caught:
        Address.parse(text)
    assert "\n" not in str(caught.value)


def test_a_taken_port_is_one_line(hub, server):
    port = server.url.rsplit(":", 1)[1].strip("/")
    with pytest.raises(SinkError, match=f"port {port}: .*choose another --serve"):
        serve(LiveHub(), port)


def test_an_unknown_host_is_one_line(hub):
    with pytest.raises(SinkError, match="cannot serve the page on no such host"):
        serve(hub, "no such host:0")


@pytest.mark.parametrize("token", ["short", "sixteen letters and spaces", "x" * 15, "ä" * 20])
def test_a_weak_token_is_refused(hub, token):
    with pytest.raises(UsageError, match="16 or more"):
        serve(hub, "0", token)


def test_without_aiohttp_the_extra_is_named(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(UsageError, match=r"streamface\[web\]"):
        serve(hub, "0")


def test_a_hub_is_served_once(hub, server):
    with pytest.raises(ValueError, match="served already"):
        serve(hub, "0")
    assert hub._wake is not None  # that of the first server


def test_other_machines_need_a_token(hub):
    with serve(hub, "0.0.0.0:0") as server:
        address, _, token = server.url.partition("?token=")
        assert len(token) >= 32
        port = address.rsplit(":", 1)[1].strip("/")
        here = f"http://127.0.0.1:{port}/"
        assert ask(here, "metrics")[0] == 401
        assert ask(here, "metrics", params={"token": token})[0] == 200


# Whom it refuses.

FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "evil.example:80"},
    {"Host": "localhost.evil.example"},
    {"Host": "[::1"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", ["", "metrics", "events", "video"])
def test_other_sites_are_refused(server, path, headers):
    assert ask(server.url, path, headers=headers)[0] == 403


@pytest.mark.parametrize("headers", FOREIGN)
def test_other_sites_cannot_record(headers):
    recorder = FakeRecorder()
    with serve(LiveHub(recorder=recorder), "0") as server:
        assert ask(server.url, "record/start", "POST", headers=headers)[0] == 403
    assert not recorder.recording


@pytest.mark.parametrize("headers", FOREIGN)
def test_other_sites_cannot_open_the_socket(server, headers):
    async def opened():
        async with page(server.url, headers=headers):
            pass

    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        asyncio.run(opened())
    assert caught.value.status == 403


def test_a_link_to_the_page_may_be_followed(server):
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(server.url, headers=followed)[0] == 200
    assert ask(server.url, "metrics", headers=followed)[0] == 403


def test_the_page_itself_and_tunnels_are_let_in(server):
    own = server.url.rstrip("/")
    assert ask(server.url, headers={"Origin": own, "Sec-Fetch-Site": "same-origin"})[0] == 200
    assert ask(server.url, headers={"Host": "localhost:9000"})[0] == 200


@pytest.mark.parametrize("path", ["", "page.js", "live", "video", "events", "metrics", "healthz"])
@pytest.mark.parametrize("wrong", [{}, {"params": {"token": "wrong-horse-battery-x"}}])
def test_nothing_is_shown_without_the_token(hub, path, wrong):
    with serve(hub, "0", TOKEN) as server:
        url = server.url.partition("?")[0]
        status, headers, body = ask(url, path, **wrong)
    assert status == 401
    assert headers["WWW-Authenticate"] == "Bearer"
    assert TOKEN.encode() not in body


def test_the_token_becomes_a_cookie_and_leaves_the_address_bar(hub):
    with serve(hub, "0", TOKEN) as server:
        url = server.url.partition("?")[0]
        status, headers, _ = ask(server.url)
        assert (status, headers["Location"]) == (303, "/")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        name, _, value = cookie.partition(";")[0].partition("=")
        assert ask(url, cookies={name: value})[0] == 200
        assert ask(url, cookies={name: value + "x"})[0] == 401
        assert ask(url, "metrics", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_with_a_token_the_name_in_the_address_does_not_matter(hub):
    """A proxy has a name of its own, and a rebound name has no cookie."""
    with serve(hub, "0", TOKEN) as server:
        url = server.url.partition("?")[0]
        headers = {"Host": "cam.example", "Authorization": f"Bearer {TOKEN}"}
        assert ask(url, headers=headers)[0] == 200
        assert ask(url, headers={"Host": "cam.example"})[0] == 401


# Single answers.


@pytest.mark.parametrize("path", ["", "page.css", "page.js", "timeline.js", "icon.svg", "nothing"])
def test_every_answer_is_locked_down(server, path):
    status, headers, body = ask(server.url, path)
    assert status == (404 if path == "nothing" else 200)
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers
    text = body.decode().replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in text
    assert "https://" not in text


def test_health_tells_whether_frames_flow():
    clock = [100.0]
    hub = LiveHub(now=lambda: clock[0])
    with serve(hub, "0") as server:

        def health():
            status, _, body = ask(server.url, "healthz")
            return status, json.loads(body)["status"]

        assert health() == (503, "waiting")
        publish(hub, 2)
        assert health() == (200, "ok")
        clock[0] += 10.5
        assert health() == (503, "stale")
        publish(hub, 1, start=2)
        assert health() == (200, "ok")
        hub.end()
        assert health() == (503, "ended")


def test_metrics_hold_the_figures():
    stats = PipelineStats([StageStats("find", busy_s=1.5)])
    stats.count_drop("busy", 3)
    stats.latency.add(0.02)
    hub = LiveHub(stats=lambda: stats)
    publish(hub, 7, source='odd "name"\\\n')
    with serve(hub, "0") as server:
        _, headers, body = ask(server.url, "metrics")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert values["streamface_frames_total"] == "7"
    assert values[r'streamface_faces{stream="0",source="odd \"name\"\\\n"}'] == "1"
    assert values['streamface_dropped_frames_total{reason="busy"}'] == "3"
    age_s = float(values['streamface_frame_age_seconds{quantile="0.95"}'])
    assert age_s == pytest.approx(0.02, rel=0.02)
    assert values["streamface_frame_age_seconds_count"] == "1"
    assert values['streamface_busy_seconds_total{stage="find"}'] == "1.5"
    assert values["streamface_viewers"] == "0"
    assert float(values["process_cpu_seconds_total"]) > 0
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families))


def test_without_a_recorder_there_is_nothing_to_start(server):
    assert ask(server.url, "record/start", "POST")[0] == 501
    assert ask(server.url, "record/start")[0] == 405
    assert ask(server.url, "record/erase", "POST")[0] == 404


def test_the_recorder_is_worked_and_its_error_told():
    recorder = FakeRecorder()
    with serve(LiveHub(recorder=recorder), "0") as server:
        assert json.loads(ask(server.url, "record/start", "POST")[2]) == {"recording": True}
        assert recorder.recording
        assert json.loads(ask(server.url, "record/stop", "POST")[2]) == {"recording": False}
        recorder.error = SinkError("cannot write to talk.mp4: No space left on device")
        status, _, body = ask(server.url, "record/start", "POST")
    assert status == 409
    assert "No space left" in json.loads(body)["error"]


# Streams.


def read_events(url, hub, act, until):
    """Open /events, call ``act``, and return (name, data) of all events up to one ``until``."""

    async def read():
        events, name = [], "message"
        async with aiohttp.ClientSession() as session, session.get(url + "events") as answer:
            await answer.content.readuntil(b"\n\n")
            act()
            async for line in answer.content:
                key, _, value = line.decode().strip().partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    events.append((name, json.loads(value)))
                    if name == until:
                        return events
                    name = "message"
                elif key == "" and value:
                    events.append(("comment", value))
                    if until == "comment":
                        return events
        return events

    return asyncio.run(read())


def test_events_are_the_records_of_the_data_file(hub, server):
    def act():
        publish(hub, 20)
        hub.end()

    events = read_events(server.url, hub, act, "end")
    expected = [records.frame_record(frame(i), "talk.mp4") for i in range(20)]
    assert [data for name, data in events if name == "message"] == expected
    assert events[-1] == ("end", {"frames": 20})


def test_events_begin_with_the_header():
    header = records.header(source="talk.mp4", models={}, options={})
    with serve(LiveHub(header=header), "0") as server:

        async def first():
            async with (
                aiohttp.ClientSession() as session,
                session.get(server.url + "events") as answer,
            ):
                return await answer.content.readuntil(b"\n\n")

        text = asyncio.run(first()).decode()
    name, data = text.strip().split("\n")
    assert name == "event: header"
    assert json.loads(data.removeprefix("data: ")) == header


def test_a_reader_of_events_who_is_too_slow_is_told(hub, server):
    """A burst longer than what is remembered, while the server cannot look."""
    held, go_on = threading.Event(), threading.Event()

    def hold():
        held.set()
        go_on.wait(60)

    def act():
        server._loop.call_soon_threadsafe(hold)
        held.wait(60)
        publish(hub, 400)
        hub.end()
        go_on.set()

    events = read_events(server.url, hub, act, "end")
    lost = sum(data["frames"] for name, data in events if name == "lost")
    told = [data["frame"] for name, data in events if name == "message"]
    assert lost == 144
    assert told == list(range(144, 400))


def test_events_are_kept_alive(hub, server, monkeypatch):
    monkeypatch.setattr("streamface.serve.web._KEEP_ALIVE_S", 0.01)
    assert read_events(server.url, hub, lambda: None, "comment") == [("comment", "still here")]


def test_video_is_motion_jpeg_of_the_first_stream(hub, server):
    publish(hub, 1, stream=4)
    publish(hub, 1, stream=2)

    async def parts():
        async with aiohttp.ClientSession() as session, session.get(server.url + "video") as answer:
            reader = aiohttp.MultipartReader.from_response(answer)
            first = await (await reader.next()).read()
            hub.publish(frame(1, 2, planes=Planes.allocate((64, 32), Colour())), "door")
            second = await (await reader.next()).read()
            return answer.content_type, first, second

    kind, *jpegs = asyncio.run(parts())
    assert kind == "multipart/x-mixed-replace"
    sizes = [cv2.imdecode(np.frombuffer(each, np.uint8), 1).shape[1::-1] for each in jpegs]
    assert sizes == [(160, 120), (64, 32)]


def test_video_of_a_wrong_stream_is_refused(server):
    assert ask(server.url, "video?stream=first")[0] == 400


def test_a_page_gets_a_picture_with_what_it_shows(hub, server):
    publish(hub, 3)

    async def shown():
        async with page(server.url) as connection:
            return await picture(connection)

    head, jpeg = asyncio.run(shown())
    assert head["record"] == records.frame_record(frame(2), "talk.mp4")
    assert head["size"] == [160, 120]
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1).shape == (120, 160, 3)


def test_nothing_is_encoded_while_nobody_asks(hub, server, encodings):
    """A page that does not draw costs no encoding, and its next picture is the newest."""

    async def watched():
        async with page(server.url) as connection:
            publish(hub, 1)
            head, _ = await picture(connection)
            publish(hub, 300, start=1)
            assert (await asyncio.to_thread(ask, server.url, "metrics"))[0] == 200
            so_far = len(encodings)
            newest, _ = await picture(connection, head["number"])
            return so_far, newest["record"]["frame"]

    assert asyncio.run(watched()) == (1, 300)


def test_ten_viewers_share_one_encoding(hub, server, encodings):
    async def watched():
        viewers = [page(server.url) for _ in range(10)]
        connections = [await viewer.__aenter__() for viewer in viewers]
        asked = [asyncio.create_task(picture(connection)) for connection in connections]
        # All ten wait for the first picture before there is one.
        while (await metric(server.url, "streamface_viewers")) < 10:
            pass
        publish(hub, 1)
        results = await asyncio.gather(*asked)
        for viewer in viewers:
            await viewer.__aexit__(None, None, None)
        return results

    results = asyncio.run(watched())
    assert len({jpeg for _, jpeg in results}) == 1
    assert len(encodings) == 1


async def metric(url, name):
    body = (await asyncio.to_thread(ask, url, "metrics"))[2].decode()
    return next(float(line.split()[1]) for line in body.splitlines() if line.startswith(name))


def test_a_page_out_of_sight_gets_records_only(hub, server, encodings):
    publish(hub, 1)

    async def hidden():
        async with page(server.url) as connection:
            return await picture(connection, wanted=False)

    head, jpeg = asyncio.run(hidden())
    assert head["record"]["frame"] == 0
    assert jpeg == b""
    assert encodings == []


def test_pictures_of_many_streams_take_turns(hub, server):
    for stream in range(3):
        publish(hub, 1, stream=stream)

    async def shown():
        async with page(server.url) as connection:
            return [(await picture(connection))[0]["stream"] for _ in range(3)]

    assert sorted(asyncio.run(shown())) == [0, 1, 2]


def test_what_was_drawn_tells_how_old_it_was(hub, server):
    async def shown():
        async with page(server.url) as connection:
            await connection.receive(timeout=60)  # connected before the frame comes
            publish(hub, 1)
            head, _ = await picture(connection)
            await connection.send_json({"drew": head["number"]})
            while await metric(server.url, "streamface_shown_age_seconds_count") < 1:
                pass

    asyncio.run(shown())


@pytest.mark.parametrize(
    "message", ["", "next", "[]", '{"drew": "1"}', "[" * 900, b"\x00", '{"picture": true}']
)
def test_a_page_that_talks_nonsense_is_shown_the_door(server, message):
    async def told():
        async with page(server.url) as connection:
            send = connection.send_bytes if isinstance(message, bytes) else connection.send_str
            await send(message)
            while (said := await connection.receive(timeout=60)).type is aiohttp.WSMsgType.TEXT:
                pass
            return said.data

    assert asyncio.run(told()) == aiohttp.WSCloseCode.POLICY_VIOLATION


def test_a_page_that_asks_without_end_is_shown_the_door(server):
    async def told():
        async with page(server.url) as connection:
            for _ in range(20):
                await connection.send_str('{"drew": 0}')
            while (said := await connection.receive(timeout=60)).type is aiohttp.WSMsgType.TEXT:
                pass
            return said.data

    assert asyncio.run(told()) == aiohttp.WSCloseCode.POLICY_VIOLATION


def test_a_viewer_who_reads_nothing_holds_nobody_up(hub, server, encodings):
    """Not the run, not other viewers; and what waits for him stays bounded."""
    noise = np.random.default_rng(1).integers(0, 255, (540, 960), np.uint8)
    host, port = server.url.removeprefix("http://").strip("/").split(":")
    with socket.create_connection((host, int(port))) as deaf:
        deaf.sendall(f"GET /video HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

        async def watched():
            async with page(server.url) as connection:
                drew = 0
                for index in range(40):
                    loud = frame(index)
                    planes = Planes(
                        np.roll(noise, index, 1), noise[::2, ::2].copy(), noise[::2, ::2].copy()
                    )
                    hub.publish(replace(loud, planes=planes), "noise")
                    head, _ = await picture(connection, drew)
                    drew = head["number"]
                return drew

        assert asyncio.run(watched()) == 40
        assert len(encodings) == 40


def test_the_number_of_viewers_is_bounded(hub, server, monkeypatch):
    monkeypatch.setattr("streamface.serve.web._MOST_VIEWERS", 1)

    async def crowded():
        async with page(server.url):
            return await asyncio.to_thread(ask, server.url, "events")

    assert asyncio.run(crowded())[0] == 503


# The end.


def test_closing_ends_every_kind_of_stream(hub):
    publish(hub, 1)
    server = serve(hub, "0")

    async def watched():
        async with (
            aiohttp.ClientSession() as session,
            page(server.url) as connection,
            page(server.url) as other,
            session.get(server.url + "events") as events,
            session.get(server.url + "video") as video,
        ):
            await picture(connection)
            await video.content.readuntil(b"\r\n\r\n")
            await asyncio.to_thread(server.close)
            codes = []
            for each in (connection, other):
                while (said := await each.receive(timeout=60)).type in (
                    aiohttp.WSMsgType.TEXT,
                    aiohttp.WSMsgType.BINARY,
                ):
                    pass
                codes.append(said.data)
            for stream in (events, video):
                with pytest.raises(aiohttp.ClientError):
                    while await stream.content.readany():
                        pass
            return codes

    assert asyncio.run(watched()) == [aiohttp.WSCloseCode.GOING_AWAY] * 2
    server.close()
    publish(hub, 1, start=1)  # nobody listens any more
    with pytest.raises(aiohttp.ClientConnectionError):
        ask(server.url)


def test_closing_does_not_wait_for_the_deaf(hub):
    publish(hub, 1)
    with serve(hub, "0") as server:
        host, port = server.url.removeprefix("http://").strip("/").split(":")
        with socket.create_connection((host, int(port))) as half:
            half.sendall(b"GET / HT")
            server.close()


def test_a_page_learns_that_the_run_ended(hub, server):
    publish(hub, 1)
    hub.end()

    async def told():
        async with page(server.url) as connection:
            return (await connection.receive(timeout=60)).json()

    stats = asyncio.run(told())
    assert stats["ended"] is True
    assert stats["recording"] is None
    assert stats["streams"][0]["source"] == "talk.mp4"


def test_a_failure_inside_the_page_is_told_and_ends_only_the_page(hub, monkeypatch, caplog):
    def broken(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(pictures, "encode_jpeg", broken)
    with serve(hub, "0") as server:

        async def watched():
            async with page(server.url) as connection:
                await connection.send_json({"drew": 0})
                publish(hub, 1)
                while (said := await connection.receive(timeout=60)).type is aiohttp.WSMsgType.TEXT:
                    pass
                return said.data

        assert asyncio.run(watched()) == aiohttp.WSCloseCode.GOING_AWAY
        publish(hub, 1, start=1)
    assert "the page has stopped: MemoryError: no room" in caplog.text
