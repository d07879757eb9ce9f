"""Score predictions against observed expression, beside two baselines and the noise ceiling.

Reads tables only: no image, no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import expression as check_expression
from .._checks.calls import public
from .._slides import checks as check_elements
from .._slides.expression import gene_counts, is_gene, library_column, on_tissue, total_counts
from .._slides.identity import SlideIdentity, known_slides
from .._slides.slides import counts_table_name, rows_in_regions
from .._train.color import apply_ridge
from ..io import read_gmt
from ..io.containers import opened
from ..metrics.correlation import LEAST
from ..metrics.inputs import Intervals, Prediction, Spots, nan_mean
from ..metrics.scores import GENE_SCORES, all_gene_scores, gene_scores, summary_scores
from ..metrics.structure import MIN_GENES
from ..metrics.top_genes import variances
from ..pp.columns import read_columns
from ..pp.normalization import CountsRecord, library_sizes
from ..pp.targets import TargetSpec, nonnegative
from . import _errors as check
from ._inference.record import companion, interval_coverage, interval_layers, prediction_parts, stored_companion
from ._summary import BASELINES, summary, whole_columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

    from .._slides.regions import Regions
    from ..io.containers import DataOrPath

NEW, SAME, NOT_STATED = "new donor", "same donor", "not stated"
"""Whether the donor of a slide was trained on."""
GENE_COLUMNS = (*(score.name for score in GENE_SCORES), "pearson_ridge_color", "pearson_mean_profile")
"""Scores of genes, means over slides."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Paired:
    """Predicted and observed expression of the same spots and genes."""

    genes: list[str]
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

    def of_donors(self, kind: str) -> Paired:
        """The spots of new donors only, or of those that were trained on."""
        rows = np.flatnonzero(self.donor == kind)
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


