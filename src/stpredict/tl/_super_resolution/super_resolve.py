"""Super-resolution of slides that have spots: a table of superpixels, with one `SlideResolver` for all slides."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ... import _keys as keys
from ..._checks import config as check_config
from ..._checks.calls import public
from ..._checks.names import did_you_mean
from ..._checks.slides import quote
from ..._geometry import spot_pitch
from ..._slides import checks as check_elements
from ..._slides import elements
from ..._slides.slides import Selection, resolve
from ..._train.batches import BatchLimit
from .._inference.destination import check_name
from .._inference.record import same_target
from .._options import PredictOptions
from .._predictor.provenance import counts_record, selection_as_trained
from .._predictor.recorded import resolve_predictor
from .slide_resolver import SlideResolver, check_enough_spots
from .superpixels import superpixels
from .table import superpixel_table, write_superpixels

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from os import PathLike

    import anndata as ad
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..._slides.slides import Slide
    from .._predictor.predictor import Predictor
    from .slide_resolver import Anchor

SUPERPIXEL_BYTES = 1200
"""Approximate memory of a superpixel without its expression: features, position, square, name, weights."""


@public
def super_resolve(
    sdata: SpatialData,
    predictor: Predictor | str | PathLike[str] | None = None,
    *,
    step_um: float = 8.0,
    anchor: Anchor = "denoised",
    genes: Sequence[str] | None = None,
    tissue_key: str | None = keys.TISSUE,
    key_added: str = keys.SUPER_RESOLVED,
    n_views: int = 1,
    image_key: str | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    library_key: str | None = None,
    memory_bytes: int = 4 << 30,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> None:
    r"""Super-resolution: infer expression below the size of spots, on slides that have spots.

    Squares of ``step_um`` (superpixels) cover the spots and the gaps between them. Their expression is the sum of three
    parts: the predictor, evaluated over the whole slide; a regression on colour and texture around each superpixel,
    learnt from the spots of the slide by weak supervision (only the mean over a spot is known); and a spatial
    interpolation of what remains at nearby spots. Then the mean over the superpixels of each spot is made equal to the
    value of the spot. Superpixels are not measured: differences within a spot are inferred from the image.

    Parameters
    ----------
    sdata
        The object; its spots may have measured expression or not.
    predictor
        The predictor, or the path where it was saved; by default the one that `fit` recorded on this object.
    step_um
        Side of a superpixel in µm: at least two pixels of the image, at most the radius of a spot.
    anchor
        The value of a spot: ``"observed"``, the measured expression with its noise; ``"predicted"``, the output of
        `predict`, which needs no counts; or ``"denoised"``, prediction and measurement combined with weights chosen by
        leave-one-out cross-validation over spots, the most accurate where counts are low.
    genes
        Genes to resolve; by default all genes of the predictor.
    tissue_key
        Polygons of tissue: gaps between spots are filled on tissue only. Ignored if it is the default and there are
        none; None to fill all gaps.
    key_added
        Name of the table that is written.
    n_views
        Average predictions over this many of the eight flips and rotations of the patches.
    image_key
        Image, where there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table that annotates the spots; by default ``"observed"``, or the only one, or none.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records.
    library_key
        Column of ``obs`` with the library sizes over all genes, for tables that do not hold all genes that training
        had; by default the column of that name in training, if there was one.
    memory_bytes
        Maximum memory of the tables and features of superpixels; more is refused before anything is computed.
    batch_size
        Points of a forward pass; by default chosen for the device.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show progress bars.

    Returns
    -------
    Nothing. Writes the table ``sdata.tables[key_added]``: ``X`` ``(n_superpixels, n_genes)`` float32 in the units of
    the predictor (log1p CP10k unless trained otherwise), ``obs["spot"]`` (name of the spot that a superpixel lies in,
    missing between spots), ``obsm["spatial"]`` (centres in pixels), ``uns[key_added]`` (units, parameters, and for each
    slide the weights of pixels and of nearby spots); and for each spot element a shapes element of squares that the
    table annotates, ``f"{key_added}_{shapes_key}"``. Slides that an earlier call resolved under this name are replaced
    if they are resolved again, and stay otherwise.

    Raises
    ------
    ValueError
        If there are too few spots, the step does not suit image or spots, genes or counts are missing, memory does not
        suffice, or another element would be overwritten.

    Notes
    -----
    With ``f`` the linear expression (``expm1`` of log values), ``D_i`` the superpixels whose centre lies in spot ``i``
    and ``y_i`` the value of the spot:

    .. math::

        g_s = p_s + (\bar\phi_s - \bar\phi) W + \sum_i k(s, i) \alpha_i, \qquad
        f_s = \mathrm{expm1}(g_s)\, c_s, \qquad
        c_s = \frac{\mathrm{expm1}(y_i)}{\frac{1}{|D_i|} \sum_{t \in D_i} \mathrm{expm1}(g_t)} \quad (s \in D_i)

    so that :math:`\frac{1}{|D_i|} \sum_{s \in D_i} f_s = \mathrm{expm1}(y_i)`. Means are taken of linear values, not
    of logs, since a spot counts molecules. To compare with a spot, average ``expm1(X)`` over ``obs["spot"]`` and take
    ``log1p``. Between spots ``c`` is interpolated.

    ``p`` is the predictor, evaluated at every third of its narrowest field of view and interpolated; ``phi`` are
    statistics of windows of 1 to 16 steps; ``W`` and ``alpha`` come from one Gaussian process regression of
    ``y_i - log1p(mean of expm1(p))`` on the mean features and positions of the spots, in closed form. The variances of
    its kernels are chosen by leave-one-out cross-validation over spots. Failed spots (counts below 5 % of the median)
    are excluded from training and get the estimate of ``"denoised"``. Supervision by the means of spots follows iStar
    (Zhang et al. 2024), which trains a network on pixels alone.

    Memory is that of the table, ``4 * n_superpixels * n_genes`` bytes, and about 1.2 kB per superpixel for features and
    positions; pixels are read piece by piece.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, "ridge_color", config={"progress": False})
    >>> stp.tl.super_resolve(sdata, predictor, step_um=25, shapes_key="S0_spots", progress=False)
    >>> sdata["super_resolved"].shape
    (1216, 12)
    """
    check_elements.is_spatialdata(sdata)
    check_name("key_added", key_added)
    check_config.one_of("anchor", anchor, ("denoised", "observed", "predicted"))
    check_config.in_range("memory_bytes", memory_bytes, 1, 2**63 - 1)
    options = PredictOptions(n_views=n_views, batch_size=batch_size, device=device, precision=precision)
    found = resolve_predictor(sdata, predictor)
    trained = counts_record(found.provenance)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        library_key=library_key,
    )
    selection = selection_as_trained(selection, trained)
    slides = resolve(sdata, selection, needs_table=False, needs_counts=anchor != "predicted")
    columns = _columns(found, genes)
    _check(sdata, slides, found, columns, step_um, anchor, memory_bytes, key_added)
    fabric = options.fabric()
    resolver = SlideResolver(
        predictor=found,
        columns=columns,
        step_um=step_um,
        anchor=anchor,
        n_views=n_views,
        fabric=fabric,
        limit=BatchLimit.of(batch_size, fabric.device),
        progress=progress,
    )
    tilings = [
        superpixels(
            slide, step_um, elements.tissue_in_pixels(sdata, tissue_key, slide.image_key, slide.coordinate_system)
        )
        for slide in slides
    ]
    x = np.empty((sum(map(len, tilings)), len(columns)), np.float32)
    models, start = [], 0
    for tiling in tilings:
        models.append(resolver.resolve(tiling, x[start : start + len(tiling)]))
        start += len(tiling)
    write_superpixels(sdata, superpixel_table(tilings, x, resolver, models, key_added), tilings, key_added)


def _columns(predictor: Predictor, genes: Sequence[str] | None) -> NDArray[np.intp]:
    panel = predictor.genes
    wanted = panel if genes is None else list(dict.fromkeys(genes))
    if not wanted:
        msg = f"`genes` is empty; the predictor has {len(panel)} genes: {quote(panel)}. Give some, or None for all."
        raise ValueError(msg)
    columns = pd.Index(panel).get_indexer(pd.Index(wanted))
    if missing := [gene for gene, column in zip(wanted, columns, strict=True) if column < 0]:
        hint = did_you_mean(missing, panel)
        msg = (
            f"The predictor has no gene {quote(missing)} (its {len(panel)} genes: {quote(panel)}).{hint} Give some of "
            "these as `genes`, or train one with `stp.tl.fit(sdata, genes=…)`."
        )
        raise ValueError(msg)
    return columns


def _check(
    sdata: SpatialData,
    slides: Sequence[Slide],
    predictor: Predictor,
    columns: NDArray[np.intp],
    step_um: float,
    anchor: Anchor,
    memory_bytes: int,
    key_added: str,
) -> None:
    """Check everything before anything is read."""
    n_superpixels = 0
    for slide in slides:
        check_enough_spots(len(slide.xy_px), slide.name)
        _check_step(step_um, slide)
        if anchor != "predicted":
            _check_measured(slide, predictor.genes, anchor)
        pitch_um = spot_pitch(slide.xy_px) * slide.um_per_px
        n_superpixels += round(len(slide.xy_px) * (max(pitch_um, slide.diameter_um) / step_um) ** 2)
    needed = n_superpixels * (4 * len(columns) + SUPERPIXEL_BYTES)
    if needed > memory_bytes:
        msg = (
            f"About {n_superpixels:,} superpixels of {step_um:g} µm with {len(columns)} genes need {needed:,} bytes, "
            f"`memory_bytes` allows {memory_bytes:,}. Name fewer `genes`, one element as `shapes_key`, a larger "
            "`step_um`, or allow more."
        )
        raise ValueError(msg)
    ours = _written(sdata, key_added)
    names = {key_added, *(f"{key_added}_{slide.shapes_key}" for slide in slides)} - set(ours)
    if taken := [name for _, name, _ in sdata.gen_elements() if name in names]:
        msg = (
            f"The object already has {quote(taken)}, which `stp.tl.super_resolve` did not write, and it is not "
            f"overwritten. Give another `key_added` than {key_added!r}."
        )
        raise ValueError(msg)
    kept = set(ours) - {key_added, *(f"{key_added}_{slide.shapes_key}" for slide in slides)}
    if kept:
        _check_same_way(sdata.tables[key_added], key_added, kept, predictor, columns, step_um)


def _check_same_way(
    table: ad.AnnData, key: str, kept: Collection[str], predictor: Predictor, columns: NDArray[np.intp], step_um: float
) -> None:
    """Refuse to add slides to superpixels of another size, of other genes or in other units."""
    record, genes = table.uns[key], {predictor.genes[i] for i in columns}
    if (
        not same_target(record, predictor.target)
        or set(table.var_names) != genes
        or float(record["params"][keys.STEP_UM]) != step_um
    ):
        msg = (
            f"{key!r} holds superpixels of {quote(sorted(kept))}: {table.n_vars} genes in {record['units']}, "
            f"{float(record['params'][keys.STEP_UM]):g} µm wide; this call gives {len(genes)} genes in "
            f"{predictor.units}, {step_um:g} µm wide, and they are not the same. Give another `key_added`, resolve all "
            "slides again, or delete what is there."
        )
        raise ValueError(msg)


def _check_step(step_um: float, slide: Slide) -> None:
    """Refuse superpixels larger than the radius of a spot, or smaller than two pixels."""
    diameter_um, um_per_px = slide.diameter_um, slide.um_per_px
    least, most = 2 * um_per_px, diameter_um / 2
    possible = (
        f"possible here: {least:.3g} to {most:.3g} µm"
        if least <= most
        else f"spots of {diameter_um:.3g} µm cannot be divided with {um_per_px:.3g} µm per pixel: use a finer image"
    )
    if not (math.isfinite(step_um) and step_um > 0):
        msg = f"`step_um` is {step_um!r}; give a length in µm above 0 ({possible})."
        raise ValueError(msg)
    if step_um > most:
        msg = (
            f"`step_um` is {step_um:g}, more than the radius of the spots of {slide.name!r} ({most:.3g} µm): nothing "
            f"would be resolved. Give a smaller one to `stp.tl.super_resolve` ({possible})."
        )
        raise ValueError(msg)
    if step_um < least:
        msg = (
            f"`step_um` is {step_um:g}, but the image of {slide.name!r} has {um_per_px:.3g} µm per pixel: a superpixel "
            f"needs two pixels a side. Give a larger one to `stp.tl.super_resolve` ({possible})."
        )
        raise ValueError(msg)


def _check_measured(slide: Slide, genes: Sequence[str], anchor: str) -> None:
    """Refuse an anchor that needs counts which the table lacks."""
    if slide.counts is None:
        msg = (
            f"`anchor` is {anchor!r}, but no table with counts annotates the spots. Give `anchor='predicted'`: the "
            "means of spots are then those of `stp.tl.predict`."
        )
        raise ValueError(msg)
    known = set(slide.genes)
    if missing := [gene for gene in genes if gene not in known]:
        msg = (
            f"The table lacks {len(missing)} of the predictor's {len(genes)} genes ({quote(missing)}), and `anchor` is "
            f"{anchor!r}. Give `anchor='predicted'`, or a predictor of these genes from `stp.tl.fit`."
        )
        raise ValueError(msg)


def _written(sdata: SpatialData, key_added: str) -> list[str]:
    """Names of the table and squares that an earlier call wrote."""
    if key_added not in sdata.tables:
        return []
    table = sdata.tables[key_added]
    if keys.STEP_UM not in table.uns.get(key_added, {}).get("params", {}):
        return []
    return [key_added, *check_elements.annotated_regions(table, key_added)]
