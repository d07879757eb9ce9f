"""Charts of a report as inline SVG: 360 units wide, so that text is as large as that around it on a phone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .text import MINUS, escaped, interval, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

WIDTH, MARGIN = 360, 14
EDGE = 2
"""Where text begins."""
ROW, TOP, BOTTOM = 36, 30, 34
RAMP = np.array(
    [
        [0x44, 0x01, 0x54],
        [0x48, 0x28, 0x78],
        [0x3E, 0x49, 0x89],
        [0x31, 0x68, 0x8E],
        [0x26, 0x82, 0x8E],
        [0x1F, 0x9E, 0x89],
        [0x35, 0xB7, 0x79],
        [0x6E, 0xCE, 0x58],
        [0xB5, 0xDE, 0x2B],
        [0xFD, 0xE7, 0x25],
    ]
)
"""Colours from little to much (viridis): even in lightness, so that every kind of colour vision reads them."""
LUMA = np.array([0.299, 0.587, 0.114])
CEILING = "noise ceiling"
LONGEST = 28
"""Letters of a name that have room beside its numbers."""


class Scale(NamedTuple):
    """From values to places in a chart."""

    low: float
    high: float

    def at(self, values: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Where values lie.

        Parameters
        ----------
        values
            The values.

        Returns
        -------
        Their x.
        """
        inner = WIDTH - 2 * MARGIN
        return MARGIN + inner * (np.asarray(values, dtype=np.float64) - self.low) / (self.high - self.low)


