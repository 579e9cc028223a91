"""Training: deterministic, resumable, and fed by the same pixels as inference."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from streamface.card import InputSpec
from streamface.errors import ModelError, SourceError, UsageError
from streamface.evaluation.calibration import (
    expected_error,
    fit_offsets,
    fit_temperature,
    uncertain_threshold,
)
from streamface.frame import EMOTIONS, GENDERS
from streamface.training import data

torch = pytest.importorskip("torch", reason="training needs torch (extra [train])")

from streamface.model import Model, softmax  # noqa: E402
from streamface.preprocess import crop_into, planes_from_grey  # noqa: E402
from streamface.training import (  # noqa: E402
    augment,
    baselines,
    checkpoint,
    emotion,
    export,
    figures,
    gender,
    loop,
    muon,
    nets,
)

POINTS = np.array([(5, 6), (11, 6), (8, 9), (5, 12), (10, 12)], np.float32)
SPEC = InputSpec((16, 16), "grey", POINTS, (128.0,), (64.0,))
NET = nets.NetConfig(channels=1, classes=2, stem=4, widths=(8, 8), depths=(1, 1))
CONFIG = loop.TrainConfig(epochs=2, batch_size=16)


@pytest.fixture(autouse=True)
def one_thread():
    """Keep torch to one thread: these nets are too small for two."""
    torch.set_num_threads(1)


def bright_or_dark(count=64, seed=0):
    """Return pictures whose brighter half, top or bottom, is their class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 90, (count, 1, 16, 16)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 8 * label : 8 * label + 8] += 120
    return images, labels


def sets():
    images, labels = bright_or_dark()
    maps = torch.eye(2, 3).expand(len(images), 2, 3)
    train = loop.TrainSet(
        images=torch.from_numpy(images),
        targets=torch.eye(2)[torch.from_numpy(labels)],
        crop_to_image=maps,
        aligned=torch.full_like(maps, torch.nan),
    )
    crops = (torch.from_numpy(images).float() - 128) / 64
    return train, loop.ValidationSet(crops, torch.from_numpy(labels))


def fit(run_dir, config=CONFIG, *, resume=False):
    torch.manual_seed(0)
    train, validation = sets()
    net = nets.ResidualNet(NET)
    return loop.fit(net, SPEC, train, validation, config, run_dir=run_dir, resume=resume)


def weights(net):
    return torch.cat([value.flatten().double() for value in net.state_dict().values()])


def test_a_run_learns_and_repeats_itself_bit_for_bit(tmp_path):
    config = dataclasses.replace(CONFIG, epochs=15, ema_pictures=80)
    first, second = fit(tmp_path / "a", config), fit(tmp_path / "b", config)
    assert torch.equal(weights(first), weights(second))
    lines = (tmp_path / "a" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, 16))
    assert json.loads(lines[-1])["val_accuracy"] > 0.9


def test_a_resumed_run_ends_as_if_never_interrupted(tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole")
    save = checkpoint.Checkpoint.save

    def stop_after_first(run, run_dir, epochs_done):
        save(run, run_dir, epochs_done)
        if epochs_done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", stop_after_first)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts")
    monkeypatch.undo()
    parts = fit(tmp_path / "parts", resume=True)
    assert torch.equal(weights(whole), weights(parts))


def test_a_checkpoint_of_other_options_is_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(ModelError, match="other options"):
        fit(tmp_path, dataclasses.replace(CONFIG, seed=2), resume=True)


