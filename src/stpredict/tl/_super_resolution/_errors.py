"""Errors of `super_resolve`: spots, step, genes, memory, and what would be overwritten."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..._checks.slides import quote

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_enough_spots(n_spots: int, least: int, name: str) -> None:
    """Refuse slides with too few spots."""
    if n_spots < least:
        msg = (
            f"{name!r} has {n_spots} spots to learn from; at least {least} are needed. A slide without spots is "
            "predicted with `stp.pp.spot_grid` and `stp.tl.predict`."
        )
        raise ValueError(msg)


def check_step(step_um: float, diameter_um: float, um_per_px: float, name: str) -> None:
    """Refuse superpixels larger than the radius of a spot, or smaller than two pixels."""
    least, most = 2 * um_per_px, diameter_um / 2
    possible = (
        f"possible here: {least:.3g} to {most:.3g} µm"
        if least <= most
        else f"spots of {diameter_um:.3g} µm cannot be divided with {um_per_px:.3g} µm per pixel: use a finer image"
    )
    if not (math.isfinite(step_um) and step_um > 0):
        msg = f"`step_um` is {step_um!r}; give a length in µm above 0 ({possible})."
        raise ValueError(msg)
    if step_um > most:
        msg = (
            f"`step_um` is {step_um:g}, more than the radius of the spots of {name!r} ({most:.3g} µm): nothing would "
            f"be resolved. Give a smaller one to `stp.tl.super_resolve` ({possible})."
        )
        raise ValueError(msg)
    if step_um < least:
        msg = (
            f"`step_um` is {step_um:g}, but the image of {name!r} has {um_per_px:.3g} µm per pixel: a superpixel needs "
            f"two pixels a side. Give a larger one to `stp.tl.super_resolve` ({possible})."
        )
        raise ValueError(msg)


def check_memory(n_superpixels: int, n_genes: int, needed: int, budget: int, step_um: float) -> None:
    """Refuse more superpixels than the memory budget allows."""
    if needed > budget:
        msg = (
            f"About {n_superpixels:,} superpixels of {step_um:g} µm with {n_genes} genes need {needed:,} bytes, "
            f"`memory_bytes` allows {budget:,}. Name fewer `genes`, one element as `shapes_key`, a larger `step_um`, "
            "or allow more."
        )
        raise ValueError(msg)


def check_measured(n_missing: int, missing: Sequence[str], n_genes: int, anchor: str, *, has_table: bool) -> None:
    """Refuse an anchor that needs counts which the table lacks."""
    if not has_table:
        msg = (
            f"`anchor` is {anchor!r}, but no table with counts annotates the spots. Give `anchor='predicted'`: the "
            "means of spots are then those of `stp.tl.predict`."
        )
        raise ValueError(msg)
    if n_missing:
        msg = (
            f"The table lacks {n_missing} of the predictor's {n_genes} genes ({quote(missing)}), and `anchor` is "
            f"{anchor!r}. Give `anchor='predicted'`, or a predictor of these genes from `stp.tl.fit`."
        )
        raise ValueError(msg)


def check_known_genes(missing: Sequence[str], panel: Sequence[str]) -> None:
    """Refuse genes that the predictor does not predict."""
    if missing:
        msg = (
            f"The predictor has no gene {quote(missing)} (its {len(panel)} genes: {quote(panel)}). Give some of "
            "these as `genes`, or train one with `stp.tl.fit(sdata, genes=…)`."
        )
        raise ValueError(msg)


def check_some_genes(n_genes: int, panel: Sequence[str]) -> None:
    """Refuse an empty list of genes."""
    if not n_genes:
        msg = f"`genes` is empty; the predictor has {len(panel)} genes: {quote(panel)}. Give some, or None for all."
        raise ValueError(msg)


def check_spots_covered(empty: Sequence[str], n_spots: int, step_um: float, name: str) -> None:
    """Refuse superpixels that miss spots."""
    if len(empty):
        msg = (
            f"{len(empty)} of {n_spots} spots of {name!r} hold no superpixel of {step_um:g} µm ({quote(empty)}): they "
            "are smaller than others, or lie on one another. Give a smaller `step_um` to `stp.tl.super_resolve`."
        )
        raise ValueError(msg)


def check_overwrite(taken: Sequence[str], key_added: str) -> None:
    """Refuse to overwrite elements of other functions."""
    if taken:
        msg = (
            f"The object already has {quote(taken)}, which `stp.tl.super_resolve` did not write, and it is not "
            f"overwritten. Give another `key_added` than {key_added!r}."
        )
        raise ValueError(msg)
