"""Sub-commands and their options. What each of them does is in `_commands` and `_demo`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .. import __version__
from . import _errors as check
from ._options import COMMANDS, add_options

if TYPE_CHECKING:
    from collections.abc import Sequence

MAIN = """\
Predict spatial gene expression from H&E images.

  stpredict demo                               see it work on real tissue, in about five minutes
  stpredict fit train.zarr --out model         learn from slides with measured expression
  stpredict predict new.zarr model --out p.h5ad    predict slides, with or without measured expression
  stpredict embed slide.zarr --encoder uni2-h --out embedded.zarr    encode patches once, for many models
  stpredict cohort *.svs model --out folder    predict many slide files, each on a grid in its tissue
  stpredict evaluate predicted.zarr            score predictions against what was measured
  stpredict benchmark *.zarr --models m2ost_ridge encoder_ridge --out folder    compare models on held-out patients
  stpredict pretrain her2st --out folder       make a predictor to share, with its scores on held-out patients

A .zarr is a SpatialData store: an image, the spots on it, and a table with raw counts.
"""


def parser() -> argparse.ArgumentParser:
    """All sub-commands and their options."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="stpredict", description=MAIN, formatter_class=raw)
    top.add_argument("--version", action="version", version=f"stpredict {__version__}", help="show the version")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="demo | fit | predict | embed | cohort | evaluate | benchmark | pretrain"
    )
    _demo(commands.add_parser("demo", help="train on three sections, predict a fourth, and show the scores"))
    for name, command in COMMANDS.items():
        add_options(commands.add_parser(name, help=command.help, description=command.description), command)
    return top


def _demo(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Train on sections C2, C3 and C4 of a HER2+ breast tumour, predict section C5, and print the scores beside two "
        "baselines and the noise ceiling. Without these files and without internet, synthetic slides are used."
    )
    command.add_argument("--out", default="stpredict-demo", help="output folder")
    command.add_argument("--epochs", type=int, default=None, help="passes over the training spots (default: 30)")
    command.add_argument("--synthetic", action="store_true", help="use synthetic slides even if real ones exist")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 1 after an expected error or failed slides, 130 after an interrupt."""
    options = parser().parse_args(arguments)
    from . import _commands, _demo

    commands = {
        "demo": _demo.demo,
        "fit": _commands.fit,
        "predict": _commands.predict,
        "embed": _commands.embed,
        "cohort": _commands.cohort,
        "evaluate": _commands.evaluate,
        "benchmark": _commands.benchmark,
        "pretrain": _commands.pretrain,
    }
    command = COMMANDS.get(options.command)
    try:
        if command is not None:
            check.all_options_count(command, vars(options))
        failed = commands[options.command](options)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130
    except Exception as error:
        if not check.is_expected(error):
            raise
        hint = "" if command is None else check.options_of(str(error), command)
        sys.stderr.write(f"stpredict {options.command}: {error}{hint}\n")
        return 1
    return int(bool(failed))
