"""How usual a face looks: near the middle of all faces, and made of what they differ in.

After Moghaddam and Pentland (Probabilistic visual learning for object representation, 1997): the
distance in the space of the first principal components of faces, and the distance from it. A net
that tells photographs from drawn faces finds their grain instead, whatever they show.
"""

from __future__ import annotations

from typing import Final, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from streamface.lighting import Lighting
from streamface.paste import face_mask
from streamface.training.aligned import input_spec
from streamface.training.teachers import LUMA

_SIDE_PX: Final = 32
_AXES: Final = 64
_INSIDE: Final = 0.3
"""Of the mask above which a pixel is of the face."""
_LEAST_CONTRAST: Final = 4 / 127.5
_CHROMA: Final = 2.0
"""What red and blue count beyond brightness: a blotch is often a colour."""


class FaceSpace(nn.Module):
    """Oddness of (N, 3, S, S) pictures in -1..1: (N, 1), on average 1 for those it was fitted to.

    Light, as ``lighting`` has it, and contrast are taken out first: no face is odd for them.
    """

    def __init__(self, axes: int = _AXES) -> None:
        super().__init__()
        mask = face_mask(input_spec(_SIDE_PX))
        face = np.clip(2 * mask - 1, 0, 1)  # without its edges
        read, shape = Lighting(mask).least_squares
        luma = np.array(LUMA, np.float32)
        colours = np.stack((luma, *(_CHROMA * (np.eye(3)[[0, 2]] - luma))))
        inside = np.flatnonzero(face.ravel() > _INSIDE)
        for name, value in (
            ("read", read.T.copy()), ("shape", shape.T.copy()), ("colours", colours),
            ("shares", face.ravel() / face.sum()),
        ):  # fmt: skip
            self.register_buffer(name, torch.from_numpy(np.asarray(value, np.float32)))
        self.register_buffer("inside", torch.from_numpy(inside))
        width = 3 * len(inside)
        self.register_buffer("middle", torch.zeros(width))
        self.register_buffer("axes", torch.zeros(width, axes))
        self.register_buffer("scales", torch.ones(axes))
        self.register_buffer("outside", torch.ones(1))

    def _all(self, *names: str) -> list[Tensor]:
        return [cast("Tensor", getattr(self, name)) for name in names]

    def detail(self, x: Tensor) -> Tensor:
        """Return (N, W): what is left of faces without light and contrast."""
        read, shape, colours, shares, inside = self._all(
            "read", "shape", "colours", "shares", "inside"
        )
        step = x.shape[-1] // _SIDE_PX
        flat = F.avg_pool2d(x, step).flatten(2)
        flat = colours @ (flat - flat @ read @ shape)
        luma = flat[:, :1]
        contrast = (luma * luma * shares).sum(2, keepdim=True).sqrt().clamp_min(_LEAST_CONTRAST)
        return (flat / contrast).index_select(2, inside).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 1)."""
        middle, axes, scales, outside = self._all("middle", "axes", "scales", "outside")
        away = self.detail(x) - middle
        along = away @ axes
        squared = (along * along).sum(1, keepdim=True)
        rest = (away * away).sum(1, keepdim=True) - squared
        within = along / scales
        return ((within * within).mean(1, keepdim=True) + rest / outside) / 2


def fit(pictures: Tensor) -> FaceSpace:
    """Return the space of (N, 3, S, S) pictures in -1..1, two at least."""
    count = min(_AXES, len(pictures) // 2)
    space = FaceSpace(count)
    with torch.inference_mode():
        detail = torch.cat([space.detail(part) for part in torch.split(pictures, 256)])
        middle = detail.mean(0)
        _, spread, axes = torch.linalg.svd(detail - middle, full_matrices=False)
        variances = spread.square() / len(detail)
        for name, value in (
            ("middle", middle), ("axes", axes[:count].T), ("scales", variances[:count].sqrt()),
            ("outside", variances[count:].sum()[None]),
        ):  # fmt: skip
            space.get_buffer(name).copy_(value)
    return space
