"""Predict many slides, on one machine or many: what is finished is not done again, and a bad slide stops no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from ... import _keys as keys
from ..._checks import cohort as check
from ..._checks import config as check_config
from ..._checks import prediction as check_prediction
from ..._files import atomic_file
from .._inference.cluster import alone, n_workers, on_cluster
from .._predictor.predictor import Predictor
from .job import FAILED, STATE, Job, done_by, note_failed, predict_slide, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from os import PathLike

    from distributed import Client
    from spatialdata import SpatialData

    from ...pp.stain_normalization import StainMethod

SUMMARY = "summary.csv"
COLUMNS = ["status", "n_spots", "um_per_px", "seconds", "error", "warnings", "path"]


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

    Call it again with the same arguments after a crash: slides that are finished are left as they are, one that was
    begun goes on at the first partition (1,024 spots) that is not written, and those that failed are tried again.

    Parameters
    ----------
    paths
        Slide files that `stp.io.read_wsi` reads, or SpatialData stores. A slide is named after its file; give a mapping
        of names to paths where names repeat.
    predictor
        What `fit` returned, or where it was saved.
    out_dir
        Folder for everything that is written; nothing else is written anywhere.
    client
        Client of a dask cluster. Every worker takes whole slides; where there are fewer slides than workers, they share
        the spots of one slide after the other. All must reach ``paths`` and ``out_dir`` under the same names.
    prepare
        Called with the object of each slide, and writes its spots as ``shapes_key``. By default `stp.pp.tissue`, and
        `stp.pp.spot_grid` in the geometry of the predictor. Not called where the object has ``shapes_key``.
    shapes_key
        Element with the spots that are predicted.
    um_per_px
        Resolution in µm per pixel where files do not state it: of all slides, or by name.
    n_views
        Average over this many of the eight flips and turns of the patches.
    stain
        Give the patches the stain of the training slides, ``"reinhard"`` or ``"macenko"``, as `stp.tl.predict` does.
    batch_size
        Spots a forward pass; by default what suits the device.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The summary, one row a slide: ``status`` (``"done"`` or ``"failed"``; ``"running"`` if another process is at it),
    ``n_spots``, ``um_per_px``, ``seconds``, ``error``, ``warnings``, ``path`` of the result. That of all slides in
    ``out_dir`` is written as ``summary.csv``. Several processes, such as those of a job array, may make the same call:
    each takes slides that no other is at. The result of a slide is
    ``out_dir/NAME/predicted.zarr``, a SpatialData with the spots, the tissue and the table ``"predicted"``, without the
    image; ``state.json`` beside it says how far the slide is, or why it failed.

    Raises
    ------
    ValueError
        If slides share a name, or ``out_dir`` holds results of another predictor or other settings.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, config=stp.tl.FitConfig(n_epochs=1, progress=False))
    >>> folder = Path(mkdtemp())
    >>> stp.datasets.synthetic(n_slides=1, n_side=4, seed=1).write(folder / "new.zarr")
    >>> summary = stp.tl.predict_cohort([folder / "new.zarr"], predictor, folder / "out", progress=False)
    >>> summary.loc["new", "status"], int(summary.loc["new", "n_spots"])
    ('done', 42)
    """
    check_config.prediction(n_views, batch_size)
    if client is not None:
        check_prediction.is_client(client)
    named, out = _named(paths), Path(out_dir)
    check.resolutions_of(um_per_px, list(named))
    found = predictor if isinstance(predictor, Predictor) else Predictor.load(predictor)
    job = Job(
        name="",
        path=Path(),
        folder=out,
        prepare=prepare,
        shapes_key=shapes_key,
        um_per_px=None,
        n_views=n_views,
        stain=stain,
        batch_size=batch_size,
        device=device,
        precision=precision,
        predictor_hash=found.hash,
    )
    jobs = [
        replace(job, name=name, path=path, folder=out / name, um_per_px=_of(um_per_px, name))
        for name, path in named.items()
    ]
    done = {job.name: done_by(job) for job in jobs}
    check.same_settings([job.name for job in jobs if done[job.name] not in {None, job.fingerprint}], out)
    left = [job for job in jobs if done[job.name] is None]
    with tqdm(total=len(jobs), initial=len(jobs) - len(left), desc="slides", unit="slide", disable=not progress) as bar:
        n_failed = 0
        for state in _run(left, found, client):
            n_failed += state["status"] == FAILED
            bar.set_postfix(failed=n_failed)
            bar.update()
    return _summary(jobs, out)


def _named(paths: Sequence[str | PathLike[str]] | Mapping[str, str | PathLike[str]]) -> dict[str, Path]:
    """Absolute paths by the names of the slides."""
    check.some_paths(paths)
    pairs = list(paths.items()) if hasattr(paths, "items") else [(_name(Path(path)), path) for path in paths]
    check.names(pairs)
    return {name: Path(path).absolute() for name, path in pairs}


def _name(path: Path) -> str:
    return path.stem.removesuffix(".ome")


def _of(um_per_px: float | Mapping[str, float] | None, name: str) -> float | None:
    return um_per_px if um_per_px is None or isinstance(um_per_px, float | int) else um_per_px.get(name)


def _run(jobs: Sequence[Job], predictor: Predictor, client: Client | None) -> Iterator[dict[str, Any]]:
    """Predict slides here, or one after the other on all workers, or one on each."""
    if client is None or (jobs and len(jobs) < n_workers(client)):
        for job in jobs:
            yield predict_slide(job, predictor, client)
        return
    for (job,), future in on_cluster(client, _in_worker, [predictor], [(job,) for job in jobs]):
        error = future.exception()
        yield future.result() if error is None else note_failed(job, error)


def _in_worker(predictor: Predictor, job: Job) -> dict[str, Any]:
    with alone():
        return predict_slide(job, predictor, None)


def _summary(jobs: Sequence[Job], out: Path) -> pd.DataFrame:
    """What became of these slides; of all in the folder it is written to a file."""
    out.mkdir(parents=True, exist_ok=True)
    table = _table({job.name: job.folder for job in jobs})
    with atomic_file(out / SUMMARY) as part:
        _table({folder.name: folder for folder in sorted(out.iterdir()) if (folder / STATE).is_file()}).to_csv(part)
    return table


def _table(folders: Mapping[str, Path]) -> pd.DataFrame:
    index = pd.Index(list(folders), name="slide")
    return pd.DataFrame([state_of(folder) or {} for folder in folders.values()], index=index, columns=COLUMNS)
