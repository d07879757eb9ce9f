"""What people hold, as the SpatialData that tools work on: an AnnData with its image, or a path.

The one place that converts, and that writes results back into the AnnData they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from os import PathLike
from typing import TYPE_CHECKING, Any, NoReturn

from anndata import AnnData, read_h5ad
from anndata import read_zarr as read_anndata_zarr
from spatialdata import SpatialData, read_zarr

from .. import _keys as keys
from .._checks.decoding import DECODER_ERRORS, describe
from .._checks.paths import no_address, user_path
from .._checks.slides import quote
from .._files import is_zarr_group, read_attributes
from .._slides.checks import is_spatialdata
from . import _errors as check
from ._anndata import in_memory, link_to_images, link_without_images
from ._wsi import read_wsi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import TypeIs

type DataOrPath = SpatialData | AnnData | str | PathLike[str]
"""What functions take: an object, or the path of one."""
ATTRIBUTES = ("layers", "obsm", "varm", "uns")
"""Parts of an AnnData that hold entries by name."""
READERS = {
    "experiment.xenium": "`stp.io.read_xenium(path)`",
    "binned_outputs": "`stp.io.read_visium_hd(path)`",
    "spatial": "`stp.io.read_visium(path)`",
}
"""What a folder of a platform holds, and its reader."""


@contextmanager
def opened(
    data: Any, *, several: bool = False, needs_image: bool = True, um_per_px: float | None = None
) -> Iterator[Any]:
    """SpatialData of what a user gave, or a list or mapping of them if ``several``.

    What is then written to the table of an AnnData, is written to the AnnData when the block ends without an error.
    """
    with ExitStack() as stack:

        def open_one(given: Any) -> SpatialData:
            held = read_path(given, um_per_px=um_per_px) if is_path(given) else given
            if not isinstance(held, AnnData):
                is_spatialdata(held, several=several, converted=True)
                return held
            check.no_resolution_of_anndata(um_per_px)
            return stack.enter_context(_linked(held, needs_image=needs_image))

        if several and isinstance(data, Mapping):
            yield {name: open_one(each) for name, each in data.items()}
        elif several and isinstance(data, list | tuple):
            yield [open_one(each) for each in data]
        else:
            yield open_one(data)


def is_path(data: object) -> TypeIs[str | PathLike[str]]:
    """Whether something is a path rather than an object."""
    return isinstance(data, str | PathLike)


def read_path(path: str | PathLike[str], *, um_per_px: float | None = None) -> SpatialData | AnnData:
    """The object in a store or ``.h5ad`` file, or else the slide in a file; ``um_per_px`` is that of a slide."""
    place = user_path(path, "sdata")
    if not place.exists():
        msg = (
            f"Nothing is at '{place}'. Give the path of a SpatialData or AnnData store (.zarr), of an AnnData (.h5ad) "
            "or of a slide, or an object that holds one."
        )
        raise FileNotFoundError(msg)
    if place.is_dir() and is_zarr_group(place):
        return _read_store(place, um_per_px)
    if place.is_dir():
        refuse_folder(place)
    if place.suffix.lower() == ".h5ad":
        with check.decoding(place, "AnnData"):
            return read_h5ad(place)
    return read_wsi(place, um_per_px=um_per_px)


def is_spatialdata_store(path: Path) -> bool:
    """Whether a path is a store that SpatialData wrote."""
    return (
        path.is_dir()
        and is_zarr_group(path)
        and "spatialdata_attrs" in read_attributes(path, {}, "Give the store as it was written.")
    )


def _read_store(path: Path, um_per_px: float | None) -> SpatialData | AnnData:
    """A store of SpatialData or AnnData, else an OME-Zarr image."""
    if is_spatialdata_store(path):
        no_address(path)
        sdata: SpatialData = read_zarr(path)
        return sdata
    if read_attributes(path, {}, "Give the store as it was written.").get("encoding-type") != "anndata":
        return read_wsi(path, um_per_px=um_per_px)
    no_address(path)
    try:
        return read_anndata_zarr(path)
    except DECODER_ERRORS as reason:
        check.refuse_damaged(path, "AnnData", describe(reason))


def refuse_folder(path: Path) -> NoReturn:
    """Say what a folder that is no store holds, and which function reads it."""
    names = sorted(each.name for each in path.iterdir())
    reader = next((reader for name, reader in READERS.items() if name in names), None)
    advice = "Give a store (.zarr), an AnnData (.h5ad) or a slide file."
    if reader is not None:
        advice = f"Read it with {reader}, and give what that returns."
    msg = f"'{path}' is a folder without zarr metadata (it holds {quote(names)}). {advice}"
    raise ValueError(msg)


@contextmanager
def _linked(adata: AnnData, *, needs_image: bool) -> Iterator[SpatialData]:
    """An object around an AnnData; what is written to its table is written to the AnnData in the end."""
    check.not_lazy(adata)
    loaded = in_memory(adata)
    table = _shallow_copy(loaded)
    sdata = link_to_images(table) if needs_image else link_without_images(table)
    record = adata.uns.get(keys.ATTRS, {}).get(keys.PREDICTOR)
    if record is not None:
        ours = sdata.attrs.setdefault(keys.ATTRS, {})
        ours[keys.PREDICTOR] = {name: str(value) for name, value in record.items()}
    matrix = table.X
    added = [str(name) for name in table.obs if name not in loaded.obs]
    yield sdata
    _write_back(sdata, adata, added)
    if table.X is not matrix:
        adata.X = table.X


def _shallow_copy(adata: AnnData) -> AnnData:
    """Another table over the same arrays."""
    parts: dict[str, Any] = {name: _entries(adata, name) for name in ATTRIBUTES}
    frames: dict[str, Any] = {name: getattr(adata, name).copy() for name in ("obs", "var")}
    return AnnData(adata.X, **frames, **parts)


def _entries(adata: AnnData, name: str) -> dict[str, Any]:
    """Entries of a part of an AnnData, without X, which anndata lists among the layers."""
    return {key: value for key, value in getattr(adata, name).items() if key is not None}


def _write_back(sdata: SpatialData, adata: AnnData, added: list[str]) -> None:
    """Write all but the link to the spots into the AnnData, and the record of a predictor that was trained on it."""
    table = sdata.tables[keys.OBSERVED]
    links = {"obsm": {keys.SPATIAL}, "uns": {"spatialdata_attrs"}}
    for name in ATTRIBUTES:
        old, new = _entries(adata, name), _entries(table, name)
        target = getattr(adata, name)
        for key in old.keys() - new.keys() - links.get(name, set()):
            del target[key]
        for key, value in new.items():
            if key not in links.get(name, ()) and old.get(key) is not value:
                target[key] = value
    adata.obs = table.obs.drop(columns=[name for name in added if name in table.obs])
    var = table.var.copy()
    var.index = adata.var_names
    adata.var = var
    record = sdata.attrs.get(keys.ATTRS, {}).get(keys.PREDICTOR)
    if record is not None:
        adata.uns[keys.ATTRS] = {**adata.uns.get(keys.ATTRS, {}), keys.PREDICTOR: record}
