"""Where results go as they are computed: into memory, or partition by partition into a zarr store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import dask.array as da
import numpy as np
import zarr

from ... import _keys as keys
from ..._checks.paths import output_folder, user_path
from ..._pixels import PATCH_VERSION
from .partitions import X, matrix_names
from .record import matrix_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike
    from pathlib import Path

    from numpy.typing import NDArray

    from .partitions import SpotTask
    from .plan import PredictionPlan

    Values = Mapping[str, NDArray[Any]]

LARGEST_TABLE_BYTES = 1 << 32
"""Results larger than this are not held in memory."""
FINISHED = "finished"
"""Array of a store with a 1 for every partition that is written, and attribute that is true when all are."""
FINAL_PATHS = {
    keys.AT_BORDER: f"obs/{keys.AT_BORDER}",
    keys.IMAGE_DISTANCE: f"obs/{keys.IMAGE_DISTANCE}",
    keys.COLOR: f"obsm/{keys.COLOR}",
}
"""Where a finished store holds the arrays that are not matrices of genes."""
CHUNK_GENES = 256
"""Genes per chunk, so that a map of one gene does not read all genes."""
DICT_ATTRS = {"encoding-type": "dict", "encoding-version": "0.1.0"}
ANNDATA_ATTRS = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
ARRAY_ATTRS = {"encoding-type": "array", "encoding-version": "0.2.0"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MemorySink:
    """Arrays in memory, in the order of the rows."""

    plan: PredictionPlan
    arrays: dict[str, NDArray[Any]]

    @classmethod
    def of(cls, plan: PredictionPlan, task: SpotTask) -> MemorySink:
        """Allocate the arrays, or refuse results that are too large for memory."""
        columns = task.columns(plan)
        n, (n_columns,) = len(plan.order), columns[X][0]
        n_bytes = columns[X][1].itemsize * n * n_columns * len(matrix_names(plan))
        if n_bytes > LARGEST_TABLE_BYTES:
            msg = (
                f"The {task.what} of {n:,} spots x {n_columns:,} {task.columns_are} take {n_bytes / 2**30:.1f} GiB, "
                f"more than the {LARGEST_TABLE_BYTES >> 30} GiB that are held in memory. Give `store=`, a folder on "
                "disk that they are written to as they are computed."
            )
            raise ValueError(msg)
        return cls(plan=plan, arrays={name: np.empty((n, *shape), dtype) for name, (shape, dtype) in columns.items()})

    def missing_ranges(self) -> list[tuple[int, int]]:
        """Ranges of positions, first and past the last, that are not written yet: all of them."""
        return [(0, len(self.plan.order))]

    def write(self, start: int, pieces: Iterable[Values]) -> None:
        """Put the values of consecutive positions into their rows."""
        for piece in pieces:
            rows = self.plan.order[start : start + len(piece[X])]
            for name, array in self.arrays.items():
                array[rows] = piece[name]
            start += len(rows)

    def values(self) -> dict[str, Any]:
        """All that was written, by name."""
        return self.arrays

    @property
    def rows(self) -> NDArray[np.intp]:
        """The row of the spot that each of the values belongs to: ascending."""
        return np.arange(len(self.plan.order))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoreSink:
    """A zarr group that becomes an AnnData, in reading order.

    Several processes may write into it: every partition is a chunk of its own, and is marked when it is written.
    """

    plan: PredictionPlan
    path: Path
    group: zarr.Group

    @classmethod
    def create(cls, path: str | PathLike[str], plan: PredictionPlan, task: SpotTask) -> StoreSink:
        """Create a store, or resume one that was begun for the same result."""
        path, fingerprint = user_path(path, "store"), plan.fingerprint(task)
        if path.exists():
            _check_resumable(path, fingerprint, task)
            return cls.open(path, plan)
        group = zarr.open_group(output_folder(path, "store"), mode="w-")
        n = len(plan.order)
        for name, (shape, dtype) in task.columns(plan).items():
            group.create_array(
                layer_path(plan, name) or name,
                shape=(n, *shape),
                chunks=(plan.partition_size, *(min(size, CHUNK_GENES) for size in shape)),
                dtype=dtype,
                attributes=dict(ARRAY_ATTRS),
            )
        group.create_array(FINISHED, shape=(plan.n_partitions,), chunks=(1,), dtype=np.uint8)
        # written last: a group without these attributes is not a store
        group.attrs[keys.ATTRS] = {"fingerprint": fingerprint, keys.PATCH_VERSION: PATCH_VERSION, FINISHED: False}
        return cls.open(path, plan)

    @classmethod
    def open(cls, path: str | PathLike[str], plan: PredictionPlan) -> StoreSink:
        """Open a store that `create` made, in any process."""
        return cls(plan=plan, path=user_path(path), group=zarr.open_group(path, mode="r+", use_consolidated=False))

    def missing_ranges(self) -> list[tuple[int, int]]:
        """Ranges of positions of the partitions that are not written."""
        if self._is_finished:
            return []
        missing = np.flatnonzero(np.asarray(self.group[FINISHED]) == 0)
        runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1) if len(missing) else []
        n, size = len(self.plan.order), self.plan.partition_size
        return [(int(run[0]) * size, min((int(run[-1]) + 1) * size, n)) for run in runs]

    def write(self, start: int, pieces: Iterable[Values]) -> None:
        """Write consecutive positions; ``start`` begins a partition."""
        for values in split_partitions(pieces, self.plan.partition_size):
            stop = start + len(values[X])
            for name, value in values.items():
                self.group[layer_path(self.plan, name) or name][start:stop] = value  # type: ignore[index]
            self.group[FINISHED][start // self.plan.partition_size] = 1  # type: ignore[index]
            start = stop

    def values(self) -> dict[str, Any]:
        """Matrices as dask arrays that read the store; the other arrays, which are small, in memory."""
        matrices = {name: da.from_zarr(self._array(name)) for name in matrix_names(self.plan)}
        return matrices | {name: self._array(name)[:] for name in FINAL_PATHS if self._path(name) in self.group}

    @property
    def rows(self) -> NDArray[np.intp]:
        """The row of the spot that each of the values belongs to: in reading order."""
        return self.plan.order

    def finish(self, table: ad.AnnData) -> None:
        """Write everything but the matrices of the table, so that ``anndata.read_zarr`` reads the store."""
        if not self._is_finished:
            for name in ("obs", "var", "obsm", "varm", "uns"):
                element = getattr(table, name)
                ad.io.write_elem(self.group, name, element if name in {"obs", "var"} else dict(element))
            if table.layers:
                self.group.require_group("layers").attrs.update(DICT_ATTRS)
            self.group.attrs.update({**ANNDATA_ATTRS, keys.ATTRS: {**self._attrs, FINISHED: True}})
        for name in {FINISHED, *FINAL_PATHS} & set(self.group.array_keys()):
            del self.group[name]

    @property
    def _attrs(self) -> dict[str, Any]:
        attrs: Any = self.group.attrs[keys.ATTRS]
        return dict(attrs)

    @property
    def _is_finished(self) -> bool:
        return bool(self._attrs[FINISHED])

    def _array(self, name: str) -> Any:
        return self.group[self._path(name)]

    def _path(self, name: str) -> str:
        return layer_path(self.plan, name) or (FINAL_PATHS.get(name, name) if self._is_finished else name)


type Sink = MemorySink | StoreSink


def layer_path(plan: PredictionPlan, name: str) -> str | None:
    """Where a store holds a matrix besides X; None for other arrays."""
    path = matrix_layers(plan.models, None).get(name)
    return None if path is None else f"layers/{path}"


def split_partitions(pieces: Iterable[Values], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Regroup consecutive spots into partitions of ``size``; the last one may be smaller."""
    rest: dict[str, NDArray[Any]] = {}
    for piece in pieces:
        rest = {name: np.concatenate([rest[name], value]) if rest else value for name, value in piece.items()}
        while len(rest[X]) >= size:
            yield {name: value[:size] for name, value in rest.items()}
            rest = {name: value[size:] for name, value in rest.items()}
    if rest and len(rest[X]):
        yield rest


def _check_resumable(path: Path, fingerprint: str, task: SpotTask) -> None:
    """Refuse to write into a folder that was not begun for this result."""
    try:
        attrs: Any = zarr.open_group(path, mode="r", use_consolidated=False).attrs.get(keys.ATTRS)
    except (FileNotFoundError, ValueError):
        attrs = None
    if not isinstance(attrs, dict) or "fingerprint" not in attrs:
        msg = f"{str(path)!r} exists and was not written by `{task.function}`, so it is kept. Give another `store`."
        raise FileExistsError(msg)
    if (found := attrs.get(keys.PATCH_VERSION, 1)) != PATCH_VERSION:
        msg = (
            f"{str(path)!r} was computed from patches of version {found}, and this version of stpredict cuts patches "
            f"of version {PATCH_VERSION}, so it cannot be resumed. Delete it or give another `store`."
        )
        raise FileExistsError(msg)
    if attrs["fingerprint"] != fingerprint:
        msg = (
            f"{str(path)!r} holds {task.what} of other spots, or by another {task.by} or version of stpredict, or "
            "with other options, so it cannot be resumed. Delete it or give another `store`."
        )
        raise FileExistsError(msg)
