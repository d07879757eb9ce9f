"""TRIPLEX: three branches for the patch of a spot, a wide field of view around it and the whole section, fused.

Chung, Ha, Im and Lee, "Accurate Spatial Gene Expression Prediction by Integrating Multi-Resolution Features",
CVPR 2024, arXiv 2403.07592.

Names: target encoder -> ``target``; neighbor encoder -> ``around``; global encoder -> ``section``; APEG ->
``LatticeConv``; fusion layer -> ``fusion``; the outputs of the branches -> ``branches``.

Deviations
    - Both fields of view are patches of ``size_px``. Each of the 5 x 5 sub-patches of the wide one has a fifth of that
      along each side, and so a fifth of the paper's resolution; it is resized to ``view_px`` for the frozen encoder.
      Pixels at the border that make ``size_px`` indivisible by 5 are dropped (2 px of 224). Where the wide view leaves
      the slide it is white; there is no mask.
    - The lattice onto which APEG scatters tokens is computed from the coordinates of each window, every time: the
      published code keeps the size of the first slide. The convolution reads occupied places only and equals a dense
      one.
    - Dropout is off in evaluation; in the published code that of the global encoder stays on. It acts after attention
      and in MLPs, not on attention weights.
    - Outputs are not clamped at 0: targets are standardised, and a clamped output has no gradient. Labels are those of
      the spot, never means over its neighbourhood.
    - A step is one window of a section, not 128 spots of arbitrary sections, and "section" means that window.
    - Frozen features are standardised on the training spots. All heads start at zero weights and the mean profile.
    - Patches are not augmented: fits do not augment patches if frozen features are computed before training.
    - The paper initialises both encoders with Ciga's ResNet-18; here ``target_weights`` and ``view_weights`` say what
      is loaded.

At 250 outputs 29.3 M parameters are trained, as in the paper's configuration for HER2+ and cSCC (the default). That for
STNet is ``{"fusion_depth": 3, "section_depth": 3, "around_depth": 4, "fusion_heads": 16, "section_heads": 8,
"around_heads": 8, "section_mlp_ratio": 2.0, "around_mlp_ratio": 4.0, "fusion_dropout": 0.4}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._frozen import FeatureScaler, ScaledFeaturesModel, apply_in_chunks, sub_patches
from ._layers import attend, perceptron
from ._places import lattice_positions, rows_by_slide
from .contract import FloatLinear, batch_features
from .encoder import NO_WEIGHTS, Encoder
from .encoder_table import STATISTICS, check_choice
from .model_config import GIVEN, PatchConfig

if TYPE_CHECKING:
    from torch import Tensor

    from .contract import SpotBatch

SIDE = 5
"""Sub-patches along each side of the wide view."""
_PARTS = ("fusion", "section", "around")


@dataclass(frozen=True, kw_only=True, slots=True)
class TRIPLEXConfig(PatchConfig):
    """Shape of a ``TRIPLEX``. The defaults are the paper's for HER2+."""

    target_encoder: str = "resnet18"
    """Model name of timm, or a key of `stp.models.encoders`: the trained encoder of the spot's own patch."""
    target_weights: str = NO_WEIGHTS
    """Its initial weights, as ``weights`` of other models."""
    view_encoder: str | tuple[str, ...] = "resnet18"
    """The frozen encoder of the wide view and of the other spots: a key of `stp.models.encoders`, a model name of timm,
    ``"statistics"``, or several of them side by side."""
    view_weights: str | tuple[str, ...] = NO_WEIGHTS
    """Its weights, as ``weights`` of other models; one for all encoders or one for each."""
    view_px: int = 224
    """Side to which patches are resized for the frozen encoder; it determines the cost."""
    dim: int = 512
    """Width of a token."""
    fusion_depth: int = 1
    """Number of fusion layers."""
    section_depth: int = 3
    """Number of layers over the spots of the section; the lattice convolution follows the first."""
    around_depth: int = 3
    """Number of layers over the sub-patches of the wide view."""
    fusion_heads: int = 4
    """Number of attention heads of the fusion; divides ``dim``."""
    section_heads: int = 16
    """Number of attention heads over the section; divides ``dim``."""
    around_heads: int = 16
    """Number of attention heads over the wide view; divides ``dim``."""
    fusion_mlp_ratio: float = 4.0
    """Hidden width of an MLP of the fusion as a multiple of ``dim``."""
    section_mlp_ratio: float = 4.0
    """The same over the section."""
    around_mlp_ratio: float = 1.0
    """The same over the wide view."""
    fusion_dropout: float = 0.2
    """Dropout rate in the fusion."""
    section_dropout: float = 0.1
    """The same over the section."""
    around_dropout: float = 0.3
    """The same over the wide view."""
    agreement: float = 0.3
    """Weight in a branch's loss of the distance to the fused prediction; the rest is the distance to the targets."""
    fov_spots: tuple[float, ...] = (1.12, 5.6)
    """Field of view of the spot's own patch and of the wide view, in spot diameters."""
    context: Literal["slide"] = "slide"

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=2)
        check_choice(self.view_encoder, self.view_weights)
        check_choice(self.target_encoder, self.target_weights)
        if self.target_encoder in (STATISTICS, GIVEN):
            msg = (
                f"`target_encoder` is {self.target_encoder!r}, which is not a network to train. Give a name of timm, "
                "such as 'resnet18'."
            )
            raise ValueError(msg)
        for part in _PARTS:
            check.divides(f"{part}_heads", getattr(self, f"{part}_heads"), "dim", self.dim)
            check.number(f"{part}_mlp_ratio", getattr(self, f"{part}_mlp_ratio"), low=1 / self.dim, high=64)
            check.number(f"{part}_dropout", getattr(self, f"{part}_dropout"), low=0, high=1)
        check.number("agreement", self.agreement, low=0, high=1)
        check.splits_patch(self.size_px, SIDE)

    def shape_of(self, part: str) -> tuple[int, int, int, float, float]:
        """Depth, width, heads, MLP ratio and dropout of a part of the network."""
        names = ("depth", "heads", "mlp_ratio", "dropout")
        depth, heads, mlp_ratio, dropout = (getattr(self, f"{part}_{name}") for name in names)
        return depth, self.dim, heads, mlp_ratio, dropout


