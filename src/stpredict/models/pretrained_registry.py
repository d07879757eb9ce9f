"""Which predictors can be downloaded: the list of this version, and one of the user. Nothing is downloaded here.

A registry is a JSON file with one entry for each name. A folder of such files is a registry too, so that what
`stp.tl.pretrain` writes can be used as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks.calls import public
from .._checks.models import warn_no_pretrained
from .._checks.paths import no_folder_names, user_path
from .._files import DamagedFileError, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from .._files import Schema

REGISTRY = "STPREDICT_PRETRAINED"
"""Environment variable that names a registry of the user: a file, or a folder of files."""
PACKAGED = "pretrained.json"
ADVICE = "Mend the entry, or write it again with `stp.tl.pretrain`."
_TEXTS: dict[Any, Schema] = {
    f"{name}?": str for name in ("organ", "tissue", "species", "platform", "licence", "licence_source", "citation")
}
_ENTRY: Schema = {
    "url": str,
    "size": range(1, 1 << 40),
    "sha256": str,
    "model": str,
    "genes": [str],
    "units": str,
    "n_donors": range(1 << 20),
    "n_slides": range(1, 1 << 20),
    **_TEXTS,
    "held_out?": {
        "unit": str,
        "n_units": range(1 << 20),
        "ceiling?": float,
        "rows": {str: {"gene_pearson?": float}},
    },
}


@dataclass(frozen=True, slots=True)
class PretrainedEntry:
    """An entry of a registry."""

    name: str
    values: Mapping[str, Any]
    registry: Path
    """The file that holds the entry; relative addresses begin in its folder."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the archive."""
        return str(self.values["sha256"])

    @property
    def place(self) -> str | Path:
        """The address on the web, or the path of the archive on this machine."""
        url = str(self.values["url"])
        if url.startswith(("https://", "http://")):
            return url
        return self.registry.parent / Path(url.removeprefix("file://")).expanduser()

    def score(self, row: str) -> float | None:
        """Gene-wise correlation of the model or a baseline at held-out donors; None where it was not measured."""
        held_out = self.values.get("held_out") or {"rows": {}}
        found: float | None = held_out["rows"].get(row, {}).get("gene_pearson")
        return found


@public
def pretrained() -> pd.DataFrame:
    """List the predictors that can be loaded by name, with what they were trained on and how good they are.

    `stp.tl.Predictor.load` and `stp.tl.predict` take these names: the predictor is downloaded once, checked by its hash
    and kept in the cache. The list is that of this version of stpredict, and of the registry that the environment
    variable ``STPREDICT_PRETRAINED`` names: a JSON file, or a folder of such files as `stp.tl.pretrain` writes them.
    Entries of that registry come before those of the package. Nothing is downloaded by this function.

    Returns
    -------
    One row for each name: ``organ``, ``tissue``, ``species``, ``platform``, ``model``, ``n_donors``, ``n_slides``,
    ``n_genes``, ``units``; ``gene_pearson`` (mean gene-wise correlation on donors that were held out one by one), with
    that of the ridge regression on colour (``ridge_color``) and the noise ``ceiling``; ``licence``, ``licence_source``
    and ``citation`` of the data; ``size_mib``, ``url`` and ``sha256`` of the archive; ``genes``, a tuple of names.
    What is not known is missing. Without any predictor the table is empty, and a warning says how to make one.

    Raises
    ------
    FileNotFoundError
        If ``STPREDICT_PRETRAINED`` names something that is not there.
    ValueError
        If a registry is damaged.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.models.pretrained().index.tolist()  # doctest: +SKIP
    ['her2st']
    """
    import pandas as pd

    texts = ("organ", "tissue", "species", "platform", "model", "units", "licence", "licence_source", "citation")
    columns = {
        **dict.fromkeys(texts[:5], "string"), "n_donors": "Int64", "n_slides": "Int64", "n_genes": "Int64",
        "units": "string", "gene_pearson": "Float64", "ridge_color": "Float64", "ceiling": "Float64",
        **dict.fromkeys(texts[6:], "string"), "size_mib": "Float64", "url": "string", "sha256": "string",
        "genes": "object",
    }  # fmt: skip
    entries = pretrained_entries()
    if not entries:
        warn_no_pretrained(REGISTRY)
    rows = {
        name: {
            **{text: entry.values.get(text) or None for text in texts},
            "n_donors": entry.values["n_donors"], "n_slides": entry.values["n_slides"],
            "n_genes": len(entry.values["genes"]), "gene_pearson": entry.score("model"),
            "ridge_color": entry.score("ridge_color"),
            "ceiling": (entry.values.get("held_out") or {}).get("ceiling"),
            "size_mib": entry.values["size"] / 2**20, "url": str(entry.place), "sha256": entry.sha256,
            "genes": tuple(entry.values["genes"]),
        }
        for name, entry in entries.items()
    }  # fmt: skip
    found = pd.DataFrame.from_dict(rows, orient="index", columns=None if rows else list(columns))
    return found[list(columns)].astype(columns).rename_axis("name")


def pretrained_entries() -> dict[str, PretrainedEntry]:
    """All entries by name, those of the user first."""
    own = os.environ.get(REGISTRY)
    files = [*([] if not own else _registry_files(user_path(own, REGISTRY))), Path(__file__).with_name(PACKAGED)]
    found: dict[str, PretrainedEntry] = {}
    for file in files:
        for name, values in read_json(file, {str: _ENTRY}, ADVICE).items():
            if no_folder_names([name]):
                raise DamagedFileError(file, name, "this is no name of a predictor", ADVICE)
            found.setdefault(name, PretrainedEntry(name, values, file))
    return found


def _registry_files(path: Path) -> list[Path]:
    """The files of a registry."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not path.exists():
        msg = (
            f"`{REGISTRY}` is {str(path)!r}, which {'holds no .json file' if path.is_dir() else 'is not there'}. Give "
            "a registry file or the folder that `stp.tl.pretrain` wrote, or unset the variable."
        )
        raise FileNotFoundError(msg)
    return files
