"""Expression below spot size, on slides that have spots: what `weak_supervision` learns, as a table of superpixels."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from spatialdata.models import TableModel

from ... import _keys as keys
from ..._checks import config as check_config
from ..._checks import slides as check_slides
from ..._checks import super_resolution as check
from ..._geometry import spot_pitch
from ..._slides import Selection, resolve
from ..._train.batches import BatchLimit
from ..._train.config import FitConfig
from ..._train.device import make_fabric
from ...pp import elements
from .._training.provenance import predictor_of
from .resolve_slide import LEAST_SPOTS, Run, resolve_slide
from .superpixels import squares, superpixels
from .weak_supervision import WINDOWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..._slides import Slide
    from .._predictor.predictor import Predictor
    from .resolve_slide import Anchor
    from .superpixels import Superpixels
    from .weak_supervision import Head

PLACE_BYTES = 1200
"""Memory that a superpixel takes beside its expression, about: features, place, square, name, where it lies among nodes
and spots."""


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
    memory_bytes: int = 4 << 30,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> None:
    r"""Resolve expression below the size of spots, on slides that have spots.

    Squares of ``step_um`` (superpixels) are laid over the spots and the gaps between them. Three things tell their
    expression: the predictor, evaluated all over the slide; colour and texture of their close surroundings, learnt from
    the slide's own spots by weak supervision (only the mean over a spot is known); and what the spots around them show
    beyond both. Then the mean over the superpixels of each spot is made exactly that of the spot. No superpixel was
    measured: what differs within a spot is inferred from the image.

    Parameters
    ----------
    sdata
        The object; its spots may have measured expression or not.
    predictor
        What `fit` returned, or where it was saved; by default the one that `fit` recorded on this object.
    step_um
        Side of a superpixel in µm: at least two pixels of the image, at most the radius of a spot.
    anchor
        What the mean over a spot is made equal to: ``"observed"``, what was measured, with its noise; ``"predicted"``,
        what `predict` says, which needs no counts; or ``"denoised"``, prediction and measurement weighted as left-out
        spots say, the most accurate where counts are few.
    genes
        Genes that are resolved; by default all of the predictor.
    tissue_key
        Polygons of tissue: between spots only superpixels on tissue are made. Ignored if it is the default and there
        are none; None to fill all gaps.
    key_added
        Name of the table that is written.
    n_views
        Average predictions over this many of the eight flips and turns of the patches.
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
    memory_bytes
        Most memory that tables and features of superpixels may take; more is refused before anything is computed.
    batch_size
        Places a forward pass; None for what suits the device.
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
    slide what was believed of pixels and of neighbouring spots); and for each spot element a shapes element of squares
    that the table annotates, ``f"{key_added}_{shapes_key}"``. What an earlier call wrote under this name is replaced.

    Raises
    ------
    ValueError
        If there are too few spots, the image or the spots do not support the step, genes or counts are missing, memory
        does not suffice, or something else would be overwritten.

    Notes
    -----
    With ``f`` the linear expression (``expm1`` of log values), ``D_i`` the superpixels whose centre lies in spot ``i``
    and ``y_i`` the value it is anchored to:

    .. math::

        g_s = p_s + (\bar\phi_s - \bar\phi) W + \sum_i k(s, i) \alpha_i, \qquad
        f_s = \mathrm{expm1}(g_s)\, c_s, \qquad
        c_s = \frac{\mathrm{expm1}(y_i)}{\frac{1}{|D_i|} \sum_{t \in D_i} \mathrm{expm1}(g_t)} \quad (s \in D_i)

    so that :math:`\frac{1}{|D_i|} \sum_{s \in D_i} f_s = \mathrm{expm1}(y_i)`. Means are of linear values, never of
    logs: a spot counts molecules, and the mean of logs is less than the log of the mean. To compare with a spot,
    average ``expm1(X)`` over ``obs["spot"]`` and take ``log1p``. Between spots ``c`` is interpolated.

    ``p`` is the predictor, at every third of its narrowest field of view and interpolated; ``phi`` are statistics of
    windows of 1 to 16 steps; ``W`` and ``alpha`` are one Gaussian process regression (`weak_supervision`) of
    ``y_i - log1p(mean of expm1(p))`` on mean features and places of spots, in closed form. How much is believed of
    pixels and of neighbours is chosen by leaving out each spot. Failed spots (counts below 5 % of the median) are not
    learnt from, and get the estimate of ``"denoised"``. Supervision by means over spots is that of iStar
    (Zhang et al. 2024), which trains a network of pixels alone.

    Memory is that of the table, ``4 * n_superpixels * n_genes`` bytes, and about 1.2 kB a superpixel for features and
    places; pixels are read piece by piece.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, config=stp.tl.FitConfig(n_epochs=1, progress=False))
    >>> stp.tl.super_resolve(sdata, predictor, step_um=25, shapes_key="S0_spots", progress=False)
    >>> sdata["super_resolved"].shape
    (1216, 12)
    """
    check_slides.is_spatialdata(sdata)
    check_config.one_of("anchor", anchor, ("denoised", "observed", "predicted"))
    check_config.in_range("memory_bytes", memory_bytes, 1, 2**63 - 1)
    check_config.prediction(n_views, batch_size)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
    )
    slides = resolve(sdata, selection, needs_table=False)
    found = predictor_of(sdata, predictor)
    columns = _columns(found, genes)
    _check(sdata, slides, found, columns, step_um, anchor, memory_bytes, key_added)
    fabric = make_fabric(FitConfig(accelerator=device, precision=precision))
    run = Run(
        predictor=found,
        columns=columns,
        step_um=step_um,
        anchor=anchor,
        n_views=n_views,
        fabric=fabric,
        limit=BatchLimit.of(batch_size, fabric.device),
        progress=progress,
    )
    lattices = [
        superpixels(
            slide, step_um, elements.tissue_in_pixels(sdata, tissue_key, slide.image_key, slide.coordinate_system)
        )
        for slide in slides
    ]
    x = np.empty((sum(map(len, lattices)), len(columns)), np.float32)
    heads, start = [], 0
    for lattice in lattices:
        heads.append(resolve_slide(lattice, run, x[start : start + len(lattice)]))
        start += len(lattice)
    _write(sdata, _table(lattices, x, run, heads, key_added), lattices, key_added)


def _columns(predictor: Predictor, genes: Sequence[str] | None) -> NDArray[np.intp]:
    panel = predictor.genes
    wanted = panel if genes is None else list(dict.fromkeys(genes))
    check.some_genes(len(wanted), panel)
    check.known_genes([gene for gene in wanted if gene not in set(panel)], panel)
    at = {gene: i for i, gene in enumerate(panel)}
    return np.array([at[gene] for gene in wanted], np.intp)


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
    """Refuse, before anything is read, what cannot be done."""
    n_places = 0
    for slide in slides:
        check.enough_spots(len(slide.xy_px), LEAST_SPOTS, slide.name)
        check.step(step_um, slide.diameter_um, slide.um_per_px, slide.name)
        if anchor != "predicted":
            known = set(slide.genes)
            missing = [gene for gene in predictor.genes if gene not in known]
            check.measured(len(missing), missing, len(predictor.genes), anchor, has_table=slide.counts is not None)
        pitch_um = spot_pitch(slide.xy_px) * slide.um_per_px
        n_places += round(len(slide.xy_px) * (max(pitch_um, slide.diameter_um) / step_um) ** 2)
    needed = n_places * (4 * len(columns) + PLACE_BYTES)
    check.fits_memory(n_places, len(columns), needed, memory_bytes, step_um)
    ours = _written(sdata, key_added)
    names = {key_added, *(f"{key_added}_{slide.shapes_key}" for slide in slides)} - set(ours)
    check.may_write([name for _, name, _ in sdata.gen_elements() if name in names], key_added)


def _written(sdata: SpatialData, key_added: str) -> list[str]:
    """What an earlier call wrote under this name: the table and the squares it annotates."""
    if key_added not in sdata.tables:
        return []
    table = sdata.tables[key_added]
    if keys.STEP_UM not in table.uns.get(key_added, {}).get("params", {}):
        return []
    return [key_added, *check_slides.annotated_regions(table, key_added)]


def _table(
    lattices: Sequence[Superpixels], x: NDArray[np.float32], run: Run, heads: Sequence[Head], key_added: str
) -> ad.AnnData:
    regions = [f"{key_added}_{lattice.slide.shapes_key}" for lattice in lattices]
    obs = pd.concat([_obs(lattice, region) for lattice, region in zip(lattices, regions, strict=True)])
    obs[keys.REGION], obs[keys.SPOT] = pd.Categorical(obs[keys.REGION]), pd.Categorical(obs[keys.SPOT])
    panel = run.predictor.genes
    adata = ad.AnnData(X=x, obs=obs, var=pd.DataFrame(index=pd.Index([panel[i] for i in run.columns])))
    adata.obsm[keys.SPATIAL] = np.concatenate([lattice.xy_px for lattice in lattices])
    slides = {lattice.slide.shapes_key: asdict(head.weights) for lattice, head in zip(lattices, heads, strict=True)}
    adata.uns[key_added] = _record(run, slides)
    linked: ad.AnnData = TableModel.parse(adata, region=regions, region_key=keys.REGION, instance_key=keys.SPOT_ID)
    return linked


def _obs(lattice: Superpixels, region: str) -> pd.DataFrame:
    names = pd.Index([f"{region}_{i}" for i in range(len(lattice))])
    obs = pd.DataFrame({keys.REGION: region, keys.SPOT_ID: np.arange(len(lattice))}, index=names)
    obs[keys.SPOT] = pd.Series(lattice.slide.obs_names[lattice.spot], index=names).where(lattice.spot >= 0)
    return obs


def _record(run: Run, slides: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    spec, predictor = run.predictor.target, run.predictor
    return {
        "units": predictor.units,
        keys.TARGET: {"target_sum": spec.target_sum, "over": spec.over, "log1p": spec.log1p},
        "params": {
            keys.STEP_UM: run.step_um,
            "anchor": run.anchor,
            "n_views": run.n_views,
            "windows_um": [run.step_um * side for side in (1.0, *WINDOWS)],
            "fov_um": list(predictor.patch.fov_um),
        },
        "model": {"name": predictor.model, "hash": predictor.hash, "trained_on": list(predictor.provenance["slides"])},
        "weights": {name: dict(weights) for name, weights in slides.items()},
    }


def _write(sdata: SpatialData, table: ad.AnnData, lattices: Sequence[Superpixels], key_added: str) -> None:
    """Replace what an earlier call wrote, once everything is made."""
    for name in _written(sdata, key_added):
        if name in sdata:
            del sdata[name]
    for lattice in lattices:
        slide = lattice.slide
        elements.write_shapes(sdata, f"{key_added}_{slide.shapes_key}", squares(lattice), slide.image_key)
    sdata.tables[key_added] = table
