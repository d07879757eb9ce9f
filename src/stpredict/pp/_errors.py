"""Errors about user input that only `pp` raises."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .._checks.slides import quote

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData


# images, tissue and other elements


def one_image(names: Sequence[str], coordinate_system: str | None = None) -> None:
    """Refuse to guess among several images, or to go on without one."""
    where = "" if coordinate_system is None else f" of coordinate system {coordinate_system!r}"
    if not names:
        msg = (
            f"There is no image{where} in `sdata.images`. Add one, for instance with `stp.io.read_st`, or give another "
            "object or coordinate system."
        )
        raise ValueError(msg)
    if len(names) > 1:
        msg = f"Which image{where} is meant? Found: {quote(names)}. Give one as `image_key`."
        raise ValueError(msg)


def in_system(systems: Collection[str], asked: str | None, image_key: str) -> None:
    """Refuse a coordinate system that the image is not in."""
    if asked is not None and asked not in systems:
        msg = (
            f"Image {image_key!r} is not in coordinate system {asked!r} (it is in: {quote(sorted(systems))}). Give "
            "one of these as `coordinate_system`."
        )
        raise ValueError(msg)


def has_polygons(names: Sequence[str], asked: str, argument: str) -> None:
    """Refuse an element with tissue that does not exist."""
    if asked not in names:
        msg = f"No element {asked!r} with tissue (found: {quote(names)}). Give one as `{argument}`, or None."
        raise ValueError(msg)


def only_polygons(kinds: Collection[str], key: str, argument: str) -> None:
    """Refuse tissue that is not drawn as polygons."""
    if not set(kinds) <= {"Polygon", "MultiPolygon"}:
        msg = f"Shapes {key!r} hold {quote(sorted(kinds))}; tissue must be polygons. Give others as `{argument}`."
        raise ValueError(msg)


def shares_system(shared: Collection[str], key: str, image_key: str, argument: str) -> None:
    """Refuse tissue that lies in another coordinate system than the image."""
    if not shared:
        msg = (
            f"Tissue {key!r} and image {image_key!r} share no coordinate system. Register them with "
            f"`spatialdata.transformations.set_transformation`, or give another element as `{argument}`."
        )
        raise ValueError(msg)


def free_table(sdata: SpatialData, table_name: str, ours: Collection[str]) -> None:
    """Refuse to overwrite a table that these functions did not make."""
    existing = {name for _, name, _ in sdata.gen_elements()}
    if table_name in existing and table_name not in ours:
        msg = (
            f"The object already has an element {table_name!r}, which is to hold the counts, and is not overwritten. "
            "Give another name as `key_added`."
        )
        raise ValueError(msg)


# tissue and stain


def not_negative(name: str, value: float) -> None:
    """Refuse areas below zero."""
    if not value >= 0:
        msg = f"`{name}` is {value!r}; it must be 0 or more."
        raise ValueError(msg)


def found_tissue(n_pieces: int, image_key: str, min_area_um2: float, um_per_px: float) -> None:
    """Refuse slides on which nothing looks like tissue."""
    if not n_pieces:
        msg = (
            f"No tissue on image {image_key!r}: no piece of {min_area_um2:g} µm² or more is stained and textured more "
            f"than the background, at {um_per_px:g} µm per pixel. The slide may be blank: leave it out. If it is not, "
            "give a smaller `min_area_um2`, see whether the resolution is right (`stp.pp.resolution`), or add polygons "
            "of your own to `sdata.shapes`."
        )
        raise ValueError(msg)


def mask_on_image(n_pieces: int, mask_key: str, min_area_um2: float) -> None:
    """Refuse masks without tissue on the image."""
    if not n_pieces:
        msg = (
            f"Mask {mask_key!r} holds no piece of {min_area_um2:g} µm² or more on the image. Give a smaller "
            "`min_area_um2`, see whether image and mask are registered and the resolution is right "
            "(`stp.pp.resolution`), or leave out `mask_key` to find tissue by its stain."
        )
        raise ValueError(msg)


def tissue_to_stain(area: float, image_key: str) -> None:
    """Refuse to measure the stain of a slide without tissue."""
    if not area > 0:
        msg = (
            f"No tissue on image {image_key!r}, so there is no stain to measure. The slide may be blank: leave it out. "
            "If it is not, add polygons of your own to `sdata.shapes` and name them as `tissue_key`."
        )
        raise ValueError(msg)


# resolution


def spots_on_image(n_elements: int, image_key: str) -> None:
    """Refuse to measure the resolution of an image on which no spots lie."""
    if n_elements == 0:
        msg = f"No spots lie on image {image_key!r}, so its resolution cannot be measured. Give `um_per_px`."
        raise ValueError(msg)


# lattices of spots


def known_platform(like: str, names: Collection[str]) -> None:
    """Refuse the name of a platform that is not in the catalogue."""
    if like not in names:
        msg = (
            f"`like` is {like!r}; known: {', '.join(map(repr, names))}. Call `stp.pp.spot_grid` with one of these, "
            "with a predictor, or with `diameter_um` and `pitch_um`."
        )
        raise ValueError(msg)


def provenance_of(like: object) -> Mapping[str, Any]:
    """Provenance of a predictor; refuse anything that is neither a name nor a predictor."""
    provenance = getattr(like, "provenance", None)
    if not isinstance(provenance, Mapping):
        msg = (
            f"`like` is of type {type(like).__name__}; give a predictor, the name of a platform or None. Get a "
            "predictor from `stp.tl.fit` or `stp.tl.Predictor.load`."
        )
        raise TypeError(msg)
    return provenance


def known_diameter(diameter_um: float | None) -> float:
    """The diameter to use; refuse a predictor that does not record the size of its spots."""
    if diameter_um is None:
        msg = (
            "The predictor does not record the diameter of the spots it was trained on (nothing in "
            "`provenance['diameter_um']`). Give `diameter_um` to `stp.pp.spot_grid`."
        )
        raise ValueError(msg)
    return float(diameter_um)


def both_lengths(diameter_um: float | None, pitch_um: float | None) -> tuple[float, float]:
    """Diameter and pitch; refuse one without the other."""
    if diameter_um is None or pitch_um is None:
        msg = (
            f"`diameter_um` is {diameter_um!r} and `pitch_um` is {pitch_um!r}; without `like` both are needed. Call "
            "`stp.pp.spot_grid(sdata, diameter_um=…, pitch_um=…)`, or give `like`."
        )
        raise ValueError(msg)
    return diameter_um, pitch_um


def length(name: str, value: float | None) -> None:
    """Refuse a length that is not a finite number above zero."""
    if value is not None and not (math.isfinite(value) and value > 0):
        msg = f"`{name}` is {value!r}; lengths are in µm and must be above 0. Give another to `stp.pp.spot_grid`."
        raise ValueError(msg)


def not_overlapping(width_um: float, step_um: float, outline: str) -> None:
    """Refuse spots that overlap, in which a transcript would count twice."""
    if width_um > step_um * (1 + 1e-9):
        msg = (
            f"Spots overlap: a {outline} of {width_um:g} µm is wider than the {step_um:.4g} µm to the next, so what "
            "lies in two would count twice. Give a larger `pitch_um`, or a smaller `diameter_um`."
        )
        raise ValueError(msg)


def lattice_size(n_places: int, limit: int, pitch_um: float) -> None:
    """Refuse a lattice that memory would not hold."""
    if n_places > limit:
        msg = (
            f"The lattice has {n_places:,} places at a pitch of {pitch_um:g} µm; at most {limit:,} are laid. Give a "
            "larger `pitch_um`, tissue of less extent (`stp.pp.tissue`, `tissue_key`), or see whether the resolution "
            "is right (`stp.pp.resolution`)."
        )
        raise ValueError(msg)


def grid_has_spots(n_spots: int, image_key: str, tissue_key: str | None, min_tissue: float) -> None:
    """Refuse a grid without spots."""
    if n_spots == 0:
        on = "on it" if tissue_key is None else f"with {min_tissue:g} of its area on {tissue_key!r}"
        msg = (
            f"The grid is empty: image {image_key!r} has no spot {on}. Lower `min_tissue`, give a smaller "
            "`pitch_um`, or check the resolution with `stp.pp.resolution`."
        )
        raise ValueError(msg)


# spots made of transcripts or cells


def one_points(names: Sequence[str], asked: str | None) -> str:
    """The points element that is meant; refuse one that does not exist, and to guess among several."""
    if asked is None and len(names) == 1:
        return names[0]
    if asked is None or asked not in names:
        what = "Which points are transcripts?" if asked is None else f"No points {asked!r} in `sdata.points`."
        msg = f"{what} Found: {quote(names)}. Give one as `points_key`, or read some with `stp.io.read_xenium`."
        raise ValueError(msg)
    return asked


def gene_column(key: str | None, columns: Sequence[str]) -> str:
    """The column that names genes; refuse one that does not exist."""
    if key is None or key not in columns:
        msg = f"No column {key!r} names the gene of each transcript (found: {quote(columns)}). Give `feature_key`."
        raise ValueError(msg)
    return key


def pattern(text: str | None) -> re.Pattern[str] | None:
    """The compiled regular expression; refuse text that is none."""
    try:
        return None if text is None else re.compile(text)
    except re.error as reason:
        msg = (
            f"`exclude` is {text!r}, which is no regular expression: {reason}. Give for instance '^(NegControl|BLANK)'."
        )
        raise ValueError(msg) from None


def at_least_one(name: str, value: float) -> None:
    """Refuse a minimum below 1."""
    if not value >= 1:
        msg = f"`{name}` is {value!r}; it must be at least 1: an empty spot has no expression."
        raise ValueError(msg)


def one_sample(names: Sequence[str]) -> None:
    """Refuse to guess among the cells of several samples."""
    if len(names) > 1:
        msg = f"Cells of several samples were found: {quote(names)}. Give one as `shapes_key`, and call once for each."
        raise ValueError(msg)


def spots_have_counts(n_spots: int, what: str, n_kept: int, n_inside: int, minimum: int) -> None:
    """Refuse to write no spot at all."""
    if n_spots == 0:
        msg = (
            f"No spot has {minimum} {what}: {n_kept} {what} count, {n_inside} of them lie in a spot. Lower the "
            "minimum, or check `coordinate_system` and the resolution (`stp.pp.resolution`)."
        )
        raise ValueError(msg)


# genes and splits


def variable_genes(n_variable: int, n_genes: int) -> None:
    """Refuse a table in which no gene varies enough to be learnt."""
    if n_variable == 0:
        msg = (
            f"None of {n_genes} genes varies over the training spots and has counts in enough of them. Lower "
            "`min_fraction`, give more training slides, or name `genes` yourself."
        )
        raise ValueError(msg)


def known_groups(asked: Sequence[str], available: Sequence[str], argument: str, key: str) -> None:
    """Refuse groups that no spot belongs to, all of them at once."""
    missing = [name for name in asked if name not in set(available)]
    if missing or not len(asked):
        what = quote(missing) if missing else "nothing"
        msg = f"`{argument}` names {what}; obs[{key!r}] holds {quote(available)}. Give some of these."
        raise ValueError(msg)


def both_sides(n_train: int, n_test: int, by: str) -> None:
    """Refuse a split with an empty side."""
    if not (n_train and n_test):
        msg = (
            f"The split by {by!r} leaves {n_train} spots to train and {n_test} to test. Hold out some groups but not "
            "all, or use `by='block'` where there is one group only."
        )
        raise ValueError(msg)


# library sizes


def check_library_column(named: NDArray[np.float64], sums: NDArray[np.float64], what: str) -> None:
    """Refuse library sizes that are smaller than the counts of the spot."""
    small = named < 0.999 * sums
    if small.any():
        i = int(np.argmax(small))
        msg = (
            f"The library size of {int(small.sum())} of {len(named)} spots of {what} is less than the counts that the "
            f"table holds for them: {named[i]:g} for {sums[i]:g} counts. Library sizes are raw counts of all genes: "
            "name another column as `library_key`."
        )
        raise ValueError(msg)


def raise_other_library(n_genes: int, n_trained: int, key: str | None, what: str) -> NoReturn:
    """Refuse counts whose sum over the table is not the library size of training."""
    if key is not None:
        msg = (
            f"In training, library sizes were those of obs[{key!r}], and {what} has no such column. Add it, or name "
            "the column with library sizes as `library_key`."
        )
        raise ValueError(msg)
    more = n_genes > n_trained
    advice = (
        "Cut the table to the genes of training"
        if more
        else "Give the whole table, or name a column of `obs` with library sizes over all genes as `library_key`"
    )
    msg = (
        f"The table of {what} holds {n_genes:,} genes; in training, library sizes were sums over {n_trained:,}. Values "
        f"normalised by the sum over this table would be in other units. {advice}, or train with "
        '`target=stp.pp.TargetSpec(over="panel")`, which needs only the predicted genes.'
    )
    raise ValueError(msg)
