"""Ridge regression on the features of a frozen image encoder: the baseline that every trained network should beat.

The recipe of HEST-bench (Jaume et al., "HEST-1k: A Dataset for Spatial Transcriptomics and Histology Image Analysis",
NeurIPS 2024, arXiv 2406.16192): the features of a frozen encoder are standardised and projected on principal
components, and expression is regressed on those. Nothing is trained by gradient steps.

Deviations
    - The penalty is chosen by cross-validation over groups of training spots (patients, else slides, else stripes of
      the only slide). HEST-bench fixes it at 100 / (components x genes), which is very small: ``penalty="hest"``.
    - The features of several fields of view, from the same encoder, are concatenated. HEST-bench has one field of view,
      of 112 µm: ``fov_spots=(112 / 55,)`` for Visium.
    - Features are clipped (``clip=None`` turns this off).
    - The mean of the targets is added. HEST-bench adds none and does not centre its targets: ``intercept=False``
      predicts the same up to a constant for each gene, since features are centred.
    - The solution is exact, in double precision, not iterative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .._checks import models as check
from ._closed_form import Ridge, gather_training_spots
from ._frozen import EncoderConfig, FrozenEncoderModel, ScaleEncoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRidgeConfig(EncoderConfig):
    """Shape of an ``EncoderRidge``."""

    clip: float | None = 3.0
    """Features are clipped at this many standard deviations from the training mean, unless None."""
    n_components: int = 256
    """Maximum number of principal components of the features in the regression."""
    penalty: float | Literal["hest"] | None = None
    """Weight of the squared coefficients; None chooses it by cross-validation over groups; ``"hest"`` is 100 /
    (components x outputs)."""
    intercept: bool = True
    """Whether the mean of the targets is added."""
    standardize: Literal["training", "slide"] = "training"
    """Mean and spread by which features are standardised: those of the training spots, or those of each slide, shrunk
    by how much the training donors differ."""
    fov_spots: tuple[float, ...] = (1.5, 3.0, 9.0)

    def __post_init__(self) -> None:
        self.check_fields()
        check.clip(self.clip)
        check.penalty(self.penalty)


class EncoderRidge(FrozenEncoderModel):
    """Frozen encoder, standardisation, principal components, ridge regression."""

    config: EncoderRidgeConfig

    def __init__(self, config: EncoderRidgeConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.encoder, config.weights, config.n_features, config.size_px, len(config.fov_spots))
        self.views = ScaleEncoder(*shape)
        self.ridge = Ridge(self.views.n_features, config.n_outputs, config.clip)

    def initialize_at(self, mean: Tensor) -> None:
        """Make the model predict one profile for every spot."""
        self.ridge.constant(mean)

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Solve the regression; nothing else is learnt."""
        config, spots = self.config, gather_training_spots(batches, self.features_of)
        self.ridge.solve(spots, config.n_components, config.penalty, intercept=config.intercept)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        return self.ridge(self.features_of(batch))
