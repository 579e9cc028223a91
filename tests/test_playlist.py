"""Several inputs as one flow: order, inputs that fail, and what is closed when."""

from __future__ import annotations

import pytest

from streamface.decode import ReadOptions
from streamface.errors import SourceError
from streamface.playlist import Playlist
from streamface.sources import Input
from streamface.testing import CountingSource


def inputs(count):
    return [Input("file", f"/nowhere/{number}", f"input {number}") for number in range(count)]


class Opener:
    """Hands out fake sources of the given lengths; None cannot be opened, -1 breaks at once."""

    def __init__(self, lengths):
        self.lengths = lengths
        self.opened = {}

    def __call__(self, _what, _options, *, stream):
        length = self.lengths[stream]
        if length is None:
            raise SourceError(f"cannot open input {stream}")

        def broken(_index):
            raise SourceError(f"input {stream} broke")

        hook = broken if length < 0 else None
        self.opened[stream] = CountingSource(abs(length), stream=stream, on_frame=hook)
        return self.opened[stream]


def playlist(lengths):
    opener = Opener(lengths)
    return Playlist(inputs(len(lengths)), ReadOptions(), opener=opener), opener


def test_inputs_follow_each_other_and_frames_know_theirs():
    """Frames carry their input's number, and are counted from 0 in each."""
    several, _ = playlist([2, 3, 1])
    seen = [(frame.stream, frame.index) for frame in several]
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert several.failures == {}


def test_bad_inputs_are_left_out_and_listed():
    """One that cannot be opened, one that breaks, one without a frame: the others are done."""
    several, _ = playlist([None, 2, -1, 0, 3])
    assert [frame.stream for frame in several] == [1, 1, 4, 4, 4]
    assert several.failures == {
        0: "cannot open input 0",
        2: "input 2 broke",
        3: "input 3 has no frame in the chosen time range",
    }
    assert several.first.info.name == "fake 1"


@pytest.mark.parametrize(
    ("length", "reason"),
    [(None, "cannot open input 0"), (-1, "input 0 broke"), (0, "has no frame in the chosen")],
)
def test_a_single_bad_input_is_an_error(length, reason):
    """With one input there is nothing to go on with."""
    with pytest.raises(SourceError, match=reason):
        list(playlist([length])[0])


def test_none_readable_is_an_error_before_any_output():
    """If no input can be opened, construction says so."""
    with pytest.raises(SourceError, match="none of the 2 inputs could be read"):
        playlist([None, None])


def test_a_source_stays_open_until_its_frames_are_written():
    """Its packets are still needed after its last frame was read; release closes it once."""
    several, opener = playlist([1, 1])
    list(several)
    assert [opener.opened[n].closed for n in (0, 1)] == [0, 0]
    opener.opened[0].damage.damaged_frames = 3
    several.release(0)
    several.release(0)
    assert opener.opened[0].closed == 1
    assert several.damage == {0: ["3 frames were decoded with errors"]}
    several.close()
    assert opener.opened[1].closed == 1


def test_later_inputs_are_opened_only_when_their_turn_comes():
    """A thousand files do not mean a thousand open files."""
    several, opener = playlist([2, 2])
    flow = iter(several)
    next(flow)
    next(flow)
    assert set(opener.opened) == {0}
    next(flow)
    assert set(opener.opened) == {0, 1}
