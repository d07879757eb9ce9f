"""Figures of a report: plots of `pl` saved as SVG that is put into the page, in the page's font and text colour."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from ..pl import benchmark_maps, benchmark_pca, benchmark_scores
from ..pl.forest import forest as draw_forest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ..pl.comparison import BenchmarkLike, Section

INK = "#010203"
"""Stands for the colour of text while matplotlib draws; the page replaces it by its own, in light and dark mode."""
CHART_IN = 3.75
"""Width of charts: text is as large as the text around it on a phone."""
MAP_IN, TEXT_IN = 1.8, 0.36
"""Width of a map, and height of the text above and below it."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stpredict",
    "savefig.transparent": True,
    "savefig.dpi": 100,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class Panel(NamedTuple):
    """One map, or the colour bar of all maps."""

    svg: Markup
    is_bar: bool


def forest(summary: pd.DataFrame, ceiling: float) -> Markup:
    """Mean gene-wise Pearson of every model with its interval."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(CHART_IN, 0.7 + 0.3 * len(summary)), layout="constrained")
        draw_forest(summary, ceiling, figure.subplots())
        label = f"Mean gene-wise Pearson r of {len(summary)} models with 95 % intervals; the table has the numbers."
        return _svg(figure, "forest", label, chart=True)


def gene_scores(benchmark: BenchmarkLike, n_rows: int) -> Markup:
    """Scores of all genes, one row for each model and one for the noise ceiling."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(CHART_IN, 0.6 + 0.27 * n_rows), layout="constrained")
        benchmark_scores(benchmark, ax=figure.subplots())
        label = "Pearson r of every gene, one row for each model; a box spans the middle half of the genes."
        return _svg(figure, "genes", label, chart=True)


def gene_maps(benchmark: BenchmarkLike, section: Section, gene: str) -> list[Panel]:
    """One gene on one section: observed, predicted by every model, and the colour bar."""
    with mpl.rc_context(STYLE):
        figure, axes = _map_axes(section)
        benchmark_maps(benchmark, gene, section.name, ax=axes)
        return _panels(figure, section, "gene", f"expression of {gene}")


def component_maps(benchmark: BenchmarkLike, section: Section) -> list[Panel]:
    """All genes of one section as colour: observed, and predicted by every model."""
    with mpl.rc_context(STYLE):
        figure, axes = _map_axes(section)
        benchmark_pca(benchmark, section.name, ax=axes)
        return _panels(figure, section, "pca", "three principal components")


def _map_axes(section: Section) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side, one for each map."""
    n = 1 + len(section.predicted)
    width, height = section.xy.max(axis=0) - section.xy.min(axis=0) + 2 * section.pitch
    figure = Figure(figsize=(MAP_IN * n + 0.8, MAP_IN * height / width + TEXT_IN), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def _panels(figure: Figure, section: Section, prefix: str, label: str) -> list[Panel]:
    """Every axes of a figure as an SVG of its own, so that the page can arrange them to its width."""
    names = ["observed", *section.predicted]
    maps, bars = figure.axes[: len(names)], figure.axes[len(names) :]
    for spots in [spots for ax in maps for spots in ax.collections]:
        spots.set_rasterized(True)  # as vectors, 18 models on 3,000 spots would take tens of MB
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    boxes = {ax: _box(ax, figure) for ax in figure.axes}
    low, high = min(boxes[ax].y0 for ax in maps), max(boxes[ax].y1 for ax in maps)
    found = []
    for i, ax in enumerate(figure.axes):
        for other in figure.axes:
            other.set_visible(other is ax)
        box, title = boxes[ax], f"Colours of {label}"
        if ax not in bars:  # all maps have the same height
            box, title = Bbox.from_extents(box.x0, low, box.x1, high), f"Map of {label}, {names[i]}"
        found.append(Panel(_svg(figure, f"{prefix}{i}", title, box=box), ax in bars))
    return found


def _box(ax: Axes, figure: Figure) -> Bbox:
    """What an axes covers with its texts, in inches."""
    return Bbox(ax.get_tightbbox()).transformed(figure.dpi_scale_trans.inverted())  # type: ignore[arg-type]


def _svg(figure: Figure, prefix: str, label: str, *, box: Bbox | None = None, chart: bool = False) -> Markup:
    """A figure, or a box of it in inches, as an SVG element whose ids begin with a prefix."""
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches=box, pad_inches=0.02, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\1{prefix}-", text).replace(INK, "currentColor")
    viewbox = re.search(r'viewBox="[^"]*"', text)
    head = Markup('<svg {}{} role="img" aria-label="{}">').format(
        Markup('class="chart" ' if chart else ""), Markup(viewbox[0] if viewbox else ""), label
    )
    return head + Markup(text[text.index(">") + 1 :].strip())
