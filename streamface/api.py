"""The Python API: a generator over a source's frames, and one picture at a time."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from streamface.kernelcache import prepare
from streamface.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from streamface.detect import YuNetDetector
    from streamface.frame import Face, Frame, ImageU8
    from streamface.model import Model
    from streamface.records import Json

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """One processed frame."""

    source: str
    """Name of the input; passwords in URLs are masked."""
    _frame: Frame

    @property
    def frame(self) -> int:
        """Number of the frame within its source, from 0."""
        return self._frame.index

    @property
    def time_s(self) -> float:
        """Presentation time in seconds, the source's own."""
        return self._frame.time_s

    @property
    def faces(self) -> tuple[Face, ...]:
        """The faces, best detection score first."""
        return self._frame.faces

    def rgb(self) -> ImageU8:
        """Return the picture as (H, W, 3) uint8 RGB; with labels if an output was asked for."""
        return self._frame.planes.to_rgb()

    def to_dict(self) -> dict[str, Json]:
        """Return what the JSONL output would hold for this frame."""
        from streamface.records import frame_record

        return frame_record(self._frame, self.source)


def stream(
    source: str | int | Path | Sequence[str | int | Path], **options: object
) -> Generator[Result, None, None]:
    """Process a source and yield its frames as they are ready.

    source: as ``--source``: a path, folder, glob, camera number, URL or "demo"; or several, which
    run at once if any is live (each result says which it is of). options: the fields of
    ``streamface.Settings`` (``output="out.mp4"``, ``detect_every=1``, ``data={"jsonl":
    "faces.jsonl"}`` …). Outputs are finished when the generator is exhausted; leaving it early
    (``break``, then ``close()`` or garbage collection) removes unfinished outputs and ends all
    threads. Frames come in order and are yours to keep; live outputs may still be reading their
    planes, so change copies. Raises StreamfaceError; TypeError for an unknown option.

    >>> import streamface
    >>> for result in streamface.stream("clip.mp4"):        # doctest: +SKIP
    ...     for face in result.faces:
    ...         print(result.time_s, face.track_id, face.emotion.label)
    """
    one = isinstance(source, str | int | Path)
    given = str(source) if one else tuple(str(each) for each in cast("Sequence[object]", source))
    results = _results(_settings(given, options))
    # Up to its first, empty yield: what is wrong is raised here, and from now on the generator's
    # own end (also when nobody ever iterates it) closes all that was opened.
    next(results)
    return results


def _settings(source: str | tuple[str, ...], options: dict[str, object]) -> Settings:
    """Return the settings of keyword options. Raises TypeError for an unknown one, UsageError."""
    known = {field.name for field in fields(Settings)} - {"source"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise TypeError(f"unknown option '{unknown[0]}'; known: {', '.join(sorted(known))}")
    paths = {
        name: Path(value)
        for name in ("output", "detector_model", "emotion_model", "gender_model")
        if isinstance(value := options.get(name), str)
    }
    if isinstance(outputs := options.get("output"), list | tuple):
        options = options | {"output": tuple(Path(each) for each in outputs)}
    return Settings(source=source, **(options | paths))  # type: ignore[arg-type]


def _results(settings: Settings) -> Generator[Result, None, None]:
    from streamface.app import Run

    with Run(settings) as run:
        yield cast("Result", None)
        with closing(run.frames()) as frames:
            for frame in frames:
                yield Result(run.playlist.inputs[frame.stream].name, frame)


class Analyzer:
    """Finds and reads the faces of single pictures; keep one to load the models only once.

    One instance belongs to one thread.
    """

    def __init__(self, **options: object) -> None:
        """options: fields of ``streamface.Settings`` that concern finding and reading faces."""
        from functools import partial

        from streamface.app import open_detector
        from streamface.model import DEFAULT_MODELS, Model
        from streamface.runtimes import Runtimes

        prepare()
        settings = _settings("-", options)
        runtimes = Runtimes(settings.compute)
        self._detector: YuNetDetector = open_detector(settings)
        given = {"emotion": settings.emotion_model, "gender": settings.gender_model}
        self._models: dict[str, Model] = {
            task: Model.open(
                given[task] or DEFAULT_MODELS[task],
                partial(runtimes.open, named=given[task] is not None),
            )
            for task in settings.tasks
        }
        for note in runtimes.notes:
            _log.warning("%s", note)

    def __call__(self, image: ImageU8) -> tuple[Face, ...]:
        """Return the faces of an (H, W, 3) uint8 RGB picture, best detection score first.

        ``track_id`` numbers them from 1; nothing is remembered. OpenCV's pictures are BGR: pass
        ``image[..., ::-1]``. Raises ValueError on another shape or type.
        """
        from streamface.classify import analyze as classify
        from streamface.frame import Planes

        planes = Planes.from_rgb(np.ascontiguousarray(image))
        faces = self._detector.detect(planes)
        return classify(planes, faces, self._models.get("emotion"), self._models.get("gender"))


def analyze(image: ImageU8, **options: object) -> tuple[Face, ...]:
    """Find and read the faces of one (H, W, 3) uint8 RGB picture; see ``Analyzer``.

    Loads the models on every call: for many pictures keep an ``Analyzer``.
    """
    return Analyzer(**options)(image)
