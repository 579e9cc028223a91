"""How many faces YuNet finds in still pictures, how many it invents, and what that costs.

Scoring follows WIDER FACE: at IoU 0.5 each box of the truth matches at most one detection, best
score first. A face counts if its shorter side reaches the limit; smaller ones, and ignore regions,
neither count nor cost: detections on them are dropped. So are unmatched detections that are
themselves smaller than the limit.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.detect import YuNetDetector, find_model
from streamface.errors import UsageError
from streamface.frame import Planes
from streamface.geometry import iou_matrix

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from streamface.frame import Face

IOU: Final = 0.5
LEAST_SIDES_PX: Final = (20, 32)
DEFAULT_SIZES: Final = (320, 640, 960)
# A detection belongs to an ignore region if half of it lies inside: regions may span many faces.
_IN_IGNORED: Final = 0.5


@dataclass(slots=True)
class Score:
    """Counts at one least face size."""

    faces: int = 0
    found: int = 0
    false: int = 0

    def summary(self) -> dict[str, object]:
        """Return recall and precision, 0..1, with the counts behind them."""
        claimed = self.found + self.false
        return {
            "recall": round(self.found / self.faces, 4) if self.faces else None,
            "precision": round(self.found / claimed, 4) if claimed else None,
            "faces": self.faces,
            "found": self.found,
            "false": self.false,
        }

    def add(
        self,
        truth: NDArray[np.float64],
        ignored: NDArray[np.float64],
        faces: tuple[Face, ...],
        px: int,
    ) -> None:
        """Score one picture. truth, ignored: (N, 4) boxes; px: least shorter side that counts."""
        counts = np.min(truth[:, 2:] - truth[:, :2], axis=1) >= px
        self.faces += int(counts.sum())
        boxes = np.array([face.box_px for face in faces]).reshape(-1, 4)
        overlaps = iou_matrix(boxes, truth)
        taken = np.zeros(len(truth), bool)
        for i, box in enumerate(boxes):
            free = np.where(taken, -1.0, overlaps[i])
            best = int(free.argmax()) if len(truth) else -1
            if best >= 0 and free[best] >= IOU:
                taken[best] = True
                self.found += int(counts[best])
            elif np.min(box[2:] - box[:2]) >= px and not _inside(box, ignored):
                self.false += 1


def _inside(box: NDArray[np.float64], regions: NDArray[np.float64]) -> bool:
    if not len(regions):
        return False
    low, high = np.maximum(box[:2], regions[:, :2]), np.minimum(box[2:], regions[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    return bool(shared.max() >= _IN_IGNORED * np.prod(box[2:] - box[:2]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this evaluation."""
    parser.add_argument(
        "--imgsz",
        type=int,
        nargs="+",
        default=list(DEFAULT_SIZES),
        help="longer sides of the searched picture, each scored (default: %(default)s)",
    )
    parser.add_argument(
        "--conf", type=float, help="least detection score (default: the detector's)"
    )
    parser.add_argument("--detector-model", type=Path, help="a YuNet file other than the official")
    parser.add_argument(
        "--split", default="all", help="only pictures with this in their path (default: all)"
    )


def run(args: argparse.Namespace) -> dict[str, object]:
    """Score args.data, a zip with annotations.json and pictures, at every size of args.imgsz.

    The figures at the top are those of the detector's default size (of the first size if that is
    not among them). Raises UsageError if it is not such a zip.
    """
    options = {} if args.conf is None else {"conf": args.conf}
    detector = YuNetDetector(find_model(args.detector_model), max_faces=1000, **options)
    scores = {(size, px): Score() for size in args.imgsz for px in LEAST_SIDES_PX}
    times_ms: dict[int, list[float]] = {size: [] for size in args.imgsz}
    pictures = 0
    for planes, truth, ignored in _pictures(Path(args.data), args.split):
        pictures += 1
        for size in args.imgsz:
            began = time.process_time()
            faces = detector.detect(planes, size)
            times_ms[size].append(1e3 * (time.process_time() - began))
            for px in LEAST_SIDES_PX:
                scores[size, px].add(truth, ignored, faces, px)
    if not pictures:
        raise UsageError(f"--data {args.data} holds no picture of --split {args.split}")
    per_size: dict[str, dict[str, object]] = {}
    for size in args.imgsz:
        row: dict[str, object] = {}
        for px in LEAST_SIDES_PX:
            found = scores[size, px].summary()
            row |= {f"{name}_{px}px": value for name, value in found.items()}
        per_size[str(size)] = row | {"cpu_ms": round(float(np.median(times_ms[size])), 2)}
    shipped = per_size.get(str(detector.imgsz), per_size[str(args.imgsz[0])])
    return {
        "task": "detection",
        "iou": IOU,
        "pictures": pictures,
        "conf": detector.conf,
        **shipped,
        "imgsz": per_size,
    }


def _pictures(
    path: Path, split: str
) -> Iterator[tuple[Planes, NDArray[np.float64], NDArray[np.float64]]]:
    """Yield each picture with its faces and its ignore regions, both (N, 4) x0, y0, x1, y1.

    split: what the picture's path must hold; "all" takes every one.
    """
    from PIL import Image

    try:
        with zipfile.ZipFile(path) as archive:
            for entry in json.loads(archive.read("annotations.json")):
                if split != "all" and split not in entry["file"]:
                    continue
                with Image.open(io.BytesIO(archive.read(entry["file"]))) as image:
                    rgb = np.asarray(image.convert("RGB"))
                yield Planes.from_rgb(rgb), _corners(entry["boxes"]), _corners(entry["ignore"])
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as exc:
        raise UsageError(
            f"--data {path} is not a detection set (zip with annotations.json)"
        ) from exc


def _corners(boxes: list[list[float]]) -> NDArray[np.float64]:
    array = np.array(boxes, np.float64).reshape(-1, 4)
    array[:, 2:] += array[:, :2]
    return array
