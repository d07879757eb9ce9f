"""iStar: its head, its superpixels, the disc they are averaged over, its features."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import stpredict as stp
from stpredict import models
from stpredict.models.istar import box_filter, color_and_texture, disc_weights, hidden_layers, sample_center

SMALL = {"cells": 8, "size_px": 32, "dim": 16}


@pytest.fixture
def batch():
    return models.SpotBatch(
        patches=torch.randint(0, 256, (5, 3, 3, 32, 32), dtype=torch.uint8),
        xy_um=200.0 * torch.rand(5, 2),
        slide=torch.tensor([0, 0, 0, 1, 1]),
        targets=torch.randn(5, 4),
    )


def built(batch, **overrides):
    model = models.build(models.config("istar", 4, {**SMALL, **overrides}))
    model.initialize_from([batch])
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture
def model(batch):
    return built(batch)


def test_the_head_has_as_many_parameters_as_published():
    for n_outputs, millions in [(250, 0.41), (1000, 0.60)]:
        layers = torch.nn.Sequential(hidden_layers(579, 256, 4), torch.nn.Linear(256, n_outputs))
        assert round(sum(p.numel() for p in layers.parameters()) / 1e6, 2) == millions


# ---- superpixels and the spot


def test_a_spot_is_the_mean_of_its_superpixels_over_its_disc(model, batch):
    each = model.superpixels(batch)
    assert each.shape == (5, 64, 4)
    wanted = (each * disc_weights(8, 1.28)[:, None]).sum(dim=1)
    torch.testing.assert_close(model(batch), wanted, atol=1e-5, rtol=1e-5)


def test_shares_are_the_areas_of_superpixels_inside_the_disc():
    for cells, fov in [(8, 1.28), (16, 1.0), (5, 2.0)]:
        shares = disc_weights(cells, fov)
        torch.testing.assert_close(shares.sum(), torch.tensor(1.0))
        grid = shares.view(cells, cells)
        assert torch.equal(grid, grid.T)
        assert torch.equal(grid, grid.flip(0))
        whole = torch.pi / 4 * (cells / fov) ** 2  # area of the disc in superpixels
        assert abs(1 / float(grid.max()) - whole) < 0.02 * whole
    assert disc_weights(8, 1.28)[0] == 0  # a corner


def test_what_lies_outside_the_disc_changes_superpixels_but_not_the_spot(batch):
    one = replace(batch, patches=batch.patches[:, :1])
    model = built(one, fov_spots=(2.0,), smoothing=1)
    other = replace(one, patches=one.patches.clone())
    other.patches[..., :4, :4] = 0  # the first superpixel, a corner
    changed = (model.superpixels(other) - model.superpixels(one)).abs().amax(dim=(0, 2)) > 1e-6
    assert changed[0]
    assert int(changed.sum()) == 1
    torch.testing.assert_close(model(other), model(one))


def test_a_spot_half_of_one_colour_has_superpixels_of_two_kinds(batch):
    halves = replace(batch, patches=batch.patches[:, :1].clone())
    model = built(halves, fov_spots=(1.28,), smoothing=1)
    halves.patches[..., :16], halves.patches[..., 16:] = 40, 200
    each = model.superpixels(halves)[0].view(8, 8, 4)
    torch.testing.assert_close(each[:, :3], each[:1, :1].expand(8, 3, 4), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(each[:, 5:], each[:1, 7:].expand(8, 3, 4), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(each[0, 0], each[0, 7])


# ---- features


def test_features_are_texture_of_two_widths_at_every_scale_and_colour(model, batch):
    features = model.encode(batch)
    assert features.shape == (5, 64, 3 * 18 + 3)
    assert features.dtype == torch.float32
    color = F.avg_pool2d(batch.patches[:, 0].float() / 255, 4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(features[..., -3:], color)
    wanted = color_and_texture(batch.patches[:, 0], 8, (1, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(features[..., :18], wanted)


def test_texture_is_that_of_each_window():
    patches = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    density = -(patches / 255).clamp_min(1 / 255).log()
    found = color_and_texture(patches, 8, (1, 4))
    assert found.shape == (2, 18, 8, 8)
    part = density[:, :, 8:12, 20:24]  # superpixel (2, 5)
    torch.testing.assert_close(found[:, :3, 2, 5], part.mean(dim=(2, 3)))
    torch.testing.assert_close(found[:, 3:6, 2, 5], part.std(dim=(2, 3), correction=0), atol=1e-4, rtol=1e-3)
    around = density[:, :, 4:20, 16:32]  # one before, two after
    torch.testing.assert_close(found[:, 9:12, 2, 5], around.mean(dim=(2, 3)), atol=1e-4, rtol=1e-4)


def test_smoothing_takes_the_mean_of_what_there_is():
    grid = torch.arange(9.0).view(1, 1, 3, 3)
    assert torch.equal(box_filter(grid, 1), grid)
    assert float(box_filter(grid, 3)[0, 0, 0, 0]) == 2.0  # of 0, 1, 3, 4
    assert float(box_filter(grid, 3)[0, 0, 1, 1]) == 4.0
    torch.testing.assert_close(box_filter(torch.ones(1, 2, 8, 8), 4), torch.ones(1, 2, 8, 8))


def test_context_is_read_where_the_superpixel_lies():
    x = (torch.arange(16.0) + 0.5) / 16 - 0.5  # across a wide patch
    grid = x.expand(1, 1, 16, 16)
    inner = (torch.arange(8.0) + 0.5) / 8 - 0.5
    torch.testing.assert_close(sample_center(grid, 0.5, 8)[0, 0], (inner / 2).expand(8, 8))
    torch.testing.assert_close(sample_center(grid.mT, 0.5, 8)[0, 0], (inner / 2)[:, None].expand(8, 8))


def test_wider_patches_matter(model, batch):
    for scale in range(3):
        other = replace(batch, patches=batch.patches.clone())
        other.patches[0, scale] = 120
        assert not torch.allclose(model(other)[0], model(batch)[0])


def test_hipt_is_a_small_vision_transformer_of_16_by_16_tokens():
    with torch.device("meta"):
        model = models.build(models.config("istar", 250, {"encoder": "hipt"}))
    encoder = sum(p.numel() for p in model.encoder.parameters())
    assert round(encoder / 1e6, 1) == 21.7
    assert model.encoder.input_px == 256
    assert not [p for p in model.encoder.parameters() if p.requires_grad]
    assert model.mlp[0].in_features == 3 * 384 + 3


def test_tokens_of_a_network_describe_superpixels(batch, tmp_path):
    sizes = {"encoder": "test_vit", "size_px": 64, "cells": 4}
    seen = replace(batch, patches=torch.randint(0, 256, (5, 3, 3, 64, 64), dtype=torch.uint8))
    model = built(seen, **sizes)
    features = model.encode(seen)
    assert features.shape == (5, 16, 3 * 64 + 3)
    tokens = model.encoder.tokens(seen.patches[:, 0]).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(features[..., :64], box_filter(tokens, 4).flatten(2).transpose(1, 2))
    assert model.load_pretrained() == {}
    save_file(model.encoder.net.state_dict(), tmp_path / "w.safetensors")
    other = models.build(models.config("istar", 4, {**SMALL, **sizes, "weights": str(tmp_path / "w.safetensors")}))
    assert "w.safetensors" in other.load_pretrained()["encoder"]
    torch.testing.assert_close(other.encode(seen), features)


def test_features_are_standardised_on_the_training_spots(model, batch):
    standard = model.standard(model.encode(batch)).flatten(0, 1)
    torch.testing.assert_close(standard.mean(dim=0), torch.zeros(57), atol=1e-3, rtol=0)
    torch.testing.assert_close(standard.std(dim=0, correction=0), torch.ones(57), atol=1e-2, rtol=0)


def test_wrong_fields_are_refused():
    for overrides, message in [
        ({"cells": 5}, "Give a multiple of 5 as `size_px`, such as 35"),
        ({"fov_spots": (100.0, 200.0)}, "smaller than a sampling point"),
        ({"depth": 0}, "`depth` is 0"),
        ({"context": "slide"}, "allowed: 'spot'"),
    ]:
        with pytest.raises(ValueError, match=message):
            models.config("istar", 4, {**SMALL, **overrides})


def test_tokens_that_make_no_square_are_refused(batch):
    model = built(batch)
    model.encoder = type("Odd", (torch.nn.Module,), {"name": "odd", "tokens": lambda _, x: torch.zeros(len(x), 6, 4)})()
    with pytest.raises(ValueError, match="6 tokens per patch, which is not a square grid"):
        model.encode(batch)


def test_learns_through_fit():
    sdata = stp.datasets.synthetic(n_slides=2, n_side=6, n_genes=6)
    config = stp.tl.FitConfig(
        **stp.tl.FitConfig().to_dict() | {"n_epochs": 20, "lr": 3e-3, "validation": "slide", "progress": False}
    )
    predictor = stp.tl.fit(sdata, "istar", config=config, model_options=SMALL)
    assert predictor.history["val_pearson"].max() > 0.5
