"""The torch backend: what it gives, what it refuses, and its buckets with a stand-in for a GPU."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch runtime needs torch (extra [torch])")
pytest.importorskip("onnx", reason="the torch runtime needs onnx (extra [torch])")

from streamface import card as cards  # noqa: E402
from streamface.backends import TensorBackend, torch_backend, torch_buckets  # noqa: E402
from streamface.backends.onnx_runtime import ort  # noqa: E402
from streamface.backends.torch_backend import TorchBackend  # noqa: E402
from streamface.backends.torch_buckets import BucketedNet, CudaRecorder, Recording  # noqa: E402
from streamface.errors import BackendUnavailable, ModelError, UsageError  # noqa: E402
from streamface.model import card_path  # noqa: E402

SHIPPED = ("emotion", "gender", "vqvae", "vqvae-prior")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fed(card, rows, seed=0):
    """Return smooth uint8 crops and the conditions of a card."""
    rng = np.random.default_rng(seed)
    channels, side, _ = card.input.shape
    cells = rng.integers(0, 256, (rows, channels, 8, 8), dtype=np.uint8)
    crops = cells.repeat(side // 8, 2).repeat(side // 8, 3)
    shapes = card.conditions.values()
    return crops, [rng.standard_normal((rows, *shape)).astype(np.float32) for shape in shapes]


def expected(name, crops, conditions):
    """Return what ONNX Runtime makes of the same crops, normalised as their card says."""
    path = card_path(name)
    card = cards.load(path)
    mean, std = (np.float32(v)[:, None, None] for v in (card.input.mean, card.input.std))
    session = ort.InferenceSession(cards.read_onnx(card, path))
    feeds = {"crops": (crops - mean) / std, **dict(zip(card.conditions, conditions, strict=True))}
    return session.run(list(card.outputs), feeds)


@pytest.mark.parametrize("name", SHIPPED)
def test_grey_levels_give_what_onnx_runtime_gives(name):
    card = cards.load(card_path(name))
    crops, conditions = fed(card, 5)
    backend = TorchBackend(card_path(name))
    found = backend.run(crops, *conditions)
    # Grey levels of pictures; a code that is told otherwise (two scores as good as equal) would
    # change its patch by more. With these crops none is.
    tolerance = 1e-4 if card.kind == "classifier" else 0.05
    for one, other in zip(expected(name, crops, conditions), found, strict=True):
        assert (other.dtype, other.flags.c_contiguous) == (np.float32, True)
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance)
    on_device = backend.run_tensor(torch.from_numpy(crops), *conditions)
    for one, other in zip(found, on_device, strict=True):
        np.testing.assert_array_equal(one, other)
    backend.close()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", SHIPPED)
def test_no_number_is_read_back_from_a_tensor(name, half):
    """Tensors on "meta" have no content: a net that needs one cannot be captured, and raises."""
    card = cards.load(card_path(name))
    net = torch_backend._net(card, card_path(name), half=half).to("meta")
    crops = torch.empty(4, *card.input.shape, dtype=torch.uint8, device="meta")
    told = [torch.empty(4, *shape, device="meta") for shape in card.conditions.values()]
    for output in net(crops, *told):
        assert output.dtype == torch.float32
        assert output.is_contiguous()
        assert len(output) == 4


def test_it_says_what_it_is_and_takes_what_the_protocol_says():
    backend = TorchBackend(card_path("emotion"))
    version = torch.__version__.split("+")[0]
    assert backend.provider == f"torch {version} fp32 CPU"
    assert backend.max_batch == 16
    assert backend.input_dtype == np.uint8
    assert isinstance(backend, TensorBackend)
    crops, _ = fed(cards.load(card_path("emotion")), 16)
    crops.setflags(write=False)
    (logits,) = backend.run(crops)
    (backwards,) = backend.run(crops[::-1])
    np.testing.assert_allclose(backwards[::-1], logits, atol=1e-5)
    backend.close()


@pytest.mark.parametrize(
    ("crops", "conditions", "message"),
    [
        (np.zeros((0, 3, 64, 64), np.uint8), [], r"must be \(1\.\.16, 3, 64, 64\) uint8, not \(0,"),
        (np.zeros((17, 3, 64, 64), np.uint8), [], r"batch must be .*not \(17, 3, 64, 64\) uint8"),
        (np.zeros((1, 3, 64, 65), np.uint8), [], r"batch must be .*not \(1, 3, 64, 65\)"),
        (np.zeros((3, 64, 64), np.uint8), [], r"batch must be .*not \(3, 64, 64\)"),
        (np.zeros((1, 3, 64, 64), np.float32), [], "batch must be .* float32"),
        (np.zeros((1, 3, 64, 64), np.uint8), [], "0 conditions were given; the model takes: emoti"),
        (np.zeros((1, 3, 64, 64), np.uint8), [(2, 7)], r"emotions must be \(1, 7\) float32"),
    ],
)
def test_wrong_shapes_are_refused(crops, conditions, message):
    backend = TorchBackend(card_path("vqvae"))
    told = [np.zeros(shape, np.float32) for shape in conditions]
    with pytest.raises(ValueError, match=message):
        backend.run(crops, *told)
    with pytest.raises(ValueError, match=message):
        backend.run_tensor(torch.from_numpy(crops), *told)
    backend.close()


def test_a_closed_backend_says_so_and_may_be_closed_again():
    backend = TorchBackend(card_path("emotion"))
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="the backend is closed"):
        backend.run(np.zeros((1, 1, 48, 48), np.uint8))


@pytest.mark.parametrize("name", ["emotion-int8", "gender-int8", "vqvae-int8", "vqvae-prior-int8"])
def test_quantised_models_are_refused(name):
    plain = name.removesuffix("-int8")
    wanted = f"'{name}': the torch runtime runs float32 models; use {plain} without -int8"
    with pytest.raises(UsageError, match=wanted):
        TorchBackend(card_path(name))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"device": "cuda:7"},
            BackendUnavailable,
            r"torch .* sees no device 'cuda:7'; it sees: cpu",
        ),
        ({"device": "tpu"}, BackendUnavailable, "sees no device 'tpu'; it sees: cpu"),
        ({"precision": "fp16"}, UsageError, "fp16 needs a GPU"),
        ({"precision": "int8"}, UsageError, "in fp32 or fp16, not in 'int8'"),
        ({"threads": 0}, ValueError, "threads must be at least 1, not 0"),
    ],
)
def test_what_there_is_not_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        TorchBackend(card_path("emotion"), **options)


def test_a_card_that_says_otherwise_is_refused(tmp_path):
    card = cards.load(card_path("vqvae"))
    shutil.copy(card_path("vqvae").with_suffix(".onnx"), tmp_path)
    cards.save(replace(card, conditions={"emotions": (6,)}), tmp_path / "vqvae.json")
    with pytest.raises(ModelError, match=r"takes .* emotions \(7,\), but its card says .*\(6,\)"):
        TorchBackend(tmp_path / "vqvae.json")


def test_without_onnx_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailable, match=r"needs onnx .*pip install 'streamface\[torch\]'"):
        TorchBackend(card_path("emotion"))


def test_threads_are_its_own(monkeypatch):
    backend = TorchBackend(card_path("emotion"), threads=2)
    used = []
    forward = torch_backend._CropNet.forward
    monkeypatch.setattr(
        torch_backend._CropNet,
        "forward",
        lambda *a: (used.append(torch.get_num_threads()), forward(*a))[1],
    )
    backend.run(np.zeros((1, 1, 48, 48), np.uint8))
    assert used == [2]
    assert torch.get_num_threads() == 1
    elsewhere = []
    other = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert elsewhere == [1]
    backend.close()


def test_what_torch_raises_becomes_one_line(monkeypatch):
    backend = TorchBackend(card_path("emotion"))

    def fail(*_):
        raise kind("Boom\n  at line 3")

    monkeypatch.setattr(torch_backend._CropNet, "forward", fail)
    kind = RuntimeError
    with pytest.raises(BackendUnavailable, match="failed to run 'emotion' on cpu: Boom at line 3$"):
        backend.run(np.zeros((1, 1, 48, 48), np.uint8))
    kind = torch.OutOfMemoryError
    with pytest.raises(BackendUnavailable, match="cpu has too little memory free for 'emotion'"):
        backend.run(np.zeros((1, 1, 48, 48), np.uint8))
    backend.close()


# Buckets, on the CPU: a recording is a pass that is run again on the same buffers -----------------


class StandIn:
    """Does what CudaRecorder does, at once, and checks that it is asked in the right order."""

    def __init__(self, device=None):
        self.device = torch.device("cpu")
        self.log = []
        self.is_active = False

    @contextlib.contextmanager
    def active(self):
        assert not self.is_active
        self.is_active = True
        yield
        self.is_active = False

    def follow(self):
        assert not self.is_active
        self.log.append("follow")

    def pinned(self, shape, dtype):
        return torch.zeros(tuple(shape), dtype=dtype)

    def record(self, work):
        assert self.is_active
        self.log.append("record")
        outputs = tuple(output.clone() for output in work())
        for output in outputs:
            output.fill_(torch.nan)  # a capture computes nothing

        def replay():
            assert self.is_active
            self.log.append("replay")
            for fixed, output in zip(outputs, work(), strict=True):
                fixed.copy_(output)

        return Recording(replay, outputs)

    def wait(self):
        assert self.is_active
        self.log.append("wait")


class Toy:
    """Tells the sum of each crop and what it was told, and remembers the buffers it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, crops, told):
        self.seen.append((len(crops), crops.data_ptr(), told.data_ptr()))
        sums = crops.sum((1, 2, 3), dtype=torch.float32)
        return sums[:, None] + told, crops.float()