@public
def evaluate(
    sdata: DataOrPath,
    *,
    predicted: str = keys.PREDICTED,
    table_name: str | None = None,
    layer: str | None = None,
    shapes_key: str | list[str] | None = None,
    library_key: str | None = None,
    regions: Regions | None = None,
    n_splits: int = 10,
    seed: int = 0,
    by: Literal["donor"] | None = None,
    domain_key: str | None = None,
    pathways: Mapping[str, Sequence[str]] | str | PathLike[str] | None = None,
) -> pd.DataFrame:
    """Score predictions against observed expression, per gene.

    Parameters
    ----------
    sdata
        The object, after `predict`: SpatialData, AnnData, or the path of either (``.zarr``, ``.h5ad``), which is read
        and not changed.
    predicted
        Table with predictions, or layer of the measured table.
    table_name
        Table with measured counts; by default ``"observed"``, or the only one that holds no predictions.
    layer
        Layer of that table with raw counts; by default X.
    shapes_key
        Score the spots of these elements only, for instance those of the test slides; by default all.
    library_key
        Column of ``obs`` with the library sizes over all genes, for a table that does not hold all genes that training
        had. By default the column of that name in training; else sums over the genes of the table if these are about
        as many as in training; else ``"total_counts"``.
    regions
        Score only spots whose centre lies in these polygons: the name of a shapes element, such as
        `stp.io.read_annotations` writes, several names, or a mapping of names to the classes that count, for instance
        ``{"annotations": "Tumor"}``. The element of the spots must be in the object.
    n_splits
        Random halvings of the counts for the noise ceiling.
    seed
        Seed of the halvings.
    by
        ``"donor"`` for scores on new donors apart from those on donors that were trained on: one row a gene and kind,
        named in a first column ``donor`` (``"new donor"``, ``"same donor"`` or ``"not stated"``). Donors are told by
        the column that `fit` was given as ``group_key``; without one they are ``"not stated"``.
    domain_key
        Column of ``obs`` of the measured table with domains, such as those of `domains` or of a pathologist: their
        log-fold changes are then scored too. Spots without a domain do not count for this score.
    pathways
        Gene sets by name, or the path of a GMT file (`stp.io.read_gmt`): rank-based scores of pathways are then
        compared too. Sets of which fewer than three genes are predicted do not count.

    Returns
    -------
    One row a gene: ``pearson``, ``spearman``, ``r2``, ``rmse``, ``mae``, ``ceiling``, ``moran_observed``,
    ``moran_predicted``, ``geary_observed``, ``geary_predicted``, ``ssim``, ``pearson_ridge_color``,
    ``pearson_mean_profile``; also ``coverage`` and ``interval_skill`` if the predictions have intervals. Each is
    computed within a slide, across its spots, and averaged over slides of three spots or more. Genes that are constant
    on a slide are NaN there. ``variance`` is that of observed expression over all spots. The other columns repeat what
    is one number of all ``n_genes`` genes, also of the baselines: ``spot_pearson``, ``spot_r2``, ``spot_rmse``,
    ``spot_mae`` and the scores of maps, genes and pathways. `summary` reads these columns.

    Writes the scores of genes as ``var["predicted_pearson"]`` and so on, and `summary` of all spots as
    ``uns["evaluation"]`` (of a layer ``uns["{layer}_evaluation"]``), to the table with predictions.

    Raises
    ------
    ValueError
        If there is nothing to compare, if the table holds far fewer or more genes than library sizes were taken over in
        training (the values would be in other units), or if predictions were changed after `predict`.

    Notes
    -----
    The noise ceiling of a gene is the correlation that a perfect model would reach, from the correlation r of two
    random halves of the counts: ``sqrt(2 r / (1 + r))``. Spots without any count of the predicted genes are
    left out everywhere, and of a table that `impute` wrote also the spots from whose counts it was imputed.

    What each score says, and what a constant and a blurred map reach in it, is on the page :doc:`/concepts/scores`.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=5)
    >>> config = stp.tl.FitConfig(n_epochs=1, progress=False)
    >>> predictor = stp.tl.fit(sdata, shapes_key=["S0_spots", "S1_spots"], config=config)
    >>> stp.tl.predict(sdata, predictor, progress=False)
    >>> scores = stp.tl.evaluate(sdata, shapes_key="S2_spots")
    >>> scores.columns[0], len(scores)
    ('pearson', 12)
    """
    if by is not None:
        check_config.one_of("by", by, ("donor",))
    with opened(sdata, needs_image=False) as held:
        table_name = counts_table_name(held, table_name)
        source, measured = _tables(held, predicted, table_name)
        spec = TargetSpec(**source.uns[predicted]["target"])
        genes = _genes(source, measured, predicted, table_name, spec)
        wanted = np.ones(measured.n_obs, bool)
        elements = check_elements.annotated_regions(measured, table_name)
        if shapes_key is not None:
            asked = [shapes_key] if isinstance(shapes_key, str) else shapes_key
            check_elements.has_regions(elements, asked)
            wanted = np.isin(measured.obs[measured.uns["spatialdata_attrs"]["region_key"]].astype(str), list(asked))
        if regions is not None:
            wanted = rows_in_regions(held, table_name, wanted & measured.obs_names.isin(source.obs_names), regions)
        if domain_key is not None:
            check_elements.has_column(measured, domain_key, "domain_key")
        gene_sets = None if pathways is None else _usable_pathways(pathways, genes)
        paired = _pair_spots(source, measured, spec, genes, predicted, layer, wanted, library_key, domain_key)
        paired = replace(paired, pathways=gene_sets)
        scores = _gene_table(paired, spec, n_splits, seed)
        ceiling = float(nan_mean(scores["ceiling"].to_numpy()))
        for name in [name for name in GENE_COLUMNS if name in scores]:
            source.var[f"{predicted}_{name}"] = scores[name].reindex(source.var_names).to_numpy()
        layer_of = predicted if predicted in source.layers else None
        source.uns[companion(keys.EVALUATION, layer_of)] = {
            "summary": summary(scores).to_dict(orient="index"),
            "ceiling": ceiling,
        }
        if by is not None:
            scores = _by_donor(paired, spec, n_splits, seed)
        scores.attrs["units"], scores.attrs["n_spots"] = spec.units, len(paired.observed)
        scores.attrs["n_empty"], scores.attrs["ceiling"] = paired.n_empty, ceiling
        scores.attrs["trained_on"] = [str(name) for name in source.uns[predicted]["model"]["trained_on"]]
        return scores


def _tables(sdata: SpatialData, predicted: str, table_name: str) -> tuple[AnnData, AnnData]:
    """The table that holds predictions (or a layer of them), and the table that holds counts."""
    observed = sdata.tables[table_name]
    if predicted in sdata.tables:
        source = sdata.tables[predicted]
    else:
        source = observed
        check.has_prediction(predicted, list(sdata.tables), check_elements.layers(observed))
    check.is_prediction(predicted, source)
    check.not_cross_validated(predicted, ours=keys.FOLDS in source.uns[predicted])
    check_elements.unique_spots(observed.obs_names, table_name)
    return source, observed


