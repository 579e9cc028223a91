"""Convert a model to int8 (for CPUs) or fp16 (for GPUs), cards and all.

python tools/quantize.py streamface/models/emotion.json streamface/models/emotion-ferplus.json \
    --data fer2013_ferplus_mosaic.npz --precision int8 --out streamface/models

All cards of one ONNX file go together. --data is the set that the model was trained on: int8 takes
the range of every layer's numbers from some of its training pictures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamface.card import load
from streamface.errors import StreamfaceError, UsageError
from streamface.evaluation.classifiers import training_faces
from streamface.parity import conditions_of
from streamface.preprocess import crop_into
from streamface.training.quantize import PRECISIONS, convert

if TYPE_CHECKING:
    from streamface.card import InputSpec
    from streamface.frame import BatchF32

_CALIBRATION_FACES = 512


def crops_of(data: Path, spec: InputSpec, count: int) -> BatchF32:
    """Return (count, C, H, W) crops of training faces, evenly spread over the set."""
    out = np.empty((count, *spec.shape), np.float32)
    filled = 0
    for planes, landmarks in training_faces(data, spec, count):
        crop_into(planes, landmarks, spec, out[filled])
        filled += 1
    return out[:filled]


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cards", type=Path, nargs="+", help="all cards of one ONNX file")
    parser.add_argument("--data", type=Path, required=True, help="what the model was trained on")
    parser.add_argument("--precision", choices=PRECISIONS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder, made if missing")
    parser.add_argument("--faces", type=int, default=_CALIBRATION_FACES, help="default: 512")
    args = parser.parse_args()
    try:
        if args.faces < 1:
            raise UsageError("--faces must be at least 1")
        first = load(args.cards[0])
        crops = crops_of(args.data, first.input, args.faces)
        conditions = conditions_of(first, len(crops))
        for card in convert(args.cards, args.precision, crops, args.out, conditions):
            size_mb = (args.out / card.onnx).stat().st_size / 1e6
            print(f"{args.out / card.name}.json: {card.onnx}, {size_mb:.1f} MB")
    except StreamfaceError as error:
        print(f"quantize: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
