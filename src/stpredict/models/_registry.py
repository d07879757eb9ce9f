"""Named models: their configurations, their networks, and both as JSON. No network is imported unasked."""

from __future__ import annotations

from dataclasses import asdict, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from .._checks import models as check
from ._variants import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import Field
    from typing import ClassVar

    import pandas as pd

    from ._contract import SpotModel
    from ._variants import Variant


class ModelConfig(Protocol):
    """What every configuration declares, so that patches can be read and the loop needs to know no model."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def n_outputs(self) -> int:
        """Number of values predicted per spot."""

    @property
    def fov_spots(self) -> tuple[float, ...]:
        """Field of view of each scale in spot diameters, narrowest first."""

    @property
    def size_px(self) -> int:
        """Side in pixels of the patch of every scale."""

    @property
    def context(self) -> str:
        """What one prediction sees: ``"spot"`` or ``"slide"``."""


def config(name: str, n_outputs: int, overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """Configuration of a named model.

    Parameters
    ----------
    name
        A name that ``stp.models.available()`` lists.
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
    check.known_model(name, VARIANTS)
    variant = VARIANTS[name]
    return _config(variant, {**variant.overrides, **(overrides or {}), "n_outputs": n_outputs})


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
    {}
    """
    check.known_model(name, VARIANTS)
    return dict(VARIANTS[name].recipe)


def named_fields(name: str) -> list[str]:
    """What can be changed in a named model.

    Parameters
    ----------
    name
        A name that ``stp.models.available()`` lists.

    Returns
    -------
    Fields of its configuration.
    """
    check.known_model(name, VARIANTS)
    variant = VARIANTS[name]
    return [each.name for each in fields(getattr(_module(variant), f"{variant.model}Config"))]


def build(config: ModelConfig) -> SpotModel:
    """A network with fresh weights, drawn from torch's global generator.

    Parameters
    ----------
    config
        What ``config`` or ``config_from_dict`` gave.

    Returns
    -------
    The network, in training mode, on the CPU.
    """
    variant = _variant(_model_name(config))
    return cast("SpotModel", getattr(_module(variant), variant.model)(config))


def available() -> pd.DataFrame:
    """The named models.

    Returns
    -------
    One row per name: ``citation``, ``context``, ``n_scales``, ``size_px``, ``parameters`` (at 250 outputs).
    """
    import pandas as pd
    import torch

    rows = {}
    for name, variant in VARIANTS.items():
        shape = config(name, 250)
        with torch.device("meta"):
            model = build(shape)
        rows[name] = {
            "citation": variant.citation,
            "context": shape.context,
            "n_scales": len(shape.fov_spots),
            "size_px": shape.size_px,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """A configuration as JSON takes it.

    Parameters
    ----------
    config
        What ``config`` gave.

    Returns
    -------
    ``{"model": name of the network's class, "config": fields}``.
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
    """
    check.saved_config(values)
    check.known_model(values["model"], {variant.model for variant in VARIANTS.values()})
    return _config(_variant(values["model"]), values["config"])


def _config(variant: Variant, values: Mapping[str, Any]) -> ModelConfig:
    cls = getattr(_module(variant), f"{variant.model}Config")
    check.known_fields(cls.__name__, values, [f.name for f in fields(cls)])
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return cast("ModelConfig", cls(**arguments))


def _model_name(config: ModelConfig) -> str:
    return type(config).__name__.removesuffix("Config")


def _variant(model: str) -> Variant:
    return next(variant for variant in VARIANTS.values() if variant.model == model)


def _module(variant: Variant) -> Any:
    return import_module(f".{variant.module}", __package__)
