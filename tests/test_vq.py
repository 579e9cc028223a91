"""The vector-quantised autoencoder: its codes, its measures, its training."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.data import astronaut
from skimage.metrics import structural_similarity

torch = pytest.importorskip("torch", reason="training needs torch (extra [train])")

from streamface.training import checkpoint, vq, vqvae  # noqa: E402

SMALL = vq.VqConfig(side_px=16, codes=16, code_width=8, width=16, depth=1, decay=0.5)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def blobs(count=64, side=16):
    """Return pictures of one bright block each on a dark ground."""
    rng = np.random.default_rng(0)
    out = np.full((count, 3, side, side), 30, np.uint8)
    for picture in out:
        x, y = rng.integers(0, side // 2, 2)
        picture[:, y : y + side // 2, x : x + side // 2] = rng.integers(120, 250, (3, 1, 1))
    return torch.from_numpy(out)


def test_every_vector_gets_the_nearest_code():
    book = vq.Codebook(SMALL).eval()
    x = torch.randn(2, 8, 3, 3)
    coded = book(x)
    unit = torch.nn.functional.normalize(x, dim=1).permute(0, 2, 3, 1).reshape(-1, 8)
    nearest = torch.cdist(unit, book.codes).argmin(1)
    assert torch.equal(coded.numbers.flatten(), nearest)
    torch.testing.assert_close(coded.vectors, book.look_up(coded.numbers))


def test_gradients_pass_through_the_codes():
    x = torch.randn(1, 8, 2, 2, requires_grad=True)
    vq.Codebook(SMALL).eval()(x).vectors.sum().backward()
    assert x.grad.abs().sum() > 0


def test_codes_move_to_the_data_and_dead_ones_come_back():
    book = vq.Codebook(vq.VqConfig(codes=16, code_width=8, decay=0.5)).train()
    centres = torch.nn.functional.normalize(torch.randn(16, 8), dim=1)
    for _ in range(60):
        picked = centres[torch.randint(16, (256,))] + 0.01 * torch.randn(256, 8)
        book(picked.T.reshape(1, 8, 16, 16))
    distance = torch.cdist(centres, book.codes).min(1).values
    assert (distance < 0.1).float().mean() > 0.6
    assert book(centres.T.reshape(1, 8, 4, 4)).numbers.unique().numel() >= 10


def test_pictures_keep_their_size_and_codes_are_a_quarter_of_it():
    net = vq.VqVae(SMALL).eval()
    x = torch.zeros(2, 3, 16, 16)
    assert net.encode(x).numbers.shape == (2, 4, 4)
    assert net(x).shape == x.shape
    with pytest.raises(ValueError, match="multiple of 4"):
        vq.VqVae(vq.VqConfig(side_px=30))


def test_ssim_is_that_of_scikit_image():
    a = astronaut()[:64, 200:264].astype(np.float64) / 127.5 - 1
    b = np.clip(a + np.random.default_rng(0).normal(0, 0.1, a.shape), -1, 1)
    expected = structural_similarity(
        a, b, channel_axis=2, data_range=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    tensors = [torch.from_numpy(p.transpose(2, 0, 1)[None]).float() for p in (a, b)]
    assert vq.ssim(*tensors).item() == pytest.approx(expected, abs=2e-3)
    assert vq.ssim(tensors[0], tensors[0]).item() == pytest.approx(1)


def test_a_run_learns_resumes_and_shows_itself(tmp_path, monkeypatch):
    pictures = blobs()
    config = vqvae.VqTrainConfig(epochs=6, batch_size=4, peak_rate=1e-2, ema_pictures=50, net=SMALL)
    whole = vqvae.fit(pictures, pictures[:16], config, run_dir=tmp_path / "whole")
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text("utf-8").splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert last["psnr_db"] > first["psnr_db"] + 2
    assert 0 < last["codebook_used"] <= 1
    picture = (tmp_path / "whole" / "preview-006.png").read_bytes()
    assert picture.startswith(b"\x89PNG")

    save = checkpoint.Checkpoint.save

    def stop_after_fourth(state, run_dir, epochs_done):
        save(state, run_dir, epochs_done)
        if epochs_done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.Checkpoint, "save", stop_after_fourth)
    with pytest.raises(KeyboardInterrupt):
        vqvae.fit(pictures, pictures[:16], config, run_dir=tmp_path / "parts")
    monkeypatch.undo()
    again = vqvae.fit(pictures, pictures[:16], config, run_dir=tmp_path / "parts", resume=True)
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
