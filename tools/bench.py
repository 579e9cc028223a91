"""Measure what streamface costs. Gates nothing; prints a table, or JSON with ``--json -``.

    python tools/bench.py cost --source CLIP        CPU and memory of `run` against a bare transcode
    python tools/bench.py stages --source CLIP      where the time goes, stage by stage
    python tools/bench.py kernels                   each Numba kernel against the OpenCV road
    python tools/bench.py live --source CLIP        age of frames, drops and growth of live streams
    python tools/bench.py page --source CLIP        what viewers of the page cost a live run
    python tools/bench.py batch --source DIR        `streamface batch`: speed-up, and its own cost

``cost`` starts whole processes, `streamface run` and a bare PyAV transcode (same decoder threads,
same encoder settings, audio copied) in turn, and takes the operating system's own accounting
(user + system CPU seconds of the finished process, its peak memory). ``cpu_ratio`` is the median
of the ratios of neighbouring runs, start-up included. ``cpu_ratio_steady`` leaves out what both
cost for a single frame, as in a long video.

``live`` plays CLIP, over and over, as if N cameras gave it at the same time, in a process of its
own. The age of a frame reaches from its capture until it is handed out, or written with
``--write``; times to the first frame count from the start of the process. ``start`` is a moment
after that, when all is loaded, so what differs at the ``end`` has grown.

``page`` plays CLIP to `--serve` and opens that many pages' sockets, each of which takes every
picture that it can. ``cpu_share`` is of one core and of the whole process, so the cost of viewers
is what it grows by; ``age_ms`` is from a frame's capture until it is sent. CLIP must last for all.

``batch`` times whole batches with each number of workers, each worker held to one core, from the
beginning of the command's work to the last file. ``overhead_ms_per_file``, ``driver_rss_mb`` and
``first_start_s`` come from batches over empty files whose workers do nothing: the wall time a file,
the peak memory of the driver's process, and the time until the first file is done, the start of its
worker included. ``--cluster`` does all of it on a Ray cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamface.app import Run
    from streamface.frame import Planes, PointsF32

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spent:
    """What one finished process cost."""

    cpu_s: float
    wall_s: float
    peak_rss_mb: float


def spend(command: Sequence[str]) -> Spent:
    """Run a command to its end and return what it cost. Raises RuntimeError if it failed."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {said.strip()}")
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return Spent(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss / scale)


def bare_transcode(source: str, target: str, preset: str, max_frames: int | None) -> int:
    """Decode and encode with PyAV and nothing else; return the frame count.

    Decoder threads and encoder options are those that streamface sets. Frames go from decoder to
    encoder untouched (only a pixel format that is not 4:2:0 is converted), audio is copied.
    """
    import av

    from streamface.decode import set_threads
    from streamface.encode import VideoOptions, encoder_options

    frames = 0
    decoded: Any
    options = encoder_options("libx264", VideoOptions(preset=preset))
    with (
        av.open(source) as reader,
        av.open(target, "w", options={"movflags": "+faststart"}) as writer,
    ):
        video = reader.streams.video[0]
        set_threads(video)
        encoder = writer.add_stream("libx264", rate=video.guessed_rate, options=options)
        encoder.width, encoder.height, encoder.pix_fmt = video.width, video.height, "yuv420p"
        encoder.codec_context.time_base = Fraction(video.time_base or 1 / Fraction(25))
        copies = {s.index: writer.add_stream_from_template(s) for s in reader.streams.audio}
        for packet in reader.demux([video, *reader.streams.audio]):
            if packet.stream_index in copies:
                if packet.dts is not None:
                    packet.stream = copies[packet.stream_index]
                    writer.mux(packet)
                continue
            for decoded in packet.decode():
                if frames == max_frames:
                    break
                frame = decoded
                if frame.format.name not in ("yuv420p", "yuvj420p"):
                    frame = frame.reformat(format="yuv420p")
                frame.pict_type = 0  # the encoder decides, not the source
                writer.mux(encoder.encode(frame))
                frames += 1
            if frames == max_frames:
                break
        writer.mux(encoder.encode(None))
    return frames


