"""BLEEP: published size, its loss, its bank, and what it finds there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stpredict import models
from stpredict.models import SpotBatch
from stpredict.models.bleep import smoothed_clip_loss
from stpredict.tl._predictor.schema import load_weights

OPTIONS = {"encoder": "given", "n_features": 6, "size_px": 8, "top_k": 3, "dim": 16}


def section(n=60, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=draw)
    return SpotBatch(
        patches=torch.zeros(n, 1, 3, 8, 8, dtype=torch.uint8),
        xy_um=torch.rand(n, 2, generator=draw),
        slide=torch.zeros(n, dtype=torch.int64),
        targets=torch.stack([x[:, 0], x[:, 1], x[:, 0] - x[:, 1], x[:, 2]], dim=1) + 0.05,
        features=10 * x - 7,
    )


def built(spots, **overrides):
    model = models.build(models.config("bleep", 4, {**OPTIONS, **overrides}))
    model.initialize_from(iter([spots]))
    return model.eval()


def test_published_size():
    pytest.importorskip("timm")
    for n_genes, millions in [(3467, 25.05), (250, 24.2)]:
        with torch.device("meta"):
            model = models.build(models.config("bleep", n_genes))
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_loss_is_the_smoothed_cross_entropy():
    image, spot, temperature = torch.randn(5, 4), torch.randn(5, 4), 3.0
    a, b = image.double().numpy(), spot.double().numpy()
    wanted = softmax((a @ a.T + b @ b.T) / 2 / temperature)
    logits = b @ a.T / temperature
    by_spot = -(wanted * np.log(softmax(logits))).sum(axis=1)
    by_image = -(wanted.T * np.log(softmax(logits.T))).sum(axis=1)
    # rows of the soft targets sum to 1; those of the transposed need not, and are weights all the same
    expected = (by_spot.mean() + by_image.mean()) / 2
    assert float(smoothed_clip_loss(image, spot, temperature)) == pytest.approx(expected, rel=1e-5)


def test_soft_targets_pass_no_gradient():
    image, spot = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    smoothed_clip_loss(image, spot, 1.0).backward()
    logits = (spot @ image.detach().T).requires_grad_()
    wanted = ((image @ image.T + spot @ spot.T) / 2).softmax(dim=-1).detach()
    entropy = torch.nn.functional.cross_entropy
    ((entropy(logits, wanted) + entropy(logits.T, wanted.T)) / 2).backward()
    torch.testing.assert_close(image.grad, logits.grad.T @ spot)


def test_embeddings_of_length_1_where_asked():
    spots = section()
    torch.manual_seed(3)
    plain = built(spots)
    unit = models.build(replace(plain.config, normalize=True, temperature=0.1)).eval()
    unit.load_state_dict(plain.state_dict())
    image, spot = plain._image_embedding(spots), plain.spot(spots.targets)
    scaled = torch.nn.functional.normalize
    torch.testing.assert_close(unit.loss(spots), smoothed_clip_loss(scaled(image), scaled(spot), 0.1))
    torch.testing.assert_close(plain.loss(spots), smoothed_clip_loss(image, spot, 1.0))


def test_prediction_is_the_mean_of_the_most_alike_training_spots():
    spots, new = section(), section(5, seed=1)
    model = built(spots)
    with torch.no_grad():
        image, spot = model._image_embedding(new).double().numpy(), model.spot(spots.targets).double().numpy()
    alike = (image / np.linalg.norm(image, axis=1)[:, None]) @ (spot / np.linalg.norm(spot, axis=1)[:, None]).T
    nearest = np.argsort(-alike, axis=1)[:, :3]
    np.testing.assert_allclose(model(new).detach(), spots.targets.numpy()[nearest].mean(axis=1), rtol=1e-5)


def test_more_neighbours_than_training_spots_give_their_mean():
    spots = section()
    torch.testing.assert_close(built(spots, top_k=100)(spots), spots.targets.mean(dim=0).expand(60, -1))


def test_bank_is_the_training_spots_and_follows_the_head():
    spots = section()
    model = built(spots)
    assert torch.equal(model.bank, spots.targets)
    before = model(spots)
    torch.nn.init.normal_(model.spot.into.weight)
    assert not torch.equal(model(spots), before)  # no embedding of the bank is kept
    assert "bank" in model.state_dict()


def test_bank_of_any_length_goes_through_a_file():
    new = section(9, seed=4)
    for n in (1, 7, 60):
        model = built(section(n))
        first, second = (models.build(model.config).eval() for _ in range(2))
        load_weights(first, model.state_dict(), Path("a folder"))
        second.load_state_dict(model.state_dict())
        assert torch.equal(first(new), model(new))
        assert torch.equal(second(new), model(new))


def test_bank_of_other_targets_is_refused():
    model = built(section())
    other = models.build(replace(model.config, n_outputs=5))
    with pytest.raises(ValueError, match="bank"):
        load_weights(other, model.state_dict(), Path("a folder"))


def test_it_learns_what_goes_together():
    spots, new = section(300), section(100, seed=1)
    model = built(spots, top_k=5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model.train().loss(spots).backward()
        optimizer.step()
    given = model.eval()(new).detach().numpy()
    r = [np.corrcoef(given[:, j], new.targets[:, j])[0, 1] for j in range(4)]
    assert min(r) > 0.7


def test_starts_at_the_mean_where_it_is_told_to():
    model = built(section())
    mean = torch.tensor([6.123456, 6.123457, 0.0, 1e-4])
    model.initialize_at(mean)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(section(4)), mean.expand(4, 4))


def test_a_trained_encoder_is_seen_anew_at_every_step():
    pytest.importorskip("timm")
    config = models.config("bleep", 4, {"encoder": "test_efficientnet", "size_px": 32, "dim": 8})
    trained, frozen = models.build(config), models.build(replace(config, frozen=True))
    spots = replace(section(4), patches=torch.randint(0, 256, (4, 1, 3, 32, 32), dtype=torch.uint8), features=None)
    assert trained.encode(spots) is None
    assert frozen.encode(spots).shape == (4, frozen.views.n_features)
    assert any(p.requires_grad for p in trained.views.parameters())
    assert not any(p.requires_grad for p in frozen.views.parameters())


def test_wrong_fields_are_refused():
    for field, value in {"temperature": 0, "top_k": 0, "dropout": 1, "normalize": 1, "frozen": None, "dim": 0}.items():
        with pytest.raises((TypeError, ValueError), match=f"`{field}` is {value}"):
            models.config("bleep", 4, {**OPTIONS, field: value})
