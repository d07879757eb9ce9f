"""One slide resolved below its spots: predictor, weak supervision, and exact means put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from tqdm.auto import tqdm

from ..._checks import super_resolution as check
from ..._train.data import read_pieces
from ..._train.prefetch import prefetch
from .superpixels import coarse, made_exact, parts
from .weak_supervision import fit_head, local_features

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from ..._slides import Slide
    from ..._train.batches import BatchLimit
    from .._predictor.predictor import Predictor
    from .superpixels import Superpixels
    from .weak_supervision import Head

Anchor = Literal["denoised", "observed", "predicted"]

WIDE_SHARE = 3.0
"""What the predictor says is computed this often along its narrowest field of view, and interpolated between."""
LEAST_SPOTS = 8
FAILED = 0.05
"""Spots whose counts are fewer than this share of the median of their slide count as not measured."""
FLOOR = 1e-7
"""Least value of a superpixel before means are made exact, as a share of all expression."""
HEADROOM = 1.0
"""How far a superpixel may exceed the highest spot before means are made exact, in log units."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """What is the same for all slides."""

    predictor: Predictor
    columns: NDArray[np.intp]
    """Genes that are wanted, as columns of the panel."""
    step_um: float
    anchor: Anchor
    n_views: int
    fabric: Fabric
    limit: BatchLimit
    progress: bool

    def predicted(self, slide: Slide) -> NDArray[np.float64]:
        """What the predictor says for every point of a slide, ``(n, g)`` log1p."""
        found = np.empty((len(slide.xy_px), len(self.columns)))
        with (
            tqdm(total=len(found), desc=f"predict {slide.name}", unit="place", disable=not self.progress) as bar,
            prefetch(read_pieces(slide, self.predictor.patch)) as read,
        ):
            for piece in read:
                given = self.predictor(piece.spots, self.fabric, batch_size=self.limit, n_views=self.n_views)
                found[piece.rows] = self.log(given[:, self.columns])
                bar.update(len(piece.rows))
        return found

    def log(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Values in the units of the predictor, as log1p; what is below 0 is 0."""
        positive = np.maximum(values.astype(np.float64), 0.0)
        return positive if self.predictor.target.log1p else np.log1p(positive)

    @property
    def floor(self) -> float:
        """Least linear value of a superpixel before means are made exact."""
        return FLOOR * (self.predictor.target.target_sum or 1e4)


def resolve_slide(lattice: Superpixels, run: Run, x: NDArray[np.float32]) -> Head:
    """Fill the rows of one slide; returns what was learnt."""
    slide = lattice.slide
    spacing = max(lattice.step_px, run.predictor.patch.fov_um[0] / WIDE_SHARE / slide.um_per_px)
    nodes, between = coarse(lattice.xy_px, spacing)
    wide = run.predicted(replace(slide, xy_px=nodes))
    features = local_features(replace(slide, xy_px=lattice.xy_px), run.step_um, progress=run.progress)
    prior = _means(lattice, between, wide)
    values, known = _values(slide, run)
    per_spot = _averaged(lattice, features)
    check.enough_spots(int(known.sum()), LEAST_SPOTS, slide.name)
    head = fit_head(per_spot[known], slide.xy_um[known], (values - prior)[known])
    estimate = prior + head.of_features(per_spot) + head.of_places(slide.xy_um)
    means = np.where(known[:, None], values, estimate) if run.anchor != "denoised" else estimate
    surface = wide + head.of_places(nodes * slide.um_per_px)
    highest = np.maximum(means.max(axis=0), 0.0) + HEADROOM
    for part in parts(len(x)):
        log = between[part] @ surface + head.of_features(features[part])
        x[part] = np.maximum(np.expm1(np.minimum(log, highest)), run.floor)
    made_exact(x, lattice, np.expm1(np.maximum(means, 0.0)))
    if run.predictor.target.log1p:
        np.log1p(x, out=x)
    return head


def _means(lattice: Superpixels, between: csr_matrix, wide: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over each spot of what the predictor says, taken of linear values, as log1p."""
    averaging, means = lattice.averaging.tocsc(), np.zeros((len(lattice.slide.xy_px), wide.shape[1]))
    for part in parts(len(lattice)):
        means += averaging[:, part] @ np.expm1(between[part] @ wide)
    return np.log1p(means)


def _averaged(lattice: Superpixels, features: NDArray[np.float16]) -> NDArray[np.float64]:
    """Mean features of each spot."""
    averaging, means = lattice.averaging.tocsc(), np.zeros((len(lattice.slide.xy_px), features.shape[1]))
    for part in parts(len(lattice)):
        means += averaging[:, part] @ features[part].astype(np.float64)
    return means


def _values(slide: Slide, run: Run) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Value of each spot as log1p, and which spots have one."""
    if run.anchor == "predicted" or slide.counts is None:
        return run.predicted(slide), np.ones(len(slide.xy_px), bool)
    at = {gene: i for i, gene in enumerate(slide.genes)}
    panel = [at[gene] for gene in run.predictor.genes]
    library = np.asarray(slide.counts.sum(axis=1), np.float64).ravel()
    known = library > FAILED * np.median(library)
    return run.log(run.predictor.target.normalize(slide.counts, panel)[:, run.columns]), known
