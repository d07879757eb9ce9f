"""Models on the features of one encoder, applied to every scale, or on embeddings that came with the spots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange
from torch import nn

from .._checks import models as check
from .contract import SpotModel, batch_features
from .encoder import Encoder
from .model_config import GIVEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .contract import SpotBatch


class ScaleEncoder(nn.Module):
    """An encoder applied to each scale of a patch; without one if ``name`` is ``"given"``."""

    def __init__(
        self, name: str, weights: str, n_given: int, size_px: int, n_scales: int, *, frozen: bool = True
    ) -> None:
        super().__init__()
        self.size_px, self.n_scales = size_px, n_scales
        self.encoder = None if name == GIVEN else Encoder(name, weights, size_px, frozen=frozen)
        self.n_features = n_given if self.encoder is None else n_scales * self.encoder.n_features

    def forward(self, batch: SpotBatch) -> Tensor | None:
        """Features ``(b, n_features)``, scale after scale; None if embeddings come with the spots."""
        if self.encoder is None:
            return None
        check.patches(tuple(batch.patches.shape), self.n_scales, self.size_px)
        features: Tensor = self.encoder(rearrange(batch.patches, "b s c y x -> (b s) c y x"))
        return rearrange(features, "(b s) d -> b (s d)", s=self.n_scales)

    def load(self) -> dict[str, str]:
        """Load the named weights; returns what was loaded by part of the network."""
        loaded = "" if self.encoder is None else self.encoder.load()
        return {"encoder": loaded} if loaded else {}


class FrozenEncoderModel(SpotModel):
    """A model whose patches are encoded scale by scale, by ``views``."""

    views: ScaleEncoder

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights that the configuration names; returns what was loaded."""
        return self.views.load()

    def encode(self, batch: SpotBatch) -> Tensor | None:
        """Features ``(b, n_features)`` of every scale; None if embeddings come with the spots."""
        features: Tensor | None = self.views(batch)
        return features

    def features_of(self, batch: SpotBatch) -> Tensor:
        """Features ``(b, n_features)`` of some spots, given or encoded; refuses those of another width."""
        return check.features_width(batch_features(self, batch), self.views.n_features)


def check_encoder(encoder: str, weights: str, n_features: int, fov_spots: Sequence[float], size_px: int) -> None:
    """Refuse fields of a configuration that do not fit together."""
    check.text("encoder", encoder)
    check.text("weights", weights)
    check.embedding_width(encoder, n_features)
    check.fov_spots(fov_spots)
    check.positive_int("size_px", size_px)
