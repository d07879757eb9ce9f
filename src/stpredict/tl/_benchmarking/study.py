"""The data of a comparison: slides, folds, genes and targets. All is fixed before the first model is trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..._checks import config as check_config
from ..._checks import expression as check_expression
from ..._checks import slides as check_slides
from ..._checks.slides import quote
from ..._pixels import PATCH_VERSION
from ..._slides.identity import identify_slides, overlapping_slides
from ..._slides.slides import resolve, shared_genes
from ..._train.config import FitConfig
from ...pp.normalization import CountsRecord
from ...pp.targets import TargetSpec
from .._training.plan import DEFAULT_N_GENES, drop_low_count_spots, most_dispersed_genes, slide_digest
from .folds import cross_validation_splits
from .protocols import PROTOCOLS, relabel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spatialdata import SpatialData

    from ..._slides.slides import Selection, Slide
    from .folds import By, Split
    from .protocols import Protocol

N_SPLITS = 10
"""Random halvings for noise ceilings."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Study:
    """Slides, folds, genes and targets."""

    slides: Mapping[str, Slide]
    """All slides, by name."""
    splits: tuple[Split, ...]
    """The folds."""
    panels: tuple[tuple[str, ...], ...]
    """Genes of each fold."""
    target: TargetSpec
    """How counts become the values that are predicted and scored."""
    counts_record: CountsRecord
    """How the counts are read: over which genes library sizes are summed."""
    common: Mapping[str, Any]
    """Training options of all models."""
    grouped: bool
    """Whether a column names the groups, which are then patients; else every slide is its own group."""
    protocol_name: str | None
    """Name of a published protocol, if one is followed."""

    @property
    def protocol(self) -> Protocol | None:
        """The published protocol."""
        return PROTOCOLS[self.protocol_name] if self.protocol_name else None

    @property
    def leaks(self) -> bool:
        """Whether a group is on both sides of any fold."""
        return any(split.leaks for split in self.splits)

    def to_dict(self) -> dict[str, Any]:
        """All that decides the folds and the observations in them, ready for JSON."""
        return {
            "protocol": self.protocol_name,
            "target": {name: getattr(self.target, name) for name in ("target_sum", "over", "log1p")},
            "slides": {
                name: {"group": slide.group, "sha256": slide_digest(slide), "um_per_px": slide.um_per_px}
                for name, slide in self.slides.items()
            },
            "folds": [{name: value for name, value in asdict(s).items() if name != "number"} for s in self.splits],
            "genes": [list(panel) for panel in self.panels],
            "n_splits": N_SPLITS,
            **({} if self.counts_record.library_key is None else {"library_key": self.counts_record.library_key}),
        }

    @property
    def fingerprint(self) -> str:
        """Digest of `to_dict` and of the way patches are cut."""
        values = self.to_dict()
        if PATCH_VERSION != 1:  # version 1 is left out, so that folders named before there was a version are found
            values["patch_version"] = PATCH_VERSION
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def plan_study(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    selection: Selection,
    *,
    by: By,
    n_folds: int | None,
    genes: Sequence[str] | None,
    common: Mapping[str, Any],
    target: TargetSpec | None,
    protocol: str | None,
    allow_leakage: bool,
) -> Study:
    """Find slides, folds and genes; arguments are those of `benchmark`."""
    if protocol is not None:
        check_config.one_of("protocol", protocol, tuple(PROTOCOLS))
    rule = None if protocol is None else PROTOCOLS[protocol]
    if rule is not None and (by != "group" or n_folds is not None):
        msg = f"`protocol={protocol!r}` fixes the folds. Leave `n_folds` and `by` out, or the protocol."
        raise ValueError(msg)
    found = resolve(sdata, selection)
    common = {**(rule.config if rule else {}), **common}
    counted = drop_low_count_spots(found, float(common.get("min_library", FitConfig().min_library)))
    names = {slide.name for slide in counted}
    slides = [slide for slide in found if slide.name in names]
    if rule is None:
        splits = cross_validation_splits(slides, by=by, n_folds=n_folds, allow_leakage=allow_leakage)
    else:
        splits = rule.splits(slides)
    if rule is not None and target is not None:
        fixed = rule.target.to_dict()
        if differing := [name for name, value in target.to_dict().items() if value != fixed[name]]:
            msg = (
                f"`protocol={protocol!r}` fixes the target, but `target` has another {quote(differing)}. Leave it out."
            )
            raise ValueError(msg)
    shared = shared_genes(slides)
    check_expression.shared_genes(len(shared), [len(slide.genes) for slide in slides])
    check_slides.distinct_slides(overlapping_slides(identify_slides(slides, shared)))
    panels = _panels(counted, splits, shared, rule, genes)
    if rule is not None:
        every = list(dict.fromkeys(gene for panel in panels for gene in panel))
        slides = relabel(slides, every, rule, CountsRecord.of(slides, selection.library_key))
    return Study(
        slides={slide.name: slide for slide in slides},
        splits=splits,
        panels=panels,
        target=rule.target if rule else target or TargetSpec(),
        counts_record=CountsRecord.of(slides, selection.library_key),
        common=common,
        grouped=selection.group_key is not None,
        protocol_name=protocol,
    )


def _panels(
    slides: Sequence[Slide],
    splits: Sequence[Split],
    shared: Sequence[str],
    rule: Protocol | None,
    genes: Sequence[str] | None,
) -> tuple[tuple[str, ...], ...]:
    """Genes of each fold: as given, by the rule of the protocol, or chosen from the training slides of the fold."""
    if genes is not None:
        wanted = list(dict.fromkeys([genes] if isinstance(genes, str) else genes))
        check_expression.known_genes(wanted, list(dict.fromkeys(gene for slide in slides for gene in slide.genes)))
        in_all = set(shared)
        if missing := [gene for gene in wanted if gene not in in_all]:
            msg = f"{len(missing)} of the `genes` are not in every slide: {quote(missing)}. Leave them out."
            raise ValueError(msg)
        return (tuple(wanted),) * len(splits)
    if rule is not None and rule.genes is not None:
        return (tuple(rule.genes(slides)),) * len(splits)
    training = ([slide for slide in slides if slide.name in split.train] for split in splits)
    return tuple(tuple(most_dispersed_genes(some, shared, DEFAULT_N_GENES)) for some in training)
