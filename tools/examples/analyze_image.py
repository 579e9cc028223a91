"""Find and read the faces of single pictures, the models loaded once."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import streamface
from streamface.demo import portrait


def main() -> None:
    """Analyze each picture and print its faces."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", nargs="+", default=["demo"], help="pictures")
    arguments = parser.parse_args()

    analyze = streamface.Analyzer()
    for name in arguments.source:
        image = portrait() if name == "demo" else np.array(Image.open(Path(name)).convert("RGB"))
        for face in analyze(image):
            assert face.emotion is not None
            assert face.gender is not None
            x0, y0, x1, y1 = (round(value) for value in face.box_px)
            probs = dict(
                zip(streamface.EMOTIONS, face.emotion.probs.round(2).tolist(), strict=True)
            )
            print(f"{name}: {x1 - x0}x{y1 - y0} at {x0},{y0}: {face.gender.label}, {probs}")


if __name__ == "__main__":
    main()
