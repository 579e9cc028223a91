"""How the overlay is composed: which words, which bars, where, and in which order.

Everything scales with the frame and stays inside it. Where a face is small or has neighbours, its
label gets shorter (first without gender, then percentage, then id) before it covers anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from streamface import glyphs
from streamface.canvas import (
    DARK,
    GREY,
    GROOVE_OPACITY,
    MUTED,
    PALETTE,
    PLATE_OPACITY,
    SEAM_OPACITY,
    WHITE,
    Canvas,
    Metrics,
)
from streamface.frame import EMOTIONS
from streamface.placement import (
    CHART_INSIDE,
    CHART_OUTSIDE,
    LABEL_INSIDE,
    LABEL_OUTSIDE,
    Board,
    Choice,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamface.canvas import Rgb
    from streamface.frame import Box, Emotion, Face, Frame, Planes
    from streamface.overlay import OverlayStyle

_MIN_MARK_PX: Final = 6
_MIN_CHART_TEXT_PX: Final = 9
"""A little below the labels' least: names stand where they are expected."""

# A chart that would fill more of the frame than this is set without names.
_MAX_CHART_FRAC: Final = 0.45
_MAX_COVERED_FRAC: Final = 0.2
"""How much of a face's box a chart may cover."""


class _Word(NamedTuple):
    text: str
    colour: Rgb
    gap_frac: float = 0.3
    """Space before it, from the chip or the word before, as a fraction of the text size."""
    room_for: str = ""
    """A text that it leaves room for, so that the plate does not breathe with the digits."""


class _Scene(NamedTuple):
    """One frame while it is painted."""

    canvas: Canvas
    board: Board
    metrics: Metrics


class _Place(NamedTuple):
    """Where a track's label and chart stood in the frame before."""

    label: Choice | None = None
    chart: Choice | None = None


_NOWHERE: Final = _Place()


class Composer:
    """Lays out and draws the faces of one frame after the other."""

    def __init__(self, style: OverlayStyle) -> None:
        self._style = style
        self._places: dict[int, dict[int, _Place]] = {}

    def paint(self, frame: Frame) -> None:
        """Draw all faces of a frame; the oldest tracks choose their places first."""
        before = self._places.pop(frame.stream, {})
        metrics = Metrics.of(frame.planes.size_px, self._style.scale)
        seen = sorted(_visible(frame.faces, metrics), key=lambda item: item[0].track_id)
        if not seen:
            return
        board = Board(
            metrics.size_px,
            [box for _, box in seen],
            gap_px=metrics.gap_px,
            slack_px=1.5 * metrics.gap_px,
        )
        scene = _Scene(Canvas(frame.planes), board, metrics)
        if self._style.boxes:
            for face, box in seen:
                _draw_box(scene.canvas, box, metrics, _colour(face))
        places = [before.get(face.track_id, _NOWHERE) for face, _ in seen]
        if self._style.labels:
            for i, (face, box) in enumerate(seen):
                label = _Label(face, metrics, probs=self._style.probs)
                places[i] = places[i]._replace(label=label.draw(scene, box, places[i].label))
        if self._style.chart:
            for i, (face, box) in enumerate(seen):
                if face.emotion is not None:
                    choice = _set_chart(scene, box, face.emotion, places[i].chart)
                    places[i] = places[i]._replace(chart=choice)
        self._places[frame.stream] = {
            face.track_id: place
            for (face, _), place in zip(seen, places, strict=True)
            if face.track_id >= 0
        }


