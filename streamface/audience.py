"""Whoever watches a run as it goes: a page in browsers, a window, other programs' camera."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from streamface.errors import SinkError
from streamface.fanout import QueuedSink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamface.decode import StreamInfo
    from streamface.encode import VideoOptions
    from streamface.frame import Frame
    from streamface.pipeline import PipelineStats
    from streamface.records import Json
    from streamface.serve import LiveHub
    from streamface.settings import Settings
    from streamface.window import Window

_log = logging.getLogger(__name__)


class Watched(Protocol):
    """What is needed of the run that is watched; ``app.Run`` is one."""

    stopping: bool
    failed_outputs: list[str]
    """Why each output that the run goes on without was given up."""

    @property
    def stats(self) -> PipelineStats:
        """Its figures."""

    def stop(self) -> None:
        """End it, as a first Ctrl-C does."""


class Audience:
    """Gets every written frame and keeps nobody waiting.

    Opened before a run begins, in the main thread; ``show`` is called by the thread that writes.
    Raises UsageError where something for it is not installed or wrongly asked for, and SinkError
    where there is no display, no virtual camera, or the port is taken. A virtual camera that fails
    later ends the run only where the run has no other purpose.
    """

    def __init__(
        self,
        run: Watched,
        settings: Settings,
        streams: Sequence[tuple[str, StreamInfo]],
        *,
        header: Mapping[str, Json],
        video: VideoOptions,
    ) -> None:
        """streams: name and facts of each; of one that is not open yet, those of the first."""
        self.window: Window | None = None
        self.url: str | None = None
        """Of the page; holds the token, so nothing but the console may show it."""
        self._hub: LiveHub | None = None
        self._camera: QueuedSink | None = None
        self._run = run
        self._camera_is_all = not (
            settings.outputs or settings.data or settings.show or settings.serve is not None
        )
        with ExitStack() as opened:
            if settings.show:
                self.window = _opened_window(run, streams)
                opened.callback(self.window.close)
            if settings.virtual_camera is not None:
                self._camera = _opened_camera(streams[0][1], settings.virtual_camera)
                opened.callback(self._camera.abort)
            if settings.serve is not None:
                self._serve(run, settings, header, video, opened)
            self._close = opened.pop_all()

    def _serve(
        self,
        run: Watched,
        settings: Settings,
        header: Mapping[str, Json],
        video: VideoOptions,
        opened: ExitStack,
    ) -> None:
        from streamface.recording import Recording
        from streamface.serve import LiveHub, serve

        assert settings.serve is not None
        self._recording = Recording(_folder(settings), video)
        opened.callback(self._recording.close)
        self._hub = LiveHub(stats=lambda: run.stats, header=header, recorder=self._recording)
        server = serve(self._hub, settings.serve, settings.serve_token)
        opened.callback(server.close)
        self.url = server.url
        _log.info("watch at %s", server.url)

    def show(self, frame: Frame, name: str, info: StreamInfo) -> None:
        """Show a frame; nobody may draw on its planes from now on.

        Raises SinkError where the virtual camera has failed and there is nothing else to do.
        """
        if self._hub is not None:
            self._hub.publish(frame, name)
            self._recording.write(frame, info, name)
        if self._camera is not None and frame.stream == 0:
            self._write_to(self._camera, frame)
        if self.window is not None:
            self.window.show(frame, frame.stream)

    def _write_to(self, camera: QueuedSink, frame: Frame) -> None:
        try:
            camera.write(frame)
        except SinkError as exc:
            if self._camera_is_all:
                raise
            self._camera = None
            _log.warning("%s; the run goes on without it", exc)
            self._run.failed_outputs.append(str(exc))

    def forget(self, stream: int) -> None:
        """Take a stream that has ended off the page."""
        if self._hub is not None:
            self._hub.forget(stream)

    def end(self) -> None:
        """Say that no frame will come."""
        if self._hub is not None:
            self._hub.end()

    def close(self) -> None:
        """End the page, the window and the camera, and finish recordings."""
        self._close.close()


def _opened_window(run: Watched, streams: Sequence[tuple[str, StreamInfo]]) -> Window:
    from streamface.window import Pane, Window

    panes = [
        Pane(name, info.size_px, info.is_live, float(info.sample_aspect)) for name, info in streams
    ]
    return Window(panes, run, stays=len(panes) == 1 and streams[0][1].is_image)


def _opened_camera(info: StreamInfo, device: str) -> QueuedSink:
    from streamface.vcam import VirtualCamera

    camera = VirtualCamera(info, device or None)
    _log.info("virtual camera: %s", camera.device)
    return QueuedSink(camera, "camera")


def _folder(settings: Settings) -> Path:
    """Return where recordings go: beside the output, or where streamface was started."""
    for output in settings.outputs:
        if isinstance(output, Path):
            return output if output.is_dir() else output.parent
    return Path()
