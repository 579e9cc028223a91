"""Emotion and gender of faces: aligned crops, batched across faces and frames, kept per track."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from streamface.frame import GENDERS, Emotion, Frame, Gender
from streamface.memory import StreamMemory
from streamface.preprocess import crop_faces
from streamface.smoothing import EmotionSmoother, SmoothingSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streamface.backends.device_crops import Crops
    from streamface.card import ModelCard
    from streamface.frame import BatchF32, Face, Planes

# Smoothing has a time constant of a quarter second: more looks do not change a label.
_LOOKS_HZ: Final = 10.0
# A track that was not seen for this long is forgotten: longer than any tracker coasts.
_FORGET_S: Final = 10.0
# A mean of this many looks tells a person's gender as well as any more.
_GENDER_LOOKS: Final = 5


class Predictor(Protocol):
    """What a ``model.Model`` offers here."""

    card: ModelCard

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """Of the crops it likes best: float32 or uint8."""

    @property
    def takes_tensors(self) -> bool:
        """Whether ``predict`` takes crops in a GPU's memory too."""

    def predict(self, batch: NDArray[Any] | Crops) -> BatchF32:
        """Return the (N, K) probabilities of an (N, C, H, W) batch."""


@dataclass(frozen=True, slots=True)
class ClassifySettings:
    """How often a tracked face is looked at."""

    emotion_every: int | None = None
    """Frames between two looks at a track's emotion; between them the last raw values stand.
    None: about 10 looks a second, which is every 3rd frame at 30 fps, every 2nd at 24 and 25."""
    gender_every_s: float = 1.0
    """Seconds between two looks at a track's gender, once it had its first five."""
    smoothing: SmoothingSettings = field(default_factory=SmoothingSettings)

    def __post_init__(self) -> None:
        if self.emotion_every is not None and self.emotion_every < 1:
            raise ValueError(f"emotion_every must be at least 1, got {self.emotion_every}")


@dataclass(slots=True)
class _Track:
    """What is remembered of one track."""

    smoother: EmotionSmoother
    seen_s: float = 0.0
    emotion_frame: int | None = None
    emotion_s: float = 0.0
    emotion: Emotion | None = None
    gender_looks: int = 0
    gender_s: float = 0.0
    gender_log_odds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Look:
    """One face of one frame that a net is to look at."""

    frame: int
    face: int
    track: _Track


