"""What every registered model must do, whatever it is.

A new model is a row in ``SPOT``, ``SLIDE`` or ``CLOSED``, as small as possible, and its fields in ``CHANGES``. One row
of each kind of network that is fast is in ``REPRESENTATIVE``, on which everything is tested; other rows get the short
`test_other_cases`.
"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from stpredict import models
from stpredict.models._variants import VARIANTS
from stpredict.tl._predictor.schema import load_weights, saved_network_config

SMALL = {"dim": 12, "depth": 2, "size_px": 32, "patch_size": 8}
REFERENCE = {"dim": 18, "depth": 2, "size_px": 32, "patch_size": 8, "heads": 3, "dim_head": 4, "mlp_dim": 12}
RESOLUTIONS = {"dim": 12, "depth": 2, "heads": 3, "dim_head": 4, "mlp_dim": 12, "size_px": 32}
HIST2ST = {"size_px": 32, "patch_size": 16, "channels": 4, "n_kept": 3, "depth": 1, "graph_depth": 2, "heads": 3}
FLOW = {"dim": 12, "depth": 2, "heads": 3, "size_px": 32}
PAIR = {"encoder": "test_efficientnet", "dim": 12, "top_k": 2, "size_px": 32}
TRIPLEX = {
    "target_encoder": "test_efficientnet",
    "view_encoder": "statistics",
    "view_px": 32,
    "dim": 12,
    "size_px": 32,
    **{f"{part}_heads": 3 for part in ("fusion", "section", "around")},
}
DEEPSPOT = {"encoder": "statistics", "dim": 12, "members": 3, "size_px": 32}
GIVEN = {"encoder": "given", "n_features": 7, "size_px": 32}
PLAIN = {"encoder": "test_efficientnet", "size_px": 32}
FOV = (1.0, 2.0, 4.0, 8.0)
ALONE = {"embedding": "plain", "within": "joint", "between": "sum", "channels": "dense"}

# ---- models by kind: name of the case -> name of the model, fields to change

SPOT = {  # trained by steps; a spot's prediction depends on that spot alone
    "m2ost": ("m2ost", SMALL),
    "m2ost_small": ("m2ost_small", SMALL),
    "m2ost_tiny": ("m2ost_tiny", SMALL),
    **{f"m2ost-{n}-scales": ("m2ost", {**SMALL, "fov_spots": FOV[:n]}) for n in (1, 2, 4)},
    **{
        name: (name, SMALL)
        for name in ("m2ost_plain_embedding", "m2ost_joint_attention", "m2ost_concat", "m2ost_dense")
    },
    **{f"m2ost-{v}": ("m2ost", {**SMALL, k: v}) for k, v in ALONE.items()},
    **{f"m2ost-plain-{n}-scales": ("m2ost_dense", {**SMALL, "fov_spots": FOV[:n]}) for n in (1, 2)},
    "m2ost-wide-scales": ("m2ost", {**SMALL, "fov_spots": (3.0, 6.0)}),
    **{name: (name, RESOLUTIONS) for name in ("m2ort", "m2ort_base", "m2ort_large")},
    "m2ost_reference": ("m2ost_reference", REFERENCE),
    "m2ost_reference-mean": ("m2ost_reference", {**REFERENCE, "pool": "mean"}),
    **{name: (name, PLAIN) for name in ("resnet50", "swin_t", "convnext_t", "crossvit_small")},
    "vit_b_16": ("vit_b_16", {**PLAIN, "encoder": "test_vit"}),
    "backbone-frozen": ("resnet50", {**PLAIN, "frozen": True}),
    "backbone-given": ("resnet50", GIVEN),
    "stnet": ("stnet", {"size_px": 32}),
    "deepspace": ("deepspace", {"backbone": "test_efficientnet", "size_px": 32}),
    "deepspace-frozen": ("deepspace", {"backbone": "test_efficientnet", "frozen": True, "size_px": 32}),
    "encoder_mlp": ("encoder_mlp", {"hidden": 12, "size_px": 32}),
    "encoder_mlp-given": ("encoder_mlp", {**GIVEN, "hidden": 12}),
    "bleep": ("bleep", PAIR),
    "bleep-frozen": ("bleep", {**PAIR, "frozen": True, "fov_spots": (1.0, 2.0)}),
    "bleep-statistics": ("bleep", {**PAIR, "encoder": "statistics"}),
    "bleep-given": ("bleep", {**PAIR, **GIVEN}),
    "istar": ("istar", {"cells": 4, "smoothing": 2, "dim": 12, "size_px": 32}),
    "istar-tokens": ("istar", {"encoder": "test_vit", "cells": 2, "dim": 12, "size_px": 32}),
}
SLIDE = {  # trained by steps; a spot's prediction depends on the other spots of its slide
    "histogene": ("histogene", {"dim": 12, "depth": 1, "heads": 3, "mlp_dim": 12, "size_px": 32}),
    "hist2st": ("hist2st", HIST2ST),
    "hist2st-regression": ("hist2st", {**HIST2ST, "zinb_share": 0.0, "distilled_share": 0.0}),
    "stflow": ("stflow", FLOW),
    "stflow-given": ("stflow", {**FLOW, "encoder": "given", "n_features": 7}),
    "stflow-centre": ("stflow", {**FLOW, "n_draws": 0}),
    "hexst": ("hexst", {"dim": 12, "heads": 3, "size_px": 32}),
    "hexst-given": ("hexst", {"dim": 12, "heads": 3, "encoder": "given", "n_features": 7, "size_px": 32}),
    "triplex": ("triplex", {**TRIPLEX, "fusion_depth": 2}),
    "triplex-network": ("triplex", {**TRIPLEX, "view_encoder": "test_efficientnet"}),
    "deepspot": ("deepspot", DEEPSPOT),
    "deepspot-given": ("deepspot", {**DEEPSPOT, "encoder": "given", "n_features": 7}),
}
CLOSED = {  # nothing is trained by steps: everything is learned in ``initialize_from``
    "encoder_ridge": ("encoder_ridge", {"size_px": 32}),
    "encoder_ridge-given": ("encoder_ridge", GIVEN),
    "mean_profile": ("mean_profile", {"size_px": 32}),
    "ridge_color": ("ridge_color", {"size_px": 32}),
    "ridge_statistics": ("ridge_statistics", {"size_px": 32}),
    "nuclei_ridge": ("nuclei_ridge", {"size_px": 32}),
    "knn_spatial": ("knn_spatial", {"size_px": 32, "k": 2}),
}

REPRESENTATIVE = {
    *(
        "m2ost",
        "m2ost-plain-1-scales",
        "m2ost_tiny",
        "m2ort",
        "m2ost_reference",
    ),
    *("resnet50", "backbone-frozen", "backbone-given", "deepspace", "deepspace-frozen", "encoder_mlp"),
    *("bleep", "bleep-statistics", "istar", "istar-tokens", *SLIDE, *CLOSED),
} - {"triplex-network", "hist2st-regression", "stflow-centre", "encoder_ridge-given"}

# ---- exceptions, by name of the model

WITHOUT_GRADIENT = "weigh.2.bias"  # of Hist2ST: a bias before a softmax cancels, so only rounding gives it a gradient
OWN_LOSS = {
    "deepspace",
    "hist2st",
    "stflow",
    "hexst",
    "bleep",
    "triplex",
}  # not the mean squared error alone
NO_HEAD = {"bleep"}  # trained by steps, but the last layer is no ``head``: does not start at the mean profile

# ---- every field of a configuration: the case it is changed in, and to what

CHANGES = {
    "m2ost": {
        "n_outputs": 5,
        "dim": 24,
        "depth": 1,
        "heads": 2,
        "patch_size": 16,
        "size_px": 64,
        "fov_spots": (1.5, 3.0),
        "mlp_ratio": 2.0,
        "mask_rate": 0.5,
        "dropout": 0.5,
        **ALONE,
    },
    "m2ost_reference": {
        "n_outputs": 5,
        "dim": 36,
        "depth": 1,
        "heads": 6,
        "dim_head": 8,
        "mlp_dim": 24,
        "patch_size": 4,
        "size_px": 64,
        "pool": "mean",
    },
    "m2ort": {
        "n_outputs": 5,
        "dim": 24,
        "depth": 1,
        "heads": 6,
        "dim_head": 8,
        "mlp_dim": 24,
        "patch_size": 8,
        "dropout": 0.5,
        "size_px": 64,
    },
}
CHANGES |= {
    "histogene": {
        "n_outputs": 5,
        "dim": 24,
        "depth": 2,
        "heads": 2,
        "mlp_dim": 24,
        "dropout": 0.5,
        "n_places": 2,
        "size_px": 64,
    },
    "hist2st": {
        "n_outputs": 5,
        "kernel_size": 3,
        "patch_size": 8,
        "conv_depth": 1,
        "depth": 2,
        "graph_depth": 1,
        "heads": 2,
        "channels": 8,
        "n_kept": 6,
        "mlp_dim": 24,
        "dropout": 0.5,
        "n_places": 2,
        "n_neighbours": 1,
        "reach": 0.5,
        "zinb_share": 0.0,
        "n_genes": 7,
        "distilled_share": 0.0,
        "size_px": 64,
    },
    "stflow": {
        "n_outputs": 5,
        "encoder": "resnet10t",
        "dim": 24,
        "depth": 1,
        "heads": 2,
        "n_neighbours": 2,
        "prior": "zero",
        "n_times": 3,
        "n_draws": 2,
        "dropout": 0.99,
    },
    "hexst": {
        "n_outputs": 5,
        "encoder": "resnet10t",
        "dim": 24,
        "depth": 1,
        "heads": 2,
        "width": 1.0,
        "dropout": 0.9,
    },
}
_VIEWS = {"n_outputs": 5, "encoder": "resnet10t", "fov_spots": (1.5, 3.0), "size_px": 64}
CHANGES |= {
    "encoder_ridge": {**_VIEWS, "clip": 0.5, "n_components": 2, "penalty": 7.0, "intercept": False},
    "encoder_mlp": {**_VIEWS, "clip": 0.5, "n_components": 2, "hidden": 24, "depth": 2, "dropout": 0.9},
    "bleep": {**_VIEWS, "encoder": "statistics", "frozen": True, "dim": 24, "dropout": 0.9, "top_k": 12},
    "mean_profile": {"n_outputs": 5},
    "resnet50": {"n_outputs": 5, "encoder": "test_vit", "frozen": True, "size_px": 64},
    "stnet": {"n_outputs": 5},
    "deepspace": {"n_outputs": 5, "backbone": "test_vit", "frozen": True, "dropout": 0.9, "size_px": 64},
    "ridge_color": {"n_outputs": 5, "penalty": 7.0, "fov_spots": (1.5, 3.0), "size_px": 64},
    "ridge_statistics": {"n_outputs": 5, "clip": 0.5, "penalty": 7.0, "fov_spots": (1.5, 3.0), "size_px": 64},
    "nuclei_ridge": {"n_outputs": 5, "clip": 0.5, "penalty": 7.0, "fov_spots": (2.0,), "size_px": 64},
    "knn_spatial": {"n_outputs": 5, "k": 3},
}
CHANGES |= {
    "triplex": {
        "n_outputs": 5,
        "target_encoder": "resnet10t",
        "view_encoder": "resnet10t",
        "dim": 24,
        "fusion_depth": 1,
        "section_depth": 2,
        "around_depth": 2,
        **{f"{part}_heads": 2 for part in ("fusion", "section", "around")},
        **{f"{part}_mlp_ratio": 2.0 for part in ("fusion", "section", "around")},
        **{f"{part}_dropout": 0.9 for part in ("fusion", "section", "around")},
        "size_px": 64,
    },
    "deepspot": {
        "n_outputs": 5,
        "encoder": "resnet10t",
        "dim": 24,
        "members": 4,
        "dropout": 0.9,
        "reach": 0.5,
        "size_px": 64,
    },
    "istar": {
        "n_outputs": 5,
        "encoder": "test_vit",
        "cells": 8,
        "smoothing": 1,
        "dim": 24,
        "depth": 2,
        "fov_spots": (1.5, 3.0),
        "size_px": 64,
    },
}
DECLARED = {  # what the model wants, or what only acts in training or has a test of its own
    "m2ost": {"context"},
    "m2ost_reference": {"context", "fov_spots"},
    "m2ort": {"context", "fov_spots"},
    "histogene": {"context", "fov_spots"},
    "hist2st": {"context", "fov_spots", "n_views"},
    "stflow": {"context", "fov_spots", "size_px", "weights", "n_features"},
    "hexst": {"context", "fov_spots", "size_px", "weights", "n_features", "correlation_share", "deviation_share"},
    "triplex": {"context", "fov_spots", "target_weights", "view_weights", "agreement", "view_px"},
    "deepspot": {"context", "fov_spots", "weights", "n_features", "objective"},
    "istar": {"context", "weights"},
    "resnet50": {"context", "fov_spots", "weights", "n_features"},
    "stnet": {"context", "fov_spots", "weights", "size_px"},
    "deepspace": {"context", "fov_spots", "weights"},
    "encoder_ridge": {"context", "weights", "n_features"},
    "encoder_mlp": {"context", "weights", "n_features"},
    "bleep": {"context", "weights", "n_features", "temperature", "normalize"},
    "mean_profile": {"context", "fov_spots", "size_px"},
    "ridge_color": {"context"},
    "ridge_statistics": {"context"},
    "nuclei_ridge": {"context"},
    "knn_spatial": {"context", "fov_spots", "size_px"},
}

CASES = {**SPOT, **SLIDE, **CLOSED}


def of(*kinds, but=frozenset(), representative=True):
    """The cases of some kinds, without those of some models; a test with it takes ``case``."""
    cases = [case for kind in kinds for case, (name, _) in kind.items() if name not in but]
    chosen = [case for case in cases if representative is None or (case in REPRESENTATIVE) == representative]
    return pytest.mark.parametrize("case", chosen)


every, trained = of(SPOT, SLIDE, CLOSED), of(SPOT, SLIDE)


@pytest.fixture
def config(case):
    name, overrides = CASES[case]
    return models.config(name, 4, overrides)


@pytest.fixture
def batch(config):
    return section(config)


@pytest.fixture
def model(case):
    return deepcopy(build_awake(case))


@cache
def build_awake(case):
    """One network for all tests of a case, from the seed of `quiet_torch`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        name, overrides = CASES[case]
        config = models.config(name, 4, overrides)
        return awake(models.build(config), section(config))