def _pair_spots(
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
    coverage = interval_coverage(source.uns[predicted])
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


def _usable_pathways(
    pathways: Mapping[str, Sequence[str]] | str | PathLike[str], genes: Sequence[str]
) -> dict[str, list[str]]:
    """Genes of each pathway that are predicted, of those that have enough."""
    given = pathways if isinstance(pathways, Mapping) else read_gmt(pathways)
    predicted = set(genes)
    inside = {name: [gene for gene in dict.fromkeys(names) if gene in predicted] for name, names in given.items()}
    usable = {name: names for name, names in inside.items() if len(names) >= MIN_GENES}
    check.some_pathway(len(usable), len(given), genes, MIN_GENES)
    return usable


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


def _genes(source: AnnData, measured: AnnData, predicted: str, table_name: str, spec: TargetSpec) -> list[str]:
    """Genes that are both predicted and measured."""
    inside = np.asarray(source.var[predicted], bool) if predicted in source.var else np.ones(source.n_vars, bool)
    panel, known = source.var_names[inside].tolist(), set(measured.var_names[is_gene(measured)])
    genes, missing = [gene for gene in panel if gene in known], [gene for gene in panel if gene not in known]
    check.genes_to_score(len(genes), panel, list(measured.var_names))
    check.whole_panel(missing, len(panel), table_name, needed=spec.over == "panel" and spec.target_sum is not None)
    check.panel_measured(missing, len(panel), table_name)
    return genes


def _values(source: AnnData, genes: list[str], predicted: str) -> NDArray[np.float32]:
    """Predictions of the model, ``(n_rows, g)``."""
    matrix = source.layers.get(predicted, source.X)
    return read_columns(matrix, source.var_names.get_indexer(pd.Index(genes)).tolist(), np.arange(source.n_obs))


def _colors(source: AnnData, predicted: str) -> NDArray[np.float32]:
    layer = predicted if predicted in source.layers else None
    return np.asarray(stored_companion(source.obsm, keys.COLOR, layer), np.float32)


def _score(
    paired: Paired, rows: NDArray[np.bool_], spec: TargetSpec, n_splits: int, seed: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Every score of every gene on one slide, of the model and of the baselines."""
    library = None if paired.library is None else paired.library[rows]
    of_ceiling = ceiling_arguments(paired.counts[rows], library, spec)
    spots = Spots(
        observed=paired.observed[rows],
        predicted=paired.predicted["model"][rows],
        xy=paired.xy[rows],
        counts={**of_ceiling, "n_splits": n_splits, "seed": seed},
        intervals=None if paired.intervals is None else paired.intervals.of(rows),
    )
    model = all_gene_scores(spots)
    measured = {score.name: model[score.name] for score in GENE_SCORES if score.of_measurement}
    baselines = {
        name: measured | gene_scores(replace(spots, predicted=paired.predicted[name][rows], intervals=None))
        for name in BASELINES
    }
    return {**baselines, "model": model}


def ceiling_arguments(counts: csr_matrix, library: NDArray[np.float64] | None, spec: TargetSpec) -> dict[str, Any]:
    """Arguments of `noise_ceiling` for counts ``(n, g)`` that are normalised by ``spec``; it needs whole numbers."""
    counts = counts.copy()
    counts.data = np.rint(counts.data)
    sums = np.asarray(counts.sum(axis=1)).ravel()
    total = None if library is None else np.maximum(np.rint(library), sums)
    return {"counts": counts, "total": total, "target_sum": spec.target_sum, "log1p": spec.log1p}


def _gene_table(paired: Paired, spec: TargetSpec, n_splits: int, seed: int) -> pd.DataFrame:
    """Scores of genes, and in every row those of the whole: all that `summary` needs."""
    slides = paired.slide_masks()
    per_slide = [_score(paired, rows, spec, n_splits, seed) for rows in slides]
    by_gene = {
        row: {name: np.stack([scores[row][name] for scores in per_slide]) for name in per_slide[0][row]}
        for row in paired.predicted
    }
    columns: dict[str, Any] = {name: nan_mean(values, axis=0) for name, values in by_gene["model"].items()}
    columns |= {f"pearson_{name}": nan_mean(by_gene[name]["pearson"], axis=0) for name in reversed(BASELINES)}
    columns["variance"] = variances(paired.observed)
    for row, predicted in paired.predicted.items():
        whole = Prediction(
            observed=paired.observed,
            predicted=predicted,
            by_gene=by_gene[row],
            slides=slides,
            genes=paired.genes,
            domains=paired.domains,
            pathways=paired.pathways,
            coverage=None if paired.intervals is None else paired.intervals.coverage,
        )
        columns |= whole_columns(summary_scores(whole), row)
    columns["n_genes"] = len(paired.genes)
    return pd.DataFrame(columns, index=pd.Index(paired.genes, name="gene"))


def _by_donor(paired: Paired, spec: TargetSpec, n_splits: int, seed: int) -> pd.DataFrame:
    """The table of each kind of donor that has slides with enough spots, one below the other."""
    parts = {kind: paired.of_donors(kind) for kind in (NEW, SAME, NOT_STATED)}
    tables = {
        kind: _gene_table(part, spec, n_splits, seed) for kind, part in parts.items() if len(part.slide_masks()) > 0
    }
    return pd.concat(tables, names=["donor"]).reset_index("donor")
