"""The contract of all models: a batch of spots in, one row of target values for each spot out.

Tensors only. No files, no tables, no augmentation, no optimiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._precision import full_precision
from .encoder import find_encoders

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from torch import Tensor

    from .model_config import ModelConfig


@dataclass(kw_only=True, slots=True)
class SpotBatch:
    """A batch of spots: their patches at every scale, their coordinates and, if known, their measured values.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> patches = torch.zeros(4, 3, 3, 112, 112, dtype=torch.uint8)
    >>> batch = models.SpotBatch(patches=patches, xy_um=torch.zeros(4, 2), slide=torch.zeros(4, dtype=torch.int64))
    >>> len(batch)
    4
    """

    patches: Tensor
    """``(b, s, 3, p, p)`` RGB, narrowest field of view first: uint8, or floating point in [0, 1]."""
    xy_um: Tensor
    """``(b, 2)`` float32, spot centres in µm."""
    slide: Tensor
    """``(b,)`` int64, index of the slide of each spot."""
    targets: Tensor | None = None
    """``(b, g)`` float32 in target space, if known."""
    counts: Tensor | None = None
    """``(b, g)`` float32 counts, if known."""
    group: Tensor | None = None
    """``(b,)`` int64, index of the group (patient) of each spot, if known."""
    features: Tensor | None = None
    """``(b, ...)`` output of a frozen encoder, or embeddings that came with the spots, if known."""

    def __len__(self) -> int:
        return len(self.patches)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> SpotBatch:
        """The same batch on another device.

        Parameters
        ----------
        device
            Where the tensors go.
        non_blocking
            Do not wait for copies from pinned memory.

        Returns
        -------
        A new batch; tensors that are already there are shared.
        """
        return map_tensors(self, lambda x: x.to(device, non_blocking=non_blocking))


def map_tensors(spots: SpotBatch, function: Callable[[Tensor], Tensor]) -> SpotBatch:
    """A batch with a function applied to every tensor, also to those in a tuple."""

    def map_value(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(map_value, value))
        return function(value) if isinstance(value, torch.Tensor) else value

    return replace(spots, **{each.name: map_value(getattr(spots, each.name)) for each in fields(spots)})


class FloatLinear(nn.Linear):
    """A linear layer that computes in float32 even under autocast.

    Targets lie near 6 and differ in the second decimal, which bfloat16 does not resolve.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> head = models.FloatLinear(8, 2)
    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     head(torch.zeros(3, 8)).dtype
    torch.float32
    """

    __call__: Callable[..., Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``, float32."""
        bias: Tensor | None = self.bias  # torch types it as always there
        with full_precision(x.device):
            return F.linear(x.float(), self.weight.float(), None if bias is None else bias.float())


class SpotModel(nn.Module, ABC):
    """A network that regresses one row of target values per spot.

    A subclass defines ``config`` and ``forward`` and ends in a ``FloatLinear`` called ``head``. A model without a head,
    because it is solved in closed form instead of by gradient steps, defines ``initialize_from``.

    Examples
    --------
    The mean colour of the narrowest patch, and a linear head:

    >>> from stpredict import models
    >>> class MeanColour(models.SpotModel):
    ...     def __init__(self, config):
    ...         super().__init__()
    ...         self.config, self.head = config, models.FloatLinear(3, config.n_outputs)
    ...
    ...     def forward(self, batch):
    ...         return self.head(models.unit_pixels(batch.patches[:, 0]).mean(dim=(-2, -1)))
    >>> import torch
    >>> spots = models.SpotBatch(
    ...     patches=torch.zeros(5, 3, 3, 8, 8), xy_um=torch.zeros(5, 2), slide=torch.zeros(5, dtype=torch.int64)
    ... )
    >>> MeanColour(models.config("m2ost", 250))(spots).shape
    torch.Size([5, 250])
    """

    config: ModelConfig
    """The configuration that the network was built from."""
    head: FloatLinear
    per_spot_buffers: ClassVar[frozenset[str]] = frozenset()
    """Buffers with one row for each training spot: their length is that of the state that is loaded into them."""
    uses_patches_and_features: ClassVar[bool] = False
    """Whether training needs the patches although there are features; if so, patches are augmented."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in self.per_spot_buffers & {each.removeprefix(prefix) for each in state_dict}:
            buffer, saved = getattr(self, name), state_dict[prefix + name]
            setattr(self, name, buffer.new_empty(len(saved), *buffer.shape[1:]))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @abstractmethod
    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """

    def loss(self, batch: SpotBatch) -> Tensor:
        """Training loss: the mean squared error, unless a model overrides it.

        Parameters
        ----------
        batch
            The spots, with ``targets``.

        Returns
        -------
        A scalar.
        """
        targets = check.require_targets(batch.targets)
        return F.mse_loss(self(batch), targets)

    @property
    def needs_counts(self) -> bool:
        """Whether the loss needs the counts of the genes: training then gives them as ``batch.counts``."""
        return False

    @property
    def has_trainable_parameters(self) -> bool:
        """Whether any parameter is trained by gradient steps."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights that the configuration names. Training calls it once; a saved model has its own weights.

        Returns
        -------
        A description of the loaded weights for each part of the network; empty if none were loaded.
        """
        loaded = {name: encoder.load() for name, encoder in find_encoders(self).items()}
        return {name: description for name, description in loaded.items() if description}

    def encode(self, batch: SpotBatch) -> Tensor | None:  # noqa: ARG002  (here nothing is frozen)
        """Features of the patches from a frozen encoder; training computes them once for every spot.

        Parameters
        ----------
        batch
            The spots, of any number of slides; each spot is encoded independently.

        Returns
        -------
        ``(b, ...)``, which later calls get as ``batch.features``; None if no encoder is frozen.
        """
        return None

    @property
    def encoder_key(self) -> Hashable | None:
        """What identifies the frozen encoder: models with equal keys, on equal patches, have equal features.

        Training then computes these once. None if the features are the model's own.
        """
        return None

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Make the untrained network predict one profile for every spot: zero head weights, ``mean`` as bias.

        Parameters
        ----------
        mean
            ``(n_outputs,)`` profile, for instance the mean of the training targets.
        """
        check.mean_profile(tuple(mean.shape), self.head.out_features)
        self.head.weight.zero_()
        self.head.bias.copy_(mean)

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Set what needs no gradient steps from the training spots: the mean profile, and more if a model overrides it.

        Parameters
        ----------
        batches
            All training spots, slide after slide, with ``targets`` and ``group``, and with ``features`` if ``encode``
            returns any; iterated once.
        """
        self.initialize_at(torch.cat([check.require_targets(batch.targets) for batch in batches]).mean(dim=0))


def batch_features(model: SpotModel, batch: SpotBatch) -> Tensor:
    """Features of some spots, ``(b, ...)``: those of the batch, or else from the model's frozen encoder."""
    return check.require_features(model.encode(batch) if batch.features is None else batch.features)
