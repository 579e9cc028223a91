"""How well a classifier's shipped file answers, through the pre-processing that ``run`` uses."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from streamface.card import load, save
from streamface.detect import YuNetDetector, find_model
from streamface.errors import ModelError, UsageError
from streamface.evaluation.calibration import expected_error
from streamface.frame import EMOTIONS, GENDERS
from streamface.model import DEFAULT_MODELS, Model, card_path
from streamface.preprocess import crop_into, planes_from_grey
from streamface.training.data import UNKNOWN_AGE, load_emotion, load_folder, load_gender
from streamface.training.folders import TIGHT_PX, planes_of
from streamface.training.landmarks import find_landmarks

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from streamface.card import InputSpec, ModelCard
    from streamface.frame import BatchF32, Planes, PointsF32

_Score: TypeAlias = "Callable[[Model, Path, argparse.Namespace], dict[str, object]]"
FERPLUS_OUTPUT: Final = "logits_ferplus"
"""The ONNX output of an emotion model's second answer."""
_EMOTION_SPLITS: Final = {"train": "train", "public": "val", "private": "test"}
_HEADER: Final = ("task", "model", "data", "split", "sha256", "provider", "ms_per_face")
_CHUNK: Final = 256
_TIMED: Final = 200


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What a model says of labelled faces."""

    probs: NDArray[np.float32]
    """(N, K)."""
    labels: NDArray[np.int64]
    """(N,)."""
    ms_per_face: float
    """Median wall time of crop and net, one face at a time, one thread."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """(N,) True where the likeliest class is the label."""
        return np.asarray(self.probs.argmax(1) == self.labels)

    def summary(self, names: Sequence[str]) -> dict[str, object]:
        """Return what every classifier's report holds. confusion: rows true, columns said."""
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (self.labels, self.probs.argmax(1)), 1)
        shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
        return {
            "faces": len(self.labels),
            "accuracy": mean(self.right),
            "recall": {name: round(float(shares[i, i]), 4) for i, name in enumerate(names)},
            "confusion": {
                name: dict(zip(names, map(int, confusion[i]), strict=True))
                for i, name in enumerate(names)
            },
            "ece": round(expected_error(self.probs, self.labels), 4),
            "ms_per_face": round(self.ms_per_face, 3),
        }


def add_emotion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the emotion evaluation."""
    _add_arguments(parser, "FER-2013 npz or csv, or a folder of pictures by class")
    parser.add_argument(
        "--split",
        choices=tuple(_EMOTION_SPLITS),
        default="private",
        help="part of FER-2013 (default: %(default)s; choose models on public)",
    )
    parser.add_argument(
        "--as-framed", action="store_true", help="score pictures as they are, not aligned"
    )


def add_gender_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the gender evaluation."""
    _add_arguments(parser, "FairFace zip or folder with labels.csv, or a folder by class")
    parser.add_argument("--split", default="val", help="as in labels.csv (default: %(default)s)")


def training_faces(path: Path, spec: InputSpec, count: int) -> Iterator[tuple[Planes, PointsF32]]:
    """Yield up to ``count`` training faces of an emotion set (grey crops) or a gender set (RGB).

    They are spread evenly over the set, each with its (5, 2) landmarks; faces that are not found
    are left out.
    """
    if spec.colour == "rgb":
        data = load_gender(path)
        rows = _spread(np.flatnonzero(data.split == "train"), count)
        known = data.only(rows).found()
        for picture, landmarks in zip(
            known.pictures(range(len(rows))), known.landmarks_px, strict=True
        ):
            if np.isfinite(landmarks).all():
                yield planes_of(picture), landmarks
        return
    emotions = load_emotion(path)
    rows = _spread(emotions.training_rows(), count)
    for image, landmarks in zip(
        emotions.images[rows], find_landmarks(emotions.images[rows]), strict=True
    ):
        if np.isfinite(landmarks).all():
            yield planes_from_grey(image), landmarks


def run_emotion(args: argparse.Namespace) -> dict[str, object]:
    """Score the emotion model on FER-2013 or a folder; the report is JSON-able.

    Raises SourceError or UsageError for unusable data, ModelError for an unusable model.
    """
    return _run(args, "emotion", _score_emotion)


def run_gender(args: argparse.Namespace) -> dict[str, object]:
    """Score the gender model on FairFace or a folder; the report is JSON-able.

    Raises SourceError or UsageError for unusable data, ModelError for an unusable model.
    """
    return _run(args, "gender", _score_gender)


def _run(args: argparse.Namespace, name: str, score: _Score) -> dict[str, object]:
    path = card_path(args.model or DEFAULT_MODELS[name])
    model = Model.open(path)
    try:
        report = score(model, path, args)
    finally:
        model.close()
    if args.record:
        record(report, path)
    return report


