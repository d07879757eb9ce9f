"""Errors about spatial domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._checks import models as check

if TYPE_CHECKING:
    from collections.abc import Sequence


def network(config: Any, *, may_be_zero: Sequence[str] = ()) -> None:
    """Refuse options of a network outside what their fields and its training allow."""
    check.field_values(config, may_be_zero=may_be_zero)
    if config.n_neighbors is not None:
        check.positive_int("n_neighbors", config.n_neighbors)
    check.number("lr", config.lr, low=1e-12, high=1e3)
    check.number("weight_decay", config.weight_decay, low=0, high=1e3)


def mask_rates(rates: Any) -> None:
    """Refuse anything but a share of features for each of two views."""
    if not isinstance(rates, tuple | list) or len(rates) != 2:
        msg = f"`mask_rates` is {rates!r}; give two shares, one for each view, for instance `(0.1, 0.1)`."
        raise ValueError(msg)
    for rate in rates:
        check.number("mask_rates", rate, low=0, high=1)
