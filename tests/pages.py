"""Code blocks of the docs, each of which runs where the extras that the page has named above it are installed."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""What runs; blocks that need an account or other hardware are written ```{code-block} python."""
EXTRAS = re.compile(r"stpredict-histology\[([\w,]+)\]")
PAGES = {
    "README": DOCS.parent / "README.md",
    **{page.relative_to(DOCS).with_suffix("").as_posix(): page for page in sorted(DOCS.rglob("*.md"))},
}


def with_code() -> dict[str, str]:
    """The text of every page that has code which runs."""
    texts = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items()}
    return {name: text for name, text in texts.items() if BLOCK.search(text)}


def needs(text: str) -> set[str]:
    """The extras that a text asks for; `all` is an offer."""
    return {extra for found in EXTRAS.findall(text) for extra in found.split(",")} - {"all"}


def installed(extra: str) -> bool:
    """Whether all packages of an extra are there."""
    asked = [Requirement(each) for each in metadata.requires("stpredict-histology") or ()]
    packages = [each.name for each in asked if each.marker and each.marker.evaluate({"extra": extra})]
    assert packages, extra
    try:
        return all(metadata.version(package) for package in packages)
    except metadata.PackageNotFoundError:
        return False


def blocks(name: str) -> Iterator[CodeType]:
    """The code of a page; skips the rest of the test where an extra that is named above a block is not installed."""
    text = with_code()[name]
    for block in BLOCK.finditer(text):
        if missing := sorted(extra for extra in needs(text[: block.start()]) if not installed(extra)):
            pytest.skip(f"the next block needs the extras {missing}")
        yield compile(block[1], PAGES[name].name, "exec")


def run(name: str, **names: object) -> SimpleNamespace:
    """Run all blocks of a page one after another; what they define."""
    for block in blocks(name):
        exec(block, names)
    return SimpleNamespace(**names)
