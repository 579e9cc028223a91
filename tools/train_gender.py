r"""Train the gender net on FairFace (aligned zip, or folder with labels.csv) and export it.

python tools/train_gender.py --data fairface_aligned_144.zip --out runs/gender64 --side 64
python tools/train_gender.py --data fairface_aligned_144.zip --out runs/gender96 \
    --init runs/gender64 --epochs 11 --peak-rate 0.05
python tools/train_gender.py --data fairface_aligned_144.zip --out runs/gender \
    --init runs/gender96 --epochs 5 --peak-rate 0.05 --light --ship streamface/models
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from streamface.errors import StreamfaceError
from streamface.training import commandline, curves, gender
from streamface.training.augment import LIGHT
from streamface.training.data import load_gender
from streamface.training.export import export, note_commit, noted_commit
from streamface.training.loop import fit, load_ema
from streamface.training.nets import Mirrored, ResidualNet


def run(args: argparse.Namespace) -> None:
    """Train from the start or from a checkpoint, then export the averaged net."""
    config = commandline.config_of(args)
    if args.light:
        config = replace(config, augment=LIGHT, mixup_prob=0.0)
    data = load_gender(args.data)
    rows, held_out = gender.split_rows(data, config.seed)
    spec = gender.input_spec(args.side)
    validation = gender.validation_set(data, held_out, spec)
    torch.manual_seed(config.seed)
    net = ResidualNet(gender.NET)
    if not args.export_only:
        note_commit(args.out, resume=args.resume)
        if args.init is not None and not args.resume:
            net.load_state_dict(load_ema(args.init, ResidualNet(gender.NET))[0].state_dict())
        train = gender.train_set(data, rows, spec)
        fit(net, spec, train, validation, config, run_dir=args.out, resume=args.resume)
        curves.draw(args.out)
    averaged, epochs = load_ema(args.out, net)
    story = gender.story(config, epochs, pictures=len(rows), commit=noted_commit(args.out))
    for folder in (args.out, args.ship):
        if folder is not None:
            # Looked at once a second and track, so twice the cost for half a point is well spent.
            card = export(Mirrored(averaged), story, spec, validation, folder)
            print(f"{folder / card.onnx}: {card.trained['metrics']}")


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commandline.add_arguments(parser, epochs=30)
    parser.add_argument("--side", type=int, default=gender.SIDE_PX, help="crop, in pixels")
    parser.add_argument("--light", action="store_true", help="augment lightly, without mixup")
    parser.add_argument("--init", type=Path, help="run folder whose averaged net to start from")
    try:
        run(parser.parse_args())
    except StreamfaceError as error:
        print(f"train_gender: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
