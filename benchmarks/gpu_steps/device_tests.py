"""`pytest -m gpu` without SpatialData: only files with such tests are collected, in a separate process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from .record import without_paths

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from gpu_steps import stand_ins; stand_ins.install();"
    "import pytest; sys.exit(pytest.main(sys.argv[2:]))"
)
OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", re.MULTILINE)


def run(options, save):  # noqa: ARG001  (one result, at the end)
    """Run the tests that need a GPU; without a GPU only collect them."""
    if not (ROOT / "tests").is_dir():
        return {"left_out": "there is no folder of tests"}
    has_gpu = torch.cuda.is_available()
    arguments = ["-m", "gpu", "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "default"]
    arguments += ["-v", "--tb=line"] if has_gpu else ["-q", "--collect-only"]
    code, text = run_pytest(arguments + gpu_test_files(), options.deadline - time.monotonic())
    if not has_gpu:
        found = re.search(r"(\d+)(?:/\d+)? tests? collected", text)
        if code or found is None:
            return {"stopped": f"the tests could not be collected: {last_line(text)}"}
        return {"collected": int(found[1]), "left_out": "no GPU: the tests were collected, not run"}
    outcomes = OUTCOME.findall(text)
    counts = {word.lower(): sum(found == word for _, found in outcomes) for word in ("PASSED", "FAILED", "SKIPPED")}
    counts["failed"] += sum(found == "ERROR" for _, found in outcomes)
    result = {**counts, "failures": [name for name, found in outcomes if found in ("FAILED", "ERROR")], "exit": code}
    if code is None:
        result["stopped"] = "the time limit was reached before all tests had run"
    elif not outcomes:
        result["stopped"] = f"no test was run: {last_line(text)}"
    return result


def last_line(text):
    """The last line that pytest printed, without paths of the machine."""
    return without_paths((text.strip().splitlines() or ["pytest printed nothing"])[-1][:300])


def gpu_test_files():
    """Files with tests that need a GPU; the others may import SpatialData."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in found if "@pytest.mark.gpu" in path.read_text()]


def run_pytest(arguments, limit_s):
    """Exit code (None at the time limit) and output of pytest."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), *arguments]
    # plugins of other packages may need packages that are missing here
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with tempfile.TemporaryFile("w+") as file:
        given = {"cwd": ROOT, "env": environment, "stdout": file, "stderr": file, "timeout": max(1, limit_s)}
        try:
            code = subprocess.run(command, **given).returncode
        except subprocess.TimeoutExpired:
            code = None
        file.seek(0)
        return code, file.read()
