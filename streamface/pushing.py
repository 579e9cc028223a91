"""The process that sends a stream to a server: ``python -m streamface.pushing``.

PyAV before 19 holds Python's global lock while it connects, and no time-out ends its writing. A
server that does not answer would stop every thread of a run; here it stops nothing but this
process, which the run ends when it has waited enough.

The stream comes on stdin as NUT; where it goes stands in the environment, where other users do not
see the password that it may hold. Ends with 0, with 1 and one line on stderr, or with
2 and a line where the server never took anything.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

import av

ENVIRONMENT: Final = "STREAMFACE_PUSH"
"""Name of the variable that holds a JSON object: url, format, options."""
NEVER_CONNECTED: Final = 2
# NUT says what its streams are; FFmpeg would hold back the first second to guess a rate as well.
_READ: Final = {"analyzeduration": "200000", "fpsprobesize": "0"}


def main() -> int:
    """Copy packets from stdin to the server until either ends."""
    order: dict[str, Any] = json.loads(os.environ.pop(ENVIRONMENT))
    av.logging.set_level(av.logging.PANIC)
    failed = NEVER_CONNECTED
    try:
        with (
            av.open("pipe:0", format="nut", options=_READ) as source,
            av.open(order["url"], "w", format=order["format"], options=order["options"]) as sink,
        ):
            copies = [sink.add_stream_from_template(s, opaque=True) for s in source.streams]
            sink.start_encoding()
            failed = 1
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = copies[packet.stream.index]
                    sink.mux_one(packet)
    except (av.FFmpegError, OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        sys.stderr.write(" ".join(str(reason).split()) + "\n")
        return failed
    return 0


if __name__ == "__main__":
    sys.exit(main())
