"""The values that travel through the pipeline: pictures, faces and frames.

Boxes are half-open (x0, y0, x1, y1) and points are (x, y), both in pixels of the upright frame,
with pixel centres at integer + 0.5 (so a box over the whole frame is 0, 0, width, height).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fractions import Fraction

    import av

PlaneU8: TypeAlias = NDArray[np.uint8]
"""(H, W) uint8."""
ImageU8: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8; RGB unless a name says otherwise."""
BatchF32: TypeAlias = NDArray[np.float32]
"""(N, ...) float32, C-contiguous."""
PointsF32: TypeAlias = NDArray[np.float32]
"""(K, 2) float32, (x, y)."""
Box: TypeAlias = tuple[float, float, float, float]
"""(x0, y0, x1, y1), half-open."""
Packet: TypeAlias = "av.Packet[Any]"
"""A compressed audio or subtitle packet."""
CoveredBy: TypeAlias = Literal["detection", "tracking"]
ColourMatrix: TypeAlias = Literal["bt601", "bt709", "bt2020"]

EMOTIONS: Final = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The seven classes in the order of every probability vector (FER-2013's own order)."""
GENDERS: Final = ("male", "female")
UNCERTAIN: Final = "uncertain"
LANDMARKS: Final = ("right_eye", "left_eye", "nose", "right_mouth", "left_mouth")
"""YuNet's five points; right and left are the person's own, so right_eye is left in the image."""

# Kr, Kb of ITU-R BT.601-7, BT.709-6 and BT.2020-2 (non-constant luminance).
_LUMA_WEIGHTS: Final[dict[ColourMatrix, tuple[float, float]]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


@dataclass(frozen=True, slots=True)
class Colour:
    """How a frame's Y, Cb and Cr relate to R, G and B."""

    matrix: ColourMatrix = "bt709"
    full_range: bool = False

    def to_rgb(self) -> NDArray[np.float32]:
        """Return the (3, 4) float32 M with (R, G, B) = M @ (Y, U, V, 1), all on a 0..255 scale."""
        kr, kb = _LUMA_WEIGHTS[self.matrix]
        kg = 1.0 - kr - kb
        y_gain, y_zero, c_gain = (1.0, 0.0, 1.0) if self.full_range else (255 / 219, 16, 255 / 224)
        rows = (
            (0.0, 2 * (1 - kr)),
            (-2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg),
            (2 * (1 - kb), 0.0),
        )
        out = np.empty((3, 4), np.float32)
        for i, (u, v) in enumerate(rows):
            out[i] = y_gain, u * c_gain, v * c_gain, -y_gain * y_zero - 128 * c_gain * (u + v)
        return out

    def from_rgb(self, red: int, green: int, blue: int) -> tuple[int, int, int]:
        """Return (Y, U, V), 0..255 each, of one 8-bit RGB colour."""
        kr, kb = _LUMA_WEIGHTS[self.matrix]
        y = kr * red + (1 - kr - kb) * green + kb * blue
        u, v = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
        if self.full_range:
            values = (y, u + 128, v + 128)
        else:
            values = (16 + y * 219 / 255, 128 + u * 224 / 255, 128 + v * 224 / 255)
        clipped = [min(255, max(0, round(value))) for value in values]
        return clipped[0], clipped[1], clipped[2]


@dataclass(frozen=True, slots=True)
class Planes:
    """One picture as planar YUV 4:2:0, 8 bits a sample, C-contiguous and writable planes.

    y: (H, W) uint8. u, v: (ceil(H / 2), ceil(W / 2)) uint8, chroma sited between luma pixels
    (the half-pixel offset of MPEG-2 siting is ignored: it is below what a face crop resolves).
    """

    y: PlaneU8
    u: PlaneU8
    v: PlaneU8
    colour: Colour = field(default_factory=Colour)

    def __post_init__(self) -> None:
        if self.y.ndim != 2:
            raise ValueError(f"y must be (H, W), not {self.y.shape}")
        height, width = self.y.shape
        chroma = ((height + 1) // 2, (width + 1) // 2)
        if self.u.shape != chroma or self.v.shape != chroma:
            raise ValueError(
                f"u and v must be {chroma} for y {self.y.shape}, not {self.u.shape}, {self.v.shape}"
            )

    @classmethod
    def allocate(cls, size_px: tuple[int, int], colour: Colour) -> Planes:
        """Return uninitialised planes of (width, height), all three in one block of memory."""
        width, height = size_px
        if width < 1 or height < 1:
            raise ValueError(f"size_px must be positive, not {size_px}")
        half_w, half_h = (width + 1) // 2, (height + 1) // 2
        luma, chroma = width * height, half_w * half_h
        block = np.empty(luma + 2 * chroma, np.uint8)
        return cls(
            block[:luma].reshape(height, width),
            block[luma : luma + chroma].reshape(half_h, half_w),
            block[luma + chroma :].reshape(half_h, half_w),
            colour,
        )

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the picture."""
        return self.y.shape[1], self.y.shape[0]

    def packed(self) -> PlaneU8 | None:
        """Return the three planes as one (H * 3 / 2, W) view, or None where they are not one.

        They are for planes that ``allocate`` made, of even width and a height divisible by 4:
        PyAV takes other heights for the next lower such number.
        """
        width, height = self.size_px
        block = self.y.base
        whole = width * height * 3 // 2
        if not isinstance(block, np.ndarray) or block.shape != (whole,) or width % 2 or height % 4:
            return None
        if block is not self.u.base or block is not self.v.base:
            return None
        view: PlaneU8 = block.reshape(height * 3 // 2, width)
        return view

    def to_rgb(self) -> ImageU8:
        """Return the picture as a new (H, W, 3) RGB uint8 array; chroma is replicated 2 x 2.

        For looking at a frame or saving it: the pipeline itself never converts whole frames.
        """
        height, width = self.y.shape
        chroma = [np.repeat(np.repeat(p, 2, 0), 2, 1)[:height, :width] for p in (self.u, self.v)]
        yuv1 = np.stack([self.y, *chroma, np.ones_like(self.y)], axis=-1).astype(np.float32)
        rgb = yuv1 @ self.colour.to_rgb().T
        image: ImageU8 = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
        return image

    @classmethod
    def from_rgb(cls, image: ImageU8, colour: Colour | None = None) -> Planes:
        """Return new planes of an (H, W, 3) RGB uint8 array; chroma is the mean of 2 x 2 pixels.

        colour: BT.709 at limited range by default. Raises ValueError on any other shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        colour = colour or Colour()
        height, width = image.shape[:2]
        planes = cls.allocate((width, height), colour)
        forward = np.linalg.inv(np.vstack([colour.to_rgb(), [0, 0, 0, 1]]))[:3].astype(np.float32)
        y = image @ forward[0, :3] + forward[0, 3]
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        small = even.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, 3).mean(axis=(1, 3))
        planes.y[:] = np.clip(np.rint(y), 0, 255)
        planes.u[:] = np.clip(np.rint(small @ forward[1, :3] + forward[1, 3]), 0, 255)
        planes.v[:] = np.clip(np.rint(small @ forward[2, :3] + forward[2, 3]), 0, 255)
        return planes

    def __repr__(self) -> str:
        width, height = self.size_px
        return f"Planes({width}x{height} {self.colour})"


class DevicePlane(Protocol):
    """A uint8 array in the memory of a device, handed on by DLPack without a copy.

    PyAV's planes are such, and the tensors of torch.
    """

    def __dlpack__(self) -> object:
        """Return a DLPack capsule over the array's own memory."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's (kind, number) of the device."""


@dataclass(frozen=True, slots=True)
class DevicePlanes:
    """One upright picture as 8-bit YUV 4:2:0 in a GPU's memory; see ``Planes`` for what it holds.

    planes: (H, W) luma, then either (ceil(H / 2), ceil(W / 2), 2) pairs of U and V (NV12) or U
    and V by themselves. The memory is held as long as this is.
    """

    planes: tuple[DevicePlane, ...]
    colour: Colour = field(default_factory=Colour)

    def __post_init__(self) -> None:
        if len(self.planes) not in {2, 3}:
            raise ValueError(f"planes must be (y, uv) or (y, u, v), not {len(self.planes)} of them")


@dataclass(frozen=True, slots=True)
class Emotion:
    """What the emotion net says of one face, now and smoothed along its track."""

    label: str
    """One of EMOTIONS, or UNCERTAIN; follows ``smoothed``, with hysteresis."""
    probs: NDArray[np.float32]
    """(7,) raw probabilities in the order of EMOTIONS."""
    smoothed: NDArray[np.float32]
    """(7,) probabilities smoothed along the track."""


@dataclass(frozen=True, slots=True)
class Gender:
    """What the gender net says of one face, averaged along its track."""

    label: str
    """One of GENDERS."""
    prob: float
    """Probability of ``label``, 0.5..1."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one frame. Frozen: a stage that learns more returns a changed copy."""

    box_px: Box
    landmarks_px: PointsF32
    """(5, 2) float32 in the order of LANDMARKS."""
    score: float
    """The detector's confidence, 0..1, when it last saw this face."""
    track_id: int = -1
    """Stable along a track, unique in a run, from 1; -1 before tracking."""
    covered_by: CoveredBy = "detection"
    emotion: Emotion | None = None
    gender: Gender | None = None


@dataclass(slots=True)
class Frame:
    """One picture on its way through the pipeline.

    Whoever holds a frame owns its pixels; after it is handed on, the sender forgets it.
    """

    stream: int
    """Which input of this run it came from, from 0."""
    index: int
    """Number among the frames of its stream that are processed, from 0."""
    pts: int
    """Presentation time in units of ``time_base``."""
    time_base: Fraction
    planes: Planes
    duration: int = 0
    """How long it is shown, in units of ``time_base``; 0 where the source does not say."""
    captured_s: float = 0.0
    """Monotonic clock when it left the decoder."""
    faces: tuple[Face, ...] = ()
    packets: tuple[Packet, ...] = ()
    """Compressed audio and subtitle packets that were demuxed before this frame."""
    device: DevicePlanes | None = None
    """The picture as it was decoded, where a GPU decoded it; gone once the faces are classified."""
    held: bool = False
    """Whether it stands in for pictures that did not come: the last one again, or a card."""

    @property
    def time_s(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.time_base)
