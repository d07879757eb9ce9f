"""Shared parts of all slide plots: pale tissue, spots at true size, a scale bar. Axes are in µm, y points down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.collections import EllipseCollection
from matplotlib.transforms import Affine2D

from .._geometry import PatchSpec, spot_pitch
from .._pixels import PatchReader
from .._slides.levels import Level
from ..pp.raster import fit_raster
from ._style import panels
from .comparison import LUMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    from .._slides.slides import Slide
    from ..pp.raster import Raster

THUMBNAIL_PX = 800
"""Side of the tissue image: sharp at 300 dpi in a panel of a third of a page."""
BUDGET_BYTES = 1 << 26
"""Largest amount of decoded image in memory."""
DESATURATION = 0.35
"""How much colour pale tissue loses, so that it is not mistaken for a value."""
PANEL_IN, TEXT_IN = 2.4, 0.4
"""Width of a panel, and height of the text above and below it, in inches."""
BELOW = -0.035
"""Position of text below a panel, in heights of the panel."""
MANY_SPOTS, TOUCHING = 10_000, 0.99
"""Spots on a regular lattice are drawn as an image if there are more than this number, or if their diameter is at least
this share of their distance. Other spots above this number are pixels in vector files."""
WHITE = np.full((1, 1, 3), 255, dtype=np.uint8)
"""An empty image."""
MISSING = "0.75"
"""Colour of a spot without a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A rectangle of a slide in µm, origin at the image corner."""

    x: float
    """Left edge."""
    y: float
    """Upper edge."""
    width: float
    height: float

    @classmethod
    def around(cls, xy_um: NDArray[np.float64], margin_um: float) -> Window:
        """The smallest window that contains some points with a margin."""
        (x0, y0), (x1, y1) = xy_um.min(axis=0) - margin_um, xy_um.max(axis=0) + margin_um
        return cls(x=float(x0), y=float(y0), width=float(x1 - x0), height=float(y1 - y0))

    @property
    def aspect(self) -> float:
        """Height over width."""
        return self.height / self.width


def draw_tissue(
    axes: Iterable[Axes], slide: Slide, window: Window, *, image_alpha: float | Sequence[float] = 1.0
) -> None:
    """Draw the H&E image of a window, read once for all axes; an ``image_alpha`` of 0 reads nothing and draws white."""
    drawn_on = list(axes)
    alphas = np.broadcast_to(np.asarray(image_alpha, dtype=float), len(drawn_on))
    side = max(window.width, window.height)
    centre = np.array([window.x + window.width / 2, window.y + window.height / 2])
    pixels = _square(slide, centre, side) if alphas.max() > 0 else WHITE
    x0, y0 = centre - side / 2
    for ax, alpha in zip(drawn_on, alphas, strict=True):
        shown = _dim(pixels, alpha)
        ax.imshow(shown, extent=(x0, x0 + side, y0 + side, y0), interpolation="antialiased")
        ax.set(xlim=(window.x, window.x + window.width), ylim=(window.y + window.height, window.y), aspect="equal")
        bare(ax)


def bare(ax: Axes) -> None:
    """Remove ticks and frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def slide_panels(
    ax: Axes | Sequence[Axes] | None,
    slide: Slide,
    alphas: Sequence[float],
    *,
    bars_in: float,
    n_columns: int = 3,
    figsize: tuple[float, float] | None = None,
) -> NDArray[Any]:
    """Axes, one for each opacity of the tissue, with a scale bar on the first, and room for colour bars."""
    window = Window.around(slide.xy_um, 1.5 * slide.diameter_um)
    size = (PANEL_IN, PANEL_IN * window.aspect + TEXT_IN)
    axes = panels(
        ax, len(alphas), panel_in=size, extra_in=bars_in, n_columns=n_columns, figsize=figsize, layout="compressed"
    )
    draw_tissue(axes, slide, window, image_alpha=alphas)
    if slide.levels:  # without an image nobody knows the length of a unit
        scale_bar(axes[0], window)
    return axes


def draw_slide(
    ax: Axes,
    slide: Slide,
    shown: NDArray[Any],
    spot_size: float,
    *,
    cmap: str | Colormap = "viridis",
    limits: tuple[float, float] = (0.0, 1.0),
) -> EllipseCollection | AxesImage:
    """Draw the spots of a slide, as an image if they are on a lattice and many or touching, else as circles."""
    full = spot_size == 1 and (len(slide.xy_um) > MANY_SPOTS or slide.diameter_um > TOUCHING * spot_pitch(slide.xy_um))
    raster = fit_raster(slide.xy_um) if full else None
    if raster is not None:
        return draw_raster(ax, raster, shown, cmap=cmap, limits=limits)
    return draw_spots(ax, slide.xy_um, slide.diameter_um * spot_size, shown, cmap=cmap, limits=limits)


