"""iStar: weakly supervised super-resolution; a spot is the mean of the predictions for its superpixels.

Zhang, Schroeder, Yan, Yang, Hu, Lee, Cho, Susztak, Xu, Feldman, Lee, Furth, Wang and Li, "Inferring super-resolution
tissue architecture by integrating spatial transcriptomics with histology", Nat. Biotechnol. 2024,
doi 10.1038/s41587-023-02019-9. Features after Chen et al., "Scaling Vision Transformers to Gigapixel Images via
Hierarchical Self-Supervised Learning" (HIPT), CVPR 2022, arXiv 2206.02647.

Names: sub tokens -> tokens of the narrowest patch; cls tokens of the 4096-px region -> the same features of wider
patches; the MLP of the paper -> ``mlp`` and ``head``; spot disc -> ``disc_weights``.

Deviations
    - The surrounding region is represented by wider patches of the same number of pixels, encoded by the same network,
      smoothed and sampled at the position of the superpixel. HIPT's second transformer needs 16 x 16 patches of 256 px
      at full resolution, which the patches of a spot do not contain; it is left out, and so are the 16 shifted passes
      over the slide.
    - Without weights (``encoder="statistics"``, the default) the features of a superpixel are colour and texture in
      windows of two widths around it. ``"hipt"`` is the architecture of HIPT's first level; its weights are a local
      checkpoint under timm's names for patches of ``size_px``.
    - Targets are standardised, so the last layer has no ELU. Features are standardised on the training spots; the
      released code computes these statistics and does not use them. The head starts at zero weights and the mean
      profile.
    - Superpixels on the edge of the disc are weighted by the share of their area inside.
    - The mean of ``FitConfig.n_members`` networks (five) is predicted; the paper uses their median.
    - The paper trains on the slide for which it predicts superpixels; here the caller chooses, and other slides work.
    - The prediction for a spot depends on its own patches only, so the context is ``"spot"``: a batch may hold any
      spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._frozen import FeatureScaler, ScaledFeaturesModel, apply_in_chunks
from ._precision import full_precision, unit_pixels
from .contract import FloatLinear, batch_features
from .encoder import NO_WEIGHTS, Encoder
from .encoder_table import STATISTICS, check_choice
from .model_config import PatchConfig

if TYPE_CHECKING:
    from torch import Tensor

    from .contract import SpotBatch

HIPT = "hipt"
"""The architecture of HIPT's first level."""
_HIPT_IN_TIMM = "vit_small_patch16_224"
N_COLOR, N_TEXTURE = 3, 9
_SUBSAMPLES = 16  # points along each side of a superpixel that measure its share of the disc


@dataclass(frozen=True, kw_only=True, slots=True)
class IStarConfig(PatchConfig):
    """Shape of an ``IStar``. The head is the paper's."""

    encoder: str = STATISTICS
    """Encoder of superpixels: ``"statistics"``, ``"hipt"``, a key of `stp.models.encoders`, or a model name of timm
    with one square grid of tokens."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"``, ``"hub"``, ``"hub@REVISION"``, ``"hub:OWNER/NAME"``, ``"local-dir:FOLDER"``, or the path
    of a checkpoint."""
    cells: int = 16
    """Number of superpixels along each side of the narrowest patch."""
    smoothing: int = 4
    """Width in cells of the window over which features are averaged, at every scale."""
    dim: int = 256
    """Width of the hidden layers."""
    depth: int = 4
    """Number of hidden layers."""
    fov_spots: tuple[float, ...] = (1.28, 2.56, 5.12)
    """Superpixels are those of the first."""
    size_px: int = 256

    def __post_init__(self) -> None:
        check.field_values(self)
        check_choice(self.encoder, self.weights)
        if self.size_px % self.cells:
            msg = (
                f"`size_px` is {self.size_px}, which is not divisible into {self.cells} x {self.cells} superpixels "
                f"(`cells`). Give a multiple of {self.cells} as `size_px`, such as "
                f"{-(-self.size_px // self.cells) * self.cells}."
            )
            raise ValueError(msg)
        widest = _SUBSAMPLES * self.cells / 2
        if self.fov_spots[0] > widest:
            msg = (
                f"`fov_spots` begins with {self.fov_spots[0]}; superpixels are those of this patch, in which the spot "
                f"is then smaller than a sampling point. Give at most {widest:g}, such as 1.28, or more `cells`."
            )
            raise ValueError(msg)


def disc_weights(cells: int, fov_spots: float) -> Tensor:
    """Share of the spot's area in each of ``(cells * cells,)`` superpixels, row by row; the sum is 1."""
    points = (torch.arange(cells * _SUBSAMPLES) + 0.5) / (cells * _SUBSAMPLES) - 0.5
    inside = (points.square() + points[:, None].square()).sqrt() <= 0.5 / fov_spots
    subsampled = rearrange(inside.float(), "(i y) (j x) -> (i j) (y x)", y=_SUBSAMPLES, x=_SUBSAMPLES)
    area: Tensor = subsampled.sum(dim=-1)
    return area / area.sum()


def box_filter(grid: Tensor, width: int) -> Tensor:
    """Mean over a ``width`` x ``width`` window around each place of ``(b, d, h, w)``, cropped at the border."""
    rows, columns = grid.shape[-2:]
    before, after = (width - 1) // 2, width // 2
    ones = grid.new_ones(1, 1, rows, columns)
    total, n = (F.avg_pool2d(F.pad(x, (before, after, before, after)), width, stride=1) for x in (grid, ones))
    return total / n


