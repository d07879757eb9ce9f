"""Learn from slides that nobody measured: a teacher labels their spots for its student. Training is in `_trained`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._checks import config as check_config
from .._checks import training as check
from .._slides import Selection, resolve
from .._train.config import settled
from ..models import build
from ..pp.targets import TargetSpec
from ._fit import default_folder
from ._training.plan import planned
from ._training.provenance import record
from ._training.train_members import trained

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from spatialdata import SpatialData

    from .._geometry import PatchSpec
    from .._train.config import FitConfig
    from ._predictor.predictor import Predictor
    from ._training.training_plan import Run


def self_train(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    unlabelled: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    model: str = "deepspace",
    *,
    rounds: int = 5,
    config: FitConfig | Mapping[str, Any] | None = None,
    target: TargetSpec | None = None,
    patch: PatchSpec | None = None,
    model_options: Mapping[str, Any] | None = None,
    genes: Sequence[str] | None = None,
    group_key: str | None = None,
    validate_on: Sequence[str] | None = None,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    unlabelled_key: str | Sequence[str] | None = None,
    save_dir: str | PathLike[str] | None = None,
    resume_from: str | PathLike[str] | None = None,
) -> Predictor:
    """Train a model on measured spots and on spots of slides without measurements, which its last version labels.

    A first network is trained as `stp.tl.fit` does. Then, as often as ``rounds`` says, a new network learns from the
    measured spots and from what the last network predicts at the others, as DeepSpaCE does (Monjo et al. 2022). Members
    of an ensemble teach their own students alone, so that nothing of a group that is held out reaches them.

    Parameters
    ----------
    sdata
        Slides with counts: one object, or a list or mapping of such objects.
    unlabelled
        Slides with spots, for instance by `stp.pp.spot_grid`; counts they may have are not looked at.
    model
        Name of the model; `stp.models.available` lists them. It must be trained by steps, and not on counts.
    rounds
        How many students follow the first network.
    config
        How to train every one of the networks: fields to change in the recipe of the model, or a whole `FitConfig`, as
        in `fit`.
    target
        How counts become what is predicted; by default log1p CP10k over all genes.
    patch
        Fields of view; by default the model's multiples of the median spot diameter of the slides with counts.
    model_options
        Fields of the model's configuration to change.
    genes
        Genes to predict; by default as in `stp.tl.fit`.
    group_key
        Column of ``obs`` that says which slides belong together (the patient).
    validate_on
        Groups or slides to hold out for early stopping, whatever ``config`` says; by default what it says.
    layer
        Layer with raw counts; by default X.
    image_key
        Image, or a mapping of spot elements to images, where there are several; of the slides with counts.
    shapes_key
        Elements that hold the spots with counts; by default all that the table annotates.
    table_name
        Table with the counts; by default ``"observed"``, or the only one.
    coordinate_system
        Coordinate system shared by image and spots with counts, where there are several.
    um_per_px
        Resolution of the slides with counts in µm per pixel; by default what the object records.
    unlabelled_key
        Elements that hold the spots of the other slides; by default as in `stp.tl.predict`.
    save_dir
        Folder for the predictor; by default one in the user's cache, named by a hash of data and options.
    resume_from
        Folder of a training that was interrupted: continue it. Data and options must be the same.

    Returns
    -------
    The last students. In ``history`` every network counts as a member, students after their teachers; ``provenance``
    names rounds and slides. Its place and hash are written to the attributes of ``sdata``; ``unlabelled`` stays as it
    is.

    Raises
    ------
    ValueError
        As `stp.tl.fit`; and where a model cannot be a student.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata, other = (stp.datasets.synthetic(n_slides=n, n_side=4, seed=n) for n in (2, 1))
    >>> config = stp.tl.FitConfig(n_epochs=1, progress=False)
    >>> predictor = stp.tl.self_train(sdata, other, "m2ost_tiny", rounds=1, config=config)
    >>> predictor.provenance["self_training"]["rounds"]
    1
    """
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
        group_key=group_key,
        um_per_px=um_per_px,
    )
    check_config.in_range("rounds", rounds, 1, 100)
    run = planned(
        resolve(sdata, selection),
        model,
        config=settled(config, model),
        target=target or TargetSpec(),
        patch=patch,
        model_options=model_options,
        genes=genes,
        validate_on=validate_on,
    )
    others = resolve(unlabelled, Selection(shapes_key=unlabelled_key), needs_table=False)
    run = dataclasses.replace(run, unlabelled=others, rounds=rounds)
    _check_student(run)
    folder = Path(resume_from or save_dir or default_folder(run.values()))
    predictor = trained(run, folder, resume=resume_from is not None)
    record(run.slides, folder, predictor)
    return predictor


def _check_student(run: Run) -> None:
    """Refuse a model that could not learn from what a teacher says."""
    with torch.device("meta"):
        network = build(run.shape)
    check.can_be_student(run.model, steps=network.has_trainable_parameters, needs_counts=network.needs_counts)
