r"""Train the gender net on FairFace (aligned zip, its own layout, or folders) and export it.

python tools/train_gender.py --data fairface_aligned_144.zip --out runs/gender-first
python tools/train_gender.py --data fairface_aligned_144.zip --out runs/gender \
    --init runs/gender-first --epochs 12 --peak-rate 0.03 --light --sides 96
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np
import torch

from streamface.errors import StreamfaceError
from streamface.training import commandline, figures, gender
from streamface.training.checkpoint import load_ema
from streamface.training.data import load_gender
from streamface.training.export import note_commit, noted_commit
from streamface.training.loop import fit
from streamface.training.nets import ResidualNet


def run(args: argparse.Namespace) -> None:
    """Train from the start or from a checkpoint, then export the averaged net."""
    config = replace(commandline.config_of(args), sides_px=gender.SIDES_PX)
    config = commandline.adjusted(config, args)
    data = load_gender(args.data)
    unknown = int((~np.isfinite(data.landmarks_px).all((1, 2))).sum())
    with commandline.counter("finding landmarks", unknown) as tick:
        data = gender.landmarks_of(data, args.out / "landmarks.npy", tick=tick)
    rows, held_out = gender.split_rows(data, config.seed)
    spec = gender.input_spec()
    validation = gender.validation_set(data, held_out, spec)
    torch.manual_seed(config.seed)
    net = ResidualNet(gender.NET)
    if not args.export_only:
        note_commit(args.out, resume=args.resume)
        net = commandline.start_from(args, net)
        train = gender.train_set(data, rows, spec)
        fit(net, spec, train, validation, config, run_dir=args.out, resume=args.resume)
        figures.draw_curves(args.out)
    averaged, epochs = load_ema(args.out, net)
    answer = gender.answer(
        validation, config, epochs, pictures=len(rows), commit=noted_commit(args.out)
    )
    commandline.publish(averaged, [answer], spec, args)


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
