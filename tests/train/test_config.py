"""Options of training: what is refused, what JSON keeps, which precision a device gets."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest
import torch

from stpredict._train.config import TRAINING_FIELDS, FitConfig, fit_config
from stpredict._train.device import default_precision, make_fabric
from stpredict.models import recipe
from stpredict.tl._benchmarking.entry import common_fields


@pytest.mark.parametrize(("fields", "words"), [
    ({"n_epochs": 0}, "`n_epochs` is 0; it must lie between 1 and 100000"),
    ({"batch_size": 0}, "`batch_size` is 0"),
    ({"lr": 0.0}, "`lr` is 0.0"),
    ({"lr": float("nan")}, "`lr` is nan"),
    ({"weight_decay": -1}, "`weight_decay` is -1"),
    ({"n_epochs": 3, "warmup_epochs": 4}, "`warmup_epochs` is 4; it must lie between 0.0 and 3"),
    ({"clip_norm": 0}, "`clip_norm` is 0"),
    ({"ema_decay": 1.0}, "`ema_decay` is 1.0"),
    ({"patience": 0}, "`patience` is 0"),
    ({"n_members": 0}, "`n_members` is 0"),
    ({"stain_jitter": -0.1}, "`stain_jitter` is -0.1"),
    ({"brightness_jitter": 2}, "`brightness_jitter` is 2"),
    ({"min_library": 1.5}, "`min_library` is 1.5"),
    ({"seed": -1}, "`seed` is -1"),
    ({"validation": "spot"}, "`validation` is 'spot'; allowed: 'auto', 'slide', 'block', 'none'"),
])  # fmt: skip
def test_options_that_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        FitConfig(**fields)


def test_options_survive_json():
    config = FitConfig(n_epochs=3, lr=1e-3, validation="block")
    again = FitConfig(**json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.given == set(TRAINING_FIELDS)  # it replaces a recipe


def test_a_configuration_changes_a_recipe_as_a_mapping_does():
    config = FitConfig(n_epochs=30, warmup_epochs=0.5)  # 30 is the default, and not what the recipe says
    assert fit_config(config, "stnet") == fit_config({"n_epochs": 30, "warmup_epochs": 0.5}, "stnet")
    assert fit_config(config, "stnet").n_epochs == 30
    assert fit_config(config, "stnet").lr == recipe("stnet")["lr"] != FitConfig().lr
    for same in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), dataclasses.replace(config)):
        assert same.given == {"n_epochs", "warmup_epochs"}
    assert dataclasses.replace(config, lr=1e-3).given == {"n_epochs", "warmup_epochs", "lr"}
    with pytest.raises(ValueError, match="`config` has no 'epochs' here"):
        fit_config({"epochs": 1}, "stnet")
    with pytest.raises(ValueError, match="`config` has no 'seed' here"):
        common_fields(FitConfig(seed=1))


@pytest.mark.parametrize(("bf16", "amx", "wanted"), [
    (False, False, "32-true"), (True, False, "bf16-mixed"), (False, True, "bf16-mixed"),
])  # fmt: skip
def test_a_cpu_computes_in_bf16_only_if_it_has_instructions_for_it(monkeypatch, bf16, amx, wanted):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert default_precision("cpu") == wanted


@pytest.mark.parametrize(("supported", "wanted"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_computes_in_bf16_where_it_is_native(monkeypatch, supported, wanted):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert default_precision("cuda") == wanted


def test_other_devices_compute_in_float32():
    assert default_precision("mps") == "32-true"


def test_fabric_is_what_the_options_say():
    fabric = make_fabric(FitConfig(accelerator="cpu", precision="bf16-mixed"))
    assert (fabric.device.type, fabric.world_size) == ("cpu", 1)
    with fabric.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
