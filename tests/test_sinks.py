"""Video and image files: what is kept of the source, and that a file is whole or absent."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import clips
import numpy as np
import pytest

from streamface.decode import ReadOptions
from streamface.encode import VideoOptions
from streamface.errors import SinkError, UsageError
from streamface.sinks import open_sink, plan_outputs
from streamface.sources import find_inputs, open_source

NTSC = Fraction(30_000, 1001)
FAST = {"preset": "ultrafast"}
SRT = "1\n00:00:00,100 --> 00:00:00,400\nhello\n\n2\n00:00:00,500 --> 00:00:00,900\nworld\n"


def copy(source_path, target, *, read=None, **options):
    """Send a source through a sink, untouched; return the sink."""
    if target.suffix in (".mp4", ".mkv", ".mov", ".ts"):
        options = FAST | options
    source = open_source(find_inputs(str(source_path))[0], ReadOptions(**(read or {})))
    try:
        sink = open_sink(target, source.info, VideoOptions(**options))
        try:
            for frame in source:
                sink.write(frame)
            sink.close(source.tail_packets)
        finally:
            sink.abort()
    finally:
        source.close()
    return sink


def pictures_of(path):
    """Return (number, time in seconds) of every frame of a file."""
    source = open_source(find_inputs(str(path))[0], ReadOptions())
    try:
        return [(clips.read_number(f.planes), Fraction(f.pts) * f.time_base) for f in source]
    finally:
        source.close()


def times_of(path):
    return [time for _, time in pictures_of(path)]


def make(path, count=12, *, prepare=None, sound_at=None, srt=None, sound="aac", bframes="0"):
    """Write a numbered clip in which ``prepare(container, context)`` sets what a test is about.

    sound_at: seconds at which a tone begins; srt: a file whose lines become a subtitle stream.
    """
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "bf": bframes}
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        if prepare is not None:
            prepare(container, stream.codec_context)
        tone = (
            container.add_stream(sound, rate=48_000, layout="mono")
            if sound_at is not None
            else None
        )
        lines = av.open(str(srt)) if srt is not None else None
        text = container.add_stream_from_template(lines.streams[0]) if lines else None
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(clips.numbered(number).to_rgb(), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
        if tone is not None:
            _tone(container, tone, sound_at, Fraction(count, 30))
        if lines is not None:
            for packet in lines.demux():
                if packet.dts is not None:
                    packet.stream = text
                    container.mux(packet)
            lines.close()
    return path


def _tone(container, stream, start_s, seconds):
    size = stream.codec_context.frame_size or 1024
    planar = stream.codec_context.format.name
    for at in range(0, int(seconds * 48_000), size):
        wave = np.sin(np.arange(at, at + size) / 20).astype(np.float32) * 0.2
        samples = wave if planar.startswith("flt") else (wave * 32767).astype("i2")
        frame = av.AudioFrame.from_ndarray(samples[None], format=planar, layout="mono")
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        frame.pts = at + int(start_s * 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def first_times(path):
    """Return the first presentation time of video and of audio, in seconds."""
    with av.open(str(path)) as container:
        firsts = {}
        for packet in container.demux():
            if packet.pts is not None and packet.size:
                time = packet.pts * packet.time_base
                kind = packet.stream.type
                firsts[kind] = min(firsts.get(kind, time), time)
    return firsts["video"], firsts["audio"]


# -- pictures and their times


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v"])
@pytest.mark.parametrize("rate", [NTSC, Fraction(25), Fraction(24_000, 1001), Fraction(60)])
def test_constant_rates_keep_every_frame_and_its_time_exactly(tmp_path, suffix, rate):
    """29.97 fps stays 30000/1001: count, order and times are the source's, B-frames and all."""
    source = clips.write_clip(tmp_path / "in.mp4", 20, rate=rate)
    copy(source, tmp_path / f"out{suffix}", preset="veryfast")
    assert pictures_of(tmp_path / f"out{suffix}") == pictures_of(source)


