"""Which models are trained together, with which weights and options: everything is checked before training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from ..._checks.names import duplicates
from ..._checks.slides import quote
from ...models.registry import accepts_embeddings, ensemble

if TYPE_CHECKING:
    from collections.abc import Iterable

    Weights = Literal["equal", "stacked"] | Sequence[float] | Mapping[str, float]

EQUAL, STACKED = "equal", "stacked"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleSpec:
    """The members of an ensemble; a single model is an ensemble of one."""

    name: str
    """Name of the model, of the registered ensemble, or of all models of a list."""
    models: tuple[str, ...]
    """Names of the models."""
    weights: tuple[float, ...]
    """Weight of each model; they sum to 1. Equal where they will be stacked."""
    origin: str
    """Where the weights come from: ``"registered"``, ``"given"``, ``"equal"`` or ``"stacked"``."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields of the configuration of each model to change."""

    @property
    def takes_embeddings(self) -> bool:
        """Whether any member can use embeddings that come with the spots."""
        return any(accepts_embeddings(model, self.options.get(model, {})) for model in self.models)


def ensemble_of(
    model: str | Sequence[str], weights: Weights | None = None, options: Mapping[str, Any] | None = None
) -> EnsembleSpec:
    """The ensemble that `fit` is asked for; a list of one name is that name."""
    names = [model] if isinstance(model, str) or not isinstance(model, Sequence) else list(model)
    if not names:
        msg = "`model` is an empty list. Name at least one model (`stp.models.available()`)."
        raise ValueError(msg)
    row = ensemble(names[0])
    if row is None or len(names) > 1:
        _check_members(names)
        own: Mapping[str, Mapping[str, Any]] = {}
        given, origin = None, EQUAL
    else:
        own, given, origin = row.options, list(row.members.values()), "registered"
    name, models = "+".join(names), names if row is None or len(names) > 1 else list(row.members)
    if weights is not None:
        origin = weights if isinstance(weights, str) else "given"
        given = _checked_weights(weights, models, name)
    shares = given or [1.0] * len(models)
    return EnsembleSpec(
        name=name,
        models=tuple(models),
        weights=tuple(share / sum(shares) for share in shares),
        origin=origin,
        options={each: {**own.get(each, {}), **mine} for each, mine in _member_options(options, models, name).items()},
    )


def _check_members(names: Sequence[str]) -> None:
    """Refuse unknown and doubled models, and ensembles within a list."""
    for name in names:
        if (row := ensemble(name)) is not None:
            msg = (
                f"{name!r} is an ensemble itself, so it is not a member of another. List its members: "
                f"{quote(list(row.members))}."
            )
            raise ValueError(msg)
    if twice := duplicates(names):
        msg = (
            f"{quote(twice)} is in the list of models more than once (found: {quote(names)}). List each model once; "
            "`config={'n_members': 2}` trains each of them twice, with other seeds."
        )
        raise ValueError(msg)


def _checked_weights(weights: Weights, models: Sequence[str], name: str) -> list[float] | None:
    """A weight above or equal to 0 for each model; None for equal and stacked weights."""
    if isinstance(weights, str):
        if weights not in (EQUAL, STACKED):
            msg = f"`weights` is {weights!r}. Give 'equal', 'stacked', one number for each member, or a mapping."
            raise ValueError(msg)
        return None
    if isinstance(weights, Mapping):
        if unknown := sorted(set(map(str, weights)) - set(models)):
            _unknown_member("weights", unknown, models, name)
        values: list[Any] = [weights.get(model, 0.0) for model in models]
    else:
        values = list(weights)
        if len(values) != len(models):
            msg = (
                f"`weights` has {len(values)} number(s), and {name!r} has {len(models)} member(s): {quote(models)}. "
                "Give one number for each, in this order, or a mapping."
            )
            raise ValueError(msg)
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, Real)]
    if wrong or any(not math.isfinite(value) or value < 0 for value in values) or not any(values):
        msg = (
            f"`weights` is {dict(zip(models, values, strict=True))}. Give numbers of at least 0, not all of them 0; "
            "they are divided by their sum."
        )
        raise ValueError(msg)
    return [float(value) for value in values]


def _member_options(
    options: Mapping[str, Any] | None, models: Sequence[str], name: str
) -> dict[str, Mapping[str, Any]]:
    """Options by model: those of a single model are given as they are, those of members by their names."""
    if [name] == list(models):
        return {name: dict(options or {})}
    given = dict(options or {})
    if unknown := sorted(set(map(str, given)) - set(models)):
        _unknown_member("model_options", unknown, models, name)
    if wrong := [each for each, value in given.items() if not isinstance(value, Mapping)]:
        msg = f"`model_options[{wrong[0]!r}]` is {given[wrong[0]]!r}. Give a mapping of fields to values."
        raise TypeError(msg)
    return {model: dict(given.get(model, {})) for model in models}


def _unknown_member(argument: str, unknown: Iterable[str], models: Sequence[str], name: str) -> None:
    msg = (
        f"`{argument}` names {quote(list(unknown))}, and the members of the ensemble {name!r} are {quote(models)}. "
        f"Name members, for instance `{argument}={{{models[0]!r}: …}}`."
    )
    raise ValueError(msg)
