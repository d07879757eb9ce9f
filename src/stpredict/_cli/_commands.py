"""``fit``, ``predict``, ``cohort``, ``evaluate`` and ``benchmark`` over stores and slide files on disk."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from spatialdata import read_zarr

from .. import _keys as keys
from .. import tl
from ..pp import select_genes
from . import _errors as check
from ._report import score_table

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from distributed import Client
    from spatialdata import SpatialData


FIT_FIELDS = ("n_epochs", "n_members", "seed", "validation")
"""Options of `fit` that are fields of `stp.tl.FitConfig`; those not given follow the recipe of the model."""


def fit(options: argparse.Namespace) -> None:
    """Train a predictor."""
    stores = {path.stem: _read(path) for path in options.slides}
    genes = options.genes.read_text(encoding="utf-8").split() if options.genes else None
    if genes is None and len(stores) == 1:
        sdata = next(iter(stores.values()))
        select_genes(sdata, n_genes=options.n_genes, table_name=options.table_name, layer=options.layer)
    predictor = tl.fit(
        stores if len(stores) > 1 else next(iter(stores.values())),
        options.model,
        config={name: value for name in FIT_FIELDS if (value := getattr(options, name)) is not None},
        genes=genes,
        group_key=options.group_key,
        layer=options.layer,
        **_selection(options),
        save_dir=options.out,
        resume_from=options.out if options.resume else None,
    )
    sys.stdout.write(f"{predictor!r}\nSaved to {options.out}\n")


def predict(options: argparse.Namespace) -> None:
    """Predict a slide and write the table, or the whole object."""
    check.new_output(options.out)
    sdata = _read(options.slide)
    tl.predict(
        sdata,
        options.predictor,
        n_views=options.views,
        **_selection(options),
    )
    table = sdata.tables[keys.PREDICTED]
    if options.out.suffix == ".h5ad":
        table.write_h5ad(options.out)
    else:
        sdata.write(options.out)
    units = table.uns[keys.PREDICTED]["units"]
    sys.stdout.write(f"{table.n_obs} spots x {table.n_vars} genes in {units}: {options.out}\n")


def cohort(options: argparse.Namespace) -> bool:
    """Predict many slides and print the result of each; returns whether any failed."""
    with ExitStack() as stack:
        summary = tl.predict_cohort(
            options.slides,
            options.predictor,
            options.out,
            client=_client(options, stack),
            um_per_px=options.um_per_px,
            n_views=options.views,
            stain=options.stain,
        )
    unfinished = summary[summary["status"] != "done"]
    failed = unfinished["status"] == "failed"
    reasons = unfinished["error"].where(failed, "another process is at it")
    lines = [f"{name}: {reason}\n" for name, reason in reasons.items()]
    sys.stdout.write("".join(lines) + f"{len(summary) - len(unfinished)} of {len(summary)} slides: {options.out}\n")
    return bool(failed.any())


def _client(options: argparse.Namespace, stack: ExitStack) -> Client | None:
    """Client of the requested cluster, closed with the stack."""
    if options.workers is None and options.scheduler is None:
        return None
    from distributed import Client, LocalCluster

    if options.scheduler is not None:
        remote: Client = stack.enter_context(Client(options.scheduler))
        return remote
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    cluster = LocalCluster(n_workers=options.workers, threads_per_worker=threads, dashboard_address=":0")
    client: Client = stack.enter_context(Client(stack.enter_context(cluster)))
    return client


def evaluate(options: argparse.Namespace) -> None:
    """Print the scores of a store that holds predictions and counts."""
    scores = tl.evaluate(_read(options.slide), predicted=options.predicted, shapes_key=options.shapes_key)
    if options.out is not None:
        scores.to_csv(options.out)
    sys.stdout.write(score_table(scores))


def benchmark(options: argparse.Namespace) -> bool:
    """Compare models and print one line each; returns whether any cell failed."""
    stores = {path.stem: _read(path) for path in options.slides}
    found = tl.benchmark(
        stores if len(stores) > 1 else next(iter(stores.values())),
        options.models,
        group_key=options.group_key,
        by=options.by,
        n_folds=options.folds,
        seeds=options.seeds,
        genes=options.genes.read_text(encoding="utf-8").split() if options.genes else None,
        config={} if options.epochs is None else {"n_epochs": options.epochs},
        protocol=options.protocol,
        allow_leakage=options.allow_leakage,
        save_dir=options.out,
        layer=options.layer,
        **_selection(options),
    )
    if options.html is not None:
        found.to_html(options.html)
    sys.stdout.write(f"{found!r}\n")
    return len(found.failed) > 0


def _selection(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `tl.fit`, `tl.predict` and `tl.benchmark` that select elements."""
    names = ("image_key", "shapes_key", "table_name", "coordinate_system", "um_per_px")
    return {name: getattr(options, name) for name in names}


def _read(path: Path) -> SpatialData:
    check.store_exists(path)
    return read_zarr(path)
