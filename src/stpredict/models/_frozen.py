"""Machinery of models with a frozen encoder: their options, sub-patches, features of every scale, standardisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn

from .._checks import models as check
from .._checks.encoders import embedding_width
from ._closed_form import Standardizer
from .contract import SpotModel, batch_features
from .encoder import NO_WEIGHTS, Encoder
from .encoder_table import STATISTICS, check_choice
from .model_config import GIVEN, PatchConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from torch import Tensor

    from .contract import SpotBatch

_CHUNK = 32
"""Spots that a frozen encoder sees at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig(PatchConfig):
    """The encoder of a model, and its patches."""

    encoder: str | tuple[str, ...] = STATISTICS
    """A key of `stp.models.encoders`, a name that timm knows, ``"statistics"`` (colour and texture, no weights), or
    several of them side by side; ``"given"``: embeddings of the spots (``features_key`` of `stp.tl.fit`)."""
    weights: str | tuple[str, ...] = NO_WEIGHTS
    """``"none"``, ``"timm"``, ``"hub"``, ``"hub@REVISION"``, ``"hub:OWNER/NAME"``, ``"local-dir:FOLDER"``, or the path
    of a checkpoint; one for all encoders or one for each."""
    n_features: int = 0
    """Width of the embeddings, for ``encoder="given"``."""

    def check_fields(self, n_scales: int | None = None) -> None:
        """Refuse fields that have no meaning, or do not fit together."""
        check.field_values(self, n_scales=n_scales)
        check_choice(self.encoder, self.weights)
        embedding_width(self.encoder, self.n_features)


class ScaleEncoder(nn.Module):
    """An encoder applied to each scale of a patch; without one if ``name`` is ``"given"``."""

    def __init__(
        self,
        name: str | tuple[str, ...],
        weights: str | tuple[str, ...],
        n_given: int,
        size_px: int,
        n_scales: int,
        *,
        frozen: bool = True,
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

    @property
    def encoder_key(self) -> Hashable | None:
        """Names and weights of the encoders, unless they are trained or random."""
        encoder = self.views.encoder
        if encoder is None or not encoder.frozen or any(part.is_random for part in encoder.parts):
            return None
        return encoder.name, encoder.weights

    def features_of(self, batch: SpotBatch) -> Tensor:
        """Features ``(b, n_features)`` of some spots, given or encoded; refuses those of another width."""
        return check.features_width(batch_features(self, batch), self.views.n_features)


def sub_patches(patches: Tensor, side: int) -> Tensor:
    """A grid of sub-patches, row by row: ``(b, 3, p, p)`` to ``(b, side * side, 3, p // side, p // side)``.

    Pixels at the border are dropped if ``side`` does not divide ``p``.
    """
    size = patches.shape[-1] // side * side
    first = (patches.shape[-1] - size) // 2
    inner = patches[..., first : first + size, first : first + size]
    return rearrange(inner, "b c (i y) (j x) -> b (i j) c y x", i=side, j=side)


def apply_in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of ``(b, ...)`` that treats rows independently to some rows at a time, to bound memory."""
    return torch.cat([function(part) for part in x.split(_CHUNK)])


class FeatureScaler(Standardizer):
    """Standardised features; mean and standard deviation are accumulated over batches of training spots."""

    @torch.no_grad()
    def initialize_from(self, model: SpotModel, batches: Iterable[SpotBatch]) -> Tensor:
        """Learn from all training spots, iterated once; returns the mean of their targets, ``(n_outputs,)``."""
        targets, n = [], 0
        total, squares = torch.zeros(2, len(self.mean), dtype=torch.float64)
        for batch in batches:
            targets.append(check.require_targets(batch.targets))
            rows = batch_features(model, batch).cpu().double().flatten(0, -2)
            n, total, squares = n + len(rows), total + rows.sum(dim=0), squares + rows.square().sum(dim=0)
        mean = total / n
        std = (squares / n - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))
        return torch.cat(targets).mean(dim=0)


class ScaledFeaturesModel(SpotModel):
    """A model that standardises the features of its frozen encoder, by ``standard``."""

    standard: FeatureScaler

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Compute the mean profile and the scale of the frozen features from the training spots."""
        self.initialize_at(self.standard.initialize_from(self, batches))
