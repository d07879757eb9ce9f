"""Errors and warnings about intervals, where predictions are written, and the cluster that computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from ... import _keys as keys
from ..._checks.slides import listed
from ..._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .._predictor.conformal import Calibration

LARGEST_TABLE_BYTES = 1 << 32
"""Predictions larger than this are not held in memory."""


def calibrated(calibration: Calibration | None) -> Calibration:
    """Refuse intervals of a predictor that has no calibration."""
    if calibration is None:
        msg = (
            "This predictor was not calibrated: it was trained without validation, or by an older version. Calibrate "
            "it on slides that it was not trained on with `stp.tl.calibrate`, or train it again with groups held out "
            "(`stp.tl.FitConfig(validation='slide', n_members=2)`)."
        )
        raise ValueError(msg)
    return calibration


def calibration_applies(calibration: Calibration, stain: str | None) -> None:
    """Warn if the spots of the calibration differ from those to predict."""
    record = calibration.record
    if record["leaks"]:
        warn(
            f"Intervals were calibrated on {record['kind']} of slides that were also trained on: on new slides they "
            "will cover less than they say. Calibrate on others with `stp.tl.calibrate`."
        )
    if record["stain"] != stain:
        warn(
            f"Intervals were calibrated with `stain={record['stain']!r}`, and `stain` is {stain!r}. Calibrate with the "
            "same by `stp.tl.calibrate`."
        )


def fits_memory(n_spots: int, n_genes: int, n_matrices: int = 1) -> None:
    """Refuse predictions that are too large for memory."""
    n_bytes = 4 * n_spots * n_genes * n_matrices
    if n_bytes > LARGEST_TABLE_BYTES:
        msg = (
            f"The predictions of {n_spots:,} spots x {n_genes:,} genes take {n_bytes / 2**30:.1f} GiB, more than the "
            f"{LARGEST_TABLE_BYTES >> 30} GiB that are held in memory. Give `store=`, a folder on disk that they are "
            "written to as they are computed."
        )
        raise ValueError(msg)


def resumable(path: Path, attrs: Mapping[str, Any], fingerprint: str, patch_version: int) -> None:
    """Refuse to write into a folder that was not begun for this prediction."""
    if "fingerprint" not in attrs:
        msg = f"{str(path)!r} exists and was not written by `stp.tl.predict`, so it is kept. Give another `store`."
        raise FileExistsError(msg)
    if (found := attrs.get(keys.PATCH_VERSION, 1)) != patch_version:
        msg = (
            f"{str(path)!r} was predicted from patches of version {found}, and this version of stpredict cuts patches "
            f"of version {patch_version}, so it cannot be resumed. Delete it or give another `store`."
        )
        raise FileExistsError(msg)
    if attrs["fingerprint"] != fingerprint:
        msg = (
            f"{str(path)!r} holds a prediction of other spots, or by another predictor or with other options, so it "
            "cannot be resumed. Delete it or give another `store`."
        )
        raise FileExistsError(msg)


def has_workers(n_workers: int) -> None:
    """Refuse a cluster without workers, which would never answer."""
    if n_workers == 0:
        msg = "The cluster of `client` has no workers. Scale it up, or call `client.wait_for_workers(1)` first."
        raise ValueError(msg)


def is_client(client: object) -> None:
    """Refuse anything but a dask client."""
    if not hasattr(client, "submit") or not hasattr(client, "scatter"):
        msg = (
            f"`client` is a {type(client).__name__}; give a `dask.distributed.Client`, for instance "
            "`Client(LocalCluster(n_workers=2))`."
        )
        raise TypeError(msg)


def cluster_lost(n_left: int, n_times: int) -> NoReturn:
    """Report that workers died too often."""
    msg = (
        f"Workers of the cluster were lost {n_times} times, and {n_left} parts of the prediction are missing. Give "
        "them more memory, and call again: with `store=` what is written already is not computed again."
    )
    raise RuntimeError(msg)


def overwritable(argument: str, name: str, measured: Sequence[str]) -> None:
    """Refuse to overwrite an element or layer that is not a prediction."""
    if name in measured:
        msg = (
            f"`{argument}` is {name!r}, which exists and was not written by `stp.tl.predict`, so it is not overwritten "
            f"(kept are: {listed(measured)}). Give another name; `layer='X'` overwrites X."
        )
        raise ValueError(msg)


def panel_in_table(missing: Sequence[str], n_genes: int, table_name: str) -> None:
    """Refuse to write predictions into a table that has no columns for them."""
    if missing:
        msg = (
            f"Table {table_name!r} has no column for {len(missing)} of the predictor's {n_genes} genes: "
            f"{listed(missing)}. Leave out `layer` to write a table of its own."
        )
        raise ValueError(msg)
