"""The shipped emotion net in torch, so that what is drawn can learn from what it sees.

Weights come from the ONNX files, where batch normalisation is folded into the convolutions. They
stay as they are; gradients only pass through to the pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from streamface import card as cards
from streamface.align import invert, similarity
from streamface.errors import ModelError
from streamface.frame import EMOTIONS
from streamface.model import card_path
from streamface.training import emotion
from streamface.training.augment import AugmentConfig, compose, jitter, warp
from streamface.training.nets import Block, ResidualNet

if TYPE_CHECKING:
    from streamface.card import ModelCard
    from streamface.frame import PointsF32

LUMA: Final = (0.299, 0.587, 0.114)
"""Of red, green and blue (BT.601): what a grey net sees of a picture."""
_SHAKEN: Final = AugmentConfig(rotate_deg=8.0, scale_frac=0.08, shift_frac=0.04, aspect_frac=0.04)


class Teacher(nn.Module):
    """One shipped classifier, looking at aligned colour pictures in -1..1."""

    def __init__(self, net: ResidualNet, card: ModelCard, landmarks_px: PointsF32) -> None:
        """landmarks_px: (5, 2) of the pictures it will be shown."""
        super().__init__()
        self.net = net.eval().requires_grad_(requires_grad=False)
        self.spec, self.temperature = card.input, card.temperature
        matrix = invert(similarity(landmarks_px, card.input.landmarks_px))
        self.register_buffer("crop_to_picture", torch.from_numpy(matrix.astype(np.float32)))

    def forward(self, pictures: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        """Return (N, K) logits of (N, 3, S, S) pictures in -1..1.

        With ``rng``, of crops that are turned, shifted and mirrored.
        """
        spec = self.spec
        maps = cast("Tensor", self.crop_to_picture).expand(len(pictures), 2, 3)
        if rng is not None:
            maps = compose(maps, jitter(len(pictures), spec.size_px, _SHAKEN, rng))
        crops = (warp(pictures.float(), maps, spec.size_px) + 1) * 127.5
        if spec.channels == 1:
            crops = (crops * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        x = (crops - mean) / torch.tensor(spec.std).view(1, -1, 1, 1)
        x = x.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.net(x)
        return logits.float()


def emotion_teacher(landmarks_px: PointsF32) -> Teacher:
    """Return the shipped emotion net with both its heads: FER-2013's answer, then FER+'s."""
    path = card_path("emotion")
    card = cards.load(path)
    net = ResidualNet(emotion.NET)
    load_folded(net, cards.read_onnx(card, path))
    return Teacher(net, card, landmarks_px)


def calibrated(teacher: Teacher, logits: Tensor) -> Tensor:
    """Return (N, 7) probabilities of the first head, as the card calibrates them."""
    return torch.softmax(logits[:, : len(EMOTIONS)] / teacher.temperature, 1)


def load_folded(net: ResidualNet, onnx_bytes: bytes) -> None:
    """Fill a net from its exported ONNX. Raises ModelError if it is another net's.

    The exporter writes convolutions in the order in which they run, batch normalisation folded in.
    """
    graph = onnx.load_from_string(onnx_bytes).graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    filled = [node for node in graph.node if node.op_type in {"Conv", "Gemm"}]
    layers = _folded(net)
    if len(filled) != len(layers):
        raise ModelError(f"the ONNX has {len(filled)} layers with weights, the net {len(layers)}")
    for layer, node in zip(layers, filled, strict=True):
        weight, bias = (torch.from_numpy(weights[name].copy()) for name in node.input[1:3])
        if layer.weight.shape != weight.shape:
            raise ModelError(f"{node.name} holds {tuple(weight.shape)}, {layer} was expected")
        layer.weight = nn.Parameter(weight)
        layer.bias = nn.Parameter(bias)


def _folded(net: ResidualNet) -> list[nn.Conv2d | nn.Linear]:
    """Take the batch normalisations out of a net; return its layers in the order they run."""
    found: list[nn.Conv2d | nn.Linear] = []
    for part in net.features:
        for chain in (part.main, part.shortcut) if isinstance(part, Block) else ():
            for place, layer in enumerate(chain):
                if isinstance(layer, nn.BatchNorm2d):
                    chain[place] = nn.Identity()
                elif isinstance(layer, nn.Conv2d):
                    found.append(layer)
        if isinstance(part, nn.Conv2d):
            found.append(part)
    for place, layer in enumerate(net.features):
        if isinstance(layer, nn.BatchNorm2d):
            net.features[place] = nn.Identity()
    return [*found, net.head]
