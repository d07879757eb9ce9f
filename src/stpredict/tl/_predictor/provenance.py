"""What a predictor records about its training: data, options, validation, colours and versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np

from ..._checks.training import warn
from ..._slides.identity import SlideIdentity
from ..._slides.regions import classes_by_element
from ..._slides.slides import Selection
from ...pp.normalization import CountsRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

COLOR_MARGIN = 2.0
"""How far the mean colour of a slide may lie outside the training range, in standard deviations between spots."""


class SlideRecord(TypedDict):
    """A training slide; early predictors have no ``identity``, by which a slide is recognised under any name."""

    group: str
    n_spots: int
    um_per_px: float
    sha256: str
    identity: NotRequired[str]


class ValidationRecord(TypedDict):
    """The spots that one member is validated on."""

    kind: str
    groups: list[str]
    leaks: bool


class BestEpoch(TypedDict):
    """The epoch whose weights one member keeps; ``score`` is None without validation."""

    epoch: int
    score: float | None


class ColorRange(TypedDict, total=False):
    """Optical density of the training spots by channel; early predictors have no ``low`` and ``high``."""

    channels: list[str]
    mean: list[float]
    std: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Provenance(Mapping[str, Any]):
    """Where a predictor comes from: training slides, options, validation, colours and versions.

    Every entry is an attribute. The object also reads like the dictionary that is stored in ``config.json``:
    ``provenance["slides"]`` is ``provenance.slides``. Entries that the version which trained the predictor did not
    record yet are None or empty, and are not among the keys.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, "ridge_color", config={"progress": False})
    >>> predictor.provenance.slides["S0_spots"]["n_spots"]
    16
    """

    slides: Mapping[str, SlideRecord] = field(default_factory=dict)
    """Training slides by name: group, number of spots, resolution and digest."""
    selection: Selection | None = None
    """Which elements of the objects were used."""
    counts: Mapping[str, Any] | None = None
    """Number of genes over which library sizes were summed, the hash of their names, and the options for counts."""
    fit: Mapping[str, Any] = field(default_factory=dict)
    """The fields of `FitConfig`; of an ensemble those of its first model."""
    validation: Sequence[ValidationRecord] = field(default_factory=list)
    """What each member held out."""
    validation_note: str = "none"
    """The same as a sentence."""
    best: Sequence[BestEpoch] = field(default_factory=list)
    """Best epoch and its validation score, by network."""
    diameter_um: float | None = None
    """Median diameter of the training spots in µm."""
    pitch_um: float | None = None
    """Median distance between neighbouring training spots in µm."""
    layout: str | None = None
    """``"hexagonal"`` or ``"square"``."""
    color: ColorRange | None = None
    """Mean, standard deviation and range over slides of the optical density, by colour channel."""
    stain: Mapping[str, Any] | None = None
    """``reference``, the mean stain, and ``slides``, the stain of each slide; None where it cannot be measured."""
    ridge_penalty: float | None = None
    """Penalty of the ridge regression on colour statistics."""
    features: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """What made the embeddings that were trained on, one entry for each matrix; empty without ``features_key``."""
    n_at_border: int | None = None
    """Number of training spots whose patches leave the image or hold missing pixels."""
    pretrained: Mapping[str, str] = field(default_factory=dict)
    """Weights that were loaded before training, by part of the network; in an ensemble by model and part."""
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What identifies the features of each image encoder, by part of the network; in an ensemble by model and part:
    ``encoder``, ``hub_id`` and ``revision``, SHA-256 of the ``weights`` (empty if none were loaded), ``pooling``,
    ``mean``, ``std``, ``input_px`` and ``precision``; of a list of encoders, each is a list."""
    ensemble: Mapping[str, Any] | None = None
    """``models`` of an ensemble with their weights and `FitConfig`, ``weights_from``, and how weights were ``stacked``;
    None for a single model."""
    self_training: Mapping[str, Any] | None = None
    """``rounds`` and unlabelled ``slides`` of `self_train`."""
    cohort: Mapping[str, str] | None = None
    """Fields of `stp.datasets.Cohort`: tissue, platform, licence and citation of the data, as `describe` was given."""
    held_out: Mapping[str, Any] | None = None
    """Scores of the model and of baselines on groups that were left out, with the noise ceiling (`describe`)."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of stpredict, torch and Python, and the system (``platform``)."""
    other: Mapping[str, Any] = field(default_factory=dict)
    """Entries that this version of stpredict does not know."""
    missing: frozenset[str] = frozenset()
    """Entries that the version which trained the predictor did not record."""

    @property
    def group_key(self) -> str | None:
        """Column of ``obs`` that named the groups (donors) of the training slides; None where every slide was one."""
        return None if self.selection is None else self.selection.group_key

    @property
    def donors_note(self) -> str:
        """How many donors were trained on, and what that means, as a sentence."""
        groups = sorted({str(slide["group"]) for slide in self.slides.values()})
        if self.group_key is None and len(self.slides) > 1:
            return "not stated: name them with `group_key`; slides of one donor tell little about the next"
        if len(groups) == 1:
            return "1: how well it predicts another donor cannot be known from this one; evaluate it on one"
        return f"{len(groups)}: {', '.join(groups)}"

    def to_json(self) -> dict[str, Any]:
        """The entries, ready for JSON.

        Returns
        -------
        A new dictionary.
        """
        entries = {name: getattr(self, name) for name in ENTRIES if name not in self.missing}
        if self.selection is not None:
            entries["selection"] = _selection_to_json(self.selection)
        return {**entries, **self.other}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Provenance:
        """Read what `to_json` returned, here or in an earlier version.

        Parameters
        ----------
        values
            The entries.

        Returns
        -------
        The provenance.
        """
        known = {name: value for name, value in values.items() if name in ENTRIES}
        if known.get("selection") is not None:
            known["selection"] = Selection(**known["selection"])
        other = {name: value for name, value in values.items() if name not in ENTRIES}
        return cls(**known, other=other, missing=frozenset(name for name in ENTRIES if name not in values))

    def __getitem__(self, name: str) -> Any:
        return self.to_json()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())


