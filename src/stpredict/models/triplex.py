"""TRIPLEX: a spot's own patch, a wide field of view around it and all spots of the section, fused.

Chung, Ha, Im and Lee, "Accurate Spatial Gene Expression Prediction by Integrating Multi-Resolution Features",
CVPR 2024, arXiv 2403.07592.

Names: target encoder -> ``target``; neighbor encoder -> ``around``; global encoder -> ``section``; APEG ->
``LatticeConv``; fusion layer -> ``fusion``; the outputs of the branches -> ``branches``.

Deviations
    - Both views are patches of ``size_px``. The 5 x 5 sub-patches of the wide one are a fifth of that each, which is a
      fifth of the paper's resolution, and are brought to ``view_px`` before the frozen encoder sees them. What 5 does
      not divide is dropped at the border (2 px of 224). Where the wide view leaves the slide it is white; no mask.
    - The lattice that APEG scatters tokens to is found from the coordinates of each window, every time: the published
      code keeps the size of the first slide. The convolution reads occupied places only and equals a dense one.
    - Dropout is off in evaluation; in the published code that of the global encoder stays on. It acts after attention
      and in MLPs, not on attention weights.
    - Outputs are not clamped at 0: targets are standardised, and a clamped output has no gradient. Labels are those of
      the spot, never means over its neighbourhood.
    - A step is one window of a section, not 128 spots of any sections, and the section is what the window holds.
    - Frozen features are standardised on the training spots. All heads start at zero weights and the mean profile.
    - Patches are not augmented: the fit augments nothing where frozen features were computed before.
    - The paper starts both encoders from Ciga's ResNet-18; here from what ``target_weights`` and ``view_weights`` say.

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
from ._features import FeatureScaler, apply_in_chunks, sub_patches
from ._lattice import lattice_positions
from ._layers import attend, perceptron
from ._places import rows_by_slide
from .contract import FloatLinear, SpotModel, batch_features
from .encoder import NO_WEIGHTS, Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

SIDE = 5
"""Sub-patches along each side of the wide view."""
_PARTS = ("fusion", "section", "around")


@dataclass(frozen=True, kw_only=True, slots=True)
class TRIPLEXConfig:
    """Shape of a ``TRIPLEX``. The defaults are the paper's for HER2+."""

    n_outputs: int
    """Number of values predicted per spot."""
    target_encoder: str = "resnet18"
    """Name that timm knows: the encoder of the spot's own patch, which is trained."""
    target_weights: str = NO_WEIGHTS
    """What it starts from: ``"none"``, ``"timm"``, or the path of a checkpoint."""
    view_encoder: str = "resnet18"
    """Name that timm knows, or ``"statistics"``: the frozen encoder of the wide view and of the other spots."""
    view_weights: str = NO_WEIGHTS
    """Its weights: ``"none"``, ``"timm"``, or the path of a checkpoint."""
    view_px: int = 224
    """Side to which the frozen encoder's patches are brought: its cost."""
    dim: int = 512
    """Width of a token."""
    fusion_depth: int = 1
    """Layers of the fusion."""
    section_depth: int = 3
    """Layers over the spots of the section; the lattice convolution comes after the first."""
    around_depth: int = 3
    """Layers over the sub-patches of the wide view."""
    fusion_heads: int = 4
    """Attention heads of the fusion; divides ``dim``."""
    section_heads: int = 16
    """Attention heads over the section; divides ``dim``."""
    around_heads: int = 16
    """Attention heads over the wide view; divides ``dim``."""
    fusion_mlp_ratio: float = 4.0
    """Hidden width of an MLP of the fusion as a multiple of ``dim``."""
    section_mlp_ratio: float = 4.0
    """The same over the section."""
    around_mlp_ratio: float = 1.0
    """The same over the wide view."""
    fusion_dropout: float = 0.2
    """Share of activations dropped in the fusion in training."""
    section_dropout: float = 0.1
    """The same over the section."""
    around_dropout: float = 0.3
    """The same over the wide view."""
    agreement: float = 0.3
    """Share of a branch's loss that compares it with the fused prediction; the rest compares it with the targets."""
    fov_spots: tuple[float, ...] = (1.12, 5.6)
    """Field of view of the spot's own patch and of the wide view, in spot diameters."""
    size_px: int = 224
    """Side in pixels of both."""
    context: Literal["slide"] = "slide"
    """What one prediction sees: all spots of a window of its slide."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "view_px", "dim", "size_px"):
            check.positive_int(name, getattr(self, name))
        check.network_name("target_encoder", self.target_encoder)
        for name in ("target_weights", "view_encoder", "view_weights"):
            check.text(name, getattr(self, name))
        for part in _PARTS:
            check.positive_int(f"{part}_depth", getattr(self, f"{part}_depth"))
            check.positive_int(f"{part}_heads", getattr(self, f"{part}_heads"))
            check.divides(f"{part}_heads", getattr(self, f"{part}_heads"), "dim", self.dim)
            check.number(f"{part}_mlp_ratio", getattr(self, f"{part}_mlp_ratio"), low=1 / self.dim, high=64)
            check.number(f"{part}_dropout", getattr(self, f"{part}_dropout"), low=0, high=1)
        check.number("agreement", self.agreement, low=0, high=1)
        check.fov_spots(self.fov_spots, n_scales=2)
        check.splits_patch(self.size_px, SIDE)
        check.choice("context", self.context, ("slide",))


class Layer(nn.Module):
    """Attention to the tokens themselves, or to others, and an MLP; both normalise their input and are added to it."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.heads, hidden = heads, max(1, round(mlp_ratio * dim))
        self.norm = nn.LayerNorm(dim)
        self.ask, self.answer = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.mlp = perceptron(dim, hidden, dropout)

    def forward(self, x: Tensor, others: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Mix ``(b, n, d)``, or let it look at ``(b, m, d)``; ``bias`` ``(h, n, m)`` is added to the scores."""
        asking = self.norm(x)
        answering = asking if others is None else self.norm(others)
        q = rearrange(self.ask(asking), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.answer(answering), "b m (kv h d) -> kv b h m d", kv=2, h=self.heads)
        x = x + self.out(attend(q, k, v, None if bias is None else bias.to(q.dtype)))
        mixed: Tensor = x + self.mlp(x)
        return mixed


def layers(depth: int, dim: int, heads: int, mlp_ratio: float, dropout: float) -> nn.ModuleList:
    """Some layers of one shape."""
    return nn.ModuleList(Layer(dim, heads, mlp_ratio, dropout) for _ in range(depth))


class Around(nn.Module):
    """Layers over the sub-patches of the wide view, whose attention knows how far apart two of them are."""

    places: Tensor

    def __init__(self, depth: int, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.layers = layers(depth, dim, heads, mlp_ratio, dropout)
        self.position_bias = nn.Parameter(torch.zeros(depth, heads, SIDE * SIDE))
        row, column = torch.arange(SIDE * SIDE) // SIDE, torch.arange(SIDE * SIDE) % SIDE
        apart = SIDE * (row[:, None] - row).abs() + (column[:, None] - column).abs()
        self.register_buffer("places", apart, persistent=False)  # (25, 25)

    def forward(self, x: Tensor) -> Tensor:
        """Mix ``(b, 25, d)``."""
        for layer, bias in zip(self.layers, self.position_bias, strict=True):
            x = layer(x, bias=bias[:, self.places])
        return x


class LatticeConv(nn.Module):
    """A depthwise 3 x 3 convolution over the lattice of a slide's spots, empty places being zero; added to its input.

    Spots that share a place are averaged. Nothing is laid out densely: however far spots lie apart, memory follows
    their number.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(9, dim)), nn.Parameter(torch.zeros(dim))
        nn.init.trunc_normal_(self.weight, std=0.1)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Add to spots ``(n, d)`` what lies around them, by columns and rows ``(n, 2)`` from 0."""
        columns = int(places[:, 0].max()) + 3  # a step to either side never ends in another row
        number, place = (places[:, 1] * columns + places[:, 0]).unique(return_inverse=True)
        there = x.new_zeros(len(number), x.shape[1]).index_add(0, place, x) / place.bincount()[:, None]
        total = self.bias.expand_as(there)
        for step, weight in enumerate(self.weight):
            wanted = number + (step // 3 - 1) * columns + step % 3 - 1
            found = torch.searchsorted(number, wanted).clamp_max(len(number) - 1)
            total = total + torch.where((number[found] == wanted)[:, None], there[found], 0) * weight
        return x + total[place]


class Section(nn.Module):
    """Layers over all spots of a slide; after the first a convolution tells them where they are."""

    def __init__(self, depth: int, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.layers = layers(depth, dim, heads, mlp_ratio, dropout)
        self.positions = LatticeConv(dim)

    def forward(self, x: Tensor, xy_um: Tensor, slide: Tensor) -> Tensor:
        """Mix the spots ``(b, d)`` of each slide."""
        mixed, rows = [], rows_by_slide(slide)
        for here in rows:
            first, *others = self.layers
            y = first(x[None, here])  # (1, n, d)
            y = self.positions(y[0], lattice_positions(xy_um[here]))[None]
            for layer in others:
                y = layer(y)
            mixed.append(y[0])
        return torch.cat(mixed)[torch.cat(rows).argsort()]


class TRIPLEX(SpotModel):
    """Three views of a spot: itself, what is around it, and its place in the section.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> sizes = {"dim": 16, "size_px": 40, "view_px": 32, "view_encoder": "statistics"}
    >>> model = models.build(models.config("triplex", 5, sizes))
    >>> patches = torch.zeros(2, 2, 3, 40, 40, dtype=torch.uint8)
    >>> xy_um = torch.tensor([[0.0, 0.0], [200.0, 0.0]])
    >>> model(models.SpotBatch(patches=patches, xy_um=xy_um, slide=torch.zeros(2, dtype=torch.long))).shape
    torch.Size([2, 5])
    """

    config: TRIPLEXConfig

    def __init__(self, config: TRIPLEXConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.views = Encoder(config.view_encoder, config.view_weights, config.view_px, frozen=True).eval()
        self.standard = FeatureScaler(self.views.n_features)
        self.target = Encoder(config.target_encoder, config.target_weights, config.size_px, frozen=False)
        self.embed_target = nn.Linear(_token_width(self.target), dim)
        self.embed_around, self.embed_section = (_to_width(self.views.n_features, dim) for _ in range(2))
        self.around = Around(*_shape(config, "around"))
        self.section = Section(*_shape(config, "section"))
        self.fusion = layers(*_shape(config, "fusion"))
        self.norm = nn.LayerNorm(dim)
        self.branches = nn.ModuleList(FloatLinear(dim, config.n_outputs) for _ in range(3))
        self.head = FloatLinear(dim, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained network and its branches predict one profile everywhere.

        Parameters
        ----------
        mean
            ``(n_outputs,)`` profile, for instance the mean of the training targets.
        """
        super().initialize_at(mean)
        for branch in self.branches:
            branch.load_state_dict(self.head.state_dict())

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the mean profile and the scale of the frozen features from the training spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        self.initialize_at(self.standard.initialize_from(self, pieces))

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights of both encoders, where any are named.

        Returns
        -------
        What was loaded, in words, for ``"target"`` and ``"views"``.
        """
        loaded = {"target": self.target.load(), "views": self.views.load()}
        return {part: said for part, said in loaded.items() if said}

    @torch.no_grad()
    def encode(self, batch: SpotBatch) -> Tensor:
        """What the frozen encoder makes of the spot's own patch and of the sub-patches around it.

        Parameters
        ----------
        batch
            The spots, of any number of slides; each is seen alone.

        Returns
        -------
        ``(b, 26, v)``: the spot's own patch, then the sub-patches row by row.
        """
        check.patches(tuple(batch.patches.shape), 2, self.config.size_px)
        return apply_in_chunks(self._described, batch.patches)

    def _described(self, patches: Tensor) -> Tensor:
        """``(b, 2, 3, p, p)`` to ``(b, 26, v)``."""
        around = sub_patches(patches[:, 1], SIDE)
        own = self.views(patches[:, 0])[:, None]
        return torch.cat([own, self.views(around.flatten(0, 1)).unflatten(0, around.shape[:2])], dim=1)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict.

        Parameters
        ----------
        batch
            The spots of one or more windows; slides do not see each other.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """
        y: Tensor = self.head(self._summaries(batch)[0])
        return y

    def loss(self, batch: SpotBatch) -> Tensor:
        """Squared error of the fused prediction, and of each view's own against targets and fused prediction.

        Parameters
        ----------
        batch
            The spots, with ``targets``.

        Returns
        -------
        A scalar.
        """
        targets, share = check.require_targets(batch.targets), self.config.agreement
        fused, *views = self._summaries(batch)
        y = self.head(fused)
        loss = F.mse_loss(y, targets)
        for branch, view in zip(self.branches, views, strict=True):
            own = branch(view)
            loss = loss + (1 - share) * F.mse_loss(own, targets) + share * F.mse_loss(own, y)
        return loss

    def _summaries(self, batch: SpotBatch) -> list[Tensor]:
        """One vector a spot, ``(b, d)`` each: fused, of its own patch, of what is around it, of its section."""
        check.patches(tuple(batch.patches.shape), 2, self.config.size_px)
        features = self.standard(batch_features(self, batch))  # (b, 26, v)
        target = self._target(batch.patches[:, 0])  # (b, n, d)
        around = self.around(self.embed_around(features[:, 1:]))  # (b, 25, d)
        section = self.section(self.embed_section(features[:, 0]), batch.xy_um, batch.slide)  # (b, d)
        fused = sum((self._fused(section, tokens) for tokens in (target, around)), torch.zeros_like(section))
        return [self.norm(fused), target.mean(dim=1), around.mean(dim=1), section]

    def _target(self, patches: Tensor) -> Tensor:
        """Tokens of the spots' own patches, ``(b, 3, p, p)`` to ``(b, n, d)``."""
        tokens = self.target.tokens(patches) if self.training else apply_in_chunks(self.target.tokens, patches)
        embedded: Tensor = self.embed_target(tokens)
        return embedded

    def _fused(self, section: Tensor, tokens: Tensor) -> Tensor:
        """What each spot, as its section sees it, finds in one of its views: ``(b, d)``."""
        asking = section[:, None]
        for layer in self.fusion:
            asking = layer(asking, tokens)
        return asking[:, 0]


def _shape(config: TRIPLEXConfig, part: str) -> tuple[int, int, int, float, float]:
    """Depth, width, heads, MLP ratio and dropout of a part."""
    depth, heads, mlp_ratio, dropout = (
        getattr(config, f"{part}_{name}") for name in ("depth", "heads", "mlp_ratio", "dropout")
    )
    return depth, config.dim, heads, mlp_ratio, dropout


def _to_width(n_features: int, dim: int) -> nn.Module:
    """A map to the width of tokens; none where features are of that width, as in the paper."""
    return nn.Identity() if n_features == dim else nn.Linear(n_features, dim)


def _token_width(encoder: Encoder) -> int:
    """Width of the tokens of a network of timm; what it gives pooled may be wider."""
    return int(encoder.net.num_features)  # type: ignore[arg-type]
