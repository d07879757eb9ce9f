"""Networks of timm as they are: their colours, their patches, a linear probe, batches of one, weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import stpredict as stp
from stpredict import models

pytest.importorskip("timm")
SMALL = {"size_px": 32, "encoder": "test_resnet"}


def build(**overrides):
    model = models.build(models.config("resnet50", 4, {**SMALL, **overrides}))
    nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture
def batch(spots):
    return spots(n_scales=1)


def test_it_is_the_network_of_timm_and_one_linear_map(batch):
    model = build()
    pixels = batch.patches[:, 0] / 255
    mean, std = (torch.tensor(model.encoder.net.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    features = model.encoder.net((pixels - mean) / std)
    torch.testing.assert_close(model(batch), features @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet.r160_in1k"])
def test_any_name_of_timm(encoder, batch):
    model = models.build(models.config(encoder, 4, {"size_px": 32})).eval()
    assert model(batch).shape == (3, 4)


def test_crossvit_takes_both_branches():
    with torch.device("meta"):
        model = models.build(models.config("crossvit_small", 4))
    assert model.head.in_features == 192 + 384


def test_a_network_of_another_size_sees_the_patch_enlarged(batch):
    model = build(encoder="test_vit", size_px=20)  # tokens of 16 px: 20 are no whole number of them
    batch.patches = batch.patches[..., :20, :20]
    assert model.encoder.input_px == 160
    assert model(batch).shape == (3, 4)


def test_drop_path_is_off_in_prediction(batch):
    model = build(encoder="swin_tiny_patch4_window7_224")
    assert any(type(part).__name__ == "DropPath" and part.drop_prob > 0 for part in model.modules())
    assert torch.equal(model(batch), model(batch))


def test_a_batch_of_one_trains_and_learns_no_other_statistics(batch):
    """At 32 px the last maps of this network are single pixels, and batch normalisation refuses a single value."""
    one = models.SpotBatch(patches=batch.patches[:1], xy_um=batch.xy_um[:1], slide=batch.slide[:1])
    model = build(encoder="resnet18").train()
    y = model(one)
    assert y.shape == (1, 4)
    assert y.isfinite().all()
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_frozen_is_a_linear_probe(batch):
    model = build(frozen=True).train()
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = model.encode(batch)
    y = model(batch)
    torch.testing.assert_close(model(replace(batch, features=features)), y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # statistics too


def test_statistics_and_embeddings(batch):
    model = build(encoder="statistics")
    assert model.head.in_features == model.encode(batch).shape[1] == 54
    given = build(encoder="given", n_features=7)
    assert given.encode(batch) is None
    features = torch.randn(3, 7)
    torch.testing.assert_close(given(replace(batch, features=features)), given.head(features))
    with pytest.raises(ValueError, match="features_key"):
        given(batch)


def test_weights_come_from_a_file_only_when_asked(tmp_path, batch):
    from safetensors.torch import save_file

    other = build()
    save_file(other.encoder.net.state_dict(), tmp_path / "resnet.safetensors")
    model = build(weights=str(tmp_path / "resnet.safetensors"))
    assert not torch.equal(model.encoder(batch.patches[:, 0]), other.encoder(batch.patches[:, 0]))
    loaded = model.load_pretrained()
    assert loaded["encoder"].startswith(f"test_resnet: {tmp_path / 'resnet.safetensors'}, SHA-256 of the tensors ")
    model.head.load_state_dict(other.head.state_dict())
    assert torch.equal(model(batch), other(batch))
    assert build().load_pretrained() == {}
    assert build(encoder="given", n_features=3).load_pretrained() == {}


def test_impossible_configurations_are_refused():
    for overrides, error, match in [
        ({"encoder": 3}, TypeError, r"`encoder` is 3 \(int\); give a name"),
        ({"encoder": ""}, ValueError, "`encoder` is empty"),
        ({"weights": None}, TypeError, r"`weights` is None"),
        ({"frozen": 1}, TypeError, "`frozen` is 1"),
        ({"encoder": "given"}, ValueError, "`n_features` is 0"),
        ({"fov_spots": (1.0, 2.0)}, ValueError, "takes exactly 1"),
        ({"size_px": 0}, ValueError, "`size_px` is 0"),
        ({"context": "slide"}, ValueError, "`context` is 'slide'"),
    ]:
        with pytest.raises(error, match=match):
            models.config("resnet50", 4, overrides)


def test_networks_that_nobody_knows_are_refused():
    with pytest.raises(ValueError, match="There is no encoder 'resnet17'"):
        build(encoder="resnet17")


def test_patches_that_do_not_fit_are_refused(spots):
    with pytest.raises(ValueError, match=r"takes \(b, 1, 3, 32, 32\)"):
        build()(spots(n_scales=2))


def quick(**fields):
    shared = {"lr": 3e-3, "batch_size": 16, "accelerator": "cpu", "precision": "32-true", "progress": False}
    return stp.tl.FitConfig(**{**stp.tl.FitConfig().to_dict(), **shared, **fields})


def test_a_linear_probe_learns_what_colour_sets(tmp_path):
    sdata = stp.datasets.synthetic(n_slides=3, n_side=8, um_per_px=8.0)
    options = {"encoder": "statistics", "size_px": 32}
    config = quick(n_epochs=60, ema_decay=0.9, lr=0.03, weight_decay=0.0)
    stp.tl.fit(sdata, "resnet50", config=config, model_options=options, save_dir=tmp_path / "probe",
               shapes_key=["S0_spots", "S1_spots"])  # fmt: skip
    stp.tl.predict(sdata, shapes_key="S2_spots", device="cpu", precision="32-true", progress=False)
    assert stp.tl.summary(stp.tl.evaluate(sdata, shapes_key="S2_spots", n_splits=2)).at["model", "gene_pearson"] > 0.7


def test_a_name_of_timm_is_fitted_saved_and_loaded(tmp_path, sdata):
    predictor = stp.tl.fit(sdata, "test_resnet", config=quick(n_epochs=1), model_options={"size_px": 32},
                           save_dir=tmp_path / "model")  # fmt: skip
    again = stp.tl.Predictor.load(tmp_path / "model")
    assert (again.model, again.hash, again.model_config.encoder) == ("test_resnet", predictor.hash, "test_resnet")
    assert again.patch.fov_um == (150.0,)
    assert again.provenance["pretrained"] == {}


def test_recipe_is_the_one_of_the_comparison():
    config = stp.tl.FitConfig(**models.recipe("swin_t"))
    assert (config.n_epochs, config.batch_size, config.lr, config.weight_decay) == (100, 96, 1e-4, 0)
