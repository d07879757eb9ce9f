"""Standardisation, principal components and ridge regression with a cross-validated penalty, without gradient steps.

Tensors only. Everything learnt is a buffer whose shape the configuration decides, so that a saved state fits a fresh
network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from .._checks import models as check
from ._places import concatenate_spots
from ._precision import full_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from .contract import SpotBatch

    Penalty = float | Literal["hest"] | None

NEGLIGIBLE = 1e-10
"""Components with less than this share of the variance of the first are rounding errors."""
ROWS = 4096
"""Spots that are converted to double precision at a time."""
PENALTIES = tuple(10 ** (power / 2) for power in range(-6, 13))
"""Weights of the squared coefficients that are tried, from 1e-3 to 1e6."""
FALLBACK = 1e3
"""Penalty if the spots are too few for cross-validation."""
N_STRIPES = 4
"""Folds of a single slide."""
LEAST = 3
"""Minimum number of spots of a slide on which a prediction is scored."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpots:
    """All training spots."""

    features: Tensor
    """``(n, d)`` float32."""
    targets: Tensor
    """``(n, g)`` float32."""
    fold: Tensor
    """``(n,)`` int64 fold for cross-validation."""
    slide: Tensor
    """``(n,)`` int64."""


@torch.no_grad()
def gather_training_spots(
    batches: Iterable[SpotBatch], compute_features: Callable[[SpotBatch], Tensor]
) -> TrainingSpots:
    """Concatenate all training spots, with their features and their folds."""
    spots = concatenate_spots(replace(batch, features=compute_features(batch)) for batch in batches)
    return TrainingSpots(
        features=check.require_features(spots.features).float(),
        targets=check.require_targets(spots.targets).float(),
        fold=inner_folds(spots.slide if spots.group is None else spots.group, spots.slide, spots.xy_um),
        slide=spots.slide,
    )


def inner_folds(group: Tensor, slide: Tensor, xy_um: Tensor) -> Tensor:
    """Fold of each spot, ``(n,)`` int64: groups if there are several, else slides, else stripes of the only slide.

    Stripes run across the longer side and have about equally many spots.
    """
    for labels in (group, slide):
        names, fold = labels.unique(return_inverse=True)
        if len(names) > 1:
            return torch.as_tensor(fold)
    longer = int((xy_um.amax(dim=0) - xy_um.amin(dim=0)).argmax())
    rank = xy_um[:, longer].argsort(stable=True).argsort()
    return rank * N_STRIPES // len(rank)


def choose_penalty(x: Tensor, y: Tensor, fold: Tensor, slide: Tensor, penalties: Sequence[float] = PENALTIES) -> float:
    """The ridge penalty with the best cross-validated correlation within held-out slides, or `FALLBACK`.

    The score is the Pearson correlation over the spots of a slide, averaged over outputs weighted by their variance
    there, then over slides: standardised genes count equally, and principal components by the variance they explain.
    Level differences between patients and sections, which no penalty corrects, do not count. The squared error would
    favour larger penalties, since a fold is trained on fewer spots than the final fit and uncertain coefficients are
    shrunk. But correlation ignores the amplitude of a prediction: a penalty whose held-out squared error exceeds that
    of the mean is not taken. ``x`` is ``(n, k)`` and ``y`` ``(n, g)``, float64; ``penalties`` are in increasing order.
    """
    gram, moment, tried = x.T @ x, x.T @ y, torch.tensor(penalties, dtype=x.dtype, device=x.device)
    scores, errors, variance = torch.zeros_like(tried), torch.zeros_like(tried), 0.0
    for name in fold.unique():
        test = fold == name
        n_train = int((~test).sum())
        if n_train < LEAST or int(test.sum()) < LEAST:
            continue
        x_mean, y_mean = x[~test].mean(dim=0), y[~test].mean(dim=0)
        inner = gram - x[test].T @ x[test] - n_train * torch.outer(x_mean, x_mean)
        values, vectors = torch.linalg.eigh(inner)
        slope = vectors.T @ (moment - x[test].T @ y[test] - n_train * torch.outer(x_mean, y_mean))
        projected, filters = (x[test] - x_mean) @ vectors, 1 / (values.clamp_min(0) + tried[:, None])
        for one in slide[test].unique():
            here = slide[test] == one
            score, error, power = _slide_scores(projected[here], y[test][here], filters, slope)
            scores, errors, variance = scores + score, errors + error, variance + power
    if not scores.any():
        return FALLBACK
    better_than_mean = errors <= variance
    if not better_than_mean.any():
        return float(tried[-1])
    return float(tried[scores.where(better_than_mean, -torch.inf).argmax()])


def _slide_scores(x: Tensor, y: Tensor, filters: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, float]:
    """Correlation and squared error on one slide with each penalty, and the squared error of the slide's mean."""
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    power, scores, errors = y.square().sum(dim=0), [], []
    if len(x) < LEAST or not power.any():
        return torch.zeros_like(filters[:, 0]), torch.zeros_like(filters[:, 0]), 0.0
    for each in filters:
        predicted = (x * each) @ slope
        r = (predicted * y).sum(dim=0) / (predicted.square().sum(dim=0) * power).sqrt().clamp_min(1e-30)
        scores.append((r * power).sum() / power.sum())
        errors.append((predicted - y).square().sum())
    return torch.stack(scores), torch.stack(errors), float(power.sum())


def center_by_slide(values: Tensor, slide: Tensor) -> Tensor:
    """``(n, k)`` values minus the mean of their slide."""
    names, index, n_spots = slide.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(names), values.shape[1], dtype=values.dtype, device=values.device)
    means: Tensor = sums.index_add_(0, index, values) / n_spots[:, None]
    return values - means[index]


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
