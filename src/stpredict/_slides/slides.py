"""From SpatialData objects to a list of slides: the only file that knows how SpatialData links its elements.

Nothing here decodes pixels (see `_pixels`) or changes its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._checks.names import did_you_mean, duplicates
from .._checks.plain import in_order
from .._checks.slides import quote
from .._geometry import apply_affine, axis_scales, orientation
from .._resolution import SpotsOnImage, image_resolution
from . import checks as check
from .embeddings import EmbeddingRecord, finite_embeddings
from .expression import array_coordinates, gene_counts, library_column, on_tissue, total_counts
from .levels import Level, arrays, pyramid  # noqa: TC001  (a field of `Slide`)
from .placement import affine_matrix, shared_system, slide_images
from .quality import quality_flags
from .regions import Regions, classes_by_element, spots_in_regions  # noqa: TC001  (a field of `Selection`)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Slide:
    """One image with its spots: nothing downstream sees a SpatialData."""

    name: str
    """The shapes element that the spots come from; ``"key/element"`` where several SpatialData were given."""
    levels: tuple[Level, ...]
    """The image pyramid, finest first."""
    um_per_px: float
    """µm per full-resolution pixel."""
    xy_px: NDArray[np.float64]
    """``(n, 2)`` spot centres in full-resolution pixels; pixel ``i`` covers ``[i, i + 1)``."""
    diameter_um: float
    """Median spot diameter in µm."""
    axes: NDArray[np.float64]
    """``(2, 2)`` directions of the coordinate system's x and y in the image, in columns: patches lie along these."""
    instances: NDArray[Any]
    """``(n,)`` index of the spots in their element."""
    obs_names: NDArray[Any]
    """``(n,)`` names of the table rows; the instances as strings where no table annotates the spots."""
    counts: csr_matrix | None
    """``(n, n_genes)`` of the selected layer of the table, or None."""
    genes: tuple[str, ...]
    """Column names of ``counts``."""
    library: NDArray[np.float64] | None = None
    """``(n,)`` library sizes, if ``library_key`` is given."""
    total_counts: NDArray[np.float64] | None = None
    """``(n,)`` the column ``total_counts`` of the table, if there is one."""
    allow_fractional_counts: bool = False
    """Whether counts need not be whole numbers."""
    array_xy: NDArray[np.float64] | None = None
    """``(n, 2)`` column and row in the array, if the table has them."""
    image_quality: NDArray[np.object_] | None = None
    """``(n,)`` flags of `pp.quality`, None beyond its windows; None if it was not called."""
    features: NDArray[np.float32] | None
    """``(n, d)`` embeddings in the table, if ``features_key`` is given."""
    features_record: tuple[EmbeddingRecord, ...] = ()
    """What made them, one entry for each matrix."""
    group: str
    """Group that must not be split, for instance the patient."""
    source: SpatialData
    """The object the slide was found in."""
    image_key: str
    shapes_key: str
    table_name: str | None
    coordinate_system: str

    @property
    def xy_um(self) -> NDArray[np.float64]:
        """Spot centres in µm, origin at the image corner."""
        return self.xy_px * self.um_per_px

    def without_counts(self) -> Slide:
        """A copy without counts and the object: what another process needs to predict."""
        return replace(self, counts=None, genes=(), library=None, total_counts=None, source=SpatialData())


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which elements of a SpatialData are meant; None means the only one there is."""

    image_key: str | Mapping[str, str] | None = None
    """Image element, or one per shapes element."""
    shapes_key: str | Sequence[str] | None = None
    """Shapes (or labels) elements that hold the spots."""
    table_name: str | None = None
    """Table that annotates the spots."""
    coordinate_system: str | None = None
    """Coordinate system shared by image and spots."""
    layer: str | None = None
    """Layer of the table that holds counts; None is X."""
    group_key: str | None = None
    """Column of ``obs`` naming the group (patient) of each spot."""
    features_key: str | None = None
    """Matrix of ``obsm`` with embeddings of the spots' images."""
    library_key: str | None = None
    """Column of ``obs`` with library sizes over all genes, for tables that do not hold all of them."""
    allow_fractional_counts: bool = False
    """Whether counts need not be whole numbers, as those that were corrected for ambient RNA."""
    um_per_px: float | None = None
    """Resolution in µm per pixel, if it is not recorded in the object."""
    in_px: bool = False
    """Whether to treat a pixel as 1 µm, in order to measure the resolution."""
    regions: Regions | None = None
    """Shapes elements with polygons in which spots must lie; a mapping also names the classes that count."""

    def __post_init__(self) -> None:
        if self.shapes_key is not None and not isinstance(self.shapes_key, str):  # an index or array is none
            object.__setattr__(self, "shapes_key", in_order(self.shapes_key))


