"""Split spots into training and test parts: by group, or by contiguous blocks of one slide; never spot by spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from ._tables import counts_table, group_list, group_names, known_groups
from .columns import unname_index
from .spatial_blocks import spatial_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

BLOCK = "block"


@public
def split(
    sdata: SpatialData,
    *,
    by: str = keys.PATIENT,
    held_out: Sequence[str] | None = None,
    fraction: float = 0.25,
    n_blocks: int = 3,
    table_name: str | None = None,
    key_added: str = keys.SPLIT,
    seed: int = 0,
) -> None:
    """Split spots into training and test parts.

    Parameters
    ----------
    sdata
        The object.
    by
        Column of ``obs`` whose groups stay whole, or ``"block"``: contiguous blocks of spots within every slide.
    held_out
        Names of the groups to test on. By default about ``fraction`` of all groups, at least one, chosen by ``seed``.
    fraction
        Fraction of groups, or of the spots of each slide, to hold out.
    n_blocks
        Number of blocks per slide, for ``by="block"``.
    table_name
        Table with the spots; by default ``"observed"``, or the only one there is.
    key_added
        Column of ``obs`` that is written.
    seed
        Seed of the random choice.

    Returns
    -------
    Nothing. Writes ``obs[key_added]``, categorical: ``"train"`` or ``"test"``.

    Notes
    -----
    Patches of spots beside a test block overlap it, so scores on blocks are optimistic; use them only where there is
    a single slide.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> stp.pp.split(sdata, held_out=["P1"])
    >>> sdata["observed"].obs.groupby("split", observed=True).size().to_dict()
    {'train': 16, 'test': 16}
    """
    check_config.in_range("fraction", fraction, 0.0, 1.0)
    table = counts_table(sdata, table_name)
    test = _blocks(table, fraction, n_blocks, seed) if by == BLOCK else _groups(table, by, held_out, fraction, seed)
    if test.all() or not test.any():
        msg = (
            f"The split by {by!r} leaves {int((~test).sum())} spots to train and {int(test.sum())} to test. Hold out "
            "some groups but not all, or use `by='block'` where there is one group only."
        )
        raise ValueError(msg)
    table.obs[key_added] = pd.Categorical(np.where(test, "test", "train"), categories=["train", "test"])
    unname_index(table)


def _groups(table: AnnData, by: str, held_out: Sequence[str] | None, fraction: float, seed: int) -> NDArray[np.bool_]:
    names = group_names(table, by)
    available = sorted(set(names.tolist()))
    if held_out is None:
        n = max(1, round(fraction * len(available)))
        chosen = np.random.default_rng(seed).permutation(available)[:n].tolist()
    else:
        chosen = group_list(held_out)
        known_groups(chosen, available, "held_out", by)
    return np.isin(names, chosen)


def _blocks(table: AnnData, fraction: float, n_blocks: int, seed: int) -> NDArray[np.bool_]:
    names = group_names(table, None)
    test = np.zeros(table.n_obs, bool)
    for i, name in enumerate(dict.fromkeys(names.tolist())):
        rows = np.flatnonzero(names == name)
        xy = np.asarray(table.obsm[keys.SPATIAL], np.float64)[rows]
        test[rows] = spatial_blocks(xy, fraction=fraction, n_blocks=n_blocks, seed=seed + i)
    return test
