"""The window: a real one under Xvfb where there is one, and its keys and threads on a stand-in."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from streamface.errors import SinkError, UsageError
from streamface.frame import Colour, Frame, Planes
from streamface.pipeline import Cancelled
from streamface.sdl import SdlScreen, View
from streamface.window import Pane, Window

RED, GREEN, BLUE, YELLOW = (200, 40, 40), (40, 190, 60), (50, 60, 200), (220, 210, 50)
DARK = (18, 20, 24)
COLOURS = [
    Colour(matrix, full) for matrix in ("bt601", "bt709", "bt2020") for full in (False, True)
]


def sdl():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("sdl2", reason="needs PySDL2 (the extra gui)")


def quarters(size_px=(64, 48), colour=None):
    """Return planes with one colour in each quarter."""
    width, height = size_px
    image = np.empty((height, width, 3), np.uint8)
    for i, rgb in enumerate((RED, GREEN, BLUE, YELLOW)):
        row, column = divmod(i, 2)
        rows = slice(row * height // 2, (row + 1) * height // 2 if not row else None)
        image[rows, column * width // 2 : (column + 1) * width // 2 if not column else None] = rgb
    return Planes.from_rgb(image, colour)


def frame(number=0, planes=None, stream=0):
    planes = planes or quarters()
    return Frame(stream, number, number, Fraction(1, 30), planes, captured_s=time.monotonic())


class Steered:
    def __init__(self):
        self.stopping = False

    def stop(self):
        self.stopping = True


# -- the real thing


@contextmanager
def x_server():
    """Run an X server without a screen; yield its process and the display's name."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1000x700x24", "-noreset"]
    with (
        os.fdopen(read) as told,
        subprocess.Popen(
            command, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process,
    ):
        os.close(write)
        try:
            yield process, f":{told.readline().strip()}"
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def xvfb():
    """The name of a display of our own, or None where Xvfb is not installed."""
    if shutil.which("Xvfb") is None:
        yield None
        return
    with x_server() as (_, name):
        yield name


@pytest.fixture
def display(monkeypatch, xvfb):
    """SDL draws in software: on Xvfb where there is one, else on its own dummy."""
    sdl()
    monkeypatch.setenv("SDL_RENDER_DRIVER", "software")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if xvfb is None:
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    else:
        monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
        monkeypatch.setenv("DISPLAY", xvfb)
    return xvfb


@pytest.fixture
def screen(display):
    opened = SdlScreen("test", (400, 300))
    yield opened
    opened.close()


def read_back(screen):
    """Return what the renderer holds, (H, W, 3) RGB."""
    library = sdl()
    width, height = screen.size_px
    pixels = np.empty((height, width, 3), np.uint8)
    done = library.SDL_RenderReadPixels(
        screen._renderer, None, library.SDL_PIXELFORMAT_RGB24,
        pixels.ctypes.data_as(ctypes.c_void_p), 3 * width,
    )  # fmt: skip
    assert done == 0
    return pixels


def x_window(screen):
    """Return the X server's number of a window."""
    import sdl2.syswm

    info = sdl2.syswm.SDL_SysWMinfo()
    sdl2.SDL_GetVersion(ctypes.byref(info.version))
    assert sdl2.syswm.SDL_GetWindowWMInfo(screen._window, ctypes.byref(info))
    return str(info.info.x11.window)


def x_screenshot(screen, display):
    """Return a window as the X server shows it, (H, W, 3) RGB."""
    if display is None or shutil.which("xwd") is None:
        pytest.skip("needs Xvfb and xwd")
    command = ["xwd", "-silent", "-id", x_window(screen), "-display", display]
    dump = subprocess.run(command, check=True, capture_output=True).stdout
    header = np.frombuffer(dump[:100], ">u4")
    width, height, line = int(header[4]), int(header[5]), int(header[12])
    start = int(header[0]) + 12 * int(header[19])
    rows = np.frombuffer(dump[start : start + height * line], np.uint8).reshape(height, line)
    return rows[:, : 4 * width].reshape(height, width, 4)[..., 2::-1]


def mean(pixels, box):
    x, y, w, h = box
    return pixels[y : y + h, x : x + w].reshape(-1, 3).mean(axis=0)


def assert_quarters(pixels, place=(0, 0, 400, 300), tolerance=6):
    x, y, w, h = place
    for i, rgb in enumerate((RED, GREEN, BLUE, YELLOW)):
        row, column = divmod(i, 2)
        box = (x + column * w // 2 + w // 8, y + row * h // 2 + h // 8, w // 4, h // 4)
        assert np.abs(mean(pixels, box) - rgb).max() <= tolerance, (i, mean(pixels, box), rgb)


@pytest.mark.parametrize("colour", COLOURS, ids=str)
def test_colours_are_right_under_every_matrix_and_range(screen, colour):
    screen.draw([View(quarters(colour=colour))])
    assert_quarters(read_back(screen))


@pytest.mark.parametrize("driver", ["software", "opengl", "opengles2"])
def test_the_x_server_shows_the_same(display, monkeypatch, driver):
    """Whatever draws; OpenGL, where Mesa has it in software, as a GPU would with its shaders."""
    monkeypatch.setenv("SDL_RENDER_DRIVER", driver)
    screen = SdlScreen("test", (400, 300))
    try:
        if screen.renderer != driver:
            pytest.skip(f"SDL has no {driver} here")
        for _ in range(2):  # the first may come before the window is on the screen
            screen.draw([View(quarters(colour=colour)) for colour in COLOURS[:4]])
            screen.wait(0.1)
        pixels = x_screenshot(screen, display)
    finally:
        screen.close()
    for place in ((0, 0, 200, 150), (200, 0, 200, 150), (0, 150, 200, 150), (200, 150, 200, 150)):
        assert_quarters(pixels, place)


def test_matrices_side_by_side_do_not_mix(screen):
    screen.draw([View(quarters(colour=colour)) for colour in COLOURS[:4]])
    pixels = read_back(screen)
    for place in ((0, 0, 200, 150), (200, 0, 200, 150), (0, 150, 200, 150), (200, 150, 200, 150)):
        assert_quarters(pixels, place)


@pytest.mark.parametrize("size_px", [(63, 47), (64, 47), (63, 48), (1, 1)], ids=str)
def test_odd_sizes_show(screen, size_px):
    screen.draw([View(quarters(size_px))])
    if size_px != (1, 1):
        assert_quarters(read_back(screen), tolerance=12)


def test_the_shape_is_kept_and_the_rest_is_dark(screen):
    screen.draw([View(quarters((64, 24)))])  # 400 x 150 in the middle of 400 x 300
    pixels = read_back(screen)
    assert_quarters(pixels, (0, 75, 400, 150))
    assert np.abs(mean(pixels, (0, 0, 400, 70)) - DARK).max() < 1
    screen.draw([View(quarters((64, 24)), pixel_aspect=0.5)])  # 32:24, as the window
    assert_quarters(read_back(screen))


def test_a_resized_window_is_drawn_anew(screen):
    sdl().SDL_SetWindowSize(screen._window, 300, 500)
    deadline, asked = time.monotonic() + 10, []
    while screen.size_px != (300, 500) and time.monotonic() < deadline:
        asked += screen.wait(0.1)
    assert screen.size_px == (300, 500)
    asked += screen.wait(0.2)
    assert "redraw" in asked
    screen.draw([View(quarters())])
    assert_quarters(read_back(screen), (0, 137, 300, 225))


def test_pictures_may_change_their_size_and_colour(screen):
    for planes in (quarters(), quarters((32, 24)), quarters((32, 24), Colour("bt601"))):
        screen.draw([View(planes)])
        assert_quarters(read_back(screen))


def test_planes_are_sent_once(screen, monkeypatch):
    sent = []
    upload = screen._upload
    monkeypatch.setattr(screen, "_upload", lambda *given: sent.append(upload(*given)))
    planes = quarters()
    screen.draw([View(planes)])
    screen.draw([View(planes)])
    assert len(sent) == 1
    screen.draw([View(quarters())])
    assert len(sent) == 2


def test_a_reset_device_gets_everything_again(screen):
    planes = quarters()
    screen.draw([View(planes, "name"), View(planes)])
    push(sdl().SDL_RENDER_DEVICE_RESET)
    assert "redraw" in screen.wait(5)
    screen.draw([View(planes, "name"), View(planes)])
    assert_quarters(read_back(screen), (200, 75, 200, 150))


def test_names_and_notices_stand_in_their_corners(screen):
    plain = [View(None), View(None), View(None)]
    screen.draw(plain)
    before = read_back(screen)
    screen.draw([View(None, "left"), View(None, "right"), View(None)], "paused")
    changed = (read_back(screen) != before).any(axis=2)
    # Cells of 200 x 150; the notice ends at the upper right corner of the window.
    for region in ((0, 0), (0, 200), (0, 330)):
        assert changed[region[0] : 40, region[1] : region[1] + 70].any()
    assert not changed[60:].any()


def push(kind, key=None):
    library = sdl()
    event = library.SDL_Event()
    event.type = kind
    if key is not None:
        event.key.keysym.sym = key
    library.SDL_PushEvent(ctypes.byref(event))


@pytest.mark.parametrize(
    ("key", "command"),
    [("SDLK_q", "stop"), ("SDLK_ESCAPE", "stop"), ("SDLK_SPACE", "pause"), ("SDLK_s", "save"),
     ("SDLK_f", "full_screen")],
)  # fmt: skip
def test_keys_are_commands(screen, key, command):
    screen.wait(0)
    push(sdl().SDL_KEYDOWN, getattr(sdl(), key))
    assert command in screen.wait(5)


def test_other_keys_are_none(screen):
    screen.wait(0)
    push(sdl().SDL_KEYDOWN, sdl().SDLK_x)
    assert not set(screen.wait(0)) - {"redraw"}


def test_the_close_button_stops(screen):
    push(sdl().SDL_QUIT)
    assert "stop" in screen.wait(5)


def test_another_thread_ends_a_wait(screen):
    while screen.wait(0):
        pass
    waker = threading.Thread(target=screen.wake)
    began_s = time.monotonic()
    waker.start()
    screen.wait(60)
    waker.join()
    assert time.monotonic() - began_s < 30


def test_keys_of_a_keyboard_arrive(screen, display):
    """Through the X server, as a person's do."""
    if display is None or shutil.which("xdotool") is None:
        pytest.skip("needs Xvfb and xdotool")
    screen.draw([View(quarters())])
    focus = ["xdotool", "windowfocus", "--sync", x_window(screen)]
    environment = {**os.environ, "DISPLAY": display}
    subprocess.run(focus, check=True, env=environment)
    screen.wait(0.1)
    subprocess.run(["xdotool", "key", "space"], check=True, env=environment)
    deadline, asked = time.monotonic() + 10, []
    while "pause" not in asked and time.monotonic() < deadline:
        asked += screen.wait(0.1)
    assert "pause" in asked


def test_a_run_in_a_real_window(display):
    """Frames from another thread come onto the screen until q is pressed."""
    steered = Steered()
    with Window([Pane("test", (400, 300))], steered) as window:

        def work():
            number = 0
            while not steered.stopping:
                window.show(frame(number))
                number += 1
                if len(window.age) == 3:
                    push(sdl().SDL_KEYDOWN, sdl().SDLK_q)
                time.sleep(0.001)

        window.drive(work)
    assert steered.stopping
    assert len(window.age) >= 3


LOSS = """
import os, signal, sys, time
from streamface.errors import SinkError
from streamface.frame import Colour, Planes
from streamface.sdl import SdlScreen, View
screen = SdlScreen("test", (64, 48))
view = View(Planes.allocate((64, 48), Colour()))
screen.draw([view])
screen.wait(0)
os.kill(int(sys.argv[1]), signal.SIGKILL)
try:
    for _ in range(500):
        screen.wait(0.01)
        screen.draw([view])
except SinkError as exc:
    screen.close()
    print(exc)
"""


def test_a_lost_x_server_is_an_error_and_not_the_end(display, monkeypatch):
    if display is None:
        pytest.skip("needs Xvfb")
    with x_server() as (process, name):
        monkeypatch.setenv("DISPLAY", name)
        command = [sys.executable, "-c", LOSS, str(process.pid)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "the display of --show went away\n")


def test_importing_the_window_needs_no_display():
    """Nor SDL: only opening one does."""
    code = "import sys, streamface.window; print('sdl2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("driver", ["x11", None])
def test_without_a_display_the_error_says_so(monkeypatch, driver):
    """Also where SDL is content to draw where nobody sees it."""
    sdl()
    if driver is None and not sys.platform.startswith("linux"):
        pytest.skip("other systems always have a display")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if driver:
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    with pytest.raises(SinkError, match="--show needs a display"):
        SdlScreen("test", (10, 10))


def test_without_pysdl2_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sdl2", None)
    with pytest.raises(UsageError, match=r"streamface\[gui\]"):
        SdlScreen("test", (10, 10))


# -- threads and keys


class FakeScreen:
    """Remembers what it was told; ``script`` is what its ``wait`` returns, one entry a call."""

    def __init__(self, script=()):
        self.script = list(script)
        self.drawn = []
        self.log = []
        self.woken = threading.Event()

    def wait(self, timeout_s):
        if self.script:
            step = self.script.pop(0)
            return step() if callable(step) else step
        self.woken.wait(timeout_s)
        self.woken.clear()
        return []

    def wake(self):
        assert "close" not in self.log
        self.woken.set()

    def draw(self, views, notice=""):
        self.drawn.append((list(views), notice))

    def set_title(self, title):
        self.log.append(title)

    def toggle_full_screen(self):
        self.log.append("full screen")

    def hide(self):
        self.log.append("hide")

    def close(self):
        self.log.append("close")


def window_of(screen, panes=None, **options):
    steered = options.pop("steered", None) or Steered()
    panes = panes or [Pane("clip", (64, 48))]
    return Window(panes, steered, screen=screen, **options)


def test_only_the_newest_frame_is_drawn():
    screen = FakeScreen()
    window = window_of(screen)
    frames = [frame(i) for i in range(5)]
    for each in frames:
        window.show(each)
    window.pump()
    window.pump()
    assert [views[0].planes for views, _ in screen.drawn] == [frames[-1].planes]
    assert len(window.age) == 1


def test_each_pane_has_its_newest_and_its_name():
    screen = FakeScreen()
    window = window_of(screen, [Pane("a", (64, 48)), Pane("b", (64, 48), pixel_aspect=2.0)])
    first, second = frame(0), frame(1)
    window.show(first, 0)
    window.pump()
    window.show(second, 1)
    window.pump()
    assert screen.drawn[0][0] == [View(first.planes, "a"), View(None, "b", 2.0)]
    assert screen.drawn[1][0] == [View(first.planes, "a"), View(second.planes, "b", 2.0)]


@pytest.mark.parametrize("how", ["key", "run"])
def test_stopping_lets_the_window_go_at_once(how):
    steered = Steered()
    screen = FakeScreen([["stop"]] if how == "key" else [])
    window = window_of(screen, steered=steered)
    if how == "run":  # the first Ctrl-C, say
        steered.stop()
    window.show(frame())
    window.pump()
    assert steered.stopping
    assert screen.log == ["hide"]
    window.show(frame())
    window.pump()
    assert not screen.drawn


def test_a_paused_file_waits_and_goes_on():
    screen = FakeScreen([["pause"]])
    window = window_of(screen)
    window.pump()
    assert screen.drawn[-1][1] == "paused"
    returned = threading.Event()

    def write():
        window.show(frame())
        returned.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not returned.wait(0.1)
    screen.script.append(["pause"])
    window.pump()
    writer.join()
    window.pump()
    assert screen.drawn[-1][1] == ""
    assert screen.drawn[-1][0][0].planes is not None


def test_a_paused_live_stream_goes_on_unseen():
    screen = FakeScreen([["pause"]])
    window = window_of(screen, [Pane("camera 0", (64, 48), is_live=True)])
    seen = frame(0)
    window.show(seen)
    window.pump()
    window.show(frame(1))
    window.pump()
    assert [views[0].planes for views, _ in screen.drawn] == [seen.planes]


@pytest.mark.parametrize("end", ["stop", SinkError("the window failed"), KeyboardInterrupt()])
def test_a_paused_run_ends_when_it_is_told_to(end):
    """Stopped by a key or a failed window, it finishes its files; an interrupt cancels it."""

    def fail():
        raise end

    steered = Steered()
    screen = FakeScreen([["pause"]])
    window = window_of(screen, steered=steered)
    window.pump()
    outcome = []

    def work():
        screen.script.append(["stop"] if end == "stop" else fail)
        try:
            window.show(frame())
        except Cancelled:
            outcome.append("cancelled")
            raise
        outcome.append("went on")

    if end == "stop":
        window.drive(work)
    else:
        with pytest.raises(type(end)):
            window.drive(work)
    assert outcome == ["cancelled" if isinstance(end, KeyboardInterrupt) else "went on"]
    assert steered.stopping


def test_an_interrupt_ends_the_run_and_is_raised():
    """As the second Ctrl-C: the next frame that is shown ends the work."""

    def interrupt():
        raise KeyboardInterrupt

    steered = Steered()
    window = window_of(FakeScreen([interrupt]), steered=steered)
    ended = []

    def work():
        try:
            while True:
                window.show(frame())
        except Cancelled:
            ended.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        window.drive(work)
    assert ended == [True]


def test_an_error_of_the_run_is_raised_in_the_main_thread():
    def work():
        raise SinkError("disk full")

    for stays in (False, True):
        with pytest.raises(SinkError, match="disk full"):
            window_of(FakeScreen(), stays=stays).drive(work)


def test_a_picture_stays_until_it_is_closed():
    screen = FakeScreen()
    window = window_of(screen, stays=True)
    one = frame()
    done = threading.Event()

    def close_once_drawn():
        done.wait(60)
        return []

    def stop():
        assert screen.drawn
        return ["stop"]

    screen.script += [close_once_drawn, list, stop]

    def work():
        window.show(one)
        done.set()

    window.drive(work)
    assert screen.drawn[0][0][0].planes is one.planes
    assert "hide" in screen.log


def test_s_saves_what_is_shown(tmp_path, caplog):
    screen = FakeScreen([[], ["save"]])
    panes = [Pane("in/clip one.mp4", (64, 48)), Pane("rtsp://***@host/cam", (64, 48))]
    window = window_of(screen, panes, folder=tmp_path)
    window.show(frame())
    window.pump()
    with caplog.at_level("INFO", "streamface"):
        window.pump()
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("clip_one-")
    assert str(path) in caplog.text
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert_quarters(np.asarray(saved), (0, 0, 64, 48))


def test_a_picture_that_cannot_be_saved_is_a_warning(tmp_path, caplog):
    screen = FakeScreen([[], ["save"]])
    window = window_of(screen, folder=tmp_path / "missing")
    window.show(frame())
    window.pump()
    window.pump()
    assert "cannot write" in caplog.text


def test_f_fills_the_screen_and_draws_again():
    screen = FakeScreen([["full_screen"]])
    window_of(screen).pump()
    assert screen.log == ["full screen"]
    assert len(screen.drawn) == 1


def test_nothing_is_woken_after_closing():
    screen = FakeScreen()
    window = window_of(screen)
    window.close()
    window.show(frame())
    assert screen.log == ["close"]
