"""HisToGene: a vision transformer whose tokens are the spots of a section, each its flattened patch and its position.

Pang, Su and Li, "Leveraging information in spatial transcriptomics to predict super-resolution gene expression from
histology images in tumors", bioRxiv 2021.11.28.470212.

Names: patch flattening and learnable linear layer -> ``patch``; position embeddings E_x, E_y -> ``PositionEmbedding``;
Vision Transformer -> ``section``; MLP head -> ``norm`` and ``head``.

Deviations
    - Positions are physical: distances from the corner of the window in units of the pitch of the training spots, with
      linear interpolation between position embeddings. The published code counts rows and columns of the array and
      fails beyond 64; here spots farther out get the last embedding, and denser points (super-resolution) get values
      between those of the spots.
    - A window is a section of at most ``FitConfig.window`` spots; larger sections are halved. Slides do not affect
      each other.
    - Pixels are in [-1, 1], not 0 to 255, and position embeddings start small: with inputs of up to 255 and a learning
      rate of 1e-5, training would first have to undo the random initialisation.
    - Patches have a physical size, one spot diameter, because 112 px are 102 µm on one patient and 77 µm on others.
    - The head starts at zero weights and the mean profile.
    - The paper uses no validation data; here the best epoch is kept if slides are held out.

The published size needs a GPU. On a CPU, ``{"dim": 128, "depth": 2, "heads": 4, "mlp_dim": 256, "size_px": 32}``
(0.71 M parameters at 250 outputs) with a learning rate of 1e-3 trains a section of 1,000 spots in less than a second
per epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import nn

from .._checks import models as check
from ._layers import attend, perceptron, split_heads
from ._places import PITCH_UM, concatenate_spots, rows_by_slide, typical_pitch
from ._precision import unit_pixels
from .contract import FloatLinear, SpotModel
from .model_config import PatchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class HisToGeneConfig(PatchConfig):
    """Shape of a ``HisToGene``. The defaults are those of the published tutorial."""

    dim: int = 1024
    """Width of a token (spot)."""
    depth: int = 8
    """Number of transformer layers."""
    heads: int = 16
    """Number of attention heads; divides ``dim``."""
    mlp_dim: int = 2048
    """Hidden width of an MLP."""
    dropout: float = 0.1
    """Dropout rate: of tokens, after attention and in MLPs."""
    n_places: int = 64
    """Number of position embeddings along each axis, one per pitch."""
    fov_spots: tuple[float, ...] = (1.0,)
    size_px: int = 112
    context: Literal["slide"] = "slide"

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=1)
        check.divides("heads", self.heads, "dim", self.dim)
        check.number("dropout", self.dropout, low=0, high=1)


class PositionEmbedding(nn.Module):
    """Sum of learned embeddings along x and along y, linearly interpolated between integer positions."""

    def __init__(self, n: int, dim: int) -> None:
        super().__init__()
        self.positions = nn.ParameterList(nn.Parameter(torch.empty(n, dim)) for _ in range(2))
        for parameter in self.positions:
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, xy: Tensor) -> Tensor:
        """Embed the spots of one window: ``(n, 2)`` in pitches to ``(n, d)``."""
        x, y = (xy - xy.amin(dim=0)).unbind(dim=1)
        return interpolate_rows(self.positions[0], x) + interpolate_rows(self.positions[1], y)


def interpolate_rows(table: Tensor, position: Tensor) -> Tensor:
    """Rows of ``(m, d)`` at real-valued positions ``(n,)``; beyond the last row, the last row."""
    position = position.clamp(max=len(table) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=len(table) - 1)
    return torch.lerp(table[low], table[high], (position - low)[:, None])


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and MLP, each with a residual connection."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.mlp = perceptron(dim, hidden, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the spots of one window: ``(1, n, d)`` to ``(1, n, d)``."""
        x = x + self.out(attend(*split_heads(self.qkv(self.norm(x)), self.heads)))
        mixed: Tensor = x + self.mlp(x)
        return mixed


class SectionTransformer(nn.Module):
    """A transformer over the spots of each slide, with position embeddings."""

    def __init__(self, dim: int, depth: int, heads: int, hidden: int, dropout: float, n_places: int) -> None:
        super().__init__()
        self.places = PositionEmbedding(n_places, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(TransformerLayer(dim, heads, hidden, dropout) for _ in range(depth)))

    def forward(self, x: Tensor, xy: Tensor, slide: Tensor) -> Tensor:
        """Mix the spots ``(b, d)`` of each slide; ``xy`` ``(b, 2)`` in pitches, ``slide`` ``(b,)``."""
        slides = rows_by_slide(slide)
        mixed = [self.layers(self.dropout(x[rows] + self.places(xy[rows]))[None])[0] for rows in slides]
        return torch.cat(mixed)[torch.cat(slides).argsort()]


class HisToGene(SpotModel):
    """A section as a sequence: every spot attends to every other spot of its window."""

    config: HisToGeneConfig
    pitch_um: Tensor

    def __init__(self, config: HisToGeneConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("pitch_um", torch.tensor(PITCH_UM))
        self.patch = nn.Linear(3 * config.size_px**2, config.dim)
        shape = (config.dim, config.depth, config.heads, config.mlp_dim, config.dropout, config.n_places)
        self.section = SectionTransformer(*shape)
        self.norm = nn.LayerNorm(config.dim)
        self.head = FloatLinear(config.dim, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Compute the mean profile and the pitch of the training spots."""
        spots = concatenate_spots(pieces)
        super().initialize_from([spots])
        self.pitch_um.fill_(typical_pitch(spots))

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``; the spots of a slide affect each other."""
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        pixels = 2 * rearrange(unit_pixels(batch.patches), "b s c y x -> b (s c y x)") - 1  # (b, 3 * p * p)
        x = self.section(self.patch(pixels), batch.xy_um / self.pitch_um, batch.slide)  # (b, d)
        return self.head(self.norm(x))
