"""Write an annotated video and its data through the API, and show progress of your own."""

from __future__ import annotations

import argparse
from pathlib import Path

import streamface


def main() -> None:
    """Annotate the source and count faces meanwhile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--max-frames", type=int)
    parser.add_argument("--output", type=Path, default=Path("annotated.mp4"))
    arguments = parser.parse_args()

    results = streamface.stream(
        arguments.source,
        max_frames=arguments.max_frames,
        output=arguments.output,
        data={"csv": str(arguments.output.with_suffix(".csv"))},
        chart=True,
        overwrite=True,
    )
    faces = 0
    for result in results:
        faces += len(result.faces)
        if result.frame % 100 == 0:
            print(f"{result.time_s:.1f} s, {faces} faces so far")
    # The files have their names only now, after the last frame.
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
