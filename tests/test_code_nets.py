"""The nets on the codes: what they start as, what they may see, and that what ships is the same."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (extra [train])")
onnx = pytest.importorskip("onnx", reason="export needs onnx (extra [train])")

import onnxruntime as ort  # noqa: E402
from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: E402

from streamface import card as cards  # noqa: E402
from streamface.frame import EMOTIONS  # noqa: E402
from streamface.model import Model, card_path  # noqa: E402
from streamface.resynth import Inventor as ShippedInventor  # noqa: E402
from streamface.resynth import Reenactor, asked, expression  # noqa: E402
from streamface.training import (  # noqa: E402
    aligned,
    codenets,
    cpu_graph,
    export_resynth,
    quantize,
    resynthesis,
    sketch,
    teachers,
    vq,
)

SIDE = 64
VQ = vq.VqConfig(side_px=SIDE, codes=32, code_width=8, width=16, depth=1)
EDITOR = codenets.EditorConfig(code_width=8, fine=8, coarse=16, depth=1)
INVENTOR = codenets.InventorConfig(code_width=8, key_width=4, fine=8, coarse=16, style=16, depth=1)
CONFIG = resynthesis.ResynthConfig(epochs=2, batch_size=4, editor=EDITOR, inventor=INVENTOR)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def code_net(config=VQ):
    return vq.VqVae(config).eval().requires_grad_(requires_grad=False)


def crops(count, seed=0):
    """Return smooth pictures in -1..1: noise of 8 x 8 cells."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")


def scenes():
    sign = torch.tensor([[-1.0], [1.0]]).repeat(30, 1)
    small, poses = torch.rand(60, 3, 4, 4) * 2 - 1, torch.rand(60, 2) - 0.5
    return export_resynth.Scenes(small, poses, sign, width=5)


def light():
    return export_resynth.Light(torch.rand(60, 3, 4, 4) * 2 - 1, SIDE)


def inventor():
    """Return one whose axes are not all nothing, as training finds them."""
    net = codenets.Inventor(INVENTOR)
    torch.nn.init.normal_(net.get_buffer("axes"), std=0.1)
    return net


def face_set(net, count=8):
    """Return a set of pictures whose heads look this way and that."""
    pictures = ((crops(count) + 1) * 127.5).round().to(torch.uint8)
    landmarks = np.tile(aligned.landmarks_px(SIDE), (count, 1, 1))
    landmarks[:, 2, 0] += np.linspace(-4, 6, count)
    landmarks[-1] = np.nan  # no face was found
    return resynthesis.face_set(net, pictures, torch.arange(count) % 2, landmarks)


def test_an_editor_starts_by_changing_nothing_and_never_changes_what_nobody_asked_for():
    editor = codenets.Editor(EDITOR)
    vectors = torch.randn(2, 8, 16, 16)
    assert torch.equal(editor(vectors, torch.eye(7)[:2]), vectors)
    torch.nn.init.normal_(editor.leave.weight)
    assert not torch.equal(editor(vectors, torch.eye(7)[:2]), vectors)
    assert torch.equal(editor(vectors, torch.zeros(2, 7)), vectors)


def test_an_inventor_sees_nothing_of_a_face_but_the_plane_of_its_light(tmp_path):
    graph = export_resynth.InventorGraph(code_net(), inventor(), scenes(), light())
    export_resynth.export(graph, "prior", tmp_path, side_px=SIDE, trained={})
    model = ShippedInventor.open(tmp_path / "prior.json")
    plain = crops(3).numpy()
    detail = np.indices((SIDE, SIDE)).sum(0) % 2 - 0.5  # has no mean in any cell
    cells = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)
    cells -= cells @ graph.light.projection.numpy()  # and no plane lies in these
    large = cells.reshape(3, 1, 4, 4).repeat(16, 2).repeat(16, 3)
    told = [np.tile(expression("sad"), (3, 1)), np.zeros(3, np.float32)]
    told.append(np.full((3, 2), 0.1, np.float32))
    keys = model.draw_keys(3, np.random.default_rng(0))
    one = model.stand_in(plain, *told, keys)
    other = model.stand_in((plain + detail + large).astype(np.float32), *told, keys)
    np.testing.assert_allclose(one, other, atol=0.1)
    assert np.abs(model.stand_in(-plain, *told, keys) - one).max() > 1
    assert np.abs(model.stand_in(plain, *told[:2], -told[2], keys) - one).max() > 0.01


