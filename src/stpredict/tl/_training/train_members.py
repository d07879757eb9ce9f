"""From a planned run to a saved predictor."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..._checks import predictor as check_predictor
from ..._checks import training as check
from ..._train.batches import take
from ..._train.color import color_statistics, fit_ridge
from ..._train.data import held_spots
from ..._train.device import make_fabric
from ..._train.features import features_of
from ..._train.loop import Held, seeded, train
from ...models import build
from ...models.encoder import Encoder
from ...models.registry import config_fields
from ...pp.targets import Targets
from .._predictor.ood import ImageRange, image_statistics
from .._predictor.predictor import Member, Predictor
from .._predictor.serialization import CONFIG
from .checkpoint import Checkpoint
from .cross_calibration import cross_calibrate
from .plan import columns_of
from .provenance import provenance
from .pseudo_labels import taught

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._slides import Slide
    from ...models import ModelConfig, SpotBatch
    from .checkpoint import Reporter
    from .training_plan import Run

START_BATCH = 64
"""Spots that a network looks at together before it is trained."""


def trained(run: Run, folder: Path, *, resume: bool = False) -> Predictor:
    """Train what was planned, and save it.

    Parameters
    ----------
    run
        The run.
    folder
        Where the predictor goes.
    resume
        Whether to go on with a training that was interrupted.

    Returns
    -------
    The predictor.
    """
    check_predictor.replaceable(folder, CONFIG)
    config = run.config
    fabric = make_fabric(config)
    first = fabric.is_global_zero
    with (
        Checkpoint.open(folder, run.values(), resume=resume, writes=first) as checkpoint,
        held_spots(
            [*run.slides, *run.unlabelled],
            run.patch,
            memory_bytes=config.memory_bytes,
            progress=config.progress and first,
        ) as (spots, out),
    ):
        predictor = _train_all(run, spots, int(out[: len(run.slide_index)].sum()), checkpoint, fabric)
        if first:
            predictor.save(folder)
        fabric.barrier()  # no process returns before the folder is there
    return predictor


def _train_all(run: Run, spots: SpotBatch, n_at_border: int, checkpoint: Checkpoint, fabric: Fabric) -> Predictor:
    values = np.concatenate([run.target.normalize(slide.counts, columns_of(slide, run.panel)) for slide in run.slides])
    _warn_constant(values, run.panel)
    members = [_last_student(run, i, spots, values, checkpoint, fabric) for i in range(len(run.folds))]
    spots = take(spots, slice(len(values)))
    colors = color_statistics(spots.patches, run.diameter_um / run.patch.fov_um[0])
    folds = _ridge_folds(run.slides, run.slide_index)
    ridge, penalty = fit_ridge(colors, values, folds, run.slide_index, run.target)
    statistics = image_statistics(spots.patches, run.diameter_um / run.patch.fov_um[0])
    return Predictor(
        members=tuple(members),
        model=run.model,
        model_config=members[0].network.config,
        patch=run.patch,
        train_mean=values.mean(axis=0, dtype=np.float64).astype(np.float32),
        ridge_color=ridge,
        history=checkpoint.history(),
        provenance={
            **provenance(run, colors, penalty, n_at_border, checkpoint),
            **run.self_training,
            "pretrained": members[0].pretrained,
        },
        calibration=cross_calibrate(run, tuple(members), spots, values, fabric),
        image_range=ImageRange.of(statistics, folds),
    )


def _warn_constant(values: NDArray[np.float32], panel: Sequence[str]) -> None:
    check.varying([gene for gene, varies in zip(panel, np.ptp(values, axis=0) > 0, strict=True) if not varies])


def _last_student(
    run: Run, number: int, spots: SpotBatch, values: NDArray[np.float32], checkpoint: Checkpoint, fabric: Fabric
) -> Member:
    """Train one network, then its students, if there are to be any; each counts as a member in checkpoints."""
    found: list[Member] = []
    for lesson in range(run.rounds + 1):
        place, of = number * (run.rounds + 1) + lesson, len(run.folds) * (run.rounds + 1)
        with checkpoint.member(place, run.config, of) as progress:
            found = [_member(run, (number, lesson), spots, values, progress, fabric, teachers=found)]
    return found[0]


def _member(
    run: Run,
    number: tuple[int, int],
    spots: SpotBatch,
    values: NDArray[np.float32],
    progress: Reporter,
    fabric: Fabric,
    *,
    teachers: Sequence[Member],
) -> Member:
    """Train one network; the statistics of its targets come from its own training spots.

    Spots behind those with values, where there are any, have the targets that a teacher gives them, if there is one.
    """
    member, lesson = number
    held, index = run.folds[member].held, run.slide_index
    check.enough_spots(int((~held).sum()))
    targets = Targets.fit(run.target, run.panel, values[~held], index[~held])
    encoded = torch.zeros(len(spots), targets.n_outputs)
    for part in filter(np.any, (~held, held)):  # apart, since encoding may centre by slide
        encoded[np.flatnonzero(part)] = torch.from_numpy(targets.encode(values[part], index[part]))
    rows, more = torch.from_numpy(np.flatnonzero(~held)), torch.arange(len(values), len(spots))
    for teacher in teachers:
        encoded[more] = taught(teacher, spots, more, run.config, fabric)
    config = dataclasses.replace(run.config, seed=run.config.seed + 1000 * member + 37 * lesson)
    with seeded(config.seed, -1):
        network = build(_shape(run, targets.n_outputs))
        loaded = network.load_pretrained()
    check.pretrained([part.name for part in network.modules() if isinstance(part, Encoder) and part.is_random])
    counts = _counts(run) if network.needs_counts else None
    spots = dataclasses.replace(spots, targets=encoded, counts=counts, features=features_of(network, spots, fabric))
    validation = None
    if held.any():
        check.enough_held(int(np.bincount(index[held]).max()))
        seen = torch.from_numpy(np.flatnonzero(held))
        validation = Held(spots=spots, rows=seen, observed=values[held], decode=targets.decode)
    network.initialize_from(take(spots, some) for some in rows.split(START_BATCH))
    rows = torch.cat([rows, more]) if teachers else rows
    train(network, spots, validation, config, fabric, state=progress.state, report=progress.report, rows=rows)
    return Member(network=network.cpu().eval(), targets=targets, pretrained=loaded)


def _shape(run: Run, n_outputs: int) -> ModelConfig:
    """The configuration of a network for so many targets, and for the genes of the panel where it counts them."""
    counted = {"n_genes": len(run.panel)} if "n_genes" in config_fields(run.model) else {}
    return dataclasses.replace(run.shape, n_outputs=n_outputs, **counted)


def _counts(run: Run) -> Tensor:
    """Counts of the panel at all spots, ``(n, g)``."""
    found = [slide.counts[:, columns_of(slide, run.panel)].toarray() for slide in run.slides]  # type: ignore[index]
    return torch.from_numpy(np.concatenate(found).astype(np.float32))


def _ridge_folds(slides: Sequence[Slide], index: NDArray[np.int64]) -> NDArray[np.str_]:
    """Folds that choose the penalty: groups, else slides, else stripes of the only slide."""
    for names in ([slide.group for slide in slides], [slide.name for slide in slides]):
        if len(set(names)) > 1:
            return np.array(names)[index]
    x = slides[0].xy_px[:, 0]
    return np.searchsorted(np.quantile(x, [0.25, 0.5, 0.75]), x).astype(str)
