"""Errors about files of measurements: missing, corrupt, or not laid out as a spatial transcriptomics section is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NoReturn

from .slides import listed
from .training import warn

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def exists(path: Path, what: str) -> None:
    """Refuse a file that is not there."""
    if not path.is_file():
        msg = f"No {what} at '{path}'. Give the path of an existing file to `stp.io.read_st`."
        raise FileNotFoundError(msg)


def unreadable(path: Path, what: str, reason: object) -> NoReturn:
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


def spot_name(name: str, path: Path) -> NoReturn:
    """Refuse a spot of a counts matrix whose name is no array coordinate, where the others are."""
    msg = (
        f"Spot {name!r} of '{path.name}' is no array coordinate such as '10x13', as the other spots are. Remove or "
        "rename it; if it is a gene, say by `genes_in` which axis holds genes."
    )
    raise ValueError(msg)


def genes_in(value: object) -> None:
    """Refuse an axis of a counts matrix that is none."""
    if value not in {None, "rows", "columns"}:
        msg = f"`genes_in` is {value!r}; it must be 'rows', 'columns', or None to find out by the names of the spots."
        raise ValueError(msg)


def orientation(rows: Sequence[str], columns: Sequence[str], path: Path) -> NoReturn:
    """Report that names do not tell spots from genes."""
    msg = (
        f"It is not clear whether genes are the rows or the columns of '{path.name}': rows are {listed(rows)}, "
        f"columns {listed(columns)}, and spots are known by names such as '10x13' or 'ACGTACGTACGTACGT-1' on one axis "
        "only. Give `genes_in='rows'` or `genes_in='columns'`."
    )
    raise ValueError(msg)


def square(n: int, path: Path) -> NoReturn:
    """Report a matrix with as many spots as genes, whose axes its shape does not tell."""
    msg = (
        f"Matrix '{path.name}' has {n} rows and {n} columns, so its shape does not say which are genes. Give "
        "`genes_in='rows'` (as Cell Ranger writes it) or `genes_in='columns'`."
    )
    raise ValueError(msg)


def market(header: str) -> None:
    """Refuse Matrix Market files of another kind than sparse numbers."""
    if header.lower().split()[1:] not in (["matrix", "coordinate", kind, "general"] for kind in ("integer", "real")):
        msg = f"its first line is {header.strip()!r}, not '%%MatrixMarket matrix coordinate integer general'"
        raise ValueError(msg)


def all_values(found: int, expected: int, path: Path) -> None:
    """Refuse a Matrix Market file that is cut short."""
    if found != expected:
        msg = f"Matrix '{path.name}' holds {found} values, but announces {expected}. Fetch it again."
        raise ValueError(msg)


def matrix_shape(shape: Sequence[int], n_spots: int, n_genes: int, path: Path) -> None:
    """Refuse a matrix whose shape is not that of its companion files."""
    if tuple(shape) not in {(n_genes, n_spots), (n_spots, n_genes)}:
        msg = (
            f"Matrix '{path.name}' is {shape[0]} x {shape[1]}, but its companion files name {n_spots} spots and "
            f"{n_genes} genes. Check that the three files belong together and are whole."
        )
        raise ValueError(msg)


def companions(missing: Sequence[str], path: Path) -> None:
    """Refuse a matrix without the files that name its rows and columns."""
    if missing:
        msg = (
            f"Matrix '{path.name}' needs {listed(missing)} (plain or '.gz') beside it in '{path.parent}'. Put them "
            "there, or give counts as a table with names to `stp.io.read_st`."
        )
        raise FileNotFoundError(msg)


def some_counts(n_spots: int, n_genes: int, path: Path) -> None:
    """Refuse a counts matrix without a spot or without a gene."""
    if not (n_spots and n_genes):
        msg = (
            f"Counts file '{path.name}' is empty: {n_spots} spots, {n_genes} genes. Give a table with a header of "
            "names and one row a spot or a gene to `stp.io.read_st`, or fetch the file again."
        )
        raise ValueError(msg)


def barcodes(n_spots: int, path: Path) -> NoReturn:
    """Report that counts are named by barcodes and the spot file does not know them."""
    msg = (
        f"Counts name their spots by barcodes, but spot file '{path.name}' ({n_spots} spots) has no column of names. "
        "Put the barcode of each spot into its first column."
    )
    raise ValueError(msg)


def headerless(n_columns: int, path: Path) -> NoReturn:
    """Refuse a table without a header whose columns cannot be told by their number."""
    msg = (
        f"Table '{path.name}' has no header and {n_columns} columns. Two (x, y), three (name, pixel_x, pixel_y), six "
        "(x, y, new_x, new_y, pixel_x, pixel_y) and seven (selected) are understood; add a header line that names them."
    )
    raise ValueError(msg)


def positions(found: Sequence[str], path: Path) -> NoReturn:
    """Report a spot file that does not say where spots lie in the array."""
    msg = (
        f"Spot file '{path.name}' has neither columns 'x' and 'y' nor a column of names such as '10x13' (found: "
        f"{listed(found)}). Name its columns so."
    )
    raise ValueError(msg)


def pixels(found: Sequence[str], path: Path) -> NoReturn:
    """Report a spot file that says nothing about pixels, where no affine is given either."""
    msg = (
        f"Spot file '{path.name}' has no pixel columns ('pixel_x' and 'pixel_y', or 'X' and 'Y'; found: "
        f"{listed(found)}). Name them so, or give `affine`: the 3 x 3 matrix from array coordinates to pixels, as a "
        "text file or an array."
    )
    raise ValueError(msg)


def one_placement(path: Path) -> NoReturn:
    """Refuse an affine beside pixel columns."""
    msg = (
        f"Spot file '{path.name}' has pixel columns, and `affine` is given too. Leave out `affine`, or remove the "
        "pixel columns."
    )
    raise ValueError(msg)


def placed() -> NoReturn:
    """Refuse a section without a spot file and without an affine."""
    msg = "Give `spots`, or `affine`: the 3 x 3 matrix from the array coordinates that name the counts to pixels."
    raise ValueError(msg)


def affine(shape: Sequence[int], *, valid: bool, what: str) -> None:
    """Refuse a matrix that is no invertible affine map of the plane."""
    if not valid:
        msg = (
            f"{what} is no affine map ({' x '.join(map(str, shape))} numbers). Nine numbers are needed, a 3 x 3 matrix "
            "with a last row (or, transposed, a last column) of 0 0 1 and an invertible 2 x 2 part."
        )
        raise ValueError(msg)


def pixel_frame(frame: Sequence[float], size: Sequence[int]) -> None:
    """Refuse a frame that is no size, or that is not a scaled copy of the image within 1 %."""
    if len(frame) != 2 or not all(side > 0 for side in frame):
        msg = f"`pixel_frame` is {tuple(frame)!r}; give (width, height) in pixels, both above 0."
        raise ValueError(msg)
    x, y = size[0] / frame[0], size[1] / frame[1]
    if abs(x / y - 1) > 0.01:
        msg = (
            f"`pixel_frame` is {frame[0]:g} x {frame[1]:g}, the image {size[0]} x {size[1]}: a factor of {x:.4f} along "
            f"x and {y:.4f} along y. Give (width, height) of the same picture at another size."
        )
        raise ValueError(msg)


def on_image(n_inside: int, n_spots: int, size: Sequence[int], far: NDArray[np.float64], name: str) -> None:
    """Refuse spots that all lie off the image; warn where some do."""
    if n_inside == n_spots:
        return
    what = (
        f"{n_spots - n_inside} of {n_spots} spots of section {name!r} lie off its image ({size[0]} x {size[1]} px; "
        f"spots reach x = {far[0]:.0f}, y = {far[1]:.0f})"
    )
    advice = (
        "If pixel coordinates refer to another size of the image, give `pixel_frame=(width, height)` of it to "
        "`stp.io.read_st`."
    )
    if n_inside == 0:
        msg = f"{what}. {advice}"
        raise ValueError(msg)
    warn(f"{what}. They are kept. {advice}")


def one_label(names: Sequence[str], path: Path) -> None:
    """Refuse an annotation that puts a spot into several classes."""
    if names:
        msg = f"'{path.name}' gives more than one label to spot {listed(names)}. Keep one label a spot."
        raise ValueError(msg)


def gene_map(n_columns: int, path: Path) -> NoReturn:
    """Report a file that does not map Ensembl ids to symbols."""
    msg = (
        f"'{path.name}' is no map of genes ({n_columns} columns): it needs one column of Ensembl ids (such as "
        "ENSG00000141736) and one of symbols, called 'symbol' if there are more than two."
    )
    raise ValueError(msg)


def is_folder(path: Path, layout: str) -> None:
    """Refuse a folder that is not there."""
    if not path.is_dir():
        msg = f"There is no folder '{path}'. Give the folder that holds {layout}."
        raise FileNotFoundError(msg)


def some_sections(n_sections: int, path: Path, layout: str) -> None:
    """Refuse a folder without a file of the data set."""
    if n_sections == 0:
        msg = f"Folder '{path}' holds no section: no file is named like {layout}. Give the folder of the download."
        raise FileNotFoundError(msg)


def complete(missing: Mapping[str, Sequence[str]], path: Path) -> None:
    """Refuse sections without all of their files, all of them at once."""
    if missing:
        what = "; ".join(f"{name}: {', '.join(files)}" for name, files in missing.items())
        msg = (
            f"{len(missing)} sections in '{path}' lack files ({what}). Put them there (plain or '.gz'), or name the "
            "sections to read by `sections`."
        )
        raise FileNotFoundError(msg)


def row_length(name: str, found: int, expected: int, path: Path) -> None:
    """Refuse a counts row that is cut short or holds something else than numbers."""
    if found != expected:
        msg = (
            f"Row {name!r} of '{path.name}' has {found} readable numbers for {expected} columns. The file is cut "
            "short, or holds text where counts belong; fetch it again or repair that row."
        )
        raise ValueError(msg)


def unique_spots(names: Sequence[str], path: Path) -> None:
    """Refuse two rows for one position of the array."""
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        msg = f"'{path.name}' holds more than one row for array position {listed(twice)}. Keep one row a spot."
        raise ValueError(msg)


def some_spots(n_matched: int, n_spots: int, n_counts: int, name: str) -> None:
    """Refuse a section in which no spot has counts."""
    if n_matched == 0:
        msg = (
            f"Section {name!r}: none of {n_spots} selected spots is among {n_counts} rows of counts. Both must use the "
            "same array coordinates (column x, column y; names 'x' + 'x' + 'y', such as '10x13') or barcodes."
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
