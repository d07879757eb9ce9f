"""The options of every sub-command: one table, in which an option is an argument of the function that it calls.

Options that are not given are not passed, so that their defaults are those of the library.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..models.registry import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Mapping


PROTOCOLS = ("m2ost", "m2ost_code", "hest", "hmhvg", "spared", "spared_imputed", "smoothed")


@dataclass(frozen=True, slots=True)
class Option:
    """An option of the command line."""

    flag: str
    """As it is typed; without dashes for what is given by its place."""
    help: str
    kind: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `argparse.ArgumentParser.add_argument`."""
    where: bool = False
    """Whether it says where things are in a SpatialData."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A sub-command, and the function of `stp.tl` that it calls."""

    function: str
    help: str
    description: str
    arguments: Mapping[str, Option]
    """Options by the argument of the function that they give."""
    extra: Mapping[str, Option] = field(default_factory=dict)
    """Options that are no arguments of the function."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Arguments of the function that are no options, and why."""
    without: tuple[tuple[str, str, str], ...] = ()
    """Pairs of options of which the first has no effect beside the second, and why."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Options that have an effect only beside another one."""

    @property
    def options(self) -> dict[str, Option]:
        """All options by name."""
        return {**self.arguments, **self.extra}


def setting(text: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE``; the value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        msg = f"{text!r} is not of the form NAME=VALUE"
        raise argparse.ArgumentTypeError(msg)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"None": None, "True": True, "False": False}.get(value, value)


def weight(text: str) -> float | str:
    """Read a number, or a word that says how weights are chosen."""
    try:
        return float(text)
    except ValueError:
        return text


MANY: Mapping[str, Any] = MappingProxyType({"nargs": "+"})
SETTINGS: Mapping[str, Any] = MappingProxyType({"nargs": "+", "type": setting, "metavar": "NAME=VALUE"})
WEIGHTS: Mapping[str, Any] = MappingProxyType({"nargs": "+", "type": weight})
FLAG: Mapping[str, Any] = MappingProxyType({"action": "store_true"})

STORES = Option("slides", "SpatialData stores (.zarr) with raw counts", MANY)
PREDICTOR = Option(
    "predictor",
    "folder that `stpredict fit` wrote, name that stp.models.pretrained() lists, or hf:owner/name",
)
CLUSTER = {
    "workers": Option("--workers", "processes on this machine (default: this one alone)", {"type": int}),
    "scheduler": Option("--scheduler", "address of a dask scheduler, such as tcp://node1:8786"),
}
NO_CLIENT = "an object; --workers and --scheduler make one"

SELECTION: Mapping[str, Option] = MappingProxyType(
    {
        "image_key": Option("--image", "image element, or SPOTS=IMAGE for every element of spots", MANY, where=True),
        "shapes_key": Option("--shapes", "elements with the spots", MANY, where=True),
        "table_name": Option("--table", "table that annotates the spots", where=True),
        "coordinate_system": Option("--coordinate-system", "coordinate system of image and spots", where=True),
        "um_per_px": Option(
            "--um-per-px", "resolution in micrometres per pixel, if it is not recorded", {"type": float}, where=True
        ),
        "features_key": Option("--features", "matrix of obsm with image embeddings of the spots", where=True),
        "regions": Option(
            "--regions",
            "polygons in which spots must lie: ELEMENT, or ELEMENT=CLASS for one class of it",
            MANY,
            where=True,
        ),
    }
)
"""Fields of `Selection` that every sub-command shares which opens images."""
LAYER = {
    "layer": Option("--layer", "layer of the table with raw counts (default: X)", where=True),
    "library_key": Option(
        "--library-key", "column of the table with library sizes, if it does not hold all genes", where=True
    ),
}
FRACTIONAL = {
    "allow_fractional_counts": Option(
        "--fractional-counts", "counts need not be whole, as after correction for ambient RNA", FLAG
    )
}

