"""Sources: what a user may name, what comes out, what goes wrong."""

from __future__ import annotations

import itertools
import os
import struct
from fractions import Fraction

import av
import clips
import numpy as np
import pytest
from av.sidedata.sidedata import Type as SideDataType

from streamface.cameras import CameraOptions
from streamface.decode import ReadOptions
from streamface.errors import SourceError, UsageError
from streamface.sources import find_inputs, open_source, redacted

RATE_NTSC = Fraction(30_000, 1001)


def frames_of(path, **options):
    source = open_source(find_inputs(str(path))[0], ReadOptions(**options))
    try:
        return list(source), source
    finally:
        source.close()


def numbers(frames):
    return [clips.read_number(frame.planes) for frame in frames]


CASES = {
    "h264 29.97": {"name": "a.mp4", "rate": RATE_NTSC},
    "h264 in mkv": {"name": "a.mkv"},
    "vp9": {"name": "a.webm", "codec": "libvpx-vp9", "options": {"cpu-used": "8", "crf": "10",
            "b": "0", "deadline": "realtime"}},
    "hevc 10 bit": {"name": "a.mp4", "codec": "libx265", "pix_fmt": "yuv420p10le",
                    "options": {"x265-params": "log-level=none", "preset": "ultrafast"}},
    "4:4:4 odd size": {"name": "a.mp4", "pix_fmt": "yuv444p", "size_px": (161, 121)},
    "4:2:2": {"name": "a.mkv", "pix_fmt": "yuv422p"},
    "full range": {"name": "a.mp4", "pix_fmt": "yuvj420p"},
    "mjpeg avi": {"name": "a.avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg4 avi": {"name": "a.avi", "codec": "mpeg4"},
    "raw h264": {"name": "a.h264"},
    "lossless rgb": {"name": "a.mkv", "codec": "ffv1", "pix_fmt": "bgr0"},
    "grey": {"name": "a.mkv", "codec": "ffv1", "pix_fmt": "gray"},
    "animated gif": {"name": "a.gif", "codec": "gif", "pix_fmt": "rgb8"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_codec_gives_every_frame_in_order(tmp_path, case):
    """Count, order, size, growing times and a readable picture, for each codec and format."""
    options = dict(CASES[case])
    path = clips.write_clip(tmp_path / options.pop("name"), 12, **options)
    frames, source = frames_of(path)
    assert numbers(frames) == list(range(12))
    size_px = options.get("size_px", (160, 120))
    assert {frame.planes.size_px for frame in frames} == {size_px}
    assert source.info.size_px == size_px
    times = [frame.time_s for frame in frames]
    assert all(a < b for a, b in itertools.pairwise(times))
    assert source.damage.lines() == []
    grey = frames[3].planes.to_rgb()[60, 60]
    assert np.abs(grey.astype(int) - grey.mean()).max() <= 3, "a grey picture stays grey"
    assert grey.mean() == pytest.approx((110 - 16) * 255 / 219, abs=6)


def test_variable_frame_times_are_kept_exactly(tmp_path):
    """VFR times come through to the tick."""
    pts = [0, 40, 41, 100, 300, 301, 500]
    path = clips.write_clip(tmp_path / "v.mp4", 7, pts=pts, time_base=Fraction(1, 1000))
    frames, _ = frames_of(path)
    assert [round(frame.time_s * 1000) for frame in frames] == pts


@pytest.mark.parametrize(
    ("matrix", "size_px", "corner"),
    [
        ((1, 0, 0, 1), (160, 120), (0, 0)),
        ((0, 1, -1, 0), (120, 160), (0, -1)),
        ((-1, 0, 0, -1), (160, 120), (-1, -1)),
        ((0, -1, 1, 0), (120, 160), (-1, 0)),
        ((-1, 0, 0, 1), (160, 120), (0, -1)),
        ((1, 0, 0, -1), (160, 120), (-1, 0)),
        ((0, 1, 1, 0), (120, 160), (0, 0)),
    ],
    ids=["none", "90", "180", "270", "mirror", "flip", "transpose"],
)
def test_the_display_matrix_is_applied_once(tmp_path, matrix, size_px, corner):
    """A white square in the coded top left corner lands where a player shows it."""
    planes = clips.numbered(0)
    planes.y[:] = 60
    planes.y[:24, :24] = 235
    path = clips.write_clip(tmp_path / "r.mp4", [planes] * 3)
    clips.set_mp4_matrix(path, *matrix)
    frames, source = frames_of(path)
    assert source.info.size_px == size_px
    y = frames[0].planes.y
    row, column = (8 if side == 0 else -9 for side in corner)
    assert y[row, column] > 200
    assert (y > 200).mean() == pytest.approx(24 * 24 / (160 * 120), rel=0.2)


def test_start_end_stride_and_max_frames(tmp_path):
    """The range is half-open in time; the stride counts from its first frame."""
    path = clips.write_clip(tmp_path / "c.mp4", 60, rate=Fraction(30))
    assert numbers(frames_of(path, start_s=0.5)[0]) == list(range(15, 60))
    assert numbers(frames_of(path, end_s=0.5)[0]) == list(range(15))
    assert numbers(frames_of(path, start_s=1.0, end_s=1.5)[0]) == list(range(30, 45))
    assert numbers(frames_of(path, vid_stride=7)[0]) == list(range(0, 60, 7))
    assert numbers(frames_of(path, start_s=1.0, vid_stride=10)[0]) == [30, 40, 50]
    assert numbers(frames_of(path, max_frames=5)[0]) == list(range(5))
    frames, source = frames_of(path, start_s=1.0, vid_stride=2, max_frames=4)
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert source.info.frames == 4
    assert source.info.rate == 15


def test_seeking_works_in_a_long_clip_with_few_key_frames(tmp_path):
    """--start far behind the key frame before it begins at the very frame."""
    path = clips.write_clip(tmp_path / "c.mp4", 200, options={"g": "150", "bf": "3"})
    frames, _ = frames_of(path, start_s=140 / 30, max_frames=3)
    assert numbers(frames) == [140, 141, 142]
    assert frames[0].time_s == pytest.approx(140 / 30, abs=1e-4)


def test_audio_packets_ride_on_the_frames(tmp_path):
    """Every audio packet is handed on exactly once, with a frame or after the last one."""
    path = clips.write_clip(tmp_path / "s.mp4", 30, audio_codec="aac")
    frames, source = frames_of(path)
    carried = [bytes(p) for frame in frames for p in frame.packets]
    carried += [bytes(p) for p in source.tail_packets]
    assert carried == clips.audio_packets(path)


def test_sound_before_the_first_picture_is_kept_where_nothing_was_cut_off(tmp_path):
    """AAC begins with priming at a negative time; --max-frames does not drop it, --start does."""
    path = clips.write_clip(tmp_path / "s.mp4", 30, audio_codec="aac")
    first = clips.audio_packets(path)[0]
    assert bytes(frames_of(path, max_frames=20)[0][0].packets[0]) == first
    cut = [bytes(p) for frame in frames_of(path, start_s=0.5)[0] for p in frame.packets]
    assert first not in cut


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_still_images_are_sources(tmp_path, suffix):
    """One picture, one frame."""
    from PIL import Image

    path = tmp_path / f"p{suffix}"
    Image.fromarray(clips.numbered(5).to_rgb()).save(path)
    frames, source = frames_of(path)
    assert numbers(frames) == [5]
    assert source.info.is_image
    assert source.info.frames == 1


def test_transparent_pixels_lie_over_white(tmp_path):
    """An RGBA picture shows what a viewer on white would show."""
    from PIL import Image

    rgba = np.zeros((40, 60, 4), np.uint8)
    rgba[:20, :, 0], rgba[:20, :, 3] = 255, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    rgb = frames_of(tmp_path / "a.png")[0][0].planes.to_rgb().astype(int)
    assert np.abs(rgb[5, 30] - [255, 0, 0]).max() < 8
    assert rgb[35, 30].min() > 247


def test_exif_orientation_is_applied(tmp_path):
    """A phone's sideways JPEG stands upright."""
    from PIL import Image

    picture = np.full((40, 80, 3), 60, np.uint8)
    picture[:16, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "e.jpg", exif=exif, quality=95)
    frames, source = frames_of(tmp_path / "e.jpg")
    assert source.info.size_px == (40, 80)
    assert frames[0].planes.y[5, -6] > 200


def test_folders_and_globs_are_read_in_natural_order(tmp_path):
    """frame2 comes before frame10; what is no media is left out of a folder."""
    for name in ("frame10.png", "frame2.png", "b.mp4", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    names = [os.path.basename(each.location) for each in find_inputs(str(tmp_path))]
    assert names == ["b.mp4", "frame2.png", "frame10.png"]
    globbed = find_inputs(str(tmp_path / "frame*.png"))
    assert [os.path.basename(each.location) for each in globbed] == ["frame2.png", "frame10.png"]


def test_a_name_with_odd_characters_is_just_a_file(tmp_path):
    """Colons, percent signs, brackets and spaces do not make a file a URL or a pattern."""
    path = clips.write_clip(tmp_path / "a 10%d [x]: é.mp4", 3)
    assert len(frames_of(path)[0]) == 3


BAD = {
    "missing": ("does not exist", None),
    "empty": ("the file is empty", b""),
    "text": ("not a video or image", b"hello, this is no video\n" * 50),
    "zeros": ("cannot", bytes(5000)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_line(tmp_path, case):
    """The message names the file and the reason, and has no second line."""
    reason, content = BAD[case]
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=reason) as caught:
        frames_of(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_audio_alone_is_no_video(tmp_path):
    """A sound file says that it holds no video."""
    path = tmp_path / "sound.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=48_000, layout="mono")
        clips._write_tone(container, sound, Fraction(1))
    with pytest.raises(SourceError, match=r"holds no video \(only audio\)"):
        frames_of(path)


def test_a_text_file_is_not_ansi_art(tmp_path):
    """FFmpeg would 'decode' plain text as a picture of text."""
    path = tmp_path / "notes.txt"
    path.write_text("happy\n" * 100)
    with pytest.raises(SourceError):
        frames_of(path)


def test_a_truncated_file_gives_what_it_holds_and_says_so(tmp_path):
    """Cut in the middle: the frames before the cut, one counted warning, no error."""
    pictures = [clips.noisy(i) for i in range(60)]
    path = clips.write_clip(tmp_path / "t.mkv", pictures, options={"g": "10"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames, _ = frames_of(path)
    assert 10 <= len(frames) < 60
    assert numbers(frames)[:10] == list(range(10))


def test_a_truncated_mp4_counts_the_missing_frames(tmp_path):
    """With its index in front, a cut MP4 still says how many frames it should have."""
    pictures = [clips.noisy(i) for i in range(60)]
    path = clips.write_clip(tmp_path / "t.mp4", pictures, options={"g": "10"})
    with (
        av.open(str(path)) as source,
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "+faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    frames, source = frames_of(tmp_path / "cut.mp4")
    assert 5 < len(frames) < 60
    assert source.damage.lines(), "the loss is reported"


def test_bit_flips_are_survived_and_counted(tmp_path):
    """Damage in the middle costs frames or pixels, never the run."""
    pictures = [clips.noisy(i) for i in range(60)]
    path = clips.write_clip(tmp_path / "f.mp4", pictures, options={"g": "12"})
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(3)
    middle = data.find(b"mdat") + 4000
    for position in rng.integers(middle, len(data) - 6000, 200):
        data[position] ^= 0xFF
    path.write_bytes(data)
    frames, source = frames_of(path)
    assert len(frames) >= 12
    assert source.damage.undecodable_packets + source.damage.damaged_frames > 0
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))


def test_a_stream_that_changes_its_size_is_scaled(tmp_path):
    """Frames of another size are fitted to the first one's, and counted."""
    big = clips.write_clip(tmp_path / "big.h264", 5, size_px=(320, 240))
    small = clips.write_clip(tmp_path / "small.h264", 5, size_px=(160, 120))
    (tmp_path / "both.h264").write_bytes(big.read_bytes() + small.read_bytes())
    frames, source = frames_of(tmp_path / "both.h264")
    assert {frame.planes.size_px for frame in frames} == {(320, 240)}
    assert source.damage.rescaled_frames == 5


class FakeCamera:
    """Stands in for av.open: notes how it was called and hands out a real clip."""

    def __init__(self, path):
        self.path = path
        self.calls = []

    def __call__(self, location, **arguments):
        self.calls.append((location, arguments))
        return av.open(str(self.path))


@pytest.mark.parametrize(
    ("platform", "format_", "location"),
    [("linux", "v4l2", "/dev/video0"), ("darwin", "avfoundation", "0"),
     ("win32", "dshow", "video=0")],
)  # fmt: skip
def test_a_digit_opens_a_camera(tmp_path, platform, format_, location):
    """``--source 0`` opens the platform's camera input, is live, and gives frames."""
    fake = FakeCamera(clips.write_clip(tmp_path / "c.mp4", 4))
    source = open_source(find_inputs("0")[0], ReadOptions(), opener=fake, platform=platform)
    opened, arguments = fake.calls[0]
    assert (opened, arguments["format"]) == (location, format_)
    assert source.info.is_live
    assert source.info.frames is None
    assert len(list(source)) == 4
    source.close()


def test_mjpeg_is_asked_for_first_and_less_where_it_is_refused(tmp_path):
    clip = clips.write_clip(tmp_path / "c.mp4", 2)
    asked = []

    def opener(_location, **arguments):
        asked.append(arguments["options"])
        if "input_format" in arguments["options"]:
            raise OSError(22, "Invalid argument")
        return av.open(str(clip))

    camera = CameraOptions.parse("1280x720", 25)
    what = find_inputs("/dev/null")[0]
    open_source(what, ReadOptions(), opener=opener, platform="linux", camera=camera).close()
    wanted = {"video_size": "1280x720", "framerate": "25"}
    assert asked == [{**wanted, "input_format": "mjpeg"}, wanted]


def test_a_camera_in_use_is_asked_once(tmp_path):
    asked = []

    def opener(_location, **arguments):
        asked.append(arguments)
        raise OSError(16, "Device or resource busy")

    with pytest.raises(SourceError, match="busy; is a camera connected and free"):
        open_source(find_inputs("0")[0], ReadOptions(), opener=opener, platform="linux")
    assert len(asked) == 1


def test_no_camera_is_one_clear_line():
    """Without a camera the message says what to check."""

    def opener(*_args, **_kwargs):
        raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(SourceError, match="cannot open camera 0: .*is a camera connected"):
        open_source(find_inputs("0")[0], ReadOptions(), opener=opener, platform="linux")


def test_passwords_never_show():
    """User, password and secret query values are masked; the rest stays readable."""
    url = "rtsp://bob:s3cret@cam.example:554/live?token=abc&channel=2"
    assert redacted(url) == "rtsp://***@cam.example:554/live?token=***&channel=2"
    assert find_inputs(url)[0].name == redacted(url)

    def opener(*_args, **_kwargs):
        raise OSError(111, "Connection refused")

    with pytest.raises(SourceError) as caught:
        open_source(find_inputs(url)[0], ReadOptions(), opener=opener)
    assert "s3cret" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_rtsp_uses_tcp_and_time_outs(tmp_path):
    """UDP loses packets by default; a dead camera must not hang for ever."""
    fake = FakeCamera(clips.write_clip(tmp_path / "c.h264", 2))
    source = open_source(find_inputs("rtsp://cam/live")[0], ReadOptions(), opener=fake)
    arguments = fake.calls[0][1]
    assert arguments["options"]["rtsp_transport"] == "tcp"
    assert all(arguments["timeout"])
    assert source.info.is_live
    source.close()


def test_an_empty_source_is_wrong_usage():
    """Nothing to read is a usage error."""
    with pytest.raises(UsageError):
        find_inputs("  ")


def test_a_folder_without_media_says_so(tmp_path):
    """An empty folder is no silent success."""
    with pytest.raises(SourceError, match="no video or image"):
        find_inputs(str(tmp_path))


def test_matrix_helper_writes_what_ffmpeg_reads(tmp_path):
    """The fixture itself: FFmpeg sees the matrix that the helper wrote."""
    path = clips.write_clip(tmp_path / "m.mp4", 1)
    clips.set_mp4_matrix(path, 0, 1, -1, 0)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    side = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    assert struct.unpack("=9i", bytes(side)[:36])[:2] == (0, 1 << 16)
