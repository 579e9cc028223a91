"""Decoding on a GPU, as far as it can be held to account without one.

Real NVDEC frames are stood in for by NV12 frames of our own memory in a wrapper that shows what
PyAV 18's hardware frames show: format "cuda", a software format, a download by ``reformat``.
"""

from __future__ import annotations

import errno
import itertools

import av
import clips
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel

from streamface import decode, hwaccel
from streamface.decode import MediaSource, ReadOptions
from streamface.errors import SourceError
from streamface.frame import Colour, DevicePlanes
from streamface.pixels import UPRIGHT, Orientation, device_planes, to_planes
from streamface.sources import DEMO, Input, find_inputs, open_source


class GpuFrame:
    """What PyAV shows of a frame that the GPU holds, over one in our own memory."""

    def __init__(self, frame, sw_format="nv12"):
        self._held = frame.reformat(format=sw_format)
        self.format = av.VideoFormat("cuda", frame.width, frame.height)
        self.sw_format = self._held.format
        self.downloads = []

    def __getattr__(self, name):
        return getattr(self._held, name)

    def reformat(self, *arguments, **how):
        self.downloads.append((arguments, how))
        return self._held.reformat(*arguments, **how)


class RefusedPacket:
    """A key frame that no decoder takes."""

    is_keyframe = True
    is_discard = False
    size = 1

    def __init__(self, stream):
        self.stream = stream

    def decode(self):
        raise av.error.InvalidDataError(1, "refused")


def picture(size_px=(64, 48), *, full_range=False):
    frame = av.VideoFrame(*size_px, "nv12")
    rng = np.random.default_rng(0)
    for plane in frame.planes:
        memory = np.frombuffer(memoryview(plane), np.uint8)
        memory[:] = rng.integers(0, 256, memory.size)
    frame.colorspace, frame.color_range = 1, 2 if full_range else 1
    return frame


def assert_same(got, wanted):
    for one, other in zip((got.y, got.u, got.v), (wanted.y, wanted.u, wanted.v), strict=True):
        np.testing.assert_array_equal(one, other)
    assert got.colour == wanted.colour


@pytest.fixture
def decoded_on_a_gpu(monkeypatch):
    """Let decoders work as ever, and hand out their frames as if a GPU held them."""
    decoded = []
    really_decode = MediaSource._decode

    def on_the_gpu(self):
        for frame in really_decode(self):
            if self._options.hwaccel is None:
                yield frame
                continue
            decoded.append(GpuFrame(frame))
            yield decoded[-1]

    monkeypatch.setattr(MediaSource, "_decode", on_the_gpu)
    monkeypatch.setattr(decode, "check_stream", lambda video, name, hwaccel: None)
    monkeypatch.setattr(hwaccel, "accelerator", lambda name: None)
    return decoded


def test_a_gpu_is_named_by_its_number():
    assert hwaccel.parse_device("cuda") == 0
    assert hwaccel.parse_device("cuda:12") == 12
    for wrong in ("", "cuda:", "cuda:-1", "cuda0", "vaapi", "CUDA", "cuda:1 "):
        with pytest.raises(ValueError, match="hwaccel must be cuda or cuda:N, not "):
            ReadOptions(hwaccel=wrong)


def test_a_whole_source_is_whole_whatever_decodes_it():
    assert ReadOptions(hwaccel="cuda").whole
    assert not ReadOptions(hwaccel="cuda", max_frames=3).whole


def test_a_gpus_frame_is_downloaded_once_and_split_exactly():
    frame = picture(full_range=True)
    held = GpuFrame(frame)
    assert_same(to_planes(held), to_planes(frame))
    assert held.downloads == [((), {"format": "nv12"})]


@pytest.mark.parametrize("sw_format", ["p010le", "yuv444p"])
def test_what_is_not_nv12_goes_through_swscale_in_one_download(sw_format):
    frame = picture().reformat(format=sw_format)
    held = GpuFrame(frame, sw_format)
    assert_same(to_planes(held), to_planes(frame))
    assert len(held.downloads) == 1
    assert device_planes(held, UPRIGHT, (64, 48)) is None


def test_the_gpus_planes_are_those_of_the_frame_without_a_copy():
    frame = picture(full_range=True)
    device = device_planes(GpuFrame(frame), UPRIGHT, (64, 48))
    assert device.colour == Colour("bt709", full_range=True)
    assert [plane.buffer_ptr for plane in device.planes] == [p.buffer_ptr for p in frame.planes]


def test_planes_that_differ_from_the_hosts_are_not_offered():
    turned, mirrored = Orientation(transpose=True, flip_y=True), Orientation(flip_x=True)
    held = GpuFrame(picture())
    assert device_planes(held, turned, (64, 48)) is None
    assert device_planes(held, mirrored, (64, 48)) is None
    assert device_planes(held, UPRIGHT, (32, 24)) is None
    assert device_planes(picture(), UPRIGHT, (64, 48)) is None
    for odd in ((63, 48), (64, 47)):
        assert device_planes(GpuFrame(picture(odd)), UPRIGHT, odd) is None


def test_device_planes_are_two_or_three():
    with pytest.raises(ValueError, match="planes must be"):
        DevicePlanes(tuple(picture().planes)[:1])


