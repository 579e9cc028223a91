"""Stores on loopback for tests: a web server that answers in ranges, and a real S3 protocol server.

Both take faults: what the next requests are met with, in order.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "wJalrXUtnFEMI"


class Faults:
    """What the next requests are met with: a status, "cut" (half an answer) or "stall" (none)."""

    def __init__(self):
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.released = threading.Event()
        self._next: list[int | str] = []
        self._lock = threading.Lock()

    def add(self, *faults):
        self._next.extend(faults)

    def take(self, method, path):
        with self._lock:
            self.requests.append((method, path))
            return self._next.pop(0) if self._next else None


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def web_server(files, *, ranges=True):
    """Serve ``files`` (name to bytes); yield (base URL, faults)."""
    faults = Faults()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            fault = faults.take(self.command, self.path)
            self.close_connection = True
            if fault == "stall":
                faults.released.wait(20)
                return
            data = files.get(self.path.partition("?")[0].lstrip("/"))
            if isinstance(fault, int) or data is None:
                self.send_response(fault or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_data(data, cut=fault == "cut")

        def send_data(self, data, *, cut):
            wanted = self.headers.get("Range", "") if ranges else ""
            whole = len(data)
            if wanted:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                first, last = int(first), min(int(last or whole), whole - 1)
                data = data[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hash(data) & 0xFFFF:x}"')
            self.send_header("Accept-Ranges", "bytes" if ranges else "none")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[: len(data) // 2] if cut else data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}", faults
        faults.released.set()


@contextmanager
def s3_server():
    """Serve S3 by moto, without a bucket; yield (endpoint URL, faults)."""
    from moto.moto_api._internal.models import moto_api_backend
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    faults = Faults()
    app = DomainDispatcherApplication(create_backend_app)

    def with_faults(environ, start_response):
        fault = faults.take(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if fault == "stall":
            faults.released.wait(20)
            fault = 500
        if fault is None:
            return app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{fault} Injected", [("Content-Length", "0"), ("Connection", "close")])
        return [b""]

    class Quiet(WSGIRequestHandler):
        def log(self, *_):
            pass

    server = make_server("127.0.0.1", 0, with_faults, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}", faults
        faults.released.set()
    moto_api_backend.reset()


@contextmanager
def s3_bucket(monkeypatch):
    """Serve S3 with the bucket "lab", reached by what the environment then holds; yield faults."""
    import s3fs

    with s3_server() as (url, faults):
        for name, value in {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem(endpoint_url=url).mkdir("lab")
        yield faults
        s3fs.S3FileSystem.clear_instance_cache()
