"""Readers of the labelled face pictures that the classifiers are trained and scored on.

Nothing here needs torch: the evaluation reads its test splits through the same functions.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from streamface.errors import SourceError
from streamface.frame import EMOTIONS, GENDERS
from streamface.training.folders import (
    TIGHT_PX,
    FaceFinder,
    cut,
    decode_rgb,
    list_pictures,
    read_picture,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamface.frame import ImageU8

FER_SIDE_PX: Final = 48
FER_SPLITS: Final = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_SPLIT_NAMES: Final = np.array(("train", "val", "test"))
FAIRFACE_SIDE_PX: Final = 144
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
FER_LANDMARKS_PX: Final = np.array(
    ((14.91, 18.38), (32.52, 18.38), (23.71, 28.41), (16.57, 36.22), (30.86, 36.22)), np.float32
)
"""(5, 2): the mirror-symmetric median of YuNet's landmarks in FER-2013 Training."""
_FAIRFACE_TABLES: Final = {"train": "fairface_label_train.csv", "val": "fairface_label_val.csv"}
_ADULT: Final = 20
UNKNOWN_AGE: Final = -1


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
    """Read FER-2013's csv, the npz with a PNG mosaic and FER+ votes, or a folder by class.

    Of a folder (see ``list_pictures``), pictures up to 100 px wide are taken as FER-2013 frames
    faces; in larger ones the largest face is found and aligned, and those without are left out.
    Raises SourceError for anything else.
    """
    if path.is_dir():
        return _emotion_folder(path)
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder; give FER-2013's csv, npz or folder")
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
    return _without_votes(
        np.stack([np.array(p.split(), np.uint8).reshape(side, side) for _, p, _ in rows]),
        np.array([label for label, _, _ in rows], np.int64),
        np.array([FER_SPLITS[usage] for _, _, usage in rows]),
    )


def _emotion_folder(path: Path) -> EmotionData:
    listed = list_pictures(path, EMOTIONS, "emotion")
    finder = FaceFinder()
    crops = [_framed_as_fer(item.file, finder) for item in listed]
    kept = [(crop, item) for crop, item in zip(crops, listed, strict=True) if crop is not None]
    if not kept:
        raise SourceError(f"{path}: no face was found in any of its {len(listed)} pictures")
    return _without_votes(
        np.stack([crop for crop, _ in kept]),
        np.array([item.label for _, item in kept], np.int64),
        np.array([item.split for _, item in kept]),
    )


def _framed_as_fer(file: Path, finder: FaceFinder) -> NDArray[np.uint8] | None:
    """Return the (48, 48) grey face of a picture; None where a large one shows no face."""
    rgb = decode_rgb(read_picture(file), str(file))
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)
    side = FER_SIDE_PX
    if max(grey.shape) <= TIGHT_PX:
        return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    landmarks = finder.landmarks(rgb)
    return None if landmarks is None else cut(grey, landmarks, FER_LANDMARKS_PX, side)


