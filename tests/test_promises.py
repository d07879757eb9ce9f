"""Every promise of the documentation names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_every_promise_is_backed():
    page = (REPOSITORY / "docs/concepts/promises.md").read_text(encoding="utf-8")
    promises = [part for part in re.split(r"\n(?=- |\n)", page) if part.startswith("- ")]
    assert len(promises) > 12
    for promise in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert named, promise
        for file, name in named:
            tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, name)
