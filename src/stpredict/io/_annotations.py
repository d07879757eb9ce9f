"""Read annotations of QuPath and NDP.view into shapes, and write shapes for QuPath. Classes stay as they are."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._checks.calls import public
from .._checks.paths import output_file, user_path
from .._checks.slides import one_name, quote
from .._checks.training import warn
from .._files import atomic_file
from .._geometry import apply_affine, on_slide
from .._resolution import image_resolution
from .._slides import checks as check_elements
from .._slides import elements
from .._slides.levels import pyramid
from .._slides.placement import slide_images
from .._slides.regions import polygon_parts
from . import _errors as check
from ._geojson import outlines, read_features
from ._tables import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from pathlib import Path

    from spatialdata import SpatialData

WHAT: Final = "file of annotations"
HEX_COLOUR: Final = re.compile("#[0-9a-fA-F]{6}")
N_CORNERS: Final = 64
"""Corners of a circle, which GeoJSON does not have."""


@public
def read_annotations(
    sdata: SpatialData,
    path: str | PathLike[str],
    *,
    image_key: str | None = None,
    offset_nm: tuple[float, float] | None = None,
    um_per_px: float | None = None,
    key_added: str = keys.ANNOTATIONS,
) -> None:
    """Read annotations of QuPath (GeoJSON) or NDP.view (NDPA) into the shapes of a slide.

    Their areas can restrict `stp.pp.tissue` (``annotations``), and the spots of functions that take ``regions``.

    Parameters
    ----------
    sdata
        The object with the image on which was drawn.
    path
        GeoJSON as QuPath exports it, in full-resolution pixels, plain or gzipped; or NDPA of Hamamatsu. The content
        decides, not the name.
    image_key
        The image; by default the only one.
    offset_nm
        NDPA only: distance in nm along x and y from the centre of the slide to the centre of the image. By default that
        of the NDPI file that `stp.io.read_wsi` read; openslide calls it ``hamamatsu.XOffsetFromSlideCentre`` and
        ``hamamatsu.YOffsetFromSlideCentre``.
    um_per_px
        NDPA only: resolution in µm per full-resolution pixel; by default what the object records.
    key_added
        Name of the shapes. Only annotations of an earlier call are replaced.

    Returns
    -------
    Nothing. Writes ``sdata.shapes[key_added]``: a polygon (of several parts, with holes) for each annotation, in
    full-resolution pixels of the image and with its transformations, and the columns ``name``, ``class`` (the
    classification in QuPath) and ``color`` (``"#rrggbb"``), missing where the file has none.

    Raises
    ------
    ValueError
        If the file is damaged, holds no area, or none of its areas lies on the image; or if the offset of an NDPA file
        is not known.

    Notes
    -----
    Points, lines and pins have no area: they are left out with a warning. Polygons that cross themselves are repaired.
    The title of a view in NDPA becomes the name.

    NDPA counts nanometres from the centre of the glass slide, the image pixels from its upper left corner: a point x is
    at pixel ``(x - offset) / (1000 um_per_px) + width / 2``.

    Examples
    --------
    >>> import json
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> area = {"type": "Polygon", "coordinates": [[[0, 0], [90, 0], [90, 60], [0, 0]]]}
    >>> drawn = {"type": "Feature", "geometry": area, "properties": {"classification": {"name": "Tumor"}}}
    >>> path = Path(mkdtemp()) / "drawn.geojson"
    >>> n_bytes = path.write_text(json.dumps({"type": "FeatureCollection", "features": [drawn]}))
    >>> stp.io.read_annotations(sdata, path)
    >>> sdata["annotations"]["class"].tolist()
    ['Tumor']
    """
    check_elements.is_spatialdata(sdata)
    file = user_path(path)
    check.require_file(file, WHAT)
    image_key = elements.find_image(sdata, image_key)
    check_elements.may_write(sdata, key_added, elements.read_attrs(sdata, keys.ANNOTATIONS), "stp.io.read_annotations")
    height, width = pyramid(sdata.images[image_key])[0].pixels.shape[1:]
    if read_text(file, WHAT).lstrip().startswith("<"):
        offset = _slide_offset(sdata, image_key, offset_nm, file)
        frame = _read_ndpa(file)
        nm_per_px = 1000 * image_resolution(sdata, image_key, um_per_px)
        to_px = np.array([
            [1 / nm_per_px, 0, width / 2 - offset[0] / nm_per_px],
            [0, 1 / nm_per_px, height / 2 - offset[1] / nm_per_px],
            [0, 0, 1],
        ])  # fmt: skip
        frame.geometry = shapely.transform(frame.geometry.to_numpy(), lambda xy: apply_affine(to_px, xy))
    else:
        frame = _read_geojson(file)
    frame = _areas(frame, file)
    _require_on_image(frame, (width, height), file, image_key)
    elements.write_shapes(sdata, key_added, frame, image_key)
    elements.write_attrs(sdata, keys.ANNOTATIONS, key_added, {"file": file.name, "image_key": image_key})


def _read_geojson(path: Path) -> GeoDataFrame:
    """Geometries with name, class and colour."""
    features = read_features(path, WHAT)
    rows = []
    for properties in (_fields(each.get("properties")) for each in features):
        given = properties.get("classification")
        classification = {"name": given} if isinstance(given, str) else _fields(given)
        names = classification.get("names")
        parts = names if isinstance(names, list) and names else [classification.get("name")]
        known = [text for text in map(_text, parts) if text is not None]
        rows.append({
            keys.NAME: _text(properties.get("name")),
            keys.CLASS: ": ".join(known) or None,
            keys.COLOR: _hex_colour(properties) or _hex_colour(classification),
        })  # fmt: skip
    return _frame(rows, outlines(features, path, WHAT))


def _frame(rows: list[dict[str, str | None]], geometry: Any) -> GeoDataFrame:
    columns = (keys.NAME, keys.CLASS, keys.COLOR)
    table = pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in columns})
    return GeoDataFrame(table, geometry=geometry)


def _hex_colour(holder: Mapping[str, Any]) -> str | None:
    """``#rrggbb`` from three numbers, text, or the one number of older versions of QuPath; None if it is none."""
    given, packed = holder.get("color"), holder.get("colorRGB")
    if isinstance(given, str):
        return given if HEX_COLOUR.fullmatch(given) else None
    if isinstance(given, list) and len(given) >= 3 and all(value in range(256) for value in given[:3]):
        return "#" + "".join(f"{int(value):02x}" for value in given[:3])
    return f"#{packed & 0xFFFFFF:06x}" if isinstance(packed, int) else None