def test_rate_climbs_then_falls_to_nothing():
    shares = [loop.rate_share(step / 200, warmup_frac=0.1) for step in range(201)]
    peak = int(np.argmax(shares))
    assert peak == 20
    assert shares[0] < shares[peak] == pytest.approx(1)
    assert shares[-1] == pytest.approx(0, abs=1e-9)
    assert all(np.diff(shares[1 : peak + 1]) > 0)
    assert all(np.diff(shares[peak:]) < 0)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_an_orthogonal_update_keeps_directions_and_evens_their_sizes(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    even = muon.orthogonal(u @ torch.diag(s) @ v)
    sizes = torch.linalg.svdvals(even)
    assert sizes.max() < 1.3
    assert (sizes > 0.5).float().mean() > 0.8  # the smallest of a square matrix lag behind
    assert torch.sum(even * (u @ v)) / (even.norm() * (u @ v).norm()) > 0.95


def test_muon_turns_weights_at_their_own_length():
    weight = torch.nn.Parameter(torch.full((4, 2, 3, 3), 5.0))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    muon.Muon([weight], lr=0.0).step()
    assert weight.norm().item() == pytest.approx(4**0.5, rel=1e-5)
    before = weight.detach().clone()
    muon.Muon([weight], lr=0.1).step()
    assert (weight - before).norm().item() == pytest.approx(0.1 * 4**0.5, rel=0.3)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
def test_every_optimizer_learns(tmp_path, optimizer):
    rate = {"sgd": 0.05, "adam": 0.01, "muon": 0.05}[optimizer]
    config = dataclasses.replace(
        CONFIG, epochs=12, optimizer=optimizer, peak_rate=rate, ema_pictures=80
    )
    fit(tmp_path, config)
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[-1])["val_accuracy"] > 0.9


def test_mixed_precision_learns_on_the_cpu_too(tmp_path):
    fit(tmp_path, dataclasses.replace(CONFIG, epochs=15, amp=True, ema_pictures=80))
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[-1])["val_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("name", "words"), [("cuda:7", "--device cuda:7"), ("gpu", "no device of torch's")]
)
def test_a_device_that_is_not_there_is_refused(name, words):
    if name == "cuda:7" and torch.cuda.device_count() > 7:
        pytest.skip("this machine has eight GPUs")
    with pytest.raises(UsageError, match=words):
        loop.open_device(name)


def test_the_loss_of_two_heads_is_the_sum_of_theirs():
    logits, targets = torch.randn(5, 4), torch.softmax(torch.randn(5, 4), 1)
    left = loop.soft_cross_entropy(logits[:, :1], targets[:, :1])
    right = loop.soft_cross_entropy(logits[:, 1:], targets[:, 1:])
    both = loop.soft_cross_entropy(logits, targets, (1, 3))
    torch.testing.assert_close(both, left + right)


def test_crops_grow_with_the_epochs_and_show_the_same():
    config = dataclasses.replace(CONFIG, epochs=6, sides_px=(8, 16))
    assert [loop.side_of(epoch, SPEC, config) for epoch in range(6)] == [8, 8, 8, 16, 16, 16]
    maps = torch.tensor([[[2.0, 0, 3], [0, 2, 5]]])
    small = loop._for_side(maps, 8, SPEC)
    for corner in ((0.0, 0.0), (1.0, 1.0)):
        large_px = torch.tensor((*(16 * c for c in corner), 1.0))
        small_px = torch.tensor((*(8 * c for c in corner), 1.0))
        torch.testing.assert_close(maps @ large_px, small @ small_px)


def test_average_of_two_steps_by_hand():
    slow, fast = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(slow.weight, 1.0)
    torch.nn.init.constant_(fast.weight, 3.0)
    checkpoint.update_ema(slow, fast, decay=0.75, step=10**6)
    assert slow.weight.item() == pytest.approx(0.75 * 1 + 0.25 * 3)


def test_a_crop_without_jitter_is_what_crop_into_cuts():
    """Training and inference see the same numbers for the same face."""
    image = np.random.default_rng(1).integers(0, 256, (24, 20)).astype(np.uint8)
    shift = np.array((3, 5), np.float32)
    out = np.empty(SPEC.shape, np.float32)
    crop_into(planes_from_grey(image), POINTS + shift, SPEC, out)
    maps = torch.tensor([[[1.0, 0, 3], [0, 1, 5]]])
    warped = augment.warp(torch.from_numpy(image)[None, None].float(), maps, SPEC.size_px)
    np.testing.assert_allclose((warped[0].numpy() - 128) / 64, out, atol=1e-4)


