"""The state of a training run: what it goes on from, bit for bit."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from streamface.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from _typeshed import DataclassInstance

NetT = TypeVar("NetT", bound=nn.Module)


class Checkpoint(Generic[NetT]):
    """A net, its averaged twin, optimizers and random states, in one file of the run folder."""

    def __init__(
        self,
        net: NetT,
        optimizers: Sequence[torch.optim.Optimizer],
        rng: np.random.Generator,
        identity: str,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """identity: what must be the same for a run to go on; compared as text."""
        self.net = net
        self.averaged: NetT = copy.deepcopy(net).eval().requires_grad_(requires_grad=False)
        self.optimizers = list(optimizers)
        self.rng = rng
        self.identity = identity
        self.scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)

    def average(self, share: float, step: int) -> None:
        """Move the averaged net by ``share`` towards the live one; see ``update_ema``."""
        update_ema(self.averaged, self.net, max(0.0, 1 - share), step)

    def save(self, run_dir: Path, epochs_done: int) -> None:
        """Write checkpoint.pt, atomically."""
        state = {
            "net": self.net.state_dict(),
            "ema": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "numpy_rng": json.dumps(self.rng.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
            "config": self.identity,
            "epochs_done": epochs_done,
        }
        partial = run_dir / "checkpoint.pt.partial"
        torch.save(state, partial)
        partial.replace(run_dir / "checkpoint.pt")

    def load(self, run_dir: Path) -> int:
        """Restore checkpoint.pt and return the epochs it has seen; 0 if there is none yet.

        Raises ModelError if it was made with another identity.
        """
        path = run_dir / "checkpoint.pt"
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["config"] != self.identity:
            raise ModelError(
                f"{path} was made with other options; give the same ones, or another --out"
            )
        self.net.load_state_dict(state["net"])
        self.averaged.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        self.rng.bit_generator.state = json.loads(state["numpy_rng"])
        torch.set_rng_state(state["torch_rng"])
        return int(state["epochs_done"])


def load_ema(run_dir: Path, net: NetT) -> tuple[NetT, int]:
    """Fill ``net`` with the averaged weights of a run; return it and the epochs they saw."""
    path = run_dir / "checkpoint.pt"
    if not path.exists():
        raise ModelError(f"{path}: no checkpoint to export")
    state = torch.load(path, weights_only=True, map_location="cpu")
    net.load_state_dict(state["ema"])
    return net.eval(), int(state["epochs_done"])


def update_ema(ema: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Move the averaged net towards the live one; early steps average over what there is."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for slow, fast in zip(ema.state_dict().values(), net.state_dict().values(), strict=True):
            if slow.dtype.is_floating_point:
                slow.lerp_(fast, 1 - decay)
            else:
                slow.copy_(fast)


def to_channels_last(net: nn.Module) -> None:
    """Lay the weights of convolutions out as CPUs and GPUs compute them fastest."""
    for weight in net.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def progress() -> Progress:
    """Return the bar of one epoch."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn())


def identity_of(config: DataclassInstance, **more: object) -> str:
    """Return what must be the same for a run to go on: all but how many threads work on it."""
    values = {**more, **dataclasses.asdict(config)}
    values.pop("threads", None)
    return json.dumps(values)


def append_json(path: Path, values: dict[str, float]) -> None:
    """Add one line to a .jsonl file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
