"""Faces and frames made by hand, for tests that need no picture of a face."""

from fractions import Fraction

import numpy as np

from streamface.frame import EMOTIONS, Colour, Emotion, Face, Frame, Gender, Planes


def emotion(label="happy", prob=0.87):
    peak = EMOTIONS.index(label) if label in EMOTIONS else 3
    smoothed = np.full(7, (1 - prob) / 6, np.float32)
    smoothed[peak] = prob
    return Emotion(label, np.roll(smoothed, 1), smoothed)


def face(box=(40.0, 30.0, 100.0, 110.0), *, track_id=1, label="happy", prob=0.87, **changes):
    x0, y0, x1, y1 = box
    fracs = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)])
    landmarks = (fracs * (x1 - x0, y1 - y0) + (x0, y0)).astype(np.float32)
    values = {
        "box_px": box,
        "landmarks_px": landmarks,
        "score": 0.93,
        "track_id": track_id,
        "emotion": emotion(label, prob) if label else None,
        "gender": Gender("female", 0.96),
    }
    return Face(**(values | changes))


def frame(*faces, index=0, pts=None, size_px=(160, 120), time_base=Fraction(1, 30)):
    planes = Planes.allocate(size_px, Colour())
    for plane, value in zip((planes.y, planes.u, planes.v), (126, 128, 128), strict=True):
        plane[:] = value
    return Frame(0, index, index if pts is None else pts, time_base, planes, faces=tuple(faces))
