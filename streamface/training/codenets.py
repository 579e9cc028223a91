"""Nets that work on the codes of ``VqVae``: one gives a face another emotion, one invents faces.

Both end in unit vectors on the code grid, which the codebook rounds and its decoder draws: neither
ever makes a pixel itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from streamface.frame import EMOTIONS

THUMB_PX: Final = 4
"""Side of what an inventor is told of a picture. Nothing finer is left of a face there; and of one
that it stands in for no more than the light on it reaches it (``export_resynth.Light``)."""
SKETCH_PX: Final = 32
"""Side of the blurred face that an inventor begins with."""
POSE_WIDTH: Final = 2
"""How far a head is turned and how far it nods, as ``streamface.align.pose`` has them."""
_CHANNELS: Final = 3


@dataclass(frozen=True, slots=True)
class EditorConfig:
    """Shape of an Editor; the cost on one core decided the widths."""

    code_width: int = 32
    fine: int = 64
    """Channels on the code grid."""
    coarse: int = 128
    """Channels on half of it, where a block sees a whole mouth."""
    depth: int = 3


@dataclass(frozen=True, slots=True)
class InventorConfig:
    """Shape of an Inventor; the cost on one core decided the widths."""

    code_width: int = 32
    key_width: int = 64
    """Numbers that say who it is; standard normal ones make somebody new."""
    fine: int = 96
    """Channels on the code grid."""
    coarse: int = 128
    """Channels on half of it."""
    style: int = 128
    depth: int = 3


class StyledBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, the inner channels scaled and shifted by a style.

    After Perez et al. (2018), FiLM. Starts as its shortcut.
    """

    def __init__(self, width: int, style: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, 1, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.style = nn.Linear(style, 2 * width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.style.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x: (N, width, h, w); style: (N, style)."""
        gain, shift = torch.chunk(self.style(style)[:, :, None, None], 2, 1)
        inner = self.first(F.silu(x)) * (1 + gain) + shift
        return x + cast("Tensor", self.second(F.silu(inner)))


class Editor(nn.Module):
    """Moves the code vectors of a face towards those of the same face with another emotion."""

    def __init__(self, config: EditorConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse, style = config.fine, config.coarse, config.coarse
        self.style = nn.Sequential(
            nn.Linear(len(EMOTIONS), style), nn.SiLU(), nn.Linear(style, style), nn.SiLU()
        )
        self.enter = nn.Conv2d(config.code_width, fine, 3, 1, 1)
        self.down = nn.Conv2d(fine, coarse, 3, 2, 1)
        self.blocks = nn.ModuleList(StyledBlock(coarse, style) for _ in range(config.depth))
        self.up = nn.Conv2d(coarse, fine * 4, 3, 1, 1)
        self.last = StyledBlock(fine, style)
        self.leave = nn.Conv2d(fine, config.code_width, 3, 1, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast("Tensor", self.leave.bias))

    def forward(self, vectors: Tensor, emotions: Tensor) -> Tensor:
        """Return (N, D, h, w) vectors, not yet of length one.

        vectors: (N, D, h, w) unit code vectors. emotions: (N, 7) shares of EMOTIONS that sum to
        one; all zero leaves the face as it is.
        """
        style = self.style(emotions)
        fine = self.enter(vectors)
        x = self.down(F.silu(fine))
        for block in self.blocks:
            x = block(x, style)
        x = fine + F.pixel_shuffle(self.up(F.silu(x)), 2)
        change = self.leave(F.silu(self.last(x, style)))
        asked = emotions.sum(1).clamp(0, 1)[:, None, None, None]
        moved: Tensor = vectors + asked * change
        return moved


class Inventor(nn.Module):
    """Code vectors of somebody who does not exist: a blurred face is drawn first, then made sharp.

    The first is linear: what is told of a face has a mean, and a key goes as far along the axes in
    which such faces differ (the eigenfaces of Turk and Pentland, 1991, of what the conditions do
    not explain). Random keys therefore make faces that differ as real ones do, and the net has
    only to learn what a blurred face looks like when it is sharp.
    """

    def __init__(self, config: InventorConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse, style = config.fine, config.coarse, config.style
        told = told_width() + config.key_width
        # Found by ``training.sketch``, not learned by steps: buffers. Pixels lie by fours, as
        # ``F.pixel_unshuffle`` has them: a sketch has twice the side of the code grid.
        self.register_buffer("axes", torch.zeros(_CHANNELS * SKETCH_PX**2, told))
        self.register_buffer("mean", torch.zeros(_CHANNELS * SKETCH_PX**2))
        self.style = nn.Sequential(
            nn.Linear(len(EMOTIONS) + 1 + POSE_WIDTH + config.key_width, style), nn.SiLU(),
            nn.Linear(style, style), nn.SiLU(),
        )  # fmt: skip
        self.enter = nn.Conv2d(_CHANNELS * 4, fine, 3, 1, 1)
        self.down = nn.Conv2d(fine, coarse, 3, 2, 1)
        self.blocks = nn.ModuleList(StyledBlock(coarse, style) for _ in range(config.depth))
        self.up = nn.Conv2d(coarse, fine * 4, 3, 1, 1)
        self.last = nn.ModuleList(StyledBlock(fine, style) for _ in range(2))
        self.leave = nn.Conv2d(fine, config.code_width, 3, 1, 1)

    def sketch(self, told: Tensor, keys: Tensor) -> Tensor:
        """Return (N, 3, SKETCH_PX, SKETCH_PX), about -1..1, of what ``tell`` returned and keys."""
        return F.pixel_shuffle(self._by_fours(told, keys), 2)

    def outline(
        self, thumbs: Tensor, expressions: Tensor, females: Tensor, poses: Tensor
    ) -> Tensor:
        """Return (N, 12, 16, 16): the sketch, by fours, of the usual person who is told of so."""
        told = tell(thumbs, expressions, females, poses)
        return self._by_fours(told, told.new_zeros(len(told), self.config.key_width))

    def _by_fours(self, told: Tensor, keys: Tensor) -> Tensor:
        axes, mean = cast("Tensor", self.axes), cast("Tensor", self.mean)
        flat = F.linear(torch.cat((told, keys), 1), axes, mean)
        return flat.reshape(-1, _CHANNELS * 4, SKETCH_PX // 2, SKETCH_PX // 2)

    def forward(
        self, thumbs: Tensor, expressions: Tensor, females: Tensor, poses: Tensor, keys: Tensor
    ) -> Tensor:
        """Return (N, D, 16, 16) vectors, not yet of length one.

        thumbs: (N, 3, 4, 4) in -1..1. expressions: (N, 7) shares of EMOTIONS. females: (N, 1), -1
        male to 1 female, 0 unknown. poses: (N, POSE_WIDTH). keys: (N, key_width).
        """
        style = self.style(torch.cat((2 * expressions, females, 2 * poses, keys), 1))
        fine = self.enter(2 * self._by_fours(tell(thumbs, expressions, females, poses), keys))
        x = self.down(F.silu(fine))
        for block in self.blocks:
            x = block(x, style)
        x = fine + F.pixel_shuffle(self.up(F.silu(x)), 2)
        for block in self.last:
            x = block(x, style)
        return cast("Tensor", self.leave(F.silu(x)))


def told_width() -> int:
    """Return how many numbers ``tell`` makes of a face."""
    return _CHANNELS * THUMB_PX**2 + len(EMOTIONS) + 1 + POSE_WIDTH + 1


def tell(thumbs: Tensor, expressions: Tensor, females: Tensor, poses: Tensor) -> Tensor:
    """Return (N, W): all that an inventor is told of a face, in numbers it may depend on linearly.

    A turned head is not a frontal one plus something, whichever way it is turned: hence a square.
    """
    flat, turned = thumbs.reshape(-1, _CHANNELS * THUMB_PX**2), poses[:, :1]
    return torch.cat((flat, expressions, females, poses, turned * turned), 1)


class Critic(nn.Module):
    """Tells photographs from what the nets draw: a score a patch, and one for the whole face.

    Spectrally normalised (Miyato et al. 2018).
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inner = 3
        for outer in widths:
            layers += [_spectral(nn.Conv2d(inner, outer, 4, 2, 1)), nn.LeakyReLU(0.2)]
            inner = outer
        self.early = nn.Sequential(*layers[: 2 * len(widths) - 2])
        self.late = nn.Sequential(*layers[2 * len(widths) - 2 :])
        self.patches = _spectral(nn.Conv2d(widths[-2], 1, 1))
        self.whole = nn.Sequential(
            _spectral(nn.Conv2d(inner, inner, 4)),
            nn.LeakyReLU(0.2),
            _spectral(nn.Conv2d(inner, 1, 1)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, 1, h, w) scores of patches and (N, 1, 1, 1) of the whole of (N, 3, 64, 64)."""
        early = self.early(x)
        return self.patches(early), self.whole(self.late(early))


class CodeCritic(nn.Module):
    """Tells the codes of photographs from invented ones: a score a patch, and one for the whole.

    It never sees a pixel, so it costs a tenth of a critic of pictures and sees the whole face in
    three layers. It is told light, pose and gender as the inventor is, so that a face must also be
    right in these.
    """

    def __init__(self, code_width: int, widths: tuple[int, int, int] = (64, 128, 160)) -> None:
        super().__init__()
        fine, coarse, last = widths
        self._scale = code_width**0.5  # unit vectors: brought to a variance of one
        self.early = nn.Sequential(
            nn.Conv2d(code_width + _CHANNELS * 4, fine, 3, 1, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(fine, coarse, 4, 2, 1), nn.LeakyReLU(0.2),
        )  # fmt: skip
        self.patches = nn.Sequential(
            nn.Conv2d(coarse, coarse, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(coarse, 1, 1)
        )
        self.whole = nn.Sequential(
            nn.Conv2d(coarse, last, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Conv2d(last, last, 4), nn.LeakyReLU(0.2),
            nn.Conv2d(last, 1, 1),
        )  # fmt: skip

    def forward(self, vectors: Tensor, outline: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, 1, 8, 8) scores of patches and (N, 1, 1, 1) of the whole.

        vectors: (N, D, 16, 16) code vectors. outline: as ``Inventor.outline`` has it.
        """
        early = self.early(torch.cat((self._scale * vectors, 2 * outline), 1))
        return self.patches(early), self.whole(early)


def _spectral(layer: nn.Module) -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(layer)
