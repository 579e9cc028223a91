"""Kill a batch at random, again and again, and hold what comes of it to a calm run's.

    python tools/chaos_batch.py --rounds 100 --seed 1 --executor both --json -

Each round makes an empty output and begins ``streamface batch`` on the same sources. While it runs,
a schedule drawn from the seed does its worst: ``kill -9`` of a worker, of a Ray node, of the
driver (also in the moment when an output appears), or a limit on the size of files, which is met as
a full disk is. Whatever stands under a final name afterwards must be whole; now and then one of
these is removed or cut short. The batch is begun again, under fire once more or in peace. In the
end every output has to be there and equal to the calm run's to the byte, nothing else may lie
about, and no worker may live. Once, a real disk (a small tmpfs, where one may be mounted) is filled
and given room again. The first round that fails ends the program with exit code 1 and leaves its
folder.

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
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[1]
_STATE: Final = ".streamface-batch"
_ROUND_S: Final = 180.0
_MOST_HITS: Final = 4
_POLL_S: Final = 0.02
_TOO_SMALL_BYTES: Final = 150_000
"""Room of the disk that is too small: enough for a journal and a few outputs, not for all."""


class ChaosError(Exception):
    """An output is missing, differs, or something was left behind."""


@dataclass(slots=True)
class Score:
    """What was done, over all rounds."""

    rounds: int = 0
    batches: int = 0
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

    def kill(self) -> None:
        """End the second node as a power cut would."""
        for started in self._second.all_processes.values():
            for each in started:
                for child in below(each.process.pid):
                    kill(child)
                kill(each.process.pid)
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


@dataclass(slots=True)
class Field:
    """What one round works on."""

    source: Path
    output: Path
    nodes: Nodes | None
    log: Path

    def command(self) -> list[str]:
        """Return the batch's command line."""
        where = ["--workers", "2"] if self.nodes is None else ["--cluster", self.nodes.address]
        return [
            sys.executable, "-m", "streamface", "batch", str(self.source), "demo",
            "--output", str(self.output), "--max-frames", "10", "--save-jsonl", "--save-csv",
            "--threads", "1", "--preset", "ultrafast", "--no-progress", "--timeout", "60", *where,
        ]  # fmt: skip

    def begin(self, *, most_bytes: int | None = None) -> subprocess.Popen[bytes]:
        """Begin a batch. most_bytes: of any file that it writes."""

        def limit() -> None:
            if most_bytes is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails instead
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                cwd=self.source.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"},
                preexec_fn=limit,  # noqa: PLW1509 - this program has no threads of its own
            )


# -- what is done to them


def strike(kind: str, batch: subprocess.Popen[bytes], place: Field, dice: random.Random) -> bool:
    """Do one thing to a running batch; return whether there was anything to do it to."""
    if kind == "publishing":
        return kill_at_publishing(batch, place)
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
    before = set(place.output.rglob("*.*"))
    until_s = time.monotonic() + 5
    while batch.poll() is None and time.monotonic() < until_s:
        new = set(place.output.rglob("*.*")) - before
        if any(_STATE not in path.parts for path in new):
            batch.kill()
            return True
    return False


