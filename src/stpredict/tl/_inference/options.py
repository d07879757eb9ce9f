"""The options of a prediction, each documented once; exported as `stp.tl.PredictOptions`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..._checks import config as check
from ..._train.config import FitConfig
from ..._train.device import make_fabric
from . import _errors

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ...pp.stain_normalization import StainMethod
    from .._predictor.conformal import Calibration, Uncertainty


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
    """Number of the eight flips and rotations of the patches to average over."""
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

    def __post_init__(self) -> None:
        check.prediction(self.n_views, self.batch_size)
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


def calibrated_options(options: PredictOptions, calibration: Calibration | None) -> PredictOptions:
    """The options with the number of views of the calibration, if intervals are asked for."""
    if options.uncertainty is None:
        return options
    calibration = _errors.calibrated(calibration)
    calibration.quantile(options.uncertainty, options.coverage)  # an error if it has too few spots
    _errors.calibration_applies(calibration, options.stain)
    return replace(options, n_views=calibration.n_views)
