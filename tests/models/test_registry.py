"""Names of models, their configurations as JSON, and that asking for none of it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from stpredict import models
from stpredict.models import registry


def test_named_models():
    table = models.available()
    assert {"m2ost", "m2ost_small", "m2ost_tiny", "m2ost_reference", "resnet50", "stnet", "deepspace"} <= set(
        table.index
    )
    assert table.index.is_unique
    counted = {"parameters", "macs", "licence", "members"}
    assert set(table.columns) == {"citation", "context", "n_scales", "size_px", *counted}
    parameters = table["parameters"]
    assert parameters["m2ost_tiny"] < parameters["m2ost_small"] < parameters["m2ost"]
    assert table.loc[["m2ost", "m2ost_reference"], "citation"].str.contains("arXiv 2409.15092").all()
    assert table.loc[["resnet50", "swin_t", "deepspace"], "licence"].tolist() == ["apache-2.0", "mit", "bsd-3-clause"]
    assert (table["macs"] >= 0).all()


def test_parameters_are_those_of_the_network():
    tiny = models.build(models.config("m2ost_tiny", 250))
    assert sum(p.numel() for p in tiny.parameters()) == models.available().loc["m2ost_tiny", "parameters"]


def test_overrides_win_over_the_variant():
    config = models.config("m2ost_tiny", 7, {"size_px": 64, "fov_spots": [1, 2]})
    assert (config.n_outputs, config.size_px, config.fov_spots, config.depth) == (7, 64, (1, 2), 2)


def test_paper_s_figures():
    config = models.config("m2ost", 250)
    shape = (config.dim, config.depth, config.heads, config.patch_size, config.size_px, config.mask_rate)
    assert shape == (192, 4, 3, 16, 224, 0.1)


def test_saved_form():
    saved = models.config_to_dict(models.config("m2ost", 3))
    assert saved["model"] == "M2OST"
    assert saved["config"]["fov_spots"] == [1.5, 3.0, 6.0]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"No model 'M2ost'\. Did you mean 'm2ost'.* There are: .*available\(\)`"):
        models.config("M2ost", 3)
    with pytest.raises(ValueError, match=r"No model 'os'\. There are: .*'M2OST', 'M2OSTReference'.*available\(\)`.$"):
        models.config_from_dict({"model": "os", "config": {"n_outputs": 1}})


def test_names_of_timm_are_networks_as_they_are():
    config = models.config("crossvit_tiny_240", 3)
    assert config == models.config("crossvit_small", 3, {"encoder": "crossvit_tiny_240"})
    assert config.size_px == 240
    assert models.config("uni2-h", 3) == models.config("resnet50", 3, {"encoder": "uni2-h"})
    assert models.recipe("resnet18.a1_in1k") == models.recipe("resnet50")
    assert "encoder" in registry.config_fields("resnet18")
    assert models.config_from_dict(models.config_to_dict(config)) == config
    with pytest.raises(ValueError, match=r"No model 'resnet17'.*`timm.list_models\(\)`"):
        models.recipe("resnet17")


@pytest.mark.parametrize("model", [["M2OST"], None, {"a": 1}])
def test_names_that_are_no_text_are_refused(model):
    with pytest.raises(ValueError, match="No model"):
        models.config_from_dict({"model": model, "config": {"n_outputs": 1}})


@pytest.mark.parametrize("saved", [{}, {"model": "M2OST"}, {"model": "M2OST", "config": {}, "code": "1"}, [], None])
def test_foreign_saved_forms_are_refused(saved):
    with pytest.raises(ValueError, match="exactly 'model' and 'config'"):
        models.config_from_dict(saved)


@pytest.mark.parametrize("fields", [{}, [], None, "dim", {"dim": 12}])
def test_saved_fields_that_are_incomplete_are_refused(fields):
    with pytest.raises(ValueError, match="'n_outputs' at least"):
        models.config_from_dict({"model": "M2OST", "config": fields})


def test_fields_that_a_file_lacks_take_their_defaults():
    config = models.config_from_dict({"model": "M2OST", "config": {"n_outputs": 3, "depth": 1}})
    assert config == models.config("m2ost", 3, {"depth": 1})


def test_spot_batch_moves_what_it_has(spots):
    batch = spots()
    moved = batch.to("meta")
    assert len(moved) == 3
    assert moved.patches.device == moved.xy_um.device == moved.slide.device == moved.targets.device
    assert moved.targets.device == torch.device("meta")
    assert moved.counts is None
    assert batch.patches.device == torch.device("cpu")
    assert batch.to("cpu").patches is batch.patches


def test_options_of_former_mixtures_are_answered_with_what_to_call_now():
    for name in ("statistics_share", "encoder_share", "color_tokens"):
        with pytest.raises(ValueError, match=rf"`{name}` is no option any more: .*`stp.tl.fit\(sdata, \["):
            models.config("m2ost_small", 3, {name: 0.3})


def test_saved_networks_with_unused_options_load_and_mixtures_are_refused():
    """Earlier versions saved both options of every ``M2OST``, whatever their values."""
    fields = {"n_outputs": 3, "depth": 1, "color_tokens": False}
    config = models.config_from_dict({"model": "M2OST", "config": {**fields, "statistics_share": 0.0}})
    assert config == models.config("m2ost", 3, {"depth": 1})
    for saved in (
        {"model": "M2OST", "config": {**fields, "statistics_share": 0.7}},
        {"model": "M2OSTEncoder", "config": fields},
    ):
        with pytest.raises(ValueError, match=r"inside one model.*Train it again with `stp.tl.fit`"):
            models.config_from_dict(saved)


def test_an_ensemble_has_no_configuration_of_its_own():
    for function in (models.recipe, lambda name: models.config(name, 3)):
        with pytest.raises(ValueError, match=r"'m2ost_ridge' is an ensemble of 'm2ost_tiny', 'ridge_statistics'"):
            function("m2ost_ridge")


@pytest.mark.parametrize("name", registry.named_ensembles())
def test_members_of_registered_ensembles_are_models_and_weights_sum_to_1(name):
    row = registry.named_ensembles()[name]
    assert row.members.keys() <= registry.named_variants().keys()
    assert sum(row.members.values()) == pytest.approx(1)
    assert row.options.keys() <= row.members.keys()
    table = models.available()
    shown = table.loc[name]
    assert all(member in shown["members"] for member in row.members)
    assert shown["citation"]
    parts = [models.build(models.config(each, 250, row.options.get(each))) for each in row.members]
    assert shown["parameters"] == sum(p.numel() for part in parts for p in part.parameters())


def test_the_default_is_registered():
    assert models.DEFAULT in models.available().index
    with pytest.raises(ValueError, match="taken by an ensemble"):
        models.register(models.DEFAULT, models.M2OST)


def test_flags_are_true_or_false():
    with pytest.raises(TypeError, match=r"`intercept` is 1 \(int\); give True or False"):
        models.config("encoder_ridge", 3, {"intercept": 1})


def test_names_resolve_and_nothing_else():
    assert set(models.__all__) == set(dir(models))
    assert all(getattr(models, name).__name__ == name for name in set(models.__all__) - {"DEFAULT"})
    with pytest.raises(AttributeError, match="m3ost"):
        models.m3ost  # noqa: B018


def test_import_needs_no_torch():
    code = "import sys; from stpredict import models; from stpredict.models import registry; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pandas", "anndata", "spatialdata"} & set(loaded)
