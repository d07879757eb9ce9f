"""Predicted and measured expression of the same spots and genes, with what else is known of these spots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks import expression as check_expression
from .._slides.expression import gene_counts, library_column, on_tissue, total_counts
from .._slides.identity import SlideIdentity, known_slides
from .._train.color import apply_ridge
from ..metrics.correlation import LEAST
from ..metrics.inputs import Intervals, Prediction
from ..pp.columns import read_columns
from ..pp.normalization import CountsRecord, library_sizes
from ..pp.targets import nonnegative
from . import _errors as check
from ._inference.record import (
    interval_layers,
    nominal_coverage,
    prediction_parts,
    stored_companion,
    warn_changed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from ..pp.targets import TargetSpec

NEW, SAME, NOT_STATED = "new donor", "same donor", "not stated"
"""Whether the donor of a slide was trained on."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Paired:
    """Predicted and observed expression of the same spots and genes."""

    genes: list[str]
    spec: TargetSpec
    """The units."""
    counts: csr_matrix
    """``(n, g)`` raw counts."""
    library: NDArray[np.float64] | None
    """``(n,)`` library sizes; None where they are sums over the predicted genes."""
    predicted: dict[str, NDArray[np.float32]]
    """``(n, g)`` for the model and each baseline."""
    observed: NDArray[np.float32]
    """``(n, g)``, normalised as the model's targets were."""
    xy: NDArray[np.float64]
    slide: NDArray[np.str_]
    donor: NDArray[np.str_]
    """``(n,)`` `NEW`, `SAME` or `NOT_STATED`: whether the donor of the spot was trained on."""
    n_empty: int
    """Number of spots that were left out because they have no counts."""
    intervals: Intervals | None
    """Prediction intervals of the model, if there are any."""
    domains: NDArray[Any] | None = None
    """``(n,)`` domain of each spot, None or NaN where it has none."""
    pathways: Mapping[str, Sequence[str]] | None = None
    """Genes of each pathway of which enough are among ``genes``."""

    def slide_masks(self) -> list[NDArray[np.bool_]]:
        """Masks ``(n,)`` of the slides that have enough spots for a correlation."""
        masks = [self.slide == name for name in np.unique(self.slide)]
        return [rows for rows in masks if rows.sum() >= LEAST]

    def as_prediction(
        self,
        predicted: NDArray[np.float32],
        by_gene: Mapping[str, NDArray[np.float64]],
        slides: Sequence[NDArray[np.bool_]],
    ) -> Prediction:
        """A prediction ``(n, g)`` of these spots as a whole, with its scores of genes on each slide."""
        return Prediction(
            observed=self.observed,
            predicted=predicted,
            by_gene=by_gene,
            slides=slides,
            genes=self.genes,
            domains=self.domains,
            pathways=self.pathways,
            coverage=None if self.intervals is None else self.intervals.coverage,
        )

    def of_donors(self, kind: str) -> Paired:
        """The spots of new donors only, or of those that were trained on."""
        return self.of(np.flatnonzero(self.donor == kind))

    def of(self, rows: NDArray[np.intp]) -> Paired:
        """Some spots, also several times."""
        return replace(
            self,
            counts=self.counts[rows],
            library=None if self.library is None else self.library[rows],
            predicted={name: values[rows] for name, values in self.predicted.items()},
            observed=self.observed[rows],
            xy=self.xy[rows],
            slide=self.slide[rows],
            donor=self.donor[rows],
            intervals=None if self.intervals is None else self.intervals.of(rows),
            domains=None if self.domains is None else self.domains[rows],
        )


