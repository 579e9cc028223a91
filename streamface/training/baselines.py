"""The starting point, rebuilt so that anyone can rerun it: nets and recipes that ours replaced.

They keep to their time on purpose: one label a picture, pictures as FER-2013 frames them, Adam,
hardly any augmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch
from torch import Tensor, nn

from streamface.frame import EMOTIONS, GENDERS
from streamface.training.augment import AugmentConfig
from streamface.training.loop import TrainConfig, TrainSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamface.training.data import EmotionData

FLIP_ONLY: Final = AugmentConfig(
    rotate_deg=0.0,
    scale_frac=0.0,
    aspect_frac=0.0,
    shift_frac=0.0,
    brightness=0.0,
    contrast_frac=0.0,
    gamma_frac=0.0,
    tint_frac=0.0,
    grey_prob=0.0,
    blur_prob=0.0,
    shrink_prob=0.0,
    jpeg_prob=0.0,
    noise_prob=0.0,
    occlude_prob=0.0,
)
RARE_SHARE: Final = 0.5
"""Of the second phase's pictures, how many are of classes rarer than the average class."""


class ThreeStage(nn.Module):
    """The three-stage emotion CNN that DeepFace made popular: (N, 1, 48, 48) to (N, 7) logits.

    5x5 x 64; twice 3x3 x 64; twice 3x3 x 128; pooled after each; two hidden layers of 1,024 with
    dropout (S. Serengil, "Facial Expression Recognition with Keras", 2018: 57.4 % on PrivateTest).
    """

    def __init__(self, classes: int = len(EMOTIONS)) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 5), nn.ReLU(inplace=True), nn.MaxPool2d(5, 2),
            nn.Conv2d(64, 64, 3), nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3), nn.ReLU(inplace=True), nn.AvgPool2d(3, 2),
            nn.Conv2d(64, 128, 3), nn.ReLU(inplace=True),
            nn.Conv2d(128, 128, 3), nn.ReLU(inplace=True), nn.AvgPool2d(3, 2),
            nn.Flatten(),
            nn.Linear(128, 1024), nn.ReLU(inplace=True), nn.Dropout(0.2),
            nn.Linear(1024, 1024), nn.ReLU(inplace=True), nn.Dropout(0.2),
        )  # fmt: skip
        self.head = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes) logits of (N, 1, 48, 48) normalised crops."""
        return cast("Tensor", self.head(self.layers(x)))


class VggStyle(nn.Module):
    """A VGG-style net, as VGGFace is one: pairs of 3x3 convolutions, pooled, then two wide layers.

    VGGFace's five stages and 4,096-wide layers at 224 px (Parkhi et al. 2015) are cut to four
    stages of 16 to 128 channels and 512 at 64 px, which trains in minutes on a CPU.
    """

    def __init__(
        self, classes: int = len(GENDERS), widths: Sequence[int] = (16, 32, 64, 128)
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = 3
        for outer in widths:
            layers += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(outer, outer, 3, padding=1), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
            inner = outer
        layers += [nn.Flatten(), nn.LazyLinear(512), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        layers += [nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(512, classes)
        self.forward(torch.zeros(1, 3, 64, 64))  # LazyLinear learns its size

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes) logits of (N, 3, 64, 64) normalised crops."""
        return cast("Tensor", self.head(self.layers(x)))


def emotion_set(data: EmotionData) -> TrainSet:
    """Return FER-2013 Training as it is: one label a picture, copies of test ones included."""
    rows = np.flatnonzero(data.split == "train")
    return TrainSet(
        images=torch.from_numpy(data.images[rows, None]),
        targets=torch.from_numpy(data.targets(0.0)[rows]),
        crop_to_image=torch.eye(2, 3).expand(len(rows), 2, 3).contiguous(),
        aligned=torch.full((len(rows), 2, 3), torch.nan),
    )


def rare_first(train: TrainSet, seed: int) -> TrainSet:
    """Return as many pictures, half of them of the classes rarer than average, drawn with repeats.

    The second phase of the student project that streamface grew out of: start from the first model
    and concentrate on the under-represented classes.
    """
    labels = train.targets.argmax(1).numpy()
    counts = np.bincount(labels, minlength=train.targets.shape[1])
    rare = np.isin(labels, np.flatnonzero(counts < counts.mean()))
    weight = np.where(
        rare, RARE_SHARE / max(1, rare.sum()), (1 - RARE_SHARE) / max(1, (~rare).sum())
    )
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.choice(len(labels), len(labels), p=weight / weight.sum()))
    return TrainSet(
        train.images[rows], train.targets[rows], train.crop_to_image[rows], train.aligned[rows]
    )


def config(
    epochs: int, seed: int, *, peak_rate: float, threads: int = 1, device: str = "cpu"
) -> TrainConfig:
    """Return the training options of a baseline: Adam, mirror images, no averaging to speak of."""
    return TrainConfig(
        epochs=epochs,
        seed=seed,
        optimizer="adam",
        peak_rate=peak_rate,
        ema_pictures=8_000.0,
        align_prob=0.0,
        threads=threads,
        device=device,
        augment=FLIP_ONLY,
    )
