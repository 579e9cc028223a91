"""TensorRT's two packages, and their log.

``tensorrt`` (10.x and 11.x) is the one for data centres and for every GPU; ``tensorrt_rtx`` is
small, for GeForce cards, and also builds where there is no GPU. Their interfaces are the same as
far as streamface uses them; nothing is imported before it is asked for by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections import deque
from functools import lru_cache
from typing import Any, Final

from streamface.compute import FLAVOURS, Flavour
from streamface.errors import BackendUnavailable

_DISTRIBUTIONS: Final = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""What pip calls them."""
_KEPT_LINES: Final = 3
_log = logging.getLogger("streamface.engines")


def installed() -> tuple[Flavour, ...]:
    """Return the flavours that are installed, without importing them; they may still be broken."""
    return tuple(name for name in FLAVOURS if importlib.util.find_spec(name))


def load(flavour: Flavour) -> Any:
    """Return a flavour's module; raises BackendUnavailable with what pip can do about it."""
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour must be one of {', '.join(FLAVOURS)}, not {flavour!r}")
    package = _DISTRIBUTIONS[flavour]
    try:
        return importlib.import_module(flavour)
    except ModuleNotFoundError as exc:
        if exc.name != flavour:
            raise _broken(flavour, exc) from exc
        raise BackendUnavailable(f"{flavour} is not installed; pip install {package}") from exc
    except (ImportError, OSError, RuntimeError) as exc:
        raise _broken(flavour, exc) from exc


def _broken(flavour: str, cause: Exception) -> BackendUnavailable:
    # The bindings without their libraries give "libnvonnxparser.so.11: cannot open shared object".
    reason = " ".join(str(cause).split())
    return BackendUnavailable(
        f"{flavour} is installed but cannot be loaded: {reason}; "
        f"pip install --force-reinstall {_DISTRIBUTIONS[flavour]}"
    )


def version(flavour: Flavour) -> str:
    """Return a flavour's version, such as "1.7.1.116"; errors as of ``load``."""
    return str(load(flavour).__version__)


class EngineLog:
    """TensorRT's messages: passed on to logging, and the last errors remembered.

    ``handle`` is the trt.ILogger to hand to TensorRT. Everything goes to the logger
    "streamface.engines": errors and warnings as INFO, for the exception that follows an error
    carries its words; the rest as DEBUG, without the verbose lines, of which there are thousands.
    """

    def __init__(self, trt: Any) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT_LINES)
        severity = trt.ILogger.Severity
        errors = (severity.INTERNAL_ERROR, severity.ERROR)

        class _Handle(trt.ILogger):  # type: ignore[misc] # known only once it is imported
            def __init__(self) -> None:
                trt.ILogger.__init__(self)  # pybind11 asks for this very form

            def log(handle, level: Any, message: str) -> None:  # noqa: N805 - self is the log
                if level == severity.VERBOSE:
                    return
                if level in errors:
                    self._remember(message)
                loud = level in errors or level == severity.WARNING
                _log.log(logging.INFO if loud else logging.DEBUG, "%s", message)

        self.handle: Any = _Handle()

    def _remember(self, message: str) -> None:
        line = " ".join(message.split())
        if line not in self._errors:
            self._errors.append(line)

    def forget(self) -> None:
        """Forget the errors so far; call it before something that may fail."""
        self._errors.clear()

    def reason(self) -> str:
        """Return the last errors since ``forget`` as one line, in TensorRT's own words."""
        return "; ".join(self._errors) or "it gives no reason"


@lru_cache(maxsize=len(FLAVOURS))
def engine_log(flavour: Flavour) -> EngineLog:
    """Return the one log of a flavour; errors as of ``load``.

    One for the whole process, since TensorRT goes on using the first that it was given. Threads
    that build or load at the same time so hear of each other's errors.
    """
    return EngineLog(load(flavour))
