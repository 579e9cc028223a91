"""Faces re-made by the code nets: crops in, pictures out, batched over faces, frames and streams.

``Reenactor`` gives a face another emotion. ``Inventor`` draws somebody who does not exist: all it
is told of a face is the light on it, seven probabilities of its expression, how the head is turned
and, if that is wanted, a gender; who it becomes lies in a key of random numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from streamface.errors import ModelError
from streamface.frame import EMOTIONS
from streamface.model import Net, card_path, open_card
from streamface.preprocess import as_input

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from streamface.card import InputSpec, ModelCard
    from streamface.frame import BatchF32
    from streamface.model import Opener

REENACT_MODEL: Final = "vqvae-int8"
INVENT_MODEL: Final = "vqvae-prior-int8"
"""On a CPU int8 draws the same pictures in half the time."""
SAME: Final = "same"
"""What ``--reenact`` takes beside EMOTIONS: through the codes and back."""
SURE: Final = 0.75
"""Share of an emotion asked for in an invented face; the net was taught with .7 to 1."""
_CALM_KEYS: Final = np.float32(0.85)
_CALM_SCENES: Final = np.float32(0.8)
_KINDS: Final = {
    "reenactor": ("emotions",),
    "inventor": ("scenes", "own", "expressions", "females", "poses", "keys"),
}


class Remade(NamedTuple):
    """What became of some crops."""

    made: BatchF32
    """(N, 3, S, S) float32 RGB, 0..255."""
    plain: BatchF32
    """The same of the unaltered faces: what their codes alone make of them."""


class _CodeNet(Net):
    """A generative model: its card, and the backend that runs it."""

    kind: str

    @classmethod
    def open(
        cls, name_or_card_path: str | Path, opener: Opener | None = None, *, threads: int = 1
    ) -> Self:
        """Open a shipped model by name or any by its card's path; errors as of ``Model.open``."""
        path = card_path(name_or_card_path)
        card, backend = open_card(path, cls.kind, opener, threads=threads)
        if tuple(card.conditions) != _KINDS[cls.kind]:
            takes, wanted = ", ".join(card.conditions), ", ".join(_KINDS[cls.kind])
            raise ModelError(f"{path}: takes {takes or 'no conditions'}; it should take {wanted}")
        return cls(card, backend)

    def _run(self, crops: BatchF32, *conditions: BatchF32) -> list[BatchF32]:
        """Return the outputs, (N, 3, S, S) each and the caller's own, for any N."""
        crops = as_input(crops, self.spec, self._backend.input_dtype)
        out = [np.empty((len(crops), *self.spec.shape), np.float32) for _ in self.card.outputs]
        step = self._backend.max_batch
        for start in range(0, len(crops), step):
            rows = slice(start, start + step)
            made = self._backend.run(crops[rows], *(each[rows] for each in conditions))
            for whole, part in zip(out, made, strict=True):
                whole[rows] = part
        return out


class Reenactor(_CodeNet):
    """The same faces with another emotion."""

    kind = "reenactor"

    def remake(self, crops: BatchF32, emotions: BatchF32) -> Remade:
        """Return the faces re-made.

        crops: (N, 3, S, S) by ``crop_into``. emotions: (N, 7) float32 shares of EMOTIONS that sum
        to one, as ``asked`` gives them; all zero leaves a face as its codes have it.
        """
        made, plain = self._run(crops, emotions)
        return Remade(made, plain)