def toy(recorder=None, max_batch=16):
    net, recorder = Toy(), recorder or StandIn()
    return BucketedNet(net, [(1, 2, 2), (3,)], recorder, max_batch), net, recorder


def batch(rows, seed):
    rng = np.random.default_rng(seed)
    crops = rng.integers(0, 256, (rows, 1, 2, 2), dtype=np.uint8)
    return crops, rng.standard_normal((rows, 3)).astype(np.float32)


def check(outputs, crops, told):
    sums, copies = outputs
    assert (sums.shape, copies.shape) == (told.shape, crops.shape)
    np.testing.assert_allclose(sums, crops.sum((1, 2, 3), dtype=np.float32)[:, None] + told)
    np.testing.assert_array_equal(copies, crops)


@pytest.mark.parametrize(
    ("count", "rows"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (129, 256), (256, 256)]
)
def test_a_bucket_is_the_next_power_of_two(count, rows):
    assert torch_buckets.bucket(count) == rows


def test_every_batch_gets_its_own_rows_whatever_was_there_before():
    buckets, net, recorder = toy()
    for seed, count in enumerate([8, 5, 1, 16, 3, 4, 2, 1, 7, 16, 9]):
        crops, told = batch(count, seed)
        check(buckets.run(crops, [told]), crops, told)
        assert net.seen[-1][0] == torch_buckets.bucket(count)
        assert recorder.log[-2:] == ["replay", "wait"]
    assert recorder.log.count("record") == 5  # one for each of 1, 2, 4, 8, 16
    # Five recordings read the fronts of the same two buffers.
    assert len({seen[1:] for seen in net.seen}) == 1


