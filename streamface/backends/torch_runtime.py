"""torch, imported in the one place that says what to install where it is missing.

Importing this module, and so the torch backend, raises BackendUnavailable without torch. Nothing
imports it before the torch runtime was asked for: torch takes two seconds and 200 MB to load.
"""

from __future__ import annotations

from typing import Final

from streamface.errors import BackendUnavailable

INSTALL: Final = "pip install 'streamface[torch]'"

try:
    import torch
    import torch.nn.functional as F  # noqa: N812 - torch's own idiom
    from torch import nn
except (ImportError, OSError) as exc:  # OSError: a library of a broken CUDA build
    reason = " ".join(str(exc).split())
    raise BackendUnavailable(f"the torch runtime needs torch ({reason}): {INSTALL}") from exc

__all__ = ["INSTALL", "F", "has_cuda", "nn", "torch"]


def has_cuda() -> bool:
    """Return whether this torch computes on a GPU here."""
    return bool(torch.cuda.is_available())
