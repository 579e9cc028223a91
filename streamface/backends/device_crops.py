"""Aligned crops of many faces in one go, on the device where their frames lie.

``preprocess.crop_into`` on torch tensors: the same map from landmarks, the same number of samples,
the same colours and borders, in float32 all the way. Against it a level of 0..255 differs by less
than a half before it is rounded (of 1500 random placements the worst was 0.18 in grey and 0.38 in
RGB): what the fixed-point shares of its fast path are good to. On a GPU with triton all faces of a
call, of whatever frames, are one kernel (``crop_kernel``); elsewhere operations of torch do the
same for groups of like faces, and are what the kernel is held to.

Tested on the CPU, the kernel in Triton's interpreter; it has not run on a GPU yet.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import torch

from streamface.align import invert, similarity
from streamface.kernels.crop import taps_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from streamface.card import InputSpec
    from streamface.frame import Colour, DevicePlane, DevicePlanes, PointsF32

Crops: TypeAlias = torch.Tensor
"""(N, C, H, W), uint8 grey levels or normalised float32, on any device."""

_HAS_TRITON: Final = importlib.util.find_spec("triton") is not None
_KINDS: Final = 2
"""Maps and counts stand twice in every table: for luma, then for chroma."""


@dataclass(frozen=True, slots=True)
class _Views:
    """The planes of one picture as tensors over the memory they are in; no copy.

    y: (H, W) uint8. u, v: (ceil(H / 2), ceil(W / 2)) uint8 of equal strides.
    """

    y: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Placing:
    """Where and how each of N faces is sampled, worked out on the host.

    A position in a plane is ``maps @ (column, row, 1) + origins``: the whole pixels apart, so that
    float32 resolves a thousandth of a pixel wherever in a large frame the face is.
    """

    maps: NDArray[np.float32]
    """(N, 2, 2, 3): pixels of the crop, corner at (0, 0), to those of the plane, centre at (0, 0),
    less the origin."""
    origins: NDArray[np.int64]
    """(N, 2, 2): (x, y) of a pixel of the plane."""
    taps: NDArray[np.int64]
    """(N, 2): samples a side."""
    colours: NDArray[np.float32]
    """(N, C, 4): one channel's share of (Y, U, V, 1)."""


def crop_batch(
    planes: Sequence[DevicePlanes],
    landmarks_px: NDArray[np.float32],
    spec: InputSpec,
    out: Crops | None = None,
) -> Crops:
    """Cut and align N faces; the crops are on the device of the planes.

    planes: of each face the picture it is in, so faces of one frame name it again; all on one
    device. landmarks_px: (N, 5, 2) as in ``crop_into``. out: (N, C, H, W) contiguous, overwritten
    and returned: uint8 for grey levels, rounded, or float32 normalised as ``spec`` says; None: a
    new uint8 one. Work is queued on torch's current stream: hold the planes until it is done.

    Raises ValueError for wrong shapes, types or devices, and for landmarks that span nothing.
    """
    count = len(planes)
    if count == 0 or landmarks_px.shape != (count, 5, 2):
        raise ValueError(
            f"landmarks_px must be ({max(count, 1)}, 5, 2), a face for each of the planes, "
            f"not {landmarks_px.shape}"
        )
    views = {id(each): _views(each) for each in planes}
    of_face = [views[id(each)] for each in planes]
    out = _checked_out(out, (count, *spec.shape), of_face)
    placing = _place(planes, of_face, landmarks_px, spec)
    if out.device.type == "cuda" and _HAS_TRITON:
        crop_in_one_kernel(of_face, placing, spec, out)
    else:
        _crop_in_groups(of_face, placing, spec, out)
    return out


