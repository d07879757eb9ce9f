"""Errors about files of measurements: missing, corrupt, or not laid out as a spatial transcriptomics section is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def exists(path: Path, what: str) -> None:
    """Refuse a file that is not there."""
    if not path.is_file():
        msg = f"No {what} at '{path}'. Give the path of an existing file to `stp.io.read_st`."
        raise FileNotFoundError(msg)


def unreadable(path: Path, what: str, reason: object) -> None:
    """Report a file that cannot be decoded."""
    msg = f"The {what} '{path.name}' cannot be read: {reason}. Check that the file is whole, or fetch it again."
    raise ValueError(msg)


def image_mode(mode: str, path: Path) -> None:
    """Refuse images that hold no 8-bit colour."""
    if mode not in {"RGB", "RGBA", "P", "CMYK", "YCbCr"}:
        kind = {"L": "grey", "LA": "grey", "1": "black and white", "F": "floating point"}.get(mode, f"of mode {mode}")
        msg = (
            f"Image '{path.name}' is {kind}; H&E in 8-bit colour is needed (RGB; RGBA is laid on white; palette, CMYK "
            "and YCbCr are converted). Export it as 8-bit RGB and call `stp.io.read_st` again."
        )
        raise ValueError(msg)


def has_columns(found: Sequence[str], needed: Sequence[str], path: Path) -> None:
    """Refuse a table without the columns that place its spots."""
    missing = [name for name in needed if name not in found]
    if missing:
        msg = (
            f"Table '{path.name}' has no column {listed(missing)} (found: {listed(found)}). Name its columns "
            f"{listed(needed)}."
        )
        raise ValueError(msg)


def finite_columns(bad: Sequence[str], path: Path) -> None:
    """Refuse coordinates that are missing or no numbers."""
    if bad:
        msg = f"Table '{path.name}' has missing or non-numeric values in {listed(bad)}. Remove these rows or fill them."
        raise ValueError(msg)


def spot_name(name: str, path: Path) -> None:
    """Refuse row names of a counts matrix that are no array coordinates."""
    msg = (
        f"Row {name!r} of '{path.name}' is no array coordinate such as '10x13'. Counts are read with one spot a row "
        "and one gene a column; transpose the file if it is the other way round."
    )
    raise ValueError(msg)


def row_length(name: str, found: int, expected: int, path: Path) -> None:
    """Refuse a counts row that is cut short or holds something else than numbers."""
    if found != expected:
        msg = (
            f"Row {name!r} of '{path.name}' has {found} readable numbers for {expected} genes. The file is truncated, "
            "or holds text where counts belong; fetch it again or repair that row."
        )
        raise ValueError(msg)


def unique_spots(names: Sequence[str], path: Path) -> None:
    """Refuse two rows for one position of the array."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"'{path.name}' holds more than one row for array position {listed(twice)}. Keep one row a spot."
        raise ValueError(msg)


def some_spots(n_matched: int, n_spots: int, n_counts: int, name: str) -> None:
    """Refuse a section in which no spot has counts."""
    if n_matched == 0:
        msg = (
            f"Section {name!r}: none of {n_spots} selected spots is among {n_counts} rows of counts. Both must use the "
            "same array coordinates (column x, column y; row names 'x' + 'x' + 'y', such as '10x13')."
        )
        raise ValueError(msg)


def lattice(n_spots: int, name: str) -> None:
    """Report that spots do not span a lattice."""
    msg = (
        f"The resolution of {name!r} cannot be derived from the pitch of its {n_spots} spots: at least three that do "
        "not lie in one line are needed. Give `um_per_px`."
    )
    raise ValueError(msg)


def isotropic(pitch_px: NDArray[np.float64], error: float, name: str) -> None:
    """Refuse an image whose pixels are not square: more than 1 % beyond three standard errors of the pitch."""
    x, y = (float(value) for value in pitch_px)
    excess = abs(x / y - 1)
    if excess > 0.01 + 3 * error:
        msg = (
            f"The pitch of {name!r} is {x:.2f} px along x and {y:.2f} px along y ({100 * excess:.1f} % apart, at most "
            "1 % is allowed): its pixels are not square. Resample the image to square pixels first."
        )
        raise ValueError(msg)


def agrees(given: float, measured: float, name: str) -> None:
    """Refuse a resolution that contradicts the spots by more than 5 %."""
    if abs(given / measured - 1) > 0.05:
        msg = (
            f"The resolution of {name!r} is given as {given:.4g} µm per pixel, but its spots say {measured:.4g} "
            f"({100 * (given / measured - 1):+.1f} %, at most 5 % is allowed). Correct `um_per_px`, or `pitch_um` or "
            "`diameter_um` of the platform."
        )
        raise ValueError(msg)


def spots_on_image(n_elements: int, image_key: str) -> None:
    """Refuse to measure an image on which no spots lie."""
    if n_elements == 0:
        msg = f"No spots lie on image {image_key!r}, so its resolution cannot be measured. Give `um_per_px`."
        raise ValueError(msg)


def positive(name: str, value: float) -> None:
    """Refuse lengths and resolutions that are not above zero."""
    if not value > 0:
        msg = f"`{name}` is {value!r}; it must be above 0."
        raise ValueError(msg)


def known(name: str, asked: Sequence[str], available: Collection[str], call: str) -> None:
    """Refuse names outside a catalogue, all of them at once."""
    missing = [one for one in asked if one not in available]
    if missing or not asked:
        what = f"{listed(missing)}" if missing else "nothing"
        msg = f"`{name}` names {what}; there are {', '.join(map(repr, available))}. Call `{call}` with these."
        raise ValueError(msg)


def distinct(name: str, asked: Sequence[str]) -> None:
    """Refuse a name given twice."""
    twice = sorted({one for one in asked if list(asked).count(one) > 1})
    if twice:
        msg = f"`{name}` names {listed(twice)} more than once. Give each name once."
        raise ValueError(msg)


def intact(path: Path, kind: str, found: str, expected: str, *, deleted: bool) -> None:
    """Refuse a file whose hash is not the expected one."""
    if found != expected:
        state = "It was deleted; call again to fetch it once more" if deleted else "It was left as it is; replace it"
        msg = f"'{path}' is corrupt: {kind} is {found}, expected {expected}. {state}."
        raise ValueError(msg)


def unavailable(path: str, looked: Sequence[Path], url: str, reason: object) -> None:
    """Report a file that is neither here nor can be fetched."""
    places = ", ".join(f"'{place}'" for place in looked)
    msg = (
        f"'{path}' is not here (looked in {places}) and could not be fetched from {url} ({reason}). Connect to the "
        "network, or put the file there, or set STPREDICT_DATA_DIR to a folder with 'her2st/data'; "
        "`stp.datasets.synthetic()` needs no file."
    )
    raise ConnectionError(msg)
