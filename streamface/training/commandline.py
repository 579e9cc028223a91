"""What the training tools have in common: their options and their progress bar."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress

from streamface.errors import UsageError
from streamface.training.loop import TrainConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator


def add_arguments(parser: argparse.ArgumentParser, *, epochs: int) -> None:
    """Add the options of every training tool."""
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--out", type=Path, required=True, help="run folder, made if missing")
    parser.add_argument("--epochs", type=int, default=epochs, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument(
        "--peak-rate", type=float, default=0.08, help="learning rate at its peak; default: 0.08"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on from the last whole epoch")
    parser.add_argument(
        "--export-only", action="store_true", help="write ONNX and card of the last checkpoint"
    )
    parser.add_argument(
        "--ship", type=Path, help="also write ONNX and card here, such as streamface/models"
    )


def config_of(args: argparse.Namespace) -> TrainConfig:
    """Return the training configuration; raises UsageError for numbers below one."""
    for name in ("epochs", "batch_size", "threads"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    if not 0 < args.peak_rate <= 1:
        raise UsageError(f"--peak-rate must lie in 0..1, got {args.peak_rate:g}")
    return TrainConfig(
        epochs=args.epochs,
        seed=args.seed,
        batch_size=args.batch_size,
        peak_rate=args.peak_rate,
        threads=args.threads,
    )


@contextlib.contextmanager
def counter(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar and yield the function that moves it on by one."""
    with Progress(transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
