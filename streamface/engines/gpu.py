"""Which NVIDIA GPUs the driver shows: asked of the driver itself, so that nothing else is needed.

``libcuda`` comes with the driver. The calls are those of the CUDA Driver API (initialisation,
device management), called through ctypes. It has not run on a GPU yet.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_DRIVER_FILE: Final = Path("/proc/driver/nvidia/version")
# CUdevice_attribute of the Driver API.
_MAJOR, _MINOR = 75, 76
_NAME_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU that CUDA can use."""

    index: int
    """Its number N in ``cuda:N``; CUDA_VISIBLE_DEVICES has its say."""
    name: str
    compute_capability: tuple[int, int]
    """(major, minor), such as (8, 9)."""
    memory_bytes: int
    driver: str
    """Release of the driver, "580.159"; where that cannot be read, what it speaks: "CUDA 13.0"."""


def gpus(driver: Any = None) -> tuple[Gpu, ...]:
    """Return the GPUs of this machine; empty without a GPU or without its driver.

    driver: what to call as the driver's library.
    """
    library = _library() if driver is None else driver
    if library is None or library.cuInit(0):
        return ()
    try:
        release = _release(library)
        count = _number(library.cuDeviceGetCount)
        return tuple(_gpu(library, index, release) for index in range(count))
    except _CallFailedError:
        return ()  # a driver that cannot name its GPUs cannot use them either


class _CallFailedError(Exception):
    """A call of the driver returned an error code."""


def _library() -> Any:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _gpu(library: Any, index: int, release: str) -> Gpu:
    device = _number(library.cuDeviceGet, index)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _checked(library.cuDeviceGetName(name, _NAME_BYTES, device))
    memory = ctypes.c_size_t()
    _checked(library.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    major, minor = (
        _number(library.cuDeviceGetAttribute, each, device) for each in (_MAJOR, _MINOR)
    )
    return Gpu(index, name.value.decode(errors="replace"), (major, minor), memory.value, release)


def _release(library: Any) -> str:
    try:
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", _DRIVER_FILE.read_text("utf-8"))
    except OSError:
        found = None
    if found is not None:
        return found.group()
    spoken = _number(library.cuDriverGetVersion)  # 1000 * major + 10 * minor
    return f"CUDA {spoken // 1000}.{spoken % 1000 // 10}"


def _number(call: Any, *arguments: int) -> int:
    """Return what a call writes through its first argument, an int."""
    value = ctypes.c_int()
    _checked(call(ctypes.byref(value), *arguments))
    return value.value


def _checked(code: int) -> None:
    if code:
        raise _CallFailedError(code)