class Inventor(_CodeNet):
    """Faces of people who do not exist."""

    kind = "inventor"

    @property
    def key_width(self) -> int:
        """Numbers that say who somebody is."""
        return self.card.conditions["keys"][0]

    def stand_in(
        self,
        crops: BatchF32,
        expressions: BatchF32,
        females: BatchF32,
        poses: BatchF32,
        keys: BatchF32,
    ) -> BatchF32:
        """Return (N, 3, S, S) RGB, 0..255: somebody else in the pose and light of each crop.

        crops: (N, 3, S, S) by ``crop_into``, of which the net sees the light, as ``lighting`` has
        it. expressions: (N, 7) probabilities. females: (N,) -1 male to 1 female, 0 for no matter.
        poses: (N, 2) by ``align.pose``. keys: (N, key_width) standard normal.
        """
        count = len(crops)
        scenes = np.zeros((count, *self.card.conditions["scenes"]), np.float32)
        own = np.ones((count, 1), np.float32)
        return self._run(crops, scenes, own, expressions, females[:, None], poses, keys)[0]

    def draw(
        self, expressions: BatchF32, females: BatchF32, keys: BatchF32, scenes: BatchF32
    ) -> BatchF32:
        """Return (N, 3, S, S) RGB of given keys and scenes; expressions, females as above.

        A scene says how the head is turned, too.
        """
        crops = np.zeros((len(keys), *self.spec.shape), np.float32)
        own = np.zeros((len(keys), 1), np.float32)
        poses = np.zeros((len(keys), *self.card.conditions["poses"]), np.float32)
        return self._run(crops, scenes, own, expressions, females[:, None], poses, keys)[0]

    def draw_keys(self, count: int, rng: np.random.Generator) -> BatchF32:
        """Return (count, key_width) random people."""
        return rng.standard_normal((count, self.key_width), np.float32)

    def draw_scenes(self, count: int, rng: np.random.Generator) -> BatchF32:
        """Return (count, W) random thumbnails: pose, light, hair and background in outline."""
        return rng.standard_normal((count, *self.card.conditions["scenes"]), np.float32)


class Imagination:
    """Faces of nobody, from nothing but random numbers: invented, then edited.

    The inventor draws a face with an expression, and the reenactor, which learned nothing but
    expressions, makes it plain. Keys and scenes are drawn nearer to their means than chance has
    them, which makes for fewer odd faces (truncation, Brock et al. 2019).
    """

    def __init__(self, inventor: Inventor, reenactor: Reenactor) -> None:
        self._inventor = inventor
        self._reenactor = reenactor

    @classmethod
    def open(
        cls, inventor: str | Path = INVENT_MODEL, reenactor: str | Path = REENACT_MODEL
    ) -> Self:
        """Open both models; errors as of ``Model.open``."""
        return cls(Inventor.open(inventor), Reenactor.open(reenactor))

    @property
    def card(self) -> ModelCard:
        """The inventor's."""
        return self._inventor.card

    @property
    def spec(self) -> InputSpec:
        """How the faces lie in their pictures."""
        return self._inventor.spec

    def draw_keys(self, count: int, rng: np.random.Generator) -> BatchF32:
        """Return (count, key_width) random people."""
        return self._inventor.draw_keys(count, rng) * _CALM_KEYS

    def draw_scenes(self, count: int, rng: np.random.Generator) -> BatchF32:
        """Return (count, W) random thumbnails."""
        return self._inventor.draw_scenes(count, rng) * _CALM_SCENES

    def invent(
        self, expressions: BatchF32, females: BatchF32, rng: np.random.Generator
    ) -> BatchF32:
        """Return (N, 3, S, S) RGB, 0..255: faces, light and surroundings drawn from ``rng``."""
        keys = self.draw_keys(len(expressions), rng)
        return self.draw(expressions, females, keys, self.draw_scenes(len(keys), rng))

    def draw(
        self, expressions: BatchF32, females: BatchF32, keys: BatchF32, scenes: BatchF32
    ) -> BatchF32:
        """Return (N, 3, S, S) RGB of given keys and scenes; see ``Inventor.draw``."""
        drawn = self._inventor.draw(expressions, females, keys, scenes)
        crops = (drawn / np.float32(127.5) - 1).astype(np.float32)
        plainly = expressions**2  # the editor was taught one emotion at a time
        plainly /= plainly.sum(1, keepdims=True)
        made, plain = self._reenactor.remake(crops, plainly)
        return np.asarray(np.clip(drawn + made - plain, 0, 255), np.float32)

    def close(self) -> None:
        """Release both."""
        self._inventor.close()
        self._reenactor.close()


def asked(emotion: str, count: int = 1) -> BatchF32:
    """Return (count, 7) float32 for ``remake``: one of EMOTIONS, or SAME."""
    out = np.zeros((count, len(EMOTIONS)), np.float32)
    if emotion != SAME:
        out[:, EMOTIONS.index(emotion)] = 1
    return out


def expression(emotion: str, share: float = SURE) -> NDArray[np.float32]:
    """Return (7,) float32 for ``invent``: ``share`` of one emotion, the rest spread evenly."""
    out = np.full(len(EMOTIONS), (1 - share) / (len(EMOTIONS) - 1), np.float32)
    out[EMOTIONS.index(emotion)] = share
    return out
