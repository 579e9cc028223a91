"""Files in stores: read in ranges, published whole, faults outlived, credentials kept."""

from __future__ import annotations

import io
import logging
import os

import av
import clips
import pytest
import store_servers
from hypothesis import given
from hypothesis import strategies as st
from store_servers import SECRET

from streamface import app, storage
from streamface.app import Run
from streamface.errors import SinkError, SourceError, UsageError
from streamface.settings import Settings
from streamface.sources import Input, find_inputs
from streamface.storage import LocalStore, Patience, RangeFile, store_for
from streamface.testing import FixedDetector

QUICK = Patience(attempts=4, first_wait_s=0.001, timeout_s=0.5)


def ranged(data):
    """Return a RangeFile over bytes, and the ranges it asked for."""
    asked = []

    def fetch(start, end):
        asked.append((start, end))
        return data[start:end]

    return RangeFile(fetch, len(data)), asked


@pytest.fixture
def web():
    pytest.importorskip("aiohttp", reason="needs streamface[cloud]")
    pytest.importorskip("fsspec", reason="needs streamface[cloud]")
    files = {}
    with store_servers.web_server(files) as (url, faults):
        yield url, files, faults


@pytest.fixture
def s3(monkeypatch):
    """An empty bucket; what is needed to reach it is in the environment."""
    pytest.importorskip("s3fs", reason="needs streamface[s3]")
    pytest.importorskip("moto.server", reason="needs moto[s3,server]")
    with store_servers.s3_bucket(monkeypatch) as faults:
        yield faults


def put(location, data, tmp_path, **options):
    temporary = tmp_path / "finished"
    temporary.write_bytes(data)
    store_for(location, QUICK).publish(temporary, location, **options)
    return temporary


# -- reading in ranges


