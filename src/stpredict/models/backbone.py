"""Any image network of timm as a regressor of one patch: features of the patch and a linear head.

These are the plain networks that M2OST is compared with (Wang et al., AAAI 2025, Table 3: ResNet-50, ViT-B/16, Swin-T,
ConvNeXt-T, CrossViT-small), and any other that timm knows by name. CrossViT averages the outputs of one linear head for
each branch; that equals one linear map of the concatenated class tokens of both branches, as here.

Deviations
    - The head starts at zero weights and the mean profile (He et al. 2020), not at random.
    - Colours are normalised with the statistics of the network's weights; the paper uses pixels in [0, 1].
    - The recipe keeps the paper's learning rate, batch size and number of epochs. Training uses AdamW without weight
      decay in place of Adam, with warm-up and cosine decay, and rotates patches by right angles only, so that no corner
      is filled with white.
    - The parameters and multiplications in the paper's table omit attention and parameters outside of modules; a
      ViT-B/16 has 85.99 M, not 57.45 M.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from .._checks import models as check
from .._checks.encoders import import_timm
from ._frozen import FeatureScaler
from .contract import FloatLinear, SpotModel, batch_features
from .encoder import NO_WEIGHTS, Encoder
from .encoder_table import STATISTICS, check_choice, encoder_row
from .model_config import GIVEN, PatchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

SIZE_PX = 224
"""Side of a patch if timm does not know the input size of a network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig(PatchConfig):
    """The image network, and its patch."""

    encoder: str | tuple[str, ...] = "resnet50"
    """A name that timm knows, a key of `stp.models.encoders`, ``"statistics"``, or several of them side by side;
    ``"given"``: embeddings of the spots."""
    weights: str | tuple[str, ...] = NO_WEIGHTS
    """``"none"``, ``"timm"``, ``"hub"``, ``"hub@REVISION"``, ``"hub:OWNER/NAME"``, ``"local-dir:FOLDER"``, or the path
    of a checkpoint; one for all encoders or one for each."""
    frozen: bool = False
    """Train only the head (linear probing)."""
    n_features: int = 0
    """Width of the embeddings, for ``encoder="given"``."""

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=1)
        check_choice(self.encoder, self.weights)
        if self.encoder == GIVEN:
            check.positive_int("n_features", self.n_features)


def own_size(name: str) -> int | None:
    """Input size in pixels of an encoder; None if no row has the name and timm does not know it or is missing."""
    if (row := encoder_row(name)) is not None:
        return row.input_px or SIZE_PX
    if find_spec("timm") is None:
        return None
    timm = import_timm()
    if not timm.is_model(name):
        return None
    settings = timm.get_pretrained_cfg(name)
    return SIZE_PX if settings is None else int(settings.input_size[-1])


class Backbone(SpotModel):
    """An image network with a linear head.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> model = models.build(models.config("resnet18", 5, {"size_px": 32}))
    >>> patches = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8)
    >>> model(models.SpotBatch(patches=patches, xy_um=torch.zeros(2, 2), slide=torch.zeros(2, dtype=torch.long))).shape
    torch.Size([2, 5])
    """

    config: BackboneConfig

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        given, frozen = config.encoder == GIVEN, config.frozen or config.encoder == STATISTICS
        self.encoder = None if given else Encoder(config.encoder, config.weights, config.size_px, frozen=frozen)
        width = config.n_features if self.encoder is None else self.encoder.n_features
        several = isinstance(config.encoder, tuple) and frozen
        self.standard = FeatureScaler(width) if several else None  # encoders differ in the scale of their features
        self.head = FloatLinear(width, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    def encode(self, batch: SpotBatch) -> Tensor | None:
        """Features ``(b, d)`` of the patches; None if the network is trained, or embeddings come with the spots."""
        if self.encoder is None or not self.encoder.frozen:
            return None
        return self._features(batch.patches)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        trained = self.encoder is not None and not self.encoder.frozen
        features = self._features(batch.patches) if trained else batch_features(self, batch)
        return self.head(features if self.standard is None else self.standard(features))

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Compute the mean profile, and the scale of the features of several frozen encoders."""
        if self.standard is None:
            super().initialize_from(batches)
        else:
            self.initialize_at(self.standard.initialize_from(self, batches))

    def _features(self, patches: Tensor) -> Tensor:
        """``(b, 1, 3, p, p)``, uint8 or in [0, 1], to ``(b, d)``."""
        check.patches(tuple(patches.shape), 1, self.config.size_px)
        return self.encoder(patches[:, 0])  # type: ignore[misc]
