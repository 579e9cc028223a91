"""The only module that touches SDL: a window whose pictures stay planar YUV up to the GPU.

SDL 2 through PySDL2: it has YUV textures, which pygame-ce has not, and its library is one wheel a
system for every Python. The GPU turns the planes into RGB and scales them; SDL's software renderer
does where there is none.

SDL belongs to one thread, which on macOS must be the main one; only ``wake`` is for any thread.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from streamface import glyphs
from streamface.canvas import DARK, PLATE_OPACITY, WHITE
from streamface.errors import SinkError, UsageError
from streamface.frame import Colour
from streamface.grid import cells, fitting, letterboxed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamface.frame import Planes, PlaneU8
    from streamface.grid import Rect

Command: TypeAlias = Literal["stop", "pause", "save", "full_screen", "redraw"]
"""What a key, the close button or the system asks for."""

# What SDL 2 can read, as SDL_YUV_CONVERSION_MODE, which PySDL2 does not name; there is no BT.709 at
# full range in it and no BT.2020.
_MODES: Final = {
    Colour("bt601", full_range=True): 0,
    Colour("bt601"): 1,
    Colour("bt709"): 2,
}
_OTHERWISE: Final = Colour("bt709")
# What SDL falls back to where there is no screen.
_UNSEEN: Final = frozenset({"offscreen", "dummy", "evdev"})
_MOST_OF_THE_SCREEN: Final = 0.9
_TEXT_PX: Final = 15
_HINTS: Final = {
    # Ctrl-C and SIGTERM are ours.
    "SDL_NO_SIGNAL_HANDLERS": "1",
    # Linear.
    "SDL_RENDER_SCALE_QUALITY": "1",
    "SDL_WINDOWS_DPI_AWARENESS": "permonitorv2",
    # Desktops switch their effects off for what they take for a game.
    "SDL_VIDEO_X11_NET_WM_BYPASS_COMPOSITOR": "0",
}


class View(NamedTuple):
    """What stands in one cell of the window."""

    planes: Planes | None
    """None: nothing yet."""
    label: str = ""
    pixel_aspect: float = 1.0


@dataclass(slots=True)
class _Texture:
    handle: Any
    size_px: tuple[int, int]
    colour: Colour
    holds: Planes | None = None


@dataclass(slots=True)
class _Plate:
    handle: Any
    size_px: tuple[int, int]


@dataclass(slots=True)
class _Kept:
    """What was uploaded to the renderer, by cell and by text."""

    pictures: dict[int, _Texture] = field(default_factory=dict)
    plates: dict[tuple[str, int], _Plate] = field(default_factory=dict)


class SdlScreen:
    """One window. Raises UsageError without PySDL2, SinkError without a display."""

    def __init__(self, title: str, wanted_px: tuple[float, float]) -> None:
        """wanted_px: (width, height) of the window; it is made smaller where the screen is."""
        self._sdl = _load()
        for name, value in _HINTS.items():
            self._sdl.SDL_SetHint(name.encode(), value.encode())
        if self._sdl.SDL_InitSubSystem(self._sdl.SDL_INIT_VIDEO) < 0:
            raise SinkError(f"--show needs a display: {self._reason()}; leave --show out here")
        self._window = self._renderer = None
        self._kept = _Kept()
        self._full = self._closed = self._lost = False
        self._wake_event = 0
        self._on_loss: Any = None
        try:
            self._refuse_blind()
            self._open(title, wanted_px)
            self._outlive_x()
        except BaseException:
            self.close()
            raise

    def _refuse_blind(self) -> None:
        driver = self._sdl.SDL_GetCurrentVideoDriver().decode()
        # Who names one, a test for instance, means it.
        if driver in _UNSEEN and os.environ.get("SDL_VIDEODRIVER") != driver:
            raise SinkError("--show needs a display, and there is none here; leave --show out")

    def _outlive_x(self) -> None:
        """Make the loss of an X server an error of ours: Xlib would end the whole process."""
        if self._sdl.SDL_GetCurrentVideoDriver() != b"x11":
            return
        from sdl2 import syswm

        try:
            xlib = ctypes.CDLL("libX11.so.6")
            set_exit_handler = xlib.XSetIOErrorExitHandler
        except (OSError, AttributeError):  # before Xlib 1.7
            return
        info = syswm.SDL_SysWMinfo()
        self._sdl.SDL_GetVersion(ctypes.byref(info.version))
        if not syswm.SDL_GetWindowWMInfo(self._window, ctypes.byref(info)):
            return
        on_error = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
        on_exit = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        # Kept, for Xlib holds no reference. Either ends the process where it is not replaced.
        self._on_loss = on_error(self._note_loss), on_exit(lambda _display, _data: None)
        xlib.XSetIOErrorHandler.argtypes = [on_error]
        xlib.XSetIOErrorHandler(self._on_loss[0])
        set_exit_handler.argtypes = [ctypes.c_void_p, on_exit, ctypes.c_void_p]
        display = ctypes.cast(info.info.x11.display, ctypes.c_void_p)
        set_exit_handler(display, self._on_loss[1], None)

    def _note_loss(self, _display: int | None) -> int:
        self._lost = True
        return 0

    def _heed_loss(self) -> None:
        if self._lost:
            raise SinkError("the display of --show went away")

    def _open(self, title: str, wanted_px: tuple[float, float]) -> None:
        sdl = self._sdl
        anywhere = sdl.SDL_WINDOWPOS_UNDEFINED
        how = sdl.SDL_WINDOW_RESIZABLE | sdl.SDL_WINDOW_ALLOW_HIGHDPI
        width, height = fitting(wanted_px, self._room_px())
        self._window = sdl.SDL_CreateWindow(title.encode(), anywhere, anywhere, width, height, how)
        if not self._window:
            raise SinkError(f"--show cannot open a window: {self._reason()}")
        self._renderer = sdl.SDL_CreateRenderer(
            self._window, -1, sdl.SDL_RENDERER_PRESENTVSYNC
        ) or sdl.SDL_CreateRenderer(self._window, -1, 0)
        if not self._renderer:
            raise SinkError(f"--show cannot draw in its window: {self._reason()}")
        sdl.SDL_StopTextInput()  # keys are commands: no input method shall wait for words
        self._wake_event = sdl.SDL_RegisterEvents(1)
        self._commands: dict[int, Command] = {
            sdl.SDLK_q: "stop",
            sdl.SDLK_ESCAPE: "stop",
            sdl.SDLK_SPACE: "pause",
            sdl.SDLK_s: "save",
            sdl.SDLK_f: "full_screen",
        }

    def _room_px(self) -> tuple[int, int]:
        bounds = self._sdl.SDL_Rect()
        if self._sdl.SDL_GetDisplayUsableBounds(0, ctypes.byref(bounds)) < 0:
            return 1280, 720
        return int(bounds.w * _MOST_OF_THE_SCREEN), int(bounds.h * _MOST_OF_THE_SCREEN)

    def _reason(self) -> str:
        return str(self._sdl.SDL_GetError().decode(errors="replace")) or "SDL does not say why"

    def _demand(self, result: int) -> None:
        if result < 0:
            raise SinkError(f"the window of --show failed: {self._reason()}")

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of what is drawn on; on a dense screen more than the window's."""
        width, height = ctypes.c_int(), ctypes.c_int()
        sizes = ctypes.byref(width), ctypes.byref(height)
        self._demand(self._sdl.SDL_GetRendererOutputSize(self._renderer, *sizes))
        return width.value, height.value

    @property
    def renderer(self) -> str:
        """What draws: opengl, metal, direct3d11, software and the like."""
        info = self._sdl.SDL_RendererInfo()
        self._demand(self._sdl.SDL_GetRendererInfo(self._renderer, ctypes.byref(info)))
        return str(info.name.decode())

    # -- events

    def wait(self, timeout_s: float) -> list[Command]:
        """Wait for keys, the system or ``wake``, up to ``timeout_s``; return what is asked for."""
        sdl, event = self._sdl, self._sdl.SDL_Event()
        found = sdl.SDL_WaitEventTimeout(ctypes.byref(event), round(1e3 * timeout_s))
        asked: list[Command] = []
        while found:
            asked += self._meaning(event)
            found = not self._lost and sdl.SDL_PollEvent(ctypes.byref(event))
        self._heed_loss()
        return asked

    def _meaning(self, event: Any) -> Iterator[Command]:
        sdl = self._sdl
        if event.type == sdl.SDL_QUIT:
            yield "stop"
        elif event.type == sdl.SDL_KEYDOWN and not event.key.repeat:
            command = self._commands.get(event.key.keysym.sym)
            if command is not None:
                yield command
        elif event.type == sdl.SDL_RENDER_DEVICE_RESET:
            self._kept = _Kept()  # the textures went with the device
            yield "redraw"
        elif event.type == sdl.SDL_WINDOWEVENT and event.window.event in (
            sdl.SDL_WINDOWEVENT_EXPOSED,
            sdl.SDL_WINDOWEVENT_SIZE_CHANGED,
        ):
            yield "redraw"

    def wake(self) -> None:
        """End a ``wait`` at once; for any thread, while the screen is open."""
        event = self._sdl.SDL_Event()
        event.type = self._wake_event
        self._sdl.SDL_PushEvent(ctypes.byref(event))

    # -- the window

    def set_title(self, title: str) -> None:
        """Set what the window's frame says."""
        self._sdl.SDL_SetWindowTitle(self._window, title.encode())

    def toggle_full_screen(self) -> None:
        """Fill the desktop, or go back to a window."""
        self._full = not self._full
        how = self._sdl.SDL_WINDOW_FULLSCREEN_DESKTOP if self._full else 0
        self._demand(self._sdl.SDL_SetWindowFullscreen(self._window, how))

    def hide(self) -> None:
        """Take the window off the screen."""
        self._sdl.SDL_HideWindow(self._window)

    def close(self) -> None:
        """Give everything back to the system, unless it went away; a second call does nothing."""
        if self._closed or self._lost:
            return
        self._closed = True
        if self._renderer:
            self._sdl.SDL_DestroyRenderer(self._renderer)  # its textures go with it
        if self._window:
            self._sdl.SDL_DestroyWindow(self._window)
        self._sdl.SDL_QuitSubSystem(self._sdl.SDL_INIT_VIDEO)

    # -- drawing

    def draw(self, views: Sequence[View], notice: str = "") -> None:
        """Show the views in a grid, each with its label, and ``notice`` in the upper right corner.

        A view whose planes are the object that was drawn last is not sent to the GPU again.
        Raises SinkError.
        """
        sdl, size_px = self._sdl, self.size_px
        sdl.SDL_SetRenderDrawColor(self._renderer, *DARK, 255)
        self._demand(sdl.SDL_RenderClear(self._renderer))
        for number, (cell, view) in enumerate(zip(cells(len(views), size_px), views, strict=True)):
            if view.planes is not None:
                place = letterboxed(cell, view.planes.size_px, view.pixel_aspect)
                self._draw_picture(number, view.planes, place)
            if view.label:
                self._draw_plate(view.label, cell, right=False)
        if notice:
            self._draw_plate(notice, (0, 0, *size_px), right=True)
        sdl.SDL_RenderPresent(self._renderer)
        self._heed_loss()

    def _draw_picture(self, number: int, planes: Planes, place: Rect) -> None:
        texture = self._texture(number, planes)
        if texture.holds is not planes:
            self._upload(texture, planes)
        self._set_mode(texture.colour)
        self._copy(texture.handle, place)
        # Some renderers ask for the mode only when they draw, and the next picture has its own.
        self._demand(self._sdl.SDL_RenderFlush(self._renderer))

    def _texture(self, number: int, planes: Planes) -> _Texture:
        colour = planes.colour if planes.colour in _MODES else _OTHERWISE
        texture = self._kept.pictures.get(number)
        if texture is not None:
            if (texture.size_px, texture.colour) == (planes.size_px, colour):
                return texture
            self._sdl.SDL_DestroyTexture(texture.handle)
        # Others fix the mode in the texture.
        self._set_mode(colour)
        handle = self._make_texture("SDL_PIXELFORMAT_IYUV", planes.size_px)
        self._kept.pictures[number] = texture = _Texture(handle, planes.size_px, colour)
        return texture

    def _make_texture(self, pixels: str, size_px: tuple[int, int]) -> Any:
        sdl = self._sdl
        handle = sdl.SDL_CreateTexture(
            self._renderer, getattr(sdl, pixels), sdl.SDL_TEXTUREACCESS_STREAMING, *size_px
        )
        if not handle:
            width, height = size_px
            raise SinkError(f"--show cannot show {width}x{height}: {self._reason()}")
        return handle

    def _upload(self, texture: _Texture, planes: Planes) -> None:
        known = planes
        if planes.colour != texture.colour:
            from streamface.pixels import recoloured

            known = recoloured(planes, texture.colour)
        self._set_mode(texture.colour)
        parts: list[object] = []
        for plane in (known.y, known.u, known.v):
            parts += [_memory(plane), plane.strides[0]]
        self._demand(self._sdl.SDL_UpdateYUVTexture(texture.handle, None, *parts))
        texture.holds = planes

    def _set_mode(self, colour: Colour) -> None:
        self._sdl.SDL_SetYUVConversionMode(_MODES[colour])

    def _copy(self, handle: Any, place: Rect) -> None:
        rect = self._sdl.SDL_Rect(*place)
        self._demand(self._sdl.SDL_RenderCopy(self._renderer, handle, None, ctypes.byref(rect)))

    def _draw_plate(self, text: str, cell: Rect, *, right: bool) -> None:
        text_px = self._text_px()
        key = (text, text_px)
        plate = self._kept.plates.get(key)
        if plate is None:
            plate = self._kept.plates[key] = self._make_plate(text, text_px)
        width, height = plate.size_px
        gap = text_px // 2
        left = cell[0] + cell[2] - gap - width if right else cell[0] + gap
        self._copy(plate.handle, (left, cell[1] + gap, width, height))

    def _text_px(self) -> int:
        """Return the size of text, larger by as much as the screen is denser."""
        points = ctypes.c_int()
        self._sdl.SDL_GetWindowSize(self._window, ctypes.byref(points), None)
        return max(_TEXT_PX, round(_TEXT_PX * self.size_px[0] / max(1, points.value)))

    def _make_plate(self, text: str, text_px: int) -> _Plate:
        sdl, image = self._sdl, _plate(text, text_px)
        size_px = image.shape[1], image.shape[0]
        handle = self._make_texture("SDL_PIXELFORMAT_BGRA32", size_px)
        self._demand(sdl.SDL_SetTextureBlendMode(handle, sdl.SDL_BLENDMODE_BLEND))
        self._demand(sdl.SDL_UpdateTexture(handle, None, _memory(image), image.strides[0]))
        return _Plate(handle, size_px)


def _load() -> Any:
    """Import PySDL2. Raises UsageError where it or SDL itself is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces which library it uses
            import sdl2
    except ImportError as exc:
        raise UsageError("--show needs PySDL2; run pip install 'streamface[gui]'") from exc
    return sdl2


def _memory(array: PlaneU8) -> Any:
    """Return a pointer that ctypes takes for Uint8* and void* alike; ``array`` must outlive it."""
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_ubyte))


def _plate(text: str, text_px: int) -> PlaneU8:
    """Return a word in white on a translucent plate, (H, W, 4) uint8 in the order B, G, R, A."""
    pad = round(0.4 * text_px)
    ink = np.pad(glyphs.mask(text, text_px), pad).astype(np.float32)[..., None] / 255
    dark, white = (np.array([*rgb[::-1]], np.float32) for rgb in (DARK, WHITE))
    opacity = PLATE_OPACITY + (1 - PLATE_OPACITY) * ink
    pixels = np.concatenate([dark + (white - dark) * ink, 255 * opacity], axis=2)
    plate: PlaneU8 = np.ascontiguousarray(np.rint(pixels), np.uint8)
    return plate
