"""Decoded FFmpeg frames to upright planar YUV 4:2:0, and back for the encoder.

The only module that knows FFmpeg's pixel formats, colour tags and display matrix.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType

from streamface.frame import Colour, DevicePlanes, Planes

if TYPE_CHECKING:
    from av.video.plane import VideoPlane

    from streamface.frame import ColourMatrix, ImageU8, PlaneU8

# AVColorSpace (ITU-T H.273 matrix coefficients), AVColorRange and swscale's own numbers.
_BT709, _UNSPECIFIED, _FCC, _BT470BG, _SMPTE170M, _SMPTE240M, _BT2020_NCL, _BT2020_CL = (
    1, 2, 4, 5, 6, 7, 9, 10,
)  # fmt: skip
_LIMITED, _FULL = 1, 2
_SWS: Final[dict[ColourMatrix, int]] = {"bt709": 1, "bt601": 5, "bt2020": 9}
_HD_LINES = 720
_COPIED_AS_THEY_ARE = frozenset({"yuv420p", "yuvj420p"})
_NV12: Final = "nv12"
_CUDA: Final = "cuda"  # FFmpeg's pixel format of what lies in the memory of an NVIDIA GPU


@dataclass(frozen=True, slots=True)
class ColourTags:
    """FFmpeg's colour tags, carried unchanged from the decoder to the encoder."""

    space: int = _UNSPECIFIED
    range: int = 0
    primaries: int = 2
    transfer: int = 2