@given(
    st.integers(0, 300),
    st.lists(st.tuples(st.integers(0, 320), st.integers(0, 100)), max_size=12),
)
def test_a_range_file_reads_what_a_file_reads(size, moves):
    """At any place, any number of bytes, beyond the end too."""
    data = bytes(i * 7 & 0xFF for i in range(size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "BLOCK_BYTES", 16)
        file, plain = io.BufferedReader(ranged(data)[0], 8), io.BytesIO(data)
        for place, count in moves:
            assert file.seek(place) == plain.seek(place)
            assert file.read(count) == plain.read(count)
            assert file.tell() == plain.tell()
        assert file.seek(-min(size, 3), os.SEEK_END) == plain.seek(-min(size, 3), os.SEEK_END)
        assert file.read() == plain.read()


def test_what_is_read_on_and_on_takes_few_requests_and_little_memory():
    data = bytes(100) * (storage.BLOCK_BYTES // 100 * 60)
    file, asked = ranged(data)
    while file.read(32_768):
        pass
    assert file.requests == len(asked) < 12
    assert sum(end - start for start, end in asked) == len(data)
    assert sum(map(len, file._blocks.values())) <= 32 * storage.BLOCK_BYTES


def test_a_place_before_the_file_is_refused():
    with pytest.raises(ValueError, match="cannot seek to -1"):
        ranged(b"abc")[0].seek(-1)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi"])
def test_ffmpeg_reads_a_clip_in_few_ranges(tmp_path, monkeypatch, suffix):
    """The index at an MP4's end included: no byte is fetched twice, and few are not needed."""
    monkeypatch.setattr(storage, "BLOCK_BYTES", 1 << 15)
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(suffix, "libx264")
    options = {"b": "8000000"} if codec != "libx264" else {"crf": "10"}
    path = clips.write_clip(
        tmp_path / f"a.{suffix}", [clips.noisy(i) for i in range(40)], codec=codec, options=options
    )
    data = path.read_bytes()
    file, asked = ranged(data)
    with av.open(file) as container:
        numbers = [clips.numbered for _ in container.decode(video=0)]
    assert len(numbers) == 40
    assert len(data) > 20 * storage.BLOCK_BYTES
    assert len(asked) <= len(data) / storage.BLOCK_BYTES / 3
    assert sum(end - start for start, end in asked) <= 1.5 * len(data)


def test_one_key_frame_of_a_long_clip_costs_a_few_blocks(tmp_path, monkeypatch):
    """Whoever works on a segment does not fetch the whole file."""
    monkeypatch.setattr(storage, "BLOCK_BYTES", 1 << 15)
    path = clips.write_clip(
        tmp_path / "a.mp4",
        [clips.noisy(i) for i in range(90)],
        options={"crf": "15", "g": "10", "bf": "0"},
    )
    data = path.read_bytes()
    file, asked = ranged(data)
    with av.open(file) as container:
        stream = container.streams.video[0]
        container.seek(int(2 / stream.time_base), stream=stream)
        frame = next(container.decode(stream))
    assert frame.time == pytest.approx(2.0, abs=0.4)
    assert sum(end - start for start, end in asked) < len(data) / 4


# -- the file system


def test_local_files_are_listed_lazily_and_told_apart(tmp_path):
    for name in ("b/2.mp4", "b/1.mp4", "a.mp4", ".hidden", "b/.part.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    store = LocalStore()
    listed = store.list(str(tmp_path))
    assert iter(listed) is listed
    assert [os.path.relpath(each.location, tmp_path) for each in listed] == [
        "a.mp4", "b/1.mp4", "b/2.mp4",
    ]  # fmt: skip
    assert [e.location[-5:] for e in store.list(f"{tmp_path}/b/*.mp4")] == ["1.mp4", "2.mp4"]
    before = store.fingerprint(str(tmp_path / "a.mp4"))
    (tmp_path / "a.mp4").write_text("longer than it was")
    assert store.fingerprint(str(tmp_path / "a.mp4")) != before
    with pytest.raises(SourceError, match="nowhere does not exist"):
        list(store.list(str(tmp_path / "nowhere")))


def test_a_local_file_is_published_whole_and_never_over_another_unasked(tmp_path):
    target = tmp_path / "out" / "deep" / "a.bin"
    left = put(str(target), b"first", tmp_path)
    assert target.read_bytes() == b"first"
    assert not left.exists()
    with pytest.raises(SinkError, match=r"a\.bin exists; pass --overwrite"):
        put(str(target), b"second", tmp_path)
    assert left.read_bytes() == b"second"
    put(str(target), b"third", tmp_path, overwrite=True)
    assert target.read_bytes() == b"third"
    assert [path.name for path in target.parent.iterdir()] == ["a.bin"]
    LocalStore().delete(str(target))
    LocalStore().delete(str(target))
    assert not LocalStore().exists(str(target))


def test_another_file_system_is_copied_to_and_then_renamed(tmp_path, monkeypatch):
    """As if the temporary folder were a disk of its own."""
    stat = os.stat_result

    def other_disk(self, **_):
        real = os.stat(self)
        return stat((*real[:2], hash(self.suffix) & 0xFF, *real[3:10]))

    temporary = tmp_path / "finished.tmp"
    temporary.write_bytes(b"data")
    monkeypatch.setattr(type(temporary), "stat", other_disk)
    LocalStore().publish(temporary, str(tmp_path / "a.bin"))
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"data"


def test_a_scheme_that_nobody_knows_and_a_package_that_is_missing_are_named(monkeypatch):
    with pytest.raises(UsageError, match="cannot list or write ftp:// locations"):
        store_for("ftp://host/a.mp4")
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UsageError, match=r"s3:// needs .*pip install 'streamface\[s3\]'"):
        store_for("s3://bucket/a.mp4")


@pytest.mark.parametrize(
    ("folder", "whole"),
    [("s3://lab/in/", "s3://lab/in/a/b.mp4"), ("in", "in/a/b.mp4"), ("/in/", "/in/a/b.mp4")],
)
def test_names_are_put_under_folders_and_buckets(folder, whole):
    assert storage.under(folder, "a/b.mp4") == whole


# -- a web server


def test_a_clip_on_a_web_server_is_read_in_ranges(web, tmp_path):
    url, files, faults = web
    files["a.mp4"] = clips.write_clip(tmp_path / "a.mp4", 12).read_bytes()
    store = store_for(url, QUICK)
    assert store.exists(f"{url}/a.mp4")
    assert not store.exists(f"{url}/b.mp4")
    assert store.fingerprint(f"{url}/a.mp4").size_bytes == len(files["a.mp4"])
    with av.open(store.open(f"{url}/a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    assert [method for method, _ in faults.requests].count("GET") <= 2


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "stall"])
def test_what_passes_by_itself_is_outlived(web, fault):
    url, files, faults = web
    files["a.bin"] = bytes(range(256)) * 40
    file = store_for(url, QUICK).open(f"{url}/a.bin")
    faults.add(fault, fault)
    assert io.BufferedReader(file).read() == files["a.bin"]
    assert len(faults.requests) == 4


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (500, r"the store answered 500 \(4 attempts\)"),
        (403, "access is denied; check the store's credentials"),
        (404, "there is nothing of that name"),
        ("stall", r"no answer in time \(4 attempts\)"),
    ],
)
def test_what_does_not_pass_is_one_line(web, fault, line):
    url, files, faults = web
    files["a.bin"] = bytes(100)
    location = f"{url}/a.bin?X-Amz-Credential=AKIA&X-Amz-Signature={SECRET}"
    file = store_for(url, QUICK).open(location)
    faults.add(*[fault] * 9)
    with pytest.raises(SourceError, match=rf"^cannot read http://[^ ]*: {line}$") as caught:
        file.read(10)
    assert SECRET not in str(caught.value)
    assert "AKIA" not in str(caught.value)


