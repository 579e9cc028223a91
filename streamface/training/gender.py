"""The gender recipe: FairFace's aligned colour pictures, cut tightly around the face."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch

from streamface.card import InputSpec
from streamface.errors import ModelError
from streamface.frame import GENDERS
from streamface.training.augment import warp
from streamface.training.data import FAIRFACE_LANDMARKS_PX, FAIRFACE_SIDE_PX
from streamface.training.export import Answer
from streamface.training.folders import cut
from streamface.training.loop import TrainSet, ValidationSet
from streamface.training.nets import NetConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from streamface.frame import ImageU8
    from streamface.training.data import GenderData
    from streamface.training.loop import TrainConfig

NET: Final = NetConfig(
    channels=3, classes=len(GENDERS), stem=24, stem_stride=2, widths=(48, 96, 160), depths=(1, 2, 2)
)
LABEL_NOISE: Final = 0.04  # smoothing: some pictures cannot be told, some labels are wrong
HELD_OUT_FRAC: Final = 0.05
_CROP_ORIGIN_PX: Final = (8, 12)  # x, y in the 144 px picture of the tight crop of 128 px
_CROP_PX: Final = 128
SIDE_PX: Final = 96
SIDES_PX: Final = (64, 80, 96)
"""A third of the epochs each: small crops teach most of it at half the cost."""


def input_spec(side_px: int = SIDE_PX) -> InputSpec:
    """Return what the net sees: the tight crop, 128 px of FairFace's aligned picture, shrunk."""
    template = (FAIRFACE_LANDMARKS_PX - _CROP_ORIGIN_PX) * (side_px / _CROP_PX)
    return InputSpec(
        size_px=(side_px, side_px),
        colour="rgb",
        landmarks_px=template.astype(np.float32),
        mean=(128.0,) * 3,
        std=(64.0,) * 3,
    )


def landmarks_of(
    data: GenderData, cache: Path, *, tick: Callable[[], None] = lambda: None
) -> GenderData:
    """Return the set with every landmark known or NaN for no face; those found stand in ``cache``.

    Raises ModelError if the cache is of another data set.
    """
    if np.isfinite(data.landmarks_px).all():
        return data
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, data.found(tick=tick).landmarks_px)
    landmarks = np.load(cache)
    if landmarks.shape != data.landmarks_px.shape:
        raise ModelError(
            f"{cache} holds landmarks of {len(landmarks)} pictures, not these; delete it"
        )
    return replace(data, landmarks_px=landmarks)


def split_rows(data: GenderData, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows to learn from and rows of the training split held out to choose on."""
    with_face = np.isfinite(data.landmarks_px).all((1, 2))
    rows = np.flatnonzero((data.split == "train") & with_face)
    rows = np.random.default_rng(seed).permutation(rows)
    held_out = round(len(rows) * HELD_OUT_FRAC)
    return np.sort(rows[held_out:]), np.sort(rows[:held_out])


def train_set(data: GenderData, rows: NDArray[np.int64], spec: InputSpec) -> TrainSet:
    """Return pictures at the scale of the crop, with smoothed labels."""
    one_hot = np.eye(len(GENDERS), dtype=np.float32)[data.labels[rows]]
    targets = one_hot * (1 - LABEL_NOISE) + LABEL_NOISE / len(GENDERS)
    return TrainSet(
        images=_shrunk(data, rows, spec),
        targets=torch.from_numpy(targets),
        crop_to_image=_crop_to_shrunk(len(rows), spec),
        aligned=torch.full((len(rows), 2, 3), torch.nan),
    )


def validation_set(data: GenderData, rows: NDArray[np.int64], spec: InputSpec) -> ValidationSet:
    """Return the tight crops of the rows, unjittered."""
    maps = _crop_to_shrunk(len(rows), spec)
    crops = warp(_shrunk(data, rows, spec).float(), maps, spec.size_px)
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    return ValidationSet(crops=(crops - mean) / std, labels=torch.from_numpy(data.labels[rows]))


def answer(
    validation: ValidationSet, config: TrainConfig, epochs_done: int, *, pictures: int, commit: str
) -> Answer:
    """Return what the card says of the data, the run, and what the net is not for."""
    return Answer(
        name="gender",
        labels=GENDERS,
        validation=validation,
        trained={
            "data": f"FairFace train, {pictures} pictures of 20,000, aligned on five points, "
            "balanced over gender and seven race groups. Chosen on the other 5 %.",
            "licence_of_data": "FairFace (Karkkainen and Joo): CC BY 4.0.",
            "seed": config.seed,
            "epochs": f"{epochs_done} of {config.epochs}",
            "commit": commit,
            "intended_use": "To annotate video with the gender that an onlooker would probably "
            "name, for statistics and research.",
            "limits": "It guesses outward appearance in two classes, not identity. Errors differ "
            "by race, age and pose; children can hardly be told. Not for decisions about people.",
        },
    )


def _scale(spec: InputSpec) -> float:
    return spec.size_px[0] / _CROP_PX


def _shrunk(data: GenderData, rows: NDArray[np.int64], spec: InputSpec) -> torch.Tensor:
    """(N, 3, S, S) uint8: area-averaged, so a crop on its grid is what crop_into cuts."""
    scale = _scale(spec)
    pictures = [
        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for picture in _aligned(data, rows)
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _aligned(data: GenderData, rows: NDArray[np.int64]) -> Iterator[ImageU8]:
    """Yield (144, 144, 3) pictures on FairFace's template, untouched where they already are."""
    for picture, landmarks in zip(data.pictures(rows), data.landmarks_px[rows], strict=True):
        if np.array_equal(landmarks, FAIRFACE_LANDMARKS_PX):
            yield picture
        else:
            yield cut(picture, landmarks, FAIRFACE_LANDMARKS_PX, FAIRFACE_SIDE_PX)


def _crop_to_shrunk(count: int, spec: InputSpec) -> torch.Tensor:
    x, y = (n * _scale(spec) for n in _CROP_ORIGIN_PX)
    return torch.tensor(((1.0, 0.0, x), (0.0, 1.0, y))).expand(count, 2, 3).contiguous()
