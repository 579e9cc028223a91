"""Stream results and draw on the pictures yourself: a pixelated face instead of a box."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

import streamface

BLOCKS = 8


def main() -> None:
    """Save every tenth frame as a PNG, faces made unrecognisable."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--max-frames", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("pixelated"), help="a folder")
    arguments = parser.parse_args()

    arguments.output.mkdir(exist_ok=True)
    # No emotion and no gender are needed here, so their nets are not even loaded.
    options = {"max_frames": arguments.max_frames, "vid_stride": 10, "tasks": ()}
    for result in streamface.stream(arguments.source, **options):
        picture = Image.fromarray(result.rgb())
        for face in result.faces:
            x0, y0, x1, y1 = (round(value) for value in face.box_px)
            small = picture.crop((x0, y0, x1, y1)).resize((BLOCKS, BLOCKS))
            picture.paste(small.resize((x1 - x0, y1 - y0), Image.Resampling.NEAREST), (x0, y0))
        picture.save(arguments.output / f"{result.frame:06}.png")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