def test_rows_that_fill_a_batch_up_are_harmless():
    """They hold zeros, or what an earlier batch brought: never memory of no known content."""
    buckets, _, _ = toy()
    crops, told = batch(3, 0)
    buckets.run(crops, [told])
    assert not buckets._fixed[0][3:].any()
    assert not buckets._fixed[1][3:].any()
    more, also = batch(2, 1)
    buckets.run(more, [also])
    np.testing.assert_array_equal(buckets._fixed[0][:3], [*more, crops[2]])


def test_crops_on_the_device_are_copied_after_what_made_them():
    buckets, _, recorder = toy()
    crops, told = batch(6, 0)
    on_device = torch.from_numpy(crops.copy())
    recorder.log.clear()
    check(buckets.run_tensor(on_device, [told]), crops, told)
    assert recorder.log == ["follow", "record", "replay", "wait"]
    on_device.zero_()  # the caller's again
    check(buckets.run_tensor(torch.from_numpy(crops), [told]), crops, told)
    check(buckets.run(crops, [told]), crops, told)


def test_outputs_are_valid_until_the_next_batch():
    buckets, _, _ = toy()
    first, told = batch(2, 0)
    sums, _ = buckets.run(first, [told])
    before = sums.copy()
    second, also_told = batch(2, 1)
    again, _ = buckets.run(second, [also_told])
    assert np.shares_memory(sums, again)
    assert not np.array_equal(before, sums)


