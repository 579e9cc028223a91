"""What a frame says, as plain data: the schema of every data file (docs/DATA.md describes it).

Pure functions from ``Frame`` to JSON-ready values and flat rows, and back; ``datasinks`` writes
them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from streamface.frame import EMOTIONS, GENDERS, LANDMARKS, Emotion, Face, Gender

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.frame import Frame

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Cell: TypeAlias = int | float | str | None

SCHEMA: Final = "streamface.frames/1"
"""Name and version; the number grows when a reader of the old one would break."""

COLUMNS: Final[dict[str, type[int | float | str]]] = {
    "source": str,
    "frame": int,
    "pts": int,
    "time_s": float,
    "track_id": int,
    **dict.fromkeys(("x0", "y0", "x1", "y1"), float),
    **{f"{name}_{axis}": float for name in LANDMARKS for axis in "xy"},
    "score": float,
    "covered_by": str,
    "emotion": str,
    **{f"prob_{name}": float for name in EMOTIONS},
    **{f"smoothed_{name}": float for name in EMOTIONS},
    "gender": str,
    "gender_prob": float,
}
"""Columns of the flat form, one row a face, and the type of their cells; any may be null."""

# A hundredth of a pixel and 1e-5 of probability are far below what the models resolve.
_PX_DIGITS: Final = 2
_PROB_DIGITS: Final = 5
_TIME_DIGITS: Final = 6

_UNITS: Final = (
    "pixels of the upright frame, x to the right, y down, pixel centres at +0.5; boxes are "
    "half-open x0, y0, x1, y1; time_s in seconds; scores and probabilities 0 to 1"
)


def header(
    *, source: object, models: Mapping[str, str], options: Mapping[str, object]
) -> dict[str, Json]:
    """Return what a data file says of itself: schema, version, names, units and provenance.

    source: what was analysed. models: model name to SHA-256. options: what the run was asked
    for. All three may hold any values: what JSON does not know is written as text.
    """
    return {
        "schema": SCHEMA,
        "streamface": version(),
        "source": to_json(source),
        "emotions": list(EMOTIONS),
        "genders": list(GENDERS),
        "landmarks": list(LANDMARKS),
        "units": _UNITS,
        "models": to_json(models),
        "options": to_json(options),
    }


def version() -> str:
    """Return the version of streamface that is installed."""
    try:
        return metadata.version("streamface")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def to_json(value: object) -> Json:
    """Return ``value`` as plain JSON data: no NaN, tuples as lists, anything unknown as text."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(str(key)): to_json(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes | str):
        return [to_json(item) for item in value]
    return _text(str(value))


def frame_record(frame: Frame, source: str, *, exact: bool = False) -> dict[str, Json]:
    """Return one frame and its faces as plain data, faces in the order they stand in.

    exact: leave numbers unrounded, for ``read_faces`` to give back the very same faces.
    """
    return {
        "source": _text(source),
        "frame": frame.index,
        "pts": frame.pts,
        "time_s": round(frame.time_s, _TIME_DIGITS),
        "faces": [_face_record(face, exact=exact) for face in frame.faces],
    }


def _face_record(face: Face, *, exact: bool) -> dict[str, Json]:
    emotion, gender = face.emotion, face.gender
    px, prob = (None, None) if exact else (_PX_DIGITS, _PROB_DIGITS)
    return {
        "track_id": _track_id(face),
        "box": [_rounded(value, px) for value in face.box_px],
        "landmarks": [
            [_rounded(value, px) for value in point] for point in face.landmarks_px.tolist()
        ],
        "score": _rounded(face.score, prob),
        "emotion": emotion.label if emotion else None,
        "emotion_probs": _named(emotion.probs, prob) if emotion else None,
        "emotion_smoothed": _named(emotion.smoothed, prob) if emotion else None,
        "gender": gender.label if gender else None,
        "gender_prob": _rounded(gender.prob, prob) if gender else None,
        "covered_by": face.covered_by,
    }


def read_faces(record: Mapping[str, Any]) -> tuple[Face, ...]:
    """Return the faces of a ``frame_record``, as exact as that is."""
    return tuple(_read_face(each) for each in record["faces"])


def _read_face(record: Mapping[str, Any]) -> Face:
    emotion = gender = None
    if record["emotion"] is not None:
        probs, smoothed = record["emotion_probs"], record["emotion_smoothed"]
        emotion = Emotion(record["emotion"], _array(probs.values()), _array(smoothed.values()))
    if record["gender"] is not None:
        gender = Gender(record["gender"], _number(record["gender_prob"]))
    x0, y0, x1, y1 = (_number(each) for each in record["box"])
    return Face(
        (x0, y0, x1, y1),
        np.stack([_array(point) for point in record["landmarks"]]),
        _number(record["score"]),
        -1 if record["track_id"] is None else record["track_id"],
        record["covered_by"],
        emotion,
        gender,
    )


def _array(values: Iterable[float | None]) -> NDArray[np.float32]:
    return np.array([_number(value) for value in values], np.float32)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def face_rows(frame: Frame, source: str) -> Iterator[tuple[Cell, ...]]:
    """Yield one flat row for each face, its cells in the order of ``COLUMNS``."""
    for face in frame.faces:
        numbers = chain(face.box_px, face.landmarks_px.ravel().tolist())
        gender = face.gender
        yield (
            _text(source),
            frame.index,
            frame.pts,
            round(frame.time_s, _TIME_DIGITS),
            _track_id(face),
            *(_rounded(value, _PX_DIGITS) for value in numbers),
            _rounded(face.score, _PROB_DIGITS),
            face.covered_by,
            *_emotion_cells(face.emotion),
            gender.label if gender else None,
            _rounded(gender.prob, _PROB_DIGITS) if gender else None,
        )


def _emotion_cells(emotion: Emotion | None) -> tuple[Cell, ...]:
    if emotion is None:
        return (None,) * (1 + 2 * len(EMOTIONS))
    return (
        emotion.label,
        *_probs(emotion.probs, _PROB_DIGITS),
        *_probs(emotion.smoothed, _PROB_DIGITS),
    )


def _named(probs: NDArray[np.float32], digits: int | None) -> dict[str, Json]:
    return dict(zip(EMOTIONS, _probs(probs, digits), strict=True))


def _probs(probs: NDArray[np.float32], digits: int | None) -> list[float | None]:
    return [_rounded(value, digits) for value in probs.tolist()]


def _track_id(face: Face) -> int | None:
    return face.track_id if face.track_id >= 0 else None


def _text(text: str) -> str:
    """Return ``text`` with what UTF-8 cannot hold (a file name of odd bytes) spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _rounded(value: float, digits: int | None) -> float | None:
    # float(): a numpy scalar would round to a numpy scalar, which json refuses. + 0.0: no "-0.0".
    if not math.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits) + 0.0
