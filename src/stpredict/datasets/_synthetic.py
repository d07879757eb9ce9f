"""Synthetic slides whose expression is a known function of colour at a known scale. No file is read or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, sparse

from .. import _keys as keys
from .._checks import config as check
from .._checks.calls import public
from ..io.images import pyramid
from ..io.sections import Section, assemble

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

PITCH_UM, DIAMETER_UM = 200.0, 100.0
WINDOWS_UM = (150.0, 300.0, 600.0)
"""Sides of the windows whose colour determines the expression of genes 0, 1, 2, then 3, 4, 5 and so on."""
TISSUE_UM, MARGIN_UM = 350.0, 450.0
"""Distance from the outermost spots to the edge of the tissue, and of the image."""
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.10, 0.25, 0.96]])
"""Optical density in red, green and blue of haematoxylin (nuclei), eosin and a yellow-brown pigment."""
SLOPE = 0.6
"""Change of the log rate of a gene per standard deviation of its stain in its window."""


@public
def synthetic(
    *, n_slides: int = 3, n_side: int = 10, n_genes: int = 12, um_per_px: float = 4.0, seed: int = 0
) -> SpatialData:
    """Synthetic slides whose expression is a known function of colour at a known scale.

    Each slide is one patient: a square array of spots (100 µm in diameter, 200 µm apart) on tissue with three stains,
    which vary at different scales: nuclei at the finest, eosin at an intermediate and a pigment at the coarsest one.
    Gene ``j`` depends on the mean of stain ``j % 3`` in a square window around the spot, of 150, 300 and 600 µm
    respectively.

    Parameters
    ----------
    n_slides
        Number of slides, each of its own patient and staining.
    n_side
        Spots along each side of the array.
    n_genes
        Number of genes.
    um_per_px
        Resolution of the images in µm per pixel.
    seed
        Seed of the random number generator.

    Returns
    -------
    Object with, per slide ``S0``: image ``S0_image``, circles ``S0_spots``, coordinate system ``S0`` in pixels; and
    the table ``"observed"``: Poisson counts, ``layers["rate"]`` (the noise-free expression as log1p CP10k),
    ``var["scale"]`` (side in µm of the window that sets the gene) and ``var["stain"]``.

    Notes
    -----
    The share of gene ``j`` in a spot is proportional to ``base_j * exp(±0.6 z)``, with ``z`` the stain's mean in the
    window, standardised over all spots. Genes of one stain alternate in sign, so that shares hardly depend on the
    other stains. Library sizes lie between 2,000 and 10,000.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> sdata["observed"].shape
    (32, 12)
    >>> list(sdata["observed"].var["scale"][:3])
    [150.0, 300.0, 600.0]
    """
    for name, value in {"n_slides": n_slides, "n_side": n_side, "n_genes": n_genes}.items():
        check.in_range(name, value, 1, 100_000)
    check.in_range("um_per_px", um_per_px, 0.2, 20)
    rng = np.random.default_rng(seed)
    names = [f"S{i}" for i in range(n_slides)]
    array_xy, xy_um = _array(n_side)
    amounts = [_amounts(n_side, um_per_px, rng) for _ in names]
    images = [_render(amount, rng) for amount in amounts]
    means = np.stack([_window_means(amount, xy_um / um_per_px, um_per_px) for amount in amounts])
    scores = (means - means.mean(axis=(0, 1))) / (means.std(axis=(0, 1)) + 1e-12)  # (slides, spots, 3)
    rates, counts = _expression(scores.reshape(-1, len(WINDOWS_UM)), n_genes, rng)
    sections = [
        Section(
            name=name,
            counts=sparse.csr_matrix(part),
            genes=[f"GENE{j}" for j in range(n_genes)],
            array_xy=array_xy,
            xy_px=xy_um / um_per_px,
            um_per_px=um_per_px,
            diameter_um=DIAMETER_UM,
            patient=f"P{name[1:]}",
        )
        for name, part in zip(names, np.split(counts, n_slides), strict=True)
    ]
    sdata = assemble(sections, {name: pyramid(pixels, name) for name, pixels in zip(names, images, strict=True)})
    table = sdata.tables[keys.OBSERVED]
    table.layers["rate"] = rates
    table.var["scale"] = [WINDOWS_UM[j % 3] for j in range(n_genes)]
    table.var["stain"] = [("nuclei", "eosin", "pigment")[j % 3] for j in range(n_genes)]
    return sdata


def _array(n_side: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows, columns = np.divmod(np.arange(n_side**2), n_side)
    array_xy = np.column_stack([columns, rows])
    return array_xy, MARGIN_UM + PITCH_UM * array_xy


def _amounts(n_side: int, um_per_px: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Amount of each stain at each pixel ``(3, y, x)``, which determines colour and expression."""
    size = round(((n_side - 1) * PITCH_UM + 2 * MARGIN_UM) / um_per_px)
    nuclei = _field(size, 40 / um_per_px, rng)
    eosin = _field(size, 75 / um_per_px, rng)
    pigment = _field(size, 140 / um_per_px, rng)
    fibres = _field(size, 15 / um_per_px, rng)
    amounts = np.stack(
        [
            0.10 + 1.3 * _nuclei(np.clip(0.35 + 0.22 * nuclei, 0.02, 0.95), um_per_px, rng),
            np.clip(0.35 + 0.13 * eosin + 0.03 * fibres, 0.02, None),
            np.clip(0.22 + 0.09 * pigment, 0.0, None),
        ]
    )
    return (amounts * _tissue(size, um_per_px, rng)).astype(np.float32)


