"""Errors about folders of platforms and their files: missing, cut short, or not of one sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .slides import MAX_RESOLUTION_DIFFERENCE, listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

FULL = (
    "From 10x Genomics' page of the data set fetch 'Input image (TIFF)' or 'Microscope image'; of your own sample take "
    "the file that Space Ranger was given as `--image`."
)


def missing_extra(package: str, extra: str) -> NoReturn:
    """Report a package that is not installed."""
    msg = f"This needs {package}, which is not installed. Call `pip install 'stpredict-histology[{extra}]'`."
    raise ImportError(msg)


def folder(path: Path, what: str, call: str) -> None:
    """Refuse a folder that is not there."""
    if not path.is_dir():
        kind = "is a file" if path.is_file() else "does not exist"
        msg = f"'{path}' {kind}. Give the folder of {what} to `{call}`."
        raise NotADirectoryError(msg) if path.is_file() else FileNotFoundError(msg)


def one_of(found: Sequence[Path], names: Sequence[str], place: Path, what: str) -> Path:
    """The file that was found; an error if there is none, or several of one name."""
    if len(found) > 1:
        msg = f"'{place}' holds several {what}: {listed([file.name for file in found])}. Keep one sample a folder."
        raise ValueError(msg)
    if not found:
        there = sorted(file.name for file in place.iterdir()) if place.is_dir() else []
        has = f"it holds {listed(there)}" if place.is_dir() else "there is no such folder"
        msg = (
            f"No {what} in '{place}' (looked for {listed(names)}; {has}). Is this the right folder, and is the "
            "download complete? Give the folder that holds the whole output of one sample."
        )
        raise FileNotFoundError(msg)
    return found[0]


def has_fields(fields: Collection[str], needed: Sequence[str], path: Path) -> None:
    """Refuse a JSON file that lacks what is needed."""
    missing = [name for name in needed if name not in fields]
    if missing:
        msg = f"'{path}' has no field {listed(missing)} (found: {listed(sorted(fields))}). Fetch the file again."
        raise ValueError(msg)


def unreadable(path: Path, what: str, reason: object) -> NoReturn:
    """Report a file that cannot be decoded."""
    msg = f"The {what} '{path}' cannot be read: {reason}. It is damaged or cut short; fetch it again."
    raise ValueError(msg)


def not_read(place: Path, reader: str, reason: BaseException) -> NoReturn:
    """Report that spatialdata-io gave up."""
    what = str(reason) or type(reason).__name__
    msg = (
        f"`spatialdata_io.{reader}` cannot read '{place}': {what}. Check that its files are whole and of one sample, "
        "or fetch them again."
    )
    raise ValueError(msg)


def placed(n_missing: int, n_spots: int, positions: Path) -> None:
    """Refuse spots with counts that the file of positions does not name."""
    if n_missing:
        msg = (
            f"{n_missing} of {n_spots} spots with counts have no position in '{positions}'. It is cut short or of "
            "another sample; fetch it again."
        )
        raise ValueError(msg)


def some_tissue(n_spots: int, positions: Path) -> None:
    """Refuse a sample without a spot on tissue."""
    if n_spots == 0:
        msg = f"No spot with counts lies on tissue by 'in_tissue' of '{positions}'. Give another sample."
        raise ValueError(msg)


def full_image(found: Sequence[Path], place: Path, overviews: Sequence[str]) -> Path:
    """The one full-resolution image; an error if there is none, or several."""
    if len(found) > 1:
        msg = f"Which image is it? '{place}' holds {listed([file.name for file in found])}. Give one as `image`."
        raise ValueError(msg)
    if not found:
        less = " or ".join(f"`image={name!r}`" for name in overviews)
        there = f"there are only overviews ({', '.join(overviews)})" if overviews else "there is no overview either"
        anyway = f" To do with an overview, in which a spot is a few pixels, give {less}." if overviews else ""
        msg = f"No full-resolution image in '{place}'; {there}. {FULL} Give its path as `image`.{anyway}"
        raise FileNotFoundError(msg)
    return found[0]


def overview(asked: str, overviews: Sequence[str], place: Path) -> None:
    """Refuse an overview that is not there."""
    if asked not in overviews:
        has = f"there is {listed(overviews)}" if overviews else "there is none"
        msg = f"No '{asked}' image in '{place}' ({has}). Give the path of the full-resolution image as `image`. {FULL}"
        raise FileNotFoundError(msg)


def image_file(path: Path) -> None:
    """Refuse an image that is not there."""
    if not path.is_file():
        msg = f"There is no image '{path}'. Give the path of an existing file as `image`."
        raise FileNotFoundError(msg)


def depth(dtype: object, name: str) -> None:
    """Refuse an image that is not of 8 bits."""
    if str(dtype) != "uint8":
        msg = (
            f"Image '{name}' is of type {dtype}; H&E in 8-bit colour (uint8) is needed. Export it as 8-bit RGB, for "
            "instance divide 16-bit values by 257, and give that file as `image`."
        )
        raise ValueError(msg)


def colour(shape: Sequence[int], name: str) -> None:
    """Refuse an image without three (or four) colours on one plane."""
    if len(shape) != 3 or not {3, 4} & {shape[0], shape[-1]}:
        msg = (
            f"Image '{name}' has shape {tuple(shape)}; H&E in colour is needed: height x width x 3. Export it as "
            "8-bit RGB and give that as `image`."
        )
        raise ValueError(msg)


def covers(n_off: int, n_spots: int, far: Sequence[float], size: Sequence[int], name: str) -> None:
    """Refuse an image that is smaller than what the spots were placed on."""
    if n_off:
        msg = (
            f"{n_off} of {n_spots} spots lie off image '{name}': they reach x = {far[0]:.0f}, y = {far[1]:.0f}, it is "
            f"{size[0]} x {size[1]} px. It is not the image that the positions refer to, perhaps a smaller copy. {FULL}"
        )
        raise ValueError(msg)


def on_image(n_off: int, n_off_swapped: int, n_spots: int, size: Sequence[int], names: tuple[str, str]) -> None:
    """Refuse spots off an image, and say so if they lie on it once x and y are swapped."""
    if n_off == 0:
        return
    x, y = names
    what = f"{n_off} of {n_spots} spots lie off the image of {size[0]} x {size[1]} px (width x height)"
    if n_off_swapped == 0:
        msg = (
            f"{what}, but all lie on it with x and y swapped: {x} seems to be the row and {y} the column. Give "
            f"`xy=({y!r}, {x!r})`, or swap the columns of `obsm`."
        )
    else:
        msg = (
            f"{what} ({n_off_swapped} with x and y swapped). Spots must be in pixels of this image: give the image "
            "they refer to, scale them, or leave these spots out."
        )
    raise ValueError(msg)


def spot_diameter(diameter_px: float, um_per_px: float, known_um: Sequence[float], path: Path) -> None:
    """Refuse a spot diameter that does not fit the pitch of the positions."""
    found_um = diameter_px * um_per_px
    if not any(abs(found_um / size - 1) <= MAX_RESOLUTION_DIFFERENCE for size in known_um):
        by_diameter = " or ".join(f"{size / diameter_px:.4g} (if it is {size:g} µm)" for size in known_um)
        msg = (
            f"The pitch of the positions (100 µm) says {um_per_px:.4g} µm per pixel, but 'spot_diameter_fullres' = "
            f"{diameter_px:.4g} px in '{path}' says {by_diameter}; at most 5 % apart is allowed. Positions and scale "
            "factors are not of one sample, or one of them was rescaled."
        )
        raise ValueError(msg)


def bin_known(bin_um: int, found: Sequence[int], place: Path) -> None:
    """Refuse a bin size that the sample does not have."""
    if bin_um not in found:
        msg = f"`bin_um` is {bin_um!r}; '{place}' has bins of {', '.join(map(str, found)) or 'no size'} µm. Give one."
        raise ValueError(msg)


def alignment(path: Path | None, image: Path) -> None:
    """Refuse an H&E image without a matrix that places it."""
    msg = (
        f"No alignment of '{image.name}'{f' at {str(path)!r}' if path else ''}. Give `alignment`: the CSV file of the "
        "3 x 3 matrix from pixels of the H&E image to pixels of the morphology image (Xenium Explorer exports it), or "
        "the matrix itself; `numpy.eye(3)` if the image is aligned already."
    )
    raise FileNotFoundError(msg)


def affine(shape: Sequence[int], *, valid: bool, what: str) -> None:
    """Refuse a matrix that maps no plane onto a plane."""
    if not valid:
        msg = (
            f"The alignment {what} is no affine matrix (shape {tuple(shape)}): 3 x 3 numbers are needed, the last row "
            "0 0 1 and the rest invertible. Export it again, or give the matrix as `alignment`."
        )
        raise ValueError(msg)


def cells_on_image(share: float, share_inverse: float, name: str) -> None:
    """Refuse an alignment that puts all cells off the image."""
    if share == 0:
        why = (
            f"With its inverse {100 * share_inverse:.0f} % do: give the inverse as `alignment`"
            if share_inverse
            else "Give the alignment of this image and this sample as `alignment`"
        )
        msg = f"No cell lies on H&E image '{name}' as `alignment` places it. {why}."
        raise ValueError(msg)


def he_image(found: Sequence[Path], place: Path) -> Path:
    """The one H&E image of a Xenium folder; an error if there is none, or several."""
    if len(found) > 1:
        msg = f"Which image is it? '{place}' holds {listed([file.name for file in found])}. Give one as `image`."
        raise ValueError(msg)
    if not found:
        msg = (
            f"No H&E image ('*he_image.ome.tif') in '{place}'; the morphology image is fluorescence. Fetch "
            "'Supplemental: Post-Xenium H&E image (OME-TIFF)' and 'H&E image alignment file (CSV)' from 10x Genomics' "
            "page of the data set, and give them as `image` and `alignment`."
        )
        raise FileNotFoundError(msg)
    return found[0]


def no_resolution(name: str) -> NoReturn:
    """Report that nothing says how large a pixel is."""
    msg = (
        f"The resolution of {name!r} is not known. Give `um_per_px` to `stp.io.from_anndata`, or `pitch_um`: the "
        "distance of neighbouring spots (100 for Visium, 200 for legacy arrays)."
    )
    raise ValueError(msg)


def coordinates(key: object, found: Sequence[str], columns: Sequence[str]) -> NoReturn:
    """Report that spots have no coordinates of this name."""
    msg = (
        f"`xy` is {key!r}; it must be a key of `obsm` (found: {listed(found)}) or two columns of `obs` (found: "
        f"{listed(columns)})."
    )
    raise ValueError(msg)


def finite(n_bad: int, n_spots: int) -> None:
    """Refuse spots without coordinates."""
    if n_bad or not n_spots:
        msg = f"{n_bad} of {n_spots} spots have no finite coordinates. Give at least one spot, and leave these out."
        raise ValueError(msg)


def free_columns(taken: Sequence[str]) -> None:
    """Refuse to overwrite columns of obs that link rows to spots."""
    if taken:
        msg = (
            f"`adata.obs` has columns {listed(taken)}, which link the table to its spots. Rename yours: "
            "`adata.obs.rename(columns={…: …})`."
        )
        raise ValueError(msg)
