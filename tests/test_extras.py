"""Pages whose code needs an extra name it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
NEEDS = {
    "cluster": r"from distributed|dask_jobqueue|client=",
    "encoders": r'"hub"|"timm"|"resnet\d|"uni2-h"',
    "io": r"read_wsi|read_visium|read_xenium|\.svs|\.tiff?\b",
}
"""What code that needs an extra contains."""
PAGES = [page for folder in ("howto", "concepts", "domains", "models", ".")
         for page in sorted((REPOSITORY / "docs" / folder).glob("*.md"))]  # fmt: skip
BLOCK = re.compile(r"```(?:python|text)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("extra", NEEDS)
def test_pages_name_the_extra_that_they_need(extra):
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    users = [page for page, text in texts.items() if re.search(NEEDS[extra], "\n".join(BLOCK.findall(text)))]
    assert users
    assert [page.name for page in users if not re.search(rf"`{extra}`|\[(\w+,)*{extra}", texts[page])] == []


def test_pages_name_extras_that_exist():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = [*PAGES, REPOSITORY / "README.md", *sorted((REPOSITORY / "src").rglob("*.py"))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = {extra for found in re.findall(r"stpredict-histology\[([\w,]+)\]", text) for extra in found.split(",")}
    assert {"io", "all"} <= named <= set(project["optional-dependencies"])
