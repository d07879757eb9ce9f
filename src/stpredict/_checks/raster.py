"""Errors about lattices that become pictures: elements, genes, size, and what would be overwritten."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from spatialdata import SpatialData


def one_region(regions: Sequence[str], asked: str | None, table_name: str) -> str:
    """The one element to take; an error if the table annotates several, or not the one asked for."""
    if asked is not None and asked not in regions:
        msg = f"Table {table_name!r} does not annotate {asked!r} (but: {listed(regions)}). Give another `shapes_key`."
        raise ValueError(msg)
    if asked is None and len(regions) > 1:
        msg = f"Table {table_name!r} annotates {len(regions)} elements: {listed(regions)}. Give one as `shapes_key`."
        raise ValueError(msg)
    return asked or regions[0]


def is_shapes(sdata: SpatialData, key: str, table_name: str) -> None:
    """Refuse places that are no shapes of the object."""
    if key not in sdata.shapes:
        what = "labels, which are pixels already" if key in sdata.labels else "not among the shapes of the object"
        msg = (
            f"Table {table_name!r} annotates {key!r}, which is {what} (shapes: {listed(list(sdata.shapes))}). Give "
            "another `shapes_key` or `table_name`."
        )
        raise ValueError(msg)


def known_genes(genes: Sequence[str], available: Collection[str], table_name: str) -> None:
    """Refuse no genes, genes that a table does not have, and genes named twice: they name channels."""
    if not genes:
        msg = f"`genes` is empty. Name genes of table {table_name!r}, or leave `genes` out for all of them."
        raise ValueError(msg)
    missing = [gene for gene in genes if gene not in available]
    if missing:
        close = get_close_matches(missing[0], list(available), n=3, cutoff=0.6)
        hint = f"Did you mean {', '.join(map(repr, close))}?" if close else f"There are {listed(list(available))}."
        msg = f"Table {table_name!r} has no gene {listed(missing)} ({len(available)} genes). {hint} Give other `genes`."
        raise ValueError(msg)
    twice = sorted({gene for gene in genes if genes.count(gene) > 1})
    if twice:
        msg = f"Genes name the channels, and some come twice: {listed(twice)}. Give each once as `genes`."
        raise ValueError(msg)


def regular[T](raster: T | None, shapes_key: str, n_places: int) -> T:
    """The raster of some places; an error if they have none."""
    if raster is None:
        msg = (
            f"The {n_places} places of {shapes_key!r} lie on no regular lattice: square or hexagonal, at least 4, each "
            "within a tenth of the pitch of a place of its own. Lay such a lattice with `stp.pp.spot_grid`, or draw "
            "these as they are with `stp.pl.expression`."
        )
        raise ValueError(msg)
    return raster


def not_too_large(shape: tuple[int, int, int], most_bytes: int, table_name: str) -> None:
    """Refuse to take all genes where that makes a huge image."""
    n_bytes = 4 * shape[0] * shape[1] * shape[2]
    if n_bytes > most_bytes:
        msg = (
            f"All {shape[0]} genes of table {table_name!r} make an image of {n_bytes / 2**30:.1f} GiB ({shape[1]} x "
            f"{shape[2]} pixels); without a choice up to {most_bytes / 2**30:g} GiB are made. Name those wanted: "
            "`stp.tl.rasterize(sdata, genes=[…])`."
        )
        raise ValueError(msg)


def may_write(sdata: SpatialData, key: str, made: Collection[str]) -> None:
    """Refuse to overwrite what is not a raster of ours."""
    taken = {name for _, name, _ in sdata.gen_elements()}
    if key in taken and not (key in sdata.images and key in made):
        msg = (
            f"The object has an element {key!r} already, which `stp.tl.rasterize` did not make (it made: "
            f"{listed(sorted(made))}). Give another `key_added`."
        )
        raise ValueError(msg)
