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
from torch import Tensor, nn

from streamface import card as cards
from streamface.evaluation.calibration import expected_error, fit_temperature, uncertain_threshold
from streamface.model import softmax
from streamface.preprocess import probe
from streamface.training.loop import logits_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from streamface.card import InputSpec, ModelCard
    from streamface.training.loop import ValidationSet

_OPSET: Final = 17
_COMMIT_NOTE: Final = "commit.txt"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One head of a net, and what its card tells people."""

    name: str
    """Of the card. The ONNX file is named after the first answer."""
    labels: tuple[str, ...]
    validation: ValidationSet
    trained: Mapping[str, object]
    output: str = "logits"


def export(
    net: nn.Module, answers: Sequence[Answer], spec: InputSpec, folder: Path
) -> list[ModelCard]:
    """Write NAME.onnx and a card for each answer to ``folder``; return the cards.

    net: its (N, K) logits hold those of all answers side by side. The temperature and the
    threshold of "uncertain" of each are fitted on its validation set here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{answers[0].name}.onnx"
    write_onnx(net, spec, path, {answer.output: len(answer.labels) for answer in answers})
    cards_written = []
    start = 0
    for answer in answers:
        stop = start + len(answer.labels)
        logits = logits_of(net, answer.validation.crops).numpy()[:, start:stop]
        card = _card(answer, path, spec, logits)
        cards.save(card, folder / f"{answer.name}.json")
        cards_written.append(card)
        start = stop
    return cards_written


def _card(answer: Answer, onnx: Path, spec: InputSpec, logits: NDArray[np.float32]) -> ModelCard:
    labels = answer.validation.labels.numpy()
    temperature = round(fit_temperature(logits, labels), 4)
    raw = softmax(logits)
    calibrated = softmax(np.divide(logits, temperature, dtype=np.float32))
    measured = {
        "accuracy": round(float((raw.argmax(1) == labels).mean()), 4),
        "ece_before_temperature": round(expected_error(raw, labels), 4),
        "ece_after_temperature": round(expected_error(calibrated, labels), 4),
        "pictures": len(labels),
    }
    return cards.ModelCard(
        name=answer.name,
        kind="classifier",
        onnx=onnx.name,
        sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
        input=spec,
        outputs=(answer.output,),
        labels=answer.labels,
        temperature=temperature,
        uncertain_below=round(uncertain_threshold(calibrated, labels), 3),
        preprocess_probe=probe(spec),
        trained={**answer.trained, "metrics": {"validation": measured}},
    )


class _Heads(nn.Module):
    """A net whose logits are handed out head by head."""

    def __init__(self, net: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.sizes = list(sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.split(self.net(x), self.sizes, 1))


def write_onnx(net: nn.Module, spec: InputSpec, path: Path, outputs: Mapping[str, int]) -> None:
    """Write a net as ONNX: input "crops" (N, C, H, W), outputs by name (N, classes), any N."""
    example = torch.zeros(1, *spec.shape)
    whole = net if len(outputs) == 1 else _Heads(net, list(outputs.values()))
    with warnings.catch_warnings():
        # torch's newer exporter needs onnxscript, which nothing else here does.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole.eval(),
            (example,),
            str(path),
            input_names=["crops"],
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in ("crops", *outputs)},
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
