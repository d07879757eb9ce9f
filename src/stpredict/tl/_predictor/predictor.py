"""The predictor: what `fit` returns and records, and `predict` applies. `serialization` writes and reads its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from ..._checks.calls import public
from ..._files import report_damage
from ..._train.device import avoid_dead_threads
from ..._train.shared import SharedPatches
from ...models.model_config import uses_embeddings
from ...pp.targets import nonnegative
from .. import _errors as check
from . import serialization
from .adaptation import Adaptation
from .appearance import recolor_spots
from .conformal import Calibration, residual_spread, std_over_models, weighted_mean
from .hub import upload_folder
from .member import Member, target_scale
from .ood import ImageRange
from .provenance import Provenance
from .schema import ADVICE
from .serialization import add_prefix, select_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._geometry import PatchSpec
    from ..._train.batches import BatchLimit
    from ...models import ModelConfig, SpotBatch
    from ...pp import TargetSpec
    from .appearance import SlideAppearance


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """Predictions of some spots, ``(n, g)`` float32 in the units of the predictor each, not below 0."""

    expression: NDArray[np.float32]
    """The weighted mean over members."""
    spread: NDArray[np.float32] | None
    """Scale of the prediction intervals, above 0; None unless it was asked for."""
    models: Mapping[str, NDArray[np.float32]]
    """The prediction of each model."""


@dataclass(kw_only=True, slots=True, eq=False)
class Predictor:
    """A trained model with all it needs to predict a new slide.

    Made by `stp.tl.fit`, or read with `Predictor.load`. The prediction is the weighted mean over its members, which may
    be networks of one model or of several (an ensemble). `patches` describes the input, `genes` and `units` the output.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, "ridge_color", config={"progress": False})
    >>> len(predictor.genes), predictor.units
    (12, 'log1p CP10k')
    """

    members: tuple[Member, ...]
    """The networks, one or several, with their weights; those of one model follow each other."""
    model: str
    """Name of the model or ensemble, as `stp.models.available` lists it; the names of a list joined by ``+``."""
    train_mean: NDArray[np.float32]
    """``(g,)`` mean of the training spots in `units`, the first baseline."""
    ridge_color: NDArray[np.float32]
    """``(g, d + 1)`` weights of the ridge regression on colour statistics, intercept last: the second baseline."""
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per member and epoch: losses, validation score, learning rate, spots per second."""
    provenance: Provenance = field(default_factory=Provenance)
    """Training slides, options, validation, resolution and colour range, and versions."""
    calibration: Calibration | None = None
    """Errors at held-out spots, for prediction intervals; None without held-out spots."""
    image_range: ImageRange | None = None
    """Distribution of colour and texture of the training patches; None in predictors of older versions."""
    adaptation: Adaptation | None = None
    """Map of predictions that `stp.tl.adapt` fitted on measured spots of a slide; None in predictors as trained."""
    source: str = ""
    """``hf:owner/name@revision`` of a predictor from the Hugging Face hub, ``name@sha256`` of one from a registry; else
    empty. Not saved."""

    @property
    def models(self) -> dict[str, float]:
        """Weight of each model; they sum to 1."""
        weights = dict.fromkeys((member.model for member in self.members), 0.0)
        for member in self.members:
            weights[member.model] += member.weight
        return {model: weight / sum(weights.values()) for model, weight in weights.items()}

    @property
    def model_config(self) -> ModelConfig:
        """Configuration of the first member."""
        return self.members[0].network.config

    @property
    def patch(self) -> PatchSpec:
        """Patches of the first member, on which colour and out-of-distribution detection are based."""
        return self.members[0].patch

    @property
    def shared(self) -> SharedPatches:
        """What is read for all members, and which part of it is whose."""
        return SharedPatches.of([member.patch for member in self.members])

    @property
    def patches(self) -> tuple[PatchSpec, ...]:
        """What is read for all members: one entry for each size, with the fields of view of all members."""
        return self.shared.read

    @property
    def uses_windows(self) -> bool:
        """Whether any member predicts the spots of a window of a slide together."""
        return any(member.network.config.context == "slide" for member in self.members)

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
        """Units of the predictions."""
        return self.target.units

    @property
    def n_parameters(self) -> int:
        """Number of parameters of all networks together."""
        return sum(p.numel() for member in self.members for p in member.network.parameters())

    @property
    def hash(self) -> str:
        """Digest of weights and configuration: equal for equal predictors."""
        return serialization.digest(self.to_json(), self.state_dict())

    def spots_of(self, member: int, spots: SpotBatch) -> SpotBatch:
        """The spots as one member sees them.

        Parameters
        ----------
        member
            Position of the member.
        spots
            The spots, with the patches that `patches` describes.

        Returns
        -------
        The same spots with the patches of the member, and with embeddings if it takes them; nothing is copied.
        """
        embeddings = uses_embeddings(self.members[member].network.config)
        return self.shared.select(spots, member, embeddings=embeddings)

    def __call__(
        self, spots: SpotBatch, fabric: Fabric, *, batch_size: int | BatchLimit | None = None, n_views: int = 1
    ) -> NDArray[np.float32]:
        """Predict spots whose patches are in memory.

        Parameters
        ----------
        spots
            The spots.
        fabric
            Device and precision.
        batch_size
            Spots per forward pass; None for a number that suits the device. Halved if memory runs out.
        n_views
            Number of the eight flips and rotations to average over, from 1 to 8.

        Returns
        -------
        ``(n, g)`` float32 in `units`, not below 0: negative values of the regression are set to 0.
        """
        return self.predict(spots, fabric, batch_size=batch_size, n_views=n_views).expression

    def predict(
        self,
        spots: SpotBatch,
        fabric: Fabric,
        *,
        batch_size: int | BatchLimit | None = None,
        n_views: int = 1,
        spread: bool = False,
        appearances: Sequence[SlideAppearance] | None = None,
    ) -> Prediction:
        """Predict spots, with the prediction of each model.

        Parameters
        ----------
        spots
            The spots, with the patches that `patches` describes.
        fabric
            Device and precision.
        batch_size
            Spots per forward pass; None for a number that suits the device. Halved if memory runs out.
        n_views
            Number of the eight flips and rotations to average over, from 1 to 8.
        spread
            Whether the spread of prediction intervals is computed too.
        appearances
            Stain and moments of each slide, by the number of the slide. None measures the moments on the given spots,
            and takes colours as they were scanned.

        Returns
        -------
        The prediction.
        """
        found: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]]
        found = {model: [] for model in self.models}
        recolored = spots if appearances is None else recolor_spots(spots, [a.recolor for a in appearances])
        for i, member in enumerate(self.members):
            own = self.spots_of(i, recolored if member.normalizes_stain else spots)
            moments = member.moments(own, fabric) if appearances is None else [a.moments[i] for a in appearances]
            found[member.model].append(
                member.predict(own, fabric, moments=moments, batch_size=batch_size, n_views=n_views, spread=spread)
            )
        means = [_mean_over_members([mean for mean, _ in some]) for some in found.values()]
        weights, std = list(self.models.values()), None
        if spread:
            views = [_mean_over_members([std for _, std in some if std is not None]) for some in found.values()]
            std = residual_spread(std_over_models(means, views, weights), target_scale(self.members))
        return Prediction(
            expression=self._expression(weighted_mean(means, weights)),
            spread=std,
            models={name: nonnegative(mean.astype(np.float32)) for name, mean in zip(found, means, strict=True)},
        )

    def with_spread(
        self,
        spots: SpotBatch,
        fabric: Fabric,
        *,
        batch_size: int | BatchLimit | None = None,
        n_views: int,
        appearances: Sequence[SlideAppearance] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predict spots and the spread that scales their prediction intervals.

        Parameters
        ----------
        spots
            The spots.
        fabric
            Device and precision.
        batch_size
            Spots per forward pass; None for a number that suits the device. Halved if memory runs out.
        n_views
            Number of flips and rotations, from 1 to 8. Their mean is the prediction, their standard deviation part of
            the spread.
        appearances
            As for `predict`.

        Returns
        -------
        Prediction and spread, which is above 0: ``(n, g)`` float32 in `units` each.
        """
        found = self.predict(
            spots, fabric, batch_size=batch_size, n_views=n_views, spread=True, appearances=appearances
        )
        return found.expression, found.spread  # type: ignore[return-value]  # it was asked for

    def _expression(self, mean: NDArray[np.float64]) -> NDArray[np.float32]:
        """The prediction from the mean over members: not below 0, and adapted if the predictor is."""
        expression = nonnegative(mean.astype(np.float32))
        return expression if self.adaptation is None else self.adaptation(expression)

    @public
    def save(self, path: str | PathLike[str]) -> None:
        """Write the predictor to a folder: ``config.json``, ``weights.safetensors``, ``history.csv``, ``README.md``.

        The folder appears whole or not at all. An existing predictor is replaced only after the new one is written.

        Parameters
        ----------
        path
            The folder. If it exists, it must be empty or hold a predictor.
        """
        serialization.write(path, self.to_json(), self.state_dict(), self.history)

    @public
    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload predictor") -> str:
        """Upload the files of `save`, with the model card, to a repository of the Hugging Face hub.

        Needs `huggingface_hub` and a token that may write (``hf auth login``).

        Parameters
        ----------
        repository
            ``"owner/name"``, made if there is none, or ``"owner/name@branch"``.
        private
            Whether a new repository is private.
        message
            Message of the commit.

        Returns
        -------
        ``"hf:owner/name@commit"``, which `load` takes.

        Raises
        ------
        ValueError
            If the licence of the data is not stated: `stp.tl.describe` records it.
        ConnectionError
            If the upload fails.
        """
        check.states_licence(self.provenance.cohort)
        with TemporaryDirectory(prefix="stpredict-") as folder:
            self.save(Path(folder) / "predictor")
            return upload_folder(Path(folder) / "predictor", repository, private=private, message=message)

    @classmethod
    @public
    def load(cls, path: str | PathLike[str]) -> Predictor:
        """Read a predictor. No code from the folder is run, and a folder is read without the network.

        Parameters
        ----------
        path
            A folder that `save` wrote. A name that `stp.models.pretrained` lists, if there is no such folder: it is
            downloaded once and kept in the cache. Or ``"hf:owner/name"`` for a repository of the Hugging Face hub with
            such files; ``"hf:owner/name@revision"`` is a certain branch, tag or commit.

        Returns
        -------
        The predictor, on the CPU. ``source`` says which commit of a repository, or which archive of a registry, it is.

        Raises
        ------
        ValueError
            If the files are damaged, were changed, or do not fit together.
        FileNotFoundError
            If there is no saved predictor.
        ConnectionError
            If a pretrained predictor is not in the cache, and cannot be downloaded.
        """
        avoid_dead_threads()
        saved = serialization.read(path)
        values, tensors, file = saved.values, saved.tensors, saved.config_file
        calibration, image_range = (select_prefix(part, tensors) for part in ("calibration", "image_range"))
        adaptation = select_prefix("adaptation", tensors)
        with report_damage(file, ADVICE, passing="stpredict._checks"):
            return cls(
                members=tuple(
                    Member.from_state_dict(
                        select_prefix(str(i), tensors),
                        member,
                        target=values["target"],
                        genes=values["genes"],
                        path=file,
                    )
                    for i, member in enumerate(_saved_members(values))
                ),
                model=values["model"],
                train_mean=tensors["train_mean"].numpy(),
                ridge_color=tensors["ridge_color"].numpy(),
                history=saved.history,
                provenance=Provenance.from_json(values["provenance"]),
                calibration=Calibration.from_state_dict(calibration, values["calibration"]) if calibration else None,
                image_range=ImageRange.from_state_dict(image_range) if image_range else None,
                adaptation=Adaptation.from_state_dict(adaptation, values["adaptation"]) if adaptation else None,
                source=saved.source,
            )

    def to_json(self) -> dict[str, Any]:
        """Everything that is saved in ``config.json`` but versions and digests."""
        members = [member.to_json() for member in self.members]
        first = {**members[0], "model": self.model, "n_members": len(members)}
        return {
            # left out without a calibration or adaptation, so that predictors of older versions keep their hash
            **({} if self.calibration is None else {"calibration": self.calibration.to_json()}),
            **({} if self.adaptation is None else {"adaptation": dict(self.adaptation.record)}),
            "model": self.model,
            "model_config": first["model_config"],
            "patch": first["patch"],
            "target": self.target.to_dict(),
            "units": self.units,
            "genes": self.genes,
            "n_members": len(self.members),
            **({"members": members} if members != _saved_members(first) else {}),
            "provenance": self.provenance.to_json(),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved in ``weights.safetensors``, on the CPU, by name."""
        tensors = {
            "train_mean": torch.from_numpy(self.train_mean),
            "ridge_color": torch.from_numpy(self.ridge_color),
        }
        for i, member in enumerate(self.members):
            tensors |= add_prefix(str(i), member.state_dict())
        if self.calibration is not None:
            tensors |= add_prefix("calibration", self.calibration.state_dict())
        if self.image_range is not None:
            tensors |= add_prefix("image_range", self.image_range.state_dict())
        if self.adaptation is not None:
            tensors |= add_prefix("adaptation", self.adaptation.state_dict())
        return tensors

    def _summary(self) -> dict[str, str]:
        """The rows of the representations, by name."""
        trained = self.provenance.slides
        models = " + ".join(f"{weight:.2f} {name}" for name, weight in self.models.items())
        n_members, n_parameters = len(self.members), self.n_parameters
        size = f"{n_parameters // n_members:,} parameters" if n_parameters else "no gradient steps"
        if len(self.models) > 1:
            size = f"{models}; {n_members} members" + (f", {n_parameters:,} parameters" if n_parameters else "")
        elif n_members > 1:
            size = f"{n_members} x {size}" if n_parameters else f"{n_members} members, {size}"
        fields = [f"{', '.join(f'{side:.0f}' for side in p.fov_um)} µm, {p.size_px} px each" for p in self.patches]
        return {
            "model": f"{self.model} ({size})",
            "genes": f"{len(self.genes)} ({', '.join(self.genes[:4])}, …)",
            "units": self.units,
            "fields of view": "; ".join(fields),
            "trained on": f"{', '.join(trained)} ({sum(s['n_spots'] for s in trained.values())} spots)",
            "donors": self.provenance.donors_note,
            "validation": self.provenance.validation_note,
            "intervals": "not calibrated"
            if self.calibration is None
            else f"calibrated on {self.calibration.pooled.n} spots of {self.calibration.record['kind']}",
            **({} if self.adaptation is None else {"adapted to": self.adaptation.description}),
        }

    def __repr__(self) -> str:
        return "Predictor\n" + "\n".join(f"    {name}: {value}" for name, value in self._summary().items())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self._summary().items()
        )
        return f"<table><caption>stpredict Predictor</caption>{rows}</table>"


def _saved_members(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is saved of each member; only ensembles save it for each, other members are alike."""
    alike = {name: values[name] for name in ("model", "model_config", "patch")}
    n_members = values["n_members"]
    found: list[dict[str, Any]] = values.get("members", [{**alike, "weight": 1 / n_members}] * n_members)
    return found


def _mean_over_members(values: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Mean of ``(n, g)`` arrays, in double precision."""
    mean: NDArray[np.float64] = np.mean(values, axis=0, dtype=np.float64)
    return mean
