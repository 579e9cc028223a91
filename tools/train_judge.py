"""Train the independent emotion net that tools/evaluate.py resynth judges re-made faces by.

python tools/train_judge.py --data fer2013_ferplus_mosaic.npz --out runs/judge --ship engines
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np
import torch

from streamface.errors import StreamfaceError
from streamface.training import commandline, emotion, figures, judge
from streamface.training.checkpoint import load_ema
from streamface.training.data import load_emotion
from streamface.training.export import note_commit, noted_commit
from streamface.training.loop import fit


def run(args: argparse.Namespace) -> None:
    """Train from the start or from a checkpoint, then export the averaged net."""
    data = load_emotion(args.data)
    config = replace(
        commandline.config_of(args), augment=emotion.AUGMENT, align_prob=emotion.ALIGN_PROB
    )
    config = commandline.adjusted(config, args)
    with commandline.counter("finding landmarks", int(np.sum(data.split != "test"))) as tick:
        landmarks = emotion.landmarks_of(data, args.out / "landmarks.npy", tick=tick)
    spec = emotion.input_spec()
    validation = emotion.validation_set(data, landmarks, spec)
    torch.manual_seed(config.seed)
    net = judge.Judge()
    if not args.export_only:
        note_commit(args.out, resume=args.resume)
        net = commandline.start_from(args, net)
        train = judge.train_set(data, landmarks, spec)
        fit(net, spec, train, validation, config, run_dir=args.out, resume=args.resume)
        figures.draw_curves(args.out)
    averaged, epochs = load_ema(args.out, net)
    judge.correct_class_shares(averaged, validation)
    answer = judge.answer(validation, config, epochs, commit=noted_commit(args.out))
    commandline.publish(averaged, [answer], spec, args)


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commandline.add_arguments(parser, epochs=14)
    parser.set_defaults(seed=judge.SEED)
    try:
        run(parser.parse_args())
    except StreamfaceError as error:
        print(f"train_judge: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
