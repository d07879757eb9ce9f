"""What is learnt from the training spots without a step: standardising, principal components, ridge regression.

Tensors only. Everything learnt is a buffer whose shape the configuration decides, so that a saved state fits a fresh
network. The penalty of a regression is chosen by leaving out groups of the training spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from .._checks import models as check
from ._contract import full_precision, known_features

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from ._contract import SpotBatch, SpotModel

    Penalty = float | Literal["hest"] | None

PENALTIES = tuple(10 ** (power / 2) for power in range(-6, 13))
"""Weights of the squared coefficients that are tried, from 1e-3 to 1e6."""
FALLBACK = 1e3
"""Penalty where too few spots can be left out to try any."""
N_STRIPES = 4
"""Parts of the only slide that are left out one after the other."""
LEAST = 3
"""Spots of a slide, at least, on which a prediction is scored."""
NEGLIGIBLE = 1e-10
"""Components with less than this share of the variance of the first are rounding."""
ROWS = 4096
"""Spots that are held in double precision at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """All training spots."""

    features: Tensor
    """``(n, d)`` float32."""
    targets: Tensor
    """``(n, g)`` float32."""
    fold: Tensor
    """``(n,)`` int64: what is left out together when something is chosen."""
    slide: Tensor
    """``(n,)`` int64."""


@torch.no_grad()
def gathered(model: SpotModel, pieces: Iterable[SpotBatch]) -> Training:
    """Put the training spots together.

    Parameters
    ----------
    model
        A model whose ``encode`` gives features, or that is given some.
    pieces
        What `SpotModel.start_from` gets.

    Returns
    -------
    The spots, with the folds for inner validation.
    """
    features, targets, group, slide, xy_um = [], [], [], [], []
    for piece in pieces:
        features.append(known_features(model, piece).float())
        targets.append(check.given_targets(piece.targets).float())
        group.append(piece.slide if piece.group is None else piece.group)
        slide.append(piece.slide)
        xy_um.append(piece.xy_um)
    slides = torch.cat(slide)
    return Training(
        features=torch.cat(features),
        targets=torch.cat(targets),
        fold=inner_folds(torch.cat(group), slides, torch.cat(xy_um)),
        slide=slides,
    )


def inner_folds(group: Tensor, slide: Tensor, xy_um: Tensor) -> Tensor:
    """What is left out together: groups where there are several, else slides, else stripes of the only slide.

    Parameters
    ----------
    group
        ``(n,)`` group (patient) of each spot.
    slide
        ``(n,)`` slide of each spot.
    xy_um
        ``(n, 2)`` spot centres.

    Returns
    -------
    ``(n,)`` int64 fold of each spot. Stripes run across the longer side and hold about as many spots each.
    """
    for known in (group, slide):
        names, fold = known.unique(return_inverse=True)
        if len(names) > 1:
            return torch.as_tensor(fold)
    longer = int((xy_um.amax(dim=0) - xy_um.amin(dim=0)).argmax())
    rank = xy_um[:, longer].argsort(stable=True).argsort()
    stripe: Tensor = rank * N_STRIPES // len(rank)
    return stripe


