"""The recipes of the two nets on the codes: emotions edited, and faces invented.

The code net (``VqVae``) is finished and stays as it is. What is drawn is held to four things: to
the photograph it comes from, to a critic that knows photographs or their codes, to what the shipped
classifiers see in it, and to its own codes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from streamface.align import pose
from streamface.errors import ModelError
from streamface.frame import EMOTIONS
from streamface.paste import face_mask
from streamface.training import sketch
from streamface.training.aligned import input_spec, landmarks_px
from streamface.training.augment import AugmentConfig, jitter, occlude, warp
from streamface.training.checkpoint import (
    Checkpoint,
    append_json,
    identity_of,
    progress,
    to_channels_last,
)
from streamface.training.codenets import (
    THUMB_PX,
    CodeCritic,
    Critic,
    Editor,
    EditorConfig,
    Inventor,
    InventorConfig,
)
from streamface.training.loop import rate_share
from streamface.training.sketch import KeyReader
from streamface.training.teachers import (
    LUMA,
    Teacher,
    calibrated,
    emotion_teacher,
)
from streamface.training.vq import edges
from streamface.training.vqvae import write_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamface.training.vq import VqVae

_CLASSES: Final = len(EMOTIONS)
_PREVIEW: Final = 8
_HIDDEN_FRAC: Final = 0.45
_STEP: Final = 256
_AS_TRACKED: Final = AugmentConfig(
    rotate_deg=6.0, scale_frac=0.08, shift_frac=0.04, aspect_frac=0.04
)
_DEAR_ELSEWHERE: Final = 4.0
_AGAIN_FRAC: Final = 1 / 3
"""Of the faces of a batch: those that are drawn again; strangers take the place of the others."""
_DRAWN_FRAC: Final = 0.5
"""Of the steps of an inventor: those in which pictures are drawn of its codes, and looked at. It
costs as much as the net itself, and a critic of codes needs none."""
_STEEPNESS_FRAC: Final = 0.125
"""Of the steps of its critic: those that price how steep it is (Karras et al. 2020)."""
_SURE: Final = (0.7, 1.0)
"""Share of the emotion asked for in an expression that is made up; the rest is spread evenly."""


@dataclass(frozen=True, slots=True)
class EditWeights:
    """Of the terms of the editor's loss."""

    emotion: float = 0.25
    """Cross-entropy of both heads of the emotion net."""
    urgency: tuple[float, ...] = (1.0, 2.0, 1.2, 0.8, 1.0, 1.2, 0.9)
    """Of each of EMOTIONS, by which ``emotion`` is multiplied: some take more of a change."""
    likeness: float = 4.0
    """Mean absolute change of brightness."""
    colour: float = 10.0
    """The same of colour, which the emotion net cannot see and no expression needs."""
    smoothness: float = 2.0
    """Mean difference of the change between neighbouring pixels: against stripes and specks."""
    critic: float = 0.6
    codes: float = 0.2


@dataclass(frozen=True, slots=True)
class InventWeights:
    """Of the terms of the inventor's loss."""

    vectors: float = 1.0
    """One less the cosine to the code vectors of the face whose key it was given."""
    likeness: float = 2.0
    edge: float = 0.3
    emotion: float = 0.03
    """Little: the sketch shows an expression already, and a teacher that is to be convinced of fear
    is so by specks."""
    critic: float = 0.2
    codes: float = 0.2
    steepness: float = 0.1
    """What the critic pays for being steep; at ten times that it could hardly tell a thing."""


@dataclass(frozen=True, slots=True)
class ResynthConfig:
    """How to train either net."""

    epochs: int
    seed: int = 1
    batch_size: int = 32
    peak_rate: float = 4e-4
    critic_rate: float = 1.2e-3
    """Of an editor three times the other: at the same rate a critic of pictures tells nothing."""
    warmup_frac: float = 0.03
    ema_pictures: float = 10_000.0
    threads: int = 1
    amp: bool = False
    """bfloat16, where the CPU has it."""
    editor: EditorConfig = field(default_factory=EditorConfig)
    inventor: InventorConfig = field(default_factory=InventorConfig)
    edit: EditWeights = field(default_factory=EditWeights)
    invent: InventWeights = field(default_factory=InventWeights)