def test_an_error_while_ffmpeg_reads_comes_out_as_it_was_said(web, tmp_path):
    """Not as the end of the file, which would pass for a short clip."""
    url, files, faults = web
    pictures = [clips.noisy(i) for i in range(60)]
    path = clips.write_clip(tmp_path / "a.mkv", pictures, options={"crf": "1"})
    files["a.mkv"] = path.read_bytes()
    assert len(files["a.mkv"]) > 2 * storage.BLOCK_BYTES
    file = store_for(url, QUICK).open(f"{url}/a.mkv")
    with av.open(file) as container:
        faults.add(*[500] * 9)
        with pytest.raises(SourceError, match="the store answered 500"):
            for _ in container.decode(video=0):
                pass


def test_a_server_without_ranges_is_refused_before_it_sends_the_whole():
    pytest.importorskip("aiohttp", reason="needs streamface[cloud]")
    pytest.importorskip("fsspec", reason="needs streamface[cloud]")
    with store_servers.web_server({"a.mp4": bytes(100)}, ranges=False) as (url, _):
        store = store_for(url, QUICK)
        with pytest.raises(SourceError, match="does not answer in ranges"):
            store.open(f"{url}/a.mp4")


def test_nobody_writes_to_a_web_server(web, tmp_path):
    with pytest.raises(SinkError, match="a web server takes no files"):
        put(f"{web[0]}/a.bin", b"data", tmp_path)


# -- S3


def test_an_object_appears_whole_and_is_found_again(s3, tmp_path):
    location = "s3://lab/out/a b#1.bin"
    store = store_for(location, QUICK)
    assert not store.exists(location)
    left = put(location, b"first", tmp_path)
    assert not left.exists()
    assert store.open(location).read(9) == b"first"
    first = store.fingerprint(location)
    with pytest.raises(SinkError, match="exists; pass --overwrite"):
        put(location, b"second", tmp_path)
    put(location, b"third", tmp_path, overwrite=True)
    assert store.open(location).read(9) == b"third"
    assert store.fingerprint(location) != first
    assert [each.location for each in store.list("s3://lab/out")] == [location]
    assert next(store.list("s3://lab/out/")).fingerprint == store.fingerprint(location)
    store.delete(location)
    store.delete(location)
    assert not store.exists(location)


def test_a_large_object_goes_up_in_parts_that_nobody_sees(s3, tmp_path, monkeypatch):
    """A part that fails is no half object, and the upload is done again."""
    import s3fs.core

    monkeypatch.setattr(s3fs.core, "calculate_chunksize", lambda *_, **__: 5 << 20)
    data = os.urandom(12 << 20)
    store = store_for("s3://lab", QUICK)
    s3.add(None, None, 500)  # whether it exists, the beginning of the upload, its first part
    put("s3://lab/big.bin", data, tmp_path, overwrite=True)
    methods = [method for method, path in s3.requests if path == "/lab/big.bin"]
    assert methods.count("POST") >= 3
    assert "DELETE" in methods
    assert io.BufferedReader(store.open("s3://lab/big.bin")).read() == data
    s3.add(*[500] * 30)
    with pytest.raises(SinkError, match=r"cannot write s3://lab/b\.bin: .*\(4 attempts\)"):
        put("s3://lab/b.bin", data, tmp_path, overwrite=True)
    s3._next.clear()
    assert not store.exists("s3://lab/b.bin")


