"""What is stored beside predictions: where they come from, the baselines, and names that belong to one prediction.

A table or layer may hold predictions by several predictors, slide by slide. ``uns[key]`` then describes the latest, and
``uns[key]["parts"]`` each of them, by the ids in the column ``prediction_id`` of ``obs``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ... import _keys as keys
from ..._checks.training import warn
from ..._slides.identity import SlideIdentity
from ...pp.columns import to_dense
from .._predictor.provenance import counts_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from ..._slides.embeddings import EmbeddingRecord
    from ...pp.targets import TargetSpec
    from .._options import PredictOptions
    from .._predictor.predictor import Predictor

PARTS, PREDICTION_ID, SAMPLE = "parts", "prediction_id", "sample"
N_SAMPLED = 16
"""Spots, and genes, of the values that are recorded to notice a change."""


def prediction_record(
    predictor: Predictor, options: PredictOptions, features: Sequence[EmbeddingRecord] = ()
) -> dict[str, Any]:
    """Units, target, parameters, model and ``features`` that were given with the spots of a prediction, for ``uns``."""
    calibration = predictor.calibration
    intervals: dict[str, Any] = {}
    if options.uncertainty is not None and calibration is not None:
        intervals = {
            "uncertainty": options.uncertainty,
            "coverage": options.coverage,
            "calibrated_on": calibration.record["kind"],
            "n_calibration": calibration.pooled.n,
        }
    slides, adaptation = predictor.provenance.slides, predictor.adaptation
    seen = {name: slide.get("identity", "") for name, slide in slides.items()}
    if adaptation is not None and "identity" in adaptation.record:
        seen[adaptation.description] = adaptation.record["identity"]
    counts = counts_record(predictor.provenance)
    return {
        "units": predictor.units,
        "target": target_record(predictor.target),
        **({} if counts is None else {"counts": counts.to_json()}),
        "params": {
            "n_views": options.n_views,
            "stain": options.stain or _own_stain(predictor),
            "fov_um": list(predictor.patch.fov_um),
            "size_px": predictor.patch.size_px,
            **intervals,
        },
        **({keys.MEMBERS: list(predictor.models)} if options.members else {}),
        **({"features": [record.description for record in features]} if features else {}),
        "model": {
            "name": predictor.model,
            "hash": predictor.hash,
            **({"source": predictor.source} if predictor.source else {}),
            "trained_on": list(seen),
            "identities": list(seen.values()),
            "groups": sorted({s["group"] for s in slides.values()}),
            "group_key": predictor.provenance.group_key or "",
        },
    }


def target_record(target: TargetSpec) -> dict[str, Any]:
    """How expression was normalised, for ``uns``."""
    return {"target_sum": target.target_sum, "over": target.over, "log1p": target.log1p}


def same_target(record: Mapping[str, Any], target: TargetSpec) -> bool:
    """Whether what is stored under a record was normalised in this way."""
    wanted = target_record(target)
    return {name: record[keys.TARGET].get(name) for name in wanted} == wanted


def _own_stain(predictor: Predictor) -> str:
    """Which models take patches in the stain of training, where nothing else was asked for."""
    models = dict.fromkeys(member.model for member in predictor.members if member.normalizes_stain)
    return f"reinhard for {', '.join(models)}" if models else "as scanned"


def companion(name: str, layer: str | None) -> str:
    """Name of what is stored beside a layer; beside a table of its own, or X, it is the name itself."""
    return name if layer is None or layer == "X" else f"{layer}_{name}"


def interval_layers(layer: str | None) -> dict[str, str]:
    """Names of the layers with the bounds of the intervals, of a layer or of a table of its own."""
    own = layer is None or layer == "X"
    return {kind: kind if own else kind.replace(keys.PREDICTED, str(layer), 1) for kind in (keys.LOWER, keys.UPPER)}


def nominal_coverage(record: Mapping[str, Any]) -> float | None:
    """Nominal coverage of the intervals of a prediction; None without intervals, or if its parts differ."""
    params = [part["params"] for part in (record.get(PARTS) or {"": record}).values() if "params" in part]
    nominal = {each.get("coverage") for each in params}
    return float(nominal.pop()) if len(nominal) == 1 and None not in nominal else None


def matrix_layers(models: Iterable[str], layer: str | None) -> dict[str, str]:
    """Names of the layers with the bounds of the intervals, and with the predictions of models of an ensemble."""
    names = {model: model.replace("/", "_") for model in models}
    own = layer is None or layer == "X"
    return interval_layers(layer) | {model: name if own else f"{layer}_{name}" for model, name in names.items()}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """The spots of one prediction, with its baselines and the slides it was trained on."""

    rows: NDArray[np.bool_]
    """``(n,)`` rows of the table."""
    train_mean: NDArray[np.float32]
    """``(n_vars,)`` mean over the training spots; NaN for genes outside the panel."""
    ridge_color: NDArray[np.float32]
    """``(n_vars, d + 1)`` ridge regression on colour, the intercept last."""
    trained_on: dict[str, SlideIdentity | None]
    """Training slides by name; None where the predictor did not record what they are recognised by."""
    sample: Mapping[str, Any] | None
    """What `value_sample` recorded; None in predictions of versions that recorded nothing."""
    donors: frozenset[str]
    """Groups of the training slides."""
    group_key: str
    """Column of ``obs`` that named them; empty where none did."""


def prediction_parts(source: AnnData, key: str) -> list[Part]:
    """The predictions that a table or layer holds."""
    layer = key if key in source.layers else None
    record = source.uns[key]
    baselines = {
        keys.TRAIN_MEAN: stored_companion(source.var, keys.TRAIN_MEAN, layer),
        keys.RIDGE_COLOR: stored_companion(source.varm, keys.RIDGE_COLOR, layer),
    }
    parts = record.get(PARTS)
    if not parts:
        return [_part(np.ones(source.n_obs, bool), {**record, **baselines}, np.arange(source.n_vars))]
    ids = source.obs[companion(PREDICTION_ID, layer)].astype(str).to_numpy()
    columns = {name: pd.Index(part[keys.GENES]).get_indexer(source.var_names) for name, part in parts.items()}
    return [_part(ids == name, part, columns[name]) for name, part in parts.items()]


def _part(rows: NDArray[np.bool_], record: Mapping[str, Any], columns: NDArray[np.intp]) -> Part:
    model = record["model"]
    names = [str(name) for name in model["trained_on"]]
    identities = [str(text) for text in model.get("identities", [""] * len(names))]
    return Part(
        rows=rows,
        train_mean=np.asarray(record[keys.TRAIN_MEAN], np.float32)[columns],
        ridge_color=np.asarray(record[keys.RIDGE_COLOR], np.float32)[columns],
        trained_on={
            name: SlideIdentity.from_json(text) if text else None for name, text in zip(names, identities, strict=True)
        },
        sample=record.get(SAMPLE),
        donors=frozenset(map(str, model.get("groups", []))),
        group_key=str(model.get("group_key", "")),
    )


def value_sample(
    names: NDArray[Any], genes: Sequence[str], matrix: Any, rows: NDArray[np.intp] | None = None
) -> dict[str, Any]:
    """Some values of a prediction, by spot and gene, evenly spaced; ``rows`` is the place of each among all spots."""
    chosen = np.unique(np.linspace(0, len(names) - 1, N_SAMPLED).astype(np.intp))
    chosen = chosen if rows is None else np.argsort(rows)[chosen]
    values = to_dense(matrix[chosen][:, :N_SAMPLED])
    return {"spots": names[chosen].tolist(), keys.GENES: list(genes[:N_SAMPLED]), "values": values.tolist()}


def warn_changed(part: Part, source: AnnData, genes: Sequence[str], values: NDArray[np.float32], name: str) -> None:
    """Warn if predictions ``(n_obs, len(genes))`` were scaled, log-transformed or smoothed since they were written."""
    if part.sample is None:
        return
    spots, sampled = (pd.Index([str(each) for each in part.sample[key]]) for key in ("spots", keys.GENES))
    rows, columns = source.obs_names.astype(str).get_indexer(spots), pd.Index(genes).get_indexer(sampled)
    wrote = np.asarray(part.sample["values"], np.float32).reshape(len(spots), len(sampled))
    found = values[np.ix_(rows, columns)]
    is_same = np.isclose(found, wrote, rtol=1e-3, atol=1e-3, equal_nan=True)
    is_same[(rows < 0) | ~part.rows[rows]] = True
    is_same[:, columns < 0] = True
    for i, j in np.argwhere(~is_same)[:1]:
        warn(
            f"{name!r} was changed since it was predicted ({found[i, j]:.4g} in place of {wrote[i, j]:.4g} for gene "
            f"{sampled[j]!r} of spot {spots[i]!r}): these scores are of the changed values. If that is not meant, call "
            "`stp.tl.predict` again."
        )


def stored_companion(values: Any, name: str, layer: str | None) -> Any:
    """What is stored under a name beside a layer, or as earlier versions named it; None where there is nothing."""
    return values.get(companion(name, layer), values.get(name))


def prediction_id(record: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that identify the predictor and the parameters of a prediction."""
    params = {name: np.asarray(value).tolist() for name, value in record["params"].items()}
    values = json.dumps([str(record["model"]["hash"]), params], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def merged_parts(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a table that holds two predictions: the new record, and both as parts; each has its baselines."""
    parts = dict(old.get(PARTS) or {prediction_id(old): _as_part(old)})
    parts[prediction_id(new)] = _as_part(new)
    return parts


def _as_part(record: Mapping[str, Any]) -> dict[str, Any]:
    names = ("params", "model", keys.GENES, keys.TRAIN_MEAN, keys.RIDGE_COLOR, keys.NOISE, SAMPLE)
    return {name: record[name] for name in names if name in record}


def with_baselines(record: Mapping[str, Any], table: AnnData, layer: str | None) -> dict[str, Any]:
    """A record with the baselines and the noise that are stored beside it, and the genes that they are of."""
    found = {
        keys.GENES: table.var_names.tolist(),
        keys.TRAIN_MEAN: np.asarray(stored_companion(table.var, keys.TRAIN_MEAN, layer), np.float32),
        keys.RIDGE_COLOR: np.asarray(stored_companion(table.varm, keys.RIDGE_COLOR, layer), np.float32),
    }
    if layer is None and keys.NOISE in table.var:
        found[keys.NOISE] = np.asarray(table.var[keys.NOISE], np.float32)
    return {**record, **found}


def takes_more_slides(table: AnnData, key: str, layer: str | None) -> bool:
    """Whether slides can be added to a prediction; not to superpixels or to a cross-validated layer."""
    record = table.uns.get(key, {})
    has_baselines = stored_companion(table.var, keys.TRAIN_MEAN, layer) is not None
    return keys.TARGET in record and keys.FOLDS not in record and has_baselines