def color_and_texture(patches: Tensor, cells: int, widths: tuple[int, ...]) -> Tensor:
    """Colour and texture of each superpixel in windows of several widths (in superpixels).

    ``(b, 3, p, p)`` to ``(b, len(widths) * 9, cells, cells)``: mean and standard deviation of the optical density of
    each channel, and logarithm of its mean gradient.
    """
    density = unit_pixels(patches).float().clamp_min(1 / 255).log_().neg_()
    right, down = (F.pad(density.diff(dim=axis).abs_(), pad) for axis, pad in ((-1, (0, 1)), (-2, (0, 0, 0, 1))))
    pool = density.shape[-1] // cells
    grid = F.avg_pool2d(torch.cat([density, density.square(), right.add_(down).div_(2)], dim=1), pool)
    features = []
    for width in widths:
        mean, square, gradient = box_filter(grid, width).chunk(3, dim=1)
        std = (square - mean.square()).clamp_min(1e-8).sqrt()
        features += [mean, std, (gradient + 1e-3).log()]
    return torch.cat(features, dim=1)


def sample_center(grid: Tensor, share: float, cells: int) -> Tensor:
    """Interpolate the central ``share`` of the side of ``(b, d, h, w)`` at ``cells`` x ``cells`` places."""
    at = ((torch.arange(cells, device=grid.device) + 0.5) / cells * 2 - 1) * share
    places = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1)
    repeated = places.expand(len(grid), -1, -1, -1).to(grid.dtype)
    return F.grid_sample(grid, repeated, padding_mode="border", align_corners=False)


def hidden_layers(n_features: int, dim: int, depth: int) -> nn.Sequential:
    """The perceptron without its last layer: ``(..., n_features)`` to ``(..., dim)``."""
    widths = [n_features] + [dim] * depth
    layers = ([nn.Linear(i, o), nn.LeakyReLU(0.1)] for i, o in pairwise(widths))
    return nn.Sequential(*(layer for pair in layers for layer in pair))


class IStar(ScaledFeaturesModel):
    """A perceptron that predicts every superpixel, trained on the means over spots."""

    config: IStarConfig
    shares: Tensor

    def __init__(self, config: IStarConfig) -> None:
        super().__init__()
        self.config = config
        name = _HIPT_IN_TIMM if config.encoder == HIPT else config.encoder
        statistics, n_scales = name == STATISTICS, len(config.fov_spots)
        self.encoder = None if statistics else Encoder(name, config.weights, config.size_px, frozen=True).eval()
        width = 2 * N_TEXTURE if self.encoder is None else self.encoder.token_width
        self.standard = FeatureScaler(n_scales * width + N_COLOR)
        self.mlp = hidden_layers(n_scales * width + N_COLOR, config.dim, config.depth)
        self.head = FloatLinear(config.dim, config.n_outputs)
        self.register_buffer("shares", disc_weights(config.cells, config.fov_spots[0]), persistent=False)
        self.initialize_at(torch.zeros(config.n_outputs))

    @torch.no_grad()
    def encode(self, batch: SpotBatch) -> Tensor:
        """Features ``(b, cells * cells, d)`` of the superpixels, row by row: all scales, then the mean colour."""
        check.patches(tuple(batch.patches.shape), len(self.config.fov_spots), self.config.size_px)
        return apply_in_chunks(self._encode_patches, batch.patches)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``: the mean of `superpixels`, weighted by their share of the spot.

        The last layer is linear, so hidden values are averaged before it.
        """
        inside = self.shares > 0
        hidden = self.mlp(self.standard(batch_features(self, batch)[:, inside]))
        with full_precision(hidden.device):
            mean = torch.einsum("bmd,m->bd", hidden.float(), self.shares[inside])
        return self.head(mean)

    def superpixels(self, batch: SpotBatch) -> Tensor:
        """Predict every superpixel of the narrowest patch, ``(b, cells * cells, n_outputs)`` float32, row by row."""
        return self.head(self.mlp(self.standard(batch_features(self, batch))))

    def _encode_patches(self, patches: Tensor) -> Tensor:
        """Map ``(b, s, 3, p, p)`` to ``(b, m, d)``."""
        fov, cells = self.config.fov_spots, self.config.cells
        grids = []
        for scale, width in enumerate(fov):
            grid = self._feature_grid(patches[:, scale])  # (b, d, h, h)
            at_cells = scale == 0 and grid.shape[-1] == cells
            grids.append(grid.float() if at_cells else sample_center(grid, fov[0] / width, cells).float())
        color = F.adaptive_avg_pool2d(unit_pixels(patches[:, 0]).float(), cells)
        return rearrange(torch.cat([*grids, color], dim=1), "b d i j -> b (i j) d")

    def _feature_grid(self, patches: Tensor) -> Tensor:
        """Smoothed features of one scale: ``(b, 3, p, p)`` to ``(b, d, h, h)``."""
        if self.encoder is None:
            return color_and_texture(patches, self.config.cells, (1, self.config.smoothing))
        tokens = self.encoder.tokens(patches)
        n_tokens = tokens.shape[1]
        side = round(n_tokens**0.5)
        if side * side != n_tokens:
            msg = (
                f"{self.encoder.name!r} gives {n_tokens} tokens per patch, which is not a square grid. Give "
                "another `encoder` or `size_px`."
            )
            raise ValueError(msg)
        grid: Tensor = rearrange(tokens, "b (i j) d -> b d i j", i=side)
        return box_filter(grid, min(self.config.smoothing, side))
