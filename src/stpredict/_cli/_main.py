"""Sub-commands and their options. What each of them does is in `_commands` and `_demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import _errors as check

if TYPE_CHECKING:
    from collections.abc import Sequence

MAIN = """\
Predict spatial gene expression from H&E images.

  stpredict demo                               see it work on real tissue, in about five minutes
  stpredict fit train.zarr --out model         learn from slides with measured expression
  stpredict predict new.zarr model --out p.h5ad    predict slides, with or without measured expression
  stpredict cohort model *.svs --out folder    predict many slide files, each on a grid in its tissue
  stpredict evaluate predicted.zarr            score predictions against what was measured
  stpredict benchmark *.zarr --models m2ost_tiny encoder_ridge --out folder    compare models on held-out patients

A .zarr is a SpatialData store: an image, the spots on it, and a table with raw counts.
"""


def parser() -> argparse.ArgumentParser:
    """All sub-commands and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="stpredict", description=MAIN, formatter_class=raw)
    commands = top.add_subparsers(
        dest="command", required=True, metavar="demo | fit | predict | cohort | evaluate | benchmark"
    )
    _demo(commands.add_parser("demo", help="train on three sections, predict a fourth, and show the scores"))
    _fit(commands.add_parser("fit", help="train a predictor on slides with measured expression"))
    _predict(commands.add_parser("predict", help="predict the expression of every spot of a slide"))
    _cohort(commands.add_parser("cohort", help="predict many slides; finished slides are skipped"))
    _evaluate(commands.add_parser("evaluate", help="score predictions beside baselines and the noise ceiling"))
    _benchmark(commands.add_parser("benchmark", help="compare models on patients that none of them has seen"))
    return top


def _demo(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Train on sections C2, C3 and C4 of a HER2+ breast tumour, predict section C5, and print the scores beside two "
        "baselines and the noise ceiling. Without these files and without internet, synthetic slides are used."
    )
    command.add_argument("--out", type=Path, default=Path("stpredict-demo"), help="output folder")
    command.add_argument("--epochs", type=int, default=None, help="passes over the training spots (default: 30)")
    command.add_argument("--synthetic", action="store_true", help="use synthetic slides even if real ones exist")


def _fit(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Train a predictor. Options not given here follow the model's recipe (`stp.models.recipe`), including whether "
        "something is held out to decide when to stop: whole groups of slides (patients), or blocks of the only slide."
    )
    command.add_argument("slides", type=Path, nargs="+", help="SpatialData stores (.zarr) with raw counts")
    command.add_argument("--out", type=Path, required=True, help="folder for the predictor")
    command.add_argument("--model", default="m2ost_tiny", help="name of the model (default: m2ost_tiny)")
    command.add_argument("--genes", type=Path, help="text file with one gene a line (default: the 250 most variable)")
    command.add_argument("--n-genes", type=int, default=250, help="how many genes to choose without --genes")
    command.add_argument("--group", dest="group_key", help="column of the table that names the patient of each slide")
    command.add_argument("--epochs", dest="n_epochs", type=int, help="passes over the training spots, at most")
    command.add_argument("--members", dest="n_members", type=int, help="networks to train and average")
    command.add_argument("--seed", type=int, help="random seed")
    command.add_argument("--validation", choices=["auto", "slide", "block", "none"], help="what is held out")
    command.add_argument("--resume", action="store_true", help="resume an interrupted training in --out")
    _elements(command, counts=True)


def _predict(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Predict every spot. Values are log-normalised (the output says in which units): do not normalise them again."
    )
    command.add_argument("slide", type=Path, help="SpatialData store (.zarr) with an image and spots")
    command.add_argument("predictor", type=Path, help="folder that `stpredict fit` wrote")
    command.add_argument("--out", type=Path, required=True, help="a new .h5ad (the table) or .zarr (the whole object)")
    command.add_argument("--views", type=int, default=8, help="flips and turns to average over, 1 to 8 (default: 8)")
    _elements(command, counts=False)


