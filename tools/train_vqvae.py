"""Train the vector-quantised face autoencoder on FairFace, with previews as PNG.

python tools/train_vqvae.py --data fairface_aligned_144.zip --out runs/vqvae
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from streamface.errors import StreamfaceError, UsageError
from streamface.training import gender, vqvae
from streamface.training.data import FAIRFACE_LANDMARKS_PX, load_gender
from streamface.training.export import note_commit
from streamface.training.vq import VqConfig


def run(args: argparse.Namespace) -> None:
    """Train from the start or from a checkpoint."""
    for name in ("epochs", "batch_size", "threads", "codes"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    if args.side < 16 or args.side % 4:
        raise UsageError(f"--side must be a multiple of 4 from 16 on, got {args.side}")
    data = load_gender(args.data)
    rows, held_out = gender.split_rows(data, args.seed)
    if not np.array_equal(data.landmarks_px[0], FAIRFACE_LANDMARKS_PX):
        raise UsageError(f"--data {args.data} must hold FairFace's pictures aligned to 144 px")
    config = vqvae.VqTrainConfig(
        epochs=args.epochs,
        seed=args.seed,
        batch_size=args.batch_size,
        threads=args.threads,
        amp=args.amp,
        net=VqConfig(side_px=args.side, codes=args.codes),
    )
    note_commit(args.out, resume=args.resume)
    vqvae.fit(
        vqvae.pictures(data, rows, args.side),
        vqvae.pictures(data, held_out, args.side),
        config,
        run_dir=args.out,
        resume=args.resume,
    )


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="FairFace's aligned zip")
    parser.add_argument("--out", type=Path, required=True, help="run folder, made if missing")
    parser.add_argument("--side", type=int, default=64, help="of the pictures; default: 64")
    parser.add_argument("--codes", type=int, default=1024, help="in the codebook; default: 1024")
    parser.add_argument("--epochs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--amp", action="store_true", help="bfloat16, where the CPU has it")
    parser.add_argument("--resume", action="store_true", help="go on from the last whole epoch")
    try:
        run(parser.parse_args())
    except StreamfaceError as error:
        print(f"train_vqvae: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
