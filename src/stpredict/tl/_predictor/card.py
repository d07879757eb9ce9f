"""The model card of a predictor: a README of its own, and what the Hugging Face hub reads of it."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from .provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

ROWS = {"model": "this predictor", "ridge_color": "ridge regression on colour", "mean_profile": "mean of training"}
SCORES = {
    "gene_pearson": "correlation per gene",
    "best50": "best 50 genes",
    "spot_pearson": "correlation per spot",
    "rmse": "RMSE",
}
PLATFORMS = {
    "st": "Spatial Transcriptomics (legacy)",
    "visium": "Visium",
    "visium_hd": "Visium HD",
    "xenium": "Xenium",
}
"""Platforms as people write them."""
CITE = (
    "The stpredict developers. stpredict: spatial gene expression from H&E images. "
    "https://github.com/stpredict/stpredict"
)


def model_card(config: Mapping[str, Any], *, has_range: bool) -> str:
    """The card of a saved predictor; ``has_range`` says whether it can tell patches that are unlike its training."""
    provenance = config["provenance"]
    cohort = provenance.get("cohort") or {}
    about = ", ".join(_text(cohort[name]) for name in ("tissue", "organ", "species") if cohort.get(name))
    genes = _text(", ".join(config["genes"][:20])) + (", …" if len(config["genes"]) > 20 else "")
    return f"""{_header(cohort)}
# {_text(config["model"])}: gene expression from H&E

Predicts {len(config["genes"])} genes ({genes}) in **{config["units"]}** from patches of
{", ".join(f"{side:.0f}" for side in config["patch"]["fov_um"])} µm ({config["patch"]["size_px"]} px each).
Trained with stpredict {config["stpredict"]}; {config["n_members"]} network(s).{_ensemble(config)}

    import stpredict as stp
    stp.tl.predict(sdata, stp.tl.Predictor.load("this folder"))

Not for diagnosis. Compare its predictions with measured tissue of your own before you rely on them.

## Trained on

- Tissue: {about or "not stated"}
- Platform: {_text(PLATFORMS.get(cohort.get("platform", ""), cohort.get("platform") or "not stated"))}
- Donors trained on: {_text(Provenance.from_json(provenance).donors_note)}.
- Validation: {_text(provenance.get("validation_note", "none"))}.{_adapted_to(config)}

| slide | group | spots | µm per pixel |
|---|---|---|---|
{_slides(provenance)}

## How good it is

{_scores(provenance.get("held_out"))}

## Slides unlike its training

{_out_of_range(provenance, has_range=has_range)}

## Licence and citation

- Licence of the data: {_text(cohort.get("licence") or "not stated")}{_source(cohort)}
- Data: {_text(cohort.get("citation") or "not stated")}{f" ({_text(cohort['url'])})" if cohort.get("url") else ""}
- Software: {CITE}
- Cite the data and the software, and the publication of the model, which the documentation of stpredict names.
"""


def _header(cohort: Mapping[str, str]) -> str:
    """The YAML that the Hugging Face hub reads."""
    tags = ["stpredict", "spatial-transcriptomics", "histology", "gene-expression", "digital-pathology"]
    tags += [cohort[name] for name in ("organ", "species") if cohort.get(name)]
    licence = cohort.get("licence", "").lower()
    lines = [
        "---",
        "library_name: stpredict",
        *([f"license: {_quoted(licence)}"] if licence else []),
        "pipeline_tag: other",
        "tags:",
        *(f"- {_quoted(tag)}" for tag in tags),
        "---",
    ]
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """A JSON string, which YAML reads as the same text, without HTML."""
    return json.dumps(value).replace("<", "\\u003c")


def _slides(provenance: Mapping[str, Any]) -> str:
    slides = provenance.get("slides", {})
    return "\n".join(
        f"| {_text(name)} | {_text(s['group'])} | {s['n_spots']} | {s['um_per_px']:.3f} |" for name, s in slides.items()
    )


def _scores(held_out: Mapping[str, Any] | None) -> str:
    """Scores on donors that were left out, beside baselines and ceiling."""
    if not held_out:
        return (
            "Not measured on donors that were left out. `stp.tl.cross_validate` measures it, and `stp.tl.describe` "
            "writes it into this card."
        )
    ceiling = held_out.get("ceiling")
    what = (
        f"Cross-validation: each {_text(held_out['unit'])} of {held_out['n_units']} was predicted by a model that was "
        "trained without it, and scores are means over them. This predictor was then trained on all. "
    )
    leak = "**A group was on both sides of a fold, so these scores are too high.** " if held_out["leaks"] else ""
    limit = "The noise ceiling, the correlation per gene that a perfect model would reach, " + (
        f"is {ceiling:.3f}." if ceiling is not None else "could not be estimated."
    )
    rows = [f"| | {' | '.join(SCORES.values())} |", f"|---|{'---|' * len(SCORES)}"]
    rows += [
        f"| {label} | {' | '.join(_number(held_out['rows'][row].get(score)) for score in SCORES)} |"
        for row, label in ROWS.items()
        if row in held_out["rows"]
    ]
    return "\n".join([f"{what}{leak}{limit}", "", *rows])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _out_of_range(provenance: Mapping[str, Any], *, has_range: bool) -> str:
    """What it was trained on in pixels, and how spots outside of that are marked."""
    um_per_px = [slide["um_per_px"] for slide in provenance.get("slides", {}).values()]
    sides = list(dict.fromkeys(f"{side:.3g}" for side in (min(um_per_px), max(um_per_px)))) if um_per_px else []
    seen = f" Its slides have {' to '.join(sides)} µm per pixel." if sides else ""
    if not has_range:
        return f"It was trained by an early version, and cannot tell patches that are unlike its training.{seen}"
    return (
        "`stp.tl.predict` writes how far the patch of each spot is from the training patches in colour and texture "
        '(`obs["image_distance"]`), and marks spots farther away than 99 % of the training spots if their slide is '
        'left out (`obs["unlike_training"]`). `stp.pl.expression` draws these grey. Do not interpret them; if most '
        f"spots of a slide are marked, do not use its prediction.{seen} A slide with another stain or resolution "
        "gives a warning."
    )


def _source(cohort: Mapping[str, str]) -> str:
    return f" ({_text(cohort['licence_source'])})" if cohort.get("licence_source") else ""


def _text(value: object) -> str:
    """Text for the card: Markdown is shown as HTML, and a cell of a table is one line."""
    return " ".join(escape(str(value), quote=False).replace("|", "\\|").split())


def _adapted_to(config: Mapping[str, Any]) -> str:
    """The sentence of the card on the slide that a predictor was adapted to; empty for a predictor as trained."""
    record = config.get("adaptation")
    return (
        f" Adapted to {record['n_measured']} measured spots of {_text(record['slide'])}, for that slide only."
        if record
        else ""
    )


def _ensemble(config: Mapping[str, Any]) -> str:
    """The models of an ensemble and their weights; empty for a single model."""
    ensemble = config["provenance"].get("ensemble")
    if ensemble is None:
        return ""
    models = ", ".join(f"{each['weight']:.3g} {_text(name)}" for name, each in ensemble["models"].items())
    origin = {
        "registered": "weights of the registered ensemble",
        "given": "given weights",
        "equal": "equal weights",
        "stacked": f"weights by stacking on held-out {(ensemble['stacked'] or {}).get('held_out')}",
    }[ensemble["weights_from"]]
    return f"\nWeighted mean of {models} ({origin})."
