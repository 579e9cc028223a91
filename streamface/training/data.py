"""Readers of the labelled face pictures that the classifiers are trained and scored on.

Nothing here needs torch: the evaluation reads its test splits through the same functions.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from PIL import Image

from streamface.errors import SourceError
from streamface.frame import EMOTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamface.frame import ImageU8

FER_SIDE_PX: Final = 48
FER_SPLITS: Final = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_SPLIT_NAMES: Final = np.array(("train", "val", "test"))
FAIRFACE_LANDMARKS_PX: Final = np.array(
    ((45.6, 49.8), (97.4, 49.8), (71.5, 79.8), (49.0, 100.4), (94.0, 100.4)), np.float32
)
"""(5, 2): where the landmarks stand in a FairFace picture aligned to 144 x 144."""
_FERPLUS_TO_EMOTION: Final = {
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprise": "surprise",
    "neutral": "neutral",
}
_ADULT: Final = 20
_PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, slots=True, eq=False)
class EmotionData:
    """FER-2013, with the FER+ votes and duplicate marks where the file has them."""

    images: NDArray[np.uint8]
    """(N, 48, 48) grey."""
    labels: NDArray[np.int64]
    """(N,) index into EMOTIONS, FER-2013's own label."""
    split: NDArray[np.str_]
    """(N,) train, val (PublicTest) or test (PrivateTest)."""
    votes: NDArray[np.float32]
    """(N, 7) FER+ votes of ten for each of EMOTIONS; all zero where there are none."""
    usable: NDArray[np.bool_]
    """(N,) False where FER+ found no face or the picture is blank."""
    duplicate: NDArray[np.int64]
    """(N,) same number = same pixels."""
    near_copy: NDArray[np.bool_]
    """(N,) outside training: the picture or a near copy of it is also in training."""

    def training_rows(self) -> NDArray[np.int64]:
        """Return rows to learn from: usable, and no pixel copy of a val or test picture."""
        held_out = np.unique(self.duplicate[self.split != "train"])
        copied = np.isin(self.duplicate, held_out)
        return np.flatnonzero((self.split == "train") & self.usable & ~copied)

    def targets(self, vote_share: float) -> NDArray[np.float32]:
        """Return (N, 7) distributions: (1 - vote_share) original label + vote_share FER+ votes."""
        one_hot = np.eye(len(EMOTIONS), dtype=np.float32)[self.labels]
        total = self.votes.sum(1, keepdims=True)
        votes = np.where(total > 0, self.votes / np.maximum(total, 1), one_hot)
        return ((1 - vote_share) * one_hot + vote_share * votes).astype(np.float32)

    def ferplus_labels(self, least_votes: int = 5) -> NDArray[np.int64]:
        """Return (N,) FER+ majority labels; -1 where none has ``least_votes`` of the ten."""
        clear = self.votes.max(1) >= least_votes
        return np.where(clear, self.votes.argmax(1), -1)


