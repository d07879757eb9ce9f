"""Hist2ST: texture by convolutions, the section by a transformer, the surroundings by a graph; counts teach too.

Zeng, Wei, Yu, Yin, Yuan, Li and Yang, "Spatial transcriptomics prediction from histology jointly through Transformer
and graph neural networks", Briefings in Bioinformatics 23(5), 2022.

Names: Convmixer -> ``Texture``; Transformer -> ``Section`` (of ``histogene``); GraphSAGE layers -> ``Around``; LSTM ->
``summary``; ZINB heads -> ``Counts``; self-distillation -> ``weigh`` and `Hist2ST.loss`.

Deviations
    - Neighbours are an index of four positions a spot, not an adjacency matrix: memory grows with the spots, not with
      their square. They are the four nearest within two pitches, the pitch being that of the training spots.
    - The mean over neighbours counts the spot itself (the GCN aggregator of Hamilton et al. 2017). The published code
      divides by the number of neighbours, which gives NaN for a spot without any.
    - Positions are physical (see ``histogene``), pixels are in [-1, 1], patches are one spot diameter wide.
    - The regression is of the targets as given, maybe of their principal components. The likelihood is of the counts of
      the genes themselves (``n_genes``, which `stp.tl.fit` sets); without counts it is left out. Counts of a spot are
      compared with the median of its slide's in the batch.
    - Distilled views turn by right angles, so that no corner is filled.
    - The heads start at zero weights and the mean profiles of targets and of counts: started at random, the likelihood
      was 46 of a loss whose rest was 2 on synthetic slides. The rate falls along a cosine, not in steps.
    - The published code watches the test section while it trains; here validation is what `stp.tl.fit` holds out.

In training, batch norm sees the whole batch; with windows (``FitConfig.window``) that is one slide.

A step runs the network six times. On a CPU, ``{"size_px": 28, "channels": 16, "depth": 2, "heads": 2, "mlp_dim": 64}``
(64 numbers a spot) with a rate of 1e-3 trains a section of 1,000 spots in about two seconds an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._counts import Counts, library
from ._places import PITCH_UM, concatenate_spots, nearest_spots, typical_pitch
from ._precision import unit_pixels
from .contract import FloatLinear, SpotModel
from .histogene import Section

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

_GRAYSCALE, _MIRRORED = 0.1, 0.2
"""Share of distilled views without colour, and of mirrored ones."""
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hist2STConfig:
    """Shape of a ``Hist2ST``. The defaults are the paper's, ``5-7-2-8-4-16-32``."""

    n_outputs: int
    """Number of values predicted per spot."""
    kernel_size: int = 5
    """Side of the depthwise kernels."""
    patch_size: int = 7
    """Side in pixels of what the first convolution makes one place; divides ``size_px``."""
    conv_depth: int = 2
    """Blocks of convolutions."""
    depth: int = 8
    """Layers of the transformer."""
    graph_depth: int = 4
    """Layers of the graph."""
    heads: int = 16
    """Attention heads; divides the width of a spot, which is ``n_kept`` a place."""
    channels: int = 32
    """Channels of the convolutions."""
    n_kept: int = 4
    """Channels that are kept of them at the end."""
    mlp_dim: int = 1024
    """Hidden width of an MLP."""
    dropout: float = 0.2
    """Share of activations dropped in training."""
    n_places: int = 64
    """Embeddings of positions along each axis, one a pitch."""
    n_neighbours: int = 4
    """Neighbours of a spot in the graph, at most."""
    reach: float = 2.0
    """Distance in pitches beyond which nobody is a neighbour."""
    zinb_share: float = 0.25
    """Weight in the loss of the likelihood of the counts; 0 leaves their heads out."""
    n_genes: int | None = None
    """Genes that are counted, if they are not the outputs."""
    n_views: int = 5
    """Augmented views that are distilled in training."""
    distilled_share: float = 0.5
    """Weight in the loss of their distance from the prediction; 0 draws none."""
    fov_spots: tuple[float, ...] = (1.0,)
    """Field of view in spot diameters."""
    size_px: int = 112
    """Side in pixels of the patch."""
    context: Literal["slide"] = "slide"
    """What one prediction sees: all spots of its window."""

    def __post_init__(self) -> None:
        counted = ("n_outputs", "kernel_size", "patch_size", "conv_depth", "depth", "graph_depth", "heads", "channels")
        for name in (*counted, "n_kept", "mlp_dim", "n_places", "n_neighbours", "n_views", "size_px"):
            check.positive_int(name, getattr(self, name))
        if self.n_genes is not None:
            check.positive_int("n_genes", self.n_genes)
        check.divides("patch_size", self.patch_size, "size_px", self.size_px)
        check.divides("heads", self.heads, "dim", self.dim)
        check.number("dropout", self.dropout, low=0, high=1)
        for name in ("zinb_share", "distilled_share"):
            check.number(name, getattr(self, name), low=0, high=1e3)
        check.number("reach", self.reach, low=1e-3, high=1e6)
        check.fov_spots(self.fov_spots, n_scales=1)
        check.choice("context", self.context, ("slide",))

    @property
    def dim(self) -> int:
        """Width of a spot: what the convolutions leave of it."""
        return (self.size_px // self.patch_size) ** 2 * self.n_kept


class Mixer(nn.Module):
    """Two depthwise convolutions beside the input, then one that mixes channels."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        depthwise = [
            layer
            for _ in range(2)
            for layer in (
                nn.Conv2d(channels, channels, kernel_size, padding="same", groups=channels),
                nn.BatchNorm2d(channels),
                nn.GELU(),
            )
        ]
        self.depthwise = nn.Sequential(*depthwise)
        self.pointwise = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GELU(), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(b, c, y, x)`` to the same shape."""
        mixed: Tensor = self.pointwise(x + self.depthwise(x))
        return mixed


class Texture(nn.Sequential):
    """A patch as numbers: places of ``patch_size`` pixels, mixed, some channels kept, side by side."""

    def __init__(self, channels: int, n_kept: int, patch_size: int, kernel_size: int, depth: int) -> None:
        super().__init__(
            nn.Conv2d(3, channels, patch_size, stride=patch_size),
            *(Mixer(channels, kernel_size) for _ in range(depth)),
            nn.Conv2d(channels, n_kept, 1),
            nn.Flatten(),
        )


class Around(nn.Module):
    """One step along the graph: the mean of a spot and its neighbours, mapped and of length 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, index: Tensor, is_near: Tensor) -> Tensor:
        """Mix neighbours.

        Parameters
        ----------
        x
            ``(b, d)`` spots.
        index
            ``(b, k)`` positions of their neighbours.
        is_near
            ``(b, k)`` which of them are.

        Returns
        -------
        ``(b, d)``, rows of length 1, or 0.
        """
        near = is_near[..., None].to(x.dtype)
        mean = (x + (x[index] * near).sum(dim=1)) / (1 + near.sum(dim=1))
        return F.normalize(self.mix(mean).relu(), dim=1)


def another_view(pixels: Tensor) -> Tensor:
    """Spots turned by a right angle or not, sometimes mirrored, sometimes gray; drawn from torch's global generator.

    Parameters
    ----------
    pixels
        ``(b, 3, p, p)`` in [0, 1].

    Returns
    -------
    The same shape.
    """
    n, device = len(pixels), pixels.device
    turn, chance = torch.randint(-1, 2, (n,), device=device), torch.rand(2, n, 1, 1, 1, device=device)
    for k in (-1, 1):
        pixels = torch.where((turn == k)[:, None, None, None], pixels.rot90(k, (-2, -1)), pixels)
    pixels = torch.where(chance[0] < _MIRRORED, pixels.flip(-1), pixels)
    gray = (pixels * pixels.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    return torch.where(chance[1] < _GRAYSCALE, gray, pixels)


class Hist2ST(SpotModel):
    """Convolutions, a transformer over the section, a graph of neighbours, and a memory of its layers.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> small = {"size_px": 14, "channels": 8, "depth": 1, "heads": 2, "mlp_dim": 16}
    >>> model = models.build(models.config("hist2st", 5, small))
    >>> patches = torch.zeros(3, 1, 3, 14, 14, dtype=torch.uint8)
    >>> model(models.SpotBatch(patches=patches, xy_um=torch.rand(3, 2), slide=torch.tensor([0, 0, 1]))).shape
    torch.Size([3, 5])
    """

    config: Hist2STConfig
    pitch_um: Tensor

    def __init__(self, config: Hist2STConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.register_buffer("pitch_um", torch.tensor(PITCH_UM))
        shape = (config.channels, config.n_kept, config.patch_size, config.kernel_size, config.conv_depth)
        self.texture = Texture(*shape)
        self.section = Section(dim, config.depth, config.heads, config.mlp_dim, config.dropout, config.n_places)
        self.around = nn.ModuleList(Around(dim) for _ in range(config.graph_depth))
        self.summary = nn.LSTM(dim, dim, num_layers=2, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.head = FloatLinear(dim, config.n_outputs)
        self.counts = Counts(dim, config.n_genes or config.n_outputs) if config.zinb_share else None
        distills = config.distilled_share > 0
        self.weigh = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1)) if distills else None
        self.initialize_at(torch.zeros(config.n_outputs))

    @property
    def needs_counts(self) -> bool:
        """Whether the loss looks at counts."""
        return self.counts is not None

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the mean profile, that of the counts if they are known, and the distance of neighbouring spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        spots = concatenate_spots(pieces)
        super().initialize_from([spots])
        self.pitch_um.fill_(typical_pitch(spots))
        if self.counts is not None and spots.counts is not None:
            self.counts.initialize_at((spots.counts / library(spots.counts, spots.slide)).mean(dim=0))

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict.

        Parameters
        ----------
        batch
            The spots; those of one slide see each other.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """
        y: Tensor = self.head(self.norm(self._described(batch, self._graph(batch))))
        return y

    def loss(self, batch: SpotBatch) -> Tensor:
        """Mean squared error, likelihood of the counts if they are known, and distance of augmented views.

        Parameters
        ----------
        batch
            The spots, with ``targets``.

        Returns
        -------
        A scalar.
        """
        targets, graph = check.require_targets(batch.targets), self._graph(batch)
        x = self._described(batch, graph)
        y = self.head(self.norm(x))
        loss = F.mse_loss(y, targets)
        if self.counts is not None and batch.counts is not None:
            size = library(batch.counts, batch.slide)
            loss = loss + self.config.zinb_share * self.counts.loss(self.norm(x), batch.counts, size)
        if self.weigh is not None:
            loss = loss + self.config.distilled_share * F.mse_loss(self._distilled(batch, graph), y)
        return loss

    def _distilled(self, batch: SpotBatch, graph: tuple[Tensor, Tensor]) -> Tensor:
        """What augmented views predict together, each weighted by what is seen in it: ``(b, n_outputs)``."""
        pixels, given, weights = unit_pixels(batch.patches[:, 0]), [], []
        for _ in range(self.config.n_views):
            x = self._described(replace(batch, patches=another_view(pixels)[:, None]), graph)
            given.append(self.head(self.norm(x)))
            weights.append(self.weigh(x).float())  # type: ignore[misc]
        return (torch.stack(given) * torch.stack(weights).softmax(dim=0)).sum(dim=0)

    def _graph(self, batch: SpotBatch) -> tuple[Tensor, Tensor]:
        """Neighbours of each spot, ``(b, k)``, and which of them are near enough."""
        index, distance = nearest_spots(batch.xy_um, batch.slide, self.config.n_neighbours)
        return index, distance <= self.config.reach * self.pitch_um

    def _described(self, batch: SpotBatch, graph: tuple[Tensor, Tensor]) -> Tensor:
        """What is seen at each spot and around it, ``(b, d)``."""
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        x = self.texture(2 * unit_pixels(batch.patches[:, 0]) - 1)  # (b, d)
        x = self.section(x, batch.xy_um / self.pitch_um, batch.slide)
        steps = []
        for layer in self.around:
            x = layer(x, *graph)
            steps.append(x)
        remembered: Tensor = self.summary(torch.stack(steps, dim=1))[0].mean(dim=1)
        return remembered