def section(config):
    """Twelve spots of three slides and two patients; colour and expression follow the place."""
    draw = torch.Generator().manual_seed(len(config.fov_spots))
    at = torch.tensor([[x, y] for n in (3, 2, 1) for x in range(n) for y in range(2)], dtype=torch.float32)
    slide = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    level = (at[:, 0] / 4 + at[:, 1] / 3 + slide / 12)[:, None]  # (12, 1)
    noise = torch.randint(-40, 41, (12, len(config.fov_spots), 3, config.size_px, config.size_px), generator=draw)
    given = getattr(config, "encoder", None) == "given"
    return models.SpotBatch(
        patches=(80 + 90 * level[:, :, None, None, None] + noise).to(torch.uint8),
        xy_um=200 * at,
        slide=slide,
        targets=level * torch.linspace(2, -1, config.n_outputs)
        + 0.1 * torch.randn(12, config.n_outputs, generator=draw),
        counts=torch.poisson(20 * level.expand(-1, getattr(config, "n_genes", 0) or config.n_outputs), generator=draw),
        group=slide.clamp(max=1),
        features=level + 0.1 * torch.randn(12, config.n_features, generator=draw) if given else None,
    )


def awake(model, batch):
    """As after some training: it knows the training spots, and the outputs that start at zero are not zero any more."""
    model.initialize_from([described(model, batch)])
    for name, parameter in model.named_parameters():
        if name == "head.weight" and parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    return model


