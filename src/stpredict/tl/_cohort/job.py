"""One slide of a cohort: opened, prepared, predicted and written into its folder, with a file that holds its state."""

from __future__ import annotations

import hashlib
import logging
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from spatialdata import SpatialData, read_zarr

from ... import _keys as keys
from ..._files import (
    DamagedFileError,
    atomic_folder,
    folder_sha256,
    lock,
    read_json,
    remove,
    report_full_disk,
    restore_folder,
    write_json,
)
from ..._pixels import PATCH_VERSION
from ...io import read_wsi
from ...io.containers import is_spatialdata_store
from ...pp import resolution, spot_grid, tissue
from .._predict import predict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

    from ..._files import Schema
    from .._options import PredictOptions
    from .._predictor.predictor import Predictor

logger = logging.getLogger(__name__)

STATE, RESULT = "state.json", "predicted.zarr"
STORE = "started.zarr"
"""Where a prediction is streamed to until it is complete."""
STATE_FIELDS: Schema = {
    "status": ("running", "done", "failed"), "fingerprint?": str, "of?": str, "patch_version?": int, "sha256?": str,
    "n_spots?": int, "um_per_px?": float, "path?": str, "seconds?": float, "error?": str, "traceback?": [str],
    "warnings?": [str],
}  # fmt: skip
RETRY = "What is predicted is kept: free some space, and call `stp.tl.predict_cohort` again."
ADVICE = "Call `stp.tl.predict_cohort` again: the slide is then predicted again."


@dataclass(frozen=True, kw_only=True, slots=True)
class SlideJob:
    """Everything that the prediction of one slide needs but the predictor."""

    name: str
    path: Path
    """Slide file or SpatialData store."""
    folder: Path
    """Where the result is written."""
    prepare: Callable[[SpatialData], None] | None
    """Writes the spots into the object; None for tissue and grid."""
    shapes_key: str
    """Element with the spots."""
    um_per_px: float | None
    """Resolution, if the file does not state it."""
    options: PredictOptions
    predictor_hash: str
    """Hash of the predictor, which takes time to compute."""

    @property
    def fingerprint(self) -> str:
        """Digest of everything but the slide that decides the result."""
        options = self.options
        parts: tuple[object, ...] = (
            self.predictor_hash, self.shapes_key, self.um_per_px, options.n_views, options.stain
        )  # fmt: skip
        if PATCH_VERSION != 1:  # version 1 is left out, so that cohorts written before there was a version resume
            parts += (("patches", PATCH_VERSION),)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlideState:
    """What is known about the prediction of one slide."""

    status: Literal["running", "done", "failed"]
    fingerprint: str | None = None
    """What decides the result: see `SlideJob.fingerprint`."""
    patch_version: int = 1
    """`PATCH_VERSION` of the stpredict that predicted the slide; files of older versions do not state it."""
    sha256: str | None = None
    """Digest of the result; older versions recorded none."""
    n_spots: int | None = None
    um_per_px: float | None = None
    path: str | None = None
    """Where the result is."""
    seconds: float | None = None
    error: str | None = None
    traceback: list[str] | None = None
    warnings: list[str] | None = None

    @classmethod
    def running(cls, job: SlideJob) -> SlideState:
        """The state of a slide that is begun."""
        return cls(status="running", fingerprint=job.fingerprint, patch_version=PATCH_VERSION)

    def with_error(self, error: BaseException) -> SlideState:
        """The same slide after an error."""
        text = f"{type(error).__name__}: {error}"
        return replace(self, status="failed", error=text, traceback=traceback.format_exception(error))

    def write(self, folder: Path) -> SlideState:
        """Replace the state file of a slide, if its folder exists."""
        if folder.is_dir():
            write_json(folder / STATE, asdict(self))
        return self

    @classmethod
    def read(cls, folder: Path) -> SlideState | None:
        """The state of the slide with this folder; None if it was not begun."""
        file = folder / STATE
        if not file.is_file():
            return None
        values = read_json(file, STATE_FIELDS, ADVICE)
        if "of" in values:  # the name of the fingerprint in older versions
            values = {"fingerprint": values["of"], **values}
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    @classmethod
    def read_finished(cls, folder: Path) -> SlideState | None:
        """The same; None if the slide is not finished, or if its state or its result was lost or damaged."""
        try:
            state = cls.read(folder)
        except DamagedFileError as error:
            logger.warning("%s", error)
            return None
        if state is None or state.status != "done":
            return None
        restore_folder(folder / RESULT)
        is_whole = (folder / RESULT).is_dir() and state.sha256 in (None, folder_sha256(folder / RESULT))
        if not is_whole:
            logger.warning("The result in %r was lost or damaged: the slide is predicted again.", str(folder))
        return state if is_whole else None