class TransformerLayer(nn.Module):
    """Pre-norm self-attention or cross-attention and an MLP, each with a residual connection."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.heads, hidden = heads, max(1, round(mlp_ratio * dim))
        self.norm = nn.LayerNorm(dim)
        self.ask, self.answer = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)  # queries; keys and values
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.mlp = perceptron(dim, hidden, dropout)

    def forward(self, x: Tensor, others: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Map ``(b, n, d)`` to the same shape; keys from ``others`` ``(b, m, d)``, ``bias`` ``(h, n, m)`` on scores."""
        queries = self.norm(x)
        keys = queries if others is None else self.norm(others)
        q = rearrange(self.ask(queries), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.answer(keys), "b m (kv h d) -> kv b h m d", kv=2, h=self.heads)
        x = x + self.out(attend(q, k, v, None if bias is None else bias.to(q.dtype)))
        mixed: Tensor = x + self.mlp(x)
        return mixed


def transformer_layers(depth: int, dim: int, heads: int, mlp_ratio: float, dropout: float) -> nn.ModuleList:
    """``depth`` layers of one shape."""
    return nn.ModuleList(TransformerLayer(dim, heads, mlp_ratio, dropout) for _ in range(depth))


class WideViewTransformer(nn.Module):
    """Layers over the sub-patches of the wide view with a learned attention bias for their relative distance."""

    places: Tensor

    def __init__(self, depth: int, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.layers = transformer_layers(depth, dim, heads, mlp_ratio, dropout)
        self.position_bias = nn.Parameter(torch.zeros(depth, heads, SIDE * SIDE))
        row, column = torch.arange(SIDE * SIDE) // SIDE, torch.arange(SIDE * SIDE) % SIDE
        distance = SIDE * (row[:, None] - row).abs() + (column[:, None] - column).abs()
        self.register_buffer("places", distance, persistent=False)  # (25, 25) indices into the bias

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(b, 25, d)`` to the same shape."""
        for layer, bias in zip(self.layers, self.position_bias, strict=True):
            x = layer(x, bias=bias[:, self.places])
        return x


class LatticeConv(nn.Module):
    """Depthwise 3 x 3 convolution over the lattice of a slide's spots, with a residual connection.

    Empty places are zero, and spots that share a place are averaged. There is no dense grid: memory grows with the
    number of spots, whatever their distances.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(9, dim)), nn.Parameter(torch.zeros(dim))
        nn.init.trunc_normal_(self.weight, std=0.1)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Map spots ``(n, d)`` to the same shape; ``places`` ``(n, 2)`` are columns and rows from 0."""
        columns = int(places[:, 0].max()) + 3  # a step to the left or right never ends in another row
        number, place = (places[:, 1] * columns + places[:, 0]).unique(return_inverse=True)
        occupied = x.new_zeros(len(number), x.shape[1]).index_add(0, place, x) / place.bincount()[:, None]
        total = self.bias.expand_as(occupied)
        for step, weight in enumerate(self.weight):
            wanted = number + (step // 3 - 1) * columns + step % 3 - 1
            found = torch.searchsorted(number, wanted).clamp_max(len(number) - 1)
            total = total + torch.where((number[found] == wanted)[:, None], occupied[found], 0) * weight
        return x + total[place]


class SectionTransformer(nn.Module):
    """Layers over all spots of a slide; a convolution after the first encodes their positions."""

    def __init__(self, depth: int, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.layers = transformer_layers(depth, dim, heads, mlp_ratio, dropout)
        self.positions = LatticeConv(dim)

    def forward(self, x: Tensor, xy_um: Tensor, slide: Tensor) -> Tensor:
        """Mix the spots ``(b, d)`` of each slide."""
        mixed, slides = [], rows_by_slide(slide)
        for rows in slides:
            first, *others = self.layers
            y = first(x[None, rows])  # (1, n, d)
            y = self.positions(y[0], lattice_positions(xy_um[rows]))[None]
            for layer in others:
                y = layer(y)
            mixed.append(y[0])
        return torch.cat(mixed)[torch.cat(slides).argsort()]


class TRIPLEX(ScaledFeaturesModel):
    """Three branches, for the spot, its surroundings and its section, and their fusion."""

    config: TRIPLEXConfig

    def __init__(self, config: TRIPLEXConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.views = Encoder(config.view_encoder, config.view_weights, config.view_px, frozen=True).eval()
        self.standard = FeatureScaler(self.views.n_features)
        self.target = Encoder(config.target_encoder, config.target_weights, config.size_px, frozen=False)
        self.embed_target = nn.Linear(self.target.token_width, dim)
        width = self.views.n_features
        self.embed_around, self.embed_section = (  # the paper has no map, since widths are equal
            nn.Identity() if width == dim else nn.Linear(width, dim) for _ in range(2)
        )
        self.around = WideViewTransformer(*config.shape_of("around"))
        self.section = SectionTransformer(*config.shape_of("section"))
        self.fusion = transformer_layers(*config.shape_of("fusion"))
        self.norm = nn.LayerNorm(dim)
        self.branches = nn.ModuleList(FloatLinear(dim, config.n_outputs) for _ in range(3))
        self.head = FloatLinear(dim, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained network and its branches predict ``mean``, ``(n_outputs,)``, everywhere."""
        super().initialize_at(mean)
        for branch in self.branches:
            branch.load_state_dict(self.head.state_dict())

    @torch.no_grad()
    def encode(self, batch: SpotBatch) -> Tensor:
        """Frozen features ``(b, 26, v)`` of the spot's own patch, then of the sub-patches row by row."""
        check.patches(tuple(batch.patches.shape), 2, self.config.size_px)
        return apply_in_chunks(self._encode_patches, batch.patches)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` for the spots of one or more windows; slides do not affect each other."""
        return self.head(self._embeddings(batch)[0])

    def loss(self, batch: SpotBatch) -> Tensor:
        """MSE of the fused prediction to the targets, and of each branch to the targets and the fused prediction."""
        targets, share = check.require_targets(batch.targets), self.config.agreement
        fused, *branches = self._embeddings(batch)
        y = self.head(fused)
        loss = F.mse_loss(y, targets)
        for head, embedding in zip(self.branches, branches, strict=True):
            own = head(embedding)
            loss = loss + (1 - share) * F.mse_loss(own, targets) + share * F.mse_loss(own, y)
        return loss

    def _embeddings(self, batch: SpotBatch) -> list[Tensor]:
        """One ``(b, d)`` for the fusion and each branch: own patch, wide view, section."""
        check.patches(tuple(batch.patches.shape), 2, self.config.size_px)
        features = self.standard(batch_features(self, batch))  # (b, 26, v)
        patches = batch.patches[:, 0]
        tokens = self.target.tokens(patches) if self.training else apply_in_chunks(self.target.tokens, patches)
        target = self.embed_target(tokens)  # (b, n, d)
        around = self.around(self.embed_around(features[:, 1:]))  # (b, 25, d)
        section = self.section(self.embed_section(features[:, 0]), batch.xy_um, batch.slide)  # (b, d)
        fused = sum((self._fuse(section, view) for view in (target, around)), torch.zeros_like(section))
        return [self.norm(fused), target.mean(dim=1), around.mean(dim=1), section]

    def _fuse(self, section: Tensor, tokens: Tensor) -> Tensor:
        """Cross-attention of the section's embedding of a spot, ``(b, d)``, to the tokens of one of its views."""
        query = section[:, None]
        for layer in self.fusion:
            query = layer(query, tokens)
        return query[:, 0]

    def _encode_patches(self, patches: Tensor) -> Tensor:
        """Map ``(b, 2, 3, p, p)`` to ``(b, 26, v)``."""
        around = sub_patches(patches[:, 1], SIDE)  # (b, 25, 3, p / 5, p / 5)
        own = self.views(patches[:, 0])[:, None]
        sub_features = rearrange(self.views(around.flatten(0, 1)), "(b n) v -> b n v", b=len(around))
        return torch.cat([own, sub_features], dim=1)