class FaceClassifier:
    """Fills in ``emotion`` and ``gender`` of every face of a few frames at once.

    Holds the memory of the tracks, so frames must come in order and from one thread. Results do
    not depend on how frames are grouped into calls, up to the arithmetic of the runtime.
    """

    def __init__(
        self,
        emotion: Predictor | None,
        gender: Predictor | None,
        settings: ClassifySettings | None = None,
    ) -> None:
        """emotion, gender: the nets, or None for one that is not wanted."""
        self._emotion = emotion
        self._gender = gender
        self._settings = settings or ClassifySettings()
        self.rarer = 1
        """By what factor looks at emotions are rarer than asked for, while there is no time."""
        self._streams: StreamMemory[dict[int, _Track]] = StreamMemory(dict)
        self._uncertain_below = emotion.card.uncertain_below if emotion is not None else 0.0

    def classify(self, frames: Sequence[Frame]) -> None:
        """Replace the faces of ``frames`` by classified ones."""
        emotion_looks: list[_Look] = []
        gender_looks: list[_Look] = []
        for i, frame in enumerate(frames):
            for j, face in enumerate(frame.faces):
                look = _Look(i, j, self._track(frame, face))
                if not can_be_aligned(face):
                    continue
                if self._emotion is not None and self._emotion_due(look.track, frame):
                    emotion_looks.append(look)
                if self._gender is not None and self._gender_due(look.track, frame):
                    gender_looks.append(look)
        emotions = self._predict(self._emotion, frames, emotion_looks)
        genders = self._predict(self._gender, frames, gender_looks)
        self._take_genders(gender_looks, genders)
        seen = {
            (look.frame, look.face): probs
            for look, probs in zip(emotion_looks, emotions, strict=True)
        }
        for i, frame in enumerate(frames):
            frame.faces = tuple(
                self._with_readings(frame, face, seen.get((i, j)))
                for j, face in enumerate(frame.faces)
            )
        self._forget(frames)

    def _track(self, frame: Frame, face: Face) -> _Track:
        tracks = self._streams.of(frame)
        track = tracks.get(face.track_id)
        if track is None:
            smoother = EmotionSmoother(self._settings.smoothing, self._uncertain_below)
            track = tracks[face.track_id] = _Track(smoother)
        track.seen_s = frame.time_s
        return track

    def _emotion_due(self, track: _Track, frame: Frame) -> bool:
        every = self._settings.emotion_every
        if track.emotion_frame is not None:
            if every is not None and frame.index - track.emotion_frame < every * self.rarer:
                return False
            # A quarter of a period of slack: at 13 fps and below every frame is looked at.
            elapsed_s = abs(frame.time_s - track.emotion_s)
            if every is None and elapsed_s * _LOOKS_HZ < self.rarer - 0.26:
                return False
        track.emotion_frame, track.emotion_s = frame.index, frame.time_s
        return True

    def _gender_due(self, track: _Track, frame: Frame) -> bool:
        early = track.gender_looks < _GENDER_LOOKS
        # The first looks are spread a little, for frames in a row say the same thing.
        wait_s = 0.2 if early else self._settings.gender_every_s
        if track.gender_looks and frame.time_s - track.gender_s < wait_s:
            return False
        track.gender_looks += 1
        track.gender_s = frame.time_s
        return True

    def _predict(
        self, model: Predictor | None, frames: Sequence[Frame], looks: Sequence[_Look]
    ) -> BatchF32:
        if model is None or not looks:
            return np.empty((len(looks), 0), np.float32)
        faces = [
            (frames[look.frame], frames[look.frame].faces[look.face].landmarks_px) for look in looks
        ]
        crops = crop_faces(
            faces, model.card.input, model.input_dtype, on_device=model.takes_tensors
        )
        return model.predict(crops)

    def _take_genders(self, looks: Sequence[_Look], probs: BatchF32) -> None:
        """Add one look's log-odds of female to its track's mean, an even vote of all looks."""
        for look, (male, female) in zip(looks, probs, strict=True):
            odds = float(np.log(max(float(female), 1e-6)) - np.log(max(float(male), 1e-6)))
            track = look.track
            # After the first looks the mean becomes a slow average, in case a track was mixed up.
            weight = 1.0 / min(track.gender_looks, 4 * _GENDER_LOOKS)
            track.gender_log_odds += weight * (odds - track.gender_log_odds)

    def _with_readings(self, frame: Frame, face: Face, probs: NDArray[np.float32] | None) -> Face:
        track = self._streams.of(frame)[face.track_id]
        if probs is not None:
            track.emotion = track.smoother.update(probs, frame.time_s)
        return replace(face, emotion=track.emotion, gender=_gender(track))

    def _forget(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            tracks = self._streams.of(frame)
            for track_id, track in list(tracks.items()):
                if abs(frame.time_s - track.seen_s) > _FORGET_S:
                    del tracks[track_id]


def can_be_aligned(face: Face) -> bool:
    """Whether the landmarks span anything; a detector's worst guesses may not."""
    points = face.landmarks_px
    return bool(np.isfinite(points).all() and np.ptp(points, axis=0).max() >= 1.0)


def _gender(track: _Track) -> Gender | None:
    if track.gender_looks == 0:
        return None
    female = 1.0 / (1.0 + float(np.exp(-track.gender_log_odds)))
    male_name, female_name = GENDERS
    return Gender(female_name, female) if female >= 0.5 else Gender(male_name, 1.0 - female)


def analyze(
    planes: Planes, faces: Sequence[Face], emotion: Predictor | None, gender: Predictor | None
) -> tuple[Face, ...]:
    """Return the faces of a single picture with emotion and gender, numbered from 1 in order."""
    numbered = tuple(replace(face, track_id=number) for number, face in enumerate(faces, start=1))
    frame = Frame(0, 0, 0, Fraction(1), planes, faces=numbered)
    FaceClassifier(emotion, gender).classify([frame])
    return frame.faces
