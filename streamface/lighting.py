"""The light on a face, in nine numbers: a mean and a slope across and down, of each colour.

It is all of a source's looks that whoever stands in for it is given. Sixteen means of three
colours, which an inventor was told of before, were enough for a recogniser to take one stand-in in
nine more for the person behind it (DECISIONS.md 23).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBERS: Final = 3
_LEAST_CONTRAST: Final = 0.5
"""Of its own that a face keeps in any light, or there would be none."""


class Lighting:
    """Planes fitted to (C, S, S) pictures where a face is."""

    def __init__(self, weights: NDArray[np.float32]) -> None:
        """weights: (S, S), how much each pixel counts, as ``paste.face_mask`` has them."""
        side = len(weights)
        self._shares = weights.ravel() / weights.sum()
        down, across = (np.indices((side, side)) + 0.5) / side - 0.5
        shape = np.stack((np.ones_like(across), across, down), -1).reshape(-1, _NUMBERS)
        weighted = shape.T * weights.reshape(-1)
        # (S * S, 3) and (3, S * S): from the numbers to pixels, and the least squares back.
        self._shape = shape.astype(np.float32)
        self._read = np.linalg.solve(weighted @ shape, weighted).astype(np.float32)

    @property
    def least_squares(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(3, S * S) from the pixels of one colour to three numbers, (S * S, 3) back to pixels."""
        return self._read, self._shape

    @property
    def projection(self) -> NDArray[np.float32]:
        """(S * S, S * S): what takes the pixels of one colour to their plane."""
        return np.asarray(self._shape @ self._read, np.float32)

    def plane(self, picture: NDArray[Any]) -> NDArray[np.float32]:
        """Return the (C, S, S) planes nearest to a (C, S, S) picture."""
        flat = picture.reshape(len(picture), -1).astype(np.float32)
        planes = (flat @ self._read.T) @ self._shape.T
        return np.asarray(planes.reshape(picture.shape), np.float32)

    def contrast(self, picture: NDArray[Any]) -> float:
        """Return how far a (3, S, S) picture, 0..255, lies off its plane on average, in levels."""
        return self._size(picture - self.plane(picture))

    def _size(self, detail: NDArray[np.float32]) -> float:
        grey = detail.mean(0).ravel()
        return float(np.sqrt((grey * grey) @ self._shares))

    def cast_on(self, drawn: NDArray[np.float32], crop: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a (3, S, S) picture, 0..255, in the light and colour of a crop in -1..1.

        And with no more contrast, down to half its own: it would look pasted, and flicker with the
        smallest movement.
        """
        source = (crop + 1) * np.float32(127.5)
        light, detail = self.plane(source), drawn - self.plane(drawn)
        less = self._size(source - light) / max(self._size(detail), 1.0)
        detail *= np.float32(min(1.0, max(_LEAST_CONTRAST, less)))
        return np.asarray(np.clip(detail + light, 0, 255), np.float32)