def test_a_bucket_is_listed_a_page_at_a_time(s3, tmp_path):
    """The first names are there before the last page was asked for."""
    import s3fs

    fs = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    fs.pipe({f"lab/in/{n:04}.mp4": b"x" for n in range(1005)} | {"lab/in/.part": b"x"})
    s3.requests.clear()
    listed = store_for("s3://lab", QUICK).list("s3://lab/in/")
    assert next(listed).location == "s3://lab/in/0000.mp4"
    asked = len(s3.requests)
    assert sum(1 for _ in listed) == 1004
    assert len(s3.requests) == asked + 1


@pytest.mark.parametrize("fault", [500, 503, "stall"])
def test_a_store_that_stumbles_is_asked_again(s3, tmp_path, fault):
    put("s3://lab/a.bin", b"data", tmp_path)
    s3.add(fault, fault)
    assert store_for("s3://lab", QUICK).open("s3://lab/a.bin").read(9) == b"data"


def test_nothing_that_is_said_or_logged_holds_a_secret(s3, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "streamface")
    s3.add(403)
    with pytest.raises(SourceError, match="access is denied") as denied:
        store_for("s3://lab", QUICK).open("s3://lab/a.bin")
    with pytest.raises(SourceError, match="there is nothing of that name"):
        store_for("s3://lab", QUICK).open("s3://lab/a.bin")
    s3.add(500, 500, 500, 500)
    with pytest.raises(SourceError, match=r"the store answered 500 \(4 attempts\)"):
        store_for("s3://lab", QUICK).open("s3://lab/a.bin")
    assert denied.value.__cause__ is None
    assert "again in" in caplog.text
    assert SECRET not in caplog.text + str(denied.value)


def test_a_run_reads_a_bucket(s3, tmp_path, monkeypatch):
    """As ``run --source s3://…`` does: the same rows as from the disk."""
    monkeypatch.setattr(app, "open_detector", lambda _settings: FixedDetector())
    clip = clips.write_clip(tmp_path / "a.mov", 12, audio_codec="aac")
    put("s3://lab/in/a.mov", clip.read_bytes(), tmp_path)
    put("s3://lab/in/notes.txt", b"no video", tmp_path)
    assert find_inputs("s3://lab/in/") == [
        Input("object", "s3://lab/in/a.mov", "s3://lab/in/a.mov")
    ]
    for source, name in ((str(clip), "local"), ("s3://lab/in/", "remote")):
        chosen = Settings(
            source=source,
            output=tmp_path / name,
            tasks=(),
            data={"csv": str(tmp_path / f"{name}.csv")},
        )
        with Run(chosen) as run:
            run.execute()
    local, remote = ((tmp_path / f"{name}.csv").read_text() for name in ("local", "remote"))
    assert remote.replace("s3://lab/in/a.mov", str(clip)) == local
    assert (tmp_path / "remote" / "a.mov").exists()
    assert (tmp_path / "remote" / "a.mov").read_bytes() == (tmp_path / "local/a.mov").read_bytes()


def test_a_prefix_without_videos_says_so(s3, tmp_path):
    put("s3://lab/in/notes.txt", b"no video", tmp_path)
    with pytest.raises(SourceError, match="no video or image below s3://lab/in"):
        find_inputs("s3://lab/in/")
    with pytest.raises(SourceError, match="does not exist, or holds nothing"):
        find_inputs("s3://lab/nowhere/")


def test_a_name_that_is_taken_is_called_so_whatever_library_says_it():
    """Azure's raises FileExistsError with nothing but the name."""
    trouble = storage._judge(FileExistsError("a.mp4"))
    assert (trouble.reason, trouble.may_pass) == ("another file appeared there meanwhile", False)
    assert storage._judge_status(412) == trouble