def _field(size: int, sigma_px: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and standard deviation 1."""
    step = max(1, int(sigma_px / 3))  # smooth noise needs few nodes: made on a coarse grid, then enlarged
    coarse = -(-size // step) + 1
    noise = ndimage.gaussian_filter(rng.standard_normal((coarse, coarse)), sigma_px / step, mode="wrap")
    enlarged = ndimage.zoom(noise, step, order=1)[:size, :size] if step > 1 else noise[:size, :size]
    field: NDArray[np.float64] = (enlarged - enlarged.mean()) / enlarged.std()
    return field


def _nuclei(density: NDArray[np.float64], um_per_px: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Dots of about 12 µm on a jittered grid of 16 µm, present with the given probability."""
    step = 16 / um_per_px
    nodes = np.arange(step / 2, len(density), step)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij")).reshape(2, -1)
    y, x = np.clip(grid + rng.uniform(-0.3, 0.3, grid.shape) * step, 0, len(density) - 1).astype(int)
    dots = np.zeros_like(density)
    present = rng.uniform(size=len(y)) < density[y, x]
    np.add.at(dots, (y[present], x[present]), rng.uniform(0.7, 1.3, int(present.sum())) * step**2 / 3)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(dots, 4 / um_per_px)
    return smooth


def _tissue(size: int, um_per_px: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """1 on tissue, 0 on glass, with a wavy edge."""
    at_um = (np.arange(size) + 0.5) * um_per_px
    depth = np.minimum(at_um, at_um[::-1])
    edge = MARGIN_UM - TISSUE_UM + 15 * _field(size, 100 / um_per_px, rng)
    tissue: NDArray[np.float64] = np.clip((np.minimum(depth[:, None], depth) - edge) / 10, 0, 1)
    return tissue


def _render(amounts: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Colour by the Beer-Lambert law, with stain vectors and strengths drawn for this slide."""
    stains = STAINS * rng.uniform(0.95, 1.05, STAINS.shape) * rng.uniform(0.96, 1.04, (3, 1))
    density = np.einsum("sc,syx->cyx", stains.astype(np.float32), amounts)
    pixels = 245 * np.exp(-density) + rng.normal(0, 2, density.shape)
    rounded: NDArray[np.uint8] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return rounded


def _window_means(amounts: NDArray[np.float32], xy_px: NDArray[np.float64], um_per_px: float) -> NDArray[np.float64]:
    """Mean of each stain in its window around each spot ``(n, 3)``; windows may end between pixels."""
    found = np.empty((len(xy_px), len(WINDOWS_UM)))
    for s, side_um in enumerate(WINDOWS_UM):
        total = np.pad(amounts[s].astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        half = side_um / um_per_px / 2
        (x0, y0), (x1, y1) = (xy_px - half).T, (xy_px + half).T
        corners = [ndimage.map_coordinates(total, at, order=1) for at in ((y1, x1), (y0, x1), (y1, x0), (y0, x0))]
        found[:, s] = (corners[0] - corners[1] - corners[2] + corners[3]) / (2 * half) ** 2
    return found


def _expression(
    scores: NDArray[np.float64], n_genes: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Noise-free log1p CP10k and Poisson counts, ``(n_spots, n_genes)`` each."""
    gene = np.arange(n_genes)
    sign = np.where((gene // 3) % 2, -1.0, 1.0)
    base = rng.uniform(0.5, 1.5, n_genes)
    rates = base * np.exp(SLOPE * sign * scores[:, gene % 3])
    shares = rates / rates.sum(axis=1, keepdims=True)
    library = np.clip(rng.lognormal(np.log(5_000), 0.4, len(scores)), 2_000, 10_000)
    counts = rng.poisson(library[:, None] * shares).astype(np.float32)
    return np.log1p(1e4 * shares).astype(np.float32), counts
