"""A model ready to use: its card, and the backend that runs it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from streamface.backends import TensorBackend, open_backend
from streamface.card import load
from streamface.errors import ModelError
from streamface.preprocess import as_input, probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamface.backends import Backend
    from streamface.backends.device_crops import Crops
    from streamface.card import InputSpec, ModelCard
    from streamface.frame import BatchF32

DEFAULT_MODELS: Final = {"emotion": "emotion-int8", "gender": "gender-int8"}
"""What ``run`` uses for each task: on a CPU int8 is as right as float32, in half the time."""
CLASSIFIER: Final = "classifier"
"""The kind of the cards of a ``Model``."""
_PROBE_TOLERANCE: Final = 0.02  # in standard deviations of the input; a grey level is 0.016


class Net:
    """A card and the backend that runs it; opened, used and closed by one thread."""

    def __init__(self, card: ModelCard, backend: Backend) -> None:
        self.card = card
        self._backend = backend

    @property
    def spec(self) -> InputSpec:
        """How crops are cut."""
        return self.card.input

    @property
    def provider(self) -> str:
        """What really computes: runtime, its version and device."""
        return self._backend.provider

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU that computes."""
        return self._backend.on_gpu

    def warm_up(self) -> None:
        """Make every size of batch ready, before frames wait for it."""
        self._backend.warm_up()

    def close(self) -> None:
        """Release the backend."""
        self._backend.close()


class Model(Net):
    """Probabilities for aligned crops."""

    @classmethod
    def open(
        cls, name_or_card_path: str | Path, opener: Opener | None = None, *, threads: int = 1
    ) -> Model:
        """Open a shipped model by name, or any by the path of its card.

        opener: what chooses the runtime (``Runtimes.open``); None: ONNX Runtime on the CPU, and
        this very model. Raises ModelError if the card or the ONNX is missing, altered or malformed,
        or if this version prepares pixels differently from the one the model was trained with; and
        whatever the opener raises.
        """
        path = card_path(name_or_card_path)
        return cls(*open_card(path, CLASSIFIER, opener, threads=threads))

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """How ``crop_into`` had best make the crops: float32 or uint8. Both are taken."""
        return self._backend.input_dtype

    @property
    def takes_tensors(self) -> bool:
        """Whether ``predict`` takes crops in a GPU's memory too."""
        return isinstance(self._backend, TensorBackend)

    def predict(self, batch: NDArray[Any] | Crops) -> NDArray[np.float32]:
        """Return (N, K) calibrated probabilities, the caller's own, of (N, C, H, W) crops.

        ``crop_faces`` makes the crops. Any N, also 0; large ones are split.
        """
        if isinstance(batch, np.ndarray):
            batch = as_input(batch, self.card.input, self.input_dtype)
        out = np.empty((len(batch), len(self.card.labels)), np.float32)
        step = self._backend.max_batch
        for start in range(0, len(batch), step):
            logits = self._run(batch[start : start + step])[0]
            out[start : start + step] = softmax(logits / np.float32(self.card.temperature))
        return out

    def _run(self, batch: NDArray[Any] | Crops) -> tuple[BatchF32, ...]:
        if isinstance(batch, np.ndarray):
            return self._backend.run(batch)
        if not isinstance(self._backend, TensorBackend):
            raise TypeError(f"{self.provider} takes crops as NumPy arrays, not {type(batch)}")
        return self._backend.run_tensor(batch)


class Opener(Protocol):
    """Chooses what runs a model; see ``runtimes.Runtimes.open``."""

    def __call__(self, path: Path, *, threads: int) -> tuple[ModelCard, Backend]:
        """Return the card of the model that is run, which may be a sibling, and what runs it."""


def open_card(
    path: Path, kind: str | None = None, opener: Opener | None = None, *, threads: int = 1
) -> tuple[ModelCard, Backend]:
    """Return a card and the backend that runs it; errors as of ``Model.open``.

    kind: what the card must say it is; None: whatever it is.
    """
    card = load(path)
    if kind is not None and card.kind != kind:
        raise ModelError(f"{path}: is a model of kind '{card.kind}'; a '{kind}' is needed here")
    check_probe(card, path)
    if opener is not None:
        return opener(path, threads=threads)
    return card, open_backend(path, threads=threads)


def card_path(name_or_card_path: str | Path) -> Path:
    """Return the path of a card: a shipped model's for its bare name, else the path itself."""
    path = Path(name_or_card_path)
    if path.suffix == ".json" or path.parent != Path():
        return path
    shipped = Path(str(resources.files("streamface") / "models"))
    found = shipped / f"{name_or_card_path}.json"
    if not found.is_file():
        names = ", ".join(shipped_names()) or "none"
        raise ModelError(
            f"no shipped model is named '{name_or_card_path}' (shipped: {names}); "
            "give a shipped name or the path of a card"
        )
    return found


def shipped_names() -> tuple[str, ...]:
    """Return the names of the models inside the package."""
    folder = Path(str(resources.files("streamface") / "models"))
    return tuple(sorted(path.stem for path in folder.glob("*.json")))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, K) probabilities of (N, K) logits."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def check_probe(card: ModelCard, path: Path) -> None:
    """Raise ModelError if pixels are prepared in another way than when the model was made."""
    found = probe(card.input)
    expected = card.preprocess_probe
    if len(found) != len(expected) or not np.allclose(
        found, expected, rtol=0, atol=_PROBE_TOLERANCE
    ):
        raise ModelError(
            f"{path}: the model was made for other pre-processing than this version does; "
            "install the streamface version it was made with, or export it again"
        )
