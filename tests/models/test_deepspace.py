"""DeepSpaCE: the range of its targets, its loss, its dropout."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import stpredict as stp
from stpredict import models

pytest.importorskip("timm")
SMALL = {"backbone": "test_resnet", "size_px": 32}


@pytest.fixture
def batch(spots):
    return spots(n_scales=1, n=6)


def build(**overrides):
    model = models.build(models.config("deepspace", 4, {**SMALL, **overrides}))
    nn.init.normal_(model.head.weight)
    return model.eval()


def test_targets_are_scaled_to_the_range_of_the_training_spots(batch):
    model = build()
    batch.targets[:, 3] = 2.0  # a gene that does not vary
    model.initialize_from([replace(batch, targets=batch.targets)])
    assert torch.equal(model.low, batch.targets.min(dim=0).values)
    torch.testing.assert_close((model.low + model.spread)[:3], batch.targets.max(dim=0).values[:3])
    torch.testing.assert_close(model(batch), batch.targets.mean(dim=0).expand(6, 4))
    assert model(batch)[0, 3] == 2


def test_loss_is_smooth_l1_in_that_range(batch):
    model = build()
    model.initialize_from([batch])
    nn.init.normal_(model.head.weight, std=0.1)
    error = ((model(batch) - batch.targets) / model.spread).abs()
    expected = torch.where(error < 1, error**2 / 2, error - 0.5).mean()
    torch.testing.assert_close(model.loss(batch), expected)


def test_predictions_may_leave_the_range(batch):
    model = build()
    model.initialize_from([batch])
    nn.init.normal_(model.head.weight, std=10)
    y = model(batch)
    assert (y < model.low).any()
    assert (y > model.low + model.spread).any()


def test_dropout_is_that_of_the_paper_and_off_in_prediction(batch):
    with torch.device("meta"):
        rates = [m.p for m in models.build(models.config("deepspace", 4)).modules() if isinstance(m, nn.Dropout)]
    assert len(rates) >= 2
    assert set(rates) == {0.5}
    model = build(dropout=0.9)
    assert torch.equal(model(batch), model(batch))
    model.train()
    assert not torch.equal(model(batch), model(batch))


def test_last_layer_alone(batch):
    model = build(frozen=True)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    torch.testing.assert_close(model(replace(batch, features=model.encode(batch))), model(batch))
    assert build().encode(batch) is None


def test_a_batch_of_one(batch):
    one = models.SpotBatch(patches=batch.patches[:1], xy_um=batch.xy_um[:1], slide=batch.slide[:1])
    assert build(backbone="densenet121").train()(one).isfinite().all()


def test_wrong_fields_are_refused():
    for field, value in {"backbone": 1, "dropout": 1.0, "frozen": "no", "size_px": 0}.items():
        with pytest.raises((TypeError, ValueError), match=field):
            build(**{field: value})


def test_it_learns_what_colour_sets(tmp_path):
    sdata = stp.datasets.synthetic(n_slides=3, n_side=8, um_per_px=8.0)
    recipe = {**models.recipe("deepspace"), "n_epochs": 12, "lr": 3e-3, "batch_size": 16, "ema_decay": 0.9}
    config = stp.tl.FitConfig(**recipe, stain_jitter=0.02, brightness_jitter=0.01, accelerator="cpu", progress=False)
    stp.tl.fit(sdata, "deepspace", config=config, model_options={**SMALL, "fov_spots": (1.0,), "dropout": 0.0},
               save_dir=tmp_path / "model", shapes_key=["S0_spots", "S1_spots"])  # fmt: skip
    stp.tl.predict(sdata, shapes_key="S2_spots", device="cpu", precision="32-true", progress=False)
    assert stp.tl.summary(stp.tl.evaluate(sdata, shapes_key="S2_spots", n_splits=2)).at["model", "gene_pearson"] > 0.5