def described(model, batch):
    """With the features that training computes once, before the first step, without augmentation."""
    if batch.features is not None:
        return batch
    training = model.training
    model.eval()
    with torch.no_grad():
        features = model.encode(batch)
    model.train(training)
    return replace(batch, features=features)


def rows(batch, index):
    known = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: x[index] for name, x in known.items() if x is not None})


def idle(model):
    """Parameters that should learn and got nothing to learn from."""
    learns = {n: p for n, p in model.named_parameters() if p.requires_grad and n != WITHOUT_GRADIENT}
    return [n for n, p in learns.items() if p.grad is None or not p.grad.any()]


def sees_patches(case):
    return CASES[case][1].get("encoder") != "given"


def alone(model, batch):
    """Predictions for spots that do not see each other."""
    return torch.cat([model(rows(batch, slice(i, i + 1))) for i in range(len(batch))])


def test_cases_cover_the_registry():
    assert {name for name, _ in CASES.values()} == set(VARIANTS)
    classes = {case: VARIANTS[name].model for case, (name, _) in CASES.items()}
    # STNet is a DenseNet-121, which takes seconds a check: it gets `test_other_cases` only
    assert {classes[case] for case in REPRESENTATIVE} == set(classes.values()) - {classes["stnet"]}


# ---- every model


