"""Small servers on loopback that stream clips as scripted: they die, stall and talk nonsense.

Written against RFC 2326 (RTSP) and RFC 6184 (H.264 over RTP), as far as FFmpeg asks for it.
"""

from __future__ import annotations

import base64
import itertools
import re
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import av
import clips

if TYPE_CHECKING:
    from pathlib import Path

_MTU = 1200
LIVE = {"bf": "0", "g": "10", "tune": "zerolatency", "preset": "ultrafast"}
"""Encoder options of a clip that can be joined soon and decoded at once."""


@dataclass(frozen=True)
class Clip:
    """The H.264 access units of a clip, each a list of NAL units."""

    units: tuple[tuple[bytes, ...], ...]
    rate: int

    @property
    def parameter_sets(self) -> str:
        sets = [nal for nal in self.units[0] if nal[0] & 31 in (7, 8)]
        return ",".join(base64.b64encode(nal).decode() for nal in sets)


@cache
def h264_clip(folder: Path, count=40, size_px=(160, 120), rate=30) -> Clip:
    """Return numbered pictures (``clips.read_number``) as H.264."""
    path = folder / "{}x{}-{}.h264".format(*size_px, count)
    clips.write_clip(path, count, size_px=size_px, rate=Fraction(rate), options=LIVE)
    with av.open(str(path)) as container:
        whole = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return Clip(tuple(tuple(filter(None, re.split(b"\0\0\0?\1", unit))) for unit in whole), rate)


@dataclass(frozen=True)
class Script:
    """What one connection gets."""

    clip: Clip
    frames: int | None = None
    """Pictures before ``then``; None: the clip over and over."""
    then: str = "close"
    """close, stall or garbage."""
    pace_s: float = 0.005
    """Between two pictures."""


class Server:
    """Threads that serve connections until the test is over."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open = set()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="test-server")]
        self._threads[0].start()

    def _accept(self):
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            thread = threading.Thread(target=self._run, args=(connection,), name="test-connection")
            self._threads.append(thread)
            thread.start()

    def _run(self, connection):
        with suppress(OSError, ValueError), connection:
            self.serve(connection)
        self._open.discard(connection)

    def serve(self, connection):
        raise NotImplementedError

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()


class Silent(Server):
    """Accepts and never answers."""

    def serve(self, connection):
        self._over.wait()


class RtspServer(Server):
    """Plays one script a connection, the last one again and again; takes streams, too."""

    def __init__(self, *scripts: Script):
        self.scripts = list(scripts)
        self.plays = 0
        self.received = bytearray()
        self.recorded = threading.Event()
        super().__init__()

    def url(self, credentials=""):
        return f"rtsp://{credentials}127.0.0.1:{self.port}/live"

    def serve(self, connection):
        script = None
        lines = connection.makefile("rb")
        while request := lines.readline().decode("latin-1"):
            headers = {}
            while line := lines.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = lines.read(int(headers.get("content-length", 0)))
            method = request.split()[0]
            if method == "DESCRIBE":
                script = self.scripts[min(self.plays, len(self.scripts) - 1)]
                self.plays += 1
            answer = self._answer(method, headers, script)
            connection.sendall(answer)
            if method == "PLAY":
                return self._play(connection, script)
            if method == "ANNOUNCE":
                self.received += body
            if method == "RECORD":
                while data := connection.recv(65536):
                    self.received += data
                    self.recorded.set()
        return None

    def _answer(self, method, headers, script):
        fields = {"CSeq": headers["cseq"], "Session": "1"}
        body = ""
        if method == "OPTIONS":
            fields["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, ANNOUNCE, RECORD, TEARDOWN"
        elif method == "DESCRIBE":
            fields["Content-Type"] = "application/sdp"
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
                "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
                f"a=framerate:{script.clip.rate}\r\na=control:track0\r\n"
                "a=fmtp:96 packetization-mode=1;"
                f"sprop-parameter-sets={script.clip.parameter_sets}\r\n"
            )
        elif method == "SETUP":
            if "TCP" not in headers["transport"]:
                return f"RTSP/1.0 461 Only TCP\r\nCSeq: {headers['cseq']}\r\n\r\n".encode()
            fields["Transport"] = headers["transport"]
        fields["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"RTSP/1.0 200 OK\r\n{head}\r\n{body}".encode()

    def _play(self, connection, script):
        clip, sequence = script.clip, itertools.count(1)
        numbers = itertools.count() if script.frames is None else range(script.frames)
        for number in numbers:
            unit = clip.units[number % len(clip.units)]
            for packet in _rtp(unit, number * 90_000 // clip.rate, sequence):
                connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
            if self._over.wait(script.pace_s):
                return
        if script.then == "stall":
            self._over.wait()
        while script.then == "garbage" and not self._over.wait(script.pace_s):
            packet = _rtp_header(next(sequence), 0, marker=True) + bytes([0x65]) + b"\xa5" * 300
            connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)


def _rtp_header(sequence, timestamp, *, marker):
    return struct.pack(">BBHII", 0x80, 96 | marker << 7, sequence & 0xFFFF, timestamp, 7)


def _rtp(unit, timestamp, sequence):
    for nal in unit:
        last = nal is unit[-1]
        if len(nal) <= _MTU:
            yield _rtp_header(next(sequence), timestamp, marker=last) + nal
            continue
        parts = [nal[i : i + _MTU] for i in range(1, len(nal), _MTU)]
        for part in parts:
            begins, ends = part is parts[0], part is parts[-1]
            fu = bytes([nal[0] & 0xE0 | 28, begins << 7 | ends << 6 | nal[0] & 31])
            yield _rtp_header(next(sequence), timestamp, marker=last and ends) + fu + part


class WebServer:
    """Serves what ``answer(handler)`` says, each request in a thread of its own."""

    def __init__(self, answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with suppress(OSError):
                    answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def url(self, path="/"):
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
