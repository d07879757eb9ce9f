"""Pages whose code needs an extra name it, and CI runs that code with just this extra."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

HERE = Path(__file__).parent
pages = SimpleNamespace(**runpy.run_path(str(HERE / "pages.py")))
REPOSITORY = Path(__file__).parents[1]
NEEDS = {
    "cluster": r"from distributed|dask_jobqueue|client=",
    "encoders": r'"hub"|"timm"|"resnet\d|"triplex"|"uni2-h"',
    "io": r"read_wsi|read_visium|read_xenium|\.svs|\.tiff?\b",
}
"""What code that needs an extra contains."""
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("extra", NEEDS)
def test_pages_name_the_extra_that_they_need(extra):
    texts = pages.with_code()
    users = [page for page, text in texts.items() if re.search(NEEDS[extra], "\n".join(pages.BLOCK.findall(text)))]
    assert users
    assert [page for page in users if extra not in pages.needs(texts[page])] == []


def test_pages_name_extras_that_exist():
    files = [*pages.PAGES.values(), *sorted((REPOSITORY / "src").rglob("*.py"))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = {extra for found in re.findall(r"stpredict-histology\[([\w,]+)\]", text) for extra in found.split(",")}
    assert {"io", "all"} <= named <= EXTRAS


def test_ci_runs_pages_with_just_the_extras_that_they_name():
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/test.yaml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["pages"]
    installed = {frozenset(re.findall(r"\w+", each)) for each in job["strategy"]["matrix"]["install"]}
    assert installed >= {frozenset(), *(frozenset([extra]) for extra in EXTRAS - {"all"})}
    for page, text in pages.with_code().items():
        *_, last = pages.BLOCK.finditer(text)
        assert frozenset(pages.needs(text[: last.start()])) in installed, page
    command = job["steps"][-1]["run"]
    assert "not slow" not in command
    assert all(file in command for file in ("tests/test_pages.py", "tests/io/test_howto.py", "tests/test_extending.py"))
