"""Write what run and generate use, vqvae and vqvae-prior, from finished training runs.

python tools/export_resynth.py --data fairface_aligned_144.zip --vqvae runs/vqvae \
    --editor runs/editor --inventor runs/inventor --ship streamface/models
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from rich.console import Console

from streamface.errors import StreamfaceError
from streamface.training import export_resynth, gender, resynthesis, vqvae
from streamface.training.codenets import THUMB_PX
from streamface.training.data import load_gender
from streamface.training.export import noted_commit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_LICENCE = "FairFace (Karkkainen and Joo): CC BY 4.0. Emotions are the shipped emotion net's."
_LIMITS = (
    "64 x 64 pixels of codes: skin, teeth and glasses are simplified; profiles, hands before the "
    "face and heavy shadow come out worse. Learned from photographs of FairFace and from the "
    "errors of the shipped classifiers."
)


def run(args: argparse.Namespace) -> None:
    """Export both models."""
    net = vqvae.load(args.vqvae)
    data = load_gender(args.data)
    rows, _ = gender.split_rows(data, args.seed)
    pictures = vqvae.pictures(data, rows, net.config.side_px)
    females = (torch.from_numpy(data.labels[rows]).float() * 2 - 1)[:, None]
    side_px = net.config.side_px
    editor, edits = resynthesis.load_editor(args.editor[-1])
    for weights in zip(
        *(resynthesis.load_editor(run)[0].parameters() for run in args.editor),
        editor.parameters(),
        strict=True,
    ):
        weights[-1].data = torch.stack([weight.data for weight in weights[:-1]]).mean(0)
    inventor, inventions = resynthesis.load_inventor(args.inventor)
    thumbs = export_resynth.Thumbs(_thumbs(pictures), females)
    console = Console(soft_wrap=True)
    for graph, name, trained in (
        (
            export_resynth.ReenactorGraph(net, editor),
            "vqvae",
            {
                **_trained(args, len(rows), edits),
                "intended_use": "To give the faces of a video another expression, for research, "
                "education and art, where viewers are told. run marks such pictures.",
            },
        ),
        (
            export_resynth.InventorGraph(net, inventor, thumbs),
            "vqvae-prior",
            {
                **_trained(args, len(rows), inventions),
                "intended_use": "To hide who people in a video are and keep their expression, and "
                "to draw faces of nobody for demonstrations.",
            },
        ),
    ):
        card = export_resynth.export(graph, name, args.ship, side_px=side_px, trained=trained)
        console.print(f"{args.ship / card.onnx}: {dict(card.trained)}")


def _trained(
    args: argparse.Namespace, pictures: int, run_of: Mapping[str, object]
) -> dict[str, object]:
    return {
        "data": f"FairFace train, {pictures} pictures of 20,000, aligned on five points; FER-2013 "
        "through the emotion net that taught it. Chosen on the other 5 %.",
        "licence_of_data": _LICENCE,
        "commit": noted_commit(args.vqvae),
        **run_of,
        "limits": _LIMITS + " Not to deceive: do not pass off what it makes as a record of what a "
        "person did or felt.",
    }


def _thumbs(pictures: Tensor) -> Tensor:
    return torch.cat(
        [F.adaptive_avg_pool2d(p.float() / 127.5 - 1, THUMB_PX) for p in torch.split(pictures, 512)]
    )


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="FairFace's aligned zip")
    for name in ("vqvae", "inventor"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--editor", type=Path, required=True, nargs="+",
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
