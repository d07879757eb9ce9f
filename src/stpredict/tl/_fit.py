"""Train a predictor on slides: `plan_training` decides and checks everything, `train_members` trains."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from .._checks.calls import takes_fields
from .._checks.paths import output_path
from .._slides.slides import Selection, resolve
from .._train.config import TRAINING_FIELDS
from ..io.containers import opened
from ..models.registry import DEFAULT
from ..pp.targets import TargetSpec
from ._predictor.recorded import record_predictor
from ._predictor.serialization import check_replaceable, default_parent
from ._training.plan import plan_training
from ._training.train_members import train_members

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from .._geometry import PatchSpec
    from .._slides.regions import Regions
    from .._train.config import FitConfig
    from ..io.containers import DataOrPath
    from ._predictor.predictor import Predictor
    from ._training.ensemble import Weights


@takes_fields(config=TRAINING_FIELDS)
def fit(
    sdata: DataOrPath | Sequence[DataOrPath] | Mapping[str, DataOrPath],
    model: str | Sequence[str] = DEFAULT,
    *,
    weights: Weights | None = None,
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
    features_key: str | None = None,
    library_key: str | None = None,
    allow_fractional_counts: bool = False,
    regions: Regions | None = None,
    save_dir: str | PathLike[str] | None = None,
    resume_from: str | PathLike[str] | None = None,
) -> Predictor:
    """Train a model, or an ensemble of models, that predicts gene expression from image patches of the spots.

    Parameters
    ----------
    sdata
        One object, with one or several slides, or a list or mapping of such objects: SpatialData; AnnData with its
        image in ``uns["spatial"]``, as for `stp.io.from_anndata`; or paths of either (``.zarr``, ``.h5ad``).
    model
        Name of a model or of a registered ensemble; `stp.models.available` lists them. Or a list of models, which are
        trained as an ensemble: the prediction is their weighted mean.
    weights
        Weights of the models of an ensemble. By default those of the registered ensemble, or equal ones for a list.
        ``"equal"``; ``"stacked"``, by non-negative least squares on predictions at training spots that were held out
        (see Notes); one number for each model; or a mapping of names to numbers, 0 for those that are not named.
        Numbers are divided by their sum.
    config
        How to train: fields to change in the recipe of the model (`stp.models.recipe`), as a mapping or as a
        `FitConfig`, which means the same. In an ensemble each model has its own recipe, and ``config`` changes all of
        them. Models without trainable parameters use all spots if ``validation`` is ``"auto"``.
    target
        How counts are normalised; by default log1p CP10k over all genes.
    patch
        Fields of view; by default each model's multiples of the median spot diameter.
    model_options
        Fields of the model's configuration to change, for instance ``{"depth": 3}``; of an ensemble by the names of
        its models, for instance ``{"m2ost_tiny": {"depth": 3}}``.
    genes
        Genes to predict; by default those that `stp.pp.select_genes` marked, else the 250 most dispersed.
    group_key
        Column of ``obs`` that names the group of a slide (the patient); groups are never split between training and
        validation. By default every slide is its own group.
    validate_on
        Groups or slides to hold out for early stopping; by default chosen as ``config.validation`` says.
    layer
        Layer with raw counts; by default X.
    image_key
        Image, or a mapping of spot elements to images, where there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table with the counts; by default ``"observed"``, or the only one.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records. For an AnnData it is given to
        `stp.io.from_anndata` instead.
    features_key
        Matrix of ``obsm`` with image embeddings of the spots, for models with an ``encoder``; in an ensemble for those
        members that have one.
    library_key
        Column of ``obs`` with the library sizes of the spots over all genes, for tables that do not hold all genes;
        by default counts are summed over the genes of the table.
    allow_fractional_counts
        Whether counts need not be whole numbers, for instance after correction for ambient RNA; the predictor records
        it.
    regions
        Train only on spots whose centre lies in these polygons: the name of a shapes element, such as
        `stp.io.read_annotations` writes, several names, or a mapping of names to the classes that count, for instance
        ``{"annotations": ["Tumor", "Stroma"]}``. Each slide uses those that share its coordinate system.
    save_dir
        Folder for the predictor; by default one in the user's cache, named by a hash of data and options.
    resume_from
        Folder of an interrupted training run to resume, in place of ``save_dir``. Data and options must be the same.

    Returns
    -------
    The predictor. Its path and hash are written to ``sdata.attrs["stpredict"]["predictor"]`` (of an AnnData to
    ``uns["stpredict"]["predictor"]``); nothing else changes.

    Raises
    ------
    ValueError
        If elements do not match, values are not counts, or training and validation share groups.
    RuntimeError
        If another process is training into the same folder.
    KeyboardInterrupt
        If training is interrupted; its state is kept for ``resume_from``.

    Notes
    -----
    A killed training is resumed with ``resume_from``. It loses the epoch that was running, and where epochs take less
    than 10 s, those since the last checkpoint, which is at most 10 s older.

    Targets are standardised, and projected on principal components, with statistics of the training spots only. The
    output layer starts at the training mean. A moving average of the weights is validated after every epoch, and the
    best one is kept.

    Each patch is read once for all models of an ensemble. Stacked weights come from training each model once more for
    every fold of the training slides: groups are held out if there are several, else slides, else spatial blocks of the
    only slide, up to five folds. Blocks and slides of one group favour models that remember the tissue they have seen;
    ``provenance.ensemble`` records what was held out.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, config=stp.tl.FitConfig(n_epochs=1, progress=False))
    >>> predictor.patch.fov_um
    (150.0, 300.0, 900.0)
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
        features_key=features_key,
        library_key=library_key,
        allow_fractional_counts=allow_fractional_counts,
        regions=regions,
    )
    with opened(sdata, several=True, um_per_px=um_per_px) as data:
        plan = plan_training(
            resolve(data, selection),
            model,
            weights=weights,
            config=config,
            target=target or TargetSpec(),
            patch=patch,
            model_options=model_options,
            genes=genes,
            validate_on=validate_on,
            selection=selection,
        )
        folder = folder or default_folder(plan.fingerprint())
        predictor = train_members(plan, folder, resume=resume_from is not None)
        record_predictor(plan.slides, folder, predictor)
    return predictor


def predictor_folder(save_dir: str | PathLike[str] | None, resume_from: str | PathLike[str] | None) -> Path | None:
    """The folder of the predictor that the user names, None if there is none; a run is resumed where it was begun."""
    named = {"save_dir": save_dir, "resume_from": resume_from}
    folders = {name: output_path(given, name) for name, given in named.items() if given is not None}
    if len(set(folders.values())) > 1:
        msg = (
            f"`save_dir` is {str(folders['save_dir'])!r}, but the training in {str(folders['resume_from'])!r} is "
            "resumed in its own folder. Leave `save_dir` out, and call `Predictor.save` for a copy."
        )
        raise ValueError(msg)
    folder = next(iter(folders.values()), None)
    if folder is not None:
        check_replaceable(folder)
    return folder


def default_folder(fingerprint: Mapping[str, Any]) -> Path:
    """Default folder of a predictor: in the user's cache, named by a hash of data and options."""
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
    return default_parent() / digest[:16]
