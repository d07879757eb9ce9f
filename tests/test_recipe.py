"""The conda recipe renders, and asks for what `pyproject.toml` asks for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jinja2
import yaml
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
ON_CONDA = {"igraph": "python-igraph", "matplotlib": "matplotlib-base", "torch": "pytorch"}
"""Names of packages on conda-forge that differ from those on PyPI."""


def test_recipe_asks_for_what_the_project_asks_for():
    text = (REPOSITORY / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(jinja2.Template(text, undefined=jinja2.StrictUndefined).render(PYTHON="python"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    known, (build,) = project["project"], project["build-system"]["requires"]
    wanted = [f"python{known['requires-python']}", *known["dependencies"]]
    python, *run = map(Requirement, recipe["requirements"]["run"])
    asked = {one.name: one.specifier for one in (python, *run)}
    assert asked == {ON_CONDA.get(one.name, one.name): one.specifier for one in map(Requirement, wanted)}
    assert build.replace(">=", " >=") in recipe["requirements"]["host"]
    assert recipe["package"] == {"name": known["name"], "version": known["version"]}
    assert recipe["build"]["entry_points"] == [f"{name} = {target}" for name, target in known["scripts"].items()]
    assert recipe["about"]["summary"] == known["description"]
