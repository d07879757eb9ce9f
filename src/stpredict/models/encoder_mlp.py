"""A multilayer perceptron on the features of a frozen image encoder.

The usual way to use a pathology encoder (for instance Chen et al., "Towards a general-purpose foundation model for
computational pathology", Nat. Med. 2024, doi 10.1038/s41591-024-02857-3): the features of `encoder_ridge`, standardised
and projected on the principal components of the training spots, then a multilayer perceptron with dropout.

Our choices
    - Components keep their relative sizes (one number divides all): small ones are mostly noise, which dividing each
      component by its own standard deviation would amplify.
    - The encoder runs once, before training, on the patches without augmentation: no flips, no stain jitter.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from .._checks import models as check
from ._closed_form import PrincipalComponents, gather_training_spots
from ._frozen import EncoderConfig, FrozenEncoderModel, ScaleEncoder
from .contract import FloatLinear

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderMLPConfig(EncoderConfig):
    """Shape of an ``EncoderMLP``."""

    clip: float | None = 3.0
    """Features are clipped at this many standard deviations from the training mean, unless None."""
    n_components: int = 256
    """Maximum number of principal components of the features, the input of the network."""
    hidden: int = 256
    """Width of the hidden layers."""
    depth: int = 1
    """Number of hidden layers."""
    dropout: float = 0.5
    """Dropout rate after each hidden layer."""
    fov_spots: tuple[float, ...] = (1.5, 3.0, 9.0)

    def __post_init__(self) -> None:
        self.check_fields()
        check.clip(self.clip)
        check.number("dropout", self.dropout, low=0, high=1)


class EncoderMLP(FrozenEncoderModel):
    """Frozen encoder, standardisation, principal components, multilayer perceptron."""

    config: EncoderMLPConfig

    def __init__(self, config: EncoderMLPConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.encoder, config.weights, config.n_features, config.size_px, len(config.fov_spots))
        self.views = ScaleEncoder(*shape)
        self.components = PrincipalComponents(self.views.n_features, config.n_components, config.clip)
        widths = [len(self.components.axes), *[config.hidden] * config.depth]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(before, after), nn.GELU(), nn.Dropout(config.dropout))
                for before, after in pairwise(widths)
            )
        )
        self.head = FloatLinear(config.hidden, config.n_outputs)

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Compute the scale and components of the features, and the mean profile, from the training spots."""
        spots = gather_training_spots(batches, self.features_of)
        self.components.solve(spots.features)
        self.initialize_at(spots.targets.mean(dim=0))

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        return self.head(self.layers(self.components(self.features_of(batch))))