def _fields(given: Any) -> dict[str, Any]:
    """An object of JSON; what is said of an outline never refuses it, so anything else counts as an empty one."""
    return given if isinstance(given, dict) else {}


def _text(given: Any) -> str | None:
    """A text or number as text."""
    return str(given) if isinstance(given, str | int | float) else None


def _read_ndpa(path: Path) -> GeoDataFrame:
    """Outlines in nm from the centre of the slide, with the titles of their views as names."""
    text = read_text(path, WHAT)
    try:
        views = list(ET.fromstring(text).iter("ndpviewstate"))
    except ET.ParseError as reason:
        if text.rstrip().endswith("</annotations>"):
            check.refuse_unreadable(path, WHAT, reason)
        check.refuse_damaged(path, WHAT, f"it does not end in '</annotations>' ({reason})")
    rows: list[dict[str, str | None]] = []
    found = []
    for view in views:
        unit = (view.findtext("coordformat") or "nanometers").strip()
        if unit != "nanometers":
            check.refuse_unreadable(path, WHAT, f"its coordinates are in {unit!r}, where 'nanometers' are expected")
        title = (view.findtext("title") or "").strip()
        for drawn in view.iter("annotation"):
            found.append(_ndpa_outline(drawn, path))
            rows.append({keys.NAME: title or None, keys.CLASS: None, keys.COLOR: drawn.get("color")})
    if not rows:
        check.refuse_unreadable(path, WHAT, "it holds no <annotation> in an <ndpviewstate>")
    return _frame(rows, np.array([*found, None], object)[:-1])


