"""Super-resolution of one slide: prediction, weak supervision on its residuals, and exact means of spots."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..._progress import progress_bar
from ..._train.data import read_pieces
from ..._train.prefetch import prefetch
from ...pp.normalization import normalize_slide, slide_library
from .._predictor.appearance import measure_appearance
from .._predictor.provenance import counts_record
from .superpixels import interpolation_grid, match_spot_means, row_blocks
from .weak_supervision import fit_residuals, window_features

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from ..._slides.slides import Slide
    from ..._train.batches import BatchLimit
    from .._predictor.appearance import SlideAppearance
    from .._predictor.predictor import Predictor
    from .superpixels import Superpixels
    from .weak_supervision import ResidualModel

Anchor = Literal["denoised", "observed", "predicted"]

NODES_PER_FOV = 3.0
"""The predictor is evaluated this often along its narrowest field of view, and interpolated in between."""
MIN_SPOTS = 8
MIN_LIBRARY = 0.05
"""Spots with counts below this share of the median of their slide count as failed: they have no observed value."""
FLOOR = 1e-7
"""Minimum value of a superpixel before means are matched, as a share of all expression."""
HEADROOM = 1.0
"""How far a superpixel may exceed the highest spot before means are matched, in log units."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlideResolver:
    """Predictor and options of super-resolution, the same for all slides."""

    predictor: Predictor
    columns: NDArray[np.intp]
    """Requested genes, as columns of the predictor's genes."""
    step_um: float
    anchor: Anchor
    n_views: int
    fabric: Fabric
    limit: BatchLimit
    progress: bool

    def resolve(self, superpixels: Superpixels, x: NDArray[np.float32]) -> ResidualModel:
        """Write the expression of the superpixels of one slide into ``x``; return the model of the residuals."""
        slide, step_um = superpixels.slide, self.step_um
        narrowest = min(patch.fov_um[0] for patch in self.predictor.patches)
        spacing = max(superpixels.step_px, narrowest / NODES_PER_FOV / slide.um_per_px)
        nodes, interpolation = interpolation_grid(superpixels.xy_px, spacing)
        appearance = measure_appearance(slide, self.predictor, lambda: self.fabric)
        at_nodes = self._predict(replace(slide, xy_px=nodes), appearance)
        features = window_features(replace(slide, xy_px=superpixels.xy_px), step_um, progress=self.progress)
        n_genes = at_nodes.shape[1]
        prior = np.log1p(superpixels.spot_means(lambda rows: np.expm1(interpolation[rows] @ at_nodes), n_genes))
        values, known = self._spot_values(slide, appearance)
        per_spot = superpixels.spot_means(lambda rows: features[rows].astype(np.float64), features.shape[1])
        check_enough_spots(int(known.sum()), slide.name)
        residuals = fit_residuals(per_spot[known], slide.xy_um[known], (values - prior)[known])
        estimate = prior + residuals.from_features(per_spot) + residuals.from_positions(slide.xy_um)
        means = np.where(known[:, None], values, estimate) if self.anchor != "denoised" else estimate
        smooth = at_nodes + residuals.from_positions(nodes * slide.um_per_px)
        highest = np.maximum(means.max(axis=0), 0.0) + HEADROOM
        floor = FLOOR * (self.predictor.target.target_sum or 1e4)
        for rows in row_blocks(len(x)):
            log = interpolation[rows] @ smooth + residuals.from_features(features[rows])
            x[rows] = np.maximum(np.expm1(np.minimum(log, highest)), floor)
        match_spot_means(x, superpixels, np.expm1(np.maximum(means, 0.0)))
        if self.predictor.target.log1p:
            np.log1p(x, out=x)
        return residuals

    def _predict(self, slide: Slide, appearance: SlideAppearance) -> NDArray[np.float64]:
        """Prediction at every point of a slide, ``(n, g)`` log1p."""
        found = np.empty((len(slide.xy_px), len(self.columns)))
        with (
            progress_bar(total=len(found), desc=f"predict {slide.name}", unit="point", progress=self.progress) as bar,
            prefetch(read_pieces(slide, self.predictor.patches)) as pieces,
        ):
            for piece in pieces:
                predicted = self.predictor.predict(
                    piece.spots, self.fabric, batch_size=self.limit, n_views=self.n_views, appearances=[appearance]
                ).expression
                found[piece.rows] = self._log(predicted[:, self.columns])
                bar.update(len(piece.rows))
        return found

    def _spot_values(self, slide: Slide, appearance: SlideAppearance) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Value of each spot as log1p, and which spots have one."""
        if self.anchor == "predicted" or slide.counts is None:
            return self._predict(slide, appearance), np.ones(len(slide.xy_px), bool)
        predictor, trained = self.predictor, counts_record(self.predictor.provenance)
        library = slide_library(slide, predictor.target, trained)
        if library is None:
            library = np.asarray(slide.counts.sum(axis=1), np.float64).ravel()
        known = library > MIN_LIBRARY * np.median(library)
        values = normalize_slide(slide, predictor.genes, predictor.target, trained)
        return self._log(values[:, self.columns]), known

    def _log(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Values in the units of the predictor as log1p, at least 0."""
        positive = np.maximum(values.astype(np.float64), 0.0)
        return positive if self.predictor.target.log1p else np.log1p(positive)


def check_enough_spots(n_spots: int, name: str) -> None:
    """Refuse slides with too few spots."""
    if n_spots < MIN_SPOTS:
        msg = (
            f"{name!r} has {n_spots} spots to learn from; at least {MIN_SPOTS} are needed. A slide without spots is "
            "predicted with `stp.pp.spot_grid` and `stp.tl.predict`."
        )
        raise ValueError(msg)