@dataclass(frozen=True, slots=True)
class Orientation:
    """How the coded picture must be turned to stand upright: transpose first, then flip."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def size_px(self, width: int, height: int) -> tuple[int, int]:
        """Return the upright (width, height) of a coded size."""
        return (height, width) if self.transpose else (width, height)


UPRIGHT: Final = Orientation()
# By quarter turns counter-clockwise.
_ROTATIONS: Final = {
    1: Orientation(transpose=True, flip_y=True),
    2: Orientation(flip_x=True, flip_y=True),
    3: Orientation(transpose=True, flip_x=True),
}


def orientation(frame: av.VideoFrame) -> Orientation:
    """Read the display matrix of a frame (ISO/IEC 14496-12, 8.5.2; EXIF arrives here too).

    Right angles and mirrors are honoured; any other angle is rounded to the nearest of them.
    """
    try:
        side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:
        # PyAV 18.1 cannot list side data when one kind (EXIF) is newer than its own list.
        return _ROTATIONS.get(round(frame.rotation / 90) % 4, UPRIGHT)
    if side_data is None:
        return UPRIGHT
    # x' = a x + c y and y' = b x + d y; 16.16 fixed point, rows of three.
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(side_data)[:36])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, flip_x=c < 0, flip_y=b < 0)
    return Orientation(flip_x=a < 0, flip_y=d < 0)


def colour_of(frame: av.VideoFrame) -> Colour:
    """Return matrix and range of a YUV frame.

    Untagged video is taken as BT.709 from 720 lines on and as BT.601 below, as players do.
    """
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    space = int(frame.colorspace)
    matrix: ColourMatrix
    if space == _BT709:
        matrix = "bt709"
    elif space in (_BT2020_NCL, _BT2020_CL):
        matrix = "bt2020"
    elif space in (_FCC, _BT470BG, _SMPTE170M, _SMPTE240M):
        matrix = "bt601"
    else:
        matrix = "bt709" if min(frame.width, frame.height) >= _HD_LINES else "bt601"
    return Colour(matrix, full)


def tags_of(frame: av.VideoFrame) -> ColourTags:
    """Return the tags the encoder shall write; RGB sources become tagged BT.709 or BT.601."""
    colour = _target_colour(frame)
    if not _is_rgb(frame):
        full = colour.full_range
        return ColourTags(
            int(frame.colorspace) if int(frame.colorspace) not in (0, 3) else _UNSPECIFIED,
            _FULL if full else int(frame.color_range),
            int(frame.color_primaries),
            int(frame.color_trc),
        )
    return ColourTags(_BT709 if colour.matrix == "bt709" else _SMPTE170M, _LIMITED)


def _is_rgb(frame: av.VideoFrame) -> bool:
    return frame.format.is_rgb or frame.format.has_palette or frame.format.name.startswith("gray")


def _target_colour(frame: av.VideoFrame) -> Colour:
    if _is_rgb(frame):
        return Colour("bt709" if min(frame.width, frame.height) >= _HD_LINES else "bt601")
    return colour_of(frame)


def to_planes(frame: av.VideoFrame, turn: Orientation = UPRIGHT) -> Planes:
    """Return an upright 8-bit 4:2:0 copy of a decoded frame, ours to draw on.

    Transparent pixels are laid over white. The copy is needed even where the format fits: the
    decoder goes on predicting from its own frames. A frame in the memory of a GPU is downloaded
    once, as NV12 where that is what it holds; the split of the chroma is then the one copy.
    """
    colour = _target_colour(frame)
    if _holds_nv12(frame):
        frame = frame.reformat(format=_NV12)  # does nothing to a frame in our own memory
    if any(component.is_alpha for component in frame.format.components):
        frame = _over_white(frame)
    width, height = frame.width, frame.height
    planes = Planes.allocate(turn.size_px(width, height), colour)
    if frame.format.name == _NV12:
        _split_into(frame, turn, planes)
        return planes
    if frame.format.name not in _COPIED_AS_THEY_ARE:
        frame = _reformat(frame, width, height, colour)
    for source, target in zip(frame.planes, (planes.y, planes.u, planes.v), strict=True):
        _turn_into(_stored(source)[:, : source.width], turn, target)
    return planes


def is_on_gpu(frame: av.VideoFrame) -> bool:
    """Whether the pixels of a decoded frame lie in the memory of an NVIDIA GPU."""
    return frame.format.name == _CUDA


def _holds_nv12(frame: av.VideoFrame) -> bool:
    sw_format = frame.sw_format if is_on_gpu(frame) else None
    return sw_format is not None and sw_format.name == _NV12


def device_planes(
    frame: av.VideoFrame, turn: Orientation, size_px: tuple[int, int]
) -> DevicePlanes | None:
    """Return a GPU's frame as it lies there, or None where ``to_planes`` would give another.

    size_px: (width, height) of the source's first picture. None is returned for a turned or
    mirrored picture, for a change of size, for more than 8 bits, and for odd sizes, of which
    PyAV's DLPack leaves out the last chroma; faces are then cut from the host's planes. Call it
    after ``to_planes``: that waits until the GPU has written the frame.
    """
    changed = (frame.width, frame.height) != size_px
    odd = frame.width % 2 or frame.height % 2
    if not _holds_nv12(frame) or turn != UPRIGHT or changed or odd:
        return None
    return DevicePlanes(tuple(frame.planes), colour_of(frame))


def _reformat(frame: av.VideoFrame, width: int, height: int, colour: Colour) -> av.VideoFrame:
    rgb = _is_rgb(frame)
    range_ = _FULL if colour.full_range else _LIMITED
    matrix = _SWS[colour.matrix]
    return frame.reformat(
        width,
        height,
        "yuv420p",
        src_colorspace=None if rgb else matrix,
        dst_colorspace=matrix,
        src_color_range=_FULL if rgb else range_,
        dst_color_range=range_,
        threads=1,
    )


def _split_into(frame: av.VideoFrame, turn: Orientation, planes: Planes) -> None:
    """Copy an NV12 frame, whose chroma lies as pairs of U and V, into planes of its size."""
    import cv2

    luma, chroma = frame.planes
    _turn_into(_stored(luma)[:, : luma.width], turn, planes.y)
    pairs = _stored(chroma).reshape(chroma.height, -1, 2)[:, : chroma.width]
    if turn == UPRIGHT:
        cv2.split(pairs, [planes.u, planes.v])
        return
    for source, target in zip(cv2.split(pairs), (planes.u, planes.v), strict=True):
        _turn_into(np.asarray(source, np.uint8), turn, target)


def fitted(
    planes: Planes, size_px: tuple[int, int], colour: Colour, stretch: Fraction = Fraction(1)
) -> Planes:
    """Return the picture as large as fits into ``size_px``, centred over black, in ``colour``.

    stretch: how much wider its pixels are than those of the result. Nothing is distorted; planes
    that fit already come back as they are.
    """
    if planes.size_px == size_px and planes.colour == colour and stretch == 1:
        return planes
    (width, height), (full_w, full_h) = planes.size_px, size_px
    scale = min(full_w / (width * stretch), Fraction(full_h, height))
    inner_w = min(full_w, max(1, round(width * stretch * scale)))
    inner_h = min(full_h, max(1, round(height * scale)))
    picture = _converted(planes, (inner_w, inner_h), colour)
    result = Planes.allocate(size_px, colour)
    # An even corner, so that chroma falls on luma as it did.
    left, top = (full_w - inner_w) // 4 * 2, (full_h - inner_h) // 4 * 2
    targets = zip((result.y, result.u, result.v), colour.from_rgb(0, 0, 0), (1, 2, 2), strict=True)
    for plane, (target, black, step) in zip(picture.planes, targets, strict=True):
        target[:] = black
        corner = target[top // step :, left // step :][: plane.height, : plane.width]
        corner[:] = _stored(plane)[: corner.shape[0], : corner.shape[1]]
    return result


def _converted(planes: Planes, size_px: tuple[int, int], colour: Colour) -> av.VideoFrame:
    """Return planes as a yuv420p frame of another (width, height), matrix and range."""
    return to_av(planes, even=False).reformat(
        *size_px,
        "yuv420p",
        src_colorspace=_SWS[planes.colour.matrix],
        dst_colorspace=_SWS[colour.matrix],
        src_color_range=_FULL if planes.colour.full_range else _LIMITED,
        dst_color_range=_FULL if colour.full_range else _LIMITED,
        threads=1,
    )


def _over_white(frame: av.VideoFrame) -> av.VideoFrame:
    rgba = frame.to_ndarray(format="rgba").astype(np.uint16)
    alpha = rgba[..., 3:]
    rgb = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb, np.uint8), format="rgb24")


def _stored(plane: VideoPlane) -> PlaneU8:
    """Return (height, line_size): the plane's own memory, padding included."""
    memory: PlaneU8 = np.frombuffer(memoryview(plane), np.uint8)
    return memory.reshape(plane.height, plane.line_size)


