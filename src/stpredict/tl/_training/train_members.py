"""From a training plan to a saved predictor."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..._train.batches import gather
from ..._train.color import color_statistics, fit_ridge
from ..._train.data import open_spots
from ..._train.device import make_fabric
from ..._train.loop import ValidationSpots, encoder_features, seeded_rng, train
from ...models import build
from ...models.encoder import Encoder
from ...models.registry import config_fields
from ...pp.normalization import gene_columns
from ...pp.targets import Targets
from .._predictor.ood import ImageRange, image_statistics
from .._predictor.predictor import Member, Predictor
from .._predictor.serialization import check_replaceable
from . import _errors
from .checkpoint import Checkpoint
from .cross_calibration import cross_calibrate
from .provenance import training_provenance
from .pseudo_labels import pseudo_labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._slides.slides import Slide
    from ...models import ModelConfig, SpotBatch
    from .checkpoint import Reporter
    from .plan import TrainingPlan

START_BATCH = 64
"""Spots of a batch in the pass over the data before training."""


def train_members(plan: TrainingPlan, folder: Path, *, resume: bool = False) -> Predictor:
    """Train all members of a predictor and save it to ``folder``."""
    check_replaceable(folder)
    config = plan.config
    fabric = make_fabric(config)
    first = fabric.is_global_zero
    with (
        Checkpoint.open(folder, plan.fingerprint(), resume=resume, writes=first) as checkpoint,
        open_spots(
            [*plan.slides, *plan.unlabelled],
            plan.patch,
            memory_bytes=config.memory_bytes,
            progress=config.progress and first,
        ) as (spots, at_border),
    ):
        n_at_border = int(at_border[: len(plan.slide_index)].sum())
        predictor = _train_predictor(plan, spots, n_at_border, checkpoint, fabric)
        if first:
            predictor.save(folder)
        fabric.barrier()  # no process returns before the folder is written
    return predictor


def _train_predictor(
    plan: TrainingPlan, spots: SpotBatch, n_at_border: int, checkpoint: Checkpoint, fabric: Fabric
) -> Predictor:
    observed = plan.normalized_counts()
    varies = np.ptp(observed, axis=0) > 0
    _errors.warn_constant_genes([gene for gene, variable in zip(plan.genes, varies, strict=True) if not variable])
    members = [_train_with_students(plan, i, spots, observed, checkpoint, fabric) for i in range(len(plan.folds))]
    spots = gather(spots, slice(len(observed)))
    spot_share = plan.diameter_um / plan.patch.fov_um[0]
    colors = color_statistics(spots.patches, spot_share)
    folds = _ridge_folds(plan.slides, plan.slide_index)
    ridge, penalty = fit_ridge(colors, observed, spots, plan.target)
    return Predictor(
        members=tuple(members),
        model=plan.model,
        model_config=members[0].network.config,
        patch=plan.patch,
        train_mean=observed.mean(axis=0, dtype=np.float64).astype(np.float32),
        ridge_color=ridge,
        history=checkpoint.history(),
        provenance=training_provenance(
            plan,
            colors,
            ridge_penalty=penalty,
            n_at_border=n_at_border,
            best=checkpoint.best(),
            pretrained=members[0].pretrained,
        ),
        calibration=cross_calibrate(plan, tuple(members), spots, observed, fabric),
        image_range=ImageRange.of(image_statistics(spots.patches, spot_share), folds),
    )


def _train_with_students(
    plan: TrainingPlan,
    member: int,
    spots: SpotBatch,
    observed: NDArray[np.float32],
    checkpoint: Checkpoint,
    fabric: Fabric,
) -> Member:
    """Train one member: a first network, then the students of self-training; each has its own checkpoint."""
    networks: list[Member] = []
    for student in range(plan.rounds + 1):
        number, n_networks = member * (plan.rounds + 1) + student, len(plan.folds) * (plan.rounds + 1)
        teacher = networks[-1] if networks else None
        with checkpoint.follow(number, plan.config, n_networks) as progress:
            networks = [_train_network(plan, (member, student), spots, observed, progress, fabric, teacher=teacher)]
    return networks[0]


def _train_network(
    plan: TrainingPlan,
    number: tuple[int, int],
    spots: SpotBatch,
    observed: NDArray[np.float32],
    progress: Reporter,
    fabric: Fabric,
    *,
    teacher: Member | None,
) -> Member:
    """Train one network on targets whose statistics come from its own training spots.

    Spots after the observed ones are unlabelled; with a teacher their targets are its predictions.
    """
    member, student = number
    held_out, index = plan.folds[member].held_out, plan.slide_index
    _errors.check_enough_spots(int((~held_out).sum()))
    targets = Targets.fit(plan.target, plan.genes, observed[~held_out], index[~held_out])
    encoded = torch.zeros(len(spots), targets.n_outputs)
    for part in filter(np.any, (~held_out, held_out)):  # apart, since encoding may centre by slide
        encoded[np.flatnonzero(part)] = torch.from_numpy(targets.encode(observed[part], index[part]))
    rows, unlabelled = torch.from_numpy(np.flatnonzero(~held_out)), torch.arange(len(observed), len(spots))
    if teacher is not None:
        encoded[unlabelled] = pseudo_labels(teacher, spots, unlabelled, plan.config, fabric)
    config = dataclasses.replace(plan.config, seed=plan.config.seed + 1000 * member + 37 * student)
    with seeded_rng(config.seed, -1):
        network = build(_network_config(plan, targets.n_outputs))
        pretrained = network.load_pretrained()
    _errors.warn_random_encoder(
        [part.name for part in network.modules() if isinstance(part, Encoder) and part.is_random]
    )
    counts = _counts(plan) if network.needs_counts else None
    features = encoder_features(network, spots, fabric)
    spots = dataclasses.replace(spots, targets=encoded, counts=counts, features=features)
    validation = None
    if held_out.any():
        _errors.check_enough_validation_spots(int(np.bincount(index[held_out]).max()))
        validation = ValidationSpots(
            spots=spots,
            rows=torch.from_numpy(np.flatnonzero(held_out)),
            observed=observed[held_out],
            decode=targets.decode,
        )
    network.initialize_from(gather(spots, some) for some in rows.split(START_BATCH))
    rows = rows if teacher is None else torch.cat([rows, unlabelled])
    train(network, spots, validation, config, fabric, state=progress.state, report=progress.report, rows=rows)
    return Member(network=network.cpu().eval(), targets=targets, pretrained=pretrained)


def _network_config(plan: TrainingPlan, n_outputs: int) -> ModelConfig:
    """The configuration with the number of targets, and the number of genes for models that predict counts."""
    counted = {"n_genes": len(plan.genes)} if "n_genes" in config_fields(plan.model) else {}
    return dataclasses.replace(plan.model_config, n_outputs=n_outputs, **counted)


def _counts(plan: TrainingPlan) -> Tensor:  # (n, g)
    counts = [slide.counts[:, gene_columns(slide, plan.genes)].toarray() for slide in plan.slides]  # type: ignore[index]
    return torch.from_numpy(np.concatenate(counts).astype(np.float32))


def _ridge_folds(slides: Sequence[Slide], index: NDArray[np.int64]) -> NDArray[np.str_]:
    """Folds that choose the ridge penalty: groups, else slides, else vertical stripes of the only slide."""
    for names in ([slide.group for slide in slides], [slide.name for slide in slides]):
        if len(set(names)) > 1:
            return np.array(names)[index]
    x = slides[0].xy_px[:, 0]
    return np.searchsorted(np.quantile(x, [0.25, 0.5, 0.75]), x).astype(str)