def draw_spots(
    ax: Axes,
    xy_um: NDArray[np.float64],
    diameter_um: float,
    shown: NDArray[Any] | str = "none",
    *,
    edge: str = "none",
    cmap: str | Colormap = "viridis",
    limits: tuple[float, float] = (0.0, 1.0),
) -> EllipseCollection:
    """Draw spots as circles of a diameter, in one colour, colours ``(n, 3)`` or by numbers ``(n,)``; NaN is grey."""
    size, by_number = np.full(len(xy_um), diameter_um), np.ndim(shown) == 1
    spots = EllipseCollection(
        size,
        size,
        np.zeros(len(xy_um)),
        units="xy",
        offsets=xy_um,
        offset_transform=ax.transData,
        facecolors=None if by_number else shown,
        edgecolors=edge,
        linewidths=0.0 if edge == "none" else 0.8,
        rasterized=len(xy_um) > MANY_SPOTS,
    )
    if by_number:
        colors = colormaps.get_cmap(cmap).with_extremes(bad=MISSING)
        spots.set(array=np.ma.masked_invalid(shown), cmap=colors, clim=limits)
    ax.add_collection(spots, autolim=False)
    return spots


def draw_raster(
    ax: Axes,
    raster: Raster,
    values: NDArray[Any],
    *,
    cmap: str | Colormap = "viridis",
    limits: tuple[float, float] = (0.0, 1.0),
) -> AxesImage:
    """Draw spots of a regular lattice as an image without gaps, from numbers ``(n,)`` or colours ``(n, 3)``."""
    painted = raster.paint(np.column_stack([values, np.ones(len(values))]))
    covered = np.nan_to_num(painted[-1])
    shown = np.ma.masked_invalid(painted[0]) if values.ndim == 1 else np.nan_to_num(np.moveaxis(painted, 0, -1))
    return ax.imshow(
        shown,
        cmap=colormaps.get_cmap(cmap).with_extremes(bad=MISSING),
        clim=limits,
        alpha=covered if values.ndim == 1 else None,
        interpolation="antialiased",
        interpolation_stage="rgba",
        extent=(0, raster.width, raster.height, 0),
        transform=Affine2D(raster.matrix) + ax.transData,
    )


def scale_bar(ax: Axes, window: Window) -> None:
    """Draw a bar of a round length below the panel, with its length beside it."""
    length = round_length(0.25 * window.width)
    share = length / window.width
    color = rcParams["text.color"]
    ax.plot(
        [0, share],
        [BELOW, BELOW],
        color=color,
        linewidth=2.5,
        solid_capstyle="butt",
        transform=ax.transAxes,
        clip_on=False,
        gid="scale bar",
    )
    ax.text(share + 0.02, BELOW, length_label(length), transform=ax.transAxes, va="center", ha="left", fontsize=7)


def round_length(most_um: float) -> float:
    """The largest of 1, 2, 5, 10, 20, … that does not exceed a length."""
    power = 10.0 ** math.floor(math.log10(most_um) + 1e-9)
    return max(step * power for step in (1, 2, 5) if step * power <= most_um * (1 + 1e-9))


def length_label(length_um: float) -> str:
    """A length as text: in µm below a millimetre, else in mm."""
    return f"{length_um:g} µm" if length_um < 1000 else f"{length_um / 1000:g} mm"


def _square(slide: Slide, centre_um: NDArray[np.float64], side_um: float) -> NDArray[np.uint8]:
    """Pixels ``(y, x, 3)`` of a square, read from the coarsest level that has the resolution."""
    size = int(np.clip(side_um / slide.um_per_px, 8, THUMBNAIL_PX))
    ratio = side_um / slide.um_per_px / size
    reader = PatchReader(
        _subsample_levels(slide.levels, ratio),
        slide.um_per_px,
        PatchSpec(fov_um=(side_um,), size_px=size),
        budget_bytes=BUDGET_BYTES,
    )
    patches, _ = reader.read(centre_um[None] / slide.um_per_px)
    pixels: NDArray[np.uint8] = np.moveaxis(patches[0, 0], 0, -1)
    return pixels


def _subsample_levels(levels: Sequence[Level], ratio: float) -> list[Level]:
    """The levels, with every k-th pixel of the coarsest as one more if even that is far finer than needed."""
    coarsest = levels[-1]
    step = int(ratio / max(coarsest.factor) / 2)
    if step < 2:
        return list(levels)
    rows, columns = coarsest.factor
    pixels = coarsest.pixels[:, step // 2 :: step, step // 2 :: step]
    return [*levels, Level(pixels=pixels, factor=(rows * step, columns * step))]


def _dim(pixels: NDArray[np.uint8], alpha: float) -> NDArray[np.uint8]:
    if alpha >= 1:
        return pixels
    values = pixels.astype(np.float32)
    grey = (values @ LUMA.astype(np.float32))[..., None]
    dimmed = 255 - alpha * (255 - (DESATURATION * grey + (1 - DESATURATION) * values))
    rounded: NDArray[np.uint8] = np.rint(dimmed).astype(np.uint8)
    return rounded
