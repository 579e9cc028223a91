"""``streamface batch``: arguments to a batch, what became of it to JSON and an exit code."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streamface.errors import SinkError, SourceError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from streamface.batch.driver import Batch
    from streamface.batch.executor import Executor
    from streamface.batch.job import BatchOptions
    from streamface.batch.manifest import Manifest
    from streamface.settings import Settings

DESCRIPTION: Final = (
    "Do with every file of folders or patterns what `run` does with one, on all cores or on a Ray "
    "cluster. Run it again after whatever happened: only what is missing is done. Press Ctrl-C "
    "once to finish what is under way, twice to cancel."
)
DONE, FAILED, PARTIAL, INTERRUPTED = 0, 1, 3, 130
_DATA_KINDS: Final = ("jsonl", "csv", "parquet", "vtt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a batch to those of a run, in whose place some stand.

    The parser must be one that resolves conflicts.
    """
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SRC",
        help="file, folder (and all below it), 'glob**', s3:// gs:// az:// or https:// URL, demo",
    )
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--output", "-o", required=True, metavar="DIR",
        help="folder or s3:// gs:// az:// URL for what is made of a/b.mov: DIR/a/b.mp4, "
        "DIR/a/b.jsonl …",
    )  # fmt: skip
    for kind in _DATA_KINDS:
        also = " (default where no other data is asked for)" if kind == "jsonl" else ""
        group.add_argument(
            f"--save-{kind}", action="store_true", help=f"write {kind.upper()} for each file{also}"
        )
    group.add_argument("--no-video", action="store_true", help="write data only")
    group.add_argument(
        "--container", default="mp4", metavar="EXT", help="mp4 (default), mkv, webm …"
    )
    group = parser.add_argument_group("how to work")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="default: one a core, of this machine or the cluster",
    )
    group.add_argument(
        "--threads", type=int, metavar="N", help="cores of one worker (default: its share of them)"
    )
    group.add_argument(
        "--gpus", type=float, default=0.0, metavar="F",
        help="GPUs of one worker on a cluster, such as 0.25 for four a GPU",
    )  # fmt: skip
    group.add_argument(
        "--cluster", metavar="ADDRESS", help="a Ray cluster's address, or auto for the one at hand"
    )
    group.add_argument(
        "--split", type=_split, default="never", metavar="auto|never|S",
        help="cut long files at key frames, do the segments on all workers and join them: into "
        "segments of S seconds, or where workers would be idle (default %(default)s)",
    )  # fmt: skip
    group.add_argument("--retries", type=int, default=2, metavar="N", help="(default %(default)s)")
    group.add_argument("--timeout", type=float, metavar="S", help="most seconds for one file")
    group.add_argument("--memory", type=int, metavar="MB", help="most memory of one worker, in MiB")
    group.add_argument(
        "--only-failed", action="store_true", help="do only files that failed in earlier batches"
    )
    group.add_argument("--json", metavar="F", help="write what came of it as JSON; '-': stdout")


def _split(text: str) -> float | str:
    from argparse import ArgumentTypeError

    try:
        return text if text in {"auto", "never"} else float(text)
    except ValueError:
        raise ArgumentTypeError(f"auto, never or seconds are meant, not '{text}'") from None


def main(arguments: argparse.Namespace, how: Settings, watch: Callable[[Any], None]) -> int:
    """Run a batch; return the exit code.

    how: what is done with each file. watch: is given what ``stop`` and ``interrupt`` end.
    """
    options = options_of(arguments, how)
    report = run(
        options,
        retry=_retry_command(),
        watch=watch,
        quiet=arguments.quiet,
        live=not arguments.no_progress,
    )
    if arguments.json == "-":
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    elif arguments.json:
        try:
            Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        except OSError as exc:
            raise SinkError(f"cannot write {arguments.json}: {exc.strerror or exc}") from exc
    return exit_code(report)


def options_of(arguments: argparse.Namespace, how: Settings) -> BatchOptions:
    """Return what the arguments ask for. Raises UsageError."""
    from streamface.batch.job import BatchOptions

    live = {
        "--show, --serve and --virtual-camera": how.is_watched,
        "--segment": how.segment_s is not None,
        "--simulate-live": how.simulate_live,
    }
    for what, given in live.items():
        if given:
            raise UsageError(f"{what}: for `streamface run`; a batch writes whole files")

    data = tuple(kind for kind in _DATA_KINDS if getattr(arguments, f"save_{kind}"))
    return BatchOptions(
        sources=tuple(arguments.sources),
        output=arguments.output,
        how=how,
        video=not arguments.no_video,
        suffix="." + arguments.container.lower().lstrip("."),
        data=data or ("jsonl",),
        workers=arguments.workers,
        threads=arguments.threads,
        gpus=arguments.gpus,
        retries=arguments.retries,
        timeout_s=arguments.timeout,
        memory_mb=arguments.memory,
        split=arguments.split,
        cluster=arguments.cluster,
        only_failed=arguments.only_failed,
        overwrite=arguments.overwrite,
    )


