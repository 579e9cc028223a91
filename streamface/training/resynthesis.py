"""The recipes of the two nets on the codes: emotions edited, and faces invented.

The code net (``VqVae``) is finished and stays as it is. What is drawn is held to four things: to
the photograph it comes from, to a critic that knows photographs, to what the shipped classifiers
see in it, and to its own codes.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom
from torch import Tensor, nn

from streamface.card import InputSpec
from streamface.errors import ModelError
from streamface.frame import EMOTIONS
from streamface.paste import face_mask
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
    Critic,
    Describer,
    Editor,
    EditorConfig,
    Inventor,
    InventorConfig,
)
from streamface.training.data import FAIRFACE_LANDMARKS_PX, FAIRFACE_SIDE_PX
from streamface.training.loop import rate_share
from streamface.training.teachers import (
    LUMA,
    Seen,
    Teacher,
    calibrated,
    emotion_teacher,
    gender_teacher,
)
from streamface.training.vq import edges, ssim
from streamface.training.vqvae import write_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from streamface.training.vq import VqVae

_CLASSES: Final = len(EMOTIONS)
_PREVIEW: Final = 8
_HIDDEN_FRAC: Final = 0.45
_STEP: Final = 256
_AS_TRACKED: Final = AugmentConfig(
    rotate_deg=6.0, scale_frac=0.08, shift_frac=0.04, aspect_frac=0.04
)
_DEAR_ELSEWHERE: Final = 4.0
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

    likeness: float = 2.0
    structure: float = 0.5
    edge: float = 0.3
    features: float = 0.3
    key: float = 2e-4
    """A nat of what the key tells about the face."""
    emotion: float = 0.15
    gender: float = 0.05
    critic: float = 0.25
    codes: float = 0.2
    apart: float = 0.35
    """Reward for looking unlike the face whose thumbnail it was."""
    twins: float = 0.5
    """Reward for two keys that make two different faces of one thumbnail."""


@dataclass(frozen=True, slots=True)
class ResynthConfig:
    """How to train either net."""

    epochs: int
    seed: int = 1
    batch_size: int = 32
    peak_rate: float = 4e-4
    critic_rate: float = 1.2e-3
    """Three times the other: at the same rate the critic of the inventor could tell nothing."""
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
    persons: Tensor
    """(N, F) float32: what the gender net sees of who they are, its last stage without places."""

    def batch(self, vqvae: VqVae, rows: Tensor, mirrored: Tensor) -> FaceBatch:
        """Return the faces of (B,) rows, mirrored where (B,) ``mirrored``."""
        turned = mirrored.view(-1, 1, 1, 1)
        x, drawn = (p[rows].float() / 127.5 - 1 for p in (self.pictures, self.drawn))
        x, drawn = (torch.where(turned, p.flip(3), p) for p in (x, drawn))
        numbers = self.codes[mirrored.long(), rows].long()
        return FaceBatch(
            x.contiguous(memory_format=torch.channels_last),
            vqvae.codebook.look_up(numbers),
            self.expressions[rows],
            self.females[rows],
            drawn.contiguous(memory_format=torch.channels_last),
            self.persons[rows],
        )


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
    persons: Tensor

    def only(self, rows: Tensor) -> FaceBatch:
        """Return these rows, in this order."""
        names = (each.name for each in dataclasses.fields(self))
        return FaceBatch(*(getattr(self, name)[rows] for name in names))

    @property
    def thumbs(self) -> Tensor:
        """(B, 3, 4, 4)."""
        return F.adaptive_avg_pool2d(self.pictures, THUMB_PX)


def input_spec(side_px: int) -> InputSpec:
    """Return what the code nets see: the whole aligned face, in colour, -1..1."""
    return InputSpec(
        size_px=(side_px, side_px),
        colour="rgb",
        landmarks_px=landmarks_px(side_px),
        mean=(127.5,) * 3,
        std=(127.5,) * 3,
    )


def landmarks_px(side_px: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return (5, 2): where landmarks stand in FairFace's pictures shrunk to ``side_px``."""
    return (FAIRFACE_LANDMARKS_PX * (side_px / FAIRFACE_SIDE_PX)).astype(np.float32)


