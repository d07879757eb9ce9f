"""Which predictor an object records, and what else there is where it records none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ... import _keys as keys
from ...models.pretrained_registry import pretrained_entries
from . import serialization
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
        msg = "\n  ".join(
            ["No predictor was given, and this object records none. Pass one as `predictor`:", *_choices(sdata)]
        )
        raise ValueError(msg)
    folder = Path(recorded["path"])
    loaded = Predictor.load(folder) if folder.is_dir() else None
    if loaded is None or serialization.saved_hash(folder) != recorded["hash"]:
        state = "is gone" if loaded is None else "holds another predictor now"
        msg = (
            f"This object records the predictor in {str(folder)!r}, but that folder {state}. Pass one as `predictor`, "
            "or train again with `stp.tl.fit(sdata)`."
        )
        raise ValueError(msg)
    return loaded


def _choices(sdata: SpatialData) -> list[str]:
    """What may be given as predictor of an object, one line each; pretrained ones for its platform first."""
    platforms = set(sdata.attrs.get(keys.ATTRS, {}).get(keys.PLATFORM, {}).values())
    entries = [{**entry.values, "name": name} for name, entry in pretrained_entries().items()]
    fitting = [values for values in entries if values.get("platform") in platforms]
    some = [f"{each['name']!r} ({each.get('organ') or 'any organ'})" for each in (fitting or entries)[:4]]
    which = f" for {', '.join(sorted(platforms))}" if fitting else ""
    names = f"{', '.join(some)}; `stp.models.pretrained()` lists all"
    none = "none with this version; `python -m stpredict pretrain her2st --out folder` makes one"
    newest = serialization.newest_folder()
    return [
        f"Pretrained{which}: {names if some else none}. Also a folder, or 'hf:owner/name'",
        "Train one on slides with measured expression: predictor = stp.tl.fit(measured)",
        *([f"Trained last on this machine: predictor={str(newest)!r}"] if newest is not None else []),
    ]