def exit_code(report: Mapping[str, Any]) -> int:
    """Return 0 if all is done, 3 if a part is, 1 if nothing is."""
    if report["interrupted"]:
        return INTERRUPTED
    if not report["failed"] and not report["stopped"]:
        return DONE
    return PARTIAL if report["done"] or report["skipped"] else FAILED


def run(
    options: BatchOptions,
    *,
    retry: str = "",
    watch: Callable[[Any], None] = lambda _: None,
    quiet: bool = True,
    live: bool = False,
) -> dict[str, Any]:
    """Run a batch and return what came of it, as JSON has it. Raises StreamfaceError."""
    from streamface.batch import console
    from streamface.batch.driver import Batch
    from streamface.console import print_lines

    _check(options)
    with ExitStack() as stack:
        manifest = stack.enter_context(_manifest(options))
        executor = stack.enter_context(_executor(options))
        batch = Batch(options, executor, manifest, on_result=console.tell)
        watch(batch)
        if quiet:
            shown: Any = nullcontext()
        else:
            census = stack.enter_context(console.Census(options))
            shown = console.watching(batch, census, live=live)
        with shown:
            tally = batch.execute()
        if not tally.files and not batch.stopping:
            raise SourceError(_nothing(options))
        manifest.compact()
        table = manifest.export(options.output)
        if not quiet:
            print_lines(console.summary(batch, table, retry))
        return _report(batch, executor, table)


def _check(options: BatchOptions) -> None:
    """Refuse what cannot come to anything, before any worker starts. Raises StreamfaceError."""
    import importlib.util

    from streamface.batch.listing import check_places

    if "parquet" in options.data and importlib.util.find_spec("pyarrow") is None:
        raise UsageError("writing Parquet needs pyarrow; run pip install 'streamface[parquet]'")
    check_places(options)


@contextmanager
def _manifest(options: BatchOptions) -> Iterator[Manifest]:
    """Open the memory of a batch, once nobody else is at work on its output."""
    from streamface.batch.home import journal_at
    from streamface.batch.job import expected_models, relevant_options, work_id
    from streamface.batch.manifest import Manifest
    from streamface.records import version

    work = work_id(options, expected_models(options.how), version())
    with (
        journal_at(options.output, is_far=options.cluster is not None) as journal,
        closing(journal),
        Manifest(journal, work) as manifest,
    ):
        manifest.describe(relevant_options(options), version())
        yield manifest


@contextmanager
def _executor(options: BatchOptions) -> Iterator[Executor]:
    """Start the workers."""
    from streamface.batch.home import outlive_workers
    from streamface.batch.job import Limits
    from streamface.batch.work import Work

    body = Work(options, str(Path.cwd()))
    limits = Limits(timeout_s=options.timeout_s, memory_mb=options.memory_mb)
    try:
        if options.cluster is not None:
            from streamface.batch.ray_executor import Placement, RayExecutor

            placement = Placement(
                workers=options.workers, threads=options.threads or 1, gpus=options.gpus
            )
            with RayExecutor(body, limits, options.cluster, placement) as far:
                yield far
        else:
            from streamface.batch.executor import PoolExecutor

            workers, threads = shares(options.workers, options.threads, usable_cores())
            with PoolExecutor(body, workers, limits, threads=threads) as near:
                yield near
    finally:
        outlive_workers(options.output)  # those of other machines take a moment to hear of it


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shares(workers: int | None, threads: int | None, cores: int) -> tuple[int, int]:
    """Return how many workers there are and how many cores each has, of a machine's ``cores``."""
    if workers is None:
        workers = max(1, cores // (threads or 1))
    return workers, threads or max(1, cores // workers)


def _nothing(options: BatchOptions) -> str:
    what = "that failed before " if options.only_failed else ""
    return f"no video or image {what}in {', '.join(options.sources)}"


def _retry_command() -> str:
    """Return what tries again just those that failed: all options must be the same."""
    given = sys.argv[1:]
    if given[:1] != ["batch"]:  # called from Python
        return "the same command with --only-failed"
    return shlex.join(["streamface", *(each for each in given if each != "--only-failed"),
                       "--only-failed"])  # fmt: skip


def _report(batch: Batch, executor: Executor, table: str) -> dict[str, Any]:
    from streamface.sources import redacted

    tally = batch.tally
    return {
        "files": tally.files,
        "done": tally.done,
        "skipped": tally.skipped,
        "failed": tally.failed,
        "frames": tally.frames,
        "seconds": round(tally.seconds, 3),
        "times_real_time": round(tally.times_real_time, 3),
        "media_seconds": round(tally.media_s, 3),
        "retried": tally.retried,
        "split": tally.split,
        "workers": executor.capacity,
        "stopped": tally.stopped,
        "interrupted": batch.stopping and tally.stopped is None,
        "manifest": redacted(table),
        "failures": [
            {"source": redacted(each.task.source), "kind": each.kind, "error": each.line}
            for each in tally.failures
        ],
    }
