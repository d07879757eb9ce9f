"""The GPU benchmark, tried on the CPU where SpatialData cannot be imported, and the page that is committed."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPT = FOLDER / "gpu.py"
BLOCKED = ("anndata", "dask", "lightning", "lightning_fabric", "spatialdata", "zarr")
ALL_BUT_TORCH = (*BLOCKED, "einops", "numba", "pandas", "PIL", "safetensors", "scipy", "timm", "tqdm")
STEPS = {"tests", "ceilings", "networks", "training", "end_to_end", "encoder", "compiled", "seeds"}
TRIAL = "A trial with tiny sizes on a CPU"


def run(*arguments, blocked=(), stubs=None):
    """Run the script; packages in ``blocked`` cannot be imported."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in blocked:
        (stubs / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name} is blocked')")
    if blocked:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(stubs), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def load(name):
    """The script, or a module of its folder, imported as the script imports it."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A run of every step with tiny sizes, without SpatialData; the folder and what it holds."""
    out, stubs = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("stubs")
    done = run("--small", "--out", out, blocked=BLOCKED, stubs=stubs)
    assert done.returncode == 0, done.stderr
    return out, json.loads((out / "gpu.json").read_text()), done.stdout


@pytest.mark.slow
def test_every_step_has_a_result_or_says_why_not(trial):
    _, found, said = trial
    assert set(found["steps"]) == STEPS
    for name, entry in found["steps"].items():
        assert entry["state"] == "done" or entry["reason"], name
        assert entry["state"] != "failed", f"{name}: {entry['reason']}"
        assert entry.keys() >= {"device", "small", "date", "revision", "versions", "seconds", "result"}
        assert f"{name}: {entry['state']}" in said


@pytest.mark.slow
def test_steps_measure_without_spatialdata(trial):
    _, found, _ = trial
    result = {name: entry["result"] for name, entry in found["steps"].items()}
    assert result["ceilings"]["matrix_tflops"].keys() == {"bf16", "tf32", "fp32"}
    for step in ("networks", "compiled"):
        rows = result[step]["rows"]
        assert not [row for row in rows if "failed" in row]
        assert any(row["network"] == "m2ost_tiny" and row["spots_per_s"][0] > 0 for row in rows if "share" in row)
        assert all("share" in row or row["left_out"] for row in rows)
    assert {row["recipe"] for row in result["training"]["rows"]} == {"present recipe", "paper's recipe"}
    assert all(-1 <= row["scores"]["gene_pearson"] <= 1 for row in result["training"]["rows"])
    assert result["end_to_end"]["left_out"] == "prediction from zarr: zarr is not installed"
    assert result["end_to_end"]["predict"].keys() == {"m2ost, memory", "m2ost_tiny, memory"}


@pytest.mark.slow
def test_tests_for_a_gpu_are_collected_without_spatialdata(trial):
    _, found, _ = trial
    assert found["steps"]["tests"]["result"]["collected"] > 50


