"""Everything that writes or reads files and folders of our own: one atomic write, one lock, one guarded reader.

`writing` has locks, files and folders that appear whole or not at all, and the error of a full disk. `reading` reads
back what we wrote as if anybody could have damaged it; all it raises about that is `DamagedFileError`.
"""

from __future__ import annotations

from .reading import (
    DamagedFileError,
    Schema,
    check_fields,
    check_sha256,
    file_sha256,
    folder_sha256,
    is_zarr_group,
    parse_json,
    read_arrays,
    read_attributes,
    read_csv,
    read_json,
    read_tensors,
    report_damage,
    write_arrays,
    write_json,
    write_tensors,
)
from .writing import (
    atomic_file,
    atomic_folder,
    download,
    lock,
    lock_file,
    remove,
    replace_folder,
    report_full_disk,
    restore_folder,
    sweep,
    user_cache,
)

__all__ = [
    "DamagedFileError",
    "Schema",
    "atomic_file",
    "atomic_folder",
    "check_fields",
    "check_sha256",
    "download",
    "file_sha256",
    "folder_sha256",
    "is_zarr_group",
    "lock",
    "lock_file",
    "parse_json",
    "read_arrays",
    "read_attributes",
    "read_csv",
    "read_json",
    "read_tensors",
    "remove",
    "replace_folder",
    "report_damage",
    "report_full_disk",
    "restore_folder",
    "sweep",
    "user_cache",
    "write_arrays",
    "write_json",
    "write_tensors",
]