def _without_votes(
    images: NDArray[np.uint8], labels: NDArray[np.int64], split: NDArray[np.str_]
) -> EmotionData:
    flat = images.reshape(len(images), -1)
    _, inverse = np.unique(flat, axis=0, return_inverse=True)
    duplicate = inverse.astype(np.int64).reshape(-1)
    return EmotionData(
        images=images,
        labels=labels,
        split=split,
        votes=np.zeros((len(images), len(EMOTIONS)), np.float32),
        usable=np.ptp(flat, axis=1) > 0,
        duplicate=duplicate,
        near_copy=np.isin(duplicate, duplicate[split == "train"]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class GenderData:
    """Pictures of faces with gender, and the tables that error rates are read from."""

    files: tuple[bytes, ...]
    """Encoded pictures."""
    labels: NDArray[np.int64]
    """(N,) index into GENDERS."""
    split: NDArray[np.str_]
    """(N,) train, val or test."""
    race: NDArray[np.str_]
    """(N,) as the data set names groups; "" where it does not."""
    age: NDArray[np.int64]
    """(N,) years, or the lower end of an age group; UNKNOWN_AGE where the set does not tell."""
    landmarks_px: NDArray[np.float32]
    """(N, 5, 2) in pixels of each picture; NaN until ``found`` has looked for them."""

    @property
    def adult(self) -> NDArray[np.bool_]:
        """(N,) from 20 years on (FairFace's group 20-29), where outward gender is well defined."""
        return np.asarray(self.age >= _ADULT)

    def pictures(self, rows: Sequence[int] | NDArray[np.int64]) -> Iterator[ImageU8]:
        """Yield the (H, W, 3) RGB pictures of the rows asked for."""
        for row in rows:
            yield decode_rgb(self.files[row], f"picture {row}")

    def only(self, rows: NDArray[np.int64]) -> GenderData:
        """Return the set of these rows alone."""
        return GenderData(
            files=tuple(self.files[row] for row in rows),
            labels=self.labels[rows],
            split=self.split[rows],
            race=self.race[rows],
            age=self.age[rows],
            landmarks_px=self.landmarks_px[rows],
        )

    def age_groups(self) -> NDArray[np.str_]:
        """(N,) FairFace's age groups: 0-2, 3-9, 10-19 ... 60-69, 70+, or "unknown"."""
        return np.array([_age_group(int(age)) for age in self.age])

    def found(self, *, anew: bool = False, tick: Callable[[], None] = lambda: None) -> GenderData:
        """Return the set with landmarks looked for where unknown; NaN where there is no face.

        anew: everywhere. What is known of an aligned set is one template for all.
        """
        finder = FaceFinder()
        landmarks = self.landmarks_px.copy()
        if anew:
            landmarks[:] = np.nan
        for row in np.flatnonzero(~np.isfinite(landmarks).all((1, 2))):
            points = finder.landmarks(decode_rgb(self.files[row], f"picture {row}"))
            if points is not None:
                landmarks[row] = points
            tick()
        return replace(self, landmarks_px=landmarks)


def load_gender(path: Path) -> GenderData:
    """Read faces with gender: a zip or folder with labels.csv, FairFace's own layout, or classes.

    labels.csv needs file, split, gender (0 male, 1 female), race, and age_group or age. Landmarks
    come from its columns re_x .. lm_y where it has them, else they are those of aligned FairFace.
    FairFace's own layout has fairface_label_train.csv and fairface_label_val.csv beside the folders
    train and val; any other folder is read by ``list_pictures``. Landmarks of these two are unknown
    until ``GenderData.found``. Raises SourceError for anything else.
    """
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; give FairFace's zip or folder")
    try:
        if not path.is_dir():
            with zipfile.ZipFile(path) as archive:
                return _gender(archive.read)
        if _has_split_column(path / "labels.csv"):
            return _gender(lambda name: (path / name).read_bytes())
        if any((path / name).exists() for name in _FAIRFACE_TABLES.values()):
            return _fairface(path)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, zlib.error) as exc:
        raise SourceError(f"{path}: not a FairFace zip or folder: {exc}") from exc
    return _gender_folder(path)


def _has_split_column(table: Path) -> bool:
    return table.exists() and "split" in table.read_text("utf-8").partition("\n")[0].split(",")


def _gender(read: Callable[[str], bytes]) -> GenderData:
    table = list(csv.DictReader(io.StringIO(read("labels.csv").decode("utf-8"))))
    return GenderData(
        files=tuple(read(row["file"]) for row in table),
        labels=np.array([int(row["gender"]) for row in table], np.int64),
        split=np.array([row["split"] for row in table]),
        race=np.array([row["race"] for row in table]),
        age=np.array([_youngest(row.get("age") or row["age_group"]) for row in table]),
        landmarks_px=np.stack([_landmarks(row) for row in table]),
    )


def _fairface(path: Path) -> GenderData:
    """Read the layout that FairFace is published in."""
    table = [
        {**row, "split": split}
        for split, name in _FAIRFACE_TABLES.items()
        if (path / name).exists()
        for row in csv.DictReader(io.StringIO((path / name).read_text("utf-8")))
    ]
    return GenderData(
        files=tuple((path / row["file"]).read_bytes() for row in table),
        labels=np.array([_gender_index(row["gender"]) for row in table], np.int64),
        split=np.array([row["split"] for row in table]),
        race=np.array([row["race"] for row in table]),
        age=np.array([_youngest(row["age"]) for row in table]),
        landmarks_px=np.full((len(table), 5, 2), np.nan, np.float32),
    )


def _gender_folder(path: Path) -> GenderData:
    listed = list_pictures(path, GENDERS, "gender")
    return GenderData(
        files=tuple(read_picture(item.file) for item in listed),
        labels=np.array([item.label for item in listed], np.int64),
        split=np.array([item.split for item in listed]),
        race=np.full(len(listed), ""),
        age=np.full(len(listed), UNKNOWN_AGE),
        landmarks_px=np.full((len(listed), 5, 2), np.nan, np.float32),
    )


def _gender_index(text: str) -> int:
    lowered = text.strip().lower()
    if lowered not in GENDERS:
        raise ValueError(f"gender must be one of {', '.join(GENDERS)}, not {text!r}")
    return GENDERS.index(lowered)


def _youngest(age: str) -> int:
    """Return the age, or the lower end of an age group such as 20-29, 70+ or "more than 70"."""
    digits = age.lower().removeprefix("more than ").split("-")[0].rstrip("+")
    return int(digits)


def _age_group(age: int) -> str:
    if age == UNKNOWN_AGE:
        return "unknown"
    if age >= 70:
        return "70+"
    if age < 10:
        return "0-2" if age < 3 else "3-9"
    return f"{age // 10}0-{age // 10}9"


def _landmarks(row: dict[str, str]) -> NDArray[np.float32]:
    if "re_x" not in row:
        return FAIRFACE_LANDMARKS_PX
    names = ("re", "le", "no", "rm", "lm")
    return np.array([(row[f"{name}_x"], row[f"{name}_y"]) for name in names], np.float32)


def load_folder(
    path: Path, classes: Sequence[str], column: str
) -> tuple[list[ImageU8], NDArray[np.int64], list[str]]:
    """Read a labelled folder, of whatever split: RGB pictures, labels, names for messages.

    Raises SourceError for a folder without such pictures, or one that cannot be decoded.
    """
    listed = list_pictures(path, classes, column)
    return (
        [decode_rgb(read_picture(item.file), str(item.file)) for item in listed],
        np.array([item.label for item in listed], np.int64),
        [str(item.file.relative_to(path)) for item in listed],
    )
