"""React to a camera or a stream as it happens: print when somebody begins to smile.

    python tools/examples/watch_live.py --source 0              # a webcam
    python tools/examples/watch_live.py --source rtsp://…       # a network camera

On a live source frames that cannot be handled in time are dropped, so the newest is always next.
"""

from __future__ import annotations

import argparse
from contextlib import closing

import streamface


def main() -> None:
    """Watch until Ctrl-C, or until the source ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", default="demo", help="camera number, URL or file")
    parser.add_argument("--max-frames", type=int)
    arguments = parser.parse_args()

    smiling: set[int] = set()
    # closing() ends the threads at once when Ctrl-C interrupts the loop.
    with closing(streamface.stream(arguments.source, max_frames=arguments.max_frames)) as results:
        for result in results:
            now = {f.track_id for f in result.faces if f.emotion and f.emotion.label == "happy"}
            for track in now - smiling:
                print(f"{result.time_s:8.2f} s  face {track} smiles", flush=True)
            smiling = now


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