def resolve(
    data: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    selection: Selection,
    *,
    needs_table: bool = True,
    needs_counts: bool = True,
    needs_image: bool = True,
) -> list[Slide]:
    """Find every slide in one or several SpatialData objects, in the order of objects and of regions in their tables.

    Without ``needs_table`` (prediction), spots may have no table; without ``needs_counts``, its matrix is not read;
    without ``needs_image``, an object without images is taken, whose spots keep their own coordinates.
    """
    found: list[Slide] = []
    for prefix, sdata in _objects(data):
        check.is_spatialdata(sdata, several=True)
        table_name, regions = _table_and_regions(sdata, selection, needs_table=needs_table)
        for shapes_key in regions:
            has_image = needs_image or bool(slide_images(sdata))
            slide = _slide(sdata, table_name, shapes_key, selection, needs_counts=needs_counts, has_image=has_image)
            own = slide.group if selection.group_key else f"{prefix}{slide.group}"
            found.append(replace(slide, name=f"{prefix}{slide.name}", group=own))
    names = [slide.name for slide in found]
    if not names:
        msg = "No slide was given: the list of objects is empty. Give a SpatialData, or a list or mapping of them."
        raise ValueError(msg)
    if twice := duplicates(names):
        msg = f"Slides are named more than once: {quote(twice)} (of {quote(names)}). Give each once in `shapes_key`."
        raise ValueError(msg)
    return found


def shared_genes(slides: Sequence[Slide]) -> list[str]:
    """Genes that every slide has, in the order of the first."""
    common = set(slides[0].genes).intersection(*(slide.genes for slide in slides[1:]))
    return [gene for gene in slides[0].genes if gene in common]


def _objects(data: Any) -> Iterator[tuple[str, SpatialData]]:
    if isinstance(data, Mapping):
        yield from ((f"{name}/", sdata) for name, sdata in data.items())
    elif isinstance(data, list | tuple):
        yield from ((f"{i}/", sdata) for i, sdata in enumerate(data))
    else:
        yield "", data


def counts_table_name(sdata: SpatialData, table_name: str | None) -> str:
    """Name of the table with counts: as given, else ``"observed"``, else the only one that holds no predictions."""
    names = list(sdata.tables)
    if table_name is not None:
        check.has_table(names, table_name)
        return table_name
    if keys.OBSERVED in names:
        return keys.OBSERVED
    names = measured_tables(sdata)
    check.one_table(names)
    return names[0]


def measured_tables(sdata: SpatialData) -> list[str]:
    """Tables without predictions; those without genes, which hold embeddings, only if there are no others."""
    names = [name for name, table in sdata.tables.items() if keys.TARGET not in table.uns.get(name, {})]
    return [name for name in names if sdata.tables[name].n_vars] or names


def _table_and_regions(sdata: SpatialData, selection: Selection, *, needs_table: bool) -> tuple[str | None, list[str]]:
    """The elements that hold spots, and the table that annotates them, None where none does."""
    selected = [selection.shapes_key] if isinstance(selection.shapes_key, str) else selection.shapes_key
    available = [*sdata.shapes, *sdata.labels]
    optional = not needs_table and selection.table_name is None and not measured_tables(sdata)
    table_name = None if optional else counts_table_name(sdata, selection.table_name)
    regions = available if table_name is None else check.annotated_regions(sdata.tables[table_name], table_name)
    if selected is None:
        drawn: Collection[str] = () if selection.regions is None else classes_by_element(selection.regions)
        return table_name, _spot_elements(sdata, available, drawn) if table_name is None else regions
    elsewhere = selected and not set(selected) & set(regions) and set(selected) <= set(available)
    if elsewhere and not needs_table and selection.table_name is None:  # a grid beside the spots of the table
        return _table_without_genes(sdata, selected), list(selected)
    check.has_regions(regions, selected)
    return table_name, list(selected)


def _table_without_genes(sdata: SpatialData, regions: Sequence[str]) -> str | None:
    """The table that `embed` made for some elements; None if there is none."""
    for name, table in sdata.tables.items():
        if not table.n_vars and set(regions) <= set(check.annotated_regions(table, name)):
            return str(name)
    return None


