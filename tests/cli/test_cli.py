"""The command line: what each sub-command writes and prints, and how it fails."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import spatialdata as sd
from PIL import Image

from stpredict import datasets, tl
from stpredict._cli import main
from stpredict._cli._main import parser
from stpredict._files import lock
from stpredict._slides.slides import pyramid

SMALL = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "train.zarr"
    datasets.synthetic(n_slides=3, n_side=6, um_per_px=8.0).write(path)
    return path


@pytest.fixture(scope="module")
def model(store, tmp_path_factory):
    """A predictor that is trained without steps."""
    path = tmp_path_factory.mktemp("model") / "model"
    assert main(["fit", str(store), "--out", str(path), "--model", "mean_profile"]) == 0
    return path


@pytest.fixture
def small(monkeypatch):
    """Networks that train in a second, whatever is asked for."""
    fit = tl.fit

    def faster(sdata, model="m2ost_tiny", **arguments):
        return fit(sdata, model, model_options=SMALL, **arguments)

    monkeypatch.setattr(tl, "fit", faster, raising=False)


@pytest.mark.parametrize("command", [[], ["demo"], ["fit"], ["predict"], ["cohort"], ["evaluate"], ["benchmark"]])
def test_help_explains_every_option(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert len(capsys.readouterr().out) > 300
    choices = next(action for action in parser()._actions if action.dest == "command").choices
    assert all(action.help for sub in choices.values() for action in sub._actions)


@pytest.fixture
def picture(sdata, tmp_path):
    """A slide file without measurements."""
    pixels = np.asarray(pyramid(sdata["S0_image"])[0].pixels)
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(tmp_path / "slide.png")
    return tmp_path / "slide.png"


@pytest.mark.usefixtures("forkserver")
@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_cohort(model, picture, tmp_path, capsys, workers):
    out = tmp_path / "out"
    command = ["cohort", str(model), str(picture), str(tmp_path / "gone.svs"), "--out", str(out), "--um-per-px", "4"]
    assert main([*command, *workers]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("gone: FileNotFoundError: No slide at")
    assert lines[1] == f"1 of 2 slides: {out}"
    assert sd.read_zarr(out / "slide/predicted.zarr")["predicted"].n_vars == 12


def test_cohort_names_slides_that_another_process_predicts(model, picture, tmp_path, capsys):
    out = tmp_path / "out"
    with lock(out / "slide"):
        assert main(["cohort", str(model), str(picture), "--out", str(out), "--um-per-px", "4"]) == 0
    assert capsys.readouterr().out.splitlines() == ["slide: another process is at it", f"0 of 1 slides: {out}"]


def test_benchmark(store, tmp_path, capsys):
    command = ["benchmark", str(store), "--models", "knn_spatial", "--out", str(tmp_path / "out"), "--folds", "2"]
    assert main([*command, "--html", str(tmp_path / "report.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Benchmark of 3 models in '{tmp_path / 'out'}'"
    assert {line.split()[0] for line in lines[3:]} == {"knn_spatial", "mean_profile", "ridge_color"}
    assert "knn_spatial" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main([*command[:4], "--out", str(tmp_path / "other"), "--by", "section", "--group", "none"]) == 1
    assert "No column 'none' in `obs`" in capsys.readouterr().err


def test_fit_predict_evaluate(store, tmp_path, capsys, small):
    model, predicted = tmp_path / "model", tmp_path / "predicted.zarr"
    assert (
        main(["fit", str(store), "--out", str(model), "--epochs", "1", "--group", "patient", "--validation", "auto"])
        == 0
    )
    assert "held-out groups" in capsys.readouterr().out
    assert main(["predict", str(store), str(model), "--out", str(predicted), "--views", "1"]) == 0
    assert "108 spots x 12 genes in log1p CP10k" in capsys.readouterr().out
    assert sd.read_zarr(predicted)["predicted"].shape == (108, 12)
    table = tmp_path / "predicted.h5ad"
    assert main(["predict", str(store), str(model), "--out", str(table), "--views", "1"]) == 0
    assert ad.read_h5ad(table).shape == (108, 12)
    capsys.readouterr()
    scores = tmp_path / "scores.csv"
    with pytest.warns(UserWarning, match="trained on"):
        assert main(["evaluate", str(predicted), "--out", str(scores)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["mean profile", "ridge on colour", "model", "noise ceiling"]
    assert scores.read_text().startswith("gene,pearson,")


def test_genes_are_read_from_a_file(store, tmp_path):
    genes = tmp_path / "genes.txt"
    genes.write_text("GENE3\nGENE1\n")
    arguments = ["fit", str(store), "--out", str(tmp_path / "model"), "--model", "mean_profile"]
    assert main([*arguments, "--genes", str(genes)]) == 0
    assert tl.Predictor.load(tmp_path / "model").genes == ["GENE3", "GENE1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere.zarr", "--out", "m"], "No SpatialData store at 'nowhere.zarr'"),
        (["predict", "nowhere.zarr", "m", "--out", "p.csv"], "must end in .h5ad"),
        (["evaluate", "nowhere.zarr"], "No SpatialData store"),
    ],
)
def test_errors_are_one_line_without_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"stpredict {arguments[0]}: ")
    assert message in error
    assert error.count("\n") == 1


def test_nothing_is_overwritten(store, tmp_path, capsys):
    taken = tmp_path / "taken.h5ad"
    taken.write_text("mine")
    assert main(["predict", str(store), "model", "--out", str(taken)]) == 1
    assert "is not overwritten" in capsys.readouterr().err
    assert taken.read_text() == "mine"


def test_demo_without_data_or_network_says_so_and_uses_synthetic_slides(tmp_path, monkeypatch, capsys, small):
    def unreachable(*_):
        message = "no network"
        raise ConnectionError(message)

    def smaller(*, n_slides):
        return made(n_slides=n_slides, n_side=5, um_per_px=8.0)

    made = datasets.synthetic
    monkeypatch.setattr(datasets, "her2st", unreachable, raising=False)
    monkeypatch.setattr(datasets, "synthetic", smaller, raising=False)
    assert main(["demo", "--out", str(tmp_path / "out"), "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert "Real sections are not available, so synthetic slides are used (no network)" in said
    for row in ("mean profile", "ridge on colour", "M2OST", "noise ceiling"):
        assert row in said
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"predicted.zarr", "predicted.h5ad", "model", "expression.png", "pca.png", "patches.png"}
    assert tl.Predictor.load(tmp_path / "out" / "model").model == "m2ost_tiny"
