"""The training loop: one network, its training spots and its validation spots.

Fabric places tensors and networks; this file decides what is stepped, averaged, validated, kept and resumed.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..metrics import pearson
from ..metrics.correlation import LEAST
from . import _errors
from .accumulate import accumulate, agree_on_limit
from .augment import Views, dihedral
from .batches import BatchLimit, device_batches, gather, map_passes
from .prefetch import prefetch
from .windows import context_batches, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..models.contract import SpotBatch, SpotModel
    from .config import FitConfig

    State = dict[str, Tensor]
    Decode = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingState:
    """The state of a training run after an epoch: what a resumed run needs, and the result of a finished one.

    Every epoch makes a new one, so that an interruption at any moment leaves the whole state of an epoch.
    """

    epoch: int = 0
    """Number of finished epochs."""
    best_score: float = -math.inf
    best_epoch: int = -1
    history: tuple[dict[str, float], ...] = ()
    weights: State = field(default_factory=dict)
    """Weights as trained."""
    average: State = field(default_factory=dict)
    """Moving average of the weights."""
    best: State = field(default_factory=dict)
    """The average at the best epoch."""
    moments: dict[str, State] = field(default_factory=dict)
    """AdamW state by parameter name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSpots:
    """Validation spots and their observed expression."""

    spots: SpotBatch
    """Validation spots and others."""
    observed: NDArray[np.float32]
    """``(n, g)`` in the units of the score."""
    decode: Decode
    """From network outputs to the units of ``observed``."""
    rows: Tensor | None = None
    """Positions of the validation spots among ``spots``, in the order of ``observed``; by default all."""

    @property
    def positions(self) -> Tensor:
        """``rows``, also where they are all spots."""
        return torch.arange(len(self.spots)) if self.rows is None else self.rows


@torch.inference_mode()
def outputs(model: Any, spots: SpotBatch, fabric: Fabric, limit: int | BatchLimit, *, symmetries: int = 1) -> Tensor:
    """Outputs of a network in eval mode, averaged over ``symmetries`` views, as float32 on the CPU."""
    was_training = model.training
    model.eval()

    def mean_output(some: SpotBatch) -> Tensor:
        batch = some.to(fabric.device)
        with fabric.autocast():
            views = [model(replace(batch, patches=dihedral(batch.patches, k))).float() for k in range(symmetries)]
        return torch.stack(views).mean(dim=0)

    parts = list(map_passes(mean_output, spots, BatchLimit(limit) if isinstance(limit, int) else limit))
    model.train(was_training)
    return torch.cat(parts).cpu()


@torch.no_grad()
def encoder_features(model: SpotModel, spots: SpotBatch, fabric: Fabric) -> Tensor | None:
    """Features given with the spots, or else of the model's frozen encoder; None if the model has none."""  # (n, ...)
    if spots.features is not None:
        return spots.features

    def encode(batch: SpotBatch) -> Tensor | None:
        with fabric.autocast():
            found = model.encode(batch.to(fabric.device))
        return None if found is None else found.float()

    model.to(fabric.device).eval()
    parts = []
    for found in map_passes(encode, spots, BatchLimit.of(None, fabric.device)):
        if found is None:
            break
        parts.append(found.cpu())
    model.train()
    if not parts:
        return None
    features = torch.cat(parts)
    _errors.check_finite_features(finite=bool(features.isfinite().all()))
    return features


