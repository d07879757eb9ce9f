"""Errors about the predictor that an object records."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def recorded(*, found: bool) -> None:
    """Refuse to predict without a predictor."""
    if not found:
        msg = (
            "No predictor was given and this object records none. Make one with `stp.tl.fit(sdata)`, or read one with "
            "`stp.tl.Predictor.load(path)` and pass it as `predictor`."
        )
        raise ValueError(msg)


def still_there(path: Path, expected: str, found: str | None) -> None:
    """Refuse a recorded predictor that has gone or is another one by now."""
    if found != expected:
        state = "is gone" if found is None else "holds another one by now"
        msg = (
            f"This object records the predictor in {str(path)!r}, but that folder {state}. Pass one as `predictor`, or "
            "train again with `stp.tl.fit(sdata)`."
        )
        raise ValueError(msg)