def cost(arguments: argparse.Namespace) -> Report:
    """Return the cost of ``run`` over that of a bare transcode of the same clip."""
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "out.mp4")
        bare = [sys.executable, __file__, "bare", "--source", arguments.source,
                "--target", target, "--preset", arguments.preset]  # fmt: skip
        ours = [sys.executable, "-m", "streamface", "run", "--source", arguments.source,
                "--output", target, "--preset", arguments.preset, "--overwrite", "--quiet",
                *arguments.extra]  # fmt: skip
        one = ["--max-frames", "1"]
        frames = int(
            subprocess.run(bare, check=True, capture_output=True, text=True).stdout.strip()
        )
        spend(ours)  # compiles the kernels where they are not cached yet
        pairs = [(spend(ours), spend(bare)) for _ in range(arguments.runs)]
        starts = [(spend([*ours, *one]), spend([*bare, *one])) for _ in range(arguments.runs)]
    ours_s, bare_s = (statistics.median(p[i].cpu_s for p in pairs) for i in (0, 1))
    start_ours_s, start_bare_s = (statistics.median(p[i].cpu_s for p in starts) for i in (0, 1))
    steady = max(1, frames - 1)
    return {
        "clip": Path(arguments.source).name,
        "frames": frames,
        "runs": arguments.runs,
        "preset": arguments.preset,
        "cpu_ratio": statistics.median(a.cpu_s / b.cpu_s for a, b in pairs),
        "cpu_ratio_steady": (ours_s - start_ours_s) / (bare_s - start_bare_s),
        "cpu_ms_per_frame": 1e3 * ours_s / frames,
        "bare_ms_per_frame": 1e3 * bare_s / frames,
        "steady_ms_per_frame": 1e3 * (ours_s - start_ours_s) / steady,
        "bare_steady_ms_per_frame": 1e3 * (bare_s - start_bare_s) / steady,
        "startup_cpu_s": start_ours_s,
        "bare_startup_cpu_s": start_bare_s,
        "fps": frames / statistics.median(a.wall_s for a, _ in pairs),
        "bare_fps": frames / statistics.median(b.wall_s for _, b in pairs),
        "peak_rss_mb": max(a.peak_rss_mb for a, _ in pairs),
        "bare_peak_rss_mb": max(b.peak_rss_mb for _, b in pairs),
    }


def stages(arguments: argparse.Namespace) -> Report:
    """Return busy and CPU time per frame of every stage thread, and latency percentiles."""
    from streamface.app import Run
    from streamface.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.mp4"
        settings = Settings(
            source=arguments.source,
            output=target,
            preset=arguments.preset,
        )
        for _ in range(2):  # the first round loads kernels and nets
            began_s = time.process_time()
            with Run(settings) as run:
                run.execute()
            cpu_s = time.process_time() - began_s
            target.unlink()
    frames = run.tally.frames
    report: Report = {
        "clip": Path(arguments.source).name,
        "frames": frames,
        "fps": run.tally.fps,
        "cpu_ms_per_frame": 1e3 * cpu_s / frames,
    }
    for stage in run.stats.stages:
        report[f"{stage.name}_busy_ms"] = 1e3 * stage.busy_s / frames
        report[f"{stage.name}_cpu_ms"] = 1e3 * stage.cpu_s / frames
    for percent in (50, 95, 99):
        report[f"latency_p{percent}_ms"] = 1e3 * run.stats.latency.percentile_s(percent)
    return report


