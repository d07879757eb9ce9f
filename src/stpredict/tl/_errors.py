"""Errors and warnings about embeddings, spots and genes, and about comparing predictions with measurements."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

from .._checks.names import did_you_mean
from .._checks.slides import quote
from .._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


def is_predictor(value: object, call: str) -> None:
    """Refuse anything but a predictor as first argument of a ``call``."""
    if not hasattr(value, "members"):
        msg = (
            f"`predictor` is a {type(value).__name__}; give what `stp.tl.fit` returned, or read one with "
            f"`stp.tl.Predictor.load(path)`. The order is `{call}`."
        )
        raise TypeError(msg)


def has_prediction(name: str, tables: Sequence[str], layers: Sequence[str]) -> None:
    """Refuse a prediction that does not exist."""
    if name not in layers:
        msg = (
            f"No prediction {name!r}: no such table (found: {quote(tables)}) and no such layer (found: "
            f"{quote(layers)}).{did_you_mean(name, [*tables, *layers])} Create it with "
            f"`stp.tl.predict(sdata, predictor, key_added={name!r})`."
        )
        raise ValueError(msg)


def is_prediction(name: str, table: AnnData) -> None:
    """Refuse a table that `predict` did not write."""
    if "target" not in table.uns.get(name, {}):
        msg = (
            f"{name!r} was not written by `stp.tl.predict`: `uns[{name!r}]` does not say how expression was "
            "normalised. Predict again, or name the right table with `predicted`."
        )
        raise ValueError(msg)


def name_is_free(argument: str, name: str, taken: Collection[str], function: str) -> None:
    """Refuse a name under which a table holds what a function did not write."""
    if taken:
        msg = (
            f"`{argument}` is {name!r}, and the table already holds {', '.join(taken)}, which `{function}` did not "
            "write and would replace. Give another name."
        )
        raise ValueError(msg)


def genes_to_score(n_genes: int, predicted: Sequence[str], measured: Sequence[str]) -> None:
    """Refuse predictions of genes of which none was measured."""
    if not n_genes:
        msg = (
            f"None of the {len(predicted)} predicted genes ({quote(predicted)}) is among the {len(measured)} measured "
            f"ones ({quote(measured)}). Use the same kind of names, or give the right table as `table_name`."
        )
        raise ValueError(msg)


def enough_pairs(n_spots: int) -> None:
    """Refuse to score fewer than three spots."""
    if n_spots < 3:
        msg = (
            f"No slide has more than {n_spots} spots with both counts and predictions; at least 3 are needed. They are "
            "matched by `obs_names`: were these changed after `stp.tl.predict`? Or give other elements as `shapes_key`."
        )
        raise ValueError(msg)


def enough_blocks(n: int, least: int, block_spots: float) -> None:
    """Refuse intervals from too few squares."""
    if n < least:
        msg = (
            f"`block_spots={block_spots:g}` cuts the slides into {n} squares, and an interval needs at least {least}. "
            "Give a smaller number, or slides with more spots; `stp.tl.evaluate` gives the scores without intervals."
        )
        raise ValueError(msg)


def unchanged(values: NDArray[np.float32], name: str, *, recorded: bool) -> None:
    """Refuse predictions below zero: `predict` writes none, so they were scaled or centred since (or are old)."""
    if recorded and (values < 0).any():
        msg = (
            f"{name!r} holds {int((values < 0).sum()):,} values below 0, which `stp.tl.predict` does not write: it was "
            "scaled or centred since. Predict again, and keep changed values in another layer."
        )
        raise ValueError(msg)


def whole_panel(missing: Sequence[str], n_genes: int, table_name: str, *, needed: bool) -> None:
    """Refuse a table without some of the predicted genes where library sizes are sums over these."""
    if needed and missing:
        msg = (
            f"Library sizes are sums over the {n_genes} predicted genes, and table {table_name!r} lacks {len(missing)} "
            f"of them ({quote(missing)}): values would be in other units. Give a table that holds them all, or train "
            "with the genes that it has."
        )
        raise ValueError(msg)


def has_score_columns(found: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse a table without the columns that a summary is computed from."""
    missing = [name for name in needed if name not in found]
    if missing:
        msg = (
            f"`scores` lacks the columns {quote(missing)} (found: {quote(found)}). Give all columns of what "
            "`stp.tl.evaluate` or `stp.tl.cross_validate` returned; rows may be left out."
        )
        raise ValueError(msg)