class Standardize(nn.Module):
    """Features with the mean and spread of the training spots taken out.

    Parameters
    ----------
    n_features
        Width of the features.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))

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

    def forward(self, features: Tensor) -> Tensor:
        """Standardise.

        Parameters
        ----------
        features
            ``(b, n_features)``, in float32 or float64.

        Returns
        -------
        The same shape and type.
        """
        return (features - self.mean) / self.spread


class Components(nn.Module):
    """Standardised features on the principal axes of the training spots, as many as there are, padded with zeros.

    All are divided by one number, so that the mean square of a component is 1 over the training spots.

    Parameters
    ----------
    n_features
        Width of the features.
    n_components
        Axes that are kept, at most.
    """

    axes: Tensor

    def __init__(self, n_features: int, n_components: int) -> None:
        super().__init__()
        self.standardize = Standardize(n_features)
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


def principal_axes(features: Tensor, standardize: Standardize, most: int) -> tuple[Tensor, Tensor]:
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
    """Standardise, principal components, ridge regression: one linear map of the features, in closed form.

    Parameters
    ----------
    n_features
        Width of the features.
    n_outputs
        Values predicted per spot.
    """

    weight: Tensor
    bias: Tensor
    penalty: Tensor
    """The penalty that was used."""

    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__()
        self.standardize = Standardize(n_features)
        self.register_buffer("weight", torch.zeros(n_outputs, n_features))
        self.register_buffer("bias", torch.zeros(n_outputs))
        self.register_buffer("penalty", torch.zeros(()))

    @torch.no_grad()
    def solve(self, known: Training, n_components: int, penalty: Penalty, *, intercept: bool = True) -> None:
        """Fit to training spots.

        Parameters
        ----------
        known
            The training spots.
        n_components
            Principal components that are regressed on, at most.
        penalty
            Weight of the squared coefficients of the components; None chooses one of `PENALTIES` by leaving out folds;
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
        alpha = chosen_penalty(x, y, known.fold, known.slide) if penalty is None else float(penalty)
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


def chosen_penalty(x: Tensor, y: Tensor, fold: Tensor, slide: Tensor, penalties: Sequence[float] = PENALTIES) -> float:
    """The penalty that explains most of what varies within slides that were left out.

    The error is the squared one after the mean of each slide is taken out of what was predicted and what was measured.
    So patients and sections whose level differs, which no penalty mends, have no say, and over principal components of
    genes the sum is that over the genes. Correlation would not do: it does not see predictions that shrink to nothing.

    Parameters
    ----------
    x
        ``(n, k)`` float64 features.
    y
        ``(n, g)`` float64 targets.
    fold
        ``(n,)`` what is left out together.
    slide
        ``(n,)`` slide of each spot.
    penalties
        What is tried.

    Returns
    -------
    One of them; `FALLBACK` where too few spots can be left out.
    """
    gram, moment, tried = x.T @ x, x.T @ y, torch.tensor(penalties, dtype=x.dtype, device=x.device)
    errors, scored = torch.zeros_like(tried), 0
    for name in fold.unique():
        held = fold == name
        n_left = int((~held).sum())
        if n_left < LEAST or int(held.sum()) < LEAST:
            continue
        x_mean, y_mean = x[~held].mean(dim=0), y[~held].mean(dim=0)
        inner = gram - x[held].T @ x[held] - n_left * torch.outer(x_mean, x_mean)
        values, vectors = torch.linalg.eigh(inner)
        slope = vectors.T @ (moment - x[held].T @ y[held] - n_left * torch.outer(x_mean, y_mean))
        seen = without_slide_mean(x[held] - x_mean, slide[held]) @ vectors
        errors += _errors(seen, without_slide_mean(y[held], slide[held]), values.clamp_min(0), slope, tried)
        scored += 1
    return float(tried[errors.argmin()]) if scored else FALLBACK


def _errors(x: Tensor, y: Tensor, values: Tensor, slope: Tensor, penalties: Tensor) -> Tensor:
    """Sum of squared errors with each penalty."""
    return torch.stack([(y - (x / (values + penalty)) @ slope).square().sum() for penalty in penalties])


def without_slide_mean(values: Tensor, slide: Tensor) -> Tensor:
    """Values without the mean of their slide.

    Parameters
    ----------
    values
        ``(n, k)``.
    slide
        ``(n,)`` slide of each spot.

    Returns
    -------
    The same shape.
    """
    names, index, n_spots = slide.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(names), values.shape[1], dtype=values.dtype, device=values.device)
    means: Tensor = sums.index_add_(0, index, values) / n_spots[:, None]
    return values - means[index]