def live(arguments: argparse.Namespace) -> Report:
    """Return how old the frames of simulated cameras get, what they lose and what the run holds."""
    command = [sys.executable, __file__, "live-once", *sys.argv[2:]]
    began_s = time.monotonic()  # one clock for all processes
    done = subprocess.run(
        [*command, "--began", str(began_s), "--json", "-"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=arguments.seconds + 300,
    )
    report: Report = json.loads(done.stdout)
    return report


def live_once(arguments: argparse.Namespace) -> Report:
    """Do what ``live`` reports, in this process."""
    from streamface.app import Run
    from streamface.live import Looped, SimulatedLive, Trouble
    from streamface.settings import Settings
    from streamface.sources import open_source

    trouble = Trouble.parse(arguments.inject)

    def opener(*what: Any, **options: Any) -> SimulatedLive:
        return SimulatedLive(Looped(lambda: open_source(*what, **options)), trouble)

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            source=(arguments.source,) * arguments.streams,
            simulate_live=True,
            adapt=not arguments.no_adapt,
            output=Path(folder) / "out" if arguments.write else None,
            preset="ultrafast",
        )
        with Run(settings, opener=opener) as run:
            held = _watched(run, arguments.seconds)
            ended_s = time.monotonic()
    streams = [
        {
            "name": stream.name,
            "age_ms": {
                f"p{p}": round(1e3 * stream.latency.percentile_s(p), 2) for p in (50, 95, 99)
            },
            "fps": round(stream.frames / max(1e-9, ended_s - stream.first_s), 2),
            "frames": stream.frames,
            "drops": run.stats.drops_of(number),
            "time_to_first_frame_s": round(stream.first_s - arguments.began, 3),
        }
        for number, stream in sorted(run.tally.streams.items())
        if stream.first_s is not None
    ]
    return {
        "clip": Path(arguments.source).name,
        "seconds": arguments.seconds,
        "streams": streams,
        "lowered": run.tally.lowered,
        "process": held,
    }


def _watched(run: Run, seconds: float) -> Report:
    """Execute ``run`` for so long; return CPU time, and what it held at first and in the end."""
    began_s: float | None = None
    start: Report | None = None
    for _ in run.frames():
        now_s = time.monotonic()
        began_s = now_s if began_s is None else began_s
        if start is None and now_s - began_s >= min(5.0, seconds / 2):
            start, cpu_s = held(), time.process_time()
        if now_s - began_s >= seconds and not run.stopping:
            end, used_s = held(), time.process_time()
            run.stop()
    if start is None or not run.stopping:
        raise RuntimeError("the streams ended before the time was over")
    report: Report = {"cpu_s": round(used_s, 2), "cpu_s_since_start": round(used_s - cpu_s, 2)}
    return report | {name: {"start": start[name], "end": end[name]} for name in start}


def held() -> Report:
    """Return what this process holds now; descriptors and memory where Linux tells them."""
    proc = Path("/proc/self")
    threads = len(list((proc / "task").iterdir())) if proc.exists() else threading.active_count()
    report: Report = {"threads": threads}
    if proc.exists():
        pages = int((proc / "statm").read_text().split()[1])
        report["rss_mb"] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)
        report["descriptors"] = len(list((proc / "fd").iterdir()))
    return report