def seen_in_training(names: Sequence[str]) -> None:
    """Warn where slides are scored that the predictor was trained on."""
    if names:
        warn(
            f"The predictor was trained on {quote(names)}: these scores measure how well it remembers, not how well "
            "it predicts. Name the test slides with `shapes_key`."
        )


def not_cross_validated(name: str, *, ours: bool) -> None:
    """Refuse to score predictions of several predictors as those of one."""
    if ours:
        msg = (
            f"{name!r} was cross-validated: every fold has its own predictor and baselines. Its scores are what "
            "`stp.tl.cross_validate` returned."
        )
        raise ValueError(msg)


def embeddings_fit(model: str, options: Mapping[str, object], width: int | None, *, takes: bool) -> None:
    """Refuse embeddings for a model that takes none, and their absence for a model that needs them."""
    if width is not None and not takes:
        msg = (
            f"`features_key` was given, but {model!r} takes no embeddings: it reads patches. Leave it out, or take a "
            "model with an `encoder`, such as 'm2ost_encoder', 'encoder_ridge' or 'encoder_mlp'."
        )
        raise ValueError(msg)
    if width is None and options.get("encoder") == "given":
        msg = "`encoder='given'` needs embeddings in the table: name their `obsm` as `features_key`."
        raise ValueError(msg)
    if width is None:
        return
    if options.get("encoder", "given") != "given":
        msg = (
            f"`features_key` was given, and `encoder={options['encoder']!r}` too: features come from one of them. "
            "Leave one out."
        )
        raise ValueError(msg)
    if options.get("n_features") not in (None, 0, width):
        msg = (
            f"The embeddings have {width} features, {model!r} takes {options['n_features']}: they are of another "
            "encoder. Give those that it was trained with as `features_key`."
        )
        raise ValueError(msg)


def warn_random_encoder(names: Sequence[object]) -> None:
    """Warn that features are those of random weights."""
    warn(
        f"The image encoder {quote(names)} is frozen and its weights are random, so its features are of little use. "
        "Name weights (`weights='timm'`, or a file), or take `encoder='statistics'`."
    )


def panel_measured(missing: Sequence[str], n_genes: int, table_name: str) -> None:
    """Warn where predicted genes were not measured."""
    if missing:
        warn(
            f"Table {table_name!r} lacks {len(missing)} of the {n_genes} predicted genes ({quote(missing)}): these "
            "cannot be compared with measurements."
        )


def number_of_domains(n_domains: object, n_spots: int) -> None:
    """Refuse a number of domains that is not a whole number from 2 and below the number of spots."""
    whole = isinstance(n_domains, Integral) and not isinstance(n_domains, bool)
    if not whole or not 2 <= n_domains < n_spots:  # type: ignore[operator]
        msg = (
            f"`n_domains` is {n_domains!r}; it must be a whole number from 2 to {n_spots - 1} (there are {n_spots} "
            "spots). Call for instance `stp.tl.domains(sdata, 5, 'expression')`."
        )
        raise ValueError(msg)


def enough_spots_for_domains(n_spots: int, least: int) -> None:
    """Refuse to find domains among few spots."""
    if n_spots < least:
        msg = (
            f"There are {n_spots} spots, and domains need at least {least}. Give larger slides, or several of them as "
            "a list."
        )
        raise ValueError(msg)


def has_image_for(sdata: Any, methods: Sequence[str], others: Sequence[str]) -> None:
    """Refuse methods that need an image where there is none."""
    if not methods:
        return
    objects = sdata.values() if hasattr(sdata, "values") else sdata if isinstance(sdata, list | tuple) else [sdata]
    if any(not getattr(each, "images", True) for each in objects):
        msg = (
            f"{quote(methods)} need an image, and `sdata.images` is empty. Give `features_key`, take one of "
            f"{quote(others)} (the networks with `use_image=False`), or add the image, for instance with "
            "`stp.io.from_anndata`."
        )
        raise ValueError(msg)


