"""From a training plan to a saved predictor."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..._checks.slides import quote
from ..._checks.training import warn
from ..._train.batches import BatchLimit, gather, map_patches
from ..._train.color import color_statistics, fit_ridge
from ..._train.data import open_spots
from ..._train.device import make_fabric
from ..._train.loop import ValidationSpots, encoder_features, outputs_at, seeded_rng, spots_per_pass, train
from ...models import build
from ...models.encoder import Encoder, find_encoders
from ...models.model_config import uses_embeddings
from ...models.registry import config_fields
from ...pp.normalization import gene_columns
from ...pp.targets import Targets
from .._errors import warn_random_encoder
from .._predictor.appearance import DonorMoments, slide_moments, standardize_by_slide
from .._predictor.member import Member
from .._predictor.ood import ImageRange, image_statistics
from .._predictor.predictor import Predictor
from .._predictor.serialization import check_replaceable
from .checkpoint import Checkpoint
from .cross_calibration import cross_calibrate, mean_and_std
from .plan import check_enough_spots, inner_validation
from .provenance import training_provenance
from .stacking import stacked_weights

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._geometry import PatchSpec
    from ..._slides.slides import Slide
    from ..._train.config import FitConfig
    from ...models import ModelConfig, SpotBatch, SpotModel
    from .checkpoint import Reporter
    from .plan import ModelPlan, TrainingPlan
    from .stacking import StackingFolds

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
            plan.shared.read,
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
    if constant := [plan.genes[i] for i in np.flatnonzero(np.ptp(observed, axis=0) == 0).tolist()]:
        warn(f"{len(constant)} genes are constant over the training spots and cannot be learnt: {quote(constant)}.")
    trainer = MemberTrainer(plan=plan, spots=spots, observed=observed, checkpoint=checkpoint, fabric=fabric)
    networks = [trainer.train_model(i, [fold.held_out for fold in model.folds]) for i, model in enumerate(plan.models)]
    n_networks = trainer.n_trained
    weights = _stack(trainer, plan.stacking) if plan.stacking else [model.weight for model in plan.models]
    members = [
        [dataclasses.replace(member, weight=float(weight) / len(some)) for member in some]
        for some, weight in zip(networks, weights, strict=True)
    ]
    known = gather(spots, slice(len(observed)))
    spots_of_models = [
        plan.shared.select(known, i, embeddings=uses_embeddings(model.model_config))
        for i, model in enumerate(plan.models)
    ]
    spot_share = plan.diameter_um / plan.patch.fov_um[0]
    colors = map_patches(partial(color_statistics, spot_share=spot_share), spots_of_models[0])
    folds = _ridge_folds(plan.slides, plan.slide_index)
    ridge, penalty = fit_ridge(colors, observed, known, plan.target)
    statistics = map_patches(partial(image_statistics, spot_share=spot_share), spots_of_models[0])
    return Predictor(
        members=tuple(member for some in members for member in some),
        model=plan.model,
        train_mean=observed.mean(axis=0, dtype=np.float64).astype(np.float32),
        ridge_color=ridge,
        history=checkpoint.history(n_networks),
        provenance=training_provenance(
            plan,
            colors,
            members,
            ridge_penalty=penalty,
            n_at_border=n_at_border,
            best=checkpoint.best(n_networks),
        ),
        calibration=cross_calibrate(plan, members, spots_of_models, observed, fabric),
        image_range=ImageRange.of(statistics, folds),
    )


@dataclass(kw_only=True, slots=True, eq=False)
class MemberTrainer:
    """Trains the networks of a plan one after the other; each has a number and its own state in the checkpoint."""

    plan: TrainingPlan
    spots: SpotBatch
    """All spots, those without labels last, with the patches of all models."""
    observed: NDArray[np.float32]
    """``(n, g)`` normalised expression of the spots with labels."""
    checkpoint: Checkpoint
    fabric: Fabric
    n_trained: int = 0
    """Number of networks that were trained so far."""
    features: dict[tuple[int, int], Tensor | None] = field(default_factory=dict)
    """Features of all spots from the frozen encoder of a model and member, which are the same in every fold."""
    encoded: dict[tuple[Hashable, PatchSpec], Tensor | None] = field(default_factory=dict)
    """The same by encoder and patches, of encoders that several networks share."""

    @property
    def n_networks(self) -> int:
        """Number of all networks, those that are trained to find weights included."""
        n_members = sum(len(model.folds) for model in self.plan.models)
        return n_members * (self.plan.rounds + 1 + (len(self.plan.stacking.held_out) if self.plan.stacking else 0))

    def spots_of(self, model: int) -> SpotBatch:
        """The spots as one model sees them."""
        embeddings = uses_embeddings(self.plan.models[model].model_config)
        return self.plan.shared.select(self.spots, model, embeddings=embeddings)

    def train_model(
        self, model: int, held_out: Sequence[NDArray[np.bool_]], left_out: NDArray[np.bool_] | None = None
    ) -> list[Member]:
        """Train the members of one model: each a first network, then the students of self-training.

        ``held_out`` are the validation spots of each member; spots that are ``left_out`` are not used at all.
        """
        own, members = self.plan.models[model], list[Member]()
        for i, validated in enumerate(held_out):
            networks: list[Member] = []
            trained = ~validated if left_out is None else ~validated & ~left_out
            for student in range(self.plan.rounds + 1):
                teacher = networks[-1] if networks else None
                with self.checkpoint.follow(self.n_trained, own, self.n_networks) as progress:
                    networks = [self._train_network(model, (i, student), trained, validated, progress, teacher=teacher)]
                self.n_trained += 1
            members += networks
        return members

    def _train_network(
        self,
        model: int,
        number: tuple[int, int],
        trained: NDArray[np.bool_],
        held_out: NDArray[np.bool_],
        progress: Reporter,
        *,
        teacher: Member | None,
    ) -> Member:
        """Train one network on targets whose statistics come from its own training spots.

        Spots after the observed ones are unlabelled; with a teacher their targets are its predictions.
        """
        plan, observed, index, fabric = self.plan, self.observed, self.plan.slide_index, self.fabric
        own, spots = plan.models[model], self.spots_of(model)
        member, student = number
        check_enough_spots(int(trained.sum()))
        targets = Targets.fit(plan.target, plan.genes, observed[trained], index[trained])
        encoded = torch.zeros(len(spots), targets.n_outputs)
        for part in filter(np.any, (trained, held_out)):  # apart, since encoding may centre by slide
            encoded[np.flatnonzero(part)] = torch.from_numpy(targets.encode(observed[part], index[part]))
        rows, unlabelled = torch.from_numpy(np.flatnonzero(trained)), torch.arange(len(observed), len(spots))
        if teacher is not None:
            encoded[unlabelled] = pseudo_labels(teacher, spots, unlabelled, own.config, fabric)
        config = dataclasses.replace(own.config, seed=own.config.seed + 1000 * member + 37 * student)
        with seeded_rng(config.seed, -1):
            network = build(_network_config(plan, own, targets.n_outputs))
            pretrained = network.load_pretrained()
        encoders = {part: encoder.record() for part, encoder in find_encoders(network).items()}
        if random := [part.name for part in network.modules() if isinstance(part, Encoder) and part.is_random]:
            warn_random_encoder(random)
        counts = _counts(plan) if network.needs_counts else None
        features, donors = self._standardized(model, self._encode(network, model, member), spots.slide, trained)
        spots = dataclasses.replace(spots, targets=encoded, counts=counts, features=features)
        network.initialize_from(gather(spots, some) for some in rows.split(START_BATCH))
        rows = rows if teacher is None else torch.cat([rows, unlabelled])
        validation = _validation_spots(spots, held_out, observed, index, targets)
        train(network, spots, validation, config, fabric, state=progress.state, report=progress.report, rows=rows)
        return Member(
            network=network.cpu().eval(),
            targets=targets,
            pretrained=pretrained,
            encoders=encoders,
            model=own.name,
            patch=own.patch,
            donors=donors,
        )

    def _encode(self, network: SpotModel, model: int, member: int) -> Tensor | None:
        """Features of all spots from the frozen encoder, which models with the same encoder and patches share."""
        key = network.encoder_key
        own = (model, member)
        if key is not None:
            shared = key, self.plan.models[model].patch
            if shared not in self.encoded:
                self.encoded[shared] = encoder_features(network, self.spots_of(model), self.fabric)
            self.features[own] = self.encoded[shared]
        elif self.plan.stacking is None or own not in self.features:
            self.features[own] = encoder_features(network, self.spots_of(model), self.fabric)
        return self.features[own]

    def _standardized(
        self, model: int, features: Tensor | None, slide: Tensor, trained: NDArray[np.bool_]
    ) -> tuple[Tensor | None, DonorMoments | None]:
        """The features, standardised slide by slide if the model asks for it, and the moments of its donors."""
        if features is None or getattr(self.plan.models[model].model_config, "standardize", "") != "slide":
            return features, None
        moments = slide_moments(features, slide)
        of_donors = np.unique(slide.numpy()[: len(trained)][trained]).tolist()
        donors = DonorMoments.of(
            [moments[i] for i in of_donors],
            [self.plan.slides[i].group for i in of_donors],
        )
        return standardize_by_slide(features, slide, donors, moments), donors


def _stack(trainer: MemberTrainer, folds: StackingFolds) -> NDArray[np.float64]:
    """Weights of the models, from their predictions at spots that were left out of their training."""
    plan, observed = trainer.plan, trainer.observed
    predicted = [np.empty_like(observed) for _ in plan.models]
    for left_out in folds.held_out:
        rows = torch.from_numpy(np.flatnonzero(left_out))
        for i, model in enumerate(plan.models):
            found = []
            for k, member in enumerate(trainer.train_model(i, inner_validation(plan, model, left_out), left_out)):
                spots = dataclasses.replace(trainer.spots_of(i), features=trainer.features[i, k])
                found.append(mean_and_std(member, spots, rows, model.config, trainer.fabric, 1)[0])
            predicted[i][left_out] = np.mean(found, axis=0)
    scale = Targets.fit(plan.target, plan.genes, observed, plan.slide_index).scale
    return stacked_weights(predicted, observed, scale, plan.slide_index)


def _validation_spots(
    spots: SpotBatch,
    held_out: NDArray[np.bool_],
    observed: NDArray[np.float32],
    index: NDArray[np.int64],
    targets: Targets,
) -> ValidationSpots | None:
    """The validation spots of a network; None if nothing is held out, and an error if too little is."""
    if not held_out.any():
        return None
    if (most := int(np.bincount(index[held_out]).max())) < 3:
        msg = (
            f"No more than {most} spots of a slide are held out for validation; at least 3 are needed for a score. "
            "Hold out another slide with `validate_on`, give more spots, or use "
            "`stp.tl.FitConfig(validation='none')`."
        )
        raise ValueError(msg)
    return ValidationSpots(
        spots=spots,
        rows=torch.from_numpy(np.flatnonzero(held_out)),
        observed=observed[held_out],
        decode=targets.decode,
    )


def pseudo_labels(teacher: Member, spots: SpotBatch, rows: Tensor, config: FitConfig, fabric: Fabric) -> Tensor:
    """Outputs of the teacher at ``rows``, in target space, on the CPU."""  # (n, n_outputs)
    network = teacher.on_slides(teacher.moments(spots, fabric)).to(fabric.device)
    limit = BatchLimit(spots_per_pass(teacher.network, config))
    labels = outputs_at(network, spots, rows, config, fabric, limit)
    network.cpu()
    return labels


def _network_config(plan: TrainingPlan, model: ModelPlan, n_outputs: int) -> ModelConfig:
    """The configuration with the number of targets, and the number of genes for models that predict counts."""
    counted = {"n_genes": len(plan.genes)} if "n_genes" in config_fields(model.name) else {}
    return dataclasses.replace(model.model_config, n_outputs=n_outputs, **counted)


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
