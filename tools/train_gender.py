"""Train the gender net on FairFace (aligned zip, or folder with labels.csv) and export it.

python tools/train_gender.py --data fairface_aligned_144.zip --out runs/gender
"""

from __future__ import annotations

import argparse
import sys

import torch

from streamface.errors import StreamfaceError
from streamface.training import commandline, curves, gender
from streamface.training.data import load_gender
from streamface.training.export import export, note_commit, noted_commit
from streamface.training.loop import fit, load_ema
from streamface.training.nets import ResidualNet


def run(args: argparse.Namespace) -> None:
    """Train from the start or from a checkpoint, then export the averaged net."""
    config = commandline.config_of(args)
    data = load_gender(args.data)
    rows, held_out = gender.split_rows(data, config.seed)
    spec = gender.input_spec()
    validation = gender.validation_set(data, held_out, spec)
    torch.manual_seed(config.seed)
    net = ResidualNet(gender.NET)
    if not args.export_only:
        note_commit(args.out, resume=args.resume)
        train = gender.train_set(data, rows)
        fit(net, spec, train, validation, config, run_dir=args.out, resume=args.resume)
        curves.draw(args.out)
    averaged, epochs = load_ema(args.out, net)
    story = gender.story(config, epochs, pictures=len(rows), commit=noted_commit(args.out))
    for folder in (args.out, args.ship):
        if folder is not None:
            card = export(averaged, story, spec, validation, folder)
            print(f"{folder / card.onnx}: {card.trained['metrics']}")


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commandline.add_arguments(parser, epochs=30)
    try:
        run(parser.parse_args())
    except StreamfaceError as error:
        print(f"train_gender: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
