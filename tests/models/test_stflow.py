"""STFlow: the published size, the prior, frames, integration, invariance to the orientation of a slide."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from stpredict import models
from stpredict.datasets import synthetic
from stpredict.models.stflow import (
    Neighbours,
    STFlow,
    STFlowConfig,
    counter_based_uniform,
    frame_coordinates,
    sample_prior,
)
from stpredict.tl import FitConfig, Predictor, fit

TINY = {"dim": 16, "depth": 2, "heads": 2, "size_px": 16}


def network(n_outputs=4, **options):
    model = STFlow(STFlowConfig(n_outputs=n_outputs, **{**TINY, **options})).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def section(n=30, n_outputs=4):
    return models.SpotBatch(
        patches=torch.randint(0, 256, (n, 1, 3, 16, 16), dtype=torch.uint8),
        xy_um=torch.rand(n, 2) * torch.tensor([2000.0, 1000.0]),
        slide=torch.zeros(n, dtype=torch.int64),
        targets=torch.randn(n, n_outputs) * 2 + 5,
    )


def described(model, batch):
    return replace(batch, features=model.encode(batch))


def test_published_size():
    with torch.device("meta"):
        model = models.build(models.config("stflow", 50, {"encoder": "given", "n_features": 1024}))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1.15e6, rel=0.03)


# ---- prior


def test_noise_looks_drawn():
    xy = torch.tensor([[x * 200.0, y * 200.0] for x in range(40) for y in range(40)])
    chance = counter_based_uniform(xy, 20, 0)
    assert chance.shape == (2, 1600, 20)
    assert chance.min() >= 0
    assert chance.max() < 1
    assert chance.mean() == pytest.approx(0.5, abs=0.01)
    assert chance.var() == pytest.approx(1 / 12, abs=0.002)
    z = sample_prior("gaussian", chance, torch.zeros(20), torch.ones(20))
    assert z.mean() == pytest.approx(0, abs=0.02)
    assert z.var() == pytest.approx(1, abs=0.03)
    assert (z.T.corrcoef() - torch.eye(20)).abs().max() < 0.12  # between genes, over 1,600 spots
    assert abs((z[1:] * z[:-1]).mean()) < 0.03  # between neighbours
    assert (
        abs((z * sample_prior("gaussian", counter_based_uniform(xy, 20, 1), torch.zeros(20), torch.ones(20))).mean())
        < 0.03
    )


def test_noise_follows_from_the_place_alone():
    xy = torch.rand(50, 2) * 1e5
    order = torch.randperm(50)
    assert torch.equal(counter_based_uniform(xy[order], 3, 0), counter_based_uniform(xy, 3, 0)[:, order])
    assert torch.equal(counter_based_uniform(xy, 3, 2)[:, 7:8], counter_based_uniform(xy[7:8], 3, 2))
    assert not torch.equal(counter_based_uniform(-xy, 3, 0), counter_based_uniform(xy, 3, 0))


def test_gaussian_prior_has_mean_and_spread_of_the_targets():
    mean, spread = torch.tensor([3.0, -2.0]), torch.tensor([0.5, 4.0])
    z = sample_prior("gaussian", torch.rand(2, 20_000, 2), mean, spread)
    torch.testing.assert_close(z.mean(dim=0), mean, atol=0.1, rtol=0)
    torch.testing.assert_close(z.std(dim=0), spread, atol=0, rtol=0.05)


def test_zinb_prior_is_the_logarithm_of_its_counts():
    counts = sample_prior("zinb", torch.rand(2, 100_000, 1), torch.zeros(1), torch.ones(1)).expm1()
    torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)
    p = 1 / (1 + math.exp(-0.1))
    assert (counts < 0.5).float().mean() == pytest.approx(0.5 + 0.5 * (1 - p), abs=0.01)
    assert counts.mean() == pytest.approx(0.5 * p / (1 - p), rel=0.03)


def test_zero_prior_is_the_mean():
    assert torch.equal(sample_prior("zero", torch.rand(2, 5, 2), torch.tensor([3.0, 1.0]), torch.ones(2)),
                       torch.tensor([[3.0, 1.0]]).expand(5, 2))  # fmt: skip


# ---- frames


def neighbourhood(n=40):
    xy = torch.rand(n, 2) * 5 * torch.tensor([1.0, 0.6])
    return xy, Neighbours.find(xy, torch.zeros(n), 5)


def as_sets(frames):
    """Frames of each spot in an order of their own: which of the four is which means nothing."""
    flat = frames.transpose(1, 2).flatten(2)  # (b, 4, k * 3)
    return torch.stack([each[each[:, torch.tensor([3, 4])].double().mv(torch.tensor([1.0, 0.37]).double()).argsort()]
                        for each in flat])  # fmt: skip


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_frames_do_not_depend_on_the_orientation_of_a_slide(mirror):
    xy, around = neighbourhood()
    for angle in (0.0, 0.3, 1.7, 3.0):
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        other = Neighbours.find(xy * torch.tensor([mirror, 1.0]) @ turn + 9, torch.zeros(len(xy)), 5)
        torch.testing.assert_close(as_sets(other.frames), as_sets(around.frames), atol=2e-4, rtol=1e-3)


def test_lattices_have_no_frame_but_distances():
    xy = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0))
    frames = Neighbours.find(xy, torch.zeros(25), 8).frames[12]  # the middle one
    assert frames[..., :2].abs().max() < 1e-6
    assert frames[1:, 0, 2].tolist() == pytest.approx([1.0] * 4 + [math.sqrt(2)] * 4)


def test_neighbours_in_a_row_lie_along_the_first_axis():
    apart = torch.tensor([[[1.0, 1.0], [-1.0, -1.0], [2.0, 2.0], [9.0, 5.0]]])
    frames = frame_coordinates(apart, torch.tensor([[True, True, True, False]]))
    size = math.sqrt(2)
    torch.testing.assert_close(frames[0, :3, 0, 0].abs(), torch.tensor([size, size, 2 * size]))
    assert frames[0, :, :, 1].abs().max() < 1e-6
    assert not frames[0, 3].any()


def test_a_spot_sees_itself_only_where_there_is_no_other():
    around = Neighbours.find(torch.tensor([[0.0, 0], [1, 0], [0, 0]]), torch.tensor([0, 0, 1]), 2)
    assert around.exists.tolist() == [[False, True, False], [False, True, False], [True, False, False]]


# ---- integration


def test_integration_ends_at_the_last_end_point(monkeypatch):
    """If the predicted end point is constant, states lie on the line to it."""
    model, end, states = network(n_draws=0), torch.tensor([1.0, 2.0, 3.0, 4.0]), []

    def denoise(state, time, conditioning):
        states.append((float(time[0]), state))
        return end.expand(len(state), -1)

    monkeypatch.setattr(model, "_denoise", denoise)
    y = model(section(5))
    assert torch.equal(y, end.expand(5, 4))
    assert [time for time, _ in states] == pytest.approx([0.01, 0.2575, 0.505, 0.7525])
    for time, state in states:
        torch.testing.assert_close(state, (end * (time - 0.01) / 0.99).expand(5, 4))


def test_loss_is_of_a_state_between_prior_and_targets(monkeypatch):
    model, batch, given = network(prior="zero"), section(), []
    batch.slide = torch.arange(30) % 2
    model.initialize_from([described(model, batch)])

    def denoise(state, time, conditioning):
        given.append((state, time))
        return batch.targets + 3

    monkeypatch.setattr(model, "_denoise", denoise)
    assert model.loss(batch) == pytest.approx(9.0, rel=1e-5)
    state, time = given[0]
    assert len(time.unique()) == 2  # one a slide
    assert len(time[batch.slide == 0].unique()) == 1
    torch.testing.assert_close(state, model.mean + time[:, None] * (batch.targets - model.mean))


def test_starts_from_statistics_of_training_spots():
    model, batch = network(), section()
    known = described(model, batch)
    model.initialize_from([known])
    torch.testing.assert_close(model.mean, batch.targets.mean(dim=0))
    torch.testing.assert_close(model.spread, batch.targets.std(dim=0, correction=0))
    torch.testing.assert_close(model.feature_mean, known.features.mean(dim=0))
    assert (model.feature_spread > 0).all()


def test_turning_or_shifting_a_slide_changes_nothing():
    model, batch = network(n_draws=0), section()
    model.initialize_from([described(model, batch)])
    torch.nn.init.normal_(model.head.weight)
    for angle, mirror in [(0.4, 1.0), (0.4, -1.0), (2.0, 1.0), (2.0, -1.0)]:
        turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        other = replace(batch, xy_um=batch.xy_um @ turn * torch.tensor([mirror, 1.0]) + 300)
        torch.testing.assert_close(model(other), model(batch), atol=1e-3, rtol=1e-3)


def test_more_draws_are_closer_to_their_mean():
    batch, few, many = section(), network(n_draws=1), network(n_draws=16)
    many.load_state_dict(few.state_dict())
    other = replace(batch, xy_um=batch.xy_um + 5000)  # other noise, the same neighbours
    changes = [(model(other) - model(batch)).abs().mean() for model in (few, many)]
    assert changes[1] < 0.6 * changes[0]


def test_every_prior_trains():
    for prior in ("gaussian", "zero", "zinb"):
        model, batch = network(prior=prior).train(), section()
        model.initialize_from([described(model, batch)])
        loss = model.loss(batch)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(model(batch)).all()


def test_wrong_fields_are_refused():
    for field, value in {"n_draws": -1, "n_times": 1, "prior": "uniform", "heads": 3, "encoder": ""}.items():
        with pytest.raises(ValueError, match=field):
            network(**{field: value})


def test_learns_a_section_and_is_read_back(tmp_path):
    sdata = synthetic(n_slides=3, n_side=8, um_per_px=8.0)
    config = FitConfig(
        **FitConfig().to_dict()
        | {
            "n_epochs": 40,
            "lr": 3e-3,
            "ema_decay": 0.8,
            "patience": 40,
            "accelerator": "cpu",
            "precision": "32-true",
            "progress": False,
        }
    )
    options = {"dim": 32, "depth": 2, "size_px": 32, "dropout": 0.1}
    predictor = fit(sdata, "stflow", config=config, model_options=options, save_dir=tmp_path / "model")
    assert predictor.history["val_pearson"].max() > 0.6
    assert Predictor.load(tmp_path / "model").hash == predictor.hash
