"""What every configuration of a model declares, the fields that those of this package share, and embeddings. No torch.

Shared machinery without an underscore: `tl` reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .._checks import models as check
from .._checks.plain import plain_fields

if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import Field
    from typing import ClassVar

GIVEN = "given"
"""Value of ``encoder`` for embeddings that come with the spots."""


class ModelConfig(Protocol):
    """What every configuration declares, so that patches can be read and the loop needs to know no model.

    Examples
    --------
    >>> from stpredict import models
    >>> shape = models.config("m2ost", 250)
    >>> shape.n_outputs, shape.fov_spots, shape.size_px, shape.context
    (250, (1.5, 3.0, 6.0), 224, 'spot')
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def n_outputs(self) -> int:
        """Number of values predicted per spot."""

    @property
    def fov_spots(self) -> tuple[float, ...]:
        """Field of view of each scale in spot diameters, narrowest first."""

    @property
    def size_px(self) -> int:
        """Side in pixels of the patch of every scale."""

    @property
    def context(self) -> str:
        """What one prediction sees: ``"spot"`` or ``"slide"``."""

    def __hash__(self) -> int:
        """Equal for equal configurations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchConfig:
    """The fields that the configurations of this package share; their defaults differ."""

    n_outputs: int
    """Number of values predicted per spot."""
    fov_spots: tuple[float, ...] = (1.5,)
    """Field of view of each scale in spot diameters, narrowest first."""
    size_px: int = 224
    """Side in pixels of the patch of every scale."""
    context: Literal["spot", "slide"] = "spot"
    """What one prediction depends on: the patches of one spot, or all spots of a window of its slide."""
    stain: Literal["none", "reinhard"] = "none"
    """Stain normalisation of the slides that are predicted, shrunk by how much the training donors differ."""

    def __post_init__(self) -> None:
        plain_fields(self)
        check.field_values(self)


LATER_FIELDS: Mapping[str, Any] = {"stain": "none", "standardize": "training"}
"""Fields that older versions did not have, with their defaults; not saved at these, so that hashes stay."""


def uses_embeddings(config: ModelConfig) -> bool:
    """Whether a model takes embeddings that come with the spots in place of an encoder of its own."""
    return getattr(config, "encoder", None) == GIVEN
