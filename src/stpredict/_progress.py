"""Progress bars, all of which are made here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE = "STPREDICT_PROGRESS"
"""Environment variable; ``0`` shows no progress bars."""


def progress_bar(items: Iterable[Any] | None = None, *, progress: bool, **options: Any) -> tqdm[Any]:
    """A bar of tqdm, which is shown if it is asked for and not turned off by the environment."""
    return tqdm(items, disable=not progress or os.environ.get(VARIABLE) == "0", **options)
