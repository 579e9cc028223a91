"""Crops made on a device, held to crop_into; their Triton kernel, held to its twin in torch."""

from __future__ import annotations

import importlib
import math
import sys
from contextlib import nullcontext
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

torch = pytest.importorskip("torch", reason="device crops are tensors of torch")

from streamface.backends import device_crops, open_backend  # noqa: E402 - after the skip
from streamface.backends.device_crops import crop_batch  # noqa: E402
from streamface.card import InputSpec, load  # noqa: E402
from streamface.classify import FaceClassifier  # noqa: E402
from streamface.frame import Colour, DevicePlanes, Face, Frame, Planes  # noqa: E402
from streamface.model import Model, card_path  # noqa: E402
from streamface.preprocess import crop_into  # noqa: E402
from streamface.stages import Classify  # noqa: E402

POINTS = np.array([(3, 3), (7, 3), (5, 5), (3.5, 7), (6.5, 7)], np.float32)
GREY = InputSpec((10, 9), "grey", POINTS, (128.0,), (64.0,))
RGB = InputSpec((10, 9), "rgb", POINTS, (120.0, 110.0, 100.0), (60.0, 61.0, 62.0))
LEVELS = {
    "grey": InputSpec((10, 9), "grey", POINTS, (0.0,), (1.0,)),
    "rgb": InputSpec((10, 9), "rgb", POINTS, (0.0,) * 3, (1.0,) * 3),
}
# Half a level of 255: the shares of crop_into's fast path, times a colour matrix.
HALF_A_LEVEL = 0.5


# The interpreter's fixture puts the kernel in its place.
crop_with_torch = device_crops._crop_in_groups


def noise(size_px, colour, seed):
    rng = np.random.default_rng(seed)
    planes = Planes.allocate(size_px, colour)
    for plane in (planes.y, planes.u, planes.v):
        plane[:] = rng.integers(0, 256, plane.shape)
    return planes


def on_device(planes, layout):
    """Return planes as tensors: in planes, in pairs, or in pairs of rows with padding."""
    y, u, v = (torch.from_numpy(plane) for plane in (planes.y, planes.u, planes.v))
    if layout == "planar":
        return DevicePlanes((y, u, v), planes.colour)
    padding = 7 if layout == "padded" else 0
    rows = torch.zeros(y.shape[0], y.shape[1] + padding, dtype=torch.uint8)
    pairs = torch.zeros(u.shape[0], u.shape[1] + padding, 2, dtype=torch.uint8)
    held_y, held_uv = rows[:, : y.shape[1]], pairs[:, : u.shape[1]]
    held_y[:] = y
    held_uv[:] = torch.stack((u, v), 2)
    return DevicePlanes((held_y, held_uv), planes.colour)


def placed(angle, scale, shift):
    turn = scale * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return (POINTS @ turn.T + shift).astype(np.float32)


def on_host(planes, landmarks, spec):
    out = np.empty((len(landmarks), *spec.shape), np.float32)
    for slot, each, points in zip(out, planes, landmarks, strict=True):
        crop_into(each, points, spec, slot)
    return out


FACES = st.lists(
    st.builds(
        placed,
        st.floats(-3.1, 3.1),
        st.floats(0.05, 40),
        st.tuples(st.floats(-60, 150), st.floats(-60, 150)),
    ),
    min_size=1,
    max_size=4,
)
PICTURES = st.builds(
    noise,
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.builds(Colour, st.sampled_from(["bt601", "bt709", "bt2020"]), st.booleans()),
    st.integers(0, 9),
)
INSIDE = (noise((90, 80), Colour("bt709"), 0), [placed(0.3, 3.0, (25.0, 22.0))])


@settings(max_examples=50, deadline=None)
@given(
    colour=st.sampled_from(["grey", "rgb"]),
    picture=PICTURES,
    other=PICTURES,
    faces=FACES,
    layout=st.sampled_from(["planar", "pairs", "padded"]),
)
@example("grey", INSIDE[0], INSIDE[0], INSIDE[1], "pairs")
@example("rgb", INSIDE[0], INSIDE[0], INSIDE[1] * 2, "planar")
@example("rgb", INSIDE[0], INSIDE[0], [placed(0, 1, (1e6, -1e6))], "pairs")
def test_the_device_sees_what_the_host_sees(colour, picture, other, faces, layout):
    """Faces of two frames, of any size and angle, in or half out of them, in any colours."""
    spec = LEVELS[colour]
    frames = [on_device(picture, layout), on_device(other, layout)]
    planes = [(picture, other)[face % 2] for face in range(len(faces))]
    landmarks = np.stack(faces)
    held = [frames[face % 2] for face in range(len(faces))]
    expected = on_host(planes, landmarks, spec)
    exact = torch.empty(expected.shape)
    assert crop_batch(held, landmarks, spec, exact) is exact
    np.testing.assert_allclose(exact.numpy(), expected, atol=HALF_A_LEVEL)
    rounded = crop_batch(held, landmarks, spec)
    assert rounded.dtype == torch.uint8
    assert torch.equal(rounded, (exact + 0.5).floor().to(torch.uint8))


