"""How alike two faces look, and how odd one does: by these a stranger stands in for somebody.

The net reads 128 numbers off an aligned face; those of the same person point the same way. It is
here to keep people apart who should not be taken for each other, sees pictures of 64 x 64 pixels,
and nothing that it reads of a real person is kept: it is no means to find anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from streamface.errors import ModelError
from streamface.model import Net, card_path, open_card
from streamface.preprocess import as_input

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from streamface.card import InputSpec
    from streamface.frame import BatchF32

KIND: Final = "likeness"
NAME: Final = "likeness"
"""Of the shipped model."""
_TEMPLATE_PX: Final = 0.5
"""By which landmarks of two templates may differ and still be the same."""
OUTPUTS: Final = ("vectors", "oddness")


class Looks(NamedTuple):
    """What some faces look like."""

    vectors: BatchF32
    """(N, W) of length one. The product of two is 1 for the same picture, about 0 for two people
    taken by chance."""
    oddness: NDArray[np.float32]
    """(N,), 1 for the average photograph: how far a face lies from the middle of all, and from
    what they have in common."""


class Likeness(Net):
    """Whom a face looks like, and whether it looks like a face."""

    @classmethod
    def open(cls, spec: InputSpec, name_or_card_path: str | Path = NAME) -> Self:
        """Open the shipped net or any by its card's path, on the CPU: it works once a person.

        spec: how the crops were cut that it will be shown. Raises ModelError if it was made for
        others, and as ``Model.open`` does.
        """
        path = card_path(name_or_card_path)
        net = cls(*open_card(path, KIND))
        if net.card.outputs != OUTPUTS:
            given, wanted = (", ".join(each) for each in (net.card.outputs, OUTPUTS))
            net.close()
            raise ModelError(f"{path}: gives {given}; it should give {wanted}")
        if not _same(net.spec, spec):
            net.close()
            (width, height), (wide, high) = net.spec.size_px, spec.size_px
            raise ModelError(
                f"{path}: is for faces cut to {width}x{height} {net.spec.colour} as the shipped "
                f"inventor has them; these are {wide}x{high} {spec.colour}, or cut differently"
            )
        return net

    def look(self, crops: BatchF32) -> Looks:
        """Return the looks of (N, 3, S, S) crops by ``crop_into``, any N."""
        crops = as_input(crops, self.spec, self._backend.input_dtype)
        step = self._backend.max_batch
        parts = [
            [each.copy() for each in self._backend.run(crops[start : start + step])]
            for start in range(0, len(crops), step)
        ]
        if not parts:
            return Looks(np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
        vectors, oddness = (np.concatenate(each) for each in zip(*parts, strict=True))
        return Looks(vectors, oddness[:, 0])


def _same(one: InputSpec, other: InputSpec) -> bool:
    return (
        (one.size_px, one.colour, one.mean, one.std)
        == (other.size_px, other.colour, other.mean, other.std)
    ) and np.allclose(one.landmarks_px, other.landmarks_px, atol=_TEMPLATE_PX)
