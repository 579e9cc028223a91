"""What the training tools have in common: their options and their progress bar."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import Progress

from streamface.backends import open_backend
from streamface.errors import UsageError
from streamface.model import Model
from streamface.training.augment import LIGHT
from streamface.training.checkpoint import NetT, load_ema
from streamface.training.export import export
from streamface.training.figures import draw_confusion, draw_reliability
from streamface.training.loop import TrainConfig, open_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

    from streamface.card import InputSpec
    from streamface.training.export import Answer


def add_arguments(parser: argparse.ArgumentParser, *, epochs: int) -> None:
    """Add the options of every training tool."""
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--out", type=Path, required=True, help="run folder, made if missing")
    parser.add_argument("--epochs", type=int, default=epochs, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=256, help="default: %(default)s")
    parser.add_argument(
        "--optimizer", choices=("muon", "sgd", "adam"), default="muon", help="default: %(default)s"
    )
    parser.add_argument(
        "--peak-rate", type=float, default=0.05, help="learning rate at its peak; default: 0.05"
    )
    parser.add_argument(
        "--init", type=Path, metavar="RUN", help="start from the averaged net of another run"
    )
    parser.add_argument(
        "--light", action="store_true", help="augment lightly, for the last epochs of a net"
    )
    parser.add_argument(
        "--sides", type=_sides, metavar="PX,…", help="crops of equal parts of the epochs"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--amp", action="store_true", help="mixed precision; for GPUs, most CPUs only lose by it"
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile: faster, needs a C++ compiler"
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
        optimizer=args.optimizer,
        peak_rate=args.peak_rate,
        threads=args.threads,
        device=device_name(args.device),
        amp=args.amp,
        compiled=args.compile,
    )


def adjusted(config: TrainConfig, args: argparse.Namespace) -> TrainConfig:
    """Return a recipe's configuration with what --light and --sides change."""
    if args.light:
        config = replace(config, augment=LIGHT)
    return replace(config, sides_px=args.sides) if args.sides else config


def start_from(args: argparse.Namespace, net: NetT) -> NetT:
    """Return the net, with the averaged weights of --init where that was given."""
    if args.init is not None and not args.resume:
        load_ema(args.init, net)
        net.requires_grad_(requires_grad=True)
    return net


def _sides(text: str) -> tuple[int, ...]:
    sides = tuple(int(word) if word.isdecimal() else 0 for word in text.split(","))
    if min(sides) < 16 or any(side % 8 for side in sides):
        raise argparse.ArgumentTypeError(f"sides are multiples of 8 from 16 on, not '{text}'")
    return sides


def device_name(asked: str) -> str:
    """Return the device to train on: "auto" is a GPU where torch sees one, else the CPU."""
    if asked != "auto":
        return str(open_device(asked))
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def counter(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar and yield the function that moves it on by one."""
    with Progress(transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def publish(
    net: nn.Module, answers: Sequence[Answer], spec: InputSpec, args: argparse.Namespace
) -> None:
    """Export to --out, with pictures of confusions and reliability, and to --ship if given."""
    console = Console(soft_wrap=True)
    for card in export(net, answers, spec, args.out):
        answer = next(answer for answer in answers if answer.name == card.name)
        labels = answer.validation.labels.numpy()
        backend = open_backend(args.out / f"{card.name}.json")
        crops = answer.validation.crops.numpy()
        raw = Model(replace(card, temperature=1.0), backend).predict(crops)
        calm = Model(card, backend).predict(crops)
        backend.close()
        console.print(f"{args.out / card.onnx}, {card.name}: {card.trained['metrics']}")
        draw_confusion(labels, calm.argmax(1), card.labels, args.out / f"{card.name}-confusion.png")
        draw_reliability(
            {"as trained": raw, "after temperature": calm},
            labels,
            args.out / f"{card.name}-reliability.png",
        )
    if args.ship is not None:
        export(net, answers, spec, args.ship)
