"""Many models trained, predicted and scored on the same folds, cell by cell, in a folder that can be continued."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Self

from ... import _keys as keys
from ..._checks.calls import public, takes_fields
from ..._checks.names import did_you_mean
from ..._checks.paths import output_folder, user_path
from ..._checks.slides import quote
from ..._files import report_full_disk, user_cache
from ..._slides.slides import Selection
from .._summary import summarize, whole_intervals
from . import _errors as check
from .cell import KEPT
from .entry import BASELINES, OPTIONS, common_fields, entries_of
from .results import read_cells, read_table, with_biology
from .runner import NOTE, cells_of, read_note, run_cells, write_note
from .study import plan_study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    import anndata as ad
    import pandas as pd
    from spatialdata import SpatialData

    from ..._slides.regions import Regions
    from ..._train.config import FitConfig
    from ...pp.targets import TargetSpec
    from .entry import Entry
    from .folds import By
    from .study import Study

SHOWN = ["gene_pearson", "low", "high", "share_of_ceiling", "spot_pearson", "rmse"]
"""Columns of the summary that the representation shows."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Benchmark:
    """Results of `stp.tl.benchmark`, or read back by `Benchmark.load`: models compared on the same held-out slides.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=4, um_per_px=8.0)
    >>> found = stp.tl.benchmark(sdata, ["knn_spatial"], save_dir=mkdtemp(), progress=False)
    >>> sorted(found.summary().index)
    ['knn_spatial', 'mean_profile', 'ridge_color']
    """

    folder: Path
    """The output folder."""
    scores: pd.DataFrame
    """One row a model, fold, seed, slide, group, gene and metric: ``value``. Metrics: ``pearson``, ``spearman``,
    ``r2``, ``rmse``, ``mae``, ``ceiling``, ``moran_observed``, ``moran_predicted``, ``geary_observed``,
    ``geary_predicted``, ``ssim``."""
    runs: pd.DataFrame
    """One row a model, fold and seed: groups, summary scores, size, costs, ``leaks``."""
    failed: pd.DataFrame
    """One row a cell that failed: model, fold, seed, ``error``."""
    note: Mapping[str, Any]
    """``unit`` of the intervals, ``leaks``, ``protocol``, ``headline`` (the column to compare), ``protocol_note``."""

    def summary(self) -> pd.DataFrame:
        """One row a model, the best first.

        Returns
        -------
        ``gene_pearson``, the mean over units (patients, or sections where ``attrs["unit"]`` says so) with ``low`` and
        ``high``, a 95 % bootstrap interval over units (NaN for fewer than three); ``difference`` with
        ``difference_low`` and ``difference_high``, paired with the best baseline (``attrs["baseline"]``);
        ``share_of_ceiling``; ``fold_std``; means over cells of ``best10``, ``best50``, ``best200``,
        ``gene_pearson_top50``, ``spot_pearson``, ``rmse``, ``mae``, ``moran_agreement``, ``gene_r2``, ``spot_r2``,
        ``moran_gap``, ``geary_gap``, ``svg_overlap``, ``gene_ssim`` and ``coexpression``; and ``parameters``,
        ``macs``, ``fit_s``, ``train_spots_per_s``, ``predict_spots_per_s``, ``peak_memory_mib``. ``attrs`` holds
        ``unit``, ``n_units``, ``baseline``, ``leaks``, ``protocol``, ``headline``.
        """
        known = set(self.runs["model"])
        baselines = [name for name in (*BASELINES, "knn_spatial") if name in known]
        return summarize(self.scores, self.runs, self.note, baselines)

    @public
    def intervals(
        self,
        *,
        pathways: Mapping[str, Sequence[str]] | str | PathLike[str] | None = None,
        domains: pd.Series | Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """The scores of `summary` that are means over cells, with intervals. That of ``gene_pearson`` is in `summary`.

        Parameters
        ----------
        pathways
            Gene sets by name, or the path of a GMT file (`stp.io.read_gmt`): the rows ``pathway_pearson``.
        domains
            Domain of each spot by its name, such as a column of ``obs`` of the measured table: the rows
            ``domain_log_fold``. Spots without one do not count for this score.

        Returns
        -------
        One row a model and score: ``model``, ``score``, ``mean`` over cells, and ``low`` and ``high``, a 95 % bootstrap
        interval over units (patients or sections, as in `summary`). NaN for fewer than three units, and if a fold tests
        several of them together.

        Raises
        ------
        ValueError
            If no pathway has three of the genes, or no slide has spots of two domains.
        """
        runs = self.runs
        if pathways is not None or domains is not None:
            runs = with_biology(self.folder, runs, pathways, domains)
        return whole_intervals(self.scores, runs, "group" if self.note["unit"] == "patient" else "slide")

    @public
    def table(self, model: str, seed: int | None = None) -> ad.AnnData:
        """Held-out predictions of one model.

        Parameters
        ----------
        model
            Label of the model.
        seed
            Which seed; None is the first.

        Returns
        -------
        ``X``: predictions, ``(n_spots, union of genes)``, NaN outside the panel of the fold; ``layers["observed"]``;
        ``obs``: ``fold``, ``slide``, ``group``, ``at_border``; ``obsm["spatial"]`` in pixels; ``uns["um_per_px"]``.
        """
        if model not in (labels := sorted(set(self.runs["model"]))):
            msg = f"No model {model!r} in this benchmark (found: {quote(labels)}).{did_you_mean(model, labels)}"
            raise ValueError(msg)
        rows = self.runs[self.runs["model"] == model]
        seeds = sorted(set(rows["seed"].tolist()))
        chosen = seeds[0] if seed is None else seed
        if chosen not in seeds:
            msg = f"No seed {chosen} of this model (found: {', '.join(map(str, seeds))})."
            raise ValueError(msg)
        folds = sorted(set(rows.loc[rows["seed"] == chosen, "fold"].tolist()))
        table = read_table(self.folder, model, folds, chosen)
        table.uns[keys.UM_PER_PX] = dict(self.note["um_per_px"])
        return table

    @public
    def to_html(self, path: str | PathLike[str]) -> None:
        """Write a report as one self-contained HTML file.

        Parameters
        ----------
        path
            The file.
        """
        from ..._report.page import to_html

        to_html(self, path)

    @classmethod
    @public
    def load(cls, folder: str | PathLike[str]) -> Self:
        """Read a benchmark back, finished or not.

        Parameters
        ----------
        folder
            The ``save_dir`` of `stp.tl.benchmark`.

        Returns
        -------
        The results in the folder.
        """
        place = user_path(folder, "folder")
        if not (place / NOTE).is_file():
            msg = f"No benchmark in '{place}': there is no `{NOTE}`. Give the `save_dir` of `stp.tl.benchmark`."
            raise FileNotFoundError(msg)
        note = read_note(place)
        return cls._from_cells(place, note, note["models"])

    @classmethod
    def _from_cells(
        cls, folder: Path, note: Mapping[str, Any], labels: Sequence[str], seeds: Sequence[int] | None = None
    ) -> Self:
        """Some models and seeds of a folder; None for all seeds."""
        scores, runs, failed = read_cells(folder, labels, seeds)
        return cls(folder=folder, scores=scores, runs=runs, failed=failed, note=note)

    def _representation(self) -> tuple[str, pd.DataFrame | None, str]:
        """A line before the table, the table, and a line after it."""
        leak = " WITH LEAKAGE" if self.note["leaks"] else ""
        before = f"Benchmark of {self.runs['model'].nunique()} models in '{self.folder}'{leak}"
        shown = self.summary()[SHOWN].round(3) if len(self.runs) else None
        return before, shown, self.note["protocol_note"]

    def __repr__(self) -> str:
        before, shown, after = self._representation()
        return "\n".join(filter(None, [before, "" if shown is None else shown.to_string(), after]))

    def _repr_html_(self) -> str:
        before, shown, after = self._representation()
        table = "" if shown is None else shown.to_html(na_rep="–")
        return f"<p>{escape(before)}</p>{table}<p>{escape(after)}</p>"


@takes_fields(config=OPTIONS)
def benchmark(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    models: Sequence[str] | Mapping[str, str | Sequence[str] | Entry],
    *,
    group_key: str | None = keys.PATIENT,
    by: By = "group",
    n_folds: int | None = None,
    seeds: Sequence[int] = (0,),
    genes: Sequence[str] | None = None,
    config: FitConfig | Mapping[str, Any] | None = None,
    target: TargetSpec | None = None,
    protocol: str | None = None,
    allow_leakage: bool = False,
    save_dir: str | PathLike[str] | None = None,
    keep_predictors: bool = False,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    features_key: str | None = None,
    library_key: str | None = None,
    allow_fractional_counts: bool = False,
    regions: Regions | None = None,
    progress: bool = True,
) -> Benchmark:
    """Compare models by cross-validation over patients.

    Each model is trained once per fold and seed, and scored on the test slides of the fold. Every such cell is a folder
    that is written when it is finished: call again with the same arguments after a crash, and finished cells are kept.
    A model that fails leaves an ``error.json`` and does not stop the others; the next call tries it again.

    Parameters
    ----------
    sdata
        One object, or a list or mapping of objects.
    models
        Names that `stp.models.available` lists, or a mapping of labels to names, to lists of names (an ensemble), or to
        `stp.tl.Entry`. The baselines ``"mean_profile"`` and ``"ridge_color"`` always take part, with the first seed.
    group_key
        Column of ``obs`` that names the patient; groups are never split. None makes every slide a group of its own.
    by
        ``"group"``, or ``"section"`` to hold out sections one by one. If there is only one group, sections are held
        out in any case. Both need ``allow_leakage`` if a group is then on both sides.
    n_folds
        Number of folds, of about equal numbers of spots; None holds out one group at a time.
    seeds
        Seeds of training.
    genes
        Genes to predict. By default the 250 most dispersed, chosen in each fold from its training slides; the choice
        of `stp.pp.select_genes` is not used, since it may have included test slides.
    config
        Training options for all models: a mapping of fields of `stp.tl.FitConfig`, or such a configuration, which
        means the same. They override the recipe of the model (`stp.models.recipe`), and the recipe of an entry
        overrides them.
    target
        How counts become the values that are predicted and scored; by default log1p CP10k.
    protocol
        A published way of comparing, to compare with published numbers; its weaknesses are in
        ``attrs["protocol_note"]`` of the summary. ``"m2ost"`` or ``"m2ost_code"``: sections split 60/10/30 or 70/0/30
        by the published shuffle, counts per million of the panel, spot-wise correlation. ``"hest"``: 50 genes, log1p of
        raw counts, correlation pooled over test spots; ``"encoder_ridge"`` with 256 components, the published penalty,
        no intercept, 112 µm. ``"hmhvg"``: 300 genes by mean times variance over all slides, log1p of raw counts, one
        slide held out, the best 10, 50 and 200 genes. ``"spared"``: 128 genes by Moran's I over all slides, log1p CPM;
        ``"spared_imputed"`` with zeros filled in from neighbours. ``"smoothed"``: labels averaged over a spot and its 8
        nearest, to show what that does.
    allow_leakage
        Accept folds in which a group is on both sides. Every result then carries ``leaks``.
    save_dir
        Output folder; by default one in the user's cache, named by a hash of data and folds. Cells that were made with
        other data or options are refused, not overwritten. Several processes may make the same call: each runs cells
        that no other is running, and warns about cells that are not finished at its end, which it leaves out.
    keep_predictors
        Whether every cell keeps its predictor.
    layer
        Layer with raw counts; by default X.
    image_key
        Image, or a mapping of spot elements to images, if there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table with the counts; by default ``"observed"``, or the only one.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records.
    features_key
        Matrix of ``obsm`` with embeddings; models with an ``encoder`` take it unless their options name another.
    library_key
        Column of ``obs`` with the library sizes of the spots over all genes, for tables that do not hold all genes;
        by default counts are summed over the genes of the table.
    allow_fractional_counts
        Whether counts need not be whole numbers, for instance after correction for ambient RNA.
    regions
        Train on and score only spots whose centre lies in these polygons, as in `stp.tl.fit`.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The results. Nothing is written to ``sdata``.

    Raises
    ------
    ValueError
        If groups would leak, there is one slide only, or the folder holds cells of other data or options.
    RuntimeError
        If every cell failed, or all remaining cells are being run by other processes.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=4, um_per_px=8.0)
    >>> models = {"small_ridge": stp.tl.Entry("encoder_ridge", options={"size_px": 32})}
    >>> found = stp.tl.benchmark(sdata, models, save_dir=mkdtemp(), progress=False)
    >>> found.runs["fold"].nunique(), bool(found.summary().loc["small_ridge", "gene_pearson"] > 0)
    (3, True)
    """
    seeds = check.several_seeds(seeds)
    folder = None if save_dir is None else output_folder(save_dir, "save_dir")
    entries = entries_of(models)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
        group_key=group_key,
        um_per_px=um_per_px,
        features_key=features_key,
        library_key=library_key,
        allow_fractional_counts=allow_fractional_counts,
        regions=regions,
    )
    study = plan_study(
        sdata,
        selection,
        by=by,
        n_folds=n_folds,
        genes=genes,
        common=common_fields(config),
        target=target,
        protocol=protocol,
        allow_leakage=allow_leakage,
    )
    folder = folder or user_cache() / "benchmarks" / study.fingerprint
    found, failures, busy = run_benchmark(
        study, entries, seeds, folder, keep_predictors=keep_predictors, progress=progress
    )
    check.some_finished(busy, len(found.runs))
    check.some_success(failures, len(found.runs))
    return found


def run_benchmark(
    study: Study,
    entries: Mapping[str, Entry],
    seeds: Sequence[int],
    folder: Path,
    *,
    keep_predictors: bool,
    raise_errors: bool = False,
    progress: bool,
) -> tuple[Benchmark, dict[str, str], list[str]]:
    """Run all cells in a folder and read them: the results, errors by cell, cells that other processes run."""
    with report_full_disk(folder, KEPT):
        note = write_note(study, folder, list(entries))
        cells = cells_of(study, entries, seeds, folder, keep_predictors=keep_predictors)
        failures, busy = run_cells(cells, folder, raise_errors=raise_errors, progress=progress)
    return Benchmark._from_cells(folder, note, list(entries), seeds), failures, busy