@dataclass(frozen=True, slots=True, eq=False)
class FaceSet:
    """Aligned faces with their codes and what the shipped nets say of them."""

    pictures: Tensor
    """(N, 3, S, S) uint8."""
    codes: Tensor
    """(2, N, h, w) int16 code numbers: of the pictures, and of their mirror images."""
    expressions: Tensor
    """(N, 7) float32 probabilities of EMOTIONS."""
    females: Tensor
    """(N, 1) float32 from -1, labelled male, to 1, labelled female."""
    drawn: Tensor
    """(N, 3, S, S) uint8: what the code net makes of the pictures."""
    points: Tensor
    """(2, N, 5, 2) float32: how far landmarks lie off their template, in sides of the picture; and
    of the mirror images."""
    poses: Tensor
    """(2, N, 2) float32, as ``streamface.align.pose`` has them, likewise."""

    def batch(self, vqvae: VqVae, rows: Tensor, mirrored: Tensor) -> FaceBatch:
        """Return the faces of (B,) rows, mirrored where (B,) ``mirrored``."""
        turned = mirrored.view(-1, 1, 1, 1)
        x, drawn = (p[rows].float() / 127.5 - 1 for p in (self.pictures, self.drawn))
        x, drawn = (torch.where(turned, p.flip(3), p) for p in (x, drawn))
        sides = mirrored.long()
        numbers = self.codes[sides, rows].long()
        return FaceBatch(
            x.contiguous(memory_format=torch.channels_last),
            vqvae.codebook.look_up(numbers),
            self.expressions[rows],
            self.females[rows],
            drawn.contiguous(memory_format=torch.channels_last),
            self.points[sides, rows],
            self.poses[sides, rows],
        )

    def batches(self, vqvae: VqVae, size: int) -> Iterator[FaceBatch]:
        """Yield every face and its mirror image."""
        for rows in torch.split(torch.arange(len(self.pictures)), size):
            for side in (False, True):
                yield self.batch(vqvae, rows, torch.full((len(rows),), side))


@dataclass(frozen=True, slots=True, eq=False)
class FaceBatch:
    """Some faces, as the nets take them."""

    pictures: Tensor
    """(B, 3, S, S) in -1..1."""
    vectors: Tensor
    """(B, D, h, w) code vectors."""
    expressions: Tensor
    females: Tensor
    drawn: Tensor
    """(B, 3, S, S) in -1..1: the pictures by their codes alone."""
    points: Tensor
    """(B, 5, 2)."""
    poses: Tensor
    """(B, 2)."""

    @property
    def thumbs(self) -> Tensor:
        """(B, 3, 4, 4)."""
        return F.adaptive_avg_pool2d(self.pictures, THUMB_PX)