@pytest.mark.slow
def test_halved_batches_change_nothing(trial):
    halved = trial[1]["steps"]["end_to_end"]["result"]["out_of_memory"]
    assert halved["predict"]["found"] < halved["predict"]["tried"]
    assert halved["predict"]["largest_difference"] < 1e-4
    assert halved["fit"]["largest_part"] < halved["fit"]["batch"]
    assert halved["fit"]["loss_when_halved"] == pytest.approx(halved["fit"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_the_page_of_a_trial_says_what_it_is(trial):
    out, _, _ = trial
    text = (out / "gpu.md").read_text()
    assert text.count(TRIAL) == len(STEPS)
    assert "| reached |" not in text
    assert "| missed |" not in text


@pytest.mark.parametrize(("seconds", "state"), [pytest.param(600, "done", marks=pytest.mark.slow), (-10, "stopped")])
def test_a_step_has_a_process_of_its_own_that_is_stopped_at_its_limit(tmp_path, seconds, state):
    gpu = load("gpu")
    arguments = argparse.Namespace(out=tmp_path, small=True, data=None, revision=None)
    gpu.run_in_process("ceilings", arguments, seconds, tmp_path)
    entry = json.loads((tmp_path / "gpu.json").read_text())["steps"]["ceilings"]
    assert entry["state"] == state
    assert (entry["reason"] == "time limit reached") == (state == "stopped")


def test_steps_say_what_is_missing_where_there_is_little_but_torch(tmp_path):
    (tmp_path / "stubs").mkdir()
    steps = ["ceilings", "networks", "training", "encoder"]
    done = run("--small", "--out", tmp_path, "--only", *steps, blocked=ALL_BUT_TORCH, stubs=tmp_path / "stubs")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert {name: entry["state"] for name, entry in found.items()} == {
        "ceilings": "done", "networks": "left out", "training": "left out", "encoder": "left out"
    }  # fmt: skip
    assert all("is blocked" in found[name]["reason"] for name in steps[1:])
    assert "This step is incomplete (left out)" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_fabric_of_the_package_lightning_is_taken(tmp_path):
    (tmp_path / "lightning_fabric.py").write_text("raise ModuleNotFoundError('blocked')")
    (tmp_path / "lightning").mkdir()
    (tmp_path / "lightning/__init__.py").write_text("")
    (tmp_path / "lightning/fabric.py").write_text("class Fabric: pass")
    program = "from gpu_steps import stand_ins; print(stand_ins.install()['lightning_fabric'])"
    program += "; from lightning_fabric import Fabric; print(Fabric.__module__)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(FOLDER)])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["lightning.fabric", "lightning.fabric"], done.stderr


@pytest.mark.slow
def test_finished_steps_are_kept(trial):
    out, found, _ = trial
    again = run("--small", "--out", out)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("kept") == sum(entry["state"] == "done" for entry in found["steps"].values())


@pytest.mark.slow
def test_no_paths_of_the_machine_are_kept(trial):
    out, _, _ = trial
    text = (out / "gpu.json").read_text()
    assert str(out) not in text
    assert str(Path.home()) + "/" not in text


def test_an_error_keeps_the_name_of_a_file_alone():
    assert load("gpu_steps.record").reason_of(OSError("no /a/b/file.txt here")) == "OSError: no …/file.txt here"


def test_a_trial_is_never_written_beside_the_script():
    done = run("--small")
    assert done.returncode == 2
    assert "--small needs --out" in done.stderr
    assert run("--small", "--out", FOLDER).returncode == 2


def test_a_folder_without_sections_is_refused(tmp_path):
    done = run("--small", "--out", tmp_path, "--data", tmp_path)
    assert done.returncode == 2
    assert "--data has no folder ST-imgs" in done.stderr


def test_the_committed_page_is_what_the_committed_figures_give():
    results = json.loads((FOLDER / "gpu.json").read_text())
    assert load("gpu_steps.page").page(results) == (FOLDER / "gpu.md").read_text()
    assert not [name for name, entry in results["steps"].items() if entry["small"]]


def test_what_was_not_measured_says_so():
    lines = load("gpu_steps.page").page({"steps": {}, "notes": []}).splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith(("|  |", "| network |"))]
    heads = [line for line, below in itertools.pairwise(lines) if below.startswith("|---")]
    assert all("not measured" in row for row in rows if row not in heads)


def test_targets_are_judged_by_figures_of_a_gpu_alone():
    row = {"network": "m2ost", "mode": "inference", "precision": "bf16", "execution": "eager"}
    row |= {"planned_batch": 256, "batch": 256, "share": [0.4, 0.3, 0.5]}
    row |= {"spots_per_s": [9.0, 8.0, 10.0], "over_plain": [7.0, 6.0, 8.0]}
    entry = {"device": "a GPU", "small": False, "date": "2026-01-01", "revision": None, "versions": {"torch": "2"}}
    entry |= {"state": "done", "reason": None, "result": {"rows": [row]}}
    page = load("gpu_steps.page").page
    measured = page({"steps": {"networks": entry}, "notes": []})
    assert "| inference of `m2ost`, share of the bf16 matrix product | 0.35 | 0.40 | reached |" in measured
    assert "| inference of `m2ost`, speed relative to plain fp32 | 10 | 7.00 | missed |" in measured
    assert "| training of `m2ost`, speed relative to plain fp32 | 10 | not measured | not measured |" in measured
    assert "| m2ost | inference | bf16 | eager | 256 | 0.40 (0.30 to 0.50) |" in measured
    assert "reached |" not in page({"steps": {"networks": entry | {"small": True}}, "notes": []})


@pytest.mark.parametrize("name", ["speed.md", "results/her2st.md"])
def test_the_documentation_reads_the_page(name):
    text = (FOLDER.parent / "docs" / name).read_text()
    marker = load("gpu_steps.page").SPLIT
    (block,) = re.findall(r"\{include\} [./]+/benchmarks/gpu\.md\n(.*?)```", text, re.DOTALL)
    given = re.findall(r"^:(?:end-before|start-after): (.*)$", block, re.MULTILINE)
    assert given
    assert all(part in marker for part in given)
    assert all((FOLDER / "gpu.md").read_text().count(part) == 1 for part in given)
