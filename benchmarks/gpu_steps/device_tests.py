"""`pytest -m gpu`, collected without SpatialData: only the files with such tests, in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from gpu_steps import stand_ins; stand_ins.install();"
    "import pytest; sys.exit(pytest.main(sys.argv[2:]))"
)
OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b", re.MULTILINE)


def run(options, save):  # noqa: ARG001  (one result, at the end)
    """Run the tests that need a GPU; without one, collect them."""
    if not (ROOT / "tests").is_dir():
        return {"left_out": "the folder of tests is not here"}
    has_gpu = torch.cuda.is_available()
    arguments = ["-m", "gpu", "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "default"]
    arguments += ["-v", "--tb=line"] if has_gpu else ["-q", "--collect-only"]
    code, text = output(arguments + files(), options.deadline - time.monotonic())
    if not has_gpu:
        found = re.search(r"(\d+)(?:/\d+)? tests? collected", text)
        return {"collected": int(found[1]) if found else 0, "left_out": "no GPU: the tests were collected, not run"}
    outcomes = OUTCOME.findall(text)
    counts = {word.lower(): sum(found == word for _, found in outcomes) for word in ("PASSED", "FAILED", "SKIPPED")}
    counts["failed"] += sum(found == "ERROR" for _, found in outcomes)
    result = {**counts, "failures": [name for name, found in outcomes if found in ("FAILED", "ERROR")], "exit": code}
    if code is None:
        result["stopped"] = "the time of the step was over before all tests had run"
    elif not outcomes:
        result["stopped"] = (text.strip().splitlines() or ["pytest printed nothing"])[-1][:300]
    return result


def files():
    """Test files with tests that need a GPU; pytest would otherwise import modules that need SpatialData."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in found if "@pytest.mark.gpu" in path.read_text()]


def output(arguments, limit_s):
    """Exit code (None if the time was over) and what pytest printed."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[1]), *arguments]
    with tempfile.TemporaryFile("w+") as file:
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, timeout=max(1, limit_s)).returncode
        except subprocess.TimeoutExpired:
            code = None
        file.seek(0)
        return code, file.read()
