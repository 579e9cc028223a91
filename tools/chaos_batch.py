"""Kill a batch at random, again and again, and hold what comes of it to a calm run's.

    python tools/chaos_batch.py --rounds 100 --seed 1 --executor both --store --json -

Each round makes an empty output and begins ``streamface batch`` on the same sources, every second
one with ``--split``. While it runs, a schedule drawn from the seed does its worst: ``kill -9`` of a
worker, of a Ray node, of the driver (also in the moment when an output appears), or a limit on the
size of files, which is met as a full disk is. Whatever stands under a final name afterwards must be
whole; now and then one of these is removed or cut short. The batch is begun again, under fire once
more or in peace. In the end every output has to be there and equal to the calm run's to the byte,
nothing else may lie about, and no worker may live. With ``--store`` every third round reads from
and writes to a bucket (moto's S3 server, a process of its own), which answers 500 and 503 at
random, now and then not at all, and sometimes nothing but 500 for seconds. Once, a real disk (a
small tmpfs, where one may be mounted) is filled and given room again. The first round that fails
ends the program with exit code 1 and leaves its folder.

Ray runs as two nodes of one core on the loopback of this machine. Linux only: it looks into /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
_STATE: Final = ".streamface-batch"
_ROUND_S: Final = 300.0
_MOST_HITS: Final = 4
_POLL_S: Final = 0.02
_TOO_SMALL_BYTES: Final = 150_000
"""Room of the disk that is too small: enough for a journal and a few outputs, not for all."""
_CALM: Final = "X-Chaos-Calm"
"""Header of requests that meet no faults."""
_SIGNED: Final = (
    "AWS4-HMAC-SHA256 Credential=AKIACHAOS/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
)
"""Which moto looks for, and does not check."""
_OUTAGE: Final = "outage"
_XML: Final = "{http://s3.amazonaws.com/doc/2006-03-01/}"
# Shares of the requests that are answered by an error, and by nothing for longer than one waits.
_FAULTS: Final = 0.03
_STALLS: Final = 0.001
_STALL_S: Final = 35.0


class ChaosError(Exception):
    """An output is missing, differs, or something was left behind."""


@dataclass(slots=True)
class Score:
    """What was done, over all rounds."""

    rounds: int = 0
    batches: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    exit_codes: Counter[str] = field(default_factory=Counter)
    worst_s: float = 0.0


# -- processes


def processes() -> dict[int, tuple[int, str]]:
    """Return parent and command line of every process that is no zombie."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                command = (
                    (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                )
                found[int(path.name)] = (int(fields[1]), command)
    return found


def below(pid: int) -> dict[int, str]:
    """Return the command lines of all processes below one, by number."""
    everything = processes()
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        children = {n: c for n, (p, c) in everything.items() if p == parent and n not in found}
        found.update(children)
        waiting += children
    return found


def workers_below(pid: int) -> list[int]:
    """Return the worker processes of a batch."""
    return sorted(n for n, command in below(pid).items() if "streamface.batch.worker" in command)


