"""DeepSpot: its size, its set, its neighbours, its losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import pearsonr

import stpredict as stp
from stpredict import models
from stpredict.models.deepspot import Phi, mean_correlation, neighbour_maximum

SMALL = {"encoder": "statistics", "dim": 16, "members": 3, "size_px": 24}


@pytest.fixture
def batch():
    """A row of five spots on one section, two spots on another."""
    return models.SpotBatch(
        patches=torch.randint(0, 256, (7, 1, 3, 24, 24), dtype=torch.uint8),
        xy_um=torch.tensor([[200.0 * i, 0.0] for i in (0, 1, 2, 3, 4, 0, 1)]),
        slide=torch.tensor([0] * 5 + [1] * 2),
        targets=torch.randn(7, 4),
    )


def built(batch, **overrides):
    model = models.build(models.config("deepspot", 4, {**SMALL, **overrides}))
    model.initialize_from([batch])
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture
def model(batch):
    return built(batch)


def test_as_many_parameters_are_trained_as_in_the_published_code():
    for n_outputs, millions in [(250, 11.7), (5000, 84.7)]:
        with torch.device("meta"):
            network = models.build(models.config("deepspot", n_outputs, {"encoder": "densenet121"}))  # 1024 features
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert round(trained / 1e6, 1) == millions


# ---- the set


def test_frozen_features_are_of_the_spot_and_of_nine_parts(model, batch):
    levels = torch.arange(9, dtype=torch.uint8) * 28
    batch.patches[:] = levels.view(3, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    features = model.encode(batch)
    density = -(levels / 255).clamp_min(1 / 255).log()
    assert features.shape == (7, 10, 54)
    torch.testing.assert_close(features[0, 1:, 0], density)
    torch.testing.assert_close(features[0, 0, 27], density.mean())  # of the whole patch


def test_order_of_sub_spots_does_not_matter(model, batch):
    features = model.encode(batch)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(9)])
    with_order = replace(batch, features=features[:, order])
    torch.testing.assert_close(model(with_order), model(replace(batch, features=features)))
    swapped = replace(batch, features=features[:, torch.arange(10).roll(1)])
    assert not torch.allclose(model(swapped), model(batch))


def test_only_neighbours_matter(model, batch):
    other = replace(batch, patches=batch.patches.clone())
    other.patches[3] = 200
    changed = (model(other) - model(batch)).abs().amax(dim=1) > 1e-6
    assert changed.tolist() == [False, False, True, True, True, False, False]


def test_reach_says_who_is_a_neighbour(batch):
    features = torch.randn(7, 8)
    given = replace(batch, features=features)
    changed = replace(batch, features=features.clone())
    changed.features[0] += 5
    for reach, touched in [(0.5, 1), (1.5, 2), (2.5, 3)]:
        model = built(given, encoder="given", n_features=8, reach=reach)
        assert int(((model(changed) - model(given)).abs().amax(dim=1) > 1e-6).sum()) <= touched
        assert not torch.allclose(model(changed)[0], model(given)[0])


def test_maximum_is_over_the_neighbours_there_are():
    x = -1 - torch.rand(2, 3, 5)  # below zero, which what fills gaps must not win over
    known = torch.tensor([[True, False, True], [False, False, False]])
    y = neighbour_maximum(x, known)
    torch.testing.assert_close(y[0], torch.maximum(x[0, 0], x[0, 2]))
    assert torch.equal(y[1], torch.zeros(5))


def test_a_spot_without_neighbours_has_finite_gradients(batch):
    model = built(batch)
    alone = replace(batch, slide=torch.arange(7))
    model.loss(alone).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_phi_is_the_median_of_its_members():
    phi = Phi(6, 4, members=3, dropout=0.3).eval()
    x = torch.randn(5, 6)
    hidden = torch.relu(phi.first(x)).view(5, 3, 4)
    answers = torch.stack([hidden[:, m] @ phi.weight[m].T + phi.bias[m] for m in range(3)])
    torch.testing.assert_close(phi(x), answers.median(dim=0).values)


def test_rho_is_the_mean_of_its_members(model, batch):
    weights = model.head.weight.view(4, 3, 48).mean(dim=1)
    parts = model.phi(model.standard(model.encode(batch)))
    near = torch.stack([parts[[j for j in (i - 1, i + 1) if 0 <= j < 5], 0].amax(dim=0) for i in range(5)])
    joined = torch.cat([parts[:5, 0], parts[:5, 1:].sum(dim=1), near], dim=1)
    torch.testing.assert_close(model(batch)[:5], joined.relu() @ weights.T + model.head.bias, atol=1e-4, rtol=1e-4)


def test_dropout_differs_between_members_in_training_and_is_off_in_evaluation(model, batch):
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_embeddings_that_came_with_the_spots_make_a_set_without_sub_spots(batch):
    given = replace(batch, features=torch.randn(7, 8))
    model = built(given, encoder="given", n_features=8)
    assert model(given).shape == (7, 4)
    assert model.encode(given) is None
    with pytest.raises(ValueError, match="no encoder of its own"):
        model(batch)
    with pytest.raises(ValueError, match=r"this model takes \(b, 8\)"):
        model(replace(batch, features=torch.randn(7, 9)))


# ---- losses


def test_correlation_is_that_of_scipy_on_each_slide():
    y, targets, slide = torch.randn(9, 3), torch.randn(9, 3), torch.tensor([0] * 5 + [1] * 4)
    by_slide = [
        [pearsonr(y[slide == s][:, g].numpy(), targets[slide == s][:, g].numpy())[0] for g in range(3)] for s in (0, 1)
    ]
    wanted = (5 * sum(by_slide[0]) / 3 + 4 * sum(by_slide[1]) / 3) / 9
    torch.testing.assert_close(mean_correlation(y, targets, slide), torch.tensor(wanted, dtype=torch.float32))


def test_correlation_of_slides_apart_is_not_fooled_by_their_levels():
    level = torch.tensor([0.0] * 20 + [100.0] * 20)[:, None]
    y, targets = level + torch.randn(40, 1), level + torch.randn(40, 1)
    assert abs(mean_correlation(y, targets, (level[:, 0] > 0).long())) < 0.6


def test_objectives(batch):
    losses = {}
    for objective in ("mse", "cosine", "pearson", "mse_pearson"):
        torch.manual_seed(0)
        losses[objective] = built(batch, objective=objective).loss(batch)
    torch.manual_seed(0)
    y = built(batch)(batch)
    torch.testing.assert_close(losses["mse"], ((y - batch.targets) ** 2).mean())
    torch.testing.assert_close(losses["pearson"], 1 - mean_correlation(y, batch.targets, batch.slide))
    torch.testing.assert_close(losses["mse_pearson"], losses["mse"] + losses["pearson"])
    cosine = (y * batch.targets).sum(1) / (y.norm(dim=1) * batch.targets.norm(dim=1))
    torch.testing.assert_close(losses["cosine"], 1 - cosine.mean())


def test_every_objective_can_start_at_the_mean_profile(batch):
    for objective in ("cosine", "pearson", "mse_pearson"):
        model = models.build(models.config("deepspot", 4, {**SMALL, "objective": objective}))
        model.initialize_from([batch])
        model.loss(batch).backward()
        assert model.head.weight.grad.isfinite().all()
        assert model.head.weight.grad.any()


def test_wrong_fields_are_refused():
    for overrides, message in [
        ({"objective": "poisson"}, "allowed: 'mse'"),
        ({"encoder": "given"}, "`n_features` is 0"),
        ({"n_features": 7}, "has a width of its own"),
        ({"size_px": 2}, "cut into 3 x 3"),
        ({"reach": -1.0}, "`reach` is -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            models.config("deepspot", 4, {**SMALL, **overrides})


def test_learns_through_fit():
    sdata = stp.datasets.synthetic(n_slides=2, n_side=6, n_genes=6)
    config = stp.tl.FitConfig(
        **stp.tl.FitConfig().to_dict() | {"n_epochs": 20, "lr": 3e-3, "validation": "slide", "progress": False}
    )
    predictor = stp.tl.fit(sdata, "deepspot", config=config, model_options=SMALL)
    assert predictor.history["val_pearson"].max() > 0.5
