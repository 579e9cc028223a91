"""How faces differ that are told of in the same words: the linear part of an inventor.

A least-squares fit says what a blurred face looks like on average given its thumbnail, expression,
gender and pose. What is left, once the finer points of expression and pose are taken away too, is
who somebody is; its principal components, each of variance one, are the numbers of a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from streamface.frame import EMOTIONS
from streamface.paste import face_mask
from streamface.training.aligned import input_spec
from streamface.training.codenets import SKETCH_PX, tell, told_width

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamface.training.codenets import Inventor
    from streamface.training.resynthesis import FaceBatch

_RIDGE: Final = 1e-3
_LEAST_PROB: Final = 0.01
_ELSEWHERE: Final = 0.35
"""What hair, ears and neck count of what a face does."""
_MORE: Final = len(EMOTIONS) + 10
"""Words that ``at_length`` adds."""


class KeyReader(nn.Module):
    """The keys of real faces."""

    def __init__(self, key_width: int) -> None:
        super().__init__()
        pixels, words = 3 * SKETCH_PX**2, told_width() + _MORE
        self.register_buffer("explained", torch.zeros(pixels, words))
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("axes", torch.zeros(key_width, pixels))

    def forward(self, faces: FaceBatch) -> Tensor:
        """Return (N, key_width), standard normal over many faces."""
        explained, mean, axes = (
            cast("Tensor", getattr(self, name)) for name in ("explained", "mean", "axes")
        )
        left = blurred(faces) - F.linear(at_length(faces), explained, mean)
        return F.linear(left, axes)


def blurred(faces: FaceBatch) -> Tensor:
    """Return (N, 3 * SKETCH_PX ** 2)."""
    return F.adaptive_avg_pool2d(faces.pictures, SKETCH_PX).flatten(1)


def told(faces: FaceBatch) -> Tensor:
    """Return (N, W): what an inventor is told."""
    return tell(faces.thumbs, faces.expressions, faces.females, faces.poses)


def at_length(faces: FaceBatch) -> Tensor:
    """Return (N, W): the same and whatever else is known of expression and pose."""
    return torch.cat(
        (told(faces), faces.expressions.clamp_min(_LEAST_PROB).log(), faces.points.flatten(1)), 1
    )


def fit(net: Inventor, reader: KeyReader, batches: Iterable[FaceBatch]) -> None:
    """Fill the axes of an inventor, and what reads the keys of faces, from all of ``batches``."""
    sums = _Sums()
    for batch in batches:
        sums.add(batch)
    width = net.config.key_width
    short, mean = sums.fit(told_width())
    long, long_mean = sums.fit(told_width() + _MORE)
    left, prices = sums.left(long), _prices().double()
    variances, axes = torch.linalg.eigh(prices[:, None] * left * prices)
    variances, axes = variances[-width:].flip(0), axes[:, -width:].flip(1)
    axes = axes * torch.sign(axes.sum(0))  # so that the same faces give the same
    read = prices[:, None] * axes / variances.clamp_min(1e-12).sqrt()
    net.get_buffer("axes").copy_(_by_fours(torch.cat((short, left @ read), 1).T).T)
    net.get_buffer("mean").copy_(_by_fours(mean[None])[0])
    for name, value in (("explained", long), ("mean", long_mean), ("axes", read.T)):
        reader.get_buffer(name).copy_(value)


def _by_fours(flat: Tensor) -> Tensor:
    """Return (N, 3 * SKETCH_PX ** 2) pictures in the order that an inventor keeps them in."""
    pictures = flat.reshape(-1, 3, SKETCH_PX, SKETCH_PX)
    return F.pixel_unshuffle(pictures, 2).flatten(1)


def _prices() -> Tensor:
    """Return (3 * SKETCH_PX ** 2,): how much the parts of a picture count in telling faces apart.

    Without it a third of the numbers would describe what is behind a head.
    """
    inside = torch.from_numpy(face_mask(input_spec(SKETCH_PX)).copy())
    return (_ELSEWHERE + (1 - _ELSEWHERE) * inside).flatten().repeat(3)


class _Sums:
    """Sums of products over many faces, in float64: all that least squares need."""

    def __init__(self) -> None:
        self._count = 0
        self._xx = self._xy = self._yy = torch.zeros(())

    def add(self, batch: FaceBatch) -> None:
        x, y = at_length(batch).double(), blurred(batch).double()
        x = torch.cat((x, torch.ones_like(x[:, :1])), 1)
        self._count += len(x)
        self._xx = self._xx + x.T @ x
        self._xy = self._xy + x.T @ y
        self._yy = self._yy + y.T @ y

    def _solved(self, words: int) -> tuple[Tensor, Tensor]:
        """Return which rows, and (rows, pixels) coefficients by the first ``words`` and a mean."""
        rows = torch.cat((torch.arange(words), torch.tensor([len(self._xx) - 1])))
        xx = self._xx[rows][:, rows]
        ridge = _RIDGE * self._count * torch.eye(len(rows), dtype=xx.dtype)
        ridge[-1, -1] = 0
        return rows, torch.linalg.solve(xx + ridge, self._xy[rows])

    def fit(self, words: int) -> tuple[Tensor, Tensor]:
        """Return (pixels, words) coefficients and the (pixels,) constant."""
        _, solved = self._solved(words)
        return solved[:-1].T, solved[-1]

    def left(self, coefficients: Tensor) -> Tensor:
        """Return the (pixels, pixels) covariance of what these leave unexplained."""
        rows, solved = self._solved(coefficients.shape[1])
        xy, xx = self._xy[rows], self._xx[rows][:, rows]
        crossed = solved.T @ xy
        unexplained = self._yy - crossed - crossed.T + solved.T @ xx @ solved
        return unexplained / self._count
