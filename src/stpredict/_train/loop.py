"""The training loop: one network, one set of training spots, one of validation spots.

Fabric places tensors and networks; this file decides what is stepped, averaged, validated, kept and resumed.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from .._checks import training as check
from ..metrics import pearson
from ..metrics.correlation import LEAST
from .accumulate import accumulate, agree_on_limit
from .augment import Views, dihedral
from .batches import BatchLimit, sent, take
from .prefetch import ahead
from .windows import seen_together, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..models.contract import SpotBatch, SpotModel
    from .config import FitConfig

    State = dict[str, Tensor]
    Decode = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(kw_only=True, slots=True)
class Progress:
    """Everything that a resumed run needs, and what a finished one leaves behind."""

    epoch: int = 0
    """Epochs done."""
    best_score: float = -math.inf
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    weights: State = field(default_factory=dict)
    """Weights as trained."""
    average: State = field(default_factory=dict)
    """Moving average of the weights."""
    best: State = field(default_factory=dict)
    """The average at the best epoch."""
    moments: dict[str, State] = field(default_factory=dict)
    """AdamW state by parameter name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Validation spots, with what was measured there in the units of the score."""

    spots: SpotBatch
    """These and others."""
    observed: NDArray[np.float32]
    """``(n, g)``."""
    decode: Decode
    """From network outputs to the units of ``observed``."""
    rows: Tensor | None = None
    """Positions of the validation spots among ``spots``, in the order of ``observed``; by default all."""

    @property
    def positions(self) -> Tensor:
        """``rows``, spelt out."""
        return torch.arange(len(self.spots)) if self.rows is None else self.rows


@torch.inference_mode()
def outputs(model: Any, spots: SpotBatch, fabric: Fabric, limit: int | BatchLimit, *, symmetries: int = 1) -> Tensor:
    """What a network gives for some spots, in eval mode.

    Parameters
    ----------
    model
        The network, set up by Fabric or not.
    spots
        The spots, on any device.
    fabric
        Where to compute, and in which precision.
    limit
        Spots a forward pass. Fewer where memory runs out, which a `BatchLimit` remembers.
    symmetries
        Average over this many of the eight views of the square.

    Returns
    -------
    ``(n, n_outputs)`` float32 on the CPU.
    """
    was_training = model.training
    model.eval()
    limit = BatchLimit(limit) if isinstance(limit, int) else limit
    parts: list[Tensor] = []
    done = 0
    while done < len(spots):
        some = take(spots, slice(done, done + limit.size))
        try:
            parts.append(_mean_output(model, some, fabric, symmetries))
            done += len(some)
        except RuntimeError as error:
            if not limit.shrink(len(some), error):
                raise
    model.train(was_training)
    return torch.cat(parts).cpu()


def _mean_output(model: Any, spots: SpotBatch, fabric: Fabric, symmetries: int) -> Tensor:
    """Mean over some views of the square, on the device."""
    batch = spots.to(fabric.device)
    with fabric.autocast():
        views = [model(replace(batch, patches=dihedral(batch.patches, k))).float() for k in range(symmetries)]
    return torch.stack(views).mean(dim=0)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Run:
    """What stays the same while one network is trained."""

    model: SpotModel
    wrapped: Any
    """The network as Fabric wraps it."""
    optimizer: torch.optim.Optimizer
    stepper: Any
    """The optimiser as Fabric wraps it."""
    average: State
    """Moving average of the weights, on the device."""
    config: FitConfig
    fabric: Fabric
    limit: BatchLimit
    """Spots a forward and backward pass on this device."""
    held: Held | None
    held_limit: BatchLimit
    """Spots a forward pass in validation."""


def train(
    model: SpotModel,
    spots: SpotBatch,
    held: Held | None,
    config: FitConfig,
    fabric: Fabric,
    *,
    state: Progress,
    report: Callable[[Progress], None],
    rows: Tensor | None = None,
) -> Progress:
    """Train one network.

    Parameters
    ----------
    model
        The network; its weights are overwritten with the best found.
    spots
        Spots with targets.
    held
        Validation spots; None keeps the last weights.
    config
        How to train.
    fabric
        Devices and precision.
    state
        Where to begin: a new `Progress`, or one that an interrupted run left.
    report
        Called after every epoch, and when training is interrupted, with the state so far.
    rows
        Positions of the training spots among ``spots``; by default all.

    Returns
    -------
    The state at the end; ``state.best`` are the weights to keep.
    """
    rows = torch.arange(len(spots)) if rows is None else rows
    if not model.has_trainable_parameters:
        return _as_it_is(model, held, config, fabric, state, report)
    in_windows = model.config.context == "slide"
    share = config.window if in_windows else -(-config.batch_size // fabric.world_size)
    run = _begin(model, held, config, fabric, state, share)
    whole = [rows[some] for some in windows(spots.xy_um[rows], spots.slide[rows], share)] if in_windows else []
    steps = max(1, (len(whole) if in_windows else len(rows) // share) // fabric.world_size)
    if fabric.world_size > 1:
        views = Views.draw(min(share, len(rows)), config, torch.Generator())
        agree_on_limit(run.wrapped, take(spots, rows[:share]), views, run.limit, fabric)
    try:
        while state.epoch < config.n_epochs and state.epoch - state.best_epoch <= config.patience:
            started = time.perf_counter()
            with seeded(config.seed, state.epoch) as generator:
                mine = _my_steps(whole or rows, steps, share, fabric, generator)
                with ahead(sent(spots, mine, fabric.device), depth=2) as batches:
                    loss = _epoch(run, batches, steps, state.epoch, generator)
            seconds = time.perf_counter() - started
            _finish_epoch(state, run, loss)
            state.history[-1]["spots_per_s"] = sum(map(len, mine)) * fabric.world_size / seconds
            report(state)
    except KeyboardInterrupt:
        report(state)
        raise
    model.load_state_dict(state.best)
    return state


def at_once(model: SpotModel, config: FitConfig) -> int:
    """How many spots a network looks at together."""
    return config.window if model.config.context == "slide" else config.batch_size


def _my_steps(
    given: list[Tensor] | Tensor, steps: int, share: int, fabric: Fabric, generator: torch.Generator
) -> list[Tensor]:
    """Positions of the spots of each step of this process in one epoch: whole windows, or spots one by one."""
    order = torch.randperm(len(given), generator=generator)
    mine = [i * fabric.world_size + fabric.global_rank for i in range(steps)]
    if isinstance(given, list):
        return [given[int(order[i % len(order)])] for i in mine]
    return [given[order[i * share :][:share]] for i in mine]


def _as_it_is(
    model: SpotModel,
    held: Held | None,
    config: FitConfig,
    fabric: Fabric,
    state: Progress,
    report: Callable[[Progress], None],
) -> Progress:
    """A model without anything to train by steps: it is scored, and kept."""
    model.to(fabric.device)
    limit = BatchLimit(at_once(model, config))
    state.best, state.best_epoch, state.epoch = _copied(model.state_dict()), 0, 1
    row = {"epoch": 0.0}
    if held is not None:
        row |= _scores(_held_outputs(model, held, config, fabric, limit), held)
    state.history.append(row)
    report(state)
    return state


def _begin(model: SpotModel, held: Held | None, config: FitConfig, fabric: Fabric, state: Progress, share: int) -> _Run:
    optimizer = torch.optim.AdamW(_decayed(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.99))
    wrapped, stepper = fabric.setup(model, optimizer)
    _restore(model, optimizer, state)
    wrapped.mark_forward_method("loss")
    average = {name: value.detach().clone() for name, value in (state.average or model.state_dict()).items()}
    return _Run(
        model=model,
        wrapped=wrapped,
        optimizer=optimizer,
        stepper=stepper,
        average={name: value.to(fabric.device) for name, value in average.items()},
        config=config,
        fabric=fabric,
        limit=BatchLimit(share),
        held=held,
        held_limit=BatchLimit(at_once(model, config)),
    )


def _epoch(run: _Run, batches: Iterator[SpotBatch], steps: int, epoch: int, generator: torch.Generator) -> float:
    """One pass over the training spots; returns the mean loss."""
    loss = 0.0
    for step, batch in enumerate(batches):
        _set_lr(run.optimizer, run.config, epoch + step / steps)
        views = Views.draw(len(batch), run.config, generator)
        loss += _step(run, batch, views) / steps
        check.finite_loss(loss, epoch)
        _follow(run.average, run.model, run.config.ema_decay, epoch * steps + step)
    return loss


def _step(run: _Run, batch: SpotBatch, views: Views) -> float:
    run.stepper.zero_grad(set_to_none=True)
    loss = accumulate(run.wrapped, batch, views, run.limit, run.fabric)
    run.fabric.clip_gradients(run.wrapped, run.stepper, max_norm=run.config.clip_norm, error_if_nonfinite=False)
    run.stepper.step()
    return loss


@contextmanager
def seeded(seed: int, epoch: int) -> Iterator[torch.Generator]:
    """Random numbers that depend on seed and epoch alone, so that a resumed run continues as if never stopped.

    Parameters
    ----------
    seed
        Seed of the run.
    epoch
        Epoch, from 0.

    Yields
    ------
    A generator for order and augmentation; torch's global generators are seeded within and restored afterwards.
    """
    mixed = (seed * 1_000_003 + epoch * 7_919) % (2**31)
    with torch.random.fork_rng():
        torch.manual_seed(mixed)  # noqa: TID251  (forked: restored on exit)
        yield torch.Generator().manual_seed(mixed + 1)


def _set_lr(optimizer: torch.optim.Optimizer, config: FitConfig, epoch: float) -> None:
    """Linear warm-up, then cosine to zero."""
    if epoch < config.warmup_epochs:
        scale = (epoch + 0.1) / (config.warmup_epochs + 0.1)
    else:
        done = (epoch - config.warmup_epochs) / max(config.n_epochs - config.warmup_epochs, 1e-9)
        scale = 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = config.lr * scale


@torch.no_grad()
def _follow(average: State, model: SpotModel, decay: float, step: int) -> None:
    """Moving average of the weights; the first steps follow faster, so that the start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.detach(), 1 - decay)
        else:
            average[name].copy_(value)


