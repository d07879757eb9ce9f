"""What is compared on: slides, folds, genes and targets; fixed before the first model is trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._checks import comparison as check
from ..._checks import config as check_config
from ..._checks import expression as check_expression
from ..._slides import resolve, shared_genes
from ..._train.config import FitConfig
from ...pp.targets import TargetSpec
from .._training.plan import DEFAULT_N_GENES, drop_low_count_spots, most_dispersed_genes, slide_digest
from .folds import splits
from .protocols import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spatialdata import SpatialData

    from ..._slides import Selection, Slide
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
    """How counts become what is predicted and scored."""
    common: Mapping[str, Any]
    """Training options of all models."""
    protocol_name: str | None
    """Whose protocol it is, if anyone's."""

    @property
    def protocol(self) -> Protocol | None:
        """The protocol."""
        return PROTOCOLS[self.protocol_name] if self.protocol_name else None

    @property
    def pooled(self) -> bool:
        """Whether the test spots of a fold are scored together."""
        return self.protocol is not None and self.protocol.pooled

    @property
    def leaks(self) -> bool:
        """Whether a group is on both sides of any fold."""
        return any(split.leaks for split in self.splits)

    def values(self) -> dict[str, Any]:
        """What decides the folds and what is measured in them, by name.

        Returns
        -------
        Values that JSON takes.
        """
        return {
            "protocol": self.protocol_name,
            "target": {name: getattr(self.target, name) for name in ("target_sum", "over", "log1p")},
            "slides": {
                name: {"group": slide.group, "sha256": slide_digest(slide), "um_per_px": slide.um_per_px}
                for name, slide in self.slides.items()
            },
            "folds": [
                {
                    "train": list(split.train),
                    "test": list(split.test),
                    "validate": None if split.validate is None else list(split.validate),
                    "leaks": split.leaks,
                }
                for split in self.splits
            ],
            "genes": [list(panel) for panel in self.panels],
            "n_splits": N_SPLITS,
        }

    @property
    def fingerprint(self) -> str:
        """Digest of `values`."""
        return hashlib.sha256(json.dumps(self.values(), sort_keys=True).encode()).hexdigest()[:16]


def studied(
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
    """Settle what is compared on.

    Parameters
    ----------
    sdata, selection
        Where the slides are.
    by, n_folds, genes, target, protocol, allow_leakage
        As in `benchmark`.
    common
        Training options of all models.

    Returns
    -------
    The study.
    """
    if protocol is not None:
        check_config.one_of("protocol", protocol, tuple(PROTOCOLS))
    rule = None if protocol is None else PROTOCOLS[protocol]
    check.no_other_folds(protocol, by != "group" or n_folds is not None)
    found = resolve(sdata, selection)
    common = {**(rule.config if rule else {}), **common}
    counted = drop_low_count_spots(found, float(common.get("min_library", FitConfig().min_library)))
    slides = [slide for slide in found if slide.name in {each.name for each in counted}]
    parts = splits(slides, by=by, n_folds=n_folds, allow_leakage=allow_leakage) if rule is None else rule.splits(slides)
    if rule is not None and target is not None:
        check.same_target(target.to_dict(), rule.target.to_dict(), str(protocol))
    known = shared_genes(slides)
    check_expression.shared_genes(len(known), [len(slide.genes) for slide in slides])
    return Study(
        slides={slide.name: slide for slide in slides},
        splits=parts,
        panels=_panels(counted, parts, known, rule, genes),
        target=rule.target if rule else target or TargetSpec(),
        common=common,
        protocol_name=protocol,
    )


def _panels(
    slides: Sequence[Slide],
    parts: Sequence[Split],
    known: Sequence[str],
    rule: Protocol | None,
    genes: Sequence[str] | None,
) -> tuple[tuple[str, ...], ...]:
    """Genes of each fold: as given, by the rule of the protocol, or chosen from the training slides of the fold."""
    if genes is not None:
        wanted = list(dict.fromkeys([genes] if isinstance(genes, str) else genes))
        check_expression.known_genes(wanted, list(dict.fromkeys(gene for slide in slides for gene in slide.genes)))
        check.genes_everywhere([gene for gene in wanted if gene not in set(known)])
        return (tuple(wanted),) * len(parts)
    if rule is not None:
        return (tuple(rule.genes(slides)),) * len(parts)
    return tuple(
        tuple(most_dispersed_genes([slide for slide in slides if slide.name in part.train], known, DEFAULT_N_GENES))
        for part in parts
    )


def without_features(slides: Sequence[Slide], *, keep: bool) -> list[Slide]:
    """Slides without embeddings, for models that take none.

    Parameters
    ----------
    slides
        The slides.
    keep
        Whether the model takes them.

    Returns
    -------
    The slides.
    """
    return list(slides) if keep else [replace(slide, features=None) for slide in slides]


def median_diameter(slides: Mapping[str, Slide]) -> float:
    """Median spot diameter.

    Parameters
    ----------
    slides
        The slides.

    Returns
    -------
    In µm.
    """
    return float(np.median([slide.diameter_um for slide in slides.values()]))