def page(arguments: argparse.Namespace) -> Report:
    """Return what viewers of the page cost the run, and how old their pictures are when sent."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "streamface", "run", "--source", arguments.source, "--simulate-live",
        "--serve", f"127.0.0.1:{port}", "--quiet", *arguments.extra,
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    run = subprocess.Popen(command)
    try:
        _wait_for_page(run, url)
        time.sleep(3)  # kernels are compiled and caches are warm
        found = {
            str(count): asyncio.run(_watch(run.pid, url, count, arguments.seconds))
            for count in arguments.viewers
        }
        if run.poll() is not None:
            raise RuntimeError("the clip ended before all was measured; take a longer one")
    finally:
        run.terminate()
        run.wait()
    return {"clip": Path(arguments.source).name, "seconds": arguments.seconds, "viewers": found}


def _wait_for_page(run: subprocess.Popen[bytes], url: str) -> None:
    until_s = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=2):  # noqa: S310 - ours
                return
        except OSError:
            if time.monotonic() > until_s or run.poll() is not None:
                raise
            time.sleep(0.1)


async def _watch(pid: int, url: str, viewers: int, seconds: float) -> Report:
    """Have that many pages open for so long, which draw at once; return what came of it."""
    import aiohttp

    ages_ms: list[float] = []

    async def view(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"{url}/live", max_msg_size=0) as page:
            for _ in range(2):  # as the page does
                await page.send_str('{"drew": 0}')
            async for message in page:
                if message.type is aiohttp.WSMsgType.BINARY:
                    length = int.from_bytes(message.data[:4], "big")
                    head = json.loads(message.data[4 : 4 + length])
                    ages_ms.append(head["age_ms"])
                    await page.send_str(json.dumps({"drew": head["number"]}))

    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.create_task(view(session)) for _ in range(viewers)]
        await asyncio.sleep(1)
        ages_ms.clear()
        began_s, cpu_s = time.perf_counter(), cpu_seconds(pid)
        await asyncio.sleep(seconds)
        took_s = time.perf_counter() - began_s
        report: Report = {"cpu_share": round((cpu_seconds(pid) - cpu_s) / took_s, 4)}
        if viewers:
            ages = sorted(ages_ms)
            report["pictures_per_s"] = round(len(ages) / viewers / took_s, 1)
            report["age_ms"] = {f"p{p}": ages[len(ages) * p // 100] for p in (50, 95, 99)}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return report


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, from /proc: Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def batch(arguments: argparse.Namespace) -> Report:
    """Return what several workers gain, and what a file costs that needs no work."""
    where = ["--cluster", arguments.cluster] if arguments.cluster else []
    report: Report = {"source": Path(arguments.source).name, "seconds": {}}
    # Whoever comes first compiles the kernels, if nobody did before.
    warm_up = [sys.executable, "-m", "streamface", "run", "--source", "demo", "--max-frames", "10"]
    subprocess.run([*warm_up, "--quiet"], check=True)
    for workers in arguments.workers:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable, "-m", "streamface", "batch", arguments.source, "--output", folder,
                "--workers", str(workers), "--threads", "1", "--preset", arguments.preset,
                "--quiet", "--json", "-", *where, *arguments.extra,
            ]  # fmt: skip
            done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        report["files"] = done["files"]
        report["seconds"][str(workers)] = done["seconds"]
        report[f"times_real_time_{workers}"] = done["times_real_time"]
    fewest, most = (report["seconds"][str(pick(arguments.workers))] for pick in (min, max))
    report["speedup"] = fewest / most
    if hasattr(os, "sched_getaffinity"):
        limit = machine_speedup(Path(arguments.source), max(arguments.workers), arguments.preset)
        report["machine_speedup"] = limit
    for files in arguments.files:
        command = [
            sys.executable, __file__, "batch-of-nothing", "--files", str(files),
            "--workers", str(max(arguments.workers)), *where,
        ]  # fmt: skip
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        # The last count, the largest by default, stands under the plain name.
        report |= found | {f"{name}_{files}": value for name, value in found.items()}
    return report


def machine_speedup(source: Path, processes: int, preset: str) -> float | None:
    """Return what that many bare transcodes at once gain over one after another.

    Each is held to one core. Where cores share caches, memory or a power budget this is less than
    their number, whatever the software does. None: there is no video, or there are too few cores.
    """
    from streamface.sources import VIDEO_SUFFIXES

    found = source.rglob("*") if source.is_dir() else [source]
    clips = [each for each in found if each.suffix.lower() in VIDEO_SUFFIXES]
    cores = sorted(os.sched_getaffinity(0))[:processes]
    if not clips or len(cores) < processes:
        return None
    clip = max(clips, key=lambda each: each.stat().st_size)
    with tempfile.TemporaryDirectory() as folder:

        def begin(core: int) -> subprocess.Popen[bytes]:
            command = [
                sys.executable, __file__, "bare", "--source", str(clip), "--preset", preset,
                "--target", str(Path(folder) / f"{core}.mp4"), "--core", str(core),
            ]  # fmt: skip
            return subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def seconds(some: Sequence[int]) -> float:
            began_s = time.perf_counter()
            codes = [process.wait() for process in [begin(core) for core in some]]
            if any(codes):
                raise RuntimeError("a bare transcode failed")
            return time.perf_counter() - began_s

        seconds(cores)  # so that the clip and the libraries are in memory
        return sum(seconds([core]) for core in cores) / seconds(cores)


def batch_of_nothing(files: int, workers: int, cluster: str | None) -> Report:
    """Run a batch over empty files in this process; return what it cost."""
    import resource

    from streamface.batch.driver import Batch
    from streamface.batch.executor import Executor, PoolExecutor
    from streamface.batch.job import BatchOptions, Limits
    from streamface.batch.journal import FileJournal
    from streamface.batch.manifest import Manifest
    from streamface.batch.ray_executor import Placement, RayExecutor
    from streamface.settings import Settings
    from streamface.testing import no_work

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        source = Path(folder, "in")
        source.mkdir()
        for number in range(files):
            (source / f"{number:06}.mp4").touch()
        options = BatchOptions(
            sources=(str(source),), output=str(Path(folder, "out")), how=Settings(source="demo")
        )
        manifest = stack.enter_context(
            Manifest(FileJournal(Path(folder, "journal.jsonl")), "nothing")
        )
        began_s = time.perf_counter()
        executor: Executor
        if cluster is None:
            executor = stack.enter_context(PoolExecutor(no_work, workers, threads=1))
        else:
            placement = Placement(workers=workers)
            executor = stack.enter_context(RayExecutor(no_work, Limits(), cluster, placement))
        first_s: list[float] = []

        def on_result(*_: object) -> None:
            if not first_s:
                first_s.append(time.perf_counter() - began_s)

        tally = Batch(options, executor, manifest, on_result=on_result).execute()
        spent_s = time.perf_counter() - began_s - first_s[0]
        assert tally.done == files, f"{tally.done} of {files} files"
        scale = 2**20 if sys.platform == "darwin" else 2**10
        return {
            "overhead_ms_per_file": 1e3 * spent_s / max(1, files - 1),
            "driver_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale,
            "first_start_s": first_s[0],
        }


def best_us(work: Callable[[], object], seconds: float = 0.5) -> float:
    """Return the fastest of many calls in microseconds: the least disturbed one."""
    work()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return 1e6 * best


def kernels(_: argparse.Namespace) -> Report:
    """Return microseconds of each kernel and of the OpenCV calls that would replace it."""
    import cv2

    from streamface import demo
    from streamface.align import similarity
    from streamface.frame import Planes
    from streamface.kernels.shrink import Shrinker
    from streamface.model import Model
    from streamface.preprocess import crop_into

    cv2.setNumThreads(1)
    portrait = np.asarray(cv2.resize(demo.portrait(), (1280, 720)), np.uint8)
    planes = Planes.from_rgb(portrait)
    packed = planes.packed()
    assert packed is not None
    report: Report = {"picture": "1280x720, a face of 200 px"}
    eyes_and_mouth = np.array(
        [[560, 260], [650, 260], [605, 310], [570, 360], [640, 360]], np.float32
    )
    for name in ("emotion", "gender"):
        spec = Model.open(name).card.input
        out = np.empty(spec.shape, np.float32)
        report[f"crop_{name}_us"] = best_us(lambda: crop_into(planes, eyes_and_mouth, spec, out))  # noqa: B023
        matrix = similarity(eyes_and_mouth, spec.landmarks_px)
        report[f"crop_{name}_opencv_us"] = best_us(
            lambda: _opencv_crop(packed, planes.y, matrix, spec, out)  # noqa: B023
        )
    shrinker = Shrinker()
    for width in (320, 640):
        size = (width, width * 9 // 16)
        report[f"shrink_{width}_us"] = best_us(lambda: shrinker(planes, size))  # noqa: B023
        report[f"shrink_{width}_opencv_us"] = best_us(
            lambda: _opencv_shrink(packed, size)  # noqa: B023
        )
    return report | _pasting(planes, eyes_and_mouth)


def _pasting(planes: Planes, landmarks_px: PointsF32) -> Report:
    """Return microseconds of pasting a face back whose crop is twice as wide in the frame."""
    from streamface.align import invert, similarity
    from streamface.card import InputSpec
    from streamface.kernels.paste import blend_field
    from streamface.paste import Patch, face_mask, paste
    from streamface.preprocess import crop_into

    side = 128
    to_crop = np.array([[0.5, 0, 64 - 0.5 * 605], [0, 0.5, 70 - 0.5 * 310]])
    template = (landmarks_px @ to_crop[:, :2].T + to_crop[:, 2]).astype(np.float32)
    spec = InputSpec((side, side), "rgb", template, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    made = np.empty(spec.shape, np.float32)
    crop_into(planes, landmarks_px, spec, made)
    patch = Patch(made, made - 5, face_mask(spec), grain=2.0)
    gain, offset, grain = np.random.default_rng(0).random((3, 256, 256), np.float32)
    noise = np.random.default_rng(1).standard_normal(1 << 16, np.float32)
    to_field = 2 * similarity(landmarks_px, template)
    x0, y0 = (int(value) for value in invert(to_field)[:, 2].round())
    area = (x0 + 3, y0 + 3, x0 + 253, y0 + 253)
    fields = (gain, offset, grain)
    return {
        "paste_luma_us": best_us(lambda: blend_field(planes.y, to_field, area, *fields, noise, 0)),
        "paste_luma_opencv_us": best_us(
            lambda: _opencv_paste(planes.y, to_field, area, fields, noise)
        ),
        "paste_face_us": best_us(lambda: paste(planes, landmarks_px, spec, patch)),
    }


def _opencv_paste(plane: Any, to_field: Any, area: Any, fields: Any, noise: Any) -> None:
    """Do what ``blend_field`` does with OpenCV calls: warp each field, then multiply and add."""
    import cv2

    x0, y0, x1, y1 = area
    size = (x1 - x0, y1 - y0)
    matrix = to_field.copy()
    matrix[:, 2] += to_field[:, :2] @ (x0 + 0.5, y0 + 0.5) - 0.5
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    # Outside the field nothing is to change.
    gain, offset, grain = (
        cv2.warpAffine(field, matrix, size, flags=how, borderValue=outside)
        for field, outside in zip(fields, (1, 0, 0), strict=True)
    )
    part = plane[y0:y1, x0:x1]
    new = cv2.add(cv2.multiply(part, gain, dtype=cv2.CV_32F), offset)
    drawn = noise[: grain.size].reshape(grain.shape)
    cv2.add(new, cv2.multiply(grain, drawn), part, dtype=cv2.CV_8U)


def _opencv_shrink(packed: Any, size_px: tuple[int, int]) -> None:
    """Do what ``Shrinker`` does with OpenCV calls: convert the whole frame, then shrink it."""
    import cv2

    bgr = cv2.cvtColor(packed, cv2.COLOR_YUV2BGR_I420)
    cv2.resize(bgr, size_px, interpolation=cv2.INTER_AREA)


def _opencv_crop(packed: Any, y: Any, matrix: Any, spec: Any, out: Any) -> None:
    """Do what ``crop_into`` does with OpenCV calls: convert, warp, average, normalise, transpose.

    warpAffine does not average, so it warps to a multiple of the size, which is then averaged:
    the same samples as the kernel takes for a face of this size.
    """
    import cv2

    width, height = spec.size_px
    fine = max(1, round(1 / float(np.hypot(matrix[0, 0], matrix[1, 0]))))
    picture = y if spec.colour == "grey" else cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_I420)
    warped = cv2.warpAffine(picture, matrix * fine, (width * fine, height * fine))
    crop = cv2.resize(warped, spec.size_px, interpolation=cv2.INTER_AREA)
    values = (crop.reshape(height, width, -1).astype(np.float32) - spec.mean) / spec.std
    out[:] = values.transpose(2, 0, 1)


def machine() -> Report:
    """Return what the figures were measured on."""
    import av
    import cv2

    from streamface.backends.onnx_runtime import ort

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "av": av.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": ort.__version__,
    }


def whole_numbers(text: str) -> list[int]:
    """Parse ``1,2,4``."""
    return [int(part) for part in text.split(",")]


def show(report: Report) -> None:
    """Print a report as a table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table("figure", "value", box=None)
    for name, value in report.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console().print(table)


