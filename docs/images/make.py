"""Draw figures of the guide: `python docs/images/make.py front`, `start`, `quality`, `fields_of_view` or `design`.

`front` trains the default on three sections of her2st (minutes on two cores); the others use synthetic data only.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
INK = "#808080"  # grey that is visible on black and on white
COLOURS = ("#0072B2", "#E69F00", "#CC79A7")  # of Okabe and Ito; narrowest field of view first
SPOT_UM, PITCH_UM = 55.0, 100.0
FOVS = (1.5, 3.0, 9.0)
SIZE_PX = 112
LEVELS = (0.5, 1.0, 2.0, 4.0)  # µm per pixel
STEPS = {  # objects of a run: column and row in the diagram, and contents
    "SpatialData": (0, 0, "image, spots, counts"),
    "Slide": (1, 0, "pyramid, spot centres, µm/px, group"),
    "PatchReader": (2, 0, "windows, 8-bit patches"),
    "SpotBatch": (3, 0, "patches, coordinates, targets"),
    "model": (3, 1, "batch in, values out"),
    "loop": (3, 2, "Fabric: devices, seeds, checkpoint"),
    "Predictor": (2, 2, "networks, targets, baselines, provenance"),
    "PredictionPlan": (1, 1, "partitions of 1,024 spots"),
    "Sink": (1, 2, "in memory, or a store on disk"),
    "table": (0, 2, "AnnData: predicted, baselines"),
    "scores": (0, 1, "one row per gene, with the noise ceiling"),
}
PLACES = {  # module of each object in `src/stpredict`, and index of its colour
    "SpatialData": ("io, datasets, pp", 0), "Slide": ("_slides", 0), "PatchReader": ("_pixels, _chunks", 0),
    "SpotBatch": ("_train", 1), "model": ("models", 1), "loop": ("_train", 1), "Predictor": ("tl", 2),
    "PredictionPlan": ("tl", 2), "Sink": ("tl", 2), "table": ("tl", 2), "scores": ("tl, metrics", 2),
}  # fmt: skip
FLOWS = (
    ("SpatialData", "Slide"), ("Slide", "PatchReader"), ("PatchReader", "SpotBatch"), ("SpotBatch", "model"),
    ("model", "loop"), ("loop", "Predictor"), ("Slide", "PredictionPlan"), ("Predictor", "Sink"),
    ("PredictionPlan", "Sink"), ("Sink", "table"), ("table", "scores"),
)  # fmt: skip


def front() -> None:
    """Draw the figure of the front page: the code there, run as it is."""
    import re

    import matplotlib as mpl

    mpl.use("Agg")
    readme = (HERE.parents[1] / "README.md").read_text(encoding="utf-8")
    space: dict[str, object] = {"__name__": "front"}
    code = re.search(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    exec(compile(code[1], "README.md", "exec"), space)
    mpl.pyplot.savefig(HERE / "front.jpg", dpi=200, facecolor="white", pil_kwargs={"quality": 90})


def start() -> None:
    """Draw the figure of the example on the start page."""
    import matplotlib as mpl

    mpl.use("Agg")
    import stpredict as stp

    sdata = stp.datasets.synthetic(n_slides=3, n_side=8)
    predictor = stp.tl.fit(sdata, shapes_key=["S0_spots", "S1_spots"])
    stp.tl.predict(sdata, predictor, shapes_key="S2_spots")
    axes = stp.pl.expression(sdata, "GENE2")
    axes[0].figure.savefig(HERE / "start.png", dpi=150, facecolor="white")


def quality() -> None:
    """Draw a made-up slide with four faults, and the windows that `pp.quality` flags."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    import spatialdata as sd
    from scipy.ndimage import gaussian_filter

    import stpredict as stp

    height, width = 1400, 1800
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    nuclei = gaussian_filter(rng.normal(size=(height, width)), 1.2)
    nuclei = np.clip(nuclei / nuclei.std() - 0.3, 0, 2)[..., None] * [0.25, 0.35, 0.1]
    eosin = 1 + 0.3 * gaussian_filter(rng.normal(size=(height, width)), 25)[..., None] * 25
    density = nuclei + np.clip(eosin, 0.5, 2) * np.array([0.06, 0.3, 0.1])
    blurred = gaussian_filter(density, (4, 4, 0))
    density = np.where((np.hypot((x - 550) / 260, (y - 950) / 200) < 1)[..., None], blurred, density)
    density = np.where((np.abs(y - 0.4 * x - 60) < 45)[..., None], 2.2 * density, density)
    edge = np.hypot((x - 900) / 800, (y - 700) / 600) + 0.02 * np.sin(x / 40) + 0.02 * np.sin(y / 30)
    density = np.where((edge < 1)[..., None], density, 0)
    pen = np.abs(y - 1050 + 120 * np.sin((x - 1100) / 90)) < 40
    density = np.where((pen & (x > 1100) & (x < 1700))[..., None], [1.6, 0.9, 0.3], density)
    pixels = np.rint(241 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)
    image = sd.models.Image2DModel.parse(pixels.transpose(2, 0, 1), dims=("c", "y", "x"), c_coords=["r", "g", "b"])
    sdata = sd.SpatialData(images={"slide": image}, attrs={"stpredict": {"um_per_px": {"slide": 1.0}}})
    stp.pp.quality(sdata, window_um=100)
    colours = {"blurred": "#0072B2", "folded": "#E69F00", "inked": "#009E73", "empty": INK}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.7), layout="constrained")
    for ax in axes:
        ax.imshow(pixels)
        ax.set_axis_off()
    for name, colour in colours.items():
        for window in sdata["quality"].geometry[sdata["quality"]["flag"] == name]:
            left, top, right, bottom = window.bounds
            axes[1].add_patch(
                plt.Rectangle((left, top), right - left, bottom - top, facecolor=(*mpl.colors.to_rgb(colour), 0.45))
            )
    labels = [mpl.patches.Patch(color=colour, alpha=0.6, label=name) for name, colour in colours.items()]
    figure.legend(handles=labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(HERE / "quality.png", dpi=100, facecolor="white")


def fields_of_view() -> None:
    """Draw three fields of view of one spot, the level that each is read from, and the patches."""
    parts = [*_tissue(at=(10, 34), side=330), *_pyramid(x=392, y=34), *_patches(x=590, y=34)]
    style = f"text{{font:12px sans-serif;fill:{INK}}} .b{{font-weight:bold}} .m{{text-anchor:middle}}"
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 400" role="img">'
    title = "<title>Three fields of view of one spot, read from three levels and resampled to three patches</title>"
    body = "\n".join([head, title, f"<style>{style}</style>", *parts, "</svg>"])
    (HERE / "fields_of_view.svg").write_text(body + "\n", encoding="utf-8")


def design() -> None:
    """Draw the data flow of a run, from a slide to its scores, with the module of each object."""
    boxes = {name: (10 + 182 * column, 34 + 104 * row) for name, (column, row, _) in STEPS.items()}
    parts = [_arrow(boxes[a], boxes[b]) for a, b in FLOWS]
    for name, (x, y) in boxes.items():
        place, layer = PLACES[name]
        colour = COLOURS[layer]
        parts += [
            (
                f'<rect x="{x}" y="{y}" width="154" height="66" rx="5" fill="{colour}" fill-opacity=".13" '
                f'stroke="{colour}" stroke-width="1.5"/>'
            ),
            f'<text x="{x + 77}" y="{y + 20}" class="b m">{name}</text>',
            *(
                f'<text x="{x + 77}" y="{y + 36 + 12 * i}" class="m s">{line}</text>'
                for i, line in enumerate(_wrap_lines(STEPS[name][2]))
            ),
            f'<text x="{x + 2}" y="{y - 5}" class="s">{place}</text>',
        ]
    style = (
        f"text{{font:13px sans-serif;fill:{INK}}} .b{{font-weight:bold}} .m{{text-anchor:middle}} .s{{font-size:11px}}"
    )
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 320" role="img">'
    title = "<title>From a slide to its scores: patches, training, partitions, a table, scores</title>"
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>'
    )
    body = "\n".join([head, title, f"<style>{style}</style>", tip, *parts, "</svg>"])
    (HERE / "design.svg").write_text(body + "\n", encoding="utf-8")