def _score_emotion(model: Model, card: Path, args: argparse.Namespace) -> dict[str, object]:
    """Score FER-2013 with its faces found and aligned, as ``run`` does, or a folder.

    accuracy_as_framed is the accuracy without alignment; pictures in which no face is found are
    always taken as they are framed. ferplus_accuracy is that of the answer trained on FER+, where
    the model has one; ferplus_accuracy_as_shown that of the answer which all else is about. That
    answer itself is scored on the pictures with a FER+ majority, by that.
    """
    path, split = args.data, args.split
    if path.is_dir():
        return _score_folder(model, path, "emotion", EMOTIONS, tight=model.card.input)
    data = load_emotion(path)
    by_votes = model.card.outputs == (FERPLUS_OUTPUT,)
    truth = data.ferplus_labels() if by_votes else data.labels
    rows = np.flatnonzero((data.split == _EMOTION_SPLITS[split]) & (truth >= 0))
    if not len(rows):
        raise UsageError(f"{path} holds no pictures of the split '{split}'")
    images = data.images[rows]
    template = framed_landmarks(model.card.input, (images.shape[2], images.shape[1]))
    found = find_landmarks(images)
    missed = ~np.isfinite(found).all(axis=(1, 2))
    found[missed] = template
    planes = [planes_from_grey(image) for image in images]
    if args.as_framed:
        found[:] = template
    labels = truth[rows]
    answers = ask(model, zip(planes, found, strict=True), labels)
    as_framed = ask(model, ((p, template) for p in planes), labels)
    said = answers.probs.argmax(1)
    by_ferplus = said
    ferplus_card = None if by_votes else _ferplus_answer(model.card, card)
    if ferplus_card is not None:
        other = Model.open(ferplus_card)
        by_ferplus = ask(other, zip(planes, found, strict=True), labels).probs.argmax(1)
        other.close()
    afraid = answers.labels == EMOTIONS.index("fear")
    original = ~data.near_copy[rows]
    majority = data.ferplus_labels()[rows]
    clear = majority >= 0
    return {
        **_header(model, path, split),
        **answers.summary(EMOTIONS),
        "accuracy_as_framed": mean(as_framed.right),
        "faces_not_aligned": int(missed.sum()),
        "accuracy_clean": mean(answers.right[original]),
        "faces_clean": int(original.sum()),
        "fear_as_surprise": mean(said[afraid] == EMOTIONS.index("surprise")),
        "ferplus_accuracy": mean(by_ferplus[clear] == majority[clear]),
        "ferplus_accuracy_as_shown": mean(said[clear] == majority[clear]),
        "faces_ferplus": int(clear.sum()),
    }


def _ferplus_answer(shown: ModelCard, card: Path) -> Path | None:
    """Return the card of the same ONNX's answer by FER+'s convention, if it stands beside."""
    for path in sorted(card.parent.glob("*.json")):
        try:
            other = load(path)
        except ModelError:  # some other JSON
            continue
        if other.onnx == shown.onnx and other.outputs == (FERPLUS_OUTPUT,):
            return path
    return None


def _score_gender(model: Model, _: Path, args: argparse.Namespace) -> dict[str, object]:
    path, split = args.data, args.split
    data = load_gender(path)
    if path.is_dir() and not data.race.any():
        return _score_folder(model, path, "gender", GENDERS)
    if split not in data.split:
        known = ", ".join(sorted(set(data.split)))
        raise UsageError(f"{path} has no split '{split}'; it has {known}")
    data = data.found()
    with_face = np.isfinite(data.landmarks_px).all((1, 2))
    rows = np.flatnonzero((data.split == split) & with_face)
    pictures = (planes_of(picture) for picture in data.pictures(rows))
    answers = ask(model, zip(pictures, data.landmarks_px[rows], strict=True), data.labels[rows])
    adult = data.adult[rows]
    groups = _by_group(answers, data.race[rows], adult)
    ages = data.age_groups()[rows]
    return {
        **_header(model, path, split),
        **answers.summary(GENDERS),
        "accuracy_adults": mean(answers.right[adult]),
        "faces_adults": int(adult.sum()),
        "faces_not_found": int(((data.split == split) & ~with_face).sum()),
        "by_group": groups,
        "worst_group_error_adults": max((g["error"] for g in groups.values()), default=None),
        "by_age": {
            age: {"error": round(1 - float(hits.mean()), 4), "faces": len(hits)}
            for age in sorted(set(ages), key=_youngest)
            if len(hits := answers.right[ages == age])
        },
    }