def genes_of_slides(n_shared: int, n_each: Mapping[str, int]) -> None:
    """Refuse slides of which most genes are not shared."""
    least = min(n_each.values())
    if n_shared < least / 2 or n_shared < 2:
        msg = (
            f"The slides share {n_shared} genes, and have {', '.join(f'{n} ({name})' for name, n in n_each.items())}. "
            "Domains of several slides are found in the genes that all have: use one kind of names (symbols or Ensembl "
            "ids), or find domains slide by slide."
        )
        raise ValueError(msg)


def predicted_or_measured(predicted: Sequence[bool], names: Sequence[str]) -> None:
    """Refuse slides of which some are measured and some predicted."""
    if len(set(predicted)) > 1:
        which = [name for name, one in zip(names, predicted, strict=True) if one]
        msg = (
            f"Expression of {quote(which)} was predicted and that of the other slides measured: these are different "
            "units. Predict all of them and give `table_name='predicted'`."
        )
        raise ValueError(msg)


def finite_expression(values: NDArray[np.float32], genes: Sequence[str], slides: Sequence[str]) -> None:
    """Refuse predicted expression that is missing or negative."""
    missing, negative = int((values != values).sum()), int((values < 0).sum())
    if missing or negative:
        msg = (
            f"Predicted expression of {quote(slides)} holds {missing} missing and {negative} negative values among "
            f"{len(genes)} genes. `stp.tl.predict` writes neither: predict these slides again, or name those that were "
            "predicted with `shapes_key`."
        )
        raise ValueError(msg)


def variable_genes(n_genes: int) -> None:
    """Refuse to find domains in fewer than two genes."""
    if n_genes < 2:
        msg = (
            f"{n_genes} genes vary on all slides and have counts in at least 5 spots of each; at least 2 are needed. "
            "Give slides with more counts, or find domains slide by slide."
        )
        raise ValueError(msg)


def has_domains(key: str, holders: Sequence[str], tables: Sequence[str]) -> None:
    """Refuse a table without domains."""
    if not holders:
        msg = (
            f"No table holds domains in obs[{key!r}] (tables: {quote(tables)}). Find them with "
            f"`stp.tl.domains(sdata, 5, 'expression', key_added={key!r})`, or name the table and the key."
        )
        raise ValueError(msg)


def several_domains(n_domains: int, domain_key: str) -> None:
    """Refuse domains of which no slide has two."""
    if n_domains < 2:
        msg = (
            f"`domain_key` is {domain_key!r}, and no scored slide has two domains in this column. Name a column with "
            "domains, for instance what `stp.tl.domains` wrote."
        )
        raise ValueError(msg)


def some_pathway(n_usable: int, n_given: int, genes: Sequence[str], needed: int) -> None:
    """Refuse pathways of which none has enough predicted genes."""
    if not n_usable:
        msg = (
            f"None of the {n_given:,} `pathways` has {needed} of the {len(genes):,} predicted genes ({quote(genes)}). "
            "Give sets with the same kind of gene names, or predict more genes (`genes` of `stp.tl.fit`)."
        )
        raise ValueError(msg)


def own_column(key: str, tables: Sequence[tuple[str, AnnData]]) -> None:
    """Refuse to write domains over a column that they did not write."""
    for name, table in tables:
        record = table.uns.get(key)
        if key in table.obs and not (isinstance(record, Mapping) and "uses_labels" in record):
            msg = (
                f"obs[{key!r}] of table {name!r} was not written by `stp.tl.domains` and would be lost (columns: "
                f"{quote(list(table.obs))}). Give another `key_added`, or delete the column."
            )
            raise ValueError(msg)


def numbered_domains(numbers: NDArray[np.float64], column: pd.Series[Any], key: str) -> None:
    """Refuse names of domains other than those that `stp.tl.domains` gives."""
    if (~((numbers >= 1) & (numbers % 1 == 0)) & column.notna().to_numpy()).any():
        msg = (
            f"obs[{key!r}] of the reference holds {quote([str(name) for name in column.dropna().unique()])}, but "
            "`stp.tl.domains` writes numbers from 1. Give the key of domains that it found, as `key_added`."
        )
        raise ValueError(msg)


