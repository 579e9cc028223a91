"""The training loop, readable from top to bottom: Muon, soft targets, mixup, averaged weights."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from streamface.errors import UsageError
from streamface.training.augment import AugmentConfig, augment
from streamface.training.checkpoint import Checkpoint, append_json, progress, to_channels_last
from streamface.training.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamface.card import InputSpec


OptimizerName: TypeAlias = Literal["muon", "sgd", "adam"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train; every value that changes the result, and the three that change speed."""

    epochs: int
    seed: int = 1
    batch_size: int = 256
    optimizer: OptimizerName = "muon"
    peak_rate: float = 0.05
    """Of convolutions under Muon; of everything under the others."""
    vector_rate: float = 0.05
    """Under Muon: of the stem, the head, gains and offsets, which SGD with momentum moves."""
    warmup_frac: float = 0.1
    momentum: float = 0.9
    """Of SGD; Muon has its own."""
    weight_decay: float = 1e-4
    """Of SGD's weights of convolutions; under Muon these have a fixed length."""
    heads: tuple[int, ...] = ()
    """Classes of each head, where targets and logits hold several side by side; () = one head."""
    mixup_prob: float = 0.0
    mixup_alpha: float = 0.2
    align_prob: float = 0.4  # where a picture has a second, aligned map
    ema_pictures: float = 64_000.0
    """Pictures over which weights are averaged; about two epochs of FER-2013."""
    sides_px: tuple[int, ...] = ()
    """Side of the crops in equal parts of the epochs, each a multiple of 8; () = the card's."""
    threads: int = 1  # two threads wait for each other wherever other work shares the cores
    device: str = "cpu"
    """cpu, or cuda and cuda:N."""
    amp: bool = False
    """Mixed precision: bfloat16 where the device has it, else float16 with a scaled loss."""
    compiled: bool = False
    """Let torch compile the net: a fifth faster on a CPU, but needs a C++ compiler."""
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
    device = open_device(config.device)
    torch.set_num_threads(config.threads)
    rng = np.random.default_rng(config.seed)
    net.to(device)
    to_channels_last(net)
    forward = torch.compile(net, dynamic=False) if config.compiled else net
    identity = json.dumps(_identity(config))
    state = Checkpoint(net, optimizers(net, config), rng, identity, _scaler(device, config))
    learner = _Steps(state, forward, config)
    start = state.load(run_dir) if resume else 0
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=1))
    mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
    std = torch.tensor(spec.std).view(1, -1, 1, 1)
    steps = max(1, len(train.images) // config.batch_size)

    with progress() as bar:
        for epoch in range(start, config.epochs):
            began_s = time.monotonic()
            task = bar.add_task(f"epoch {epoch + 1}/{config.epochs}", total=steps)
            side_px = side_of(epoch, spec, config)
            order = rng.permutation(len(train.images))
            losses = np.zeros(steps)
            net.train()
            for step in range(steps):
                rows = torch.from_numpy(order[step * config.batch_size :][: config.batch_size])
                maps = _choose_maps(train, rows, config.align_prob, rng)
                maps = _for_side(maps, side_px, spec)
                x = augment(train.images[rows], maps, (side_px, side_px), config.augment, rng)
                x, target = _mixup((x - mean) / std, train.targets[rows], config, rng)
                learner.rate((epoch * steps + step) / (config.epochs * steps))
                losses[step] = learner.step(
                    x.to(device, memory_format=torch.channels_last, non_blocking=True),
                    target.to(device, non_blocking=True),
                )
                state.average(config.batch_size / config.ema_pictures, epoch * steps + step)
                bar.advance(task)
            bar.remove_task(task)
            metrics = {
                "epoch": epoch + 1,
                "train_loss": round(float(losses.mean()), 5),
                **score(state.averaged, validation, config.heads),
                "seconds": round(time.monotonic() - began_s, 1),
            }
            append_json(run_dir / "metrics.jsonl", metrics)
            bar.console.print(metrics, soft_wrap=True)
            state.save(run_dir, epoch + 1)
    return state.averaged.to("cpu")


def open_device(name: str) -> torch.device:
    """Return the device of a name; raises UsageError for one that this machine or torch lacks."""
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise UsageError(
            f"--device {name}: no device of torch's; give cpu, cuda or cuda:N"
        ) from exc
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this torch ({torch.__version__}) sees no CUDA device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices")
    return device


def optimizers(net: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return what moves the weights. Under Muon the first convolution and the head keep to SGD."""
    if config.optimizer == "adam":
        return [torch.optim.AdamW(net.parameters(), config.peak_rate, weight_decay=0.0)]
    if config.optimizer == "sgd":
        groups = _decay_groups(net, config.weight_decay)
        return [torch.optim.SGD(groups, config.peak_rate, config.momentum, nesterov=True)]
    if config.optimizer != "muon":
        raise UsageError(f"optimizer must be muon, sgd or adam, not {config.optimizer!r}")
    turning = [p for p in net.parameters() if p.ndim == 4][1:]
    known = {id(p) for p in turning}
    others = [p for p in net.parameters() if id(p) not in known]
    sgd = torch.optim.SGD(others, config.vector_rate, config.momentum, nesterov=True)
    return [Muon(turning, config.peak_rate), sgd]


def side_of(epoch: int, spec: InputSpec, config: TrainConfig) -> int:
    """Return the side of the crops in one epoch, counted from 0."""
    sides = config.sides_px or (spec.size_px[0],)
    return sides[epoch * len(sides) // config.epochs]


def rate_share(progress: float, warmup_frac: float) -> float:
    """Return the share of the peak rate at ``progress`` in 0..1: straight up, then down to zero."""
    if progress < warmup_frac:
        return max(0.02, progress / warmup_frac)
    return (1 - progress) / (1 - warmup_frac)


def soft_cross_entropy(logits: Tensor, targets: Tensor, heads: tuple[int, ...] = ()) -> Tensor:
    """Return the mean cross-entropy of (N, K) logits and distributions, summed over heads."""
    sizes = list(heads) or [logits.shape[1]]
    parts = zip(torch.split(logits.float(), sizes, 1), torch.split(targets, sizes, 1), strict=True)
    return torch.stack([-(t * torch.log_softmax(z, 1)).sum(1).mean() for z, t in parts]).sum()


def logits_of(net: nn.Module, crops: Tensor, batch_size: int = 256) -> Tensor:
    """Return (N, K) logits of (N, C, h, w) normalised crops, on the CPU and without gradients."""
    device = next(net.parameters()).device
    with torch.inference_mode():
        return torch.cat(
            [
                net(batch.to(device, memory_format=torch.channels_last)).float().cpu()
                for batch in torch.split(crops, batch_size)
            ]
        )


def score(
    net: nn.Module, validation: ValidationSet, heads: tuple[int, ...] = ()
) -> dict[str, float]:
    """Return accuracy, mean recall over classes, and cross-entropy of the first head."""
    logits = logits_of(net, validation.crops)
    logits = logits[:, : heads[0]] if heads else logits
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
class _Steps:
    """One step of learning after the other."""

    state: Checkpoint[nn.Module]
    forward: Callable[[Tensor], Tensor]
    config: TrainConfig

    def rate(self, progress: float) -> None:
        """Set the rates of the step at ``progress`` in 0..1 of the run."""
        share = rate_share(progress, self.config.warmup_frac)
        for optimizer in self.state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group.setdefault("peak_lr", group["lr"])

    def step(self, x: Tensor, target: Tensor) -> float:
        """Learn from one batch and return its loss."""
        precision = _half(x.device)
        with torch.autocast(x.device.type, precision, enabled=self.config.amp):
            logits = self.forward(x)
        loss = soft_cross_entropy(logits, target, self.config.heads)
        for optimizer in self.state.optimizers:
            optimizer.zero_grad()
        torch.autograd.backward(self.state.scaler.scale(loss))
        for optimizer in self.state.optimizers:
            self.state.scaler.step(optimizer)
        self.state.scaler.update()
        return float(loss.item())


def _identity(config: TrainConfig) -> dict[str, object]:
    values = dataclasses.asdict(config)
    for speed_only in ("threads", "device", "compiled"):
        del values[speed_only]
    return values


def _half(device: torch.device) -> torch.dtype:
    has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float16


def _scaler(device: torch.device, config: TrainConfig) -> torch.amp.GradScaler:
    """Return the scaler that keeps float16 gradients from vanishing; idle for other types."""
    needed = config.amp and _half(device) is torch.float16
    return torch.amp.GradScaler(device.type, enabled=needed)


def _choose_maps(
    train: TrainSet, rows: Tensor, align_prob: float, rng: np.random.Generator
) -> Tensor:
    aligned = train.aligned[rows]
    wanted = torch.from_numpy(rng.random(len(rows)) < align_prob)
    use = wanted & torch.isfinite(aligned[:, 0, 0])
    return torch.where(use[:, None, None], aligned, train.crop_to_image[rows])


def _for_side(maps: Tensor, side_px: int, spec: InputSpec) -> Tensor:
    """Return the maps of crops that show the same on another number of pixels."""
    maps = maps.clone()
    maps[:, :, :2] *= spec.size_px[0] / side_px
    return maps


def _mixup(
    x: Tensor, target: Tensor, config: TrainConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    if rng.random() >= config.mixup_prob:
        return x, target
    share = float(rng.beta(config.mixup_alpha, config.mixup_alpha))
    other = torch.from_numpy(rng.permutation(len(x)))
    return torch.lerp(x[other], x, share), torch.lerp(target[other], target, share)


def _decay_groups(net: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split parameters: decay is for weights of convolutions, not for offsets and gains."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
