"""How alike two faces look: of some strangers, the least like somebody stands in for him.

The net reads 128 numbers off an aligned face; those of the same person point the same way. It is
here to keep people apart who should not be taken for each other, sees pictures of 64 x 64 pixels,
and nothing that it reads is kept: it is no means to find anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import numpy as np

from streamface.errors import ModelError
from streamface.model import card_path, open_card
from streamface.preprocess import as_input

if TYPE_CHECKING:
    from pathlib import Path

    from streamface.backends import Backend
    from streamface.card import InputSpec, ModelCard
    from streamface.frame import BatchF32

KIND: Final = "likeness"
NAME: Final = "likeness"
"""Of the shipped model."""


class Likeness:
    """Whom a face looks like, as a unit vector; opened, used and closed by one thread."""

    def __init__(self, card: ModelCard, backend: Backend) -> None:
        self.card = card
        self._backend = backend

    @classmethod
    def open(cls, name_or_card_path: str | Path = NAME) -> Self:
        """Open the shipped net or any by its card's path, on the CPU: it works once a person.

        Errors as of ``Model.open``.
        """
        path = card_path(name_or_card_path)
        card, backend = open_card(path, KIND)
        if card.input.channels != 3:
            backend.close()
            raise ModelError(f"{path}: takes {card.input.colour} crops; it should take rgb")
        return cls(card, backend)

    @property
    def spec(self) -> InputSpec:
        """How crops are cut."""
        return self.card.input

    @property
    def provider(self) -> str:
        """What really computes: runtime, its version and device."""
        return self._backend.provider

    def warm_up(self) -> None:
        """Make every size of batch ready, before frames wait for it."""
        self._backend.warm_up()

    def vectors(self, crops: BatchF32) -> BatchF32:
        """Return (N, W) vectors of length one, of (N, 3, S, S) crops by ``crop_into``, any N.

        The product of two is 1 for the same picture, about 0 for two people taken by chance.
        """
        crops = as_input(crops, self.spec, self._backend.input_dtype)
        step = self._backend.max_batch
        parts = [
            self._backend.run(crops[start : start + step])[0].copy()
            for start in range(0, len(crops), step)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def close(self) -> None:
        """Release the backend."""
        self._backend.close()
