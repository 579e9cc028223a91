"""An emotion net that nothing else was trained against: it says whether a re-made face convinces.

It shares neither weights, seed nor architecture with the shipped emotion net, whose answers teach
the re-synthesis; otherwise that would be judged by its own teacher.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor, nn

from streamface.evaluation.calibration import fit_offsets
from streamface.frame import EMOTIONS
from streamface.training import emotion
from streamface.training.export import Answer
from streamface.training.loop import logits_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamface.card import InputSpec
    from streamface.training.data import EmotionData
    from streamface.training.loop import TrainConfig, TrainSet, ValidationSet

SEED: Final = 77
"""Not the shipped net's."""
VOTE_SHARE: Final = 0.4
"""Of FER+'s taggers in its one answer; the rest is FER-2013's label, which knows fear better."""


class Judge(nn.Module):
    """Plain convolutions, pooled by maximum: (N, 1, 48, 48) to (N, 7) logits."""

    def __init__(self, classes: int = len(EMOTIONS)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = 1
        for outer, kernel, pooled in (
            (32, 5, True), (48, 3, False), (64, 3, True), (96, 3, False), (128, 3, True),
            (192, 3, False), (192, 3, False),
        ):  # fmt: skip
            layers += [
                nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(outer),
                nn.GELU(),
            ]
            if pooled:
                layers.append(nn.MaxPool2d(2))
            inner = outer
        self.layers = nn.Sequential(*layers)
        self.hidden = nn.Sequential(nn.Linear(inner, 128), nn.GELU(), nn.Dropout(0.3))
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, classes) logits of (N, 1, 48, 48) normalised crops."""
        return cast("Tensor", self.head(self.hidden(self.layers(x).mean((2, 3)))))


def train_set(data: EmotionData, landmarks: NDArray[np.float32], spec: InputSpec) -> TrainSet:
    """Return FER-2013 Training as the emotion recipe prepares it, under one mixed target."""
    whole = emotion.train_set(data, landmarks, spec)
    mixed = data.targets(VOTE_SHARE if emotion.has_votes(data) else 0.0)[data.training_rows()]
    return replace(whole, targets=torch.from_numpy(mixed))


def correct_class_shares(net: Judge, validation: ValidationSet) -> None:
    """Shift the offsets so that each class is said as often as validation has it."""
    offsets = fit_offsets(logits_of(net, validation.crops).numpy(), validation.labels.numpy())
    with torch.no_grad():
        net.head.bias.add_(torch.from_numpy(offsets))


def answer(
    validation: ValidationSet, config: TrainConfig, epochs_done: int, *, commit: str
) -> Answer:
    """Return what the judge's card says."""
    return Answer(
        name="judge-emotion",
        labels=EMOTIONS,
        validation=validation,
        trained={
            "data": f"FER-2013 Training as for the emotion net; targets: {VOTE_SHARE:.0%} FER+ "
            "votes, the rest its own label. Class offsets fitted on PublicTest.",
            "seed": config.seed,
            "epochs": f"{epochs_done} of {config.epochs}",
            "commit": commit,
            "intended_use": "To judge faces that streamface made or altered "
            "(tools/evaluate.py resynth); run does not use it.",
            "limits": "As the emotion net's.",
        },
    )
