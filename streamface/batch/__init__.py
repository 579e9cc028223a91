"""Many files, many machines: a batch that can be killed at any moment and goes on where it was.

``command`` is ``streamface batch``; ``driver`` decides what is done next and what becomes of what
failed; ``executor`` and ``ray_executor`` are two ways to have it done; ``work`` is what a worker
does with one file; ``manifest`` remembers. ``split`` and ``join`` cut one long file and put it
together again.
"""
