"""All training spots in cross-validation folds, and the cross-validated choice of a ridge penalty. Tensors only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .._checks import models as check
from ._places import concatenate_spots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from .contract import SpotBatch

PENALTIES = tuple(10 ** (power / 2) for power in range(-6, 13))
"""Weights of the squared coefficients that are tried, from 1e-3 to 1e6."""
FALLBACK = 1e3
"""Penalty if the spots are too few for cross-validation."""
N_STRIPES = 4
"""Folds of a single slide."""
LEAST = 3
"""Minimum number of spots of a slide on which a prediction is scored."""


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
