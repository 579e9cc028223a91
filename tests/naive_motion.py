"""Slow, obvious twin of streamface.kernels.motion: a similarity is z -> a z + b."""

from __future__ import annotations

import numpy as np


def fit_similarity(source, target, rounds, tukey, mad_to_sigma):
    """(2, 3) matrix and (K,) weights of the last re-weighted least-squares round."""
    z = source[:, 0].astype(float) + 1j * source[:, 1]
    w = target[:, 0].astype(float) + 1j * target[:, 1]
    weights = np.ones(len(z))
    guess = z + np.median((w - z).real) + 1j * np.median((w - z).imag)
    a, b = 1 + 0j, 0j
    for _ in range(rounds):
        residual = np.abs(w - guess)
        spread = max(mad_to_sigma * np.median(residual), 1e-3)
        weights = np.clip(1 - (residual / (tukey * spread)) ** 2, 0, None) ** 2
        z_mean, w_mean = (weights @ z) / weights.sum(), (weights @ w) / weights.sum()
        power = weights @ np.abs(z - z_mean) ** 2
        a = weights @ ((z - z_mean).conj() * (w - w_mean)) / power if power > 1e-9 else 1 + 0j
        b = w_mean - a * z_mean
        guess = a * z + b
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]]), weights
