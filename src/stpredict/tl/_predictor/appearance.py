"""How a slide looks beside the training slides: its stain, and mean and spread of its features. Needs no labels.

The same tissue looks different after another staining or in another scanner, and so do its features. Standardising each
slide by its own mean and spread removes this, but also what is truly different: a slide of other tissue has another
true mean. So both are shrunk towards the training donors (empirical Bayes): the more the donors differ from each other,
and the slide from them, beyond what its number of spots explains, the more its own values count.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..._train.data import read_pieces, reading_order
from ..._train.shared import SharedSpots
from ...models.contract import SpotModel, batch_features
from ...pp.stain_normalization import Stain, StainNormalizer
from .stain import measured_stain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._slides.slides import Slide
    from ...models import SpotBatch
    from ...pp.stain_normalization import StainMethod
    from .predictor import Predictor
    from .provenance import Provenance

logger = logging.getLogger(__name__)
SPOTS_PER_SAMPLE = 20
"""Spots that count as one sample of tissue, since neighbours are alike; slides with fewer are not measured."""
MAX_SPOTS = 512
"""Most spots of a slide on which its features are measured."""
MIN_SPREAD = 1e-6
"""Least standard deviation of a feature."""
METHOD: StainMethod = "reinhard"
"""The stain normalisation that can be shrunk: it matches means and standard deviations of colours."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Mean and spread of each feature over the spots of a slide."""

    n_spots: float
    mean: NDArray[np.float64]
    """``(d,)``."""
    log_spread: NDArray[np.float64]
    """``(d,)`` logarithm of the standard deviation."""

    @classmethod
    def of(cls, features: NDArray[np.floating]) -> Moments:
        """Measure ``(n, d)`` features."""
        values = np.asarray(features, np.float64)
        log_spread = np.log(np.maximum(values.std(axis=0), MIN_SPREAD))
        return cls(n_spots=len(values), mean=values.mean(axis=0), log_spread=log_spread)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DonorMoments:
    """Mean and spread of each feature over the training donors, and how much the donors differ."""

    n_donors: int
    n_spots: float
    mean: NDArray[np.float64]
    """``(d,)`` average over donors."""
    log_spread: NDArray[np.float64]
    """``(d,)`` average over donors."""
    mean_squares: NDArray[np.float64]
    """``(d,)`` sum over donors of squared deviations from `mean`, in units of the spread."""
    spread_squares: NDArray[np.float64]
    """``(d,)`` the same of `log_spread`."""

    @classmethod
    def of(cls, slides: Sequence[Moments], donors: Sequence[str]) -> DonorMoments:
        """Pool slides: each donor has the same weight, and so has each slide of a donor."""

        def by_donor(name: str) -> NDArray[np.float64]:
            return np.array(
                [
                    np.mean([getattr(s, name) for s, d in zip(slides, donors, strict=True) if d == donor], axis=0)
                    for donor in sorted(set(donors))
                ]
            )

        means, spreads = by_donor("mean"), by_donor("log_spread")
        mean, log_spread = means.mean(axis=0), spreads.mean(axis=0)
        return cls(
            n_donors=len(means),
            n_spots=sum(slide.n_spots for slide in slides),
            mean=mean,
            log_spread=log_spread,
            mean_squares=(((means - mean) / np.exp(log_spread)) ** 2).sum(axis=0),
            spread_squares=((spreads - log_spread) ** 2).sum(axis=0),
        )

    def shrink(self, own: Moments | None) -> Moments:
        """Mean and spread with which a slide is standardised: between its ``own`` and those of the donors.

        A deviation from the donors has the variance tau2 between donors and the sampling variance v of the slide. The
        best estimate keeps tau2 / (tau2 + v) of the observed deviation. tau2 is estimated from the donors and from the
        slide itself, for each feature.
        """
        if own is None or own.n_spots < SPOTS_PER_SAMPLE:
            return Moments(n_spots=0, mean=self.mean, log_spread=self.log_spread)
        v, v_donors = SPOTS_PER_SAMPLE / own.n_spots, SPOTS_PER_SAMPLE / self.n_spots
        spread = np.exp(self.log_spread)
        deviation, log_ratio = (own.mean - self.mean) / spread, own.log_spread - self.log_spread
        of_mean = _share_kept((self.mean_squares + deviation**2) / self.n_donors, v, v_donors)
        of_spread = _share_kept((self.spread_squares + log_ratio**2) / self.n_donors, v / 2, v_donors / 2)
        return Moments(
            n_spots=own.n_spots,
            mean=self.mean + of_mean * deviation * spread,
            log_spread=self.log_spread + of_spread * log_ratio,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved, by name."""
        arrays = {name: getattr(self, name) for name in ("mean", "log_spread", "mean_squares", "spread_squares")}
        numbers = {"n": np.array([self.n_donors, self.n_spots], np.float64)}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in {**arrays, **numbers}.items()}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> DonorMoments:
        """Rebuild what `state_dict` gave."""
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        n_donors, n_spots = arrays.pop("n").tolist()
        return cls(n_donors=int(n_donors), n_spots=n_spots, **arrays)


def _share_kept(squares: NDArray[np.float64], v: float, v_donors: float) -> NDArray[np.float64]:
    """tau2 / (tau2 + v), from the mean square of deviations: the part that is not sampling."""
    tau2 = np.maximum(squares - v - v_donors, 0)
    return np.asarray(tau2 / (tau2 + v))


class StandardizedModel(SpotModel):
    """A model whose features are standardised by mean and spread of their slide first."""

    mean: Tensor
    spread: Tensor

    def __init__(self, network: SpotModel, donors: DonorMoments, moments: Sequence[Moments | None]) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        mean, spread = _mean_and_spread(donors, moments)
        self.register_buffer("mean", mean.float(), persistent=False)
        self.register_buffer("spread", spread.float(), persistent=False)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``; ``batch.slide`` are positions in the list of moments."""
        features = batch_features(self.network, batch).float()
        standard = (features - self.mean[batch.slide]) / self.spread[batch.slide]
        found: Tensor = self.network(replace(batch, features=standard))
        return found


def slide_moments(features: Tensor, slide: Tensor) -> list[Moments | None]:
    """Moments of the features ``(n, d)`` of each slide, by its number; None for numbers without spots."""
    values, index = features.cpu().numpy(), slide.cpu().numpy()
    return [Moments.of(values[index == i]) if (index == i).any() else None for i in range(int(index.max()) + 1)]


def standardize_by_slide(
    features: Tensor, slide: Tensor, donors: DonorMoments, moments: Sequence[Moments | None]
) -> Tensor:
    """``(n, d)`` features in units of the shrunk spread of their slide, from its shrunk mean."""
    mean, spread = _mean_and_spread(donors, moments)
    return ((features - mean[slide]) / spread[slide]).float()


def _mean_and_spread(donors: DonorMoments, moments: Sequence[Moments | None]) -> tuple[Tensor, Tensor]:
    """Mean and spread of each slide, ``(n_slides, d)`` float64, shrunk towards the donors."""
    shrunk = [donors.shrink(own) for own in moments]
    mean, log_spread = (np.stack([getattr(each, name) for each in shrunk]) for name in ("mean", "log_spread"))
    return torch.from_numpy(mean), torch.from_numpy(np.exp(log_spread))


def recolor_spots(spots: SpotBatch, normalizers: Sequence[StainNormalizer | None]) -> SpotBatch:
    """The spots with the patches of each slide recoloured; the number of a slide is a position in ``normalizers``."""
    if not any(normalizers):
        return spots

    slide = spots.slide.cpu().numpy()

    def recolor_patches(patches: Tensor) -> Tensor:
        found = patches.cpu().numpy().copy()
        for i in np.unique(slide):
            normalizer, rows = normalizers[i], slide == i
            if normalizer is not None:
                found[rows] = normalizer(found[rows])
        return torch.from_numpy(found).to(patches.device)

    if isinstance(spots, SharedSpots):
        spots = replace(spots, more=tuple(map(recolor_patches, spots.more)))
    return replace(spots, patches=recolor_patches(spots.patches))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlideAppearance:
    """What is measured of a slide before it is predicted."""

    recolor: StainNormalizer | None = None
    """Gives patches the stain of the training slides, for members that want it."""
    moments: tuple[Moments | None, ...] = ()
    """For each member the moments of its features; None where it standardises by training spots."""


def measure_appearance(
    slide: Slide, predictor: Predictor, make_fabric: Callable[[], Fabric], *, recolor: StainNormalizer | None = None
) -> SlideAppearance:
    """Measure a slide; with ``recolor``, its patches have the stain of the training slides already.

    A device is asked for only where features are computed: who plans a prediction may have none.
    """
    wanted = [member.donors is not None for member in predictor.members]
    normalizes = recolor is None and any(member.normalizes_stain for member in predictor.members)
    n_spots = len(slide.xy_px)
    if not (any(wanted) or normalizes):
        return SlideAppearance(moments=(None,) * len(wanted))
    if n_spots < SPOTS_PER_SAMPLE:
        logger.warning(
            "Slide %r has %d spots; its own stain, mean and spread are used from %d spots on. It is predicted with "
            "those of the training slides.",
            slide.name,
            n_spots,
            SPOTS_PER_SAMPLE,
        )
        return SlideAppearance(moments=(None,) * len(wanted))
    normalizer = shrunk_normalizer(slide, predictor.provenance) if normalizes else None
    moments: list[Moments | None] = [None] * len(wanted)
    if any(wanted):
        order = reading_order(slide, predictor.patches)
        rows = order[np.unique(np.linspace(0, n_spots - 1, min(n_spots, MAX_SPOTS)).round().astype(np.intp))]
        fabric = make_fabric()
        found: list[list[Tensor]] = [[] for _ in wanted]
        for piece in read_pieces(slide, predictor.patches, rows=rows, recolor=recolor):
            for i, member in enumerate(predictor.members):
                if member.donors is not None:
                    own = predictor.spots_of(i, piece.spots)
                    found[i].append(member.features(own, fabric))
        moments = [Moments.of(torch.cat(parts).numpy()) if parts else None for parts in found]
    return SlideAppearance(recolor=normalizer, moments=tuple(moments))


def shrunk_normalizer(slide: Slide, provenance: Provenance) -> StainNormalizer | None:
    """From the stain of a slide, shrunk towards the training donors, to that of training; None if it is unknown."""
    found = measured_stain(slide)
    if provenance.stain is None or found is None:
        logger.warning(
            "The stain of slide %r, or that of training, could not be measured: its colours are taken as scanned.",
            slide.name,
        )
        return None
    reference = Stain.from_dict(provenance.stain["reference"])
    names = list(provenance.stain["slides"])
    donors = DonorMoments.of(
        [_stain_moments(Stain.from_dict(provenance.stain["slides"][name]), provenance.slides[name]["n_spots"])
         for name in names],
        [provenance.slides[name]["group"] for name in names],
    )  # fmt: skip
    shrunk = donors.shrink(_stain_moments(found, len(slide.xy_px)))
    middle = donors.shrink(None)
    source = replace(found, mean=tuple(shrunk.mean.tolist()), std=tuple(np.exp(shrunk.log_spread).tolist()))
    target = replace(reference, mean=tuple(middle.mean.tolist()), std=tuple(np.exp(middle.log_spread).tolist()))
    return StainNormalizer.between(source, target, METHOD)


def _stain_moments(stain: Stain, n_spots: int) -> Moments:
    return Moments(n_spots=n_spots, mean=np.array(stain.mean), log_spread=np.log(np.maximum(stain.std, MIN_SPREAD)))
