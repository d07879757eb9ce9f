"""One row of a comparison: a model, and how it departs from its published recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from ..._checks import comparison as check
from ..._train.config import FitConfig, fit_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._geometry import PatchSpec
    from ...pp.targets import TargetSpec

BASELINES = ("mean_profile", "ridge_color")
"""Models that every benchmark contains."""
OF_TARGET = ("standardize", "n_components", "center")
"""Fields of a target that do not change its units."""
FIXED = ("seed", "progress")
"""Fields of a training that the benchmark sets."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a benchmark: a model and what is particular about it.

    Training options are settled in this order, the last word counts: the defaults of `stp.tl.FitConfig`, the model's
    `stp.models.recipe`, ``config`` of `stp.tl.benchmark`, ``recipe`` here.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.tl.Entry("m2ost_tiny", options={"depth": 3}, recipe={"n_epochs": 5}).model
    'm2ost_tiny'
    """

    model: str
    """Name of the model, as `stp.models.available` lists it."""
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Fields of the model's configuration to change."""
    recipe: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Fields of `stp.tl.FitConfig` to change, for this row only."""
    target: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Fields of `stp.pp.TargetSpec` to change: ``standardize``, ``n_components`` or ``center``. Units are common."""
    patch: PatchSpec | None = field(default=None, kw_only=True)
    """Fields of view; by default the model's multiples of the spot diameter."""
    n_views: int = field(default=1, kw_only=True)
    """Flips and turns that a prediction is the mean of."""

    def __post_init__(self) -> None:
        options = [each.name for each in fields(FitConfig) if each.name not in FIXED]
        check.known_fields("`recipe` of an entry", list(self.recipe), options)
        check.known_fields("`target` of an entry", list(self.target), OF_TARGET)

    def fit_config(self, common: Mapping[str, Any], seed: int) -> FitConfig:
        """How this row is trained.

        Parameters
        ----------
        common
            Fields given for all rows.
        seed
            The seed.

        Returns
        -------
        All fields.
        """
        return fit_config({**common, **self.recipe, "seed": seed, "progress": False}, self.model)

    def target_spec(self, common: TargetSpec) -> TargetSpec:
        """What this row regresses.

        Parameters
        ----------
        common
            The target of all rows.

        Returns
        -------
        One of the same units.
        """
        return replace(common, **self.target)


def entries_of(models: Sequence[str] | Mapping[str, str | Entry]) -> dict[str, Entry]:
    """Rows by label, the baselines first.

    Parameters
    ----------
    models
        Names of models, or a mapping of labels to names or entries.

    Returns
    -------
    Entries by label.
    """
    given = list(models.items()) if isinstance(models, Mapping) else [(name, name) for name in _names(models)]
    check.some_models([label for label, _ in given])
    rows = {label: Entry(value) if isinstance(value, str) else value for label, value in given}
    for label, value in rows.items():
        check.is_entry(str(label), value, Entry)
    check.labels([str(label) for label, _ in given])
    return {**{name: Entry(name) for name in BASELINES}, **rows}


def _names(models: Sequence[str]) -> list[str]:
    return [models] if isinstance(models, str) else list(models)


def common_fields(config: FitConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    """Training options that are given for all rows.

    Parameters
    ----------
    config
        A mapping, all of which counts; or a configuration, of which counts what is not the default.

    Returns
    -------
    Fields by name.
    """
    if isinstance(config, FitConfig):
        plain = FitConfig()
        pairs = ((each.name, getattr(config, each.name)) for each in fields(FitConfig))
        return {name: value for name, value in pairs if name not in FIXED and value != getattr(plain, name)}
    given = dict(config or {})
    known = [each.name for each in fields(FitConfig) if each.name not in FIXED]
    check.known_fields("`config`", list(given), known)
    return given
