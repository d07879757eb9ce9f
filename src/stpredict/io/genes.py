"""Gene names: Ensembl ids without version, symbols in their place, counts of duplicates summed."""

from __future__ import annotations

import re
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .._checks.paths import user_path
from ._tables import find_separator, mostly_match, read_text, split_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ENSEMBL_ID = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?")
"""Ensembl id of a gene of any species, with or without version."""
SYMBOL_COLUMNS = {"symbol", "approved symbol", "gene_name", "gene name", "gene_symbol", "hgnc_symbol"}
"""Headers of a column of gene symbols, in lower case."""


def read_gene_map(gene_map: Mapping[str, str] | str | PathLike[str] | None) -> dict[str, str]:
    """Gene symbol by Ensembl id without version, from a mapping or a file; ids without a symbol are left out.

    A file has two columns in any order, with or without a header. If it has more, the symbols are the column with one
    of the headers `SYMBOL_COLUMNS`, or without a header the column after the ids.
    """
    if gene_map is None:
        return {}
    if isinstance(gene_map, (str, PathLike)):
        pairs = _read_pairs(user_path(gene_map, "gene_map"))
    else:
        pairs = list(gene_map.items())
    return {without_version(gene): symbol for gene, symbol in pairs if symbol}


def read_gene_list(path: Path) -> list[str]:
    """The genes of a text file, one a line."""
    lines = (line.strip().strip('"').strip() for line in read_text(path, "list of genes").splitlines())
    genes = [line for line in lines if line]
    if not genes:
        msg = f"'{path}' holds no gene. Write one name a line."
        raise ValueError(msg)
    return genes


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    lines = read_text(path, "gene map").splitlines()
    separator = find_separator(lines[0]) if lines else None
    rows = [split_fields(line, separator) for line in lines if line.strip()]
    width = min((len(row) for row in rows), default=0)
    ids = next((i for i in range(width) if mostly_match(ENSEMBL_ID, (row[i] for row in rows))), None)
    if ids is None:
        symbols = width
    elif len(rows[0]) == 2:
        symbols = 1 - ids
    elif ENSEMBL_ID.fullmatch(rows[0][ids]):  # no header: features.tsv of Cell Ranger has id, symbol, type
        symbols = ids + 1
    else:
        symbols = next((i for i, name in enumerate(rows[0]) if name.lower() in SYMBOL_COLUMNS), width)
    if ids is None or symbols >= width:
        msg = (
            f"'{path.name}' is no map of genes ({width} columns): it needs one column of Ensembl ids (such as "
            "ENSG00000141736) and one of symbols, which is called 'symbol' if there are more than two columns."
        )
        raise ValueError(msg)
    return [(row[ids], row[symbols]) for row in rows if ENSEMBL_ID.fullmatch(row[ids])]


def without_version(gene: str) -> str:
    """``ENSG00000141736`` of ``ENSG00000141736.13``; any other name is unchanged."""
    match = ENSEMBL_ID.fullmatch(gene)
    return gene if match is None else match[1]


def rename_genes(
    matrix: sparse.csr_matrix, genes: Sequence[str], symbols: Mapping[str, str]
) -> tuple[sparse.csr_matrix, list[str]]:
    """Replace Ensembl ids by symbols; columns that then share a name are summed, in the place of the first."""
    named = [symbols.get(gene, gene) for gene in map(without_version, genes)]
    unique = list(dict.fromkeys(named))
    if len(unique) == len(named):
        return matrix, named
    at = {gene: i for i, gene in enumerate(unique)}
    ones = np.ones(len(named), np.float32)
    sums = sparse.csr_matrix((ones, (np.arange(len(named)), [at[gene] for gene in named])))
    return sparse.csr_matrix(matrix @ sums), unique
