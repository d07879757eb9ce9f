"""Checks of models: their configuration, their input, their weights. torch is not imported: shapes are tuples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from itertools import pairwise
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from .config import one_of
from .names import did_you_mean
from .training import warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor


RENAMED = {
    "start_from": "initialize_from",
    "start_at": "initialize_at",
    "takes_steps": "has_trainable_parameters",
    "reads_both": "uses_patches_and_features",
    "grows": "per_spot_buffers",
}
"""Former names of methods and attributes of a model, which are refused: they would have no effect."""


MIXTURES = ("statistics_share", "encoder_share", "color_tokens")
"""Former options of ``M2OST`` that mixed a network and regressions inside one model."""


def field_values(config: Any, *, n_scales: int | None = None, may_be_zero: Sequence[str] = ()) -> None:
    """Refuse field by field what the annotation rules out, counts below 1, and fields of view that do not increase."""
    types = get_type_hints(type(config))
    for field in fields(config):
        name, kind, value = field.name, types[field.name], getattr(config, field.name)
        if name == "fov_spots":
            fov_spots(value, n_scales=n_scales)
        elif name == "context":
            one_of(name, value, (str(field.default),))  # it is a property of the model
        elif get_origin(kind) is Literal:
            one_of(name, value, get_args(kind))
        elif kind is str:
            text(name, value)
        elif kind == str | tuple[str, ...]:
            names(name, value)
        elif kind is bool:
            flag(name, value)
        elif kind is int and not (value == 0 and (field.default == 0 or name in may_be_zero)):
            positive_int(name, value)


def positive_int(name: str, value: object) -> None:
    """Refuse a value that is not a whole number above 0."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < 1:  # type: ignore[operator]
        msg = f"`{name}` is {value!r} ({type(value).__name__}); it counts something: give a whole number of at least 1."
        raise (ValueError if is_whole else TypeError)(msg)


