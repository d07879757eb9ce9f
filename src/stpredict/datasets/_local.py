"""Data sets that the user has downloaded: which files of a folder belong to which section. Nothing here downloads."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._checks import files as check
from ..io._st import on_image, read_section
from ..io.sections import assemble
from ._fetch import writable_dir
from ._image_cache import cached_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from spatialdata import SpatialData
    from xarray import DataTree

    from ..io._st import Layout
    from ..io.sections import Section


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of file that sections have."""

    pattern: re.Pattern[str]
    """What its name is like; the groups are patient and replicate."""
    example: str
    """Its name, with patient and replicate as ``{0}`` and ``{1}``."""
    needed: bool = True
    """Whether a section without it cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalDataset:
    """Layout of a data set in a folder, as its authors publish it."""

    name: str
    """Name of the loader."""
    kinds: Mapping[str, Kind]
    """Kinds of files: ``image``, ``counts``, ``spots`` and, where there are any, ``labels``."""
    section: str
    """Name of a section, with patient and replicate as ``{0}`` and ``{1}``."""
    patient: str = "{0}"
    """Name of a patient."""

    def load(self, folder: str | PathLike[str], sections: Sequence[str] | None, layout: Layout) -> SpatialData:
        """Read sections of the folder.

        Parameters
        ----------
        folder
            The folder; files may be in folders below it.
        sections
            Names of the sections; None for all.
        layout
            How their files are to be understood.

        Returns
        -------
        One object with a region a section.
        """
        path = Path(folder)
        found = self.find(path)
        names = [sections] if isinstance(sections, str) else list(found if sections is None else sections)
        check.known("sections", names, found, f"stp.datasets.{self.name}")
        check.distinct("sections", names)
        self._complete({name: found[name] for name in names}, path)
        read = [self._section(name, found[name], layout) for name in names]
        return assemble(read, {part.name: self._image(part, found[part.name].files["image"]) for part in read})

    def find(self, folder: Path) -> dict[str, LocalSection]:
        """Sections of which the folder has any file.

        Parameters
        ----------
        folder
            The folder.

        Returns
        -------
        Section by name, in the order of patients and replicates.
        """
        layout = ", ".join(f"'{kind.example.format('<patient>', '<replicate>')}'" for kind in self.kinds.values())
        check.is_folder(folder, layout)
        found: dict[tuple[str, ...], dict[str, Path]] = {}
        for path in sorted(folder.rglob("*")):
            for kind, what in self.kinds.items():
                match = what.pattern.fullmatch(path.name)
                if match is not None and path.is_file():
                    found.setdefault(match.groups(), {}).setdefault(kind, path)
        check.some_sections(len(found), folder, layout)
        return {
            self.section.format(*parts): LocalSection(
                parts=parts, patient=self.patient.format(*parts), files=found[parts]
            )
            for parts in sorted(found, key=_in_order)
        }

    def _complete(self, sections: Mapping[str, LocalSection], path: Path) -> None:
        lacking = {
            name: [
                what.example.format(*section.parts)
                for kind, what in self.kinds.items()
                if what.needed and kind not in section.files
            ]
            for name, section in sections.items()
        }
        check.complete({name: files for name, files in lacking.items() if files}, path)

    def _section(self, name: str, section: LocalSection, layout: Layout) -> Section:
        return read_section(
            section.files["counts"],
            section.files["spots"],
            name=name,
            patient=section.patient,
            labels=section.files.get("labels"),
            layout=layout,
        )

    def _image(self, section: Section, file: Path) -> DataTree:
        with file.open("rb") as content:
            source = hashlib.file_digest(content, "sha256").hexdigest()
        image = cached_image(section.name, source, writable_dir() / f"{self.name}-zarr", lambda: file)
        height, width = image["scale0"]["image"].shape[1:]
        on_image(section, (width, height))
        return image


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalSection:
    """Files of a section."""

    parts: tuple[str, ...]
    """Patient and replicate, as file names spell them."""
    patient: str
    """Name of the patient."""
    files: Mapping[str, Path]
    """File by kind."""


def _in_order(parts: tuple[str, ...]) -> list[tuple[int, str]]:
    """P2 before P10."""
    return [(int(re.sub(r"\D", "", part) or 0), part) for part in parts]
