"""What every runtime asks of what it is given, said in the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamface.frame import BatchF32


def check_batch(
    shape: tuple[int, ...], kind: str, *, row: tuple[int, ...], wanted: str, most: int
) -> None:
    """Raise ValueError unless a batch of crops is (1..most, *row) of a type.

    shape, kind: what it is. row: (C, H, W) of the card. wanted: the type, "uint8" or "float32".
    """
    if len(shape) != 4 or not 1 <= shape[0] <= most or shape[1:] != row or kind != wanted:
        needed = f"(1..{most}, {', '.join(map(str, row))}) {wanted}"
        raise ValueError(f"batch must be {needed}, not {shape} {kind}")


def check_conditions(
    given: Sequence[BatchF32], wanted: Mapping[str, tuple[int, ...]], count: int
) -> None:
    """Raise ValueError unless there is a (count, *shape) float32 array for each condition.

    wanted: shape of a row of each by name, in the card's order.
    """
    if len(given) != len(wanted):
        names = ", ".join(wanted) or "none"
        raise ValueError(f"{len(given)} conditions were given; the model takes: {names}")
    for (name, row), value in zip(wanted.items(), given, strict=True):
        shape = (count, *row)
        if value.shape != shape or value.dtype != np.float32:
            raise ValueError(f"{name} must be {shape} float32, not {value.shape} {value.dtype}")


def listed(crops: tuple[int, ...], conditions: Mapping[str, tuple[int, ...]]) -> str:
    """Return the shapes of a model's inputs for people."""
    return ", ".join((str(crops), *(f"{name} {shape}" for name, shape in conditions.items())))
