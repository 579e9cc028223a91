"""Train the nets that streamface is measured against, from nothing, by one command each.

python tools/train_baselines.py emotion --data fer2013_ferplus_mosaic.npz --out runs/three-stage
python tools/train_baselines.py two-phase --data fer2013_ferplus_mosaic.npz --out runs/two-phase \
    --first runs/three-stage
python tools/train_baselines.py gender --data fairface_aligned_144.zip --out runs/vgg-gender

Score them with tools/evaluate.py and --model RUN/emotion.json (with --as-framed) or gender.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamface.errors import StreamfaceError, UsageError
from streamface.frame import EMOTIONS, GENDERS
from streamface.training import baselines, commandline, emotion, figures, gender
from streamface.training.checkpoint import load_ema
from streamface.training.data import load_emotion, load_gender
from streamface.training.export import Answer, note_commit
from streamface.training.loop import TrainSet, ValidationSet, fit

if TYPE_CHECKING:
    from torch import nn

    from streamface.card import InputSpec

_GENDER_SIDE_PX = 64


def train_emotion(args: argparse.Namespace) -> None:
    """Train the three-stage CNN, or go on from it with the rare classes."""
    data = load_emotion(args.data)
    spec = emotion.input_spec()
    rows = np.flatnonzero(data.split == "val")
    crops = torch.from_numpy((data.images[rows, None].astype(np.float32) - 128) / 64)
    validation = ValidationSet(crops, torch.from_numpy(data.labels[rows]))
    train = baselines.emotion_set(data)
    torch.manual_seed(args.seed)
    net = baselines.ThreeStage()
    rate = 1e-3
    if args.net == "two-phase":
        net.load_state_dict(load_ema(args.first, baselines.ThreeStage())[0].state_dict())
        train, rate = baselines.rare_first(train, args.seed), 2e-4
    answer = Answer(
        "emotion", EMOTIONS, validation, {"data": "FER-2013 Training, all of it", "net": args.net}
    )
    _train(net, train, answer, spec, args, peak_rate=rate)


def train_gender(args: argparse.Namespace) -> None:
    """Train the VGG-style net on FairFace."""
    data = load_gender(args.data)
    unknown = int((~np.isfinite(data.landmarks_px).all((1, 2))).sum())
    with commandline.counter("finding landmarks", unknown) as tick:
        data = gender.landmarks_of(data, args.out / "landmarks.npy", tick=tick)
    rows, held_out = gender.split_rows(data, args.seed)
    spec = gender.input_spec(_GENDER_SIDE_PX)
    torch.manual_seed(args.seed)
    answer = Answer(
        "gender",
        GENDERS,
        gender.validation_set(data, held_out, spec),
        {"data": "FairFace train", "net": args.net},
    )
    train = gender.train_set(data, rows, spec)
    _train(baselines.VggStyle(), train, answer, spec, args, peak_rate=5e-4)


def _train(
    net: nn.Module,
    train: TrainSet,
    answer: Answer,
    spec: InputSpec,
    args: argparse.Namespace,
    *,
    peak_rate: float,
) -> None:
    config = baselines.config(
        args.epochs,
        args.seed,
        peak_rate=peak_rate,
        threads=args.threads,
        device=commandline.device_name(args.device),
    )
    note_commit(args.out, resume=args.resume)
    fit(net, spec, train, answer.validation, config, run_dir=args.out, resume=args.resume)
    figures.draw_curves(args.out)
    averaged, _ = load_ema(args.out, net)
    commandline.publish(averaged, [answer], spec, args)


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    nets = parser.add_subparsers(dest="net", required=True)
    for name, epochs, train in (
        ("emotion", 10, train_emotion),
        ("two-phase", 4, train_emotion),
        ("gender", 6, train_gender),
    ):
        sub = nets.add_parser(name)
        sub.add_argument("--data", type=Path, required=True, help="the data set")
        sub.add_argument("--out", type=Path, required=True, help="run folder, made if missing")
        sub.add_argument("--epochs", type=int, default=epochs, help="default: %(default)s")
        sub.add_argument("--seed", type=int, default=1, help="default: %(default)s")
        sub.add_argument("--threads", type=int, default=1, help="default: %(default)s")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
        sub.add_argument("--resume", action="store_true", help="go on from the last whole epoch")
        if name == "two-phase":
            sub.add_argument("--first", type=Path, required=True, help="run folder of 'emotion'")
        sub.set_defaults(train=train, ship=None)
    try:
        args = parser.parse_args()
        if min(args.epochs, args.threads) < 1:
            raise UsageError("--epochs and --threads must be at least 1")
        args.train(args)
    except StreamfaceError as error:
        print(f"train_baselines: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
