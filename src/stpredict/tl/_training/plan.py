"""A training run as a plan: everything that is decided and checked before the first patch is read."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ... import _keys as keys
from ..._checks import expression as check_expression
from ..._checks import slides as check_slides
from ..._checks.slides import quote
from ..._checks.training import warn
from ..._geometry import PatchSpec
from ..._pixels import PATCH_VERSION
from ..._slides.embeddings import check_same_embeddings
from ..._slides.identity import identify_slides, overlapping_slides
from ..._slides.slides import shared_genes
from ..._train.config import fit_config
from ..._train.data import slide_index, validation_fold
from ..._train.shared import SharedPatches
from ...models import build
from ...models import config as named_config
from ...models.model_config import GIVEN
from ...models.registry import accepts_embeddings, config_to_dict
from ...pp.gene_ranking import rank_genes
from ...pp.normalization import CountsRecord, gene_columns, normalize_slide
from .._errors import embeddings_fit
from .ensemble import STACKED, ensemble_of
from .stacking import StackingFolds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..._slides.embeddings import EmbeddingRecord
    from ..._slides.identity import SlideIdentity
    from ..._slides.slides import Selection, Slide
    from ..._train.config import FitConfig
    from ..._train.data import Fold
    from ...models import ModelConfig
    from ...pp.targets import TargetSpec
    from .ensemble import EnsembleSpec, Weights

DEFAULT_N_GENES = 250
"""Number of genes to predict if neither the user nor `pp.select_genes` chose any."""
HARDWARE_FIELDS = {"accelerator", "devices", "num_nodes", "strategy", "precision", "memory_bytes", "progress"}
"""Fields of `FitConfig` that say where and how a run computes, not what; a resumed run may change them."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelPlan:
    """How one model of an ensemble is trained."""

    name: str
    """Name of the model."""
    model_config: ModelConfig
    """Its configuration; `n_outputs` is set when the targets are known."""
    patch: PatchSpec
    """Fields of view."""
    config: FitConfig
    """How to train."""
    folds: Sequence[Fold]
    """Validation spots of each network."""
    weight: float = 1.0
    """Weight in the mean over models; they sum to 1."""
    by_steps: bool = True
    """Whether it is trained by gradient steps, and not solved at once."""

    def fingerprint(self) -> dict[str, Any]:
        """Everything about this model that decides the outcome, ready for JSON."""
        return {
            "model": self.name,
            "model_options": config_to_dict(self.model_config),
            "patch": self.patch.to_dict(),
            "config": {name: value for name, value in self.config.to_dict().items() if name not in HARDWARE_FIELDS},
            "validation": [hashlib.sha256(np.packbits(f.held_out).tobytes()).hexdigest()[:16] for f in self.folds],
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingPlan:
    """The inputs of a training run."""

    slides: Sequence[Slide]
    """Training slides, without empty spots."""
    genes: Sequence[str]
    """Genes to predict."""
    model: str
    """Name of the model, or of the ensemble."""
    models: tuple[ModelPlan, ...]
    """The models that are trained: one, or those of the ensemble."""
    weights_from: str
    """Where their weights come from: ``"registered"``, ``"given"``, ``"equal"`` or ``"stacked"``."""
    target: TargetSpec
    """How counts are normalised."""
    counts_record: CountsRecord
    """How the counts are read: over which genes library sizes are summed."""
    identities: Mapping[str, SlideIdentity] = field(default_factory=dict)
    """What the slides are recognised by, whatever their names."""
    selection: Selection | None = None
    """Which elements of the objects the slides were resolved from."""
    features: tuple[EmbeddingRecord, ...] = ()
    """What made the embeddings that came with the spots."""
    unlabelled: Sequence[Slide] = ()
    """Slides whose spots get pseudo-labels in self-training."""
    rounds: int = 0
    """Number of student networks that follow the first network in self-training."""

    @property
    def config(self) -> FitConfig:
        """The training options of the first model; where and how a run computes is the same for all."""
        return self.models[0].config

    @property
    def patch(self) -> PatchSpec:
        """The patches of the first model, on which colour and out-of-distribution detection are based."""
        return self.models[0].patch

    @property
    def shared(self) -> SharedPatches:
        """What is read for all models."""
        return SharedPatches.of([model.patch for model in self.models])

    @property
    def stacking(self) -> StackingFolds | None:
        """The parts that are held out to find weights; None unless there are weights to be found."""
        return StackingFolds.of(self.slides) if self.weights_from == STACKED and len(self.models) > 1 else None

    @property
    def slide_index(self) -> NDArray[np.int64]:
        """Slide of each spot."""
        return slide_index(self.slides)

    @property
    def diameter_um(self) -> float:
        """Median spot diameter of the slides, in µm."""
        return float(np.median([slide.diameter_um for slide in self.slides]))

    def normalized_counts(self) -> NDArray[np.float32]:
        """Normalised expression of all training spots."""  # (n, g)
        parts = [normalize_slide(each, self.genes, self.target, self.counts_record) for each in self.slides]
        return np.concatenate(parts)

    def self_training(self) -> dict[str, Any] | None:
        """Rounds and unlabelled slides, ready for JSON; None without self-training."""
        if not self.unlabelled:
            return None
        slides = {each.name: {"n_spots": len(each.xy_px), "sha256": slide_digest(each)} for each in self.unlabelled}
        return {"rounds": self.rounds, "slides": slides}

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the outcome, ready for JSON: a resumed run must agree in all of it."""
        self_training = self.self_training()
        return {
            "slides": {slide.name: slide_digest(slide) for slide in self.slides},
            "genes": list(self.genes),
            **self._models_fingerprint(),
            "target": self.target.to_dict(),
            **({} if self_training is None else {"self_training": self_training}),
            **({} if self.counts_record.library_key is None else {"library_key": self.counts_record.library_key}),
            **({} if PATCH_VERSION == 1 else {"patch_version": PATCH_VERSION}),  # version 1 had no such entry
        }

    def _models_fingerprint(self) -> dict[str, Any]:
        """What decides the outcome of one model, or of all models of an ensemble and their mean."""
        each = [model.fingerprint() for model in self.models]
        if len(each) == 1:
            return {**each[0], "model": self.model}
        weights = None if self.weights_from == STACKED else [model.weight for model in self.models]
        return {"model": self.model, "members": each, "weights": weights}


def slide_digest(slide: Slide) -> str:
    """16 hexadecimal digits that identify the spots, counts and embeddings of a slide, but not its pixels."""
    sha256 = hashlib.sha256(np.round(slide.xy_um, 3).tobytes())
    if slide.counts is not None:
        sha256.update(np.asarray(slide.counts.sum(axis=0), np.float64).tobytes())
        sha256.update(np.asarray(slide.counts.sum(axis=1), np.float64).tobytes())
    if slide.features is not None:
        sha256.update(np.ascontiguousarray(slide.features).tobytes())
    return sha256.hexdigest()[:16]


def plan_training(
    slides: Sequence[Slide],
    model: str | Sequence[str],
    *,
    weights: Weights | None = None,
    config: FitConfig | Mapping[str, Any] | None,
    target: TargetSpec,
    patch: PatchSpec | None = None,
    model_options: Mapping[str, Any] | None = None,
    genes: Sequence[str] | None = None,
    validate_on: Sequence[str] | None = None,
    selection: Selection | None = None,
) -> TrainingPlan:
    """Decide and check everything about a training run; the arguments are those of `fit`."""
    spec = ensemble_of(model, weights, model_options)
    configs = [fit_config(config, name) for name in spec.models]
    whole, slides = slides, drop_low_count_spots(slides, configs[0].min_library)
    genes = _target_genes(slides, genes)
    identities = identify_slides(whole, genes)
    features = _features_record(slides)
    options = _model_options(spec, slides)
    models = [
        _plan_model(name, slides, named_config(name, len(genes), options[name]), each, patch, validate_on, weight)
        for name, each, weight in zip(spec.models, configs, spec.weights, strict=True)
    ]
    check_slides.distinct_slides(overlapping_slides(identities))
    plan = TrainingPlan(
        slides=slides,
        genes=genes,
        model=spec.name,
        models=tuple(models),
        weights_from=spec.origin,
        target=target,
        counts_record=CountsRecord.of(slides, selection.library_key if selection else None),
        identities={name: each.sketch() for name, each in identities.items()},
        selection=selection,
        features=features,
    )
    for held_out in plan.stacking.held_out if plan.stacking else ():
        check_enough_spots(int((~held_out).sum()))
    return plan


def _plan_model(
    name: str,
    slides: Sequence[Slide],
    model_config: ModelConfig,
    config: FitConfig,
    patch: PatchSpec | None,
    validate_on: Sequence[str] | None,
    weight: float,
) -> ModelPlan:
    patch = patch or _default_patch(model_config, slides)
    expected = len(model_config.fov_spots), model_config.size_px
    if (given := (len(patch.fov_um), patch.size_px)) != expected:
        msg = (
            f"`patch` has {given[0]} scale(s) of {given[1]} px, {name!r} takes {expected[0]} of {expected[1]} px. "
            f"Give `model_options={{'size_px': {given[1]}, 'fov_spots': …}}` with {given[0]} fields of view, or "
            "another `patch`."
        )
        raise ValueError(msg)
    with torch.device("meta"):
        has_trainable_parameters = build(model_config).has_trainable_parameters
    if (
        not has_trainable_parameters and config.validation == "auto" and validate_on is None
    ):  # no early stopping: keep all spots
        config = dataclasses.replace(config, validation="none")
    folds = [validation_fold(slides, config, member, validate_on) for member in range(config.n_members)]
    return ModelPlan(
        name=name,
        model_config=model_config,
        patch=patch,
        config=config,
        folds=folds,
        weight=weight,
        by_steps=has_trainable_parameters,
    )


def inner_validation(plan: TrainingPlan, model: ModelPlan, left_out: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Validation spots of each member of a model where some spots are left out altogether: of the others only."""
    if model.folds[0].kind == "none":
        return [np.zeros(len(left_out), bool) for _ in model.folds]
    parts = np.split(~left_out, np.cumsum([len(slide.xy_px) for slide in plan.slides])[:-1])
    rest = [_subset(slide, part) for slide, part in zip(plan.slides, parts, strict=True) if part.any()]
    config = dataclasses.replace(model.config, validation="block" if model.folds[0].kind == "block" else "auto")
    found = []
    for member in range(len(model.folds)):
        held_out = np.zeros(len(left_out), bool)
        held_out[~left_out] = validation_fold(rest, config, member).held_out
        found.append(held_out)
    return found


def drop_low_count_spots(slides: Sequence[Slide], min_library: float) -> list[Slide]:
    """Leave out spots without counts, or with less than ``min_library`` of their slide's median; check the counts."""
    kept = []
    for slide in slides:
        check_expression.counts(
            slide.counts,
            genes=slide.genes,
            spots=slide.obs_names.tolist(),
            fractional=slide.allow_fractional_counts,
        )
        check_expression.unique_genes(slide.genes, repr(slide.name))
        empty = check_expression.zero_spots(slide.counts)
        library = np.zeros(len(empty)) if slide.counts is None else np.asarray(slide.counts.sum(axis=1)).ravel()
        enough = ~empty & (library >= min_library * np.median(library[~empty] if not empty.all() else library))
        kept.append(slide if enough.all() else _subset(slide, enough))
    n_all, n_kept = (sum(len(slide.xy_px) for slide in some) for some in (slides, kept))
    if n_kept < n_all:
        warn(
            f"{n_all - n_kept} of {n_all} spots hold no count at all, or far fewer than their slide's median, and are "
            "left out of training (`min_library` of `stp.tl.FitConfig`)."
        )
    check_enough_spots(n_kept)
    return [slide for slide in kept if len(slide.xy_px)]


def check_enough_spots(n_spots: int) -> None:
    """Refuse to train on next to nothing."""
    if n_spots < 8:
        msg = f"{n_spots} spots with counts are left to train on; at least 8 are needed. Give more slides or spots."
        raise ValueError(msg)


def _subset(slide: Slide, rows: NDArray[np.bool_]) -> Slide:
    return dataclasses.replace(
        slide,
        xy_px=slide.xy_px[rows],
        instances=slide.instances[rows],
        obs_names=slide.obs_names[rows],
        counts=None if slide.counts is None else slide.counts[rows],
        library=None if slide.library is None else slide.library[rows],
        total_counts=None if slide.total_counts is None else slide.total_counts[rows],
        features=None if slide.features is None else slide.features[rows],
    )


def _model_options(spec: EnsembleSpec, slides: Sequence[Slide]) -> dict[str, dict[str, Any]]:
    """Options of each model, with the width of the embeddings that came with the spots where it takes them."""
    widths = [slide.features.shape[1] for slide in slides if slide.features is not None]
    given = widths[0] if widths else None
    alone = len(spec.models) == 1
    if not alone:  # at least one member takes them
        embeddings_fit(spec.name, {}, given, takes=spec.takes_embeddings)
    found = {}
    for model, options in spec.options.items():
        width = given if alone or accepts_embeddings(model, options) else None
        embeddings_fit(model, options, width, takes=accepts_embeddings(model, {}))
        found[model] = {**options, **({} if width is None else {"encoder": GIVEN, "n_features": width})}
    return found


def _features_record(slides: Sequence[Slide]) -> tuple[EmbeddingRecord, ...]:
    """What made the embeddings of all slides; refuse slides that were embedded differently."""
    first = slides[0]
    for slide in slides[1:]:
        check_same_embeddings(slide.features_record, first.features_record, slide.name, f"those of {first.name!r}")
    return first.features_record


def _target_genes(slides: Sequence[Slide], genes: Sequence[str] | None) -> list[str]:
    common = shared_genes(slides)
    check_expression.shared_genes(len(common), [len(slide.genes) for slide in slides])
    known = list(dict.fromkeys(gene for slide in slides for gene in slide.genes))
    requested, shared = _requested_genes(genes, slides), set(common)
    wanted = known if requested is None else requested
    check_expression.known_genes(wanted, known)
    missing = [gene for gene in wanted if gene not in shared]
    if len(missing) == len(wanted):
        msg = (
            f"None of the {len(wanted)} genes asked for ({quote(missing)}) is in every slide. Give other `genes`, or "
            "other slides by `shapes_key`."
        )
        raise ValueError(msg)
    if missing:
        warn(f"{len(missing)} of {len(wanted)} genes are not in every slide and are left out: {quote(missing)}.")
    if requested is not None:
        return [gene for gene in requested if gene in shared]
    return most_dispersed_genes(slides, common, DEFAULT_N_GENES)


def _requested_genes(genes: Sequence[str] | None, slides: Sequence[Slide]) -> list[str] | None:
    """Genes that the user named, or that `pp.select_genes` recorded in the first object that has a record."""
    if genes is not None:
        return list(dict.fromkeys([genes] if isinstance(genes, str) else genes))
    for slide in slides:
        chosen = slide.source.tables[slide.table_name].uns.get(keys.ATTRS, {}).get(keys.GENES)
        if chosen is not None:
            return [str(gene) for gene in chosen]
    return None


def most_dispersed_genes(slides: Sequence[Slide], genes: Sequence[str], n_genes: int) -> list[str]:
    """The most dispersed of some genes, by falling rank; all of them where there are at most ``n_genes``."""
    if len(genes) <= n_genes:
        return list(genes)
    from scipy.sparse import vstack

    counts = vstack([slide.counts[:, gene_columns(slide, genes)] for slide in slides], format="csr")  # type: ignore[index]
    return [genes[i] for i in rank_genes(counts, "dispersion", 0.1)[:n_genes]]


def _default_patch(model_config: ModelConfig, slides: Sequence[Slide]) -> PatchSpec:
    diameter = float(np.median([slide.diameter_um for slide in slides]))
    return PatchSpec(
        fov_um=tuple(round(fov * diameter, 6) for fov in model_config.fov_spots), size_px=model_config.size_px
    )
