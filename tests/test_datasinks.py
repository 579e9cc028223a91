"""Every data sink writes its file whole or not at all, and what it writes reads back."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import sample_faces as made

from streamface import datasinks, records
from streamface.datasinks import CsvSink, JsonlSink, ParquetSink, VttSink
from streamface.errors import SinkError, UsageError

HEADER = records.header(source="clip.mp4", models={}, options={})
SINKS = [
    pytest.param(JsonlSink, id="jsonl"),
    pytest.param(CsvSink, id="csv"),
    pytest.param(ParquetSink, id="parquet"),
    pytest.param(VttSink, id="vtt"),
]
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_all(sink, frames, source="clip.mp4"):
    for frame in frames:
        sink.write(frame, source)
    sink.close()


def frames_with_one_face(count=3, **face):
    return [made.frame(made.face(**face), index=index) for index in range(count)]


# What all sinks share.


@pytest.mark.parametrize("sink_class", SINKS)
def test_the_file_appears_on_close(sink_class, tmp_path):
    sink = sink_class(tmp_path / "out.data", HEADER)
    for frame in frames_with_one_face():
        sink.write(frame, "clip.mp4")
    assert "out.data" not in names(tmp_path)
    sink.close()
    sink.abort()
    assert names(tmp_path) == ["out.data"]
    assert (tmp_path / "out.data").stat().st_size > 0


@pytest.mark.parametrize("sink_class", SINKS)
def test_abort_leaves_nothing(sink_class, tmp_path):
    sink = sink_class(tmp_path / "out.data", HEADER)
    sink.write(made.frame(made.face()), "clip.mp4")
    sink.abort()
    sink.abort()
    assert names(tmp_path) == []


@pytest.mark.parametrize("sink_class", SINKS)
def test_no_frame_at_all_still_makes_a_valid_file(sink_class, tmp_path):
    write_all(sink_class(tmp_path / "out.data", HEADER), [])
    assert (tmp_path / "out.data").stat().st_size > 0


@pytest.mark.parametrize("sink_class", SINKS)
def test_an_existing_file_is_refused_unless_told(sink_class, tmp_path):
    target = tmp_path / "out.data"
    target.write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        sink_class(target, HEADER)
    assert target.read_text() == "mine"
    write_all(sink_class(target, HEADER, overwrite=True), [])
    assert b"mine" not in target.read_bytes()


@pytest.mark.parametrize("sink_class", SINKS)
def test_a_missing_folder_is_a_sink_error(sink_class, tmp_path):
    with pytest.raises(SinkError, match="folder does not exist"):
        sink_class(tmp_path / "none" / "out.data", HEADER)


@pytest.mark.parametrize("sink_class", SINKS)
def test_a_folder_that_refuses_the_file_is_a_sink_error(sink_class, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # chmod does not stop root
    with pytest.raises(SinkError, match=r"out\.data: Permission denied"):
        sink_class(tmp_path / "out.data", HEADER)
    assert names(tmp_path) == []


@needs_linux
@pytest.mark.parametrize("sink_class", SINKS)
def test_a_full_disk_is_a_sink_error(sink_class):
    with pytest.raises(SinkError, match="/dev/full: No space left on device"):
        sink = sink_class(Path("/dev/full"), HEADER)
        write_all(sink, frames_with_one_face(400))


@needs_linux
@pytest.mark.parametrize("sink_class", SINKS)
def test_a_disk_that_fills_up_leaves_nothing(sink_class, tmp_path, monkeypatch):
    """A file size limit stands in for a full disk: the kernel refuses the write the same way."""
    monkeypatch.setattr(datasinks, "_ROW_GROUP_ROWS", 16)
    sink = sink_class(tmp_path / "out.data", HEADER)
    labels = ["happy", "sad"] * 200  # a cue per frame
    frames = [made.frame(made.face(label=x), index=i) for i, x in enumerate(labels)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(SinkError, match=r"out\.data: File too large"):
            write_all(sink, frames)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    sink.abort()
    assert names(tmp_path) == []


@pytest.mark.parametrize("sink_class", SINKS)
def test_a_source_that_is_no_text_does_not_stop_a_run(sink_class, tmp_path):
    source = os.fsdecode(b"caf\xe9.mp4")
    write_all(sink_class(tmp_path / "out.data", HEADER), frames_with_one_face(), source)
    if sink_class is not ParquetSink:
        (tmp_path / "out.data").read_text(encoding="utf-8")


# JSON lines.


def test_jsonl_is_a_header_and_a_line_a_frame(tmp_path):
    frames = [made.frame(made.face(), index=0), made.frame(index=1)]
    write_all(JsonlSink(tmp_path / "a.jsonl", HEADER), frames)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines == [HEADER, *(records.frame_record(frame, "clip.mp4") for frame in frames)]


def test_jsonl_goes_to_stdout_line_by_line(capsys):
    sink = JsonlSink(None, HEADER)
    assert json.loads(capsys.readouterr().out) == HEADER
    sink.write(made.frame(), "clip.mp4")
    assert json.loads(capsys.readouterr().out)["faces"] == []
    sink.close()
    sink.abort()
    assert not sys.stdout.closed


def test_a_reader_that_leaves_is_one_clear_error(tmp_path):
    """In a process of its own: the pipe's other end is closed before the first line."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from streamface.datasinks import JsonlSink
