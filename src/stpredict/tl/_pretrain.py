"""Make a predictor to be shared: held-out scores of every donor, then a predictor of all, as files of a release."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from .. import _keys as keys
from .._checks.calls import takes_fields
from .._checks.paths import no_folder_names, output_folder
from ..models.registry import DEFAULT
from ._benchmarking.cross_validate import cross_validate
from ._benchmarking.entry import OPTIONS, common_fields
from ._describe import as_cohort, describe
from ._fit import fit
from ._predictor.archive import SUFFIX, archive_values, write_archive, write_entry
from ._predictor.serialization import CARD, FILES, package_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from spatialdata import SpatialData

    from .._train.config import FitConfig
    from ..datasets.cohort_records import Cohort
    from ._predictor.predictor import Predictor

COHORT_FIELDS = ("organ", "tissue", "species", "platform", "licence", "licence_source", "citation")
"""What an entry of a registry repeats of the cohort."""


@takes_fields(config=OPTIONS)
def pretrain(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    name: str,
    save_dir: str | PathLike[str],
    *,
    cohort: Cohort | Mapping[str, str] | None = None,
    model: str | Sequence[str] = DEFAULT,
    genes: Sequence[str] | None = None,
    group_key: str | None = keys.PATIENT,
    n_folds: int | None = None,
    config: FitConfig | Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Predictor:
    """Train a predictor to be shared, and write the files of a release.

    Donors are held out one by one to measure how good the model is on a donor that it has not seen; the predictor is
    then trained on all of them. Nothing is uploaded.

    Parameters
    ----------
    sdata
        One object with measured expression, or a list or mapping of objects.
    name
        Name by which the predictor will be loaded.
    save_dir
        Folder for the files. Set the environment variable ``STPREDICT_PRETRAINED`` to it to load the predictor by its
        name. Other predictors may be in the same folder.
    cohort
        Tissue, platform, licence and citation of the data: a `stp.datasets.Cohort`, or a mapping of its fields.
    model
        Name of a model or ensemble, or a list of models, as in `fit`.
    genes
        Genes to predict. By default the 250 most dispersed, chosen in each fold from its training slides, and for the
        predictor from all slides.
    group_key
        Column of ``obs`` that names the donor; None makes every slide a donor of its own.
    n_folds
        Number of folds; None holds out one donor at a time.
    config
        Training options, as in `cross_validate`.
    model_options
        Fields of the model's configuration to change, as in `fit`.
    progress
        Whether to show progress bars.

    Returns
    -------
    The predictor with its scores in ``provenance.held_out``. Writes into ``save_dir``: ``{name}.zip``, the files of
    `Predictor.save`; ``{name}.json``, its entry of a registry (`stp.models.pretrained`) with SHA-256 and size of the
    archive; ``{name}.md``, the model card; and the folder ``{name}-training`` with the folds, by which a further call
    continues after an interruption, and with the predictor before its scores were added; it may be deleted afterwards.

    Raises
    ------
    ValueError
        If there is one donor only, or training fails for the reasons that `fit` and `cross_validate` name.

    Examples
    --------
    >>> import tempfile, stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
    >>> folder = tempfile.mkdtemp()
    >>> cohort = {"organ": "made up", "licence": "CC0-1.0"}
    >>> predictor = stp.tl.pretrain(sdata, "made-up", folder, cohort=cohort, model="mean_profile", progress=False)
    >>> predictor.provenance.held_out["n_units"]
    2
    """
    folder = output_folder(save_dir, "save_dir")
    if no_folder_names([name]):
        msg = f"`name` is {name!r}, which cannot be the name of a file. Give letters and digits, such as 'her2st'."
        raise ValueError(msg)
    about = None if cohort is None else as_cohort(cohort)
    options = common_fields(config)
    training = folder / f"{name}-training"
    shared: dict[str, Any] = {"group_key": group_key, "genes": genes, "model_options": model_options}
    scores = cross_validate(
        sdata, model, n_folds=n_folds, config=options, save_dir=training / "folds", progress=progress, **shared
    )
    fitted = fit(sdata, model, config={**options, "progress": progress}, save_dir=training / "predictor", **shared)
    predictor = describe(fitted, about, scores)
    archive = folder / f"{name}{SUFFIX}"
    with TemporaryDirectory(prefix="stpredict-") as temporary:
        place = Path(temporary) / "predictor"
        predictor.save(place)
        write_archive(place, archive, FILES)
        shutil.copyfile(place / CARD, folder / f"{name}.md")
    write_entry(folder / f"{name}.json", name, {**_entry_values(predictor), **archive_values(archive)})
    return predictor


def _entry_values(predictor: Predictor) -> dict[str, Any]:
    """What a registry says of a predictor, beside its archive."""
    provenance = predictor.provenance
    cohort = provenance.cohort or {}
    return {
        **{name: cohort[name] for name in COHORT_FIELDS if name in cohort},
        "model": predictor.model,
        "n_donors": len({slide["group"] for slide in provenance.slides.values()}),
        "n_slides": len(provenance.slides),
        "genes": predictor.genes,
        "units": predictor.units,
        "held_out": provenance.held_out,
        "stpredict": package_version(),
    }
