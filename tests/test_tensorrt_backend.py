"""The TensorRT backend, against stand-ins for TensorRT and CUDA that hold it to their rules.

What it cannot show: that the real ones keep to the same rules, and how fast it is.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from inspect import isfunction

import numpy as np
import pytest
from fake_cuda import Error, FakeCuda
from fake_tensorrt import PLAN, DataType, FakeTensorRt, Log, Model, net
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorrt_names import BUILDER, RTX, RUNTIME, missing

from streamface.backends import TensorBackend
from streamface.backends.tensorrt import TensorRtBackend, open_engine
from streamface.card import InputSpec, ModelCard
from streamface.engines.cuda import Cuda
from streamface.engines.flavour import engine_log
from streamface.engines.gpu import gpus
from streamface.errors import BackendUnavailable, ModelError

POINTS = np.array([(15, 18), (32, 18), (24, 28), (17, 36), (31, 36)], np.float32)
CARD = ModelCard(
    name="toy",
    kind="classifier",
    onnx="toy.onnx",
    sha256="0" * 64,
    input=InputSpec((3, 2), "grey", POINTS, (128.0,), (64.0,)),
    outputs=("logits", "picture"),
    labels=("a", "b", "c"),
)
CONDITIONS = {"age": (2,), "mood": (2, 1)}
WITH_CONDITIONS = dataclasses.replace(CARD, conditions=CONDITIONS)


class Bench:
    """A backend with the stand-ins it runs on."""

    def __init__(self, model=None, *, devices=1, device=0, lazy=True, rtx=False):
        self.model = model or Model()
        self.cuda = FakeCuda(devices, lazy=lazy)
        self.trt = FakeTensorRt(self.cuda, self.model, rtx=rtx)
        self.log = Log()
        self.device = device

    def open(self, plan=PLAN):
        card = dataclasses.replace(CARD, conditions=self.model.conditions)
        cuda = Cuda(self.device, self.cuda)
        return TensorRtBackend(plan, card, self.trt, cuda, label="toy 1 fp16", log=self.log)

    def left(self):
        return [*self.cuda.leaks(), *self.trt.contexts]


def crops_of(rng, count):
    return rng.integers(0, 256, (count, *CARD.input.shape), np.uint8)


def conditions_of(rng, count, conditions):
    return tuple(
        rng.integers(-9, 9, (count, *row)).astype(np.float32) for row in conditions.values()
    )


def check(backend, rng, count, conditions=None):
    batch = crops_of(rng, count)
    given_ = conditions_of(rng, count, conditions or {})
    outputs = backend.run(batch, *given_)
    for found, expected in zip(outputs, net(batch, *given_), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


# ---- what comes out


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("largest", [1, 4, 6])
@pytest.mark.parametrize("rtx", [True, False])
def test_every_size_of_batch_gives_what_the_net_gives(lazy, largest, rtx):
    bench = Bench(Model(largest=largest), lazy=lazy, rtx=rtx)
    backend = bench.open()
    rng = np.random.default_rng(1)
    assert backend.max_batch == 4 * largest
    for count in (*range(1, backend.max_batch + 1), 1):
        check(backend, rng, count)
    assert backend.provider == "toy 1 fp16 on Fake GPU 0"  # with CUDA graphs
    backend.close()
    assert bench.left() == []


@pytest.mark.parametrize("lazy", [True, False])
def test_conditions_come_in_the_cards_order(lazy):
    bench = Bench(Model(conditions=CONDITIONS), lazy=lazy)
    backend = bench.open()
    rng = np.random.default_rng(2)
    for count in (1, 3, 4, 11):
        check(backend, rng, count, CONDITIONS)
    backend.close()
    assert bench.left() == []


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    lazy=st.booleans(),
    conditions=st.sampled_from([{}, CONDITIONS]),
    capturable=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_sequence_of_batches_gives_what_the_net_gives(
    counts, lazy, conditions, capturable, seed
):
    model = Model(largest=5, conditions=conditions, capturable=capturable)
    bench = Bench(model, lazy=lazy, rtx=True)
    backend = bench.open()
    rng = np.random.default_rng(seed)
    for count in counts:
        check(backend, rng, count, conditions)
    backend.close()
    assert bench.left() == []


def test_a_batch_need_not_be_contiguous():
    backend = Bench().open()
    batch = crops_of(np.random.default_rng(3), 6)[::2, :, ::-1]
    np.testing.assert_array_equal(backend.run(batch)[0], net(batch)[0])
    backend.close()


def test_rows_that_fill_a_batch_up_are_zeros():
    """What fills a batch up does not depend on earlier calls."""
    bench = Bench()
    backend = bench.open()
    rng = np.random.default_rng(4)
    check(backend, rng, 4)
    check(backend, rng, 3)
    inputs = [
        block.memory
        for block in bench.cuda.blocks.values()
        if block.device is not None and len(block.memory) == 4 * 6
    ]
    assert len(inputs) == 1
    assert inputs[0][:18].any()
    assert not inputs[0][18:].any()
    backend.close()


def test_outputs_may_be_read_after_close():
    bench = Bench()
    backend = bench.open()
    batch = crops_of(np.random.default_rng(5), 2)
    outputs = backend.run(batch)
    backend.close()
    np.testing.assert_array_equal(outputs[1], net(batch)[1])
    del outputs
    assert bench.left() == []


def test_it_says_what_it_runs_on():
    backend = Bench(devices=2, device=1).open()
    assert backend.provider == "toy 1 fp16 on Fake GPU 1"
    assert backend.input_dtype == np.uint8
    assert isinstance(backend, TensorBackend)  # else it would be given no tensors
    backend.close()


# ---- what is made when


def test_a_call_is_one_launch_and_allocates_nothing():
    bench = Bench()
    backend = bench.open()
    rng = np.random.default_rng(6)
    backend.warm_up()
    before = bench.cuda.calls.copy()
    check(backend, rng, 3)
    used = bench.cuda.calls - before
    assert used == {"cudaSetDevice": 1, "cudaGraphLaunch": 1, "cudaStreamSynchronize": 1}
    backend.close()


def test_warming_up_makes_every_size_ready_once():
    bench = Bench(Model(largest=6))
    backend = bench.open()
    assert len(bench.trt.contexts) == 1
    backend.warm_up()
    assert len(bench.trt.contexts) == 4  # 1, 2, 4 and 6
    backend.warm_up()
    assert len(bench.trt.contexts) == 4
    backend.close()


def test_the_second_slot_is_made_when_it_is_first_needed():
    bench = Bench()
    backend = bench.open()
    rng = np.random.default_rng(7)
    check(backend, rng, 4)
    one = bench.cuda.device_bytes
    check(backend, rng, 5)
    assert bench.cuda.device_bytes == 2 * one
    check(backend, rng, 16)
    assert bench.cuda.device_bytes == 2 * one
    backend.close()
    assert bench.cuda.device_bytes == 0


def test_two_chunks_are_under_way_at_a_time(monkeypatch):
    """The second is launched before anybody waits for the first."""
    bench = Bench()
    backend = bench.open()
    rng = np.random.default_rng(8)
    check(backend, rng, 16)
    calls = []
    for name in ("cudaGraphLaunch", "cudaStreamSynchronize"):
        real = getattr(bench.cuda, name)

        def recorded(*args, _real=real, _name=name):
            calls.append(_name == "cudaGraphLaunch")
            return _real(*args)

        recorded.__name__ = name
        monkeypatch.setattr(bench.cuda, name, recorded)
    check(backend, rng, 16)
    launch, wait = True, False
    assert calls == [launch, launch, wait, launch, wait, launch, wait, wait]
    backend.close()


def test_contexts_of_a_slot_share_their_scratch_memory():
    bench = Bench(Model(largest=8, scratch_bytes=4096))
    backend = bench.open()
    before = bench.cuda.device_bytes
    backend.warm_up()
    assert bench.cuda.device_bytes == before
    assert len(bench.trt.scratch_users) == 1
    backend.close()


def test_an_engine_without_scratch_memory_runs():
    backend = Bench(Model(scratch_bytes=0)).open()
    check(backend, np.random.default_rng(9), 3)
    backend.close()


# ---- captures


def refuse_in_captures_of(wanted):
    return lambda rows, capturing: capturing and rows == wanted


def test_a_refused_enqueue_in_the_capture_is_an_error_and_not_old_outputs():
    bench = Bench(Model(refuse=refuse_in_captures_of(4)))
    backend = bench.open()
    rng = np.random.default_rng(10)
    check(backend, rng, 2)
    for _ in range(2):  # no half-made graph is kept
        with pytest.raises(BackendUnavailable, match=r"refused to run a batch of 4: Error Code 3"):
            backend.run(crops_of(rng, 3))
    check(backend, rng, 2)
    assert "no CUDA graph" not in backend.provider
    backend.close()
    assert bench.left() == []


def test_a_refused_enqueue_without_a_capture_is_an_error():
    bench = Bench(Model(refuse=lambda rows, capturing: rows == 4))
    backend = bench.open()
    with pytest.raises(BackendUnavailable, match="refused to run a batch of 4"):
        backend.run(crops_of(np.random.default_rng(11), 4))
    backend.close()
    assert bench.left() == []


@pytest.mark.parametrize("lazy", [True, False])
def test_an_engine_that_spoils_captures_runs_without_a_graph_and_tells(lazy, caplog):
    bench = Bench(Model(spoil_captures=True), lazy=lazy)
    backend = bench.open()
    told = "toy 1 fp16 on Fake GPU 0, no CUDA graph"
    assert backend.provider == told
    assert "for a batch of 1: cuda:0 (Fake GPU 0): cudaStreamEndCapture failed" in caplog.text
    rng = np.random.default_rng(12)
    for count in (1, 2, 3, 4, 9, 16):
        check(backend, rng, count)
    assert backend.provider == told
    assert bench.cuda.calls["cudaGraphLaunch"] == 0
    backend.close()
    assert bench.left() == []


def test_an_engine_that_says_it_cannot_be_captured_is_believed(caplog):
    bench = Bench(Model(capturable=False), rtx=True)
    backend = bench.open()
    assert backend.provider.endswith("GPU 0, no CUDA graph")
    assert "TensorRT says" in caplog.text
    check(backend, np.random.default_rng(13), 3)
    assert bench.cuda.calls["cudaStreamBeginCapture"] == 0
    backend.close()
    assert bench.left() == []


def test_what_other_threads_do_meanwhile_spoils_no_capture():
    bench = Bench()

    def allocate_and_wait():
        cuda = Cuda(0, bench.cuda)
        stream = cuda.new_stream()
        cuda.free(cuda.allocate(1))
        cuda.synchronize(stream)
        cuda.free_stream(stream)

    def in_capture():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(allocate_and_wait).result()

    bench.model.in_capture = in_capture
    backend = bench.open()
    assert "no CUDA graph" not in backend.provider
    check(backend, np.random.default_rng(19), 3)
    backend.close()
    assert bench.left() == []


def test_captures_in_several_threads_do_not_disturb_each_other():
    """Each thread captures, allocates and waits, each capture while the others are in theirs."""
    cuda = FakeCuda(devices=2)
    meet = threading.Barrier(3, timeout=60)
    model = Model(in_capture=meet.wait)

    def work(number):
        bench = Bench(model, device=number % 2)
        bench.cuda, bench.trt = cuda, FakeTensorRt(cuda, model)
        try:
            backend = bench.open()
            rng = np.random.default_rng(number)
            for count in (1, 3, 9):
                check(backend, rng, count)
            backend.close()
        except BackendUnavailable:
            meet.abort()  # the others need not wait for this one
            raise

    with ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(work, number) for number in range(3)]:
            each.result()
    assert cuda.leaks() == []


# ---- threads and devices


def test_it_may_be_opened_run_and_closed_by_different_threads():
    bench = Bench(devices=2, device=1)

    def in_thread(function, *args):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function, *args).result()

    rng = np.random.default_rng(14)
    backend = in_thread(bench.open)
    in_thread(check, backend, rng, 3)
    in_thread(check, backend, rng, 9)
    in_thread(backend.warm_up)
    assert bench.cuda.device == 0  # this thread's own is still another
    backend.close()
    assert bench.left() == []
    assert not bench.trt.ended_elsewhere


def test_two_backends_of_two_gpus_in_one_thread():
    first, second = (Bench(devices=2, device=device) for device in (0, 1))
    second.cuda = first.cuda
    second.trt = FakeTensorRt(first.cuda, second.model)
    backends = [first.open(), second.open()]
    rng = np.random.default_rng(15)
    for backend in (*backends, *backends):
        check(backend, rng, 6)
    for backend in backends:
        backend.close()
    assert first.left() == []


# ---- what is refused


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Model(shape=(3, 2, 3)), r"takes crops \(n, 3, 2, 3\) uint8, but the card .* 1, 2, 3\)"),
        (Model(crops_dtype=DataType.FLOAT), r"takes crops \(n, 1, 2, 3\) float32"),
        (Model(logits_dtype=DataType.HALF), r"logits \(n, 3\) half"),
        (Model(outputs=("logits",)), "gives logits .*says logits, picture"),
        (Model(outputs=("logits", "picture", "more")), r"gives .*more \(n, 1\)"),
        (Model(batch=4), r"takes crops \(fixed, 1, 2, 3\) uint8"),
        (Model(smallest=2), r"batches of \[\(2, 4, 4\)\]"),
    ],
)
def test_an_engine_that_is_not_the_cards_is_refused(model, words):
    bench = Bench(model)
    with pytest.raises(ModelError, match=rf"^toy 1 fp16 on Fake GPU 0: .*{words}.*; rebuild"):
        bench.open()
    assert bench.left() == []


def test_conditions_that_are_not_the_cards_are_refused():
    bench = Bench(Model(conditions={"age": (3,)}))
    cuda = Cuda(0, bench.cuda)
    with pytest.raises(ModelError, match=r"takes age \(n, 3\) float32, crops .*age \(n, 2\)"):
        TensorRtBackend(PLAN, WITH_CONDITIONS, bench.trt, cuda, label="toy", log=bench.log)


def test_inputs_that_take_other_batches_than_the_crops_are_refused():
    bench = Bench(Model(conditions=CONDITIONS, ranges={"age": (1, 8)}))
    with pytest.raises(ModelError, match="one range from 1 on for every input"):
        bench.open()


def test_a_plan_that_tensorrt_cannot_read_is_refused_in_its_words():
    bench = Bench()
    bench.log.lines.append("of an earlier engine")
    with pytest.raises(ModelError) as caught:
        bench.open(b"of another version")
    assert str(caught.value) == (
        "toy 1 fp16 on Fake GPU 0: TensorRT cannot read the engine here: "
        "Error Code 6: the engine plan file is not compatible; rebuild the engine"
    )
    assert bench.left() == []


def test_a_context_that_tensorrt_cannot_make_is_an_error():
    bench = Bench(Model(no_context=True))
    with pytest.raises(BackendUnavailable, match="execution context: Error Code 2: out of memory"):
        bench.open()
    assert bench.left() == []


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (np.zeros((0, 1, 2, 3), np.uint8), r"\(1..16, 1, 2, 3\) uint8, not \(0, 1, 2, 3\)"),
        (np.zeros((17, 1, 2, 3), np.uint8), r"not \(17, 1, 2, 3\)"),
        (np.zeros((1, 3, 2, 3), np.uint8), r"not \(1, 3, 2, 3\)"),
        (np.zeros((1, 1, 2, 3), np.float32), "not .* float32"),
        (np.zeros((1, 2, 3), np.uint8), r"not \(1, 2, 3\)"),
    ],
)
def test_another_batch_is_refused(batch, words):
    backend = Bench().open()
    with pytest.raises(ValueError, match=words):
        backend.run(batch)
    backend.close()


def test_other_conditions_are_refused():
    backend = Bench(Model(conditions=CONDITIONS)).open()
    batch = np.zeros((2, 1, 2, 3), np.uint8)
    age, mood = (np.zeros((2, *row), np.float32) for row in CONDITIONS.values())
    with pytest.raises(ValueError, match="1 conditions were given; the model takes: age, mood"):
        backend.run(batch, age)
    with pytest.raises(ValueError, match=r"age must be \(2, 2\) float32, not \(2, 2, 1\)"):
        backend.run(batch, mood, age)
    with pytest.raises(ValueError, match=r"mood must be .* not \(2, 2, 1\) float64"):
        backend.run(batch, age, mood.astype(float))
    backend.close()


def test_after_close_nothing_runs_and_close_again_is_fine():
    bench = Bench()
    backend = bench.open()
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="the backend is closed"):
        backend.run(np.zeros((1, 1, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="the backend is closed"):
        backend.warm_up()
    assert bench.left() == []


# ---- what fails on the way


def test_a_cuda_error_names_the_gpu_and_the_error():
    bench = Bench()
    backend = bench.open()
    bench.cuda.broken["cudaStreamSynchronize"] = Error.cudaErrorIllegalAddress
    with pytest.raises(BackendUnavailable) as caught:
        backend.run(np.zeros((1, 1, 2, 3), np.uint8))
    assert str(caught.value) == (
        "cuda:0 (Fake GPU 0): cudaStreamSynchronize failed: cudaErrorIllegalAddress: "
        "the text of cudaErrorIllegalAddress"
    )
    backend.close()
    assert bench.left() == []


def test_what_cannot_be_freed_is_logged_and_hides_no_error(caplog):
    bench = Bench()
    backend = bench.open()
    for name in ("cudaSetDevice", "cudaStreamSynchronize", "cudaFree"):
        bench.cuda.broken[name] = Error.cudaErrorIllegalAddress
    backend.close()
    assert "not everything was freed: cuda:0 (Fake GPU 0): cudaFree failed" in caplog.text
    assert {each.split()[0] for each in bench.left()} == {"block"}  # the rest was still tried


def use(bench):
    """Open, run a batch and a large one, close; return whether all went well."""
    backend = None
    try:
        backend = bench.open()
        rng = np.random.default_rng(16)
        check(backend, rng, 3)
        check(backend, rng, 9)
    except BackendUnavailable:
        return False
    else:
        return True
    finally:
        if backend is not None:
            backend.close()


@pytest.mark.parametrize("rtx", [False, True])
def test_wherever_cuda_fails_nothing_stays_allocated(rtx):
    """Each call of a whole life fails once in turn."""
    whole = Bench(rtx=rtx)
    assert use(whole)
    failed = 0
    for number in range(1, whole.cuda.total + 1):
        bench = Bench(rtx=rtx)
        bench.cuda.fail_at = number
        failed += not use(bench)
        assert bench.left() == [], f"call {number}"
    assert failed > whole.cuda.total / 2


def test_after_an_error_in_one_chunk_the_next_call_is_right():
    """The other chunk, still under way, does not get into it."""
    bench = Bench()
    backend = bench.open()
    rng = np.random.default_rng(17)
    check(backend, rng, 16)
    before = bench.cuda.total
    check(backend, rng, 16)
    each = bench.cuda.total - before
    for number in range(1, each + 1):
        bench.cuda.fail_at = bench.cuda.total + number
        with pytest.raises(BackendUnavailable, match="cudaErrorLaunchFailure"):
            backend.run(crops_of(rng, 16))
        check(backend, rng, 16)
        check(backend, rng, 2)
    backend.close()
    assert bench.left() == []


# ---- crops that are on the device


class OnDevice:
    """What torch's tensors have of crops that lie on a GPU."""

    dtype = "torch.uint8"

    def __init__(self, bench, values, where=None):
        self._bench, self._values = bench, values
        self.shape = values.shape
        self.waited = []
        self._where = bench.device if where is None else where
        self._address = None

    def fill(self):
        bench = self._bench
        self._address = bench.cuda.cudaMalloc(self._values.nbytes)[1]
        bench.cuda.at(self._address, self._values.nbytes, bench.device)[:] = self._values.ravel()
        return self

    def free(self):
        self._bench.cuda.cudaFree(self._address)

    def is_contiguous(self):
        return True

    def data_ptr(self):
        return self._address

    def __len__(self):
        return len(self._values)

    def __getitem__(self, rows):
        part = OnDevice(self._bench, self._values[rows])
        part.waited = self.waited
        part._address = self._address + rows.start * self._values[0].nbytes
        return part

    def __dlpack_device__(self):
        return (2, self._where)

    def __dlpack__(self, stream):
        self.waited.append(stream)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("rtx", [True, False])
