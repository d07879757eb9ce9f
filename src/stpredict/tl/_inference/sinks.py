"""Where predictions go as they are computed: into memory, or partition by partition into a zarr store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import anndata as ad
import dask.array as da
import numpy as np
import zarr

from ... import _keys as keys
from ..._checks import prediction as check
from .plan import PARTITION, X, columns, matrices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike

    from numpy.typing import NDArray

    from .._predictor.predictor import Predictor
    from .plan import PredictionPlan

    Values = Mapping[str, NDArray[Any]]

FINISHED = "finished"
"""Array of a store with one element a partition, which is 1 where the partition is written; attribute when all are."""
PLACES = {
    keys.AT_BORDER: f"obs/{keys.AT_BORDER}",
    keys.IMAGE_DISTANCE: f"obs/{keys.IMAGE_DISTANCE}",
    keys.COLOR: f"obsm/{keys.COLOR}",
}
"""Where a finished store has what is no matrix of genes."""
LAYERS = {name: f"layers/{name}" for name in (keys.LOWER, keys.UPPER)}
"""Where a store has the matrices beside X."""
GENES = 256
"""Genes a chunk, so that a map of one gene is not made of all."""
DICT = {"encoding-type": "dict", "encoding-version": "0.1.0"}
ANNDATA = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}


class Sink(Protocol):
    """What takes predictions."""

    def todo(self) -> list[tuple[int, int]]:
        """Stretches that are not there yet: first positions, and those after the last."""

    def take(self, first: int, pieces: Iterable[Values]) -> None:
        """Take consecutive spots that begin at a position."""

    def values(self) -> dict[str, Any]:
        """All that was taken, by name."""

    @property
    def rows(self) -> NDArray[np.intp]:
        """Which row each of the values belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MemorySink:
    """Arrays in memory, in the order of the spots."""

    plan: PredictionPlan
    arrays: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, plan: PredictionPlan, predictor: Predictor) -> MemorySink:
        """Room for a prediction.

        Parameters
        ----------
        plan
            What is predicted.
        predictor
            The predictor.

        Returns
        -------
        The sink.
        """
        n = len(plan.order)
        check.fits_memory(n, len(predictor.genes), len(matrices(plan.settings)))
        wanted = columns(predictor, plan.settings)
        return cls(plan=plan, arrays={name: np.empty((n, *shape), dtype) for name, (shape, dtype) in wanted.items()})

    def todo(self) -> list[tuple[int, int]]:
        """Everything."""
        return [(0, len(self.plan.order))]

    def take(self, first: int, pieces: Iterable[Values]) -> None:
        """Put consecutive spots where they belong."""
        for piece in pieces:
            rows = self.plan.order[first : first + len(piece[X])]
            for name, array in self.arrays.items():
                array[rows] = piece[name]
            first += len(rows)

    def values(self) -> dict[str, Any]:
        """All that was taken, by name."""
        return self.arrays

    @property
    def rows(self) -> NDArray[np.intp]:
        """As they are."""
        return np.arange(len(self.plan.order))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoreSink:
    """A zarr group that becomes an AnnData: chunks of spots in the order of reading, marked when they are written.

    Several processes may write into it: every partition is a chunk of its own.
    """

    plan: PredictionPlan
    path: Path
    group: zarr.Group

    @classmethod
    def begin(cls, path: str | PathLike[str], plan: PredictionPlan, predictor: Predictor) -> StoreSink:
        """Make a store, or take up one that was begun for the same prediction.

        Parameters
        ----------
        path
            A folder that is not there yet, or the store.
        plan
            What is predicted.
        predictor
            The predictor.

        Returns
        -------
        The sink.
        """
        place, fingerprint = Path(path), plan.fingerprint(predictor)
        if place.exists():
            check.same_prediction(place, _fingerprint(place), fingerprint)
            return cls.open(place, plan)
        group = zarr.open_group(place, mode="w-")
        n = len(plan.order)
        for name, (shape, dtype) in columns(predictor, plan.settings).items():
            chunks = (PARTITION, *(min(size, GENES) for size in shape))
            group.create_array(
                LAYERS.get(name, name), shape=(n, *shape), chunks=chunks, dtype=dtype, attributes=dict(ARRAY)
            )
        group.create_array(FINISHED, shape=(plan.n_partitions,), chunks=(1,), dtype=np.uint8)
        group.attrs[keys.ATTRS] = {"fingerprint": fingerprint, FINISHED: False}  # last: without it, it is no store
        return cls.open(place, plan)

    @classmethod
    def open(cls, path: str | PathLike[str], plan: PredictionPlan) -> StoreSink:
        """Open what `begin` made, in whichever process.

        Parameters
        ----------
        path
            The folder.
        plan
            What is predicted.

        Returns
        -------
        The sink.
        """
        return cls(plan=plan, path=Path(path), group=zarr.open_group(path, mode="r+", use_consolidated=False))

    def todo(self) -> list[tuple[int, int]]:
        """Stretches of partitions that are not written."""
        if self._finished:
            return []
        missing = np.flatnonzero(np.asarray(self.group[FINISHED]) == 0)
        runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1) if len(missing) else []
        n = len(self.plan.order)
        return [(int(run[0]) * PARTITION, min((int(run[-1]) + 1) * PARTITION, n)) for run in runs]

    def take(self, first: int, pieces: Iterable[Values]) -> None:
        """Write consecutive spots; the first position begins a partition."""
        for values in _partitions(pieces):
            stop = first + len(values[X])
            for name, value in values.items():
                self.group[LAYERS.get(name, name)][first:stop] = value  # type: ignore[index]
            self.group[FINISHED][first // PARTITION] = 1  # type: ignore[index]
            first = stop

    def values(self) -> dict[str, Any]:
        """Matrices as dask arrays that read the store; the rest, which is small, in memory."""
        wanted = matrices(self.plan.settings)
        small = {name: self._array(name)[:] for name in PLACES if self._place(name) in self.group}
        return {**{name: da.from_zarr(self._array(name)) for name in wanted}, **small}

    @property
    def rows(self) -> NDArray[np.intp]:
        """The order of reading."""
        return self.plan.order

    def finish(self, table: ad.AnnData) -> None:
        """Write what goes with the matrix, so that ``anndata.read_zarr`` reads the store.

        Parameters
        ----------
        table
            The table whose X is this store's.
        """
        if not self._finished:
            for name in ("obs", "var", "obsm", "varm", "uns"):
                element = getattr(table, name)
                ad.io.write_elem(self.group, name, element if name in {"obs", "var"} else dict(element))
            if table.layers:
                self.group.require_group("layers").attrs.update(DICT)
            noted = {**self._noted, FINISHED: True}
            self.group.attrs.update({**ANNDATA, keys.ATTRS: noted})
        for name in {FINISHED, *PLACES} & set(self.group.array_keys()):
            del self.group[name]

    @property
    def _noted(self) -> dict[str, Any]:
        noted: Any = self.group.attrs[keys.ATTRS]
        return dict(noted)

    @property
    def _finished(self) -> bool:
        return bool(self._noted[FINISHED])

    def _array(self, name: str) -> Any:
        return self.group[self._place(name)]

    def _place(self, name: str) -> str:
        """Where an array is."""
        return LAYERS.get(name) or (PLACES.get(name, name) if self._finished else name)


def _fingerprint(path: Path) -> str | None:
    """What a store was begun for; None where there is no store."""
    try:
        noted = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get(keys.ATTRS)
    except (FileNotFoundError, ValueError):
        return None
    return str(noted["fingerprint"]) if isinstance(noted, dict) and "fingerprint" in noted else None


def _partitions(pieces: Iterable[Values]) -> Iterator[dict[str, NDArray[Any]]]:
    """Consecutive spots, in parts of which all but the last are whole partitions."""
    held: dict[str, NDArray[Any]] = {}
    for piece in pieces:
        held = {name: np.concatenate([held[name], value]) if held else value for name, value in piece.items()}
        while len(held[X]) >= PARTITION:
            yield {name: value[:PARTITION] for name, value in held.items()}
            held = {name: value[PARTITION:] for name, value in held.items()}
    if held and len(held[X]):
        yield held
