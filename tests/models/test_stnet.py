"""ST-Net: its colours, its start, its symmetries."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

import stpredict as stp
from stpredict import models

pytest.importorskip("timm")


@pytest.fixture
def batch(spots):
    return spots(n_scales=1, n=6)


@pytest.fixture(scope="module")
def built():
    """DenseNet-121 takes a second to build."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.build(models.config("stnet", 4, {"size_px": 32}))
        nn.init.normal_(model.head.weight)
        return model.eval()


@pytest.fixture
def model(built):
    return deepcopy(built)


def test_colours_are_in_units_of_the_training_patches(model, batch):
    parts = [models.SpotBatch(patches=batch.patches[some], xy_um=batch.xy_um[some], slide=batch.slide[some],
                              targets=batch.targets[some]) for some in (slice(0, 1), slice(1, 6))]  # fmt: skip
    model.initialize_from(iter(parts))
    pixels = batch.patches / 255
    torch.testing.assert_close(model.color_mean.flatten(), pixels.mean(dim=(0, 1, 3, 4)))
    torch.testing.assert_close(model.color_std.flatten(), pixels.std(dim=(0, 1, 3, 4)), rtol=1e-3, atol=0)
    seen = []
    model.encoder.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert torch.equal(model(batch), batch.targets.mean(dim=0).expand(6, 4))
    torch.testing.assert_close(seen[0].mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen[0].std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_patches_of_one_colour_are_no_division_by_zero(model, batch):
    batch = replace(batch, patches=torch.full_like(batch.patches, 200))
    model.initialize_from([batch])
    nn.init.normal_(model.head.weight)
    assert model(batch).isfinite().all()


def test_before_training_colours_are_those_of_the_weights(model, batch):
    torch.testing.assert_close(model(batch), model.head(model.encoder(batch.patches[:, 0])), atol=1e-5, rtol=1e-5)


def test_colour_statistics_are_saved(built, model, batch):
    model.initialize_from([batch])
    nn.init.normal_(model.head.weight)
    other = deepcopy(built)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), model(batch))


def test_all_layers_are_trained(model, batch):
    model.train().loss(batch).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_a_batch_of_one(model, batch):
    one = models.SpotBatch(patches=batch.patches[:1], xy_um=batch.xy_um[:1], slide=batch.slide[:1])
    assert model.train()(one).isfinite().all()


def test_wrong_fields_are_refused():
    for field, value in {"weights": 1, "size_px": -1, "fov_spots": ()}.items():
        with pytest.raises((TypeError, ValueError), match=field):
            models.config("stnet", 4, {field: value})


def test_fitted_saved_and_averaged_over_symmetries(tmp_path):
    sdata = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
    config = stp.tl.FitConfig(**{**models.recipe("stnet"), "n_epochs": 1, "accelerator": "cpu", "progress": False})
    assert (config.batch_size, config.lr, config.stain_jitter) == (32, 1e-4, 0)
    predictor = stp.tl.fit(sdata, "stnet", config=config, model_options={"size_px": 32}, save_dir=tmp_path / "stnet")
    again = stp.tl.Predictor.load(tmp_path / "stnet")
    assert again.hash == predictor.hash
    assert again.members[0].network.color_std.min() < 0.2
    stp.tl.predict(sdata, again, shapes_key="S0_spots", n_views=8, device="cpu", progress=False)
    assert sdata["predicted"].X.shape == (16, 12)
