"""Spatial domains on the tissue, beside labels or other domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from scipy.optimize import linear_sum_assignment

from .. import _keys as keys_of
from .._checks import config as check_config
from .._checks.calls import public
from .._checks.slides import one_name
from .._palette import category_palette
from .._slides import checks as check_elements
from .._slides.slides import Selection, resolve
from ..metrics import ari
from ._slide_axes import BELOW, MISSING, draw_slide, slide_panels
from ._style import look, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from numpy.typing import NDArray
    from spatialdata import SpatialData

LEGEND_IN = 1.1
"""Width of the legend of a panel in inches."""


@public
def domains(
    sdata: SpatialData,
    *,
    keys: str | Sequence[str] = keys_of.DOMAIN,
    shapes_key: str | None = None,
    table_name: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    spot_size: float = 1.0,
    image_alpha: float = 0.4,
    ax: Axes | Sequence[Axes] | None = None,
) -> NDArray[Any]:
    """Domains of spots on the H&E image, beside labels, other domains, or the agreement of seeds.

    A domain has the colour of its number, in every slide and figure. Labels of other columns have the colour of the
    domain that holds most of their spots, one label a colour, and the panel shows their adjusted Rand index with the
    first key. Columns of numbers (``"domain_agreement"``) are drawn with a colour map.

    Parameters
    ----------
    sdata
        Object with spots and a table; without an image spots are drawn on white.
    keys
        Columns of ``obs``, one panel each.
    shapes_key
        The spots element to draw, if the table annotates several.
    table_name
        Table; by default ``"observed"``, or the only one with counts.
    image_key
        Image, if there are several under the spots.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records.
    spot_size
        Diameter of the circles in true spot diameters.
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
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=8)
    >>> _ = stp.tl.domains(sdata, 3, "expression", n_seeds=2, progress=False)
    >>> axes = stp.pl.domains(sdata, keys=["domain", "domain_agreement"])
    >>> axes[0].get_title(loc="left")
    'domain (expression)'
    """
    check_config.in_range("image_alpha", image_alpha, 0, 1)
    check_config.in_range("spot_size", spot_size, 0.01, 100)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
    )
    slides = {slide.name: slide for slide in resolve(sdata, selection, needs_counts=False, needs_image=False)}
    slide = slides[one_name("slide", shapes_key, list(slides), "shapes_key")]
    table = sdata.tables[str(slide.table_name)]
    names = [keys] if isinstance(keys, str) else list(keys)
    for name in names or [""]:
        check_elements.has_column(table, name, "keys")
    rows = table.obs_names.get_indexer(pd.Index(slide.obs_names))
    columns = [pd.Series(table.obs[name]).iloc[rows] for name in names]
    alpha = image_alpha if slide.levels else 0.0
    first = next((column for column in columns if not _is_numeric(column)), None)
    with look():
        axes = slide_panels(ax, slide, [alpha] * len(names), bars_in=LEGEND_IN * min(3, len(names)))
        for panel, name, column in zip(axes, names, columns, strict=True):
            if _is_numeric(column):
                values = column.to_numpy(np.float64)
                drawn = draw_slide(panel, slide, values, spot_size, limits=(0.0, float(np.nanmax([1.0, *values]))))
                _color_bar(panel, drawn, "share of other seeds" if name.endswith("_agreement") else "")
            else:
                colors = category_colors(column, first)
                shown = np.stack([colors.get(value, to_rgb(MISSING)) for value in column.astype(object)])
                draw_slide(panel, slide, shown, spot_size)
                _legend(panel, colors)
                if first is not None and column is not first and (column.notna() & first.notna()).any():
                    index = number(ari(column.to_numpy(), first.to_numpy()))
                    panel.text(
                        1, BELOW, f"ARI = {index}", transform=panel.transAxes, ha="right", va="center", fontsize=7
                    )
            panel.set_title(_title(name, table.uns.get(name)), loc="left")
    return axes


def _is_numeric(column: pd.Series[Any]) -> bool:
    return pd.api.types.is_float_dtype(column)


def category_colors(column: pd.Series[Any], like: pd.Series[Any] | None) -> dict[Any, tuple[float, float, float]]:
    """Colour of each category: of its number; of other names that of the category of ``like`` with which it overlaps.

    Each category has its own colour.
    """
    names = _categories(column)
    if like is None or like is column or [str(name) for name in names] == _names(like):
        place = np.arange(len(names))
    else:
        together = pd.crosstab(column.astype(object), like.astype(object)).reindex(
            index=names, columns=_categories(like), fill_value=0
        )
        square = np.zeros((max(together.shape),) * 2)
        square[: together.shape[0], : together.shape[1]] = together
        place = linear_sum_assignment(-square)[1][: len(names)]
    palette = category_palette(max([len(names), *(int(i) + 1 for i in place)]))
    return {name: to_rgb(palette[i]) for name, i in zip(names, place, strict=True)}


def _categories(column: pd.Series[Any]) -> list[Any]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.categories)
    return sorted(column.dropna().unique())


def _names(column: pd.Series[Any]) -> list[str]:
    return [str(name) for name in _categories(column)]


def _legend(ax: Axes, colors: dict[Any, tuple[float, float, float]]) -> None:
    dots = [
        Line2D([], [], marker="o", linestyle="", markersize=5, color=color, label=str(name))
        for name, color in colors.items()
    ]
    ax.legend(handles=dots, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2, borderaxespad=0.2)


def _color_bar(ax: Axes, drawn: ScalarMappable, label: str) -> None:
    bar = ax.figure.colorbar(drawn, ax=ax, label=label, fraction=0.05, pad=0.02, aspect=25, shrink=0.8)
    bar.outline.set_visible(False)


def _title(name: str, record: Any) -> str:
    """Name of the column, and for domains how they were found."""
    if not isinstance(record, dict) or "method" not in record:
        return name
    what = [str(record["method"]), *(["predicted expression"] if record.get("from") == "predicted" else [])]
    return f"{name} ({', '.join(what)})"
