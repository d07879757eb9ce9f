"""Models on the features of one encoder, applied to every scale, or on embeddings that came with the spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from einops import rearrange
from torch import nn

from .._checks import models as check
from .contract import SpotModel, batch_features
from .encoder import NO_WEIGHTS, STATISTICS, Encoder
from .model_config import GIVEN, PatchConfig

if TYPE_CHECKING:
    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig(PatchConfig):
    """The encoder of a model, and its patches."""

    encoder: str = STATISTICS
    """``"statistics"`` (colour and texture, no weights), any name that timm knows, ``"hf-hub:owner/name"`` among them,
    or ``"given"``: embeddings that come with the spots (``features_key`` of `stp.tl.fit`)."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` (from its hub), or the path of a checkpoint."""
    n_features: int = 0
    """Width of the embeddings, for ``encoder="given"``."""

    def check_fields(self, n_scales: int | None = None) -> None:
        """Refuse fields that have no meaning, or do not fit together."""
        check.config_fields(self, n_scales=n_scales)
        check.embedding_width(self.encoder, self.n_features)


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


class FrozenEncoderModel(SpotModel):
    """A model whose patches are encoded scale by scale, by ``views``."""

    views: ScaleEncoder

    def encode(self, batch: SpotBatch) -> Tensor | None:
        """Features ``(b, n_features)`` of every scale; None if embeddings come with the spots."""
        features: Tensor | None = self.views(batch)
        return features

    def features_of(self, batch: SpotBatch) -> Tensor:
        """Features ``(b, n_features)`` of some spots, given or encoded; refuses those of another width."""
        return check.features_width(batch_features(self, batch), self.views.n_features)
