"""``fit``, ``predict``, ``embed``, ``cohort``, ``evaluate``, ``benchmark`` and ``pretrain`` over files on disk."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from spatialdata import read_zarr

from .. import _keys as keys
from .. import datasets, tl
from .._checks import config as check_config
from .._checks.paths import name_slides, no_address, output_file, output_path, user_path
from .._files import atomic_file, atomic_folder, is_zarr_group
from ..io.containers import refuse_folder
from ..io.genes import read_gene_list
from ..models.pretrained_registry import REGISTRY
from ..pp import TargetSpec, select_genes
from . import _errors as check
from ._options import COMMANDS
from ._report import score_table

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from distributed import Client
    from spatialdata import SpatialData

CONFIG_FIELDS = ("n_epochs", "n_members", "seed", "validation")
"""Fields of `stp.tl.FitConfig` that have an option of their own."""


def fit(options: argparse.Namespace) -> None:
    """Train a predictor."""
    given = _arguments("fit", options)
    n_genes = getattr(options, "n_genes", None)
    if n_genes is not None:
        check.one_store_for_genes(len(options.sdata))
    if given.pop("resume_from", False):
        given["resume_from"] = given["save_dir"]
    else:
        check.new_folder(output_path(options.save_dir, "--out"))
    given["config"] = _config("fit", options)
    given["sdata"] = _read_all(options.sdata)
    if n_genes is not None:
        select_genes(
            given["sdata"],
            n_genes=n_genes,
            train=given.get("shapes_key"),
            table_name=given.get("table_name"),
            layer=given.get("layer"),
            allow_fractional_counts=given.get("allow_fractional_counts", False),
            regions=given.get("regions"),
        )
    predictor = tl.fit(given.pop("sdata"), **given)
    sys.stdout.write(f"{predictor!r}\nSaved to {options.save_dir}\n")


def predict(options: argparse.Namespace) -> None:
    """Predict a slide and write the table, or the whole object."""
    given, out = _arguments("predict", options), output_path(options.out, "--out")
    layer = given.get("layer")
    check.new_output(out, layer=layer is not None)
    check.order_of_places("predict", [options.sdata], options.predictor)
    sdata = given["sdata"] = _read(options.sdata)
    with ExitStack() as stack:
        tl.predict(given.pop("sdata"), given.pop("predictor"), client=_client(options, stack), **given)
    key = given.get("key_added", keys.PREDICTED)
    if out.suffix.lower() == ".h5ad":
        with atomic_file(out) as part:
            sdata.tables[key].write_h5ad(part)
    else:
        with atomic_folder(out) as part:
            sdata.write(part)
    if layer is None:
        table = sdata.tables[key]
        what = f"{table.n_obs} spots x {table.n_vars} genes in {table.uns[key]['units']}"
    else:
        what = f"Layer {layer!r}"
    sys.stdout.write(f"{what}: {options.out}\n")


def embed(options: argparse.Namespace) -> None:
    """Embed the spots of a store and write the whole object."""
    given, out = _arguments("embed", options), output_path(options.out, "--out")
    check.new_store(out)
    sdata = given["sdata"] = _read(options.sdata)
    with ExitStack() as stack:
        tl.embed(given.pop("sdata"), client=_client(options, stack), **given)
    with atomic_folder(out) as part:
        sdata.write(part)
    sys.stdout.write(f"Embeddings in {options.out}\n")


def cohort(options: argparse.Namespace) -> bool:
    """Predict many slides and print the result of each; returns whether any failed."""
    given = _arguments("cohort", options)
    check.order_of_places("cohort", options.paths, options.predictor)
    given["paths"] = name_slides([user_path(path, "slides") for path in options.paths])
    with ExitStack() as stack:
        summary = tl.predict_cohort(**given, client=_client(options, stack))
    unfinished = summary[summary["status"] != "done"]
    failed = unfinished["status"] == "failed"
    reasons = unfinished["error"].where(failed, "another process is at it")
    lines = [
        f"{name}: {reason}{check.options_of(str(reason), COMMANDS['cohort'])}\n" for name, reason in reasons.items()
    ]
    lines += [f"{name}: {text}\n" for name, texts in summary["warnings"].dropna().items() for text in texts]
    sys.stdout.write(f"{''.join(lines)}{len(summary) - len(unfinished)} of {len(summary)} slides: {options.out_dir}\n")
    return bool(failed.any())


def _client(options: argparse.Namespace, stack: ExitStack) -> Client | None:
    """Client of the requested cluster, closed with the stack."""
    workers, scheduler = getattr(options, "workers", None), getattr(options, "scheduler", None)
    if workers is None and scheduler is None:
        return None
    check.some_workers(workers)
    from distributed import Client, LocalCluster

    if workers is None:
        remote: Client = stack.enter_context(Client(scheduler))
        return remote
    threads = max(1, (os.cpu_count() or 1) // workers)
    cluster = LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=":0")
    client: Client = stack.enter_context(Client(stack.enter_context(cluster)))
    return client


def evaluate(options: argparse.Namespace) -> None:
    """Print the scores of a store that holds predictions and counts."""
    given = _arguments("evaluate", options)
    out = output_file(options.out, "--out") if "out" in options else None
    given["sdata"] = _read(options.sdata)
    scores = tl.evaluate(given.pop("sdata"), **given)
    if out is not None:
        with atomic_file(out) as part:
            scores.to_csv(part)
    sys.stdout.write(score_table(scores))


def benchmark(options: argparse.Namespace) -> bool:
    """Compare models and print one line each; returns whether any cell failed."""
    given = _arguments("benchmark", options)
    html = output_file(options.html, "--html") if "html" in options else None
    given["config"] = _config("benchmark", options)
    if "no_group" in options:
        given["group_key"] = None
    given["sdata"] = _read_all(options.sdata)
    found = tl.benchmark(given.pop("sdata"), given.pop("models"), **given)
    if html is not None:
        found.to_html(html)
    sys.stdout.write(f"{found!r}\n")
    return len(found.failed) > 0


def pretrain(options: argparse.Namespace) -> None:
    """Train a predictor to be shared, and say how it is used."""
    given = _arguments("pretrain", options)
    given["config"] = _config("pretrain", options)
    public = datasets.cohorts().get(options.sdata[0]) if len(options.sdata) == 1 else None
    check.only_for_data_sets(options, list(datasets.cohorts()), public=public is not None)
    if public is not None:
        given["sdata"] = _read_data_set(public.name, options)
        given["cohort"] = {**public.to_dict(), **given.get("cohort", {})}
        measured = given["sdata"].tables[keys.OBSERVED].var_names
        panel = [gene for gene in datasets.gene_panel(public.name) if gene in measured]
        given = {"name": public.name, **({"genes": panel} if panel else {}), **given}
    else:
        names = list(name_slides([user_path(path, "slides") for path in options.sdata]))
        check.one_name(names, named="name" in given)
        given = {"name": names[0], **given}
        given["sdata"] = _read_all(options.sdata)
    predictor = tl.pretrain(given.pop("sdata"), **given)
    cohort = predictor.provenance.cohort or {}
    licence = cohort.get("licence", "not stated: do not publish this predictor")
    sys.stdout.write(
        f"{predictor!r}\n    licence of the data: {licence}\nIn {options.save_dir}: {given['name']}.zip, its entry "
        f"{given['name']}.json and the model card {given['name']}.md. To use it by its name:\n"
        f"    export {REGISTRY}={options.save_dir}\n    stpredict predict slide.zarr {given['name']} --out out.h5ad\n"
    )


def _read_data_set(name: str, options: argparse.Namespace) -> SpatialData:
    """All sections of a public data set, or some of them."""
    sections = getattr(options, "sections", None)
    if name == "her2st":
        return datasets.her2st(sections)
    folder = user_path(options.data, "--data")
    return datasets.hbc(folder, sections) if name == "hbc" else datasets.cscc(folder, sections)


def _arguments(command: str, options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the function that a sub-command calls, as far as they were given."""
    given = {name: value for name, value in vars(options).items() if name in COMMANDS[command].arguments}
    if "image_key" in given:
        images = given["image_key"]
        check.one_image_or_pairs(images)
        paired = all("=" in each for each in images)
        given["image_key"] = dict(each.split("=", 1) for each in images) if paired else images[0]
    if "regions" in given:
        given["regions"] = _regions(given["regions"])
    if "genes" in given:
        given["genes"] = read_gene_list(user_path(given["genes"], "--genes"))
    for name in ("model", "weights", "encoder"):
        if len(given.get(name, ())) == 1:  # a name, or a word that says how weights are chosen
            given[name] = given[name][0]
    for name in ("model_options", "cohort"):
        if name in given:
            given[name] = dict(given[name])
    for name, kind in (("target", TargetSpec), ("patch", tl.PatchSpec)):
        if name in given:
            values: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in given[name]
            }
            check_config.known_fields(f"`{name}`", list(values), [each.name for each in fields(kind)])
            given[name] = kind(**values)
    return given