@every
def test_prediction(model, batch):
    """One finite float32 row per spot, from bytes, floats or features computed before; repeatable; input unchanged."""
    y = model(batch)  # in training mode
    assert y.shape == (12, 4)
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()
    model.eval()
    y = model(batch)
    assert torch.equal(model(batch), y)
    one = model(rows(batch, slice(7, 8)))
    assert one.shape == (1, 4)
    assert torch.isfinite(one).all()
    torch.testing.assert_close(model(described(model, batch)), y, atol=1e-5, rtol=1e-5)
    for patches in (batch.patches, batch.patches.float() / 255):
        before = patches.clone()
        torch.testing.assert_close(model(replace(batch, patches=patches)), y, atol=1e-5, rtol=1e-5)
        assert torch.equal(patches, before)


@every
def test_spots_and_slides_are_independent_where_they_should_be(case, config, model, batch):
    model.eval()
    y, order = model(batch), torch.randperm(12)
    torch.testing.assert_close(model(rows(batch, order)), y[order], atol=1e-5, rtol=1e-5)
    slide_by_slide = torch.cat([model(rows(batch, batch.slide == i)) for i in range(3)])
    torch.testing.assert_close(slide_by_slide, y, atol=1e-5, rtol=1e-5)
    if case in SLIDE:
        assert config.context == "slide"
        assert not torch.isclose(alone(model, batch), y, atol=1e-5).all(dim=1).any()
        renumbered = replace(batch, slide=torch.tensor([9, 4, 31])[batch.slide])
        torch.testing.assert_close(model(renumbered), y, atol=1e-5, rtol=1e-5)
    elif case != "knn_spatial":
        torch.testing.assert_close(alone(model, batch), y, atol=1e-5, rtol=1e-5)


