"""What every model takes and gives: a batch of spots in, one row of target values per spot out.

Tensors only. No files, no tables, no augmentation, no optimiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from torch import Tensor

    from .model_config import ModelConfig


@dataclass(kw_only=True, slots=True)
class SpotBatch:
    """Some spots, their patches at every scale, where they lie and, if known, what was measured there.

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
    """``(b, ...)`` what a frozen encoder makes of the patches, or embeddings that came with the spots, if known."""

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

        def moved(x: Tensor) -> Tensor:
            """One of them there."""
            return x.to(device, non_blocking=non_blocking)

        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: moved(value) for name, value in known.items() if value is not None})


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A block in which autocast is off, on devices that know autocast at all."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


class FloatLinear(nn.Linear):
    """A linear layer that computes in float32 whatever the precision around it.

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

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``, float32."""
        bias: Tensor | None = self.bias  # torch types it as always there
        with full_precision(x.device):
            return F.linear(x.float(), self.weight.float(), None if bias is None else bias.float())


class SpotModel(nn.Module, ABC):
    """A network that regresses one row of target values per spot.

    A subclass defines ``config`` and ``forward`` and ends in a ``FloatLinear`` called ``head``; one that does not,
    because nothing of it is trained by steps, defines ``initialize_from``.

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
    """What it was built from."""
    head: FloatLinear
    per_spot_buffers: ClassVar[frozenset[str]] = frozenset()
    """Buffers of the model with one row for each training spot: they take the length of what is loaded into them."""
    uses_patches_and_features: ClassVar[bool] = False
    """Whether patches are looked at in training though there are features; if so they are augmented."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in self.per_spot_buffers & {each.removeprefix(prefix) for each in state_dict}:
            held, given = getattr(self, name), state_dict[prefix + name]
            setattr(self, name, held.new_empty(len(given), *held.shape[1:]))
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
        """What training minimises: the mean squared error, unless a model says otherwise.

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
        """Whether the loss looks at the counts of the genes: training then hands them over as ``batch.counts``."""
        return False

    @property
    def has_trainable_parameters(self) -> bool:
        """Whether anything of it is trained by steps."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights that the configuration names. Called once, by training only: a saved model has its own.

        Returns
        -------
        What was loaded, in words, by part of the network; empty where nothing was.
        """
        return {}

    def encode(self, batch: SpotBatch) -> Tensor | None:  # noqa: ARG002  (a model that freezes nothing looks at nothing)
        """What a frozen encoder makes of the patches: training computes it once for every spot.

        Parameters
        ----------
        batch
            The spots, of any number of slides; each is seen alone.

        Returns
        -------
        ``(b, ...)``, which comes back as ``batch.features``; None where every part of the network is trained.
        """
        return None

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained network predict one profile everywhere: zero head weights, ``mean`` as bias.

        Parameters
        ----------
        mean
            ``(n_outputs,)`` profile, for instance the mean of the training targets.
        """
        check.mean_profile(tuple(mean.shape), self.head.out_features)
        self.head.weight.zero_()
        self.head.bias.copy_(mean)

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take from the training spots what needs no steps: the mean profile, unless a model takes more.

        Parameters
        ----------
        pieces
            All training spots, with ``targets`` and ``group``, and with ``features`` where ``encode`` gives any; some
            at a time, slide after slide; iterated once.
        """
        self.initialize_at(torch.cat([check.require_targets(piece.targets) for piece in pieces]).mean(dim=0))


def unit_pixels(patches: Tensor) -> Tensor:
    """Pixels as floating point in [0, 1].

    Parameters
    ----------
    patches
        uint8, or floating point that is in [0, 1] already (as augmentation hands it over).

    Returns
    -------
    The same shape, floating point, on the same device.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> models.unit_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    return patches if patches.is_floating_point() else patches.float().div_(255)


def batch_features(model: SpotModel, batch: SpotBatch) -> Tensor:
    """The features of some spots: as given, or by the frozen encoder.

    Parameters
    ----------
    model
        A model whose ``encode`` gives features.
    batch
        The spots.

    Returns
    -------
    ``(b, ...)``.

    Raises
    ------
    ValueError
        If there are none: the model expects embeddings that come with the spots.
    """
    return check.require_features(model.encode(batch) if batch.features is None else batch.features)
