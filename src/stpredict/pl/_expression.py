"""One gene on the tissue, for one or several keys side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import _keys as keys_of
from .._checks import config as check_config
from .._slides.slides import Selection
from . import _errors as check
from ._slide_axes import draw_slide, slide_panels
from ._sources import source_pearson, sources
from ._style import look, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ._sources import Source

    Limits = tuple[float, float]

COLOR_QUANTILES = (0.01, 0.99)
"""Quantiles at the two ends of the colour map."""

BAR_IN = 0.6
"""Width of a colour bar with its label in inches."""


def expression(
    sdata: SpatialData,
    gene: str,
    *,
    keys: str | Sequence[str] = (keys_of.OBSERVED, keys_of.PREDICTED),
    region: str | None = None,
    table_name: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    limits: Literal["shared", "each"] | tuple[float, float] = "shared",
    cmap: str = "viridis",
    spot_size: float = 1.0,
    image_alpha: float = 0.4,
    ax: Axes | Sequence[Axes] | None = None,
) -> NDArray[Any]:
    """Expression of a gene on the H&E image, observed beside predicted.

    Counts are normalised like the counts that the predictor was trained on, so that all panels have the same units. If
    counts are drawn, every other panel shows its Pearson correlation with them over the spots that `tl.evaluate`
    scores.

    Spots on a regular lattice, square or hexagonal, are drawn as an image without gaps if they touch each other or if
    there are more than 10,000.

    Parameters
    ----------
    sdata
        Object with an image, spots and at least one table.
    gene
        Name of the gene.
    keys
        What to draw, one panel each: ``"observed"`` is the table of counts; any other key is a table of `tl.predict`
        or a layer of the table of counts, drawn without normalisation.
    region
        The spots element to draw; it can be left out if the keys have only one in common.
    table_name
        Table of counts; by default ``"observed"``, or the only table that is not a prediction.
    layer
        Layer of the table of counts that holds raw counts; None is X.
    image_key
        Image, if there are several under the spots.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    limits
        ``"shared"``: the 1 and 99 % quantiles of all panels that have the same units; ``"each"``: those of each panel;
        or two numbers.
    cmap
        Name of a colour map of matplotlib.
    spot_size
        Diameter of the circles in true spot diameters. Any value other than 1 draws circles, whatever their number.
    image_alpha
        Opacity of the image, from 0 (white) to 1 (unchanged).
    ax
        Axes to draw on, one for each key; a new figure by default.

    Returns
    -------
    ``(len(keys),)`` axes, in µm.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=5)
    >>> axes = stp.pl.expression(sdata, "GENE2", keys=["observed", "rate"])  # "rate" is a layer: the truth
    >>> axes[0].get_title(loc="left")
    'GENE2 observed'
    """
    check_config.in_range("image_alpha", image_alpha, 0, 1)
    check_config.in_range("spot_size", spot_size, 0.01, 100)
    selection = Selection(
        image_key=image_key, shapes_key=region, table_name=table_name, coordinate_system=coordinate_system, layer=layer
    )
    found = sources(sdata, keys, selection)
    values = [_values(source, gene) for source in found]
    groups = _groups(found, limits)
    ends = {group: _limits([values[i] for i in group], limits) for group in groups}
    with look():
        axes = slide_panels(ax, len(found), found[0].slide, image_alpha, BAR_IN * len(groups))
        for group in groups:
            for i in group:
                drawn = draw_slide(axes[i], found[i].slide, values[i], spot_size, cmap=cmap, limits=ends[group])
            _color_bar(drawn, [axes[i] for i in group], [values[i] for i in group], found[group[0]].units)
        _titles(axes, found, gene)
    return axes


def _values(source: Source, gene: str) -> NDArray[np.float32]:
    check.known_gene(gene, source.slide.genes if source.is_counts else source.panel, source.key)
    if source.is_counts and source.target.over == "panel":
        check.known_gene(gene, source.panel, source.key)
    values = source.values([gene])[:, 0]
    check.some_value(values, f"gene {gene!r}", source.key)
    return values


def _groups(found: Sequence[Source], limits: object) -> list[tuple[int, ...]]:
    """Panels that share a colour bar: those with the same units, unless every panel has its own."""
    if limits == "each":
        return [(i,) for i in range(len(found))]
    units = dict.fromkeys(source.units for source in found)
    return [tuple(i for i, source in enumerate(found) if source.units == unit) for unit in units]


def _limits(values: Sequence[NDArray[np.float32]], limits: Literal["shared", "each"] | Limits) -> Limits:
    if not isinstance(limits, str):
        return float(limits[0]), float(limits[1])
    check_config.one_of("limits", limits, ("shared", "each"))
    together = np.concatenate(values)
    low, high = np.quantile(together[np.isfinite(together)], COLOR_QUANTILES)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _color_bar(drawn: ScalarMappable, axes: list[Axes], values: Sequence[NDArray[np.float32]], units: str) -> None:
    """A colour bar beside the panels, with an arrow at each end that some values exceed."""
    low, high = drawn.get_clim()
    below = any(np.nanmin(part) < low for part in values)
    above = any(np.nanmax(part) > high for part in values)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    figure = axes[0].figure
    bar = figure.colorbar(drawn, ax=axes, extend=extend, label=units, fraction=0.05, pad=0.02, aspect=25, shrink=0.8)
    bar.outline.set_visible(False)


def _titles(axes: NDArray[Any], found: Sequence[Source], gene: str) -> None:
    counts = next((source for source in found if source.is_counts), None)
    for ax, source in zip(axes, found, strict=True):
        ax.set_title(f"{gene} {source.key}", loc="left")
        r = None if counts is None or source.is_counts else source_pearson(counts, source, gene)
        if r is not None:
            ax.set_title(f"r = {number(r)}", loc="right")
