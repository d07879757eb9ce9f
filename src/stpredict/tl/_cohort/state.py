"""The state file of a slide: how far its prediction is, and why it failed."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from ..._files import atomic_file
from ..._pixels import PATCH_VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from .job import SlideJob

STATE, RESULT = "state.json", "predicted.zarr"


@dataclass(frozen=True, kw_only=True, slots=True)
class SlideState:
    """What is known about the prediction of one slide."""

    status: Literal["running", "done", "failed"]
    fingerprint: str | None = None
    """What decides the result: see `SlideJob.fingerprint`."""
    patch_version: int = 1
    """`PATCH_VERSION` of the stpredict that predicted the slide; files of older versions do not state it."""
    n_spots: int | None = None
    um_per_px: float | None = None
    path: str | None = None
    """Where the result is."""
    seconds: float | None = None
    error: str | None = None
    traceback: list[str] | None = None
    warnings: list[str] | None = None

    @classmethod
    def running(cls, job: SlideJob) -> SlideState:
        """The state of a slide that is begun."""
        return cls(status="running", fingerprint=job.fingerprint, patch_version=PATCH_VERSION)

    def with_error(self, error: BaseException) -> SlideState:
        """The same slide after an error."""
        text = f"{type(error).__name__}: {error}"
        return replace(self, status="failed", error=text, traceback=traceback.format_exception(error))

    def write(self, folder: Path) -> SlideState:
        """Replace the state file of a slide, if its folder exists."""
        if folder.is_dir():
            with atomic_file(folder / STATE) as part:
                part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        return self

    @classmethod
    def read(cls, folder: Path) -> SlideState | None:
        """The state of the slide with this folder; None if it was not begun."""
        file = folder / STATE
        if not file.is_file():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        if "of" in values:  # the name of the fingerprint in older versions
            values = {"fingerprint": values["of"], **values}
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    @classmethod
    def read_finished(cls, folder: Path) -> SlideState | None:
        """The same; None if the slide is not finished or its result is gone."""
        state = cls.read(folder)
        return state if state and state.status == "done" and (folder / RESULT).is_dir() else None
