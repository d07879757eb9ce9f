"""Where results go as they are computed: into memory, or partition by partition into a zarr store."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import dask.array as da
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from ... import _keys as keys
from ..._checks.paths import output_folder, output_path, user_path
from ..._files import (
    DamagedFileError,
    atomic_folder,
    check_fields,
    folder_sha256,
    is_zarr_group,
    lock,
    read_attributes,
    remove,
    report_damage,
    report_full_disk,
    sweep,
)
from ..._pixels import PATCH_VERSION
from .partitions import X, matrix_names
from .record import matrix_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from os import PathLike
    from pathlib import Path

    from numpy.typing import NDArray

    from ..._files import Schema
    from .partitions import Columns, SpotTask
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
SHA256 = "sha256"
"""Digests of the arrays of a finished store."""
STORE_FIELDS: Schema = {
    "fingerprint": str, f"{keys.PATCH_VERSION}?": int, FINISHED: bool, f"{SHA256}?": {str: str}
}  # fmt: skip
KEPT = "What is written is kept: free some space, and call again."
"""What a full disk leaves of a store."""
ADVICE = "Delete it, or give another `store`."


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
        columns = task.columns(plan)
        sweep(path)
        if path.exists():
            _check_resumable(path, fingerprint, task)
            sink = cls.open(path, plan)
            with report_damage(path, ADVICE):
                sink._check_arrays(columns)
            return sink
        # it appears with all its arrays, or not at all
        with report_full_disk(path, ADVICE), atomic_folder(output_folder(path, "store")) as part:
            _begin(part, plan, columns, fingerprint)
        return cls.open(path, plan)

    @classmethod
    def open(cls, path: str | PathLike[str], plan: PredictionPlan) -> StoreSink:
        """Open a store that `create` made, in any process."""
        with report_damage(user_path(path), ADVICE):
            group = zarr.open_group(path, mode="r+", use_consolidated=False)
        return cls(plan=plan, path=user_path(path), group=group)

    def missing_ranges(self) -> list[tuple[int, int]]:
        """Ranges of positions of the partitions that are not written."""
        if self._is_finished:
            return []
        with report_damage(self.path, ADVICE, FINISHED):
            written = np.asarray(self.group[FINISHED]) != 0
        missing = np.flatnonzero(~written)
        runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1) if len(missing) else []
        n, size = len(self.plan.order), self.plan.partition_size
        return [(int(run[0]) * size, min((int(run[-1]) + 1) * size, n)) for run in runs]

    def write(self, start: int, pieces: Iterable[Values]) -> None:
        """Write consecutive positions; ``start`` begins a partition."""

        def missing_bytes() -> int:
            n_missing = sum(stop - start for start, stop in self.missing_ranges())
            return int(n_missing * sum(4 * self._array(name).shape[1] for name in matrix_names(self.plan)))

        with report_full_disk(self.path, KEPT, missing_bytes), zarr.config.set({"array.write_empty_chunks": True}):
            for values in split_partitions(pieces, self.plan.partition_size):
                stop = start + len(values[X])
                for name, value in values.items():
                    self.group[layer_path(self.plan, name) or name][start:stop] = value  # type: ignore[index]
                self.group[FINISHED][start // self.plan.partition_size] = 1  # type: ignore[index]
                start = stop

    def values(self) -> dict[str, Any]:
        """Matrices as dask arrays that read the store; the other arrays, which are small, in memory."""
        with report_damage(self.path, ADVICE):
            matrices = {name: da.from_zarr(self._array(name)) for name in matrix_names(self.plan)}
            return matrices | {name: self._array(name)[:] for name in FINAL_PATHS if self._path(name) in self.group}

    @property
    def rows(self) -> NDArray[np.intp]:
        """The row of the spot that each of the values belongs to: in reading order."""
        return self.plan.order

    def finish(self, table: ad.AnnData) -> None:
        """Write everything but the matrices of the table, so that ``anndata.read_zarr`` reads the store."""
        if not self._is_finished:
            with report_full_disk(self.path, KEPT):
                self._write_table(table)
        with report_damage(self.path, ADVICE):  # of a store that is taken up, all groups are read here
            for name in {FINISHED, *FINAL_PATHS} & set(self.group.array_keys()):
                del self.group[name]
        for part in self.path.rglob("*.partial"):  # of chunks that killed processes were writing
            remove(part)

    def _write_table(self, table: ad.AnnData) -> None:
        """Write what is no matrix, then the digests of all of ours, which mark the store as finished."""
        for name in ("obs", "var", "obsm", "varm", "uns"):
            element = getattr(table, name)
            ad.io.write_elem(self.group, name, element if name in {"obs", "var"} else dict(element))
        if table.layers:
            self.group.require_group("layers").attrs.update(DICT_ATTRS)
        ours = [layer_path(self.plan, name) or name for name in matrix_names(self.plan)]
        ours += [path for path in FINAL_PATHS.values() if path in self.group]
        sha256 = {path: folder_sha256(self.path / path) for path in ours}
        finished = {**self._attrs, SHA256: sha256, FINISHED: True}
        self.group.attrs.update({**ANNDATA_ATTRS, keys.ATTRS: finished})

    def _check_arrays(self, columns: Columns) -> None:
        """Refuse a finished store that has changed; of others, have damaged partitions computed again."""
        n, size = len(self.plan.order), self.plan.partition_size
        names = [self._path(name) for name in columns]
        for name, (shape, dtype) in zip(names, columns.values(), strict=True):
            array = self.group.get(name)
            if not isinstance(array, zarr.Array) or (array.shape, array.dtype) != ((n, *shape), dtype):
                raise DamagedFileError(self.path, name, f"it is no array of {(n, *shape)} {dtype}", ADVICE)
        if self._is_finished:
            for name, sha256 in self._attrs.get(SHA256, {}).items():  # early versions recorded none
                if folder_sha256(self.path / name) != sha256:
                    raise DamagedFileError(self.path, name, "it is not as it was written", ADVICE)
            return
        marks: Any = self.group[FINISHED]
        if not isinstance(marks, zarr.Array) or marks.shape != (self.plan.n_partitions,):
            raise DamagedFileError(self.path, FINISHED, "it is no array with a mark for each partition", ADVICE)
        for i in np.flatnonzero(np.asarray(marks)).tolist():
            if not all(self._is_whole(name, i, slice(i * size, (i + 1) * size)) for name in names):
                marks[i] = 0

    def _is_whole(self, name: str, partition: int, rows: slice) -> bool:
        """Whether all chunks of a partition of an array are there, since others are read as zeros, and can be read."""
        array: Any = self.group[name]
        place = self.path / name / "c" / str(partition)
        if array.ndim == 1 and not place.is_file():
            return False
        n_chunks = 1 if array.ndim == 1 else math.prod(array.cdata_shape[1:])
        if array.ndim > 1 and (not place.is_dir() or sum(each.name.isdecimal() for each in place.iterdir()) < n_chunks):
            return False
        try:
            with report_damage(self.path, ADVICE, name):
                array[rows]
        except DamagedFileError:
            return False
        return True

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


def _begin(
    path: Path,
    plan: PredictionPlan,
    columns: Columns,
    fingerprint: str,
) -> None:
    """Make the arrays of a store. Chunks have checksums, which every reader checks."""
    group = zarr.open_group(path, mode="w-")
    for name, (shape, dtype) in columns.items():
        group.create_array(
            layer_path(plan, name) or name,
            shape=(len(plan.order), *shape),
            chunks=(plan.partition_size, *(min(size, CHUNK_GENES) for size in shape)),
            dtype=dtype,
            compressors=[ZstdCodec(), Crc32cCodec()],
            attributes=dict(ARRAY_ATTRS),
        )
    group.create_array(FINISHED, shape=(plan.n_partitions,), chunks=(1,), dtype=np.uint8)
    group.attrs[keys.ATTRS] = {"fingerprint": fingerprint, keys.PATCH_VERSION: PATCH_VERSION, FINISHED: False}


@contextmanager
def exclusive_store(path: str | PathLike[str] | None) -> Iterator[None]:
    """Let no other process compute into a store meanwhile; None is memory."""
    if path is None:
        yield
        return
    with lock(output_path(path, "store")) as ours:
        if not ours:
            msg = (
                f"Another process is computing into {str(path)!r} at this moment. Wait until it has ended, or give "
                "another `store`."
            )
            raise RuntimeError(msg)
        yield


def _check_resumable(path: Path, fingerprint: str, task: SpotTask) -> None:
    """Refuse to write into a folder that was not begun for this result."""
    is_group = is_zarr_group(path)
    attrs = read_attributes(path, {}, ADVICE).get(keys.ATTRS) if is_group else None
    if not isinstance(attrs, dict) or "fingerprint" not in attrs:
        msg = f"{str(path)!r} exists and was not written by `{task.function}`, so it is kept. Give another `store`."
        raise FileExistsError(msg)
    check_fields(attrs, STORE_FIELDS, path, ADVICE, keys.ATTRS)
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
