"""Maps of a report: held-out predictions of all models on one section, as inline SVG, measured first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _keys as keys
from ..pl._comparison import agreement, joint_components
from ..pl._components import colors_of
from .charts import dots, ramp
from .text import broken, escaped, number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..pl._comparison import Section

WIDTH = 200
MOST_SPOTS, MOST_DOTS = 3_000, 48_000
"""Spots that a map shows at most, and all maps of one kind together: what keeps the file below a few MB."""
N_COLORS = 32
ROBUST = (0.01, 0.99)
SPOT = 0.9
"""Diameter of dots in distances between neighbouring spots."""
MISSING = "#bbb"
LENGTHS_UM = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)


def gene_maps(found: Section, gene: str) -> str:
    """One gene on one section: measured, and predicted by every model.

    Parameters
    ----------
    found
        The section.
    gene
        The gene.

    Returns
    -------
    Figures and a colour bar, as HTML.
    """
    values = found.of_gene(gene)
    ends = [np.nanquantile(part, ROBUST) for part in values.values() if np.isfinite(part).any()]
    low, high = min(float(end[0]) for end in ends), max(float(end[1]) for end in ends)
    spread = (high - low) or 1.0
    colors = {name: _ramped((part - low) / spread) for name, part in values.items()}
    notes = {name: _agreement(values[keys.OBSERVED], part) for name, part in values.items() if name != keys.OBSERVED}
    return _grid(found, colors, notes, f"expression of {gene}") + _bar(low, high, gene)


def component_maps(found: Section) -> str:
    """All genes of one section as colour: measured, and predicted by every model.

    Parameters
    ----------
    found
        The section.

    Returns
    -------
    Figures as HTML.
    """
    parts, share = joint_components(found)
    colors = {name: _hex(colors_of(scores, share)) for name, scores in parts.items()}
    return _grid(found, colors, {}, "three principal components as red, green and blue")


def n_shown(found: Section) -> int:
    """How many spots of a section its maps show.

    Parameters
    ----------
    found
        The section.

    Returns
    -------
    All of them, or as many as keep the file small.
    """
    return min(len(found.xy), MOST_SPOTS, MOST_DOTS // (1 + len(found.predicted)))


def _agreement(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> str:
    r = agreement(observed, predicted)
    return f"r = {number(r, 'short')}" if np.isfinite(r) else "r not defined"


def _ramped(shares: NDArray[np.float64]) -> list[str]:
    finite = np.isfinite(shares)
    steps = np.rint(np.clip(np.where(finite, shares, 0.0), 0, 1) * (N_COLORS - 1)) / (N_COLORS - 1)
    names = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in ramp(steps).tolist()]
    return [name if known else MISSING for name, known in zip(names, finite.tolist(), strict=True)]


def _hex(colors: NDArray[np.float64]) -> list[str]:
    """Colours of sixteen steps a channel, three letters each."""
    return [f"#{r:x}{g:x}{b:x}" for r, g, b in np.rint(15 * colors).astype(int).tolist()]


def _grid(found: Section, colors: Mapping[str, list[str]], notes: Mapping[str, str], what: str) -> str:
    n = len(found.xy)
    rows = np.sort(np.random.default_rng(0).permutation(n)[: n_shown(found)])
    low, high = found.xy.min(axis=0) - found.pitch, found.xy.max(axis=0) + found.pitch
    unit = WIDTH / (high[0] - low[0])
    xy, size = (found.xy[rows] - low) * unit, found.pitch * SPOT * unit * np.sqrt(n / len(rows))
    height = (high[1] - low[1]) * unit
    figures = [
        f'<figure><svg width="100%" viewBox="0 0 {WIDTH} {height:.1f}" role="img" '
        f'aria-label="{escaped(f"Map of {what}, {name}")}">{dots(xy, [part[row] for row in rows], size)}</svg>'
        f"<figcaption>{_caption(name, notes, found, unit)}</figcaption></figure>"
        for name, part in colors.items()
    ]
    return f'<div class="maps">{"".join(figures)}</div>'


def _caption(name: str, notes: Mapping[str, str], found: Section, unit: float) -> str:
    if name == keys.OBSERVED:
        return f"<b>observed</b>{_scale_bar(found, unit)}"
    note = f"<span>{notes[name]}</span>" if name in notes else ""
    return f"<b>{broken(name)}</b>{note}"


def _scale_bar(found: Section, unit: float) -> str:
    """A round length, a quarter of the map at most; nothing where lengths are not known."""
    fitting = [length for length in LENGTHS_UM if length * unit <= WIDTH / 4]
    if not found.in_um or not fitting:
        return ""
    length = fitting[-1]
    label = f"{length} µm" if length < 1000 else f"{length // 1000} mm"
    return f'<i class="length" style="width:{100 * length * unit / WIDTH:.1f}%"></i><span>{label}</span>'


def _bar(low: float, high: float, gene: str) -> str:
    """From the lowest to the highest colour."""
    colors = ",".join(_ramped(np.linspace(0, 1, 9)))
    return (
        f'<p class="bar"><span>{number(low, "short")}</span><i style="background:linear-gradient(90deg,{colors})"></i>'
        f"<span>{number(high, 'short')}</span> {escaped(gene)}</p>"
    )
