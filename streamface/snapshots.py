"""Save one picture that somebody saw and wants to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamface.atomic import AtomicPath, sink_error

if TYPE_CHECKING:
    from pathlib import Path

    from streamface.frame import Planes


def save_png(planes: Planes, path: Path, *, overwrite: bool = False) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises UsageError where the file exists and ``overwrite`` is false, SinkError where it cannot
    be written.
    """
    from PIL import Image

    file = AtomicPath(path, overwrite=overwrite)
    try:
        Image.fromarray(planes.to_rgb()).save(file.temporary, "PNG")
    except (OSError, ValueError) as exc:
        file.discard()
        raise sink_error(path, exc) from exc
    file.publish()