def _spot_elements(sdata: SpatialData, names: list[str], drawn: Collection[str]) -> list[str]:
    """The element with the spots where no table names one: our own grid, or else the one that is no area."""
    ours = sdata.attrs.get(keys.ATTRS, {})
    others = {name for kind in (keys.TISSUE, keys.ANNOTATIONS, keys.QUALITY) for name in ours.get(kind, {})}
    grids = [name for name in names if name in ours.get(keys.GRID, {})]
    found = grids or [name for name in names if name not in others and name not in drawn]
    if not found:
        msg = (
            f"No element holds spots; shapes and labels found: {quote(names)}. Lay spots over the slide with "
            "`stp.pp.spot_grid`, or give `shapes_key`."
        )
        raise ValueError(msg)
    if len(found) > 1:
        msg = (
            f"Which element holds the spots? No table says so; shapes and labels found: {quote(found)}. "
            "Give `shapes_key`."
        )
        raise ValueError(msg)
    return found


def _slide(
    sdata: SpatialData,
    table_name: str | None,
    shapes_key: str,
    selection: Selection,
    *,
    needs_counts: bool,
    has_image: bool,
) -> Slide:
    check.has_element(sdata, shapes_key, table_name)
    element = sdata[shapes_key]
    if has_image:
        image_key, system = _image_of(sdata, shapes_key, selection)
        to_px = np.linalg.inv(affine_matrix(sdata.images[image_key], system))
        check.isotropic(axis_scales(to_px), image_key, system)
    else:
        image_key, system, to_px = "", next(iter(get_transformation(element, get_all=True))), np.eye(3)
    element_to_px = to_px @ affine_matrix(element, system)
    spots = _spots(element)
    ids, rows = _instances(sdata, table_name, shapes_key, spots.index)
    xy = spots.loc[ids, ["x", "y"]].to_numpy(np.float64)
    xy_px = apply_affine(element_to_px, xy)
    diameter_px = float(spots["diameter"].median()) * float(np.mean(axis_scales(element_to_px)))
    table = sdata.tables[table_name][rows] if table_name else None
    array_xy = None if table is None else array_coordinates(table)
    measured = SpotsOnImage(shapes_key=shapes_key, xy_px=xy_px, diameter_px=diameter_px, array_xy=array_xy)
    in_px = selection.in_px or not has_image
    um_per_px = 1.0 if in_px else image_resolution(sdata, image_key, selection.um_per_px, measured)
    if selection.regions is not None:  # the resolution is that of all spots
        inside = spots_in_regions(sdata, shapes_key, xy, selection.regions, selection.coordinate_system)
        ids, rows, xy_px = ids[inside], rows[inside], xy_px[inside]
        table = sdata.tables[table_name][rows] if table_name else None  # a backed table has no views of views
        array_xy = None if array_xy is None else array_xy[inside]
    levels = pyramid(sdata.images[image_key]) if has_image else ()
    if has_image:
        check.on_image(xy_px, levels[0].pixels.shape, shapes_key, image_key)
    features, record = _embeddings(table, selection.features_key, shapes_key)
    counts: csr_matrix | None = None
    genes: list[str] = []
    if table_name is not None and needs_counts:  # of the whole table: views of a backed one are loaded whole
        counts, genes = gene_counts(sdata.tables[table_name], selection.layer, rows)
    return Slide(
        name=shapes_key,
        levels=levels,
        um_per_px=um_per_px,
        xy_px=xy_px,
        diameter_um=diameter_px * um_per_px,
        axes=orientation(to_px),
        instances=ids,
        obs_names=ids.astype(str) if table is None else table.obs_names.to_numpy(),
        counts=counts,
        genes=tuple(genes),
        library=library_column(table, selection.library_key) if needs_counts and table is not None else None,
        total_counts=None if table is None else total_counts(table),
        allow_fractional_counts=selection.allow_fractional_counts,
        array_xy=array_xy,
        image_quality=quality_flags(sdata, image_key, xy_px),
        features=features,
        features_record=record,
        group=shapes_key if table is None else _group(table, selection.group_key, shapes_key),
        source=sdata,
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=system,
    )


