"""Whether re-made faces shimmer: how much they change where the face of the source stands still.

The clip goes through a whole run. A track's face is cut from the source and from what came out, by
the same landmarks, in every frame; what counts is the mean change of its luma since the frame
before. Where the source changes less than the clip's median its face is still, and there the change
of ours over that of the source should be about one: more shimmers, much less is frozen.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from streamface.card import load
from streamface.classify import can_be_aligned
from streamface.errors import UsageError
from streamface.model import card_path
from streamface.paste import face_mask
from streamface.preprocess import crop_into
from streamface.resynth import REENACT_MODEL
from streamface.settings import COVERS, REENACTED, Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from streamface.card import InputSpec
    from streamface.frame import Frame, Planes, PointsF32

_REPEATED: Final = 0.05
"""Levels of 255: a source that changes less has shown the same picture twice."""


class _Sight(NamedTuple):
    """One face in one frame."""

    frame: int
    source: NDArray[np.float32]
    """(S, S) luma, 0..255."""
    ours: NDArray[np.float32]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this evaluation."""
    parser.add_argument("--clip", type=Path, required=True, help="the video")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--reenact", choices=REENACTED, help="as of run")
    what.add_argument("--anonymize", choices=COVERS, help="as of run")
    parser.add_argument("--max-frames", type=int, help="stop after so many (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of synth (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, object]:
    """Run the clip and compare; the report is JSON-able. Raises StreamfaceError for bad input."""
    settings = Settings(
        source=str(args.clip),
        reenact=args.reenact,
        anonymize=args.anonymize,
        max_frames=args.max_frames,
        seed=args.seed,
    )
    card = load(card_path(REENACT_MODEL))
    changes = np.array(list(_changes(settings, card.input)), np.float64).reshape(-1, 2)
    if not len(changes):
        raise UsageError(f"{args.clip}: no face is seen in two frames in a row")
    return {
        "task": "flicker",
        "clip": args.clip.name,
        "what": args.reenact or args.anonymize,
        **ratios(changes),
    }


def ratios(changes: NDArray[np.float64]) -> dict[str, Any]:
    """Return the figures of (N, 2) changes, of the source and of ours, in levels."""
    moving = changes[changes[:, 0] >= _REPEATED]
    median = float(np.median(moving[:, 0])) if len(moving) else 0.0
    still = moving[moving[:, 0] < median]
    ratio = still[:, 1] / still[:, 0]
    return {
        "ratio_median": round(float(np.median(ratio)), 4) if len(ratio) else None,
        "ratio_mean": round(float(ratio.mean()), 4) if len(ratio) else None,
        "pairs": len(still),
        "pairs_moving": len(moving) - len(still),
        "pairs_repeated": len(changes) - len(moving),
        "source_change": round(float(still[:, 0].mean()), 4) if len(still) else None,
        "our_change": round(float(still[:, 1].mean()), 4) if len(still) else None,
    }


def _changes(settings: Settings, spec: InputSpec) -> Iterator[tuple[float, float]]:
    """Yield how much each face changed from one frame to the next: in the source, and in ours."""
    mask = face_mask(spec)
    luma = replace(spec, colour="grey", mean=(0.0,), std=(1.0,))
    last: dict[int, _Sight] = {}
    for plain, frame in _frame_pairs(settings):
        for face in filter(can_be_aligned, frame.faces):
            points = face.landmarks_px
            source, ours = (_cut(each, points, luma) for each in (plain.planes, frame.planes))
            before = last.get(face.track_id)
            last[face.track_id] = _Sight(frame.index, source, ours)
            if before is not None and before.frame == frame.index - 1:
                yield _change(source, before.source, mask), _change(ours, before.ours, mask)


def _change(
    now: NDArray[np.float32], before: NDArray[np.float32], mask: NDArray[np.float32]
) -> float:
    """Return the mean absolute difference of two (S, S) pictures under a mask."""
    return float(np.average(np.abs(now - before), weights=mask))


def _frame_pairs(settings: Settings) -> Iterator[tuple[Frame, Frame]]:
    """Yield the frames of the source and those of a run, whose planes are altered."""
    from streamface.app import Run
    from streamface.decode import ReadOptions
    from streamface.sources import find_inputs, open_source

    source = open_source(find_inputs(settings.sources[0])[0], ReadOptions())
    with closing(source), Run(settings) as whole, closing(whole.frames()) as frames:
        yield from zip(source, frames, strict=False)


def _cut(planes: Planes, landmarks_px: PointsF32, spec: InputSpec) -> NDArray[np.float32]:
    """Return the (S, S) luma of a face."""
    crop = np.empty(spec.shape, np.float32)
    crop_into(planes, landmarks_px, spec, crop)
    return np.asarray(crop[0], np.float32)
