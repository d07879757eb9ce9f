"""Standardisation, principal components and ridge regression, solved from the training spots without gradient steps.

Tensors only. Everything learnt is a buffer whose shape the configuration decides, so that a saved state fits a fresh
network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from .._checks import models as check
from ._penalty import choose_penalty
from ._precision import full_precision

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ._penalty import TrainingSpots

    Penalty = float | Literal["hest"] | None

NEGLIGIBLE = 1e-10
"""Components with less than this share of the variance of the first are rounding errors."""
ROWS = 4096
"""Spots that are converted to double precision at a time."""


class Standardizer(nn.Module):
    """Features standardised over the training spots, and clipped at ``clip`` standard deviations unless that is None.

    A patch unlike the training patches (a fold, a rim of glass, another stain) is many standard deviations away in some
    features of a deep network, and a linear map would follow each of them.
    """

    mean: Tensor
    spread: Tensor
    """Standard deviation."""
    middle: Tensor
    """Mean of the clipped features."""
    __call__: Callable[..., Tensor]

    def __init__(self, n_features: int, clip: float | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))
        self.register_buffer("middle", torch.zeros(n_features))

    @torch.no_grad()
    def solve(self, features: Tensor) -> None:
        """Learn from ``(n, n_features)`` training spots; a constant feature keeps the standard deviation 1."""
        mean = features.mean(dim=0, dtype=torch.float64)
        squares = sum(((part.double() - mean) ** 2).sum(dim=0) for part in features.split(ROWS))
        std = torch.as_tensor(squares / len(features)).sqrt()
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(std > 1e-6 * mean.abs().clamp_min(1e-3), std, torch.ones_like(std)))
        self.middle.zero_()
        if self.clip is not None:
            total = torch.as_tensor(sum(self(part.double()).sum(dim=0) for part in features.split(ROWS)))
            self.middle.copy_(total / len(features))

    def forward(self, features: Tensor) -> Tensor:
        """``(b, n_features)``, float32 or float64, to the same; the mean over the training spots becomes 0."""
        standard = (features - self.mean) / self.spread
        return standard if self.clip is None else standard.clamp(-self.clip, self.clip) - self.middle


class PrincipalComponents(nn.Module):
    """The first ``n_components`` principal components of standardised features, padded with zeros if there are fewer.

    All are divided by one number, so that the mean square of a component is 1 over the training spots.
    """

    axes: Tensor
    __call__: Callable[..., Tensor]

    def __init__(self, n_features: int, n_components: int, clip: float | None) -> None:
        super().__init__()
        self.standardize = Standardizer(n_features, clip)
        self.register_buffer("axes", torch.zeros(min(n_components, n_features), n_features))

    @torch.no_grad()
    def solve(self, features: Tensor) -> None:
        """Learn from ``(n, n_features)`` training spots."""
        self.standardize.solve(features)
        squares, axes = principal_axes(features, self.standardize, len(self.axes))
        self.axes.zero_()
        self.axes[: len(axes)] = axes / (squares.sum() / (len(features) * max(len(axes), 1))).sqrt()

    def forward(self, features: Tensor) -> Tensor:
        """``(b, n_features)`` to ``(b, n_components)`` float32."""
        with full_precision(features.device):
            return self.standardize(features.float()) @ self.axes.T


def principal_axes(features: Tensor, standardize: Standardizer, most: int) -> tuple[Tensor, Tensor]:
    """Sums of squares ``(k,)``, largest first, along at most ``most`` principal axes; the axes ``(k, d)``; float64."""
    n, d = features.shape
    if n < d:  # fewer spots than features: the matrix of their products is the smaller one
        standard = standardize(features.double())
        squares, spots = _leading_eigenvectors(standard @ standard.T, most)
        return squares, (spots.T @ standard) / squares.sqrt()[:, None]
    gram = torch.zeros(d, d, dtype=torch.float64, device=features.device)
    for part in features.split(ROWS):
        standard = standardize(part.double())
        gram.addmm_(standard.T, standard)
    squares, axes = _leading_eigenvectors(gram, most)
    return squares, axes.T


def _leading_eigenvectors(gram: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues that are not rounding errors, and their eigenvectors in columns."""
    values, vectors = torch.linalg.eigh(gram)
    kept = min(most, int((values > NEGLIGIBLE * values[-1].clamp_min(1e-300)).sum()))
    return values.flip(0)[:kept], vectors.flip(1)[:, :kept]


class Ridge(nn.Module):
    """Standardisation, principal components and ridge regression: one linear map after the first, in closed form."""

    weight: Tensor
    bias: Tensor
    penalty: Tensor
    """The penalty that was used."""
    __call__: Callable[..., Tensor]

    def __init__(self, n_features: int, n_outputs: int, clip: float | None = None) -> None:
        super().__init__()
        self.standardize = Standardizer(n_features, clip)
        self.register_buffer("weight", torch.zeros(n_outputs, n_features))
        self.register_buffer("bias", torch.zeros(n_outputs))
        self.register_buffer("penalty", torch.zeros(()))

    @torch.no_grad()
    def solve(self, spots: TrainingSpots, n_components: int, penalty: Penalty, *, intercept: bool = True) -> None:
        """Fit to training spots.

        The penalty is the weight of the squared coefficients of the components: None for the cross-validated choice,
        ``"hest"`` for 100 / (components x outputs). Without ``intercept``, targets should be centred.
        """
        self.standardize.solve(spots.features)
        squares, axes = principal_axes(spots.features, self.standardize, n_components)
        x = torch.cat([self.standardize(part.double()) @ axes.T for part in spots.features.split(ROWS)])
        y = spots.targets.double()
        if penalty == "hest":
            penalty = 100 / (max(len(axes), 1) * y.shape[1])
        alpha = choose_penalty(x, y, spots.fold, spots.slide) if penalty is None else float(penalty)
        slope = (x.T @ (y - y.mean(dim=0))) / (squares + alpha)[:, None]  # (k, g); components are uncorrelated
        self.weight.copy_(slope.T @ axes)
        self.bias.copy_(y.mean(dim=0) if intercept else torch.zeros_like(y[0]))
        self.penalty.fill_(alpha)

    @torch.no_grad()
    def constant(self, profile: Tensor) -> None:
        """Predict ``(n_outputs,)`` for every spot."""
        check.mean_profile(tuple(profile.shape), len(self.bias))
        self.weight.zero_()
        self.bias.copy_(profile)

    def forward(self, features: Tensor) -> Tensor:
        """``(b, n_features)`` to ``(b, n_outputs)`` float32."""
        with full_precision(features.device):
            return torch.addmm(self.bias, self.standardize(features.float()), self.weight.T)