def face_set(
    vqvae: VqVae,
    pictures: Tensor,
    labels: Tensor,
    *,
    amp: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> FaceSet:
    """Return the set of (N, 3, S, S) uint8 pictures with (N,) gender labels, encoded and looked at.

    Emotions are the shipped net's own, soft: FairFace has none. amp: in bfloat16.
    """
    emotion, gender = _teachers(vqvae)
    codes: tuple[list[Tensor], list[Tensor]] = ([], [])
    expressions, drawn, persons = [], [], []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        for batch in torch.split(pictures, 64):
            x = (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            coded = vqvae.encode(x)
            codes[0].append(coded.numbers.short())
            codes[1].append(vqvae.encode(x.flip(3)).numbers.short())
            again = (vqvae.decode(coded.vectors).clamp(-1, 1) + 1) * 127.5
            drawn.append(again.round().to(torch.uint8))
            expressions.append(calibrated(emotion, emotion(x)))
            persons.append(_person(gender.look(x)))
            tick()
    return FaceSet(
        pictures=pictures,
        codes=torch.stack([torch.cat(each) for each in codes]).clone(),
        expressions=torch.cat(expressions).clone(),
        females=(labels.float() * 2 - 1)[:, None],
        drawn=torch.cat(drawn).clone(),
        persons=torch.cat(persons).clone(),
    )


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


class EditTrainer(nn.Module):
    """An editor and its critic, and how they learn."""

    name = "editor"

    def __init__(self, vqvae: VqVae, config: ResynthConfig) -> None:
        super().__init__()
        self.net = Editor(config.editor)
        self.critic = Critic()
        self._fixed = (vqvae, *_teachers(vqvae))
        self._weights = config.edit
        mask = face_mask(input_spec(vqvae.config.side_px)).copy()
        self.register_buffer("mask", torch.from_numpy(mask), persistent=False)
        self.register_buffer("prices", change_prices(vqvae.config.side_px), persistent=False)

    def made(self, batch: FaceBatch, emotions: Tensor) -> tuple[Tensor, Tensor]:
        """Return pictures with another emotion, and the commitment.

        A picture changes by the difference of two decodings, under the mask of the stream: what
        the codes lose of a face is not lost twice.
        """
        vqvae = self._fixed[0]
        coded = vqvae.codebook(self.net(batch.vectors, emotions).float())
        edited = vqvae.decode(coded.vectors)
        mask = cast("Tensor", self.mask)
        return batch.pictures + mask * (edited - batch.drawn), coded.commitment

    def step(self, batch: FaceBatch, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the net's loss, what to show the critic (drawn, detached), and photographs."""
        emotion, weights = self._fixed[1], self._weights
        wanted = torch.from_numpy(rng.integers(0, _CLASSES, len(batch.pictures)))
        asked = F.one_hot(wanted, _CLASSES).float()
        made, commitment = self.made(batch, asked)
        made = made.contiguous(memory_format=torch.channels_last)
        logits = emotion(_seen_badly(made, rng), rng)
        # A face that shows the emotion already has nothing to gain from a change.
        shown = (batch.expressions * asked).sum(1)
        change = made - batch.pictures
        loss = (
            weights.emotion * _both_heads(logits, wanted, weights.urgency)
            + (_priced(change, cast("Tensor", self.prices), weights) * (0.5 + shown)).mean()
            + weights.critic * _pleases(self.critic, made)
            + weights.codes * commitment
        )
        return loss, made.detach(), batch.pictures

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
    """An inventor, the describer that gives real faces their keys, and a critic."""

    name = "inventor"

    def __init__(self, vqvae: VqVae, config: ResynthConfig) -> None:
        super().__init__()
        self.net = Inventor(config.inventor)
        self.describer = Describer(config.inventor)
        self.critic = Critic()
        self._fixed = (vqvae, *_teachers(vqvae))
        self._weights = config.invent
        self._keys = config.inventor.key_width

    def made(
        self, thumbs: Tensor, expressions: Tensor, females: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return (N, 3, S, S) pictures and the commitment."""
        vqvae = self._fixed[0]
        coded = vqvae.codebook(self.net(thumbs, expressions, females, keys).float())
        return vqvae.decode(coded.vectors), coded.commitment

    def step(self, batch: FaceBatch, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the net's loss, what to show the critic (drawn, detached), and photographs.

        Half of the batch is drawn again from its own key; of the other half each face is made into
        two other people.
        """
        _, emotion, gender = self._fixed
        weights = self._weights
        count, half = len(batch.pictures), len(batch.pictures) // 2
        mean, log_variance = self.describer(batch.vectors)
        noise = torch.from_numpy(rng.standard_normal((count, self._keys), np.float32))
        own = mean + torch.exp(0.5 * log_variance) * noise
        keys = torch.cat((own[:half], noise[half:]))
        twins = half + (count - half) // 2
        rows = torch.cat((torch.arange(twins), torch.arange(half, half + count - twins)))
        batch = batch.only(rows)
        expressions, wanted = _expressions(batch.expressions, half, rng)
        expressions, wanted = expressions[rows], wanted[rows]
        hidden = torch.from_numpy(rng.random((count, 1)) < 0.3)[rows]
        females = torch.where(hidden, torch.zeros_like(batch.females), batch.females)
        made, commitment = self.made(batch.thumbs, expressions, females, keys)
        made = made.contiguous(memory_format=torch.channels_last)
        x, again = batch.pictures[:half], made[:half]
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        seen, other = emotion.look(again), gender.look(made[half:])
        with torch.no_grad():
            meant = emotion.look(x)
        logits = emotion(_dimmed(made, rng), rng)
        thumbs = F.adaptive_avg_pool2d(made, THUMB_PX)
        loss = (
            weights.likeness * (again - x).abs().mean()
            + weights.structure * (1 - ssim(again, x))
            + weights.edge * edges(again, x)
            + weights.features * _features(seen.features, meant.features)
            + weights.key * divergence
            + weights.emotion * _soft_heads(logits, wanted)
            + weights.gender * _says_gender(other.logits, females[half:])
            + weights.critic * _pleases(self.critic, made)
            + weights.codes * commitment
            + weights.likeness * (thumbs - batch.thumbs).abs().mean()
            - weights.apart * _apart(_person(other), batch.persons[half:])
            - weights.twins * _twins_apart(other.features[-1], twins - half)
        )
        # Not the photographs themselves: a critic should not learn to tell the code net's blur.
        return loss, made.detach(), batch.drawn

    def preview(self, batch: FaceBatch, path: Path) -> None:
        """Write a PNG: photographs, drawn again, and as four other people."""
        mean, _ = self.describer(batch.vectors)
        rng = np.random.default_rng(0)
        rows = [batch.pictures]
        keys = [mean]
        keys += [
            torch.from_numpy(rng.standard_normal((1, self._keys), np.float32)).expand_as(mean)
            for _ in range(4)
        ]
        rows += [self.made(batch.thumbs, batch.expressions, batch.females, key)[0] for key in keys]
        for wanted in (2, 3, 5):
            asked = _sure(torch.tensor([wanted]), torch.tensor([0.95])).expand(len(mean), -1)
            rows.append(self.made(batch.thumbs, asked, batch.females, keys[1])[0])
        write_grid(rows, path)

    def score(self, batch: FaceBatch) -> dict[str, float]:
        """Return how near a face is drawn again, and how often its expression is kept by others."""
        mean, log_variance = self.describer(batch.vectors)
        again, _ = self.made(batch.thumbs, batch.expressions, batch.females, mean)
        rng = np.random.default_rng(0)
        keys = torch.from_numpy(rng.standard_normal(tuple(mean.shape), np.float32))
        other, _ = self.made(batch.thumbs, batch.expressions, batch.females, keys)
        said = self._fixed[1](other.clamp(-1, 1))[:, :_CLASSES].argmax(1)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        error = (again.clamp(-1, 1) - batch.pictures).abs().mean()
        return {
            "again_error": round(error.item(), 4),
            "kept": round((said == batch.expressions.argmax(1)).float().mean().item(), 4),
            "key_nats": round(divergence.item(), 1),
        }


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
        torch.optim.Adam(drawing, config.peak_rate, betas=(0.5, 0.99)),
        torch.optim.Adam(critic, config.critic_rate, betas=(0.5, 0.99)),
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
        loss, drawn, real = trainer.step(batch, rng)
    optimizers[0].zero_grad()
    torch.autograd.backward(loss)
    optimizers[0].step()
    trainer.critic.requires_grad_(requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.amp):
        false = _hinge(trainer.critic, drawn, sign=1.0) + _hinge(trainer.critic, real, sign=-1.0)
    optimizers[1].zero_grad()
    torch.autograd.backward(false)
    optimizers[1].step()
    return loss.item(), false.item()


def _teachers(vqvae: VqVae) -> tuple[Teacher, Teacher]:
    where = landmarks_px(vqvae.config.side_px)
    return emotion_teacher(where), gender_teacher(where)


def _hinge(critic: Critic, pictures: Tensor, *, sign: float) -> Tensor:
    """sign: 1 for what is drawn, -1 for photographs (Lim and Ye 2017)."""
    patches, whole = critic(pictures)
    return F.relu(1 + sign * patches.float()).mean() + F.relu(1 + sign * whole.float()).mean()


def _pleases(critic: Critic, pictures: Tensor) -> Tensor:
    patches, whole = critic(pictures)
    score: Tensor = patches.float().mean() + whole.float().mean()
    return -score


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


def _features(seen: tuple[Tensor, ...], meant: tuple[Tensor, ...]) -> Tensor:
    """Mean difference of features, each stage by its own size (a perceptual loss)."""
    terms = [
        (a - b.detach()).abs().mean() / b.detach().abs().mean().clamp_min(1e-3)
        for a, b in zip(seen, meant, strict=True)
    ]
    return torch.stack(terms).mean()


def _says_gender(logits: Tensor, females: Tensor) -> Tensor:
    """Cross-entropy of those whose gender was asked for."""
    asked = (females[:, 0] != 0).float()
    wrong = F.cross_entropy(logits, (females[:, 0] > 0).long(), reduction="none")
    return (wrong * asked).sum() / asked.sum().clamp_min(1)


def _person(seen: Seen) -> Tensor:
    return seen.features[-1].mean((2, 3)).float()


def _twins_apart(features: Tensor, count: int) -> Tensor:
    """Return how different faces are from those ``count`` rows further on, up to a bound.

    features: (N, C, h, w); places count, so that the cut of a face does.
    """
    flat = features.float().flatten(1)
    there = flat[count : 2 * count]
    return (1 - F.cosine_similarity(flat[: len(there)], there)).clamp(max=0.5).mean()


def _apart(there: Tensor, here: Tensor) -> Tensor:
    """Return how different two sets of (N, F) persons are, up to a bound."""
    return (1 - F.cosine_similarity(there, here)).clamp(max=0.5).mean()


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


def _expressions(own: Tensor, half: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return what to ask for and what the teacher should say: the faces' own, some made up.

    Of the first ``half`` all keep their own; of the others two thirds are made up.
    """
    count = len(own)
    labels = torch.from_numpy(rng.integers(0, _CLASSES, count))
    shares = torch.from_numpy(rng.uniform(*_SURE, count).astype(np.float32))
    made_up = torch.from_numpy(rng.random(count) < 2 / 3) & (torch.arange(count) >= half)
    asked = torch.where(made_up[:, None], _sure(labels, shares), own)
    return asked, asked


def _sure(labels: Tensor, shares: Tensor) -> Tensor:
    """Return (N, 7) with ``shares`` at the labels and the rest spread over the other classes."""
    rest = ((1 - shares) / (_CLASSES - 1))[:, None].expand(-1, _CLASSES)
    return torch.where(F.one_hot(labels, _CLASSES).bool(), shares[:, None], rest)
