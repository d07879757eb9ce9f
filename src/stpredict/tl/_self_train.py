"""Self-training: a teacher network labels the spots of unmeasured slides for its student."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from .._checks import config as check_config
from .._checks.calls import takes_fields
from .._slides.slides import Selection, resolve
from .._train.config import TRAINING_FIELDS
from ..models import build
from ..pp.targets import TargetSpec
from ._fit import default_folder, predictor_folder
from ._predictor.recorded import record_predictor
from ._training.plan import plan_training
from ._training.train_members import train_members

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from spatialdata import SpatialData

    from .._geometry import PatchSpec
    from .._slides.regions import Regions
    from .._train.config import FitConfig
    from ..models import ModelConfig
    from ._predictor.predictor import Predictor


@takes_fields(config=TRAINING_FIELDS)
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
    library_key: str | None = None,
    allow_fractional_counts: bool = False,
    regions: Regions | None = None,
    unlabelled_key: str | Sequence[str] | None = None,
    save_dir: str | PathLike[str] | None = None,
    resume_from: str | PathLike[str] | None = None,
) -> Predictor:
    """Train a model by self-training: on measured spots, and on pseudo-labels of spots without measurements.

    The first network is trained as in `stp.tl.fit`. In each of ``rounds`` rounds a new network (the student) is trained
    on the measured spots and on the predictions of the previous network (its teacher) at the other spots, as in
    DeepSpaCE (Monjo et al. 2022). Each member of an ensemble has its own students, so that no information about its
    held-out groups reaches them.

    Parameters
    ----------
    sdata
        Slides with counts: one object, or a list or mapping of such objects.
    unlabelled
        Slides with spots, for instance from `stp.pp.spot_grid`; their counts, if any, are not used.
    model
        Name of the model; `stp.models.available` lists them. It must be trained by gradient steps, and not on counts;
        so must all models of an ensemble.
    rounds
        Number of students after the first network.
    config
        How to train each network: fields to change in the recipe of the model, a mapping or a `FitConfig`, as in `fit`.
    target
        How counts are normalised; by default log1p CP10k over all genes.
    patch
        Fields of view; by default the model's multiples of the median spot diameter of the slides with counts.
    model_options
        Fields of the model's configuration to change.
    genes
        Genes to predict; by default as in `stp.tl.fit`.
    group_key
        Column of ``obs`` that names the group of a slide (the patient).
    validate_on
        Groups or slides to hold out for early stopping; by default chosen as ``config.validation`` says.
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
    library_key
        Column of ``obs`` with the library sizes of the spots over all genes, for tables that do not hold all genes;
        by default counts are summed over the genes of the table.
    allow_fractional_counts
        Whether counts need not be whole numbers, for instance after correction for ambient RNA.
    regions
        Of the slides with counts, use only spots whose centre lies in these polygons, as in `stp.tl.fit`.
    unlabelled_key
        Elements that hold the spots of the other slides; by default as in `stp.tl.predict`.
    save_dir
        Folder for the predictor; by default one in the user's cache, named by a hash of data and options.
    resume_from
        Folder of an interrupted training run to resume, in place of ``save_dir``. Data and options must be the same.

    Returns
    -------
    A predictor with the last students. In ``history`` each network counts as a member, students after their teachers;
    ``provenance.self_training`` holds rounds and slides. Its path and hash are written to the attributes of ``sdata``;
    ``unlabelled`` is not changed.

    Raises
    ------
    ValueError
        As in `stp.tl.fit`, and if the model cannot be a student.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata, other = (stp.datasets.synthetic(n_slides=n, n_side=4, seed=n) for n in (2, 1))
    >>> config = stp.tl.FitConfig(n_epochs=1, progress=False)
    >>> predictor = stp.tl.self_train(sdata, other, "m2ost_tiny", rounds=1, config=config)
    >>> predictor.provenance.self_training["rounds"]
    1
    """
    folder = predictor_folder(save_dir, resume_from)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
        group_key=group_key,
        um_per_px=um_per_px,
        library_key=library_key,
        allow_fractional_counts=allow_fractional_counts,
        regions=regions,
    )
    check_config.in_range("rounds", rounds, 1, 100)
    plan = plan_training(
        resolve(sdata, selection),
        model,
        config=config,
        target=target or TargetSpec(),
        patch=patch,
        model_options=model_options,
        genes=genes,
        validate_on=validate_on,
        selection=selection,
    )
    others = resolve(unlabelled, Selection(shapes_key=unlabelled_key), needs_table=False, needs_counts=False)
    plan = dataclasses.replace(plan, unlabelled=others, rounds=rounds)
    for member in plan.models:
        _check_student(member.name, member.model_config)
    folder = folder or default_folder(plan.fingerprint())
    predictor = train_members(plan, folder, resume=resume_from is not None)
    record_predictor(plan.slides, folder, predictor)
    return predictor


def _check_student(name: str, config: ModelConfig) -> None:
    """Refuse a model that does not learn from pseudo-labels."""
    with torch.device("meta"):
        network = build(config)
    if not network.has_trainable_parameters or network.needs_counts:
        on_counts = "is trained on counts, which a teacher does not predict"
        why = on_counts if network.needs_counts else "is not trained by steps"
        msg = (
            f"{name!r} {why}, so it learns nothing from spots without measurements. Use `stp.tl.fit`, or a network "
            "such as 'deepspace'."
        )
        raise ValueError(msg)