def test_a_recording_that_fails_is_made_again():
    class Moody(StandIn):
        fails = True

        def record(self, work):
            if self.fails:
                self.is_active = False  # as a context that is left by the error
                raise RuntimeError("no memory")
            return super().record(work)

    buckets, _, recorder = toy(Moody())
    crops, told = batch(2, 0)
    with pytest.raises(RuntimeError, match="no memory"):
        buckets.run(crops, [told])
    recorder.fails = False
    check(buckets.run(crops, [told]), crops, told)


@pytest.fixture
def pretended(monkeypatch):
    """Have torch see one GPU, which is the CPU."""
    monkeypatch.setattr(torch_backend, "CudaRecorder", StandIn)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_whole_model_in_buckets(pretended, name, precision):
    card = cards.load(card_path(name))
    backend = TorchBackend(card_path(name), device="cuda:0", precision=precision)
    assert backend.provider.endswith(f"{precision} on a GPU")
    assert backend.max_batch == 256
    for seed, rows in enumerate((3, 1)):
        crops, conditions = fed(card, rows, seed)
        found = backend.run(crops, *conditions)
        for one, other in zip(expected(name, crops, conditions), found, strict=True):
            assert (other.shape, other.dtype) == (one.shape, np.float32)
            if precision == "fp16" and card.kind != "classifier":
                # Rounding tells some codes otherwise, so only the pictures as a whole are alike.
                assert np.abs(other - one).mean() < 2
            else:
                tolerance = 0.02 if precision == "fp16" else 1e-4 + 0.05 * (len(one.shape) == 4)
                np.testing.assert_allclose(other, one, rtol=0, atol=tolerance)
    with pytest.raises(ValueError, match="crops must be on cuda:0, not on cpu"):
        backend.run_tensor(torch.from_numpy(crops), *conditions)
    backend.close()
    with pytest.raises(ValueError, match="is closed"):
        backend.run(crops, *conditions)


def test_other_devices_than_those_seen_are_named(pretended):
    with pytest.raises(BackendUnavailable, match="no device 'cuda:1'; it sees: cpu, cuda:0"):
        TorchBackend(card_path("emotion"), device="cuda:1")


class FakeCuda:
    """The part of torch.cuda that CudaRecorder uses: it notes who calls what, where."""

    def __init__(self, monkeypatch):
        self.log = []
        for name in ("Stream", "CUDAGraph", "graph_pool_handle", "device", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"current of {device}")

    def Stream(self, device):  # noqa: N802 - torch's own name
        log = self.log

        class Stream:
            def synchronize(self):
                log.append("synchronize")

            def wait_stream(self, other):
                log.append(f"wait for {other}")

        return Stream()

    def CUDAGraph(self):  # noqa: N802
        log = self.log

        class Graph:
            def replay(self):
                log.append("replay")

        return Graph()

    def graph_pool_handle(self):
        return "the pool"

    @contextlib.contextmanager
    def device(self, device):
        self.log.append(f"device {device}")
        yield
        self.log.append("device left")

    @contextlib.contextmanager
    def stream(self, stream):
        self.log.append("stream")
        yield
        self.log.append("stream left")

    @contextlib.contextmanager
    def graph(self, graph, **options):
        self.options = options
        self.log.append("capture")
        yield
        self.log.append("captured")


def test_a_cuda_graph_is_captured_after_warm_up_on_its_own_stream(monkeypatch):
    fake = FakeCuda(monkeypatch)
    recorder = CudaRecorder(torch.device("cuda:1"))
    assert fake.log == ["device cuda:1", "device left"]
    fake.log.clear()
    recorder.follow()
    benchmark = torch.backends.cudnn.benchmark
    flags = []

    def work():
        fake.log.append("work")
        flags.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32))
        return (torch.ones(1),)

    with recorder.active():
        replay, outputs = recorder.record(work)
        replay()
        recorder.wait()
    entered, left = ["device cuda:1", "stream"], ["stream left", "device left"]
    captured = ["capture", "work", "captured"]
    assert fake.log == [
        "wait for current of cuda:1",
        *entered,
        *["work"] * 3,
        "synchronize",
        *captured,
        "replay",
        "synchronize",
        *left,
    ]
    assert fake.options == {
        "pool": "the pool",
        "stream": recorder._stream,
        "capture_error_mode": "thread_local",
    }
    assert set(flags) == {(True, False)}
    assert torch.backends.cudnn.benchmark == benchmark
    assert [output.tolist() for output in outputs] == [[1.0]]
