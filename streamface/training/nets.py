"""The nets: one small residual family for every face classifier."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class NetConfig:
    """Shape of a ResidualNet; the cost on one core decided the widths (see engines/README.md)."""

    channels: int
    classes: int
    stem: int = 16  # full resolution is where bandwidth goes, so it gets few channels
    stem_stride: int = 1  # 2 for larger crops, whose finest detail is mostly camera noise
    widths: tuple[int, ...] = (32, 80, 160)  # each stage halves the resolution first
    depths: tuple[int, ...] = (2, 2, 2)
    dropout: float = 0.2


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2015), with the pooled shortcut of 2018.

    The shortcut averages before its 1x1 convolution, so that no input pixel is thrown away.
    """

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(inplace=True),
            nn.Conv2d(outer, outer, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outer),
        )
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d(stride))
        if inner != outer:
            self.shortcut.append(nn.Conv2d(inner, outer, 1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outer))
        # A block starts as its shortcut, which lets one-cycle schedules begin at high rates.
        nn.init.zeros_(cast("nn.BatchNorm2d", self.main[-1]).weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inner, H, W) to (N, outer, H / stride, W / stride)."""
        return torch.relu(self.main(x) + self.shortcut(x))


class ResidualNet(nn.Module):
    """Stem, stages of blocks, global average, linear: (N, C, H, W) float32 to (N, K) logits."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        stem = nn.Conv2d(config.channels, config.stem, 3, config.stem_stride, 1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(config.stem), nn.ReLU(inplace=True)]
        widths = (config.stem, *config.widths)
        for (inner, outer), depth in zip(pairwise(widths), config.depths, strict=True):
            layers.append(Block(inner, outer, stride=2))
            layers.extend(Block(outer, outer, stride=1) for _ in range(depth - 1))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(widths[-1], config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K) logits of (N, C, H, W) normalised crops."""
        pooled = self.features(x).mean(dim=(2, 3))  # (N, widths[-1])
        return cast("Tensor", self.head(self.dropout(pooled)))
