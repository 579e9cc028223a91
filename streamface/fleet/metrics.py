"""A fleet's figures as Prometheus reads them, under the names that a single run has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamface.fleet.orders import PERCENTS
from streamface.serve.metrics import Exposition

if TYPE_CHECKING:
    from streamface.fleet.view import CameraView, FleetView


def exposition(view: FleetView) -> str:
    """Return the whole answer."""
    text = Exposition()
    _of_cameras(text, view)
    _of_stations(text, view)
    moves = [({"reason": reason}, count) for reason, count in sorted(view.moves.items())]
    text.family(
        "streamface_fleet_moves_total", "counter", "Cameras that left a station, by why.", moves
    )
    text.one("streamface_fleet_restarts_total", "counter", "Stations started again.", view.restarts)
    healthy = view.health() == "ok"
    text.one(
        "streamface_fleet_healthy", "gauge", "Whether every camera gives frames.", int(healthy)
    )
    return "\n".join(text.lines) + "\n"


def _of_cameras(text: Exposition, view: FleetView) -> None:
    def labels(camera: CameraView) -> dict[str, object]:
        return {"station": camera.station, "stream": camera.name}

    cameras = view.cameras
    rows: tuple[tuple[str, str, str, list[float]], ...] = (
        ("frames_total", "counter", "Frames finished.", [c.frames for c in cameras]),
        (
            "face_frames_total",
            "counter",
            "Faces, summed over frames.",
            [c.face_frames for c in cameras],
        ),
        ("fps", "gauge", "Frames per second over the last seconds.", [c.fps for c in cameras]),
        ("faces", "gauge", "Faces in the newest frame.", [c.faces for c in cameras]),
        ("up", "gauge", "Whether frames of a camera come.", [int(c.is_well) for c in cameras]),
        (
            "camera_moves_total",
            "counter",
            "Times that a camera left a station.",
            [c.moves for c in cameras],
        ),
    )
    for name, kind, what, values in rows:
        samples = [(labels(c), value) for c, value in zip(cameras, values, strict=True)]
        text.family(f"streamface_{name}", kind, what, samples)
    silent = [(labels(c), c.silent_s) for c in cameras if c.silent_s is not None]
    text.family("streamface_silent_seconds", "gauge", "Time since the newest frame.", silent)
    cost = [(labels(c), c.cores) for c in cameras if c.cores is not None]
    text.family("streamface_camera_cores", "gauge", "Cores that a camera costs.", cost)
    drops = [
        ({**labels(camera), "reason": reason}, count)
        for camera in cameras
        for reason, count in sorted(camera.drops.items())
    ]
    text.family("streamface_dropped_frames_total", "counter", "Frames dropped.", drops)
    ages = [
        ({**labels(camera), "quantile": percent / 100}, age_s)
        for camera in cameras
        for percent, age_s in zip(PERCENTS, camera.ages_s, strict=False)
    ]
    text.family("streamface_frame_age_seconds", "summary", "From capture to written.", ages)


def _of_stations(text: Exposition, view: FleetView) -> None:
    states = [({"station": s.name}, int(s.state in ("up", "draining"))) for s in view.stations]
    text.family("streamface_station_up", "gauge", "Whether a station answers.", states)
    rows = (
        ("cores", "Cores that a station has.", [s.cores for s in view.stations]),
        ("cores_used", "Cores that a station uses.", [s.cores_used for s in view.stations]),
        ("cameras", "Cameras on a station.", [s.cameras for s in view.stations]),
        (
            "lowered",
            "Whether it looks less closely to keep up.",
            [int(bool(s.lowered)) for s in view.stations],
        ),
    )
    for name, what, values in rows:
        samples = [
            ({"station": each.name}, value)
            for each, value in zip(view.stations, values, strict=True)
        ]
        text.family(f"streamface_station_{name}", "gauge", what, samples)
    memory = [
        ({"station": each.name}, each.memory_bytes)
        for each in view.stations
        if each.memory_bytes is not None
    ]
    text.family("streamface_station_memory_bytes", "gauge", "Memory of a station.", memory)
