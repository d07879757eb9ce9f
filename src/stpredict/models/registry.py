"""Named models: their configurations, their networks, and both as JSON. Networks are imported when they are needed.

Shared machinery without an underscore: `tl` asks it about the fields of configurations.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from .._checks import models as check
from .._checks.calls import public
from ._variants import DEFAULT, ENSEMBLES, VARIANTS, Variant, timm_network
from .model_config import GIVEN, LATER_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._variants import Ensemble
    from .contract import SpotModel
    from .model_config import ModelConfig

__all__ = [
    "DEFAULT",
    "accepts_embeddings",
    "build",
    "config",
    "config_fields",
    "config_from_dict",
    "config_to_dict",
    "ensemble",
    "named_ensembles",
    "named_variants",
    "recipe",
    "register",
]
_KNOWN: dict[str, Variant] = dict(VARIANTS)
"""All rows: those of the package, and those that users registered."""


@public
def config(name: str, n_outputs: int, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """Configuration of a named model.

    Parameters
    ----------
    name
        A name that ``stp.models.available()`` lists, or any network of timm, which becomes the encoder of a `backbone`.
    n_outputs
        Number of values predicted per spot.
    overrides
        Fields to change.

    Returns
    -------
    The configuration, checked.

    Examples
    --------
    >>> from stpredict import models
    >>> models.config("m2ost_tiny", 250, {"mask_rate": 0.2}).size_px
    112
    """
    variant = _variant_of_name(name)
    return _config(variant, {**variant.overrides, **(overrides or {}), "n_outputs": n_outputs})


@public
def register(
    name: str,
    model: type[SpotModel],
    *,
    citation: str = "",
    overrides: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Register a model of your own under a name, for the current Python session.

    Call it at the end of the module that defines the model. Import that module before you load a predictor of the
    model. Registering a model again replaces its row.

    Parameters
    ----------
    name
        The ``model`` argument of `stp.tl.fit`.
    model
        Class of the network. The dataclass of its configuration, with the same name and the suffix ``Config``, is at
        the top level of the same module.
    citation
        Where it was published.
    overrides
        Fields that differ from the defaults of the configuration.
    recipe
        Fields of `stp.tl.FitConfig` whose defaults for this model differ from those of the class.

    Raises
    ------
    ValueError
        If the name, or a class of that name, is taken, or the dataclass is missing.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.models.register("m2ost_shallow", stp.models.M2OST, overrides={"depth": 1})
    >>> stp.models.config("m2ost_shallow", 250).depth
    1
    """
    from .contract import SpotModel

    check.text("name", name)
    check.model_class(model, SpotModel)
    row = Variant(
        package="",
        module=model.__module__,
        model=model.__name__,
        citation=citation,
        overrides=dict(overrides or {}),
        recipe=dict(recipe or {}),
    )
    taken = {known: other.place for known, other in _KNOWN.items()} | dict.fromkeys(ENSEMBLES, "an ensemble")
    check.free_name(name, row.place, taken, {**VARIANTS, **ENSEMBLES})
    check.config_class(row.place, getattr(_module(row), f"{row.model}Config", None))
    _KNOWN[name] = row


@public
def recipe(name: str) -> dict[str, Any]:
    """Default training options of a named model.

    Parameters
    ----------
    name
        A name that ``stp.models.available()`` lists.

    Returns
    -------
    Fields of `stp.tl.FitConfig` that differ from its defaults.

    Examples
    --------
    >>> from stpredict import models
    >>> models.recipe("m2ost_tiny")
    {'validation': 'none'}
    """
    return dict(_variant_of_name(name).recipe)


def named_variants() -> dict[str, Variant]:
    """All models by name, those that users registered included."""
    return dict(_KNOWN)


def named_ensembles() -> dict[str, Ensemble]:
    """All registered ensembles by name."""
    return dict(ENSEMBLES)


def ensemble(name: Any) -> Ensemble | None:
    """The registered ensemble of a name; None for a model. Names that are neither are refused."""
    if isinstance(name, str) and name in ENSEMBLES:
        return ENSEMBLES[name]
    _variant_of_name(name)
    return None


def config_fields(name: str) -> list[str]:
    """Fields that the configuration of a named model takes."""
    return [each.name for each in fields(_config_class(_variant_of_name(name)))]


def accepts_embeddings(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a named model with these options can use embeddings that come with the spots."""
    return "encoder" in config_fields(name) and options.get("encoder", GIVEN) == GIVEN


@public
def build(config: ModelConfig) -> SpotModel:
    """Build a network with random weights from torch's global generator.

    Parameters
    ----------
    config
        From ``config`` or ``config_from_dict``.

    Returns
    -------
    The network, in training mode, on the CPU.

    Examples
    --------
    >>> from stpredict import models
    >>> network = models.build(models.config("m2ost_tiny", 250))
    >>> network.head.out_features
    250
    """
    variant = _variant_of_class(type(config).__name__.removesuffix("Config"))
    return cast("SpotModel", getattr(_module(variant), variant.model)(config))


@public
def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """A configuration as values for JSON.

    Parameters
    ----------
    config
        From ``config``.

    Returns
    -------
    ``{"model": name of the network's class, "config": fields}``.

    Examples
    --------
    >>> from stpredict import models
    >>> saved = models.config_to_dict(models.config("m2ost_tiny", 250))
    >>> saved["model"], saved["config"]["dim"]
    ('M2OST', 96)
    """
    values = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(config).items()
        if name not in LATER_FIELDS or value != LATER_FIELDS[name]
    }
    return {"model": type(config).__name__.removesuffix("Config"), "config": values}


@public
def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """A configuration from the values of ``config_to_dict``, checked field by field.

    Parameters
    ----------
    values
        ``{"model": ..., "config": ...}``, for instance from JSON.

    Returns
    -------
    The configuration.

    Examples
    --------
    >>> from stpredict import models
    >>> shape = models.config("m2ost_tiny", 250)
    >>> models.config_from_dict(models.config_to_dict(shape)) == shape
    True
    """
    check.saved_config(values)
    values = check.without_mixture(values)
    check.known_model(values["model"], {variant.model for variant in _KNOWN.values()})
    return _config(_variant_of_class(values["model"]), values["config"])


def _variant_of_name(name: Any) -> Variant:
    """The row of a name; a new one for a name that only timm knows."""
    if isinstance(name, str) and name not in _KNOWN:
        from .backbone import own_size

        if (size_px := own_size(name)) is not None:
            return timm_network(name, f"timm, {name}", size_px)
    if isinstance(name, str) and name in ENSEMBLES:
        check.single_model(name, ENSEMBLES[name].members)
    check.known_model(name, {**_KNOWN, **ENSEMBLES}, or_timm=True)
    return _KNOWN[name]


def _variant_of_class(model: str) -> Variant:
    return next(variant for variant in _KNOWN.values() if variant.model == model)


def _config(variant: Variant, values: Mapping[str, Any]) -> ModelConfig:
    cls = _config_class(variant)
    check.no_mixture(values)
    check.known_fields(cls.__name__, values, [each.name for each in fields(cls)])
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return cast("ModelConfig", cls(**arguments))


def _config_class(variant: Variant) -> Any:
    return getattr(_module(variant), f"{variant.model}Config")


def _module(variant: Variant) -> Any:
    return import_module(f"{variant.package}.{variant.module}".removeprefix("."))
