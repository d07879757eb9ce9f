"""Held-out predictions of all models of a benchmark on one section, beside the measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from . import _errors as check
from ._pca import components_legend
from ._slide_axes import BELOW, Window, bare, draw_spots, scale_bar
from ._style import WIDTH_IN, italic, look, number, panels
from .comparison import component_colors, gene_pearson, joint_components, ranked_summary, section

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from numpy.typing import NDArray

    from .comparison import BenchmarkLike, Section

N_COLUMNS = 4
TEXT_IN = 0.36
"""Height of the text above and below a map, in inches."""
COLOR_QUANTILES = (0.01, 0.99)
"""Quantiles at the two ends of the colour map."""
SPOT = 0.9
"""Diameter of circles in distances between neighbouring spots."""


@public
def benchmark_maps(
    benchmark: BenchmarkLike,
    gene: str,
    slide: str | None = None,
    *,
    limits: Literal["shared", "each"] | tuple[float, float] = "shared",
    cmap: str | Colormap = "viridis",
    spot_size: float = SPOT,
    ax: Axes | Sequence[Axes] | None = None,
) -> NDArray[Any]:
    """One gene on a held-out section: the measurement, then the prediction of every model, best model first.

    No model was trained on the section (see ``benchmark.runs["leaks"]``). Every panel shows its Pearson correlation
    with the measurement over all spots of the section.

    Parameters
    ----------
    benchmark
        The result of `tl.benchmark`.
    gene
        Name of the gene.
    slide
        Name of the section; by default the one with the most spots.
    limits
        ``"shared"``: from the lowest 1 % to the highest 99 % quantile of all panels; ``"each"``: the quantiles of each
        panel; or two numbers.
    cmap
        Colour map of matplotlib, or its name.
    spot_size
        Diameter of the circles in distances between neighbouring spots.
    ax
        Axes to draw on, one for the measurement and one for each model; a new figure by default.

    Returns
    -------
    ``(1 + n_models,)`` axes, in µm where the resolution is known.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=8.0)
    >>> found = stp.tl.benchmark(sdata, ["mean_profile"], save_dir=mkdtemp(), progress=False)
    >>> axes = stp.pl.benchmark_maps(found, "GENE2")
    >>> [ax.get_title(loc="left") for ax in axes]
    ['observed', 'ridge_color', 'mean_profile']
    """
    check_config.in_range("spot_size", spot_size, 0.01, 100)
    found = _section(benchmark, slide)
    check.known_gene(gene, found.genes, "the benchmark")
    values = found.gene_values(gene)
    for name, part in values.items():
        check.some_value(part, f"gene {gene!r}", name)
    limits = limits if isinstance(limits, str) else (float(limits[0]), float(limits[1]))
    ends = _limits(list(values.values()), limits)
    with look():
        axes, window = _axes(ax, found, extra_in=0.6)
        drawn = [
            draw_spots(panel, found.xy, found.pitch * spot_size, part, cmap=cmap, limits=end)
            for panel, part, end in zip(axes, values.values(), ends, strict=True)
        ]
        _titles(axes, values)
        _legend(axes[0], found, window)
        for group in [[i] for i in range(len(axes))] if limits == "each" else [list(range(len(axes)))]:
            _color_bar(axes[group], drawn[group[0]], f"{italic(gene)}, {found.units}")
    return axes


@public
def benchmark_pca(
    benchmark: BenchmarkLike,
    slide: str | None = None,
    *,
    spot_size: float = SPOT,
    ax: Axes | Sequence[Axes] | None = None,
) -> NDArray[Any]:
    """Principal components of all genes of a held-out section as colour, for the measurement and every model.

    Three principal components are computed from the measurement and the predictions of all models together and are
    shown as red, green and blue. Spots of similar colour have similar expression, within a panel and between panels.

    Parameters
    ----------
    benchmark
        The result of `tl.benchmark`.
    slide
        Name of the section; by default the one with the most spots.
    spot_size
        Diameter of the circles in distances between neighbouring spots.
    ax
        Axes to draw on, one for the measurement and one for each model; a new figure by default.

    Returns
    -------
    ``(1 + n_models,)`` axes, in µm where the resolution is known.

    Notes
    -----
    The genes are those that were measured, that vary, and that every model predicts, each standardised within its
    panel. The 2 and 98 % quantiles of a component in each panel map to no and full colour. A model that predicts the
    same values everywhere is grey.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=8.0)
    >>> found = stp.tl.benchmark(sdata, ["mean_profile"], save_dir=mkdtemp(), progress=False)
    >>> axes = stp.pl.benchmark_pca(found, "S1_spots")
    >>> [ax.get_title(loc="left") for ax in axes]
    ['observed', 'ridge_color', 'mean_profile']
    """
    check_config.in_range("spot_size", spot_size, 0.01, 100)
    found = _section(benchmark, slide)
    parts, share = joint_components(found)
    with look():
        axes, window = _axes(ax, found)
        for panel, (name, scores) in zip(axes, parts.items(), strict=True):
            draw_spots(panel, found.xy, found.pitch * spot_size, component_colors(scores, share))
            panel.set_title(name, loc="left")
        _legend(axes[0], found, window)
        components_legend(axes[-1], share)
    return axes


def _section(benchmark: BenchmarkLike, slide: str | None) -> Section:
    summary = ranked_summary(benchmark)
    return section(benchmark, summary.index[summary["gene_pearson"].notna()].tolist(), slide)


def _limits(
    values: Sequence[NDArray[np.float64]], limits: Literal["shared", "each"] | tuple[float, float]
) -> list[tuple[float, float]]:
    if not isinstance(limits, str):
        return [limits] * len(values)
    check_config.one_of("limits", limits, ("shared", "each"))
    each = [tuple(np.nanquantile(part, COLOR_QUANTILES).tolist()) for part in values]
    if limits == "shared":
        each = [(min(low for low, _ in each), max(high for _, high in each))] * len(values)
    return [(low, high) if high > low else (low - 0.5, low + 0.5) for low, high in each]


def _axes(ax: Axes | Sequence[Axes] | None, found: Section, extra_in: float = 0.0) -> tuple[NDArray[Any], Window]:
    """Panels without ticks that show all spots, one for the measurement and one for each model."""
    window = Window.around(found.xy, found.pitch)
    width = WIDTH_IN / N_COLUMNS
    size = (width, width * window.aspect + TEXT_IN)
    n = 1 + len(found.predicted)
    axes = panels(ax, n, panel_in=size, extra_in=extra_in, n_columns=N_COLUMNS, layout="compressed")
    for panel in axes:
        xlim, ylim = (window.x, window.x + window.width), (window.y + window.height, window.y)
        panel.set(xlim=xlim, ylim=ylim, aspect="equal")
        bare(panel)
    return axes, window


def _titles(axes: NDArray[Any], values: Mapping[str, NDArray[np.float64]]) -> None:
    for ax, (name, part) in zip(axes, values.items(), strict=True):
        ax.set_title(name, loc="left")
        if name != keys.OBSERVED:
            r = gene_pearson(values[keys.OBSERVED], part)
            text = f"r = {number(r)}" if np.isfinite(r) else "r not defined"
            ax.text(0, BELOW, text, transform=ax.transAxes, va="center", fontsize=7)


def _legend(ax: Axes, found: Section, window: Window) -> None:
    """A scale bar if the resolution is known, and the name of the section."""
    if found.in_um:
        scale_bar(ax, window)
    ax.text(1, BELOW, found.name, transform=ax.transAxes, ha="right", va="center", fontsize=7)


def _color_bar(axes: NDArray[Any], drawn: Any, label: str) -> None:
    shrink = min(0.8, 1.6 * N_COLUMNS / len(axes))
    figure = axes[0].figure
    bar = figure.colorbar(drawn, ax=axes.tolist(), label=label, fraction=0.05, pad=0.02, aspect=25, shrink=shrink)
    bar.outline.set_visible(False)
