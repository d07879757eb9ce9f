"""The results of a run: one JSON file, rewritten atomically after every step and every part of a step."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

DONE, STOPPED, FAILED, LEFT_OUT = "done", "stopped", "failed", "left out"
"""States of a step. A step that was stopped or failed may have partial results."""
FILE = "gpu.json"


def read(folder):
    """The results in a folder: ``{"steps": {name: entry}, "notes": [...]}``."""
    path = folder / FILE
    return json.loads(path.read_text()) if path.is_file() else {"steps": {}, "notes": []}


def write(folder, results):
    """Replace the whole file, so that it is complete if the run is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{FILE}.new"
    new.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(new, folder / FILE)  # noqa: PTH105  (atomic also where the file exists)


def write_entry(folder, step, entry):
    """Write the entry of one step."""
    results = read(folder)
    results["steps"][step] = entry
    write(folder, results)


def device_name():
    """Name of the GPU, or the CPU and its number of threads."""
    import torch  # not needed to check the command line, nor for the page

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {platform.machine()}, {torch.get_num_threads()} thread(s)"


def about(*, small, given_revision=None):
    """Device, date, revision and versions of a step."""
    import torch

    return {
        "device": device_name(),
        "small": small,
        "date": datetime.now(UTC).date().isoformat(),
        "revision": given_revision or revision(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda},
    }


def revision():
    """The git revision, marked if the working tree has changes; None outside a git repository."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    if found.returncode:
        return None
    return found.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def without_paths(text):
    """The text without folders of this machine."""
    return re.sub(r"(/[\w.+@~-]+)+/", "…/", text)


def reason_of(error):
    """An error in one line, without paths of the machine."""
    text = without_paths((str(error).strip().splitlines() or [""])[0])[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
