"""Errors about where predictions are written, and about the processes that compute them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_TABLE_BYTES = 1 << 32
"""Predictions larger than this are not held in memory."""


def fits_memory(n_spots: int, n_genes: int, n_matrices: int = 1) -> None:
    """Refuse a table that should not be held in memory."""
    n_bytes = 4 * n_spots * n_genes * n_matrices
    if n_bytes > LARGEST_TABLE_BYTES:
        msg = (
            f"The predictions of {n_spots:,} spots x {n_genes:,} genes take {n_bytes / 2**30:.1f} GiB, more than the "
            f"{LARGEST_TABLE_BYTES >> 30} GiB that are held in memory. Give `store=`, a folder on disk that they are "
            "written to as they are computed."
        )
        raise ValueError(msg)


def same_prediction(path: Path, found: str | None, wanted: str) -> None:
    """Refuse to write into a folder that holds something else."""
    if found is None:
        msg = f"{str(path)!r} exists and was not begun by `stp.tl.predict`, so it is not written to. Name another."
        raise FileExistsError(msg)
    if found != wanted:
        msg = (
            f"{str(path)!r} holds a prediction of other spots, or by another predictor or other settings, so it is not "
            "taken up. Delete it or name another."
        )
        raise FileExistsError(msg)


def own_table(layer: str | None) -> None:
    """Refuse to stream into a layer."""
    if layer is not None:
        msg = f"`store` is for a table of its own, but `layer` is {layer!r}. Give one of the two."
        raise ValueError(msg)


def has_workers(n_workers: int) -> None:
    """Refuse a cluster that would never answer."""
    if n_workers == 0:
        msg = "The cluster of `client` has no workers. Scale it up, or call `client.wait_for_workers(1)` first."
        raise ValueError(msg)


def is_client(client: object) -> None:
    """Refuse what is no dask client."""
    if not hasattr(client, "submit") or not hasattr(client, "scatter"):
        msg = (
            f"`client` is a {type(client).__name__}; give a `dask.distributed.Client`, for instance "
            "`Client(LocalCluster(n_workers=2))`."
        )
        raise TypeError(msg)


def cluster_lost(n_left: int, n_times: int) -> NoReturn:
    """Say that workers died too often."""
    msg = (
        f"Workers of the cluster were lost {n_times} times, and {n_left} parts of the prediction are missing. Give "
        "them more memory, and call again: with `store=` what is written already is not computed again."
    )
    raise RuntimeError(msg)