def _cohort(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Predict slide files, or SpatialData stores, each into a folder of its own under --out. Call it again after a "
        "crash: finished slides are left as they are, and one that was begun is resumed. A slide that fails "
        "does not stop the others; the exit status is 1 if any did."
    )
    command.add_argument("predictor", type=Path, help="folder that `stpredict fit` wrote")
    command.add_argument("slides", type=Path, nargs="+", help="slide files (.svs, .ndpi, .tiff, ...) or stores (.zarr)")
    command.add_argument("--out", type=Path, required=True, help="folder for results, states and the summary")
    command.add_argument("--views", type=int, default=1, help="flips and turns to average over, 1 to 8 (default: 1)")
    command.add_argument(
        "--stain", choices=("reinhard", "macenko"), help="give slides the stain of the training slides"
    )
    command.add_argument(
        "--um-per-px", type=float, help="resolution in micrometres per pixel, if files do not state it"
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, help="processes on this machine (default: this one alone)")
    where.add_argument("--scheduler", help="address of a dask scheduler, such as tcp://node1:8786")


def _evaluate(command: argparse.ArgumentParser) -> None:
    command.description = "Score the table of predictions in a store against the counts in it."
    command.add_argument("slide", type=Path, help="SpatialData store (.zarr) that `stpredict predict` wrote")
    command.add_argument("--predicted", default="predicted", help="name of the table of predictions")
    command.add_argument("--shapes", nargs="+", dest="shapes_key", help="spot elements to score (default: all)")
    command.add_argument("--out", type=Path, help="write the score of every gene to this .csv")


def _benchmark(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Train every model once a fold and seed, score it on the patients held out, and print one line a model beside "
        "two baselines. Call it again after a crash: finished cells are skipped. The exit status is 1 if "
        "anything failed."
    )
    command.add_argument("slides", type=Path, nargs="+", help="SpatialData stores (.zarr) with raw counts")
    command.add_argument("--models", nargs="+", required=True, help="names of models")
    command.add_argument("--out", type=Path, required=True, help="folder for everything")
    command.add_argument("--html", type=Path, help="write a report to this file")
    command.add_argument("--group", dest="group_key", default="patient", help="column that names the patient")
    command.add_argument(
        "--by", choices=("group", "section"), default="group", help="what is held out (default: group)"
    )
    command.add_argument("--folds", type=int, help="number of folds (default: one group at a time)")
    command.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of training (default: 0)")
    command.add_argument("--genes", type=Path, help="text file with one gene a line (default: chosen in each fold)")
    command.add_argument("--epochs", type=int, help="passes over the training spots (default: each model's own)")
    command.add_argument("--protocol", choices=("m2ost", "m2ost_code", "hest"), help="compare as a publication did")
    command.add_argument("--allow-leakage", action="store_true", help="accept patients on both sides, and mark it")
    _elements(command, counts=True)


def _elements(command: argparse.ArgumentParser, *, counts: bool) -> None:
    group = command.add_argument_group("where things are, if there are several")
    group.add_argument("--image", dest="image_key", help="image element")
    group.add_argument("--shapes", nargs="+", dest="shapes_key", help="elements with the spots")
    group.add_argument("--table", dest="table_name", help="table that annotates the spots")
    group.add_argument("--coordinate-system", help="coordinate system shared by image and spots")
    group.add_argument("--um-per-px", type=float, help="resolution in micrometres per pixel, if it is not recorded")
    if counts:
        group.add_argument("--layer", help="layer of the table with raw counts (default: X)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 1 after an expected error or failed slides, 130 after an interrupt."""
    options = parser().parse_args(arguments)
    from . import _commands, _demo

    commands = {
        "demo": _demo.demo,
        "fit": _commands.fit,
        "predict": _commands.predict,
        "cohort": _commands.cohort,
        "evaluate": _commands.evaluate,
        "benchmark": _commands.benchmark,
    }
    try:
        failed = commands[options.command](options)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
    except check.EXPECTED as error:
        sys.stderr.write(f"stpredict {options.command}: {error}\n")
        return 1
    return int(bool(failed))
