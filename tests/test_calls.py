"""How calls are answered: wrong keywords, misspelt names, short tracebacks, one default a parameter."""

from __future__ import annotations

import io
import pickle
import traceback
from inspect import Parameter, isfunction, signature

import pytest
from test_public_api import PUBLIC

import stpredict as stp
from stpredict._checks import calls
from stpredict._checks.names import did_you_mean, nearest

DEFAULTS_THAT_DIFFER = {
    "axis": "metrics are over genes or spots; each says which",
    "by": "what is split, held out or scored apart",
    "encoder": "`read_embeddings` only records a name",
    "group_key": "a benchmark is over patients",
    "key_added": "the name of what is written",
    "keys": "what is drawn",
    "method": "`select_genes` has a method that is best, `domains` has none",
    "metric": "columns of different tables",
    "model": "`self_train` needs a network",
    "n_genes": "made up, selected, drawn",
    "n_neighbors": "of different graphs",
    "n_permutations": "of tests of different cost",
    "n_views": "`calibrate` uses as many as `fit` does",
    "name": "of a panel of the package, or of a slide",
    "overviews": "files, or whether they are read",
    "sections": "of different data sets",
    "seed": "`Benchmark.table` takes any",
    "shapes_key": "`predict_cohort` makes the element",
    "um_per_px": "`synthetic` makes the image",
}
"""Parameters with several defaults, and why."""


def test_a_parameter_has_one_default():
    defaults: dict[str, set[object]] = {}
    functions = [obj for obj in PUBLIC.values() if isfunction(obj)]
    for function in [*functions, stp.tl.Benchmark.table, stp.tl.Predictor.predict]:
        for name, parameter in signature(function).parameters.items():
            if parameter.default is not Parameter.empty:
                defaults.setdefault(name, set()).add(repr(parameter.default))
    several = {name for name, found in defaults.items() if len(found) > 1}
    assert several - set(DEFAULTS_THAT_DIFFER) == set()
    assert {"image_key", "table_name", "genes", "progress", "device"} <= set(defaults) - several


def test_every_public_function_answers_mistakes():
    plain = [name for name, obj in PUBLIC.items() if isfunction(obj) and not hasattr(obj, "__wrapped__")]
    assert not plain, "decorate them with `public` of `_checks.calls`"
    assert pickle.loads(pickle.dumps(stp.tl.fit)) is stp.tl.fit


@pytest.mark.parametrize(("function", "wrong", "words"), [
    (stp.tl.fit, {"n_epochs": 3},
     r"`stp\.tl\.fit` has no argument 'n_epochs'\. Did you mean `config=\{'n_epochs': …\}`"),
    (stp.tl.fit, {"max_epochs": 3}, r"Did you mean `config=\{'n_epochs': …\}`"),
    (stp.tl.cross_validate, {"epochs": 3}, r"Did you mean `config=\{'n_epochs': …\}`"),
    (stp.tl.predict, {"shape_key": "a"}, r"Did you mean `shapes_key=…`\? It takes: sdata, predictor"),
    (stp.tl.FitConfig, {"epochs": 3}, r"`stp\.tl\.FitConfig` has no argument 'epochs'\. Did you mean `n_epochs=…`\?"),
    (stp.tl.Predictor.load, {"file": "a"}, r"`stp\.tl\.Predictor\.load` has no argument 'file'.* It takes: path"),
    (stp.pl.expression, {"zzz": 1}, r"`stp\.pl\.expression` has no argument 'zzz'\. It takes: sdata"),
])  # fmt: skip
def test_a_wrong_keyword_is_answered_with_the_nearest(function, wrong, words):
    with pytest.raises(TypeError, match=words):
        function(**wrong)


def test_the_nearest_name_disregards_case_and_punctuation():
    assert nearest("Erbb-2", ["ACTB", "ERBB3", "ERBB2"])[0] == "ERBB2"
    assert nearest("zzz", ["ACTB", "ERBB2"]) == []
    assert did_you_mean(["m2ost_tny", "blep", "m2ost"], ["bleep", "m2ost", "m2ost_tiny"]) == (
        " Did you mean 'm2ost_tiny' or 'bleep'?"
    )
    assert did_you_mean("x", []) == ""


def lines_of(error: BaseException) -> list[str]:
    return "".join(traceback.format_exception(error)).splitlines()


def test_the_traceback_of_a_mistake_is_the_line_of_the_user(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        stp.io.read_wsi(tmp_path / "none.svs")
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in frames] == ["test_the_traceback_of_a_mistake_is_the_line_of_the_user", "call"]
    assert len(lines_of(caught.value)) <= 8
    monkeypatch.setenv(calls.FULL, "1")
    with pytest.raises(FileNotFoundError) as caught:
        stp.io.read_wsi(tmp_path / "none.svs")
    assert len(traceback.extract_tb(caught.value.__traceback__)) > 2


def test_what_we_did_not_raise_keeps_its_traceback():
    def fails():
        return {}["a"]

    def refuses():
        try:
            fails()
        except KeyError as error:
            msg = "The input is wrong."
            raise ValueError(msg) from error

    with pytest.raises(KeyError) as caught:
        calls.public(fails)()
    assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][1:] == ["call", "fails"]
    with pytest.raises(ValueError, match="wrong") as caught:
        calls.public(refuses)()  # this file is not of the package
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_notebook_shows_one_frame_of_the_user():
    ultratb = pytest.importorskip("IPython.core.ultratb")
    source = "import stpredict as stp\nsdata = stp.datasets.synthetic(n_slides=1, n_side=4, um_per_px=8.0)\n"
    cell = compile(source + "stp.tl.fit(sdata, 'm2ost_tny')\n", "<cell>", "exec")
    shown = io.StringIO()
    try:
        exec(cell, {})
    except ValueError:
        formatter = ultratb.AutoFormattedTB(mode="Context", theme_name="nocolor", ostream=shown)
        formatter()
    text = shown.getvalue()
    assert "No model 'm2ost_tny'. Did you mean 'm2ost_tiny'" in text
    assert text.count("stpredict/") == 1
    assert len(text.splitlines()) < 30
