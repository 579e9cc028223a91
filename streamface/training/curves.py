"""Draw a run's metrics.jsonl as curves.png."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path


def draw(run_dir: Path) -> Path:
    """Write curves.png beside metrics.jsonl: losses on the left, validation on the right."""
    lines = (run_dir / "metrics.jsonl").read_text("utf-8").splitlines()
    # After a resumed run an epoch can stand there twice; the later line counts.
    rows = list({row["epoch"]: row for row in map(json.loads, lines)}.values())
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axes, names in (
        (left, ("train_loss", "val_loss")),
        (right, ("val_accuracy", "val_mean_recall")),
    ):
        for name in names:
            axes.plot(epochs, [row[name] for row in rows], label=name)
        axes.set_xlabel("epoch")
        axes.legend()
    path = run_dir / "curves.png"
    figure.savefig(path, dpi=120)
    return path
