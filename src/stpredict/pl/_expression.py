"""Genes on the tissue, for one or several keys side by side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .._checks import config as check_config
from .._checks.calls import public
from .._slides.slides import Selection
from . import _errors as check
from ._slide_axes import draw_slide, slide_panels
from ._sources import IMAGE, source_pearson, sources, what_there_is
from ._style import italic, look, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ._sources import Source

    Limits = tuple[float, float]

COLOR_QUANTILES = (0.01, 0.99)
"""Quantiles at the two ends of the colour map."""

BAR_IN = 0.6
"""Width of a colour bar with its label in inches."""

MOST_COLUMNS = 3
"""Panels in a row, if their number is not given."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Panel:
    """A gene of a source, and where it is drawn."""

    at: int
    """Index of the axes."""
    gene: str
    source: Source
    values: NDArray[np.float32]
    """``(n_spots,)``, NaN where nothing is drawn."""


@public
def expression(
    sdata: SpatialData,
    genes: str | Sequence[str],
    *,
    keys: str | Sequence[str] | None = None,
    shapes_key: str | None = None,
    table_name: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    limits: Literal["shared", "each"] | tuple[float, float] = "shared",
    grey_unlike: bool = True,
    cmap: str | Colormap = "viridis",
    spot_size: float = 1.0,
    image_alpha: float = 0.4,
    ncols: int | None = None,
    figsize: tuple[float, float] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> NDArray[Any]:
    """Expression of genes on the H&E image, observed beside predicted.

    Counts are normalised like the counts that the predictor was trained on, so that all panels have the same units. If
    counts are drawn, every other panel shows its Pearson correlation with them over the spots that `tl.evaluate`
    scores.

    Spots on a regular lattice, square or hexagonal, are drawn as an image without gaps if they touch each other or if
    there are more than 10,000.

    Parameters
    ----------
    sdata
        Object with an image, spots and at least one table.
    genes
        Name of a gene, or several.
    keys
        What to draw, one panel each: ``"observed"`` is the table of counts, ``"image"`` the H&E image alone; any other
        key is a table of `tl.predict` or a layer of the table of counts, drawn without normalisation. By default
        ``"observed"`` and ``"predicted"``, as far as they exist; without counts, ``"image"`` and ``"predicted"``.
    shapes_key
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
        ``"shared"``: the 1 and 99 % quantiles of all panels of a gene that have the same units; ``"each"``: those of
        each panel; or two numbers.
    grey_unlike
        Whether predicted spots whose patches are unlike those of training (``obs["unlike_training"]``) are grey, like
        missing values. The title counts them in any case.
    cmap
        Colour map of matplotlib, or its name.
    spot_size
        Diameter of the circles in true spot diameters. Any value other than 1 draws circles, whatever their number.
    image_alpha
        Opacity of the image under spots, from 0 (white) to 1 (unchanged).
    ncols
        Panels in a row; by default at most three, and one row for each gene if there are several.
    figsize
        Width and height of a new figure in inches; by default at most as wide as a page.
    ax
        Axes to draw on, one for each panel; a new figure by default.

    Returns
    -------
    ``(n_genes * n_keys,)`` axes, in µm, gene by gene.

    Raises
    ------
    ValueError
        If there is nothing to draw, or a gene, key or element is not there.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=5)
    >>> axes = stp.pl.expression(sdata, "GENE2", keys=["observed", "rate"])  # "rate" is a layer: the truth
    >>> len(axes)
    2
    """
    check_config.in_range("image_alpha", image_alpha, 0, 1)
    check_config.in_range("spot_size", spot_size, 0.01, 100)
    if isinstance(limits, str):
        check_config.one_of("limits", limits, ("shared", "each"))
    else:
        limits = float(limits[0]), float(limits[1])
    names = [genes] if isinstance(genes, str) else list(genes)
    check.some_gene(names)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
    )
    if keys is None:
        keys = what_there_is(sdata, selection)
    asked = [keys] if isinstance(keys, str) else list(keys)
    found = dict(zip((key for key in asked if key != IMAGE), sources(sdata, asked, selection), strict=True))
    values = {key: _values(source, names, grey_unlike=grey_unlike) for key, source in found.items()}
    shown = [
        Panel(at=i * len(asked) + j, gene=gene, source=found[key], values=values[key][:, i])
        for i, gene in enumerate(names)
        for j, key in enumerate(asked)
        if key != IMAGE
    ]
    groups = _groups(shown, limits)
    columns = _columns(ncols, len(names), len(asked))
    bars = max(Counter(group[-1].at // columns for group in groups).values())
    slide = next(iter(found.values())).slide
    alphas = [1.0 if key == IMAGE else image_alpha for _ in names for key in asked]
    with look():
        axes = slide_panels(ax, slide, alphas, bars_in=BAR_IN * bars, n_columns=columns, figsize=figsize)
        for group in groups:
            ends = _limits(group, limits)
            for panel in group:
                drawn = draw_slide(axes[panel.at], panel.source.slide, panel.values, spot_size, cmap=cmap, limits=ends)
            _color_bar(drawn, [axes[panel.at] for panel in group], group)
        _titles(axes, shown)
        for at, key in enumerate(asked * len(names)):
            if key == IMAGE:
                axes[at].set_title("H&E", loc="left")
    return axes


def _values(source: Source, genes: list[str], *, grey_unlike: bool) -> NDArray[np.float32]:
    """What is drawn of each gene, ``(n_spots, len(genes))``, NaN where spots are grey."""
    for gene in genes:
        check.known_gene(gene, source.slide.genes if source.is_counts else source.panel, source.key)
        if source.is_counts and source.target.over == "panel":
            check.known_gene(gene, source.panel, source.key)
    values = source.values(genes)
    for gene, column in zip(genes, values.T, strict=True):
        check.some_value(column, f"gene {gene!r}", source.key)
    return np.where(source.unlike[:, None], np.float32(np.nan), values) if grey_unlike else values


def _groups(shown: Sequence[Panel], limits: object) -> list[list[Panel]]:
    """Panels that share a colour bar: those of a gene with the same units, or of all genes if limits are given."""
    groups: dict[object, list[Panel]] = {}
    for panel in shown:
        gene = panel.gene if limits == "shared" else None
        groups.setdefault(panel.at if limits == "each" else (gene, panel.source.units), []).append(panel)
    return list(groups.values())


def _columns(ncols: int | None, n_genes: int, n_keys: int) -> int:
    """Panels in a row."""
    if ncols is not None:
        check_config.positive("ncols", ncols)
        return ncols
    return n_keys if n_genes > 1 and 1 < n_keys <= MOST_COLUMNS else MOST_COLUMNS


def _limits(group: Sequence[Panel], limits: Literal["shared", "each"] | Limits) -> Limits:
    if not isinstance(limits, str):
        return limits
    values = np.concatenate([panel.values for panel in group])
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.quantile(finite, COLOR_QUANTILES)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _color_bar(drawn: ScalarMappable, axes: list[Axes], group: Sequence[Panel]) -> None:
    """A colour bar beside the panels, with an arrow at each end that some values exceed; none if all spots are grey."""
    low, high = drawn.get_clim()
    values = np.concatenate([panel.values for panel in group])
    if np.isnan(values).all():
        return
    below, above = np.nanmin(values) < low, np.nanmax(values) > high
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    figure, units = axes[0].figure, group[0].source.units
    bar = figure.colorbar(drawn, ax=axes, extend=extend, label=units, fraction=0.05, pad=0.02, aspect=25, shrink=0.8)
    bar.outline.set_visible(False)


def _titles(axes: NDArray[Any], shown: Sequence[Panel]) -> None:
    counts = {panel.gene: panel.source for panel in shown if panel.source.is_counts}
    for panel in shown:
        ax, source = axes[panel.at], panel.source
        flagged = _unlike(source.unlike, panel.values)
        ax.set_title(f"{italic(panel.gene)} {source.key}{flagged}", loc="left")
        r = (
            None
            if source.is_counts or panel.gene not in counts
            else source_pearson(counts[panel.gene], source, panel.gene)
        )
        if r is not None:
            ax.set_title(f"r = {number(r)}" + ("\n " if flagged else ""), loc="right")  # on the first line


def _unlike(unlike: NDArray[np.bool_], drawn: NDArray[np.float32]) -> str:
    """Line of a title that counts the spots unlike those of training."""
    n = int(unlike.sum())
    if n == 0:
        return ""
    grey = " (grey)" if np.isnan(drawn[unlike]).all() else ""
    return f"\n{'all' if n == len(unlike) else f'{n} of'} {len(unlike)} spots unlike training{grey}"