def test_a_clip_decoded_on_a_gpu_has_both_kinds_of_planes(tmp_path, decoded_on_a_gpu):
    clip = clips.write_clip(tmp_path / "a.mp4", 6)
    wanted = list(open_source(find_inputs(str(clip))[0], ReadOptions()))
    assert [frame.device for frame in wanted] == [None] * 6
    options = ReadOptions(hwaccel="cuda", vid_stride=2)
    asked = []
    source = open_source(find_inputs(str(clip))[0], options, opener=_opener(asked))
    frames = list(source)
    source.close()
    assert "hwaccel" in asked[0]
    for frame, plain in zip(frames, wanted[::2], strict=True):
        assert_same(frame.planes, plain.planes)
        assert frame.device.colour == frame.planes.colour
        assert len(frame.device.planes) == 2
    # A frame that is skipped is not downloaded either.
    assert [len(each.downloads) for each in decoded_on_a_gpu] == [1, 0, 1, 0, 1, 0]


def test_a_turned_clip_has_the_hosts_planes_only(tmp_path, decoded_on_a_gpu):
    clip = clips.write_clip(tmp_path / "a.mp4", 2)
    clips.set_mp4_matrix(clip, 0, 1, -1, 0)
    source = open_source(find_inputs(str(clip))[0], ReadOptions(hwaccel="cuda"))
    (first, _) = list(source)
    source.close()
    assert first.planes.size_px == (120, 160)
    assert first.device is None


def _opener(asked):
    def opener(location, **how):
        asked.append(how)
        return av.open(location, **{**how, "hwaccel": None})

    return opener


def test_software_that_steps_in_is_refused(tmp_path, monkeypatch):
    """A stream without a GPU decoder, and frames that were not decoded on the GPU."""
    monkeypatch.setattr(hwaccel, "accelerator", lambda name: None)
    clip = find_inputs(str(clips.write_clip(tmp_path / "a.mp4", 2)))[0]
    with pytest.raises(SourceError, match=r"on cuda: its codec \(h264\) has no GPU decoder; leave"):
        open_source(clip, ReadOptions(hwaccel="cuda"))
    monkeypatch.setattr(decode, "check_stream", lambda video, name, hwaccel: None)
    with pytest.raises(SourceError, match="on cuda: it was decoded in software, as yuv420p; leave"):
        open_source(clip, ReadOptions(hwaccel="cuda"))


def test_a_codec_without_a_gpu_decoder_is_refused_by_name_of_the_file(tmp_path, monkeypatch):
    """PyAV itself refuses, with a RuntimeError and before it looks for a GPU."""
    accel = HWAccel("cuda", "0", allow_software_fallback=False, is_hw_owned=True)
    monkeypatch.setattr(hwaccel, "accelerator", lambda name: accel)
    clip = clips.write_clip(tmp_path / "a.mkv", 2, codec="ffv1")
    with pytest.raises(SourceError, match=r"a\.mkv on cuda:0: its codec has no GPU decoder; leave"):
        open_source(find_inputs(str(clip))[0], ReadOptions(hwaccel="cuda:0"))


def test_a_profile_that_the_gpu_refuses_ends_a_live_stream_too(tmp_path, monkeypatch):
    monkeypatch.setattr(hwaccel, "accelerator", lambda name: None)
    monkeypatch.setattr(decode, "check_stream", lambda video, name, hwaccel: None)
    monkeypatch.setattr(
        MediaSource, "_demux", lambda self: itertools.repeat(RefusedPacket(self._video))
    )
    clip = find_inputs(str(clips.write_clip(tmp_path / "a.mp4", 2)))[0]
    with pytest.raises(SourceError, match=r"on cuda: it holds no picture that .*; leave --hwaccel"):
        open_source(clip, ReadOptions(hwaccel="cuda"))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EPERM, "the NVIDIA driver cannot be loaded"),
        (errno.ENOTSUP, "another library took the GPU first; open the video before the model"),
        (errno.EINVAL, "Invalid argument"),
    ],
)
def test_a_gpu_that_is_not_there_is_named_instead_of_the_file(monkeypatch, code, reason):
    class Absent:
        def __init__(self, kind, device, *, allow_software_fallback, is_hw_owned):
            assert (kind, device) == ("cuda", "1")
            assert is_hw_owned
            assert not allow_software_fallback

        def create(self, codec):
            av.error.err_check(-code)

    monkeypatch.setattr("av.codec.hwaccel.HWAccel", Absent)
    with pytest.raises(SourceError, match=f"^cannot decode on cuda:1: {reason}; leave --hwaccel"):
        hwaccel.accelerator("cuda:1")


def test_an_old_pyav_is_told_so(monkeypatch):
    class OldFrame:
        pass

    monkeypatch.setattr(av, "VideoFrame", OldFrame)
    with pytest.raises(SourceError, match="is older than 18"):
        hwaccel.accelerator("cuda")


def test_the_demo_is_not_decoded():
    with pytest.raises(SourceError, match="demo is not decoded"):
        open_source(Input("demo", DEMO, DEMO), ReadOptions(hwaccel="cuda"))