def predict_slide(job: SlideJob, predictor: Predictor, client: Client | None) -> SlideState:
    """Predict one slide, on the cluster if there is one, unless another process is at it or has just finished it."""
    with lock(job.folder) as acquired:
        if acquired:
            finished = SlideState.read_finished(job.folder)
            if finished is None or finished.fingerprint != job.fingerprint:
                finished = _predict_locked(job, predictor, client)
            if finished.status == "done":
                remove(job.folder / STORE)
            return finished
    with suppress(DamagedFileError):
        return SlideState.read(job.folder) or SlideState(status="running")
    return SlideState(status="running")


def _predict_locked(job: SlideJob, predictor: Predictor, client: Client | None) -> SlideState:
    start, state = time.monotonic(), SlideState.running(job)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            job.folder.mkdir(parents=True, exist_ok=True)
            state.write(job.folder)
            state = _predict(job, predictor, client, state)
        # A slide can be broken in any way, and readers and user code raise anything. It must not stop the other slides
        # of a cohort, which may run for days: the error is written into its state, and the summary shows it.
        except Exception as error:  # noqa: BLE001
            state = state.with_error(error)
    messages = sorted({str(each.message) for each in caught if issubclass(each.category, UserWarning)})
    return replace(state, seconds=round(time.monotonic() - start, 2), warnings=messages).write(job.folder)


def _predict(job: SlideJob, predictor: Predictor, client: Client | None, state: SlideState) -> SlideState:
    sdata = _open(job)
    if job.shapes_key not in {*sdata.shapes, *sdata.labels}:
        if job.prepare is None:
            tissue(sdata)
            spot_grid(sdata, predictor)
        else:
            job.prepare(sdata)
    try:
        _predict_into_store(sdata, job, predictor, client)
    except (FileExistsError, DamagedFileError):  # the store was begun with other settings, or is damaged
        if not (job.folder / STORE).exists():
            raise
        remove(job.folder / STORE)
        _predict_into_store(sdata, job, predictor, client)
    sha256 = _write_result(sdata, job)
    recorded = sdata.attrs.get(keys.ATTRS, {}).get(keys.UM_PER_PX, {})
    return replace(
        state,
        status="done",
        sha256=sha256,
        n_spots=sdata[keys.PREDICTED].n_obs,
        um_per_px=next(iter(recorded.values()), None),
        path=str(job.folder / RESULT),
    )


def _predict_into_store(sdata: SpatialData, job: SlideJob, predictor: Predictor, client: Client | None) -> None:
    store, options = job.folder / STORE, asdict(job.options)
    predict(sdata, predictor, shapes_key=job.shapes_key, store=store, client=client, progress=False, **options)


def _open(job: SlideJob) -> SpatialData:
    """Read a SpatialData store, or else a slide file."""
    if not job.path.exists():
        msg = f"No slide at {str(job.path)!r}."
        raise FileNotFoundError(msg)
    if not is_spatialdata_store(job.path):
        return read_wsi(job.path, um_per_px=job.um_per_px)
    sdata = read_zarr(job.path)
    if job.um_per_px is not None:
        resolution(sdata, um_per_px=job.um_per_px)
    return sdata


def _write_result(sdata: SpatialData, job: SlideJob) -> str:
    """Write spots, tissue and table as a store that appears when it is complete; returns its digest."""
    shapes = {name: sdata.shapes[name] for name in (job.shapes_key, keys.TISSUE) if name in sdata.shapes}
    labels = {name: sdata.labels[name] for name in (job.shapes_key,) if name in sdata.labels}
    table = sdata.tables[keys.PREDICTED]
    place = job.folder / RESULT
    with report_full_disk(place, RETRY, lambda: 4 * table.n_obs * table.n_vars), atomic_folder(place) as part:
        SpatialData(shapes=shapes, labels=labels, tables={keys.PREDICTED: table}, attrs=sdata.attrs).write(part)
        return folder_sha256(part)
