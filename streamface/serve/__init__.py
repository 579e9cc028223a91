"""The browser page: what a run shows, served over HTTP to whoever may see it (extra ``web``).

``LiveHub`` is the seam: the thread that writes gives it each finished frame, and it keeps the
newest. ``serve`` opens the page in a thread of its own. Importing this package loads no web
library; ``serve`` does.
"""

from streamface.serve.hub import LiveHub, Recorder
from streamface.serve.server import Server, serve

__all__ = ["LiveHub", "Recorder", "Server", "serve"]
