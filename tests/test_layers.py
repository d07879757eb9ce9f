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


def test_the_unit_of_every_function_is_documented():
    page = (REPOSITORY / "docs" / "data_model.md").read_text(encoding="utf-8")
    table = page[page.index("unit of what it reads") : page.index("## Which slide is it?")]
    listed = (REPOSITORY / "src/stpredict/tl/__init__.pyi").read_text(encoding="utf-8")
    functions = re.findall(r'^    "([a-z_]+)",$', listed, re.MULTILINE)
    assert len(functions) > 15
    assert [name for name in functions if f"{{func}}`stpredict.tl.{name}`" not in table] == []


SLOW_OR_UNORDERED = re.compile(
    r"\bfor\b.*\.(index|count)\(\w+\)|\.(index|count)\(\w+\).*\bfor\b|\bfor\b.*\bif\b.*\bin (set|list)\("
    r"|[\[{].*\bfor \w+ in (set\(|\{[^}]*\} [&|-])"
)
FEW = {"_train/shared.py": "scales", "io/_wsi_levels.py": "axes", "io/_alignment.py": "columns of a header"}


def test_no_loop_searches_a_list_for_each_element_or_takes_the_order_of_a_set():
    """The one takes a time that is quadratic in genes, spots or slides, the other differs from process to process."""
    source = REPOSITORY / "src" / "stpredict"
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if " for " in line and SLOW_OR_UNORDERED.search(line)
    }
    assert found == set(FEW)


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
