"""Hist2ST: the published size, the graph, the three terms of the loss, the likelihood of counts, counts in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from stpredict import models
from stpredict.datasets import synthetic
from stpredict.models.hist2st import (
    ConvMixer,
    GraphSAGELayer,
    Hist2ST,
    Hist2STConfig,
    ZINBHeads,
    augmented_view,
    relative_library_size,
    zinb_log_likelihood,
)
from stpredict.tl import FitConfig, Predictor, fit

TINY = {"size_px": 16, "patch_size": 4, "channels": 8, "n_kept": 2, "depth": 1, "graph_depth": 2, "heads": 2,
        "mlp_dim": 32, "n_views": 2, "dropout": 0.0}  # fmt: skip
QUICK = {"accelerator": "cpu", "precision": "32-true", "progress": False, "stain_jitter": 0.0, "brightness_jitter": 0.0}


def network(**options):
    model = Hist2ST(Hist2STConfig(n_outputs=4, **{**TINY, **options}))
    torch.nn.init.normal_(model.head.weight)
    return model


def section(n=8, n_genes=4):
    return models.SpotBatch(
        patches=torch.randint(0, 256, (n, 1, 3, 16, 16), dtype=torch.uint8),
        xy_um=torch.stack([torch.arange(n) * 200.0, torch.zeros(n)], dim=1),
        slide=torch.zeros(n, dtype=torch.int64),
        targets=torch.randn(n, 4),
        counts=torch.poisson(torch.full((n, n_genes), 5.0)),
    )


def test_published_size():
    with torch.device("meta"):
        model = models.build(models.config("hist2st", 785))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(75.8e6, abs=0.05e6)
    assert model.config.dim == 1024


def test_texture_is_as_many_numbers_as_the_width_of_a_spot():
    config = Hist2STConfig(n_outputs=1)
    texture = ConvMixer(config.channels, config.n_kept, config.patch_size, config.kernel_size, config.conv_depth)
    assert texture(torch.rand(2, 3, 112, 112)).shape == (2, 1024)


# ---- graph


def test_a_step_along_the_graph_is_the_mean_of_a_spot_and_its_neighbours():
    layer, x = GraphSAGELayer(3), torch.rand(4, 3)
    torch.nn.init.eye_(layer.mix.weight)
    index = torch.tensor([[1, 2], [0, 3], [0, 2], [3, 3]])
    is_near = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    means = torch.stack([x[[0, 1, 2]].mean(dim=0), x[[1, 0]].mean(dim=0), x[2], x[3]])
    torch.testing.assert_close(layer(x, index, is_near), means / means.norm(dim=1, keepdim=True))


def test_who_is_far_is_no_neighbour():
    model, batch = network(), section(5)
    batch.xy_um[4] = 4000.0
    index, is_near = model._neighbours(batch)
    assert is_near.sum(dim=1).tolist() == [2, 3, 3, 2, 0]  # within two pitches along a row
    assert index[1, :2].sort().values.tolist() == [0, 2]


def test_an_isolated_spot_is_predicted():
    batch = section(3)
    batch.slide = torch.arange(3)
    y = network().eval()(batch)
    assert torch.isfinite(y).all()
    assert not torch.isclose(y[0], y[1]).all()


# ---- loss


def parts(model, batch):
    """Regression, counts and distillation, from losses of networks that lack one or the other."""
    model.eval()
    y = model(batch)
    x = model.norm(model._spot_embeddings(batch, model._neighbours(batch)))
    of_counts = model.counts.loss(x, batch.counts, relative_library_size(batch.counts, batch.slide))
    return F.mse_loss(y, batch.targets), of_counts, y


def test_loss_is_the_sum_of_its_parts(monkeypatch):
    model, batch = network(), section()
    regression, of_counts, y = parts(model, batch)
    monkeypatch.setattr(model, "_predict_views", lambda batch, neighbours: y + 2)
    torch.testing.assert_close(model.loss(batch), regression + 0.25 * of_counts + 0.5 * 4)


def test_without_counts_they_are_left_out(monkeypatch):
    model, batch = network(), section()
    regression, _, y = parts(model, batch)
    monkeypatch.setattr(model, "_predict_views", lambda batch, neighbours: y)
    torch.testing.assert_close(model.loss(replace(batch, counts=None)), regression)


def test_the_regression_alone_is_the_mean_squared_error():
    model, batch = network(zinb_share=0.0, distilled_share=0.0).eval(), section()
    assert model.counts is None
    assert model.weigh is None
    torch.testing.assert_close(model.loss(batch), F.mse_loss(model(batch), batch.targets))


def test_views_are_weighted_to_a_mean():
    model, batch = network().eval(), section()
    model.initialize_at(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    distilled = model._predict_views(batch, model._neighbours(batch))
    torch.testing.assert_close(distilled, torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(8, 4))


def test_augmented_view_rotates_mirrors_or_removes_colour_but_keeps_luma():
    pixels = torch.rand(200, 3, 8, 8)
    view = augmented_view(pixels)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    before, after = ((x * luma).sum(dim=1).flatten(1).sort().values for x in (pixels, view))
    torch.testing.assert_close(before, after)
    gray = (view.amax(dim=1) - view.amin(dim=1)).flatten(1).amax(dim=1) < 1e-6
    assert 5 <= gray.sum() <= 40  # a tenth
    same = (view == pixels).flatten(1).all(dim=1)
    assert 30 <= same.sum() <= 75  # a third is not turned, four fifths of those not mirrored, nine tenths not gray


# ---- likelihood of counts, against scipy


def log_probability(counts, mean, dispersion, dropout_logit):
    tensors = [torch.as_tensor(x, dtype=torch.float64) for x in (counts, mean, dispersion, dropout_logit)]
    return zinb_log_likelihood(*tensors).numpy()


def test_zinb_agrees_with_scipy():
    """For all combinations of means, dispersions and dropout, from rare to certain."""
    values = np.meshgrid(np.arange(60), [0.01, 1.0, 40.0], [0.2, 3.0, 500.0], [-30.0, 0.0, 2.0])
    counts, mean, dispersion, dropout_logit = (x.ravel() for x in values)
    share = 1 / (1 + np.exp(-dropout_logit))
    of_count = stats.nbinom.pmf(counts, dispersion, dispersion / (dispersion + mean))
    wanted = (1 - share) * of_count + share * (counts == 0)
    found = np.exp(log_probability(counts, mean, dispersion, dropout_logit))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12)


def test_probabilities_add_up_to_one():
    assert np.exp(log_probability(np.arange(2000), 5.0, 0.7, -1.0)).sum() == pytest.approx(1.0, abs=1e-6)


def test_extreme_counts_have_finite_gradients():
    heads, x = ZINBHeads(3, 4), torch.randn(6, 3) * 100
    counts = torch.tensor([0.0, 1.0, 1e4, 1e6]).repeat(6, 1)
    loss = heads.loss(x, counts, torch.ones(6, 1))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in heads.parameters())


def test_untrained_heads_expect_the_mean_counts():
    heads, mean = ZINBHeads(3, 2), torch.tensor([2.0, 30.0])
    heads.initialize_at(mean)
    counts = torch.poisson(mean.expand(50, 2))
    zero = torch.zeros(())
    wanted = -zinb_log_likelihood(counts, mean, torch.nn.functional.softplus(zero), zero).mean()
    torch.testing.assert_close(heads.loss(torch.randn(50, 3), counts, torch.ones(50, 1)), wanted)


def test_library_is_relative_to_the_slide():
    counts = torch.tensor([[1.0, 1], [2, 2], [3, 3], [50, 50], [0, 0]])
    assert relative_library_size(counts, torch.tensor([0, 0, 0, 1, 2]))[:, 0].tolist() == [0.5, 1.0, 1.5, 1.0, 1.0]


def test_counts_of_other_genes_are_refused():
    with pytest.raises(ValueError, match=r"has 5 columns; this network models the counts of 4 genes"):
        ZINBHeads(3, 4).loss(torch.zeros(2, 3), torch.zeros(2, 5), torch.ones(2, 1))


# ---- in training


def test_training_hands_counts_over_and_their_heads_have_one_output_a_gene(tmp_path):
    sdata = synthetic(n_slides=2, n_side=5, um_per_px=8.0)
    config = FitConfig(n_epochs=1, **QUICK)
    predictor = fit(sdata, "hist2st", config=config, model_options=TINY, save_dir=tmp_path / "model")
    network = predictor.members[0].network
    assert (network.config.n_outputs, network.config.n_genes) == (5, 12)
    heads = network.counts
    assert (heads.mean.out_features, heads.mean.in_features) == (12, 32)
    observed = sdata["observed"][:, predictor.genes]
    trained_on = observed[observed.obs["region"] == "S0_spots"].X.toarray()
    size = trained_on.sum(axis=1) / torch.tensor(trained_on.sum(axis=1)).median().item()
    expected = torch.tensor((trained_on / size[:, None]).mean(axis=0)).log().float()
    torch.testing.assert_close(heads.mean.bias, expected, atol=0.01, rtol=0)  # where it started, one small step on
    assert Predictor.load(tmp_path / "model").hash == predictor.hash


def test_other_models_are_not_given_counts(monkeypatch, tmp_path):
    seen = []
    loss = models.SpotModel.loss
    monkeypatch.setattr(models.SpotModel, "loss", lambda self, batch: seen.append(batch.counts) or loss(self, batch))
    sdata = synthetic(n_slides=2, n_side=4, um_per_px=8.0)
    options = {"dim": 12, "depth": 1, "heads": 2, "mlp_dim": 12, "size_px": 16}
    fit(sdata, "histogene", config=FitConfig(n_epochs=1, **QUICK), model_options=options, save_dir=tmp_path / "model")
    assert seen
    assert all(counts is None for counts in seen)


def test_learns_a_section(tmp_path):
    sdata = synthetic(n_slides=3, n_side=8, um_per_px=8.0)
    config = FitConfig(
        **FitConfig().to_dict() | dict(n_epochs=40, lr=1e-2, ema_decay=0.8, patience=40, flips=False, **QUICK)
    )
    options = {**TINY, "channels": 16, "n_kept": 4, "n_views": 1}
    predictor = fit(sdata, "hist2st", config=config, model_options=options, save_dir=tmp_path / "model")
    assert predictor.history["val_pearson"].max() > 0.3
