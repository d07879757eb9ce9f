"""The adaptation of a predictor to a slide: an affine map of its predictions. How it is fitted is in `_adaptation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...pp.targets import nonnegative

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Adaptation:
    """Offset and scale of each gene, and a linear head on principal components of the predictions."""

    center: NDArray[np.float32]
    """``(g,)`` mean prediction on the slide."""
    offset: NDArray[np.float32]
    """``(g,)`` added to every prediction."""
    scale: NDArray[np.float32]
    """``(g,)`` factor of deviations from the centre; 1 leaves them as they are."""
    components: NDArray[np.float32]
    """``(k, g)`` axes on which deviations from the centre are projected."""
    head: NDArray[np.float32]
    """``(k, g)`` weights of the projections."""
    record: Mapping[str, Any]
    """Where it was fitted: ``slide``, ``n_measured``, ``identity`` of the measured spots, estimated variances."""

    def __call__(self, expression: NDArray[np.float32]) -> NDArray[np.float32]:
        """Adapted predictions ``(n, g)``, not below 0."""
        deviation = expression - self.center
        adapted = self.center + self.offset + self.scale * deviation + (deviation @ self.components.T) @ self.head
        return nonnegative(adapted.astype(np.float32))

    @property
    def description(self) -> str:
        """The slide and the number of its spots, in words."""
        return f"{self.record['slide']} ({self.record['n_measured']} measured spots)"

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved, by name."""
        names = ("center", "offset", "scale", "components", "head")
        return {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in names}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Adaptation:
        """Rebuild what `state_dict` gave, and the record that is saved beside it."""
        return cls(**{name: tensor.numpy() for name, tensor in tensors.items()}, record=record)
