"""What every tutorial begins with: its subject, a badge for Colab, the installation there, and its settings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "tutorials").glob("*.ipynb"))
COLAB = "](https://colab.research.google.com/github/stpredict/stpredict/blob/main/tutorials/{})"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_beginning(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title, install, settings = ("".join(cell["source"]) for cell in cells[:3])
    assert re.match(r"# \w", title)
    assert COLAB.format(path.name) in title
    assert COLAB.format(path.name) in (REPOSITORY / "docs" / "tutorials.md").read_text(encoding="utf-8")
    assert '%pip install -q "stpredict-histology[all]"' in install
    assert cells[1]["metadata"]["tags"] == ["remove-cell"]
    assert len(re.findall(r"^fast = False\b", settings, re.MULTILINE)) == 1  # `run.py --fast` sets it
