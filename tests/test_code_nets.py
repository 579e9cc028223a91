"""The nets on the codes: what they start as, what they may see, and that what ships is the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (extra [train])")
onnx = pytest.importorskip("onnx", reason="export needs onnx (extra [train])")

from streamface import card as cards  # noqa: E402
from streamface.model import Model, card_path  # noqa: E402
from streamface.resynth import Inventor as ShippedInventor  # noqa: E402
from streamface.resynth import Reenactor, asked, expression  # noqa: E402
from streamface.training import (  # noqa: E402
    codenets,
    export_resynth,
    quantize,
    resynthesis,
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


def code_net():
    return vq.VqVae(VQ).eval().requires_grad_(requires_grad=False)


def crops(count, seed=0):
    """Return smooth pictures in -1..1: noise of 8 x 8 cells."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")


def thumbs():
    sign = torch.tensor([[-1.0], [1.0]]).repeat(30, 1)
    return export_resynth.Thumbs(torch.rand(60, 3, 4, 4) * 2 - 1, sign, width=5)


def test_an_editor_starts_by_changing_nothing_and_never_changes_what_nobody_asked_for():
    editor = codenets.Editor(EDITOR)
    vectors = torch.randn(2, 8, 16, 16)
    assert torch.equal(editor(vectors, torch.eye(7)[:2]), vectors)
    torch.nn.init.normal_(editor.leave.weight)
    assert not torch.equal(editor(vectors, torch.eye(7)[:2]), vectors)
    assert torch.equal(editor(vectors, torch.zeros(2, 7)), vectors)


def test_an_inventor_sees_nothing_of_a_face_but_the_means_of_16_cells(tmp_path):
    graph = export_resynth.InventorGraph(code_net(), codenets.Inventor(INVENTOR), thumbs())
    export_resynth.export(graph, "prior", tmp_path, side_px=SIDE, trained={})
    model = ShippedInventor.open(tmp_path / "prior.json")
    plain = crops(3).numpy()
    detail = np.indices((SIDE, SIDE)).sum(0) % 2 - 0.5  # has no mean in any cell
    told = (np.tile(expression("sad"), (3, 1)), np.zeros(3, np.float32))
    keys = model.draw_keys(3, np.random.default_rng(0))
    one = model.stand_in(plain, *told, keys)
    other = model.stand_in((plain + detail).astype(np.float32), *told, keys)
    np.testing.assert_allclose(one, other, atol=0.05)
    assert np.abs(model.stand_in(-plain, *told, keys) - one).max() > 1


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
    telling = quantize._telling_codes(quantised)
    assert len(telling) == 2
    made = {node.name: node for node in quantised.graph.node}
    weights = {each.name for each in quantised.graph.initializer}
    assert all(made[name].input[1] in weights for name in telling)  # not behind a dequantiser


def test_a_card_of_the_other_kind_is_refused(tmp_path):
    graph = export_resynth.ReenactorGraph(code_net(), codenets.Editor(EDITOR))
    export_resynth.export(graph, "vqvae", tmp_path, side_px=SIDE, trained={})
    with pytest.raises(cards.ModelError, match="of kind 'reenactor'; a 'inventor' is needed"):
        ShippedInventor.open(tmp_path / "vqvae.json")


def test_random_thumbnails_have_the_means_of_their_gender():
    flat = torch.cat((torch.full((40, 3, 4, 4), -0.5), torch.full((40, 3, 4, 4), 0.5)))
    sign = torch.cat((-torch.ones(40, 1), torch.ones(40, 1)))
    drawn = export_resynth.Thumbs(flat + 0.1 * torch.randn_like(flat), sign, width=5)
    scenes = torch.randn(50, 5)
    assert drawn(scenes, torch.full((50, 1), -1.0)).mean() == pytest.approx(-0.5, abs=0.05)
    assert drawn(scenes, torch.ones(50, 1)).mean() == pytest.approx(0.5, abs=0.05)
    assert drawn(scenes, torch.zeros(50, 1)).mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("name", ["emotion", "gender"])
def test_a_teacher_answers_as_the_shipped_model_does(name):
    path = card_path(name)
    card = cards.load(path)
    make = {"emotion": teachers.emotion_teacher, "gender": teachers.gender_teacher}[name]
    teacher = make(card.input.landmarks_px)  # pictures framed as its own crops
    model = Model.open(name)
    x = np.random.default_rng(0).standard_normal((4, *card.input.shape)).astype(np.float32)
    with torch.inference_mode():
        logits = teacher.net(torch.from_numpy(x))[:, : len(card.labels)]
    probs = torch.softmax(logits / card.temperature, 1)
    np.testing.assert_allclose(model.predict(x), probs, atol=1e-4)
    model.close()


def test_gradients_reach_the_pictures_that_a_teacher_looks_at():
    teacher = teachers.emotion_teacher(resynthesis.landmarks_px(SIDE))
    x = crops(2).requires_grad_()
    teacher(x, np.random.default_rng(0)).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in teacher.parameters())


@pytest.mark.parametrize("kind", [resynthesis.EditTrainer, resynthesis.InventTrainer])
def test_a_run_writes_what_it_did_and_goes_on_where_it_stopped(kind, tmp_path):
    net = code_net()
    pictures = ((crops(8) + 1) * 127.5).round().to(torch.uint8)
    faces = resynthesis.face_set(net, pictures, torch.arange(8) % 2)
    assert faces.codes.shape == (2, 8, 16, 16)
    assert faces.expressions.sum(1).allclose(torch.ones(8), atol=1e-5)

    def run(folder, epochs_to_do, *, resume):
        torch.manual_seed(3)
        trainer = kind(net, CONFIG)
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
