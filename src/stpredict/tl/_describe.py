"""State in a predictor what it was trained on, and how good it is on groups that were left out."""

from __future__ import annotations

from dataclasses import fields, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from ..datasets.cohort_records import Cohort
from . import _errors as check
from ._summary import summary

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from ._predictor.predictor import Predictor

SCORES = ("gene_pearson", "best50", "spot_pearson", "rmse")
"""Scores that the model card shows."""
BASELINES = ("mean_profile", "ridge_color")


@public
def describe(
    predictor: Predictor,
    cohort: Cohort | Mapping[str, str] | None = None,
    scores: pd.DataFrame | None = None,
) -> Predictor:
    """Record what a predictor was trained on and how good it is on held-out groups, for its model card.

    Parameters
    ----------
    predictor
        The predictor; it is left as it is.
    cohort
        Tissue, platform, licence and citation of the data: a `stp.datasets.Cohort`, or a mapping of its fields. None
        keeps what is recorded.
    scores
        What `cross_validate` returned for the same model on the slides that the predictor was trained on. None keeps
        what is recorded.

    Returns
    -------
    A new predictor with the same predictions; `Predictor.save` writes the card. ``provenance.cohort`` and
    ``provenance.held_out`` have what was recorded.

    Raises
    ------
    ValueError
        If the scores are of another model, or of groups that the predictor was not trained on.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
    >>> predictor = stp.tl.fit(sdata, "mean_profile", config={"progress": False})
    >>> described = stp.tl.describe(predictor, stp.datasets.Cohort(organ="made up", licence="CC0-1.0"))
    >>> described.provenance.cohort["organ"]
    'made up'
    """
    check.is_predictor(predictor, "stp.tl.describe(predictor, cohort, scores)")
    provenance = predictor.provenance
    recorded: dict[str, Any] = {"cohort": provenance.cohort, "held_out": provenance.held_out}
    if cohort is not None:
        recorded["cohort"] = as_cohort(cohort).to_dict()
    if scores is not None:
        recorded["held_out"] = _held_out(predictor, scores)
    known = provenance.missing - {name for name, value in recorded.items() if value is not None}
    return replace(predictor, provenance=replace(provenance, **recorded, missing=known))


def as_cohort(given: Cohort | Mapping[str, str]) -> Cohort:
    """A cohort, from itself or its fields."""
    if isinstance(given, Cohort):
        return given
    check_config.known_fields("`cohort`", list(given), [each.name for each in fields(Cohort)])
    return Cohort(**given)


def _held_out(predictor: Predictor, scores: pd.DataFrame) -> dict[str, Any]:
    """Scores of the model and the baselines, ready for JSON; what is not finite is left out."""
    check.cross_validated_scores(list(scores))
    table = summary(scores)
    trained = {str(slide["group"]) for slide in predictor.provenance.slides.values()}
    check.scores_of_predictor(predictor.model, table.index.tolist(), set(scores[keys.GROUP].dropna()) - trained)
    about = table.attrs
    limits = scores[(scores["metric"] == "ceiling") & (scores["model"] == predictor.model)]
    of_slides = limits.groupby([keys.GROUP, keys.SLIDE])["value"].mean()
    unit = [keys.GROUP] if about["unit"] == "patient" else [keys.GROUP, keys.SLIDE]
    ceiling = float(of_slides.groupby(level=unit).mean().mean())
    values = table[list(SCORES)].to_dict(orient="index")
    rows = {"model": predictor.model, **{name: name for name in BASELINES}}
    return {
        "unit": str(about["unit"]),
        "n_units": int(about["n_units"]),
        "leaks": bool(about["leaks"]),
        **({"ceiling": ceiling} if isfinite(ceiling) else {}),
        "rows": {
            row: {str(score): float(value) for score, value in values[name].items() if isfinite(value)}
            for row, name in rows.items()
            if name in values
        },
    }
