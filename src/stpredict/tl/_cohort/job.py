"""One slide of a cohort: opened, prepared, predicted and written into its folder, or its failure noted there."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import traceback
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import zarr
from spatialdata import SpatialData, read_zarr

from ... import _keys as keys
from ..._checks import cohort as check
from ..._files import atomic_file, atomic_folder, lock
from ...io import read_wsi
from ...pp import resolution, spot_grid, tissue
from .._predict import predict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from distributed import Client

    from ...pp.stain_normalization import StainMethod
    from .._predictor.predictor import Predictor

RUNNING, DONE, FAILED = "running", "done", "failed"
STATE, STARTED, RESULT = "state.json", "started.zarr", "predicted.zarr"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is done with one slide."""

    name: str
    """Name of the slide."""
    path: Path
    """Where it is."""
    folder: Path
    """Where its results go."""
    prepare: Callable[[SpatialData], None] | None
    """What writes its spots; None for tissue and grid."""
    shapes_key: str
    """Element with its spots."""
    um_per_px: float | None
    """Resolution, if the file does not state it."""
    n_views: int
    stain: StainMethod | None
    batch_size: int | None
    device: str
    precision: str

    predictor_hash: str
    """Of the predictor, which takes a while to compute."""

    @property
    def fingerprint(self) -> str:
        """Digest of what decides the result beside the slide."""
        said = (self.predictor_hash, self.shapes_key, self.um_per_px, self.n_views, self.stain)
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


class Caught:
    """A context that keeps what is raised in it: one slide must not stop the others, whatever is wrong with it."""

    error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None


def predict_slide(job: Job, predictor: Predictor, client: Client | None) -> dict[str, Any]:
    """Predict one slide, unless another process is at it, or has just finished it.

    Parameters
    ----------
    job
        What to do.
    predictor
        The predictor.
    client
        Client of a cluster that computes; None to compute here.

    Returns
    -------
    Its state, as it is written beside the result.
    """
    with lock(job.folder) as ours:
        if ours and done_by(job) != job.fingerprint:
            return _predict(job, predictor, client)
    return state_of(job.folder) or {"status": RUNNING}


def _predict(job: Job, predictor: Predictor, client: Client | None) -> dict[str, Any]:
    start = time.monotonic()
    state: dict[str, Any] = {"status": RUNNING, "n_spots": None, "um_per_px": None, "of": job.fingerprint}
    with Caught() as caught, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        job.folder.mkdir(parents=True, exist_ok=True)
        _note(job, state)
        state |= _predicted(job, predictor, client)
    state["seconds"] = round(time.monotonic() - start, 2)
    state["warnings"] = sorted({str(each.message) for each in said if issubclass(each.category, UserWarning)})
    return (
        note_failed(job, caught.error, state) if caught.error else _note(job, {**state, "status": DONE, "error": None})
    )


def note_failed(job: Job, error: BaseException, state: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write down that a slide failed, and why.

    Parameters
    ----------
    job
        The slide.
    error
        What was raised.
    state
        What else is known.

    Returns
    -------
    The state.
    """
    said = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exception(error)}
    return _note(job, {**(state or {}), "status": FAILED, **said})


def state_of(folder: Path) -> dict[str, Any] | None:
    """What is written about a slide.

    Parameters
    ----------
    folder
        Its folder.

    Returns
    -------
    Its state; None if it was not begun.
    """
    file = folder / STATE
    state: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return state


def done_by(job: Job) -> str | None:
    """What a slide was finished with.

    Parameters
    ----------
    job
        The slide.

    Returns
    -------
    The fingerprint; None if it is not finished, or its result is gone.
    """
    state = state_of(job.folder)
    return str(state["of"]) if state and state["status"] == DONE and (job.folder / RESULT).is_dir() else None


def _note(job: Job, state: dict[str, Any]) -> dict[str, Any]:
    """Replace the state file at once, so that a reader never sees half of it."""
    if job.folder.is_dir():
        with atomic_file(job.folder / STATE) as part:
            part.write_text(json.dumps(state, indent=1), encoding="utf-8")
    return state


def _predicted(job: Job, predictor: Predictor, client: Client | None) -> dict[str, Any]:
    """Do the work; returns what is to be known of the result."""
    sdata = _opened(job)
    if job.shapes_key not in {*sdata.shapes, *sdata.labels}:
        _lay_grid(sdata, predictor) if job.prepare is None else job.prepare(sdata)
    predict(
        sdata,
        predictor,
        shapes_key=job.shapes_key,
        n_views=job.n_views,
        stain=job.stain,
        store=job.folder / STARTED,
        client=client,
        batch_size=job.batch_size,
        device=job.device,
        precision=job.precision,
        progress=False,
    )
    _write(sdata, job)
    recorded = sdata.attrs.get(keys.ATTRS, {}).get(keys.UM_PER_PX, {})
    return {
        "n_spots": sdata[keys.PREDICTED].n_obs,
        "um_per_px": next(iter(recorded.values()), None),
        "path": str(job.folder / RESULT),
    }


def _opened(job: Job) -> SpatialData:
    """A SpatialData store as such; whatever else is a slide file."""
    check.there(job.path)
    if not _is_spatialdata(job.path):
        return read_wsi(job.path, um_per_px=job.um_per_px)
    sdata = read_zarr(job.path)
    if job.um_per_px is not None:
        resolution(sdata, um_per_px=job.um_per_px)
    return sdata


def _is_spatialdata(path: Path) -> bool:
    return (
        path.is_dir()
        and any((path / name).is_file() for name in ("zarr.json", ".zgroup"))
        and ("spatialdata_attrs" in zarr.open_group(path, mode="r").attrs)
    )


def _lay_grid(sdata: SpatialData, predictor: Predictor) -> None:
    tissue(sdata)
    spot_grid(sdata, predictor)


def _write(sdata: SpatialData, job: Job) -> None:
    """Spots, tissue and table in a store that appears when it is whole; what was streamed goes."""
    shapes = {name: sdata.shapes[name] for name in {job.shapes_key, keys.TISSUE} & set(sdata.shapes)}
    labels = {name: sdata.labels[name] for name in {job.shapes_key} & set(sdata.labels)}
    tables = {keys.PREDICTED: sdata.tables[keys.PREDICTED]}
    with atomic_folder(job.folder / RESULT, locked=True) as part:
        SpatialData(shapes=shapes, labels=labels, tables=tables, attrs=sdata.attrs).write(part)
    shutil.rmtree(job.folder / STARTED)
