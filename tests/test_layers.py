"""The drawings of the layers in the documentation are those of the import contracts."""

from __future__ import annotations

import ast
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


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def modules():
    for file in (REPOSITORY / "src").rglob("*.py"):
        yield from ((file, node) for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def is_set(node):
    """Whether an expression is a set, whose order differs between processes."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Sub | ast.BitXor):
        return is_set(node.left) or is_set(node.right)
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return isinstance(node, ast.Set | ast.SetComp) or (called and node.func.id in {"set", "frozenset"})


def test_no_result_has_the_order_of_a_set():
    """A dictionary or a list that is made of a set differs from process to process."""
    found = [
        f"{file.name}:{node.lineno}"
        for file, node in modules()
        if isinstance(node, ast.ListComp | ast.DictComp) and any(is_set(each.iter) for each in node.generators)
    ]
    assert found == []


def test_no_list_is_searched_once_for_each_of_its_elements():
    """Searching a list, or building a set, within a loop takes a time that is quadratic in genes, spots or slides."""
    few = {"shared.py": "scales", "_wsi_levels.py": "axes", "_alignment.py": "columns of a header"}
    found = set()
    for file, node in modules():
        inner = [*node.generators[0].ifs, getattr(node, "elt", None)] if isinstance(node, COMPREHENSIONS) else []
        for part in (each for one in inner if one is not None for each in ast.walk(one)):
            searches = isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute)
            builds = isinstance(part, ast.Compare) and any(is_set(each) for each in part.comparators)
            if (searches and part.func.attr in {"index", "count"}) or (
                builds and isinstance(part.comparators[0], ast.Call)
            ):
                found.add(file.name)
    assert found == set(few)


OPENERS = re.compile(
    r"\bnp\.(load|savez\w*)\(|\bsafe_open\(|\bload_file\(|\bpd\.read_csv\(|\bjson\.load\(|\bjson\.loads\((?!json\.dumps)"
    r"|\bshutil\.rmtree\(|\bos\.replace\("
)
OTHERS = {
    "datasets/_panels.py": "a file of the package",
    "_cli/_options.py": "an argument",
    "_slides/embeddings.py": "a field of a table",
    "models/encoder.py": "weights that the user names",
    "models/_encoder_weights.py": "weights that the user names",
}


def test_only_one_place_opens_files_of_our_own():
    """`io` reads files of others; everything else goes through the guarded readers and atomic writers of `_files`."""
    source = REPOSITORY / "src" / "stpredict"
    found = {
        path.relative_to(source).as_posix(): match[0]
        for path in source.rglob("*.py")
        if path.relative_to(source).parts[0] not in {"_files", "io"}
        and (match := OPENERS.search(path.read_text(encoding="utf-8")))
    }
    assert found.keys() <= OTHERS.keys()
