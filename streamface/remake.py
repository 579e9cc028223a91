"""Faces re-made in the stream: another emotion for everybody, or a stand-in for every person.

``Remake`` is the stage behind ``--reenact``; ``StandIns`` draws the people of ``--anonymize synth``
for the stage that covers faces. Both look at all faces of some frames in one batch, remember each
track so that nothing shimmers, and in live use do no more than the time between two frames allows.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from streamface.align import pose, similarity
from streamface.anonymize import cover, with_margin
from streamface.casting import ROUND, Casting
from streamface.classify import can_be_aligned
from streamface.lighting import Lighting
from streamface.memory import StreamMemory
from streamface.paste import Patch, face_mask, grain_of, head_mask, paste
from streamface.preprocess import crop_into
from streamface.resynth import SAME, asked
from streamface.settings import STRENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from streamface.card import InputSpec
    from streamface.casting import Chosen
    from streamface.classify import Predictor
    from streamface.frame import BatchF32, Face, Frame, PointsF32
    from streamface.likeness import Looks
    from streamface.resynth import Inventor, Reenactor

_log = logging.getLogger(__name__)

REMAKE_BATCH_FRAMES: Final = 2
"""Frames whose faces meet in one batch, as for the classifiers."""
_MOST_MAGNIFIED: Final = 2.5
"""Pixels of the crop in one of the frame: of a smaller face a change could hardly be seen."""
_STEADY_S: Final = 0.3
"""Time constant over which what is drawn of a still face is averaged, and where it is cut."""
_DEAF_LEVELS: Final = 3.0
"""Differences of a still face's pixels up to this many levels are not followed at all."""
_DEAF_LEVELS_OF_STRANGERS: Final = 14.0
"""The same of a face that was invented: it owes the source no such likeness."""
_EXPRESSION_S: Final = 0.1
"""Time constant over which an expression is averaged before somebody else shows it."""
_FREE_MOVE: Final = 0.12
"""Movement of a landmark, in distances between eyes and mouth, that is followed at once."""
_STILL_LEVELS: Final = 6.0
"""Change of the source, in levels, at which that averaging has fallen to a third."""
_STILLEST: Final = 0.02
"""Share of a face's pixels whose change is taken for noise: what moves changes by more."""
_CHANGE_OF_NOISE: Final = 2 / math.sqrt(math.pi)
"""Mean difference of two samples of Gaussian noise, in standard deviations."""
_FORGET_S: Final = 2.0
"""A track that was not seen for so long is drawn afresh."""
_FORGET_PERSON_S: Final = 60.0
"""Who stands in for a track is kept longer than any track lives unseen."""
_EMPHASIS: Final = np.float32(1.5)
"""Power of the probabilities of an expression: a face that is drawn shows less than it was told."""
_FIRST_STRANGERS: Final = 4
"""Strangers looked at in a live frame as long as it is not known what one costs."""
_PAUSE_S: Final = 1.0
"""For so long a face that there was no time for is not drawn again; then for twice as long."""
_LONGEST_PAUSE_S: Final = 20.0
"""At the most; whoever was drawn for so long begins anew."""
_DRAWN_ALREADY: Final = 1.25
"""By what factor another face must be larger to be drawn in the place of one that is."""
_FORGIVEN: Final = 0.9
"""What is left of the cost of a face each time that not a single one could be afforded."""
_COLOURFUL_LEVELS: Final = 8.0
"""Mean distance from grey of a face in colour; skin of any kind has twice as much and more."""
FREE_SHARE: Final = 0.7
"""Of the time between two live frames that may be spent on faces; other threads need some."""


@dataclass(slots=True)
class RemakeTally:
    """What was done so far."""

    remade: int = 0
    """Face-frames."""
    skipped: int = 0
    """Face-frames too small, or too oddly seen, to be re-made."""
    hurried: int = 0
    """Face-frames blurred because a live source did not wait."""
    uncast: int = 0
    """Face-frames blurred while it was looked for who stands in."""


