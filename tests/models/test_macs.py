"""Sizes and costs of networks, against the figures of their papers and of others who counted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stpredict import models
from stpredict.models import macs as macs_module
from stpredict.models.macs import cost, macs

PUBLISHED = {  # parameters in millions, 10^9 multiply-accumulates with attention; at 250 outputs
    "m2ost_reference": (7.04, 4.31),
    "resnet50": (24.02, 4.09),
    "vit_b_16": (85.99, 17.56),  # 16.85 without the products of attention
    "swin_t": (27.71, 4.49),
    "convnext_t": (28.01, 4.45),
    "crossvit_small": (26.42, 5.62),  # 5.07 without
    "stnet": (7.21, 2.83),
    "deepspace": (135.28, 15.47),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_cost_are_the_published_ones(name):
    if name != "m2ost_reference":
        pytest.importorskip("timm")
    found = cost(models.config(name, 250))
    parameters, multiplications = PUBLISHED[name]
    assert found["parameters"] / 1e6 == pytest.approx(parameters, abs=0.006)
    assert found["macs"] / 1e9 == pytest.approx(multiplications, abs=0.006)


def test_the_cost_is_that_of_macs():
    config = models.config("m2ost_tiny", 250)
    assert macs(config) == cost(config)["macs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductConfig:
    n_outputs: int = 3
    fov_spots: tuple[float, ...] = (1.0,)
    size_px: int = 2
    context: str = "spot"
    encoder: str = "none"
    n_features: int = 0


class Product(models.SpotModel):
    """12 pixels times 5, attention of the spots, 5 times 3: everything countable by hand."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.first = nn.Linear(config.n_features or 12, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, batch):
        given = batch.patches.flatten(1).float() if batch.features is None else batch.features
        x = self.first(given)[None, None]
        return self.head(F.scaled_dot_product_attention(x, x, x)[0, 0])


@pytest.fixture
def product(monkeypatch):
    monkeypatch.setattr(macs_module, "build", lambda config: Product(config))


@pytest.mark.usefixtures("product")
def test_products_and_attention_are_counted():
    assert macs(ProductConfig()) == 12 * 5 + 2 * 5 + 5 * 3


@pytest.mark.usefixtures("product")
def test_a_section_shares_its_cost_among_its_spots():
    assert macs(ProductConfig(context="slide")) == 12 * 5 + 2 * 64 * 5 + 5 * 3


@pytest.mark.usefixtures("product")
def test_embeddings_that_come_with_the_spots():
    assert macs(ProductConfig(encoder="given", n_features=7)) == 7 * 5 + 2 * 5 + 5 * 3


def test_places_of_spots_are_known_where_pixels_are_not(monkeypatch):
    class Near(Product):
        def forward(self, batch):
            left = batch.xy_um[:, 0] < 100
            assert int(left.sum()) == 8
            near = torch.cdist(batch.xy_um[left], batch.xy_um).topk(3, largest=False).indices
            x = self.first(batch.patches.flatten(1).float())  # of all 64
            assert x[left].shape == x[left.nonzero()[:, 0]].shape == (8, 5)
            return self.head(x[near] + batch.xy_um[near][..., :1])  # of 8 times 3

    monkeypatch.setattr(macs_module, "build", lambda config: Near(config))
    assert macs(ProductConfig(context="slide")) == round((64 * 12 * 5 + 24 * 5 * 3) / 64)


def test_what_depends_on_pixels_is_counted_with_pixels(monkeypatch):
    class Dark(Product):
        def forward(self, batch):
            return self.head(self.first(batch.patches[batch.patches.sum((1, 2, 3, 4)) > 0].flatten(1).float()))

    monkeypatch.setattr(macs_module, "build", lambda config: Dark(config))
    state = torch.get_rng_state()
    assert macs(ProductConfig(context="slide")) == 12 * 5 + 5 * 3
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_of_torch_are_not_fused_out_of_sight(monkeypatch):
    class Fused(Product):
        def __init__(self, config):
            super().__init__(config)
            self.first = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, batch):
            return self.head(self.first(batch.patches.flatten(1).float()[None])[0])

    monkeypatch.setattr(macs_module, "build", lambda config: Fused(config))
    with torch.no_grad():
        assert macs(ProductConfig()) == 4 * 12 * 12 + 2 * 12 + 2 * 12 * 24 + 12 * 3


WITHOUT_TIMM = """
import sys
assert "timm" not in sys.modules
sys.modules["timm"] = None
from stpredict import models
from stpredict.models import macs
named = macs.named_variants()
macs.named_variants = lambda: {name: named[name] for name in ("resnet50", "m2ost_tiny")}
table = models.available()
assert table.loc["resnet50", ["parameters", "macs", "licence"]].isna().all()
assert table.loc["m2ost_tiny", "macs"] > 0
try:
    models.config("resnet18", 3)
except ValueError as error:
    assert "stpredict-histology[encoders]" in str(error)
else:
    raise AssertionError
"""


def test_models_that_need_timm_have_no_figures_where_there_is_none(python, tmp_path):
    process = python(WITHOUT_TIMM, tmp_path)
    process.join()
    assert process.exitcode == 0, (tmp_path / "stderr").read_text()
