"""Gene panels that publications used, as package data."""

from __future__ import annotations

import json
from importlib.resources import files

from .._checks.calls import public
from . import _errors as check


@public
def gene_panel(name: str = "her2st") -> list[str]:
    """Genes that the authors of M2OST predict on a public data set.

    Parameters
    ----------
    name
        ``"her2st"`` or ``"cscc"`` (gene symbols), or ``"hbc"`` (Ensembl ids).

    Returns
    -------
    250 gene names, in the order of the published list.

    Examples
    --------
    >>> import stpredict as stp
    >>> panel = stp.datasets.gene_panel("her2st")
    >>> len(panel), "ERBB2" in panel
    (250, True)
    """
    panels: dict[str, list[str]] = json.loads((files(__package__) / "panels.json").read_text("utf-8"))["panels"]
    check.known_names("name", [name], panels, "stp.datasets.gene_panel")
    return panels[name]
