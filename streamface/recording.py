"""Recordings that somebody starts and stops while a run goes on, from the page's button."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from streamface.errors import StreamfaceError
from streamface.fanout import QueuedSink
from streamface.sinks import VideoSink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamface.decode import StreamInfo
    from streamface.encode import VideoOptions
    from streamface.frame import Frame

_log = logging.getLogger(__name__)
_SUFFIX: Final = ".mp4"


class Recording:
    """Writes what is shown to a file a stream, from ``start`` to ``stop``; without sound.

    ``start`` and ``stop`` are for any thread and return at once (``serve.hub.Recorder``); the
    thread that writes hands every frame to ``write``. A file gets its name, NAME-DATE-TIME.mp4,
    once it is whole. One that fails is told and ends the recording, not the run.
    """

    def __init__(
        self,
        folder: Path,
        options: VideoOptions,
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """folder: where the files go. now: stands in for the clock in tests."""
        self._folder = folder
        self._options = replace(options, audio=False, overwrite=False)
        self._now = now
        self._sinks: dict[int, tuple[QueuedSink, Path]] = {}
        self._stamp = ""
        self._wanted = threading.Event()

    @property
    def recording(self) -> bool:
        """Whether frames are being kept."""
        return self._wanted.is_set()

    def start(self) -> None:
        """Begin with the next frame of each stream."""
        self._wanted.set()

    def stop(self) -> None:
        """Finish the files when the next frame comes, or with the run."""
        self._wanted.clear()

    def write(self, frame: Frame, info: StreamInfo, name: str) -> None:
        """Keep a frame, if that is wanted; never waits for the disk.

        name: of the stream, for the file. The planes may not be changed afterwards.
        """
        if not self._wanted.is_set():
            self.finish()
            return
        try:
            if frame.stream not in self._sinks:
                self._sinks[frame.stream] = self._opened(frame, info, name)
            self._sinks[frame.stream][0].write(replace(frame, packets=()))
        except StreamfaceError as exc:
            _log.warning("the recording ends: %s", exc)
            self._wanted.clear()
            self._abandon()

    def finish(self) -> None:
        """Give the files their names."""
        while self._sinks:
            _, (sink, path) = self._sinks.popitem()
            try:
                sink.close()
            except StreamfaceError as exc:
                _log.warning("%s", exc)
            else:
                _log.info("recorded: %s", path)

    def close(self) -> None:
        """Finish what is under way; for the end of a run, however it ends."""
        self._wanted.clear()
        self.finish()

    def _opened(self, frame: Frame, info: StreamInfo, name: str) -> tuple[QueuedSink, Path]:
        if not self._sinks:
            self._stamp = self._now().strftime("%Y-%m-%d-%H%M%S")
        safe = "".join(c if c.isalnum() else "_" for c in name).strip("_")[-60:] or "stream"
        path = self._folder / f"{safe}-{self._stamp}{_SUFFIX}"
        sink = VideoSink(path, replace(info, chapters=()), self._options)
        sink.begin_at(frame.pts)
        return QueuedSink(sink, path.name), path

    def _abandon(self) -> None:
        while self._sinks:
            _, (sink, _) = self._sinks.popitem()
            sink.abort()
