"""Find the five landmarks of small face pictures with YuNet, the detector that ``run`` uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from streamface.detect import find_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

_UPSCALE: Final = 4
_BORDER_PX: Final = 32  # after upscaling; YuNet misses faces that touch the border
_MIN_SCORE: Final = 0.6


def find_landmarks(
    images: Iterable[NDArray[np.uint8]], *, tick: Callable[[], None] = lambda: None
) -> NDArray[np.float32]:
    """Return (N, 5, 2) landmarks in pixels of each (H, W) grey image; NaN where no face is found.

    Pictures are upscaled four times with a replicated border first, since YuNet is blind to faces
    as small and as tightly framed as FER-2013's. ``tick`` is called once an image.
    """
    pad = _BORDER_PX
    detector = cv2.FaceDetectorYN.create(str(find_model()), "", (320, 320), _MIN_SCORE)
    out: list[NDArray[np.float32]] = []
    for image in images:
        large = cv2.resize(image, None, fx=_UPSCALE, fy=_UPSCALE, interpolation=cv2.INTER_CUBIC)
        framed = cv2.copyMakeBorder(large, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        detector.setInputSize((framed.shape[1], framed.shape[0]))
        _, found = detector.detect(cv2.cvtColor(framed, cv2.COLOR_GRAY2BGR))
        points = np.full((5, 2), np.nan, np.float32)
        if found is not None:
            best = max(found, key=lambda row: float(row[2] * row[3]))
            # OpenCV puts pixel centres at integers, streamface at integers + 0.5.
            points[:] = (best[4:14].reshape(5, 2) + 0.5 - pad) / _UPSCALE
        out.append(points)
        tick()
    return np.stack(out)
