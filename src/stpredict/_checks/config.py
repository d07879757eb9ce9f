"""Errors about options: patch geometry, targets, training settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value outside a closed set."""
    if value not in allowed:
        msg = f"`{name}` is {value!r}; allowed: {', '.join(map(repr, allowed))}."
        raise ValueError(msg)


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside ``[low, high]``."""
    if not low <= value <= high:
        msg = f"`{name}` is {value!r}; it must lie between {low} and {high}."
        raise ValueError(msg)


def positive(name: str, value: float) -> None:
    """Refuse a number that is not above zero."""
    if not value > 0:
        msg = f"`{name}` is {value!r}; it must be above 0."
        raise ValueError(msg)


def length(name: str, value: float | None) -> None:
    """Refuse a length that is not a finite number above zero; None is no length."""
    if value is not None and not 0 < value < float("inf"):
        msg = f"`{name}` is {value!r}; it must be a finite length in µm above 0."
        raise ValueError(msg)


def prediction(n_views: int, batch_size: int | None) -> None:
    """Refuse numbers of views and batch sizes that are out of range."""
    in_range("n_views", n_views, 1, 8)
    if batch_size is not None:
        in_range("batch_size", batch_size, 1, 1_000_000)


def patch_fits(fov_um: Sequence[float], size_px: int, n_scales: int, model_size_px: int) -> None:
    """Refuse patches of another number of scales or another size than the network takes."""
    if len(fov_um) != n_scales or size_px != model_size_px:
        msg = (
            f"`patch` has {len(fov_um)} scale(s) of {size_px} px, the network takes {n_scales} of {model_size_px} px. "
            f"Give `model_options={{'size_px': {size_px}, 'fov_spots': …}}` with {len(fov_um)} fields of view, or "
            "another `patch`."
        )
        raise ValueError(msg)


def patch_spec(fov_um: Sequence[float], size_px: int, fill: str) -> None:
    """Refuse fields of view that are missing, not positive or not ascending, and patches of under 8 px."""
    if not fov_um or min(fov_um) <= 0 or list(fov_um) != sorted(set(fov_um)):
        msg = f"`fov_um` is {tuple(fov_um)}; give at least one side in µm, all positive, narrowest first, each once."
        raise ValueError(msg)
    if size_px < 8:
        msg = f"`size_px` is {size_px}; a patch needs at least 8 px a side (224 is usual)."
        raise ValueError(msg)
    one_of("fill", fill, ("white", "reflect"))


def embeddings_fit(model: str, options: Mapping[str, object], width: int | None, *, takes: bool) -> None:
    """Refuse embeddings for a model that takes none, and their absence for a model that needs them."""
    if width is not None and not takes:
        msg = (
            f"`features_key` was given, but {model!r} takes no embeddings: it reads patches. Leave it out, or take a "
            "model with an `encoder`, such as 'm2ost_encoder', 'encoder_ridge' or 'encoder_mlp'."
        )
        raise ValueError(msg)
    if width is None and options.get("encoder") == "given":
        msg = "`encoder='given'` needs embeddings in the table: name their `obsm` as `features_key`."
        raise ValueError(msg)
    if width is None:
        return
    if options.get("encoder", "given") != "given":
        msg = (
            f"`features_key` was given, and `encoder={options['encoder']!r}` too: features come from one of them. "
            "Leave one out."
        )
        raise ValueError(msg)
    if options.get("n_features") not in (None, 0, width):
        msg = (
            f"The embeddings have {width} features, {model!r} takes {options['n_features']}: they are of another "
            "encoder. Give those that it was trained with as `features_key`."
        )
        raise ValueError(msg)


def same_width(widths: Mapping[str, int]) -> None:
    """Refuse embeddings of different widths on different slides: they come from different encoders."""
    if len(set(widths.values())) > 1:
        each = ", ".join(f"{name!r} {width}" for name, width in widths.items())
        msg = f"The embeddings have different numbers of features ({each}). Embed all slides with the same encoder."
        raise ValueError(msg)


def known_fields(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Refuse options that do not exist, or are set elsewhere."""
    unknown = [name for name in given if name not in known]
    if unknown:
        msg = f"{what} has no {', '.join(map(repr, unknown))} here; there are: {', '.join(sorted(known))}."
        raise ValueError(msg)


def needs_matplotlib(error: ModuleNotFoundError) -> None:
    """Say how to install what plots are drawn with, if that is what is missing."""
    if (error.name or "").partition(".")[0] == "matplotlib":
        msg = "Plots need matplotlib, which is not installed. Call `pip install 'stpredict-histology[plot]'`."
        raise ModuleNotFoundError(msg, name=error.name) from error
