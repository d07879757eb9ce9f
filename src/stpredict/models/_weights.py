"""A table of pretrained weights: their location and licence. Nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_RECALL = "recall - check the model card"
_NAMED = "as its repository says"
_NOT = "do not use: their network is unknown"
WEIGHTS: tuple[tuple[str, str, str, str, str], ...] = (
    ("UNI", "hf-hub:MahmoodLab/UNI", "gated", "CC-BY-NC-ND", _RECALL),
    ("UNI2-h", "hf-hub:MahmoodLab/UNI2-h", "gated", "CC-BY-NC-ND", _RECALL),
    ("CONCH", "hf-hub:MahmoodLab/CONCH", "gated", "CC-BY-NC-ND", _RECALL),
    ("Prov-GigaPath", "hf-hub:prov-gigapath/prov-gigapath", "gated", "", _RECALL),
    ("Virchow", "hf-hub:paige-ai/Virchow", "gated", "", _RECALL),
    ("Virchow2", "hf-hub:paige-ai/Virchow2", "gated", "non-commercial", _RECALL),
    ("H-optimus-0", "hf-hub:bioptimus/H-optimus-0", "registration", "Apache-2.0", _RECALL),
    ("H0-mini", "hf-hub:bioptimus/H0-mini", "gated", "", _RECALL),
    ("Phikon", "hf-hub:owkin/phikon", "open", "non-commercial", _RECALL),
    ("Phikon-v2", "hf-hub:owkin/phikon-v2", "open", "non-commercial", _RECALL),
    ("Hibou-L", "hf-hub:histai/hibou-L", "open", "", _RECALL),
    ("kaiko ViT-B/8", "torch.hub kaiko-ai/towards_large_pathology_fms", "open", "", _RECALL),
    ("CTransPath", "Hugging Face data set MahmoodLab/hest-bench, fm_v1", "gated", "non-commercial", _RECALL),
    ("REMEDIS", "Hugging Face data set MahmoodLab/hest-bench, fm_v1", "gated", "non-commercial", _RECALL),
    ("Ciga ResNet-18", "GitHub ozanciga/self-supervised-histopathology, release tenpercent", "open", "", _RECALL),
    ("HIPT ViT-256 and ViT-4K", "GitHub mahmoodlab/HIPT", "open", "Apache-2.0 with Commons Clause", _RECALL),
    ("CrossViT", "timm crossvit_*", "open", "Apache-2.0", _NAMED),
    ("STPath", "hf-hub:tlhuang/STPath", "open", "", _RECALL),
    ("DeepSpot", "Zenodo 15322099, pickled modules", "open", "MIT", _RECALL),
    ("DeepSpot-M", "Hugging Face", "gated", "CC-BY-NC-SA, code PolyForm-NC", _RECALL),
    ("HisToGene", "Google Drive, one fold", "open", "MIT", _NAMED),
    ("Hist2ST", "Synapse syn29738084", "open", "", "none stated"),
    ("M2OST", "GitHub Dootmaan/M2OST, weights/MSViT_*.pth", "open", "MIT", _NOT),
)
"""Name, location, access, licence, and a note on the licence; an empty licence is unknown."""


def weights() -> pd.DataFrame:
    """List pretrained weights of pathology encoders, and of published models if their authors released any.

    No weights are required, and this function downloads nothing. Weights of timm and ``hf-hub:`` can be named wherever
    a model takes an ``encoder``; use others as a local file (``weights="path"``) or as embeddings in ``obsm``
    (``features_key``). Unless the note says otherwise, licences are from memory: read the model card before use. The
    authors of ST-Net, DeepSpaCE, BLEEP, TRIPLEX and STFlow released none. For ImageNet networks see the column
    ``licence`` of `stp.models.available`.

    Returns
    -------
    One row for each name: ``where``, ``gate`` (``"open"``, ``"registration"`` or ``"gated"``), ``licence`` (missing if
    unknown) and ``note``.

    Examples
    --------
    >>> from stpredict import models
    >>> models.weights().loc["UNI", ["where", "gate"]].tolist()
    ['hf-hub:MahmoodLab/UNI', 'gated']
    """
    import pandas as pd

    table = pd.DataFrame(WEIGHTS, columns=["name", "where", "gate", "licence", "note"], dtype="string")
    table["licence"] = table["licence"].replace("", pd.NA)
    return table.set_index("name")