def _finish_epoch(state: Progress, run: _Run, loss: float) -> None:
    model, moments = run.model, run.optimizer.state
    state.weights = _copied(model.state_dict())
    state.average = _copied(run.average)
    state.moments = {name: _copied(moments[p]) for name, p in model.named_parameters() if p in moments}
    row = {"epoch": float(state.epoch), "train_loss": loss, "lr": float(run.optimizer.param_groups[0]["lr"])}
    score = float(state.epoch)
    if run.held is not None:
        model.load_state_dict(run.average)
        row |= _scores(_held_outputs(model, run.held, run.config, run.fabric, run.held_limit), run.held)
        model.load_state_dict(state.weights)
        score = row["val_pearson"]
    state.history.append(row)
    if score > state.best_score or not state.best:
        state.best_score, state.best_epoch, state.best = score, state.epoch, state.average
    state.epoch += 1


def _held_outputs(model: SpotModel, held: Held, config: FitConfig, fabric: Fabric, limit: BatchLimit) -> Tensor:
    """What the network gives for the validation spots, a batch or a window at a time."""
    parts, order = seen_together(
        held.spots,
        held.positions,
        context=model.config.context,
        window=config.window,
        batch_size=config.batch_size,
    )
    with ahead(sent(held.spots, parts, fabric.device), depth=2) as batches:
        return torch.cat([outputs(model, batch, fabric, limit) for batch in batches])[order]


