"""Baselines for every network: the training mean, colour alone, position alone. None is trained by gradient steps.

- ``mean_profile``: the mean of the training spots, for every spot. Its gene-wise correlation is 0; spot-wise it scores
  as high as some published networks.
- ``ridge_color``: ridge regression on the colour of the same patches: mean and standard deviation of the optical
  density of each channel, in the spot and in every field of view. It does not use any shape. The same baseline that
  `stp.tl.predict` writes with every prediction, with the penalty chosen as in ``encoder_ridge``.
- ``knn_spatial``: k nearest neighbours in space: the mean of the training spots at the nearest positions, over all
  training slides; positions are relative to the centre of the spots of their slide. It does not use the image. If
  slides are serial sections of one block in the same orientation, it measures what a model gains by knowing the block.
  Between patients, or rotated sections, the same position has no meaning, and neither has this baseline. A slide with
  more spots than are predicted together (1,024 and those around them) is centred on those only, with the same caveat.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from .._checks import models as check
from .._geometry import margin_px
from ._closed_form import Ridge, TrainingSpots, center_by_slide, gather_training_spots, inner_folds
from ._precision import full_precision
from .contract import SpotModel, batch_features
from .image_statistics import N_MOMENTS, window_colors
from .model_config import PatchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import ClassVar

    from torch import Tensor

    from .contract import SpotBatch

AT_ONCE = 256
"""Spots whose distances to all training spots are computed at a time."""
_EXACT = "donot_use_mm_for_euclid_dist"


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanProfileConfig(PatchConfig):
    """Shape of a ``MeanProfile``, which does not use the patches."""

    fov_spots: tuple[float, ...] = (1.5, 3.0, 6.0)
    size_px: int = 112


class MeanProfile(SpotModel):
    """The mean of the training spots, for every spot."""

    config: MeanProfileConfig
    profile: Tensor

    def __init__(self, config: MeanProfileConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("profile", torch.zeros(config.n_outputs))

    def initialize_at(self, mean: Tensor) -> None:
        """Make the model predict one profile for every spot."""
        check.mean_profile(tuple(mean.shape), len(self.profile))
        self.profile.copy_(mean)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        return self.profile.expand(len(batch), -1).clone()


@dataclass(frozen=True, kw_only=True, slots=True)
class RidgeColorConfig(PatchConfig):
    """Shape of a ``RidgeColor``."""

    penalty: float | None = None
    """Weight of the squared coefficients, for standardised statistics; None chooses it by cross-validation over
    groups."""
    standardize: Literal["training", "slide"] = "training"
    """Mean and spread by which features are standardised: those of the training spots, or those of each slide, shrunk
    by how much the training donors differ."""
    fov_spots: tuple[float, ...] = (1.5, 3.0, 6.0)
    size_px: int = 112

    def __post_init__(self) -> None:
        check.field_values(self)
        check.penalty(self.penalty)


def color_ridge(features: Tensor, targets: Tensor, spots: SpotBatch) -> Ridge:
    """The regression of a `RidgeColor` on features that are computed already; the penalty is chosen."""
    fold = inner_folds(spots.slide if spots.group is None else spots.group, spots.slide, spots.xy_um)
    known = TrainingSpots(features=features.float(), targets=targets.float(), fold=fold, slide=spots.slide)
    ridge = Ridge(features.shape[1], targets.shape[1])
    ridge.solve(known, features.shape[1], None)
    return ridge


class PatchRidge(SpotModel):
    """Ridge regression on what ``encode`` returns; nothing else is learnt."""

    config: RidgeColorConfig
    ridge: Ridge

    def initialize_at(self, mean: Tensor) -> None:
        """Make the model predict one profile for every spot."""
        self.ridge.constant(mean)

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Solve the regression; nothing else is learnt."""
        spots = gather_training_spots(batches, partial(batch_features, self))
        self.ridge.solve(spots, spots.features.shape[1], self.config.penalty)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        return self.ridge(batch_features(self, batch))


class RidgeColor(PatchRidge):
    """Ridge regression on the colour of the patches."""

    config: RidgeColorConfig

    def __init__(self, config: RidgeColorConfig) -> None:
        super().__init__()
        self.config = config
        self.ridge = Ridge(N_MOMENTS * (len(config.fov_spots) + 1), config.n_outputs)

    def encode(self, batch: SpotBatch) -> Tensor:
        """Colour statistics ``(b, 6 * (s + 1))`` of the spot and of every field of view."""
        check.patches(tuple(batch.patches.shape), len(self.config.fov_spots), self.config.size_px)
        return window_colors(batch.patches, margin_px(self.config.size_px, 1 / self.config.fov_spots[0]))


@dataclass(frozen=True, kw_only=True, slots=True)
class KNNSpatialConfig(PatchConfig):
    """Shape of a ``KNNSpatial``, which uses positions, not the patches."""

    k: int = 8
    """Number of nearest training spots whose mean is predicted."""
    fov_spots: tuple[float, ...] = (1.5, 3.0, 6.0)
    size_px: int = 112
    context: Literal["slide"] = "slide"


class KNNSpatial(SpotModel):
    """The mean of the training spots at the nearest positions."""

    config: KNNSpatialConfig
    bank: Tensor
    """``(n, n_outputs)`` targets of the training spots."""
    places: Tensor
    """``(n, 2)`` their positions in µm from the centre of their slide."""
    per_spot_buffers: ClassVar[frozenset[str]] = frozenset({"bank", "places"})

    def __init__(self, config: KNNSpatialConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("bank", torch.zeros(1, config.n_outputs))
        self.register_buffer("places", torch.zeros(1, 2))

    def initialize_at(self, mean: Tensor) -> None:
        """Predict one profile everywhere: it is all that the bank holds."""
        check.mean_profile(tuple(mean.shape), self.config.n_outputs)
        self.bank, self.places = mean[None].to(self.bank), torch.zeros_like(self.places[:1])

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Store the training spots; nothing else is learnt."""
        spots = [(check.require_targets(batch.targets), batch.xy_um, batch.slide) for batch in batches]
        targets, xy_um, slide = (torch.cat(parts) for parts in zip(*spots, strict=True))
        self.bank, self.places = targets.to(self.bank), relative_to_slide(xy_um, slide).to(self.places)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        k = min(self.config.k, len(self.bank))
        with full_precision(self.bank.device):
            nearest = [
                torch.cdist(part, self.places, compute_mode=_EXACT).topk(k, dim=-1, largest=False).indices
                for part in relative_to_slide(batch.xy_um.float(), batch.slide).split(AT_ONCE)
            ]
        return self.bank[torch.cat(nearest)].mean(dim=1)


def relative_to_slide(xy_um: Tensor, slide: Tensor) -> Tensor:
    """Positions relative to the mean of their slide, ``(n, 2)``, in whole µm: ties do not depend on rounding."""
    return center_by_slide(xy_um.cpu().double(), slide.cpu()).round().to(xy_um)