def test_variable_frame_times_are_written_exactly(tmp_path):
    """Irregular times come out to the tick."""
    pts = [0, 40, 41, 100, 300, 301, 500]
    source = clips.write_clip(tmp_path / "v.mp4", 7, pts=pts, time_base=Fraction(1, 1000))
    copy(source, tmp_path / "out.mp4", preset="veryfast")
    assert [round(time * 1000) for time in times_of(tmp_path / "out.mp4")] == pts
    assert times_of(tmp_path / "out.mp4") == times_of(source)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_source_that_starts_late_is_written_late(tmp_path, suffix):
    """A start time other than zero is kept, so that sound and data still match."""
    pts = list(range(2000, 2400, 40))
    source = clips.write_clip(tmp_path / "l.mkv", 10, pts=pts, time_base=Fraction(1, 1000))
    assert times_of(source)[0] == 2
    copy(source, tmp_path / f"out{suffix}")
    assert [round(time * 1000) for time in times_of(tmp_path / f"out{suffix}")] == pts


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".ts"])
def test_containers_with_coarse_clocks_keep_times_to_their_tick(tmp_path, suffix):
    """Matroska counts milliseconds, MPEG-TS 1/90000 s: no frame is further off than that."""
    source = clips.write_clip(tmp_path / "in.mp4", 20, rate=NTSC)
    copy(source, tmp_path / f"out{suffix}")
    before, after = pictures_of(source), pictures_of(tmp_path / f"out{suffix}")
    assert [number for number, _ in after] == [number for number, _ in before]
    # MPEG-TS begins later by its muxer's initial delay.
    offset = after[0][1] - before[0][1] if suffix == ".ts" else 0
    assert all(
        abs(b - a - offset) <= Fraction(1, 1000)
        for (_, a), (_, b) in zip(before, after, strict=True)
    )


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "vp8", "av1", "mpeg4", "ffv1"])
def test_every_codec_name_writes_every_frame(tmp_path, codec):
    """The names in the help, and FFmpeg's own, each give a file that reads back whole."""
    source = clips.write_clip(tmp_path / "in.mp4", 8)
    target = tmp_path / "out.mkv"
    preset = {"h264": "ultrafast", "hevc": "ultrafast", "av1": "12", "vp9": "8", "vp8": "8"}
    copy(source, target, codec=codec, preset=preset.get(codec))
    assert [number for number, _ in pictures_of(target)] == list(range(8))


@pytest.mark.parametrize(
    ("suffix", "codec", "size_px"),
    [(".mp4", None, (162, 122)), (".webm", None, (161, 121)), (".mkv", "ffv1", (161, 121))],
)
def test_odd_sizes_are_padded_only_where_the_encoder_must_have_even_ones(
    tmp_path, suffix, codec, size_px
):
    """x264 gets one repeated column and row; VP9 and FFV1 keep the size."""
    source = clips.write_clip(tmp_path / "odd.mkv", 3, pix_fmt="yuv444p", size_px=(161, 121))
    copy(source, tmp_path / f"out{suffix}", codec=codec, preset=None)
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        frame = next(container.decode(video=0))
    assert (frame.width, frame.height) == size_px
    grey = frame.to_ndarray(format="gray")
    assert abs(int(grey[60, -1]) - int(grey[60, -3])) < 4, "the padding repeats the edge"


# -- what describes the pictures


