"""Named models: their configurations, their networks, and both as JSON. No network is imported unasked."""

from __future__ import annotations

from dataclasses import asdict, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from .._checks import models as check
from ._variants import VARIANTS, Variant, timm_network
from .model_config import GIVEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from .contract import SpotModel
    from .model_config import ModelConfig

_KNOWN: dict[str, Variant] = dict(VARIANTS)
"""All rows: those of the package, and those that users registered."""


def config(name: str, n_outputs: int, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """Configuration of a named model.

    Parameters
    ----------
    name
        A name that ``stp.models.available()`` lists, or any that timm knows: a `backbone` with that encoder.
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
    variant = _named(name)
    return _config(variant, {**variant.overrides, **(overrides or {}), "n_outputs": n_outputs})


def register(
    name: str,
    model: type[SpotModel],
    *,
    citation: str = "",
    overrides: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Make a model of your own known by name, until Python ends.

    Call it at the end of the module that defines the model. Whoever loads a predictor of such a model imports that
    module first. Registering a model again replaces its row.

    Parameters
    ----------
    name
        What `stp.tl.fit` is told.
    model
        Class of the network. Beside it, at the top of the same module, stands the dataclass of its configuration,
        called the same with ``Config`` behind.
    citation
        Where it was published.
    overrides
        Fields that differ from the defaults of the configuration.
    recipe
        Fields of `stp.tl.FitConfig` that differ from its defaults where nobody says otherwise.

    Raises
    ------
    ValueError
        If the name, or a class of that name, is known already, or there is no such dataclass.

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
    check.free_name(name, row.place, {known: other.place for known, other in _KNOWN.items()}, VARIANTS)
    check.config_class(row.place, getattr(_module(row), f"{row.model}Config", None))
    _KNOWN[name] = row


def recipe(name: str) -> dict[str, Any]:
    """How a named model is trained where nobody says otherwise.

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
    return dict(_named(name).recipe)


def config_fields(name: str) -> list[str]:
    """What can be changed in a named model.

    Parameters
    ----------
    name
        A name that ``stp.models.available()`` lists.

    Returns
    -------
    Fields of its configuration.
    """
    variant = _named(name)
    return [each.name for each in fields(getattr(_module(variant), f"{variant.model}Config"))]


def accepts_embeddings(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a named model with these options can take embeddings that come with the spots."""
    return "encoder" in config_fields(name) and options.get("encoder", GIVEN) == GIVEN


def build(config: ModelConfig) -> SpotModel:
    """A network with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    config
        What ``config`` or ``config_from_dict`` gave.

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
    variant = _variant(_model_name(config))
    return cast("SpotModel", getattr(_module(variant), variant.model)(config))


def available() -> pd.DataFrame:
    """The named models.

    Returns
    -------
    One row per name: ``citation``, ``context``, ``n_scales``, ``size_px``, ``parameters`` and ``macs`` (multiply-
    accumulates of one spot, attention among them) at 250 outputs, and ``licence`` of the weights that timm knows for
    its image encoder. The last three are missing for models that need timm where there is none.

    Examples
    --------
    >>> from stpredict import models
    >>> int(models.available().loc["m2ost", "macs"] / 1e6)
    3978
    """
    import pandas as pd

    from .macs import cost

    rows = {}
    for name, variant in _KNOWN.items():
        shape = config(name, 250)
        rows[name] = {
            "citation": variant.citation,
            "context": shape.context,
            "n_scales": len(shape.fov_spots),
            "size_px": shape.size_px,
            **cost(shape),
        }
    counted = {"parameters": "Int64", "macs": "Int64", "licence": "string"}
    return pd.DataFrame.from_dict(rows, orient="index").astype(counted).rename_axis("model")


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """A configuration as JSON takes it.

    Parameters
    ----------
    config
        What ``config`` gave.

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
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
    return {"model": _model_name(config), "config": values}


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """A configuration from what ``config_to_dict`` gave, checked field by field.

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
    check.known_model(values["model"], {variant.model for variant in _KNOWN.values()})
    return _config(_variant(values["model"]), values["config"])


def _named(name: Any) -> Variant:
    """The row of a name; one made up for a name that only timm knows."""
    if isinstance(name, str) and name not in _KNOWN:
        from .backbone import own_size

        if (size_px := own_size(name)) is not None:
            return timm_network(name, f"timm, {name}", size_px)
    check.known_model(name, _KNOWN, or_timm=True)
    return _KNOWN[name]


def _config(variant: Variant, values: Mapping[str, Any]) -> ModelConfig:
    cls = getattr(_module(variant), f"{variant.model}Config")
    check.known_fields(cls.__name__, values, [f.name for f in fields(cls)])
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return cast("ModelConfig", cls(**arguments))


def _model_name(config: ModelConfig) -> str:
    return type(config).__name__.removesuffix("Config")


def _variant(model: str) -> Variant:
    return next(variant for variant in _KNOWN.values() if variant.model == model)


def _module(variant: Variant) -> Any:
    return import_module(f"{variant.package}.{variant.module}".removeprefix("."))