def pair_spots(
    source: AnnData,
    observed: AnnData,
    spec: TargetSpec,
    genes: list[str],
    predicted: str,
    layer: str | None,
    among: NDArray[np.bool_],
    library_key: str | None,
    domain_key: str | None,
) -> Paired:
    """The spots of two tables that are to be scored."""
    rows = source.obs_names.get_indexer(observed.obs_names)
    trained = CountsRecord(**source.uns[predicted].get("counts", {"n_genes": 0, "genes_sha256": ""}))
    counts, names = gene_counts(observed, layer)
    spots = list(observed.obs_names)
    check_expression.counts(counts, genes=names, spots=spots, fractional=trained.fractional)
    model = _values(source, genes, predicted)
    check.unchanged(model, predicted, recorded=trained.n_genes > 0)
    wanted = among & (rows >= 0) & np.isfinite(model).all(axis=1)[rows] & on_tissue(observed)
    if keys.NOISE in source.var:  # imputed: measured spots are no test
        wanted &= ~np.asarray(source.obs[keys.MEASURED], bool)[rows]
    region_key = observed.uns["spatialdata_attrs"]["region_key"]
    regions = observed.obs[region_key].astype(str).to_numpy()
    panel = counts[:, pd.Index(names).get_indexer(pd.Index(genes))]
    empty = check_expression.zero_spots(panel)
    kept = np.flatnonzero(wanted & ~empty)
    check.enough_pairs(max(np.unique(regions[kept], return_counts=True)[1], default=0))
    library = _library(observed, counts, kept, spec, trained, library_key)
    baselines = {"mean_profile": np.full_like(model, np.nan), "ridge_color": np.full_like(model, np.nan)}
    columns, color = source.var_names.get_indexer(pd.Index(genes)), _colors(source, predicted)
    seen: dict[str, None] = {}
    donor = np.full(observed.n_obs, NOT_STATED, dtype=object)
    for part in prediction_parts(source, predicted):
        warn_changed(part, source, genes, model, predicted)
        ridge = part.ridge_color[columns]
        baselines["mean_profile"][part.rows] = part.train_mean[columns]
        baselines["ridge_color"][part.rows] = nonnegative(apply_ridge(ridge, color[part.rows, : ridge.shape[1] - 1]))
        of_part = part.rows[rows] & (rows >= 0)
        if part.group_key in observed.obs:
            known = observed.obs[part.group_key].astype(str).isin(part.donors).to_numpy()
            donor[of_part] = np.where(known, SAME, NEW)[of_part]
        for region in dict.fromkeys(regions[kept][of_part[kept]].tolist()):
            of_region = regions == region
            seen |= dict.fromkeys(_training_slides(counts[of_region], names, genes, region, part.trained_on))
    check.seen_in_training(list(seen))
    predictions = {**baselines, "model": model}
    return Paired(
        genes=genes,
        spec=spec,
        counts=panel[kept],
        library=library,
        predicted={name: values[rows[kept]] for name, values in predictions.items()},
        observed=spec.normalize(panel[kept], np.arange(len(genes)), library),
        xy=np.asarray(source.obsm[keys.SPATIAL])[rows[kept]],
        slide=regions[kept],
        donor=donor[kept].astype(str),
        n_empty=int((wanted & empty).sum()),
        intervals=_intervals(source, predicted, columns, rows[kept]),
        domains=None if domain_key is None else _domains(observed, domain_key, kept, regions),
    )


def _intervals(source: AnnData, predicted: str, columns: NDArray[np.intp], rows: NDArray[np.intp]) -> Intervals | None:
    """Prediction intervals of some rows and columns; None unless all were made with one coverage."""
    layers = interval_layers(predicted if predicted in source.layers else None)
    coverage = nominal_coverage(source.uns[predicted])
    if coverage is None or not set(layers.values()) <= set(source.layers):
        return None
    lower, upper = (
        read_columns(source.layers[layers[kind]], columns.tolist(), rows) for kind in (keys.LOWER, keys.UPPER)
    )
    return Intervals(lower=lower, upper=upper, coverage=coverage)


def _domains(
    observed: AnnData, domain_key: str, kept: NDArray[np.intp], regions: NDArray[np.object_]
) -> NDArray[np.object_]:
    """Domains of some rows; at least one slide must have two."""
    domains = observed.obs[domain_key].astype(object).iloc[kept]
    check.several_domains(int(domains.groupby(regions[kept]).nunique().max()), domain_key)
    return domains.to_numpy()


def _library(
    observed: AnnData,
    counts: csr_matrix,
    kept: NDArray[np.intp],
    spec: TargetSpec,
    trained: CountsRecord,
    library_key: str | None,
) -> NDArray[np.float64] | None:
    """Library sizes of the rows that are scored."""
    recorded = trained.library_key if trained.library_key in observed.obs else None
    named, total = library_column(observed, library_key or recorded), total_counts(observed)
    return library_sizes(
        counts[kept],
        spec=spec,
        trained=trained if trained.n_genes else None,
        named=None if named is None else named[kept],
        total_counts=None if total is None else total[kept],
        what="measured expression",
    )


def _training_slides(
    counts: csr_matrix, names: list[str], genes: list[str], region: str, trained_on: dict[str, SlideIdentity | None]
) -> list[str]:
    """Names of the training slides that a region belongs to, by its counts; by its name only in old predictions."""
    known = {name: each for name, each in trained_on.items() if each is not None}
    if not known:
        return [region] if region in trained_on else []
    found = known_slides(SlideIdentity.of(counts, names, genes), known)
    return [region if region == name else f"{region} (in training: {name})" for name in found[:1]]


def _values(source: AnnData, genes: list[str], predicted: str) -> NDArray[np.float32]:
    """Predictions of the model, ``(n_rows, g)``."""
    matrix = source.layers.get(predicted, source.X)
    return read_columns(matrix, source.var_names.get_indexer(pd.Index(genes)).tolist(), np.arange(source.n_obs))


def _colors(source: AnnData, predicted: str) -> NDArray[np.float32]:
    layer = predicted if predicted in source.layers else None
    return np.asarray(stored_companion(source.obsm, keys.COLOR, layer), np.float32)