def _views(planes: DevicePlanes) -> _Views:
    y, *chroma = [_tensor(each) for each in planes.planes]
    if len(chroma) == 1 and chroma[0].ndim == 3 and chroma[0].shape[2] == 2:
        u, v = chroma[0].unbind(2)
    elif len(chroma) == 2:
        u, v = chroma
    else:
        raise ValueError(f"chroma must be (H/2, W/2, 2) or two planes, not {chroma[0].shape}")
    half = tuple((size + 1) // 2 for size in y.shape)
    if y.ndim != 2 or u.shape != half or v.shape != half:
        shapes = ", ".join(str(tuple(each.shape)) for each in (y, u, v))
        raise ValueError(f"planes must be 4:2:0, (H, W) and twice (H/2, W/2), not {shapes}")
    if {each.dtype for each in (y, u, v)} != {torch.uint8}:
        raise ValueError(f"planes must be uint8, not {y.dtype}, {u.dtype}, {v.dtype}")
    if y.stride(1) != 1 or u.stride() != v.stride():
        raise ValueError("rows of luma must be dense, and u and v must have equal strides")
    return _Views(y, u, v)


def _tensor(plane: DevicePlane) -> torch.Tensor:
    if isinstance(plane, torch.Tensor):
        return plane
    # By its capsule: PyAV refuses to be told torch's stream, as torch.from_dlpack(plane) would.
    # Whoever hands out a plane has seen to it that it is written (pixels.device_planes).
    tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(plane.__dlpack__())
    return tensor


def _checked_out(
    out: Crops | None, shape: tuple[int, ...], views: Sequence[_Views]
) -> torch.Tensor:
    device = views[0].y.device
    devices = {plane.device for view in views for plane in (view.y, view.u, view.v)}
    if len(devices) > 1:
        raise ValueError(f"planes must be on one device, not {', '.join(map(str, devices))}")
    if out is None:
        return torch.empty(shape, dtype=torch.uint8, device=device)
    fits = out.shape == shape and out.device == device and out.is_contiguous()
    if not fits or out.dtype not in {torch.uint8, torch.float32}:
        raise ValueError(
            f"out must be {shape} uint8 or float32, contiguous on {device}, "
            f"not {tuple(out.shape)} {out.dtype} on {out.device}"
        )
    return out


def _place(
    planes: Sequence[DevicePlanes],
    views: Sequence[_Views],
    landmarks_px: NDArray[np.float32],
    spec: InputSpec,
) -> _Placing:
    count = len(planes)
    maps = np.empty((count, _KINDS, 2, 3), np.float32)
    origins = np.empty((count, _KINDS, 2), np.int64)
    taps = np.empty((count, _KINDS), np.int64)
    for face, (view, points) in enumerate(zip(views, landmarks_px, strict=True)):
        to_luma = _to_frame(points, spec)
        scale = math.hypot(to_luma[0, 0], to_luma[1, 0])
        for kind, plane in enumerate((view.y, view.u)):
            to_plane = to_luma / (kind + 1)
            last = plane.shape[1] - 1, plane.shape[0] - 1
            # The crop's middle; beyond the plane its nearest pixel, for there all is border.
            middle = to_plane @ (spec.size_px[0] / 2, spec.size_px[1] / 2, 1.0)
            origins[face, kind] = np.clip(middle, 0, last)
            # Pixel centres lie at integer + 0.5.
            to_plane[:, 2] -= origins[face, kind] + 0.5
            maps[face, kind] = to_plane
            taps[face, kind] = taps_for(scale / (kind + 1))
    colours = np.stack([_colours(each.colour, spec) for each in planes])
    return _Placing(maps, origins, taps, colours)


def _to_frame(landmarks_px: PointsF32, spec: InputSpec) -> NDArray[np.float64]:
    return invert(similarity(landmarks_px, spec.landmarks_px))


def _colours(colour: Colour, spec: InputSpec) -> NDArray[np.float32]:
    """Return (C, 4): RGB of (Y, U, V, 1), or luma widened to 0..255."""
    to_rgb = colour.to_rgb()
    if spec.colour == "rgb":
        return to_rgb
    gain = float(to_rgb[0, 0])
    return np.array([[gain, 0, 0, 0 if colour.full_range else -16 * gain]], np.float32)


def _gains(spec: InputSpec) -> NDArray[np.float32]:
    """Return (2, C): factor and offset that normalise a level of 0..255."""
    std, mean = np.array(spec.std), np.array(spec.mean)
    return np.stack((1 / std, -mean / std)).astype(np.float32)


def _crop_in_groups(
    views: Sequence[_Views], placing: _Placing, spec: InputSpec, out: torch.Tensor
) -> None:
    """Do with torch what the kernel does, for faces of one picture and like size together."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for face, view in enumerate(views):
        groups.setdefault((id(view), *placing.taps[face].tolist()), []).append(face)
    device = out.device
    gains = torch.from_numpy(_gains(spec)).to(device)[..., None, None]
    for faces in groups.values():
        levels = _levels(views[faces[0]], placing, faces, spec)
        where = torch.tensor(faces, device=device)
        if out.dtype == torch.uint8:
            out[where] = (levels + 0.5).to(torch.uint8)  # a cast cuts off, and none is negative
        else:
            out[where] = levels * gains[0] + gains[1]


def _levels(view: _Views, placing: _Placing, faces: list[int], spec: InputSpec) -> torch.Tensor:
    """Return (n, C, H, W) float32 levels of 0..255 of some faces of one picture and like size."""
    device = view.y.device
    size = spec.shape[1:]
    maps, origins, colours = (
        torch.from_numpy(each[faces]).to(device)
        for each in (placing.maps, placing.origins, placing.colours)
    )
    luma_taps, chroma_taps = placing.taps[faces[0]].tolist()
    samples = [_sample(view.y, maps[:, 0], origins[:, 0], luma_taps, size)]
    if spec.colour == "rgb":
        samples += [
            _sample(plane, maps[:, 1], origins[:, 1], chroma_taps, size)
            for plane in (view.u, view.v)
        ]
    levels = colours[:, :, 3, None, None].expand(-1, -1, *size)
    for plane, each in enumerate(samples):
        levels = levels + colours[:, :, plane, None, None] * each[:, None]
    return levels.clamp(0, 255)


def _sample(
    plane: torch.Tensor,
    maps: torch.Tensor,
    origins: torch.Tensor,
    taps: int,
    size: tuple[int, int],
) -> torch.Tensor:
    """Return (n, h, w) means of taps x taps bilinear samples a pixel, borders replicated.

    plane: (H, W) uint8. maps: (n, 2, 3), origins: (n, 2), as in _Placing. size: (h, w).
    """
    row = torch.arange(size[0], device=plane.device, dtype=torch.float32)[:, None]
    column = torch.arange(size[1], device=plane.device, dtype=torch.float32)
    total = torch.zeros((len(maps), *size), device=plane.device)
    for tap in range(taps * taps):
        u, v = column + (tap % taps + 0.5) / taps, row + (tap // taps + 0.5) / taps
        x0, x1, fx = _between(maps[:, 0], u, v, origins[:, 0], plane.shape[1])
        y0, y1, fy = _between(maps[:, 1], u, v, origins[:, 1], plane.shape[0])
        p00, p01 = plane[y0, x0].float(), plane[y0, x1].float()
        p10, p11 = plane[y1, x0].float(), plane[y1, x1].float()
        top, bottom = p00 + fx * (p01 - p00), p10 + fx * (p11 - p10)
        total += top + fy * (bottom - top)
    return total / (taps * taps)


def _between(
    weights: torch.Tensor, u: torch.Tensor, v: torch.Tensor, origin: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return along one axis the pixels before and after a sample, and its way between them.

    weights: (n, 3). u: (w,), v: (h, 1). origin: (n,). Each result is (n, h, w).
    """
    a, b, c = weights[..., None, None].unbind(1)
    first = -origin[:, None, None]
    last = first + (size - 1)
    at = torch.minimum(torch.maximum(a * u + b * v + c, first.float()), last.float())
    before = at.floor()
    pixel = before.long()
    after = torch.minimum(pixel + 1, last)
    return pixel - first, after - first, at - before


def crop_in_one_kernel(
    views: Sequence[_Views], placing: _Placing, spec: InputSpec, out: torch.Tensor
) -> None:
    """Launch the Triton kernel over all faces; two small tables go up first."""
    from streamface.backends.crop_kernel import crop_faces

    ints = np.concatenate(
        (np.array([_layout(view) for view in views]), placing.origins.reshape(-1, 4), placing.taps),
        axis=1,
    )
    count = len(views)
    floats = np.concatenate(
        (placing.maps.reshape(count, -1), placing.colours.reshape(count, -1)), axis=1
    )
    tables = [torch.from_numpy(each).to(out.device) for each in (ints, floats, _gains(spec))]
    with torch.cuda.device(out.device):  # Triton launches on the current device
        crop_faces(tables[0], tables[1], tables[2], out)


def _layout(view: _Views) -> tuple[int, ...]:
    """Return what the kernel must know of the planes: addresses, sizes, strides."""
    (height, width), (half_height, half_width) = view.y.shape, view.u.shape
    addresses = view.y.data_ptr(), view.u.data_ptr(), view.v.data_ptr()
    strides = view.y.stride(0), 1, *view.u.stride()
    return *addresses, width, height, half_width, half_height, *strides
