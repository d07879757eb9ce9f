"""The pages about the models: their table is what the package says, and every model has its place."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from stpredict import models
from stpredict.models._variants import ENSEMBLES, VARIANTS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((DOCS / "models").glob("*.md"))}
ZOO = Path(__file__).parents[2] / "benchmarks" / "zoo"
TEXT = "\n".join(PAGES[name] for name in PAGES if name != "index")
HEAD = "| model | context | patches (px) | parameters (M) | MACs (M) | published |\n|---|---|--:|--:|--:|---|\n"


def table():
    """What stands between the two marks of the index; copy it there when a model is new."""
    known = models.available().loc[[*VARIANTS, *ENSEMBLES]]
    members = {name: "" if name in VARIANTS else f": {row.members}" for name, row in known.iterrows()}
    return HEAD + "".join(
        f"| `{name}`{members[name]} | {row.context} | {row.n_scales} × {row.size_px} "
        f"| {row.parameters / 1e6:.2f} | {row.macs / 1e6:,.0f} "
        f"| {short(row.citation)} |\n"
        for name, row in known.iterrows()
    )


def short(citation):
    """Authors, venue and year; the page of a model has the rest."""
    return "; ".join(", ".join(each.split(", ")[:2]) for each in citation.replace("stpredict", "").split("; "))


def test_table_is_what_the_package_says():
    pytest.importorskip("timm")
    shown = re.search(r"<!-- table -->\n(.*)<!-- end of table -->", PAGES["index"], flags=re.DOTALL)[1]
    assert shown.strip() == table().strip()


def test_every_model_has_its_place_on_a_page():
    assert not [name for name in (*VARIANTS, *ENSEMBLES) if f"`{name}`" not in TEXT and f'"{name}"' not in TEXT]


def test_every_file_of_a_model_is_named():
    assert not [variant.module for variant in VARIANTS.values() if f"`{variant.module}.py`" not in TEXT]


def test_what_is_cited_is_known():
    known = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(encoding="utf-8"), flags=re.MULTILINE))
    cited = {key for keys in re.findall(r"\{cite:[pt]\}`([^`]+)`", TEXT + PAGES["index"]) for key in keys.split(",")}
    assert cited <= known


def test_every_page_is_in_the_index():
    listed = re.search(r"```\{toctree\}\n(?::.*\n)*\n(.*?)```", PAGES["index"], flags=re.DOTALL)[1].split()
    assert set(listed) == set(PAGES) - {"index"}


def test_every_drawing_is_there_and_shown():
    shown = set(re.findall(r"```\{figure\} (\S+)", TEXT))
    assert shown == {drawing.name for drawing in (DOCS / "models").glob("*.svg")}


def test_every_page_says_what_a_user_asks():
    headings = ("## In symbols", "## Training", "## When to take it", "## How to call it", "## What it costs")
    for name, page in PAGES.items():
        if name != "index":
            assert not [heading for heading in headings if f"\n{heading}\n" not in page], name
            assert "](../results.md)" in page, name


def test_what_was_measured_is_on_the_pages():
    """`python benchmarks/zoo/pages.py` writes it there."""
    spec = spec_from_file_location("zoo_pages", ZOO / "pages.py")
    spec.loader.exec_module(zoo := module_from_spec(spec))
    tables = json.loads((ZOO / "zoo.json").read_text(encoding="utf-8"))
    assert set(zoo.LABELS) == set(PAGES) - {"index"}
    for name in zoo.LABELS:
        assert zoo.with_block(PAGES[name], tables, name) == PAGES[name]


def encoder_page():
    """The module that writes the table of encoders."""
    spec = spec_from_file_location("encoder_costs", DOCS / "howto" / "encoder_costs.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_encoders_is_what_the_package_says():
    pytest.importorskip("timm")
    script, known = encoder_page(), models.encoders()
    shown = script.MARKED.search(script.PAGE.read_text(encoding="utf-8"))[0].removeprefix(script.HEAD)
    lines = {re.match(r"\| `([^`]+)`", text)[1]: text for text in shown.splitlines(keepends=True)}
    assert set(lines) == set(known.index)
    costs = {}
    for key, text in lines.items():
        counted = text.split("|")[4].strip().replace(",", "")
        costs[key] = float(counted) if counted else None
        assert text == script.line(key, known.loc[key], costs[key])
    for key in ("kaiko-s16", "resnet50-hest"):
        assert costs[key] == round(script.gmacs(key))
