"""Which predictor a SpatialData object records in its attributes, for `predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ... import _keys as keys
from .predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from spatialdata import SpatialData

    from ..._slides.slides import Slide


def record_predictor(slides: Sequence[Slide], folder: Path, predictor: Predictor) -> None:
    """Record folder and hash of a predictor in the objects that it was trained on."""
    for sdata in {id(slide.source): slide.source for slide in slides}.values():
        record = {"path": str(folder.resolve()), "hash": predictor.hash}
        sdata.attrs[keys.ATTRS] = {**sdata.attrs.get(keys.ATTRS, {}), keys.PREDICTOR: record}


def resolve_predictor(sdata: SpatialData, given: Predictor | str | PathLike[str] | None) -> Predictor:
    """The predictor that was given, or else the one that the object records."""
    if isinstance(given, Predictor):
        return given
    if given is not None:
        return Predictor.load(given)
    recorded = sdata.attrs.get(keys.ATTRS, {}).get(keys.PREDICTOR)
    if recorded is None:
        msg = (
            "No predictor was given and this object records none. Make one with `stp.tl.fit(sdata)`, or read one with "
            "`stp.tl.Predictor.load(path)` and pass it as `predictor`."
        )
        raise ValueError(msg)
    folder = Path(recorded["path"])
    loaded = Predictor.load(folder) if folder.is_dir() else None
    if loaded is None or loaded.hash != recorded["hash"]:
        state = "is gone" if loaded is None else "holds another predictor now"
        msg = (
            f"This object records the predictor in {str(folder)!r}, but that folder {state}. Pass one as `predictor`, "
            "or train again with `stp.tl.fit(sdata)`."
        )
        raise ValueError(msg)
    return loaded
