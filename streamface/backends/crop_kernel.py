"""The Triton kernel of ``device_crops``: all pixels of all faces of a batch in one launch.

Arithmetic and order are those of ``device_crops``' torch version; multiplications and additions are
not fused, so that they stay so. Runs in Triton's interpreter and compiles for NVIDIA GPUs from
compute capability 7.5 to 12.0; it has not run on one yet, so the block size is a guess.
"""

# Triton's types say nothing of its decorator, and it may not be installed.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import triton
import triton.language as tl

if TYPE_CHECKING:
    from streamface.backends.device_crops import Crops

_BLOCK: Final = 128
"""Pixels of one crop that one program makes."""


def crop_faces(ints: Crops, floats: Crops, gains: Crops, out: Crops) -> None:
    """Fill out (N, C, H, W), uint8 levels or normalised float32.

    ints: (N, 17) int64, a row a face: addresses of y, u, v; width and height of luma, of chroma;
    strides of a row and of a pixel in luma, in chroma; origin (x, y) in luma, in chroma; taps in
    luma, in chroma. floats: (N, 12 + 4 C): map (2, 3) to luma, to chroma; colours (C, 4). gains:
    (2, C). All are on the device of ``out``; see device_crops._Placing for what they mean.
    """
    count, channels, height, width = out.shape
    grid = (count, triton.cdiv(height * width, _BLOCK))
    _crop_faces[grid](
        ints,
        floats,
        gains,
        out,
        ints.shape[1],
        floats.shape[1],
        channels=channels,
        height=height,
        width=width,
        rounded=out.dtype.itemsize == 1,
        block=_BLOCK,
        enable_fp_fusion=False,
    )


@triton.jit
def _between(
    weights: tl.tensor, u: tl.tensor, v: tl.tensor, origin: tl.tensor, size: tl.tensor
) -> tl.tensor:
    """Return along one axis the pixels before and after samples, and their way between them."""
    at = tl.load(weights) * u + tl.load(weights + 1) * v + tl.load(weights + 2)
    at = tl.minimum(tl.maximum(at, (-origin).to(tl.float32)), (size - 1 - origin).to(tl.float32))
    before = tl.floor(at)
    pixel = before.to(tl.int64) + origin
    return pixel, tl.minimum(pixel + 1, size - 1), at - before


@triton.jit
def _sample(
    face_ints: tl.tensor, weights: tl.tensor, column: tl.tensor, row: tl.tensor, plane: tl.constexpr
) -> tl.tensor:
    """Return the mean of taps x taps bilinear samples of plane 0 (y), 1 (u) or 2 (v)."""
    kind: tl.constexpr = 0 if plane == 0 else 1
    pixels = tl.load(face_ints + plane).to(tl.pointer_type(tl.uint8))
    width, height = tl.load(face_ints + 3 + 2 * kind), tl.load(face_ints + 4 + 2 * kind)
    row_step, step = tl.load(face_ints + 7 + 2 * kind), tl.load(face_ints + 8 + 2 * kind)
    left, top = tl.load(face_ints + 11 + 2 * kind), tl.load(face_ints + 12 + 2 * kind)
    taps = tl.load(face_ints + 15 + kind).to(tl.int32)
    total = tl.full(column.shape, 0.0, tl.float32)
    for tap in range(taps * taps):
        u = column + ((tap % taps).to(tl.float32) + 0.5) / taps
        v = row + ((tap // taps).to(tl.float32) + 0.5) / taps
        x0, x1, fx = _between(weights + 6 * kind, u, v, left, width)
        y0, y1, fy = _between(weights + 6 * kind + 3, u, v, top, height)
        x0, x1, y0, y1 = x0 * step, x1 * step, y0 * row_step, y1 * row_step
        p00 = tl.load(pixels + y0 + x0).to(tl.float32)
        p01 = tl.load(pixels + y0 + x1).to(tl.float32)
        p10 = tl.load(pixels + y1 + x0).to(tl.float32)
        p11 = tl.load(pixels + y1 + x1).to(tl.float32)
        upper = p00 + fx * (p01 - p00)
        lower = p10 + fx * (p11 - p10)
        total += upper + fy * (lower - upper)
    return total / (taps * taps)


@triton.jit
def _crop_faces(  # noqa: PLR0917 - a kernel takes plain arguments
    ints: tl.tensor,
    floats: tl.tensor,
    gains: tl.tensor,
    out: tl.tensor,
    ints_a_face: tl.tensor,
    floats_a_face: tl.tensor,
    channels: tl.constexpr,
    height: tl.constexpr,
    width: tl.constexpr,
    rounded: tl.constexpr,
    block: tl.constexpr,
) -> None:
    face = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    column, row = (at % width).to(tl.float32), (at // width).to(tl.float32)
    ints += face * ints_a_face
    floats += face * floats_a_face
    y = _sample(ints, floats, column, row, plane=0)
    if channels == 3:
        u = _sample(ints, floats, column, row, plane=1)
        v = _sample(ints, floats, column, row, plane=2)
    for channel in tl.static_range(channels):
        colours = floats + 12 + 4 * channel
        level = tl.load(colours + 3) + tl.load(colours) * y
        if channels == 3:
            level += tl.load(colours + 1) * u + tl.load(colours + 2) * v
        level = tl.minimum(tl.maximum(level, 0.0), 255.0)
        target = out + (face * channels + channel) * (height * width) + at
        if rounded:
            tl.store(target, (level + 0.5).to(tl.int32).to(tl.uint8), mask=at < height * width)
        else:
            level = level * tl.load(gains + channel) + tl.load(gains + channels + channel)
            tl.store(target, level, mask=at < height * width)
