"""From a trained net to the shipped pair: an ONNX file and the card that says what it is."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from streamface import card as cards
from streamface.evaluation.calibration import expected_error, fit_temperature, uncertain_threshold
from streamface.model import softmax
from streamface.preprocess import probe
from streamface.training.loop import logits_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from streamface.card import InputSpec, ModelCard
    from streamface.training.loop import ValidationSet

_OPSET: Final = 17
_COMMIT_NOTE: Final = "commit.txt"


@dataclass(frozen=True, slots=True)
class Story:
    """What a card tells people; nothing in it changes what the model does."""

    name: str
    labels: tuple[str, ...]
    trained: Mapping[str, object]


def export(
    net: nn.Module, story: Story, spec: InputSpec, validation: ValidationSet, folder: Path
) -> ModelCard:
    """Write NAME.onnx and NAME.json to ``folder`` and return the card.

    The temperature and the threshold of "uncertain" are fitted on ``validation`` here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{story.name}.onnx"
    write_onnx(net, spec, path)
    logits = logits_of(net, validation.crops).numpy()
    labels = validation.labels.numpy()
    temperature = round(fit_temperature(logits, labels), 4)
    raw = softmax(logits)
    calibrated = softmax(np.divide(logits, temperature, dtype=np.float32))
    measured = {
        "accuracy": round(float((raw.argmax(1) == labels).mean()), 4),
        "ece_before_temperature": round(expected_error(raw, labels), 4),
        "ece_after_temperature": round(expected_error(calibrated, labels), 4),
        "pictures": len(labels),
    }
    card = cards.ModelCard(
        name=story.name,
        kind="classifier",
        onnx=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        input=spec,
        outputs=("logits",),
        labels=story.labels,
        temperature=temperature,
        uncertain_below=round(uncertain_threshold(calibrated, labels), 3),
        preprocess_probe=probe(spec),
        trained={**story.trained, "metrics": {"validation": measured}},
    )
    cards.save(card, folder / f"{story.name}.json")
    return card


def write_onnx(net: nn.Module, spec: InputSpec, path: Path) -> None:
    """Write a net as ONNX: input "crops" (N, C, H, W), output "logits" (N, K), any N."""
    example = torch.zeros(1, *spec.shape)
    with warnings.catch_warnings():
        # torch's newer exporter needs onnxscript, which nothing else here does.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            (example,),
            str(path),
            input_names=["crops"],
            output_names=["logits"],
            dynamic_axes={"crops": {0: "n"}, "logits": {0: "n"}},
            opset_version=_OPSET,
            dynamo=False,
        )


def note_commit(run_dir: Path, *, resume: bool) -> None:
    """Write the commit that a run starts from to its folder; a resumed run keeps the first one."""
    path = run_dir / _COMMIT_NOTE
    if not (resume and path.exists()):
        run_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(_code_commit() + "\n", "utf-8")


def noted_commit(run_dir: Path) -> str:
    """Return the commit that ``note_commit`` wrote, or "unknown"."""
    path = run_dir / _COMMIT_NOTE
    return path.read_text("utf-8").strip() if path.exists() else "unknown"


def _code_commit() -> str:
    """Return the commit checked out, with "-dirty" if there are changes; "unknown" without git."""
    folder = str(Path(__file__).parent)
    git = ("git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(git, check=True, capture_output=True, text=True)  # noqa: S603
        return done.stdout.strip()
    return "unknown"