def _wrap_lines(text: str, width: int = 25) -> list[str]:
    return textwrap.wrap(text, width)


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """Draw an arrow from the edge of one box to the nearest edge of another, along a row or a column."""
    (x0, y0), (x1, y1) = start, end
    if y0 == y1:
        ends = (x0 + 154, x1 - 2) if x1 > x0 else (x0, x1 + 156)
        path = f"M{ends[0]} {y0 + 33}H{ends[1]}"
    else:
        ends = (y0 + 66, y1 - 2) if y1 > y0 else (y0, y1 + 68)
        path = f"M{x0 + 77} {ends[0]}V{ends[1]}"
    return f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.5" marker-end="url(#tip)"/>'


def _tissue(at: tuple[float, float], side: float) -> list[str]:
    """Draw spots of a hexagonal array to scale, and the squares around one of them, which extend beyond the image."""
    x0, y0 = at
    scale = side / 560.0  # pixels of the diagram per µm
    edge = x0 + 70 * scale  # left edge of the image
    centre = (x0 + side / 2, y0 + side / 2)
    parts = [
        f'<text x="{x0}" y="18" class="b">on the slide (Visium)</text>',
        (
            '<defs><pattern id="h" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            f'<path d="M0 0V7" stroke="{INK}" stroke-width="1.2"/></pattern></defs>'
        ),
        f'<rect x="{x0}" y="{y0}" width="{edge - x0:.1f}" height="{side}" fill="url(#h)" opacity=".6"/>',
        f'<path d="M{edge:.1f} {y0}V{y0 + side}" stroke="{INK}" stroke-width="1.5"/>',
    ]
    for row in range(-3, 4):
        for column in range(-3, 4):
            x = centre[0] + (column + 0.5 * (row % 2)) * PITCH_UM * scale
            y = centre[1] + row * PITCH_UM * 3**0.5 / 2 * scale
            r = SPOT_UM / 2 * scale
            if edge + r < x < x0 + side - r and y0 + r < y < y0 + side - r:
                fill = COLOURS[0] if (row, column) == (0, 0) else "none"
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{fill}" stroke="{INK}"/>')
    for fov, colour in zip(FOVS, COLOURS, strict=True):
        half = fov * SPOT_UM / 2 * scale
        parts.append(
            f'<rect x="{centre[0] - half:.1f}" y="{centre[1] - half:.1f}" width="{2 * half:.1f}" '
            f'height="{2 * half:.1f}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
    bar, y = 100 * scale, y0 + side + 14
    x = x0 + side - bar
    parts += [
        f'<path d="M{x:.1f} {y}h{bar:.1f}" stroke="{INK}" stroke-width="3"/>',
        f'<text x="{x - 6:.1f}" y="{y + 4}" text-anchor="end">100 µm</text>',
        f'<text x="{x0}" y="{y + 4}">hatched: outside the image</text>',
    ]
    return parts


def _pyramid(x: float, y: float) -> list[str]:
    """Draw the levels as trapezoids, each half as wide as the level above."""
    parts = [f'<text x="{x}" y="18" class="b">image pyramid</text>']
    for i, um in enumerate(LEVELS):
        width, top = 150 / 2**i, y + 20 + 86 * i
        parts += [
            (
                f'<path d="M{x + 75 - width / 2} {top + 28}l12 -18h{max(width - 24, 4)}l12 18z" fill="none" '
                f'stroke="{INK}" stroke-width="1.5"/>'
            ),
            f'<text x="{x + 75}" y="{top + 46}" class="m">level {i}: {um:g} µm/px</text>',
        ]
    return parts


def _patches(x: float, y: float) -> list[str]:
    """Draw one square per scale, with its width in µm and the resolution that it needs."""
    parts = [f'<text x="{x}" y="18" class="b">patches</text>']
    for i, (fov, colour) in enumerate(zip(FOVS, COLOURS, strict=True)):
        um = fov * SPOT_UM
        level = max(k for k, fine in enumerate(LEVELS) if fine <= um / SIZE_PX)
        top, bar, source = y + 112 * i, x - 123 + max(75 / 2**level, 14), y + 20 + 86 * level + 22
        parts += [
            (
                f'<path d="M{bar:.1f} {source}C{x - 30} {source} {x - 50} {top + 30} {x - 4} {top + 30}" fill="none" '
                f'stroke="{colour}" stroke-width="1.5"/>'
            ),
            (
                f'<rect x="{x}" y="{top}" width="60" height="60" fill="{colour}" fill-opacity=".25" stroke="{colour}" '
                'stroke-width="2.5"/>'
            ),
            f'<text x="{x + 30}" y="{top + 34}" class="m">{SIZE_PX} px</text>',
            f'<text x="{x}" y="{top + 76}">{fov:g} diameters</text>',
            f'<text x="{x}" y="{top + 91}">{um:g} µm, {um / SIZE_PX:.2f} µm/px</text>',
        ]
    return parts


if __name__ == "__main__":
    for name in sys.argv[1:]:
        {"front": front, "start": start, "quality": quality, "fields_of_view": fields_of_view, "design": design}[name]()