def face_set(
    vqvae: VqVae,
    pictures: Tensor,
    labels: Tensor,
    landmarks: NDArray[np.float32],
    *,
    amp: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> FaceSet:
    """Return the set of (N, 3, S, S) uint8 pictures with (N,) gender labels, encoded and looked at.

    landmarks: (N, 5, 2) in pixels of these pictures; where none were found (NaN), those of a face
    that looks straight ahead. Emotions are the shipped net's own, soft: FairFace has none. amp: in
    bfloat16.
    """
    emotion = _teacher(vqvae)
    codes: tuple[list[Tensor], list[Tensor]] = ([], [])
    expressions, drawn = [], []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        for batch in torch.split(pictures, 64):
            x = (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            coded = vqvae.encode(x)
            codes[0].append(coded.numbers.short())
            codes[1].append(vqvae.encode(x.flip(3)).numbers.short())
            again = (vqvae.decode(coded.vectors).clamp(-1, 1) + 1) * 127.5
            drawn.append(again.round().to(torch.uint8))
            expressions.append(calibrated(emotion, emotion(x)))
            tick()
    points = _both_ways(landmarks, pictures.shape[-1])
    return FaceSet(
        pictures=pictures,
        codes=torch.stack([torch.cat(each) for each in codes]).clone(),
        expressions=torch.cat(expressions).clone(),
        females=(labels.float() * 2 - 1)[:, None],
        drawn=torch.cat(drawn).clone(),
        points=torch.from_numpy((points - landmarks_px(1)).astype(np.float32)),
        poses=torch.from_numpy(pose(points)),
    )


def _both_ways(landmarks: NDArray[np.float32], side_px: int) -> NDArray[np.float32]:
    """Return (2, N, 5, 2) landmarks in sides of the picture, as they are and mirrored."""
    here = landmarks / np.float32(side_px)
    here = np.where(np.isfinite(here), here, landmarks_px(1)).astype(np.float32)
    there = here[:, (1, 0, 2, 4, 3)]
    there[..., 0] = 1 - there[..., 0]
    return np.stack((here, there))


def jittered(pictures: Tensor, seed: int) -> Tensor:
    """Return (N, 3, S, S) uint8 pictures, each turned, shifted and scaled a little, once."""
    rng = np.random.default_rng(seed)
    side = pictures.shape[-1]
    out = torch.empty_like(pictures)
    for start in range(0, len(pictures), _STEP):
        batch = pictures[start : start + _STEP].float()
        maps = jitter(len(batch), (side, side), _AS_TRACKED, rng)
        out[start : start + _STEP] = warp(batch, maps, (side, side)).round().to(torch.uint8)
    return out


class Step(NamedTuple):
    """What a net did with a batch."""

    loss: Tensor
    drawn: tuple[Tensor, ...]
    """For the critic, without gradients: what it takes, of what was made."""
    real: tuple[Tensor, ...]
    """The same of photographs."""


class EditTrainer(nn.Module):
    """An editor and its critic, and how they learn."""

    name = "editor"
    momentum = 0.5

    def __init__(self, vqvae: VqVae, config: ResynthConfig) -> None:
        super().__init__()
        self.net = Editor(config.editor)
        self.critic = Critic()
        self._fixed = (vqvae, _teacher(vqvae))  # in a tuple, which torch does not train
        self._weights = config.edit
        mask = face_mask(input_spec(vqvae.config.side_px)).copy()
        self.register_buffer("mask", torch.from_numpy(mask), persistent=False)
        self.register_buffer("prices", change_prices(vqvae.config.side_px), persistent=False)

    def prepare(self, train: FaceSet) -> None:
        """Nothing: an editor starts as the identity."""

    def made(self, batch: FaceBatch, emotions: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures with another emotion, and the commitment.

        A picture changes by the difference of two decodings, under the mask of the stream: what
        the codes lose of a face is not lost twice.
        """
        vqvae, _ = self._fixed
        coded = vqvae.codebook(self.net(batch.vectors, emotions).float())
        edited = vqvae.decode(coded.vectors)
        mask = cast("Tensor", self.mask)
        return batch.pictures + mask * (edited - batch.drawn), coded.commitment

    def step(self, batch: FaceBatch, rng: np.random.Generator) -> Step:
        """Return the net's loss and pictures for the critic."""
        weights = self._weights
        wanted = torch.from_numpy(rng.integers(0, _CLASSES, len(batch.pictures)))
        asked = F.one_hot(wanted, _CLASSES).float()
        made, commitment = self.made(batch, asked)
        made = made.contiguous(memory_format=torch.channels_last)
        logits = self._fixed[1](_seen_badly(made, rng), rng)
        # A face that shows the emotion already has nothing to gain from a change.
        shown = (batch.expressions * asked).sum(1)
        change = made - batch.pictures
        loss = (
            weights.emotion * _both_heads(logits, wanted, weights.urgency)
            + (_priced(change, cast("Tensor", self.prices), weights) * (0.5 + shown)).mean()
            + weights.critic * _pleases(self.critic, made)
            + weights.codes * commitment
        )
        return Step(loss, (made.detach(),), (batch.pictures,))

    def critic_loss(self, step: Step, rng: np.random.Generator) -> Tensor:  # noqa: ARG002
        """Return the hinge loss (Lim and Ye 2017) of what a step showed."""
        return _hinge(self.critic, *step.drawn, sign=1) + _hinge(self.critic, *step.real, sign=-1)

    def _every_emotion(self, batch: FaceBatch) -> Iterator[Tensor]:
        """Yield the batch's pictures with each of EMOTIONS."""
        for asked in torch.eye(_CLASSES):
            yield self.made(batch, asked.expand(len(batch.pictures), -1))[0]

    def preview(self, batch: FaceBatch, path: Path) -> None:
        """Write a PNG: photographs above, then a row for each emotion."""
        write_grid([batch.pictures, *self._every_emotion(batch)], path)

    def score(self, batch: FaceBatch) -> dict[str, float]:
        """Return how often the emotion net, the teacher, says what was asked for."""
        right = []
        for wanted, made in enumerate(self._every_emotion(batch)):
            said = self._fixed[1](made.clamp(-1, 1))[:, :_CLASSES].argmax(1)
            right.append((said == wanted).float().mean())
        return {
            "agreed": round(torch.stack(right).mean().item(), 4),
            "least": round(torch.stack(right).min().item(), 4),
        }


class InventTrainer(nn.Module):
    """An inventor, what reads the keys of real faces, and a critic of codes."""

    name = "inventor"
    momentum = 0.0
    """Of Adam: two nets that answer each other's last step should not remember those before."""

    def __init__(self, vqvae: VqVae, config: ResynthConfig) -> None:
        super().__init__()
        self.net = Inventor(config.inventor)
        self.reader = KeyReader(config.inventor.key_width)
        self.critic = CodeCritic(config.inventor.code_width)
        self._fixed = (vqvae, _teacher(vqvae))  # in a tuple, which torch does not train
        self._weights = config.invent
        self._keys = config.inventor.key_width

    def prepare(self, train: FaceSet) -> None:
        """Find in what faces differ; a run that goes on finds the same."""
        sketch.fit(self.net, self.reader, train.batches(self._fixed[0], _STEP))

    def made(self, batch: FaceBatch, expressions: Tensor, keys: Tensor) -> Tensor:
        """Return (N, 3, S, S): who has these keys in the place of the faces of a batch."""
        vectors = self.net(batch.thumbs, expressions, batch.females, batch.poses, keys).float()
        vqvae, _ = self._fixed
        return vqvae.decode(vqvae.codebook(vectors).vectors)

    def step(self, batch: FaceBatch, rng: np.random.Generator) -> Step:
        """Return the net's loss and codes for the critic.

        Some of the batch is drawn again from its own key; the others become other people, and
        these alone are held to the critic: near copies would be all that it learns from.
        """
        weights = self._weights
        count = len(batch.pictures)
        again = round(_AGAIN_FRAC * count)
        with torch.no_grad():
            own = self.reader(batch)
        keys = torch.from_numpy(rng.standard_normal((count, self._keys), np.float32))
        keys = torch.cat((own[:again], keys[again:]))
        wanted = _expressions(batch.expressions, again, rng)
        hidden = torch.from_numpy(rng.random((count, 1)) < 0.3)
        females = torch.where(hidden, torch.zeros_like(batch.females), batch.females)
        vectors = self.net(batch.thumbs, wanted, females, batch.poses, keys).float()
        coded = self._fixed[0].codebook(vectors)
        with torch.no_grad():  # of no expression: what is made up would give itself away
            even = torch.full_like(wanted, 1 / _CLASSES)
            outline = self.net.outline(batch.thumbs, even, females, batch.poses)
        to_codes = F.cosine_similarity(vectors[:again], batch.vectors[:again], 1)
        strangers = (coded.vectors[again:], outline[again:])
        loss = (
            weights.vectors * (1 - to_codes).mean()
            + weights.critic * _doubted([-score for score in self.critic(*strangers)])
            + weights.codes * coded.commitment
        )
        if rng.random() < _DRAWN_FRAC:
            loss = loss + self._looks(batch, coded.vectors, wanted, again, rng)
        return Step(loss, (strangers[0].detach(), strangers[1]), (batch.vectors, outline))

    def _looks(
        self,
        batch: FaceBatch,
        vectors: Tensor,
        wanted: Tensor,
        again: int,
        rng: np.random.Generator,
    ) -> Tensor:
        """Return the price of how what is drawn of the codes looks, the first ``again`` as real."""
        weights = self._weights
        vqvae, emotion = self._fixed
        made = vqvae.decode(vectors)
        x = batch.pictures[:again]
        logits = emotion(_seen_badly(made[again:], rng), rng)
        lit = (F.adaptive_avg_pool2d(made, THUMB_PX) - batch.thumbs).abs().mean()
        return (
            weights.likeness * ((made[:again] - x).abs().mean() + lit)
            + weights.edge * edges(made[:again], x)
            + weights.emotion * _soft_heads(logits, wanted[again:])
        )

    def critic_loss(self, step: Step, rng: np.random.Generator) -> Tensor:
        """Return the logistic loss of what a step showed (Goodfellow et al. 2014).

        Now and then with a price on how steep the critic is at photographs (R1, Mescheder 2018).
        """
        (vectors, outline), steep = step.real, rng.random() < _STEEPNESS_FRAC
        vectors = vectors.detach().requires_grad_(steep)
        real = self.critic(vectors, outline)
        loss = _doubted(self.critic(*step.drawn)) + _doubted([-score for score in real])
        if steep:
            total = real[0].float().mean((1, 2, 3)).sum() + real[1].float().sum()
            (slope,) = torch.autograd.grad(total, vectors, create_graph=True)
            price = self._weights.steepness / (2 * _STEEPNESS_FRAC)
            loss = loss + price * slope.square().sum((1, 2, 3)).mean()
        return loss

    def preview(self, batch: FaceBatch, path: Path) -> None:
        """Write a PNG: photographs, drawn again, sketches and faces of three other people."""
        rng = np.random.default_rng(0)
        own = self.reader(batch)
        said = sketch.told(batch)
        rows = [batch.pictures, _enlarged(self.net.sketch(said, own))]
        rows.append(self.made(batch, batch.expressions, own))
        for _ in range(3):
            keys = torch.from_numpy(rng.standard_normal((1, self._keys), np.float32)).expand_as(own)
            rows.append(_enlarged(self.net.sketch(said, keys)))
            rows.append(self.made(batch, batch.expressions, keys))
        for wanted in (2, 3, 5):
            asked = _sure(torch.tensor([wanted]), torch.tensor([0.95])).expand(len(own), -1)
            rows.append(self.made(batch, asked, keys))
        write_grid(rows, path)

    def score(self, batch: FaceBatch) -> dict[str, float]:
        """Return how near a face is drawn again, and how often its expression is kept by others."""
        own = self.reader(batch)
        again = self.made(batch, batch.expressions, own)
        rng = np.random.default_rng(0)
        keys = torch.from_numpy(rng.standard_normal(tuple(own.shape), np.float32))
        other = self.made(batch, batch.expressions, keys)
        said = self._fixed[1](other.clamp(-1, 1))[:, :_CLASSES].argmax(1)
        error = (again.clamp(-1, 1) - batch.pictures).abs().mean()
        return {
            "again_error": round(error.item(), 4),
            "kept": round((said == batch.expressions.argmax(1)).float().mean().item(), 4),
            "key_spread": round(own.std().item(), 3),
        }


def _enlarged(sketches: Tensor) -> Tensor:
    return F.interpolate(sketches, scale_factor=2.0, mode="bilinear")


def load_editor(run_dir: Path) -> tuple[Editor, dict[str, object]]:
    """Return the averaged editor of a run and what its card says of the run. Raises ModelError."""
    config, weights, trained = _finished(run_dir, "editor")
    net = Editor(EditorConfig(**config["editor"]))
    net.load_state_dict(weights)
    return net.eval(), trained


def load_inventor(run_dir: Path) -> tuple[Inventor, dict[str, object]]:
    """Return the averaged inventor of a run, likewise."""
    config, weights, trained = _finished(run_dir, "inventor")
    net = Inventor(InventorConfig(**config["inventor"]))
    net.load_state_dict(weights)
    return net.eval(), trained


def _finished(
    run_dir: Path, name: str
) -> tuple[dict[str, dict[str, int]], dict[str, Tensor], dict[str, object]]:
    path = run_dir / "checkpoint.pt"
    if not path.exists():
        raise ModelError(f"{path}: no checkpoint; run tools/train_resynth.py {name} first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    config = json.loads(state["config"])
    if config["net"] != name:
        raise ModelError(f"{path} is of an {config['net']}, not of an {name}")
    prefix = "net."
    weights = {
        key.removeprefix(prefix): value
        for key, value in state["ema"].items()
        if key.startswith(prefix)
    }
    trained = {
        "seed": config["seed"],
        "epochs_of_the_last_run": f"{state['epochs_done']} of {config['epochs']}",
        "loss_weights": config["edit" if name == "editor" else "invent"],
    }
    return config, weights, trained


def fit(
    trainer: EditTrainer | InventTrainer,
    train: FaceSet,
    held_out: FaceSet,
    vqvae: VqVae,
    config: ResynthConfig,
    *,
    run_dir: Path,
    resume: bool = False,
) -> EditTrainer | InventTrainer:
    """Train either and return it with averaged weights; resumable by whole epochs."""
    torch.set_num_threads(config.threads)
    rng = np.random.default_rng(config.seed)
    to_channels_last(trainer)
    critic = [p for n, p in trainer.named_parameters() if n.startswith("critic.")]
    drawing = [p for n, p in trainer.named_parameters() if not n.startswith("critic.")]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(drawing, config.peak_rate, betas=(trainer.momentum, 0.99)),
        torch.optim.Adam(critic, config.critic_rate, betas=(trainer.momentum, 0.99)),
    ]
    identity = identity_of(config, net=trainer.name)
    state = Checkpoint(trainer, optimizers, rng, identity)
    start = state.load(run_dir) if resume else 0
    run_dir.mkdir(parents=True, exist_ok=True)
    steps = max(1, len(train.pictures) // config.batch_size)
    none = torch.zeros(len(held_out.pictures), dtype=torch.bool)
    shown = held_out.batch(vqvae, torch.arange(len(held_out.pictures)), none)
    some = torch.arange(min(_PREVIEW, len(none)))
    few = held_out.batch(vqvae, some, none[some])
    with progress() as bar:
        for epoch in range(start, config.epochs):
            began_s = time.monotonic()
            task = bar.add_task(f"epoch {epoch + 1}/{config.epochs}", total=steps)
            order = rng.permutation(len(train.pictures))
            totals = np.zeros(2)
            trainer.train()
            for step in range(steps):
                rows = torch.from_numpy(order[step * config.batch_size :][: config.batch_size])
                mirrored = torch.from_numpy(rng.random(len(rows)) < 0.5)
                batch = train.batch(vqvae, rows, mirrored)
                share = rate_share(
                    (epoch * steps + step) / (config.epochs * steps), config.warmup_frac
                )
                for optimizer, peak in zip(
                    optimizers, (config.peak_rate, config.critic_rate), strict=True
                ):
                    optimizer.param_groups[0]["lr"] = peak * share
                totals += _learn(trainer, batch, optimizers, config, rng)
                state.average(config.batch_size / config.ema_pictures, epoch * steps + step)
                bar.advance(task)
            bar.remove_task(task)
            averaged = state.averaged
            with torch.inference_mode():
                metrics = {
                    "epoch": epoch + 1,
                    "loss": round(float(totals[0]) / steps, 4),
                    "critic_loss": round(float(totals[1]) / steps, 4),
                    **averaged.score(shown),
                    "seconds": round(time.monotonic() - began_s, 1),
                }
                averaged.preview(few, run_dir / f"preview-{epoch + 1:03d}.png")
            append_json(run_dir / "metrics.jsonl", metrics)
            bar.console.print(metrics, soft_wrap=True)
            state.save(run_dir, epoch + 1)
    return state.averaged


def _learn(
    trainer: EditTrainer | InventTrainer,
    batch: FaceBatch,
    optimizers: list[torch.optim.Optimizer],
    config: ResynthConfig,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """One step of the net, then one of its critic; return both losses."""
    trainer.critic.requires_grad_(requires_grad=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.amp):
        done = trainer.step(batch, rng)
    optimizers[0].zero_grad()
    torch.autograd.backward(done.loss)
    optimizers[0].step()
    trainer.critic.requires_grad_(requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.amp):
        false = trainer.critic_loss(done, rng)
    optimizers[1].zero_grad()
    torch.autograd.backward(false)
    optimizers[1].step()
    return done.loss.item(), false.item()


def _teacher(vqvae: VqVae) -> Teacher:
    return emotion_teacher(landmarks_px(vqvae.config.side_px))


def _hinge(critic: Critic, pictures: Tensor, *, sign: float) -> Tensor:
    """sign: 1 for what is drawn, -1 for photographs (Lim and Ye 2017)."""
    patches, whole = critic(pictures)
    return F.relu(1 + sign * patches.float()).mean() + F.relu(1 + sign * whole.float()).mean()


def _pleases(critic: Critic, pictures: Tensor) -> Tensor:
    patches, whole = critic(pictures)
    score: Tensor = patches.float().mean() + whole.float().mean()
    return -score


def _doubted(scores: Sequence[Tensor]) -> Tensor:
    """Return the loss of scores that should be low."""
    return torch.stack([F.softplus(score.float()).mean() for score in scores]).sum()


def _both_heads(logits: Tensor, wanted: Tensor, urgency: Sequence[float]) -> Tensor:
    """Cross-entropy of FER-2013's answer and, at half the weight, of FER+'s more cautious one."""
    one, other = torch.split(logits, _CLASSES, 1)
    wrong = F.cross_entropy(one, wanted, label_smoothing=0.05, reduction="none")
    wrong = wrong + 0.5 * F.cross_entropy(other, wanted, label_smoothing=0.1, reduction="none")
    return (wrong * torch.tensor(urgency)[wanted]).mean()


def _soft_heads(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :_CLASSES], wanted)


def change_prices(side_px: int) -> Tensor:
    """Return (S, S) what it costs to change a pixel: least at brows, eyes and mouth.

    Elsewhere it costs _DEAR_ELSEWHERE times as much: an expression may wrinkle a cheek, but a net
    left alone paints beards and shadows, which its teacher takes for a mood.
    """
    right_eye, left_eye, _, right_mouth, left_mouth = landmarks_px(side_px)
    between = float(left_eye[0] - right_eye[0])
    y, x = np.mgrid[0:side_px, 0:side_px] + 0.5
    near = np.zeros((side_px, side_px))
    # Centres and half axes in distances between the eyes; brows lie a little above them.
    for centre, up, (across, down) in (
        (right_eye, 0.15, (0.45, 0.42)),
        (left_eye, 0.15, (0.45, 0.42)),
        ((right_mouth + left_mouth) / 2, 0.0, (0.75, 0.45)),
    ):
        apart = np.hypot(
            (x - centre[0]) / (across * between), (y - centre[1] + up * between) / (down * between)
        )
        near = np.maximum(near, np.clip(2 * (1.25 - apart), 0, 1))  # one, and a soft rim
    return torch.from_numpy(_DEAR_ELSEWHERE - (_DEAR_ELSEWHERE - 1) * near).float()


def _priced(change: Tensor, prices: Tensor, weights: EditWeights) -> Tensor:
    """Return (N,) what a change of (N, 3, S, S) pictures costs."""
    luma = (change * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    rough = change.diff(dim=2).abs().mean((1, 2, 3)) + change.diff(dim=3).abs().mean((1, 2, 3))
    return (
        weights.likeness * (prices * luma.abs()).mean((1, 2, 3))
        + weights.colour * (prices * (change - luma).abs()).mean((1, 2, 3))
        + weights.smoothness * rough
    )


def _dimmed(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Add noise: what convinces only without it is no expression."""
    noise = torch.from_numpy(rng.standard_normal(tuple(pictures.shape), np.float32))
    return pictures.clamp(-1.1, 1.1) + noise * float(rng.uniform(0, 0.08))


def _seen_badly(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Add noise, hide a part and at times all detail: an expression is not one spot that tells."""
    seen = occlude(_dimmed(pictures, rng), _HIDDEN_FRAC, rng)
    if rng.random() < 0.5:
        side = pictures.shape[-1]
        seen = F.interpolate(F.avg_pool2d(seen, 2), (side, side), mode="bilinear")
    return seen


def _expressions(own: Tensor, kept: int, rng: np.random.Generator) -> Tensor:
    """Return (N, 7): what to ask for, and the teacher should say.

    The first ``kept`` keep their own; of the others half are made up.
    """
    count = len(own)
    labels = torch.from_numpy(rng.integers(0, _CLASSES, count))
    shares = torch.from_numpy(rng.uniform(*_SURE, count).astype(np.float32))
    made_up = torch.from_numpy(rng.random(count) < 0.5) & (torch.arange(count) >= kept)
    return torch.where(made_up[:, None], _sure(labels, shares), own)


def _sure(labels: Tensor, shares: Tensor) -> Tensor:
    """Return (N, 7) with ``shares`` at the labels and the rest spread over the other classes."""
    rest = ((1 - shares) / (_CLASSES - 1))[:, None].expand(-1, _CLASSES)
    return torch.where(F.one_hot(labels, _CLASSES).bool(), shares[:, None], rest)
