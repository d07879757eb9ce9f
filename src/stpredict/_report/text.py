"""What a report says in words: who wins and how surely, what columns mean, numbers with their units."""

from __future__ import annotations

import html
import math
import re
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from ..metrics.scores import SUMMARY_SCORES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..metrics.scores import Score

FORMATS = {"score": ".3f", "signed": "+.3f", "short": ".2f"}
LEAST_UNITS = 6
"""Units from which it is rarer than one time in twenty that all differences have one sign by chance."""
ONE_SIGN = f"Of fewer than {LEAST_UNITS}, all differences have one sign by chance more often than one time in twenty."
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


class Column(NamedTuple):
    """A column of a table, in plain words."""

    name: str
    """In the summary."""
    title: str
    kind: str
    """How its numbers are written: ``"score"``, ``"signed"``, ``"share"``, ``"count"``, ``"speed"`` or ``"short"``."""
    meaning: str


DIFFERENCE = Column(
    "difference",
    "minus best baseline",
    "signed",
    "Gene-wise r minus that of the best baseline, paired: both are scored on the same held-out data.",
)


def _column(score: Score) -> Column:
    direction = "" if score.higher_is_better else " Lower is better."
    return Column(score.name, score.label, "share" if score.percent else "score", score.meaning + direction)


RANKING, *_OTHERS = map(_column, SUMMARY_SCORES)
SCORES = (RANKING, DIFFERENCE, *_OTHERS)
"""The score that models are ranked by, its difference from the best baseline, all other scores."""
COSTS = (
    Column("parameters", "parameters", "count", "Numbers that the network holds."),
    Column("macs", "MACs per spot", "count", "Multiply-accumulate operations to predict one spot."),
    Column("train_spots_per_s", "training, spots/s", "speed", "Spots that training goes through in a second."),
    Column("predict_spots_per_s", "prediction, spots/s", "speed", "Spots that are predicted in a second."),
    Column("peak_memory_mib", "peak memory, MiB", "speed", "Most memory that was held at a time."),
)


def escaped(value: object) -> str:
    """Text that means nothing to HTML, in elements and in attributes.

    Parameters
    ----------
    value
        Anything; in this module and its neighbours whatever was not written here.

    Returns
    -------
    Its text.
    """
    return html.escape(str(value), quote=True)


def broken(name: object) -> str:
    """A name that may be broken after underscores and dots.

    Parameters
    ----------
    name
        The name.

    Returns
    -------
    Its text, escaped.
    """
    return re.sub(r"([_.])", r"\1<wbr>", escaped(name))


def number(value: float, kind: str = "score") -> str:
    """A number as tables show it.

    Parameters
    ----------
    value
        The number; NaN is a dash.
    kind
        See `Column`.

    Returns
    -------
    Its text.
    """
    if math.isnan(value):
        return DASH
    if kind == "share":
        text = f"{100 * value:.0f} %"
    elif kind == "count":
        text = _short(value)
    elif kind == "speed":
        text = f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2g}"
    else:
        text = f"{value:{FORMATS[kind]}}"
    return text.replace("-", MINUS)


def interval(low: float, high: float, kind: str = "score") -> str:
    """An interval in words.

    Parameters
    ----------
    low, high
        Its ends.
    kind
        How they are written.

    Returns
    -------
    Its text; empty where an end is NaN.
    """
    return "" if math.isnan(low) or math.isnan(high) else f"{number(low, kind)} to {number(high, kind)}"


def counted(n: int, one: str) -> str:
    """A number of things.

    Parameters
    ----------
    n
        How many.
    one
        What one of them is called.

    Returns
    -------
    Number and noun, in the plural where it is due.
    """
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"


def listed(names: Sequence[object], most: int = 20) -> str:
    """Names of things, escaped.

    Parameters
    ----------
    names
        The names.
    most
        How many are told.

    Returns
    -------
    Their text.
    """
    told = ", ".join(escaped(name) for name in names[:most])
    return told + (f" and {len(names) - most:,} more" if len(names) > most else "")