def some_domains(n_domains: int, key: str) -> None:
    """Refuse a reference whose predicted spots lie in fewer than two domains."""
    if n_domains < 2:
        msg = (
            f"The spots of the reference that have predicted expression lie in {n_domains} domains of obs[{key!r}], "
            "and at least 2 are needed; spots are matched by `obs_names`. Predict the slides in which the domains were "
            "found, with `stp.tl.predict`."
        )
        raise ValueError(msg)


def varying_image(image: NDArray[np.float32], source: str) -> None:
    """Refuse image features that are the same for all spots of each slide."""
    if not image.any():
        msg = (
            f"Image features ({source}) are the same for all spots of each slide, so they hold no domains. Look at "
            "`stp.pl.patches(sdata)`, give another `features_key`, or take a method without image, for instance "
            "`stp.tl.domains(sdata, 5, 'expression')`."
        )
        raise ValueError(msg)


def transferred(method: object, options: object) -> None:
    """Refuse a method where domains are those of a reference."""
    if method is not None or options is not None:
        msg = (
            f"`method` is {method!r} and `options` {options!r}, but `transfer_from` takes the domains that the "
            "reference has. Leave both out: `stp.tl.domains(sdata, transfer_from=reference)`."
        )
        raise ValueError(msg)


def same_predictor(
    new: Mapping[str, Any] | None, old: Mapping[str, Any] | None, genes: Sequence[str], old_genes: Sequence[str]
) -> None:
    """Refuse to transfer domains between expression that is measured, or that two predictors predicted."""
    if new is None or old is None:
        which = "`sdata`" if new is None else "`transfer_from`"
        msg = (
            f"The table of {which} holds no prediction, and domains are transferred by predicted expression. Predict "
            "both objects with `stp.tl.predict(sdata, predictor)` and name the table as `table_name`."
        )
        raise ValueError(msg)
    one, other = (str(record.get("model", {}).get("hash", "")) for record in (new, old))
    if one != other or list(genes) != list(old_genes):
        what = f"by predictors {other[:12]} and {one[:12]}" if one != other else "for different genes"
        msg = (
            f"The reference and the new slides were predicted {what}, so their values cannot be compared."
            " Predict both with the same predictor: `stp.tl.predict(sdata, predictor)`."
        )
        raise ValueError(msg)


def table_of_its_own(store: object, layer: str | None, *, of_anndata: bool) -> None:
    """Refuse a store for predictions that are written into a table that exists."""
    if store is None or (layer is None and not of_anndata):
        return
    if of_anndata:
        msg = (
            "`store` is for a table of its own, but an AnnData was given, into which predictions are written as a "
            "layer. Leave `store` out, or predict `sdata = stp.io.from_anndata(adata)`."
        )
    else:
        msg = f"`store` is for a table of its own, but `layer` is {layer!r}. Give one of the two."
    raise ValueError(msg)


def states_licence(cohort: Mapping[str, str] | None) -> None:
    """Refuse to publish what was trained on data without a stated licence."""
    if not (cohort or {}).get("licence"):
        msg = (
            "The licence of the data that this predictor was trained on is not stated, so it is not published. Read it "
            "where the data are, and record it: `stp.tl.describe(predictor, cohort)`, for instance with "
            "`stp.datasets.Cohort(licence='CC-BY-4.0')`."
        )
        raise ValueError(msg)


def cross_validated_scores(columns: Sequence[object]) -> None:
    """Refuse scores that are not one row per model, group and metric."""
    if missing := [name for name in ("model", "group", "metric", "value") if name not in columns]:
        msg = (
            f"`scores` has no column {quote(missing)} (found: {quote(columns)}). Give what `stp.tl.cross_validate` "
            "returned."
        )
        raise ValueError(msg)


def scores_of_predictor(model: str, models: Sequence[str], others: Collection[str]) -> None:
    """Refuse scores of another model, or of groups that the predictor was not trained on."""
    if model not in models:
        msg = (
            f"`scores` are of {quote(models)}, and the predictor is {model!r}. Give what "
            f"`stp.tl.cross_validate(sdata, {model!r})` returned."
        )
        raise ValueError(msg)
    if others:
        msg = (
            f"`scores` are also of groups that the predictor was not trained on ({quote(sorted(others))}). Give the "
            "same slides, and the same `group_key`, to `stp.tl.cross_validate` and `stp.tl.fit`."
        )
        raise ValueError(msg)
