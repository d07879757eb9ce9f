"""Tables of a report. Each scrolls in a box of its own, so that the page does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .charts import cell_colors
from .text import COSTS, DASH, SCORES, broken, escaped, interval, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from .text import Column


def boxed(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table in a box that scrolls.

    Parameters
    ----------
    caption
        What it shows.
    head
        Titles of columns.
    rows
        Cells as HTML; the first of a row is its title.
    kind
        Class of the table.

    Returns
    -------
    The element.
    """
    titles = "".join(f'<th scope="col"><span>{title}</span></th>' for title in head)
    body = "".join(
        f'<tr><th scope="row">{cells[0]}</th>{"".join(_cell(cell) for cell in cells[1:])}</tr>' for cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}">'
        f'<table class="{kind}"><caption>{escaped(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: str) -> str:
    return cell if cell.startswith("<td") else f"<td>{cell}</td>"


def scores_table(ranked: pd.DataFrame) -> str:
    """The summary, and what its columns mean.

    Parameters
    ----------
    ranked
        The summary, the best model first.

    Returns
    -------
    HTML.
    """
    shown = [column for column in SCORES if _known(ranked, column)]
    rows = []
    for model, row in ranked.iterrows():
        mark = " (best baseline)" if model == ranked.attrs.get("baseline") else ""
        rows.append([f"{broken(model)}{mark}", *(_with_interval(row, column) for column in shown)])
    return boxed("Scores, the best model first", ["model", *(column.title for column in shown)], rows) + _meanings(
        shown
    )


def costs_table(ranked: pd.DataFrame, fit_s: pd.Series) -> str:
    """What models cost.

    Parameters
    ----------
    ranked
        The summary.
    fit_s
        Mean seconds that a training took, by model.

    Returns
    -------
    HTML.
    """
    shown = [column for column in COSTS if _known(ranked, column)]
    head = ["model", *(column.title for column in shown), "training, s"]
    rows = [
        [
            broken(model),
            *(number(row[column.name], column.kind) for column in shown),
            number(fit_s.get(model, np.nan), "speed"),
        ]
        for model, row in ranked.iterrows()
    ]
    return boxed("Cost of every model", head, rows) + _meanings(shown)


def genes_table(genes: pd.DataFrame) -> str:
    """Scores of genes under every model, as coloured cells.

    Parameters
    ----------
    genes
        ``(n_genes, n_models)``.

    Returns
    -------
    HTML.
    """
    values = genes.to_numpy(dtype=np.float64)
    low, high = min(0.0, float(np.nanmin(values))), float(np.nanmax(values))
    shares = (values - low) / ((high - low) or 1.0)
    rows = [[escaped(gene), *_colored(values[i], shares[i])] for i, gene in enumerate(genes.index)]
    return boxed("Pearson r of genes under every model", ["gene", *map(escaped, genes.columns)], rows, "genes")


def _colored(values: np.ndarray, shares: np.ndarray) -> list[str]:
    styles = cell_colors(np.nan_to_num(shares))
    return [
        f'<td style="{style}">{number(value, "short")}</td>' if np.isfinite(value) else f"<td>{DASH}</td>"
        for value, style in zip(values.tolist(), styles, strict=True)
    ]


def _known(ranked: pd.DataFrame, column: Column) -> bool:
    return column.name in ranked.columns and bool(ranked[column.name].notna().any())


def _with_interval(row: pd.Series, column: Column) -> str:
    """A number, and below it the interval where the column has one."""
    ends = {"gene_pearson": ("low", "high"), "difference": ("difference_low", "difference_high")}.get(column.name)
    text = number(row[column.name], column.kind)
    between = "" if ends is None else interval(row[ends[0]], row[ends[1]], column.kind)
    return f"{text}<small>{between}</small>" if between else text


def _meanings(shown: Sequence[Column]) -> str:
    items = "".join(f"<dt>{escaped(column.title)}</dt><dd>{escaped(column.meaning)}</dd>" for column in shown)
    return f"<details open><summary>What the columns mean</summary><dl>{items}</dl></details>"
