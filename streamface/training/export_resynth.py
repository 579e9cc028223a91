"""From finished code nets to what ships: two ONNX files that take crops and give pictures."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from streamface import card as cards
from streamface.card import ModelCard
from streamface.frame import EMOTIONS
from streamface.lighting import Lighting
from streamface.paste import face_mask
from streamface.preprocess import probe
from streamface.training.aligned import input_spec
from streamface.training.codenets import POSE_WIDTH, THUMB_PX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from streamface.card import InputSpec
    from streamface.training.codenets import Editor, Inventor
    from streamface.training.vq import VqVae

_OPSET: Final = 17
SCENE_WIDTH: Final = 48
"""Principal components of a thumbnail and its pose that are drawn for an invented face."""
_RARE: Final = ("disgust", "fear", "surprise")
_RARE_MOST: Final = 0.6
"""Share of an expression that training faces hardly show (one in a hundred) of which an inventor
is told at most: beyond it faces fell to pieces, on held-out pictures. The rest becomes neutral."""
_POSE_SCALE: Final = 4.0
"""By which poses count beside the 48 grey levels of a thumbnail."""


class ReenactorGraph(nn.Module):
    """Crops and emotions to pictures: encode, edit, round to codes, decode."""

    def __init__(self, vqvae: VqVae, editor: Editor) -> None:
        super().__init__()
        self.vqvae = vqvae
        self.editor = editor

    def forward(self, crops: Tensor, emotions: Tensor) -> tuple[Tensor, Tensor]:
        """Return edited and plain pictures, (N, 3, S, S) RGB 0..255 each."""
        vectors = _rounded(self.vqvae, self.vqvae.encoder(crops))
        edited = _rounded(self.vqvae, self.editor(vectors, emotions))
        both = _pictures(self.vqvae.decode(torch.cat((edited, vectors))))
        made, plain = both.chunk(2)
        return made, plain


class InventorGraph(nn.Module):
    """Crops, of which the light is looked at, or random scenes, to pictures of somebody else."""

    def __init__(self, vqvae: VqVae, inventor: Inventor, scenes: Scenes, light: Light) -> None:
        super().__init__()
        self.vqvae = vqvae
        self.inventor = inventor
        self.scenes = scenes
        self.light = light
        most = torch.tensor([_RARE_MOST if name in _RARE else 1.0 for name in EMOTIONS])
        self.register_buffer("most", most)
        self.register_buffer(
            "neutral", torch.tensor([name == "neutral" for name in EMOTIONS]) * 1.0
        )

    def forward(  # noqa: PLR0917 - the inputs of a graph have an order
        self,
        crops: Tensor,
        scenes: Tensor,
        own: Tensor,
        expressions: Tensor,
        females: Tensor,
        poses: Tensor,
        keys: Tensor,
    ) -> Tensor:
        """Return (N, 3, S, S) RGB, 0..255."""
        size = crops.shape[-1] // THUMB_PX
        seen = self.light(F.avg_pool2d(crops, size))
        share = own[:, :, None, None]
        drawn, turned = self.scenes(scenes, females)
        thumbs = share * seen + (1 - share) * drawn
        poses = own * poses + (1 - own) * turned
        made = self.inventor(thumbs, self._calmed(expressions), females, poses, keys)
        return _pictures(self.vqvae.decode(_rounded(self.vqvae, made)))

    def _calmed(self, expressions: Tensor) -> Tensor:
        most, neutral = cast("Tensor", self.most), cast("Tensor", self.neutral)
        beyond = F.relu(expressions - most)
        return expressions - beyond + beyond.sum(1, keepdim=True) * neutral


class Light(nn.Module):
    """The thumbnail of any face at all, in the light and the colour of one that is seen."""

    def __init__(self, thumbs: Tensor, side_px: int) -> None:
        """thumbs: (N, 3, 4, 4) of photographs in -1..1. side_px: of the pictures they are of."""
        super().__init__()
        cells = face_mask(input_spec(side_px))
        cells = cells.reshape(THUMB_PX, side_px // THUMB_PX, THUMB_PX, -1).mean((1, 3))
        self.register_buffer("usual", thumbs.mean(0).reshape(3, -1))
        projection = Lighting(np.asarray(cells, np.float32)).projection
        self.register_buffer("projection", torch.from_numpy(projection.T.copy()))

    def forward(self, thumbs: Tensor) -> Tensor:
        """Return (N, 3, 4, 4) of which nine numbers each are of ``thumbs``."""
        usual, projection = cast("Tensor", self.usual), cast("Tensor", self.projection)
        away = thumbs.reshape(-1, 3, THUMB_PX**2) - usual
        return (usual + away @ projection).reshape(-1, 3, THUMB_PX, THUMB_PX)


class Scenes(nn.Module):
    """Random thumbnails and poses: a Gaussian of their principal components for each gender."""

    def __init__(
        self, thumbs: Tensor, poses: Tensor, females: Tensor, width: int = SCENE_WIDTH
    ) -> None:
        """thumbs: (N, 3, 4, 4) of photographs in -1..1. poses: (N, 2). females: (N, 1), -1 or 1."""
        super().__init__()
        means, bases = [], []
        width = min(width, *(int((females == sign).sum()) for sign in (-1, 1)))
        both = torch.cat((thumbs.flatten(1), _POSE_SCALE * poses), 1)
        for sign in (-1, 1):
            flat = both[females[:, 0] == sign]
            mean = flat.mean(0)
            _, spread, axes = torch.linalg.svd(flat - mean, full_matrices=False)
            means.append(mean)
            bases.append(axes[:width] * (spread[:width, None] / len(flat) ** 0.5))
        self.register_buffer("means", torch.stack(means))
        self.register_buffer("bases", torch.stack(bases))

    def forward(self, scenes: Tensor, females: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, 3, 4, 4) and (N, 2) of (N, width) standard normal numbers."""
        means, bases = cast("Tensor", self.means), cast("Tensor", self.bases)
        share = (females + 1) / 2
        male, female = (means[i] + scenes @ bases[i] for i in (0, 1))
        both = (1 - share) * male + share * female
        thumbs = both[:, :-POSE_WIDTH].clamp(-1, 1).reshape(-1, 3, THUMB_PX, THUMB_PX)
        return thumbs, both[:, -POSE_WIDTH:] / _POSE_SCALE


