"""What --anonymize leaves to see: faces of a known truth, looked for in the pixels it gives out.

The clip goes through a whole run with every face painted in one colour; a face of the truth counts
as covered in a frame if at least LEAST_COVERED of its box has that colour and had another before.
Faces of which less than half is in the frame are reported apart.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.anonymize import SOLID_YUV
from streamface.evaluation.tracking import truths_of

if TYPE_CHECKING:
    import argparse

    from streamface.frame import Box, PlaneU8

LEAST_COVERED: Final = 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this evaluation."""
    parser.add_argument("--clip", type=Path, required=True, help="the video")
    parser.add_argument("--truth", type=Path, required=True, help="its .gt.json")
    parser.add_argument("--conf", type=float, help="least detector score (default: that of run)")
    parser.add_argument("--detect-every", type=int, help="(default: that of run)")
    parser.add_argument("--look-ahead", type=float, help="seconds (default: that of run)")
    parser.add_argument("--head-margin", type=float, help="share of a box (default: that of run)")


def run(args: argparse.Namespace) -> dict[str, object]:
    """Run the clip and count; the report is JSON-able. Raises StreamfaceError for bad input."""
    from streamface.app import Run
    from streamface.decode import ReadOptions
    from streamface.settings import Settings
    from streamface.sources import find_inputs, open_source

    options = {
        "conf": args.conf,
        "detect_every": args.detect_every,
        "look_ahead_s": args.look_ahead,
        "head_margin": args.head_margin,
    }
    given = {name: value for name, value in options.items() if value is not None}
    settings = Settings(source=str(args.clip), anonymize="solid", tasks=(), **given)
    tally: Counter[str] = Counter()
    leaks: dict[str, float] = {}
    covered_px = total_px = 0
    source = open_source(find_inputs(str(args.clip))[0], ReadOptions())
    try:
        with Run(settings) as whole, closing(whole.frames()) as frames:
            for plain, frame, truths in zip(source, frames, truths_of(args.truth), strict=False):
                painted = (frame.planes.y == SOLID_YUV[0]) & (plain.planes.y != SOLID_YUV[0])
                covered_px += int(painted.sum())
                total_px += painted.size
                for truth in truths:
                    share = _share(painted, plain.planes.y, truth.box)
                    kind = "edge_faces" if truth.ignored else "faces"
                    tally[kind] += 1
                    if share < LEAST_COVERED:
                        tally[f"{kind}_uncovered"] += 1
                        if kind == "faces":
                            leaks[f"{frame.index}/{truth.person}"] = round(share, 2)
                tally["frames"] += 1
            coasted = whole.cover.tally.unseen if whole.cover is not None else Counter()
    finally:
        source.close()
    return {
        "task": "leak",
        "clip": args.clip.name,
        "frames": tally["frames"],
        "faces": tally["faces"],
        "uncovered": tally["faces_uncovered"],
        "uncovered_share": _ratio(tally["faces_uncovered"], tally["faces"]),
        "edge_faces": tally["edge_faces"],
        "edge_uncovered_share": _ratio(tally["edge_faces_uncovered"], tally["edge_faces"]),
        "picture_covered": _ratio(covered_px, total_px),
        "covered_unseen": sum(coasted.values()),
        "leaks": leaks,
    }


def _share(painted: PlaneU8, before: PlaneU8, box: Box) -> float:
    """Return the painted share of a box; pixels that had the colour before do not count."""
    height, width = painted.shape
    x0, y0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    x1, y1 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    known = before[y0:y1, x0:x1] != SOLID_YUV[0]
    if not known.any():
        return 1.0
    return float(painted[y0:y1, x0:x1][known].mean())


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 5) if whole else None
