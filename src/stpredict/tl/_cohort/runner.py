"""Predict many slides on one machine or many: finished slides are skipped, and a failed slide does not stop others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ... import _keys as keys
from ..._checks.calls import public
from ..._checks.names import duplicates
from ..._checks.paths import LONGEST_NAME, no_folder_names, output_folder, user_path
from ..._checks.slides import quote
from ..._files import DamagedFileError, atomic_file, lock_file, report_full_disk
from ..._pixels import PATCH_VERSION
from ..._progress import progress_bar
from .._inference.cluster import check_client, count_workers, exclusive_worker, run_tasks
from .._options import PredictOptions
from .._predictor.predictor import Predictor
from .job import RETRY, STATE, STORE, SlideJob, SlideState, predict_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from distributed import Client
    from spatialdata import SpatialData

    from ...pp.stain_normalization import StainMethod

SUMMARY = "summary.csv"
COLUMNS = ["status", "n_spots", "um_per_px", "seconds", "error", "warnings", "path"]


@public
def predict_cohort(
    paths: Sequence[str | PathLike[str]] | Mapping[str, str | PathLike[str]],
    predictor: Predictor | str | PathLike[str],
    out_dir: str | PathLike[str],
    *,
    client: Client | None = None,
    prepare: Callable[[SpatialData], None] | None = None,
    shapes_key: str = keys.GRID,
    um_per_px: float | Mapping[str, float] | None = None,
    n_views: int = 1,
    stain: StainMethod | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Predict many slides, each into a store of its own.

    Call it again with the same arguments after a crash: finished slides are skipped, a slide that was begun continues
    at the first partition (1,024 spots) that is not written, and failed slides are tried again.

    Parameters
    ----------
    paths
        Slide files that `stp.io.read_wsi` reads, or SpatialData stores. A slide is named after its file; give a mapping
        of names to paths if names repeat.
    predictor
        What `fit` returned, where it was saved, or a name as `Predictor.load` takes it.
    out_dir
        Folder for everything that is written; nothing else is written anywhere.
    client
        Client of a dask cluster. Every worker predicts whole slides; if there are fewer slides than workers, they share
        the spots of one slide after the other. All must reach ``paths`` and ``out_dir`` under the same names.
    prepare
        Function of a slide's object that writes the spots as ``shapes_key``. By default `stp.pp.tissue` and
        `stp.pp.spot_grid` with the geometry of the predictor. Not called if the object has ``shapes_key``.
    shapes_key
        Element with the spots that are predicted.
    um_per_px
        Resolution in µm per pixel if files do not state it: of all slides, or by name.
    n_views
        Number of the eight flips and rotations of the patches to average over.
    stain
        Stain normalisation to the training slides as in `stp.tl.predict`, ``"reinhard"`` or ``"macenko"``.
    batch_size
        Spots per forward pass; by default a number that suits the device.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The summary, one row per slide: ``status`` (``"done"``, ``"failed"``, or ``"running"`` in another process),
    ``n_spots``, ``um_per_px``, ``seconds``, ``error``, ``warnings``, and ``path`` of the result. The summary of all
    slides in ``out_dir`` is written to ``summary.csv``. The result of a slide is ``out_dir/NAME/predicted.zarr``, a
    SpatialData with the spots, the tissue and the table ``"predicted"``, without the image; ``state.json`` beside it
    holds the state of the slide. Several processes, such as those of a job array, may make the same call: each predicts
    slides that no other process is predicting.

    Raises
    ------
    ValueError
        If slides share a name, or ``out_dir`` holds results of another predictor, other settings, or another version of
        patches.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, "ridge_color", config={"progress": False})
    >>> folder = Path(mkdtemp())
    >>> stp.datasets.synthetic(n_slides=1, n_side=4, seed=1).write(folder / "new.zarr")
    >>> summary = stp.tl.predict_cohort([folder / "new.zarr"], predictor, folder / "out", progress=False)
    >>> summary.loc["new", "status"], int(summary.loc["new", "n_spots"])
    ('done', 42)
    """
    options = PredictOptions(n_views=n_views, stain=stain, batch_size=batch_size, device=device, precision=precision)
    check_client(client)
    slides, out = _slide_paths(paths), output_folder(out_dir, "out_dir")
    unknown = sorted(set(um_per_px) - set(slides)) if isinstance(um_per_px, Mapping) else []
    if unknown:
        msg = f"`um_per_px` names {quote(unknown)}, but the slides are {quote(list(slides))}."
        raise ValueError(msg)
    predictor = predictor if isinstance(predictor, Predictor) else Predictor.load(predictor)
    predictor_hash = predictor.hash
    jobs = [
        SlideJob(
            name=name,
            path=path,
            folder=out / name,
            prepare=prepare,
            shapes_key=shapes_key,
            um_per_px=um_per_px.get(name) if isinstance(um_per_px, Mapping) else um_per_px,
            options=options,
            predictor_hash=predictor_hash,
        )
        for name, path in slides.items()
    ]
    todo = _unfinished_jobs(jobs, out)
    n_done = len(jobs) - len(todo)
    with (
        report_full_disk(out, RETRY),  # of states and summary; what fails in a slide is in its state
        progress_bar(total=len(jobs), initial=n_done, desc="slides", unit="slide", progress=progress) as bar,
    ):
        n_failed = 0
        for state in _run_jobs(todo, predictor, client):
            n_failed += state.status == "failed"
            bar.set_postfix(failed=n_failed)
            bar.update()
        return _summary(jobs, out)


