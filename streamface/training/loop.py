"""The training loop, readable from top to bottom: one-cycle SGD, soft targets, mixup, EMA."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from streamface.errors import ModelError
from streamface.training.augment import AugmentConfig, augment

if TYPE_CHECKING:
    from pathlib import Path

    from streamface.card import InputSpec


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train; every value that changes the result."""

    epochs: int
    seed: int = 1
    batch_size: int = 128
    peak_rate: float = 0.08
    warmup_frac: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 1e-4  # 5e-4 held the training accuracy down to that of validation
    mixup_prob: float = 0.1
    mixup_alpha: float = 0.2
    align_prob: float = 0.4  # where a picture has a second, aligned map
    ema_decay: float = 0.998  # about the last five hundred steps
    threads: int = 1  # two threads wait for each other wherever other work shares the cores
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True, slots=True, eq=False)
class TrainSet:
    """Pictures in memory, with how a crop lies in them."""

    images: Tensor
    """(N, C, H, W) uint8."""
    targets: Tensor
    """(N, K) float32 distributions."""
    crop_to_image: Tensor
    """(N, 2, 3) float32: pixels of the crop to pixels of the picture, as the picture is framed."""
    aligned: Tensor
    """(N, 2, 3) float32: the same for the crop that landmark alignment would cut; NaN = none."""


@dataclass(frozen=True, slots=True, eq=False)
class ValidationSet:
    """Crops in model input form and their labels."""

    crops: Tensor
    """(N, C, h, w) float32, normalised."""
    labels: Tensor
    """(N,) int64."""


