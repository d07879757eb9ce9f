"""Architecture diagrams of the model pages: `python docs/models/drawings.py` writes one SVG for each.

A diagram is data: rows of boxes from top to bottom, and arrows between named boxes. The layout is computed from them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

WIDTH = 3.5  # inches, a journal column
SIZE = 7.6  # points
LINE, PAD, GAP, GUTTER = 0.135, 0.12, 0.20, 0.09  # inches: line of text, padding, between rows, between columns
MARGIN = 0.14
GREY = "#777777"  # lines and text outside boxes: legible on white and on black
INK = "#1a1a1a"  # text in boxes, whose fill is always light
KINDS = {  # face, edge, line style and width; pale colours of Okabe and Ito, also distinct without colour
    "input": ("#e6e6e6", "#808080", "-", 1.0),
    "trained": ("#bfe0f5", "#0072b2", "-", 1.0),
    "frozen": ("#fbdfa6", "#b37700", (0, (3, 1.6)), 1.0),
    "solved": ("#bfe8da", "#00805c", "-", 2.0),
    "output": ("#f3d3e4", "#b0568a", "-", 1.0),
}
WORDS = {
    "input": "input",
    "trained": "trained",
    "frozen": "fixed",
    "solved": "solved",
    "output": "predicted",
}
SCALES = ("#56b4e9", "#e69f00", "#009e73")

Row = list[tuple[str | None, str, str, float]]


@dataclass(frozen=True)
class Drawing:
    """Rows of (name, text, kind, relative width), arrows between names, frames around rows (first, last, text)."""

    rows: list[Row]
    arrows: list[tuple[str, str]]
    frames: tuple[tuple[int, int, str], ...] = ()


def row(*boxes: tuple) -> Row:
    """A row of boxes (name, text, kind[, width]); None is a gap, a number a gap of that relative width."""
    made: Row = []
    for box in boxes:
        if box is None or isinstance(box, (int, float)):
            made.append((None, "", "input", float(box or 1)))
        else:
            made.append((*box, 1.0) if len(box) == 3 else box)
    return made


DRAWINGS: dict[str, Drawing] = {
    "m2ost": Drawing(
        [
            row(
                ("p0", "patch of\nscale 0", "input"),
                ("p1", "patch of\nscale 1", "input"),
                ("p2", "patch of\nscale 2", "input"),
            ),
            row(("e", "nested embedding: one linear map per token size,\nshared by all scales", "trained")),
            row(
                ("s0", "class token\n+ L tokens", "trained"),
                ("s1", "class token\n+ 2 L tokens", "trained"),
                ("s2", "class token\n+ 3 L tokens", "trained"),
            ),
            row(
                ("a0", "attention within\n(random mask)", "trained"),
                ("a1", "attention within\n(random mask)", "trained"),
                ("a2", "attention within\n(random mask)", "trained"),
            ),
            row(("f0", "MLP", "trained"), ("f1", "MLP", "trained"), ("f2", "MLP", "trained")),
            row(("c", "cross attention: queries of each scale, keys of\nthe others; outputs weighted by ω", "trained")),
            row(("g", "channel mixing: one gate for each channel of all scales", "trained")),
            row(("k0", "class token", "trained"), ("k1", "class token", "trained"), ("k2", "class token", "trained")),
            row(("h", "concatenated → linear head", "trained")),
            row(("y", "expression of the spot", "output")),
        ],
        [(f"{a}{i}", f"{b}{i}") for a, b in ("sa", "af") for i in range(3)]
        + [(f"p{i}", "e") for i in range(3)]
        + [("e", f"s{i}") for i in range(3)]
        + [(f"f{i}", "c") for i in range(3)]
        + [("c", "g")]
        + [("g", f"k{i}") for i in range(3)]
        + [(f"k{i}", "h") for i in range(3)]
        + [("h", "y")],
        ((3, 6, "× 4"),),
    ),
    "m2ost_statistics": Drawing(
        [
            row(("p", "three patches of one spot: 1.5, 3 and 9 spot diameters", "input")),
            row(("i", "stain of training", "frozen"), ("s", "colour and texture,\n4 × 27 values", "frozen")),
            row(("n", "M2OST, width 96,\n2 blocks", "trained"), ("r", "ridge regression,\nsolved first", "solved")),
            row(("m", "mean of both", "frozen")),
            row(("y", "5 principal components → genes", "output")),
        ],
        [("p", "i"), ("p", "s"), ("i", "n"), ("s", "r"), ("n", "m"), ("r", "m"), ("m", "y")],
    ),
    "m2ort": Drawing(
        [
            row(("p", "one patch, 224 px", "input")),
            row(
                ("l0", "224 px\ntokens of 16", "input"),
                ("l1", "112 px\ntokens of 8", "input"),
                ("l2", "56 px\ntokens of 4", "input"),
            ),
            row(("e0", "embedding 0", "trained"), ("e1", "embedding 1", "trained"), ("e2", "embedding 2", "trained")),
            row(("x", "concatenated by channel; class token, positions", "trained")),
            row(
                ("q", "Q from level 0", "trained"),
                ("k", "K from level 1", "trained"),
                ("v", "V from level 2", "trained"),
            ),
            row(("a", "attention, added to all three levels", "trained")),
            row(("f", "MLP over all channels", "trained")),
            row(("h", "class token → linear head", "trained")),
            row(("y", "expression of the spot", "output")),
        ],
        [("p", f"l{i}") for i in range(3)]
        + [(f"l{i}", f"e{i}") for i in range(3)]
        + [(f"e{i}", "x") for i in range(3)]
        + [("x", n) for n in "qkv"]
        + [(n, "a") for n in "qkv"]
        + [("a", "f"), ("f", "h"), ("h", "y")],
        ((4, 6, "× 6"),),
    ),
    "backbones": Drawing(
        [
            row(("p", "one patch", "input")),
            row(("n", "colours normalised as for\nthe pretrained weights", "frozen")),
            row(("e", "image network of timm\n(frozen on request)", "trained")),
            row(("h", "linear head, starts at the mean profile", "trained")),
            row(("y", "expression of the spot", "output")),
        ],
        [("p", "n"), ("n", "e"), ("e", "h"), ("h", "y")],
    ),
    "stnet": Drawing(
        [
            row(("p", "one patch", "input")),
            row(("n", "colours standardised by mean and\nstandard deviation of training patches", "solved")),
            row(("d", "DenseNet-121: four dense blocks,\nmean pooling, 1,024 features", "trained")),
            row(("h", "linear head: weights 0,\nbias the training mean", "trained")),
            row(("y", "expression of the spot", "output")),
        ],
        [("p", "n"), ("n", "d"), ("d", "h"), ("h", "y")],
    ),
    "deepspace": Drawing(
        [
            row(("p", "one patch,\n2.5 spot diameters", "input"), ("t", "targets of the\ntraining spots", "input")),
            row(
                ("v", "VGG16: convolutions, two\nfully connected layers", "trained"),
                ("r", "minimum and range\nof every output", "solved"),
            ),
            row(("h", "linear head: value within\nthe range, smooth L1 loss", "trained"), None),
            row(("y", "scaling inverted: expression of the spot", "output")),
        ],
        [("p", "v"), ("t", "r"), ("v", "h"), ("h", "y"), ("r", "y")],
    ),
    "bleep": Drawing(
        [
            row(("p", "patch", "input"), ("t", "expression of\ntraining spots", "input")),
            row(("e", "ResNet-50", "trained"), ("b", "stored as the bank", "solved")),
            row(("i", "projection, 256", "trained"), ("s", "projection, 256", "trained")),
            row(("m", "products of embeddings: images × expression", "frozen")),
            row(
                ("l", "training:\ncontrastive loss", "frozen"),
                ("k", "prediction: the 50\nnearest in the bank", "frozen"),
            ),
            row(None, ("y", "their mean", "output")),
        ],
        [("p", "e"), ("t", "b"), ("e", "i"), ("b", "s"), ("i", "m"), ("s", "m"), ("m", "l"), ("m", "k"), ("k", "y")],
    ),
    "frozen_encoders": Drawing(
        [
            row(
                ("p0", "patch of\nscale 0", "input"),
                ("p1", "patch of\nscale 1", "input"),
                ("p2", "patch of\nscale 2", "input"),
            ),
            row(("e", "one encoder: statistics, a network of timm,\nor precomputed embeddings", "frozen")),
            row(("s", "standardise, clip at 3 sd, principal components", "solved")),
            row(
                ("r", "encoder_ridge:\nridge, penalty by\ncross-validation", "solved"),
                ("m", "encoder_mlp:\none hidden layer,\ndropout, linear head", "trained"),
            ),
            row(("y", "expression of the spot", "output")),
        ],
        [(f"p{i}", "e") for i in range(3)] + [("e", "s"), ("s", "r"), ("s", "m"), ("r", "y"), ("m", "y")],
    ),
    "histogene": Drawing(
        [
            row(
                ("p", "pixels of every\nspot, 112 × 112 × 3", "input"),
                ("xy", "positions of the spots,\nin pitches", "input"),
            ),
            row(
                ("e", "linear map\nto width 1,024", "trained"), ("w", "embeddings of x and y,\ninterpolated", "trained")
            ),
            row(("s", "sum: one token per spot", "trained")),
            row(("a", "attention over all spots of the window", "trained")),
            row(("f", "MLP", "trained")),
            row(("h", "norm → linear head", "trained")),
            row(("y", "expression of every spot", "output")),
        ],
        [("p", "e"), ("xy", "w"), ("e", "s"), ("w", "s"), ("s", "a"), ("a", "f"), ("f", "h"), ("h", "y")],
        ((3, 4, "× 8"),),
    ),
    "hist2st": Drawing(
        [
            row(("p", "patch of every spot", "input"), ("xy", "positions of the spots", "input")),
            row(
                ("c", "ConvMixer: texture,\n1,024 values", "trained"),
                ("n", "four nearest\nwithin two pitches", "input"),
            ),
            row(("t", "transformer over the\nsection, 8 layers", "trained"), None),
            row(("g", "GraphSAGE: a spot and its neighbours, 4 layers", "trained")),
            row(("l", "LSTM over the four layers, mean", "trained")),
            row(
                ("h", "linear head:\nMSE", "trained"),
                ("z", "counts: ZINB\nlikelihood", "trained"),
                ("d", "five views:\ndistillation", "trained"),
            ),
            row(("y", "expression", "output"), 2.0),
        ],
        [
            ("p", "c"),
            ("xy", "n"),
            ("c", "t"),
            ("n", "g"),
            ("t", "g"),
            ("g", "l"),
            ("l", "h"),
            ("l", "z"),
            ("l", "d"),
            ("h", "y"),
        ],
    ),
    "triplex": Drawing(
        [
            row(
                ("t", "own patch", "input"),
                ("w", "wide patch\naround it", "input"),
                ("o", "patches of all\nspots, positions", "input"),
            ),
            row(
                ("rt", "ResNet-18,\n49 tokens", "trained"),
                ("rw", "5 × 5 parts,\nResNet-18", "frozen"),
                ("ro", "one token per\nspot, ResNet-18", "frozen"),
            ),
            row(
                None,
                ("tw", "transformer\nwith relative\ndistances", "trained"),
                ("to", "transformer\nwith lattice\nconvolution", "trained"),
            ),
            row(("f", "fusion: cross attention from the section token\nto both views; results are added", "trained")),
            row(("h", "norm → linear head", "trained")),
            row(("y", "expression of every spot", "output")),
        ],
        [
            ("t", "rt"),
            ("w", "rw"),
            ("o", "ro"),
            ("rw", "tw"),
            ("ro", "to"),
            ("rt", "f"),
            ("tw", "f"),
            ("to", "f"),
            ("f", "h"),
            ("h", "y"),
        ],
    ),
    "istar": Drawing(
        [
            row(("p0", "narrow\npatch", "input"), ("p1", "wider\npatch", "input"), ("p2", "widest\npatch", "input")),
            row(("e", "16 × 16 superpixels, features at every scale:\ncolour and texture, or HIPT", "frozen")),
            row(("s", "standardise", "solved")),
            row(("m", "perceptron, 4 layers of 256, for each superpixel", "trained")),
            row(("d", "mean over the\ndisc of the spot", "frozen"), ("q", "every superpixel\nseparately", "frozen")),
            row(("h", "linear head:\ntrained on spots", "trained"), ("h2", "the same head", "trained")),
            row(("y", "expression of the spot", "output"), ("z", "super-resolved map", "output")),
        ],
        [(f"p{i}", "e") for i in range(3)]
        + [("e", "s"), ("s", "m"), ("m", "d"), ("m", "q"), ("d", "h"), ("q", "h2"), ("h", "y"), ("h2", "z")],
    ),
    "deepspot": Drawing(
        [
            row(
                ("s", "the spot", "input"),
                ("u", "its 3 × 3\nsub-spots", "input"),
                ("n", "up to eight\nneighbours", "input"),
            ),
            row(("e", "one encoder, then standardised", "frozen")),
            row(("f", "φ: median of ten networks, shared by all", "trained")),
            row(("fs", "unchanged", "frozen"), ("fu", "sum", "frozen"), ("fn", "maximum", "frozen")),
            row(("r", "ρ: concatenated, mean of ten linear maps", "trained")),
            row(("y", "expression of the spot", "output")),
        ],
        [(a, "e") for a in "sun"]
        + [("e", "f")]
        + [("f", f"f{a}") for a in "sun"]
        + [(f"f{a}", "r") for a in "sun"]
        + [("r", "y")],
    ),
    "stflow": Drawing(
        [
            row(
                ("p", "patch of\nevery spot", "input"),
                ("z", "noise from\nthe position", "input"),
                ("xy", "positions:\neight nearest", "input"),
            ),
            row(("e", "encoder", "frozen"), ("x", "state at time t", "frozen"), ("f", "frames", "frozen")),
            row(
                (
                    "b",
                    "4 blocks: attention to neighbours, scored by\nfeatures, edges and difference of states",
                    "trained",
                )
            ),
            row(("h", "mean over the blocks → linear head", "trained")),
            row(("o", "predicted end point", "trained")),
            row(("w", "Euler step towards the end point", "frozen")),
            row(("y", "expression of every spot", "output")),
        ],
        [
            ("p", "e"),
            ("z", "x"),
            ("xy", "f"),
            ("e", "b"),
            ("x", "b"),
            ("f", "b"),
            ("b", "h"),
            ("h", "o"),
            ("o", "w"),
            ("w", "y"),
        ],
        ((2, 5, "× 4"),),
    ),
    "hexst": Drawing(
        [
            row(("p", "patch of every spot", "input"), ("xy", "positions", "input")),
            row(("e", "encoder, then standardised", "frozen"), ("t", "hexagons, angles\non three axes", "frozen")),
            row(("m", "linear map", "trained"), 1),
            row(("b", "attention among the spots of a hexagon,\nqueries and keys rotated by position", "trained")),
            row(("h", "linear head", "trained")),
            row(("y", "expression of every spot", "output")),
        ],
        [("p", "e"), ("xy", "t"), ("e", "m"), ("m", "b"), ("t", "b"), ("b", "h"), ("h", "y")],
        ((3, 3, "× 3"),),
    ),
    "baselines": Drawing(
        [
            row(
                ("t", "training\nspots", "input"),
                ("c", "colour of\nthe patches", "input"),
                ("w", "positions of\nthe spots", "input"),
            ),
            row(
                ("m", "mean", "solved"), ("r", "ridge\nregression", "solved"), ("k", "mean of the\n8 nearest", "solved")
            ),
            row(("y0", "mean_profile", "output"), ("y1", "ridge_color", "output"), ("y2", "knn_spatial", "output")),
        ],
        [("t", "m"), ("c", "r"), ("w", "k"), ("m", "y0"), ("r", "y1"), ("k", "y2")],
    ),
}


def height(boxes: Row) -> float:
    """Height of a row in inches."""
    return PAD + LINE * max(text.count("\n") + 1 for _, text, _, _ in boxes)


def draw(drawing: Drawing) -> Figure:
    """A diagram with a legend of the colours below."""
    opens, closes = {first for first, _, _ in drawing.frames}, {last for _, last, _ in drawing.frames}
    places: dict[str, tuple[float, float, float, float]] = {}  # left, top, width, height
    tops, y = [], 0.04
    for number, boxes in enumerate(drawing.rows):
        y += 0.16 if number in opens else 0.0
        tops.append(y)
        total, x = sum(box[3] for box in boxes), MARGIN
        usable = WIDTH - 2 * MARGIN - GUTTER * (len(boxes) - 1)
        for name, _, _, share in boxes:
            wide = usable * share / total
            if name is not None:
                places[name] = (x, y, wide, height(boxes))
            x += wide + GUTTER
        y += height(boxes) + GAP + (0.06 if number in closes else 0.0)
    figure, axes = canvas(y + 0.16)
    for first, last, text in drawing.frames:
        draw_frame(axes, tops[first] - 0.19, tops[last] + height(drawing.rows[last]) + 0.07, text)
    for boxes in drawing.rows:
        for name, text, kind, _ in boxes:
            if name is not None:
                draw_box(axes, places[name], text, kind)
    for start, end in drawing.arrows:
        draw_arrow(axes, places[start], places[end])
    kinds = {kind for boxes in drawing.rows for name, _, kind, _ in boxes if name is not None}
    draw_legend(axes, y + 0.02, [kind for kind in KINDS if kind in kinds])
    return figure


def canvas(tall: float) -> tuple[Figure, mpl.axes.Axes]:
    """An empty figure of that height in inches; coordinates start at the top left."""
    figure = Figure(figsize=(WIDTH, tall))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(tall, 0))
    axes.axis("off")
    return figure, axes


def draw_frame(axes: mpl.axes.Axes, top: float, bottom: float, text: str) -> None:
    """A frame around rows that are repeated, with their number."""
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": "none", "edgecolor": GREY, "linewidth": 0.8}
    axes.add_patch(FancyBboxPatch((0.04, top), WIDTH - 0.08, bottom - top, linestyle=(0, (1, 1.5)), **style))
    axes.text(WIDTH - 0.1, top + 0.025, text, color=GREY, fontsize=SIZE, ha="right", va="top", weight="bold")


def draw_box(axes: mpl.axes.Axes, place: tuple[float, float, float, float], text: str, kind: str) -> None:
    """A box with text."""
    left, top, wide, tall = place
    face, edge, line, thick = KINDS[kind]
    style = "round,pad=0,rounding_size=0.05"
    colors = {"facecolor": face, "edgecolor": edge, "linestyle": line, "linewidth": thick}
    axes.add_patch(FancyBboxPatch((left, top), wide, tall, boxstyle=style, zorder=2, **colors))
    at = (left + wide / 2, top + tall / 2 + 0.005)
    axes.text(*at, text, color=INK, fontsize=SIZE, ha="center", va="center", zorder=3, linespacing=1.15)


def draw_arrow(
    axes: mpl.axes.Axes, start: tuple[float, float, float, float], end: tuple[float, float, float, float]
) -> None:
    """From the bottom of one box to the top of another; vertical if they overlap horizontally."""
    low, high = max(start[0], end[0]), min(start[0] + start[2], end[0] + end[2])
    middles = [box[0] + box[2] / 2 for box in (start, end)]
    xs = [(low + high) / 2] * 2 if high > low else middles
    ends = ((xs[0], start[1] + start[3] + 0.01), (xs[1], end[1] - 0.01))
    style = {"arrowstyle": "-|>,head_length=3.2,head_width=1.8", "color": GREY, "linewidth": 0.9}
    axes.add_patch(FancyArrowPatch(*ends, shrinkA=0, shrinkB=0, zorder=1, **style))


def draw_legend(axes: mpl.axes.Axes, top: float, kinds: list[str]) -> None:
    """A coloured rectangle and a word for each kind."""
    step = (WIDTH - 2 * MARGIN) / len(kinds)
    for number, kind in enumerate(kinds):
        face, edge, line, thick = KINDS[kind]
        left = MARGIN + number * step
        colors = {"facecolor": face, "edgecolor": edge, "linestyle": line, "linewidth": min(thick, 1.5)}
        axes.add_patch(Rectangle((left, top), 0.13, 0.09, **colors))
        axes.text(left + 0.17, top + 0.05, WORDS[kind], color=GREY, fontsize=SIZE - 0.8, va="center")


def draw_nested_tokens(cells: int = 4, fov: tuple[float, ...] = (1.5, 3.0, 6.0)) -> Figure:
    """The fields of view of a spot on the tissue, and below the tokens of each patch."""
    side = (WIDTH - 2 * MARGIN - 2 * 0.16) / 3
    figure, axes = canvas(3.62)
    unit, middle = 1.72 / fov[-1], (MARGIN + 0.87, 1.10)
    words = {"color": GREY, "fontsize": SIZE}
    axes.text(MARGIN, 0.10, "on the tissue", weight="bold", va="center", **words)
    axes.add_patch(Circle(middle, unit / 2, facecolor="#f3d3e4", edgecolor="#b0568a", linewidth=1))
    for number, wide in enumerate(fov):
        corner = [at - wide * unit / 2 for at in middle]
        axes.add_patch(Rectangle(corner, wide * unit, wide * unit, fill=False, edgecolor=GREY, linewidth=1.1))
        at = [at + wide * unit / 2 - 0.025 for at in middle]
        axes.text(*at, f"{number}", ha="right", va="bottom", **words)
    lines = ["circle: the spot", *(f"scale {n}: {wide:g} spot diameters" for n, wide in enumerate(fov))]
    axes.text(middle[0] + 0.98, middle[1], "\n".join(lines), va="center", linespacing=1.5, **words)
    top = 2.18
    axes.text(MARGIN, top - 0.1, "as the network sees them: tokens", weight="bold", va="center", **words)
    for scale in range(len(fov)):
        left = MARGIN + scale * (side + 0.16)
        for k in range(scale + 1):
            part = side / 2**k
            corner = (left + (side - part) / 2, top + (side - part) / 2)
            draw_tokens(axes, corner, part, cells, SCALES[k])
        label = f"scale {scale}: {scale + 1 if scale else ''}{' ' if scale else ''}L tokens"
        axes.text(left + side / 2, top + side + 0.1, label, ha="center", va="center", **words)
    for number, word in enumerate(("p = 16 px", "p/2 = 8 px", "p/4 = 4 px")):
        left = MARGIN + number * 1.1
        axes.add_patch(Rectangle((left, top + side + 0.24), 0.13, 0.09, facecolor=SCALES[number], edgecolor="none"))
        axes.text(left + 0.17, top + side + 0.29, word, va="center", **words)
    return figure


def draw_tokens(axes: mpl.axes.Axes, corner: tuple[float, float], side: float, cells: int, color: str) -> None:
    """A square divided into tokens."""
    step, gap = side / cells, 0.012 * side
    for i in range(cells):
        for j in range(cells):
            at = (corner[0] + j * step + gap / 2, corner[1] + i * step + gap / 2)
            axes.add_patch(Rectangle(at, step - gap, step - gap, facecolor=color, edgecolor="white", linewidth=0.4))


def main(folder: Path, kind: str) -> None:
    """Write all diagrams in one file format."""
    mpl.rcParams.update({"svg.hashsalt": "stpredict", "svg.fonttype": "path", "font.family": "DejaVu Sans"})
    for name, figure in {
        **{name: draw(one) for name, one in DRAWINGS.items()},
        "m2ost_tokens": draw_nested_tokens(),
    }.items():
        metadata = {"Date": None, "Creator": None} if kind == "svg" else None
        figure.savefig(folder / f"{name}.{kind}", transparent=True, dpi=200, metadata=metadata)


if __name__ == "__main__":
    main(*((Path(sys.argv[1]), "png") if len(sys.argv) > 1 else (Path(__file__).parent, "svg")))