class Budget:
    """How many faces of a live frame there is time for; no end of them for files."""

    def __init__(self, seconds: float | None) -> None:
        """seconds: what the faces of one frame may take; None: whatever they need."""
        self._seconds = seconds
        self._per_face_s = 0.0
        self._is_warm = False

    def faces(self, wanted: int, frames: int = 1) -> int:
        """Return how many of ``wanted`` faces, in ``frames`` frames, can be afforded."""
        if self._seconds is None or self._per_face_s <= 0 or not wanted:
            return wanted
        affordable = int(self._seconds * frames / self._per_face_s)
        if not affordable:  # nothing will be learned of the cost: think better of it, and try again
            self._per_face_s *= _FORGIVEN
        return min(wanted, affordable)

    def strangers(self, faces: int) -> int | None:
        """Return how many strangers can be looked at beside that many faces; None: any number.

        To look at one takes about as long as a face.
        """
        if self._seconds is None:
            return None
        if self._per_face_s <= 0:
            return _FIRST_STRANGERS
        return max(0, int(self._seconds / self._per_face_s) - faces)

    def spent(self, seconds: float, faces: int) -> None:
        """Learn what faces cost; a single slow batch does not change the mind.

        The first one counts for nothing: it compiles kernels and fills caches.
        """
        if faces and not self._is_warm:
            self._is_warm = True
        elif faces:
            cost = seconds / faces
            share = 0.1 if self._per_face_s else 1.0
            self._per_face_s += share * (cost - self._per_face_s)


class _Job(NamedTuple):
    """One face of one frame that is to be re-made."""

    frame: Frame
    face: Face
    landmarks_px: PointsF32
    """Where it is cut and put back: the face's own landmarks, calmed."""

    @property
    def key(self) -> tuple[int, int]:
        return self.frame.stream, self.face.track_id


@dataclass(slots=True)
class _Turn:
    """What a track had of the time there was, in seconds of the stream."""

    since_s: float = -math.inf
    """When it began to be given some, frame after frame."""
    given_s: float = -math.inf
    """When it was last given some."""
    back_s: float = -math.inf
    """Before that it is given none."""
    pause_s: float = 0.0
    """How long it was left out last."""

    def give(self, time_s: float) -> None:
        """Give it some of a frame."""
        if not self.is_drawn(time_s):
            self.since_s = time_s
        self.given_s = time_s

    def leave_out(self, time_s: float) -> None:
        """Give it nothing; if it is drawn, not for a while, longer where that comes too often."""
        if self.is_drawn(time_s):
            lasted = time_s - self.since_s > _LONGEST_PAUSE_S
            self.pause_s = _PAUSE_S if lasted else max(_PAUSE_S, 2 * self.pause_s)
            self.pause_s = min(self.pause_s, _LONGEST_PAUSE_S)
            self.back_s = time_s + self.pause_s

    def is_drawn(self, time_s: float) -> bool:
        """Whether it was given some lately, and nothing was in between."""
        return time_s - self.given_s < _PAUSE_S and time_s >= self.back_s


