"""The words and numbers of a report: the verdict with its certainty, columns in plain words, numbers as text."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from markupsafe import Markup, escape

from ..metrics.scores import SUMMARY_SCORES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..metrics.scores import Score

FORMATS = {"score": ".3f", "signed": "+.3f", "short": ".2f"}
MIN_UNITS = 6
"""Number of units from which all differences have the same sign by chance less than once in twenty."""
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


class Column(NamedTuple):
    """A column of a table, in plain words."""

    name: str
    """In the summary."""
    label: str
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
    Column("parameters", "parameters", "count", "Number of parameters of the network."),
    Column("macs", "MACs per spot", "count", "Multiply-accumulate operations to predict one spot."),
    Column("train_spots_per_s", "training, spots/s", "speed", "Spots processed per second of training."),
    Column("predict_spots_per_s", "prediction, spots/s", "speed", "Spots predicted per second."),
    Column("peak_memory_mib", "peak memory, MiB", "speed", "Largest amount of memory in use at one time."),
)


def breakable(name: object) -> Markup:
    """A name that a browser may break after underscores and dots."""
    return Markup(re.sub(r"([_.])", r"\1<wbr>", str(escape(name))))


def number(value: float, kind: str = "score") -> str:
    """A number as tables show it; a dash for NaN. For ``kind`` see `Column`."""
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
    """An interval as text; empty where an end is NaN."""
    return "" if math.isnan(low) or math.isnan(high) else f"{number(low, kind)} to {number(high, kind)}"


def count_noun(n: int, noun: str) -> str:
    """A number and its noun, in the plural where needed."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def join_names(names: Sequence[object], limit: int = 20) -> str:
    """Names separated by commas, at most ``limit`` of them."""
    text = ", ".join(str(name) for name in names[:limit])
    return text + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def verdict(summary: pd.DataFrame) -> list[Markup]:
    """Which model wins and how certain that is, for a summary whose first row is the best; the main sentence first."""
    best, baseline = str(summary.index[0]), summary.attrs.get("baseline")
    strong = Markup("<strong>{}</strong>").format
    if len(summary) == 1:
        sentences = [Markup("Only one model was scored, {}, so there is no comparison.").format(strong(best))]
    elif baseline is None or baseline not in summary.index:
        text = "{} scores highest. No baseline took part, so it is unknown whether that score is high."
        sentences = [Markup(text).format(strong(best))]
    elif best == baseline:
        sentences = [Markup("No model beats the best baseline, {}.").format(strong(best))]
    else:
        sentences = _against_baseline(summary, strong(best), strong(baseline))
    return [*sentences, _score(summary), *_certainty(summary)]


def _against_baseline(summary: pd.DataFrame, best: Markup, baseline: Markup) -> list[Markup]:
    """Sentences on the best model (the first row) against the best baseline."""
    row, unit = summary.iloc[0], summary.attrs.get("unit", "section")
    n_units = int(summary.attrs.get("n_units", 0))
    difference = Markup("Its gene-wise r differs by {} from that of {}, the best baseline").format(
        number(row["difference"], "signed"), baseline
    )
    limits = interval(row["difference_low"], row["difference_high"], "signed")
    if not limits:
        return [
            Markup("{} scores highest; it is not known whether by more than chance.").format(best),
            Markup("{}.").format(difference),
        ]
    difference = Markup("{}; the 95 % interval over {}s is {}.").format(difference, unit, limits)
    better = [str(name) for name in summary.index[summary["difference_low"] > 0]]
    if not better:
        first = Markup("No model beats the best baseline by more than chance.")
        return [first, Markup("{} scores highest. {}").format(best, difference)]
    if n_units < MIN_UNITS:
        first = Markup("{} scores highest; {} are too few to rule out chance.").format(best, count_noun(n_units, unit))
        text = "{} With fewer than {} units, all differences have the same sign by chance more than once in twenty."
        return [first, Markup(text).format(difference, MIN_UNITS)]
    if str(summary.index[0]) not in better:
        first = Markup("{} scores highest, but not above the best baseline by more than chance.").format(best)
        return [first, difference, Markup("Above the baseline by more than chance: {}.").format(join_names(better))]
    return [Markup("{} wins.").format(best), difference]


def _score(summary: pd.DataFrame) -> Markup:
    """The score of the best model, and its share of the noise ceiling."""
    row = summary.iloc[0]
    limits, share = interval(row["low"], row["high"]), row["share_of_ceiling"]
    text = f"Its mean gene-wise r is {number(row['gene_pearson'])}" + (f" ({limits})" if limits else "")
    return escape(text + ("." if pd.isna(share) else f", {number(share, 'share')} of the noise ceiling."))


def _certainty(summary: pd.DataFrame) -> list[Markup]:
    """Sentences on what limits the ranking."""
    n_units, unit = int(summary.attrs.get("n_units", 0)), summary.attrs.get("unit", "section")
    if pd.isna(summary["low"].iloc[0]):
        return [escape(f"No interval can be given for {count_noun(n_units, unit)}. The order may be chance.")]
    others = summary.iloc[1:]
    overlapping = others.index[others["high"] > summary["low"].iloc[0]].tolist()
    sentences = [f"Intervals are over {count_noun(n_units, unit)}."]
    if overlapping:
        sentences.append(f"Its interval overlaps with those of {join_names(overlapping)}, so they may be equally good.")
    if len(summary) > 2:
        sentences.append(f"The intervals do not correct for choosing the best of {len(summary)} models.")
    return [escape(sentence) for sentence in sentences]


def _short(value: float) -> str:
    """Three digits and a word for the power of a thousand."""
    if abs(value) < 1000:
        return f"{value:.0f}"
    power = min(int(math.log10(abs(value)) // 3), 4)
    return f"{value / 1000**power:.3g} {('', 'thousand', 'million', 'billion', 'trillion')[power]}"