def number(name: str, value: object, *, low: float, high: float) -> None:
    """Refuse a value that is not a number in ``[low, high)``."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not low <= float(value) < high:  # type: ignore[arg-type]
        msg = f"`{name}` is {value!r} ({type(value).__name__}); give a number from {low:.3g} to below {high}."
        raise (ValueError if is_number else TypeError)(msg)


def flag(name: str, value: object) -> None:
    """Refuse a value that is not a bool."""
    if not isinstance(value, bool):
        msg = f"`{name}` is {value!r} ({type(value).__name__}); give True or False."
        raise TypeError(msg)


def text(name: str, value: object) -> None:
    """Refuse a value that is not text, or empty."""
    if not isinstance(value, str):
        msg = f"`{name}` is {value!r} ({type(value).__name__}); give a name as text."
        raise TypeError(msg)
    if not value:
        msg = f"`{name}` is empty; give a name."
        raise ValueError(msg)


def names(name: str, value: object) -> None:
    """Refuse a value that is neither text nor several texts, or empty."""
    if not isinstance(value, tuple):
        text(name, value)
        return
    if not value:
        msg = f"`{name}` is an empty list; give a name, or several."
        raise ValueError(msg)
    for each in value:
        text(name, each)


def fov_spots(value: object, *, n_scales: int | None = None) -> None:
    """Refuse fields of view that are not increasing numbers above 0, ``n_scales`` of them if given."""
    if not isinstance(value, tuple) or not all(isinstance(v, Real) for v in value):
        msg = f"`fov_spots` is {value!r}; give a tuple of numbers, multiples of the spot diameter, such as (1.5, 3, 6)."
        raise TypeError(msg)
    finite = all(isfinite(v) and v > 0 for v in value)
    if not value or not finite or any(wide <= narrow for narrow, wide in pairwise(value)):
        msg = f"`fov_spots` is {value}; give numbers above 0, narrowest field of view first, each wider than the last."
        raise ValueError(msg)
    if n_scales is not None and len(value) != n_scales:
        msg = f"`fov_spots` has {len(value)} scale(s) {value}; this model takes exactly {n_scales}: give as many."
        raise ValueError(msg)


def divides(name: str, divisor: int, whole_name: str, whole: int) -> None:
    """Refuse a number that does not divide another."""
    if whole % divisor:
        possible = ", ".join(str(d) for d in range(1, min(whole, 64) + 1) if whole % d == 0)
        msg = (
            f"`{whole_name}` is {whole} and `{name}` is {divisor}, which does not divide it. "
            f"Give one of {possible} as `{name}`, or another `{whole_name}`."
        )
        raise ValueError(msg)


def multiple_of(name: str, value: int, of: int) -> None:
    """Refuse a number that is not divisible by the number of scales."""
    if value % of:
        msg = f"`{name}` is {value}; it is divided among {of} scales: give a multiple of {of}."
        raise ValueError(msg)


def nested_patches(size_px: int, patch_size: int, n_scales: int) -> None:
    """Refuse sizes for which the central 1/2, 1/4, ... of a patch has not as many tokens as the whole patch."""
    divides("patch_size", patch_size, "size_px", size_px)
    finest = 2 ** (n_scales - 1)
    if patch_size % finest:
        msg = (
            f"`patch_size` is {patch_size} and `fov_spots` has {n_scales} scales, each of which halves the finest "
            f"tokens: {patch_size} / {finest} is not a whole number of pixels. "
            f"Give a multiple of {finest} as `patch_size`, or fewer scales."
        )
        raise ValueError(msg)
    if (size_px - size_px // finest) % 2:
        msg = (
            f"`size_px` is {size_px}, `patch_size` {patch_size}, and at {n_scales} scales the central 1/{finest} of a "
            f"patch does not begin at a whole pixel. Give an even multiple of the patch size as `size_px`, "
            f"such as {size_px + patch_size}."
        )
        raise ValueError(msg)


def patches(shape: tuple[int, ...], n_scales: int, size_px: int) -> None:
    """Refuse a batch of patches that does not fit the network."""
    if len(shape) != 5 or shape[1:] != (n_scales, 3, size_px, size_px):
        msg = (
            f"`batch.patches` has the shape {shape}; this network takes (b, {n_scales}, 3, {size_px}, {size_px}): "
            f"{n_scales} scale(s), RGB, {size_px} px. Read patches as its configuration says (`size_px`, `fov_spots`), "
            "or build another with `stp.models.config`."
        )
        raise ValueError(msg)


def require_targets(targets: Tensor | None) -> Tensor:
    """The targets of a batch; refuse a batch without."""
    if targets is None:
        msg = "`batch.targets` is None; the loss needs measured values. Give targets, or call the model to predict."
        raise ValueError(msg)
    return targets


def require_features(features: Tensor | None) -> Tensor:
    """The features of a batch; refuse a batch without, for a model without an encoder."""
    if features is None:
        msg = (
            "`batch.features` is None, and this model has no encoder of its own (`encoder='given'`). Give embeddings "
            "with the spots (`stp.tl.fit(..., features_key='X_uni')` reads them from `obsm`), or name an encoder."
        )
        raise ValueError(msg)
    return features


def features_width(features: Tensor, n_features: int) -> Tensor:
    """The features of a batch; refuse features of another width than in training."""
    if features.ndim != 2 or features.shape[1] != n_features:
        msg = (
            f"`batch.features` has the shape {tuple(features.shape)}; this model takes (b, {n_features}). Give "
            "embeddings of the encoder that it was trained with."
        )
        raise ValueError(msg)
    return features


def clip(value: object) -> None:
    """Refuse a value that is neither a positive number nor None."""
    if value is not None and not _is_number_between(value, 0, 1e6):
        msg = f"`clip` is {value!r}; give standard deviations, a number above 0, or None to leave features alone."
        raise ValueError(msg)


def penalty(value: object) -> None:
    """Refuse a value that is not a penalty of a ridge regression."""
    if value not in (None, "hest") and not _is_number_between(value, 0, 1e12):
        msg = f"`penalty` is {value!r}; give a number above 0, None (chosen by cross-validation), or 'hest'."
        raise ValueError(msg)


def _is_number_between(value: object, low: float, high: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real) and low < float(value) < high


def count_columns(found: int, n_genes: int) -> None:
    """Refuse counts of another number of genes than the network has."""
    if found != n_genes:
        msg = (
            f"`batch.counts` has {found} columns; this network models the counts of {n_genes} genes. Give these, or "
            "build another with `n_genes` in `stp.models.config` (`stp.tl.fit` sets it)."
        )
        raise ValueError(msg)


def mean_profile(shape: tuple[int, ...], n_outputs: int) -> None:
    """Refuse a profile without exactly one value for each output."""
    if shape != (n_outputs,):
        msg = f"`mean` has the shape {shape}; this network has {n_outputs} outputs: give one value for each."
        raise ValueError(msg)


def known_model(name: object, known: Iterable[str], *, or_timm: bool = False) -> None:
    """Refuse a name that the registry does not have; ``or_timm``: mention the names of timm."""
    if name not in (names := sorted(known)):
        msg = (
            f"No model {name!r}.{did_you_mean([name], names)} There are: {', '.join(map(repr, names))}. For a model of "
            "your own, the module that registers it (`stp.models.register`) must be imported first. See "
            "`stp.models.available()`."
        )
        if or_timm:
            msg += (
                " Networks of timm have their own names (`timm.list_models()`) if timm is "
                'installed: pip install "stpredict-histology[encoders]".'
            )
        raise ValueError(msg)


def single_model(name: str, members: Iterable[str]) -> None:
    """Refuse the name of an ensemble where one model is configured."""
    each = ", ".join(map(repr, members))
    msg = (
        f"{name!r} is an ensemble of {each}; each of them has a configuration and a recipe of its own. Name one of "
        "these models; `stp.tl.fit` and `stp.tl.benchmark` take the ensemble by name."
    )
    raise ValueError(msg)


def no_mixture(options: Iterable[str]) -> None:
    """Refuse former options of ``M2OST`` that an ensemble replaces."""
    if former := [name for name in options if name in MIXTURES]:
        what = "colour tokens made no difference and were removed"
        if former[0] != "color_tokens":
            what = "a network and a regression are now two members of an ensemble"
        msg = (
            f"`{former[0]}` is no option any more: {what}. Leave it out, or call `stp.tl.fit(sdata, ['m2ost_tiny', "
            "'ridge_statistics'], weights=[0.3, 0.7])`."
        )
        raise ValueError(msg)


def without_mixture(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration without former options that had no effect; a mixture inside one model is refused."""
    mixed = [name for name in MIXTURES if saved["config"].get(name)]
    if mixed or saved["model"] == "M2OSTEncoder":
        msg = (
            "This predictor mixes a network and a regression inside one model, as versions before ensembles did, and "
            "cannot be loaded. Train it again with `stp.tl.fit`, or load it with the version that wrote it."
        )
        raise ValueError(msg)
    return {**saved, "config": {name: value for name, value in saved["config"].items() if name not in MIXTURES}}


