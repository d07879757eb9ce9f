"""What is known of public cohorts: tissue, platform, licence, citation. Nothing is read or downloaded."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .._checks.calls import public


@dataclass(frozen=True, kw_only=True, slots=True)
class Cohort:
    """The donors and slides that a predictor was trained on, as its model card states them.

    Every field is text, and empty where nothing is known.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.datasets.Cohort(organ="lung", species="human", licence="CC-BY-4.0").organ
    'lung'
    """

    name: str = ""
    """Short name, such as ``"her2st"``."""
    organ: str = ""
    """Organ in one word, such as ``"breast"``."""
    tissue: str = ""
    """Tissue and disease, such as ``"HER2-positive breast cancer"``."""
    species: str = ""
    """``"human"``, ``"mouse"`` and so on."""
    platform: str = ""
    """Platform of the measurements: ``"visium"``, ``"visium_hd"``, ``"xenium"``, ``"st"`` (legacy Spatial
    Transcriptomics) or another."""
    licence: str = ""
    """SPDX identifier of the licence of the data, such as ``"CC-BY-4.0"``; empty if none is stated."""
    licence_source: str = ""
    """Where the licence is stated, and by whom."""
    citation: str = ""
    """Publication, with its DOI."""
    url: str = ""
    """Where the data can be had."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not isinstance(value := getattr(self, each.name), str):
                msg = (
                    f"`{each.name}` of a cohort is {value!r} ({type(value).__name__}). Give text, for instance "
                    "`stp.datasets.Cohort(organ='breast', licence='CC-BY-4.0')`."
                )
                raise TypeError(msg)

    def to_dict(self) -> dict[str, str]:
        """The fields that are not empty, ready for JSON.

        Returns
        -------
        A new dictionary.
        """
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name))}


_COHORTS = (
    Cohort(
        name="her2st",
        organ="breast",
        tissue="HER2-positive breast cancer",
        species="human",
        platform="st",
        licence="CC-BY-4.0",
        licence_source=(
            "Zenodo record 10.5281/zenodo.4751624, as several public projects quote it; the record was not read by the "
            "authors of stpredict, and the repository from which files are fetched states no licence"
        ),
        citation=(
            "Andersson et al. (2021). Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated "
            "cell type interactions. Nature Communications 12, 6012. doi:10.1038/s41467-021-26271-2"
        ),
        url="https://doi.org/10.5281/zenodo.4751624",
    ),
    Cohort(
        name="hbc",
        organ="breast",
        tissue="breast cancer",
        species="human",
        platform="st",
        citation=(
            "He et al. (2020). Integrating spatial gene expression and breast tumour morphology via deep learning. "
            "Nature Biomedical Engineering 4, 827-834. doi:10.1038/s41551-020-0578-x"
        ),
        url="https://doi.org/10.17632/29ntw7sh4r",
    ),
    Cohort(
        name="cscc",
        organ="skin",
        tissue="cutaneous squamous cell carcinoma",
        species="human",
        platform="st",
        citation=(
            "Ji et al. (2020). Multimodal analysis of composition and spatial architecture in human squamous cell "
            "carcinoma. Cell 182, 497-514. doi:10.1016/j.cell.2020.05.039"
        ),
        url="https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE144240",
    ),
)


@public
def cohorts() -> dict[str, Cohort]:
    """The public cohorts that this module can read: tissue, platform, licence and citation.

    Licences are those of the data. An empty licence means that we know of none: do not publish what was trained on such
    data before you have read one.

    Returns
    -------
    A new dictionary of the cohorts by name: `her2st`, `hbc` and `cscc`.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.datasets.cohorts()["her2st"].platform
    'st'
    """
    return {cohort.name: cohort for cohort in _COHORTS}
