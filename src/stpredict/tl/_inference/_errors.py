"""Errors about elements that are not overwritten, and about predictions that do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..._checks.slides import quote
from ..._checks.training import warn
from .record import same_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ...pp.targets import TargetSpec


def check_overwritable(argument: str, name: str, kept: Sequence[str]) -> None:
    """Refuse to overwrite an element or layer that is not a prediction."""
    if name in kept:
        msg = (
            f"`{argument}` is {name!r}, which exists and was not written by `stp.tl.predict`, so it is not overwritten "
            f"(kept are: {quote(kept)}). Give another name; `layer='X'` overwrites X."
        )
        raise ValueError(msg)


def check_not_reserved(argument: str, name: str, reserved: Sequence[str]) -> None:
    """Refuse a name under which ``uns`` holds something else than the description of a prediction."""
    if name in reserved:
        msg = (
            f"`{argument}` is {name!r}, and `uns[{name!r}]` has another meaning (reserved are: {quote(reserved)}). "
            "Give another name, such as 'predicted'."
        )
        raise ValueError(msg)


def check_same_prediction(
    key: str,
    record: Mapping[str, Any],
    genes: Sequence[str],
    spec: TargetSpec,
    panel: Sequence[str],
    other: NDArray[np.bool_],
    missing: Sequence[str] = (),
) -> None:
    """Refuse to add slides to predictions of other genes or in other units, of rows that would stay (``other``).

    Genes that are ``missing`` in the table are in neither prediction.
    """
    same = same_target(record, spec) and set(genes) == set(panel) - set(missing)
    if other.any() and not same:
        msg = (
            f"{key!r} holds predictions of other slides ({int(other.sum())} spots): {len(genes)} genes in "
            f"{record['units']}; this call gives {len(panel)} genes in {spec.units}, and they are not the same. Write "
            "under another name, predict all slides again, or delete what is there."
        )
        raise ValueError(msg)


def check_partial(missing: Sequence[str], genes: Sequence[str], *, by_panel: bool) -> None:
    """Refuse to write a layer where no gene has a column, or units depend on all; warn where some have none."""
    if not missing:
        return
    what = (
        f"The AnnData has no column for {len(missing)} of the predictor's {len(genes)} genes ({quote(missing)}), so "
        "its layer cannot hold them"
    )
    own = "sdata = stp.io.from_anndata(adata); stp.tl.predict(sdata, predictor); sdata['predicted']"
    if len(missing) == len(genes) or by_panel:
        why = ", and library sizes are sums over all of them" if by_panel and len(missing) < len(genes) else ""
        msg = f"{what}{why}. Write a table of its own: `{own}`."
        raise ValueError(msg)
    warn(f"{what}. The others are written; for a table of all genes: `{own}`.")