def verdict(ranked: pd.DataFrame) -> list[str]:
    """Who wins, and how sure that is.

    Parameters
    ----------
    ranked
        The summary, the best model first, with its attributes ``baseline``, ``unit`` and ``n_units``.

    Returns
    -------
    Sentences in HTML, the first the shortest.
    """
    best, baseline = str(ranked.index[0]), ranked.attrs.get("baseline")
    if len(ranked) == 1:
        said = [f"One model was scored, {_strong(best)}, so there is nothing to compare it with."]
    elif baseline is None or baseline not in ranked.index:
        said = [f"{_strong(best)} scores highest. No baseline took part, so nothing says whether that is much."]
    elif best == baseline:
        said = [f"No model beats the best baseline, {_strong(best)}."]
    else:
        said = _against(ranked, best, str(baseline))
    return [*said, *_score(ranked), *_certainty(ranked)]


def _against(ranked: pd.DataFrame, best: str, baseline: str) -> list[str]:
    """The best model against the best baseline."""
    row, unit = ranked.iloc[0], escaped(ranked.attrs.get("unit", "section"))
    n_units = int(ranked.attrs.get("n_units", 0))
    between = interval(row["difference_low"], row["difference_high"], "signed")
    by = f"It is {number(row['difference'], 'signed')} gene-wise r over {_strong(baseline)}, the best baseline"
    if not between:
        return [f"{_strong(best)} scores highest; whether by more than chance is not known.", f"{by}."]
    told = f"{by}; the 95 % interval over {unit}s is {between}."
    sure = [str(name) for name in ranked.index[ranked["difference_low"] > 0]]
    if not sure:
        return ["No model beats the best baseline by more than chance.", f"{_strong(best)} scores highest. {told}"]
    if n_units < LEAST_UNITS:
        few = f"{counted(n_units, unit)} are too few to rule out chance."
        return [f"{_strong(best)} scores highest; {few}", f"{told} {ONE_SIGN}"]
    if best not in sure:
        return [f"{_strong(best)} scores highest, but not by more than chance over the best baseline.", told,
                f"Above it by more than chance: {listed(sure)}."]  # fmt: skip
    return [f"{_strong(best)} wins.", told]


def _score(ranked: pd.DataFrame) -> list[str]:
    row = ranked.iloc[0]
    between = interval(row["low"], row["high"])
    share = row["share_of_ceiling"]
    told = f"Its mean gene-wise r is {number(row['gene_pearson'])}" + (f" ({between})" if between else "")
    reached = "" if pd.isna(share) else f", {number(share, 'share')} of what the noise of the counts allows"
    return [f"{told}{reached}."]


def _certainty(ranked: pd.DataFrame) -> list[str]:
    """What keeps the ranking from being the last word."""
    n_units, unit = int(ranked.attrs.get("n_units", 0)), escaped(ranked.attrs.get("unit", "section"))
    if pd.isna(ranked["low"].iloc[0]):
        return [f"No interval can be given for {counted(n_units, unit)}. The order may be chance."]
    others = ranked.iloc[1:]
    close = others.index[others["high"] > ranked["low"].iloc[0]].tolist()
    said = [f"Intervals are over {counted(n_units, unit)}."]
    if close:
        said.append(f"Intervals overlap with that of {listed(close)}: this does not tell them apart.")
    if len(ranked) > 2:
        said.append(f"They do not allow for having picked the best of {len(ranked)}.")
    return said


def _strong(name: str) -> str:
    return f"<strong>{escaped(name)}</strong>"


def _short(value: float) -> str:
    """Three digits and a word for the power of a thousand."""
    if abs(value) < 1000:
        return f"{value:.0f}"
    power = min(int(math.log10(abs(value)) // 3), 4)
    return f"{value / 1000**power:.3g} {('', 'thousand', 'million', 'billion', 'trillion')[power]}"
