"""Build TensorRT engines of models, and check what they answer.

python tools/build_engine.py emotion gender vqvae --precision fp16 --max-batch 64

`streamface models build` is the same. Exit codes: 0 built and, where there is a GPU, checked;
1 failed; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys

from streamface import builder
from streamface.errors import StreamfaceError


def main() -> int:
    """Parse, run, and turn our own errors into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    builder.add_arguments(parser)
    try:
        return builder.main(parser.parse_args())
    except StreamfaceError as error:
        print(f"build_engine: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