@pytest.mark.parametrize("spec", [GREY, RGB])
def test_normalised_crops_are_the_hosts(spec):
    picture, faces = INSIDE
    out = torch.empty((1, *spec.shape))
    crop_batch([on_device(picture, "pairs")], np.stack(faces), spec, out)
    expected = on_host([picture], np.stack(faces), spec)
    np.testing.assert_allclose(out.numpy(), expected, atol=HALF_A_LEVEL / 60)


def test_far_into_a_large_frame_positions_stay_exact():
    """At 8000 pixels from the corner float32 alone would be out by a thousandth of a pixel."""
    picture = Planes.allocate((8100, 60), Colour(full_range=True))
    picture.y[:] = np.where(np.arange(8100) % 2, 255, 0)
    picture.u[:] = picture.v[:] = 128
    landmarks = np.stack([placed(0.0, 1.0, (shift, 20.0)) for shift in (8051.25, 3.25)])
    out = torch.empty((2, *LEVELS["grey"].shape))
    crop_batch([on_device(picture, "planar")] * 2, landmarks, LEVELS["grey"], out)
    apart = (out[0] - out[1]).abs().max()
    # The landmarks of one are 3, of the other 8051 pixels in: their own float32 differs a little.
    assert apart < 0.2


def test_planes_of_pyav_are_read_where_they_lie():
    """As NVDEC's are, but for the device: DLPack of a padded NV12 frame, no copy."""
    frame = av.VideoFrame(70, 48, "nv12")
    rng = np.random.default_rng(3)
    for plane in frame.planes:
        memory = np.frombuffer(memoryview(plane), np.uint8)
        memory[:] = rng.integers(0, 256, memory.size)
    held = DevicePlanes(tuple(frame.planes), Colour("bt709"))
    views = device_crops._views(held)
    assert views.y.data_ptr() == frame.planes[0].buffer_ptr
    assert views.v.data_ptr() == frame.planes[1].buffer_ptr + 1
    split = Planes(*(each.contiguous().numpy() for each in (views.y, views.u, views.v)))
    landmarks = np.stack([placed(0.2, 2.0, (20, 10))])
    crops = crop_batch([held], landmarks, RGB)
    assert torch.equal(crops, crop_batch([on_device(split, "planar")], landmarks, RGB))
    del frame, held
    assert int(views.y.sum()) > 0  # the view holds the frame's memory


def test_wrong_planes_crops_and_landmarks_are_refused():
    good = on_device(noise((20, 20), Colour(), 0), "planar")
    one = POINTS[None]
    y, u, v = good.planes
    for planes, landmarks, message in (
        ([], POINTS[None], r"landmarks_px must be \(1, 5, 2\)"),
        ([good, good], one, r"landmarks_px must be \(2, 5, 2\)"),
        ([DevicePlanes((y, u))], one, "chroma must be"),
        ([DevicePlanes((y, u[:5], v))], one, "planes must be 4:2:0"),
        ([DevicePlanes((y, u.int(), v))], one, "planes must be uint8"),
        ([DevicePlanes((y.T, u, v))], one, "rows of luma must be dense"),
        ([DevicePlanes((y.to("meta"), u, v))], one, "planes must be on one device"),
        ([good], one * np.float32(np.nan), "do not span"),
    ):
        with pytest.raises(ValueError, match=message):
            crop_batch(planes, landmarks, GREY)
    for out in (
        torch.empty((1, 1, 10, 9)),
        torch.empty((1, 1, 9, 10), dtype=torch.float64),
        torch.empty((1, 1, 10, 9)).swapaxes(2, 3),
    ):
        with pytest.raises(ValueError, match=r"out must be \(1, 1, 9, 10\) uint8 or float32"):
            crop_batch([good], one, GREY, out)


class OnTheDevice:
    """The shipped CPU backend in the dress of one that takes grey levels from a device."""

    def __init__(self, backend, spec):
        self._backend = backend
        self._mean, self._std = (np.reshape(each, (-1, 1, 1)) for each in (spec.mean, spec.std))
        self.max_batch = 2
        self.provider = "a stand-in"
        self.input_dtype = np.dtype(np.float32)
        self.on_gpu = True
        self.rows = []

    def run(self, batch):
        self.rows.append(0)
        return self._backend.run(batch)

    def run_tensor(self, crops):
        assert crops.dtype == torch.uint8
        self.rows.append(len(crops))
        batch = ((crops.numpy() - self._mean) / self._std).astype(np.float32)
        return self._backend.run(np.ascontiguousarray(batch))

    def warm_up(self):
        self._backend.warm_up()

    def close(self):
        self._backend.close()


