"""Read gene sets from a GMT file, as the Molecular Signatures Database distributes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checks.calls import public
from .._checks.paths import user_path
from ._tables import read_text

if TYPE_CHECKING:
    from os import PathLike


@public
def read_gmt(path: str | PathLike[str]) -> dict[str, list[str]]:
    r"""Read gene sets, such as the Hallmark pathways of MSigDB, from a GMT file.

    Parameters
    ----------
    path
        A text file, plain or gzipped. Each line is a gene set, in fields separated by tabs: name, description, genes.

    Returns
    -------
    The genes of each set by its name, in the order of the file. Repeated genes count once.

    Raises
    ------
    ValueError
        If a line has no gene, a name occurs twice, or there is no line.

    Notes
    -----
    The names of the genes must be those of the table, usually symbols: MSigDB offers ``….symbols.gmt`` of human and of
    mouse.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> path = Path(mkdtemp()) / "sets.gmt"
    >>> _ = path.write_text("HALLMARK_HYPOXIA\twww.gsea-msigdb.org\tADM\tVEGFA\tCA9\n")
    >>> stp.io.read_gmt(path)
    {'HALLMARK_HYPOXIA': ['ADM', 'VEGFA', 'CA9']}
    """
    file = user_path(path)
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(file, "file of gene sets").splitlines(), start=1):
        name, _, *genes = [field.strip() for field in line.split("\t")] + [""]
        genes = [gene for gene in dict.fromkeys(genes) if gene]
        if not line.strip():
            continue
        if not name or not genes or name in sets:
            reason = f"repeats the set {name!r}" if name in sets else "is not a name, a description and genes"
            msg = (
                f"Line {number} of '{file}' {reason}. Give a GMT file with one gene set a line and tabs between "
                "fields, such as those of MSigDB."
            )
            raise ValueError(msg)
        sets[name] = genes
    if not sets:
        msg = f"'{file}' holds no gene set. Give a GMT file with a name, a description and genes in each line."
        raise ValueError(msg)
    return sets
