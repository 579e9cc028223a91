"""The shipped models and what engines are built of, with rows to feed them."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from streamface.card import load, read_onnx
from streamface.engines.graph import Calibration, engine_graph
from streamface.model import card_path

NAMES = ("emotion", "gender", "likeness", "vqvae", "vqvae-prior")


def model_of(name):
    path = card_path(name)
    card = load(path)
    return card, read_onnx(card, path)


def smooth_pictures(shape, count, seed):
    """Return (count, C, H, W) uint8: soft blobs that use all grey levels."""
    rng = np.random.default_rng(seed)
    out = np.empty((count, *shape), np.uint8)
    for plane in out.reshape(-1, *shape[1:]):
        small = rng.uniform(-40, 295, (6, 6)).astype(np.float32)
        large = cv2.resize(small, shape[:0:-1], interpolation=cv2.INTER_CUBIC)
        plane[:] = np.clip(np.rint(large), 0, 255)
    return out


def rows_of(card, count, seed):
    """Return crops and conditions that the model can have in life."""
    rng = np.random.default_rng(seed)
    conditions = {}
    for name, shape in card.conditions.items():
        values = rng.standard_normal((count, *shape), np.float32)
        if name in {"emotions", "expressions"}:
            values = np.eye(shape[0], dtype=np.float32)[rng.integers(0, shape[0], count)]
        elif name in {"own", "females"}:
            values = rng.integers(0, 2, (count, *shape)).astype(np.float32)
        elif name == "poses":
            values *= np.float32(0.15)
        conditions[name] = values
    return Calibration(smooth_pictures(card.input.shape, count, seed), conditions)


@cache
def graph_of(name, precision):
    card, content = model_of(name)
    calibration = rows_of(card, 24, seed=1) if precision == "int8" else None
    return engine_graph(card, content, precision, calibration)
