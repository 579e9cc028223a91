"""One CSV row a track: when it was seen, and the mean of its emotion probabilities."""

from __future__ import annotations

import argparse
import csv
import sys
from collections import defaultdict

import numpy as np

import streamface


def main() -> None:
    """Gather each track's smoothed probabilities and print their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="demo")
    parser.add_argument("--max-frames", type=int)
    arguments = parser.parse_args()

    times: dict[int, list[float]] = defaultdict(list)
    probs: dict[int, list[object]] = defaultdict(list)
    for result in streamface.stream(arguments.source, max_frames=arguments.max_frames):
        for face in result.faces:
            if face.emotion is not None:
                times[face.track_id].append(result.time_s)
                probs[face.track_id].append(face.emotion.smoothed)

    rows = csv.writer(sys.stdout)
    rows.writerow(["track_id", "first_s", "last_s", "frames", *streamface.EMOTIONS])
    for track, seen_s in times.items():
        means = np.mean(np.array(probs[track]), axis=0).round(3).tolist()
        rows.writerow([track, round(seen_s[0], 3), round(seen_s[-1], 3), len(seen_s), *means])


if __name__ == "__main__":
    main()