def test_an_inventor_is_told_of_no_more_of_a_rare_expression_than_it_has_seen():
    graph = export_resynth.InventorGraph(code_net(), inventor(), scenes(), light())
    told = torch.from_numpy(np.stack([expression(name, 1.0) for name in EMOTIONS]))
    calmed = graph._calmed(told)
    assert calmed.sum(1).allclose(torch.ones(7))
    for name in ("angry", "happy", "sad", "neutral"):
        row = EMOTIONS.index(name)
        assert torch.equal(calmed[row], told[row])
    fear = calmed[EMOTIONS.index("fear")]
    assert fear[EMOTIONS.index("fear")] == pytest.approx(0.6)
    assert fear[EMOTIONS.index("neutral")] == pytest.approx(0.4)


def test_an_invented_face_is_drawn_of_its_scene_alone(tmp_path):
    graph = export_resynth.InventorGraph(code_net(), inventor(), scenes(), light())
    export_resynth.export(graph, "prior", tmp_path, side_px=SIDE, trained={})
    model = ShippedInventor.open(tmp_path / "prior.json")
    rng = np.random.default_rng(0)
    told = (np.tile(expression("sad"), (2, 1)), np.array((-1, 1), np.float32))
    keys, chosen = model.draw_keys(2, rng), model.draw_scenes(2, rng)
    drawn = model.draw(*told, keys, chosen)
    with torch.inference_mode():
        small, poses = graph.scenes(torch.from_numpy(chosen), torch.tensor([[-1.0], [1.0]]))
        vectors = graph.inventor(
            small,
            torch.from_numpy(told[0]),
            torch.from_numpy(told[1])[:, None],
            poses,
            torch.from_numpy(keys),
        )
        net = graph.vqvae
        again = (net.decode(net.codebook(vectors).vectors).clamp(-1, 1) + 1) * 127.5
    np.testing.assert_allclose(drawn, again, atol=0.05)


def test_what_ships_draws_what_the_nets_draw(tmp_path):
    net, editor = code_net(), codenets.Editor(EDITOR)
    torch.nn.init.normal_(editor.leave.weight, std=0.3)
    graph = export_resynth.ReenactorGraph(net, editor)
    export_resynth.export(graph, "vqvae", tmp_path, side_px=SIDE, trained={"data": "none"})
    model = Reenactor.open(tmp_path / "vqvae.json")
    x = crops(20)  # more than one batch of the runtime
    remade = model.remake(x.numpy(), asked("fear", 20))
    with torch.inference_mode():
        made, plain = graph(x, torch.from_numpy(asked("fear", 20)))
        again = (net(x).clamp(-1, 1) + 1) * 127.5
    np.testing.assert_allclose(remade.made, made, atol=0.01)
    np.testing.assert_allclose(remade.plain, plain, atol=0.01)
    np.testing.assert_allclose(plain, again, atol=0.01)
    same = model.remake(x.numpy(), asked("same", 20))
    np.testing.assert_allclose(same.made, same.plain, atol=0.01)
    assert model.remake(x[:0].numpy(), asked("fear", 0)).made.shape == (0, 3, SIDE, SIDE)


def test_int8_draws_nearly_the_same_faces(tmp_path):
    net, editor = code_net(), codenets.Editor(EDITOR)
    torch.nn.init.normal_(editor.leave.weight, std=0.3)
    graph = export_resynth.ReenactorGraph(net, editor)
    export_resynth.export(graph, "vqvae", tmp_path, side_px=SIDE, trained={"data": "none"})
    x = crops(64).numpy()
    emotions = {"emotions": np.eye(7, dtype=np.float32)[np.arange(64) % 7]}
    (card,) = quantize.convert([tmp_path / "vqvae.json"], "int8", x, tmp_path, emotions)
    assert (card.name, card.kind) == ("vqvae-int8", "reenactor")
    whole, small = (Reenactor.open(tmp_path / f"{n}.json") for n in ("vqvae", "vqvae-int8"))
    one, other = (m.remake(x[:8], emotions["emotions"][:8]).plain for m in (whole, small))
    assert np.abs(one - other).mean() < 3
    quantised = onnx.load(tmp_path / "vqvae-int8.onnx")
    weights = {each.name: each for each in quantised.graph.initializer}
    products = [node for node in quantised.graph.node if node.op_type == "MatMul"]
    tables = [weights[node.input[1]] for node in products]  # in full, behind no dequantiser
    assert [tuple(each.dims) for each in tables] == [(8, 32)] * 2


