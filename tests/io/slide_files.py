"""Writes small slides of known pixels in the formats that `read_wsi` reads."""

from __future__ import annotations

import numpy as np
import tifffile
import zarr
from PIL import Image
from scipy.ndimage import gaussian_filter

APERIO = "Aperio Image Library v11.2.1 \r\n{w}x{h} [0,0 {w}x{h}] (64x64) JPEG/RGB Q=30|AppMag = 20|MPP = {mpp}"


def painted(height=310, width=421, seed=0):
    """Smooth colours `(y, x, 3)` uint8, different in every part."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = gaussian_filter(noise, (6, 6, 0))
    return np.clip(150 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def means(pixels, factor):
    """Means of blocks of `(y, x, c)`; odd edges are dropped."""
    height, width = (side // factor * factor for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    return np.rint(blocks.mean(axis=(1, 3))).astype(pixels.dtype)


def levels_of(pixels, factors=(1, 2, 4)):
    return [pixels if factor == 1 else means(pixels, factor) for factor in factors]


def tiff(path, levels, *, um_per_px=0.5, unit=3, tile=(64, 64), compression="zlib", writer=None, **options):
    """Levels as pages one after another."""
    first = {} if um_per_px is None else {"resolution": (1e4 / um_per_px,) * 2, "resolutionunit": unit}
    options = {"tile": tile, "compression": compression, "photometric": "rgb", "metadata": None, **options}
    with tifffile.TiffWriter(path, **(writer or {})) as opened:
        for i, level in enumerate(levels):
            opened.write(level, subfiletype=int(i > 0), **(first if i == 0 else {}), **options)
    return path


def svs(path, levels, *, mpp=0.499, rest=True):
    """Levels, with thumbnail, label and macro as Aperio lays them."""
    height, width = levels[0].shape[:2]
    words = APERIO.format(w=width, h=height, mpp=mpp)
    tiled = {"tile": (64, 64), "compression": "zlib", "photometric": "rgb", "metadata": None}
    plain = {"photometric": "rgb", "metadata": None, "rowsperstrip": 16}
    small = np.full((30, 40, 3), 99, np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], description=words, **tiled)
        writer.write(small, description=words, **plain)
        for level in levels[1:]:
            writer.write(level, description=words, **tiled)
        if rest:
            writer.write(small, description=words + "\r\nlabel 40x30", subfiletype=1, **plain)
            writer.write(small, description=words + "\r\nmacro 40x30", subfiletype=9, **plain)
    return path


def ome_tiff(path, levels, *, um_per_px=0.5, unit="µm", planar=False, **options):
    """Levels as sub-images of one picture."""
    levels = [level.transpose(2, 0, 1) if planar else level for level in levels]
    metadata = {"axes": "CYX" if planar else "YXS", "PhysicalSizeX": um_per_px, "PhysicalSizeXUnit": unit,
                "PhysicalSizeY": um_per_px, "PhysicalSizeYUnit": unit}  # fmt: skip
    options = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack" if planar else "rgb", **options}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], subifds=len(levels) - 1, metadata=metadata, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    return path


def ome_zarr(path, levels, *, version="0.4", axes="cyx", um_per_px=0.5, unit="micrometer", scale=None):
    """Levels as arrays of a group."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for i, level in enumerate(levels):
        pixels = level.transpose(["yxc".index(axis) for axis in axes if axis in "yxc"])
        pixels = pixels.reshape([dict(zip("yxc", level.shape, strict=True)).get(axis, 1) for axis in axes])
        chunks = [64 if axis in "yx" else pixels.shape[k] for k, axis in enumerate(axes)]
        group.create_array(str(i), shape=pixels.shape, chunks=chunks, dtype=pixels.dtype)[:] = pixels
        steps = {axis: um_per_px * levels[0].shape[k] / level.shape[k] for k, axis in enumerate("yx")}
        factors = [steps.get(axis, 1.0) for axis in axes]
        datasets.append({"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": factors}]})
    kinds = {"c": "channel", "t": "time"}
    named = [{"name": axis, "type": kinds.get(axis, "space"), **({"unit": unit} if axis in "zyx" and unit else {})}
             for axis in axes]  # fmt: skip
    multiscale = {"version": version, "axes": named, "datasets": datasets}
    if scale is not None:
        multiscale["coordinateTransformations"] = [{"type": "scale", "scale": [scale] * len(axes)}]
    if version == "0.4":
        group.attrs["multiscales"] = [multiscale]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale]}
    return path


