"""Score predictions against observed expression, beside two baselines and the noise ceiling.

Reads tables only: no image, no network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._slides import checks as check_elements
from .._slides.expression import is_gene
from .._slides.slides import counts_table_name, rows_in_regions
from ..io import read_gmt
from ..io.containers import opened
from ..metrics import noise_ceiling
from ..metrics.inputs import Spots, nan_mean
from ..metrics.scores import GENE_SCORES, gene_scores, summary_scores
from ..metrics.structure import MIN_GENES
from ..metrics.top_genes import variances
from ..pp.targets import TargetSpec
from . import _errors as check
from ._inference.record import companion
from ._paired_spots import NEW, NOT_STATED, SAME, pair_spots
from ._summary import BASELINES, summary, whole_columns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_array, csr_matrix
    from spatialdata import SpatialData

    from .._slides.regions import Regions
    from ..io.containers import DataOrPath
    from ._paired_spots import Paired

GENE_COLUMNS = (*(score.name for score in GENE_SCORES), "pearson_ridge_color", "pearson_mean_profile")
"""Scores of genes, means over slides."""


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
    >>> train = ["S0_spots", "S1_spots"]
    >>> predictor = stp.tl.fit(sdata, "ridge_color", shapes_key=train, config={"progress": False})
    >>> stp.tl.predict(sdata, predictor, progress=False)
    >>> scores = stp.tl.evaluate(sdata, shapes_key="S2_spots")
    >>> scores.columns[0], len(scores)
    ('pearson', 12)
    """
    if by is not None:
        check_config.one_of("by", by, ("donor",))
    with opened(sdata, needs_image=False) as held:
        source, paired = pair_tables(
            held, predicted, table_name, layer, shapes_key, library_key, regions, domain_key, pathways
        )
        scores = _gene_table(paired, n_splits, seed)
        ceiling = float(nan_mean(scores["ceiling"].to_numpy()))
        for name in [name for name in GENE_COLUMNS if name in scores]:
            source.var[f"{predicted}_{name}"] = scores[name].reindex(source.var_names).to_numpy()
        layer_of = predicted if predicted in source.layers else None
        source.uns[companion(keys.EVALUATION, layer_of)] = {
            "summary": summary(scores).to_dict(orient="index"),
            "ceiling": ceiling,
        }
        if by is not None:
            scores = _by_donor(paired, n_splits, seed)
        scores.attrs["units"], scores.attrs["n_spots"] = paired.spec.units, len(paired.observed)
        scores.attrs["n_empty"], scores.attrs["ceiling"] = paired.n_empty, ceiling
        scores.attrs["trained_on"] = [str(name) for name in source.uns[predicted]["model"]["trained_on"]]
        return scores


def pair_tables(
    sdata: SpatialData,
    predicted: str,
    table_name: str | None,
    layer: str | None,
    shapes_key: str | list[str] | None,
    library_key: str | None,
    regions: Regions | None,
    domain_key: str | None,
    pathways: Mapping[str, Sequence[str]] | str | PathLike[str] | None,
) -> tuple[AnnData, Paired]:
    """The table that holds predictions, and the spots that the arguments of `evaluate` choose."""
    table_name = counts_table_name(sdata, table_name)
    source, measured = _tables(sdata, predicted, table_name)
    spec = TargetSpec(**source.uns[predicted]["target"])
    genes = _genes(source, measured, predicted, table_name, spec)
    wanted = np.ones(measured.n_obs, bool)
    elements = check_elements.annotated_regions(measured, table_name)
    if shapes_key is not None:
        asked = [shapes_key] if isinstance(shapes_key, str) else shapes_key
        check_elements.has_regions(elements, asked)
        wanted = np.isin(measured.obs[measured.uns["spatialdata_attrs"]["region_key"]].astype(str), list(asked))
    if regions is not None:
        wanted = rows_in_regions(sdata, table_name, wanted & measured.obs_names.isin(source.obs_names), regions)
    if domain_key is not None:
        check_elements.has_column(measured, domain_key, "domain_key")
    gene_sets = None if pathways is None else usable_pathways(pathways, genes)
    paired = pair_spots(source, measured, spec, genes, predicted, layer, wanted, library_key, domain_key)
    return source, replace(paired, pathways=gene_sets)


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


def usable_pathways(
    pathways: Mapping[str, Sequence[str]] | str | PathLike[str], genes: Sequence[str]
) -> dict[str, list[str]]:
    """Genes of each pathway that are predicted, of those that have enough."""
    given = pathways if isinstance(pathways, Mapping) else read_gmt(pathways)
    predicted = set(genes)
    inside = {name: [gene for gene in dict.fromkeys(names) if gene in predicted] for name, names in given.items()}
    usable = {name: names for name, names in inside.items() if len(names) >= MIN_GENES}
    check.some_pathway(len(usable), len(given), genes, MIN_GENES)
    return usable