def counts_record(provenance: Provenance) -> CountsRecord | None:
    """How the counts of training were read; None for predictors of versions that did not record it."""
    return None if provenance.counts is None else CountsRecord(**provenance.counts)


def selection_as_trained(selection: Selection, trained: CountsRecord | None) -> Selection:
    """A selection whose counts are read as those of training were, where it does not say otherwise."""
    if trained is None:
        return selection
    library_key = selection.library_key or trained.library_key
    return replace(selection, library_key=library_key, allow_fractional_counts=trained.fractional)


def slide_identities(provenance: Provenance) -> dict[str, SlideIdentity]:
    """What the training slides are recognised by, by name; empty for predictors of versions that did not record it."""
    found = {name: slide.get("identity") for name, slide in provenance.slides.items()}
    return {name: SlideIdentity.from_json(text) for name, text in found.items() if text is not None}


ENTRIES = tuple(each.name for each in fields(Provenance) if each.name not in ("other", "missing"))
"""Names of what is recorded."""


def _selection_to_json(selection: Selection) -> dict[str, Any]:
    optional = {"library_key": None, "allow_fractional_counts": False, "regions": None}
    left_out = {"in_px"} | {name for name, default in optional.items() if getattr(selection, name) is default}
    values = {each.name: getattr(selection, each.name) for each in fields(selection) if each.name not in left_out}
    if isinstance(values["image_key"], Mapping):
        values["image_key"] = dict(values["image_key"])
    if values["shapes_key"] is not None and not isinstance(values["shapes_key"], str):
        values["shapes_key"] = list(values["shapes_key"])
    if not isinstance(values.get("regions", ""), str):
        values["regions"] = classes_by_element(values["regions"])
    if values["um_per_px"] is not None:
        values["um_per_px"] = float(values["um_per_px"])  # JSON takes no number of numpy
    return values


def warn_unseen_color(
    colors: NDArray[np.float32],  # (n, d), of the spots of one slide
    flagged: NDArray[np.bool_],  # (n,), spots at a border, which count only if all spots are
    seen: ColorRange,
    name: str,
    *,
    normalized: bool = False,
) -> None:
    """Warn if the mean optical density of a slide lies outside the range of the training slides."""
    inside = colors if flagged.all() else colors[~flagged]
    values = inside[:, -6:-3].mean(axis=0, dtype=np.float64)
    low, high = (np.asarray(side) for side in (seen.get("low", seen["mean"]), seen.get("high", seen["mean"])))
    tolerance = max(COLOR_MARGIN, 3 / np.sqrt(len(inside))) * np.asarray(seen["std"])  # few spots: a less exact mean
    far = np.flatnonzero((values < low - tolerance) | (values > high + tolerance)).tolist()
    if far:
        shown = ", ".join(
            f"{seen['channels'][i]} {values[i]:.3f} (trained on {low[i]:.3f} to {high[i]:.3f})" for i in far
        )
        advice = (
            "Its stain was normalised already"
            if normalized
            else "Its stain or scanner differs: predict with `stain='reinhard'`, which gives it the colours trained on"
        )
        warn(
            f"The colours of slide {name!r} lie outside the training range: mean optical density {shown}. {advice}; "
            "check the prediction."
        )


def warn_unseen_resolution(um_per_px: float, slides: Mapping[str, SlideRecord], name: str) -> None:
    """Warn about a slide that is much coarser or finer than all training slides."""
    seen = [slide["um_per_px"] for slide in slides.values()]
    low, high = min(seen), max(seen)
    if not low / 1.5 <= um_per_px <= high * 1.5:
        warn(
            f"Slide {name!r} has {um_per_px:.3g} µm per pixel; the predictor was trained on {low:.3g} to {high:.3g}. "
            "Fields of view are matched in µm, but detail is not: do not trust this prediction without a check."
        )