def kill(pid: int) -> None:
    """``kill -9``, also of what has just gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# -- where batches run


class Nodes:
    """Two Ray nodes on this machine, of which the second may be killed and replaced."""

    def __init__(self) -> None:
        # A short path, since sockets must have one.
        self._folder = tempfile.mkdtemp(prefix="sf-ray-")
        # All of it for what is below us; the third lets drivers find a cluster at 127.0.0.1.
        os.environ.update(
            RAY_TMPDIR=self._folder,
            RAY_USAGE_STATS_ENABLED="0",
            RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
            PYTHONPATH=str(ROOT),
        )
        cluster_utils: Any = importlib.import_module("ray.cluster_utils")
        self._node: Any = {
            "num_cpus": 1,
            "object_store_memory": 80 << 20,
            "include_dashboard": False,
            "node_ip_address": "127.0.0.1",
        }
        self._cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=self._node)
        self._second = self._cluster.add_node(**self._node)

    @property
    def address(self) -> str:
        """What ``--cluster`` takes."""
        return str(self._cluster.address)

    @property
    def second_id(self) -> str:
        """What Ray calls the second node."""
        return str(self._second.node_id)

    def second_processes(self) -> list[int]:
        """Return all processes of the second node."""
        started = [each for kind in self._second.all_processes.values() for each in kind]
        own = [int(each.process.pid) for each in started]
        return [*(child for pid in own for child in below(pid)), *own]

    def kill(self) -> None:
        """End the second node as a power cut would."""
        for process in self.second_processes():
            kill(process)
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None

    def mend(self) -> None:
        """Put another node in the place of a killed one."""
        if self._second is None:
            self._second = self._cluster.add_node(**self._node)

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


class Folder:
    """Sources and outputs of a round on the disk."""

    def __init__(self, source: Path, output: Path) -> None:
        self.source, self.output = str(source), str(output)
        self._root = output

    def names(self) -> set[str]:
        """Return the names of the outputs, without what a batch keeps for itself."""
        found = set()
        # Not by rglob, which raises where a folder goes while it looks.
        for here, folders, files in os.walk(self._root):
            folders[:] = [each for each in folders if each != _STATE]
            paths = (Path(here) / name for name in files if _is_output(name))
            found |= {path.relative_to(self._root).as_posix() for path in paths}
        return found

    def contents(self) -> dict[str, bytes]:
        """Return every output."""
        return {name: (self._root / name).read_bytes() for name in self.names()}

    def stamps(self) -> dict[str, str]:
        """Return what changes when an output is written again."""
        return {name: str((self._root / name).stat().st_mtime_ns) for name in self.names()}

    def remove(self, name: str) -> None:
        """Remove an output."""
        (self._root / name).unlink()

    def cut(self, name: str) -> None:
        """Cut an output short."""
        path = self._root / name
        os.truncate(path, path.stat().st_size // 2)

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of the journal."""
        journal = self._root / _STATE / "journal.jsonl"
        return [json.loads(line) for line in journal.read_text().splitlines()]

    def left(self) -> list[str]:
        """Return the names of what is unfinished."""
        state = self._root / _STATE
        parts = [path for path in (state / "parts").rglob("*") if path.is_file()]
        return [path.name for path in [*(state / "unfinished").iterdir(), *parts]]

    def clear(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self._root, ignore_errors=True)


