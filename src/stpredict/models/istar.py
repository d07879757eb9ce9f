"""iStar: every superpixel of a spot is described by a frozen hierarchy and predicted; their mean is the spot.

Zhang, Schroeder, Yan, Yang, Hu, Lee, Cho, Susztak, Xu, Feldman, Lee, Furth, Wang and Li, "Inferring super-resolution
tissue architecture by integrating spatial transcriptomics with histology", Nat. Biotechnol. 2024,
doi 10.1038/s41587-023-02019-9. Features after Chen et al., "Scaling Vision Transformers to Gigapixel Images via
Hierarchical Self-Supervised Learning" (HIPT), CVPR 2022, arXiv 2206.02647.

Names: sub tokens -> tokens of the narrowest patch; cls tokens of the 4096-px region -> ``context``, the same
descriptors from wider patches; the MLP of the paper -> ``mlp`` and ``head``; spot disc -> ``disc``.

Deviations
    - The region is seen through wider patches of the same number of pixels, described by the same network, smoothed
      and read where the superpixel lies. HIPT's second transformer wants 16 x 16 patches of 256 px at full resolution,
      which a spot's patches do not hold; it is left out, and so are the 16 shifted passes over the slide.
    - Without weights (``encoder="statistics"``, the default) a superpixel is described by colour and texture of windows
      of several widths around it. ``"hipt"`` is the network of HIPT's first level; its weights are a local checkpoint
      under timm's names for patches of ``size_px``.
    - Targets are standardised, so the last layer has no ELU. Features are standardised on the training spots; the
      released code computes that and throws it away. The head starts at zero weights and the mean profile.
    - Superpixels on the rim of the disc count by the share of their area inside.
    - ``FitConfig.n_members`` networks (five) are averaged; the paper takes their median.
    - The paper trains on the slide that it resolves; here that is the caller's choice, and other slides work.
    - A spot's prediction depends on its own patches alone, so the context is ``"spot"``: batches are of any spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._features import FeatureScaler, apply_in_chunks
from ._precision import full_precision, unit_pixels
from .contract import FloatLinear, SpotModel, batch_features
from .encoder import NO_WEIGHTS, STATISTICS, Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

HIPT = "hipt"
"""The network of HIPT's first level."""
_HIPT_IN_TIMM = "vit_small_patch16_224"
N_COLOR, N_TEXTURE = 3, 9
_RAYS = 16  # points along each side of a superpixel by which its share of the disc is measured


