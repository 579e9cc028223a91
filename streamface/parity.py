"""Does an engine answer as the model does? Crops to ask with, and how far the answers differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from streamface.likeness import KIND as LIKENESS
from streamface.preprocess import as_input

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from streamface.backends import Backend
    from streamface.card import ModelCard
    from streamface.frame import BatchF32

_CLASSIFIER: Final = "classifier"


@dataclass(frozen=True, slots=True)
class Limits:
    """How far answers may differ from those of the float32 model on ONNX Runtime."""

    probability: float
    """Largest difference of any probability of a classifier."""
    agreement: float
    """Least share of faces that get the same label."""
    psnr_db: float
    """Least likeness of the pictures of a code net."""
    cosine: float
    """Least one of a face's vectors by a model of likeness."""


LIMITS: Final = {
    "fp32": Limits(0.001, 0.999, 50.0, 0.9999),
    # With ONNX Runtime in the engine's place: .0016, all labels, 55 to 61 dB on real faces.
    "fp16": Limits(0.01, 0.998, 40.0, 0.999),
    # Likewise: .096, 98.4 %, 33 (vqvae-prior) to 38 dB.
    "int8": Limits(0.15, 0.95, 28.0, 0.95),
}


_TURNED: Final = np.float32(0.15)
"""Standard deviation of ``align.pose`` over many faces."""


def conditions_of(card: ModelCard, count: int) -> dict[str, BatchF32]:
    """Return what the further inputs of a model may hold, (count, ...) each by name."""
    rng = np.random.default_rng(0)
    emotions = np.eye(len(card.labels), dtype=np.float32)
    out = {}
    for name, shape in card.conditions.items():
        if name in {"emotions", "expressions"}:
            out[name] = emotions[rng.integers(0, len(emotions), count)]
        elif name in {"own", "females"}:  # on and off; male and female
            out[name] = rng.integers(0, 2, (count, *shape)).astype(np.float32)
        elif name == "poses":
            out[name] = _TURNED * rng.standard_normal((count, *shape), np.float32)
        else:
            out[name] = rng.standard_normal((count, *shape), np.float32)
    return out


def compare(
    card: ModelCard, backend: Backend, reference: Backend, levels: NDArray[np.uint8]
) -> dict[str, float | int]:
    """Return how far a backend's answers are from the reference's, for the same faces.

    levels: (N, C, H, W) uint8 crops. Of classifiers ``max_abs_probability`` and
    ``label_agreement``; of code nets ``psnr_db`` and ``mean_abs_levels`` of their pictures; of
    likeness ``least_cosine``.
    """
    conditions = conditions_of(card, len(levels))
    given, wanted = (_answers(card, each, levels, conditions) for each in (backend, reference))
    figures: dict[str, float | int] = {"faces": len(levels)}
    if card.kind == _CLASSIFIER:
        probs, truth = (_softmax(each[0] / card.temperature) for each in (given, wanted))
        figures["max_abs_probability"] = round(float(np.abs(probs - truth).max()), 6)
        agreed = probs.argmax(1) == truth.argmax(1)
        figures["label_agreement"] = round(float(agreed.mean()), 5)
        return figures
    if card.kind == LIKENESS:
        figures["least_cosine"] = round(float((given[0] * wanted[0]).sum(1).min()), 6)
        return figures
    errors = np.concatenate([(a - b).ravel() for a, b in zip(given, wanted, strict=True)])
    figures["mean_abs_levels"] = round(float(np.abs(errors).mean()), 4)
    mean_square = max(float((errors.astype(np.float64) ** 2).mean()), 1e-9)
    figures["psnr_db"] = round(10 * float(np.log10(255**2 / mean_square)), 2)
    return figures


def fault(figures: Mapping[str, float | int], precision: str) -> str | None:
    """Return what of ``compare`` is beyond the limits of a precision, for people; None: nothing."""
    limits = LIMITS[precision]
    if figures.get("max_abs_probability", 0) > limits.probability:
        return f"a probability differs by {figures['max_abs_probability']} (≤ {limits.probability})"
    if figures.get("label_agreement", 1) < limits.agreement:
        return f"only {figures['label_agreement']:.2%} of labels agree (≥ {limits.agreement:.1%})"
    if figures.get("psnr_db", limits.psnr_db) < limits.psnr_db:
        return f"pictures are {figures['psnr_db']} dB alike (≥ {limits.psnr_db})"
    if figures.get("least_cosine", 1) < limits.cosine:
        return f"a vector turned to a cosine of {figures['least_cosine']} (≥ {limits.cosine})"
    return None


def _answers(
    card: ModelCard,
    backend: Backend,
    levels: NDArray[np.uint8],
    conditions: Mapping[str, BatchF32],
) -> list[BatchF32]:
    crops = as_input(levels, card.input, backend.input_dtype)
    step = backend.max_batch
    parts = []
    for start in range(0, len(crops), step):
        rows = slice(start, start + step)
        made = backend.run(crops[rows], *(conditions[name][rows] for name in card.conditions))
        parts.append([part.copy() for part in made])  # the backend will use its own again
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _softmax(logits: BatchF32) -> BatchF32:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
