"""The public surface: importable, typed, documented, cheap, and named rightly wherever a text mentions it."""

from __future__ import annotations

import ast
import pickle
import re
import subprocess
import sys
from functools import reduce
from importlib import metadata
from inspect import Parameter, getdoc, getmembers, isclass, isfunction, signature
from pathlib import Path

import pytest

import stpredict

SOURCE = Path(stpredict.__file__).parent
REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]

PUBLIC = {
    f"{module}.{name}": getattr(getattr(stpredict, module), name)
    for module in stpredict.__all__
    for name in getattr(stpredict, module).__all__
}
FUNCTIONS = {name: obj for name, obj in PUBLIC.items() if isfunction(obj)}
CLASSES = {name: obj for name, obj in PUBLIC.items() if isclass(obj)}

DEFAULTS_THAT_DIFFER = {
    "axis": "metrics are over genes or spots; each says which",
    "by": "what is split, held out or scored apart",
    "encoder": "`read_embeddings` only records a name",
    "group_key": "a benchmark is over patients",
    "key_added": "the name of what is written",
    "keys": "what is drawn",
    "method": "`select_genes` has a method that is best, `domains` has none",
    "metric": "columns of different tables",
    "model": "`self_train` needs a network",
    "n_genes": "made up, selected, drawn",
    "n_neighbors": "of different graphs",
    "n_permutations": "of tests of different cost",
    "transcripts": "those of a download take several GB",
    "n_views": "`calibrate` uses as many as `fit` does",
    "name": "of a panel of the package, or of a slide",
    "overviews": "files, or whether they are read",
    "sections": "of different data sets",
    "seed": "`Benchmark.table` takes any",
    "shapes_key": "`predict_cohort` makes the element",
    "spot_size": "benchmarks draw many small maps",
    "um_per_px": "`synthetic` makes the image",
}
"""Parameters with several defaults, and why."""

# "`stp.tl.fit`" or "`stp.tl.fit(sdata, model='m2ost')`"; in code blocks of a page without the backticks
MENTION = re.compile(r"`stp\.([\w.]+)(\([^`]*\))?`")
CALL = re.compile(r"\bstp\.([\w.]+)")


def text(node: ast.AST) -> str:
    """A string literal; of an f-string what is fixed in it, with X for what is not."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def mentions(file: Path) -> set[tuple[str, str]]:
    """(dotted name, arguments) of everything public that the strings of a source file tell people to use."""
    return {found for node in ast.walk(ast.parse(file.read_text())) for found in MENTION.findall(text(node))}


def resolve(dotted: str) -> object:
    return reduce(getattr, dotted.strip(".").split("."), stpredict)


def test_import_is_cheap():
    code = "import sys, stpredict; [getattr(stpredict, m) for m in stpredict.__all__]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "matplotlib", "spatialdata_plot"} & set(loaded)


def test_seven_public_modules():
    assert dir(stpredict) == sorted([*stpredict.__all__, "__version__"])
    assert sorted(stpredict.__all__) == ["datasets", "io", "metrics", "models", "pl", "pp", "tl"]
    with pytest.raises(AttributeError, match="utils"):
        _ = stpredict.utils


def test_version(monkeypatch):
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    assert re.fullmatch(r"\d+\.\d+.*", stpredict.__version__)
    monkeypatch.setattr(metadata, "version", absent)
    assert stpredict.__version__ == "0+source"


@pytest.mark.parametrize("module", stpredict.__all__)
def test_all_names_resolve_and_are_listed(module):
    namespace = getattr(stpredict, module)
    assert len(set(namespace.__all__)) == len(namespace.__all__)
    assert set(namespace.__all__) <= set(dir(namespace))
    with pytest.raises(AttributeError):
        _ = namespace.no_such_name


def test_signatures():
    for name, func in FUNCTIONS.items():
        parameters = signature(func).parameters.values()
        positional = [p for p in parameters if p.kind in {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}]
        assert len(positional) <= 3, name
        assert not any(p.kind is Parameter.VAR_KEYWORD for p in parameters), f"{name}: name every argument"
        assert all(p.annotation is not Parameter.empty for p in parameters), name
        assert signature(func).return_annotation is not Parameter.empty, name


def test_a_parameter_has_one_default():
    defaults: dict[str, set[object]] = {}
    for function in [*FUNCTIONS.values(), stpredict.tl.Benchmark.table, stpredict.tl.Predictor.predict]:
        for name, parameter in signature(function).parameters.items():
            if parameter.default is not Parameter.empty:
                defaults.setdefault(name, set()).add(repr(parameter.default))
    several = {name for name, found in defaults.items() if len(found) > 1}
    assert several - set(DEFAULTS_THAT_DIFFER) == set()
    assert {"image_key", "table_name", "genes", "progress", "device"} <= set(defaults) - several


def test_every_public_function_answers_mistakes():
    plain = [name for name, obj in FUNCTIONS.items() if not hasattr(obj, "__wrapped__")]
    assert not plain, "decorate them with `public` of `_checks.calls`"
    assert pickle.loads(pickle.dumps(stpredict.tl.fit)) is stpredict.tl.fit


def test_docstrings_name_every_parameter():
    missing = [
        (function, name)
        for function, obj in FUNCTIONS.items()
        for name in signature(obj).parameters
        if f"\n    {name}\n" not in (obj.__doc__ or "")
    ]
    assert not missing


def test_classes_and_their_methods_are_documented():
    for label, cls in CLASSES.items():
        own = {name: obj for name, obj in getmembers(cls, isfunction) if obj.__module__.startswith("stpredict")}
        assert cls.__doc__, label
        assert not [name for name, obj in own.items() if not name.startswith("_") and not getdoc(obj)], label


def test_messages_and_docstrings_name_what_exists():
    for name, arguments in {mention for file in SOURCE.rglob("*.py") for mention in mentions(file)}:
        target = resolve(name)
        unknown = set(re.findall(r"(\w+)=", arguments)) - set(signature(target).parameters) if arguments else set()
        assert not unknown, f"`stp.{name}` takes no {unknown}"


def test_pages_name_what_exists():
    for page in PAGES:
        for name in CALL.findall(page.read_text(encoding="utf-8")):
            resolve(name)


def test_api_page_lists_every_name():
    listed = re.findall(r"^   (\w+\.\w+)$", (REPOSITORY / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(PUBLIC)


def test_texts_are_searched_at_all(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\nmsg = f'No {x}. Call `stp.tl.fit(sdata, model={x!r})` or `stp.pl.gone`.'")
    assert mentions(tmp_path / "a.py") == {("tl.fit", "(sdata, model=X)"), ("pl.gone", "")}
    with pytest.raises(AttributeError):
        resolve("pl.gone")
