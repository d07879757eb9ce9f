"""The command line: what each sub-command writes and prints, and how it fails."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from PIL import Image

import stpredict
from stpredict import datasets, tl
from stpredict._checks.paths import name_slides
from stpredict._cli import _commands, _errors, main
from stpredict._cli._main import parser
from stpredict._cli._options import COMMANDS, FRACTIONAL, LAYER, PREDICTION, SELECTION
from stpredict._files import lock
from stpredict._slides.slides import pyramid
from stpredict.io.genes import read_gene_list
from stpredict.pp import TargetSpec

SMALL = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
pytestmark = pytest.mark.usefixtures("small_patches")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "train.zarr"
    datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0).write(path)
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


@pytest.mark.parametrize("command", [[], ["demo"], *([name] for name in COMMANDS)])
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
@pytest.mark.parametrize("workers", [[], pytest.param(["--workers", "1"], marks=pytest.mark.slow)])
def test_cohort(model, picture, tmp_path, capsys, workers):
    out = tmp_path / "out"
    command = ["cohort", str(picture), str(tmp_path / "gone.svs"), str(model), "--out", str(out), "--um-per-px", "4"]
    assert main([*command, *workers]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("gone: FileNotFoundError: No slide at")
    assert lines[1].startswith("slide: Slide 'grid' has 4 µm per pixel")
    assert lines[1].endswith("do not trust this prediction without a check.")
    assert lines[-1] == f"1 of 2 slides: {out}"
    assert sd.read_zarr(out / "slide/predicted.zarr")["predicted"].n_vars == 12


def test_cohort_names_slides_that_another_process_predicts(model, picture, tmp_path, capsys):
    out = tmp_path / "out"
    with lock(out / "slide"):
        assert main(["cohort", str(picture), str(model), "--out", str(out), "--um-per-px", "4"]) == 0
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
    assert "32 spots x 12 genes in log1p CP10k" in capsys.readouterr().out
    assert sd.read_zarr(predicted)["predicted"].shape == (32, 12)
    table = tmp_path / "predicted.h5ad"
    assert main(["predict", str(store), str(model), "--out", str(table), "--views", "1"]) == 0
    assert ad.read_h5ad(table).shape == (32, 12)
    capsys.readouterr()
    scores = tmp_path / "scores.csv"
    with pytest.warns(UserWarning, match="trained on"):
        assert main(["evaluate", str(predicted), "--out", str(scores)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["mean profile", "ridge on colour", "model", "noise ceiling"]
    assert scores.read_text().startswith("gene,pearson,")


def test_embed(store, tmp_path, capsys):
    out = tmp_path / "embedded.zarr"
    command = ["embed", str(store), "--encoder", "statistics", "--fov-um", "150", "--size-px", "16", "--out", str(out)]
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().out == f"Embeddings in {out}\n"
    assert sd.read_zarr(out)["observed"].obsm["X_statistics"].shape == (32, 54)
    assert main(command) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_genes_are_read_from_a_file(store, tmp_path):
    genes = tmp_path / "genes.txt"
    genes.write_text("GENE3\nGENE1\n")
    arguments = ["fit", str(store), "--out", str(tmp_path / "model"), "--model", "mean_profile"]
    assert main([*arguments, "--genes", str(genes)]) == 0
    assert tl.Predictor.load(tmp_path / "model").genes == ["GENE3", "GENE1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "nowhere.zarr", "--out", "m"], "nowhere.zarr'. Give the path of a .zarr folder"),
        (["predict", "nowhere.zarr", "m", "--out", "p.csv"], "must end in .h5ad"),
        (["evaluate", "nowhere.zarr"], "No SpatialData store"),
        (["predict", "x.svs", "model", "--out", "p.h5ad"], "x.svs PREDICTOR --out FOLDER`, which lays"),
        (["evaluate", "x.h5ad"], "x.h5ad' is a table, and a SpatialData store (.zarr) is needed. If the table has its"),
        (["predict", "model", "s.zarr", "--out", "p.h5ad"], "Type `stpredict predict SLIDE PREDICTOR --out …`"),
        (["cohort", "model", "x.svs", "--out", "c"], "'model' is a predictor and 'x.svs' is none: slides come first"),
        (["fit", "plain", "--out", "m"], "plain' is a folder without zarr metadata (it holds 'spatial')"),
        (["evaluate", "case #1/s.zarr"], "s.zarr' has # in its name, which zarr takes for the end of an address"),
        (["predict", "s.zarr", "model", "--out", "who?/p.zarr"], "has ? in its name"),
        (["fit", "s.zarr", "--out", "model"], "model' exists and is not overwritten. Give another `--out`"),
    ],
)
def test_errors_are_one_line_without_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.svs", "x.h5ad"):
        (tmp_path / name).write_bytes(b"")
    for name in ("model", "case #1/s.zarr", "who?", "plain/spatial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "model/config.json").write_text("{}")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"stpredict {arguments[0]}: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_hint_names_the_option_of_an_argument_inside_a_call():
    from stpredict._cli._errors import options_of
    from stpredict._cli._options import COMMANDS

    said = "Call `stp.pp.resolution(sdata, um_per_px=…)`."
    assert options_of(said, COMMANDS["cohort"]) == " (On the command line `um_per_px` is --um-per-px.)"
    assert options_of("Go on with `stp.tl.fit(…, resume_from=…)`.", COMMANDS["fit"]).endswith("is --resume.)")
    assert options_of("`shapes_key` is wrong, `nothing` too.", COMMANDS["fit"]).count("`") == 2


def test_a_cluster_has_workers(store, tmp_path, capsys):
    command = ["predict", str(store), str(tmp_path / "model"), "--out", str(tmp_path / "p.h5ad"), "--workers", "0"]
    assert main(command) == 1
    wanted = "`--workers` is 0; give at least 1, or leave it out to work in this process alone."
    assert wanted in capsys.readouterr().err


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


def test_pretrain_a_data_set(tmp_path, monkeypatch, capsys):
    """On made-up slides in place of the real ones, with the smallest of models."""
    asked = []

    def made_up(sections):
        asked.append(sections)
        return datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)

    monkeypatch.setattr(datasets, "her2st", made_up, raising=False)
    out = tmp_path / "release"
    command = ["pretrain", "her2st", "--out", str(out), "--model", "mean_profile", "--quiet", "--sections", "A1", "B1"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert asked == [["A1", "B1"]]
    assert "licence of the data: CC-BY-4.0" in said
    assert f"export STPREDICT_PRETRAINED={out}" in said
    assert {path.name for path in out.iterdir()} == {"her2st.zip", "her2st.json", "her2st.md", "her2st-training"}
    assert "Andersson et al. (2021)" in (out / "her2st.md").read_text(encoding="utf-8")


def test_data_sets_in_a_folder_are_read_from_it(tmp_path, monkeypatch, capsys):
    def read(path, sections):
        message = f"{path} {sections}"
        raise ValueError(message)

    monkeypatch.setattr(datasets, "cscc", read, raising=False)
    assert main(["pretrain", "cscc", "--data", str(tmp_path / "d"), "--out", str(tmp_path / "o")]) == 1
    assert f"{tmp_path / 'd'} None" in capsys.readouterr().err


def arguments_of(function):
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_of_the_function_is_an_option_or_is_left_out_for_a_reason(name):
    command = COMMANDS[name]
    offered, left_out = set(command.arguments), set(command.left_out)
    assert offered | left_out == arguments_of(getattr(tl, command.function))
    assert not offered & left_out
    assert not set(command.extra) & (offered | left_out)
    assert all(command.left_out.values())


def test_options_that_commands_share_are_the_same_and_complete():
    shared = {field.name for field in dataclasses.fields(tl.Selection)} - {"in_px"}
    assert {*SELECTION, *LAYER, *FRACTIONAL, "group_key"} == shared
    assert set(PREDICTION) - {"progress"} == {field.name for field in dataclasses.fields(tl.PredictOptions)} - {
        "uncertainty",
        "coverage",
        "members",
    }
    for name in ("fit", "predict", "benchmark"):
        assert {key: COMMANDS[name].arguments[key] for key in SELECTION} == dict(SELECTION)
    for name in ("predict", "cohort"):
        assert {key: COMMANDS[name].arguments[key] for key in PREDICTION} == dict(PREDICTION)


VALUES = {
    "image_key": (["--image", "I"], "I"),
    "shapes_key": (["--shapes", "A", "B"], ["A", "B"]),
    "table_name": (["--table", "T"], "T"),
    "coordinate_system": (["--coordinate-system", "C"], "C"),
    "um_per_px": (["--um-per-px", "0.5"], 0.5),
    "features_key": (["--features", "F"], "F"),
    "encoder": (["--encoder", "uni"], "uni"),
    "fov_um": (["--fov-um", "112", "224"], [112.0, 224.0]),
    "size_px": (["--size-px", "32"], 32),
    "layer": (["--layer", "L"], "L"),
    "n_views": (["--views", "4"], 4),
    "stain": (["--stain", "macenko"], "macenko"),
    "batch_size": (["--batch-size", "7"], 7),
    "device": (["--device", "cpu"], "cpu"),
    "precision": (["--precision", "32-true"], "32-true"),
    "progress": (["--quiet"], False),
    "uncertainty": (["--uncertainty", "conformal"], "conformal"),
    "coverage": (["--coverage", "0.8"], 0.8),
    "store": (["--store", "S"], "S"),
    "key_added": (["--key-added", "K"], "K"),
    "library_key": (["--library-key", "N"], "N"),
    "allow_fractional_counts": (["--fractional-counts"], True),
    "regions": (["--regions", "R=Tumor", "R=Fat", "Q=x"], {"R": ["Tumor", "Fat"], "Q": ["x"]}),
    "model": (["--model", "bleep"], "bleep"),
    "weights": (["--weights", "0.3", "0.7"], [0.3, 0.7]),
    "members": (["--models"], True),
    "genes": (["--genes", "genes.txt"], ["GENE3", "GENE 1"]),
    "group_key": (["--group", "G"], "G"),
    "validate_on": (["--validate-on", "V", "W"], ["V", "W"]),
    "config": (
        ["--epochs", "3", "--config", "lr=1e-4", "validation=none"],
        {"n_epochs": 3, "lr": 1e-4, "validation": "none"},
    ),
    "target": (["--target", "over=panel", "log1p=false"], TargetSpec(over="panel", log1p=False)),
    "patch": (["--patch", "fov_um=[112, 224]", "size_px=32"], tl.PatchSpec(fov_um=(112, 224), size_px=32)),
    "model_options": (["--model-options", "depth=3"], {"depth": 3}),
    "resume_from": (["--resume"], "O.zarr"),
    "predicted": (["--predicted", "P"], "P"),
    "n_splits": (["--splits", "3"], 3),
    "seed": (["--seed", "5"], 5),
    "by": (["--by", "section"], "section"),  # of `evaluate` donor
    "domain_key": (["--domains", "D"], "D"),
    "pathways": (["--pathways", "H.gmt"], "H.gmt"),
    "n_folds": (["--folds", "3"], 3),
    "seeds": (["--seeds", "1", "2"], [1, 2]),
    "protocol": (["--protocol", "hest"], "hest"),
    "allow_leakage": (["--allow-leakage"], True),
    "keep_predictors": (["--keep-predictors"], True),
    "name": (["--name", "N"], "N"),
    "cohort": (["--cohort", "organ=lung", "licence=CC-BY-4.0"], {"organ": "lung", "licence": "CC-BY-4.0"}),
}
"""What is typed for an argument, and what the function gets."""
PLACED = {
    "fit": ["S.zarr", "--out", "O.zarr"],
    "predict": ["S.zarr", "M", "--out", "O.zarr"],
    "embed": ["S.zarr", "--out", "O.zarr"],
    "cohort": ["S.zarr", "M", "--out", "O.zarr"],
    "evaluate": ["S.zarr"],
    "benchmark": ["S.zarr", "--models", "bleep", "--out", "O.zarr"],
    "pretrain": ["S.zarr", "--out", "O.zarr"],
}
"""What is always typed."""
EXPECTED = {
    "fit": {"save_dir": "O.zarr"},
    "predict": {"client": None},
    "embed": {"client": None},
    "cohort": {"client": None, "out_dir": "O.zarr"},
    "evaluate": {},
    "benchmark": {"save_dir": "O.zarr"},
    "pretrain": {"save_dir": "O.zarr", "name": "S"},
}
"""What the function then gets beside the slides, the predictor and the models."""


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_reaches_its_argument_and_nothing_else(name, tmp_path, monkeypatch):
    class Called(ValueError):
        pass

    def record(*args, **kwargs):
        raise Called(kwargs)

    (tmp_path / "genes.txt").write_bytes('\ufeffGENE3\r\n\r\n"GENE 1" \r\n'.encode())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_commands, "_read", lambda _: "store")
    monkeypatch.setattr(tl, COMMANDS[name].function, record, raising=False)
    for argument, option in COMMANDS[name].arguments.items():
        if not option.flag.startswith("-") or argument in {"save_dir", "out_dir", "models"}:
            continue
        typed, expected = VALUES[argument]
        if (name, argument) == ("cohort", "shapes_key"):
            typed, expected = typed[:2], "A"
        if (name, argument) == ("evaluate", "by"):
            typed, expected = ["--by", "donor"], "donor"
        if (name, argument) == ("embed", "weights"):
            typed, expected = ["--weights", "timm"], "timm"
        typed = [*typed, *(VALUES[COMMANDS[name].needs[argument]][0] if argument in COMMANDS[name].needs else [])]
        caught = []
        monkeypatch.setattr(_errors, "is_expected", caught.append)
        with pytest.raises(Called):
            main([name, *PLACED[name], *typed])
        (found,) = caught[0].args
        for key in {"paths", "predictor", "config", COMMANDS[name].needs.get(argument)} - {argument}:
            found.pop(key, None)
        assert found == {**EXPECTED[name], argument: expected}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["fit", "S.zarr", "--out", "m", "--n-genes", "5", "--genes", "g"],
            "`--n-genes` has no effect beside",
        ),
        (["fit", "S.zarr", "T.zarr", "--out", "m", "--n-genes", "5"], "`--n-genes` chooses from one store, and 2"),
        (["fit", "S.zarr", "--out", "m", "--epochs", "5", "--config", "n_epochs=3"], "give the same field"),
        (["fit", "S.zarr", "--out", "m", "--image", "a", "b"], "Give one image, or SPOTS=IMAGE"),
        (["fit", "S.zarr", "--out", "m", "--regions", "a", "b=Tumor"], "or ELEMENT=CLASS for every class"),
        (["fit", "S.zarr", "--out", "m", "--target", "ovr=panel"], "`target`"),
        (["predict", "S.zarr", "m", "--out", "p.zarr", "--coverage", "0.8"], "no effect without `--uncertainty`"),
        (
            ["predict", "S.zarr", "m", "--out", "p.zarr", "--views", "4", "--uncertainty", "conformal"],
            "`--views` has",
        ),
        (["predict", "S.zarr", "m", "--out", "p.zarr", "--key-added", "K", "--layer", "L"], "`--key-added` has no"),
        (["predict", "S.zarr", "m", "--out", "p.h5ad", "--layer", "L"], "must end in .zarr"),
        (["embed", "S.zarr", "--out", "p.h5ad"], "must end in .zarr: the whole object is written"),
        (["benchmark", "S.zarr", "--models", "bleep", "--out", "m", "--group", "G", "--no-group"], "`--group` has no"),
        (["pretrain", "S.zarr", "T.zarr", "--out", "m"], "2 stores were given ('S', 'T'). Name the predictor"),
        (["pretrain", "S.zarr", "--out", "m", "--sections", "A1"], "and 'S.zarr' is none. Give the name of a data set"),
        (["pretrain", "hbc", "--out", "m"], "'hbc' is not downloaded: give the folder of its files with `--data`"),
        (["pretrain", "her2st", "--out", "m", "--data", "d"], "in STPREDICT_DATA_DIR: leave `--data` out"),
    ],
)
def test_options_that_would_not_count_are_refused(typed, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "S.zarr").mkdir()
    assert main(typed) == 1
    assert message in capsys.readouterr().err


def test_settings_have_a_name_and_a_value(capsys):
    message = "'lr' is not of the form NAME=VALUE"
    with pytest.raises(SystemExit):
        main(["fit", "S.zarr", "--out", "m", "--config", "lr"])
    assert message in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"stpredict {stpredict.__version__}\n"


def test_errors_name_the_option(store, tmp_path, capsys):
    assert main(["evaluate", str(store), "--table", "counts"]) == 1
    error = capsys.readouterr().err
    assert "No table 'counts'" in error
    assert error.endswith("(On the command line `table_name` is --table.)\n")


def test_evaluate_finds_table_and_layer(tmp_path, capsys):
    sdata = datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
    sdata.tables["table"] = sdata.tables.pop("observed")
    sdata["table"].layers["raw"] = sdata["table"].X.copy()
    predictor = tl.fit(sdata, "ridge_color", shapes_key="S0_spots", config={"progress": False})
    tl.predict(sdata, predictor, shapes_key="S1_spots", progress=False)
    del sdata.images["S0_image"], sdata.images["S1_image"]  # scores need none
    sdata.write(tmp_path / "s.zarr")
    out = tmp_path / "scores.csv"
    command = ["evaluate", str(tmp_path / "s.zarr"), "--table", "table", "--layer", "raw", "--out", str(out)]
    assert main([*command, "--splits", "3", "--seed", "1"]) == 0
    assert capsys.readouterr().out.startswith("16 spots, 12 genes")
    expected = tl.evaluate(sdata, table_name="table", layer="raw", n_splits=3, seed=1)
    pd.testing.assert_frame_equal(pd.read_csv(out, index_col="gene"), expected, check_exact=False)


def test_slides_of_one_name_in_two_folders_are_two_slides(tmp_path, capsys, monkeypatch):
    for i, who in enumerate(("P1", "P2")):
        datasets.synthetic(n_slides=1, n_side=4, um_per_px=8.0, seed=i).write(tmp_path / who / "slide.zarr")
    stores = [str(tmp_path / who / "slide.zarr") for who in ("P1", "P2")]
    assert main(["fit", *stores, "--model", "ridge_color", "--out", str(tmp_path / "m")]) == 0
    trained = set(tl.Predictor.load(tmp_path / "m").provenance.slides)
    assert trained == {"P1_slide/S0_spots", "P2_slide/S0_spots"}
    command = ["benchmark", *stores, "--models", "mean_profile", "--out", str(tmp_path / "b"), "--no-group"]
    assert main(command) == 0
    assert tl.Benchmark.load(tmp_path / "b").scores["slide"].nunique() == 2
    cohort = ["cohort", *stores, str(tmp_path / "m"), "--out", str(tmp_path / "c")]
    monkeypatch.setattr(tl, "predict_cohort", lambda paths, **_: sys.exit(" ".join(paths)), raising=False)
    with pytest.raises(SystemExit, match="P1_slide P2_slide"):
        main(cohort)
    capsys.readouterr()
    (tmp_path / "link.zarr").symlink_to(stores[0])
    for twice in (stores[0], str(tmp_path / "P2" / ".." / "P1" / "slide.zarr"), str(tmp_path / "link.zarr")):
        assert main(["fit", stores[0], twice, "--out", str(tmp_path / "n")]) == 1
        assert "are the same slide. Give every slide once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a/x.zarr", "b/y.zarr"], ["x", "y"]),
        (["a/x.zarr", "b/x.zarr", "b/y.ome.tif"], ["a_x", "b_x", "y"]),
        (["a/1/x.zarr", "b/1/x.zarr", "c/x.zarr"], ["a_1_x", "b_1_x", "c_x"]),
        (["a/x.zarr", "a/x.svs"], ["x.zarr", "x.svs"]),
        (["a/x.zarr", "b/x.zarr", "c/a_x.zarr"], ["_a_x", "b_x", "c_a_x"]),
    ],
)
def test_names_are_distinct(given, names, tmp_path):
    found = name_slides([tmp_path / path for path in given])
    assert list(found.values()) == [tmp_path / path for path in given]
    assert list(found) == [f"{tmp_path.name}{name}" if name.startswith("_") else name for name in names]


def test_names_that_cannot_be_made_distinct():
    with pytest.raises(ValueError, match=r"cannot be named apart\. Rename one"):
        name_slides([Path("/b_c/s.zarr"), Path("/b/c/s.zarr"), Path("/d/c/s.zarr")])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_genes_files_of_windows(encoding, tmp_path):
    (tmp_path / "genes.txt").write_bytes("GENE3\r\nGENE1\r\n\r\n".encode(encoding))
    assert read_gene_list(tmp_path / "genes.txt") == ["GENE3", "GENE1"]
    (tmp_path / "genes.txt").write_bytes("\r\n".encode(encoding))
    with pytest.raises(ValueError, match=r"holds no gene\. Write one name a line"):
        read_gene_list(tmp_path / "genes.txt")


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_an_interrupt_leaves_no_output(store, model, suffix, tmp_path, capsys, monkeypatch):
    def half(_, path):
        if suffix == ".zarr":
            path.mkdir()
            path /= "half"
        path.write_text("half")
        raise KeyboardInterrupt

    writer = ad.AnnData if suffix == ".h5ad" else sd.SpatialData
    monkeypatch.setattr(writer, "write_h5ad" if suffix == ".h5ad" else "write", half)
    assert main(["predict", str(store), str(model), "--out", str(tmp_path / f"p{suffix}")]) == 130
    assert capsys.readouterr().err.endswith("Interrupted.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_busy_folder_is_one_line_and_a_fault_of_torch_is_not(store, tmp_path, capsys, monkeypatch):
    command = ["fit", str(store), "--out", str(tmp_path / "m"), "--model", "ridge_color"]
    with lock(tmp_path / "m.checkpoint"):
        assert main(command) == 1
    assert "Another process is training into" in capsys.readouterr().err

    def fault(*_, **__):
        message = "a fault"
        raise RuntimeError(message)

    monkeypatch.setattr(tl, "fit", fault, raising=False)
    with pytest.raises(RuntimeError, match="a fault"):
        main(command)