from streamface.errors import SinkError
try:
    JsonlSink(None, {})
except SinkError as exc:
    sys.exit(str(exc))
"""
    reader, writer = os.pipe()
    os.close(reader)
    root = str(Path(datasinks.__file__).parents[1])
    with os.fdopen(writer, "w") as stdout:
        done = subprocess.run(
            [sys.executable, "-c", script, root],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr.strip() == "cannot write to stdout: its reader has gone"
    assert done.returncode == 1


# CSV.


def test_csv_has_one_row_a_face(tmp_path):
    frames = [made.frame(made.face(), made.face(track_id=2, label=None)), made.frame(index=1)]
    write_all(CsvSink(tmp_path / "a.csv", HEADER), frames, 'odd, "name".mp4')
    with (tmp_path / "a.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == list(records.COLUMNS)
    assert first["source"] == 'odd, "name".mp4'
    assert (first["emotion"], first["smoothed_happy"], first["x0"]) == ("happy", "0.87", "40.0")
    assert (second["track_id"], second["emotion"], second["prob_sad"]) == ("2", "", "")


# Parquet.


def test_parquet_reads_back_typed_and_nullable(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    frames = [made.frame(made.face(), made.face(track_id=-1, label=None)), made.frame(index=1)]
    write_all(ParquetSink(tmp_path / "a.parquet", HEADER), frames)
    table = pq.read_table(tmp_path / "a.parquet")
    rows = [row for frame in frames for row in records.face_rows(frame, "clip.mp4")]
    assert [tuple(row.values()) for row in table.to_pylist()] == rows
    assert table.schema.names == list(records.COLUMNS)
    assert str(table.schema.field("frame").type) == "int64"
    assert str(table.schema.field("prob_sad").type) == "double"
    assert table.schema.metadata[b"streamface.schema"] == b"streamface.frames/1"
    assert json.loads(table.schema.metadata[b"streamface.header"]) == HEADER


def test_parquet_row_groups_are_bounded(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(datasinks, "_ROW_GROUP_ROWS", 10)
    write_all(ParquetSink(tmp_path / "a.parquet", HEADER), frames_with_one_face(25))
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [10, 10, 5]
    assert groups[0].column(0).compression == "ZSTD"


def test_parquet_is_not_for_stdout():
    pytest.importorskip("pyarrow")
    with pytest.raises(UsageError, match="stdout"):
        ParquetSink(None, HEADER)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'streamface\[parquet\]'"):
        ParquetSink(tmp_path / "a.parquet", HEADER)
    assert names(tmp_path) == []


# WebVTT.


def cues(tmp_path, frames, *more_sources, **options):
    sink = VttSink(tmp_path / "a.vtt", HEADER, **options)
    for number, source_frames in enumerate((frames, *more_sources)):
        for frame in source_frames:
            sink.write(frame, f"source {number}")
    sink.close()
    head, *blocks = (tmp_path / "a.vtt").read_text().strip().split("\n\n")
    assert head == "WEBVTT"
    assert blocks.pop(0) == "NOTE streamface.frames/1"
    return [tuple(block.split("\n")) for block in blocks]


def test_a_label_that_stays_is_one_cue_up_to_its_last_frames_end(tmp_path):
    frames = frames_with_one_face(3)
    assert cues(tmp_path, frames) == [("00:00:00.000 --> 00:00:00.100", "<v #1>happy (87 %)")]


def test_captions_go_with_a_video_that_was_cut_from_its_source(tmp_path):
    """With --start the output begins at 0, and so do its captions."""
    frames = frames_with_one_face(6)[3:]
    assert cues(tmp_path, frames, shift_s=0.1)[0][0] == "00:00:00.000 --> 00:00:00.100"


def test_a_cue_says_the_mean_probability(tmp_path):
    frames = [made.frame(made.face(prob=prob), index=i) for i, prob in enumerate((0.6, 0.8))]
    assert cues(tmp_path, frames)[0][1] == "<v #1>happy (70 %)"


def test_a_changed_label_starts_a_cue_where_the_old_one_ends(tmp_path):
    labels = ["happy", "happy", "uncertain", "sad"]
    frames = [made.frame(made.face(label=label), index=i) for i, label in enumerate(labels)]
    assert cues(tmp_path, frames) == [
        ("00:00:00.000 --> 00:00:00.067", "<v #1>happy (87 %)"),
        ("00:00:00.067 --> 00:00:00.100", "<v #1>uncertain"),
        ("00:00:00.100 --> 00:00:00.133", "<v #1>sad (87 %)"),
    ]


def test_a_track_that_is_away_for_a_frame_makes_two_cues(tmp_path):
    faces = [(made.face(),), (), (made.face(),)]
    frames = [made.frame(*face, index=i) for i, face in enumerate(faces)]
    assert [cue[0] for cue in cues(tmp_path, frames)] == [
        "00:00:00.000 --> 00:00:00.033",
        "00:00:00.067 --> 00:00:00.100",
    ]


def test_frames_of_uneven_length_end_where_the_next_begins(tmp_path):
    frames = [
        made.frame(made.face(label=label), index=i, pts=pts, time_base=Fraction(1, 1000))
        for i, (label, pts) in enumerate([("happy", 500), ("sad", 4000), ("sad", 4250)])
    ]
    assert [cue[0] for cue in cues(tmp_path, frames)] == [
        "00:00:00.500 --> 00:00:04.000",
        "00:00:04.000 --> 00:00:04.500",
    ]


def test_cues_stand_in_the_order_of_their_starts(tmp_path):
    long = made.face(track_id=1)
    frames = [
        made.frame(long, made.face(track_id=2, label=label), index=i)
        for i, label in enumerate(("sad", "fear", "angry"))
    ]
    later = [made.frame(made.face(track_id=3), index=1)]
    starts = [cue[0].split(" --> ")[0] for cue in cues(tmp_path, frames, later)]
    assert starts == sorted(starts)
    assert len(starts) == 5


def test_time_before_zero_is_cut_off(tmp_path):
    frames = [
        made.frame(made.face(label=label), index=i, pts=pts, time_base=Fraction(1, 10))
        for i, (label, pts) in enumerate([("sad", -20), ("happy", -10), ("happy", 0)])
    ]
    assert cues(tmp_path, frames) == [("00:00:00.000 --> 00:00:01.000", "<v #1>happy (87 %)")]


def test_hours_and_a_lone_frame_are_written_well(tmp_path):
    frames = [made.frame(made.face(), pts=3_723_456, time_base=Fraction(1, 1000))]
    assert cues(tmp_path, frames)[0][0] == "01:02:03.456 --> 01:02:03.489"


def test_untracked_faces_do_not_merge_and_faces_without_emotion_are_silent(tmp_path):
    faces = (made.face(track_id=-1), made.face(track_id=-1), made.face(track_id=5, label=None))
    assert [cue[1] for cue in cues(tmp_path, [made.frame(*faces)])] == ["<v face>happy (87 %)"] * 2


def test_markup_in_a_label_is_escaped(tmp_path):
    frames = [made.frame(made.face(label="a <b> & --> \n\n c"))]
    assert cues(tmp_path, frames)[0][1] == "<v #1>a &lt;b&gt; &amp; --&gt; c"


def test_captions_of_a_long_run_do_not_stay_in_memory(tmp_path, monkeypatch):
    """Put away in sorted files they are the same; an aborted run leaves none of these."""

    def written(name, held):
        monkeypatch.setattr(datasinks, "_CUES_HELD", held)
        sink = VttSink(tmp_path / name, HEADER)
        most = 0
        for index in range(60):
            label = ("happy", "sad")[index // 3 % 2]
            other = made.face(track_id=2 + index // 7, label="neutral")
            sink.write(made.frame(made.face(label=label), other, index=index), "clip.mp4")
            most = max(most, len(sink._cues))
        sink.close()
        return (tmp_path / name).read_text(), most

    (whole, all_held), (merged, most) = written("a.vtt", 10**6), written("b.vtt", 5)
    assert merged == whole
    assert all_held > 20
    assert most < 7
    monkeypatch.setattr(datasinks, "_CUES_HELD", 1)
    sink = VttSink(tmp_path / "c.vtt", HEADER)
    for index in range(9):
        sink.write(made.frame(made.face(track_id=index), index=index), "clip.mp4")
    files = list(sink._sorted)
    assert len(files) > 3
    sink.abort()
    assert all(file.closed for file in files)