def fit(
    net: nn.Module,
    spec: InputSpec,
    train: TrainSet,
    validation: ValidationSet,
    config: TrainConfig,
    *,
    run_dir: Path,
    resume: bool = False,
) -> nn.Module:
    """Train and return the EMA net; checkpoints and metrics.jsonl go to ``run_dir``.

    With ``resume`` the run continues from its last whole epoch, bit for bit as if uninterrupted.
    """
    torch.set_num_threads(config.threads)
    rng = np.random.default_rng(config.seed)
    _to_channels_last(net)
    ema = copy.deepcopy(net).eval().requires_grad_(requires_grad=False)
    optimizer = torch.optim.SGD(
        _decay_groups(net, config.weight_decay), config.peak_rate, config.momentum, nesterov=True
    )
    run = _Run(net, ema, optimizer, rng, config)
    start = run.load(run_dir) if resume else 0
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
    std = torch.tensor(spec.std).view(1, -1, 1, 1)
    steps = len(train.images) // config.batch_size

    with _progress() as bar:
        for epoch in range(start, config.epochs):
            began_s = time.monotonic()
            task = bar.add_task(f"epoch {epoch + 1}/{config.epochs}", total=steps)
            order = rng.permutation(len(train.images))
            losses = np.zeros(steps)
            net.train()
            for step in range(steps):
                rows = torch.from_numpy(order[step * config.batch_size :][: config.batch_size])
                maps = _choose_maps(train, rows, config.align_prob, rng)
                x = augment(train.images[rows], maps, spec.size_px, config.augment, rng)
                x, target = _mixup((x - mean) / std, train.targets[rows], config, rng)
                logits = net(x.contiguous(memory_format=torch.channels_last))
                loss = -(target * torch.log_softmax(logits, 1)).sum(1).mean()
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate((epoch * steps + step), steps, config)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                update_ema(ema, net, config.ema_decay, epoch * steps + step)
                losses[step] = loss.item()
                bar.advance(task)
            bar.remove_task(task)
            metrics = {
                "epoch": epoch + 1,
                "train_loss": round(float(losses.mean()), 5),
                **score(ema, validation),
                "seconds": round(time.monotonic() - began_s, 1),
            }
            _append_json(run_dir / "metrics.jsonl", metrics)
            bar.console.print(metrics, soft_wrap=True)
            run.save(run_dir, epoch + 1)
    return ema


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Return the rate of one step: a straight climb, then half a cosine down to zero."""
    progress = step / max(1, config.epochs * steps_per_epoch)
    if progress < config.warmup_frac:
        return config.peak_rate * (0.04 + 0.96 * progress / config.warmup_frac)
    rest = (progress - config.warmup_frac) / (1 - config.warmup_frac)
    return config.peak_rate * 0.5 * (1 + math.cos(math.pi * rest))


def update_ema(ema: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Move the averaged net towards the live one; early steps average over what there is."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for slow, fast in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
            if slow.dtype.is_floating_point:
                slow.lerp_(fast, 1 - decay)
            else:
                slow.copy_(fast)


def logits_of(net: nn.Module, crops: Tensor, batch_size: int = 256) -> Tensor:
    """Return (N, K) logits of (N, C, h, w) normalised crops, without gradients."""
    with torch.inference_mode():
        batches = torch.split(crops, batch_size)
        return torch.cat([net(b.contiguous(memory_format=torch.channels_last)) for b in batches])


def score(net: nn.Module, validation: ValidationSet) -> dict[str, float]:
    """Return accuracy, mean recall over classes, and cross-entropy on validation."""
    logits = logits_of(net, validation.crops)
    right = logits.argmax(1) == validation.labels
    classes = range(logits.shape[1])
    members = [right[validation.labels == k].float() for k in classes]
    recalls = [member.mean() for member in members if len(member)]
    loss = nn.functional.cross_entropy(logits, validation.labels)
    return {
        "val_accuracy": round(right.float().mean().item(), 5),
        "val_mean_recall": round(torch.stack(recalls).mean().item(), 5),
        "val_loss": round(loss.item(), 5),
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """All the state that a run goes on from."""

    net: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    config: TrainConfig

    def save(self, run_dir: Path, epochs_done: int) -> None:
        """Write checkpoint.pt, atomically."""
        state = {
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "numpy_rng": json.dumps(self.rng.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "config": json.dumps(_identity(self.config)),
            "epochs_done": epochs_done,
        }
        partial = run_dir / "checkpoint.pt.partial"
        torch.save(state, partial)
        partial.replace(run_dir / "checkpoint.pt")

    def load(self, run_dir: Path) -> int:
        """Restore checkpoint.pt and return the epochs it has seen; 0 if there is none yet."""
        path = run_dir / "checkpoint.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        if state["config"] != json.dumps(_identity(self.config)):
            raise ModelError(
                f"{path} was made with other options; give the same ones, or another --out"
            )
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = json.loads(state["numpy_rng"])
        torch.set_rng_state(state["torch_rng"])
        return int(state["epochs_done"])


def load_ema(run_dir: Path, net: nn.Module) -> tuple[nn.Module, int]:
    """Fill ``net`` with the averaged weights of a run; return it and the epochs they saw."""
    path = run_dir / "checkpoint.pt"
    if not path.exists():
        raise ModelError(f"{path}: no checkpoint to export")
    state = torch.load(path, weights_only=True)
    net.load_state_dict(state["ema"])
    return net.eval(), int(state["epochs_done"])


def _identity(config: TrainConfig) -> dict[str, object]:
    values = dataclasses.asdict(config)
    del values["threads"]  # speed only
    return values


def _choose_maps(
    train: TrainSet, rows: Tensor, align_prob: float, rng: np.random.Generator
) -> Tensor:
    aligned = train.aligned[rows]
    wanted = torch.from_numpy(rng.random(len(rows)) < align_prob)
    use = wanted & torch.isfinite(aligned[:, 0, 0])
    return torch.where(use[:, None, None], aligned, train.crop_to_image[rows])


def _mixup(
    x: Tensor, target: Tensor, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    if rng.random() >= config.mixup_prob:
        return x, target
    share = float(rng.beta(config.mixup_alpha, config.mixup_alpha))
    other = torch.from_numpy(rng.permutation(len(x)))
    return torch.lerp(x[other], x, share), torch.lerp(target[other], target, share)


def _to_channels_last(net: nn.Module) -> None:
    for weight in net.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def _decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters: decay is for weights of convolutions, not for offsets and gains."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn())


def _append_json(path: Path, values: dict[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