@pytest.mark.parametrize(("side_px", "edges"), [(64, 0.05), (96, 0.08)])
def test_gender_crops_are_what_crop_into_cuts(side_px, edges):
    from streamface.frame import Colour, Planes

    rng = np.random.default_rng(2)
    blocks = rng.integers(60, 200, (18, 18, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    spec = gender.input_spec(side_px)
    out = np.empty(spec.shape, np.float32)
    planes = Planes.from_rgb(blocks, Colour("bt601", full_range=True))
    crop_into(planes, data.FAIRFACE_LANDMARKS_PX, spec, out)
    faces = data.GenderData(
        files=(png(blocks),),
        labels=np.array([0]),
        split=np.array(["train"]),
        race=np.array(["x"]),
        age=np.array([30]),
        landmarks_px=data.FAIRFACE_LANDMARKS_PX[None],
    )
    crops = gender.validation_set(faces, np.array([0]), spec).crops[0].numpy()
    # Edges of the blocks are interpolated in two ways, and chroma across them; flat parts agree.
    assert np.abs(crops - out).mean() < edges
    assert np.median(np.abs(crops - out)) < 0.02


def test_augmented_pictures_stay_pictures():
    rng = np.random.default_rng(3)
    always = {name: 1.0 for name in vars_of(augment.AugmentConfig) if name.endswith("_prob")}
    config = augment.AugmentConfig(**always)
    for channels in (1, 3):
        images = torch.from_numpy(rng.integers(0, 256, (6, channels, 40, 48)).astype(np.uint8))
        maps = torch.eye(2, 3).expand(6, 2, 3)
        out = augment.augment(images, maps, (32, 24), config, rng)
        assert out.shape == (6, channels, 24, 32)
        assert out.min() >= 0
        assert out.max() <= 255


def vars_of(kind):
    return [field.name for field in dataclasses.fields(kind)]


def test_jitter_keeps_the_middle_of_the_face_in_the_picture():
    maps = augment.jitter(500, (48, 48), augment.AugmentConfig(), np.random.default_rng(4))
    middle = maps @ torch.tensor((24.0, 24.0, 1.0))
    reach = 48 * augment.AugmentConfig().shift_frac
    assert (middle - 24).abs().max() <= reach + 1e-3
    assert (torch.linalg.det(maps[:, :, :2]) < 0).float().mean() == pytest.approx(0.5, abs=0.1)


def test_an_export_opens_and_agrees_with_the_net(tmp_path):
    net = fit(tmp_path / "run")
    _, validation = sets()
    answer = export.Answer("toy", ("top", "bottom"), validation, {"seed": 0})
    (card,) = export.export(net, [answer], SPEC, tmp_path)
    model = Model.open(tmp_path / "toy.json")
    probs = model.predict(validation.crops.numpy())
    logits = loop.logits_of(net, validation.crops).numpy()
    np.testing.assert_allclose(probs, softmax(logits / np.float32(card.temperature)), atol=1e-4)
    assert card.trained["metrics"]["validation"]["pictures"] == len(logits)


def test_two_answers_share_one_file_and_keep_apart(tmp_path):
    _, validation = sets()
    net = nets.ResidualNet(dataclasses.replace(NET, classes=5)).eval()
    three = loop.ValidationSet(validation.crops, validation.labels)
    answers = [
        export.Answer("toy", ("top", "bottom"), validation, {}),
        export.Answer("toy-three", ("a", "b", "c"), three, {}, output="logits_three"),
    ]
    first, second = export.export(net, answers, SPEC, tmp_path)
    assert first.onnx == second.onnx == "toy.onnx"
    logits = loop.logits_of(net, validation.crops).numpy()
    for card, part in ((first, logits[:, :2]), (second, logits[:, 2:])):
        model = Model.open(tmp_path / f"{card.name}.json")
        probs = model.predict(validation.crops.numpy())
        model.close()
        np.testing.assert_allclose(probs, softmax(part / np.float32(card.temperature)), atol=1e-4)


def test_pictures_of_a_run_are_drawn(tmp_path):
    fit(tmp_path)
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    labels = np.array([0, 1, 1])
    drawn = [
        figures.draw_curves(tmp_path),
        figures.draw_confusion(labels, probs.argmax(1), ("a", "b"), tmp_path / "c.png"),
        figures.draw_reliability({"x": probs}, labels, tmp_path / "r.png"),
    ]
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_run_folder_keeps_the_commit_it_started_from(tmp_path):
    assert export.noted_commit(tmp_path) == "unknown"
    (tmp_path / "commit.txt").write_text("abc\n")
    export.note_commit(tmp_path, resume=True)
    assert export.noted_commit(tmp_path) == "abc"


def fer(count=4, side=48):
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (count, side, side)).astype(np.uint8)
    images[1] = images[2]  # row 1 trains, row 2 tests the same picture
    usage = ["Training", "Training", "PrivateTest", "PublicTest"]
    return images, [0, 3, 3, 6], usage


def fer_csv(path):
    images, labels, usage = fer()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("emotion", "pixels", "Usage"))
        for image, label, use in zip(images, labels, usage, strict=True):
            writer.writerow((label, " ".join(map(str, image.ravel())), use))
    return images


