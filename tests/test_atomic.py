"""A file appears under its final name whole, or not at all."""

import os
import stat

import pytest

from streamface.atomic import AtomicPath
from streamface.errors import SinkError, UsageError


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_the_file_appears_only_on_publish(tmp_path):
    target = tmp_path / "clip.mp4"
    path = AtomicPath(target)
    path.temporary.write_bytes(b"whole")
    assert not target.exists()
    path.publish()
    path.publish()
    path.discard()
    assert target.read_bytes() == b"whole"
    assert names(tmp_path) == ["clip.mp4"]


def test_the_temporary_name_is_hidden_and_keeps_the_extension(tmp_path):
    path = AtomicPath(tmp_path / ("long" * 60 + ".webm"))
    assert path.temporary.parent == tmp_path
    assert path.temporary.name.startswith(".")
    assert path.temporary.suffix == ".webm"


def test_discard_leaves_nothing(tmp_path):
    path = AtomicPath(tmp_path / "a.csv")
    path.discard()
    path.discard()
    assert names(tmp_path) == []


def test_an_existing_file_is_refused_before_any_work(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        AtomicPath(target)
    assert names(tmp_path) == ["a.csv"]
    assert target.read_text() == "mine"


def test_overwrite_keeps_the_old_file_until_publish(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")
    path = AtomicPath(target, overwrite=True)
    path.temporary.write_text("new")
    assert target.read_text() == "old"
    path.publish()
    assert target.read_text() == "new"


def test_a_file_that_appeared_meanwhile_is_not_clobbered(tmp_path):
    target = tmp_path / "a.csv"
    path = AtomicPath(target)
    target.write_text("theirs")
    with pytest.raises(SinkError, match="appeared"):
        path.publish()
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["a.csv"]


def test_with_overwrite_a_file_that_appeared_meanwhile_is_replaced(tmp_path):
    target = tmp_path / "a.csv"
    path = AtomicPath(target, overwrite=True)
    target.write_text("theirs")
    path.publish()
    assert target.read_text() == ""


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SinkError, match=r"none/a\.csv: its folder does not exist"):
        AtomicPath(tmp_path / "none" / "a.csv")


def test_a_folder_is_no_target(tmp_path):
    with pytest.raises(SinkError, match="it is a folder"):
        AtomicPath(tmp_path, overwrite=True)


def test_a_folder_that_refuses_new_files_is_a_sink_error(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # chmod does not stop root
    with pytest.raises(SinkError, match=r"a\.csv: Permission denied"):
        AtomicPath(tmp_path / "a.csv")


def test_a_folder_that_vanished_is_a_sink_error(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    path = AtomicPath(folder / "a.csv")
    path.temporary.unlink()
    folder.rmdir()
    with pytest.raises(SinkError, match=r"a\.csv: No such file"):
        path.publish()


def test_a_failed_publish_leaves_nothing_under_the_final_name(tmp_path):
    path = AtomicPath(tmp_path / "a.csv")
    path.temporary.unlink()
    with pytest.raises(SinkError, match=r"a\.csv"):
        path.publish()
    assert names(tmp_path) == []


def test_files_get_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        path = AtomicPath(tmp_path / "a.csv")
        path.publish()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o640


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    real = tmp_path / "real" / "a.csv"
    real.parent.mkdir()
    real.write_text("old")
    link = tmp_path / "a.csv"
    link.symlink_to(real)
    path = AtomicPath(link, overwrite=True)
    path.temporary.write_text("new")
    path.publish()
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_device_is_written_directly_and_survives():
    from pathlib import Path

    device = Path(os.devnull)
    path = AtomicPath(device)
    assert path.temporary == device
    path.publish()
    path.discard()
    assert device.is_char_device()
