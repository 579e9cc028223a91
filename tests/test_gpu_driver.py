"""What the driver tells of its GPUs; the driver is a fake that keeps to the Driver API's shapes."""

from __future__ import annotations

import ctypes

import pytest

from streamface.engines import gpu as gpus_module
from streamface.engines.gpu import Gpu, gpus


class Driver:
    """Two cards; any call may be made to fail."""

    def __init__(self, failing=None):
        self.failing = failing
        self.started = False

    def _done(self, name):
        assert self.started or name == "cuInit"
        return 999 if self.failing == name else 0

    def cuInit(self, flags):  # noqa: N802 - CUDA's names
        assert flags == 0
        self.started = True
        return self._done("cuInit")

    def cuDeviceGetCount(self, to):  # noqa: N802
        to._obj.value = 2
        return self._done("cuDeviceGetCount")

    def cuDeviceGet(self, to, index):  # noqa: N802
        to._obj.value = 40 + index
        return self._done("cuDeviceGet")

    def cuDeviceGetName(self, buffer, size, device):  # noqa: N802
        buffer.value = {40: b"NVIDIA L4", 41: b"NVIDIA H100"}[device]
        assert len(buffer.value) < size
        return self._done("cuDeviceGetName")

    def cuDeviceTotalMem_v2(self, to, device):  # noqa: N802
        assert isinstance(to._obj, ctypes.c_size_t)
        to._obj.value = (device - 16) << 30
        return self._done("cuDeviceTotalMem_v2")

    def cuDeviceGetAttribute(self, to, attribute, device):  # noqa: N802
        to._obj.value = {(75, 40): 8, (76, 40): 9, (75, 41): 9, (76, 41): 0}[attribute, device]
        return self._done("cuDeviceGetAttribute")

    def cuDriverGetVersion(self, to):  # noqa: N802
        to._obj.value = 13010
        return self._done("cuDriverGetVersion")


OPEN_MODULE = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (a@b)\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
)
CLOSED_MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159  Mon Jan  5 06:41:27 UTC\n"


@pytest.mark.parametrize(
    ("text", "release"), [(OPEN_MODULE, "580.82.07"), (CLOSED_MODULE, "580.159")]
)
def test_every_card_is_told_with_its_capability_and_the_drivers_release(
    text, release, tmp_path, monkeypatch
):
    told = tmp_path / "version"
    told.write_text(text)
    monkeypatch.setattr(gpus_module, "_DRIVER_FILE", told)
    assert gpus(Driver()) == (
        Gpu(0, "NVIDIA L4", (8, 9), 24 << 30, release),
        Gpu(1, "NVIDIA H100", (9, 0), 25 << 30, release),
    )


def test_without_a_release_the_cuda_it_speaks_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus_module, "_DRIVER_FILE", tmp_path / "none")
    assert {gpu.driver for gpu in gpus(Driver())} == {"CUDA 13.1"}


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGetCount", "cuDeviceGetName"])
def test_a_driver_that_does_not_work_has_no_gpus(failing):
    assert gpus(Driver(failing)) == ()


def test_no_driver_has_no_gpus(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(gpus_module.ctypes, "CDLL", missing)
    assert gpus() == ()
