"""What every registered model must do, whatever it is.

A new model is a row in ``SPOT``, ``SLIDE`` or ``CLOSED``, as small as it gets, and its fields in ``CHANGES``.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from stpredict import models
from stpredict.models._variants import VARIANTS
from stpredict.tl._predictor.serialization import load_weights

SMALL = {"dim": 12, "depth": 2, "size_px": 32, "patch_size": 8}
REFERENCE = {"dim": 18, "depth": 2, "size_px": 32, "patch_size": 8, "heads": 3, "dim_head": 4, "mlp_dim": 12}
RESOLUTIONS = {"dim": 12, "depth": 2, "heads": 3, "dim_head": 4, "mlp_dim": 12, "size_px": 32}
HIST2ST = {"size_px": 32, "patch_size": 16, "channels": 4, "n_kept": 3, "depth": 1, "graph_depth": 2, "heads": 3}
FLOW = {"dim": 12, "depth": 2, "heads": 3, "size_px": 32}
PAIR = {"encoder": "test_efficientnet", "dim": 12, "top_k": 2, "size_px": 32}
TRIPLEX = {
    "target_encoder": "test_efficientnet",
    "view_encoder": "test_efficientnet",
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
OURS = {"color_tokens": True, "statistics_share": 0.5}

# ---- models by kind: name of the case -> name of the model, fields to change

SPOT = {  # trained by steps; a spot's prediction depends on that spot alone
    "m2ost": ("m2ost", SMALL),
    "m2ost_small": ("m2ost_small", SMALL),
    "m2ost_tiny": ("m2ost_tiny", SMALL),
    **{f"m2ost-{n}-scales": ("m2ost", {**SMALL, "fov_spots": FOV[:n]}) for n in (1, 2, 4)},
    **{f"m2ost-ours-{n}-scales": ("m2ost", {**SMALL, **OURS, "fov_spots": FOV[:n]}) for n in (1, 3)},
    **{
        name: (name, SMALL)
        for name in ("m2ost_plain_embedding", "m2ost_joint_attention", "m2ost_concat", "m2ost_dense")
    },
    **{f"m2ost-{v}": ("m2ost", {**SMALL, k: v}) for k, v in ALONE.items()},
    **{f"m2ost-plain-{n}-scales": ("m2ost_dense", {**SMALL, "fov_spots": FOV[:n]}) for n in (1, 2)},
    "m2ost-wide-scales": ("m2ost", {**SMALL, "fov_spots": (3.0, 6.0)}),
    **{name: (name, RESOLUTIONS) for name in ("m2ort", "m2ort_base", "m2ort_large")},
    "m2ost_encoder": ("m2ost_encoder", {**SMALL, "statistics_share": 0.5}),
    "m2ost_encoder-given": ("m2ost_encoder", {**SMALL, **GIVEN}),
    "m2ost_encoder-alone": ("m2ost_encoder", {**SMALL, "encoder": "test_efficientnet", "statistics_share": 0.0}),
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
    "triplex": ("triplex", TRIPLEX),
    "triplex-statistics": ("triplex", {**TRIPLEX, "view_encoder": "statistics", "fusion_depth": 2}),
    "deepspot": ("deepspot", DEEPSPOT),
    "deepspot-given": ("deepspot", {**DEEPSPOT, "encoder": "given", "n_features": 7}),
}
CLOSED = {  # nothing is trained by steps: everything is learned in ``initialize_from``
    "encoder_ridge": ("encoder_ridge", {"size_px": 32}),
    "encoder_ridge-given": ("encoder_ridge", GIVEN),
    "mean_profile": ("mean_profile", {"size_px": 32}),
    "ridge_color": ("ridge_color", {"size_px": 32}),
    "knn_spatial": ("knn_spatial", {"size_px": 32, "k": 2}),
}

# ---- exceptions, by name of the model

OWN_LOSS = {"deepspace", "hist2st", "stflow", "bleep", "triplex"}  # the loss is not the mean squared error alone
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
}
_VIEWS = {"n_outputs": 5, "encoder": "resnet10t", "fov_spots": (1.5, 3.0), "size_px": 64}
CHANGES |= {
    "encoder_ridge": {**_VIEWS, "clip": 0.5, "n_components": 2, "penalty": 7.0, "intercept": False},
    "encoder_mlp": {**_VIEWS, "clip": 0.5, "n_components": 2, "hidden": 24, "depth": 2, "dropout": 0.9},
    "bleep": {**_VIEWS, "encoder": "statistics", "frozen": True, "dim": 24, "dropout": 0.9, "top_k": 12},
    "m2ost_encoder": {
        **CHANGES["m2ost"],
        "mlp_ratio": 1.0,
        "color_tokens": True,
        "statistics_share": 0.2,
        "encoder": "resnet10t",
        "n_components": 2,
        "encoder_share": 0.9,
    },
    "m2ost_tiny": {**CHANGES["m2ost"], "mlp_ratio": 1.0, "color_tokens": True, "statistics_share": 0.2},
    "mean_profile": {"n_outputs": 5},
    "resnet50": {"n_outputs": 5, "encoder": "test_vit", "frozen": True, "size_px": 64},
    "stnet": {"n_outputs": 5, "size_px": 64},
    "deepspace": {"n_outputs": 5, "backbone": "test_vit", "frozen": True, "dropout": 0.9, "size_px": 64},
    "ridge_color": {"n_outputs": 5, "penalty": 7.0, "fov_spots": (1.5, 3.0), "size_px": 64},
    "knn_spatial": {"n_outputs": 5, "k": 3},
}
CHANGES |= {
    "triplex": {
        "n_outputs": 5,
        "target_encoder": "resnet10t",
        "view_encoder": "resnet10t",
        "view_px": 48,
        "dim": 24,
        **{f"{part}_depth": 2 for part in ("fusion", "section", "around")},
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
DECLARED = {  # fields that say what the model wants, or that only act in training on real data
    "m2ost": {"context"},
    "m2ost_tiny": {"context"},
    "m2ost_encoder": {"context", "weights", "n_features"},
    "m2ost_reference": {"context", "fov_spots"},
    "m2ort": {"context", "fov_spots"},
    "histogene": {"context", "fov_spots"},
    "hist2st": {"context", "fov_spots", "n_views"},
    "stflow": {"context", "fov_spots", "size_px", "weights", "n_features"},
    "triplex": {"context", "fov_spots", "target_weights", "view_weights", "agreement"},
    "deepspot": {"context", "fov_spots", "weights", "n_features", "objective"},
    "istar": {"context", "weights"},
    "resnet50": {"context", "fov_spots", "weights", "n_features"},
    "stnet": {"context", "fov_spots", "weights"},
    "deepspace": {"context", "fov_spots", "weights"},
    "encoder_ridge": {"context", "weights", "n_features"},
    "encoder_mlp": {"context", "weights", "n_features"},
    "bleep": {"context", "weights", "n_features", "temperature", "normalize"},
    "mean_profile": {"context", "fov_spots", "size_px"},
    "ridge_color": {"context"},
    "knn_spatial": {"context", "fov_spots", "size_px"},
}

CASES = {**SPOT, **SLIDE, **CLOSED}


def of(*kinds, but=frozenset()):
    """The cases of some kinds, without those of some models."""
    cases = {case: row for kind in kinds for case, row in kind.items() if row[0] not in but}
    return pytest.mark.parametrize("config", cases.values(), ids=cases, indirect=True)


every, trained, closed = of(SPOT, SLIDE, CLOSED), of(SPOT, SLIDE), of(CLOSED)


@pytest.fixture
def config(request):
    name, overrides = request.param
    return models.config(name, 4, overrides)


@pytest.fixture
def batch(config):
    return section(config)


@pytest.fixture
def model(config, batch):
    return awake(models.build(config), batch)


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
    return [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


def test_cases_cover_the_registry():
    assert {name for name, _ in CASES.values()} == set(VARIANTS)


# ---- every model


@every
def test_forward_gives_one_float32_row_per_spot(model, batch):
    y = model(batch)
    assert y.shape == (12, 4)
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()


@every
def test_order_of_spots_does_not_matter(model, batch):
    model.eval()
    order = torch.randperm(12)
    torch.testing.assert_close(model(rows(batch, order)), model(batch)[order], atol=1e-5, rtol=1e-5)


@every
def test_other_slides_never_change_a_prediction(model, batch):
    model.eval()
    alone = torch.cat([model(rows(batch, batch.slide == i)) for i in range(3)])
    torch.testing.assert_close(alone, model(batch), atol=1e-5, rtol=1e-5)


@every
def test_one_spot_alone_works(model, batch):
    y = model.eval()(rows(batch, slice(7, 8)))
    assert y.shape == (1, 4)
    assert torch.isfinite(y).all()


@every
def test_eval_is_deterministic(model, batch):
    model.eval()
    assert torch.equal(model(batch), model(batch))


@every
def test_uint8_and_unit_float_patches_are_the_same(model, batch):
    model.eval()
    as_float = replace(batch, patches=batch.patches.float() / 255)
    torch.testing.assert_close(model(as_float), model(batch), atol=1e-5, rtol=1e-5)


@every
def test_features_computed_before_are_those_computed_now(model, batch):
    model.eval()
    torch.testing.assert_close(model(described(model, batch)), model(batch), atol=1e-5, rtol=1e-5)


@every
def test_input_stays_as_it_is(model, batch):
    for patches in (batch.patches, batch.patches.float() / 255):
        before = patches.clone()
        model(replace(batch, patches=patches))
        assert torch.equal(patches, before)


@every
def test_state_dict_round_trip_into_a_fresh_network(config, model, batch):
    other = models.build(config)
    load_weights(other, model.state_dict(), "a folder")
    assert torch.equal(other.eval()(batch), model.eval()(batch))


@every
def test_same_seed_same_network(config):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(models.build(config).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@every
def test_config_goes_through_json(config):
    values = json.loads(json.dumps(models.config_to_dict(config)))
    assert models.config_from_dict(values) == config


@every
def test_unknown_field_is_refused(config):
    values = models.config_to_dict(config)
    values["config"]["widht"] = 3
    with pytest.raises(ValueError, match=r"has no field 'widht' \(fields: .*'size_px'"):
        models.config_from_dict(values)


# ---- models that are trained by steps


@of(SPOT, SLIDE, but=OWN_LOSS | {"m2ost_encoder"})  # see test_m2ost_encoder: of the network alone
def test_loss_is_the_mean_squared_error(model, batch):
    model.eval()
    if hasattr(model, "statistics"):
        model.statistics = None  # the loss is of the network alone
    torch.testing.assert_close(model.loss(batch), ((model(batch) - batch.targets) ** 2).mean())


@trained
def test_loss_without_targets_is_refused(model, batch):
    with pytest.raises(ValueError, match="Give targets"):
        model.loss(replace(batch, targets=None))


@trained
def test_every_trained_parameter_gets_a_gradient(model, batch):
    model.loss(described(model, batch)).backward()
    assert not idle(model)


@of(SPOT, SLIDE, but=NO_HEAD)
def test_all_but_the_head_wait_one_step_and_then_learn(config, batch):
    model = models.build(config)
    model.initialize_from([described(model, batch)])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.loss(batch).backward()
    optimizer.step()
    optimizer.zero_grad()
    model.loss(batch).backward()
    assert not idle(model)


@of(SPOT, SLIDE, but={"bleep"})  # untrained, it may well find the same training spots
def test_fresh_networks_differ(config, model, batch):
    other = awake(models.build(config), batch)
    assert not torch.equal(other.eval()(batch), model.eval()(batch))


@of(SPOT, SLIDE, but=NO_HEAD)
def test_starts_at_the_mean_profile(config, batch):
    model = models.build(config)
    model.initialize_at(torch.tensor([5.5, -1.0, 0.25, 3.0]))
    assert torch.equal(model.eval()(batch), torch.tensor([5.5, -1.0, 0.25, 3.0]).expand(12, 4))


@of(SPOT, SLIDE, but=NO_HEAD)
def test_head_keeps_float32_under_autocast(model, batch):
    mean = torch.tensor([6.123456, 6.123457, 0.0, 1e-4])
    model.eval().initialize_at(mean)
    with torch.autocast("cpu", torch.bfloat16):  # which knows no number between 6.125 and 6.09
        torch.testing.assert_close(model(batch), mean.expand(12, 4), atol=1e-6, rtol=0)


@of(SPOT, SLIDE, but=NO_HEAD)
@pytest.mark.parametrize("shape", [(3,), (1, 4), ()])
def test_profile_of_another_size_is_refused(model, shape):
    with pytest.raises(ValueError, match="this network has 4 outputs"):
        model.initialize_at(torch.zeros(shape))


@trained
@pytest.mark.parametrize("wrong", ["size", "scales", "gray", "flat"])
def test_patches_that_do_not_fit_are_refused(config, model, batch, wrong):
    if batch.features is not None:
        pytest.skip("looks at the embeddings that came with the spots, not at patches")
    patches = {
        "size": batch.patches[..., :16, :16],
        "scales": torch.cat([batch.patches, batch.patches], dim=1),
        "gray": batch.patches[:, :, :1],
        "flat": batch.patches[:, 0],
    }[wrong]
    with pytest.raises(ValueError, match=rf"this network takes \(b, \d+, 3, {config.size_px}, {config.size_px}\)"):
        model(replace(batch, patches=patches))


# ---- models of one spot, and of a whole slide


@of(SPOT, CLOSED, but={"knn_spatial"})
def test_a_spot_does_not_see_its_batch(model, batch):
    model.eval()
    alone = torch.cat([model(rows(batch, slice(i, i + 1))) for i in range(12)])
    torch.testing.assert_close(alone, model(batch), atol=1e-5, rtol=1e-5)


@of(SLIDE)
def test_neighbours_change_a_prediction(config, model, batch):
    assert config.context == "slide"
    model.eval()
    alone = torch.cat([model(rows(batch, slice(i, i + 1))) for i in range(12)])
    assert not torch.isclose(alone, model(batch), atol=1e-5).all(dim=1).any()


@of(SLIDE)
def test_number_of_a_slide_says_nothing(model, batch):
    model.eval()
    other = replace(batch, slide=torch.tensor([9, 4, 31])[batch.slide])
    torch.testing.assert_close(model(other), model(batch), atol=1e-5, rtol=1e-5)


# ---- models that take no steps


@closed
def test_nothing_is_trained_by_steps(model):
    assert not [name for name, p in model.named_parameters() if p.requires_grad]


@closed
def test_knows_the_training_spots_no_worse_than_their_mean(model, batch):
    error = (model.eval()(batch) - batch.targets).pow(2).mean()
    assert error <= batch.targets.var(dim=0, correction=0).mean() * 1.0001


@closed
def test_what_is_added_to_the_targets_is_added_to_the_prediction(config, model, batch):
    more = torch.tensor([3.0, -2.0, 0.5, 7.0])
    other = awake(models.build(config), replace(batch, targets=batch.targets + more))
    torch.testing.assert_close(other.eval()(batch), model.eval()(batch) + more, atol=1e-3, rtol=1e-3)


@closed
def test_training_spots_come_some_at_a_time_once(config, model, batch):
    spots = described(model, batch)
    other = models.build(config)
    other.initialize_from(rows(spots, index) for index in torch.arange(12).split(5))
    torch.testing.assert_close(other.eval()(batch), model.eval()(batch), atol=1e-4, rtol=1e-4)


# ---- fields


@pytest.mark.parametrize(("case", "field"), [(case, field) for case, changes in CHANGES.items() for field in changes])
def test_every_field_changes_the_model(case, field):
    def shapes_and_output(config):
        torch.manual_seed(0)
        batch = section(config)
        model = awake(models.build(config), batch)
        torch.manual_seed(1)
        y = model(batch)
        return {key: tuple(value.shape) for key, value in model.state_dict().items()}, y

    name, overrides = CASES[case]
    base = models.config(name, 4, overrides)
    shapes, y = shapes_and_output(base)
    other_shapes, other_y = shapes_and_output(replace(base, **{field: CHANGES[case][field]}))
    assert shapes != other_shapes or not torch.equal(y, other_y)


@pytest.mark.parametrize("case", CHANGES)
def test_every_field_is_tested(case):
    names = {field.name for field in fields(models.config(CASES[case][0], 4))}
    assert names == set(CHANGES[case]) | DECLARED[case]


def test_every_configuration_is_tested():
    by_name = {name: type(models.config(name, 4)).__name__ for name in VARIANTS}
    assert {by_name[CASES[case][0]] for case in CHANGES} == set(by_name.values())


# ---- accelerators


@pytest.mark.gpu
@every
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
@trained
def test_gpu_trains(model, batch):
    model.to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.loss(described(model, batch.to("cuda")))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)
