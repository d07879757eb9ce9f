"""Embeddings as a task: the features of a frozen image encoder at every field of view, side by side."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange

from ... import _keys as keys
from ..._checks.slides import quote
from ..._train.batches import map_passes
from .partitions import X

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..._geometry import PatchSpec
    from ..._slides.embeddings import EmbeddingRecord
    from ..._train.batches import BatchLimit
    from ..._train.data import Piece
    from ...models import SpotBatch
    from ...models.encoder import Encoder
    from .partitions import Columns, Values
    from .plan import PredictionPlan


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTask:
    """An encoder, the patches that it sees, and what is recorded of both."""

    encoder: Encoder
    patch: PatchSpec
    record: EmbeddingRecord
    function: str = "stp.tl.embed"
    what: str = "embeddings"
    columns_are: str = "features"
    by: str = "encoder"

    @property
    def hash(self) -> str:
        """Digest of the encoder and its patches."""
        values = json.dumps([self.record.to_json(), self.patch.to_dict()], sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()

    @property
    def patches(self) -> tuple[PatchSpec, ...]:
        """The patches of all fields of view."""
        return (self.patch,)

    @property
    def uses_windows(self) -> bool:
        """Never: a spot is embedded by itself."""
        return False

    def columns(self, plan: PredictionPlan) -> Columns:  # noqa: ARG002  (that of a prediction needs it)
        """Shape per spot and dtype of every array that is computed, by name."""
        return {X: ((self.record.n_features,), np.dtype(np.float32)), keys.AT_BORDER: ((), np.dtype(bool))}

    @torch.inference_mode()
    def compute(self, plan: PredictionPlan, piece: Piece, inside: slice, fabric: Fabric, limit: BatchLimit) -> Values:
        """Embed some spots."""
        encoder = self.encoder.to(fabric.device).eval()

        def encode(batch: SpotBatch) -> torch.Tensor:
            with fabric.autocast():
                features = encoder(rearrange(batch.patches, "b s c y x -> (b s) c y x"))
            return rearrange(features, "(b s) d -> b (s d)", b=len(batch)).float().cpu()

        features = torch.cat(list(map_passes(encode, piece.spots, limit))).numpy()[inside]
        wrong = ~np.isfinite(features).all(axis=1)
        if wrong.any():
            slide = plan.slides[int(piece.spots.slide[0])]
            names = slide.obs_names[piece.rows[inside][wrong]].tolist()
            msg = (
                f"The encoder {quote(self.record.names)} gives NaN or infinite features at {len(names)} spots of "
                f"{slide.name!r}: {quote(names)}. Give `precision='32-true'`, or other weights."
            )
            raise ValueError(msg)
        return {X: features, keys.AT_BORDER: piece.flagged[inside]}