def _add_live(commands: Any) -> None:
    for name, lasting in (("live", live), ("live-once", live_once)):
        sub = commands.add_parser(name, help=lasting.__doc__)
        sub.set_defaults(work=lasting)
        sub.add_argument("--json", metavar="F", help="write JSON here; '-' is stdout")
        sub.add_argument("--source", required=True, metavar="CLIP")
        sub.add_argument("--streams", type=int, default=1, metavar="N")
        sub.add_argument("--seconds", type=float, default=30.0, metavar="S")
        sub.add_argument("--inject", default="", metavar="TROUBLE", help="as for `streamface run`")
        sub.add_argument("--no-adapt", action="store_true")
        sub.add_argument("--write", action="store_true", help="paint, and write a file a stream")
        sub.add_argument("--began", type=float, default=0.0, help=argparse.SUPPRESS)


def _add_others(commands: Any) -> None:
    works = (
        ("cost", cost), ("stages", stages), ("kernels", kernels), ("batch", batch), ("page", page)
    )  # fmt: skip
    for name, work in works:
        sub = commands.add_parser(name, help=work.__doc__)
        sub.set_defaults(work=work)
        sub.add_argument("--json", metavar="F", help="write JSON here; '-' is stdout")
        if name == "kernels":
            continue
        sub.add_argument("--source", required=True, metavar="CLIP")
        sub.add_argument("--preset", default="ultrafast")
        if name == "batch":
            sub.add_argument("--workers", type=whole_numbers, default=[1, 2], metavar="N,N")
            sub.add_argument("--files", type=whole_numbers, default=[1000, 10_000], metavar="N,N")
            sub.add_argument("--cluster", metavar="ADDRESS")
        elif name == "page":
            sub.add_argument("--viewers", type=whole_numbers, default=[0, 1, 10], metavar="N,N")
            sub.add_argument("--seconds", type=float, default=15.0, metavar="S")
        else:
            sub.add_argument("--runs", type=int, default=3)
        sub.add_argument("extra", nargs="*", help="after --: further options of `streamface run`")


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_live(commands)
    _add_others(commands)
    bare = commands.add_parser("bare", help="the bare transcode that `cost` compares with")
    bare.add_argument("--source", required=True)
    bare.add_argument("--target", required=True)
    bare.add_argument("--preset", default="ultrafast")
    bare.add_argument("--max-frames", type=int)
    bare.add_argument("--core", type=int, help="keep to this core")
    nothing = commands.add_parser("batch-of-nothing", help="what `batch` takes its own cost from")
    nothing.add_argument("--files", type=int, required=True)
    nothing.add_argument("--workers", type=int, required=True)
    nothing.add_argument("--cluster")
    arguments = parser.parse_args()
    if arguments.command == "batch-of-nothing":
        cost_of = batch_of_nothing(arguments.files, arguments.workers, arguments.cluster)
        sys.stdout.write(json.dumps(cost_of) + "\n")
        return 0
    if arguments.command == "bare":
        if arguments.core is not None:
            os.sched_setaffinity(0, {arguments.core})
        frames = bare_transcode(
            arguments.source, arguments.target, arguments.preset, arguments.max_frames
        )
        sys.stdout.write(f"{frames}\n")
        return 0
    report = arguments.work(arguments)
    if arguments.command != "live-once":
        report |= {"machine": machine()}
    if arguments.json == "-":
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    elif arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    else:
        show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
