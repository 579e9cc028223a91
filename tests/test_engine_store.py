"""Engines are found by all that they are bound to, and are whole or not there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading

import pytest

from streamface.card import load
from streamface.engines import store as stores
from streamface.engines.gpu import Gpu
from streamface.engines.store import EngineRecord, EngineStore, key_for, rebuild_line
from streamface.errors import ModelError, SinkError
from streamface.model import card_path

ADA = Gpu(0, "NVIDIA GeForce RTX 4090", (8, 9), 24 << 30, "580.159")
CARD = load(card_path("emotion"))
PLAN = b"an engine" * 100


def key(on=ADA, **changes):
    made = key_for(
        CARD, flavour="tensorrt_rtx", version="1.7.1", precision="fp16", gpu=on, batches=(8, 64)
    )
    return dataclasses.replace(made, **changes)


def record(a_key, plan=PLAN):
    digest = hashlib.sha256(plan).hexdigest()
    return EngineRecord(key=a_key, sha256=digest, size_bytes=len(plan), build_s=0.5)


def saved(folder, a_key, plan=PLAN):
    store = EngineStore(folder)
    with store.lock(a_key):
        return store.save(record(a_key, plan), plan)


def test_an_engine_is_found_again_and_its_name_says_what_it_is(tmp_path):
    kept = saved(tmp_path / "new", key())
    assert kept.path.name == "emotion.nvidia-geforce-rtx-4090.tensorrt-rtx-1.7.1.fp16.engine"
    store = EngineStore(tmp_path / "new")
    found = store.find(key(max_batch=1, opt_batch=1))
    assert found == kept
    assert store.read(found) == PLAN
    assert found.key.max_batch == 64


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"onnx_sha256": "f" * 64}, "made of the ONNX ffffffffffff, not"),
        ({"graph": 0}, "made by graph version 0, not 1"),
        ({"flavour": "tensorrt"}, "made for tensorrt, not tensorrt_rtx"),
        ({"version": "1.6.0"}, "made by TensorRT 1.6.0, not 1.7.1"),
        ({"precision": "fp32"}, "of precision fp32, not fp16"),
        ({"gpu": "NVIDIA A10"}, "made for NVIDIA A10, not NVIDIA GeForce RTX 4090"),
        ({"compute_capability": "8.6"}, "made for compute capability 8.6, not 8.9"),
        ({"driver": "570.1"}, "made under driver 570.1, not 580.159"),
    ],
)
def test_a_foreign_or_stale_engine_is_refused_and_told(tmp_path, changed, why):
    saved(tmp_path, key(**changed))
    assert why in EngineStore(tmp_path).find(key())


def test_another_models_engine_is_none(tmp_path):
    saved(tmp_path, key(model="gender"))
    assert EngineStore(tmp_path).find(key()) == f"no engine for emotion in {tmp_path}"
    assert "no engine" in EngineStore(tmp_path / "missing").find(key())


def test_the_nearest_misfit_is_told(tmp_path):
    saved(tmp_path, key(gpu="NVIDIA A10", compute_capability="8.6", driver="1"))
    saved(tmp_path, key(version="1.6.0"))
    assert "TensorRT 1.6.0" in EngineStore(tmp_path).find(key())


def test_an_engine_for_any_card_fits_and_the_cards_own_is_preferred(tmp_path):
    anywhere = saved(tmp_path, key(on=None))
    assert anywhere.path.name.split(".")[1] == "any"
    assert EngineStore(tmp_path).find(key()) == anywhere
    own = saved(tmp_path, key())
    assert EngineStore(tmp_path).find(key()) == own


def test_a_damaged_engine_is_refused_with_the_line_that_rebuilds_it(tmp_path):
    kept = saved(tmp_path, key())
    kept.path.write_bytes(PLAN[:-1])
    with pytest.raises(ModelError, match="damaged .*models build emotion --flavour tensorrt-rtx"):
        EngineStore(tmp_path).read(kept)
    kept.path.unlink()
    with pytest.raises(ModelError, match="cannot read the engine"):
        EngineStore(tmp_path).read(kept)


def test_an_engine_that_is_replaced_while_it_is_read_is_read_again(tmp_path):
    before = saved(tmp_path, key())
    saved(tmp_path, key(), b"newer")
    assert EngineStore(tmp_path).read(before) == b"newer"


def test_files_of_others_are_passed_over(tmp_path):
    (tmp_path / "judge.json").write_text('{"name": "judge"}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "odd.json").write_text(json.dumps({"key": {"model": "emotion"}}))
    assert EngineStore(tmp_path).records() == ()


def test_a_failed_write_leaves_the_former_engine(tmp_path, monkeypatch):
    kept = saved(tmp_path, key())

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(SinkError, match="No space left"):
        saved(tmp_path, key(), b"newer")
    monkeypatch.undo()
    assert EngineStore(tmp_path).read(kept) == PLAN
    assert not list(tmp_path.glob("*.part*"))


def test_two_never_build_the_same_engine_at_once(tmp_path):
    store, order = EngineStore(tmp_path), []
    inside, leave = threading.Event(), threading.Event()

    def first():
        with store.lock(key()):
            inside.set()
            leave.wait(10)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(10)
    threading.Timer(0.05, leave.set).start()
    with EngineStore(tmp_path).lock(key()):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_that_is_never_given_back_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_LOCK_S", 0.05)
    with (
        EngineStore(tmp_path).lock(key()),
        pytest.raises(SinkError, match="is a build stuck"),
        EngineStore(tmp_path).lock(key()),
    ):
        pytest.fail("two held one lock")


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SinkError, match="cannot write to"),
        EngineStore(tmp_path / "file" / "engines").lock(key()),
    ):
        pytest.fail("a lock in a file")


def test_the_folder_is_the_variables_or_the_checkouts(tmp_path, monkeypatch):
    monkeypatch.setenv("STREAMFACE_ENGINES", str(tmp_path))
    assert EngineStore().folder == tmp_path
    monkeypatch.delenv("STREAMFACE_ENGINES")
    assert EngineStore().folder.name == "engines"


def test_the_line_that_rebuilds_is_one_that_the_command_takes():
    from streamface.cli import _parsed

    line = rebuild_line(key()).split("`")[1].split()
    arguments = _parsed(line[1:])
    assert (arguments.models, arguments.flavour) == (["emotion"], "tensorrt_rtx")
    assert (arguments.precision, arguments.max_batch) == ("fp16", 64)
