"""The baseline beside every prediction: the ridge regression of the model ``ridge_color``, as one matrix of weights.

torch is imported where it is needed, since applying the baseline takes numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._geometry import margin_px

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..models import SpotBatch
    from ..pp.targets import TargetSpec

CHANNELS = ("red", "green", "blue")


def color_statistics(patches: Tensor, spot_share: float) -> NDArray[np.float32]:
    """`window_colors`, ``(n, 6 * (s + 1))``; ``spot_share`` is the spot diameter over the narrowest field of view."""
    from ..models.image_statistics import window_colors

    return window_colors(patches, margin_px(patches.shape[-1], spot_share)).cpu().numpy()


def fit_ridge(
    features: NDArray[np.float32], observed: NDArray[np.float32], spots: SpotBatch, spec: TargetSpec
) -> tuple[NDArray[np.float32], float]:
    """Weights ``(g, d + 1)`` in the units of ``observed``, the intercept last, and the penalty.

    Features ``(n, d)`` and observed expression ``(n, g)`` are those of the spots.
    """
    import torch

    from ..models.baselines import color_ridge
    from ..pp.targets import Targets

    slide = spots.slide.numpy()
    targets = Targets.fit(spec, [""] * observed.shape[1], observed, slide)
    encoded = torch.from_numpy(targets.encode(observed, slide))
    ridge = color_ridge(torch.from_numpy(features), encoded, spots)
    slope = (ridge.weight / ridge.standardize.spread).double().numpy()  # (n_outputs, d)
    loadings = targets.components if targets.components is not None else np.eye(len(targets.mean))
    weights = (slope.T @ loadings * targets.scale).T
    bias = ridge.bias.double().numpy() @ loadings * targets.scale + targets.mean
    intercept = bias - weights @ ridge.standardize.mean.double().numpy()
    return np.ascontiguousarray(np.column_stack([weights, intercept]), np.float32), float(ridge.penalty)


def apply_ridge(weights: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Predictions ``(n, g)`` from weights ``(g, d + 1)``, the intercept last, and features ``(n, d)``."""
    return features @ weights[:, :-1].T + weights[:, -1]
