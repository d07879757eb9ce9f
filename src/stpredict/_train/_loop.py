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
from ..metrics._correlation import LEAST
from ._augment import augment, dihedral

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..models._contract import SpotBatch, SpotModel
    from ._config import FitConfig

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
    observed: NDArray[np.float32]
    decode: Decode
    """From network outputs to the units of ``observed``."""


def take(spots: SpotBatch, index: Tensor) -> SpotBatch:
    """Some of the spots, in the order of ``index``.

    Parameters
    ----------
    spots
        All spots.
    index
        ``(b,)`` positions.

    Returns
    -------
    A new batch.
    """
    return replace(
        spots,
        patches=spots.patches[index],
        xy_um=spots.xy_um[index],
        slide=spots.slide[index],
        targets=None if spots.targets is None else spots.targets[index],
        counts=None if spots.counts is None else spots.counts[index],
    )


@torch.inference_mode()
def outputs(model: Any, spots: SpotBatch, fabric: Fabric, batch_size: int, *, symmetries: int = 1) -> Tensor:
    """What a network gives for some spots, in eval mode.

    Parameters
    ----------
    model
        The network, set up by Fabric or not.
    spots
        The spots, on any device.
    fabric
        Where to compute, and in which precision.
    batch_size
        Spots a forward pass.
    symmetries
        Average over this many of the eight views of the square.

    Returns
    -------
    ``(n, n_outputs)`` float32 on the CPU.
    """
    was_training = model.training
    model.eval()
    parts = []
    for index in torch.arange(len(spots)).split(batch_size):
        batch = take(spots, index).to(fabric.device)
        with fabric.autocast():
            views = [model(replace(batch, patches=dihedral(batch.patches, k))).float() for k in range(symmetries)]
        parts.append(torch.stack(views).mean(dim=0).cpu())
    model.train(was_training)
    return torch.cat(parts)


def train(
    model: SpotModel,
    spots: SpotBatch,
    held: Held | None,
    config: FitConfig,
    fabric: Fabric,
    *,
    state: Progress,
    report: Callable[[Progress], None],
) -> Progress:
    """Train one network.

    Parameters
    ----------
    model
        The network; its weights are overwritten with the best found.
    spots
        Training spots with targets.
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

    Returns
    -------
    The state at the end; ``state.best`` are the weights to keep.
    """
    optimizer = torch.optim.AdamW(_decayed(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.99))
    wrapped, stepper = fabric.setup(model, optimizer)
    _restore(model, optimizer, state)
    wrapped.mark_forward_method("loss")
    average = {name: value.detach().clone() for name, value in (state.average or model.state_dict()).items()}
    average = {name: value.to(fabric.device) for name, value in average.items()}
    share = -(-config.batch_size // fabric.world_size)
    steps = max(1, len(spots) // (share * fabric.world_size))
    try:
        while state.epoch < config.n_epochs and state.epoch - state.best_epoch <= config.patience:
            started = time.perf_counter()
            with seeded(config.seed, state.epoch) as generator:
                order = torch.randperm(len(spots), generator=generator)
                loss = 0.0
                for step in range(steps):
                    _set_lr(optimizer, config, state.epoch + step / steps)
                    index = order[(step * fabric.world_size + fabric.global_rank) * share :][:share]
                    batch = augment(take(spots, index).to(fabric.device), config, generator)
                    loss += _step(wrapped, stepper, batch, config, fabric) / steps
                    check.finite_loss(loss, state.epoch)
                    _follow(average, model, config.ema_decay, state.epoch * steps + step)
            seconds = time.perf_counter() - started
            _finish_epoch(state, model, average, optimizer, held, config, fabric, loss=loss)
            state.history[-1]["spots_per_s"] = steps * share * fabric.world_size / seconds
            report(state)
    except KeyboardInterrupt:
        report(state)
        raise
    model.load_state_dict(state.best)
    return state


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


def _step(model: Any, optimizer: Any, batch: SpotBatch, config: FitConfig, fabric: Fabric) -> float:
    with fabric.autocast():
        loss = model.loss(batch)
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(loss)
    fabric.clip_gradients(model, optimizer, max_norm=config.clip_norm, error_if_nonfinite=False)
    optimizer.step()
    return float(loss.detach())


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


def _finish_epoch(
    state: Progress,
    model: SpotModel,
    average: State,
    optimizer: torch.optim.Optimizer,
    held: Held | None,
    config: FitConfig,
    fabric: Fabric,
    *,
    loss: float,
) -> None:
    moments = {name: optimizer.state[p] for name, p in model.named_parameters() if p in optimizer.state}
    state.weights = _copied(model.state_dict())
    state.average = _copied(average)
    state.moments = {name: _copied(values) for name, values in moments.items()}
    row = {"epoch": float(state.epoch), "train_loss": loss, "lr": float(optimizer.param_groups[0]["lr"])}
    score = float(state.epoch)
    if held is not None:
        model.load_state_dict(average)
        given = outputs(model, held.spots, fabric, config.batch_size)
        model.load_state_dict(state.weights)
        row |= _scores(given, held)
        score = row["val_pearson"]
    state.history.append(row)
    if score > state.best_score or not state.best:
        state.best_score, state.best_epoch, state.best = score, state.epoch, state.average
    state.epoch += 1


def _scores(given: Tensor, held: Held) -> dict[str, float]:
    """Gene-wise correlation within each slide, averaged; slides of one or two spots have none."""
    predicted = held.decode(given.numpy())
    slides = held.spots.slide.numpy()
    on_slide = [slides == s for s in sorted(set(slides.tolist()))]
    per_slide = [pearson(held.observed[rows], predicted[rows]) for rows in on_slide if rows.sum() >= LEAST]
    values = torch.as_tensor([float(torch.as_tensor(r).nanmean()) for r in per_slide])
    loss = float(((given - held.spots.targets) ** 2).mean()) if held.spots.targets is not None else math.nan
    return {"val_loss": loss, "val_pearson": float(values.nanmean().nan_to_num(0.0))}


def _decayed(model: SpotModel, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices only."""
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
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
