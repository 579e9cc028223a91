"""Train the emotion net on FER-2013 (npz with FER+ votes, or csv) and export it with its card.

python tools/train_emotion.py --data fer2013_ferplus_mosaic.npz --out runs/emotion
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np
import torch

from streamface.errors import StreamfaceError
from streamface.training import commandline, curves, emotion
from streamface.training.augment import LIGHT
from streamface.training.data import load_emotion
from streamface.training.export import export, note_commit, noted_commit
from streamface.training.loop import fit, load_ema
from streamface.training.nets import ResidualNet


def run(args: argparse.Namespace) -> None:
    """Train from the start or from a checkpoint, then export the averaged net."""
    config = replace(
        commandline.config_of(args),
        augment=LIGHT,
        align_prob=emotion.ALIGN_PROB,
        mixup_prob=0.0,
    )
    data = load_emotion(args.data)
    with commandline.counter("finding landmarks", int(np.sum(data.split != "test"))) as tick:
        landmarks = emotion.landmarks_of(data, args.out / "landmarks.npy", tick=tick)
    spec = emotion.input_spec(data, landmarks)
    validation = emotion.validation_set(data, landmarks, spec)
    torch.manual_seed(config.seed)
    net = ResidualNet(emotion.NET)
    if not args.export_only:
        note_commit(args.out, resume=args.resume)
        train = emotion.train_set(data, landmarks, spec)
        fit(net, spec, train, validation, config, run_dir=args.out, resume=args.resume)
        curves.draw(args.out)
    averaged, epochs = load_ema(args.out, net)
    emotion.correct_class_shares(averaged, validation)
    story = emotion.story(
        config, epochs, pictures=len(data.training_rows()), commit=noted_commit(args.out)
    )
    for folder in (args.out, args.ship):
        if folder is not None:
            card = export(averaged, story, spec, validation, folder)
            print(f"{folder / card.onnx}: {card.trained['metrics']}")


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commandline.add_arguments(parser, epochs=24)
    try:
        run(parser.parse_args())
    except StreamfaceError as error:
        print(f"train_emotion: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
