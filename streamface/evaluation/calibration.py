"""How far probabilities can be believed, and the two numbers that make them believable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BINS: Final = 15  # as in Guo et al. 2017
# Of seven classes, chance is right once in seven: two in five still say something, and at one in
# two most ordinary video would be called uncertain.
_LEAST_RIGHT: Final = 0.4


def expected_error(probs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the expected calibration error of (N, K) probabilities, 0..1, in 15 equal bins."""
    said, share_right, counts = reliability(probs, labels)
    return float((np.abs(said - share_right) * counts).sum() / max(1, len(labels)))


def reliability(
    probs: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return mean top probability, share right and count of each bin that holds any answers."""
    top, right = probs.max(1), probs.argmax(1) == labels
    bins = np.minimum((top * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    held = np.flatnonzero(counts)
    said = np.bincount(bins, top, _BINS)[held] / counts[held]
    share_right = np.bincount(bins, right, _BINS)[held] / counts[held]
    return said, share_right, counts[held]


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature in 0.2..5 with the least cross-entropy (Guo et al. 2017)."""
    low, high = np.log(0.2), np.log(5.0)
    for _ in range(4):  # the loss is convex in 1 / temperature: narrow a grid around its best
        grid = np.linspace(low, high, 21)
        best = int(np.argmin([_cross_entropy(logits / np.exp(t), labels) for t in grid]))
        low, high = grid[max(0, best - 1)], grid[min(20, best + 1)]
    return float(np.exp((low + high) / 2))


def fit_offsets(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the (K,) offsets to add to logits so that classes are said as often as they occur.

    They minimise the cross-entropy together with a temperature: at its minimum the mean
    probability of a class is the share of its labels, which each round moves towards.
    """
    shares = np.bincount(labels, minlength=logits.shape[1]) / len(labels)
    shares = np.maximum(shares, 1 / len(labels))
    offsets = np.zeros(logits.shape[1], np.float32)
    for _ in range(5):
        temperature = fit_temperature(logits + offsets, labels)
        for _ in range(20):
            scaled = (logits + offsets) / temperature
            powers = np.exp(scaled - scaled.max(1, keepdims=True))
            said = (powers / powers.sum(1, keepdims=True)).mean(0)
            offsets += (temperature * np.log(shares / said)).astype(np.float32)
    return np.asarray(offsets - offsets.mean(), np.float32)


def uncertain_threshold(probs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the top probability that best parts answers not worth showing from the others.

    Below it answers are right less than two times in five; 0 if even the least sure do better.
    """
    top, right = probs.max(1), probs.argmax(1) == labels
    order = np.argsort(top, kind="stable")
    lead = np.cumsum(right[order] - _LEAST_RIGHT)  # falls while answers are right less often
    lowest = int(lead.argmin())
    return float(top[order[lowest]]) if lead[lowest] < 0 else 0.0


def _cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())
