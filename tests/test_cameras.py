"""Cameras: listed, named, and asked for what was wanted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streamface.cameras import (
    Camera,
    CameraOptions,
    find_device,
    list_cameras,
    system_of,
    ways_to_open,
)
from streamface.errors import SourceError, UsageError
from streamface.sources import find_inputs

KNOWN = [Camera("video=Front Camera", "Front Camera"), Camera("video=USB Cam", "USB Cam")]


def node(sysfs, number, name, index=0):
    folder = sysfs / f"video{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "index").write_text(f"{index}\n")


def test_linux_lists_capture_nodes_in_order_of_their_number(tmp_path):
    node(tmp_path, 10, "Far")
    node(tmp_path, 2, "Near")
    node(tmp_path, 3, "Near", index=1)  # its metadata
    (tmp_path / "video9").mkdir()  # unplugged while we look
    found = list_cameras("linux", sysfs=tmp_path)
    assert found == [Camera("/dev/video2", "Near"), Camera("/dev/video10", "Far")]


@pytest.mark.parametrize(
    ("platform", "devices"), [("win32", ["video=Front", "video=@x"]), ("darwin", ["0", "1"])]
)
def test_other_systems_list_what_pyav_finds(platform, devices):
    def lister(format_name):
        assert format_name in {"dshow", "avfoundation"}
        return [
            SimpleNamespace(name="@dev1", description="Front", media_types=["video"]),
            SimpleNamespace(name="@mic", description="Microphone", media_types=["audio"]),
            SimpleNamespace(name="@x", description="", media_types=None),
        ]

    found = list_cameras(platform, enumerate_devices=lister)
    assert [camera.device for camera in found] == devices


def test_a_list_that_fails_is_empty():
    def lister(_):
        raise ValueError("no such format")

    assert list_cameras("win32", enumerate_devices=lister) == []


def test_numbers_names_and_paths_become_devices():
    assert find_device("0", "linux") == "/dev/video0"
    assert find_device("1", "darwin") == "1"
    assert find_device("1", "win32", cameras=KNOWN) == "video=USB Cam"
    assert find_device("7", "win32", cameras=KNOWN) == "video=7"
    assert find_device("/dev/video4", "linux") == "/dev/video4"
    assert find_device("camera:usb", "win32", cameras=KNOWN) == "video=USB Cam"


@pytest.mark.parametrize(
    ("name", "words"),
    [("camera:none", "no camera is called 'none' .*'Front Camera', 'USB Cam'"),
     ("camera:cam", "several cameras are called 'cam'")],
)  # fmt: skip
def test_a_name_that_is_none_or_several_is_refused(name, words):
    with pytest.raises(SourceError, match=words):
        find_device(name, "win32", cameras=KNOWN)


def test_a_camera_is_a_source():
    assert find_inputs("camera:USB Cam")[0].kind == "camera"


def test_what_is_asked_for_goes_to_every_way():
    options = CameraOptions.parse("640X480", 29.97)
    for platform in ("linux", "win32", "darwin"):
        for way in ways_to_open(platform, options):
            assert way["video_size"] == "640x480"
            assert way["framerate"] == "29.97"


def test_macos_is_asked_for_thirty_and_then_for_anything():
    ways = ways_to_open("darwin", CameraOptions())
    assert [way.get("framerate") for way in ways] == ["30", None]


@pytest.mark.parametrize("size", ["640", "640x", "x480", "0x480", "640x480x3", "wide"])
def test_wrong_sizes_are_refused(size):
    with pytest.raises(UsageError, match="--camera-size"):
        CameraOptions.parse(size, None)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), 2000.0])
def test_wrong_rates_are_refused(fps):
    with pytest.raises(UsageError, match="--camera-fps"):
        CameraOptions.parse(None, fps)


def test_other_systems_are_named():
    with pytest.raises(SourceError, match="sunos5"):
        system_of("sunos5")