def _ndpa_outline(drawn: ET.Element, path: Path) -> Any:
    """Polygon of a closed outline or circle, a line of an open one, a point of a pin."""
    try:
        points = [[float(each.findtext(axis, "")) for axis in "xy"] for each in drawn.iter("point")]
        if drawn.get("type") == "circle":
            centre = [float(drawn.findtext(axis, "")) for axis in "xy"]
            return shapely.buffer(shapely.Point(centre), float(drawn.findtext("radius", "")), quad_segs=N_CORNERS // 4)
    except ValueError:
        check.refuse_unreadable(
            path, WHAT, f"an annotation of type {drawn.get('type')!r} has a coordinate that is no number"
        )
    closed = (drawn.findtext("closed") or "1").strip() == "1"
    if len(points) < 3 or not closed:
        return shapely.LineString(points) if len(points) > 1 else None
    return shapely.Polygon(points)


def _slide_offset(
    sdata: SpatialData, image_key: str, given: tuple[float, float] | None, path: Path
) -> tuple[float, float]:
    """Distance in nm from the centre of the slide to that of the image."""
    recorded = sdata.attrs.get(keys.ATTRS, {}).get(keys.SLIDE, {}).get(image_key, {}).get(keys.CENTRE_OFFSET)
    if given is None and recorded is None:
        msg = (
            f"'{path.name}' counts from the centre of the glass slide, and it is not known how far from there the "
            f"centre of image {image_key!r} is. Read the NDPI file itself with `stp.io.read_wsi`, or give `offset_nm`: "
            "'hamamatsu.XOffsetFromSlideCentre' and 'hamamatsu.YOffsetFromSlideCentre' of openslide's properties of it."
        )
        raise ValueError(msg)
    x, y = given or recorded
    return float(x), float(y)


def _areas(frame: GeoDataFrame, path: Path) -> GeoDataFrame:
    """The rows with an area, repaired; the others are counted in a warning."""
    if not on_slide(shapely.get_coordinates(frame.geometry.to_numpy())).all():
        check.refuse_unreadable(path, WHAT, "a coordinate is not finite, or larger than any slide")
    valid = shapely.make_valid(frame.geometry.to_numpy())
    areas = [shapely.union_all(polygon_parts(np.array([each]))) for each in valid]
    kept = np.array([not shapely.is_empty(area) for area in areas], bool)
    if not kept.any():
        msg = (
            f"None of the {len(frame)} annotations of '{path.name}' has an area: they are points, lines or empty. Draw "
            "areas, and export them again."
        )
        raise ValueError(msg)
    if not kept.all():
        warn(f"{int((~kept).sum())} of {len(frame)} annotations of '{path.name}' have no area and are left out.")
    frame.geometry = np.array([*areas, None], object)[:-1]
    return frame[kept].reset_index(drop=True)


def _require_on_image(frame: GeoDataFrame, size: tuple[int, int], path: Path, image_key: str) -> None:
    """Refuse annotations of which none lies on the image."""
    if not frame.intersects(shapely.box(0, 0, *size)).any():
        low_x, low_y, high_x, high_y = frame.total_bounds
        msg = (
            f"No annotation of '{path.name}' lies on image {image_key!r}: they span x {low_x:.0f} to {high_x:.0f} and "
            f"y {low_y:.0f} to {high_y:.0f} px, the image is {size[0]} x {size[1]} px. Give annotations of this image, "
            "in pixels of its full resolution; for NDPA see `offset_nm` and `um_per_px`."
        )
        raise ValueError(msg)


@public
def write_annotations(
    sdata: SpatialData,
    path: str | PathLike[str],
    shapes_key: str,
    *,
    class_key: str | None = None,
    table_name: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
) -> None:
    """Write shapes as GeoJSON that QuPath reads: tissue, spots, annotations, domains.

    Parameters
    ----------
    sdata
        The object.
    path
        The file, for instance ``domains.geojson``; an existing one is replaced.
    shapes_key
        Shapes element, for instance ``"tissue"`` or the spots.
    class_key
        Column of the shapes, or of ``obs`` of the table that annotates them, with the class of each, for instance
        domains or clusters; by default the column ``class`` of the shapes, if there is one.
    table_name
        Table that annotates the shapes; by default ``"observed"``, or the only one.
    image_key
        Image whose full-resolution pixels are written; by default the only one that shares a coordinate system with
        the shapes.
    coordinate_system
        Coordinate system shared by image and shapes, if there are several.

    Returns
    -------
    Nothing. Writes a FeatureCollection: an annotation for each polygon, a detection for each circle (as a polygon of 64
    corners), with name, class and colour. The colours of classes are those that scanpy records
    (``uns[f"{class_key}_colors"]``). Coordinates are rounded to 0.01 px.

    Raises
    ------
    ValueError
        If shapes, column or table do not exist, or classes are numbers with decimals.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.tissue(sdata)
    >>> path = Path(mkdtemp()) / "tissue.geojson"
    >>> stp.io.write_annotations(sdata, path, "tissue")
    >>> stp.io.read_annotations(sdata, path, key_added="again")
    >>> bool(abs(sdata["again"].area.sum() / sdata["tissue"].area.sum() - 1) < 1e-4)
    True
    """
    check_elements.is_spatialdata(sdata)
    file = output_file(path, "path")
    one_name("element with shapes", shapes_key, list(sdata.shapes), "shapes_key")
    frame = sdata.shapes[shapes_key]
    if image_key is None:
        systems = set(get_transformation(frame, get_all=True))
        near = [name for name in slide_images(sdata) if systems & set(get_transformation(sdata[name], get_all=True))]
        image_key = near[0] if len(near) == 1 else None
    image_key = elements.find_image(sdata, image_key, coordinate_system)
    classes, colours = _classes(sdata, shapes_key, class_key, table_name)
    to_px = elements.affine_to_image(sdata, shapes_key, image_key, coordinate_system, "shapes_key")
    geometry, kind = frame.geometry.to_numpy(), "annotation"
    if "radius" in frame:
        geometry, kind = shapely.buffer(geometry, frame["radius"].to_numpy(), quad_segs=N_CORNERS // 4), "detection"
    geometry = shapely.transform(geometry, lambda xy: apply_affine(to_px, xy).round(2))
    names = frame[keys.NAME].tolist() if keys.NAME in frame else [None] * len(frame)
    own = frame[keys.COLOR].tolist() if keys.COLOR in frame else [None] * len(frame)
    features = []
    for outline, name, label, colour in zip(shapely.to_geojson(geometry), names, classes, own, strict=True):
        properties: dict[str, Any] = {"objectType": kind}
        if not pd.isna(name):
            properties["name"] = str(name)
        if isinstance(colour, str) and HEX_COLOUR.fullmatch(colour):
            properties["color"] = _rgb(colour)
        if not pd.isna(label):
            known = {} if str(label) not in colours else {"color": _rgb(colours[str(label)])}
            properties["classification"] = {"name": str(label), **known}
        features.append({"type": "Feature", "geometry": json.loads(outline), "properties": properties})
    with atomic_file(file) as part:
        part.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _classes(
    sdata: SpatialData, shapes_key: str, class_key: str | None, table_name: str | None
) -> tuple[list[Any], dict[str, str]]:
    """Class of each shape, missing where there is none, and colours of classes."""
    frame = sdata.shapes[shapes_key]
    if class_key is None or class_key in frame:
        column = keys.CLASS if class_key is None else class_key
        return (frame[column].tolist() if column in frame else [None] * len(frame)), {}
    tables = {name: table for name, table in sdata.tables.items() if _annotates(table, shapes_key)}
    if table_name is None and keys.OBSERVED in tables:
        table_name = keys.OBSERVED
    table_name = one_name(f"table of {shapes_key!r}", table_name, list(tables), "table_name")
    table = tables[table_name]
    if class_key not in table.obs:
        msg = (
            f"No column {class_key!r} in shapes {shapes_key!r} (found: {quote(list(frame.columns))}) or in `obs` of "
            f"table {table_name!r} (found: {quote(list(table.obs.columns))}). Give another `class_key`."
        )
        raise ValueError(msg)
    values = table.obs[class_key]
    if pd.api.types.is_float_dtype(values.dtype):
        msg = (
            f"obs[{class_key!r}] holds numbers with decimals, not classes. Give a column of classes as `class_key`, "
            "for instance one that `pandas.cut` makes."
        )
        raise ValueError(msg)
    attrs = table.uns["spatialdata_attrs"]
    rows = np.flatnonzero((table.obs[attrs["region_key"]].astype(str) == shapes_key).to_numpy())
    at = check_elements.match_instances(
        table.obs[attrs["instance_key"]].to_numpy()[rows], frame.index, shapes_key, table_name
    )
    classes = np.full(len(frame), None, object)
    classes[at] = values.to_numpy(object)[rows]
    categories = values.cat.categories if isinstance(values.dtype, pd.CategoricalDtype) else []
    colours = [str(colour) for colour in table.uns.get(f"{class_key}_colors", [])]
    named = zip(map(str, categories), colours, strict=False)
    return classes.tolist(), {name: colour[:7] for name, colour in named if HEX_COLOUR.fullmatch(colour[:7])}


def _annotates(table: Any, shapes_key: str) -> bool:
    region = table.uns.get("spatialdata_attrs", {}).get("region")
    return region is not None and shapes_key in ([region] if isinstance(region, str) else list(region))
