"""One model on all folds: scores, and held-out predictions beside the observed expression."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ... import _keys as keys
from ..._checks.calls import takes_fields
from ..._checks.paths import output_folder
from ..._checks.slides import quote
from ..._slides import checks as check_elements
from ..._slides.slides import Selection
from ...io.containers import opened
from ...models.registry import DEFAULT
from ...pp.columns import unname_index
from .._errors import name_is_free
from .._inference.destination import check_name
from .._inference.record import target_record
from .._summary import with_cell_scores
from . import _errors as check
from .benchmark import run_benchmark
from .entry import OPTIONS, Entry, common_fields, entries_of
from .results import read_fold
from .study import plan_study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from anndata import AnnData
    from numpy.typing import NDArray

    from ..._geometry import PatchSpec
    from ..._slides.regions import Regions
    from ..._slides.slides import Slide
    from ..._train.config import FitConfig
    from ...io.containers import DataOrPath
    from ...pp.targets import TargetSpec
    from .._training.ensemble import Weights
    from .benchmark import Benchmark
    from .folds import By
    from .study import Study


@takes_fields(config=OPTIONS)
def cross_validate(
    sdata: DataOrPath | Sequence[DataOrPath] | Mapping[str, DataOrPath],
    model: str | Sequence[str] = DEFAULT,
    *,
    weights: Weights | None = None,
    group_key: str | None = keys.PATIENT,
    by: By = "group",
    n_folds: int | None = None,
    seeds: Sequence[int] = (0,),
    genes: Sequence[str] | None = None,
    config: FitConfig | Mapping[str, Any] | None = None,
    target: TargetSpec | None = None,
    patch: PatchSpec | None = None,
    model_options: Mapping[str, Any] | None = None,
    n_views: int = 1,
    protocol: str | None = None,
    allow_leakage: bool = False,
    save_dir: str | PathLike[str] | None = None,
    keep_predictors: bool = False,
    key_added: str = keys.CROSS_VALIDATED,
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
) -> pd.DataFrame:
    """Cross-validate a model over patients: predict every slide with a model that was not trained on its group.

    The same as `stp.tl.benchmark` with one model, except that predictions are written beside the observed expression,
    and that an error of the model is raised.

    Parameters
    ----------
    sdata
        One object, or a list or mapping of objects: SpatialData; AnnData with the images of its samples in
        ``uns["spatial"]``, into which the predictions are written; or paths of either.
    model
        Name of a model or ensemble; `stp.models.available` lists them. Or a list of models, as in `stp.tl.fit`.
    weights
        Weights of the models of an ensemble, as in `stp.tl.fit`; stacked ones are found anew in each fold.
    group_key
        Column of ``obs`` that names the patient; groups are never split. None makes every slide a group of its own.
    by
        ``"group"``, or ``"section"`` to hold out sections one by one. If there is only one group, sections are held
        out in any case. Both need ``allow_leakage`` if a group is then on both sides.
    n_folds
        Number of folds, of about equal numbers of spots; None holds out one group at a time.
    seeds
        Seeds of training; the predictions of the first are written.
    genes
        Genes to predict. By default the 250 most dispersed, chosen in each fold from its training slides; the choice
        of `stp.pp.select_genes` is not used, since it may have included test slides.
    config
        Training options: a mapping of fields of `stp.tl.FitConfig`, or such a configuration, which means the same.
        They override the recipe of the model (`stp.models.recipe`).
    target
        How counts become the values that are predicted and scored; by default log1p CP10k.
    patch
        Fields of view; by default the model's multiples of the median spot diameter.
    model_options
        Fields of the model's configuration to change; of an ensemble by model, as in `stp.tl.fit`.
    n_views
        Number of flips and turns of the patches whose predictions are averaged.
    protocol
        A published protocol, as in `stp.tl.benchmark`.
    allow_leakage
        Accept folds in which a group is on both sides. The result then carries ``leaks``.
    save_dir
        Folder for the cells, which a further call continues; by default nothing is kept.
    keep_predictors
        Whether every cell in ``save_dir`` keeps its predictor.
    key_added
        Name of the layer that is written.
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
        Train on, predict and score only spots whose centre lies in these polygons, as in `stp.tl.fit`.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The scores of the model and of the baselines ``"mean_profile"`` and ``"ridge_color"``: one row per model, fold,
    seed, slide, group, gene and metric (``value``). The other columns repeat what is of a whole fold: scores of spots
    (``spot_pearson``, ``spot_r2``, ``spot_rmse``, ``spot_mae``), means (``best50``, ``gene_pearson_top50``), and scores
    of maps and of genes together (``moran_gap``, ``coexpression`` and the others of `Benchmark.summary`),
    ``n_scored``, ``protocol``, and ``leaks``: whether a group was on both sides of a fold. `stp.tl.summary` gives one
    row per model, of all rows or of some.

    Writes ``layers[key_added]`` of the measured table, ``(n_spots, n_genes)`` float32: held-out predictions of the
    first seed, NaN outside the panel of the fold and on slides that are in no test part; ``var[key_added]``, True where
    any fold predicts the gene; ``obs["fold"]`` (of another key ``obs[f"{key_added}_fold"]``); ``uns[key_added]``:
    units, target, model, folds, ``leaks``.

    Raises
    ------
    ValueError
        If groups would leak, there is one slide only, or a layer of that name was not written by this function.
    RuntimeError
        If another process is running one of its folds, in the same ``save_dir``.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=4, um_per_px=8.0)
    >>> scores = stp.tl.cross_validate(sdata, "encoder_ridge", model_options={"size_px": 32}, progress=False)
    >>> sorted(stp.tl.summary(scores).index)
    ['encoder_ridge', 'mean_profile', 'ridge_color']
    >>> sdata["observed"].obs["fold"].value_counts(sort=False).to_dict()
    {'0': 16, '1': 16, '2': 16}
    """
    seeds = check.several_seeds(seeds)
    folder = None if save_dir is None else output_folder(save_dir, "save_dir")
    entry = Entry(model, weights=weights, options=dict(model_options or {}), patch=patch, n_views=n_views)
    label = entry.ensemble.name
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
    with opened(sdata, several=True, um_per_px=um_per_px) as data, ExitStack() as stack:
        study = plan_study(
            data,
            selection,
            by=by,
            n_folds=n_folds,
            genes=genes,
            common=common_fields(config),
            target=target,
            protocol=protocol,
            allow_leakage=allow_leakage,
        )
        _check_layer(study, key_added)
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="stpredict-")))
        found, _, busy = run_benchmark(
            study,
            entries_of({label: entry}),
            seeds,
            folder,
            keep_predictors=keep_predictors and save_dir is not None,
            raise_errors=True,
            progress=progress,
        )
        _check_not_busy(busy)
        _write_predictions(study, folder, label, seeds[0], key_added)
    return _all_scores(found)


def _check_not_busy(busy: Sequence[str]) -> None:
    """Refuse to go on without the folds that another process is running."""
    if busy:
        msg = (
            f"Another process is running the same cross-validation: {quote(busy)}. Call it again when that process "
            "has ended; its results in `save_dir` are then used."
        )
        raise RuntimeError(msg)


def _all_scores(found: Benchmark) -> pd.DataFrame:
    """Scores of genes and of whole folds, with what they are."""
    scores = with_cell_scores(found.scores, found.runs)
    scores["protocol"], scores["leaks"] = found.note["protocol"] or "", found.note["leaks"]
    scores.attrs.update({name: found.note[name] for name in ("leaks", "unit", "protocol", "protocol_note")})
    return scores


def _check_layer(study: Study, key: str) -> None:
    """Refuse, before anything is computed, to overwrite anything of somebody else."""
    check_name("key_added", key)
    for table, _ in _tables(study):
        check_elements.unique_spots(table.obs_names, "the measured table")
        if key in check_elements.layers(table) and keys.FOLDS not in table.uns.get(key, {}):
            msg = f"Layer {key!r} exists and was not written by `stp.tl.cross_validate`. Give another `key_added`."
            raise ValueError(msg)
        if keys.FOLDS not in table.uns.get(key, {}):
            fold = _fold_column(key)
            places = (("uns", table.uns, key), ("var", table.var, key), ("obs", table.obs, fold))
            taken = [f"{place}[{name!r}]" for place, held, name in places if name in held]
            name_is_free("key_added", key, taken, "stp.tl.cross_validate")


def _fold_column(key: str) -> str:
    """Column of ``obs`` with the folds of a layer."""
    return keys.FOLD if key == keys.CROSS_VALIDATED else f"{key}_{keys.FOLD}"


def _tables(study: Study) -> list[tuple[AnnData, list[Slide]]]:
    """Every measured table with its slides."""
    found: dict[int, tuple[AnnData, list[Slide]]] = {}
    for slide in study.slides.values():
        table = slide.source.tables[str(slide.table_name)]
        found.setdefault(id(slide.source), (table, []))[1].append(slide)
    return list(found.values())


def _write_predictions(study: Study, folder: Path, model: str, seed: int, key: str) -> None:
    """Write held-out predictions into every object."""
    folds = {split.number: read_fold(folder, model, split.number, seed) for split in study.splits}
    for table, slides in _tables(study):
        values, panel = np.full(table.shape, np.nan, np.float32), np.zeros(table.n_vars, bool)
        fold = np.full(table.n_obs, -1)
        for number, (observations, arrays) in folds.items():
            columns = table.var_names.get_indexer(pd.Index(observations.genes))
            rows = np.isin(observations.slide, [slide.name for slide in slides])
            if rows.any():
                at = table.obs_names.get_indexer(pd.Index(observations.names[rows]))
                values[np.ix_(at, columns)] = arrays["predicted"][rows]
                fold[at], panel[columns] = number, True
        table.layers[key], table.var[key] = values, panel
        table.obs[_fold_column(key)] = _categories(fold)
        table.uns[key] = _record(study, model, seed)
        unname_index(table)


def _categories(fold: NDArray[np.int64]) -> pd.Categorical:
    """Fold numbers as strings; missing for spots that no fold tests."""
    known = [str(number) for number in sorted(set(fold[fold >= 0].tolist()))]
    return pd.Categorical([str(number) if number >= 0 else None for number in fold.tolist()], categories=known)


def _record(study: Study, model: str, seed: int) -> dict[str, Any]:
    """What is stored in ``uns`` beside the predictions."""
    spec = study.target
    return {
        "units": spec.units,
        keys.TARGET: target_record(spec),
        "model": {"name": model, "seed": seed},
        keys.FOLDS: {
            str(split.number): {"train": list(split.train), "test": list(split.test)} for split in study.splits
        },
        "leaks": study.leaks,
        "protocol": study.protocol_name or "",
    }
