"""Write what run and generate use, vqvae and vqvae-prior, from finished training runs.

python tools/export_resynth.py --data fairface_aligned_144.zip --vqvae runs/vqvae \
    --editor runs/editor --inventor runs/inventor --ship streamface/models
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from rich.console import Console

from streamface.align import pose
from streamface.errors import StreamfaceError, UsageError
from streamface.training import commandline, export_resynth, gender, resynthesis, vqvae
from streamface.training.codenets import THUMB_PX
from streamface.training.data import load_gender
from streamface.training.export import noted_commit
from streamface.training.export_resynth import InventorGraph, ReenactorGraph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from streamface.training.codenets import Editor
    from streamface.training.data import GenderData

_LICENCE = "FairFace (Karkkainen and Joo): CC BY 4.0. Emotions are the shipped emotion net's."
_LIMITS = (
    "64 x 64 pixels of codes: skin, teeth and glasses are simplified; profiles, hands before the "
    "face and heavy shadow come out worse. Learned from photographs of FairFace and from the "
    "errors of the shipped classifiers."
)


def run(args: argparse.Namespace) -> None:
    """Export the models whose runs are given."""
    if not (args.editor or args.inventor):
        raise UsageError("nothing to export: give --editor, --inventor or both")
    net = vqvae.load(args.vqvae)
    data = load_gender(args.data)
    rows, _ = gender.split_rows(data, args.seed)
    console = Console(soft_wrap=True)

    def ship(
        graph: ReenactorGraph | InventorGraph, name: str, trained: Mapping[str, object]
    ) -> None:
        side_px = net.config.side_px
        card = export_resynth.export(graph, name, args.ship, side_px=side_px, trained=trained)
        console.print(f"{args.ship / card.onnx}: {dict(card.trained)}")

    if args.editor:
        editor, edits = _editor(args.editor)
        trained = {
            **_trained(args.editor[-1], len(rows), edits),
            "intended_use": "To give the faces of a video another expression, for research, "
            "education and art, where viewers are told. run marks such pictures.",
        }
        ship(ReenactorGraph(net, editor), "vqvae", trained)
    if args.inventor:
        inventor, inventions = resynthesis.load_inventor(args.inventor)
        scenes, light = _surroundings(data.only(rows), net.config.side_px)
        trained = {
            **_trained(args.inventor, len(rows), inventions),
            "intended_use": "To hide who people in a video are and keep their expression, and "
            "to draw faces of nobody for demonstrations.",
        }
        ship(InventorGraph(net, inventor, scenes, light), "vqvae-prior", trained)


def _editor(runs: Sequence[Path]) -> tuple[Editor, Mapping[str, object]]:
    """Return the average of some runs that went on from each other, and what the last one says."""
    editor, edits = resynthesis.load_editor(runs[-1])
    for weights in zip(
        *(resynthesis.load_editor(run)[0].parameters() for run in runs),
        editor.parameters(),
        strict=True,
    ):
        weights[-1].data = torch.stack([weight.data for weight in weights[:-1]]).mean(0)
    return editor, edits


def _surroundings(
    data: GenderData, side_px: int
) -> tuple[export_resynth.Scenes, export_resynth.Light]:
    """Return what random scenes, and the usual one, are like in these pictures."""
    thumbs = _thumbs(vqvae.pictures(data, np.arange(len(data.files)), side_px))
    females = (torch.from_numpy(data.labels).float() * 2 - 1)[:, None]
    poses = torch.from_numpy(pose(_landmarks(data)))
    scenes = export_resynth.Scenes(thumbs, poses, females)
    return scenes, export_resynth.Light(thumbs, side_px)


def _trained(run: Path, pictures: int, run_of: Mapping[str, object]) -> dict[str, object]:
    return {
        "data": f"FairFace train, {pictures} pictures of 20,000, aligned on five points; FER-2013 "
        "through the emotion net that taught it. Chosen on the other 5 %.",
        "licence_of_data": _LICENCE,
        "commit": noted_commit(run),
        **run_of,
        "limits": _LIMITS + " Not to deceive: do not pass off what it makes as a record of what a "
        "person did or felt.",
    }


def _landmarks(data: GenderData) -> NDArray[np.float32]:
    """Return (N, 5, 2) landmarks, those of the template where no face is found."""
    with commandline.counter("finding landmarks", len(data.files)) as tick:
        found = data.found(anew=True, tick=tick).landmarks_px
    return np.where(np.isfinite(found), found, data.landmarks_px)


def _thumbs(pictures: Tensor) -> Tensor:
    return torch.cat(
        [F.adaptive_avg_pool2d(p.float() / 127.5 - 1, THUMB_PX) for p in torch.split(pictures, 512)]
    )


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="FairFace's aligned zip")
    parser.add_argument(
        "--vqvae", type=Path, required=True, help="run of the code net, or vqvae.onnx"
    )
    parser.add_argument("--inventor", type=Path, help="run folder; without it only the editor's")
    parser.add_argument(
        "--editor", type=Path, nargs="+", default=(),
        help="run folder; the weights of several that went on from each other are averaged",
    )  # fmt: skip
    parser.add_argument("--ship", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="as in training; default: 1")
    try:
        run(parser.parse_args())
    except StreamfaceError as error:
        print(f"export_resynth: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
