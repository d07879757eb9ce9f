"""Errors about grids of spots: geometry, image, tissue, and what would be overwritten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Collection


def known_geometry(like: str, names: Collection[str]) -> None:
    """Refuse the name of a platform that is not in the catalogue."""
    if like not in names:
        msg = (
            f"`like` is {like!r}; known: {', '.join(map(repr, names))}. Call `stp.pp.spot_grid` with one of these, "
            "with a predictor, or with `diameter_um` and `pitch_um`."
        )
        raise ValueError(msg)


def trained(like: object) -> Mapping[str, Any]:
    """What a predictor says of its training; refuse anything that is neither a name nor a predictor."""
    provenance = getattr(like, "provenance", None)
    if not isinstance(provenance, Mapping):
        msg = (
            f"`like` is of type {type(like).__name__}; give a predictor, the name of a platform or None. Get a "
            "predictor from `stp.tl.fit` or `stp.tl.Predictor.load`."
        )
        raise TypeError(msg)
    return provenance


def recorded_diameter(diameter_um: float | None) -> float:
    """Diameter to use; refuse a predictor that does not say how large its spots were."""
    if diameter_um is None:
        msg = (
            "The predictor does not record the diameter of the spots it was trained on (nothing in "
            "`provenance['diameter_um']`). Give `diameter_um` to `stp.pp.spot_grid`."
        )
        raise ValueError(msg)
    return float(diameter_um)


def whole_geometry(diameter_um: float | None, pitch_um: float | None) -> tuple[float, float]:
    """Both lengths; refuse half a geometry."""
    if diameter_um is None or pitch_um is None:
        msg = (
            f"`diameter_um` is {diameter_um!r} and `pitch_um` is {pitch_um!r}; without `like` both are needed. Call "
            "`stp.pp.spot_grid(sdata, diameter_um=…, pitch_um=…)`, or give `like`."
        )
        raise ValueError(msg)
    return diameter_um, pitch_um


def length(name: str, value: float) -> None:
    """Refuse a length that is not a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        msg = f"`{name}` is {value!r}; lengths are in µm and must be above 0. Give another to `stp.pp.spot_grid`."
        raise ValueError(msg)


def in_system(systems: Collection[str], asked: str | None, image_key: str) -> None:
    """Refuse a coordinate system that the image is not in."""
    if asked is not None and asked not in systems:
        msg = (
            f"Image {image_key!r} is not in coordinate system {asked!r} (it is in: {listed(sorted(systems))}). Give "
            "one of these as `coordinate_system`."
        )
        raise ValueError(msg)


def not_empty(n_spots: int, image_key: str, tissue_key: str | None, min_tissue: float) -> None:
    """Refuse a grid without spots."""
    if n_spots == 0:
        on = "on it" if tissue_key is None else f"with {min_tissue:g} of its area on {tissue_key!r}"
        msg = (
            f"The grid is empty: image {image_key!r} has no spot {on}. Lower `min_tissue`, give a smaller "
            "`pitch_um`, or check the resolution with `stp.pp.resolution`."
        )
        raise ValueError(msg)


def lattice_size(n_places: int, limit: int, pitch_um: float) -> None:
    """Refuse a lattice that memory would not hold."""
    if n_places > limit:
        msg = (
            f"The lattice has {n_places:,} places at a pitch of {pitch_um:g} µm; at most {limit:,} are laid. Give a "
            "larger `pitch_um`, tissue of less extent (`stp.pp.tissue`, `tissue_key`), or see whether the resolution "
            "is right (`stp.pp.resolution`)."
        )
        raise ValueError(msg)
