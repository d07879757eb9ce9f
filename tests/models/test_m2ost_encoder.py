"""The network beside two regressions: each is what it is alone, and training changes neither."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import mse_loss

from stpredict import models
from stpredict._train.augment import Views
from stpredict._train.config import FitConfig
from stpredict.models import SpotBatch

SMALL = {"dim": 12, "depth": 1, "size_px": 32, "patch_size": 8, "fov_spots": (1.5, 3.0)}


def spots(n=60):
    """Spots of three slides; colour follows the place, expression the colour."""
    draw = torch.Generator().manual_seed(0)
    level = torch.rand(n, 1, generator=draw)
    noise = torch.randint(-40, 41, (n, 2, 3, 32, 32), generator=draw)
    return SpotBatch(
        patches=(80 + 90 * level[:, :, None, None, None] + noise).to(torch.uint8),
        xy_um=torch.rand(n, 2, generator=draw),
        slide=torch.arange(n) % 3,
        targets=level * torch.linspace(2, -1, 4) + 0.1 * torch.randn(n, 4, generator=draw),
    )


def built(name, batch, **options):
    torch.manual_seed(3)
    model = models.build(models.config(name, 4, options))
    model.initialize_from([batch])
    return model.eval()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_prediction_is_the_mean_of_what_the_parts_predict_alone(share):
    batch, shape = spots(), {**SMALL, "statistics_share": 0.7}
    whole = built("m2ost_encoder", batch, **shape, encoder_share=share)
    network = built("m2ost_tiny", batch, **shape)
    ridge = built("encoder_ridge", batch, size_px=32, fov_spots=(1.5, 3.0))
    for model in (whole, network):
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    expected = (1 - share) * network(batch) + share * ridge(batch)
    torch.testing.assert_close(whole(batch), expected, atol=1e-4, rtol=1e-4)
    assert whole.described.penalty == ridge.ridge.penalty


def test_loss_is_of_the_network_alone():
    batch = spots()
    model = built("m2ost_encoder", batch, **SMALL, statistics_share=0.7)
    torch.nn.init.normal_(model.head.weight)
    torch.testing.assert_close(model.loss(batch), mse_loss(models.M2OST.forward(model, batch), batch.targets))
    assert not [name for name, _ in model.named_parameters() if name.startswith(("described", "views"))]


def test_one_profile_everywhere():
    model = built("m2ost_encoder", spots(), **SMALL, statistics_share=0.7)
    model.initialize_at(torch.arange(4.0))
    torch.testing.assert_close(model(spots()), torch.arange(4.0).expand(60, -1))


def test_patches_are_turned_though_there_are_features():
    """Features stay: they are of the patches as they were."""
    batch = spots()
    batch.features = torch.rand(60, 5)
    views = Views.draw(60, FitConfig(), torch.Generator().manual_seed(0))
    for name, turned in {"m2ost_encoder": True, "encoder_mlp": False}.items():
        shape = models.config(name, 4, {"size_px": 32})
        seen = views.of(batch, uses_patches_and_features=models.build(shape).uses_patches_and_features)
        assert torch.equal(seen.patches, batch.patches) is not turned
        assert seen.features is batch.features


def test_fields_that_do_not_fit_are_refused():
    for options, words in [
        ({"encoder_share": 1.5}, "`encoder_share` is 1.5"),
        ({"n_components": 0}, "`n_components` is 0"),
        ({"encoder": "given"}, "`n_features` is 0"),
        ({"heads": 5}, "`heads`"),
    ]:
        with pytest.raises(ValueError, match=words):
            models.config("m2ost_encoder", 4, options)