@every
def test_round_trips_and_seeds(case, config, model, batch):
    """Through JSON and a state dict; the same seed gives the same network, another seed another one."""
    assert models.config_from_dict(json.loads(json.dumps(models.config_to_dict(config)))) == config
    torch.manual_seed(7)
    first = models.build(config)
    torch.manual_seed(7)
    second = models.build(config)
    assert all(torch.equal(x, second.state_dict()[name]) for name, x in first.state_dict().items())
    saved = saved_network_config(models.config_to_dict(config), model.state_dict(), Path("a folder"))
    assert saved == config  # shapes are compared on the meta device, with as many calls as the weights explain
    y = model.eval()(batch)
    load_weights(first, model.state_dict(), Path("a folder"))
    assert torch.equal(first.eval()(batch), y)
    if case not in CLOSED and config.__class__.__name__ != "BLEEPConfig":  # which may well find the same training spots
        assert not torch.equal(awake(second, batch).eval()(batch), y)


@of(SPOT, SLIDE, CLOSED, representative=False)
def test_other_cases(case, config, model, batch):
    """The checks that no case goes without, on one network."""
    y = model.eval()(batch)
    assert y.shape == (12, 4)
    assert torch.isfinite(y).all()
    if case not in SLIDE:
        torch.testing.assert_close(alone(model, batch), y, atol=1e-5, rtol=1e-5)
    other = models.build(config)
    load_weights(other, model.state_dict(), Path("a folder"))
    assert torch.equal(other.eval()(batch), y)
    assert models.config_from_dict(json.loads(json.dumps(models.config_to_dict(config)))) == config
    if case in CLOSED:
        return
    model.train().loss(described(model, batch)).backward()
    assert not idle(model)
    if sees_patches(case):
        with pytest.raises(ValueError, match="this network takes"):
            model(replace(batch, patches=batch.patches[..., :16, :16]))