def export(
    graph: ReenactorGraph | InventorGraph,
    name: str,
    folder: Path,
    *,
    side_px: int,
    trained: Mapping[str, object],
) -> ModelCard:
    """Write NAME.onnx and its card to ``folder``; return the card."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(graph, ReenactorGraph):
        kind = "reenactor"
        outputs: tuple[str, ...] = ("pictures", "plain")
        conditions = {"emotions": (len(EMOTIONS),)}
    else:
        kind, outputs = "inventor", ("pictures",)
        conditions = {
            "scenes": (graph.scenes.get_buffer("bases").shape[1],),
            "own": (1,),
            "expressions": (len(EMOTIONS),),
            "females": (1,),
            "poses": (POSE_WIDTH,),
            "keys": (graph.inventor.config.key_width,),
        }
    spec = input_spec(side_px)
    path = folder / f"{name}.onnx"
    write_onnx(graph, spec, conditions, outputs, path)
    card = ModelCard(
        name=name,
        kind=kind,
        onnx=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input=spec,
        outputs=outputs,
        labels=EMOTIONS,
        conditions=conditions,
        preprocess_probe=probe(spec),
        trained=trained,
    )
    cards.save(card, folder / f"{name}.json")
    return card


def write_onnx(
    graph: nn.Module,
    spec: InputSpec,
    conditions: Mapping[str, tuple[int, ...]],
    outputs: Sequence[str],
    path: Path,
) -> None:
    """Write a graph with inputs "crops" and the conditions by name, all of any N."""
    examples = [torch.zeros(2, *spec.shape)]
    examples += [torch.zeros(2, *shape) for shape in conditions.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            tuple(examples),
            str(path),
            input_names=["crops", *conditions],
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in ("crops", *conditions, *outputs)},
            opset_version=_OPSET,
            dynamo=False,
        )


def _rounded(vqvae: VqVae, vectors: Tensor) -> Tensor:
    """Return the nearest code vectors: (N, D, h, w), written so that any runtime can do it."""
    codes = vqvae.codebook.get_buffer("codes")  # (K, D), unit
    scores = F.conv2d(vectors, codes[:, :, None, None])  # the largest is the nearest, any length
    numbers = scores.argmax(1)
    return F.embedding(numbers, codes).permute(0, 3, 1, 2)


def _pictures(decoded: Tensor) -> Tensor:
    return (decoded.clamp(-1, 1) + 1) * 127.5
