"""Pictures of a run: its curves, its confusions, and how far its probabilities can be believed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from streamface.evaluation.calibration import expected_error, reliability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_DPI: Final = 120


def draw_curves(run_dir: Path) -> Path:
    """Write curves.png beside metrics.jsonl: losses on the left, validation on the right."""
    lines = (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    # After a resumed run an epoch can stand there twice; the later line counts.
    rows = list({row["epoch"]: row for row in map(json.loads, lines)}.values())
    epochs = [row["epoch"] for row in rows]
    figure = _figure(9, 3.5)
    left, right = figure.subplots(1, 2)
    for axes, names in (
        (left, ("train_loss", "val_loss")),
        (right, ("val_accuracy", "val_mean_recall")),
    ):
        for name in names:
            axes.plot(epochs, [row[name] for row in rows], label=name)
        axes.set_xlabel("epoch")
        axes.legend()
    return _save(figure, run_dir / "curves.png")


def draw_confusion(
    labels: NDArray[np.int64], said: NDArray[np.int64], names: Sequence[str], path: Path
) -> Path:
    """Write the confusion of (N,) labels and answers as a PNG: rows true, in % of each row."""
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (labels, said), 1)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = _figure(max(4.2, 1.6 + 0.75 * len(names)), max(3.4, 1.2 + 0.65 * len(names)))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 55 else "black"
        axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    rows = [f"{name} ({count})" for name, count in zip(names, counts.sum(1), strict=True)]
    axes.set_yticks(range(len(names)), rows)
    axes.set_xlabel("said")
    axes.set_ylabel("true (faces)")
    axes.set_title(f"{100 * (labels == said).mean():.1f} % right; each row in %")
    return _save(figure, path)


def draw_reliability(
    before_and_after: Mapping[str, NDArray[np.float32]], labels: NDArray[np.int64], path: Path
) -> Path:
    """Write a reliability diagram (Guo et al. 2017) of several (N, K) probabilities as a PNG."""
    figure = _figure(4.6, 4.4)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="grey", linewidth=1, label="as said")
    for name, probs in before_and_after.items():
        said, right, _ = reliability(probs, labels)
        error = expected_error(probs, labels)
        axes.plot(said, right, marker="o", label=f"{name}: error {error:.3f}")
    axes.set_xlabel("probability said")
    axes.set_ylabel("share right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend()
    return _save(figure, path)


def _figure(width_in: float, height_in: float) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI)
    return path