def frames_with_faces(held):
    """Return frames of three faces each; of them the first ``held`` are on the device too."""
    picture = Planes.from_rgb(astronaut())
    spread = np.array([(200, 80), (250, 82), (226, 110), (206, 135), (245, 136)], np.float32)
    places = [spread, spread + 20, spread * np.float32(0.5) + 90]
    faces = tuple(
        Face((0, 0, 9, 9), points, 1.0, track_id=number) for number, points in enumerate(places)
    )
    return [
        Frame(
            0,
            index,
            index * 10,
            Fraction(1, 30),
            picture,
            faces=faces,
            device=on_device(picture, "pairs") if index < held else None,
        )
        for index in range(2)
    ]


@pytest.mark.parametrize(("held", "rows"), [(2, [2, 2, 2]), (1, [0, 0, 0]), (0, [0, 0, 0])])
def test_a_classifier_cuts_faces_where_all_their_frames_are(held, rows):
    """Its readings are those of the host, to what rounding to a level makes of them."""
    path = card_path("emotion")
    card = load(path)
    backend = OnTheDevice(open_backend(path), card.input)
    frames, plain = frames_with_faces(held), frames_with_faces(0)
    emotion = Model(card, backend)
    Classify(FaceClassifier(emotion, None)).process(frames)
    FaceClassifier(Model(card, open_backend(path)), None).classify(plain)
    assert backend.rows == rows
    for frame, other in zip(frames, plain, strict=True):
        assert frame.device is None
        for face, same in zip(frame.faces, other.faces, strict=True):
            np.testing.assert_allclose(face.emotion.probs, same.emotion.probs, atol=0.02)
    emotion.close()


def test_a_backend_of_arrays_is_not_given_tensors():
    model = Model.open("emotion")
    assert not model.takes_tensors
    with pytest.raises(TypeError, match="takes crops as NumPy arrays"):
        model.predict(torch.zeros((1, *model.card.input.shape)))
    model.close()


@pytest.fixture
def kernel_module(monkeypatch, tmp_path):
    """Return a function that imports the kernel afresh, for the interpreter or for a compiler."""
    pytest.importorskip("triton", reason="needs triton, which runs and compiles the kernel")
    name = "streamface.backends.crop_kernel"

    def load(*, interpreted):
        monkeypatch.setenv("TRITON_INTERPRET", "1" if interpreted else "0")
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    yield load
    sys.modules.pop(name, None)


@pytest.fixture
def interpreted(monkeypatch, kernel_module):
    """Make crop_batch use the kernel, run by Triton's interpreter on the CPU."""
    kernel_module(interpreted=True)
    monkeypatch.setattr(device_crops, "_crop_in_groups", device_crops.crop_in_one_kernel)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)  # torch refuses to make a CPU current


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    colour=st.sampled_from(["grey", "rgb"]),
    picture=PICTURES,
    other=PICTURES,
    faces=FACES,
    layout=st.sampled_from(["planar", "pairs", "padded"]),
)
@example("rgb", INSIDE[0], INSIDE[0], INSIDE[1] * 2, "padded")
@example("grey", INSIDE[0], INSIDE[0], [placed(0, 1, (1e6, -1e6))], "pairs")
def test_the_kernel_does_what_torch_does(  # noqa: PLR0917 - hypothesis fills them
    interpreted, colour, picture, other, faces, layout
):
    """Half a level against the host, as torch; a thousandth against torch's own."""
    spec = {"grey": GREY, "rgb": RGB}[colour]
    frames = [on_device(picture, layout), on_device(other, layout)]
    held = [frames[face % 2] for face in range(len(faces))]
    landmarks = np.stack(faces)
    by_kernel = torch.empty((len(faces), *spec.shape))
    crop_batch(held, landmarks, spec, by_kernel)
    levels = crop_batch(held, landmarks, spec)
    views = [device_crops._views(each) for each in held]
    by_torch = torch.empty_like(by_kernel)
    placing = device_crops._place(held, views, landmarks, spec)
    crop_with_torch(views, placing, spec, by_torch)
    std = torch.tensor(spec.std)[:, None, None]
    assert ((by_kernel - by_torch) * std).abs().max() < 0.001
    mean = torch.tensor(spec.mean)[:, None, None]
    assert (levels - (by_torch * std + mean)).abs().max() < 0.5 + 0.001


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rounded", [False, True])
def test_the_kernel_compiles_for_an_nvidia_gpu(kernel_module, channels, rounded):
    """The interpreter takes Python that the compiler refuses; the compiler needs no GPU."""
    kernel = kernel_module(interpreted=False)
    import triton
    from triton.backends.compiler import GPUTarget

    constants = {
        "channels": channels, "height": 48, "width": 48, "rounded": rounded, "block": 128
    }  # fmt: skip
    signature = {
        "ints": "*i64",
        "floats": "*fp32",
        "gains": "*fp32",
        "out": "*u8" if rounded else "*fp32",
        "ints_a_face": "i32",
        "floats_a_face": "i32",
        **dict.fromkeys(constants, "constexpr"),
    }
    source = triton.compiler.ASTSource(kernel._crop_faces, signature, constants)
    options = {"enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert "_crop_faces" in compiled.asm["ptx"]