@pytest.mark.parametrize(
    "tags",
    [(1, 1, 1, 1), (5, 6, 6, 1), (1, 1, 1, 2), (9, 9, 16, 1)],
    ids=["bt709", "bt601", "full range", "bt2020 pq"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_colour_tags_are_kept(tmp_path, suffix, tags):
    """Matrix, primaries, transfer and range: a player shows the same colours."""
    space, primaries, transfer, range_ = tags

    def prepare(_container, context):
        context.colorspace, context.color_primaries = space, primaries
        context.color_trc, context.color_range = transfer, range_

    copy(make(tmp_path / "in.mp4", 2, prepare=prepare), tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        context = container.streams.video[0].codec_context
        found = context.colorspace, context.color_primaries, context.color_trc, context.color_range
    assert tuple(int(value) for value in found) == tags


def test_the_samples_of_full_range_video_are_not_stretched(tmp_path):
    """Full range stays full range: what was 255 is 255, not 235."""
    planes = clips.numbered(0)
    planes.y[32:] = 250
    source = clips.write_clip(
        tmp_path / "in.mkv", [planes], pix_fmt="yuvj420p", options={"crf": "0"}
    )
    copy(source, tmp_path / "out.mp4", crf=0)
    with av.open(str(source)) as a, av.open(str(tmp_path / "out.mp4")) as b:
        luma = [np.asarray(next(c.decode(video=0)).to_ndarray()[60, 60]) for c in (a, b)]
    assert abs(int(luma[0]) - int(luma[1])) <= 2


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_the_sample_aspect_ratio_is_kept_or_its_loss_is_said(tmp_path, suffix):
    """Anamorphic video stays as wide as it was; VP9 in WebM cannot say so, and the user is told."""

    def prepare(_container, context):
        context.sample_aspect_ratio = Fraction(16, 11)

    sink = copy(make(tmp_path / "in.mp4", 2, prepare=prepare), tmp_path / f"out{suffix}")
    if suffix == ".webm":
        assert "16/11 as wide as high" in sink.warnings[0]
        return
    assert sink.warnings == []
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        stream = container.streams.video[0]
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    assert abs(Fraction(aspect.numerator, aspect.denominator) - Fraction(16, 11)) < Fraction(1, 300)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_metadata_and_chapters_are_kept(tmp_path, suffix):
    """Title and chapters survive; what only described the old file does not."""
    chapter = {"id": 1, "start": 0, "end": 200, "time_base": Fraction(1, 1000),
               "metadata": {"title": "Opening"}}  # fmt: skip

    def prepare(container, _context):
        container.metadata.update({"title": "A talk", "artist": "Nobody"})
        container.set_chapters([chapter])

    copy(make(tmp_path / "in.mp4", prepare=prepare), tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        metadata = {key.lower(): value for key, value in container.metadata.items()}
        chapters = container.chapters()
    assert (metadata["title"], metadata["artist"]) == ("A talk", "Nobody")
    assert [each["metadata"]["title"] for each in chapters] == ["Opening"]
    assert chapters[0]["end"] * chapters[0]["time_base"] == Fraction(200, 1000)


# -- sound and subtitles


@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.mov"])
def test_audio_packets_are_copied_byte_for_byte(tmp_path, target):
    """Where the container can carry the codec, sound is not touched."""
    source = clips.write_clip(tmp_path / "in.mp4", 30, audio_codec="aac")
    sink = copy(source, tmp_path / target)
    assert clips.audio_packets(tmp_path / target) == clips.audio_packets(source)
    assert sink.warnings == []


def test_audio_that_webm_cannot_carry_is_re_encoded_with_a_warning(tmp_path):
    """AAC becomes Opus, as long as it was, and the user is told."""
    source = clips.write_clip(tmp_path / "in.mp4", 30, audio_codec="aac")
    sink = copy(source, tmp_path / "out.webm", preset="8")
    assert sink.warnings == ["a .webm file cannot carry aac audio; re-encoded as libopus"]
    with av.open(str(tmp_path / "out.webm")) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.name.endswith("opus")
        seconds = sum(frame.samples for frame in container.decode(audio=0)) / 48_000
    assert seconds == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("rate_hz", [11_025, 192_000])
def test_sound_at_a_rate_the_new_codec_lacks_is_resampled(tmp_path, rate_hz):
    """No sampling rate makes re-encoding fail."""
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=30, options=FAST)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("wavpack", rate=rate_hz, layout="mono")
        sound.codec_context.format = "s16p"
        for number in range(10):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = np.zeros((1, rate_hz // 3), np.int16)
        samples = av.AudioFrame.from_ndarray(wave, format="s16p", layout="mono")
        samples.sample_rate, samples.pts = rate_hz, 0
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    sink = copy(source, tmp_path / "out.mp4")
    assert len(sink.warnings) == 1
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(audio=0))
    seconds = sum(frame.samples for frame in frames) / frames[0].sample_rate
    assert seconds == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize("sound_at", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_sound_keeps_its_distance_to_the_pictures(tmp_path, suffix, sound_at):
    """Sound that begins with, after or long after the video stays in step."""
    source = make(tmp_path / "in.mkv", 30, sound_at=sound_at)
    copy(source, tmp_path / f"out{suffix}")
    video, audio = first_times(tmp_path / f"out{suffix}")
    video_before, audio_before = first_times(source)
    assert float(audio - video) == pytest.approx(float(audio_before - video_before), abs=0.002)


def test_sound_that_begins_before_the_pictures_is_kept(tmp_path):
    """A late first picture does not cost the sound before it."""
    pts = list(range(500, 1300, 40))
    silent = clips.write_clip(
        tmp_path / "v.mkv", 20, pts=pts, time_base=Fraction(1, 1000), options={"bf": "0"}
    )
    sound = clips.write_clip(tmp_path / "a.mkv", 30, audio_codec="aac")
    both = tmp_path / "both.mkv"
    with av.open(str(silent)) as a, av.open(str(sound)) as b, av.open(str(both), "w") as out:
        inputs = [(a, a.streams.video[0]), (b, b.streams.audio[0])]
        packets = []
        for container, stream in inputs:
            copied = out.add_stream_from_template(stream)
            packets += [(p, copied) for p in container.demux(stream) if p.dts is not None]
        for packet, stream in sorted(packets, key=lambda each: each[0].dts * each[0].time_base):
            packet.stream = stream
            out.mux(packet)
    copy(both, tmp_path / "out.mp4")
    assert clips.audio_packets(tmp_path / "out.mp4") == clips.audio_packets(both)
    video, audio = first_times(tmp_path / "out.mp4")
    video_before, audio_before = first_times(both)
    assert float(audio - video) == pytest.approx(float(audio_before - video_before), abs=0.002)


def test_a_later_start_moves_pictures_and_sound_to_zero_together(tmp_path):
    """With --start the file begins at 0, and sound still fits the pictures."""
    source = make(tmp_path / "in.mp4", 60, sound_at=0.0)
    copy(source, tmp_path / "out.mp4", read={"start_s": 1.0})
    assert [number for number, _ in pictures_of(tmp_path / "out.mp4")] == list(range(30, 60))
    video, audio = first_times(tmp_path / "out.mp4")
    assert video == 0
    assert 0 <= audio < Fraction(2048, 48_000), "the first packet at or after the cut"
    before = clips.audio_packets(source)
    after = clips.audio_packets(tmp_path / "out.mp4")
    assert after == before[-len(after) :]


def test_no_audio_means_none(tmp_path):
    """Sound can be left out."""
    source = clips.write_clip(tmp_path / "in.mp4", 10, audio_codec="aac")
    copy(source, tmp_path / "out.mp4", audio=False)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert not container.streams.audio


def test_subtitles_are_copied_or_warned_about(tmp_path):
    """Matroska carries SubRip lines; MP4 does not, and says so."""
    (tmp_path / "lines.srt").write_text(SRT)
    source = make(tmp_path / "in.mkv", 30, srt=tmp_path / "lines.srt")
    assert copy(source, tmp_path / "out.mkv").warnings == []
    with av.open(str(tmp_path / "out.mkv")) as container:
        lines = [bytes(p) for p in container.demux(subtitles=0) if p.size]
    assert lines == [b"hello", b"world"]
    sink = copy(source, tmp_path / "out.mp4")
    assert len(sink.warnings) == 1
    assert "subtitles; left out" in sink.warnings[0]


# -- whole or absent


def test_an_unfinished_file_never_has_the_final_name(tmp_path):
    """While it is written it has another name; aborted, it is gone."""
    source = open_source(
        find_inputs(str(clips.write_clip(tmp_path / "in.mp4", 5)))[0], ReadOptions()
    )
    folder = tmp_path / "out"
    folder.mkdir()
    sink = open_sink(folder / "a.mp4", source.info, VideoOptions(preset="ultrafast"))
    for frame in source:
        sink.write(frame)
        assert not (folder / "a.mp4").exists()
    sink.abort()
    assert list(folder.iterdir()) == []
    sink.abort()
    source.close()


@pytest.mark.parametrize("method", ["mux", "close"])
def test_a_disk_that_fills_up_is_one_line_and_no_file(tmp_path, monkeypatch, method):
    """ENOSPC while writing or while finishing: a SinkError with the reason, nothing left."""

    class Full:
        """A container on a full disk."""

        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            if name == method:
                return self._fail
            return getattr(self._container, name)

        def _fail(self, *_):
            raise OSError(28, "No space left on device")

    source = open_source(
        find_inputs(str(clips.write_clip(tmp_path / "in.mp4", 5)))[0], ReadOptions()
    )
    folder = tmp_path / "out"
    folder.mkdir()
    sink = open_sink(folder / "a.mp4", source.info, VideoOptions(preset="ultrafast"))
    inner = sink._encoding.container
    sink._encoding.container = Full(inner)
    with pytest.raises(SinkError, match=r"cannot write .*a\.mp4: No space left") as caught:
        for frame in source:
            sink.write(frame)
        sink.close(source.tail_packets)
    sink.abort()
    with suppress(FileNotFoundError):  # the fake kept it open; its file is gone by now
        inner.close()
    source.close()
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_really_full_device_is_an_error(tmp_path, suffix):
    """FFmpeg's own buffered writes report ENOSPC, too, at the latest when the file is closed."""
    source = clips.write_clip(tmp_path / "in.mp4", 5)
    (tmp_path / f"full{suffix}").symlink_to("/dev/full")
    with pytest.raises(SinkError, match="No space left on device"):
        copy(source, tmp_path / f"full{suffix}")


def test_an_existing_file_is_refused_and_untouched_unless_overwritten(tmp_path):
    """No silent loss; with overwrite the new file replaces the old in one step."""
    source = clips.write_clip(tmp_path / "in.mp4", 3)
    target = tmp_path / "out.mp4"
    target.write_text("precious")
    with pytest.raises(UsageError, match=r"exists; pass --overwrite"):
        copy(source, target)
    assert target.read_text() == "precious"
    copy(source, target, overwrite=True)
    assert len(pictures_of(target)) == 3


WRONG = {
    "no such codec": ({"codec": "h26five"}, "out.mp4", UsageError, "no encoder named 'h26five'"),
    "an audio codec": ({"codec": "aac"}, "out.mp4", UsageError, "encodes audio, not video"),
    "not in this container": ({"codec": "h264"}, "out.webm", UsageError, "cannot carry libx264"),
    "no such container": ({}, "out.xyz", UsageError, "cannot write a .xyz video"),
    "no such container, with a codec": ({"codec": "h264"}, "out.xyz", UsageError, "a .xyz video"),
    "no extension": ({}, "out", UsageError, "nameless"),
    "preset": ({"preset": "warp"}, "out.mp4", UsageError, "libx264 has no preset 'warp'"),
    "vp9 preset": ({"preset": "ultrafast"}, "out.webm", UsageError, "no preset 'ultrafast'"),
    "av1 preset": ({"codec": "av1", "preset": "99"}, "out.mp4", UsageError, "no preset '99'"),
    "pixel format": ({"codec": "prores_ks"}, "out.mkv", UsageError, "refuses a 160x120 yuv420p"),
    "folder": ({}, "a folder.mp4", SinkError, "it is a folder"),
    "no folder": ({}, "none/out.mp4", SinkError, "its folder does not exist"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_written_is_refused_at_once(tmp_path, case, capfd):
    """The right class of error, one line, nothing on stderr besides, and nothing left behind."""
    options, name, error, reason = WRONG[case]
    source = clips.write_clip(tmp_path / "in.mp4", 2)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a folder.mp4").mkdir()
    with pytest.raises(error, match=reason) as caught:
        copy(source, folder / name, **({"preset": None} | options))
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["a folder.mp4"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("crf", [-1, 64, float("nan")])
def test_a_quality_out_of_range_is_refused(crf):
    """CRF ends at 63; NaN is no quality."""
    with pytest.raises(ValueError, match="crf must be"):
        VideoOptions(crf=crf)


# -- pictures


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp"])
def test_pictures_become_pictures(tmp_path, suffix):
    """JPEG, PNG and WebP keep size and colours."""
    from PIL import Image

    planes = clips.numbered(5)
    rgb = planes.to_rgb()
    rgb[40:80, 40:80] = (200, 40, 40)
    Image.fromarray(rgb).save(tmp_path / "in.png")
    copy(tmp_path / "in.png", tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as picture:
        seen = np.asarray(picture.convert("RGB")).astype(int)
    assert seen.shape == (120, 160, 3)
    assert np.abs(seen[60, 60] - [200, 40, 40]).max() < 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", f"out{suffix}"]


def test_a_video_is_no_picture(tmp_path):
    """A .png of many frames is refused before anything is read further."""
    source = clips.write_clip(tmp_path / "in.mp4", 5)
    with pytest.raises(UsageError, match="holds one picture"):
        copy(source, tmp_path / "out.png")
    copy(source, tmp_path / "one.png", read={"max_frames": 1})
    assert (tmp_path / "one.png").stat().st_size > 100


def test_a_picture_too_large_for_its_format_is_one_line(tmp_path, capfd):
    """WebP ends at 16383 pixels a side."""
    from PIL import Image

    Image.fromarray(np.zeros((16, 16_400, 3), np.uint8)).save(tmp_path / "in.png")
    with pytest.raises(SinkError, match=r"cannot write .*out\.webp"):
        copy(tmp_path / "in.png", tmp_path / "out.webp")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]
    assert capfd.readouterr().err == ""


# -- where files go


def test_one_input_is_written_to_the_file_or_into_the_folder(tmp_path):
    """A name with an extension is a file; a folder, or a name without one, is a folder."""
    inputs = find_inputs(str(clips.write_clip(tmp_path / "a.mp4", 1)))
    out = tmp_path / "out"
    assert plan_outputs(tmp_path / "x.mkv", inputs) == [tmp_path / "x.mkv"]
    assert plan_outputs(out, inputs) == [out / "a.mp4"]
    assert out.is_dir()
    assert plan_outputs(out, inputs) == [out / "a.mp4"]


def test_a_folder_of_results_keeps_the_names_of_the_inputs(tmp_path):
    """What cannot be written becomes MP4 or PNG; a camera or URL gets a plain name."""
    for name in ("a.avi", "b.webm", "c.bmp", "d.JPG"):
        (tmp_path / name).write_bytes(b"x")
    inputs = find_inputs(str(tmp_path))
    inputs += find_inputs("0") + find_inputs("rtsp://bob:secret@cam/live?x=1")
    names = [path.name for path in plan_outputs(tmp_path / "out", inputs)]
    assert names[:5] == ["a.mp4", "b.webm", "c.png", "d.JPG", "camera_0.mp4"]
    assert names[5].endswith(".mp4")
    assert "secret" not in names[5]


def test_two_inputs_that_would_share_a_name_are_refused(tmp_path):
    """a.avi and a.mp4 would both become a.mp4."""
    for name in ("a.avi", "a.mp4"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match="would both become"):
        plan_outputs(tmp_path / "out", find_inputs(str(tmp_path)))
    assert not (tmp_path / "out").exists()


def test_several_inputs_do_not_fit_one_file(tmp_path):
    """A file name for a folder of inputs is refused."""
    for name in ("a.avi", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match="2 inputs need a folder as --output"):
        plan_outputs(tmp_path / "out.mp4", find_inputs(str(tmp_path)))


@pytest.mark.parametrize("through", ["itself", "a link", "a folder"])
def test_the_source_is_never_the_output(tmp_path, through):
    """Neither by name, nor through a symbolic link, nor as the folder it lies in."""
    source = clips.write_clip(tmp_path / "a.mp4", 1)
    (tmp_path / "link.mp4").symlink_to(source)
    output = {"itself": source, "a link": tmp_path / "link.mp4", "a folder": tmp_path}[through]
    with pytest.raises(UsageError, match="is the source itself"):
        plan_outputs(Path(output), find_inputs(str(source)))
