"""The drawings of the layers in the documentation are those of the import contracts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
LAYERS = {each["containers"][0]: each["layers"] for each in SETTINGS["contracts"] if each["type"] == "layers"}


def drawing(start: str) -> list[str]:
    """The names in the first text block after some words of the page, line by line."""
    page = (REPOSITORY / "docs" / "contributing.md").read_text(encoding="utf-8")
    block = re.search(r"```text\n(.*?)```", page[page.index(start) :], re.DOTALL)
    assert block is not None
    return [re.split(r"\s{2,}", line)[0] for line in block[1].splitlines()]


@pytest.mark.parametrize(
    ("container", "start"), [("stpredict", "layers start here"), ("stpredict.tl", "`tl` has one file")]
)
def test_the_drawing_is_the_contract(container, start):
    expected = [layer for layer in LAYERS[container] if not {"_errors", "_options"} & set(layer.split(" | "))]
    assert drawing(start) == expected


def test_the_design_shows_the_same_drawing():
    page = (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")
    assert "```{include} contributing.md\n:start-after: <!-- layers start here -->" in page