def test_fer_csv_is_read_and_copies_of_test_pictures_are_not_learnt(tmp_path):
    images = fer_csv(tmp_path / "fer.csv")
    faces = data.load_emotion(tmp_path / "fer.csv")
    np.testing.assert_array_equal(faces.images, images)
    assert faces.split.tolist() == ["train", "train", "test", "val"]
    assert faces.training_rows().tolist() == [0]
    assert faces.near_copy.tolist()[2:] == [True, False]
    np.testing.assert_array_equal(faces.targets(0.5)[1], np.eye(7)[3])


def test_targets_mix_labels_and_votes_by_hand():
    votes = np.zeros((2, 7), np.float32)
    votes[0, [0, 6]] = 3, 1
    faces = data.EmotionData(
        images=np.zeros((2, 48, 48), np.uint8),
        labels=np.array([4, 1]),
        split=np.array(["train", "train"]),
        votes=votes,
        usable=np.array([True, False]),
        duplicate=np.array([0, 1]),
        near_copy=np.array([False, False]),
    )
    np.testing.assert_allclose(faces.targets(0.5)[0], (0.375, 0, 0, 0, 0.5, 0, 0.125))
    np.testing.assert_allclose(faces.targets(0.5)[1], np.eye(7)[1])
    assert faces.training_rows().tolist() == [0]
    assert faces.ferplus_labels(least_votes=3).tolist() == [0, -1]


def test_fer_npz_is_read_in_its_order(tmp_path):
    from PIL import Image

    images, labels, _ = fer()
    mosaic = images.reshape(2, 2, 48, 48).swapaxes(1, 2).reshape(96, 96)
    columns = "neutral happiness surprise sadness anger disgust fear contempt unknown NF".split()
    votes = np.arange(40, dtype=np.uint8).reshape(4, 10)
    buffer = io.BytesIO()
    Image.fromarray(mosaic).save(buffer, "PNG")
    np.savez(
        tmp_path / "fer.npz",
        mosaic_png=np.frombuffer(buffer.getvalue(), np.uint8),
        labels=np.array(labels, np.uint8),
        split=np.array([0, 0, 2, 1], np.uint8),
        ferplus_votes=votes,
        ferplus_columns=np.array(columns),
        ferplus_named=np.array([True, True, True, True]),
        constant=np.zeros(4, bool),
        dup_group=np.array([0, 1, 1, 2], np.int32),
        max_corr_to_training=np.array([1, 1, 1, 0.5], np.float32),
    )
    faces = data.load_emotion(tmp_path / "fer.npz")
    np.testing.assert_array_equal(faces.images, images)
    assert faces.votes[1].tolist() == [14, 15, 16, 11, 13, 12, 10]
    assert faces.training_rows().tolist() == [0]


