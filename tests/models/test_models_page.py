"""The page about the models: its table is what the package says, and every model has its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stpredict import models
from stpredict.models._variants import VARIANTS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "models.md").read_text(encoding="utf-8")
HEAD = "| model | context | patches | parameters | multiplications | published |\n|---|---|--:|--:|--:|---|\n"


def table():
    """What stands between the two marks of the page; copy it there when a model is new."""
    known = models.available().loc[list(VARIANTS)]
    return HEAD + "".join(
        f"| `{name}` | {row.context} | {row.n_scales} × {row.size_px} px | {row.parameters / 1e6:.2f} M "
        f"| {row.macs / 1e6:,.0f} M | {row.citation if row.citation != 'stpredict' else ''} |\n"
        for name, row in known.iterrows()
    )


def test_table_is_what_the_package_says():
    pytest.importorskip("timm")
    shown = re.search(r"<!-- table -->\n(.*)<!-- end of table -->", PAGE, flags=re.DOTALL)[1]
    assert shown.strip() == table().strip()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_model_has_its_place_on_the_page(name):
    assert f"`{name}`" in PAGE.split("<!-- end of table -->")[1] or f'"{name}"' in PAGE


@pytest.mark.parametrize("module", sorted({variant.module for variant in VARIANTS.values()}))
def test_every_file_of_a_model_is_named(module):
    assert f"`{module}.py`" in PAGE


def test_what_is_cited_is_known():
    known = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(encoding="utf-8"), flags=re.MULTILINE))
    cited = {key for keys in re.findall(r"\{cite:[pt]\}`([^`]+)`", PAGE) for key in keys.split(",")}
    assert cited <= known
