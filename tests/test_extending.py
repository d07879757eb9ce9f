"""The page about models of one's own, taken at its word: its file is written, imported, trained, saved and loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import stpredict as stp
from stpredict.models import registry

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
FILE, STUDY = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def registry_as_before(monkeypatch):
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))


@dataclass(frozen=True, kw_only=True)
class OwnConfig:
    n_outputs: int
    fov_spots: tuple[float, ...] = (1.5,)
    size_px: int = 8
    context: str = "spot"


class Own(stp.models.SpotModel):
    """The mean profile."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.head = stp.models.FloatLinear(1, config.n_outputs)

    def forward(self, batch):
        return self.head(torch.zeros(len(batch), 1))


class Bare(Own):
    """Has no configuration of its own."""


@dataclass
class HalfConfig:
    n_outputs: int
    size_px: int = 8


class Half(Own):
    """Has half a configuration."""


@pytest.fixture
def printed(python, tmp_path):
    """Run code in a new Python, in the folder; returns what it wrote."""

    def run(code):
        process = python(code, tmp_path)
        process.join()
        return [(tmp_path / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]

    return run


def test_the_page_s_model_is_trained_saved_and_loaded_by_whoever_imports_it(printed, tmp_path):
    (tmp_path / "colour_net.py").write_text(FILE, encoding="utf-8")
    study = STUDY.replace("model_options=", "save_dir='kept', config=quiet, model_options=").replace(
        "pr" + "int(", "score = ("
    )
    quiet = "quiet = stp.tl.FitConfig(**stp.models.recipe('colour_net') | dict(n_epochs=20, progress=False))\n"
    made, error = printed(
        study.replace("sdata =", f"{quiet}sdata =")
        + "print(score > 0.5, float(abs(sdata['predicted'].X).sum()), predictor.model_config.hidden)",
    )
    assert made, error
    good, total, hidden = made.split()
    assert (good, hidden) == ("True", "16")

    again, error = printed(
        "import colour_net, stpredict as stp\n"
        "sdata = stp.datasets.synthetic(n_slides=3, n_side=6)\n"
        "stp.tl.predict(sdata, stp.tl.Predictor.load('kept'), shapes_key='S2_spots')\n"
        "print(float(abs(sdata['predicted'].X).sum()))",
    )
    assert again.split() == [total], error

    _, unknown = printed("import stpredict as stp; stp.tl.Predictor.load('kept')")
    last = unknown.strip().splitlines()[-1]
    assert re.match(r"ValueError: No model 'ColourNet'.*the module that registers it .* must be imported", last)


def test_the_page_s_model_is_small():
    code = [line for line in FILE.splitlines() if line and not line.startswith("#")]
    assert len(code) < 25


def test_a_registered_model_is_like_any_other():
    stp.models.register("own", Own, citation="Nobody 2026", overrides={"size_px": 16}, recipe={"lr": 1e-3})
    config = stp.models.config("own", 5)
    assert config == OwnConfig(n_outputs=5, size_px=16)
    assert isinstance(stp.models.build(config), Own)
    assert stp.models.recipe("own") == {"lr": 1e-3}
    assert stp.models.config_from_dict(stp.models.config_to_dict(config)) == config


def test_registering_again_replaces_one_s_own_row():
    stp.models.register("own", Own)
    stp.models.register("own", Own, overrides={"size_px": 16})
    stp.models.register("own_large", Own, overrides={"size_px": 64})
    assert [stp.models.config(name, 5).size_px for name in ("own", "own_large")] == [16, 64]


def test_names_of_others_are_refused():
    with pytest.raises(ValueError, match=r"name 'm2ost' is taken by stpredict\.models\.m2ost\.M2OST"):
        stp.models.register("m2ost", Own)
    with pytest.raises(ValueError, match="name 'm2ost' is taken"):
        stp.models.register("m2ost", stp.models.M2OST)
    stp.models.register("own", Own)
    with pytest.raises(ValueError, match=r"name 'own' is taken by .*Own\. Register your model under another"):
        stp.models.register("own", Half)


def test_classes_that_are_called_like_others_are_refused():
    foreign = type("M2OST", (Own,), {"__module__": __name__})
    with pytest.raises(ValueError, match=r"stpredict\.models\.m2ost\.M2OST has that class name.*Rename yours"):
        stp.models.register("own", foreign)


@pytest.mark.parametrize(
    ("model", "match"),
    [(Bare, "a dataclass BareConfig .* is missing"), (Half, "HalfConfig .* lacks 'fov_spots', 'context'")],
)
def test_models_without_their_configuration_are_refused(model, match):
    with pytest.raises(ValueError, match=match):
        stp.models.register("own", model)


def test_what_nobody_could_import_is_refused():
    class Inner(Own):
        pass

    with pytest.raises(ValueError, match="define it at the top of a module"):
        stp.models.register("own", Inner)


class Former(Own):
    """Was written for an earlier version."""

    reads_both = True


def test_former_names_are_refused():
    with pytest.raises(ValueError, match="defines `reads_both`, which is now called `uses_patches_and_features`"):
        stp.models.register("own", Former)


@pytest.mark.parametrize(
    "model", [Own(OwnConfig(n_outputs=1)), torch.nn.Linear, "own"], ids=["network", "layer", "name"]
)
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match=r"derives from `stp\.models\.SpotModel`"):
        stp.models.register("own", model)


@pytest.mark.parametrize(("name", "error"), [("", ValueError), (3, TypeError)])
def test_names_that_name_nothing_are_refused(name, error):
    with pytest.raises(error, match="`name` is"):
        stp.models.register(name, Own)