def picture(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


FORMATS = {
    "SVS": lambda folder, levels: svs(folder / "a.svs", levels),
    "generic TIFF": lambda folder, levels: tiff(folder / "a.tif", levels),
    "big-endian TIFF": lambda folder, levels: tiff(
        folder / "a.tiff", levels, tile=(48, 80), compression=None, writer={"byteorder": ">", "bigtiff": True}
    ),
    "planar TIFF": lambda folder, levels: tiff(
        folder / "a.tif", [level.transpose(2, 0, 1) for level in levels], planarconfig="separate"
    ),
    "striped TIFF": lambda folder, levels: tiff(folder / "a.tif", levels, tile=None, rowsperstrip=50),
    "OME-TIFF": lambda folder, levels: ome_tiff(folder / "a.ome.tif", levels),
    "OME-TIFF, channels apart": lambda folder, levels: ome_tiff(folder / "a.ome.tif", levels, planar=True),
    "OME-Zarr 0.4": lambda folder, levels: ome_zarr(folder / "a.ome.zarr", levels),
    "OME-Zarr 0.5": lambda folder, levels: ome_zarr(folder / "a.zarr", levels, version="0.5"),
    "OME-Zarr tczyx": lambda folder, levels: ome_zarr(folder / "a.zarr", levels, axes="tczyx"),
    "OME-Zarr yxc": lambda folder, levels: ome_zarr(folder / "a.zarr", levels, version="0.5", axes="yxc"),
}
"""Pyramids of 0.5 µm per pixel (SVS: 0.499), lossless."""


def ome_tiff_stack(path, stack):
    """Several planes of one picture."""
    tifffile.imwrite(path, stack, ome=True, photometric="rgb", metadata={"axes": "ZYXS"})
    return path


def several(path, pictures):
    """Pictures of different sizes that are no levels of each other."""
    with tifffile.TiffWriter(path) as writer:
        for pixels in pictures:
            colour = "rgb" if pixels.ndim == 3 else "minisblack"
            writer.write(
                pixels, photometric=colour, resolution=(2e4, 2e4), resolutionunit=3, metadata=None, tile=(64, 64)
            )
    return path


def without_tile(path, index):
    """Say in a TIFF that a tile is empty."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = file.pages[0].tags[name]
            tag.overwrite([0 if i == index else value for i, value in enumerate(tag.value)])


def element(tag, kind, *values):
    """An element of a DICOM data set with explicit length, little endian."""
    number = {"US": "<u2", "UL": "<u4", "FL": "<f4"}.get(kind)
    if number:
        value = np.array(values, number).tobytes()
    elif isinstance(values[0], bytes):
        value = b"".join(values)
    else:
        value = "\\".join(map(str, values)).encode()
    value += (b"\0" if kind in {"UI", "OB"} else b" ") * (len(value) % 2)
    head = bytes.fromhex(tag)
    head = head[1::-1] + head[3:1:-1] + kind.encode()
    if kind in {"OB", "OW", "SQ"}:
        return head + b"\0\0" + len(value).to_bytes(4, "little") + value
    return head + len(value).to_bytes(2, "little") + value


def item(content):
    """The only item of a sequence."""
    return b"\xfe\xff\x00\xe0" + len(content).to_bytes(4, "little") + content


def dicom(folder, levels, *, um_per_px=0.5, tile=128, padded=True):
    """Levels as the files of a whole-slide DICOM; padded to whole tiles as some scanners write it."""
    slide, study, series, frame = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.3.1", "1.2.3.2", "1.2.3.3"
    folder.mkdir()
    for i, level in enumerate(levels):
        height, width = level.shape[:2]
        rows, columns = -(-height // tile) * tile, -(-width // tile) * tile
        full = np.full((rows, columns, 3), 255, np.uint8)
        full[:height, :width] = level
        frames = full.reshape(rows // tile, tile, columns // tile, tile, 3).swapaxes(1, 2)
        size = (columns, rows) if padded else (width, height)
        mm = um_per_px * 2**i / 1000
        derived = ("DERIVED", "PRIMARY", "VOLUME", "RESAMPLED")
        spacing = element("52009229", "SQ", item(element("00289110", "SQ", item(element("00280030", "DS", mm, mm)))))
        content = b"".join([
            element("00080008", "CS", *(derived if i else ("ORIGINAL", "PRIMARY", "VOLUME", "NONE"))),
            element("00080016", "UI", slide), element("00080018", "UI", f"1.2.3.4.{i}"),
            element("00080060", "CS", "SM"), element("0020000D", "UI", study), element("0020000E", "UI", series),
            element("00200052", "UI", frame),
            element("00209311", "CS", "TILED_FULL"), element("00280002", "US", 3), element("00280004", "CS", "RGB"),
            element("00280006", "US", 0), element("00280008", "IS", frames.shape[0] * frames.shape[1]),
            element("00280010", "US", tile), element("00280011", "US", tile), element("00280100", "US", 8),
            element("00280101", "US", 8), element("00280102", "US", 7), element("00280103", "US", 0),
            element("00480001", "FL", width * mm), element("00480002", "FL", height * mm),
            element("00480006", "UL", size[0]), element("00480007", "UL", size[1]),
            element("00480105", "SQ", item(element("00480112", "DS", 20.0))), element("00480302", "UL", 1),
            element("00480303", "UL", 1), spacing, element("7FE00010", "OW", frames.tobytes()),
        ])  # fmt: skip
        meta = element("00020001", "OB", b"\0\1") + element("00020002", "UI", slide)
        meta += element("00020003", "UI", f"1.2.3.4.{i}") + element("00020010", "UI", "1.2.840.10008.1.2.1")
        meta += element("00020012", "UI", "1.2.3.9")
        length = element("00020000", "UL", len(meta))
        (folder / f"level{i}.dcm").write_bytes(bytes(128) + b"DICM" + length + meta + content)
    return folder / "level0.dcm"