def ramp(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Colours from little to much.

    Parameters
    ----------
    shares
        ``(n,)`` from 0 to 1.

    Returns
    -------
    ``(n, 3)`` from 0 to 255.
    """
    at = np.linspace(0, 1, len(RAMP))
    channels = [np.interp(shares, at, RAMP[:, i]) for i in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.int64)


def cell_colors(shares: NDArray[np.float64]) -> list[str]:
    """Style of coloured cells, with text that can be read on them.

    Parameters
    ----------
    shares
        ``(n,)`` from 0 to 1.

    Returns
    -------
    Values of ``style``.
    """
    colors = ramp(shares)
    light = colors @ LUMA > 127
    return [
        f"background:#{r:02x}{g:02x}{b:02x};color:{'#000' if bright else '#fff'}"
        for (r, g, b), bright in zip(colors.tolist(), light.tolist(), strict=True)
    ]


def svg(name: str, height: float, title: str, body: str) -> str:
    """A chart.

    Parameters
    ----------
    name
        Its id.
    height
        Its height in units.
    title
        What it shows, for those who do not see it; escaped here.
    body
        Its elements.

    Returns
    -------
    The element, as wide as what it stands in.
    """
    return (
        f'<svg class="chart" width="100%" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="{name}">'
        f'<title id="{name}">{escaped(title)}</title>{body}</svg>'
    )


def forest(ranked: pd.DataFrame, ceiling: float) -> str:
    """Mean gene-wise Pearson of every model with its interval, the best baseline and the noise ceiling.

    Parameters
    ----------
    ranked
        The summary, the best model first.
    ceiling
        Mean noise ceiling; NaN where it is not known.

    Returns
    -------
    The chart.
    """
    baseline = str(ranked.attrs.get("baseline"))
    columns = ranked[["gene_pearson", "low", "high"]].to_numpy(dtype=np.float64)
    scale = _scale(np.append(columns, ceiling))
    height = TOP + ROW * len(ranked) + BOTTOM
    body = _axis(scale, height)
    if np.isfinite(ceiling):
        body += _line(float(scale.at(ceiling)), height, "ceiling", CEILING)
    if baseline in ranked.index:
        body += _line(float(scale.at(float(ranked["gene_pearson"][baseline]))), height, "baseline", "best baseline")
    for i, (model, (mean, low, high)) in enumerate(zip(ranked.index, columns.tolist(), strict=True)):
        kind = "baseline" if model == baseline else "model"
        body += _label(i, str(model), f"{number(mean)} {_bracketed(low, high)}".strip())
        body += _whisker(scale, i, low, high, kind) + _point(scale, i, mean, kind)
    title = f"Mean gene-wise Pearson r of {len(ranked)} models with 95 % intervals; the numbers are in the table."
    return svg("forest", height, title, body)


def strips(genes: Mapping[str, NDArray[np.float64]], means: Mapping[str, float], baseline: str) -> str:
    """The scores of all genes, one row a model.

    Parameters
    ----------
    genes
        Scores of each model, and of the noise ceiling where it is known.
    means
        The mean of each.
    baseline
        Name of the best baseline.

    Returns
    -------
    The chart.
    """
    scale = _scale(np.concatenate(list(genes.values())))
    height = TOP + ROW * len(genes) + BOTTOM
    body = _axis(scale, height)
    if baseline in means:
        body += _line(float(scale.at(means[baseline])), height, "baseline", "best baseline")
    for i, (name, values) in enumerate(genes.items()):
        kind = "ceiling" if name == CEILING else "baseline" if name == baseline else "model"
        body += _label(i, name, number(means[name]) if np.isfinite(means[name]) else "no score")
        body += _strip(scale, i, values, kind) + _tick(scale, i, means[name], kind)
    title = f"Pearson r of every gene under {len(genes)} rows; a dot is a gene, a box the middle half of the genes."
    return svg("strips", height, title, body)


def dots(xy: NDArray[np.float64], colors: Sequence[str], size: float) -> str:
    """Circles as few paths, one a colour: a tenth of the text of a circle element each.

    Parameters
    ----------
    xy
        ``(n, 2)`` centres.
    colors
        ``(n,)`` colours as CSS writes them.
    size
        Diameter.

    Returns
    -------
    A group of paths.
    """
    paths: dict[str, list[str]] = {}
    for (x, y), color in zip(xy.tolist(), colors, strict=True):
        paths.setdefault(color, []).append(f"M{x:.1f} {y:.1f}h0")
    drawn = "".join(f'<path stroke="{color}" d="{"".join(places)}"/>' for color, places in paths.items())
    return f'<g class="dots" stroke-width="{size:.2f}">{drawn}</g>'


def _scale(values: NDArray[np.float64]) -> Scale:
    """A scale that holds 0 and all values, from one round number to another."""
    finite = values[np.isfinite(values)]
    low, high = min(0.0, float(finite.min())), max(0.1, float(finite.max()))
    step = _step(high - low)
    return Scale(float(np.floor(low / step + 1e-9) * step), float(np.ceil(high / step - 1e-9) * step))


def _step(span: float) -> float:
    return next(step for step in (0.02, 0.05, 0.1, 0.2, 0.5, 1e9) if span / step <= 7)


def _axis(scale: Scale, height: float) -> str:
    """A line at every round number, with the number below it."""
    step = _step(scale.high - scale.low)
    drawn = []
    for value in np.arange(round(scale.low / step), round(scale.high / step) + 1) * step:
        x, kind = float(scale.at(value)), "zero" if abs(value) < 1e-9 else "grid"
        drawn.append(f'<path class="{kind}" d="M{x:.1f} {TOP}V{height - BOTTOM + 4}"/>')
        text = f"{round(value, 9) + 0.0:g}".replace("-", MINUS)
        drawn.append(f'<text class="tick" x="{x:.1f}" y="{height - BOTTOM + 18}">{text}</text>')
    return "".join(drawn)


def _line(x: float, height: float, kind: str, label: str) -> str:
    """A line from top to bottom with its name above it, on the side that has room."""
    anchor = "start" if x < WIDTH / 2 else "end"
    y = 11 if kind == "ceiling" else 24
    return (
        f'<path class="line {kind}" d="M{x:.1f} {y + 3}V{height - BOTTOM + 4}"/>'
        f'<text class="mark" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{label}</text>'
    )


def _label(row: int, name: str, value: str) -> str:
    y = TOP + ROW * row + 14
    shown = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return (
        f'<text x="{EDGE}" y="{y}"><title>{escaped(name)}</title>{escaped(shown)}</text>'
        f'<text class="value" x="{WIDTH - EDGE}" y="{y}">{value}</text>'
    )


def _bracketed(low: float, high: float) -> str:
    between = interval(low, high)
    return f"({between})" if between else ""


def _middle(row: int) -> float:
    return TOP + ROW * row + 25


def _whisker(scale: Scale, row: int, low: float, high: float, kind: str) -> str:
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    y, x0, x1 = _middle(row), float(scale.at(low)), float(scale.at(high))
    return f'<path class="whisker {kind}" d="M{x0:.1f} {y - 4}v8m0 -4H{x1:.1f}m0 -4v8"/>'


def _point(scale: Scale, row: int, mean: float, kind: str) -> str:
    """A circle for a model, a diamond for the best baseline."""
    if not np.isfinite(mean):
        return ""
    x, y = float(scale.at(mean)), _middle(row)
    if kind == "baseline":
        return f'<path class="point {kind}" d="M{x:.1f} {y - 6}l6 6l-6 6l-6 -6z"/>'
    return f'<circle class="point {kind}" cx="{x:.1f}" cy="{y}" r="4.5"/>'


def _strip(scale: Scale, row: int, values: NDArray[np.float64], kind: str) -> str:
    if not len(values):
        return ""
    y = _middle(row)
    low, high = scale.at(np.quantile(values, (0.25, 0.75))).tolist()
    spread = np.random.default_rng(0).uniform(-5, 5, len(values))
    places = "".join(
        f"M{x:.1f} {y + dy:.1f}h0" for x, dy in zip(scale.at(values).tolist(), spread.tolist(), strict=True)
    )
    return (
        f'<rect class="box {kind}" x="{low:.1f}" y="{y - 7}" width="{max(high - low, 0.5):.1f}" height="14"/>'
        f'<path class="genes {kind}" d="{places}"/>'
    )


def _tick(scale: Scale, row: int, mean: float, kind: str) -> str:
    if not np.isfinite(mean):
        return ""
    return f'<path class="mean {kind}" d="M{float(scale.at(mean)):.1f} {_middle(row) - 8}v16"/>'
