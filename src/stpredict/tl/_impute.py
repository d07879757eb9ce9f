"""Fill the unmeasured spots of a slide from the measured ones, with or without a predictor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from spatialdata.models import TableModel

from .. import _keys as keys
from .._checks.calls import public
from .._checks.slides import quote
from .._slides.slides import Selection
from ..pp.columns import unname_index
from ..pp.normalization import CountsRecord
from ..pp.targets import TargetSpec
from ._adaptation.imputation import krige_alone, krige_residuals
from ._adaptation.measured import genes_to_krige, measured_rows, observed_expression, resolve_one_slide
from ._adaptation.whole_slide import predict_slide
from ._inference.destination import check_added, check_name
from ._inference.partitions import X
from ._inference.record import SAMPLE, prediction_record, target_record, value_sample
from ._inference.table import add_slides
from ._options import PredictOptions
from ._predictor.member import target_scale
from ._predictor.predictor import Predictor
from ._predictor.provenance import counts_record, selection_as_trained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.regions import Regions
    from .._slides.slides import Slide
    from ..pp.stain_normalization import StainMethod
    from ._adaptation.imputation import Imputed
    from ._adaptation.measured import Measured


@public
def impute(
    sdata: SpatialData,
    predictor: Predictor | str | PathLike[str] | None = None,
    *,
    measured: Measured,
    key_added: str = keys.IMPUTED,
    genes: Sequence[str] | None = None,
    target: TargetSpec | None = None,
    n_views: int = 1,
    stain: StainMethod | None = None,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    features_key: str | None = None,
    library_key: str | None = None,
    allow_fractional_counts: bool = False,
    regions: Regions | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> None:
    """Estimate the expression of all spots of a slide of which some were measured.

    The estimate is the prediction of a predictor that was adapted to the slide (`adapt`), plus kriged residuals of the
    measured spots. Without a predictor it is kriging of the measured spots alone, which does not use the image.

    Parameters
    ----------
    sdata
        The object with the slide. Its table has a row for every spot; counts are used at measured spots only.
    predictor
        What `fit` returned, or where it was saved. None is kriging alone; a predictor that the object records is not
        used.
    measured
        Name of a column of ``obs`` that is True at measured spots; or a mask with one value for each row of the table;
        or a list of ``obs_names``.
    key_added
        Name of the table that is written.
    genes
        Genes to krige without a predictor; by default those that `stp.pp.select_genes` marked, else the 250 most
        dispersed over the measured spots.
    target
        How counts are normalised without a predictor; by default log1p CP10k.
    n_views
        Number of the eight flips and rotations of the patches to average over.
    stain
        Stain normalisation as in `predict`.
    layer
        Layer with raw counts; by default X.
    image_key
        Image, or a mapping of spot elements to images, if there are several.
    shapes_key
        Element that holds the spots, if the table annotates several.
    table_name
        Table with the counts; by default ``"observed"``, or the only one.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    um_per_px
        Resolution in µm per pixel; by default the one that the object records.
    features_key
        Matrix of ``obsm`` with image embeddings of the spots, if the predictor was trained on such.
    library_key
        Column of ``obs`` with the library sizes over all genes, for tables that do not hold all genes that training
        had; by default the column of that name in training, if there was one.
    allow_fractional_counts
        Whether counts need not be whole numbers, if there is no predictor; with one they may be what those of its
        training were.
    regions
        Use and impute only spots whose centre lies in these polygons, as in `stp.tl.fit`: the slide
        is then this part of it, and measured spots elsewhere do not count.
    batch_size
        Spots per forward pass; by default a number that suits the device.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Nothing. Writes ``sdata.tables[key_added]``: ``X`` ``(n_spots, n_genes)`` float32 in the units of the predictor, not
    below 0, with a row for every spot of the slide; ``layers["standard_error"]``, the standard deviation of a
    measurement around ``X``; ``var["noise"]``, the part of it that is noise of a measurement;
    ``obs["measured"]``; ``obsm["spatial"]`` in pixels; ``uns[key_added]``. At measured spots, ``X`` differs from what
    was measured by noise. `evaluate` scores the unmeasured spots of the table only. Slides that were imputed under the
    same name stay in the table; ``var["noise"]`` is then that of the slide imputed last, and
    ``uns[key_added]["parts"]`` holds that of each.

    Raises
    ------
    ValueError
        If ``measured`` names no spot, all spots, fewer than three, or spots without counts; if there are several
        slides, if genes of the predictor were not measured, or if something else would be overwritten.

    Notes
    -----
    The residuals of all genes are divided by their standard deviations and projected on their principal components.
    Each component is a Gaussian process over space with an exponential covariance and independent noise. Its range
    (200, 400 or 800 µm) and share of noise are those with the best leave-one-out likelihood, with a prior for the share
    that decides if spots are few. Without a predictor, the mean of a component is estimated by generalised least
    squares (ordinary kriging). The standard error contains the errors of the mean and of the adaptation, but not those
    of the estimated covariances.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=6)
    >>> stp.tl.impute(sdata, measured=sdata["observed"].obs_names[::4], progress=False)
    >>> sdata["imputed"].shape, int(sdata["imputed"].obs["measured"].sum())
    ((36, 12), 9)
    """
    if predictor is not None and not isinstance(predictor, Predictor):
        predictor = Predictor.load(predictor)
    trained = None if predictor is None else counts_record(predictor.provenance)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
        um_per_px=um_per_px,
        features_key=features_key,
        library_key=library_key,
        allow_fractional_counts=allow_fractional_counts,
        regions=regions,
    )
    slide = resolve_one_slide(sdata, selection_as_trained(selection, trained))
    _check_overwritable(sdata, key_added)
    rows = measured_rows(slide, measured)
    if not len(rows):
        msg = "`measured` is an empty list: there is nothing to impute from. Call `stp.tl.predict(sdata, predictor)`."
        raise ValueError(msg)
    if predictor is None:
        target, genes = target or TargetSpec(), genes_to_krige(slide, rows, genes)
        check_added(sdata, key_added, [slide.shapes_key], target, genes)
        table = _from_measured_spots(slide, rows, genes, target, library_key, key_added)
    else:
        if genes is not None or target is not None:
            msg = "`genes` and `target` are those of the predictor. Leave them out, or give no predictor."
            raise ValueError(msg)
        options = PredictOptions(
            n_views=n_views, stain=stain, batch_size=batch_size, device=device, precision=precision
        )
        check_added(sdata, key_added, [slide.shapes_key], predictor.target, predictor.genes)
        table = _from_predictor(slide, rows, predictor, options, key_added, progress=progress)
    if key_added in sdata.tables:
        table = add_slides(sdata.tables[key_added], table, key_added)
        del sdata.tables[key_added]
    sdata.tables[key_added] = table


def _from_predictor(
    slide: Slide, rows: NDArray[np.intp], predictor: Predictor, options: PredictOptions, key: str, *, progress: bool
) -> ad.AnnData:
    """The table of adapted predictions plus kriged residuals."""
    trained = counts_record(predictor.provenance)
    observed = observed_expression(slide, rows, predictor.genes, predictor.target, trained)
    base = replace(predictor, adaptation=None, calibration=None)
    computed = predict_slide(slide, base, options, progress=progress)
    found = krige_residuals(computed[X], observed, rows, slide.xy_um, target_scale(base.members), slide.name)
    record = prediction_record(replace(base, adaptation=found.adaptation), options)
    table = _imputed_table(slide, rows, base.genes, found, record, key)
    table.var[keys.TRAIN_MEAN], table.varm[keys.RIDGE_COLOR] = base.train_mean, base.ridge_color
    table.obsm[keys.COLOR] = computed[keys.COLOR]
    return table


def _from_measured_spots(
    slide: Slide,
    rows: NDArray[np.intp],
    genes: Sequence[str],
    target: TargetSpec,
    library_key: str | None,
    key: str,
) -> ad.AnnData:
    """The table of kriging alone; both baselines that `evaluate` expects are the mean of the measured spots."""
    observed = observed_expression(slide, rows, genes, target, None)
    found = krige_alone(observed, rows, slide.xy_um)
    record = {
        "units": target.units,
        "target": target_record(target),
        "counts": CountsRecord.of([slide], library_key).to_json(),
        "params": {},
        "model": {"name": "kriging", "hash": "", "trained_on": [], "identities": [], "groups": []},
    }
    table = _imputed_table(slide, rows, genes, found, record, key)
    mean = observed.mean(axis=0)
    table.var[keys.TRAIN_MEAN] = mean
    table.varm[keys.RIDGE_COLOR] = np.column_stack([np.zeros_like(mean), mean])
    table.obsm[keys.COLOR] = np.zeros((table.n_obs, 1), np.float32)
    return table


def _imputed_table(
    slide: Slide, rows: NDArray[np.intp], genes: Sequence[str], found: Imputed, record: dict[str, Any], key: str
) -> ad.AnnData:
    """A table that annotates the spots of the slide."""
    measured_table = slide.source.tables[str(slide.table_name)]
    attrs = measured_table.uns["spatialdata_attrs"]
    obs = measured_table.obs.loc[slide.obs_names, [attrs["region_key"], attrs["instance_key"]]].copy()
    obs[attrs["region_key"]] = pd.Categorical(obs[attrs["region_key"]].astype(str))
    obs[keys.MEASURED] = np.isin(np.arange(len(obs)), rows)
    record["params"] |= {"slide": slide.name, "n_measured": len(rows), "range_um": found.range_um}
    record[SAMPLE] = value_sample(slide.obs_names, genes, found.expression)
    table = ad.AnnData(
        X=found.expression,
        obs=obs,
        var=pd.DataFrame(found.noise, index=pd.Index(genes), columns=[keys.NOISE]),
        layers={keys.STANDARD_ERROR: found.standard_error},
        uns={key: record, **({keys.LOG1P: {}} if record["target"]["log1p"] else {})},
    )
    table.obsm[keys.SPATIAL] = slide.xy_px
    unname_index(table)
    linked: ad.AnnData = TableModel.parse(
        table, region=slide.shapes_key, region_key=attrs["region_key"], instance_key=attrs["instance_key"]
    )
    return linked


def _check_overwritable(sdata: SpatialData, key: str) -> None:
    """Refuse to overwrite anything but an imputed table."""
    check_name("key_added", key)
    names = [name for _, name, _ in sdata.gen_elements()]
    ours = key in sdata.tables and keys.NOISE in sdata.tables[key].var
    if key in names and not ours:
        msg = (
            f"`key_added` is {key!r}, which exists and was not written by `stp.tl.impute`, so it is not overwritten "
            f"(elements found: {quote(names)}). Give another name."
        )
        raise ValueError(msg)
