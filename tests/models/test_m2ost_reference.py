"""The published network, repaired: the same numbers, the same size, its weights under our names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode

from stpredict.models import M2OSTReference, M2OSTReferenceConfig, SpotBatch, from_released

FIXTURE = Path(__file__).parents[1] / "data" / "m2ost_reference.safetensors"


@pytest.fixture(scope="module")
def released():
    with safe_open(FIXTURE, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        original = json.loads(file.metadata()["config"])
    config = {
        "n_outputs": original["num_classes"],
        "size_px": original["image_size"],
        **{name: original[name] for name in ("dim", "depth", "heads", "dim_head", "mlp_dim", "patch_size")},
    }
    return tensors, config


@pytest.fixture
def state(released):
    return {name.removeprefix("state/"): x for name, x in released[0].items() if name.startswith("state/")}


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_outputs_of_the_released_network(released, state, pool):
    tensors, config = released
    model = M2OSTReference(M2OSTReferenceConfig(**config, pool=pool)).eval()
    model.load_state_dict(from_released(state))
    patches = torch.stack([tensors[f"input/level{i}"] for i in range(3)], dim=1)
    batch = SpotBatch(patches=patches, xy_um=torch.zeros(3, 2), slide=torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(model(batch), tensors[f"output/{pool}"], atol=1e-5, rtol=0)


def test_size_and_cost(spots):
    with torch.device("meta"):
        model = M2OSTReference(M2OSTReferenceConfig(n_outputs=250))
    carried = sum(p.numel() for p in model.parameters())
    dead = model.config.depth * 2 * model.config.dim
    assert dead == 4_608
    assert carried + dead == 7_043_466
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(spots(1, size_px=224).to("meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(4.31e9, rel=0.001)


def test_only_the_dead_parameters_are_left_out(state):
    kept = sum(x.numel() for x in from_released(state).values())
    assert sum(x.numel() for x in state.values()) - kept == 2 * 2 * 48


def test_dead_parameters_may_be_absent(state):
    without = {name: x for name, x in state.items() if ".0.norm." not in name}
    assert from_released(without).keys() == from_released(state).keys()


def test_missing_and_unknown_names_are_refused(state):
    state["mlp_head.scale"] = state.pop("mlp_head.bias")
    with pytest.raises(ValueError, match=r"1 name\(s\) missing \['mlp_head.bias'\], 1 unknown \['mlp_head.scale'\]"):
        from_released(state)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="not the weights of the published M2OST"):
        from_released({})


def test_impossible_configurations_are_refused():
    for overrides, match in [
        ({"dim": 100}, "`dim` is 100; it is divided among 3 scales"),
        ({"heads": 4}, "`heads` is 4; it is divided"),
        ({"fov_spots": (1.0, 2.0)}, r"has 2 scale\(s\).*exactly 3"),
        ({"pool": "max"}, "`pool` is 'max'; allowed: 'cls', 'mean'"),
        ({"size_px": 225}, "does not divide it"),
        ({"mlp_dim": 0}, "`mlp_dim` is 0"),
    ]:
        with pytest.raises(ValueError, match=match):
            M2OSTReferenceConfig(**{"n_outputs": 3, **overrides})
