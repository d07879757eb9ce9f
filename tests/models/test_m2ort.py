"""One field of view at three resolutions: what a token sees, where queries, keys, values come from, sizes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import stpredict
from stpredict import models
from stpredict.models.m2ort import LevelAttention, M2ORTConfig, PatchEmbedding, downsample

PUBLISHED = {"m2ort": (7_620_874, 1.71), "m2ort_base": (17_137_946, 3.77), "m2ort_large": (55_485_754, 11.88)}


def small(**overrides):
    return M2ORTConfig(
        **{"n_outputs": 4, "dim": 12, "depth": 1, "heads": 2, "dim_head": 4, "mlp_dim": 8, "size_px": 32, **overrides}
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_cost_and_recipe_are_the_published_ones(name, spots):
    parameters, giga = PUBLISHED[name]
    with torch.device("meta"):
        model = models.build(models.config(name, 250)).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(spots(1, 1, 224).to("meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.005)
    recipe = models.recipe(name)
    assert (recipe["lr"], recipe["batch_size"], recipe["n_epochs"], recipe["weight_decay"]) == (1e-4, 96, 200, 0.0)
    assert stpredict.tl.FitConfig(**recipe).flips


# ---- resolutions


def test_token_i_shows_the_same_place_at_every_resolution():
    """Up to the half pixel that the antialiasing filter reaches beyond it."""
    model = models.build(small())
    pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
    for level, parts in enumerate(model._tokens(pixels).split(12, dim=-1)):
        gradient = torch.autograd.grad(parts[0, 2, 0], pixels, retain_graph=True)[0][0].abs().sum(dim=0)
        rows, columns = gradient.nonzero().T  # token 2 of two by two: second row, first column
        assert abs(int(rows.min()) - 16) <= 2**level // 2
        assert int(rows.max()) == 31
        assert int(columns.min()) == 0
        assert abs(int(columns.max()) - 15) <= 2**level // 2


def test_fine_stripes_vanish_at_low_resolution():
    """A filter that only picked pixels would see them as a flat patch of the wrong colour."""
    stripes = torch.zeros(1, 1, 32, 32)
    stripes[..., ::2] = 1
    for by in (2, 4):
        inner = downsample(stripes, by)[..., 1:-1]
        torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.02, rtol=0)


def test_flat_patches_stay_flat():
    assert downsample(torch.full((1, 3, 16, 16), 0.3), 4).shape == (1, 3, 4, 4)
    torch.testing.assert_close(downsample(torch.full((1, 3, 16, 16), 0.3), 4), torch.full((1, 3, 4, 4), 0.3))


def test_tokens_are_smaller_where_pixels_are_larger():
    assert [embed.size for embed in models.build(small()).embed] == [16, 8, 4]
    assert PatchEmbedding(4, 6, 5)(torch.rand(2, 3, 8, 8)).shape == (2, 4, 5)


# ---- attention


def test_queries_keys_and_values_come_from_one_resolution_each():
    layer, x = LevelAttention(6, 2, 4, 0.0), torch.randn(2, 5, 18)
    levels = layer.norm(x).split(6, dim=-1)
    heads = [
        project(level).reshape(2, 5, 2, 4).transpose(1, 2) for project, level in zip(layer.to_qkv, levels, strict=True)
    ]
    weights = (heads[0] @ heads[1].transpose(-2, -1) / 2).softmax(dim=-1)
    expected = layer.out((weights @ heads[2]).transpose(1, 2).reshape(2, 5, 8))
    torch.testing.assert_close(layer(x), expected)


def test_values_have_a_map_of_their_own():
    """The published code once took the map of the keys."""
    layer, x = LevelAttention(6, 2, 4, 0.0), torch.randn(1, 5, 18)
    layer(x).sum().backward()
    assert all(project.weight.grad.any() for project in layer.to_qkv)


# ---- configuration


def test_wrong_fields_are_refused():
    for overrides, message in [
        ({"patch_size": 2}, "`patch_size` is 2; it is halved 2 times: give a multiple of 4"),
        ({"dim": 6}, "`dim` is 6; it is halved 2 times"),
        ({"size_px": 40}, "`size_px` is 40 and `patch_size` is 16"),
        ({"fov_spots": (1.5, 3.0)}, r"this model takes exactly 1"),
        ({"dropout": 1.0}, "`dropout` is 1.0"),
        ({"heads": 0}, "`heads` is 0"),
        ({"context": "slide"}, "`context` is 'slide'"),
    ]:
        with pytest.raises(ValueError, match=message):
            small(**overrides)


def test_learns_what_a_held_out_slide_shows():
    sdata = stpredict.datasets.synthetic(n_slides=3, n_side=8)
    config = stpredict.tl.FitConfig(
        **stpredict.tl.FitConfig().to_dict() | {"n_epochs": 12, "lr": 3e-3, "validation": "none", "progress": False}
    )
    options = {"dim": 24, "depth": 1, "heads": 3, "dim_head": 8, "mlp_dim": 32, "size_px": 64}
    train, test = ["S0_spots", "S1_spots"], ["S2_spots"]
    predictor = stpredict.tl.fit(sdata, "m2ort", config=config, model_options=options, shapes_key=train)
    stpredict.tl.predict(sdata, predictor, shapes_key=test, progress=False)
    assert stpredict.tl.evaluate(sdata, shapes_key=test)["pearson"].mean() > 0.4