class Turns:
    """Who is drawn where there is no time for everybody: the largest, and the same as before.

    A face that is drawn in one frame and blurred in the next flickers. So whoever is drawn comes
    before somebody who is hardly larger, and whoever had to be left out stays so for a while, twice
    as long each time.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._turns: StreamMemory[dict[int, _Turn]] = StreamMemory(dict)

    def give(self, jobs: Sequence[_Job], frames: int = 1) -> tuple[list[_Job], list[_Job]]:
        """Return the faces of so many frames that there is time for, and the others."""
        able = [job for job in jobs if job.frame.time_s >= self._of(job).back_s]
        left = self._budget.faces(len(able), frames)
        tracks: dict[tuple[int, int], list[int]] = {}
        for i, job in enumerate(able):
            tracks.setdefault(job.key, []).append(i)
        given: set[int] = set()
        for faces in sorted(tracks.values(), key=lambda faces: -self._weight(able[faces[0]])):
            if len(faces) <= left:
                left -= len(faces)
                given.update(faces)
        for i, job in enumerate(able):
            if i in given:
                self._of(job).give(job.frame.time_s)
            else:
                self._of(job).leave_out(job.frame.time_s)
        drawn = [job for i, job in enumerate(able) if i in given]
        kept = {id(job) for job in drawn}
        return drawn, [job for job in jobs if id(job) not in kept]

    def forget(self, frames: Iterable[Frame]) -> None:
        """Drop who was given nothing for long."""
        for frame in frames:
            turns = self._turns.of(frame)
            for track_id, turn in list(turns.items()):
                if frame.time_s - max(turn.given_s, turn.back_s) > _LONGEST_PAUSE_S:
                    del turns[track_id]

    def _of(self, job: _Job) -> _Turn:
        return self._turns.of(job.frame).setdefault(job.face.track_id, _Turn())

    def _weight(self, job: _Job) -> float:
        is_drawn = self._of(job).is_drawn(job.frame.time_s)
        return _height(job.face) * (_DRAWN_ALREADY if is_drawn else 1.0)


@dataclass(slots=True)
class _Memory:
    """What was last drawn of a track."""

    time_s: float
    landmarks_px: PointsF32
    crop: NDArray[np.float32]
    """(3, S, S) in -1..1: the source."""
    drawn: list[NDArray[np.float32]]
    """(3, S, S) pictures each."""
    noise: float = 0.0
    """Standard deviation of the crop's noise over time, in levels; too little rather than more."""


