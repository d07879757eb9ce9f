"""All genes in one picture: their first three principal components as red, green and blue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys as keys_of
from .._checks import config as check_config
from .._checks.calls import public
from .._checks.slides import quote
from .._slides.slides import Selection
from . import _errors as check
from ._slide_axes import BELOW, draw_slide, slide_panels
from ._sources import sources
from ._style import look
from .comparison import component_colors, components

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ._sources import Source

CHANNELS = ("#D62728", "#2CA02C", "#3C7FD0")
"""Red, green and blue for text, readable on black and on white."""
INSTEAD = "stp.pl.expression(sdata, gene)"


@public
def pca(
    sdata: SpatialData,
    *,
    keys: str | Sequence[str] = keys_of.PREDICTED,
    shapes_key: str | None = None,
    table_name: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    spot_size: float = 1.0,
    image_alpha: float = 0.4,
    ax: Axes | Sequence[Axes] | None = None,
) -> NDArray[Any]:
    """The first three principal components of all genes as red, green and blue.

    Spots of similar colour have similar expression. Spots on a regular lattice are drawn as an image if they touch each
    other or if there are more than 10,000. The components are computed from the first prediction among ``keys`` (or
    from the first key if there is none) and applied to all keys, so that colours mean the same in every panel.

    Parameters
    ----------
    sdata
        Object with an image, spots and at least one table.
    keys
        What to draw, one panel each: ``"observed"`` is the table of counts; any other key is a table of `tl.predict`
        or a layer of the table of counts.
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
    spot_size
        Diameter of the circles in true spot diameters.
    image_alpha
        Opacity of the image, from 0 (white) to 1 (unchanged).
    ax
        Axes to draw on, one for each key; a new figure by default.

    Returns
    -------
    ``(len(keys),)`` axes, in µm.

    Notes
    -----
    The genes are those that all keys have and that vary in all of them, each standardised within its key. The sign of a
    component makes its largest loading positive. The 2 and 98 % quantiles of a component in each panel map to no and
    full colour. The percentages are shares of the variance of the standardised genes from which the components were
    computed; a component with less than 0.5 % is not shown, and its colour is the same everywhere.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=5)
    >>> axes = stp.pl.pca(sdata, keys=["observed", "rate"])  # "rate" is a layer: the truth
    >>> [ax.get_title(loc="left") for ax in axes]
    ['observed', 'rate']
    """
    check_config.in_range("image_alpha", image_alpha, 0, 1)
    check_config.in_range("spot_size", spot_size, 0.01, 100)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
    )
    found = sources(sdata, keys, selection)
    standard = _standardize(found)
    learnt = next((i for i, source in enumerate(found) if not source.is_counts), 0)
    loadings, share = components(standard[learnt])
    with look():
        axes = slide_panels(ax, found[0].slide, [image_alpha] * len(found), bars_in=0.0)
        for panel, source, values in zip(axes, found, standard, strict=True):
            draw_slide(panel, source.slide, component_colors(values @ loadings.T, share), spot_size)
            panel.set_title(source.key, loc="left")
        axes[-1].set_title("PC1–3 as RGB", loc="right")
        components_legend(axes[-1], share, line=int(len(axes) == 1))
    return axes


def _standardize(found: Sequence[Source]) -> list[NDArray[np.float64]]:
    """Standardised values of the genes that all sources have and that vary in all of them."""
    names = quote([source.key for source in found])
    genes = [gene for gene in found[0].panel if all(gene in source.panel for source in found)]
    check.enough_for_components(len(found[0].slide.xy_px), len(genes), names, INSTEAD)
    values = [source.values(genes).astype(np.float64) for source in found]
    for source, part in zip(found, values, strict=True):
        check.some_value(part, "the shared genes", source.key)
    spread = [np.nanstd(part, axis=0) for part in values]
    varies = np.all([part > 1e-6 for part in spread], axis=0)
    check.enough_for_components(len(values[0]), int(varies.sum()), names, INSTEAD)
    return [
        (part[:, varies] - np.nanmean(part[:, varies], axis=0)) / scale[varies]
        for part, scale in zip(values, spread, strict=True)
    ]


def components_legend(ax: Axes, share: NDArray[np.float64], *, line: int = 0) -> None:
    """The colour of each component and its share of variance, below the picture at the right."""
    for i, (color, part) in enumerate(zip(CHANNELS, share, strict=True)):
        ax.annotate(
            f"\N{BLACK SQUARE} PC{i + 1} {100 * part:.0f} %",
            (1, BELOW),
            xycoords="axes fraction",
            xytext=(-44 * (2 - i), -10 * line),
            textcoords="offset points",
            color=color,
            ha="right",
            va="center",
            fontsize=7,
        )
