"""Names of genes: Ensembl ids without version, symbols in their place, duplicates summed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .._checks import files as check
from ._tables import carries, fields, read_text, separator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?")
"""Ensembl id of a gene of any species, with or without version."""


def read_gene_map(gene_map: Mapping[str, str] | str | PathLike[str] | None) -> dict[str, str]:
    """Symbols by Ensembl id.

    Parameters
    ----------
    gene_map
        The mapping, or a file of two columns in any order, headed or not. Of more columns, the one called ``symbol``
        (or ``Approved symbol``, ``gene_name``) counts, or without a header the one after the ids. None for no mapping.

    Returns
    -------
    Symbol by id without version. Ids without a symbol are left out.
    """
    if gene_map is None:
        return {}
    if isinstance(gene_map, (str, Path)) or hasattr(gene_map, "__fspath__"):
        pairs = _pairs(Path(gene_map))
    else:
        pairs = list(gene_map.items())
    return {without_version(gene): symbol for gene, symbol in pairs if symbol}


def _pairs(path: Path) -> list[tuple[str, str]]:
    lines = read_text(path, "gene map").splitlines()
    mark = separator(lines[0]) if lines else None
    rows = [fields(line, mark) for line in lines if line.strip()]
    width = min((len(row) for row in rows), default=0)
    at = next((i for i in range(width) if carries(ENSEMBL, (row[i] for row in rows))), None)
    other = None if at is None else _symbol_column(rows[0], at)
    if at is None or other is None or other >= width:
        check.gene_map(width, path)
    return [(row[at], row[other]) for row in rows if ENSEMBL.fullmatch(row[at])]


def _symbol_column(header: Sequence[str], at: int) -> int | None:
    if len(header) == 2:
        return 1 - at
    if ENSEMBL.fullmatch(header[at]):  # no header: features.tsv of Cell Ranger has id, symbol, kind
        return at + 1
    known = {"symbol", "approved symbol", "gene_name", "gene name", "gene_symbol", "hgnc_symbol"}
    return next((i for i, name in enumerate(header) if name.lower() in known), None)


def without_version(gene: str) -> str:
    """Ensembl id without its version.

    Parameters
    ----------
    gene
        A name such as ``ENSG00000141736.13``; any other name is left as it is.

    Returns
    -------
    Such as ``ENSG00000141736``.
    """
    match = ENSEMBL.fullmatch(gene)
    return gene if match is None else match[1]


def rename(
    matrix: sparse.csr_matrix, genes: Sequence[str], symbols: Mapping[str, str]
) -> tuple[sparse.csr_matrix, list[str]]:
    """Counts under other names of their genes.

    Parameters
    ----------
    matrix
        ``(n_spots, n_genes)`` counts.
    genes
        Names of the columns.
    symbols
        Symbol by Ensembl id without version; other genes keep their name, but for the version.

    Returns
    -------
    Counts and names, each name once: columns that come to share a name are summed, in the place of the first.
    """
    named = [symbols.get(gene, gene) for gene in map(without_version, genes)]
    unique = list(dict.fromkeys(named))
    if len(unique) == len(named):
        return matrix, named
    at = {gene: i for i, gene in enumerate(unique)}
    ones = np.ones(len(named), np.float32)
    sums = sparse.csr_matrix((ones, (np.arange(len(named)), [at[gene] for gene in named])))
    return sparse.csr_matrix(matrix @ sums), unique