PREDICTION: Mapping[str, Option] = MappingProxyType(
    {
        "n_views": Option("--views", "flips and turns to average over, 1 to 8 (default: 1)", {"type": int}),
        "stain": Option(
            "--stain", "give slides the stain of the training slides", {"choices": ("reinhard", "macenko")}
        ),
        "batch_size": Option("--batch-size", "spots per forward pass (default: what suits the device)", {"type": int}),
        "device": Option("--device", "cpu, cuda, mps or auto (default: auto)"),
        "precision": Option("--precision", "Lightning Fabric precision (default: auto)"),
        "progress": Option("--quiet", "show no progress bar", {"action": "store_false"}),
    }
)
"""Fields of `PredictOptions` that prediction of a slide and of a cohort share, and the progress bar."""

GENES = {"genes": Option("--genes", "text file with one gene a line (default: as in the library)")}
TRAINING = {
    "config": Option("--config", "fields of stp.tl.FitConfig, such as lr=1e-4 patience=5", SETTINGS),
    "target": Option("--target", "fields of stp.pp.TargetSpec, such as over=panel", SETTINGS),
}
CONFIG_FIELDS = {
    "n_epochs": Option("--epochs", "passes over the training spots, at most (default: each model's own)", {"type": int})
}
"""Options that are fields of `stp.tl.FitConfig`, beside ``--config``."""

