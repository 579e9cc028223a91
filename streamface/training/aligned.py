"""How faces lie in the pictures that the code nets learn from and work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamface.card import InputSpec
from streamface.training.data import FAIRFACE_LANDMARKS_PX, FAIRFACE_SIDE_PX

if TYPE_CHECKING:
    from numpy.typing import NDArray


def input_spec(side_px: int) -> InputSpec:
    """Return what the code nets see: the whole aligned face, in colour, -1..1."""
    return InputSpec(
        size_px=(side_px, side_px),
        colour="rgb",
        landmarks_px=landmarks_px(side_px),
        mean=(127.5,) * 3,
        std=(127.5,) * 3,
    )


def landmarks_px(side_px: float) -> NDArray[np.float32]:
    """Return (5, 2): where landmarks stand in FairFace's pictures shrunk to ``side_px``."""
    return (FAIRFACE_LANDMARKS_PX * (side_px / FAIRFACE_SIDE_PX)).astype(np.float32)
