"""Draw what is known of each face onto the frame's own Y, U and V planes.

A box in the emotion's colour, a plate with track id, emotion and gender, and on request a chart
of the seven probabilities. Light to import: fonts and kernels are loaded by the first ``Painter``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamface.frame import Frame


@dataclass(frozen=True, slots=True)
class OverlayStyle:
    """What is drawn."""

    boxes: bool = True
    labels: bool = True
    probs: bool = True
    """Percentages in the labels."""
    chart: bool = False
    """The seven smoothed probabilities as bars beside each face."""
    scale: float = 1.0
    """Size of text and lines, as a multiple of what suits the frame; 0.5 to 4."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.scale <= 4:
            raise ValueError(f"scale must be 0.5 to 4, not {self.scale}")


class Painter:
    """Paints frames of any number of streams, of any size; belongs to one thread.

    What it draws does not depend on how a face was covered (detected or tracked). It remembers
    each track's label placement from the stream's last frame, and keeps it until there is a clear
    reason to change, so nothing flickers; frames of a stream must therefore come in order.
    """

    def __init__(self, style: OverlayStyle | None = None) -> None:
        # Here, not above: Numba and Pillow take a third of a second that only painting needs.
        from streamface.painting import Composer

        self.style = style or OverlayStyle()
        self._composer = Composer(self.style)

    def paint(self, frame: Frame) -> None:
        """Draw ``frame.faces`` onto ``frame.planes``, in place.

        Faces may lie partly or wholly outside and may lack emotion, gender or track id.
        """
        self._composer.paint(frame)


class Mark:
    """A plate in the lower left corner that says what was done to the picture."""

    def __init__(self, text: str, scale: float = 1.0) -> None:
        from streamface.painting import draw_mark

        self._text = text
        self._scale = scale
        self._draw = draw_mark

    def paint(self, frame: Frame) -> None:
        """Draw it onto ``frame.planes``, in place, faces or none."""
        self._draw(frame.planes, self._text, self._scale)
