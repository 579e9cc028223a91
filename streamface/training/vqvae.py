"""The recipe of the face autoencoder: aligned pictures of whole heads, no downloaded net."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from streamface.errors import ModelError
from streamface.training.checkpoint import (
    Checkpoint,
    append_json,
    identity_of,
    progress,
    to_channels_last,
)
from streamface.training.data import FAIRFACE_SIDE_PX
from streamface.training.loop import rate_share
from streamface.training.vq import VqConfig, VqVae, edges, ssim

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from streamface.training.data import GenderData

_PREVIEW: Final = 12


@dataclass(frozen=True, slots=True)
class VqTrainConfig:
    """How to train the autoencoder."""

    epochs: int
    seed: int = 1
    batch_size: int = 64
    peak_rate: float = 1e-3
    warmup_frac: float = 0.05
    commitment: float = 0.25
    structure: float = 0.5
    """Weight of 1 - SSIM beside the mean absolute error."""
    edge: float = 0.5
    ema_pictures: float = 20_000.0
    threads: int = 1
    amp: bool = False
    """bfloat16: twice as fast on CPUs that have it (AVX512-BF16, AMX), slower on others."""
    net: VqConfig = field(default_factory=VqConfig)


def pictures(data: GenderData, rows: NDArray[np.int64], side_px: int) -> Tensor:
    """Return (N, 3, side, side) uint8 of the whole aligned pictures: forehead, chin and ears."""
    size = (side_px, side_px)
    out = np.empty((len(rows), side_px, side_px, 3), np.uint8)
    for slot, picture in zip(out, data.pictures(rows), strict=True):
        if picture.shape[:2] != (FAIRFACE_SIDE_PX, FAIRFACE_SIDE_PX):
            raise ValueError(f"pictures must be aligned to {FAIRFACE_SIDE_PX} px: {picture.shape}")
        slot[:] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def fit(
    train: Tensor, held_out: Tensor, config: VqTrainConfig, *, run_dir: Path, resume: bool = False
) -> VqVae:
    """Train on (N, 3, S, S) uint8 pictures and return the averaged net.

    Checkpoints, metrics.jsonl and previews as PNG go to ``run_dir``. With ``resume`` the run goes
    on from its last whole epoch.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    net = VqVae(config.net)
    to_channels_last(net)
    optimizer = torch.optim.Adam(net.parameters(), config.peak_rate, betas=(0.9, 0.99))
    run = Checkpoint(net, [optimizer], rng, identity_of(config))
    start = run.load(run_dir) if resume else 0
    run_dir.mkdir(parents=True, exist_ok=True)
    steps = max(1, len(train) // config.batch_size)
    with progress() as bar:
        for epoch in range(start, config.epochs):
            began_s = time.monotonic()
            task = bar.add_task(f"epoch {epoch + 1}/{config.epochs}", total=steps)
            order = rng.permutation(len(train))
            total = 0.0
            net.train()
            for step in range(steps):
                rows = torch.from_numpy(order[step * config.batch_size :][: config.batch_size])
                x = _scaled(train[rows])
                mirrored = torch.from_numpy(rng.random(len(x)) < 0.5)
                x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
                share = rate_share(
                    (epoch * steps + step) / (config.epochs * steps), config.warmup_frac
                )
                optimizer.param_groups[0]["lr"] = config.peak_rate * share
                loss = _loss(net, x.contiguous(memory_format=torch.channels_last), config)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                run.average(config.batch_size / config.ema_pictures, epoch * steps + step)
                total += loss.item()
                bar.advance(task)
            bar.remove_task(task)
            metrics = {
                "epoch": epoch + 1,
                "train_loss": round(total / steps, 5),
                **score(run.averaged, held_out),
                "seconds": round(time.monotonic() - began_s, 1),
            }
            append_json(run_dir / "metrics.jsonl", metrics)
            bar.console.print(metrics, soft_wrap=True)
            preview(run.averaged, held_out[:_PREVIEW], run_dir / f"preview-{epoch + 1:03d}.png")
            run.save(run_dir, epoch + 1)
    return run.averaged


def onnx_weights(path: Path, prefix: str) -> dict[str, Tensor]:
    """Return the weights in an exported file whose names begin so, without that beginning.

    Raises ModelError where there are none.
    """
    try:
        graph = onnx.load(str(path)).graph
    except (OSError, ValueError, DecodeError) as exc:
        raise ModelError(f"{path}: cannot be read as ONNX: {exc}") from exc
    weights = {
        each.name.removeprefix(prefix): torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in graph.initializer
        if each.name.startswith(prefix)
    }
    if not weights:
        raise ModelError(f"{path} holds no weights of '{prefix}'; give the float32 file")
    return weights


def _shipped(path: Path) -> VqVae:
    """Return the code net in an exported vqvae.onnx; its shape is read from its weights."""
    weights = onnx_weights(path, "vqvae.")
    if "encoder.2.weight" not in weights:
        raise ModelError(f"{path} holds no encoder; give vqvae.onnx")
    codes, code_width = weights["codebook.codes"].shape
    width = len(weights["encoder.2.weight"])
    net = VqVae(VqConfig(codes=codes, code_width=code_width, width=width))
    missing, unknown = net.load_state_dict(weights, strict=False)
    if unknown or set(missing) != {"codebook.sums", "codebook.counts"}:
        raise ModelError(f"{path} holds a code net of another layout")
    to_channels_last(net)
    net.eval().requires_grad_(requires_grad=False)
    return net


def load(run_dir: Path) -> VqVae:
    """Return the averaged net of a run, or of an exported .onnx, finished and frozen.

    Raises ModelError without one.
    """
    if run_dir.suffix == ".onnx":
        return _shipped(run_dir)
    path = run_dir / "checkpoint.pt"
    if not path.exists():
        raise ModelError(f"{path}: no checkpoint; run tools/train_vqvae.py first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    net = VqVae(VqConfig(**json.loads(state["config"])["net"]))
    net.load_state_dict(state["ema"])
    codes = net.get_buffer("codebook.codes")
    codes.copy_(torch.nn.functional.normalize(codes, dim=1))  # averaging shortened them a little
    to_channels_last(net)
    net.eval().requires_grad_(requires_grad=False)
    return net


def score(net: VqVae, pictures: Tensor) -> dict[str, float]:
    """Return PSNR in dB, SSIM and the share of codes used on (N, 3, S, S) uint8 pictures."""
    errors, structure, used = [], [], torch.zeros(net.config.codes, dtype=torch.bool)
    with torch.inference_mode():
        for batch in torch.split(pictures, 128):
            x = _scaled(batch)
            coded = net.encode(x)
            again = net.decode(coded.vectors).clamp(-1, 1)
            errors.append(((again - x) ** 2).mean((1, 2, 3)) / 4)  # of a range of one
            structure.append(ssim(again, x) * len(x))
            used[coded.numbers.flatten()] = True
    psnr_db = -10 * torch.log10(torch.cat(errors)).mean()
    return {
        "psnr_db": round(psnr_db.item(), 3),
        "ssim": round((torch.stack(structure).sum() / len(pictures)).item(), 4),
        "codebook_used": round(used.float().mean().item(), 4),
    }


def preview(net: VqVae, pictures: Tensor, path: Path) -> None:
    """Write a PNG: pictures above, what the net makes of them below."""
    with torch.inference_mode():
        x = _scaled(pictures)
        write_grid([x, net(x)], path)


def write_grid(rows: Sequence[Tensor], path: Path) -> None:
    """Write a PNG of rows of pictures, (N, 3, S, S) each, in -1..1."""
    stacked = (torch.stack([row.float() for row in rows]).clamp(-1, 1) + 1) * 127.5
    count, columns, _, side, _ = stacked.shape
    grid = stacked.round().to(torch.uint8).permute(0, 3, 1, 4, 2)
    rgb = grid.reshape(count * side, columns * side, 3).numpy()
    cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def _loss(net: VqVae, x: Tensor, config: VqTrainConfig) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=config.amp):
        coded = net.encode(x)
        again = net.decode(coded.vectors)
    return (
        (again - x).abs().mean()
        + config.structure * (1 - ssim(again, x))
        + config.edge * edges(again, x)
        + config.commitment * coded.commitment
    )


def _scaled(pictures: Tensor) -> Tensor:
    return pictures.float() / 127.5 - 1