def in_onnx_runtime(model, feeds):
    ready = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return ready.run(None, feeds)


def test_a_graph_rewritten_for_cpus_draws_the_same_faces(tmp_path):
    net, editor = code_net(replace(VQ, width=64)), codenets.Editor(EDITOR)
    torch.nn.init.normal_(editor.leave.weight, std=0.3)
    graph = export_resynth.ReenactorGraph(net, editor)
    export_resynth.export(graph, "vqvae", tmp_path, side_px=SIDE, trained={})
    ready = tmp_path / "ready.onnx"
    quant_pre_process(tmp_path / "vqvae.onnx", ready, skip_symbolic_shape=True)
    model = onnx.load(ready)
    feeds = {"crops": crops(3).numpy(), "emotions": np.eye(7, dtype=np.float32)[:3]}
    before = in_onnx_runtime(model, feeds)
    cpu_graph.rewrite(model)
    onnx.checker.check_model(model, full_check=True)
    for one, other in zip(before, in_onnx_runtime(model, feeds), strict=True):
        assert one.std() > 1
        np.testing.assert_allclose(one, other, atol=0.01)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMul") == kinds.count("ArgMax") == 2
    assert kinds.count("Shape") == 1  # how many faces there are; all else is known
    last = [n for n in model.graph.node if n.op_type in {"Conv", "DepthToSpace"}][-2:]
    assert [node.op_type for node in last] == ["Conv", "DepthToSpace"]
    size = model.ByteSize()
    cpu_graph.rewrite(model)
    assert model.ByteSize() == size  # there is nothing left to do