def test_unknown_field_is_refused():
    values = models.config_to_dict(models.config("m2ost", 4))
    values["config"]["widht"] = 3
    with pytest.raises(ValueError, match=r"has no field 'widht' \(fields: .*'size_px'"):
        models.config_from_dict(values)


# ---- models that are trained by steps


@trained
def test_loss_and_gradients(case, config, model, batch):
    with pytest.raises(ValueError, match="Give targets"):
        model.loss(replace(batch, targets=None))
    model.loss(described(model, batch)).backward()
    assert not idle(model)
    if CASES[case][0] not in OWN_LOSS:
        model.eval()
        torch.testing.assert_close(model.loss(batch), ((model(batch) - batch.targets) ** 2).mean())


@of(SPOT, SLIDE, but=NO_HEAD)
def test_starts_at_the_mean_profile_and_learns_from_there(config, model, batch):
    fresh, mean = models.build(config), torch.tensor([5.5, -1.0, 0.25, 3.0])
    fresh.initialize_at(mean)
    assert torch.equal(fresh.eval()(batch), mean.expand(12, 4))
    with pytest.raises(ValueError, match="this network has 4 outputs"):
        fresh.initialize_at(torch.zeros(3))
    fresh.train().initialize_from([described(fresh, batch)])
    optimizer = torch.optim.SGD([p for p in fresh.parameters() if p.requires_grad], lr=0.1)
    fresh.loss(batch).backward()  # all but the head wait for one step
    optimizer.step()
    optimizer.zero_grad()
    fresh.loss(batch).backward()
    assert not idle(fresh)
    mean = torch.tensor([6.123456, 6.123457, 0.0, 1e-4])
    model.eval().initialize_at(mean)
    with torch.autocast("cpu", torch.bfloat16):  # which knows no number between 6.125 and 6.09
        torch.testing.assert_close(model(batch), mean.expand(12, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 4), ()])
def test_profile_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="this network has 4 outputs"):
        deepcopy(build_awake("m2ost")).initialize_at(torch.zeros(shape))


