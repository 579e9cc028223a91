r"""Train the net that tells how alike two faces look and how odd one, and export it with its card.

Whom faces look like is learned from dlib's recogniser, which is asked first (a tenth of a second a
face and core): pip install dlib-bin face_recognition_models.

python tools/train_likeness.py --data fairface_aligned_144.zip --out runs/first --threads 2
python tools/train_likeness.py --data fairface_aligned_144.zip --out runs/likeness --threads 2 \
    --init runs/first --ship streamface/models
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console

from streamface.errors import StreamfaceError, UsageError
from streamface.model import DEFAULT_MODELS, Model
from streamface.remake import Strangers
from streamface.resynth import INVENT_MODEL, REENACT_MODEL, Inventor, Reenactor
from streamface.training import commandline, gender, likeness
from streamface.training.checkpoint import load_ema
from streamface.training.data import load_gender
from streamface.training.export import note_commit, noted_commit
from streamface.training.likeness import LikenessConfig, LikenessSet, Student

if TYPE_CHECKING:
    from streamface.training.facespace import FaceSpace

_CHUNK = 250
_HELD_OUT = 400


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some of the pictures, for one process."""

    data: Path
    inventor: str
    rows: tuple[int, ...]
    to: Path


def asked(chunk: Chunk) -> Path:
    """Ask the teacher about a chunk, unless that was done; return where its answers are."""
    if not chunk.to.exists():
        data = load_gender(chunk.data).only(np.array(chunk.rows)).found(anew=True)
        inventor, emotion = Inventor.open(chunk.inventor), Model.open(DEFAULT_MODELS["emotion"])
        faces = likeness.collect(data, inventor, emotion, seed=chunk.rows[0])
        partial = chunk.to.with_suffix(".partial.npz")
        np.savez_compressed(partial, pictures=faces.pictures, whom=faces.whom)
        partial.replace(chunk.to)
    return chunk.to


def run(args: argparse.Namespace) -> None:
    """Ask the teacher, train from the start or from a checkpoint, export."""
    for name in ("epochs", "batch_size", "threads", "faces"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    likeness.Recogniser()  # whoever lacks it should hear of it now
    torch.manual_seed(args.seed)
    net = Student()
    if args.init is not None and not args.resume:
        load_ema(args.init, net)
    data = load_gender(args.data)
    rows, held_out = gender.split_rows(data, args.seed)
    rows = np.random.default_rng(args.seed).permutation(rows)[: args.faces]
    train = _asked(args, rows, "faces")
    held = _asked(args, held_out[-_HELD_OUT:], "held-out")
    config = LikenessConfig(
        epochs=args.epochs,
        seed=args.seed,
        batch_size=args.batch_size,
        threads=args.threads,
        peak_rate=args.peak_rate,
    )
    note_commit(args.out, resume=args.resume)
    net = likeness.fit(net, train, held, config, run_dir=args.out, resume=args.resume)
    measured = likeness.last_metrics(args.out)
    trained = {
        "data": f"FairFace train, {len(train.pictures)} pictures of 20,000 aligned on five points, "
        "and as many strangers drawn in their places. Chosen on the other 5 %.",
        "licence_of_data": "FairFace (Karkkainen and Joo): CC BY 4.0.",
        "teacher": "dlib_face_recognition_resnet_model_v1 (King 2017; CC0), by its answers alone.",
        "seed": args.seed,
        "epochs_of_the_last_run": f"{measured['epoch']} of {config.epochs}",
        "commit": noted_commit(args.out),
        "metrics": {"correlation_with_teacher": measured},
        "intended_use": "To choose strangers who look little like the people they stand in for, "
        "little like each other, and like people.",
        "limits": "It sees 64 x 64 pixels, and what it reads correlates with its teacher's answers "
        "as above: too little to recognise anybody by, and not made for it.",
    }
    space = _usual(train, args)
    for folder in (args.out, args.ship):
        if folder is not None:
            card = likeness.ship(net, space, folder, trained)
            Console(soft_wrap=True).print(f"{folder / card.onnx}: {dict(card.trained)}")


def _usual(train: LikenessSet, args: argparse.Namespace) -> FaceSpace:
    with ExitStack() as stack:
        inventor, reenactor = Inventor.open(args.inventor), Reenactor.open(args.reenactor)
        stack.callback(inventor.close)
        stack.callback(reenactor.close)
        return likeness.usual(train, reenactor, Strangers(inventor))


def _asked(args: argparse.Namespace, rows: np.ndarray, name: str) -> LikenessSet:
    args.out.mkdir(parents=True, exist_ok=True)
    chunks = [
        Chunk(
            args.data,
            args.inventor,
            tuple(rows[start : start + _CHUNK].tolist()),
            args.out / f"{name}-{start:05d}.npz",
        )
        for start in range(0, len(rows), _CHUNK)
    ]
    parts = []
    with ExitStack() as stack:
        tick = stack.enter_context(commandline.counter(f"asking about {name}", len(chunks)))
        many = args.threads > 1
        ask = stack.enter_context(ProcessPoolExecutor(args.threads)).map if many else map
        for path in ask(asked, chunks):
            with np.load(path) as part:
                parts.append(LikenessSet(part["pictures"], part["whom"]))
            tick()
    return likeness.joined(parts)


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="FairFace's aligned zip")
    parser.add_argument("--out", type=Path, required=True, help="run folder, made if missing")
    parser.add_argument("--ship", type=Path, help="also write ONNX and card here")
    parser.add_argument(
        "--inventor", default=INVENT_MODEL, help="who draws strangers: name or card (%(default)s)"
    )
    parser.add_argument(
        "--reenactor", default=REENACT_MODEL, help="who draws photographs again (%(default)s)"
    )
    parser.add_argument("--init", type=Path, metavar="RUN", help="another run to begin with")
    parser.add_argument("--faces", type=int, default=4000, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--peak-rate", type=float, default=0.05, help="default: %(default)s")
    parser.add_argument(
        "--threads", type=int, default=1, help="also processes that ask; default: %(default)s"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last whole epoch")
    try:
        run(parser.parse_args())
    except StreamfaceError as error:
        print(f"train_likeness: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
