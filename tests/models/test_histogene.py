"""HisToGene: the published size, positions, learning on a section."""

from __future__ import annotations

import pytest
import torch

from stpredict import models
from stpredict.datasets import synthetic
from stpredict.models.histogene import HisToGene, HisToGeneConfig, PositionEmbedding
from stpredict.tl import FitConfig, Predictor, fit

TINY = {"dim": 64, "depth": 1, "heads": 2, "mlp_dim": 64, "size_px": 16}


def network(**options):
    return HisToGene(HisToGeneConfig(n_outputs=4, **{**TINY, **options}))


def section(n=6, step=200.0, n_outputs=4):
    return models.SpotBatch(
        patches=torch.randint(0, 256, (n, 1, 3, 16, 16), dtype=torch.uint8),
        xy_um=torch.stack([torch.arange(n) * step, torch.zeros(n)], dim=1),
        slide=torch.zeros(n, dtype=torch.int64),
        targets=torch.randn(n, n_outputs),
    )


def test_published_size_and_recipe():
    for depth, genes, published in [(8, 785, 106.6e6), (4, 1000, 73.3e6)]:
        with torch.device("meta"):
            model = models.build(models.config("histogene", genes, {"depth": depth}))
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(published, abs=0.05e6)
    recipe = models.recipe("histogene")
    assert (recipe["lr"], recipe["n_epochs"], recipe["flips"]) == (1e-5, 100, False)


# ---- positions


def test_whole_positions_are_rows_of_the_tables():
    places = PositionEmbedding(5, 3)
    x, y = places.positions
    found = places(torch.tensor([[10.0, 7.0], [12.0, 7.0], [11.0, 10.0]]))
    torch.testing.assert_close(found, torch.stack([x[0] + y[0], x[2] + y[0], x[1] + y[3]]))


def test_between_two_positions_is_interpolated():
    places = PositionEmbedding(5, 3)
    x, y = places.positions
    torch.testing.assert_close(places(torch.tensor([[0.0, 0.0], [1.25, 0.0]]))[1], 0.75 * x[1] + 0.25 * x[2] + y[0])


def test_beyond_the_table_is_its_last_row():
    places = PositionEmbedding(5, 3)
    x, y = places.positions
    for far in (4.0, 5.0, 99.5):
        torch.testing.assert_close(places(torch.tensor([[0.0, 0.0], [far, 0.0]]))[1], x[4] + y[0])


def test_distances_are_in_pitches_of_the_training_spots():
    model, batch = network(), section(step=150.0)
    model.initialize_from([batch])
    assert model.pitch_um == 150.0
    other = network()
    other.load_state_dict(model.state_dict())
    assert other.pitch_um == 150.0


def test_where_a_slide_begins_does_not_matter():
    model, batch = network().eval(), section()
    torch.nn.init.normal_(model.head.weight)
    y = model(batch)
    batch.xy_um = batch.xy_um + 4096.0
    torch.testing.assert_close(model(batch), y)
    batch.xy_um = batch.xy_um * 2
    assert not torch.isclose(model(batch), y).all()


def test_a_wide_slide_works():
    batch = section(200)
    assert torch.isfinite(network().eval()(batch)).all()


# ---- whole


def test_wrong_fields_are_refused():
    for field, value in {"heads": 3, "dropout": 1.0, "context": "spot", "fov_spots": (1.0, 2.0)}.items():
        with pytest.raises(ValueError, match=field):
            network(**{field: value})


def test_learns_a_section_and_is_read_back(tmp_path):
    sdata = synthetic(n_slides=3, n_side=8, um_per_px=8.0)
    config = FitConfig(
        **FitConfig().to_dict()
        | {
            "n_epochs": 25,
            "lr": 3e-3,
            "ema_decay": 0.8,
            "patience": 25,
            "accelerator": "cpu",
            "precision": "32-true",
            "progress": False,
        }
    )
    predictor = fit(sdata, "histogene", config=config, model_options=TINY, save_dir=tmp_path / "model")
    assert predictor.history["val_pearson"].max() > 0.6
    assert Predictor.load(tmp_path / "model").hash == predictor.hash
