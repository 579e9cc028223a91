"""Models in int8 and fp16: the same answers, smaller."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (extra [train])")

from streamface.card import InputSpec  # noqa: E402
from streamface.errors import UsageError  # noqa: E402
from streamface.model import Model  # noqa: E402
from streamface.training import export, loop, nets  # noqa: E402
from streamface.training.quantize import convert  # noqa: E402

POINTS = np.array([(5, 6), (11, 6), (8, 9), (5, 12), (10, 12)], np.float32)
SPEC = InputSpec((16, 16), "grey", POINTS, (128.0,), (64.0,))


@pytest.fixture
def model(tmp_path):
    """Write a toy net with two answers and return its cards and crops to feed it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nets.ResidualNet(
        nets.NetConfig(channels=1, classes=5, stem=4, widths=(8, 8), depths=(1, 1))
    )
    crops = torch.randn(96, *SPEC.shape)
    net.train()(crops)  # gives the normalisations something to fold
    validation = loop.ValidationSet(crops, torch.zeros(96, dtype=torch.int64))
    answers = [
        export.Answer("toy", ("a", "b"), validation, {"seed": 0, "metrics": {"old": 1}}),
        export.Answer("toy-more", ("c", "d", "e"), validation, {}, output="more"),
    ]
    export.export(net.eval(), answers, SPEC, tmp_path)
    return [tmp_path / "toy.json", tmp_path / "toy-more.json"], crops.numpy()


@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 0.05), ("fp16", 0.005)])
def test_both_answers_survive(model, tmp_path, precision, tolerance):
    cards, crops = model
    converted = convert(cards, precision, crops, tmp_path / "out")
    assert [card.name for card in converted] == [f"toy-{precision}", f"toy-more-{precision}"]
    for before, card in zip(cards, converted, strict=True):
        first, second = Model.open(before), Model.open(tmp_path / "out" / f"{card.name}.json")
        difference = np.abs(first.predict(crops) - second.predict(crops))
        assert difference.max() < tolerance
        assert card.trained["made_from_sha256"] == first.card.sha256
        assert "metrics" not in card.trained  # they were measured on another file
        first.close()
        second.close()


def test_an_int8_file_holds_int8_weights(model, tmp_path):
    onnx = pytest.importorskip("onnx")
    cards, crops = model
    convert(cards, "int8", crops, tmp_path / "out")
    loaded = onnx.load(tmp_path / "out" / "toy-int8.onnx")
    weights = [
        onnx.numpy_helper.to_array(value)
        for value in loaded.graph.initializer
        if value.data_type == onnx.TensorProto.INT8
    ]
    kernels = [weight for weight in weights if weight.ndim == 4]
    assert kernels
    assert max(np.abs(kernel.astype(int)).max() for kernel in kernels) <= 64  # see reduce_range


def test_cards_of_different_files_are_refused(model, tmp_path):
    cards, crops = model
    (tmp_path / "out").mkdir()
    convert(cards[:1], "fp16", crops, tmp_path / "out")
    with pytest.raises(UsageError, match="different ONNX"):
        convert([cards[0], tmp_path / "out" / "toy-fp16.json"], "int8", crops, tmp_path)