def test_crops_on_the_device_are_answered_as_those_of_the_host(lazy, rtx):
    bench = Bench(Model(largest=4), lazy=lazy, rtx=rtx)
    backend = bench.open()
    rng = np.random.default_rng(21)
    for count in (1, 3, 4, 9, 16, 2):
        values = crops_of(rng, count)
        crops = OnDevice(bench, values).fill()
        made = backend.run_tensor(crops)
        assert all(map(np.array_equal, made, net(values)))
        del made  # a view of pinned memory, which goes with the last of them
        # Every part has the engine's stream wait for whoever made the crops.
        assert len(crops.waited) == -(-count // 4)
        assert set(crops.waited) <= set(bench.cuda.streams)
        crops.free()
        check(backend, rng, count)  # the host's way is as it was
    backend.close()
    assert bench.left() == []


def test_crops_of_another_kind_or_place_are_refused():
    bench = Bench()
    backend = bench.open()
    values = crops_of(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match="contiguous on cuda:0"):
        backend.run_tensor(OnDevice(bench, values, where=1))
    with pytest.raises(ValueError, match="batch must be"):
        backend.run_tensor(OnDevice(bench, values[:, :, 1:]))
    backend.close()


# ---- opening by flavour


def test_a_flavour_is_loaded_by_name(monkeypatch):
    bench = Bench()
    fakes = {
        "load": lambda name: bench.trt if name == "tensorrt" else None,
        "engine_log": lambda name: bench.log,
        "Cuda": lambda device: Cuda(device, bench.cuda),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(f"streamface.backends.tensorrt.{name}", fake)
    backend = open_engine(PLAN, CARD, "tensorrt", "fp16")
    assert backend.provider == "tensorrt 10.99 fp16 on Fake GPU 0"
    check(backend, np.random.default_rng(18), 2)
    backend.close()


def test_the_real_tensorrt_refuses_a_broken_plan_in_its_own_words():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    log = engine_log("tensorrt_rtx")
    fake = FakeCuda()
    with pytest.raises(ModelError, match=r"TensorRT cannot read the engine here: .*Error Code"):
        TensorRtBackend(b"garbage", CARD, trt, Cuda(0, fake), label="rtx", log=log)
    assert fake.leaks() == []


def test_the_real_tensorrt_has_what_is_used():
    """Names only: without a GPU it makes no engine to run."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    assert missing(trt, BUILDER, RUNTIME, RTX) == []


class RealToo:
    """The stand-in for CUDA, with every call made of the real bindings as well.

    Without a driver those do nothing, but take the same arguments as with one.
    """

    cudaError_t = Error  # noqa: N815 - CUDA's name

    def __init__(self, fake, real):
        self.fake = fake
        self.real = real
        self.made = set()
        copies, captures = real.cudaMemcpyKind, real.cudaStreamCaptureMode
        self.theirs = {
            "in": copies.cudaMemcpyHostToDevice,
            "out": copies.cudaMemcpyDeviceToHost,
            "within": copies.cudaMemcpyDeviceToDevice,
            "thread-local": captures.cudaStreamCaptureModeThreadLocal,
        }

    def translated(self, argument):
        if isinstance(argument, Error):
            return self.real.cudaError_t(int(argument))
        return self.theirs[argument] if isinstance(argument, str) else argument

    def __getattr__(self, name):
        ours = getattr(self.fake, name)
        if not callable(ours):
            return getattr(self.real, name) if isinstance(ours, int) else ours

        def both(*args):
            self.made.add(name)
            made = ours(*args)
            with suppress(RuntimeError):  # before 13 they raise where there is no driver
                told = getattr(self.real, name)(*map(self.translated, args))
                assert told[0] in self.real.cudaError_t
                assert told[1:] == made[1:] or name != "cudaGetErrorName"
            return made

        both.__name__ = name
        return both


@pytest.mark.skipif(bool(gpus()), reason="calls CUDA with addresses that a GPU does not have")
def test_the_real_bindings_of_cuda_take_what_they_are_given():
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    bench = Bench(Model(conditions=CONDITIONS))
    both = RealToo(bench.cuda, real)
    bench.cuda, cuda = both, bench.cuda
    backend = bench.open()
    rng = np.random.default_rng(27)
    check(backend, rng, 3, CONDITIONS)
    bench.cuda = cuda
    crops = OnDevice(bench, crops_of(rng, 2)).fill()
    backend.run_tensor(crops, *conditions_of(rng, 2, CONDITIONS))
    cuda.broken["cudaStreamSynchronize"] = Error.cudaErrorIllegalAddress
    with pytest.raises(BackendUnavailable, match="cudaErrorIllegalAddress"):
        check(backend, rng, 1, CONDITIONS)
    cuda.broken.clear()
    backend.close()
    crops.free()
    del backend
    gc.collect()  # pinned memory goes with the last view of it
    assert bench.left() == []
    assert both.made == {
        name for name, each in vars(FakeCuda).items() if name[:4] == "cuda" and isfunction(each)
    }
