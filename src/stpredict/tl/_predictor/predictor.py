"""The one stateful class: what `fit` made and `predict` uses. Files are read and written in `serialization`."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..._geometry import PatchSpec
from ..._train.augment import N_SYMMETRIES
from ..._train.batches import BatchLimit
from ..._train.loop import outputs
from ..._train.test_time_augmentation import tta_mean_std
from ...models import build, config_from_dict, config_to_dict
from ...pp.targets import Targets
from . import serialization
from .conformal import Calibration, residual_spread
from .ood import ImageRange
from .provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ...models import ModelConfig, SpotBatch, SpotModel
    from ...pp import TargetSpec


CALIBRATION, IMAGE_RANGE = "calibration", "image_range"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Member:
    """One network with the targets it was trained on."""

    network: SpotModel
    targets: Targets
    pretrained: Mapping[str, str] = field(default_factory=dict)
    """What was loaded before training, by part of the network."""


@dataclass(kw_only=True, slots=True, eq=False)
class Predictor:
    """A trained model with all it needs to predict a new slide.

    Made by `stp.tl.fit`, or read back with `Predictor.load`. Its networks are averaged; `genes`, `patch` and `units`
    say what goes in and what comes out.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, config=stp.tl.FitConfig(n_epochs=1, progress=False))
    >>> len(predictor.genes), predictor.units
    (12, 'log1p CP10k')
    """

    members: tuple[Member, ...]
    """The networks, one or several."""
    model: str
    """Name of the model, as `stp.models.available` lists it."""
    model_config: ModelConfig
    """Shape of the networks."""
    patch: PatchSpec
    """Fields of view and size of the patches."""
    train_mean: NDArray[np.float32]
    """``(g,)`` mean of the training spots, in `units`: the simplest baseline."""
    ridge_color: NDArray[np.float32]
    """``(g, d + 1)`` weights of the ridge on colour statistics, the intercept last: the second baseline."""
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row a member and epoch: losses, validation score, learning rate, spots per second."""
    provenance: Provenance = field(default_factory=Provenance)
    """Training slides, options, validation, resolution and colour range, and versions."""
    calibration: Calibration | None = None
    """Errors at spots that were not trained on, from which intervals are made; None where nothing was held out."""
    image_range: ImageRange | None = None
    """Where the patches of training spots lie in the space of colour and texture; None in older predictors."""

    @property
    def genes(self) -> list[str]:
        """Names of the predicted genes, in order."""
        return list(self.members[0].targets.genes)

    @property
    def target(self) -> TargetSpec:
        """How expression was normalised."""
        return self.members[0].targets.spec

    @property
    def units(self) -> str:
        """What predictions are measured in."""
        return self.target.units

    @property
    def n_parameters(self) -> int:
        """Parameters of all networks together."""
        return sum(p.numel() for member in self.members for p in member.network.parameters())

    @property
    def hash(self) -> str:
        """Digest of weights and configuration: equal for equal predictors."""
        return serialization.digest(self._description(), self._tensors())

    def __call__(
        self, spots: SpotBatch, fabric: Fabric, *, batch_size: int | BatchLimit | None = None, n_views: int = 1
    ) -> NDArray[np.float32]:
        """Predict spots whose patches are read already.

        Parameters
        ----------
        spots
            The spots.
        fabric
            Where to compute, and in which precision.
        batch_size
            Spots a forward pass; None for what suits the device. Fewer where memory runs out.
        n_views
            Average over this many of the eight flips and turns, from 1 to 8.

        Returns
        -------
        ``(n, g)`` float32 in `units`.
        """
        views = min(max(n_views, 1), N_SYMMETRIES)
        limit = self._limit(spots, fabric, batch_size)
        given = [
            member.targets.decode(
                outputs(member.network.to(fabric.device), spots, fabric, limit, symmetries=views).numpy()
            )
            for member in self.members
        ]
        return np.mean(given, axis=0, dtype=np.float64).astype(np.float32)

    def with_spread(
        self, spots: SpotBatch, fabric: Fabric, *, batch_size: int | BatchLimit | None = None, n_views: int = 8
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predict spots, and say in what their intervals are measured.

        Parameters
        ----------
        spots
            The spots.
        fabric
            Where to compute, and in which precision.
        batch_size
            Spots a forward pass; None for what suits the device. Fewer where memory runs out.
        n_views
            Flips and turns, from 1 to 8, whose mean is predicted and whose disagreement is part of the spread.

        Returns
        -------
        ``(n, g)`` float32 in `units`, and the spread, above 0, in the same shape and units.
        """
        limit = self._limit(spots, fabric, batch_size)
        found = [
            tta_mean_std(member.network.to(fabric.device), member.targets.decode, spots, fabric, limit, n_views)
            for member in self.members
        ]
        mean, views = (np.mean(part, axis=0, dtype=np.float64) for part in zip(*found, strict=True))
        return mean.astype(np.float32), residual_spread(views, target_scale(self.members))

    def _limit(self, spots: SpotBatch, fabric: Fabric, batch_size: int | BatchLimit | None) -> BatchLimit:
        if self.model_config.context == "slide":  # all that are given are seen together
            return BatchLimit(max(1, len(spots)))
        return batch_size if isinstance(batch_size, BatchLimit) else BatchLimit.of(batch_size, fabric.device)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the predictor to a folder: ``config.json``, ``weights.safetensors``, ``history.csv``, ``README.md``.

        The folder appears whole or not at all; one that is there already is replaced only when the new one is written.

        Parameters
        ----------
        path
            The folder. If it exists it must hold a predictor, or nothing.
        """
        serialization.write(path, self._description(), self._tensors(), self.history)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Predictor:
        """Read a predictor back. No code from the folder is run.

        Parameters
        ----------
        path
            A folder that `save` wrote, or the id of a Hugging Face repository that holds such files.

        Returns
        -------
        The predictor, on the CPU.
        """
        values, tensors, history = serialization.read(path)
        model_config = config_from_dict(values["model_config"])
        panel = values["genes"]
        members = []
        for i in range(values["n_members"]):
            arrays = {k.rsplit("/", 1)[1]: t.numpy() for k, t in tensors.items() if k.startswith(f"{i}/targets/")}
            network = build(model_config)
            weights = {k.split("/", 2)[2]: t for k, t in tensors.items() if k.startswith(f"{i}/network/")}
            serialization.load_weights(network, weights, path)
            members.append(Member(network=network.eval(), targets=Targets.from_arrays(values["target"], panel, arrays)))
        return cls(
            members=tuple(members),
            model=values["model"],
            model_config=model_config,
            patch=PatchSpec.from_dict(values["patch"]),
            train_mean=tensors["train_mean"].numpy(),
            ridge_color=tensors["ridge_color"].numpy(),
            history=history,
            provenance=Provenance.from_json(values["provenance"]),
            **_known(values, tensors),
        )

    def _description(self) -> dict[str, Any]:
        calibration = self.calibration  # left out where there is none: older predictors keep their hash
        noted = {} if calibration is None else {"n_views": calibration.n_views, "record": dict(calibration.record)}
        return {
            **({CALIBRATION: noted} if noted else {}),
            "model": self.model,
            "model_config": config_to_dict(self.model_config),
            "patch": self.patch.to_dict(),
            "target": self.target.to_dict(),
            "units": self.units,
            "genes": self.genes,
            "n_members": len(self.members),
            "provenance": self.provenance.to_json(),
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            "train_mean": torch.from_numpy(self.train_mean),
            "ridge_color": torch.from_numpy(self.ridge_color),
        }
        for i, member in enumerate(self.members):
            state = member.network.state_dict()
            tensors |= {f"{i}/network/{name}": value.detach().cpu().contiguous() for name, value in state.items()}
            arrays = {"mean": member.targets.mean, "scale": member.targets.scale}
            if member.targets.components is not None:
                arrays["components"] = member.targets.components
            tensors |= {f"{i}/targets/{k}": torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}
        for part, held in ((CALIBRATION, self.calibration), (IMAGE_RANGE, self.image_range)):
            if held is not None:
                tensors |= {f"{part}/{name}": tensor for name, tensor in held.tensors().items()}
        return tensors

    def _rows(self) -> dict[str, str]:
        """What a person wants to know, for the representations."""
        trained = self.provenance.slides
        fov = ", ".join(f"{side:.0f}" for side in self.patch.fov_um)
        return {
            "model": f"{self.model} ({len(self.members)} x {self.n_parameters // len(self.members):,} parameters)",
            "genes": f"{len(self.genes)} ({', '.join(self.genes[:4])}, …)",
            "units": self.units,
            "fields of view": f"{fov} µm, {self.patch.size_px} px each",
            "trained on": f"{', '.join(trained)} ({sum(s['n_spots'] for s in trained.values())} spots)",
            "validation": self.provenance.validation_note,
            "intervals": "not calibrated"
            if self.calibration is None
            else f"calibrated on {self.calibration.pooled.n} spots of {self.calibration.record['kind']}",
        }

    def __repr__(self) -> str:
        return "Predictor\n" + "\n".join(f"    {name}: {value}" for name, value in self._rows().items())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self._rows().items()
        )
        return f"<table><caption>stpredict Predictor</caption>{rows}</table>"


def target_scale(members: Sequence[Member]) -> NDArray[np.float64]:
    """Standard deviation of each gene, the mean over members: ``(g,)``."""
    scale: NDArray[np.float64] = np.mean([member.targets.scale for member in members], axis=0, dtype=np.float64)
    return scale


def _known(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What older predictors do not have."""

    def part(name: str) -> dict[str, Tensor]:
        """Its tensors."""
        return {k.removeprefix(f"{name}/"): t for k, t in tensors.items() if k.startswith(f"{name}/")}

    calibration, image_range = part(CALIBRATION), part(IMAGE_RANGE)
    return {
        "calibration": Calibration.from_tensors(calibration, values[CALIBRATION]) if calibration else None,
        "image_range": ImageRange.from_tensors(image_range) if image_range else None,
    }
