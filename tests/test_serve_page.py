"""The page in a real browser: what a person sees, on a desk and on a phone."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import chromium
import pytest
import sample_faces as made

from streamface.app import Run
from streamface.overlay import Painter
from streamface.serve import LiveHub, serve
from streamface.settings import Settings

pytest.importorskip("aiohttp")

PHONE = (390, 844)
STATE = "document.documentElement.dataset.state"
# Reads a canvas by way of a copy: Chromium complains of those that are read often.
READ = """((canvas, left, height) => {
    const copy = new OffscreenCanvas(canvas.width - left, height);
    const pen = copy.getContext('2d', { willReadFrequently: true });
    pen.drawImage(canvas, -left, 0);
    return pen.getImageData(0, 0, copy.width, copy.height).data;
})"""
# A checksum of the picture drawn last.
PIXELS = f"""(() => {{
    const canvas = document.querySelector('.tile canvas');
    const data = {READ}(canvas, 0, canvas.height);
    return data.reduce((sum, value, index) => (sum * 31 + value * (index % 7)) % 1000003, 0);
}})()"""
# How many pixels of the timeline's newest tenth show a colour, not a grey.
COLOURED = f"""(() => {{
    const canvas = document.getElementById('timeline');
    const data = {READ}(canvas, Math.floor(canvas.width * 0.9), 20);
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {{
        const rgb = data.slice(i, i + 3);
        count += Math.max(...rgb) - Math.min(...rgb) > 60;
    }}
    return count;
}})()"""


class FakeRecorder:
    recording = False

    def start(self):
        self.recording = True

    def stop(self):
        self.recording = False


class Show:
    """The demo, run again and again as a camera would show it, each frame painted and published."""

    def __init__(self, **options):
        self._run = Run(Settings(source="demo", simulate_live=True))
        self.hub = LiveHub(stats=lambda: self._run.stats, **options)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self):
        self._thread.start()
        return self.hub

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _work(self):
        painter = Painter()
        while not self._stop.is_set():
            with self._run as run:
                for frame in run.frames():
                    painter.paint(frame)
                    self.hub.publish(frame, "demo")
                    if self._stop.is_set():
                        return
            self._run = Run(Settings(source="demo", simulate_live=True))


def watch(tmp_path, look):
    """Run ``look(browser)`` with a fresh browser."""

    async def watched():
        async with chromium.browser(tmp_path / "profile") as browser:
            return await look(browser)

    chromium.executable()
    return asyncio.run(watched())


def still(index=0, stream=0):
    """A frame with a face that anybody can publish at any time."""
    return replace(made.frame(made.face(), index=index, size_px=(320, 240)), stream=stream)


async def text(page, name):
    return await page.value(f"document.getElementById('{name}').textContent")


def test_the_page_shows_video_faces_timeline_and_figures(tmp_path):
    async def look(browser):
        page = await browser.open(server.url)
        await page.until(f"{STATE} === 'live' && document.querySelectorAll('.card').length >= 2")
        before = await page.value(PIXELS)
        await page.until(f"{PIXELS} !== {before}")
        await page.until(f"{COLOURED} > 20")
        await page.until("Number(document.getElementById('shown').textContent) > 0")
        assert float(await text(page, "fps")) > 0
        assert float(await text(page, "p95")) > 0
        assert await text(page, "state-text") == "Live"
        assert await text(page, "source") == "demo"
        card = await page.value("document.querySelector('.card').innerText")
        assert card.startswith("#")
        bars = await page.value("document.querySelector('.card .bars').children.length")
        assert bars == 7
        await page.until("/male/.test(document.querySelector('.card .gender').textContent)")
        said = await page.value("document.getElementById('timeline').getAttribute('aria-label')")
        assert "#1" in said
        stages = await page.value("document.getElementById('stages').innerText")
        assert "classify" in stages
        assert await page.value("document.documentElement.scrollWidth") == 1280
        host = server.url.split("/")[2]
        assert {address.split("/")[2] for address in page.asked} == {host}
        assert page.complaints == []

    with Show() as hub, serve(hub, "0") as server:
        watch(tmp_path, look)


def test_the_page_fits_a_phone(tmp_path):
    async def look(browser):
        page = await browser.open(server.url, PHONE, phone=True, scale=2)
        await page.until(f"{STATE} === 'live' && document.querySelectorAll('.card').length >= 1")
        assert await page.value("document.documentElement.scrollWidth") == PHONE[0]
        assert await page.value("document.querySelector('.tile canvas').clientWidth") == PHONE[0]
        heights = "[...document.querySelectorAll('button')].filter((each) => !each.hidden)"
        assert await page.value(f"Math.min(...{heights}.map((each) => each.offsetHeight))") >= 44
        assert page.complaints == []

    with Show(recorder=FakeRecorder()) as hub, serve(hub, "0") as server:
        watch(tmp_path, look)


def test_each_state_is_told(tmp_path):
    clock = [1000.0]
    hub = LiveHub(now=lambda: clock[0])

    async def look(browser):
        server = serve(hub, "0")
        page = await browser.open(server.url)
        await page.until("document.getElementById('state-text').textContent === 'Waiting'")
        hub.publish(still(), "door")
        await page.until(f"{STATE} === 'live' && document.querySelectorAll('.card').length === 1")
        clock[0] += 8
        await page.until(f"{STATE} === 'silent'")
        assert await text(page, "veil-text") == "The source has been silent for 8 s"
        # Whoever was there is still shown, greyed: the picture stands still, so do its faces.
        assert await page.value("document.querySelectorAll('.card').length") == 1
        hub.publish(still(1), "door")
        await page.until(f"{STATE} === 'live'")
        hub.end()
        await page.until(f"{STATE} === 'ended'")
        port = server.url.rsplit(":", 1)[1].strip("/")
        await asyncio.to_thread(server.close)
        await page.until(
            "document.getElementById('veil-title').textContent === 'The run has ended'"
        )
        assert page.complaints == []
        other = LiveHub()
        with serve(other, port):
            other.publish(still(), "window")
            await page.until("document.getElementById('source').textContent === 'window'")
            other.publish(still(1), "window")
            await page.until(f"{STATE} === 'live'")

    watch(tmp_path, look)


def test_a_lost_connection_is_told_and_found_again(tmp_path):
    """A relay that is cut: no farewell reaches the page."""

    async def look(browser):
        hub = LiveHub()
        hub.publish(still(), "door")
        with serve(hub, "0") as server:
            to = int(server.url.rsplit(":", 1)[1].strip("/"))
            relay = await Relay.open(to)
            page = await browser.open(f"http://127.0.0.1:{relay.port}/")
            await page.until(f"{STATE} === 'live'")
            await relay.cut()
            await page.until(f"{STATE} === 'connecting'")
            await relay.mend()
            await page.until(f"{STATE} === 'live'")
            await relay.cut()

    watch(tmp_path, look)


class Relay:
    """A cable between browser and server."""

    @classmethod
    async def open(cls, to):
        self = cls()
        self._to, self.port = to, 0
        await self.mend()
        return self

    async def mend(self):
        self._tasks, self._writers = set(), []
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _join(self, reader, writer):
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, there_writer]
        for one, other in ((reader, there_writer), (there_reader, writer)):
            self._tasks.add(asyncio.create_task(self._copy(one, other)))

    async def _copy(self, reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def cut(self):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()


def test_buttons_work_from_the_keyboard(tmp_path):
    recorder = FakeRecorder()
    hub = LiveHub(recorder=recorder)
    hub.publish(still(), "door")

    async def press(page, name):
        await page.value(f"document.getElementById('{name}').focus()")
        for kind in ("keyDown", "keyUp"):
            await page.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                text="\r",
                windowsVirtualKeyCode=13,
            )

    async def look(browser):
        with serve(hub, "0") as server:
            page = await browser.open(server.url)
            await page.until(f"{STATE} === 'live'")
            await page.until("!document.getElementById('record').hidden")
            await press(page, "record")
            await page.until(
                "document.getElementById('record-text').textContent === 'Stop recording'"
            )
            assert recorder.recording
            await press(page, "record")
            await page.until("document.getElementById('record-text').textContent === 'Record'")
            assert not recorder.recording
            await press(page, "pause")
            await page.until(f"{STATE} === 'paused'")
            before = await page.value(PIXELS)
            hub.publish(bright(1), "door")
            await page.until("document.getElementById('foot').textContent.startsWith('2 frames')")
            assert await page.value(PIXELS) == before
            await press(page, "pause")
            await page.until(f"{PIXELS} !== {before}")
            assert page.complaints == []

    watch(tmp_path, look)


def bright(index):
    frame = still(index)
    frame.planes.y[:] = 220
    return frame


def test_without_a_recorder_there_is_no_button(tmp_path):
    hub = LiveHub()
    hub.publish(still(), "door")

    async def look(browser):
        with serve(hub, "0") as server:
            page = await browser.open(server.url)
            await page.until(f"{STATE} === 'live'")
            assert await page.value("document.getElementById('record').hidden")

    watch(tmp_path, look)


def test_the_printed_address_opens_the_page_and_loses_its_token(tmp_path):
    hub = LiveHub()
    hub.publish(still(), "door")

    async def look(browser):
        with serve(hub, "0", "correct-horse-battery") as server:
            page = await browser.open(server.url)
            await page.until(f"{STATE} === 'live'")
            assert await page.value("location.search + document.cookie") == ""

    watch(tmp_path, look)


def test_streams_stand_in_a_grid(tmp_path):
    hub = LiveHub()
    for stream in range(3):
        hub.publish(still(stream=stream), f"camera {stream}")

    async def look(browser):
        with serve(hub, "0") as server:
            page = await browser.open(server.url)
            await page.until(
                "[...document.querySelectorAll('.tile canvas')].map((each) => each.width).join()"
                " === '320,320,320'"
            )
            names = await page.value(
                "[...document.querySelectorAll('.tile p')].map((each) => each.textContent)"
            )
            assert names == ["camera 0", "camera 1", "camera 2"]
            hub.forget(1)
            await page.until("document.querySelectorAll('.tile').length === 2")
            assert page.complaints == []

    watch(tmp_path, look)


def test_a_source_cannot_smuggle_markup_into_the_page(tmp_path):
    hub = LiveHub()
    hub.publish(still(), "<img src=x onerror=alert(1)>")
    hub.publish(still(stream=1), "b")

    async def look(browser):
        with serve(hub, "0") as server:
            page = await browser.open(server.url)
            await page.until(
                f"{STATE} === 'live' && document.querySelectorAll('.tile').length === 2"
            )
            assert await page.value("document.querySelectorAll('main img').length") == 0
            assert (
                await page.value("document.querySelector('.tile p').textContent")
                == "<img src=x onerror=alert(1)>"
            )
            assert page.complaints == []

    watch(tmp_path, look)
