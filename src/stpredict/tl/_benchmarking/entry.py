"""One row of a benchmark: a model, and how it departs from its published recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..._checks import config as check_config
from ..._checks.names import duplicates
from ..._checks.paths import LONGEST_NAME, no_folder_names
from ..._checks.slides import quote
from ..._train.config import TRAINING_FIELDS, given_fields
from .._training.ensemble import ensemble_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._geometry import PatchSpec
    from ..._train.config import FitConfig
    from ...pp.targets import TargetSpec
    from .._training.ensemble import EnsembleSpec, Weights

BASELINES = ("mean_profile", "ridge_color")
"""Models that every benchmark contains."""
TARGET_FIELDS = ("standardize", "n_components", "center")
"""Fields of a target that do not change its units."""
RESERVED = ("seed", "progress")
"""Training options that the benchmark sets itself."""
OPTIONS = tuple(name for name in TRAINING_FIELDS if name not in RESERVED)
"""Training options of a row."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a benchmark: a model or an ensemble, and its own options.

    Training options are merged in this order, later ones override earlier ones: the defaults of `stp.tl.FitConfig`, the
    model's `stp.models.recipe`, ``config`` of `stp.tl.benchmark`, ``recipe`` here.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.tl.Entry("m2ost_tiny", options={"depth": 3}, recipe={"n_epochs": 5}).model
    'm2ost_tiny'
    """

    model: str | Sequence[str]
    """Name of the model or ensemble, as `stp.models.available` lists it, or a list of models."""
    weights: Weights | None = field(default=None, kw_only=True)
    """Weights of the models of an ensemble, as in `stp.tl.fit`."""
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Fields of the model's configuration to change; of an ensemble by model."""
    recipe: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Fields of `stp.tl.FitConfig` to change, for this row only."""
    target: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Fields of `stp.pp.TargetSpec` to change: ``standardize``, ``n_components`` or ``center``. Units are shared."""
    patch: PatchSpec | None = field(default=None, kw_only=True)
    """Fields of view; by default the model's multiples of the spot diameter."""
    n_views: int = field(default=1, kw_only=True)
    """Number of flips and turns of the patches whose predictions are averaged."""

    def __post_init__(self) -> None:
        check_config.known_fields("`recipe` of an entry", list(self.recipe), OPTIONS)
        check_config.known_fields("`target` of an entry", list(self.target), TARGET_FIELDS)

    @property
    def ensemble(self) -> EnsembleSpec:
        """The models of this row, with weights and options."""
        return ensemble_of(self.model, self.weights, self.options)

    def training_options(self, common: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Training options of this row, which change the recipe of its model.

        Parameters
        ----------
        common
            Fields given for all rows.
        seed
            The seed.

        Returns
        -------
        Fields of `stp.tl.FitConfig` by name.
        """
        return {**common, **self.recipe, "seed": seed, "progress": False}

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


def entries_of(models: Sequence[str] | Mapping[str, str | Sequence[str] | Entry]) -> dict[str, Entry]:
    """Rows by label, the baselines first."""
    if isinstance(models, str):
        models = [models]
    given = list(models.items()) if isinstance(models, Mapping) else [(name, name) for name in models]
    if not given:
        msg = "`models` is empty. Name some, for instance `['m2ost_tiny', 'encoder_ridge']` (`stp.models.available()`)."
        raise ValueError(msg)
    rows: dict[str, Any] = {
        label: Entry(value) if isinstance(value, str | list | tuple) else value for label, value in given
    }
    for label, value in rows.items():
        if not isinstance(value, Entry):
            msg = (
                f"{str(label)!r} is {type(value).__name__}; give the name of a model, a list of names, or "
                "`stp.tl.Entry(model=...)`."
            )
            raise TypeError(msg)
    names = [str(label) for label, _ in given]
    if twice := duplicates(names):
        msg = f"Several models are called {quote(twice)}. Give a mapping of labels to `stp.tl.Entry(...)`."
        raise ValueError(msg)
    wrong = no_folder_names(names) + [name for name in names if name[:1] == "_" or set(name) & set(':*?"<>|')]
    if wrong:
        msg = (
            f"{quote(wrong)} cannot be the name of a folder. Give labels of at most {LONGEST_NAME} bytes, without "
            "slashes and line breaks, not beginning with . or _."
        )
        raise ValueError(msg)
    return {**{name: Entry(name) for name in BASELINES}, **rows}


def common_fields(config: FitConfig | Mapping[str, Any] | None) -> dict[str, Any]:
    """Training options given for all rows."""
    return given_fields(config, OPTIONS)
