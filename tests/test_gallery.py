"""The gallery: every picture is there with its code, which names only what the package has. Nothing is drawn."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import stpredict as stp

DOCS = Path(__file__).parents[1] / "docs"


def script():
    """The module that draws the pictures."""
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "images" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = script()
BLOCKS = list(SCRIPT.blocks())
CODE = [code for _, code in BLOCKS]
IMAGES = [image for image, _ in BLOCKS if image]


def named(code):
    """Names like ``stp.pl.pca`` in the order of the code, and the calls that they begin."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("stp."):
            yield ast.unparse(node)


def test_every_picture_is_there_small_shown_and_has_code():
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert re.findall(r"\{figure\} (\S+)\n:alt: \S", page) == IMAGES
    assert sorted(IMAGES) == sorted(f"images/gallery/{path.name}" for path in (DOCS / "images/gallery").iterdir())
    for image in IMAGES:
        assert 0 < (DOCS / image).stat().st_size < SCRIPT.MOST_BYTES, image


def test_code_uses_public_names_and_known_arguments():
    for name in {name for code in CODE for name in named(code)}:
        _, module, *rest = name.split(".")
        assert module in stp.__all__, name
        assert not rest or rest[0] in getattr(stp, module).__all__, name
    for call in (node for code in CODE for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
        if ast.unparse(call.func).startswith("stp."):
            _, module, name = ast.unparse(call.func).split(".")
            known = inspect.signature(getattr(getattr(stp, module), name)).parameters
            assert {keyword.arg for keyword in call.keywords if keyword.arg} <= set(known), name


def test_every_plot_is_shown():
    shown = {name.split(".")[2] for code in CODE for name in named(code) if name.startswith("stp.pl.")}
    assert shown == set(stp.pl.__all__)
