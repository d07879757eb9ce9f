"""What is learnt from the training spots without a step: standardising, principal components, ridge regression.

Tensors only. Everything learnt is a buffer whose shape the configuration decides, so that a saved state fits a fresh
network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from .._checks import models as check
from ._penalty import choose_penalty
from .contract import full_precision

if TYPE_CHECKING:
    from torch import Tensor

    from ._penalty import TrainingSpots

    Penalty = float | Literal["hest"] | None

NEGLIGIBLE = 1e-10
"""Components with less than this share of the variance of the first are rounding."""
ROWS = 4096
"""Spots that are held in double precision at a time."""


class Standardizer(nn.Module):
    """Features with the mean and spread of the training spots taken out, and what lies far out drawn in.

    Parameters
    ----------
    n_features
        Width of the features.
    clip
        Standard deviations that a feature may lie from the mean; None leaves it where it is. A patch unlike the
        training ones (a fold, a rim of glass, another stain) is many away in some features of a deep network, and a
        linear map follows each of them.
    """

    mean: Tensor
    spread: Tensor
    middle: Tensor
    """Mean of what was drawn in."""

    def __init__(self, n_features: int, clip: float | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))
        self.register_buffer("middle", torch.zeros(n_features))

    @torch.no_grad()
    def solve(self, features: Tensor) -> None:
        """Learn from training spots; a feature that is the same everywhere keeps the spread 1.

        Parameters
        ----------
        features
            ``(n, n_features)``.
        """
        mean = features.mean(dim=0, dtype=torch.float64)
        squares = sum(((part.double() - mean) ** 2).sum(dim=0) for part in features.split(ROWS))
        spread = torch.as_tensor(squares / len(features)).sqrt()
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(spread > 1e-6 * mean.abs().clamp_min(1e-3), spread, torch.ones_like(spread)))
        self.middle.zero_()
        if self.clip is not None:
            self.middle.copy_(sum(self(part.double()).sum(dim=0) for part in features.split(ROWS)) / len(features))

    def forward(self, features: Tensor) -> Tensor:
        """Standardise.

        Parameters
        ----------
        features
            ``(b, n_features)``, in float32 or float64.

        Returns
        -------
        The same shape and type; mean 0 over the training spots.
        """
        standard = (features - self.mean) / self.spread
        return standard if self.clip is None else standard.clamp(-self.clip, self.clip) - self.middle


class PrincipalComponents(nn.Module):
    """Standardised features on the principal axes of the training spots, as many as there are, padded with zeros.

    All are divided by one number, so that the mean square of a component is 1 over the training spots.

    Parameters
    ----------
    n_features
        Width of the features.
    n_components
        Axes that are kept, at most.
    clip
        As in `Standardizer`.
    """

    axes: Tensor

    def __init__(self, n_features: int, n_components: int, clip: float | None) -> None:
        super().__init__()
        self.standardize = Standardizer(n_features, clip)
        self.register_buffer("axes", torch.zeros(min(n_components, n_features), n_features))

    @torch.no_grad()
    def solve(self, features: Tensor) -> None:
        """Learn from training spots.

        Parameters
        ----------
        features
            ``(n, n_features)``.
        """
        self.standardize.solve(features)
        squares, axes = principal_axes(features, self.standardize, len(self.axes))
        self.axes.zero_()
        self.axes[: len(axes)] = axes / (squares.sum() / (len(features) * max(len(axes), 1))).sqrt()

    def forward(self, features: Tensor) -> Tensor:
        """Project.

        Parameters
        ----------
        features
            ``(b, n_features)``.

        Returns
        -------
        ``(b, n_components)`` float32.
        """
        with full_precision(features.device):
            projected: Tensor = self.standardize(features.float()) @ self.axes.T
            return projected


def principal_axes(features: Tensor, standardize: Standardizer, most: int) -> tuple[Tensor, Tensor]:
    """Principal axes of standardised features, in double precision.

    Parameters
    ----------
    features
        ``(n, d)``.
    standardize
        Fitted to the same features.
    most
        Axes that are kept, at most.

    Returns
    -------
    ``(k,)`` sums of squares along each axis, largest first, and ``(k, d)`` orthonormal axes.
    """
    n, d = features.shape
    if n < d:  # fewer spots than features: their products are the smaller matrix
        standard = standardize(features.double())
        squares, spots = _leading(standard @ standard.T, most)
        return squares, (spots.T @ standard) / squares.sqrt()[:, None]
    gram = torch.zeros(d, d, dtype=torch.float64, device=features.device)
    for part in features.split(ROWS):
        standard = standardize(part.double())
        gram.addmm_(standard.T, standard)
    squares, axes = _leading(gram, most)
    return squares, axes.T


def _leading(gram: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues that are more than rounding, and their vectors in columns."""
    values, vectors = torch.linalg.eigh(gram)
    kept = min(most, int((values > NEGLIGIBLE * values[-1].clamp_min(1e-300)).sum()))
    return values.flip(0)[:kept], vectors.flip(1)[:, :kept]


class Ridge(nn.Module):
    """Standardise, principal components, ridge regression: after the first, one linear map, in closed form.

    Parameters
    ----------
    n_features
        Width of the features.
    n_outputs
        Values predicted per spot.
    clip
        As in `Standardizer`.
    """

    weight: Tensor
    bias: Tensor
    penalty: Tensor
    """The penalty that was used."""

    def __init__(self, n_features: int, n_outputs: int, clip: float | None = None) -> None:
        super().__init__()
        self.standardize = Standardizer(n_features, clip)
        self.register_buffer("weight", torch.zeros(n_outputs, n_features))
        self.register_buffer("bias", torch.zeros(n_outputs))
        self.register_buffer("penalty", torch.zeros(()))

    @torch.no_grad()
    def solve(self, known: TrainingSpots, n_components: int, penalty: Penalty, *, intercept: bool = True) -> None:
        """Fit to training spots.

        Parameters
        ----------
        known
            The training spots.
        n_components
            Principal components that are regressed on, at most.
        penalty
            Weight of the squared coefficients of the components; None chooses one by leaving out folds;
            ``"hest"`` is 100 / (components x outputs).
        intercept
            Whether the mean of the targets is added; without, targets should be centred.
        """
        self.standardize.solve(known.features)
        squares, axes = principal_axes(known.features, self.standardize, n_components)
        parts = [self.standardize(part.double()) @ axes.T for part in known.features.split(ROWS)]
        x, y = torch.cat(parts), known.targets.double()
        if penalty == "hest":
            penalty = 100 / (max(len(axes), 1) * y.shape[1])
        alpha = choose_penalty(x, y, known.fold, known.slide) if penalty is None else float(penalty)
        slope = (x.T @ (y - y.mean(dim=0))) / (squares + alpha)[:, None]  # (k, g); components are uncorrelated
        self.weight.copy_(slope.T @ axes)
        self.bias.copy_(y.mean(dim=0) if intercept else torch.zeros_like(y[0]))
        self.penalty.fill_(alpha)

    @torch.no_grad()
    def constant(self, profile: Tensor) -> None:
        """Predict one profile everywhere.

        Parameters
        ----------
        profile
            ``(n_outputs,)``.
        """
        check.mean_profile(tuple(profile.shape), len(self.bias))
        self.weight.zero_()
        self.bias.copy_(profile)

    def forward(self, features: Tensor) -> Tensor:
        """Predict.

        Parameters
        ----------
        features
            ``(b, n_features)``.

        Returns
        -------
        ``(b, n_outputs)`` float32.
        """
        with full_precision(features.device):
            return torch.addmm(self.bias, self.standardize(features.float()), self.weight.T)