def _scores(given: Tensor, held: Held) -> dict[str, float]:
    """Gene-wise correlation within each slide, averaged; slides of one or two spots have none."""
    predicted, rows = held.decode(given.numpy()), held.positions
    slides = held.spots.slide[rows].numpy()
    on_slide = [slides == s for s in sorted(set(slides.tolist()))]
    per_slide = [pearson(held.observed[here], predicted[here]) for here in on_slide if here.sum() >= LEAST]
    values = torch.as_tensor([float(torch.as_tensor(r).nanmean()) for r in per_slide])
    targets = held.spots.targets
    loss = float(((given - targets[rows]) ** 2).mean()) if targets is not None else math.nan
    return {"val_loss": loss, "val_pearson": float(values.nanmean().nan_to_num(0.0))}


def _decayed(model: SpotModel, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only; what is frozen is left out."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim >= 2 and not any(word in name for word in ("cls", "position", "token"))
        (matrices if is_matrix else rest).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _restore(model: SpotModel, optimizer: torch.optim.Optimizer, state: Progress) -> None:
    if not state.weights:
        return
    model.load_state_dict(state.weights)
    for name, parameter in model.named_parameters():
        if name in state.moments:
            moments = state.moments[name].items()
            optimizer.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter.device, copy=True) for key, value in moments
            }


def _copied(tensors: dict[str, Any]) -> State:
    return {name: torch.as_tensor(value).detach().to("cpu", copy=True) for name, value in tensors.items()}
