"""A headless Chromium, driven over its DevTools protocol by aiohttp: no driver, no download."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
from contextlib import asynccontextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def executable():
    """Return where Chromium is, or skip the test with a reason."""
    found = os.environ.get("STREAMFACE_CHROMIUM") or next(
        filter(None, map(shutil.which, NAMES)), None
    )
    if found is None:
        pytest.skip("needs Chromium on PATH (Debian: apt-get install chromium)")
    return found


@asynccontextmanager
async def browser(profile):
    """Start a browser with a profile folder of its own; yield how to open pages."""
    import aiohttp

    process = await asyncio.create_subprocess_exec(
        executable(),
        "--headless=new",
        "--no-sandbox",  # containers that run as root have none
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        address = await asyncio.wait_for(_address(process.stderr), 60)
        drain = asyncio.create_task(_drain(process.stderr))
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=0) as socket,
        ):
            connection = Connection(socket)
            reading = asyncio.create_task(connection.read())
            try:
                yield connection
            finally:
                reading.cancel()
                drain.cancel()
                await asyncio.gather(reading, drain, return_exceptions=True)
    finally:
        # Its own group: the browser's helpers end with it.
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        process._transport.close()


async def _address(lines):
    async for line in lines:
        text = line.decode(errors="replace")
        if "DevTools listening on" in text:
            return text.split()[-1]
    raise AssertionError("Chromium ended before it listened")


async def _drain(lines):
    async for _ in lines:
        pass


class Connection:
    """One DevTools socket: commands out, answers and events in."""

    def __init__(self, socket):
        self._socket = socket
        self._answers = {}
        self._number = 0
        self.pages = {}

    async def read(self):
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said.get("sessionId") in self.pages:
                self.pages[said["sessionId"]].take(said["method"], said["params"])

    async def send(self, method, session=None, **params):
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        said = {"id": self._number, "method": method, "params": params}
        await self._socket.send_json(said | ({"sessionId": session} if session else {}))
        result = await asyncio.wait_for(answer, 60)
        assert "error" not in result, f"{method}: {result['error']}"
        return result["result"]

    async def open(self, url, size=(1280, 800), *, phone=False, scale=1):
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        attached = await self.send("Target.attachToTarget", targetId=target, flatten=True)
        page = self.pages[attached["sessionId"]] = Page(self, attached["sessionId"], target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            await page.send(f"{domain}.enable")
        await page.resize(size, phone=phone, scale=scale)
        await page.send("Page.navigate", url=url)
        # Before that, what is asked of a page may be answered by the one before it, or never.
        await asyncio.wait_for(page.loaded.wait(), 60)
        return page


class Page:
    """One tab: what it asked for, what went wrong in it, and what it shows."""

    def __init__(self, connection, session, target):
        self._connection = connection
        self._session = session
        self._target = target
        self.complaints = []
        """Console errors and warnings, exceptions, refused or failed requests."""
        self.loaded = asyncio.Event()
        self.asked = []
        """URLs of all requests."""

    def take(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.asked.append(params["url"])

    async def send(self, method, **params):
        return await self._connection.send(method, self._session, **params)

    async def resize(self, size, *, phone=False, scale=1):
        width, height = size
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )

    async def value(self, expression):
        """Return what a JavaScript expression (or promise) comes to."""
        answer = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition, seconds=60):
        """Wait until a JavaScript condition holds; what is not there yet does not hold."""
        code = f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"
        async with asyncio.timeout(seconds):
            while not await self.value(code):  # noqa: ASYNC110 - the page has no event for it
                await asyncio.sleep(0.05)

    async def screenshot(self, path=None, *, whole=False):
        answer = await self.send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole
        )
        data = base64.b64decode(answer["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    async def close(self):
        await self._connection.send("Target.closeTarget", targetId=self._target)
