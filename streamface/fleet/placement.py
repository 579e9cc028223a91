"""Which camera goes to which station: plain functions of what was measured, no clock, no cluster.

A camera stays where it is unless its station is gone, is being drained, or has long had more to do
than it can while another clearly has room. One that needs a place goes where most cores are left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from streamface.streams import MOST_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIRST_GUESS_CORES: Final = 0.5
"""What a camera is thought to cost while none was measured: 720p at 25 fps on a CPU."""
_OVERLOADED_FOR_S: Final = 15.0
"""A run looks less closely after two seconds and may be all right after ten."""
_REST_S: Final = 30.0
"""Between two moves: the first has to show in what is measured."""
_STAYS_S: Final = 600.0
"""How long a camera that was moved for balance is left alone."""
_SURE: Final = 1.5
"""What is measured on a machine that cannot keep up is less than it would take."""


@dataclass(frozen=True, slots=True)
class Place:
    """One station that cameras may be on."""

    name: str
    cores: float
    is_open: bool = True
    """Whether more may come: it lives and is not being drained."""
    is_overloaded: bool = False
    cameras: tuple[str, ...] = ()
    """Those that are there."""


def guess(costs: Mapping[str, float], camera: str) -> float:
    """Return what a camera costs: as measured, else as the others do on average."""
    if camera in costs:
        return costs[camera]
    return sum(costs.values()) / len(costs) if costs else FIRST_GUESS_CORES


def room(place: Place, costs: Mapping[str, float]) -> float:
    """Return the cores of a station that no camera needs; below zero where they are too few."""
    return place.cores - sum(guess(costs, camera) for camera in place.cameras)


def assign(
    waiting: Sequence[str],
    places: Sequence[Place],
    costs: Mapping[str, float],
    *,
    avoid: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return a station for each camera that waits: where most room is, the dearest camera first.

    All get one unless no station is open, or all are full: too little room means to look less
    closely, no place means not to look at all. avoid: where each failed last; it goes elsewhere
    if it can.
    """
    left = {place.name: room(place, costs) for place in places if place.is_open}
    count = {place.name: len(place.cameras) for place in places}
    chosen: dict[str, str] = {}
    order = {camera: number for number, camera in enumerate(waiting)}
    for camera in sorted(order, key=lambda each: (-guess(costs, each), order[each])):
        able = [name for name in left if count[name] < MOST_AT_ONCE]
        unwanted = (avoid or {}).get(camera)
        able = [name for name in able if name != unwanted] or able
        if not able:
            continue
        best = min(able, key=lambda name: (-left[name], count[name], name))
        chosen[camera] = best
        left[best] -= guess(costs, camera)
        count[best] += 1
    return chosen


@dataclass(slots=True)
class Balancer:
    """Finds the one camera that had better be elsewhere; slow to begin, slow to repeat."""

    _since_s: dict[str, float] = field(default_factory=dict)
    _rests_until_s: float = 0.0
    _moved_s: dict[str, float] = field(default_factory=dict)

    def update(
        self, now_s: float, places: Sequence[Place], costs: Mapping[str, float]
    ) -> tuple[str, str] | None:
        """Return a camera and the station that it should move to, or None: all is well enough."""
        hard = {place.name for place in places if place.is_overloaded}
        self._since_s = {name: self._since_s.get(name, now_s) for name in sorted(hard)}
        if now_s < self._rests_until_s:
            return None
        for place in sorted(places, key=lambda each: (room(each, costs), each.name)):
            since_s = self._since_s.get(place.name)
            if since_s is None or now_s - since_s < _OVERLOADED_FOR_S or len(place.cameras) < 2:
                continue
            move = self._move_from(place, places, costs, now_s)
            if move is not None:
                self._rests_until_s = now_s + _REST_S
                self._moved_s[move[0]] = now_s
                return move
        return None

    def _move_from(
        self, place: Place, places: Sequence[Place], costs: Mapping[str, float], now_s: float
    ) -> tuple[str, str] | None:
        others = [p for p in places if p.is_open and not p.is_overloaded and p.name != place.name]
        others = [each for each in others if len(each.cameras) < MOST_AT_ONCE]
        if not others:
            return None
        best = min(others, key=lambda each: (-room(each, costs), each.name))
        needs = {camera: _SURE * guess(costs, camera) for camera in place.cameras}
        movable = [
            camera
            for camera, cores in needs.items()
            if cores <= room(best, costs)
            and now_s - self._moved_s.get(camera, float("-inf")) >= _STAYS_S
        ]
        if not movable:
            return None
        # The dearest that fits: the fewest moves until all is well.
        return max(movable, key=lambda camera: (needs[camera], camera)), best.name