FIT = Command(
    function="fit",
    help="train a predictor on slides with measured expression",
    description=(
        "Train a predictor. Options not given here follow the model's recipe (`stp.models.recipe`), including whether "
        "something is held out to decide when to stop: whole groups of slides (patients), or blocks of the only slide."
    ),
    arguments={
        "sdata": STORES,
        "save_dir": Option("--out", "folder for the predictor", {"required": True}),
        "model": Option("--model", f"name of the model, or of several to average (default: {DEFAULT})", MANY),
        "weights": Option("--weights", "equal, stacked, or a number for each of several models", WEIGHTS),
        **GENES,
        "group_key": Option("--group", "column of the table that names the patient of each slide"),
        "validate_on": Option("--validate-on", "groups or slides to hold out for early stopping", MANY),
        **TRAINING,
        "patch": Option("--patch", "fields of stp.tl.PatchSpec, such as fov_um=[112] size_px=224", SETTINGS),
        "model_options": Option("--model-options", "fields of the model's configuration, such as depth=3", SETTINGS),
        "resume_from": Option("--resume", "resume an interrupted training in --out", FLAG),
        **SELECTION,
        **LAYER,
        **FRACTIONAL,
    },
    extra={
        "n_genes": Option("--n-genes", "how many genes to choose, from one store without --genes", {"type": int}),
        **CONFIG_FIELDS,
        "n_members": Option("--members", "networks to train and average", {"type": int}),
        "seed": Option("--seed", "random seed", {"type": int}),
        "validation": Option("--validation", "what is held out", {"choices": ["auto", "slide", "block", "none"]}),
    },
    without=(("n_genes", "genes", "the file names the genes"),),
)
PREDICT = Command(
    function="predict",
    help="predict the expression of every spot of a slide",
    description=(
        "Predict every spot. Values are log-normalised (the output says in which units): do not normalise them again."
    ),
    arguments={
        "sdata": Option("slide", "SpatialData store (.zarr) with an image and spots"),
        "predictor": PREDICTOR,
        "key_added": Option("--key-added", "name of the table that is written (default: predicted)"),
        "layer": Option("--layer", "write into this layer of the measured table instead; needs an --out of .zarr"),
        **PREDICTION,
        "members": Option("--models", "write the prediction of each model of an ensemble too", FLAG),
        "uncertainty": Option("--uncertainty", "prediction intervals", {"choices": ("conformal", "conformal_groups")}),
        "coverage": Option("--coverage", "share of values that the intervals cover (default: 0.9)", {"type": float}),
        "store": Option("--store", "folder to stream the matrix to, if it is too large for memory"),
        **SELECTION,
    },
    extra={
        "out": Option("--out", "a new .h5ad (the table) or .zarr (the whole object)", {"required": True}),
        **CLUSTER,
    },
    left_out={"client": NO_CLIENT},
    without=(
        ("n_views", "uncertainty", "intervals take the number of views that they were calibrated with"),
        ("key_added", "layer", "no table is written"),
        ("store", "layer", "no table is written"),
    ),
    needs={"coverage": "uncertainty"},
)
EMBED = Command(
    function="embed",
    help="embed the image around every spot with a pretrained encoder, once for all models",
    description=(
        "Embed every spot. `--features` of the other commands then names the matrix, and no patch is encoded again."
    ),
    arguments={
        "sdata": PREDICT.arguments["sdata"],
        "encoder": Option("--encoder", "key of an encoder, name of timm, or statistics; or several", MANY),
        "weights": Option("--weights", "where its weights come from (default: those that belong to it)", MANY),
        "fov_um": Option(
            "--fov-um", "fields of view in micrometres (default: 1.5, 3 and 9 spots)", {"nargs": "+", "type": float}
        ),
        "size_px": Option("--size-px", "side of the patches in pixels (default: 224)", {"type": int}),
        "key_added": Option("--key-added", "name of the matrix in obsm (default: X_ and the encoder)"),
        **{name: PREDICTION[name] for name in ("batch_size", "device", "precision", "progress")},
        "store": Option("--store", "folder to stream the embeddings to, if they are too large for memory"),
        **{name: option for name, option in SELECTION.items() if name != "features_key"},
    },
    extra={"out": Option("--out", "a new .zarr, the object with its embeddings", {"required": True}), **CLUSTER},
    left_out={"client": NO_CLIENT},
)
COHORT = Command(
    function="predict_cohort",
    help="predict many slides; finished slides are skipped",
    description=(
        "Predict slide files, or SpatialData stores, each into a folder of its own under --out. Call it again after a "
        "crash: finished slides are left as they are, and one that was begun is resumed. A slide that fails "
        "does not stop the others; the exit status is 1 if any did. Slides are named after their files; if names "
        "repeat, also after their folders."
    ),
    arguments={
        "paths": Option("slides", "slide files (.svs, .ndpi, .tiff, ...) or stores (.zarr)", MANY),
        "predictor": PREDICTOR,
        "out_dir": Option("--out", "folder for results, states and the summary", {"required": True}),
        "shapes_key": Option("--shapes", "element with the spots, made if a slide has none (default: grid)"),
        "um_per_px": Option(
            "--um-per-px", "resolution in micrometres per pixel, if files do not state it", {"type": float}
        ),
        **PREDICTION,
    },
    extra=CLUSTER,
    left_out={"client": NO_CLIENT, "prepare": "a function of Python"},
)
EVALUATE = Command(
    function="evaluate",
    help="score predictions beside baselines and the noise ceiling",
    description="Score the predictions in a store against the counts in it.",
    arguments={
        "sdata": Option("slide", "SpatialData store (.zarr) that `stpredict predict` wrote"),
        "predicted": Option("--predicted", "table of predictions, or layer of the measured table (default: predicted)"),
        "shapes_key": Option("--shapes", "elements with the spots to score (default: all)", MANY, where=True),
        "table_name": Option("--table", "table with measured counts (default: observed)", where=True),
        **LAYER,
        "regions": SELECTION["regions"],
        "n_splits": Option("--splits", "random halvings of the counts for the ceiling (default: 10)", {"type": int}),
        "seed": Option("--seed", "seed of the halvings (default: 0)", {"type": int}),
        "by": Option("--by", "scores on donors of training apart", {"choices": ("donor",)}),
        "domain_key": Option("--domains", "column with domains, whose log-fold changes are scored too", where=True),
        "pathways": Option("--pathways", "GMT file with gene sets, whose scores are compared too"),
    },
    extra={"out": Option("--out", "write the score of every gene to this .csv")},
)
BENCHMARK = Command(
    function="benchmark",
    help="compare models on patients that none of them has seen",
    description=(
        "Train every model once a fold and seed, score it on the patients held out, and print one line a model beside "
        "two baselines. Call it again after a crash: finished cells are skipped. The exit status is 1 if "
        "anything failed."
    ),
    arguments={
        "sdata": STORES,
        "models": Option("--models", "names of models", {"nargs": "+", "required": True}),
        "save_dir": Option("--out", "folder for everything", {"required": True}),
        "group_key": Option("--group", "column that names the patient (default: patient)"),
        "by": Option("--by", "what is held out (default: group)", {"choices": ("group", "section")}),
        "n_folds": Option("--folds", "number of folds (default: one group at a time)", {"type": int}),
        "seeds": Option("--seeds", "seeds of training (default: 0)", {"nargs": "+", "type": int}),
        **GENES,
        **TRAINING,
        "protocol": Option("--protocol", "compare as a publication did", {"choices": PROTOCOLS}),
        "allow_leakage": Option("--allow-leakage", "accept patients on both sides, and mark it", FLAG),
        "keep_predictors": Option("--keep-predictors", "keep the predictor of every cell", FLAG),
        "progress": PREDICTION["progress"],
        **SELECTION,
        **LAYER,
        **FRACTIONAL,
    },
    extra={
        "no_group": Option("--no-group", "every slide is a group of its own", FLAG),
        "html": Option("--html", "write a report to this file"),
        **CONFIG_FIELDS,
    },
    without=(("group_key", "no_group", "no column is read"),),
)
PRETRAIN = Command(
    function="pretrain",
    help="train a predictor to be shared, with its scores on held-out patients",
    description=(
        "Train a predictor from a public data set (her2st is downloaded; hbc and cscc are read from --data) or from "
        "stores of your own. Patients are held out one by one to measure how good it is; then it is trained on all of "
        "them. --out gets an archive, its entry of a registry and the model card. Set STPREDICT_PRETRAINED to that "
        "folder to load the predictor by its name. Nothing is uploaded. Call it again after a crash: finished folds "
        "are skipped."
    ),
    arguments={
        "sdata": Option("slides", "her2st, hbc or cscc; or SpatialData stores (.zarr) with raw counts", MANY),
        "save_dir": FIT.arguments["save_dir"],
        "name": Option("--name", "name of the predictor (default: that of the data set or the only store)"),
        "cohort": Option(
            "--cohort", "fields of stp.datasets.Cohort, such as organ=lung licence=CC-BY-4.0 citation=...", SETTINGS
        ),
        "model": FIT.arguments["model"],
        "genes": Option(
            "--genes", "text file with one gene a line (default: the published panel of a data set, else as in fit)"
        ),
        "group_key": BENCHMARK.arguments["group_key"],
        "n_folds": BENCHMARK.arguments["n_folds"],
        "config": TRAINING["config"],
        "model_options": FIT.arguments["model_options"],
        "progress": PREDICTION["progress"],
    },
    extra={
        "data": Option("--data", "folder with the files of hbc or cscc"),
        "sections": Option("--sections", "sections of the data set (default: all)", MANY),
        **CONFIG_FIELDS,
    },
)
COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "fit": FIT,
        "predict": PREDICT,
        "embed": EMBED,
        "cohort": COHORT,
        "evaluate": EVALUATE,
        "benchmark": BENCHMARK,
        "pretrain": PRETRAIN,
    }
)


def add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    """Add the options of a sub-command; those that are not given are absent from the result."""
    places = parser.add_argument_group("where things are, if there are several")
    exclusive = parser.add_mutually_exclusive_group() if "workers" in command.extra else parser
    for name, option in command.options.items():
        keywords = {"help": option.help, **option.kind}
        if not option.flag.startswith("-"):
            parser.add_argument(name, metavar=option.flag, **keywords)
            continue
        target = places if option.where else exclusive if name in CLUSTER else parser
        target.add_argument(option.flag, dest=name, default=argparse.SUPPRESS, **keywords)
