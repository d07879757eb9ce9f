"""``stpredict demo``: train on three sections, predict a fourth, show how good it is."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from .. import _keys as keys
from .. import datasets, pl, tl
from .._checks.paths import output_folder
from .._files import atomic_file, atomic_folder
from ._report import score_table

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray
    from spatialdata import SpatialData

TRAIN, TEST = ("C2", "C3", "C4"), "C5"
N_VIEWS = 8
LABEL = "M2OST + ridge"  # what the default is


def demo(options: argparse.Namespace) -> None:
    """Train on three sections, predict a fourth, write everything to a folder and print the scores."""
    started, out = time.monotonic(), output_folder(options.out, "--out")
    train, test, genes = _data(synthetic=options.synthetic)
    out.mkdir(parents=True, exist_ok=True)
    config = None if options.epochs is None else _config(options.epochs)
    predictor = tl.fit(train, config=config, genes=genes, group_key=keys.SECTION, save_dir=out / "model")
    tl.predict(test, predictor, n_views=N_VIEWS)
    scores = tl.evaluate(test)
    _write(test, predictor, scores, out)
    _print("", score_table(scores, label=LABEL).rstrip(), "")
    _print(f"{time.monotonic() - started:.0f} s. Written to {options.out}/:")
    _print("  predicted.zarr   the test section with its table 'predicted', for SpatialData and napari")
    _print("  predicted.h5ad   that table alone, for scanpy: sc.read_h5ad")
    _print("  model/           the predictor, for stpredict predict")
    _print("  *.png            expression, principal components, patches and scores")


def _config(n_epochs: int) -> tl.FitConfig:
    return tl.FitConfig(n_epochs=n_epochs, warmup_epochs=min(1.0, n_epochs / 2), validation="none")


def _data(*, synthetic: bool) -> tuple[SpatialData, SpatialData, list[str] | None]:
    """Training sections, the test section, and the genes to predict."""
    if not synthetic:
        try:
            train, test = datasets.her2st(TRAIN), datasets.her2st([TEST])
        except ConnectionError as error:
            _print(f"Real sections are not available, so synthetic slides are used ({error})")
        else:
            _print(
                f"her2st (HER2+ breast tumour, Andersson et al. 2021): train on {', '.join(TRAIN)}, test on {TEST}.",
                "All four are sections of one patient: new patients are harder.",
            )
            return train, test, datasets.gene_panel("her2st")
    _print("Synthetic slides: expression follows colour by construction, so these scores say nothing about tissue.")
    slides = datasets.synthetic(n_slides=4)
    names = [str(name) for name in slides.coordinate_systems]
    return _part(slides, names[:-1]), _part(slides, names[-1:]), None


def _part(sdata: SpatialData, names: list[str]) -> SpatialData:
    return sdata.filter_by_coordinate_system(names)


def _write(test: SpatialData, predictor: tl.Predictor, scores: pd.DataFrame, out: Path) -> None:
    table = test.tables[keys.PREDICTED]
    with atomic_file(out / "predicted.h5ad") as part:
        table.write_h5ad(part)
    with atomic_folder(out / "predicted.zarr") as part:
        test.write(part)
    gene = str(scores["pearson"].idxmax())
    middle = int(((table.obsm[keys.SPATIAL] - table.obsm[keys.SPATIAL].mean(axis=0)) ** 2).sum(axis=1).argmin())
    _png(pl.expression(test, gene), out / "expression.png")
    _png(pl.pca(test, keys=(keys.OBSERVED, keys.PREDICTED)), out / "pca.png")
    _png(pl.patches(test, str(table.obs_names[middle]), patch=predictor.patch), out / "patches.png")
    _png(pl.scores(scores, label=LABEL), out / "scores.png")


def _png(axes: NDArray[Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure = axes.flat[0].figure
    with atomic_file(path) as part:
        figure.savefig(part, dpi=200, format="png")
    plt.close(figure)


def _print(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
