"""How calls are answered: wrong keywords, misspelt names, short tracebacks."""

from __future__ import annotations

import io
import traceback

import pytest

import stpredict as stp
from stpredict._checks import calls
from stpredict._checks.names import did_you_mean, nearest
from stpredict._progress import progress_bar


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


def test_the_environment_turns_off_progress_bars(monkeypatch):
    assert progress_bar(total=1, progress=False).disable
    with progress_bar(total=1, progress=True) as bar:
        assert not bar.disable
    monkeypatch.setenv("STPREDICT_PROGRESS", "0")
    assert progress_bar(total=1, progress=True).disable
