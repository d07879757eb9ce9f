"""An object with predictions, as `tl.predict` leaves it, and a clean slate of figures."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from spatialdata.models import TableModel

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


@pytest.fixture
def predicted(sdata):
    """Two of three slides predicted, rows in another order than observed: the noise-free rate, shrunken."""
    observed = sdata["observed"]
    rows = np.flatnonzero(observed.obs["region"].isin(["S0_spots", "S1_spots"]))
    rows = np.random.default_rng(0).permutation(rows)
    part = observed[rows]
    obs = part.obs[["region", "spot_id", "section", "patient"]].copy()
    obs["region"] = obs["region"].cat.remove_unused_categories()
    rate = part.layers["rate"][:, :8]
    values = (0.5 * rate + 0.5 * rate.mean(axis=0)).astype(np.float32)
    table = AnnData(values, obs=obs, var=pd.DataFrame(index=part.var_names[:8]))
    table.obsm["spatial"] = part.obsm["spatial"]
    table.uns["predicted"] = {
        "units": "log1p CP10k",
        "target": {"target_sum": 1e4, "over": "all", "log1p": True},
        "params": {},
        "model": {},
    }
    sdata["predicted"] = TableModel.parse(
        table, region=["S0_spots", "S1_spots"], region_key="region", instance_key="spot_id"
    )
    return sdata