def _slide_paths(paths: Sequence[str | PathLike[str]] | Mapping[str, str | PathLike[str]]) -> dict[str, Path]:
    """Absolute paths by the names of the slides, which are names of folders."""
    if isinstance(paths, str) or hasattr(paths, "__fspath__"):
        msg = f"`paths` is the one path {str(paths)!r}. Give a list, or a mapping of names to paths."
        raise TypeError(msg)
    if not paths:
        msg = "`paths` is empty. Give slide files or SpatialData stores."
        raise ValueError(msg)
    if hasattr(paths, "items"):
        pairs = list(paths.items())
    else:
        pairs = [(Path(path).stem.removesuffix(".ome"), path) for path in paths]
    names = [name for name, _ in pairs]
    if twice := duplicates(names):
        same = [str(path) for name, path in pairs if name == twice[0]]
        msg = (
            f"Several slides are named {quote(twice)} (for instance {quote(same)}). Give a mapping of names to "
            "paths, `{'name': path, …}`."
        )
        raise ValueError(msg)
    if wrong := no_folder_names(names) + [name for name in names if name == SUMMARY]:
        msg = (
            f"{quote(wrong)} cannot be the name of a folder of a slide. Give a mapping of names to paths; names have "
            f"at most {LONGEST_NAME} bytes, no slashes, no line breaks, and no dot first, and are not {SUMMARY!r}."
        )
        raise ValueError(msg)
    return {name: user_path(path, "paths") for name, path in pairs}


def _unfinished_jobs(jobs: Sequence[SlideJob], out: Path) -> list[SlideJob]:
    """Slides that are not finished; an error if others were finished in another way."""
    states = {job.name: SlideState.read_finished(job.folder) for job in jobs}
    finished = [(job, state) for job in jobs if (state := states[job.name]) is not None]
    versions = {job.name: state.patch_version for job, state in finished if state.patch_version != PATCH_VERSION}
    if versions:
        msg = (
            f"{str(out)!r} holds results for {quote(list(versions))} that were predicted from patches of version "
            f"{next(iter(versions.values()))}, and this version of stpredict cuts patches of version {PATCH_VERSION}. "
            "Give another `out_dir`, or delete these folders."
        )
        raise ValueError(msg)
    other = [job.name for job, state in finished if state.fingerprint != job.fingerprint]
    if other:
        msg = (
            f"{str(out)!r} holds results of another predictor or other settings for {quote(other)}. Give another "
            "`out_dir`, or delete these folders."
        )
        raise ValueError(msg)
    return [job for job in jobs if states[job.name] is None or _has_leftovers(job)]


def _has_leftovers(job: SlideJob) -> bool:
    """Whether a process was killed after it had finished a slide, and before it had cleaned up."""
    return (job.folder / STORE).exists() or lock_file(job.folder).exists()


def _run_jobs(jobs: Sequence[SlideJob], predictor: Predictor, client: Client | None) -> Iterator[SlideState]:
    """Predict slides here, or one after the other on all workers, or one on each."""
    if client is None or (jobs and len(jobs) < count_workers(client)):
        for job in jobs:
            yield predict_slide(job, predictor, client)
        return
    for (job,), state, error in run_tasks(client, _predict_in_worker, [predictor], [(job,) for job in jobs]):
        yield state if error is None else SlideState.running(job).with_error(error).write(job.folder)


def _predict_in_worker(predictor: Predictor, job: SlideJob) -> SlideState:
    with exclusive_worker():
        return predict_slide(job, predictor, None)


def _summary(jobs: Sequence[SlideJob], out: Path) -> pd.DataFrame:
    """The states of these slides; those of all slides in the folder are written to a file."""
    out.mkdir(parents=True, exist_ok=True)
    folders = {folder.name: folder for folder in sorted(out.iterdir()) if (folder / STATE).is_file()}
    with atomic_file(out / SUMMARY) as part:
        _state_table(folders).to_csv(part)
    return _state_table({job.name: job.folder for job in jobs})


def _state_table(folders: Mapping[str, Path]) -> pd.DataFrame:
    rows = [_state_row(folder) for folder in folders.values()]
    return pd.DataFrame(rows, index=pd.Index(list(folders), name="slide"), columns=COLUMNS)


def _state_row(folder: Path) -> dict[str, object]:
    """The state of a slide; one that cannot be read is a failure of that slide, which the next call predicts again."""
    try:
        state = SlideState.read(folder)
    except DamagedFileError as error:
        state = SlideState(status="failed", error=str(error))
    return {} if state is None else asdict(state)
