"""A member of a predictor: one network with all that its predictions need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..._checks import models as check
from ..._files import DamagedFileError
from ..._geometry import PatchSpec
from ..._train.augment import N_SYMMETRIES
from ..._train.batches import BatchLimit
from ..._train.loop import encoder_features, outputs, tta_mean_std
from ...models import build, config_to_dict
from ...pp.targets import Targets
from .appearance import DonorMoments, StandardizedModel, slide_moments
from .schema import ADVICE, load_weights, saved_network_config
from .serialization import add_prefix, select_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ...models import SpotBatch, SpotModel
    from .appearance import Moments


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Member:
    """One network with its model, its patches, the targets it was trained on, and its weight."""

    network: SpotModel
    targets: Targets
    model: str
    """Name of the model."""
    patch: PatchSpec
    """Fields of view and size of the patches that the network takes."""
    pretrained: Mapping[str, str] = field(default_factory=dict)
    """Weights that were loaded before training, by part of the network."""
    encoders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What identifies the features of each image encoder, by part of the network."""
    weight: float = 1.0
    """Weight of its prediction in the mean; those of all members sum to 1."""
    donors: DonorMoments | None = None
    """Mean and spread of its features over the training donors, if it standardises each slide by its own."""

    @property
    def normalizes_stain(self) -> bool:
        """Whether it predicts patches with the stain of the training slides."""
        return getattr(self.network.config, "stain", "none") != "none"

    def features(self, spots: SpotBatch, fabric: Fabric) -> Tensor:
        """Features ``(n, d)`` of spots, given or encoded, before they are standardised."""
        found = check.require_features(encoder_features(self.network, spots, fabric))
        self.network.eval()
        return found

    def on_slides(self, moments: Sequence[Moments | None]) -> SpotModel:
        """The network as it predicts slides, whose numbers are positions in ``moments``."""
        if self.donors is None:
            return self.network
        return StandardizedModel(self.network, self.donors, moments)

    def moments(self, spots: SpotBatch, fabric: Fabric) -> list[Moments | None]:
        """Moments of its features over the given spots of each slide, by the number of the slide."""
        n_slides = int(spots.slide.max()) + 1
        return [None] * n_slides if self.donors is None else slide_moments(self.features(spots, fabric), spots.slide)

    def predict(
        self,
        spots: SpotBatch,
        fabric: Fabric,
        *,
        moments: Sequence[Moments | None],
        batch_size: int | BatchLimit | None,
        n_views: int,
        spread: bool,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Prediction ``(n, g)``, the mean over views, and with ``spread`` its standard deviation over them."""
        network, decode = self.on_slides(moments).to(fabric.device), self.targets.decode
        if network.config.context == "slide":  # all given spots are one batch
            limit = BatchLimit(max(1, len(spots)))
        else:
            limit = batch_size if isinstance(batch_size, BatchLimit) else BatchLimit.of(batch_size, fabric.device)
        if spread:
            return tta_mean_std(network, decode, spots, fabric, limit, n_views)
        views = min(max(n_views, 1), N_SYMMETRIES)
        return decode(outputs(network, spots, fabric, limit, symmetries=views).numpy()), None

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved, by name: those of the network and the statistics of the targets."""
        network = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        arrays = {"mean": self.targets.mean, "scale": self.targets.scale}
        if self.targets.components is not None:
            arrays["components"] = self.targets.components
        targets = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        donors = {} if self.donors is None else self.donors.state_dict()
        return {**add_prefix("network", network), **add_prefix("targets", targets), **add_prefix("donors", donors)}

    @classmethod
    def from_state_dict(
        cls,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, Any],
        *,
        target: Mapping[str, Any],
        genes: Sequence[str],
        path: Path,
    ) -> Member:
        """Rebuild what `state_dict` and `to_json` gave; ``path`` is named in errors."""
        weights = select_prefix("network", tensors)
        arrays = {name: tensor.numpy() for name, tensor in select_prefix("targets", tensors).items()}
        targets = Targets.from_arrays(target, genes, arrays)
        config = saved_network_config(values["model_config"], weights, path)
        if config.n_outputs != targets.n_outputs:
            reason = f"the network has {config.n_outputs} outputs, and its targets take {targets.n_outputs}"
            raise DamagedFileError(path, "model_config.config.n_outputs", reason, ADVICE)
        network = build(config)
        load_weights(network, weights, path)
        donors = select_prefix("donors", tensors)
        return cls(
            network=network.eval(),
            donors=DonorMoments.from_state_dict(donors) if donors else None,
            targets=targets,
            model=values["model"],
            patch=PatchSpec.from_dict(values["patch"]),
            weight=values["weight"],
        )

    def to_json(self) -> dict[str, Any]:
        """What is saved beside the tensors."""
        return {
            "model": self.model,
            "model_config": config_to_dict(self.network.config),
            "patch": self.patch.to_dict(),
            "weight": self.weight,
        }


def target_scale(members: Sequence[Member]) -> NDArray[np.float64]:
    """Standard deviation of each gene, the mean over members: ``(g,)``."""
    scale: NDArray[np.float64] = np.mean([member.targets.scale for member in members], axis=0, dtype=np.float64)
    return scale
