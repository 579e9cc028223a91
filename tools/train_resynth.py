"""Train what edits and what invents faces on the codes of a finished tools/train_vqvae.py run.

python tools/train_resynth.py editor --data fairface_aligned_144.zip --vqvae runs/vqvae \
    --out runs/editor
python tools/train_resynth.py inventor --data fairface_aligned_144.zip --vqvae runs/vqvae \
    --out runs/inventor
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from streamface.errors import StreamfaceError, UsageError
from streamface.training import commandline, gender, resynthesis, vqvae
from streamface.training.checkpoint import load_ema
from streamface.training.data import FAIRFACE_SIDE_PX, load_gender
from streamface.training.export import note_commit
from streamface.training.resynthesis import EditTrainer, InventTrainer, ResynthConfig

if TYPE_CHECKING:
    from torch import Tensor

    from streamface.training.data import GenderData
    from streamface.training.vq import VqVae

_HELD_OUT = 256
_SIDE_PX = 64


def run(args: argparse.Namespace) -> None:
    """Train from the start or from a checkpoint."""
    for name in ("epochs", "batch_size", "threads"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    if args.jitter and args.net == "inventor":
        raise UsageError("--jitter is for the editor: an inventor is told where landmarks lie")
    net = vqvae.load(args.vqvae)
    if net.config.side_px != _SIDE_PX:
        raise UsageError(
            f"--vqvae {args.vqvae} is of {net.config.side_px} px pictures; these nets are laid out "
            f"for {_SIDE_PX} px and 16 x 16 codes"
        )
    data = load_gender(args.data)
    rows, held_out = gender.split_rows(data, args.seed)
    torch.set_num_threads(args.threads)
    pictures = vqvae.pictures(data, rows, net.config.side_px)
    if args.jitter:
        pictures = resynthesis.jittered(pictures, args.seed)
    posed = args.net == "inventor"
    train = _face_set(net, data.only(rows), pictures, posed=posed, amp=args.amp)
    few_data = data.only(held_out[:_HELD_OUT])
    few_pictures = vqvae.pictures(few_data, np.arange(len(few_data.files)), net.config.side_px)
    few = _face_set(net, few_data, few_pictures, posed=posed, amp=args.amp)
    config = ResynthConfig(
        epochs=args.epochs,
        seed=args.seed,
        batch_size=args.batch_size,
        threads=args.threads,
        amp=args.amp,
        peak_rate=args.peak_rate,
        critic_rate=args.critic_rate,
    )
    note_commit(args.out, resume=args.resume)
    torch.manual_seed(args.seed)
    trainer = (EditTrainer if args.net == "editor" else InventTrainer)(net, config)
    trainer.prepare(train)
    if args.init is not None and not args.resume:
        if args.init.suffix == ".onnx":  # what teaches a net does not ship with it
            trainer.net.load_state_dict(vqvae.onnx_weights(args.init, f"{trainer.name}."))
        else:
            load_ema(args.init, trainer)
        trainer.requires_grad_(requires_grad=True)
    resynthesis.fit(trainer, train, few, net, config, run_dir=args.out, resume=args.resume)


def _face_set(
    net: VqVae, data: GenderData, pictures: Tensor, *, posed: bool, amp: bool
) -> resynthesis.FaceSet:
    """posed: look for landmarks, which an editor does not need."""
    with commandline.counter("finding landmarks", len(data.files)) as tick:
        found = data.found(anew=posed, tick=tick).landmarks_px
    landmarks = found * np.float32(net.config.side_px / FAIRFACE_SIDE_PX)
    labels = torch.from_numpy(data.labels)
    with commandline.counter("encoding", -(-len(labels) // 64)) as tick:
        return resynthesis.face_set(net, pictures, labels, landmarks, amp=amp, tick=tick)


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("net", choices=("editor", "inventor"))
    parser.add_argument("--data", type=Path, required=True, help="FairFace's aligned zip")
    parser.add_argument(
        "--vqvae", type=Path, required=True, help="run of the code net, or vqvae.onnx"
    )
    parser.add_argument("--out", type=Path, required=True, help="run folder, made if missing")
    parser.add_argument(
        "--init", type=Path, metavar="RUN", help="another run, or the shipped .onnx"
    )
    parser.add_argument("--epochs", type=int, default=6, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--peak-rate", type=float, default=4e-4, help="learning rate: 4e-4")
    parser.add_argument(
        "--critic-rate", type=float, default=1.2e-3, help="learning rate of the critic: 1.2e-3"
    )
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--jitter",
        action="store_true",
        help="of the editor: turn, shift and scale faces a little, as video has them",
    )
    parser.add_argument("--amp", action="store_true", help="bfloat16, where the CPU has it")
    parser.add_argument("--resume", action="store_true", help="go on from the last whole epoch")
    try:
        run(parser.parse_args())
    except StreamfaceError as error:
        print(f"train_resynth: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
