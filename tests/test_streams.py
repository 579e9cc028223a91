"""What several sources mean: which run at once, under which names, into which files."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamface.errors import SinkError, SourceError, UsageError
from streamface.sources import Input
from streamface.streams import MOST_AT_ONCE, find_all, plan_streams, safe_name


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def names(found):
    return [each.name for each in found.inputs]


def test_files_and_folders_alone_go_one_by_one(folder):
    found = find_all((str(folder / "b.mp4"), str(folder), "demo"))
    assert not found.at_once
    assert [Path(name).name for name in names(found)] == ["b.mp4", "a.mp4", "b.mp4", "demo"]


@pytest.mark.parametrize("live", ["0", "camera:front", "rtsp://10.0.0.1/x", "http://host/x.m3u8"])
def test_one_live_source_makes_all_run_at_once(folder, live):
    assert find_all((str(folder / "a.mp4"), live)).at_once
    assert not find_all((live,)).at_once


def test_files_played_as_if_live_run_at_once_but_a_folder_is_one_source(folder):
    both = (str(folder / "a.mp4"), str(folder / "b.mp4"))
    assert find_all(both, simulate_live=True).at_once
    assert not find_all((str(folder),), simulate_live=True).at_once


def test_one_name_twice_is_told_apart(folder):
    clip = str(folder / "a.mp4")
    found = find_all((clip, clip, "demo", clip), simulate_live=True)
    assert names(found) == [clip, f"{clip} #2", "demo", f"{clip} #3"]
    assert len({each.location for each in found.inputs}) == 2


def test_a_file_lists_sources_and_their_names(folder):
    listing = folder / "hall.streams"
    listing.write_text(
        "# the hall\n\nfront door = rtsp://user:pass@10.0.0.1/h264?a=b\n"
        "rtsp://10.0.0.2/x?y=z\n  0\nrecorded = a.mp4\nb.mp4\ndemo\n"
    )
    found = find_all((str(listing),))
    assert found.at_once
    assert names(found) == [
        "front door",
        "rtsp://10.0.0.2/x?y=z",
        "camera 0",
        "recorded",
        str(folder / "b.mp4"),
        "demo",
    ]
    assert found.inputs[0].location == "rtsp://user:pass@10.0.0.1/h264?a=b"
    assert found.inputs[3].path == folder / "a.mp4"


def test_a_listed_folder_gives_numbered_names(folder):
    listing = folder / "x.streams"
    listing.write_text(f"clips = {folder}\n")
    assert names(find_all((str(listing),))) == ["clips 1", "clips 2"]


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("", SourceError, "lists no source"),
        ("# nothing\n", SourceError, "lists no source"),
        ("demo\nnowhere.mp4\n", SourceError, r"line 2: .*nowhere\.mp4 does not exist"),
        (b"\xff\xfe\x00", SourceError, "it is no UTF-8 text"),
    ],
)
def test_a_wrong_list_says_where(tmp_path, text, error, reason):
    listing = tmp_path / "x.streams"
    listing.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=reason):
        find_all((str(listing),))


def test_too_many_or_none_are_refused():
    with pytest.raises(UsageError, match="streams at once are too many"):
        find_all(("0",) * (MOST_AT_ONCE + 1))
    with pytest.raises(UsageError, match="no source is given"):
        find_all(())


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (Input("url", "rtsp://u:p@h/x", "rtsp://***@h:554/x?a=1"), "rtsp_h_554_x_a_1"),
        (Input("url", "rtsp://h", "Küche/links"), "Küche_links"),
        (Input("camera", "0", "camera 0"), "camera_0"),
        (Input("file", "/a/b.c/d.e.mkv", "/a/b.c/d.e.mkv"), "d_e"),
        (Input("file", "/a/d.mkv", "/a/d.mkv #2"), "d_2"),
        (Input("url", "rtsp://h", ".."), "stream"),
        (Input("url", "rtsp://h", "x" * 300), "x" * 80),
    ],
)
def test_files_have_names_that_go_anywhere(what, name):
    assert safe_name(what) == name


def test_every_stream_has_a_file_of_its_own(tmp_path):
    inputs = [Input("url", "rtsp://h", name) for name in ("a b", "a/b", "A_B", "a_b_2", "c")]
    targets = plan_streams(tmp_path / "new" / "folder", inputs)
    names = [target.stem for target in targets]
    assert names == ["a_b", "a_b_2", "A_B_3", "a_b_2_2", "c"]
    assert (tmp_path / "new" / "folder").is_dir()


def test_a_file_is_no_place_for_several_streams(tmp_path):
    inputs = [Input("url", "rtsp://h", "a"), Input("url", "rtsp://h", "b")]
    with pytest.raises(UsageError, match="2 streams need a folder as --output"):
        plan_streams(tmp_path / "x.mp4", inputs)
    (tmp_path / "taken").write_text("")
    with pytest.raises(SinkError):
        plan_streams(tmp_path / "taken", inputs)
