"""Data sets that the user has downloaded: which files of a folder belong to which section. Nothing here downloads."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._checks.paths import user_path
from ..io.sections import assemble, read_section, require_spots_on_image
from . import _errors as check
from ._fetch import writable_dir
from ._image_cache import cached_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from spatialdata import SpatialData
    from xarray import DataTree

    from ..io.sections import Section, SectionOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class FileKind:
    """A kind of file that sections have."""

    pattern: re.Pattern[str]
    """Pattern of its name; the groups are patient and replicate."""
    example: str
    """Its name, with patient and replicate as ``{0}`` and ``{1}``."""
    required: bool = True
    """Whether a section without it cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SectionFiles:
    """The files of a section."""

    parts: tuple[str, ...]
    """Patient and replicate, as file names spell them."""
    patient: str
    """Name of the patient."""
    files: Mapping[str, Path]
    """File by kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalDataset:
    """A data set in a folder, laid out as its authors publish it."""

    name: str
    """Name of the function in `stp.datasets`."""
    kinds: Mapping[str, FileKind]
    """Kinds of files: ``image``, ``counts``, ``spots`` and, where there are any, ``labels``."""
    section: str
    """Name of a section, with patient and replicate as ``{0}`` and ``{1}``."""
    patient: str = "{0}"
    """Name of a patient."""

    def load(self, folder: str | PathLike[str], sections: Sequence[str] | None, options: SectionOptions) -> SpatialData:
        """Read some or all (None) sections of a folder and the folders below it into one object."""
        path = user_path(folder)
        available = self.find_sections(path)
        names = [sections] if isinstance(sections, str) else list(available if sections is None else sections)
        check.known_names("sections", names, available, f"stp.datasets.{self.name}")
        chosen = {name: available[name] for name in names}
        self._require_complete(chosen, path)
        read = [
            read_section(
                found.files["counts"],
                found.files["spots"],
                name=name,
                patient=found.patient,
                labels=found.files.get("labels"),
                options=options,
            )
            for name, found in chosen.items()
        ]
        return assemble(read, {part.name: self._image(part, chosen[part.name].files["image"]) for part in read})

    def find_sections(self, folder: Path) -> dict[str, SectionFiles]:
        """Sections of which the folder has any file, by name, in the order of patients and replicates."""
        layout = ", ".join(f"'{kind.example.format('<patient>', '<replicate>')}'" for kind in self.kinds.values())
        if not folder.is_dir():
            msg = f"There is no folder '{folder}'. Give the folder that holds {layout}."
            raise FileNotFoundError(msg)
        found: dict[tuple[str, ...], dict[str, Path]] = {}
        for path in sorted(folder.rglob("*")):
            for name, kind in self.kinds.items():
                match = kind.pattern.fullmatch(path.name)
                if match is not None and path.is_file():
                    found.setdefault(match.groups(), {}).setdefault(name, path)
        if not found:
            msg = (
                f"Folder '{folder}' holds no section: no file is named like {layout}. Give the folder of the download."
            )
            raise FileNotFoundError(msg)
        return {
            self.section.format(*parts): SectionFiles(
                parts=parts, patient=self.patient.format(*parts), files=found[parts]
            )
            for parts in sorted(found, key=_sort_key)
        }

    def _require_complete(self, sections: Mapping[str, SectionFiles], folder: Path) -> None:
        required = {name: kind for name, kind in self.kinds.items() if kind.required}
        missing = {
            section: [kind.example.format(*found.parts) for name, kind in required.items() if name not in found.files]
            for section, found in sections.items()
        }
        incomplete = [f"{section}: {', '.join(files)}" for section, files in missing.items() if files]
        if incomplete:
            msg = (
                f"{len(incomplete)} sections in '{folder}' lack files ({'; '.join(incomplete)}). Put them there (plain "
                "or '.gz'), or name the sections to read by `sections`."
            )
            raise FileNotFoundError(msg)

    def _image(self, section: Section, file: Path) -> DataTree:
        with file.open("rb") as content:
            source = hashlib.file_digest(content, "sha256").hexdigest()
        image = cached_image(section.name, source, writable_dir() / f"{self.name}-zarr", lambda: file)
        height, width = image["scale0"]["image"].shape[1:]
        require_spots_on_image(section, (width, height))
        return image


def _sort_key(parts: tuple[str, ...]) -> list[tuple[int, str]]:
    """A key by which P2 comes before P10."""
    return [(int(re.sub(r"\D", "", part) or 0), part) for part in parts]
