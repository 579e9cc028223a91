"""A window that shows what is written (``--show``), and the keys that steer the run.

The run works in a thread of its own and hands each frame over with ``show``, which keeps only the
newest. ``drive`` stays in the main thread, where SDL must live and where Python hears Ctrl-C, and
draws. So the window answers while a source stalls, and nothing waits for the screen.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from streamface.errors import StreamfaceError
from streamface.grid import shape
from streamface.pipeline import Cancelled, LatencyHistogram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamface.frame import Frame
    from streamface.sdl import Command, View

_log = logging.getLogger(__name__)

# Python hears a signal only between two of its own instructions, and none runs while SDL waits.
_TICK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Pane:
    """One stream in the window."""

    name: str
    """Fit to show: passwords are masked."""
    size_px: tuple[int, int]
    is_live: bool = False
    """Pausing makes a file wait; it lets a live stream go on unseen."""
    pixel_aspect: float = 1.0
    """How wide a pixel is, as a multiple of its height."""


class Steered(Protocol):
    """What the window stops; ``app.Run`` is one."""

    stopping: bool

    def stop(self) -> None:
        """End the source; what is under way comes out."""


class Screen(Protocol):
    """What the window is drawn on; ``sdl.SdlScreen``, or a stand-in in tests."""

    def wait(self, timeout_s: float) -> list[Command]:
        """Return what was asked for; wait for it up to ``timeout_s``."""

    def wake(self) -> None:
        """End a ``wait``; from any thread."""

    def draw(self, views: Sequence[View], notice: str = "") -> None:
        """Show the views. Raises SinkError."""

    def set_title(self, title: str) -> None:
        """Set the title."""

    def toggle_full_screen(self) -> None:
        """Fill the screen, or no longer."""

    def hide(self) -> None:
        """Take the window off the screen."""

    def close(self) -> None:
        """Release everything; twice is harmless."""


class Window:
    """Shows the newest frame of each pane.

    Keys: q, Esc or the close button stop the run, as a first Ctrl-C does; space pauses, s saves
    what is shown, f fills the screen. Use it as a context manager, in the main thread::

        with Window([Pane("demo", (640, 480))], run) as window:
            window.drive(work)  # which calls window.show(frame)

    Raises UsageError without PySDL2 and SinkError without a display.
    """

    def __init__(
        self,
        panes: Sequence[Pane],
        steered: Steered,
        *,
        stays: bool = False,
        folder: Path | None = None,
        screen: Screen | None = None,
    ) -> None:
        """stays: keep the last picture until somebody closes it, for a source that is one picture.

        folder: where pictures are saved; the current one by default. screen: stands in for SDL's
        in tests.
        """
        self._panes = list(panes)
        self._steered = steered
        self._stays = stays
        self._folder = folder or Path()
        self._screen = screen or _open_screen(self._panes)
        self.age = LatencyHistogram()
        """From capture until the picture was given to the screen."""
        self._newest: list[Frame | None] = [None] * len(self._panes)
        self._shown: list[Frame | None] = [None] * len(self._panes)
        self._changed = threading.Condition()
        self._woken = self._paused = self._hidden = self._over = self._abandoned = False

    # -- the writing thread

    def show(self, frame: Frame, pane: int = 0) -> None:
        """Let ``frame`` be shown unless a newer one comes first; nobody may draw on it from now on.

        Returns at once, except that a pane that is not live waits while the window is paused.
        Raises Cancelled once ``drive`` was left by an error or an interrupt.
        """
        with self._changed:
            while self._paused and not self._panes[pane].is_live:
                self._changed.wait()
            if self._abandoned:
                raise Cancelled
            if self._paused or self._hidden:
                return
            self._newest[pane] = frame
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._screen.wake()

    # -- the main thread

    def drive(self, work: Callable[[], None]) -> None:
        """Run ``work`` in a thread and the window here, until both are done; raise what it raised.

        A window that fails stops the run as its close button does, so that what was recorded is
        whole, and is raised after that. Any other exception here, such as a second Ctrl-C, makes
        the next ``show`` end ``work``, and is raised then.
        """
        raised: list[BaseException] = []
        thread = threading.Thread(target=self._work, args=(work, raised), name="streamface-run")
        try:
            thread.start()
            while not self._over or (self._stays and not (self._hidden or raised)):
                self.pump(_TICK_S)
        except StreamfaceError:
            self._steered.stop()
            self._go_on_unseen()
            raise
        except BaseException:
            self._steered.stop()
            self._go_on_unseen(abandoned=True)
            raise
        finally:
            if thread.ident is not None:
                thread.join()
        if raised:
            raise raised[0]

    def _work(self, work: Callable[[], None], raised: list[BaseException]) -> None:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - it is raised in the main thread
            raised.append(exc)
        finally:
            with self._changed:
                self._over = True
                self._wake()

    def pump(self, timeout_s: float = 0.0) -> None:
        """Heed keys and draw what is new; wait for either up to ``timeout_s``.

        For loops that iterate frames in the main thread themselves, after each ``show``.
        """
        redraw = False
        for command in self._screen.wait(timeout_s):
            redraw = self._obey(command) or redraw
        if self._steered.stopping:
            self._leave()
        fresh = self._take()
        if (fresh or redraw) and not self._hidden:
            self._draw(fresh)

    def _take(self) -> list[Frame]:
        """Move the newest frames to those that are shown; return them."""
        with self._changed:
            self._woken = False
            fresh = []
            for pane, frame in enumerate(self._newest):
                if frame is not None:
                    fresh.append(frame)
                    self._shown[pane], self._newest[pane] = frame, None
            return fresh

    def _draw(self, fresh: Sequence[Frame]) -> None:
        from streamface.sdl import View

        labelled = len(self._panes) > 1
        views = [
            View(frame.planes if frame else None, pane.name if labelled else "", pane.pixel_aspect)
            for pane, frame in zip(self._panes, self._shown, strict=True)
        ]
        self._screen.draw(views, "paused" if self._paused else "")
        now_s = time.monotonic()
        for frame in fresh:
            self.age.add(now_s - frame.captured_s)

    def _obey(self, command: Command) -> bool:
        """Do what was asked for; return whether the window must be drawn again."""
        if command == "stop":
            self._steered.stop()
            self._leave()
        elif command == "pause":
            self._pause()
        elif command == "save":
            self._save()
        elif command == "full_screen":
            self._screen.toggle_full_screen()
        return command in ("pause", "full_screen", "redraw")

    def _pause(self) -> None:
        with self._changed:
            self._paused = not (self._paused or self._hidden)
            self._changed.notify_all()
        self._screen.set_title(_title(self._panes) + (" (paused)" if self._paused else ""))

    def _leave(self) -> None:
        """Let the window go, at once; the run finishes without it."""
        if not self._hidden:
            self._go_on_unseen()
            self._screen.hide()

    def _go_on_unseen(self, *, abandoned: bool = False) -> None:
        """Wake who waits in ``show``; no screen is touched from here on."""
        with self._changed:
            self._hidden = self._woken = True
            self._paused, self._abandoned = False, abandoned
            self._newest = [None] * len(self._panes)
            self._changed.notify_all()

    def _save(self) -> None:
        """Save every pane's picture; one that cannot be saved is a warning, not the run's end."""
        from streamface.snapshots import save_png

        moment = f"{datetime.now().astimezone():%Y-%m-%d-%H%M%S-%f}"[:-3]
        for pane, frame in zip(self._panes, self._shown, strict=True):
            if frame is None:
                continue
            path = self._folder / f"{_file_stem(pane.name)}-{moment}.png"
            try:
                save_png(frame.planes, path)
            except StreamfaceError as exc:
                _log.warning("%s", exc)
            else:
                _log.info("saved: %s", path)

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        with self._changed:  # `show` wakes the screen under this lock
            self._hidden = self._woken = True
        self._screen.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_screen(panes: Sequence[Pane]) -> Screen:
    from streamface.sdl import SdlScreen

    columns, rows = shape(len(panes))
    width, height = panes[0].size_px
    return SdlScreen(_title(panes), (columns * width * panes[0].pixel_aspect, rows * height))


def _title(panes: Sequence[Pane]) -> str:
    what = panes[0].name if len(panes) == 1 else f"{len(panes)} streams"
    return f"streamface: {what}"


def _file_stem(name: str) -> str:
    """Return a stream's name fit for a file: a path's last part, letters and digits."""
    last = Path(name).stem or name
    return "".join(c if c.isalnum() else "_" for c in last).strip("_")[:60] or "stream"
