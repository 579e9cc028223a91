"""The emotion recipe: FER-2013 with FER+ votes, framed as it comes and aligned by turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from streamface.align import similarity
from streamface.card import InputSpec
from streamface.evaluation.calibration import fit_offsets
from streamface.frame import EMOTIONS
from streamface.preprocess import crop_into, planes_from_grey
from streamface.training.data import FER_SIDE_PX
from streamface.training.export import Story
from streamface.training.landmarks import find_landmarks, robust_template
from streamface.training.loop import TrainSet, ValidationSet, logits_of
from streamface.training.nets import NetConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from streamface.training.data import EmotionData
    from streamface.training.loop import TrainConfig

NET: Final = NetConfig(channels=1, classes=len(EMOTIONS), dropout=0.05)
ALIGN_PROB: Final = 0.75  # the rest keeps the net right on loosely framed pictures
VOTE_SHARE: Final = 0.5  # FER+ votes are cleaner; the original label is what the test asks for


def landmarks_of(
    data: EmotionData, cache: Path, *, tick: Callable[[], None] = lambda: None
) -> NDArray[np.float32]:
    """Return (N, 5, 2) landmarks of all but test pictures (those are NaN), kept in ``cache``."""
    if cache.exists():
        return np.load(cache)  # type: ignore[no-any-return]
    out = np.full((len(data.images), 5, 2), np.nan, np.float32)
    rows = np.flatnonzero(data.split != "test")
    out[rows] = find_landmarks(data.images[rows], tick=tick)
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, out)
    return out


def input_spec(data: EmotionData, landmarks: NDArray[np.float32]) -> InputSpec:
    """Return what the net sees: grey, as large and framed as FER-2013 Training on average."""
    template = robust_template(landmarks[data.split == "train"])
    return InputSpec(
        size_px=(FER_SIDE_PX, FER_SIDE_PX),
        colour="grey",
        landmarks_px=np.round(template, 2),
        mean=(128.0,),
        std=(64.0,),
    )


def train_set(data: EmotionData, landmarks: NDArray[np.float32], spec: InputSpec) -> TrainSet:
    """Return the pictures worth learning from, their soft targets and both framings."""
    rows = data.training_rows()
    aligned = np.full((len(rows), 2, 3), np.nan, np.float32)
    for i, row in enumerate(rows):
        if np.isfinite(landmarks[row]).all():
            aligned[i] = similarity(spec.landmarks_px, landmarks[row])
    return TrainSet(
        images=torch.from_numpy(data.images[rows, None]),
        targets=torch.from_numpy(data.targets(VOTE_SHARE)[rows]),
        crop_to_image=torch.eye(2, 3).expand(len(rows), 2, 3).contiguous(),
        aligned=torch.from_numpy(aligned),
    )


def validation_set(
    data: EmotionData, landmarks: NDArray[np.float32], spec: InputSpec
) -> ValidationSet:
    """Return PublicTest with its original labels, aligned as ``run`` aligns faces.

    Pictures without landmarks are taken as they are framed.
    """
    rows = np.flatnonzero(data.split == "val")
    crops = np.empty((len(rows), *spec.shape), np.float32)
    for crop, row in zip(crops, rows, strict=True):
        found = bool(np.isfinite(landmarks[row]).all())
        points = landmarks[row] if found else spec.landmarks_px
        crop_into(planes_from_grey(data.images[row]), points, spec, crop)
    return ValidationSet(torch.from_numpy(crops), torch.from_numpy(data.labels[rows]))


def correct_class_shares(net: nn.Module, validation: ValidationSet) -> None:
    """Shift the net's last offsets so that it says each class as often as validation holds it.

    FER+ taggers call a face neutral far more often than FER-2013 does, and rarely fear or disgust;
    the net learns that from its mixed targets, but is asked for FER-2013's labels.
    """
    offsets = fit_offsets(logits_of(net, validation.crops).numpy(), validation.labels.numpy())
    with torch.no_grad():
        net.get_parameter("head.bias").add_(torch.from_numpy(offsets))


def story(config: TrainConfig, epochs_done: int, *, pictures: int, commit: str) -> Story:
    """Return what the card says of the data, the run, and what the net is not for."""
    return Story(
        name="emotion",
        labels=EMOTIONS,
        trained={
            "data": f"FER-2013 Training, {pictures} pictures: without those that FER+ found no "
            "usable face in and without pixel copies of PublicTest and PrivateTest; targets are "
            "half the original label, half the FER+ votes. Class offsets fitted, and the rest "
            "chosen, on PublicTest, its faces "
            "aligned as run aligns them.",
            "licence_of_data": "FER+ votes: MIT (Microsoft). FER-2013's pictures came from an "
            "image search for an ICML 2013 challenge; no formal licence was found.",
            "seed": config.seed,
            "epochs": f"{epochs_done} of {config.epochs}",
            "commit": commit,
            "intended_use": "To annotate video with the facial expression that people would "
            "probably name, for statistics, editing and research.",
            "limits": "An expression is not a feeling, and says little of what a person thinks. "
            "Labels are opinions of a few annotators about pictures that an image search "
            "found; fear, sadness and disgust are often confused. Not for decisions "
            "about people, and not where law forbids emotion recognition, as at work or school.",
        },
    )