def load_emotion(path: Path) -> EmotionData:
    """Read FER-2013 from its csv or from the npz with a PNG mosaic and FER+ votes."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file; give FER-2013's csv or npz")
    try:
        return _emotion_csv(path) if path.suffix == ".csv" else _emotion_npz(path)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as exc:
        raise SourceError(f"{path}: not FER-2013's csv or npz layout: {exc}") from exc


def _emotion_npz(path: Path) -> EmotionData:
    with np.load(path) as archive:
        labels = archive["labels"].astype(np.int64)
        mosaic = _decode_mosaic(archive["mosaic_png"].tobytes(), len(labels))
        columns = [str(name) for name in archive["ferplus_columns"]]
        votes = np.zeros((len(labels), len(EMOTIONS)), np.float32)
        for name, emotion in _FERPLUS_TO_EMOTION.items():
            votes[:, EMOTIONS.index(emotion)] = archive["ferplus_votes"][:, columns.index(name)]
        return EmotionData(
            images=mosaic,
            labels=labels,
            split=_SPLIT_NAMES[archive["split"]],
            votes=votes,
            usable=archive["ferplus_named"] & ~archive["constant"],
            duplicate=archive["dup_group"].astype(np.int64),
            # 0.93: above it the correlation with the nearest training picture means a copy.
            near_copy=archive["max_corr_to_training"] > 0.93,
        )


def _decode_mosaic(png: bytes, count: int) -> NDArray[np.uint8]:
    grey = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if grey is None or grey.ndim != 2:
        raise ValueError("mosaic_png is not a grey PNG")
    side = FER_SIDE_PX
    rows, columns = grey.shape[0] // side, grey.shape[1] // side
    tiles = grey.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    return np.ascontiguousarray(tiles[:count])


def _emotion_csv(path: Path) -> EmotionData:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(int(r["emotion"]), r["pixels"], r["Usage"]) for r in csv.DictReader(file)]
    side = FER_SIDE_PX
    images = np.stack([np.array(p.split(), np.uint8).reshape(side, side) for _, p, _ in rows])
    _, duplicate = np.unique(images.reshape(len(images), -1), axis=0, return_inverse=True)
    split = np.array([FER_SPLITS[usage] for _, _, usage in rows])
    return EmotionData(
        images=images,
        labels=np.array([label for label, _, _ in rows], np.int64),
        split=split,
        votes=np.zeros((len(rows), len(EMOTIONS)), np.float32),
        usable=np.ptp(images.reshape(len(images), -1), axis=1) > 0,
        duplicate=duplicate.astype(np.int64).reshape(-1),
        near_copy=np.isin(duplicate.reshape(-1), duplicate.reshape(-1)[split == "train"]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class GenderData:
    """FairFace pictures, aligned to 144 x 144, with the tables its error rates are read from."""

    jpegs: tuple[bytes, ...]
    labels: NDArray[np.int64]
    """(N,) index into GENDERS."""
    split: NDArray[np.str_]
    """(N,) train or val, as FairFace has them."""
    race: NDArray[np.str_]
    adult: NDArray[np.bool_]
    """(N,) from the age group 20-29 on, where outward gender is well defined."""
    landmarks_px: NDArray[np.float32]
    """(N, 5, 2) in pixels of each picture."""

    def pictures(self, rows: Sequence[int] | NDArray[np.int64]) -> Iterator[ImageU8]:
        """Yield (144, 144, 3) RGB pictures of the rows asked for."""
        for row in rows:
            yield decode_rgb(self.jpegs[row], f"picture {row}")


def load_gender(path: Path) -> GenderData:
    """Read a FairFace-style set: a zip, or a folder, with pictures and a labels.csv.

    labels.csv needs file, split, gender (0 male, 1 female), race, and age_group or age. Landmarks
    come from its columns re_x .. lm_y where it has them, else they are those of aligned FairFace.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; give FairFace's zip or folder")
    try:
        if path.is_dir():
            return _gender(lambda name: (path / name).read_bytes())
        with zipfile.ZipFile(path) as archive:
            return _gender(archive.read)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, zlib.error) as exc:
        raise SourceError(f"{path}: not a FairFace zip or folder: {exc}") from exc


def _gender(read: Callable[[str], bytes]) -> GenderData:
    table = list(csv.DictReader(io.StringIO(read("labels.csv").decode("utf-8"))))
    return GenderData(
        jpegs=tuple(read(row["file"]) for row in table),
        labels=np.array([int(row["gender"]) for row in table], np.int64),
        split=np.array([row["split"] for row in table]),
        race=np.array([row["race"] for row in table]),
        adult=np.array([_youngest(row) >= _ADULT for row in table]),
        landmarks_px=np.stack([_landmarks(row) for row in table]),
    )


def _youngest(row: dict[str, str]) -> int:
    """Return the age, or the lower end of an age group such as 20-29 or 70+."""
    return int((row.get("age") or row["age_group"]).split("-")[0].rstrip("+"))


def _landmarks(row: dict[str, str]) -> NDArray[np.float32]:
    if "re_x" not in row:
        return FAIRFACE_LANDMARKS_PX
    names = ("re", "le", "no", "rm", "lm")
    return np.array([(row[f"{name}_x"], row[f"{name}_y"]) for name in names], np.float32)


def load_folder(
    path: Path, classes: Sequence[str]
) -> tuple[list[ImageU8], NDArray[np.int64], list[str]]:
    """Read pictures from one sub-folder a class: RGB pictures, labels, names for messages."""
    pictures: list[ImageU8] = []
    labels: list[int] = []
    names: list[str] = []
    for label, name in enumerate(classes):
        for file in sorted((path / name).glob("*")):
            if file.suffix.lower() in _PICTURES:
                pictures.append(decode_rgb(file.read_bytes(), str(file)))
                labels.append(label)
                names.append(str(file.relative_to(path)))
    if not pictures:
        raise SourceError(f"{path}: no pictures in sub-folders named {', '.join(classes)}")
    return pictures, np.array(labels, np.int64), names


def decode_rgb(content: bytes, name: str) -> ImageU8:
    """Decode one picture to (H, W, 3) RGB; raises SourceError naming it."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as exc:
        raise SourceError(f"{name}: cannot decode the picture: {exc}") from exc
