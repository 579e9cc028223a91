"""streamface: any video in, emotion-annotated video and tidy data out.

>>> import streamface
>>> for result in streamface.stream("clip.mp4"):            # doctest: +SKIP
...     print(result.time_s, [face.emotion.label for face in result.faces])

``stream`` runs the whole pipeline; ``analyze`` and ``Analyzer`` take single pictures. Everything
heavy is imported on first use, so that importing streamface is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from streamface.errors import (
    BackendUnavailable,
    ModelError,
    SinkError,
    SourceError,
    StageError,
    StreamfaceError,
    UsageError,
)

if TYPE_CHECKING:
    from streamface.api import Analyzer, Result, analyze, stream
    from streamface.frame import EMOTIONS, GENDERS, Emotion, Face, Gender
    from streamface.settings import Settings

__all__ = [
    "EMOTIONS",
    "GENDERS",
    "Analyzer",
    "BackendUnavailable",
    "Emotion",
    "Face",
    "Gender",
    "ModelError",
    "Result",
    "Settings",
    "SinkError",
    "SourceError",
    "StageError",
    "StreamfaceError",
    "UsageError",
    "analyze",
    "stream",
]

_HOMES = {
    "Analyzer": "api",
    "EMOTIONS": "frame",
    "Emotion": "frame",
    "Face": "frame",
    "GENDERS": "frame",
    "Gender": "frame",
    "Result": "api",
    "Settings": "settings",
    "analyze": "api",
    "stream": "api",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module when it is first used (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'streamface' has no attribute '{name}'")
    value = getattr(import_module(f"streamface.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