def _regions(given: list[str]) -> list[str] | dict[str, list[str]]:
    """Names of elements, or the classes that count by element."""
    if not any("=" in each for each in given):
        return given
    check.no_mixed_regions(given)
    pairs = [each.split("=", 1) for each in given]
    return {name: [value for key, value in pairs if key == name] for name in dict.fromkeys(key for key, _ in pairs)}


def _config(command: str, options: argparse.Namespace) -> dict[str, Any]:
    """Fields of `stp.tl.FitConfig` that were given."""
    config = dict(getattr(options, "config", ()))
    for name in CONFIG_FIELDS:
        if name in options:
            check.once(name, config, COMMANDS[command].options[name].flag)
            config[name] = getattr(options, name)
    return config


def _read_all(given: list[str]) -> SpatialData | dict[str, SpatialData]:
    """The only store, or all stores by distinct names."""
    paths = name_slides([user_path(path, "slides") for path in given])
    stores = {name: _read(path) for name, path in paths.items()}
    return stores if len(stores) > 1 else next(iter(stores.values()))


def _read(given: str | Path) -> SpatialData:
    path = user_path(given, "slide")
    check.no_slide_file(path)
    check.store_exists(path)
    no_address(path)
    if not is_zarr_group(path):
        refuse_folder(path)
    return read_zarr(path)
