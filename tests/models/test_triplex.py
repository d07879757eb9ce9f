"""TRIPLEX: its size, its three views, its place on the lattice, its loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import stpredict as stp
from stpredict import models
from stpredict.models.triplex import LatticeConv, WideViewTransformer

SMALL = {
    "target_encoder": "test_efficientnet",
    "view_encoder": "statistics",
    "dim": 16,
    "size_px": 40,
    "view_px": 32,
    **{f"{part}_heads": 4 for part in ("fusion", "section", "around")},
}
STNET = {
    "fusion_depth": 3,
    "section_depth": 3,
    "around_depth": 4,
    "fusion_heads": 16,
    "section_heads": 8,
    "around_heads": 8,
    "section_mlp_ratio": 2.0,
    "around_mlp_ratio": 4.0,
    "fusion_dropout": 0.4,
}


@pytest.fixture
def batch():
    """Nine spots of one section and four of another."""
    at = torch.cat([torch.cartesian_prod(torch.arange(n), torch.arange(n)) for n in (3, 2)])
    return models.SpotBatch(
        patches=torch.randint(0, 256, (13, 2, 3, 40, 40), dtype=torch.uint8),
        xy_um=200.0 * at,
        slide=torch.tensor([0] * 9 + [1] * 4),
        targets=torch.randn(13, 4),
    )


@pytest.fixture
def model(batch):
    model = models.build(models.config("triplex", 4, SMALL))
    model.initialize_from([batch])
    for head in (model.head, *model.branches):
        torch.nn.init.normal_(head.weight)
    return model.eval()


def rows(batch, index):
    return models.SpotBatch(**{name: getattr(batch, name)[index] for name in ("patches", "xy_um", "slide", "targets")})


def test_as_many_parameters_are_trained_as_in_the_paper():
    for overrides, millions in [({}, 29.3), (STNET, 40.3)]:
        with torch.device("meta"):
            network = models.build(models.config("triplex", 250, overrides))
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        assert round(trained / 1e6, 1) == millions


# ---- views


def test_frozen_features_are_of_the_spot_and_of_25_parts_around_it(model, batch):
    levels = torch.arange(25, dtype=torch.uint8) * 10
    batch.patches[:, 0] = 255
    batch.patches[:, 1] = levels.view(5, 5).repeat_interleave(8, 0).repeat_interleave(8, 1)
    features = model.encode(batch)
    assert features.shape == (13, 26, 54)
    torch.testing.assert_close(features[0, 0, 0], torch.tensor(0.0))
    torch.testing.assert_close(features[0, 1:, 0], -(levels / 255).clamp_min(1 / 255).log())


def test_what_five_does_not_divide_is_dropped_at_the_border(batch):
    model = models.build(models.config("triplex", 4, {**SMALL, "size_px": 43})).eval()
    patches = torch.nn.functional.pad(batch.patches, (1, 2, 1, 2), value=7)
    wide = replace(batch, patches=patches)
    small = models.build(models.config("triplex", 4, SMALL)).eval()
    torch.testing.assert_close(model.encode(wide)[:, 1:], small.encode(batch)[:, 1:])


def test_both_patches_matter(model, batch):
    for scale in (0, 1):
        other = replace(batch, patches=batch.patches.clone())
        other.patches[0, scale, :, :8, :8] = 0  # a corner
        assert not torch.allclose(model(other)[0], model(batch)[0])


def test_a_spot_far_off_in_its_section_matters_and_another_section_never(model, batch):
    other = replace(batch, patches=batch.patches.clone())
    other.patches[8] = 30
    changed = (model(other) - model(batch)).abs().amax(dim=1) > 1e-6
    assert changed[:9].all()
    assert not changed[9:].any()


def test_a_spot_s_place_in_its_section_matters(model, batch):
    moved = replace(batch, xy_um=batch.xy_um.clone())
    moved.xy_um[0] = torch.tensor([900.0, 900.0])
    assert not torch.allclose(model(moved)[:9], model(batch)[:9])
    shifted = replace(batch, xy_um=batch.xy_um + torch.tensor([5000.0, 70.0]))
    torch.testing.assert_close(model(shifted), model(batch))


def test_nothing_is_kept_from_one_section_to_the_next(model, batch):
    big, small = rows(batch, slice(0, 9)), rows(batch, slice(9, 13))
    before = model(big)
    model(small)
    assert torch.equal(model(big), before)


def test_many_spots_are_encoded_some_at_a_time(model, batch):
    many = rows(batch, torch.arange(13).repeat(4))
    many.slide = torch.arange(4).repeat_interleave(13) * 2 + many.slide
    torch.testing.assert_close(model(many), model(batch).repeat(4, 1), atol=1e-5, rtol=1e-5)


def test_dropout_is_off_in_evaluation_and_on_in_training(model, batch):
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_attention_around_knows_distances_not_directions():
    layers = WideViewTransformer(depth=2, dim=8, heads=2, mlp_ratio=1.0, dropout=0.3).eval()
    torch.nn.init.normal_(layers.position_bias)
    x = torch.randn(3, 5, 5, 8)
    y = layers(x.flatten(1, 2)).unflatten(1, (5, 5))
    torch.testing.assert_close(layers(x.flip(1).flatten(1, 2)).unflatten(1, (5, 5)), y.flip(1), atol=1e-5, rtol=1e-5)
    swapped = torch.randperm(25)
    assert not torch.allclose(layers(x.flatten(1, 2)[:, swapped]), y.flatten(1, 2)[:, swapped], atol=1e-3)


# ---- the convolution on the lattice


def test_convolution_equals_the_dense_one_with_empty_places_as_zeros():
    conv = LatticeConv(6)
    torch.nn.init.normal_(conv.bias)
    places = torch.cartesian_prod(torch.arange(7), torch.arange(4))[torch.randperm(28)[:17]]
    x = torch.randn(17, 6)
    dense = torch.zeros(1, 6, 4, 7)
    dense[0, :, places[:, 1], places[:, 0]] = x.T
    wanted = F.conv2d(dense, conv.weight.T.reshape(6, 1, 3, 3), conv.bias, padding=1, groups=6)
    torch.testing.assert_close(conv(x, places), x + wanted[0, :, places[:, 1], places[:, 0]].T)


def test_spots_that_share_a_place_are_averaged_there():
    conv = LatticeConv(2)
    torch.nn.init.zeros_(conv.weight)
    conv.weight.data[4] = 1
    given = conv(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.zeros(2, 2, dtype=torch.long))
    torch.testing.assert_close(given, torch.tensor([[3.0, 6.0], [5.0, 10.0]]))


def test_spots_far_apart_cost_no_memory():
    places = torch.tensor([[0, 0], [10**6, 10**7]])
    assert LatticeConv(4)(torch.ones(2, 4), places).isfinite().all()


# ---- training


def test_loss_is_that_of_the_fused_prediction_and_of_each_view(model, batch):
    fused, *views = model._embeddings(batch)
    y, wanted = model.head(fused), ((model(batch) - batch.targets) ** 2).mean()
    for branch, view in zip(model.branches, views, strict=True):
        own = branch(view)
        wanted = wanted + 0.7 * ((own - batch.targets) ** 2).mean() + 0.3 * ((own - y) ** 2).mean()
    torch.testing.assert_close(model.loss(batch), wanted)


def test_every_prediction_starts_at_the_mean(batch):
    model = models.build(models.config("triplex", 4, SMALL))
    model.initialize_from([rows(batch, slice(0, 5)), rows(batch, slice(5, 13))])
    mean = batch.targets.mean(dim=0)
    assert torch.allclose(model(batch), mean.expand(13, 4))
    assert all(torch.allclose(branch.bias, mean) for branch in model.branches)


def test_features_are_standardised_on_the_training_spots(model, batch):
    standard = model.standard(model.encode(batch)).flatten(0, 1)
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(54), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(dim=0, correction=0), torch.ones(54), atol=1e-3, rtol=0)


def test_predictions_are_not_clamped(model, batch):
    assert model(batch).min() < 0


def test_all_but_the_frozen_encoder_learns(batch):
    overrides = {**SMALL, "view_encoder": "test_efficientnet"}
    model = models.build(models.config("triplex", 4, overrides))
    for head in (model.head, *model.branches):
        torch.nn.init.normal_(head.weight)
    model.loss(batch).backward()
    learns = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learns == {name for name, _ in model.named_parameters() if not name.startswith("views.")}
    assert not model.views.net.training
    assert model.target.net.training


def test_weights_of_both_encoders_come_from_files(tmp_path):
    sizes = {**SMALL, "view_encoder": "test_efficientnet"}
    source = models.build(models.config("triplex", 4, sizes))
    save_file(source.target.net.state_dict(), tmp_path / "a.safetensors")
    path = str(tmp_path / "a.safetensors")
    model = models.build(models.config("triplex", 4, {**sizes, "target_weights": path, "view_weights": path}))
    loaded = model.load_pretrained()
    assert sorted(loaded) == ["target", "views"]
    assert all("a.safetensors" in said for said in loaded.values())
    for net in (model.target.net, model.views.net):
        assert torch.equal(net.state_dict()["conv_stem.weight"], source.target.net.state_dict()["conv_stem.weight"])
    assert source.load_pretrained() == {}


def test_wrong_fields_are_refused():
    for overrides, message in [
        ({"target_encoder": "statistics"}, "which is not a network"),
        ({"section_heads": 5}, "does not divide it"),
        ({"fov_spots": (1.12,)}, "takes exactly 2"),
        ({"size_px": 4}, "cut into 5 x 5"),
        ({"agreement": 1.5}, "`agreement` is 1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            models.config("triplex", 4, {**SMALL, **overrides})


def test_learns_through_fit():
    sdata = stp.datasets.synthetic(n_slides=2, n_side=6, n_genes=6)
    config = stp.tl.FitConfig(
        **stp.tl.FitConfig().to_dict() | {"n_epochs": 15, "lr": 3e-3, "validation": "slide", "progress": False}
    )
    predictor = stp.tl.fit(sdata, "triplex", config=config, model_options=SMALL)
    assert predictor.history["val_pearson"].max() > 0.5