@dataclass(frozen=True, kw_only=True, slots=True)
class IStarConfig:
    """Shape of an ``IStar``. The head is the paper's."""

    n_outputs: int
    """Number of values predicted per spot."""
    encoder: str = STATISTICS
    """What describes superpixels: ``"statistics"``, ``"hipt"``, or a name of timm with one square grid of tokens."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` for those that timm knows, or the path of a checkpoint."""
    cells: int = 16
    """Superpixels along each side of the narrowest patch."""
    smoothing: int = 4
    """Width in superpixels of the window over which descriptors are averaged; those of wider patches too."""
    dim: int = 256
    """Width of the hidden layers."""
    depth: int = 4
    """Hidden layers."""
    fov_spots: tuple[float, ...] = (1.28, 2.56, 5.12)
    """Field of view of each scale in spot diameters, narrowest first; superpixels are those of the first."""
    size_px: int = 256
    """Side in pixels of the patch of every scale."""
    context: Literal["spot"] = "spot"
    """What one prediction sees: the patches of one spot."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "cells", "smoothing", "dim", "depth", "size_px"):
            check.positive_int(name, getattr(self, name))
        for name in ("encoder", "weights"):
            check.text(name, getattr(self, name))
        check.fov_spots(self.fov_spots)
        check.superpixel_grid(self.cells, self.size_px)
        check.spot_resolved(self.fov_spots[0], _RAYS * self.cells / 2)
        check.choice("context", self.context, ("spot",))


def disc(cells: int, fov_spots: float) -> Tensor:
    """Share of each superpixel in the spot.

    Parameters
    ----------
    cells
        Superpixels along each side of the patch.
    fov_spots
        Side of the patch in spot diameters.

    Returns
    -------
    ``(cells * cells,)`` float32, row by row: area inside the disc around the centre, together 1.
    """
    points = (torch.arange(cells * _RAYS) + 0.5) / (cells * _RAYS) - 0.5
    inside = (points.square() + points[:, None].square()).sqrt() <= 0.5 / fov_spots
    area: Tensor = rearrange(inside.float(), "(i y) (j x) -> (i j) (y x)", y=_RAYS, x=_RAYS).sum(dim=-1)
    return area / area.sum()


def smoothed(grid: Tensor, width: int) -> Tensor:
    """Mean over a square of ``width`` around each place of ``(b, d, h, w)``, cut off at the border."""
    height, across = grid.shape[-2:]
    before, after = (width - 1) // 2, width // 2
    ones = grid.new_ones(1, 1, height, across)
    total, n = (F.avg_pool2d(F.pad(x, (before, after, before, after)), width, stride=1) for x in (grid, ones))
    return total / n


def texture(patches: Tensor, cells: int, widths: tuple[int, ...]) -> Tensor:
    """Colour and texture around each superpixel, in windows of several widths.

    Parameters
    ----------
    patches
        ``(b, 3, p, p)`` uint8, or floating point in [0, 1].
    cells
        Superpixels along each side.
    widths
        Of the windows, in superpixels.

    Returns
    -------
    ``(b, len(widths) * 9, cells, cells)``: mean and standard deviation of the optical density of each channel, and
    logarithm of its mean gradient.
    """
    density = unit_pixels(patches).float().clamp_min(1 / 255).log_().neg_()
    right, down = (F.pad(density.diff(dim=axis).abs_(), pad) for axis, pad in ((-1, (0, 1)), (-2, (0, 0, 0, 1))))
    pool = density.shape[-1] // cells
    grid = F.avg_pool2d(torch.cat([density, density.square(), right.add_(down).div_(2)], dim=1), pool)
    found = []
    for width in widths:
        mean, square, gradient = smoothed(grid, width).chunk(3, dim=1)
        std = (square - mean.square()).clamp_min(1e-8).sqrt()
        found += [mean, std, (gradient + 1e-3).log()]
    return torch.cat(found, dim=1)


def read_inside(grid: Tensor, share: float, cells: int) -> Tensor:
    """The central ``share`` of the side of ``(b, d, h, w)``, between its places, at ``cells`` x ``cells`` places."""
    at = ((torch.arange(cells, device=grid.device) + 0.5) / cells * 2 - 1) * share
    places = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1)
    repeated = places.expand(len(grid), -1, -1, -1).to(grid.dtype)
    return F.grid_sample(grid, repeated, padding_mode="border", align_corners=False)


class IStar(SpotModel):
    """A perceptron that predicts every superpixel, trained on means over spots.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> model = models.build(models.config("istar", 5, {"cells": 4, "size_px": 32}))
    >>> patches = torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8)
    >>> batch = models.SpotBatch(patches=patches, xy_um=torch.zeros(2, 2), slide=torch.zeros(2, dtype=torch.long))
    >>> model(batch).shape, model.superpixels(batch).shape
    (torch.Size([2, 5]), torch.Size([2, 16, 5]))
    """

    config: IStarConfig
    shares: Tensor

    def __init__(self, config: IStarConfig) -> None:
        super().__init__()
        self.config = config
        name = _HIPT_IN_TIMM if config.encoder == HIPT else config.encoder
        statistics, n_scales = name == STATISTICS, len(config.fov_spots)
        self.encoder = None if statistics else Encoder(name, config.weights, config.size_px, frozen=True).eval()
        width = 2 * N_TEXTURE if self.encoder is None else int(self.encoder.net.num_features)  # type: ignore[arg-type]
        self.standard = FeatureScaler(n_scales * width + N_COLOR)
        self.mlp = perceptron(n_scales * width + N_COLOR, config.dim, config.depth)
        self.head = FloatLinear(config.dim, config.n_outputs)
        self.register_buffer("shares", disc(config.cells, config.fov_spots[0]), persistent=False)
        self.initialize_at(torch.zeros(config.n_outputs))

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the mean profile and the scale of the frozen features from the training spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        self.initialize_at(self.standard.initialize_from(self, pieces))

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights of the encoder, where any are named.

        Returns
        -------
        What was loaded, in words, for ``"encoder"``.
        """
        loaded = "" if self.encoder is None else self.encoder.load()
        return {"encoder": loaded} if loaded else {}

    @torch.no_grad()
    def encode(self, batch: SpotBatch) -> Tensor:
        """Describe the superpixels of the narrowest patch.

        Parameters
        ----------
        batch
            The spots; each is seen alone.

        Returns
        -------
        ``(b, cells * cells, d)`` float32, row by row: what lies there, what lies around it in wider and wider patches,
        and its mean colour.
        """
        check.patches(tuple(batch.patches.shape), len(self.config.fov_spots), self.config.size_px)
        return apply_in_chunks(self._described, batch.patches)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict the spots: means of what `superpixels` gives, over the disc of each spot.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """
        inside = self.shares > 0
        hidden = self.mlp(self.standard(batch_features(self, batch)[:, inside]))
        with full_precision(hidden.device):
            mean = torch.einsum("bmd,m->bd", hidden.float(), self.shares[inside])
        y: Tensor = self.head(mean)
        return y

    def superpixels(self, batch: SpotBatch) -> Tensor:
        """Predict every superpixel of the narrowest patch, those beyond the spot too.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, cells * cells, n_outputs)`` float32, row by row, in target space.
        """
        y: Tensor = self.head(self.mlp(self.standard(batch_features(self, batch))))
        return y

    def _described(self, patches: Tensor) -> Tensor:
        """``(b, s, 3, p, p)`` to ``(b, m, d)``."""
        fov, cells = self.config.fov_spots, self.config.cells
        grids = []
        for scale, width in enumerate(fov):
            grid = self._grid(patches[:, scale])
            grids.append(grid if scale == 0 and grid.shape[-1] == cells else read_inside(grid, fov[0] / width, cells))
        color = F.adaptive_avg_pool2d(unit_pixels(patches[:, 0]).float(), cells)
        return torch.cat([*(grid.float() for grid in grids), color], dim=1).flatten(2).transpose(1, 2)

    def _grid(self, patches: Tensor) -> Tensor:
        """Descriptors of one scale over its patch, smoothed: ``(b, 3, p, p)`` to ``(b, d, h, h)``."""
        if self.encoder is None:
            return texture(patches, self.config.cells, (1, self.config.smoothing))
        tokens = self.encoder.tokens(patches)
        side = check.square_grid(tokens.shape[1], round(tokens.shape[1] ** 0.5), self.encoder.name)
        grid: Tensor = rearrange(tokens, "b (i j) d -> b d i j", i=side)
        return smoothed(grid, min(self.config.smoothing, side))


def perceptron(n_features: int, dim: int, depth: int) -> nn.Sequential:
    """Hidden layers: ``(..., n_features)`` to ``(..., dim)``."""
    widths = [n_features] + [dim] * depth
    layers = ([nn.Linear(i, o), nn.LeakyReLU(0.1)] for i, o in pairwise(widths))
    return nn.Sequential(*(layer for pair in layers for layer in pair))
