"""A vector-quantised autoencoder of faces (van den Oord et al. 2017), small enough for a CPU.

(N, 3, S, S) pictures in -1..1 become (N, S / 4, S / 4) code numbers and pictures again. Codes lie
on the unit sphere (Yu et al. 2022, ViT-VQGAN) and follow the averages of what they stand for; codes
that stand for nothing are moved to vectors of the batch at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class VqConfig:
    """Shape of a VqVae."""

    side_px: int = 64
    codes: int = 1024
    code_width: int = 32
    width: int = 80
    """Channels at a quarter of the resolution, where the codes are; half of it above that."""
    depth: int = 2
    """Residual blocks on either side of the codes."""
    decay: float = 0.99
    """Share of a code's average that one batch keeps."""


class Coded(NamedTuple):
    """What the quantiser makes of a batch."""

    vectors: Tensor
    """(N, D, h, w) codes in place of what came in; gradients pass straight through."""
    numbers: Tensor
    """(N, h, w) int64 code numbers."""
    commitment: Tensor
    """() how far what came in lies from its codes; to be kept small."""


class Codebook(nn.Module):
    """Unit vectors that follow the averages of what is nearest to them."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        codes = F.normalize(torch.randn(config.codes, config.code_width), dim=1)
        self.register_buffer("codes", codes)
        self.register_buffer("sums", codes.clone())
        self.register_buffer("counts", torch.ones(config.codes))
        self.decay = config.decay

    def forward(self, x: Tensor) -> Coded:
        """Quantise (N, D, h, w); while training, move the codes too."""
        with torch.autocast(x.device.type, enabled=False):
            return self._coded(F.normalize(x.float(), dim=1))

    def _coded(self, unit: Tensor) -> Coded:
        flat = unit.permute(0, 2, 3, 1).flatten(0, 2)  # (N * h * w, D)
        codes = cast("Tensor", self.codes)
        numbers = (flat @ codes.T).argmax(1)
        if self.training:
            self._follow(flat.detach(), numbers)
        shape = (unit.shape[0], unit.shape[2], unit.shape[3])
        chosen = codes[numbers].reshape(*shape, -1).permute(0, 3, 1, 2)
        commitment = F.mse_loss(unit, chosen.detach()) * unit.shape[1]
        passed = unit + (chosen - unit).detach()
        return Coded(passed, numbers.reshape(shape), commitment)

    def look_up(self, numbers: Tensor) -> Tensor:
        """Return the (N, D, h, w) vectors of (N, h, w) code numbers."""
        return cast("Tensor", self.codes)[numbers].permute(0, 3, 1, 2)

    def _follow(self, flat: Tensor, numbers: Tensor) -> None:
        """Move the codes; flat: (M, D) unit vectors without gradients, numbers: (M,)."""
        codes, sums, counts = (
            cast("Tensor", getattr(self, n)) for n in ("codes", "sums", "counts")
        )
        here = torch.zeros_like(counts).index_add_(0, numbers, torch.ones_like(flat[:, 0]))
        total = torch.zeros_like(sums).index_add_(0, numbers, flat)
        counts.lerp_(here, 1 - self.decay)
        sums.lerp_(total, 1 - self.decay)
        # Less than a hundredth of an even share: nothing looks like it any more.
        dead = torch.nonzero(counts < 0.01 * len(flat) / len(codes)).flatten()
        if len(dead):
            sums[dead] = flat[torch.randint(len(flat), (len(dead),))]
            counts[dead] = len(flat) / len(codes)
        codes.copy_(F.normalize(sums, dim=1))


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, without normalisation: a block starts as nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1),
        )
        nn.init.zeros_(cast("nn.Conv2d", self.main[-1]).weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.main(x))


class VqVae(nn.Module):
    """Encoder, codebook, decoder."""

    def __init__(self, config: VqConfig) -> None:
        super().__init__()
        if config.side_px % 4:
            raise ValueError(f"side_px must be a multiple of 4, not {config.side_px}")
        self.config = config
        wide, half = config.width, config.width // 2
        self.encoder = nn.Sequential(
            nn.Conv2d(3, half, 4, 2, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(half, wide, 4, 2, 1),
            *(_Block(wide) for _ in range(config.depth)),
            nn.SiLU(inplace=True),
            nn.Conv2d(wide, config.code_width, 1),
        )
        self.codebook = Codebook(config)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.code_width, wide, 3, 1, 1),
            *(_Block(wide) for _ in range(config.depth)),
            *_doubled(wide, half),
            *_doubled(half, half // 2),
            nn.SiLU(inplace=True),
            nn.Conv2d(half // 2, 3, 3, 1, 1),
        )

    def encode(self, pictures: Tensor) -> Coded:
        """Return the codes of (N, 3, S, S) pictures in -1..1."""
        # The codes are told apart in full precision, also where the rest runs in bfloat16.
        return cast("Coded", self.codebook(self.encoder(pictures).float()))

    def decode(self, vectors: Tensor) -> Tensor:
        """Return (N, 3, S, S) pictures of (N, D, S / 4, S / 4) code vectors, about -1..1."""
        return cast("Tensor", self.decoder(vectors)).float()

    def forward(self, pictures: Tensor) -> Tensor:
        """Return pictures after their way through the codes."""
        return self.decode(self.encode(pictures).vectors)


def _doubled(inner: int, outer: int) -> Sequence[nn.Module]:
    """Twice the resolution by sub-pixel convolution (Shi et al. 2016), which leaves no checks."""
    return (
        nn.SiLU(inplace=True),
        nn.Conv2d(inner, outer * 4, 3, 1, 1),
        nn.PixelShuffle(2),
    )


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return () the mean structural similarity (Wang et al. 2004) of (N, C, H, W) in -1..1.

    Gaussian window of 11 pixels, sigma 1.5, on the parts where it fits whole.
    """
    taps = torch.exp(-0.5 * (torch.arange(-5.0, 6.0) / 1.5) ** 2).to(a)
    taps = taps / taps.sum()
    channels = a.shape[1]
    stacked = torch.cat((a, b, a * a, b * b, a * b), 1)
    groups = 5 * channels
    rows = F.conv2d(stacked, taps.expand(groups, 1, 1, -1), groups=groups)
    means = F.conv2d(rows, taps.view(1, 1, -1, 1).expand(groups, 1, -1, 1), groups=groups)
    mean_a, mean_b, aa, bb, ab = torch.split(means, channels, 1)
    spread = 2.0  # of -1..1
    c1, c2 = (0.01 * spread) ** 2, (0.03 * spread) ** 2
    top = (2 * mean_a * mean_b + c1) * (2 * (ab - mean_a * mean_b) + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (aa - mean_a**2 + bb - mean_b**2 + c2)
    mean: Tensor = (top / bottom).mean()
    return mean


def edges(a: Tensor, b: Tensor) -> Tensor:
    """Return () the mean difference of neighbouring-pixel differences: what blur loses."""
    rows = (a.diff(dim=2) - b.diff(dim=2)).abs().mean()
    columns = (a.diff(dim=3) - b.diff(dim=3)).abs().mean()
    return rows + columns
