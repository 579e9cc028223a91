"""The virtual camera: sizes, colours, pace and errors, on a stand-in that insists on its order."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from streamface.decode import StreamInfo
from streamface.errors import SinkError, UsageError
from streamface.frame import Colour, Frame, Planes
from streamface.vcam import VirtualCamera

BT601 = Colour("bt601")


class FakeCamera:
    """As pyvirtualcam.Camera: open, send frames of one size, close once, send nothing after."""

    opened: list[FakeCamera]
    failure: str | None = None

    def __init__(self, width, height, fps, *, fmt, device=None):
        if self.failure and not self.opened:
            raise RuntimeError(self.failure)
        self.width, self.height, self.fps, self.fmt = width, height, fps, fmt
        self.device = device or "/dev/video7"
        self.sent = []
        self.closed = 0
        self.broken = False
        self.opened.append(self)

    def send(self, frame):
        assert not self.closed
        assert frame.dtype == np.uint8
        assert frame.size == self.width * self.height * 3 // 2
        if self.broken:
            raise RuntimeError("the reader is gone")
        self.sent.append(frame.copy())

    def close(self):
        self.closed += 1


@pytest.fixture
def fake(monkeypatch):
    camera = type("Camera", (FakeCamera,), {"opened": []})
    module = SimpleNamespace(Camera=camera, PixelFormat=SimpleNamespace(I420="I420"))
    monkeypatch.setitem(sys.modules, "pyvirtualcam", module)
    return camera


def info(size_px=(64, 48), *, live=True):
    return StreamInfo("test", size_px, Fraction(30), Fraction(1, 30), is_live=live)


def plain(rgb, size_px=(64, 48), colour=BT601):
    return Planes.from_rgb(np.full((size_px[1], size_px[0], 3), rgb, np.uint8), colour)


def frame(planes, pts=0, stream=0):
    return Frame(stream, pts, pts, Fraction(1, 30), planes)


def unpacked(sent, size_px):
    """Return what a program that opens the camera sees."""
    width, height = size_px
    luma, chroma = width * height, width * height // 4
    return Planes(
        sent[:luma].reshape(height, width),
        sent[luma : luma + chroma].reshape(height // 2, width // 2),
        sent[luma + chroma :].reshape(height // 2, width // 2),
        BT601,
    )


def test_frames_go_out_as_they_are(fake):
    camera = VirtualCamera(info())
    planes = plain((200, 60, 40))
    camera.write(frame(planes))
    camera.close()
    (device,) = fake.opened
    assert (device.width, device.height, device.fps, device.fmt) == (64, 48, 30.0, "I420")
    whole = np.concatenate([part.ravel() for part in (planes.y, planes.u, planes.v)])
    assert np.array_equal(device.sent[0], whole)
    assert device.closed == 1


def test_other_matrices_are_carried_over(fake):
    camera = VirtualCamera(info())
    camera.write(frame(plain((200, 60, 40), colour=Colour("bt709"))))
    seen = unpacked(fake.opened[0].sent[0], (64, 48)).to_rgb().astype(int)
    assert np.abs(seen - (200, 60, 40)).max() <= 6


@pytest.mark.parametrize("size_px", [(65, 49), (65, 48), (64, 49)], ids=str)
def test_an_odd_last_column_or_row_is_left_out(fake, size_px):
    camera = VirtualCamera(info(size_px))
    camera.write(frame(plain((200, 60, 40), size_px)))
    device = fake.opened[0]
    assert (device.width, device.height) == (64, 48)
    assert np.abs(unpacked(device.sent[0], (64, 48)).to_rgb().astype(int) - (200, 60, 40)).max() < 4


def test_another_size_keeps_its_shape_between_black_bars(fake):
    camera = VirtualCamera(info())
    camera.write(frame(plain((200, 60, 40), (32, 48))))
    seen = unpacked(fake.opened[0].sent[0], (64, 48)).to_rgb().astype(int)
    assert np.abs(seen[:, 20:44] - (200, 60, 40)).max() <= 6
    assert seen[:, :14].max() <= 2
    assert seen[:, 50:].max() <= 2


def test_a_file_is_held_to_its_pace_and_does_not_rush_after_a_delay(fake):
    clock = [100.0]
    naps = []

    def sleep(seconds):
        naps.append(round(seconds, 4))
        clock[0] += seconds

    camera = VirtualCamera(info(live=False), now=lambda: clock[0], sleep=sleep)
    planes = plain((9, 9, 9))
    for pts in (30, 33):
        camera.write(frame(planes, pts))
    assert naps == [0.1]
    clock[0] += 5.0
    camera.write(frame(planes, 36))
    camera.write(frame(planes, 39))
    assert naps == [0.1, 0.1]
    camera.write(frame(planes, 0, stream=1))  # the next file begins at once
    camera.write(frame(planes, 6, stream=1))
    assert naps == [0.1, 0.1, 0.2]


def test_a_live_source_never_waits(fake):
    camera = VirtualCamera(info(), sleep=lambda _: pytest.fail("slept"))
    for pts in range(5):
        camera.write(frame(plain((9, 9, 9)), pts))
    assert len(fake.opened[0].sent) == 5


def test_a_named_device_is_asked_for(fake):
    assert VirtualCamera(info(), "/dev/video3").device == "/dev/video3"


def test_no_device_is_one_line_with_advice(fake):
    fake.failure = "'v4l2loopback' backend: no device\n'other' backend: none"
    with pytest.raises(SinkError, match=r"cannot open a virtual camera: .*modprobe") as error:
        VirtualCamera(info())
    assert "\n" not in str(error.value)
    with pytest.raises(SinkError, match="cannot open the virtual camera /dev/video3"):
        VirtualCamera(info(), "/dev/video3")


def test_a_camera_that_fails_later_is_named(fake):
    camera = VirtualCamera(info())
    fake.opened[0].broken = True
    with pytest.raises(SinkError, match=r"/dev/video7 failed: the reader is gone"):
        camera.write(frame(plain((9, 9, 9))))
    camera.abort()
    assert fake.opened[0].closed == 1


def test_a_source_too_small_is_refused(fake):
    with pytest.raises(UsageError, match="1x48"):
        VirtualCamera(info((1, 48)))
    assert not fake.opened


def test_without_pyvirtualcam_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(UsageError, match=r"streamface\[vcam\]"):
        VirtualCamera(info())


def test_the_real_package_says_that_there_is_no_device():
    pytest.importorskip("pyvirtualcam", reason="needs pyvirtualcam (the extra vcam)")
    if list(Path("/dev").glob("video*")):
        pytest.skip("this machine has video devices, which are not ours to open")
    with pytest.raises(SinkError, match="cannot open a virtual camera"):
        VirtualCamera(info())