class Bucket:
    """The same in a bucket, looked at by requests that meet no faults."""

    def __init__(self, url: str, prefix: str, scratch: Path) -> None:
        self.source, self.output = "s3://chaos/in/", f"s3://chaos/{prefix}"
        self._url, self._prefix, self._scratch = url, f"{prefix}/", scratch

    def _ask(self, path: str, method: str = "GET", data: bytes | None = None) -> bytes:
        # Without a type, urllib would name that of a form, which the server would read as one.
        headers = {_CALM: "1", "Content-Type": "application/octet-stream", "Authorization": _SIGNED}
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self._url}/chaos{path}", data=data, method=method, headers=headers
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return bytes(answer.read())

    def _listed(self, prefix: str) -> dict[str, str]:
        found: dict[str, str] = {}
        query = {"list-type": "2", "prefix": prefix, "max-keys": "1000"}
        tree = ET.fromstring(self._ask(f"?{urllib.parse.urlencode(query)}"))  # noqa: S314
        for each in tree.iter(f"{_XML}Contents"):
            key = str(each.findtext(f"{_XML}Key"))
            stamp = f"{each.findtext(f'{_XML}LastModified')} {each.findtext(f'{_XML}ETag')}"
            found[key.removeprefix(self._prefix)] = stamp
        return found

    def _at(self, name: str) -> str:
        return f"/{urllib.parse.quote(self._prefix + name)}"

    def contents(self) -> dict[str, bytes]:
        """Return every output."""
        return {name: self._ask(self._at(name)) for name in self.names()}

    def names(self) -> set[str]:
        """Return the names of the outputs."""
        return set(self.stamps())

    def stamps(self) -> dict[str, str]:
        """Return time and ETag of each."""
        return {
            name: stamp
            for name, stamp in self._listed(self._prefix).items()
            if not name.startswith(_STATE) and _is_output(name)
        }

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        self._ask(self._at(name), "PUT", data)

    def remove(self, name: str) -> None:
        """Remove an output."""
        self._ask(self._at(name), "DELETE")

    def cut(self, name: str) -> None:
        """Cut an output short."""
        data = self._ask(self._at(name))
        self.put(name, data[: len(data) // 2])

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of the journal's pieces."""
        pieces = sorted(self._listed(f"{self._prefix}{_STATE}/journal/"))
        lines = b"".join(self._ask(self._at(name)) for name in pieces).splitlines()
        return [json.loads(line) for line in lines]

    def left(self) -> list[str]:
        """Return what is unfinished, there and on the disk."""
        there = self._listed(f"{self._prefix}{_STATE}/")
        strange = [name for name in there if not name.startswith(f"{_STATE}/journal/")]
        here = self._scratch.glob("streamface-batch-*/*/*")
        return [*strange, *(path.name for path in here)]

    def clear(self) -> None:
        """Remove all of it."""
        for name in self._listed(self._prefix):
            self.remove(name)


def _is_output(name: str) -> bool:
    return not name.rpartition("/")[2].startswith("manifest.")


@dataclass(slots=True)
class Field:
    """What one round works on."""

    place: Folder | Bucket
    nodes: Nodes | None
    base: Path
    split: bool = False

    def command(self) -> list[str]:
        """Return the batch's command line."""
        where = ["--workers", "2"] if self.nodes is None else ["--cluster", self.nodes.address]
        split = ["--split", "1"] if self.split else []
        return [
            sys.executable, "-m", "streamface", "batch", self.place.source,
            "--output", self.place.output, "--save-jsonl", "--save-csv",
            "--threads", "1", "--preset", "ultrafast", "--no-progress", "--timeout", "60",
            *where, *split,
        ]  # fmt: skip

    def begin(self, *, most_bytes: int | None = None) -> subprocess.Popen[bytes]:
        """Begin a batch. most_bytes: of any file that it writes."""

        def limit() -> None:
            if most_bytes is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails instead
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        with (self.base / "log").open("ab") as log:
            return subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                cwd=self.base,
                env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"},
                preexec_fn=limit,  # noqa: PLW1509 - this program has no threads of its own
            )


# -- the bucket's server, a process of its own


def serve_store(port: int, seed: int, outage: Path) -> None:
    """Serve S3 by moto, with faults: some at random, all while the file ``outage`` exists."""
    server = importlib.import_module("moto.server")
    serving = importlib.import_module("werkzeug.serving")
    app = server.DomainDispatcherApplication(server.create_backend_app)
    dice = random.Random(seed)  # noqa: S311 - repeatable, not secret

    def with_faults(environ: dict[str, Any], start_response: Any) -> Any:
        chance = dice.random()
        if f"HTTP_{_CALM.upper().replace('-', '_')}" in environ:
            return app(environ, start_response)
        if chance < _STALLS:
            time.sleep(_STALL_S)
        if not outage.exists() and chance >= _FAULTS:
            return app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status = "500 Injected" if chance < _FAULTS / 2 else "503 Slow Down"
        start_response(status, [("Content-Length", "0"), ("Connection", "close")])
        return [b""]

    class Quiet(serving.WSGIRequestHandler):  # type: ignore[name-defined, misc]
        def log(self, *_: object) -> None:
            """Say nothing."""

    made = serving.make_server("127.0.0.1", port, with_faults, threaded=True, request_handler=Quiet)
    made.serve_forever()


@contextmanager
def store_server(base: Path, seed: int) -> Iterator[str]:
    """Start it; give its URL, with the bucket made and the environment set for batches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    os.environ.update(
        AWS_ENDPOINT_URL=url,
        AWS_ACCESS_KEY_ID="AKIACHAOS",
        AWS_SECRET_ACCESS_KEY="chaos",  # noqa: S106 - nobody's
        AWS_DEFAULT_REGION="us-east-1",
    )
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve-store", str(port), "--seed", str(seed)],
        cwd=base,
    )
    try:
        until_s = time.monotonic() + 60
        while True:
            try:
                Bucket(url, "in", base)._ask("", "PUT", b"")  # noqa: SLF001 - the bucket itself
                break
            except OSError:
                if time.monotonic() > until_s or server.poll() is not None:
                    raise
                time.sleep(0.2)
        yield url
    finally:
        server.kill()
        server.wait()


# -- what is done to them


def strike(kind: str, batch: subprocess.Popen[bytes], place: Field, dice: random.Random) -> bool:
    """Do one thing to a running batch; return whether there was anything to do it to."""
    if kind == "publishing":
        return kill_at_publishing(batch, place)
    if kind == "outage":
        outage = place.base / _OUTAGE
        outage.touch()
        with suppress(subprocess.TimeoutExpired):
            batch.wait(dice.choice([1, 3, 20]))
        outage.unlink()
        return True
    if kind == "driver":
        batch.kill()
        return True
    if kind == "node":
        assert place.nodes is not None
        place.nodes.kill()
        return True
    # Ray's workers are below its nodes, and these below us.
    workers = workers_below(batch.pid if place.nodes is None else os.getpid())
    if workers:
        kill(dice.choice(workers))
    return bool(workers)


def kill_at_publishing(batch: subprocess.Popen[bytes], place: Field) -> bool:
    """Kill the driver as soon as another output has its name; return whether one came."""
    before = place.place.names()
    until_s = time.monotonic() + 5
    while batch.poll() is None and time.monotonic() < until_s:
        if place.place.names() - before:
            batch.kill()
            return True
    return False


def vandalise(place: Field, dice: random.Random, score: Score) -> None:
    """Remove an output or cut it short."""
    found = sorted(place.place.names())
    if not found:
        return
    victim = dice.choice(found)
    if dice.random() < 0.5:
        place.place.remove(victim)
    else:
        place.place.cut(victim)
    score.hits["output harmed"] += 1


def under_fire(place: Field, dice: random.Random, score: Score) -> None:
    """Run one batch and strike it a few times at random moments, until it ends or all are spent."""
    kinds = ["worker", "worker", "driver", "publishing"] + (
        ["node"] if place.nodes is not None else []
    )
    kinds += ["outage", "outage"] if isinstance(place.place, Bucket) else []
    batch = place.begin()
    until_s = time.monotonic() + _ROUND_S
    node_is_up = True
    try:
        for _ in range(dice.randint(1, _MOST_HITS)):
            wait_s = dice.choice([0.2, 1.0, 3.0]) * dice.random() * 2
            with suppress(subprocess.TimeoutExpired):
                batch.wait(wait_s)
            if batch.poll() is not None:
                break
            kind = dice.choice(kinds)
            if kind == "node" and not node_is_up:
                continue
            if strike(kind, batch, place, dice):
                score.hits[kind] += 1
            node_is_up = node_is_up and kind != "node"
        finish(batch, until_s, score)
    finally:
        batch.kill()
        batch.wait()
        if place.nodes is not None:
            place.nodes.mend()


def on_a_full_disk(place: Field, dice: random.Random, score: Score) -> None:
    """Run one batch that cannot write all it wants to."""
    score.hits["disk full"] += 1
    most = dice.choice([2_000, 8_000, 20_000, 60_000])
    finish(place.begin(most_bytes=most), time.monotonic() + _ROUND_S, score)


def finish(batch: subprocess.Popen[bytes], until_s: float, score: Score) -> int:
    """Wait for a batch's end and count it. Raises ChaosError where it hangs."""
    try:
        code = batch.wait(max(1.0, until_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        batch.kill()
        raise ChaosError(f"a batch did not end within {_ROUND_S:g} s") from None
    score.batches += 1
    score.exit_codes[str(code)] += 1
    return code


# -- what must come of it


def outputs(place: Field) -> dict[str, str]:
    """Return the hash of every output."""
    contents = place.place.contents()
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def check_whole(place: Field, expected: dict[str, str]) -> None:
    """Raise ChaosError if anything under a final name is not the calm run's."""
    found = outputs(place)
    wrong = sorted(name for name, content in found.items() if expected.get(name) != content)
    if wrong:
        raise ChaosError(f"under their final names are half or strange files: {wrong}")


def check(place: Field, expected: dict[str, str]) -> None:
    """Raise ChaosError unless the output is the calm run's and nothing else is left."""
    found = outputs(place)
    missing = sorted(expected.keys() - found.keys())
    strange = sorted(found.keys() - expected.keys())
    other = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    if missing or strange or other:
        raise ChaosError(f"missing {missing}, not asked for {strange}, different {other}")
    known = ("streamface-batch-", "streamface-workers-")
    scratch = [path.name for path in (place.base / "tmp").glob("streamface-*")]
    left = [*place.place.left(), *(name for name in scratch if not name.startswith(known))]
    if left:
        raise ChaosError(f"unfinished files were left behind: {left}")
    until_s = time.monotonic() + 30
    while alive := [n for n, (_, c) in processes().items() if "batch.worker" in c and _is_ours(n)]:
        if time.monotonic() > until_s:
            raise ChaosError(f"workers outlived their batch: {alive}")
        time.sleep(_POLL_S)


def _is_ours(pid: int) -> bool:
    """Whether a worker belongs to this program: others may run batches here, too."""
    with suppress(OSError):
        return (
            f"STREAMFACE_CHAOS={os.getpid()}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        )
    return False


def rows_of(place: Field) -> int:
    """Return how many files the journal says are done, each once."""
    return len({each["key"] for each in place.place.records() if each.get("status") == "done"})


def one_round(place: Field, dice: random.Random, expected: dict[str, str], score: Score) -> None:
    """Strike one batch and its successors, then let it end in peace and check."""
    for _ in range(dice.randint(1, 3)):
        (on_a_full_disk if dice.random() < 0.2 else under_fire)(place, dice, score)
        check_whole(place, expected)
    if dice.random() < 0.5:
        vandalise(place, dice, score)
    code = finish(place.begin(), time.monotonic() + _ROUND_S, score)
    if code != 0:
        raise ChaosError(f"in peace a batch ended with {code}")
    check(place, expected)
    # Every file is known as done, and doing it all again does nothing.
    before = place.place.stamps()
    if finish(place.begin(), time.monotonic() + _ROUND_S, score) != 0:
        raise ChaosError("a batch with nothing to do failed")
    if before != place.place.stamps():
        raise ChaosError("what was done was done again")
    videos = sum(name.endswith(".mp4") for name in before)
    if rows_of(place) != videos:
        raise ChaosError(f"the journal knows {rows_of(place)} of {videos} files")
    score.rounds += 1


def make_sources(folder: Path, count: int) -> None:
    """Write short clips, two of which can be cut, some with sound, some in a folder below."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    clips = importlib.import_module("clips")
    (folder / "below").mkdir(parents=True)
    for number in range(count):
        where = folder / "below" if number % 3 == 0 else folder
        clips.write_clip(
            where / f"clip{number:02}.mp4",
            [clips.noisy(100 * number + each) for each in range(12 if number > 1 else 75)],
            audio_codec="aac" if number % 2 else None,
            options={"g": "15", "x264-params": "scenecut=0"},
        )


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path | None]:
    """Mount a small tmpfs at a folder; give None where that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)],  # noqa: S607
        check=False, capture_output=True,
    )  # fmt: skip
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def full_disk_round(base: Path, place: Field, expected: dict[str, str], score: Score) -> bool:
    """Fill a real, small disk, make room, and go on; return whether one could be mounted."""
    with small_disk(base / "disk", _TOO_SMALL_BYTES) as disk:
        if disk is None:
            return False
        there = Field(Folder(Path("in"), disk / "out"), place.nodes, base)
        code = finish(there.begin(), time.monotonic() + _ROUND_S, score)
        score.hits["small disk"] += 1
        if code not in (1, 3):
            raise ChaosError(f"on a disk too small a batch ended with {code}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)  # noqa: S607
        if finish(there.begin(), time.monotonic() + _ROUND_S, score) != 0:
            raise ChaosError("with room again, the batch did not end well")
        check(there, expected)
    return True


def calm_outputs(place: Field) -> dict[str, str]:
    """Return what comes of a batch that nobody disturbs. Raises ChaosError."""
    if finish(place.begin(), time.monotonic() + _ROUND_S, Score()) != 0:
        raise ChaosError("the calm run failed")
    found = outputs(place)
    place.place.clear()
    return found


def run(arguments: argparse.Namespace, base: Path) -> dict[str, Any]:
    """Do all rounds; return the score. Raises ChaosError."""
    os.environ["STREAMFACE_CHAOS"] = str(os.getpid())
    scratch = base / "tmp"
    scratch.mkdir()
    os.environ["TMPDIR"] = str(scratch)
    make_sources(base / "in", arguments.files)
    score = Score()
    report: dict[str, Any] = {"seed": arguments.seed, "files": arguments.files}
    with ExitStack() as stack:
        url = None
        if arguments.store:
            url = stack.enter_context(store_server(base, arguments.seed))
            for name, content in Folder(base, base / "in").contents().items():
                Bucket(url, "in", scratch).put(name, content)
        nodes = None
        if arguments.executor != "pool":
            nodes = Nodes()
            stack.callback(nodes.close)

        def calm(place: Folder | Bucket) -> dict[bool, dict[str, str]]:
            return {split: calm_outputs(Field(place, None, base, split)) for split in (False, True)}

        here = calm(Folder(Path("in"), base / "calm"))
        there = calm(Bucket(url, "calm", scratch)) if url else {}
        report["outputs"] = len(here[True])
        place = Field(Folder(Path("in"), base / "calm2"), None, base)
        report["small_disk"] = full_disk_round(base, place, here[False], score)
        for number in range(arguments.first, arguments.first + arguments.rounds):
            dice = random.Random(f"{arguments.seed}/{number}")  # noqa: S311 - repeatable, not secret
            on_ray = arguments.executor == "ray" or (
                arguments.executor == "both" and dice.random() < 0.5
            )
            split, far = number % 2 == 1, url is not None and number % 3 == 2
            target = (
                Bucket(url, f"round{number}", scratch)
                if url is not None and far
                else Folder(Path("in"), base / f"round{number}")
            )
            place = Field(target, nodes if on_ray else None, base, split)
            kind = (
                f"{'ray' if on_ray else 'pool'}{', split' if split else ''}"
                f"{', bucket' if far else ''}"
            )
            score.kinds[kind] += 1
            began_s = time.monotonic()
            try:
                one_round(place, dice, (there if far else here)[split], score)
            except ChaosError as exc:
                raise ChaosError(f"round {number} ({kind}): {exc}") from exc
            took_s = time.monotonic() - began_s
            score.worst_s = max(score.worst_s, took_s)
            sys.stderr.write(f"round {number}: {kind}, {took_s:.1f} s\n")
            sys.stderr.flush()
            target.clear()
    return {
        **report,
        "rounds": score.rounds,
        "kinds": dict(score.kinds),
        "batches": score.batches,
        "hits": dict(score.hits),
        "exit_codes": dict(score.exit_codes),
        "slowest_round_s": round(score.worst_s, 1),
    }


def main() -> int:
    """Parse, wreak havoc, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--executor", choices=("pool", "ray", "both"), default="both")
    parser.add_argument("--store", action="store_true", help="use a bucket, too (needs moto, s3fs)")
    parser.add_argument("--serve-store", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--json", metavar="F", help="write JSON here; '-' is stdout")
    arguments = parser.parse_args()
    if arguments.serve_store:
        serve_store(arguments.serve_store, arguments.seed, Path(_OUTAGE).absolute())
    base = Path(tempfile.mkdtemp(prefix="streamface-chaos-"))
    try:
        report = run(arguments, base)
    except ChaosError as exc:
        sys.stderr.write(f"chaos: {exc}; look at {base}\n")
        return 1
    shutil.rmtree(base)
    text = json.dumps(report, indent=1) + "\n"
    if arguments.json and arguments.json != "-":
        Path(arguments.json).write_text(text, "utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