def vandalise(place: Field, dice: random.Random, score: Score) -> None:
    """Remove an output or cut it short."""
    found = sorted(outputs(place.output))
    if not found:
        return
    victim = place.output / dice.choice(found)
    if dice.random() < 0.5:
        victim.unlink()
    else:
        os.truncate(victim, victim.stat().st_size // 2)
    score.hits["output harmed"] += 1


def under_fire(place: Field, dice: random.Random, score: Score) -> None:
    """Run one batch and strike it a few times at random moments, until it ends or all are spent."""
    kinds = ["worker", "worker", "driver", "publishing"] + (
        ["node"] if place.nodes is not None else []
    )
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


def outputs(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder, without what a batch keeps for itself."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and _STATE not in path.parts and not path.name.startswith("manifest.")
    }


def check_whole(place: Field, expected: dict[str, str]) -> None:
    """Raise ChaosError if anything under a final name is not the calm run's."""
    found = outputs(place.output)
    wrong = sorted(name for name, content in found.items() if expected.get(name) != content)
    if wrong:
        raise ChaosError(f"under their final names are half or strange files: {wrong}")


def check(place: Field, expected: dict[str, str]) -> None:
    """Raise ChaosError unless the output is the calm run's and nothing else is left."""
    found = outputs(place.output)
    missing = sorted(expected.keys() - found.keys())
    strange = sorted(found.keys() - expected.keys())
    other = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    if missing or strange or other:
        raise ChaosError(f"missing {missing}, not asked for {strange}, different {other}")
    unfinished = place.output / _STATE / "unfinished"
    left = [path.name for path in unfinished.iterdir()]
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
    journal = place.output / _STATE / "journal.jsonl"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    return len({each["key"] for each in records if each.get("status") == "done"})


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
    before = {path: path.stat().st_mtime_ns for path in place.output.rglob("*.mp4")}
    if finish(place.begin(), time.monotonic() + _ROUND_S, score) != 0:
        raise ChaosError("a batch with nothing to do failed")
    if before != {path: path.stat().st_mtime_ns for path in before}:
        raise ChaosError("what was done was done again")
    if rows_of(place) != len(before):
        raise ChaosError(f"the journal knows {rows_of(place)} of {len(before)} files")
    score.rounds += 1


def make_sources(folder: Path, count: int) -> None:
    """Write short clips, some with sound, some in a folder below."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    clips = importlib.import_module("clips")
    (folder / "below").mkdir(parents=True)
    for number in range(count):
        where = folder / "below" if number % 3 == 0 else folder
        clips.write_clip(
            where / f"clip{number:02}.mp4",
            [clips.noisy(100 * number + each) for each in range(12)],
            audio_codec="aac" if number % 2 else None,
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
        there = Field(place.source, disk / "out", place.nodes, place.log)
        code = finish(there.begin(), time.monotonic() + _ROUND_S, score)
        score.hits["small disk"] += 1
        if code not in (1, 3):
            raise ChaosError(f"on a disk too small a batch ended with {code}")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)  # noqa: S607
        if finish(there.begin(), time.monotonic() + _ROUND_S, score) != 0:
            raise ChaosError("with room again, the batch did not end well")
        check(there, expected)
    return True


def run(arguments: argparse.Namespace, base: Path) -> dict[str, Any]:
    """Do all rounds; return the score. Raises ChaosError."""
    os.environ["STREAMFACE_CHAOS"] = str(os.getpid())
    source = base / "in"
    make_sources(source, arguments.files)
    score = Score()
    report: dict[str, Any] = {"seed": arguments.seed, "files": arguments.files + 1}
    with ExitStack() as stack:
        nodes = None
        if arguments.executor != "pool":
            nodes = Nodes()
            stack.callback(nodes.close)
        calm = Field(source, base / "calm", None, base / "log")
        if finish(calm.begin(), time.monotonic() + _ROUND_S, Score()) != 0:
            raise ChaosError("the calm run failed")
        expected = outputs(calm.output)
        report["outputs"] = len(expected)
        pool = Field(source, base / "calm2", None, base / "log")
        report["small_disk"] = full_disk_round(base, pool, expected, score)
        for number in range(arguments.first, arguments.first + arguments.rounds):
            dice = random.Random(f"{arguments.seed}/{number}")  # noqa: S311 - repeatable, not secret
            on_ray = arguments.executor == "ray" or (
                arguments.executor == "both" and dice.random() < 0.5
            )
            place = Field(source, base / f"round{number}", nodes if on_ray else None, base / "log")
            began_s = time.monotonic()
            try:
                one_round(place, dice, expected, score)
            except ChaosError as exc:
                raise ChaosError(f"round {number} ({'ray' if on_ray else 'pool'}): {exc}") from exc
            took_s = time.monotonic() - began_s
            score.worst_s = max(score.worst_s, took_s)
            sys.stderr.write(f"round {number}: {'ray' if on_ray else 'pool'}, {took_s:.1f} s\n")
            shutil.rmtree(place.output)
    return {
        **report,
        "rounds": score.rounds,
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
    parser.add_argument("--json", metavar="F", help="write JSON here; '-' is stdout")
    arguments = parser.parse_args()
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
