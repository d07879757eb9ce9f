"""Embeddings of spots in ``obsm``: what made them, whether they go together, and how they are written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks.slides import quote
from . import checks as check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from .slides import Slide

UNKNOWN = "unknown"
"""Origin of embeddings without a record."""
FOV_TOLERANCE = 0.02
"""Largest relative difference between fields of view that count as the same."""
RECORDED_ONLY = {"precision"}
"""Entries of an encoder that are recorded but may differ: the same weights on another device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingRecord:
    """What made the embeddings of one matrix in ``obsm``, as far as it is known."""

    key: str
    """Name of the matrix."""
    n_features: int
    """Its width."""
    origin: str = UNKNOWN
    """``"stpredict"``, the kind of file that it was read from, or ``"unknown"``."""
    encoders: tuple[Mapping[str, Any], ...] = ()
    """What identifies each encoder (see ``Encoder.record``); empty if that is not known."""
    fov_um: tuple[float, ...] = ()
    """Fields of view in µm, in the order of the features; empty if not known."""
    size_px: int = 0
    """Side of the patches in pixels; 0 if not known."""
    patch_version: int = 0
    """Version of the way in which stpredict cuts patches; 0 for patches that others cut."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return {**asdict(self), "encoders": [dict(each) for each in self.encoders], "fov_um": list(self.fov_um)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EmbeddingRecord:
        """The inverse of `to_json`."""
        return cls(**{**values, "encoders": tuple(values["encoders"]), "fov_um": tuple(values["fov_um"])})

    def to_uns(self) -> dict[str, Any]:
        """The fields as anndata can write them; encoders are JSON, since their entries may be of any type."""
        return {
            "origin": self.origin,
            "encoder": ", ".join(self.names) or UNKNOWN,
            "encoders": json.dumps([dict(each) for each in self.encoders]),
            "n_features": self.n_features,
            "fov_um": np.array(self.fov_um, np.float64),
            "size_px": self.size_px,
            keys.PATCH_VERSION: self.patch_version,
        }

    @classmethod
    def of(cls, table: AnnData, key: str) -> EmbeddingRecord:
        """The record of a matrix in ``obsm``; of unknown origin if none was written."""
        values: Any = table.uns.get(key)
        found = cls(key=key, n_features=int(table.obsm[key].shape[1]))
        if not is_record(values):
            return found
        return replace(
            found,
            origin=str(values["origin"]),
            encoders=tuple(json.loads(str(values["encoders"]))),
            fov_um=tuple(np.asarray(values["fov_um"], np.float64).ravel().tolist()),
            size_px=int(values["size_px"]),
            patch_version=int(values[keys.PATCH_VERSION]),
        )

    @property
    def names(self) -> list[str]:
        """Names of the encoders."""
        return [str(each.get("encoder")) for each in self.encoders]

    @property
    def description(self) -> str:
        """What is known, in a few words."""
        if not self.encoders:
            return f"{self.key}: {self.n_features} features of unknown origin"
        revisions = [f"{each['encoder']} {str(each.get('revision') or '')[:12]}".strip() for each in self.encoders]
        views = f", {', '.join(f'{side:.0f}' for side in self.fov_um)} µm" if self.fov_um else ""
        return f"{self.key}: {', '.join(revisions)}{views}"

    def difference(self, wanted: EmbeddingRecord) -> str | None:
        """How these embeddings differ from those that are wanted, in words; None if nothing known differs."""
        known = bool(self.encoders and wanted.encoders)
        if known and self.names != wanted.names:
            return f"their encoder is {quote(self.names)}, not {quote(wanted.names)}"
        if self.fov_um and wanted.fov_um and not _same_views(self.fov_um, wanted.fov_um):
            return f"their fields of view are {_views(self.fov_um)}, not {_views(wanted.fov_um)}"
        if self.size_px and wanted.size_px and self.size_px != wanted.size_px:
            return f"their patches have {self.size_px} px a side, not {wanted.size_px}"
        versions = self.patch_version, wanted.patch_version
        if all(versions) and versions[0] != versions[1]:
            return f"their patches are of version {versions[0]}, not {versions[1]}"
        if known and (found := _encoders_difference(self.encoders, wanted.encoders)):
            return found
        if self.n_features != wanted.n_features:
            return f"they have {self.n_features} features, not {wanted.n_features}"
        return None


def _encoders_difference(found: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> str | None:
    """The first entry in which encoders of the same names differ, in words."""
    for own, other in zip(found, wanted, strict=True):
        for name in own:
            known = own[name] not in ("", None) and other.get(name) not in ("", None)
            if known and name not in RECORDED_ONLY and own[name] != other[name]:
                return f"{name!r} of their encoder {own['encoder']!r} is {own[name]!r}, not {other[name]!r}"
    return None


def _same_views(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=FOV_TOLERANCE))


def _views(fov_um: Sequence[float]) -> str:
    return f"{', '.join(f'{side:.1f}' for side in fov_um)} µm"


def is_record(values: Any) -> bool:
    """Whether an entry of ``uns`` is the record of embeddings."""
    return hasattr(values, "get") and values.get("origin") is not None and values.get("encoders") is not None


def check_same_embeddings(
    found: Sequence[EmbeddingRecord], wanted: Sequence[EmbeddingRecord], slide: str, whose: str
) -> None:
    """Refuse embeddings of a slide that differ from those that are wanted; ``whose`` says which those are."""
    for own, other in zip(found, wanted, strict=False):
        if difference := own.difference(other):
            how = "the same encoder"
            if other.names and other.fov_um and other.size_px:
                names = other.names[0] if len(other.names) == 1 else other.names
                fov_um = tuple(round(side, 3) for side in other.fov_um)
                how = f"`stp.tl.embed(sdata, {names!r}, fov_um={fov_um}, size_px={other.size_px})`"
            msg = (
                f"obsm[{own.key!r}] of {slide!r} holds other embeddings than {whose}: {difference}. Embed its spots "
                f"with {how}, or give the right matrix as `features_key`."
            )
            raise ValueError(msg)


def finite_embeddings(table: AnnData, key: str, shapes_key: str) -> NDArray[np.float32]:
    """``(n, d)`` embeddings of the spots of one slide; refuse what is no matrix of numbers, or has gaps."""
    values = np.asarray(table.obsm[key])
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.number):
        msg = (
            f"obsm[{key!r}] of {shapes_key!r} is {values.dtype} of shape {values.shape}. Give a dense matrix "
            "(n_spots, n_features) of numbers as `features_key`."
        )
        raise ValueError(msg)
    missing = ~np.isfinite(values).all(axis=1)
    if missing.any():
        msg = (
            f"obsm[{key!r}] of {shapes_key!r} holds NaN or infinite values at {int(missing.sum())} of {len(values)} "
            f"spots: {quote(table.obs_names[missing].tolist())}. Embed them (`stp.tl.embed`), or remove these rows of "
            "the table."
        )
        raise ValueError(msg)
    return np.ascontiguousarray(values, np.float32)


def check_destination(slides: Sequence[Slide], record: EmbeddingRecord) -> None:
    """Refuse to overwrite a matrix that is not ours, or to mix embeddings that do not go together."""
    sdata, table_name, key = slides[0].source, slides[0].table_name, record.key
    if table_name is None:
        return
    table = sdata.tables[table_name]
    check.unique_spots(table.obs_names, table_name)
    if key not in table.obsm:
        return
    if not is_record(table.uns.get(key)):
        msg = (
            f"`key_added` is {key!r}, which exists in `obsm` of table {table_name!r} and was not written by "
            "`stp.tl.embed` or `stp.io.read_embeddings`, so it is not overwritten. Give another name."
        )
        raise ValueError(msg)
    kept = _kept_rows(table, slides, key)
    if kept.any() and (difference := EmbeddingRecord.of(table, key).difference(record)):
        msg = (
            f"obsm[{key!r}] of table {table_name!r} holds embeddings of {int(kept.sum())} other spots, and {difference}"
            ". Give another `key_added`, or embed all slides again."
        )
        raise ValueError(msg)


def write_embeddings(
    slides: Sequence[Slide],
    values: Any,  # (n, d), numpy or dask
    rows: NDArray[np.intp],  # (n,) spot of each row of the values, counted through all slides
    record: EmbeddingRecord,
) -> None:
    """Write embeddings into the table of the spots, one without genes if there is none; NaN for other spots."""
    sdata, table_name, key = slides[0].source, slides[0].table_name, record.key
    if table_name is None:
        table_name, table = _new_table_name(list(sdata.tables), slides), spot_table(slides)
        spots = np.arange(table.n_obs)
    else:
        table = sdata.tables[table_name]
        spots = table.obs_names.get_indexer(pd.Index(np.concatenate([slide.obs_names for slide in slides])))
    kept = key in table.obsm and bool(_kept_rows(table, slides, key).any())
    known = dict(table.uns[key]["slides"]) if kept else {}
    other = table.obsm[key] if kept else np.full((1, values.shape[1]), np.nan, values.dtype)
    source = len(rows) + (np.arange(table.n_obs) if kept else np.zeros(table.n_obs, np.intp))
    source[spots[rows]] = np.arange(len(rows))
    table.obsm[key] = _take_rows(values, other, source)
    table.uns[key] = {**record.to_uns(), "slides": {**known, **{each.shapes_key: _place(each) for each in slides}}}
    if table_name not in sdata.tables:
        sdata.tables[table_name] = table


def _take_rows(values: Any, other: Any, source: NDArray[np.intp]) -> Any:
    """Rows of two matrices below each other; those of a dask array are not computed."""
    if not hasattr(values, "dask"):
        return np.concatenate([values, np.asarray(other)])[source]
    import dask.array as da

    if np.array_equal(source, np.arange(len(values))):
        return values
    return da.concatenate([values, da.asarray(other)])[source]


def _kept_rows(table: AnnData, slides: Sequence[Slide], key: str) -> NDArray[np.bool_]:
    """Rows of other spots that have embeddings, on the slides that the record names."""
    region = table.obs[table.uns["spatialdata_attrs"]["region_key"]].astype(str)
    embedded = set(table.uns.get(key, {}).get("slides", {}))
    replaced = np.isin(table.obs_names, np.concatenate([slide.obs_names for slide in slides]))
    kept: NDArray[np.bool_] = region.isin(embedded).to_numpy() & ~replaced
    if kept.any():  # spots beyond the regions that were embedded hold NaN
        kept[kept] = np.isfinite(np.asarray(table.obsm[key][kept][:, 0], np.float64))
    return kept


def _place(slide: Slide) -> dict[str, Any]:
    """Which slide was embedded, and at which resolution."""
    return {"image": slide.image_key, keys.UM_PER_PX: slide.um_per_px, "n_spots": len(slide.xy_px)}


def _new_table_name(taken: Sequence[str], slides: Sequence[Slide]) -> str:
    """``"embeddings"``, or with the name of the first element if that exists."""
    return keys.EMBEDDINGS if keys.EMBEDDINGS not in taken else f"{keys.EMBEDDINGS}_{slides[0].shapes_key}"


def spot_table(slides: Sequence[Slide]) -> AnnData:
    """A table without genes that annotates the spots of some slides."""
    import anndata as ad
    from spatialdata.models import TableModel

    obs = pd.concat(
        [
            pd.DataFrame(
                {keys.REGION: slide.shapes_key, keys.SPOT_ID: slide.instances}, index=slide.obs_names.astype(str)
            )
            for slide in slides
        ]
    )
    if not obs.index.is_unique:  # indices repeat between elements
        obs.index = obs[keys.REGION] + "_" + obs.index
    obs[keys.REGION] = pd.Categorical(obs[keys.REGION])
    adata = ad.AnnData(obs=obs)
    adata.obsm[keys.SPATIAL] = np.concatenate([slide.xy_px for slide in slides])
    regions = [slide.shapes_key for slide in slides]
    table: AnnData = TableModel.parse(adata, region=regions, region_key=keys.REGION, instance_key=keys.SPOT_ID)
    return table
