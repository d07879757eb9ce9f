"""HisToGene: a section as one sequence of spots, each its flattened patch and its place, read by a transformer.

Pang, Su and Li, "Leveraging information in spatial transcriptomics to predict super-resolution gene expression from
histology images in tumors", bioRxiv 2021.11.28.470212.

Names: patch flattening and learnable linear layer -> ``patch``; position embeddings E_x, E_y -> ``Places``;
Vision Transformer -> ``layers``; MLP head -> ``norm`` and ``head``.

Deviations
    - Positions are physical: distances from the corner of the window, in pitches of the training spots, between whose
      embeddings is interpolated. The published code counts rows and columns of the array and fails beyond 64; here
      what lies farther out takes the last embedding, and denser points (super-resolution) lie between the spots'.
    - A window is a section of at most ``FitConfig.window`` spots, larger ones are halved; slides never see each other.
    - Pixels are in [-1, 1], not 0 to 255, and position embeddings start small: with inputs of 255 a rate of 1e-5 has to
      undo first what was drawn.
    - Patches have a physical size, one spot diameter, since 112 px are 102 µm on one patient and 77 µm on others.
    - The head starts at zero weights and the mean profile.
    - The paper validates on nothing; here the best epoch is kept where something is held out.

The published size is made for a GPU. On a CPU, ``{"dim": 128, "depth": 2, "heads": 4, "mlp_dim": 256, "size_px": 32}``
(0.71 M parameters at 250 outputs) with a rate of 1e-3 trains a section of 1,000 spots in less than a second an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from .._checks import models as check
from ._layers import attend, perceptron, split_heads
from ._places import PITCH_UM, concatenate_spots, rows_by_slide, typical_pitch
from ._precision import unit_pixels
from .contract import FloatLinear, SpotModel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class HisToGeneConfig:
    """Shape of a ``HisToGene``. The defaults are those of the published tutorial."""

    n_outputs: int
    """Number of values predicted per spot."""
    dim: int = 1024
    """Width of a spot."""
    depth: int = 8
    """Number of layers."""
    heads: int = 16
    """Attention heads; divides ``dim``."""
    mlp_dim: int = 2048
    """Hidden width of an MLP."""
    dropout: float = 0.1
    """Share of activations dropped in training: of spots, after attention and in MLPs."""
    n_places: int = 64
    """Embeddings of positions along each axis, one a pitch."""
    fov_spots: tuple[float, ...] = (1.0,)
    """Field of view in spot diameters."""
    size_px: int = 112
    """Side in pixels of the patch."""
    context: Literal["slide"] = "slide"
    """What one prediction sees: all spots of its window."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "dim", "depth", "heads", "mlp_dim", "n_places", "size_px"):
            check.positive_int(name, getattr(self, name))
        check.divides("heads", self.heads, "dim", self.dim)
        check.number("dropout", self.dropout, low=0, high=1)
        check.fov_spots(self.fov_spots, n_scales=1)
        check.choice("context", self.context, ("slide",))


class Places(nn.Module):
    """Embeddings of positions along x and along y, added; between two embeddings is interpolated."""

    def __init__(self, n: int, dim: int) -> None:
        super().__init__()
        self.positions = nn.ParameterList(nn.Parameter(torch.empty(n, dim)) for _ in range(2))
        for parameter in self.positions:
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, xy: Tensor) -> Tensor:
        """Embed the spots of one window: ``(n, 2)`` in pitches to ``(n, d)``."""
        x, y = (xy - xy.amin(dim=0)).unbind(dim=1)
        return _between(self.positions[0], x) + _between(self.positions[1], y)


def _between(table: Tensor, place: Tensor) -> Tensor:
    """Rows of ``(m, d)`` at places that need not be whole, ``(n,)``; beyond the last row, the last."""
    place = place.clamp(max=len(table) - 1)
    low = place.floor().long()
    high = (low + 1).clamp(max=len(table) - 1)
    return torch.lerp(table[low], table[high], (place - low)[:, None])


class Layer(nn.Module):
    """Attention and an MLP, both on normalised input, both added to it."""

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


class Section(nn.Module):
    """A transformer over the spots of each slide, which is told where they lie."""

    def __init__(self, dim: int, depth: int, heads: int, hidden: int, dropout: float, n_places: int) -> None:
        super().__init__()
        self.places = Places(n_places, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(Layer(dim, heads, hidden, dropout) for _ in range(depth)))

    def forward(self, x: Tensor, xy: Tensor, slide: Tensor) -> Tensor:
        """Mix the spots of each slide.

        Parameters
        ----------
        x
            ``(b, d)`` spots.
        xy
            ``(b, 2)`` where they lie, in pitches.
        slide
            ``(b,)`` slide of each.

        Returns
        -------
        ``(b, d)``.
        """
        slides = rows_by_slide(slide)
        mixed = [self.layers(self.dropout(x[rows] + self.places(xy[rows]))[None])[0] for rows in slides]
        return torch.cat(mixed)[torch.cat(slides).argsort()]


class HisToGene(SpotModel):
    """A section as a sequence: every spot attends to every other of its window.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> small = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "size_px": 16}
    >>> model = models.build(models.config("histogene", 5, small))
    >>> patches = torch.zeros(3, 1, 3, 16, 16, dtype=torch.uint8)
    >>> model(models.SpotBatch(patches=patches, xy_um=torch.rand(3, 2), slide=torch.tensor([0, 0, 1]))).shape
    torch.Size([3, 5])
    """

    config: HisToGeneConfig
    pitch_um: Tensor

    def __init__(self, config: HisToGeneConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("pitch_um", torch.tensor(PITCH_UM))
        self.patch = nn.Linear(3 * config.size_px**2, config.dim)
        shape = (config.dim, config.depth, config.heads, config.mlp_dim, config.dropout, config.n_places)
        self.section = Section(*shape)
        self.norm = nn.LayerNorm(config.dim)
        self.head = FloatLinear(config.dim, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the mean profile, and the distance of neighbouring spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        spots = concatenate_spots(pieces)
        super().initialize_from([spots])
        self.pitch_um.fill_(typical_pitch(spots))

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
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        pixels = 2 * unit_pixels(batch.patches).flatten(1) - 1  # (b, 3 * p * p)
        x = self.section(self.patch(pixels), batch.xy_um / self.pitch_um, batch.slide)  # (b, d)
        y: Tensor = self.head(self.norm(x))
        return y