def draw_mark(planes: Planes, text: str, scale: float) -> None:
    """Set a plate with ``text`` into the lower left corner, smaller where it would not fit."""
    width, height = planes.size_px
    size = Metrics.of(planes.size_px, scale).text_px
    size = max(_MIN_MARK_PX, min(size, int(size * 0.9 * width / glyphs.width_px(text, size))))
    line = glyphs.line_metrics(size)
    pad = round(0.42 * size)
    tall = line.ascent_px + line.descent_px + pad
    left, top = round(0.5 * size), height - tall - round(0.5 * size)
    plate = (left, top, left + glyphs.width_px(text, size) + 2 * pad, top + tall)
    canvas = Canvas(planes)
    canvas.rounded(_floats(plate), DARK, 0.3 * size, opacity=PLATE_OPACITY)
    canvas.word(text, size, left + pad, top + pad // 2, WHITE)


def _visible(faces: Sequence[Face], metrics: Metrics) -> Iterator[tuple[Face, Box]]:
    """Yield the faces that show, each with its border's outer edge, cut off at the frame's."""
    width, height = metrics.size_px
    reach = 0.5 * metrics.line_px
    for face in faces:
        x0, y0, x1, y1 = (float(value) for value in face.box_px)
        box = (
            max(0.0, x0 - reach),
            max(0.0, y0 - reach),
            min(float(width), x1 + reach),
            min(float(height), y1 + reach),
        )
        # Also false where a number is NaN.
        if x1 > x0 and y1 > y0 and box[2] - box[0] >= 1.0 and box[3] - box[1] >= 1.0:
            yield face, box


def _colour(face: Face) -> Rgb:
    """Return the colour of a face's emotion; grey where it is unknown or uncertain."""
    return GREY if face.emotion is None else PALETTE.get(face.emotion.label, GREY)


def _draw_box(canvas: Canvas, box: Box, metrics: Metrics, rgb: Rgb) -> None:
    """Draw a border with a dark seam on either side, so that it shows on any background."""
    x0, y0, x1, y1 = box
    short = min(x1 - x0, y1 - y0)
    line = min(metrics.line_px, 0.2 * short)
    seam = min(0.4 * line, 2.0)
    radius = min(0.1 * short, 4 * line)
    canvas.rounded(
        (x0 - seam, y0 - seam, x1 + seam, y1 + seam),
        DARK,
        radius + seam,
        stroke_px=line + 2 * seam,
        opacity=SEAM_OPACITY,
    )
    canvas.rounded(box, rgb, radius, stroke_px=line)


class _Label:
    """A plate of words in up to four forms, from the fullest to the shortest."""

    def __init__(self, face: Face, metrics: Metrics, *, probs: bool) -> None:
        self._text_px = size = metrics.text_px
        self._rgb = _colour(face)
        self._forms = _forms(face, probs=probs)
        self._line = glyphs.line_metrics(size)
        self._pad_x = round(0.42 * size)
        self._pad_top = round(0.34 * size)
        pad_bottom = max(self._pad_top, self._line.descent_px + 1)
        self._height = self._pad_top + self._line.ascent_px + pad_bottom
        # The chip: a bar in the emotion's colour, which ties the plate to its box.
        self._chip_px = max(3, round(0.26 * size))
        self._widths = [self._width(form) for form in self._forms]

    def _width(self, form: Sequence[_Word]) -> int:
        text = sum(_advance_px(word, self._text_px) for word in form)
        return 2 * self._pad_x + self._chip_px + text

    def draw(self, scene: _Scene, box: Box, before: Choice | None) -> Choice | None:
        """Set the label near ``box`` and return how; None where the frame has no room for it."""
        sizes = [(width, self._height) for width in self._widths]
        placed = scene.board.place(box, sizes, self._choices(box, before), before, must=True)
        if placed is None:
            return None
        choice, (left, top) = placed
        canvas = scene.canvas
        plate = (left, top, left + self._widths[choice.form], top + self._height)
        canvas.rounded(_floats(plate), DARK, 0.3 * self._text_px, opacity=PLATE_OPACITY)
        left, top = left + self._pad_x, top + self._pad_top
        chip = (left, top, left + self._chip_px, top + self._line.ascent_px)
        canvas.rounded(_floats(chip), self._rgb, 0.5 * self._chip_px)
        left += self._chip_px
        for word in self._forms[choice.form]:
            start = left + round(word.gap_frac * self._text_px)
            canvas.word(word.text, self._text_px, start, top, word.colour)
            left += _advance_px(word, self._text_px)
        return choice

    def _choices(self, box: Box, before: Choice | None) -> Iterator[Choice]:
        """Yield the forms that suit the face's width, each at every spot; covering it comes last.

        The shortest always suits. One that is longer than the last frame's needs room to spare.
        """
        room = 1.5 * (box[2] - box[0]) + 5.5 * self._text_px
        last = len(self._forms) - 1
        kept = before.form if before else -1
        suits = [
            form
            for form, width in enumerate(self._widths)
            if form == last or width * (1.0 if form == kept else 1.12) <= room
        ]
        for spots in (LABEL_OUTSIDE, LABEL_INSIDE):
            for form in suits:
                for spot in spots:
                    yield Choice(form, spot)


def _forms(face: Face, *, probs: bool) -> list[tuple[_Word, ...]]:
    """Return what a label may say, each form shorter than the one before; [] where nothing."""
    track = (_Word(f"#{face.track_id}", MUTED, 0.38),) if face.track_id >= 0 else ()
    emotion: tuple[_Word, ...] = ()
    percent: tuple[_Word, ...] = ()
    if face.emotion is not None:
        label = face.emotion.label
        known = label in EMOTIONS
        emotion = (_Word(label, WHITE if known else GREY, 0.38),)
        if known:
            percent = _percent(float(face.emotion.smoothed[EMOTIONS.index(label)]), WHITE)
    gender: tuple[_Word, ...] = ()
    if face.gender is not None:
        gender = (
            _Word(face.gender.label, MUTED, 0.75),
            *_percent(face.gender.prob, MUTED),
        )
    if not probs:
        percent, gender = (), gender[:1]
    forms = [track + emotion + percent + gender, track + emotion + percent, track + emotion]
    forms.append(emotion or track)
    return [form for form in dict.fromkeys(forms) if form]


@lru_cache(maxsize=1024)
def _advance_px(word: _Word, text_px: int) -> int:
    """Return a word's width together with the space before it."""
    widths = [glyphs.width_px(text, text_px) for text in (word.text, word.room_for)]
    return round(word.gap_frac * text_px) + max(widths)


def _percent(prob: float, rgb: Rgb) -> tuple[_Word, ...]:
    if not math.isfinite(prob):
        return ()
    return (_Word(f"{100 * prob:.0f} %", rgb, room_for="88 %"),)


@dataclass(frozen=True, slots=True)
class _Chart:
    """The sizes of seven bars on a plate, one an emotion, with their names or without."""

    named: bool
    text_px: int
    row_px: int
    bar_px: int
    reach_px: int
    """Length of a full bar."""
    pad_px: int
    bars_left_px: int

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the plate."""
        width = self.bars_left_px + self.reach_px + self.pad_px
        return width, len(EMOTIONS) * self.row_px + 2 * self.pad_px

    def draw(self, canvas: Canvas, left: int, top: int, emotion: Emotion) -> None:
        """Draw the chart of an emotion's smoothed probabilities."""
        width, height = self.size_px
        plate = _floats((left, top, left + width, top + height))
        canvas.rounded(plate, DARK, 0.6 * self.pad_px, opacity=PLATE_OPACITY)
        bar_left, row_top = left + self.bars_left_px, top + self.pad_px
        for name, prob in zip(EMOTIONS, emotion.smoothed.tolist(), strict=True):
            bar_top = row_top + (self.row_px - self.bar_px) // 2
            for part, rgb, opacity in ((1.0, WHITE, GROOVE_OPACITY), (prob, PALETTE[name], 1.0)):
                bar_right = bar_left + self.reach_px * min(part, 1.0)
                if bar_right - bar_left >= 1.0:  # false for NaN too
                    bar = _floats((bar_left, bar_top, bar_right, bar_top + self.bar_px))
                    canvas.rounded(bar, rgb, 0.3 * self.bar_px, opacity=opacity)
            if self.named:
                ascent = glyphs.line_metrics(self.text_px).ascent_px
                text_top = row_top + (self.row_px - ascent) // 2
                rgb = WHITE if name == emotion.label else MUTED
                canvas.word(name, self.text_px, left + self.pad_px, text_top, rgb)
            row_top += self.row_px


@lru_cache(maxsize=16)
def _charts(metrics: Metrics) -> tuple[_Chart, ...]:
    """Return the chart's forms for a frame: with names where it is large enough, and without."""
    text = max(_MIN_CHART_TEXT_PX, round(0.8 * metrics.text_px))
    pad = round(0.5 * text)
    names_px = max(glyphs.width_px(name, text) for name in EMOTIONS)
    bars_left = pad + names_px + round(0.5 * text)
    named = _Chart(True, text, round(1.3 * text), round(0.6 * text), 5 * text, pad, bars_left)
    row, pad = round(0.45 * text), round(0.25 * text)
    bare = _Chart(False, text, row, row - max(1, row // 4), 3 * text, pad, pad)
    frame_w, frame_h = metrics.size_px
    fits = named.size_px[0] <= _MAX_CHART_FRAC * frame_w
    return (named, bare) if fits and named.size_px[1] <= _MAX_CHART_FRAC * frame_h else (bare,)


def _set_chart(scene: _Scene, box: Box, emotion: Emotion, before: Choice | None) -> Choice | None:
    """Draw a chart where there is room for it and return how; None where there is none.

    Beside the face if possible, and on it only where it takes a small part of it.
    """
    charts = _charts(scene.metrics)
    outside = [Choice(form, spot) for form in range(len(charts)) for spot in CHART_OUTSIDE]
    area = _MAX_COVERED_FRAC * (box[2] - box[0]) * (box[3] - box[1])
    inside = [
        Choice(form, spot)
        for form, chart in enumerate(charts)
        if chart.size_px[0] * chart.size_px[1] <= area
        for spot in CHART_INSIDE
    ]
    sizes = [chart.size_px for chart in charts]
    placed = scene.board.place(box, sizes, outside + inside, before, must=False)
    if placed is None:
        return None
    choice, (left, top) = placed
    charts[choice.form].draw(scene.canvas, left, top, emotion)
    return choice


def _floats(rect: tuple[float, float, float, float]) -> Box:
    """Return a rectangle as floats only: the kernels are compiled anew for every other type."""
    return (float(rect[0]), float(rect[1]), float(rect[2]), float(rect[3]))