class Steadier:
    """Averages what is drawn of a face over time wherever the source itself stands still.

    Codes flip between neighbours with the camera's noise and with the landmarks' own trembling; a
    face would shimmer with them.
    """

    def __init__(self, deaf_levels: float = _DEAF_LEVELS) -> None:
        self._streams: StreamMemory[dict[int, _Memory]] = StreamMemory(dict)
        self._deaf_levels = deaf_levels

    def job(self, frame: Frame, face: Face) -> _Job:
        """Return a face to be re-made, its landmarks calmed.

        A face is put back where it was cut, so landmarks that lag behind a little do no harm.
        """
        points = face.landmarks_px
        before = self._before(frame, face)
        if before is not None:
            moved = np.abs(points - before.landmarks_px).max() / max(_eyes_to_mouth_px(points), 1.0)
            follow = 1 - math.exp(-(frame.time_s - before.time_s) / _STEADY_S)
            follow = min(1.0, max(follow, moved / _FREE_MOVE))
            points = before.landmarks_px + np.float32(follow) * (points - before.landmarks_px)
        return _Job(frame, face, points)

    def steady(
        self, job: _Job, crop: NDArray[np.float32], drawn: Sequence[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Return the (3, S, S) pictures of a face, calmed; ``crop`` is what they were made of."""
        before = self._before(job.frame, job.face)
        calm, noise = list(drawn), 0.0
        if before is not None:
            keep = math.exp(-(job.frame.time_s - before.time_s) / _STEADY_S)
            change = _change(crop, before.crop)
            still = np.exp(-((change / np.float32(_STILL_LEVELS)) ** 2))
            calm = [
                _followed(
                    old, new, still * np.float32(self._deaf_levels), 1 - np.float32(keep) * still
                )
                for new, old in zip(drawn, before.drawn, strict=True)
            ]
            seen = float(np.quantile(change, _STILLEST)) / _CHANGE_OF_NOISE
            noise = min(seen, keep * before.noise + (1 - keep) * seen)
        self._streams.of(job.frame)[job.face.track_id] = _Memory(
            job.frame.time_s, job.landmarks_px, crop.copy(), calm, noise
        )
        return calm

    def noise(self, job: _Job) -> float:
        """Return the standard deviation of what changes where nothing moves, in levels."""
        before = self._streams.of(job.frame).get(job.face.track_id)
        return before.noise if before is not None else 0.0

    def _before(self, frame: Frame, face: Face) -> _Memory | None:
        before = self._streams.of(frame).get(face.track_id)
        fresh = before is not None and 0 < frame.time_s - before.time_s < _FORGET_S
        return before if fresh else None

    def forget(self, frames: Iterable[Frame]) -> None:
        """Drop tracks that were not seen for long."""
        for frame in frames:
            tracks = self._streams.of(frame)
            for track_id, memory in list(tracks.items()):
                if frame.time_s - memory.time_s > _FORGET_S:
                    del tracks[track_id]

    def clear(self) -> None:
        """Drop all."""
        self._streams.clear()


class Remake:
    """A stage that gives every face another emotion, in place."""

    name = "remake"
    max_batch = REMAKE_BATCH_FRAMES

    def __init__(
        self,
        model: Reenactor,
        emotion: str,
        budget: Budget | None = None,
        *,
        strength: float = STRENGTH,
    ) -> None:
        """emotion: one of EMOTIONS, or resynth.SAME for the way through the codes and back.

        strength: by which a change is multiplied, from 0.
        """
        self.tally = RemakeTally()
        self._model = model
        self._emotion = emotion
        self._strength = strength
        self._budget = budget or Budget(None)
        self._turns = Turns(self._budget)
        self._steadier = Steadier()
        self._mask = face_mask(model.spec)

    def process(self, items: Sequence[Frame]) -> Sequence[Frame]:
        """Re-make the faces of every frame."""
        faces = [(frame, face) for frame in items for face in frame.faces]
        fit = [
            self._steadier.job(frame, face)
            for frame, face in faces
            if can_be_remade(face, self._model.spec)
        ]
        self.tally.skipped += len(faces) - len(fit)
        chosen, rest = self._turns.give(fit, len(items))
        began_s = time.monotonic()
        self._remake(chosen)
        self._budget.spent(time.monotonic() - began_s, len(chosen))
        _blur(rest, self.tally)
        self._steadier.forget(items)
        self._turns.forget(items)
        return items

    def _remake(self, jobs: Sequence[_Job]) -> None:
        crops = crops_of(jobs, self._model.spec)
        made, plain = self._model.remake(crops, asked(self._emotion, len(jobs)))
        wholly = self._emotion == SAME
        for job, crop, *drawn in zip(jobs, crops, made, plain, strict=True):
            new, base = self._steadier.steady(job, crop, drawn)
            new = base + np.float32(self._strength) * tinted_as(crop, new - base)
            patch = Patch(new, None if wholly else base, self._mask)
            paste(job.frame.planes, job.landmarks_px, self._model.spec, patch)
        self.tally.remade += len(jobs)

    def finish(self) -> Sequence[Frame]:
        """Nothing is held back."""
        return ()

    def close(self) -> None:
        """Forget the tracks; the model belongs to whoever opened it."""
        self._steadier.clear()


@dataclass(slots=True)
class _Person:
    """Who stands in for a track, and with which expression."""

    expression: NDArray[np.float32]
    """(7,) probabilities, averaged over time."""
    time_s: float
    casting: Casting | None
    """While it is looked for who stands in; what it knows of the person goes with it."""
    chosen: Chosen | None = None


class Strangers:
    """People who do not exist, drawn in the place of a face: in its light and surroundings."""

    def __init__(self, model: Inventor) -> None:
        self.model = model
        self.mask = head_mask(model.spec)
        """(S, S): what is pasted."""
        # Without its edges, where a net draws what belongs to no face.
        self._face = np.asarray(np.clip(2 * face_mask(model.spec) - 1, 0, 1), np.float32)
        self._light = Lighting(face_mask(model.spec))

    def draw(
        self,
        crops: BatchF32,
        expressions: BatchF32,
        females: BatchF32,
        poses: BatchF32,
        keys: BatchF32,
    ) -> BatchF32:
        """Return (N, 3, S, S) pictures, 0..255; what is given as of ``Inventor.stand_in``."""
        return self.placed(self.model.stand_in(crops, expressions, females, poses, keys), crops)

    def placed(self, made: BatchF32, crops: BatchF32) -> BatchF32:
        """Return faces, (N, 3, S, S) 0..255 and changed in place, in the light of crops."""
        for crop, drawn in zip(crops, made, strict=True):
            lit = tinted_as(crop, self._light.cast_on(drawn, crop))
            drawn[:] = surrounded(lit, crop, self._face, self.mask)
        return made


class Likens(Protocol):
    """Tells what faces look like; see ``likeness.Likeness``."""

    def look(self, crops: BatchF32) -> Looks:
        """Return what (N, 3, S, S) crops in -1..1 look like."""


class StandIns:
    """For every track somebody who does not exist, the same one as long as the track lasts."""

    def __init__(
        self,
        model: Inventor,
        emotion: Predictor,
        likeness: Likens,
        *,
        seed: int | None = None,
        budget: Budget | None = None,
    ) -> None:
        """likeness: says which of some strangers looks least like the person.

        seed: who stands in for whom; None: nobody can find out or repeat it.
        """
        self.tally = RemakeTally()
        self._model = model
        self._strangers = Strangers(model)
        self._emotion = emotion
        self._likeness = likeness
        self._budget = budget or Budget(None)
        self._turns = Turns(self._budget)
        self._steadier = Steadier(_DEAF_LEVELS_OF_STRANGERS)
        self._people: StreamMemory[dict[int, _Person]] = StreamMemory(dict)
        self._entropy = np.random.SeedSequence(seed).entropy

    def draw(self, frame: Frame, faces: Sequence[Face]) -> set[int]:
        """Draw over the faces of a frame; return the track ids of those that were drawn over.

        The others are as they were: whoever calls must cover them.
        """
        fit = [
            self._steadier.job(frame, face)
            for face in faces
            if can_be_remade(face, self._model.spec)
        ]
        self.tally.skipped += len(faces) - len(fit)
        chosen, rest = self._turns.give(fit)
        _hurry(rest, self.tally)
        began_s = time.monotonic()
        drawn, looked_at = self._draw(chosen)
        self._budget.spent(time.monotonic() - began_s, len(drawn) + looked_at)
        self._steadier.forget([frame])
        self._turns.forget([frame])
        self._forget(frame)
        return {job.face.track_id for job in drawn}

    def _draw(self, jobs: Sequence[_Job]) -> tuple[list[_Job], int]:
        """Draw over the faces whose stand-in is known, or found now; return them.

        Return also how many strangers were looked at.
        """
        if not jobs:
            return [], 0
        crops = crops_of(jobs, self._model.spec)
        probs = self._emotion.predict(crops_of(jobs, self._emotion.card.input))
        people = [
            self._person(job, crop, seen)
            for job, crop, seen in zip(jobs, crops, probs, strict=True)
        ]
        looked_at = self._cast(jobs, people)
        ready = [
            (job, crop, person, person.chosen.key)
            for job, crop, person in zip(jobs, crops, people, strict=True)
            if person.chosen is not None
        ]
        self.tally.uncast += len(jobs) - len(ready)
        if ready:
            self._show(*zip(*ready, strict=True))
        return [job for job, *_ in ready], looked_at

    def _show(
        self,
        jobs: Sequence[_Job],
        crops: Sequence[NDArray[np.float32]],
        people: Sequence[_Person],
        keys: Sequence[NDArray[np.float32]],
    ) -> None:
        """Draw over some faces who stands in for them."""
        spec = self._model.spec
        made = self._strangers.draw(
            np.stack(crops),
            emphasised(np.stack([person.expression for person in people])),
            np.array([female_of(job.face) for job in jobs], np.float32),
            np.stack([pose(job.landmarks_px) for job in jobs]),
            np.stack(keys),
        )
        for job, crop, drawn in zip(jobs, crops, made, strict=True):
            (new,) = self._steadier.steady(job, crop, [drawn])
            patch = Patch(new, None, self._strangers.mask, self._grain(job))
            paste(job.frame.planes, job.landmarks_px, spec, patch, seed=job.frame.index)
        self.tally.remade += len(jobs)

    def _grain(self, job: _Job) -> float:
        """Return the noise that a face is given: as fine as the source's, and no livelier.

        What an encoder has frozen is no noise but a pattern; a new one every frame would flicker.
        """
        averaged = 1 / _magnification(job.landmarks_px, self._model.spec)
        lively = self._steadier.noise(job) * max(1.0, averaged)
        return min(lively, grain_of(job.frame.planes, job.landmarks_px))

    def _person(self, job: _Job, crop: NDArray[np.float32], seen: NDArray[np.float32]) -> _Person:
        time_s = job.frame.time_s
        people = self._people.of(job.frame)
        person = people.get(job.face.track_id)
        if person is None:
            casting = self._casting(job, crop, seen)
            person = people[job.face.track_id] = _Person(seen, time_s, casting)
        share = 1 - math.exp(-max(0.0, time_s - person.time_s) / _EXPRESSION_S)
        person.expression = person.expression + np.float32(share) * (seen - person.expression)
        person.time_s = time_s
        return person

    def _casting(self, job: _Job, crop: NDArray[np.float32], seen: NDArray[np.float32]) -> Casting:
        """Begin to look for who stands in for a face, as it is seen now."""
        rng = np.random.default_rng(np.random.SeedSequence(self._entropy, spawn_key=job.key))
        female, turn = female_of(job.face), pose(job.landmarks_px)

        def look_at(keys: BatchF32) -> Looks:
            count = len(keys)
            made = self._strangers.draw(
                np.repeat(crop[None], count, 0),
                np.repeat(emphasised(seen[None]), count, 0),
                np.full(count, female, np.float32),
                np.repeat(turn[None], count, 0),
                keys,
            )
            return self._likeness.look(made / np.float32(127.5) - 1)

        source = self._likeness.look(crop[None]).vectors[0]
        return Casting(source, lambda count: self._model.draw_keys(count, rng), look_at)

    def _cast(self, jobs: Sequence[_Job], people: Sequence[_Person]) -> int:
        """Look for who stands in for those who have nobody; return how many strangers it were.

        Where there is not time for all of them, the largest face comes first.
        """
        nobody = [pair for pair in zip(jobs, people, strict=True) if pair[1].chosen is None]
        affordable = self._budget.strangers(len(jobs) - len(nobody))
        if affordable is not None:
            nobody.sort(key=lambda pair: -_height(pair[0].face))
        looked_at = 0
        for job, person in nobody:
            assert person.casting is not None
            known = self._people.of(job.frame).values()
            others = [each.chosen.look for each in known if each.chosen is not None]
            while person.casting.left and (affordable is None or looked_at < affordable):
                most = ROUND if affordable is None else affordable - looked_at
                looked_at += person.casting.go_on(most, others)
            if not person.casting.left:
                person.chosen, person.casting = person.casting.chosen(others), None
        return looked_at

    def _forget(self, frame: Frame) -> None:
        """Drop who was not seen for long; sooner, while it is known whom he looks like."""
        people = self._people.of(frame)
        for track_id, person in list(people.items()):
            kept_s = _FORGET_PERSON_S if person.chosen is not None else _FORGET_S
            if frame.time_s - person.time_s > kept_s:
                del people[track_id]


def can_be_remade(face: Face, spec: InputSpec) -> bool:
    """Whether a face is large enough in the frame, and seen well enough, to be cut and put back."""
    return can_be_aligned(face) and _magnification(face.landmarks_px, spec) <= _MOST_MAGNIFIED


def _magnification(landmarks_px: PointsF32, spec: InputSpec) -> float:
    """Return how many pixels of the crop lie along one of the frame."""
    to_crop = similarity(landmarks_px, spec.landmarks_px)
    return math.hypot(to_crop[0, 0], to_crop[1, 0])


def crops_of(jobs: Sequence[_Job], spec: InputSpec) -> BatchF32:
    """Return (N, C, H, W) crops of some faces."""
    crops = np.empty((len(jobs), *spec.shape), np.float32)
    for crop, job in zip(crops, jobs, strict=True):
        crop_into(job.frame.planes, job.landmarks_px, spec, crop)
    return crops


def female_of(face: Face) -> float:
    """Return what an inventor is told of a gender: -1 male to 1 female, 0 where it is unknown."""
    if face.gender is None:
        return 0.0
    sure = 2 * face.gender.prob - 1
    return sure if face.gender.label == "female" else -sure


def emphasised(expressions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, 7) probabilities of which the larger ones have grown."""
    powers = expressions**_EMPHASIS
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)


def surrounded(
    drawn: NDArray[np.float32],
    crop: NDArray[np.float32],
    face: NDArray[np.float32],
    head: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return a (3, S, S) picture, 0..255, whose face is the drawn one and fits its surroundings.

    Between the drawn face and what will be seen around it lies a smooth passage from the one to
    the other, made of nothing else: what a net drew beside a face fits nothing, and what was there
    is not to be seen. face, head: (S, S) masks of the face and of all that is pasted. Pulled and
    pushed through a pyramid, as Gortler et al. (The Lumigraph, 1996) fill holes.
    """
    import cv2

    source = (crop + 1) * np.float32(127.5)
    known = np.maximum(face, head == 0).astype(np.float32)
    picture = np.where(head == 0, source, drawn)
    levels = [np.dstack((*(picture * known), known))]
    while levels[-1].shape[0] > 1:
        half = levels[-1].shape[0] // 2
        levels.append(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA))
    filled = levels[-1]
    for level in reversed(levels[:-1]):
        side = level.shape[0]
        coarse = _whole(cv2.resize(filled, (side, side), interpolation=cv2.INTER_LINEAR))
        share = np.minimum(level[..., 3:] * 4, 1)
        filled = coarse + share * (_whole(level) - coarse)
    passage = filled[..., :3].transpose(2, 0, 1)
    return np.asarray(passage + face * (drawn - passage), np.float32)


def _whole(weighted: NDArray[Any]) -> NDArray[np.float32]:
    """Return (S, S, 4) values and weights with all weights made 1; what has none stays 0."""
    return np.asarray(weighted / np.maximum(weighted[..., 3:], 1e-6), np.float32)


def _followed(
    old: NDArray[np.float32],
    new: NDArray[np.float32],
    deaf: NDArray[np.float32],
    share: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return a (3, S, S) picture between two.

    deaf: (S, S) levels that are not followed. share: (S, S) 0..1 of the rest that is.
    """
    away = new - old
    away -= np.clip(away, -deaf, deaf)
    away *= share
    return np.asarray(old + away, np.float32)


def _change(now: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (S, S) how much two (3, S, S) crops in -1..1 differ around each pixel, in levels."""
    import cv2

    change = np.abs(now - before).mean(0) * np.float32(127.5)
    return np.asarray(cv2.blur(change, (5, 5)), np.float32)  # a single pixel is no movement


def tinted_as(crop: NDArray[np.float32], change: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a (3, S, S) change, or face, without its colour where a (3, S, S) crop has none.

    The codes know few grey faces, and put colour into lips and eyes.
    """
    colour = float(np.abs(crop - _luma(crop)).mean()) * 127.5
    if colour >= _COLOURFUL_LEVELS:
        return change
    grey = _luma(change)
    return np.asarray(grey + np.float32(colour / _COLOURFUL_LEVELS) * (change - grey), np.float32)


def _luma(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (1, S, S): BT.601 will do for what is nearly grey."""
    weights = np.array((0.299, 0.587, 0.114), np.float32)
    return np.asarray(np.tensordot(weights, picture, 1)[None], np.float32)


def _eyes_to_mouth_px(landmarks_px: PointsF32) -> float:
    """Return the distance from eyes to mouth, which turning a head changes least."""
    eyes, mouth = landmarks_px[:2].mean(0), landmarks_px[3:].mean(0)
    return float(np.hypot(*(mouth - eyes)))


def _height(face: Face) -> float:
    return face.box_px[3] - face.box_px[1]


def _blur(jobs: Sequence[_Job], tally: RemakeTally) -> None:
    """Blur what there was no time for: nothing passes for re-made that is not."""
    for job in jobs:
        cover(job.frame.planes, with_margin(np.array(job.face.box_px), 0.0), "blur")
    _hurry(jobs, tally)


def _hurry(jobs: Sequence[_Job], tally: RemakeTally) -> None:
    """Count faces that are blurred for want of time; the first time, say so."""
    if jobs and not tally.hurried:
        _log.warning("re-making faces does not keep up with the source; some are blurred instead")
    tally.hurried += len(jobs)
