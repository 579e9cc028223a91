"""Print who shows which emotion when, one line for each change of a face's label."""

from __future__ import annotations

import argparse

import streamface


def main() -> None:
    """Follow every track's label through the source."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--max-frames", type=int)
    arguments = parser.parse_args()

    labels: dict[int, str] = {}
    for result in streamface.stream(arguments.source, max_frames=arguments.max_frames):
        for face in result.faces:
            if face.emotion is None or labels.get(face.track_id) == face.emotion.label:
                continue
            labels[face.track_id] = face.emotion.label
            print(f"{result.time_s:8.2f} s  face {face.track_id}: {face.emotion.label}")


if __name__ == "__main__":
    main()
