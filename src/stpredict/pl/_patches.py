"""The input of a model for one spot: its fields of view on the slide, and the patch of every scale."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Rectangle

from .. import _keys as keys
from .._checks import slides as check_slides
from .._checks.calls import public
from .._checks.slides import quote
from .._geometry import PatchSpec
from .._pixels import PatchReader
from .._slides import checks as check_elements
from .._slides.slides import Selection, resolve
from ._slide_axes import Window, draw_spots, draw_tissue, length_label, scale_bar
from ._style import category, look, panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.slides import Slide

FOV_SPOTS = (1.5, 3.0, 6.0)
"""Fields of view in spot diameters if none are given or recorded: the default of the models."""
AROUND = 1.25
"""Side of the overview in widest fields of view."""


@public
def patches(
    sdata: SpatialData,
    spot: int | str,
    *,
    patch: PatchSpec | None = None,
    shapes_key: str | None = None,
    table_name: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> NDArray[Any]:
    """The patches of one spot at every scale, and their place on the slide.

    Parameters
    ----------
    sdata
        Object with an image and spots; a table is not needed.
    spot
        Name in ``obs_names`` of the table, or index in the spots element.
    patch
        Fields of view and size, such as ``predictor.patch``. By default those recorded in the table ``"predicted"``,
        or else 1.5, 3 and 6 spot diameters at 224 px.
    shapes_key
        The spots element to look in; all by default.
    table_name
        Table that names the spots; by default ``"observed"``, or else ``"predicted"``, or else the only table.
    image_key
        Image, if there are several under the spots.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    ax
        Axes to draw on, one for the slide and one for each scale; a new figure by default.

    Returns
    -------
    ``(1 + n_scales,)`` axes: the slide in µm, then the patches in pixels, narrowest first.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=5)
    >>> axes = stp.pl.patches(sdata, "S0_2x2")
    >>> [ax.get_title(loc="left") for ax in axes]
    ['S0_2x2', '150 µm', '300 µm', '600 µm']
    """
    table = _table(sdata, table_name)
    selection = Selection(image_key=image_key, table_name=table, coordinate_system=coordinate_system)
    slide, i = _find(sdata, spot, shapes_key, selection)
    spec = patch or _recorded_patch_spec(sdata) or PatchSpec(fov_um=tuple(fov * slide.diameter_um for fov in FOV_SPOTS))
    pixels = PatchReader(slide.levels, slide.um_per_px, spec, axes=slide.axes).read(slide.xy_px[i : i + 1])[0][0]
    with look():
        axes = panels(ax, 1 + len(pixels), panel_in=(1.8, 2.05), n_columns=6, layout="compressed")
        _overview(axes[0], slide, i, spec)
        for s, (fov, pixel) in enumerate(zip(spec.fov_um, pixels, strict=True)):
            panel = axes[s + 1]
            panel.imshow(np.moveaxis(pixel, 0, -1), interpolation="antialiased")
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set(visible=True, color=category(s), linewidth=1.8)
            panel.set_title(length_label(fov), loc="left")
    return axes


def _table(sdata: SpatialData, table_name: str | None) -> str | None:
    """The table that names the spots, if there is any."""
    check_elements.is_spatialdata(sdata)
    names = list(sdata.tables)
    if table_name is not None:
        check_elements.has_table(names, table_name)
        return table_name
    for name in (keys.OBSERVED, keys.PREDICTED):
        if name in names:
            return name
    if names:
        check_elements.one_table(names)
    return names[0] if names else None


def _recorded_patch_spec(sdata: SpatialData) -> PatchSpec | None:
    """The patches that the predictions in this object were made from, if they are recorded."""
    if keys.PREDICTED not in sdata.tables:
        return None
    params = sdata.tables[keys.PREDICTED].uns.get(keys.PREDICTED, {}).get("params", {})
    if not {"fov_um", "size_px"} <= set(params):
        return None
    return PatchSpec(fov_um=tuple(float(fov) for fov in params["fov_um"]), size_px=int(params["size_px"]))


def _find(sdata: SpatialData, spot: int | str, shapes_key: str | None, selection: Selection) -> tuple[Slide, int]:
    """The slide that a spot is on, and its position there: by its name in the table, else by its index."""
    table = selection.table_name
    if table is None:
        regions = [*sdata.shapes, *sdata.labels]
    else:
        regions = check_elements.annotated_regions(sdata.tables[table], table)
    searched = regions if shapes_key is None else [check_slides.one_name("element", shapes_key, regions, "shapes_key")]
    slides = [
        resolve(sdata, replace(selection, shapes_key=key), needs_table=False, needs_counts=False)[0] for key in searched
    ]
    found = _positions(slides, "obs_names", spot) or _positions(slides, "instances", spot)
    if not found:
        names = quote([name for slide in slides for name in slide.obs_names])
        msg = (
            f"No spot {spot!r} in {quote(searched)} (spots: {names}). Give a name from `obs_names` of the "
            "table, or an index of the spots element."
        )
        raise ValueError(msg)
    if len(found) > 1:
        matches = quote([slide.shapes_key for slide, _ in found])
        msg = f"Spot {spot!r} is in several elements: {matches}. Give `shapes_key`, or a name from `obs_names`."
        raise ValueError(msg)
    return found[0]


def _positions(slides: Sequence[Slide], names: str, spot: int | str) -> list[tuple[Slide, int]]:
    """The slides that have a spot of this name, and its position on each."""
    places = [(slide, np.flatnonzero(getattr(slide, names).astype(str) == str(spot))) for slide in slides]
    return [(slide, int(at[0])) for slide, at in places if len(at)]


def _overview(ax: Axes, slide: Slide, i: int, patch: PatchSpec) -> None:
    centre, side = slide.xy_um[i], AROUND * max(*patch.fov_um, slide.diameter_um)
    window = Window.around(centre[None], side / 2)
    draw_tissue([ax], slide, window)
    near = np.abs(slide.xy_um - centre).max(axis=1) < side
    draw_spots(ax, slide.xy_um[near], slide.diameter_um, edge="0.2")
    for s, fov in enumerate(patch.fov_um):
        x, y = centre - fov / 2
        ax.add_patch(Rectangle((x, y), fov, fov, fill=False, edgecolor=category(s), linewidth=1.8))
    ax.set_title(str(slide.obs_names[i]), loc="left")
    scale_bar(ax, window)
