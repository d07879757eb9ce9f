"""All training spots together, in folds, and the penalty of a regression that is chosen by leaving folds out.

Tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .._checks import models as check
from . import _places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from .contract import SpotBatch

PENALTIES = tuple(10 ** (power / 2) for power in range(-6, 13))
"""Weights of the squared coefficients that are tried, from 1e-3 to 1e6."""
FALLBACK = 1e3
"""Penalty where too few spots can be left out to try any."""
N_STRIPES = 4
"""Parts of the only slide that are left out one after the other."""
LEAST = 3
"""Spots of a slide, at least, on which a prediction is scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpots:
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
def gather_training_spots(pieces: Iterable[SpotBatch], describe: Callable[[SpotBatch], Tensor]) -> TrainingSpots:
    """Put the training spots together.

    Parameters
    ----------
    pieces
        What `SpotModel.initialize_from` gets.
    describe
        Gives the features of some spots.

    Returns
    -------
    The spots, with the folds for inner validation.
    """
    spots = _places.concatenate_spots(replace(piece, features=describe(piece)) for piece in pieces)
    return TrainingSpots(
        features=check.require_features(spots.features).float(),
        targets=check.require_targets(spots.targets).float(),
        fold=inner_folds(spots.slide if spots.group is None else spots.group, spots.slide, spots.xy_um),
        slide=spots.slide,
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


def choose_penalty(x: Tensor, y: Tensor, fold: Tensor, slide: Tensor, penalties: Sequence[float] = PENALTIES) -> float:
    """The penalty by which what varies within slides that were left out is best followed.

    Pearson correlation over the spots of a slide, averaged over outputs with their variance there as weight, then over
    slides: standardised genes count alike, principal components for what they carry of the genes. Patients and sections
    whose level differs, which no penalty mends, have no say. Squared errors would ask for more: a fold less is trained
    on than in the end, and what is uncertain then is shrunk. But correlation does not see how far a prediction swings:
    a penalty with which what was left out is farther off than from its own mean is not taken.

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
        What is tried, smallest first.

    Returns
    -------
    One of them; `FALLBACK` where too few spots can be left out, or nothing varies.
    """
    gram, moment, tried = x.T @ x, x.T @ y, torch.tensor(penalties, dtype=x.dtype, device=x.device)
    scores, errors, spread = torch.zeros_like(tried), torch.zeros_like(tried), 0.0
    for name in fold.unique():
        held = fold == name
        n_left = int((~held).sum())
        if n_left < LEAST or int(held.sum()) < LEAST:
            continue
        x_mean, y_mean = x[~held].mean(dim=0), y[~held].mean(dim=0)
        inner = gram - x[held].T @ x[held] - n_left * torch.outer(x_mean, x_mean)
        values, vectors = torch.linalg.eigh(inner)
        slope = vectors.T @ (moment - x[held].T @ y[held] - n_left * torch.outer(x_mean, y_mean))
        seen, filters = (x[held] - x_mean) @ vectors, 1 / (values.clamp_min(0) + tried[:, None])
        for one in slide[held].unique():
            here = slide[held] == one
            followed, missed, power = _followed(seen[here], y[held][here], filters, slope)
            scores, errors, spread = scores + followed, errors + missed, spread + power
    if not scores.any():
        return FALLBACK
    sound = errors <= spread
    return float(tried[scores.where(sound, -torch.inf).argmax()] if sound.any() else tried[-1])


def _followed(x: Tensor, y: Tensor, filters: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, float]:
    """Correlation on one slide with each penalty, averaged over outputs by their variance.

    Behind it the squared errors of each, and what they are of the mean; levels aside.
    """
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    power, found, missed = y.square().sum(dim=0), [], []
    if len(x) < LEAST or not power.any():
        return torch.zeros_like(filters[:, 0]), torch.zeros_like(filters[:, 0]), 0.0
    for each in filters:
        predicted = (x * each) @ slope
        r = (predicted * y).sum(dim=0) / (predicted.square().sum(dim=0) * power).sqrt().clamp_min(1e-30)
        found.append((r * power).sum() / power.sum())
        missed.append((predicted - y).square().sum())
    return torch.stack(found), torch.stack(missed), float(power.sum())


def center_by_slide(values: Tensor, slide: Tensor) -> Tensor:
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
