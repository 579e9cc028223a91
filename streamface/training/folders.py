"""Folders of labelled pictures: which class and split each belongs to, and the face in it."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from PIL import Image

from streamface.align import similarity
from streamface.detect import YuNetDetector, find_model
from streamface.errors import SourceError
from streamface.frame import Colour, Planes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamface.frame import ImageU8, PointsF32

TIGHT_PX: Final = 100
"""A folder picture this small is taken for a cut-out face, framed as FER-2013 frames faces."""
_PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_SPLIT_NAMES: Final = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "public", "publictest"),
    "test": ("test", "private", "privatetest"),
}
_OTHER_CLASS_NAMES: Final = {
    "angry": ("anger",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid"),
    "happy": ("happiness", "joy"),
    "sad": ("sadness",),
    "surprise": ("surprised",),
    "male": ("m", "man", "men"),
    "female": ("f", "woman", "women"),
}
_HELD_OUT: Final = 10  # one training picture in so many validates, where there is no other


@dataclass(frozen=True, slots=True)
class Listed:
    """One labelled picture of a folder."""

    file: Path
    label: int
    split: str
    """train, val or test."""


def list_pictures(path: Path, classes: Sequence[str], column: str) -> list[Listed]:
    """List the pictures of a folder with labels.csv, of folders by class, or such by split.

    labels.csv has the columns file and ``column``, and may have split; a picture without a label is
    left out. Class names may be those of ``classes`` or usual variants of them, in any case, in
    labels.csv numbers too; split names are train, val and test or variants. Without a val, one
    training picture in ten, by a hash of its name, is validation. Raises SourceError if there are
    no pictures at all, or a label is none of the classes.
    """
    table = path / "labels.csv"
    listed = _tabled(table, classes, column) if table.exists() else _foldered(path, classes)
    if not listed:
        raise SourceError(
            f"{path}: no pictures in folders named {', '.join(classes)}, "
            "nor in such folders under train, val and test, nor a labels.csv that names some"
        )
    if any(item.split == "val" for item in listed):
        return listed
    return [
        Listed(item.file, item.label, "val")
        if item.split == "train" and _held_out(item.file)
        else item
        for item in listed
    ]


def _tabled(table: Path, classes: Sequence[str], column: str) -> list[Listed]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as exc:
        raise SourceError(f"{table}: cannot read the table: {exc}") from exc
    if rows and not {"file", column} <= set(rows[0]):
        raise SourceError(f"{table}: needs the columns file and {column}")
    labels = {
        name: label
        for label, main in enumerate(classes)
        for name in (main, str(label), *_OTHER_CLASS_NAMES.get(main, ()))
    }
    listed = []
    for row in rows:
        text = (row[column] or "").strip().lower()
        if text and text not in labels:
            raise SourceError(
                f"{table}: {row['file']} is labelled {text!r}; {column} is one of "
                f"{', '.join(classes)}, or empty"
            )
        if text:
            split = _split_name(row.get("split") or "train")
            listed.append(Listed(table.parent / row["file"], labels[text], split))
    return listed


def _split_name(text: str) -> str:
    lowered = text.strip().lower()
    return next((split for split, names in _SPLIT_NAMES.items() if lowered in names), lowered)


def _foldered(path: Path, classes: Sequence[str]) -> list[Listed]:
    splits = {
        split: found
        for split, names in _SPLIT_NAMES.items()
        if (found := _sub_folder(path, names)) is not None
    }
    return [
        Listed(file, label, split)
        for split, folder in (splits or {"train": path}).items()
        for label, name in enumerate(classes)
        for file in _pictures(folder, (name, *_OTHER_CLASS_NAMES.get(name, ())))
    ]


class FaceFinder:
    """Finds the largest face of pictures and cuts it out; belongs to one thread."""

    def __init__(self) -> None:
        self._detector = YuNetDetector(find_model())

    def landmarks(self, picture: ImageU8) -> PointsF32 | None:
        """Return the (5, 2) landmarks of an (H, W, 3) RGB picture's largest face, None without."""
        found = self._detector.detect(planes_of(picture))
        if not found:
            return None
        return max(found, key=lambda face: face.box_px[2] - face.box_px[0]).landmarks_px


def cut(
    picture: NDArray[np.uint8], landmarks: PointsF32, template: PointsF32, side_px: int
) -> NDArray[np.uint8]:
    """Return the (side, side, ...) face whose (5, 2) landmarks lie on ``template``.

    picture: (H, W) or (H, W, 3). Where the crop is smaller than the face, the picture is
    area-averaged first, as a camera further away would have seen it.
    """
    matrix = similarity(landmarks, template)
    shrink = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if shrink < 1:
        height, width = picture.shape[:2]
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        stretch = np.array((size[0] / width, size[1] / height), np.float32)
        matrix = similarity((landmarks * stretch).astype(np.float32), template)
    # OpenCV puts pixel centres at integers, streamface at integers + 0.5.
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    out = cv2.warpAffine(
        picture, matrix, (side_px, side_px), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, np.uint8)


def planes_of(picture: ImageU8) -> Planes:
    """Return the planes of an (H, W, 3) RGB picture in the colours that a JPEG holds."""
    return Planes.from_rgb(picture, Colour("bt601", full_range=True))


def read_picture(file: Path) -> bytes:
    """Return the content of a picture file; raises SourceError naming it."""
    try:
        return file.read_bytes()
    except OSError as exc:
        raise SourceError(f"{file}: cannot read the picture: {exc.strerror or exc}") from exc


def decode_rgb(content: bytes, name: str) -> ImageU8:
    """Decode one picture to (H, W, 3) RGB; raises SourceError naming it."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as exc:
        raise SourceError(f"{name}: cannot decode the picture: {exc}") from exc


def _sub_folder(path: Path, names: Sequence[str]) -> Path | None:
    found = sorted(p for p in path.iterdir() if p.is_dir() and p.name.lower() in names)
    return found[0] if found else None


def _pictures(folder: Path, names: Sequence[str]) -> list[Path]:
    found = [p for p in folder.iterdir() if p.is_dir() and p.name.lower() in names]
    return sorted(p for sub in found for p in sub.iterdir() if p.suffix.lower() in _PICTURES)


def _held_out(file: Path) -> bool:
    digest = hashlib.sha256(f"{file.parent.name}/{file.name}".encode()).digest()
    return int.from_bytes(digest[:4]) % _HELD_OUT == 0