def _image_of(sdata: SpatialData, shapes_key: str, selection: Selection) -> tuple[str, str]:
    name = selection.image_key.get(shapes_key) if isinstance(selection.image_key, Mapping) else selection.image_key
    if name is not None:
        check.has_image(list(sdata.images), name)
    images = [name] if name is not None else slide_images(sdata)
    systems = {key: set(get_transformation(sdata.images[key], get_all=True)) for key in images}
    own = set(get_transformation(sdata[shapes_key], get_all=True))
    if selection.coordinate_system is not None:
        own &= {selection.coordinate_system}
    shared = {key: sorted(found & own) for key, found in systems.items() if found & own}
    check.one_image(shapes_key, shared, sdata, selection.coordinate_system)
    image_key, candidates = next(iter(shared.items()))
    return image_key, shared_system(sdata, shapes_key, image_key, candidates)


def _spots(element: Any) -> pd.DataFrame:
    """Centre (x, y) and diameter of each spot in the element's coordinates; for other shapes that of equal area."""
    if hasattr(element, "geometry"):
        outlines = element.geometry.to_numpy()
        x, y = shapely.get_coordinates(shapely.centroid(outlines)).T
        radius = element["radius"] if "radius" in element.columns else np.sqrt(shapely.area(outlines) / np.pi)
        return pd.DataFrame({"x": x, "y": y, "diameter": 2 * radius}, index=element.index)
    labels = np.asarray(arrays(element)[0])
    y, x = np.nonzero(labels)
    names, spot, n_pixels = np.unique(labels[y, x], return_inverse=True, return_counts=True)
    means = {axis: np.bincount(spot, at + 0.5) / n_pixels for axis, at in (("x", x), ("y", y))}
    return pd.DataFrame({**means, "diameter": 2 * np.sqrt(n_pixels / np.pi)}, index=names)


def _instances(
    sdata: SpatialData, table_name: str | None, shapes_key: str, index: pd.Index[Any]
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Index values of the spots in their element, and their rows in the table."""
    if table_name is None:
        return index.to_numpy(), np.arange(len(index))
    table = sdata.tables[table_name]
    attrs = table.uns["spatialdata_attrs"]
    rows = np.flatnonzero((table.obs[attrs["region_key"]].astype(str) == shapes_key).to_numpy() & on_tissue(table))
    ids = table.obs[attrs["instance_key"]].to_numpy()[rows]
    return index.to_numpy()[check.match_instances(ids, index, shapes_key, table_name)], rows


def rows_in_regions(
    sdata: SpatialData, table_name: str, among: NDArray[np.bool_], regions: Regions
) -> NDArray[np.bool_]:
    """``(n_obs,)`` those of some rows of a table whose spots lie in the regions; every element must have one."""
    table = sdata.tables[table_name]
    check.annotated_regions(table, table_name)
    of_row = table.obs[table.uns["spatialdata_attrs"]["region_key"]].astype(str)
    inside = np.zeros(table.n_obs, bool)
    for shapes_key in of_row[among].unique():
        check.has_element(sdata, shapes_key, table_name)
        spots = _spots(sdata[shapes_key])
        ids, rows = _instances(sdata, table_name, shapes_key, spots.index)
        xy, asked = spots.loc[ids, ["x", "y"]].to_numpy(np.float64), among[rows]
        inside[rows[asked]] = spots_in_regions(sdata, shapes_key, xy[asked], regions)
    return inside


def _embeddings(
    table: AnnData | None, features_key: str | None, shapes_key: str
) -> tuple[NDArray[np.float32] | None, tuple[EmbeddingRecord, ...]]:
    """Embeddings of the spots of one slide, and what made them."""
    if features_key is None:
        return None, ()
    found = [] if table is None else [str(name) for name in table.obsm]
    if table is None or features_key not in found:
        msg = (
            f"No obsm[{features_key!r}] for the spots of {shapes_key!r} (found: {quote(found)})."
            f"{did_you_mean(features_key, found)} Embed their patches first (`stp.tl.embed`), give another "
            "`features_key`, or leave it out and name an `encoder`."
        )
        raise ValueError(msg)
    return finite_embeddings(table, features_key, shapes_key), (EmbeddingRecord.of(table, features_key),)


def _group(table: AnnData, group_key: str | None, shapes_key: str) -> str:
    """The group of a slide; without a key every slide is its own."""
    if group_key is None:
        return shapes_key
    check.has_column(table, group_key)
    values = pd.Series(table.obs[group_key])
    groups = values.dropna().astype(str).unique()
    if len(groups) != 1 or values.isna().any():
        msg = (
            f"The spots of {shapes_key!r} belong to {quote(list(groups))} by obs[{group_key!r}]"
            f"{' and some to none' if values.isna().any() else ''}; one slide must be one group. "
            "Use a column that is constant within a slide, such as the patient."
        )
        raise ValueError(msg)
    return str(groups[0])
