"""Every error streamface raises on purpose, in one tree.

    StreamfaceError              base: one line, fit to show to a user as it stands
    ├── UsageError               the request itself is wrong            (exit code 2)
    ├── SourceError              an input cannot be opened or decoded   (exit code 1)
    ├── SinkError                an output cannot be opened or written  (exit code 1)
    ├── ModelError               a model file or card is missing, altered or malformed
    ├── BackendUnavailable       a requested runtime is not installed or cannot run here
    ├── SplitError               segments of a long file do not fit together; it must be done whole
    └── StageError               a pipeline stage failed; names the stage and the frame

Misuse of the Python API (a wrong shape, a wrong type) is a plain ValueError or TypeError. Errors
of other libraries are translated at the module that touches the library, with ``from exc``.
"""

from __future__ import annotations


class StreamfaceError(Exception):
    """Base of all errors raised on purpose; the message is one line, complete by itself."""

    exit_code = 1


class UsageError(StreamfaceError):
    """An option or a combination of options is wrong."""

    exit_code = 2


class SourceError(StreamfaceError):
    """An input cannot be found, opened or decoded."""


class SinkError(StreamfaceError):
    """An output cannot be created or written."""


class ModelError(StreamfaceError):
    """A model file or its card is missing, altered or malformed."""


class BackendUnavailable(StreamfaceError):  # noqa: N818 - a state, not a fault
    """A runtime that was asked for by name is not installed or cannot run on this machine."""


class SplitError(StreamfaceError):
    """Segments of a long file do not fit together: it must be done whole."""


class StageError(StreamfaceError):
    """A pipeline stage failed while it worked on a frame."""

    def __init__(self, stage: str, frame: int | None, cause: BaseException) -> None:
        where = "" if frame is None else f" at frame {frame}"
        reason = str(cause) or type(cause).__name__
        if not isinstance(cause, StreamfaceError):
            reason = f"{type(cause).__name__}: {reason}" if str(cause) else reason
        super().__init__(f"stage '{stage}' failed{where}: {' '.join(reason.split())}")
        self.stage = stage
        self.frame = frame
        self.cause = cause
