"""How well faces keep their boxes and ids along clips whose faces are known in every frame.

Matching follows CLEAR MOT (Bernardin and Stiefelhagen, 2008): a match of the frame before stays
while its IoU is at least 0.5; the rest is matched best IoU first. Faces of which less than
LEAST_VISIBLE is in the frame, and frames where the truth itself lost a face, are ignored: they
neither count nor make a box on them false.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.detect import YuNetDetector, find_model
from streamface.errors import UsageError
from streamface.geometry import iou, iou_matrix
from streamface.track import FaceTracker

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from streamface.frame import Box, Face

IOU: Final = 0.5
LEAST_VISIBLE: Final = 0.5
_VIDEO_SUFFIXES: Final = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True, slots=True)
class Truth:
    """One face of the truth in one frame; ignored where it is hidden or was not measured."""

    person: int
    box: Box
    ignored: bool


@dataclass(slots=True)
class Score:
    """Counts over the frames of one clip, or of several."""

    faces: int = 0
    found: int = 0
    false: int = 0
    switches: int = 0
    fragments: int = 0
    ids: int = 0
    ious: dict[str, list[float]] = field(default_factory=lambda: {"detection": [], "tracking": []})
    delays: list[int] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def merge(self, other: Score) -> None:
        """Add the counts of another clip."""
        for name in ("faces", "found", "false", "switches", "fragments", "ids"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, values in other.ious.items():
            self.ious[kind] += values
        self.delays += other.delays
        self.cpu_ms += other.cpu_ms

    def summary(self) -> dict[str, object]:
        """Return the figures: shares 0..1, delay in frames from visible to found, CPU in ms."""
        claimed = self.found + self.false
        return {
            "recall": _round(self.found / self.faces if self.faces else None),
            "precision": _round(self.found / claimed if claimed else None),
            "id_switches": self.switches,
            "fragments": self.fragments,
            "ids": self.ids,
            "iou_detection": _round(_mean(self.ious["detection"])),
            "iou_tracking": _round(_mean(self.ious["tracking"])),
            "delay_frames": _round(_mean(self.delays), 2),
            "faces": self.faces,
            "found": self.found,
            "false": self.false,
            "cpu_ms_per_frame": _round(_mean(self.cpu_ms), 3),
        }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


class ClipScorer:
    """Matches the faces of one clip, frame after frame, with its truth."""

    def __init__(self) -> None:
        self.score = Score()
        self._last_id: dict[int, int] = {}
        self._matched_before: dict[int, int] = {}
        self._waits: Counter[int] = Counter()
        self._seen_ids: set[int] = set()

    def add(self, truths: Sequence[Truth], faces: Sequence[Face]) -> None:
        """Score the next frame."""
        pairs = self._match(truths, faces)
        matched = {i: faces[j] for i, j in pairs.items()}
        for i, truth in enumerate(truths):
            if not truth.ignored:
                self._count(truth, matched.get(i))
        self._matched_before = {truths[i].person: face.track_id for i, face in matched.items()}
        claimed = set(pairs.values())
        hidden = [truth.box for truth in truths if truth.ignored]
        self.score.false += sum(
            all(iou(face.box_px, box) < IOU / 2 for box in hidden)
            for j, face in enumerate(faces)
            if j not in claimed
        )
        self._seen_ids |= {face.track_id for face in faces}
        self.score.ids = len(self._seen_ids)

    def _match(self, truths: Sequence[Truth], faces: Sequence[Face]) -> dict[int, int]:
        boxes = np.array([t.box for t in truths]).reshape(-1, 4)
        overlaps = iou_matrix(boxes, np.array([f.box_px for f in faces]).reshape(-1, 4))
        for i, truth in enumerate(truths):
            for j, face in enumerate(faces):
                stays = self._matched_before.get(truth.person) == face.track_id
                if stays and overlaps[i, j] >= IOU:
                    overlaps[i, j] += 1
        pairs: dict[int, int] = {}
        while overlaps.size and overlaps.max() >= IOU:
            i, j = (int(k) for k in np.unravel_index(int(overlaps.argmax()), overlaps.shape))
            pairs[i] = j
            overlaps[i, :] = overlaps[:, j] = -1
        return pairs

    def _count(self, truth: Truth, face: Face | None) -> None:
        self.score.faces += 1
        if face is None:
            self._waits[truth.person] += truth.person not in self._last_id
            return
        self.score.found += 1
        self.score.ious[face.covered_by].append(iou(truth.box, face.box_px))
        last = self._last_id.get(truth.person)
        if last is None:
            self.score.delays.append(self._waits[truth.person])
        elif last != face.track_id:
            self.score.switches += 1
        if last is not None and truth.person not in self._matched_before:
            self.score.fragments += 1
        self._last_id[truth.person] = face.track_id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this evaluation."""
    parser.add_argument(
        "--imgsz", type=int, nargs="+", help="sizes to score (default: the detector's)"
    )
    parser.add_argument(
        "--detect-every", type=int, nargs="+", help="intervals to score (default: the tracker's)"
    )
    parser.add_argument(
        "--conf", type=float, help="least detection score (default: the detector's)"
    )
    parser.add_argument("--detector-model", type=Path, help="a YuNet file other than the official")
    parser.add_argument(
        "--split", default="all", help="only clips with this in their name (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> dict[str, object]:
    """Score args.data, one CLIP.gt.json or a folder of them beside their clips.

    Every size of args.imgsz is scored with every interval of args.detect_every; the figures at the
    top are those of the first pair (the shipped defaults if none is given), clips pooled. Raises
    UsageError if there is nothing to score.
    """
    options = {} if args.conf is None else {"conf": args.conf}
    clips = _clips(Path(args.data), args.split)
    model = find_model(args.detector_model)
    runs: dict[str, dict[str, object]] = {}
    first: dict[str, object] = {}
    for imgsz, every in itertools.product(args.imgsz or [None], args.detect_every or [None]):
        size = {} if imgsz is None else {"imgsz": imgsz}
        detector = YuNetDetector(model, **options, **size)
        interval = {} if every is None else {"detect_every": every}
        total, per_clip = Score(), {}
        for truth_path, clip in clips:
            tracker = FaceTracker(detector, **interval)
            score = _score(truth_path, clip, tracker)
            per_clip[clip.name] = score.summary() | tracker.stats.summary()
            total.merge(score)
        setting = {"imgsz": detector.imgsz, "detect_every": tracker.detect_every}
        summary = setting | total.summary()
        runs[f"{detector.imgsz}/{tracker.detect_every}"] = summary
        first = first or summary | {"clips": per_clip}
    report = {"task": "tracking", "iou": IOU, "least_visible": LEAST_VISIBLE, **first}
    return report | {"settings": runs} if len(runs) > 1 else report


def _score(truth_path: Path, clip: Path, tracker: FaceTracker) -> Score:
    from streamface.decode import ReadOptions
    from streamface.sources import find_inputs, open_source

    scorer = ClipScorer()
    source = open_source(find_inputs(str(clip))[0], ReadOptions())
    try:
        for frame, truths in zip(source, truths_of(truth_path), strict=False):
            began = time.thread_time()
            faces = tracker.update(frame.planes, frame.time_s)
            scorer.score.cpu_ms.append(1e3 * (time.thread_time() - began))
            scorer.add(truths, faces)
    finally:
        source.close()
    return scorer.score


def _clips(path: Path, split: str) -> list[tuple[Path, Path]]:
    """Return (truth, clip) pairs of the clips whose name holds ``split`` ("all": every one)."""
    truths = sorted(path.glob("*.gt.json")) if path.is_dir() else [path]
    pairs = []
    for truth in truths:
        stem = truth.name.removesuffix(".gt.json")
        if split != "all" and split not in stem:
            continue
        clip = next(
            (c for s in _VIDEO_SUFFIXES if (c := truth.with_name(stem + s)).is_file()), None
        )
        if clip is None or not truth.is_file():
            raise UsageError(f"--data {truth} is not a .gt.json beside its clip")
        pairs.append((truth, clip))
    if not pairs:
        raise UsageError(f"--data {path} holds no *.gt.json (of --split {split})")
    return pairs


def truths_of(path: Path) -> Iterator[list[Truth]]:
    """Yield the known faces of each frame; boxes of the file are x, y, width, height.

    Raises UsageError for a file that cannot be read or holds no frames.
    """
    try:
        frames = json.loads(path.read_bytes())["frames"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise UsageError(f"{path} is not a truth file of a clip") from exc
    for entries in frames:
        known = [entry for entry in entries if entry["box"] is not None]
        yield [
            Truth(entry["id"], _corners(*entry["box"]), entry["visible"] < LEAST_VISIBLE)
            for entry in known
        ]


def _corners(x: float, y: float, width: float, height: float) -> Box:
    return x, y, x + width, y + height