def _turn_into(source: PlaneU8, turn: Orientation, target: PlaneU8) -> None:
    if turn == UPRIGHT:
        target[:] = source
        return
    import cv2

    if turn.transpose:
        source = np.asarray(cv2.transpose(np.ascontiguousarray(source)), np.uint8)
    if turn.flip_x or turn.flip_y:
        axes = -1 if turn.flip_x and turn.flip_y else int(turn.flip_x)
        source = np.asarray(cv2.flip(source, axes), np.uint8)
    target[:] = source


def shrunk_bgr(planes: Planes, size_px: tuple[int, int]) -> ImageU8:
    """Return the picture as a new (H, W, 3) BGR uint8 array of another (width, height).

    For looking at: swscale shrinks by area and converts in one pass.
    """
    matrix = _SWS[planes.colour.matrix]
    picture = to_av(planes, even=False).reformat(
        *size_px,
        "bgr24",
        src_colorspace=matrix,
        src_color_range=_FULL if planes.colour.full_range else _LIMITED,
        dst_color_range=_FULL,
        interpolation="AREA",
        threads=1,
    )
    return np.asarray(picture.to_ndarray(), np.uint8)


def to_av(planes: Planes, *, even: bool) -> av.VideoFrame:
    """Return an FFmpeg yuv420p frame over the same memory where that is possible, else a copy.

    even: pad odd sizes to even ones by repeating the last column or row, for encoders that take
    4:2:0 in even sizes only.
    """
    packed = planes.packed()
    if packed is not None:
        return av.VideoFrame.from_numpy_buffer(packed, format="yuv420p")
    width, height = planes.size_px
    frame = av.VideoFrame(
        width + width % 2 if even else width, height + height % 2 if even else height, "yuv420p"
    )
    for source, plane in zip((planes.y, planes.u, planes.v), frame.planes, strict=True):
        stored = _stored(plane)
        rows, columns = source.shape
        stored[:rows, :columns] = source
        stored[:rows, columns : plane.width] = source[:, -1:]
        stored[rows:, : plane.width] = stored[rows - 1, : plane.width]
    return frame


def recoloured(planes: Planes, colour: Colour, size_px: tuple[int, int] | None = None) -> Planes:
    """Return the same picture under another matrix or range, scaled to ``size_px``; always a copy.

    For outputs that know only some ways to read Y, U and V.
    """
    width, height = size_px or planes.size_px
    frame = _converted(planes, (width, height), colour)
    copy = Planes.allocate((width, height), colour)
    for source, target in zip(frame.planes, (copy.y, copy.u, copy.v), strict=True):
        target[:] = _stored(source)[:, : source.width]
    return copy
