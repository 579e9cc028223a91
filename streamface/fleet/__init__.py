"""Cameras on the machines of a cluster: placed by what they cost, moved when a machine goes.

One ``driver`` knows which camera belongs where; a ``station`` on each machine runs those that are
its own in one ``app.Run``. They meet in ``orders``: what is wanted goes one way, what is goes the
other.
"""