def ask(
    model: Model, faces: Iterable[tuple[Planes, PointsF32]], labels: NDArray[np.int64]
) -> Answers:
    """Return a model's answers for faces, each planes and (5, 2) landmarks in their pixels."""
    spec = model.card.input
    probs: list[NDArray[np.float32]] = []
    times_s: list[float] = []
    crops: BatchF32 = np.empty((_CHUNK, *spec.shape), np.float32)
    filled = 0
    for planes, landmarks in faces:
        began_s = time.perf_counter()
        crop_into(planes, landmarks, spec, crops[filled])
        if len(times_s) < _TIMED:
            model.predict(crops[filled : filled + 1])
            times_s.append(time.perf_counter() - began_s)
        filled += 1
        if filled == _CHUNK:
            probs.append(model.predict(crops))
            filled = 0
    probs.append(model.predict(crops[:filled]))
    return Answers(np.concatenate(probs), labels, 1e3 * float(np.median(times_s)))


def framed_landmarks(spec: InputSpec, size_px: tuple[int, int]) -> PointsF32:
    """Return (5, 2) landmarks that make the whole picture the crop: how FER-2013 is framed."""
    stretch = np.array(size_px, np.float32) / np.array(spec.size_px, np.float32)
    return np.asarray(spec.landmarks_px * stretch, np.float32)


def mean(values: NDArray[np.bool_]) -> float | None:
    """Return the share of True values to four digits; None of none."""
    return round(float(values.mean()), 4) if values.size else None


def _add_arguments(parser: argparse.ArgumentParser, data: str) -> None:
    parser.add_argument("--data", type=Path, required=True, help=data)
    parser.add_argument(
        "--model", help="shipped name or path of a card (default: the model that run uses)"
    )
    parser.add_argument(
        "--record", action="store_true", help="write the figures into the model's card too"
    )


def record(report: dict[str, object], model: str | Path) -> None:
    """Write a report's figures into the metrics of a model's card, under data and split."""
    path = card_path(model)
    card = load(path)
    known = card.trained.get("metrics", {})
    metrics = dict(known) if isinstance(known, dict) else {}
    figures = {name: value for name, value in report.items() if name not in _HEADER}
    metrics[f"{report['data']} {report['split']}"] = figures
    save(replace(card, trained={**card.trained, "metrics": metrics}), path)


def _header(model: Model, path: Path, split: str) -> dict[str, object]:
    return {
        "task": "emotion" if model.card.labels == EMOTIONS else "gender",
        "model": model.card.name,
        "data": path.name,
        "split": split,
        "sha256": model.card.sha256,
        "provider": model.provider,
    }


def _by_group(
    answers: Answers, race: NDArray[np.str_], adult: NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """Return error and count of adults for each race and gender."""
    out: dict[str, dict[str, float]] = {}
    for name in sorted(set(race)):
        for label, gender in enumerate(GENDERS):
            member = adult & (race == name) & (answers.labels == label)
            if member.any():
                error = round(1 - float(answers.right[member].mean()), 4)
                out[f"{name} {gender}"] = {"error": error, "faces": int(member.sum())}
    return out


def _spread(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]


def _youngest(age_group: str) -> int:
    digits = age_group.split("-", maxsplit=1)[0].rstrip("+")
    return int(digits) if digits.isdigit() else UNKNOWN_AGE


def _score_folder(
    model: Model, path: Path, column: str, names: Sequence[str], *, tight: InputSpec | None = None
) -> dict[str, object]:
    """Score pictures by class: the largest face of each, found and aligned as ``run`` does.

    Pictures without a found face are counted apart. With ``tight``, small pictures are taken as
    they are framed.
    """
    pictures, labels, files = load_folder(path, names, column)
    detector = YuNetDetector(find_model())
    faces: list[tuple[Planes, PointsF32]] = []
    kept: list[int] = []
    for i, picture in enumerate(pictures):
        planes = planes_of(picture)
        small = tight is not None and max(planes.size_px) <= TIGHT_PX
        found = () if small else detector.detect(planes)
        if small and tight is not None:
            faces.append((planes, framed_landmarks(tight, planes.size_px)))
        elif found:
            largest = max(found, key=lambda f: f.box_px[2] - f.box_px[0])
            faces.append((planes, largest.landmarks_px))
        if small or found:
            kept.append(i)
    if not faces:
        raise UsageError(f"{path}: no face was found in any of its {len(files)} pictures")
    answers = ask(model, faces, labels[kept])
    missed = [file for i, file in enumerate(files) if i not in set(kept)]
    return {
        **_header(model, path, "folder"),
        **answers.summary(names),
        "without_face": missed,
    }