class Forked(torch.nn.Module):
    """Hands out what it convolves, shuffled, and the scores of which it tells the largest."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Conv2d(8, 1, 3, 1, 1)
        self.codes = torch.nn.Conv2d(32, 5, 1, bias=False)

    def forward(self, x):
        fine = torch.nn.functional.pixel_shuffle(x, 2)
        scores = self.codes(x)
        return self.last(torch.nn.functional.silu(fine)), fine, scores.argmax(1), scores


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_is_rewritten_whose_values_others_take(tmp_path):
    path, x = tmp_path / "forked.onnx", torch.randn(1, 32, 4, 4)
    names = ["picture", "fine", "numbers", "scores"]
    torch.onnx.export(Forked(), (x,), path, input_names=["x"], output_names=names, dynamo=False)
    model = onnx.load(path)
    before = in_onnx_runtime(model, {"x": x.numpy()})
    cpu_graph.rewrite(model)
    for one, other in zip(before, in_onnx_runtime(model, {"x": x.numpy()}), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    kinds = {node.name: node.op_type for node in model.graph.node}
    assert "MatMul" not in kinds.values()
    (telling,) = quantize._telling_codes(model)
    assert kinds[telling] == "Conv"  # which int8 therefore leaves whole


def test_a_card_of_the_other_kind_is_refused(tmp_path):
    graph = export_resynth.ReenactorGraph(code_net(), codenets.Editor(EDITOR))
    export_resynth.export(graph, "vqvae", tmp_path, side_px=SIDE, trained={})
    with pytest.raises(cards.ModelError, match="of kind 'reenactor'; a 'inventor' is needed"):
        ShippedInventor.open(tmp_path / "vqvae.json")


def test_random_scenes_have_the_means_of_their_gender():
    flat = torch.cat((torch.full((40, 3, 4, 4), -0.5), torch.full((40, 3, 4, 4), 0.5)))
    sign = torch.cat((-torch.ones(40, 1), torch.ones(40, 1)))
    poses = 0.2 * sign.expand(-1, 2) + 0.01 * torch.randn(80, 2)
    drawn = export_resynth.Scenes(flat + 0.1 * torch.randn_like(flat), poses, sign, width=5)
    numbers = torch.randn(50, 5)
    for gender in (-1.0, 0.0, 1.0):
        small, turned = drawn(numbers, torch.full((50, 1), gender))
        assert small.mean() == pytest.approx(0.5 * gender, abs=0.05)
        assert turned.mean() == pytest.approx(0.2 * gender, abs=0.02)


def test_keys_of_real_faces_are_standard_and_bring_their_sketches_back():
    net, rng = code_net(), np.random.default_rng(0)
    # Faces that differ in four ways, whatever is told of them; nothing else is left to keys.
    ways = torch.nn.functional.interpolate(torch.randn(4, 3, 8, 8), (SIDE, SIDE), mode="bilinear")
    ways = ways - torch.nn.functional.adaptive_avg_pool2d(ways, 4).repeat_interleave(
        16, 2
    ).repeat_interleave(16, 3)
    mixed = torch.from_numpy(rng.standard_normal((96, 4), np.float32)) @ (0.1 * ways).flatten(1)
    pictures = ((mixed.reshape(-1, 3, SIDE, SIDE) + 1) * 127.5).round().to(torch.uint8)
    landmarks = np.tile(aligned.landmarks_px(SIDE), (96, 1, 1))
    faces = resynthesis.face_set(net, pictures, torch.arange(96) % 2, landmarks)
    made = codenets.Inventor(replace(INVENTOR, key_width=8))
    reader = sketch.KeyReader(8)
    sketch.fit(made, reader, faces.batches(net, 32))
    batch = faces.batch(net, torch.arange(96), torch.zeros(96, dtype=torch.bool))
    keys = reader(batch)
    assert keys.std(0)[:4].numpy() == pytest.approx(1, abs=0.35)
    small = torch.nn.functional.adaptive_avg_pool2d(batch.pictures, codenets.SKETCH_PX)
    of_nobody = made.sketch(sketch.told(batch), torch.zeros_like(keys))
    again = made.sketch(sketch.told(batch), keys)
    assert (again - small).square().mean() < 0.15 * (of_nobody - small).square().mean()


def test_faces_are_posed_as_their_landmarks_lie_and_mirrored_the_other_way():
    faces = face_set(code_net())
    turned = faces.poses[..., 0]
    assert (turned[0, :-1].diff() > 0).all()
    np.testing.assert_allclose(turned[1], -turned[0], atol=1e-6)
    assert faces.poses[0, -1].abs().max() < 0.02


def test_a_teacher_answers_as_the_shipped_model_does():
    path = card_path("emotion")
    card = cards.load(path)
    teacher = teachers.emotion_teacher(card.input.landmarks_px)  # pictures framed as its own crops
    model = Model.open("emotion")
    crops = np.random.default_rng(0).integers(0, 256, (4, 3, *card.input.size_px)).astype(np.uint8)
    grey = np.rint((crops * np.array(teachers.LUMA).reshape(3, 1, 1)).sum(1, keepdims=True))
    x = ((grey - np.array(card.input.mean)) / np.array(card.input.std)).astype(np.float32)
    pictures = torch.from_numpy(np.repeat(grey, 3, 1).astype(np.float32) / 127.5 - 1)
    with torch.inference_mode():
        probs = teachers.calibrated(teacher, teacher(pictures))
    np.testing.assert_allclose(model.predict(x), probs, atol=1e-4)
    model.close()


def test_gradients_reach_the_pictures_that_a_teacher_looks_at():
    teacher = teachers.emotion_teacher(aligned.landmarks_px(SIDE))
    x = crops(2).requires_grad_()
    teacher(x, np.random.default_rng(0)).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("kind", [resynthesis.EditTrainer, resynthesis.InventTrainer])
def test_a_run_writes_what_it_did_and_goes_on_where_it_stopped(kind, tmp_path):
    net = code_net()
    faces = face_set(net)
    assert faces.codes.shape == (2, 8, 16, 16)
    assert faces.expressions.sum(1).allclose(torch.ones(8), atol=1e-5)

    def run(folder, epochs_to_do, *, resume):
        torch.manual_seed(3)
        trainer = kind(net, CONFIG)
        trainer.prepare(faces)
        seen = []
        save = resynthesis.Checkpoint.save

        def stopping(state, run_dir, epochs_done):
            save(state, run_dir, epochs_done)
            seen.append(epochs_done)
            if len(seen) == epochs_to_do:
                raise KeyboardInterrupt

        resynthesis.Checkpoint.save = stopping
        try:
            with pytest.raises(KeyboardInterrupt):
                resynthesis.fit(trainer, faces, faces, net, CONFIG, run_dir=folder, resume=resume)
        finally:
            resynthesis.Checkpoint.save = save
        return torch.load(folder / "checkpoint.pt", weights_only=True)["ema"]

    whole = run(tmp_path / "whole", 2, resume=False)
    run(tmp_path / "parts", 1, resume=False)
    parts = run(tmp_path / "parts", 1, resume=True)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert (tmp_path / "whole" / "preview-002.png").stat().st_size > 100