@pytest.mark.parametrize("case", [case for case in {**SPOT, **SLIDE} if case in REPRESENTATIVE and sees_patches(case)])
def test_patches_of_another_size_are_refused(config, model, batch):
    with pytest.raises(ValueError, match=rf"this network takes \(b, \d+, 3, {config.size_px}, {config.size_px}\)"):
        model(replace(batch, patches=batch.patches[..., :16, :16]))


@pytest.mark.parametrize("case", ["m2ost"])
def test_other_patches_that_do_not_fit_are_refused(model, batch):
    two_times, gray, flat = torch.cat([batch.patches] * 2, dim=1), batch.patches[:, :, :1], batch.patches[:, 0]
    for patches in (two_times, gray, flat):
        with pytest.raises(ValueError, match=r"this network takes \(b, 3, 3, 32, 32\)"):
            model(replace(batch, patches=patches))


# ---- models that take no steps


@of(CLOSED, representative=None)
def test_closed_form(config, model, batch):
    """Nothing is trained by steps; errors at most those of the mean; a shift of targets, or pieces, change no more."""
    assert not [name for name, p in model.named_parameters() if p.requires_grad]
    y, spots = model.eval()(batch), described(model, batch)
    assert (y - batch.targets).pow(2).mean() <= batch.targets.var(dim=0, correction=0).mean() * 1.0001
    in_pieces = models.build(config)
    in_pieces.initialize_from(rows(spots, index) for index in torch.arange(12).split(5))  # iterated once
    torch.testing.assert_close(in_pieces.eval()(batch), y, atol=1e-4, rtol=1e-4)
    more = torch.tensor([3.0, -2.0, 0.5, 7.0])
    shifted = awake(models.build(config), replace(batch, targets=batch.targets + more))
    torch.testing.assert_close(shifted.eval()(batch), y + more, atol=1e-3, rtol=1e-3)


# ---- fields


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def output(config):
    torch.manual_seed(0)
    batch = section(config)
    model = awake(models.build(config), batch)
    torch.manual_seed(1)
    return model(batch)


OF_PREDICTORS = {"stain", "standardize"}
"""Fields that say what a predictor does before a model sees a slide: `tests/tl/test_appearance.py`."""


@pytest.mark.parametrize("case", CHANGES)
def test_every_field_changes_the_model(case, config):
    assert {field.name for field in fields(config)} - OF_PREDICTORS == set(CHANGES[case]) | DECLARED[case]
    idle_fields = []
    first = cache(lambda: output(config))  # not needed where every field changes a shape
    for field, value in CHANGES[case].items():
        other = replace(config, **{field: value})
        with torch.device("meta"):  # a change of shapes is seen without weights
            reshaped = shapes(models.build(config)) != shapes(models.build(other))
        if not reshaped and torch.equal(output(other), first()):
            idle_fields.append(field)
    assert not idle_fields


def test_the_size_of_views_changes_what_a_network_sees_of_them():
    config = models.config("triplex", 4, CASES["triplex-network"][1])
    assert not torch.equal(output(replace(config, view_px=48)), output(config))


def test_every_configuration_is_tested():
    by_name = {name: type(models.config(name, 4)).__name__ for name in VARIANTS}
    assert {by_name[CASES[case][0]] for case in CHANGES} == set(by_name.values())


# ---- accelerators


@pytest.mark.gpu
@of(SPOT, SLIDE, CLOSED, representative=None)
def test_gpu_agrees_with_cpu(model, batch):
    model.eval()
    on_cpu = model(batch)
    with torch.no_grad():
        on_gpu = model.to("cuda")(batch.to("cuda")).cpu()
        with torch.autocast("cuda", torch.bfloat16):
            coarse = model(batch.to("cuda")).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(coarse, on_cpu, atol=0.2, rtol=0.1)


@pytest.mark.gpu
@of(SPOT, SLIDE, representative=None)
def test_gpu_trains(model, batch):
    model.to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.loss(described(model, batch.to("cuda")))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
