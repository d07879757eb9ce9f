"""Ridge and perceptron on a frozen encoder: what they are, that they learn, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stpredict import models
from stpredict.models import SpotBatch


def given(n=200, d=12, g=3, seed=0, noise=0.1):
    """Spots with embeddings, of four slides and two patients, that follow a linear law."""
    draw = torch.Generator().manual_seed(seed)
    law = torch.randn(d, g, generator=torch.Generator().manual_seed(9))
    x = torch.randn(n, d, generator=draw)
    slide = torch.arange(n) % 4
    return SpotBatch(
        patches=torch.zeros(n, 1, 3, 8, 8, dtype=torch.uint8),
        xy_um=torch.rand(n, 2, generator=draw),
        slide=slide,
        group=slide // 2,
        targets=x @ law + noise * torch.randn(n, g, generator=draw) + 5,
        features=x * 3 + 40,
    )


def built(name, spots, **overrides):
    options = {"encoder": "given", "n_features": spots.features.shape[1], "fov_spots": (1.5,), "size_px": 8}
    model = models.build(models.config(name, spots.targets.shape[1], options | overrides))
    model.initialize_from(iter([spots]))
    return model


def explained(model, spots):
    error = (model.eval()(spots).detach() - spots.targets).square().mean()
    return 1 - float(error / spots.targets.var(dim=0).mean())


def test_ridge_knows_other_spots_without_a_step():
    model = built("encoder_ridge", given())
    assert not list(model.parameters())
    assert explained(model, given(seed=1)) > 0.95


def test_penalty_is_chosen_and_kept_in_the_state():
    quiet, loud = (built("encoder_ridge", given(d=80, noise=noise)) for noise in (0.01, 20.0))
    assert quiet.state_dict()["ridge.penalty"] < loud.state_dict()["ridge.penalty"]
    assert built("encoder_ridge", given(), penalty=3.5).state_dict()["ridge.penalty"] == 3.5
    assert built("encoder_ridge", given(), penalty="hest", n_components=4).ridge.penalty == pytest.approx(100 / 12)


def test_mlp_starts_at_the_mean_and_learns():
    spots = given()
    model = built("encoder_mlp", spots, hidden=32, dropout=0.1)
    torch.testing.assert_close(model(spots), spots.targets.mean(dim=0).expand(200, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        model.train().loss(spots).backward()
        optimizer.step()
    assert explained(model, given(seed=1)) > 0.85


def test_mlp_sees_components_of_unit_mean_square():
    spots = given()
    seen = built("encoder_mlp", spots, n_components=5).components(spots.features)
    assert seen.shape == (200, 5)
    assert float(seen.square().mean()) == pytest.approx(1, abs=1e-4)
    columns = seen.square().mean(dim=0)
    assert (columns[:-1] >= columns[1:]).all()


def test_mlp_has_as_many_layers_as_it_says():
    shape = models.config("encoder_mlp", 250, {"encoder": "given", "n_features": 1024, "depth": 2, "hidden": 512})
    n_parameters = sum(p.numel() for p in models.build(shape).parameters())
    assert n_parameters == (256 + 1) * 512 + (512 + 1) * 512 + (512 + 1) * 250


def test_width_of_the_features_is_that_of_all_scales():
    name = "encoder_ridge"
    wide = models.build(models.config(name, 4, {"size_px": 32}))
    assert wide.views.n_features == 3 * 54
    one = models.build(models.config(name, 4, {"size_px": 32, "encoder": "test_resnet", "fov_spots": (2.0,)}))
    assert one.views.n_features == one.views.encoder.n_features


def test_encoder_is_frozen_and_in_the_state():
    model = models.build(models.config("encoder_mlp", 4, {"size_px": 32, "encoder": "test_resnet"})).train()
    assert not any(p.requires_grad for p in model.views.parameters())
    assert not any(part.training for part in model.views.encoder.modules())
    assert any(key.startswith("views.encoder.net") for key in model.state_dict())


def test_loaded_weights_are_described(tmp_path):
    from safetensors.torch import save_file

    other = models.build(models.config("encoder_ridge", 4, {"size_px": 32, "encoder": "test_resnet"}))
    save_file(other.views.encoder.net.state_dict(), tmp_path / "w.safetensors")
    options = {"size_px": 32, "encoder": "test_resnet", "weights": str(tmp_path / "w.safetensors")}
    model = models.build(models.config("encoder_ridge", 4, options))
    said = model.load_pretrained()
    assert list(said) == ["encoder"]
    assert said["encoder"].startswith(f"test_resnet: {tmp_path / 'w.safetensors'}, SHA-256 of the tensors ")
    assert models.build(models.config("encoder_ridge", 4, {"size_px": 32})).load_pretrained() == {}
    spots = SpotBatch(
        patches=torch.full((2, 3, 3, 32, 32), 90, dtype=torch.uint8), xy_um=torch.zeros(2, 2), slide=torch.zeros(2)
    )
    torch.testing.assert_close(model.encode(spots), other.encode(spots))


def test_embeddings_of_another_width_are_refused():
    spots = given()
    model = built("encoder_ridge", spots)
    with pytest.raises(ValueError, match=r"has the shape \(200, 11\); this model takes \(b, 12\)"):
        model(replace(spots, features=spots.features[:, :11]))
    with pytest.raises(ValueError, match=r"no encoder of its own \(`encoder='given'`\)"):
        model(replace(spots, features=None))


def test_fields_that_do_not_fit_are_refused():
    for options, error, words in [
        ({"n_features": 7}, ValueError, r"`n_features` is 7 and `encoder` 'statistics', which has a width of its own"),
        ({"encoder": "given"}, ValueError, r"`n_features` is 0 \(int\); it counts something"),
        ({"n_components": 0}, ValueError, r"`n_components` is 0"),
        ({"clip": 0}, ValueError, r"`clip` is 0; give standard deviations"),
        ({"dropout": 1.0}, ValueError, r"`dropout` is 1.0"),
    ]:
        with pytest.raises(error, match=words):
            models.config("encoder_mlp", 4, options)


def test_penalties_that_are_none_are_refused():
    for penalty in (0, "HEST", True, float("nan")):
        with pytest.raises(ValueError, match="give a number above 0, None"):
            models.config("encoder_ridge", 4, {"penalty": penalty})


def test_order_of_slides_and_pieces_does_not_matter():
    spots = given()
    model, order = built("encoder_ridge", spots), torch.randperm(200)
    known = {
        name: getattr(spots, name)[order] for name in ("patches", "xy_um", "slide", "group", "targets", "features")
    }
    torch.testing.assert_close(built("encoder_ridge", SpotBatch(**known))(spots), model(spots), atol=1e-4, rtol=1e-4)