@pytest.mark.parametrize("name", ["none.npz", "bad.npz", "bad.csv"])
def test_a_file_that_is_no_fer_is_refused_in_one_line(tmp_path, name):
    for bad in ("bad.npz", "bad.csv"):
        (tmp_path / bad).write_text("nothing\n1\n")
    with pytest.raises(SourceError, match=name) as caught:
        data.load_emotion(tmp_path / name)
    assert "\n" not in str(caught.value)


def png(image):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_held_out_pictures_are_never_learnt():
    count = 200
    faces = data.GenderData(
        files=(b"",) * count,
        labels=np.zeros(count, np.int64),
        split=np.array(["train", "val"] * (count // 2)),
        race=np.array(["x"] * count),
        age=np.full(count, 30),
        landmarks_px=np.zeros((count, 5, 2), np.float32),
    )
    rows, held_out = gender.split_rows(faces, seed=1)
    assert not set(rows) & set(held_out)
    assert set(faces.split[np.concatenate((rows, held_out))]) == {"train"}
    assert len(held_out) == 5
    assert gender.split_rows(faces, seed=1)[1].tolist() == held_out.tolist()


def test_the_shipped_nets_have_the_classes_of_the_package():
    assert nets.ResidualNet(emotion.NET).head.out_features == 2 * len(EMOTIONS)
    assert nets.ResidualNet(gender.NET).head.out_features == len(GENDERS)


def test_baselines_take_what_they_are_made_for():
    assert baselines.ThreeStage().eval()(torch.zeros(2, 1, 48, 48)).shape == (2, len(EMOTIONS))
    assert baselines.VggStyle().eval()(torch.zeros(2, 3, 64, 64)).shape == (2, len(GENDERS))


def test_the_second_phase_sees_rare_classes_half_of_the_time():
    labels = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    maps = torch.eye(2, 3).expand(100, 2, 3)
    images = labels.to(torch.uint8).view(-1, 1, 1, 1)
    train = loop.TrainSet(images, torch.eye(3)[labels], maps, maps)
    again = baselines.rare_first(train, seed=1)
    assert len(again.images) == 100
    assert torch.equal(again.images.flatten().long(), again.targets.argmax(1))
    assert (again.targets.argmax(1) > 0).float().mean() == pytest.approx(0.5, abs=0.15)


def test_calibration_error_by_hand():
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], np.float32)
    # Bin of 0.9: two answers, one right, |1.8 - 1|; bin of 0.6: one right answer, |0.6 - 1|.
    assert expected_error(probs, np.array([0, 1, 1])) == pytest.approx((0.8 + 0.4) / 3)


def test_the_temperature_of_overconfident_logits_is_found():
    rng = np.random.default_rng(6)
    logits = rng.standard_normal((4000, 5)).astype(np.float32) * 2
    # Gumbel's trick: this draws from the softmax of the logits.
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.1)


def test_offsets_undo_a_bias_for_one_class():
    rng = np.random.default_rng(8)
    logits = rng.standard_normal((4000, 3)).astype(np.float32) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    bias = np.array([1.5, 0, -0.9], np.float32)
    found = fit_offsets(logits + bias, labels)
    np.testing.assert_allclose(found, bias.mean() - bias, atol=0.12)


def test_the_uncertain_threshold_parts_what_is_right_too_seldom():
    top = np.linspace(0.3, 1, 2000, dtype=np.float32)
    probs = np.stack((top, 1 - top), 1)
    rng = np.random.default_rng(7)
    labels = (rng.random(2000) >= np.where(top < 0.6, 0.3, 0.9)).astype(np.int64)
    probs[:, 1] = 0.2  # class 0 stays the likeliest
    assert uncertain_threshold(probs, labels) == pytest.approx(0.6, abs=0.08)
    assert uncertain_threshold(probs, np.zeros(2000, np.int64)) == 0
