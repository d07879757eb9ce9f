"""The committed pages of results are what the scripts write from the committed JSON."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def script(path):
    """A script of the benchmarks as a module."""
    spec = spec_from_file_location(f"page_of_{path.stem}", path)
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("writer", "function", "page"), [
    ("zoo/pages.py", "comparison", "zoo/zoo.md"), ("donors.py", "page", "donors.md"),
])  # fmt: skip
def test_page_is_what_the_script_writes(writer, function, page):
    results = json.loads((FOLDER / page).with_suffix(".json").read_text(encoding="utf-8"))
    written = getattr(script(FOLDER / writer), function)(results)
    assert written == (FOLDER / page).read_text(encoding="utf-8")
