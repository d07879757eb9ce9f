"""The options of `tl`, each documented once: those of a prediction, and classes of lower layers under public names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .._checks import config as check
from .._geometry import PatchSpec
from .._slides.slides import Selection
from .._train.config import FitConfig
from .._train.device import make_fabric

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ..pp.stain_normalization import StainMethod

__all__ = ["FitConfig", "PatchSpec", "PredictOptions", "Selection"]

Uncertainty = Literal["conformal", "conformal_groups"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """How a predictor is applied: the options that `stp.tl.predict` and `stp.tl.predict_cohort` share.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.tl.PredictOptions(n_views=8).n_views
    8
    """

    n_views: int = 1
    """Test-time augmentation: number of the eight flips and rotations of the patches whose predictions are averaged."""
    stain: StainMethod | None = None
    """Stain normalisation: ``"reinhard"``, ``"macenko"``, or None for patches as they were scanned."""
    batch_size: int | None = None
    """Spots per forward pass; None for a number that suits the device."""
    device: str = "auto"
    """``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``."""
    precision: str = "auto"
    """Lightning Fabric precision, or ``"auto"``."""
    uncertainty: Uncertainty | None = None
    """Prediction intervals: ``"conformal"``, ``"conformal_groups"``, or None for no intervals."""
    coverage: float = 0.9
    """Share of measured values that the intervals shall cover."""
    members: bool = False
    """Whether the prediction of each model of an ensemble is written too."""

    def __post_init__(self) -> None:
        check.in_range("n_views", self.n_views, 1, 8)
        if self.batch_size is not None:
            check.in_range("batch_size", self.batch_size, 1, 1_000_000)
        if self.uncertainty is not None:
            check.one_of("uncertainty", self.uncertainty, ("conformal", "conformal_groups"))
        check.in_range("coverage", self.coverage, 0.01, 0.999)

    def fabric(self) -> Fabric:
        """Set up Lightning Fabric for this device and precision.

        Returns
        -------
        The Fabric object.
        """
        return make_fabric(FitConfig(accelerator=self.device, precision=self.precision))
