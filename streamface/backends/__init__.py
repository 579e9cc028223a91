"""What runs a model: one protocol, one file a runtime, one function that chooses."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final, Protocol

from streamface.errors import BackendUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from streamface.frame import BatchF32

_PACKAGES: Final = {"onnxruntime": "onnxruntime"}
"""Runtime name to the package it needs."""


class Backend(Protocol):
    """A model made ready to run; used by one thread at a time."""

    max_batch: int
    """Most rows that one ``run`` takes."""
    provider: str
    """What really computes, for people: runtime, its version and device."""

    def run(self, batch: BatchF32, *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Return the outputs in card order, N first, valid until the next ``run``.

        batch: (N, C, H, W) float32 C-contiguous, 1 <= N <= max_batch. conditions: (N, ...) float32,
        one for each of the card's ``conditions``, in its order.
        """

    def close(self) -> None:
        """Release the runtime's memory; nothing may be run afterwards."""


def available() -> tuple[str, ...]:
    """Return the names of the runtimes that are installed, without importing them."""
    return tuple(name for name, package in _PACKAGES.items() if importlib.util.find_spec(package))


def open_backend(card_path: Path, runtime: str = "onnxruntime", *, threads: int = 1) -> Backend:
    """Open the model of a card with a runtime by name.

    Raises BackendUnavailable for a runtime that is unknown or not installed: a name never falls
    back to another. Raises ModelError for a card or file that is missing, altered or malformed.
    """
    if runtime not in available():
        installed = ", ".join(available()) or "none"
        raise BackendUnavailable(f"runtime '{runtime}' is not available; installed: {installed}")
    # Here, so that importing this module loads no runtime.
    from streamface.backends.cpu import OnnxRuntimeBackend

    return OnnxRuntimeBackend(card_path, threads=threads)