def model_class(model: object, base: type) -> None:
    """Refuse a value that is not a class of models at the top level of a module."""
    if not isinstance(model, type) or not issubclass(model, base):
        msg = f"`model` is {model!r}; give a class that derives from `stp.models.SpotModel`."
        raise TypeError(msg)
    if model.__qualname__ != model.__name__:
        msg = f"{model.__qualname__!r} is not at the top level of a module; define it at the top of a module."
        raise ValueError(msg)
    if old := [name for name in RENAMED if hasattr(model, name)]:
        msg = f"{model.__name__} defines `{old[0]}`, which is now called `{RENAMED[old[0]]}`: rename it."
        raise ValueError(msg)


def free_name(name: str, place: str, taken: Mapping[str, str], ours: Iterable[str]) -> None:
    """Refuse a taken name or class; ``taken``: name to module and class, ``ours``: names that cannot be replaced."""
    if name in set(ours) or taken.get(name, place) != place:
        msg = f"The name {name!r} is taken by {taken[name]}. Register your model under another."
        raise ValueError(msg)
    same = [other for other in taken.values() if other != place and other.split(".")[-1] == place.split(".")[-1]]
    if same:
        msg = f"{same[0]} has that class name, and saved predictors store the class name. Rename yours, {place}."
        raise ValueError(msg)


