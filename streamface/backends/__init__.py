"""What runs a model: one protocol, one file a runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from streamface.backends.device_crops import Crops
    from streamface.frame import BatchF32


class Backend(Protocol):
    """A model made ready to run; used by one thread at a time."""

    max_batch: int
    """Most rows that one ``run`` takes."""
    provider: str
    """What really computes, for people: runtime, its version, precision and device."""
    input_dtype: np.dtype[Any]
    """Of crops: float32 normalised, or uint8 levels where the runtime normalises by itself."""
    on_gpu: bool
    """Whether it is a GPU that computes."""

    def run(self, batch: NDArray[Any], *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Return the outputs in card order, N first, valid until the next ``run``.

        batch: (N, C, H, W) of ``input_dtype``, C-contiguous, 1 <= N <= max_batch. conditions:
        (N, ...) float32, one for each of the card's ``conditions``, in its order.
        """

    def warm_up(self) -> None:
        """Make ready what is else made when it is first needed; overwrites the last outputs."""

    def close(self) -> None:
        """Release the runtime's memory; nothing may be run afterwards."""


@runtime_checkable
class TensorBackend(Backend, Protocol):
    """A backend that also takes crops which torch already holds on a device."""

    def run_tensor(self, crops: Crops, *conditions: BatchF32) -> tuple[BatchF32, ...]:
        """Do what ``run`` does for (N, C, H, W) uint8 crops, after what torch's stream has queued.

        When it returns, ``crops`` and all that they were made of have been read.
        """


def open_backend(card_path: Path, *, threads: int = 1, provider: str = "cpu") -> Backend:
    """Open the model of a card, as it is, with ONNX Runtime; ``runtimes`` chooses among all.

    provider: see ``ort_backend.OnnxRuntimeBackend``. Raises ModelError for a card or file that is
    missing, altered or malformed, BackendUnavailable for a provider that is not there.
    """
    # Here, so that importing this module loads no runtime.
    from streamface.backends.ort_backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend(card_path, threads=threads, provider=provider)
