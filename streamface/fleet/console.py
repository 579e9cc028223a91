"""What a person sees of a fleet: a live table of stations and cameras, a summary. On stderr."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streamface.console import clock, shortened, shown_meanwhile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from rich.console import RenderableType

    from streamface.fleet.driver import Fleet
    from streamface.fleet.view import CameraView, FleetView

_log = logging.getLogger(__name__)

_MOST_ROWS: Final = 40
_WIDEST: Final = 120
_COLOURS: Final = {
    "up": "green", "running": "green", "down": "red", "lost": "bold red", "waiting": "yellow",
    "draining": "yellow", "moving": "yellow", "silent": "red",
}  # fmt: skip


def watching(fleet: Fleet, *, live: bool) -> AbstractContextManager[None]:
    """Show how a fleet is going while it is executed: a panel on a terminal, else log lines."""
    return shown_meanwhile(
        lambda width: panel(fleet.view, width=min(width, _WIDEST)),
        lambda: _tell(fleet.view),
        live=live,
        name="streamface-fleet-progress",
    )


def _tell(view: FleetView) -> None:
    _log.info("%s", progress_line(view))
    for camera in view.cameras:
        _log.info("%s", camera_line(camera))


def progress_line(view: FleetView) -> str:
    """Return one line: how many of what there are, and how they are."""
    up = sum(each.state in ("up", "draining") for each in view.stations)
    well = sum(camera.is_well for camera in view.cameras)
    fps = sum(camera.fps for camera in view.cameras)
    used = sum(each.cores_used for each in view.stations)
    return (
        f"{well} of {len(view.cameras)} cameras on {up} of {len(view.stations)} stations, "
        f"{fps:.1f} fps, {used:.2f} cores"
    )


def camera_line(camera: CameraView) -> str:
    """Return one line: where a camera is and how it goes."""
    if camera.state not in ("running", "silent"):
        return f"{camera.name}: {camera.state}{f' ({camera.reason})' if camera.reason else ''}"
    return (
        f"{camera.name}: {_rate(camera)} on {camera.station}, age {_ages(camera)} ms, "
        f"drops {_drops(camera.drops)}"
    )


def _rate(camera: CameraView) -> str:
    if camera.state == "silent":
        return f"silent for {camera.silent_s or 0:.0f} s"
    return f"{camera.fps:.1f} fps"


def panel(view: FleetView, *, width: int | None = None) -> RenderableType:
    """Return the live panel."""
    return Panel(
        Group(Text(f"{clock(view.elapsed_s)}  {progress_line(view)}"), _stations(view),
              _cameras(view)),
        title=Text.assemble(("streamface fleet ", "bold"), (view.health(), "cyan")),
        title_align="left",
        subtitle="finishing all files; Ctrl-C again cancels" if view.stopping else None,
        subtitle_align="left",
        border_style="yellow" if view.stopping else "blue",
        padding=(0, 1),
        width=width,
    )  # fmt: skip


def _table(*columns: tuple[str, bool]) -> Table:
    """Return an empty table. columns: name, and whether it holds numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name, is_number in columns:
        table.add_column(
            name, justify="right" if is_number else "left", no_wrap=True, overflow="ellipsis"
        )
    return table


def _stations(view: FleetView) -> RenderableType:
    table = _table(
        ("station", False), ("state", False), ("cores", True), ("cameras", True), ("lowered", False)
    )
    for each in view.stations[:_MOST_ROWS]:
        table.add_row(
            Text(shortened(each.name, 30)),
            Text(each.state, _COLOURS.get(each.state, "dim")),
            f"{each.cores_used:.2f}/{each.cores:g}",
            str(each.cameras),
            Text(each.lowered, "yellow"),
        )
    return table


def _cameras(view: FleetView) -> RenderableType:
    table = _table(
        ("camera", False), ("state", False), ("station", False), ("fps", True), ("age", True),
        ("faces", True), ("cores", True), ("drops", False),
    )  # fmt: skip
    for each in view.cameras[:_MOST_ROWS]:
        table.add_row(
            Text(shortened(each.name, 30)),
            Text(each.state, _COLOURS.get(each.state, "dim")),
            Text(shortened(each.station, 20)),
            f"{each.fps:.1f}",
            _ages(each),
            str(each.faces),
            "-" if each.cores is None else f"{each.cores:.2f}",
            Text(each.reason or _drops(each.drops), "red" if each.drops or each.reason else ""),
        )
    if len(view.cameras) > _MOST_ROWS:
        table.add_row(Text(f"and {len(view.cameras) - _MOST_ROWS} more", "dim"))
    return table


def _ages(camera: CameraView) -> str:
    return " / ".join(f"{1e3 * age_s:.0f}" for age_s in camera.recent_ages_s) or "-"


def _drops(drops: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items())) or "none"


def summary(fleet: Fleet) -> list[str]:
    """Return the plain lines after a fleet has ended."""
    view = fleet.view
    frames = sum(camera.frames for camera in view.cameras)
    lines = [f"{len(view.cameras)} cameras: {frames} frames in {view.elapsed_s:.1f} s"]
    for camera in view.cameras:
        mean = camera.face_frames / camera.frames if camera.frames else 0.0
        moves = f", moved {camera.moves} times" if camera.moves else ""
        lines.append(
            f"  {camera.name}: {camera.frames} frames, {mean:.2f} faces a frame; "
            f"dropped: {_drops(camera.drops)}{moves}"
        )
    moved = ", ".join(f"{count} ({why})" for why, count in sorted(view.moves.items()))
    lines.append(f"moves: {moved or 'none'}; stations started again: {view.restarts}")
    if fleet.lost:
        lines.append(f"failed: {len(fleet.lost)} of {len(view.cameras)} cameras")
        lines += [f"  {reason}" for reason in fleet.lost.values()]
    return lines