def config_class(place: str, found: object) -> None:
    """Refuse a model without its configuration dataclass."""
    names = [each.name for each in fields(found)] if isinstance(found, type) and is_dataclass(found) else []
    if missing := [name for name in ("n_outputs", "fov_spots", "size_px", "context") if name not in names]:
        what = f"lacks {', '.join(map(repr, missing))}" if names else "is missing"
        msg = (
            f"The configuration of {place}, a dataclass {place.split('.')[-1]}Config at the top of the same module, "
            f"{what}. Its fields are 'n_outputs', 'fov_spots', 'size_px', 'context', and yours."
        )
        raise ValueError(msg)


def known_fields(owner: str, given: Iterable[str], allowed: Sequence[str]) -> None:
    """Refuse fields that a configuration does not have."""
    if unknown := sorted(set(given) - set(allowed)):
        msg = (
            f"{owner} has no field {', '.join(map(repr, unknown))} (fields: {', '.join(map(repr, allowed))})."
            f"{did_you_mean(unknown, allowed)} Leave it out; if it is in a file, load the file with the version of "
            "stpredict that wrote it."
        )
        raise ValueError(msg)


def saved_config(values: object) -> None:
    """Refuse values that ``config_to_dict`` did not write."""
    if not isinstance(values, Mapping) or set(values) != {"model", "config"}:
        found = ", ".join(map(repr, values)) if isinstance(values, Mapping) else type(values).__name__
        msg = (
            f"A saved model configuration has exactly 'model' and 'config' (found: {found}). "
            "Write it with `stp.models.config_to_dict(config)`."
        )
        raise ValueError(msg)
    if not isinstance(values["config"], Mapping) or "n_outputs" not in values["config"]:
        msg = (
            f"The 'config' of a saved model holds its fields by name, 'n_outputs' at least (found: "
            f"{values['config']!r}). Write it with `stp.models.config_to_dict(config)`."
        )
        raise ValueError(msg)


def released_names(given: Iterable[str], needed: Iterable[str], optional: Iterable[str]) -> None:
    """Refuse weights with other names than those of the published network; ``optional`` names may be present."""
    names, wanted = set(given), set(needed)
    missing, unknown = sorted(wanted - names), sorted(names - wanted - set(optional))
    if missing or unknown:
        msg = (
            f"These are not the weights of the published M2OST: {len(missing)} name(s) missing {missing[:4]}, "
            f"{len(unknown)} unknown {unknown[:4]}. Give its state_dict under the original names."
        )
        raise ValueError(msg)


def splits_patch(size_px: int, side: int) -> None:
    """Refuse a patch with fewer pixels than sub-patches along a side."""
    if size_px < side:
        msg = f"`size_px` is {size_px}; the patch is cut into {side} x {side}: give at least {side}."
        raise ValueError(msg)


def warn_no_pretrained(variable: str) -> None:
    """Say how to get a predictor where none is listed."""
    warn(
        "No predictor is published with this version of stpredict. `python -m stpredict pretrain her2st --out folder` "
        "makes one from public data, and `stp.tl.pretrain` one from yours; it is listed here once the environment "
        f"variable {variable} names its folder."
    )