def tta_mean_std(
    model: SpotModel,
    decode: Decode,  # linear
    spots: SpotBatch,
    fabric: Fabric,
    limit: BatchLimit,
    n_views: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation over ``n_views`` of the eight symmetries; the latter is zero for one view."""
    turned = (replace(spots, patches=dihedral(spots.patches, k)) for k in range(n_views))
    views = torch.stack([outputs(model, view, fabric, limit) for view in turned])
    mean = decode(views.mean(dim=0).numpy())
    squares = np.zeros_like(mean)
    for view in views if n_views > 1 else ():  # one after the other: all at once would be eight tables
        squares += (decode(view.numpy()) - mean) ** 2
    return mean, np.sqrt(squares / n_views)


class _Loop:
    """The fixed parts of the training of one network; ``wrapped`` and ``stepper`` are what Fabric made of it."""

    def __init__(
        self,
        model: SpotModel,
        validation: ValidationSpots | None,
        config: FitConfig,
        fabric: Fabric,
        state: TrainingState,
        spots_per_step: int,
    ) -> None:
        self.model, self.validation, self.config, self.fabric = model, validation, config, fabric
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.99)
        )
        self.wrapped, self.stepper = fabric.setup(model, self.optimizer)
        _restore(model, self.optimizer, state)
        self.wrapped.mark_forward_method("loss")
        average = {name: value.detach().clone() for name, value in (state.average or model.state_dict()).items()}
        self.average = {name: value.to(fabric.device) for name, value in average.items()}
        self.limit, self.validation_limit = BatchLimit(spots_per_step), BatchLimit(spots_per_pass(model, config))


def train(
    model: SpotModel,
    spots: SpotBatch,
    validation: ValidationSpots | None,
    config: FitConfig,
    fabric: Fabric,
    *,
    state: TrainingState,
    report: Callable[[TrainingState], None],
    rows: Tensor | None = None,
) -> TrainingState:
    """Train one network, from a new `TrainingState` or one that an interrupted run left.

    The best weights found are in the network and in ``best`` of the state that is returned. ``report`` is called with
    the state after every epoch, and with the last one when training is interrupted. ``rows`` are the positions of the
    training spots among ``spots``; by default all.
    """
    rows = torch.arange(len(spots)) if rows is None else rows
    if not model.has_trainable_parameters:
        return _score_untrainable(model, validation, config, fabric, state, report)
    uses_windows = model.config.context == "slide"
    share = config.window if uses_windows else -(-config.batch_size // fabric.world_size)
    loop = _Loop(model, validation, config, fabric, state, share)
    whole = [rows[some] for some in windows(spots.xy_um[rows], spots.slide[rows], share)] if uses_windows else []
    steps = max(1, (len(whole) if uses_windows else len(rows) // share) // fabric.world_size)
    if fabric.world_size > 1:
        views = Views.draw(min(share, len(rows)), config, torch.Generator())
        agree_on_limit(loop.wrapped, gather(spots, rows[:share]), views, loop.limit, fabric)
    try:
        while state.epoch < config.n_epochs and state.epoch - state.best_epoch <= config.patience:
            started = time.perf_counter()
            with seeded_rng(config.seed, state.epoch) as generator:
                mine = _rows_of_steps(whole or rows, steps, share, fabric, generator)
                with prefetch(device_batches(spots, mine, fabric.device), depth=2) as batches:
                    loss = _train_epoch(loop, batches, steps, state.epoch, generator)
            seconds = time.perf_counter() - started
            state = _next_state(state, loop, loss, sum(map(len, mine)) * fabric.world_size / seconds)
            report(state)
    except KeyboardInterrupt:
        report(state)
        raise
    model.load_state_dict(state.best)
    return state


def spots_per_pass(model: SpotModel, config: FitConfig) -> int:
    """Number of spots that a network takes in one pass: a window, or a batch."""
    return config.window if model.config.context == "slide" else config.batch_size


def _rows_of_steps(
    items: list[Tensor] | Tensor, steps: int, share: int, fabric: Fabric, generator: torch.Generator
) -> list[Tensor]:
    """Positions of the spots of each step of this process in one epoch: one window, or a random batch."""
    order = torch.randperm(len(items), generator=generator)
    mine = [i * fabric.world_size + fabric.global_rank for i in range(steps)]
    if isinstance(items, list):
        return [items[int(order[i % len(order)])] for i in mine]
    return [items[order[i * share :][:share]] for i in mine]


def _score_untrainable(
    model: SpotModel,
    validation: ValidationSpots | None,
    config: FitConfig,
    fabric: Fabric,
    state: TrainingState,
    report: Callable[[TrainingState], None],
) -> TrainingState:
    """Score and keep a model without trainable parameters."""
    model.to(fabric.device)
    limit = BatchLimit(spots_per_pass(model, config))
    row = {"epoch": 0.0}
    if validation is not None:
        row |= _validate(model, validation, config, fabric, limit)
    best = _cpu_copy(model.state_dict())
    state = replace(state, best=best, best_epoch=0, epoch=1, history=(*state.history, row))
    report(state)
    return state


def _train_epoch(
    loop: _Loop, batches: Iterator[SpotBatch], steps: int, epoch: int, generator: torch.Generator
) -> float:
    """One pass over the training spots; return the mean loss."""
    loss = 0.0
    for step, batch in enumerate(batches):
        _set_lr(loop.optimizer, loop.config, epoch + step / steps)
        views = Views.draw(len(batch), loop.config, generator)
        loss += _optimizer_step(loop, batch, views) / steps
        _errors.check_loss(loss, epoch)
        _update_average(loop.average, loop.model, loop.config.ema_decay, epoch * steps + step)
    return loss


def _optimizer_step(loop: _Loop, batch: SpotBatch, views: Views) -> float:
    loop.stepper.zero_grad(set_to_none=True)
    loss = accumulate(loop.wrapped, batch, views, loop.limit, loop.fabric)
    loop.fabric.clip_gradients(loop.wrapped, loop.stepper, max_norm=loop.config.clip_norm, error_if_nonfinite=False)
    loop.stepper.step()
    return loss


@contextmanager
def seeded_rng(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """Random numbers that depend on seed and epoch only, so that a resumed run equals an uninterrupted one.

    Yields a generator for order and augmentation; torch's global generators are restored afterwards.
    """
    mixed = (seed * 1_000_003 + epoch * 7_919) % (2**31)
    with torch.random.fork_rng():
        torch.manual_seed(mixed)  # noqa: TID251  (forked: restored on exit)
        yield torch.Generator().manual_seed(mixed + 1)


def _set_lr(optimizer: torch.optim.Optimizer, config: FitConfig, epoch: float) -> None:
    """Linear warm-up, then cosine decay to zero."""
    if epoch < config.warmup_epochs:
        scale = (epoch + 0.1) / (config.warmup_epochs + 0.1)
    else:
        done = (epoch - config.warmup_epochs) / max(config.n_epochs - config.warmup_epochs, 1e-9)
        scale = 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = config.lr * scale


@torch.no_grad()
def _update_average(average: State, model: SpotModel, decay: float, step: int) -> None:
    """Exponential moving average of the weights, with a smaller decay in the first steps to forget the start."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.detach(), 1 - decay)
        else:
            average[name].copy_(value)


def _next_state(state: TrainingState, loop: _Loop, loss: float, spots_per_s: float) -> TrainingState:
    """The state after the epoch whose steps were just taken, with its validation."""
    model, moments = loop.model, loop.optimizer.state
    weights, average = _cpu_copy(model.state_dict()), _cpu_copy(loop.average)
    row = {"epoch": float(state.epoch), "train_loss": loss, "lr": float(loop.optimizer.param_groups[0]["lr"])}
    score = float(state.epoch)
    if loop.validation is not None:
        model.load_state_dict(loop.average)
        row |= _validate(model, loop.validation, loop.config, loop.fabric, loop.validation_limit)
        model.load_state_dict(weights)
        score = row["val_pearson"]
    is_best = score > state.best_score or not state.best
    return TrainingState(
        epoch=state.epoch + 1,
        best_score=score if is_best else state.best_score,
        best_epoch=state.epoch if is_best else state.best_epoch,
        history=(*state.history, {**row, "spots_per_s": spots_per_s}),
        weights=weights,
        average=average,
        best=average if is_best else state.best,
        moments={name: _cpu_copy(moments[p]) for name, p in model.named_parameters() if p in moments},
    )


def outputs_at(
    model: SpotModel, spots: SpotBatch, rows: Tensor, config: FitConfig, fabric: Fabric, limit: BatchLimit
) -> Tensor:
    """Outputs at some rows, computed by batch or window, in the order of ``rows``."""
    parts, order = context_batches(
        spots, rows, context=model.config.context, window=config.window, batch_size=config.batch_size
    )
    with prefetch(device_batches(spots, parts, fabric.device), depth=2) as batches:
        return torch.cat([outputs(model, batch, fabric, limit) for batch in batches])[order]


def _validate(
    model: SpotModel, validation: ValidationSpots, config: FitConfig, fabric: Fabric, limit: BatchLimit
) -> dict[str, float]:
    encoded = outputs_at(model, validation.spots, validation.positions, config, fabric, limit)
    return _validation_scores(encoded, validation)


def _validation_scores(encoded: Tensor, validation: ValidationSpots) -> dict[str, float]:
    """Loss, and mean gene-wise Pearson correlation within slides; slides of one or two spots have none."""
    predicted, rows = validation.decode(encoded.numpy()), validation.positions
    slides = validation.spots.slide[rows].numpy()
    on_slide = [slides == s for s in sorted(set(slides.tolist()))]
    per_slide = [pearson(validation.observed[here], predicted[here]) for here in on_slide if here.sum() >= LEAST]
    values = torch.as_tensor([float(torch.as_tensor(r).nanmean()) for r in per_slide])
    targets = validation.spots.targets
    loss = float(((encoded - targets[rows]) ** 2).mean()) if targets is not None else math.nan
    return {"val_loss": loss, "val_pearson": float(values.nanmean().nan_to_num(0.0))}


def _parameter_groups(model: SpotModel, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weight decay for matrices only; frozen parameters are left out."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and not any(word in name for word in ("cls", "position", "token"))
        (matrices if is_matrix else rest).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _restore(model: SpotModel, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    if not state.weights:
        return
    model.load_state_dict(state.weights)
    for name, parameter in model.named_parameters():
        if name in state.moments:
            moments = state.moments[name].items()
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter.device, copy=True) for key, value in moments
            }


def _cpu_copy(tensors: dict[str, Any]) -> State:
    return {name: torch.as_tensor(value).detach().to("cpu", copy=True) for name, value in tensors.items()}