def _genes(source: AnnData, measured: AnnData, predicted: str, table_name: str, spec: TargetSpec) -> list[str]:
    """Genes that are both predicted and measured."""
    inside = np.asarray(source.var[predicted], bool) if predicted in source.var else np.ones(source.n_vars, bool)
    panel, known = source.var_names[inside].tolist(), set(measured.var_names[is_gene(measured)])
    genes, missing = [gene for gene in panel if gene in known], [gene for gene in panel if gene not in known]
    check.genes_to_score(len(genes), panel, list(measured.var_names))
    check.whole_panel(missing, len(panel), table_name, needed=spec.over == "panel" and spec.target_sum is not None)
    check.panel_measured(missing, len(panel), table_name)
    return genes


def ceiling_arguments(counts: csr_matrix, library: NDArray[np.float64] | None, spec: TargetSpec) -> dict[str, Any]:
    """Arguments of `noise_ceiling` for counts ``(n, g)`` that are normalised by ``spec``; it needs whole numbers."""
    counts = counts.copy()
    counts.data = np.rint(counts.data)
    sums = np.asarray(counts.sum(axis=1)).ravel()
    total = None if library is None else np.maximum(np.rint(library), sums)
    return {"counts": counts, "total": total, "target_sum": spec.target_sum, "log1p": spec.log1p}


def ceilings_of(paired: Paired, n_splits: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Noise ceilings ``(g,)`` of each slide that has enough spots."""
    found = {}
    for rows in paired.slide_masks():
        library = None if paired.library is None else paired.library[rows]
        arguments = ceiling_arguments(paired.counts[rows], library, paired.spec)
        found[str(paired.slide[rows][0])] = noise_ceiling(**arguments, n_splits=n_splits, seed=seed)
    return found


def score_slides(
    paired: Paired, ceilings: Mapping[str, NDArray[np.float64]], weights: csr_array | None = None
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Scores of genes ``(n_slides, g)`` of the model and of the baselines; ``weights`` ``(n, n)`` are of neighbours."""
    by_slide: dict[str, list[dict[str, NDArray[np.float64]]]] = {row: [] for row in paired.predicted}
    for rows in paired.slide_masks():
        spots = Spots(
            observed=paired.observed[rows],
            xy=paired.xy[rows],
            ceiling=ceilings[paired.slide[rows][0]],
            weights=None if weights is None else weights[rows][:, rows],
        )
        measured = gene_scores(spots)
        for row, predicted in paired.predicted.items():
            intervals = None if paired.intervals is None or row != "model" else paired.intervals.of(rows)
            scores = measured | gene_scores(replace(spots, predicted=predicted[rows], intervals=intervals))
            by_slide[row].append(scores)
    return {
        row: {name: np.stack([each[name] for each in found]) for name in found[0]} for row, found in by_slide.items()
    }


def whole_scores(paired: Paired, row: str, by_gene: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Scores of the model or a baseline as a whole, from its scores of genes on each slide."""
    return summary_scores(paired.as_prediction(paired.predicted[row], by_gene, paired.slide_masks()))


def _gene_table(paired: Paired, n_splits: int, seed: int) -> pd.DataFrame:
    """Scores of genes, and in every row those of the whole: all that `summary` needs."""
    by_gene = score_slides(paired, ceilings_of(paired, n_splits, seed))
    of_model = by_gene["model"]
    columns: dict[str, Any] = {
        score.name: nan_mean(of_model[score.name], axis=0) for score in GENE_SCORES if score.name in of_model
    }
    columns |= {f"pearson_{name}": nan_mean(by_gene[name]["pearson"], axis=0) for name in reversed(BASELINES)}
    columns["variance"] = variances(paired.observed)
    for row, scores in by_gene.items():
        columns |= whole_columns(whole_scores(paired, row, scores), row)
    columns["n_genes"] = len(paired.genes)
    return pd.DataFrame(columns, index=pd.Index(paired.genes, name="gene"))


def _by_donor(paired: Paired, n_splits: int, seed: int) -> pd.DataFrame:
    """The table of each kind of donor that has slides with enough spots, one below the other."""
    parts = {kind: paired.of_donors(kind) for kind in (NEW, SAME, NOT_STATED)}
    tables = {kind: _gene_table(part, n_splits, seed) for kind, part in parts.items() if len(part.slide_masks()) > 0}
    return pd.concat(tables, names=["donor"]).reset_index("donor")
