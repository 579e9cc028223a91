"""``streamface run --cluster``: settings to a fleet, and what became of it to an exit code."""

from __future__ import annotations

import logging
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from streamface.encode import VIDEO_SUFFIX_CODECS
from streamface.errors import UsageError
from streamface.push import push_name
from streamface.sinks import IMAGE_SUFFIXES
from streamface.streams import find_streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamface.settings import Settings
    from streamface.sources import Input

_log = logging.getLogger(__name__)

DONE, PARTIAL = 0, 3
MOST_CAMERAS: Final = 4096
"""Far more than a driver was tried with; a wildcard that went wrong is told."""


def main(
    settings: Settings,
    cluster: str,
    *,
    cores: int | None = None,
    watch: Callable[[Any], None] = lambda _: None,
    quiet: bool = True,
    live: bool = False,
) -> int:
    """Run a fleet; return the exit code. Raises StreamfaceError.

    cluster: a Ray cluster's address, or auto. cores: of each station; None: all of its machine.
    watch: is given what ``stop`` and ``interrupt`` end.
    """
    cameras = cameras_of(settings)
    how = station_settings(settings)
    if settings.serve is not None:
        from streamface.serve.server import need_aiohttp

        need_aiohttp()
    from streamface.console import print_lines
    from streamface.fleet import console
    from streamface.fleet.driver import Fleet
    from streamface.fleet.ray_stations import RayCluster

    with ExitStack() as stack:
        gpus = gpus_of(settings)
        ray = stack.enter_context(RayCluster(cluster, cores=cores, gpus=gpus))
        fleet = Fleet(cameras, ray, how, cores=cores)
        if settings.serve is not None:
            from streamface.fleet.site import serve_fleet

            server = stack.enter_context(serve_fleet(fleet, settings.serve, settings.serve_token))
            _log.info("watch at %s", server.url)
        watch(fleet)
        with nullcontext() if quiet else console.watching(fleet, live=live):
            fleet.execute()
        if not quiet:
            print_lines(console.summary(fleet))
    return PARTIAL if fleet.lost else DONE


def cameras_of(settings: Settings) -> list[Input]:
    """Return what the fleet is to watch. Raises SourceError, UsageError."""
    cameras = find_streams(settings.sources)
    if len(cameras) > MOST_CAMERAS:
        raise UsageError(f"{len(cameras)} cameras are too many; at most {MOST_CAMERAS} go")
    for each in cameras:
        if each.kind == "camera":
            raise UsageError(
                f"--cluster: {each.name} is a device of one machine; give URLs, which all reach"
            )
        if each.kind != "url" and not settings.simulate_live:
            raise UsageError(
                f"--cluster is for live sources, and {each.name} is none; `streamface batch "
                "--cluster` does files, --simulate-live plays them as cameras"
            )
    return cameras


def station_settings(settings: Settings) -> Settings:
    """Return how each station runs: no audience, all paths absolute. Raises UsageError."""
    refused = {
        "--show": settings.show,
        "--virtual-camera": settings.virtual_camera is not None,
        "--save-jsonl -": "-" in settings.data.values(),
        "--max-frames": settings.max_frames is not None,
    }
    for what, given in refused.items():
        if given:
            raise UsageError(f"{what}: not with --cluster, which runs on other machines")
    for output in settings.outputs:
        if isinstance(output, str):
            raise UsageError(
                f"--cluster: its cameras cannot all be sent to {push_name(output)}; give a folder"
            )
        known = VIDEO_SUFFIX_CODECS.keys() | IMAGE_SUFFIXES | {".m3u8"}
        if output.suffix.lower() in known and not output.is_dir():
            raise UsageError(
                f"--cluster needs a folder as --output, but {output} is named like a file"
            )
    outputs = tuple(Path(each).expanduser().absolute() for each in settings.outputs)
    return replace(
        settings,
        source="demo",
        output=outputs or None,
        data={kind: str(Path(to).expanduser().absolute()) for kind, to in settings.data.items()},
        serve=None,
        serve_token=None,
    )


def gpus_of(settings: Settings) -> float:
    """Return how many GPUs a station needs: one where it was asked for by name."""
    named = settings.device.startswith("cuda") or settings.hwaccel is not None
    return 1.0 if named or settings.require_gpu else 0.0
