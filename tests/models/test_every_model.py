"""What every registered model must do, whatever it is."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from stpredict import models

SMALL = {"dim": 12, "depth": 2, "size_px": 32, "patch_size": 8}
REFERENCE = {"dim": 18, "depth": 2, "size_px": 32, "patch_size": 8, "heads": 3, "dim_head": 4, "mlp_dim": 12}
FOV = (1.0, 2.0, 4.0, 8.0)
OURS = {"color_tokens": True, "statistics_share": 0.5}

CASES = {
    "m2ost": ("m2ost", SMALL),
    "m2ost_small": ("m2ost_small", SMALL),
    "m2ost_tiny": ("m2ost_tiny", SMALL),
    **{f"m2ost-{n}-scales": ("m2ost", {**SMALL, "fov_spots": FOV[:n]}) for n in (1, 2, 4)},
    **{f"m2ost-ours-{n}-scales": ("m2ost", {**SMALL, **OURS, "fov_spots": FOV[:n]}) for n in (1, 3)},
    "m2ost_reference": ("m2ost_reference", REFERENCE),
    "m2ost_reference-mean": ("m2ost_reference", {**REFERENCE, "pool": "mean"}),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def config(request):
    name, overrides = request.param
    return models.config(name, 4, overrides)


@pytest.fixture
def model(config):
    return awake(models.build(config))


@pytest.fixture
def batch(config, spots):
    return spots(n_scales=len(config.fov_spots), size_px=config.size_px)


def awake(model):
    """As after some training: maps to the outputs that start at zero are not zero any more."""
    for name, parameter in model.named_parameters():
        if name == "head.weight":
            torch.nn.init.normal_(parameter)
    return model


def rows(batch, index):
    return models.SpotBatch(
        patches=batch.patches[index],
        xy_um=batch.xy_um[index],
        slide=batch.slide[index],
        targets=batch.targets[index],
    )


def test_cases_cover_the_registry():
    assert {name for name, _ in CASES.values()} == set(models.available().index)


def test_forward_gives_one_float32_row_per_spot(model, batch):
    y = model(batch)
    assert y.shape == (3, 4)
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()


def test_loss_is_the_mean_squared_error(model, batch):
    model.eval()
    if hasattr(model, "statistics"):
        model.statistics = None  # the loss is of the network alone
    torch.testing.assert_close(model.loss(batch), ((model(batch) - batch.targets) ** 2).mean())


def test_every_parameter_gets_a_gradient(model, batch):
    model.loss(batch).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_all_but_the_head_wait_one_step_and_then_learn(config, batch):
    model = models.build(config)
    model.start_at(torch.ones(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.loss(batch).backward()
    optimizer.step()
    optimizer.zero_grad()
    model.loss(batch).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_a_spot_does_not_see_its_batch(model, batch):
    model.eval()
    together = model(batch)
    alone = torch.cat([model(rows(batch, slice(i, i + 1))) for i in range(3)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_order_of_spots_is_kept(model, batch):
    model.eval()
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(rows(batch, order)), model(batch)[order], atol=1e-5, rtol=1e-5)


def test_eval_is_deterministic(model, batch):
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_uint8_and_unit_float_patches_are_the_same(model, batch):
    model.eval()
    as_float = replace(batch, patches=batch.patches.float() / 255)
    torch.testing.assert_close(model(as_float), model(batch), atol=1e-5, rtol=1e-5)


def test_input_stays_as_it_is(model, batch):
    for patches in (batch.patches, batch.patches.float() / 255):
        before = patches.clone()
        model(replace(batch, patches=patches))
        assert torch.equal(patches, before)


def test_starts_at_the_mean_profile(model, batch):
    mean = torch.tensor([5.5, -1.0, 0.25, 3.0])
    model.start_at(mean)
    assert torch.equal(model(batch), mean.expand(3, 4))


def test_head_keeps_float32_under_autocast(model, batch):
    mean = torch.tensor([6.123456, 6.123457, 0.0, 1e-4])
    model.start_at(mean)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(batch), mean.expand(3, 4))


def test_state_dict_round_trip(config, model, batch):
    other = models.build(config)
    assert not torch.equal(other.eval()(batch), model.eval()(batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), model(batch))


def test_same_seed_same_network(config):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(models.build(config).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_config_goes_through_json(config):
    values = json.loads(json.dumps(models.config_to_dict(config)))
    assert models.config_from_dict(values) == config


def test_unknown_field_is_refused(config):
    values = models.config_to_dict(config)
    values["config"]["widht"] = 3
    with pytest.raises(ValueError, match=r"has no field 'widht' \(fields: .*'size_px'"):
        models.config_from_dict(values)


@pytest.mark.parametrize("wrong", ["size", "scales", "gray", "flat"])
def test_patches_that_do_not_fit_are_refused(model, batch, wrong):
    patches = {
        "size": batch.patches[..., :16, :16],
        "scales": torch.cat([batch.patches, batch.patches], dim=1),
        "gray": batch.patches[:, :, :1],
        "flat": batch.patches[:, 0],
    }[wrong]
    with pytest.raises(ValueError, match=r"this network takes \(b, \d, 3, 32, 32\)"):
        model(replace(batch, patches=patches))


def test_loss_without_targets_is_refused(model, batch):
    with pytest.raises(ValueError, match="Give targets"):
        model.loss(replace(batch, targets=None))


@pytest.mark.parametrize("shape", [(3,), (1, 4), ()])
def test_profile_of_another_size_is_refused(model, shape):
    with pytest.raises(ValueError, match="this network has 4 outputs"):
        model.start_at(torch.zeros(shape))


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
        "color_tokens": True,
        "statistics_share": 0.5,
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
}
DECLARED = {"m2ost": {"context", "statistics_penalty"}, "m2ost_reference": {"context", "fov_spots"}}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, changes in CHANGES.items() for field in changes])
def test_every_field_changes_the_model(name, field, spots):
    def shapes_and_output(config):
        torch.manual_seed(0)
        model = awake(models.build(config))
        torch.manual_seed(1)
        y = model(spots(n_scales=len(config.fov_spots), size_px=config.size_px))
        return {key: tuple(value.shape) for key, value in model.state_dict().items()}, y

    base = models.config(name, 4, SMALL if name == "m2ost" else REFERENCE)
    shapes, y = shapes_and_output(base)
    other_shapes, other_y = shapes_and_output(replace(base, **{field: CHANGES[name][field]}))
    assert shapes != other_shapes or not torch.equal(y, other_y)


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_is_tested(name):
    names = {field.name for field in fields(models.config(name, 4))}
    assert names == set(CHANGES[name]) | DECLARED[name]


@pytest.mark.gpu
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
def test_gpu_trains(model, batch):
    model.to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.loss(batch.to("cuda"))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
