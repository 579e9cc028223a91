"""The gender recipe: FairFace's aligned colour pictures, cut tightly around the face."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch

from streamface.card import InputSpec
from streamface.frame import GENDERS
from streamface.training.augment import warp
from streamface.training.data import FAIRFACE_LANDMARKS_PX
from streamface.training.export import Story
from streamface.training.loop import TrainSet, ValidationSet
from streamface.training.nets import NetConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
"""Side of the crop. A net learns most cheaply at 64 px first, and then goes on at 96 px."""


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


def split_rows(data: GenderData, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows to learn from and rows of FairFace train held out to choose on."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(data.split == "train"))
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


def story(config: TrainConfig, epochs_done: int, *, pictures: int, commit: str) -> Story:
    """Return what the card says of the data, the run, and what the net is not for."""
    return Story(
        name="gender",
        labels=GENDERS,
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
        for picture in data.pictures(rows)
    ]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _crop_to_shrunk(count: int, spec: InputSpec) -> torch.Tensor:
    x, y = (n * _scale(spec) for n in _CROP_ORIGIN_PX)
    return torch.tensor(((1.0, 0.0, x), (0.0, 1.0, y))).expand(count, 2, 3).contiguous()
