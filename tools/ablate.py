"""Find out what helps the emotion net: short runs that differ in one thing each, in a table.

python tools/ablate.py --data fer2013_ferplus_mosaic.npz --out runs/ablation --epochs 8

Every variant starts from the same seed with a smaller net, and is scored on PublicTest with its
faces aligned; offsets are fitted there too, for each alike. PrivateTest is not read. Finished
variants are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from streamface.errors import StreamfaceError, UsageError
from streamface.evaluation.calibration import fit_offsets
from streamface.frame import EMOTIONS
from streamface.training import commandline, emotion
from streamface.training.augment import LIGHT
from streamface.training.checkpoint import load_ema
from streamface.training.data import EmotionData, load_emotion
from streamface.training.loop import TrainConfig, TrainSet, fit, logits_of
from streamface.training.nets import NetConfig, ResidualNet

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_SMALL: Final = NetConfig(
    channels=1, classes=7, stem=32, stem_stride=2, widths=(64, 128), depths=(3, 3), dropout=0.1
)
_FEAR, _SURPRISE = EMOTIONS.index("fear"), EMOTIONS.index("surprise")


@dataclass(frozen=True, slots=True)
class Variant:
    """One thing done differently from the recipe."""

    shares: tuple[float, ...] = (emotion.VOTE_SHARE, 1.0)
    """Share of FER+ votes in the targets of each head."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of TrainConfig."""
    rows: Callable[[EmotionData], NDArray[np.int64]] = EmotionData.training_rows


def _with_copies(data: EmotionData) -> NDArray[np.int64]:
    return np.flatnonzero(data.split == "train")


VARIANTS: Final = {
    "recipe": Variant(),
    "SGD with momentum, not Muon": Variant(config={"optimizer": "sgd", "peak_rate": 0.1}),
    "Adam, not Muon": Variant(config={"optimizer": "adam", "peak_rate": 2e-3}),
    "one head: labels alone": Variant(shares=(0.0,)),
    "one head: half labels, half votes": Variant(shares=(0.5,)),
    "one head: votes alone": Variant(shares=(1.0,)),
    "not aligned in training": Variant(config={"align_prob": 0.0}),
    "light augmentation": Variant(config={"augment": LIGHT}),
    "mixup on half the batches": Variant(config={"mixup_prob": 0.5}),
    "crops grow, 32 to 48 px": Variant(config={"sides_px": (32, 40, 48)}),
    "all of Training, copies and bad pictures too": Variant(rows=_with_copies),
}


def run(variant: Variant, data: EmotionData, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train one variant and return its figures on PublicTest."""
    landmarks = emotion.landmarks_of(data, args.out / "landmarks.npy")
    spec = emotion.input_spec()
    heads = (len(EMOTIONS),) * len(variant.shares)
    config = TrainConfig(
        epochs=args.epochs,
        seed=args.seed,
        augment=emotion.AUGMENT,
        align_prob=emotion.ALIGN_PROB,
        heads=heads,
        device=commandline.device_name(args.device),
        compiled=args.compile,
    )
    rows = variant.rows(data)
    train = emotion.train_set(data, landmarks, spec, rows)
    targets = np.concatenate([data.targets(share)[rows] for share in variant.shares], 1)
    train = TrainSet(train.images, torch.from_numpy(targets), train.crop_to_image, train.aligned)
    validation = emotion.validation_set(data, landmarks, spec)
    torch.manual_seed(args.seed)
    net = ResidualNet(replace(_SMALL, classes=sum(heads)))
    config = replace(config, **variant.config)
    fit(net, spec, train, validation, config, run_dir=out, resume=True)
    averaged, _ = load_ema(out, net)
    logits = logits_of(averaged, validation.crops).numpy()
    first, last = logits[:, : heads[0]], logits[:, -heads[-1] :]
    labels = validation.labels.numpy()
    said = (first + fit_offsets(first, labels)).argmax(1)
    majority = data.ferplus_labels()[data.split == "val"]
    recall = {name: float((said[labels == k] == k).mean()) for k, name in enumerate(EMOTIONS)}
    return {
        "accuracy": float((said == labels).mean()),
        "mean_recall": float(np.mean(list(recall.values()))),
        "fear": recall["fear"],
        "disgust": recall["disgust"],
        "fear_as_surprise": float((said[labels == _FEAR] == _SURPRISE).mean()),
        "ferplus": float((last.argmax(1) == majority)[majority >= 0].mean()),
    }


def show(results: dict[str, dict[str, Any]], console: Console) -> None:
    """Print what is known so far, in percent."""
    columns = list(next(iter(results.values())))
    table = Table("variant", *columns)
    for name, figures in results.items():
        table.add_row(name, *(f"{100 * figures[column]:.1f}" for column in columns))
    console.print(table)


def main() -> int:
    """Run what is asked for and not yet done; print what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="FER-2013 npz with FER+ votes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--epochs", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--only", action="append", choices=tuple(VARIANTS), help="may be repeated")
    args = parser.parse_args()
    try:
        data = load_emotion(args.data)
        if not emotion.has_votes(data):
            raise UsageError(f"{args.data} has no FER+ votes, which most variants are about")
        results: dict[str, dict[str, Any]] = {}
        for number, (name, variant) in enumerate(VARIANTS.items()):
            out = args.out / f"{number:02d}"
            done = out / "figures.json"
            if not done.exists() and (args.only is None or name in args.only):
                figures = run(variant, data, out, args)
                done.write_text(json.dumps({"variant": name, **figures}, indent=1), "utf-8")
            if done.exists():
                results[name] = json.loads(done.read_text("utf-8"))
                del results[name]["variant"]
        show(results, Console())
    except StreamfaceError as error:
        print(f"ablate: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
