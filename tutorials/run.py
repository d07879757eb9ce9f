"""Run the notebooks of this folder.

    python tutorials/run.py [names] [--fast] [--in-place | --out FOLDER]

A notebook is named as `2_her2st`, `her2st` or `2`. All notebooks run by default, each in an empty folder that is
removed afterwards. `--fast` sets ``fast = True`` in the notebooks, for which they use small settings: their results
are meaningless, but they test that every cell runs. `--in-place` writes outputs to the notebooks, as they are
committed; `--out` writes copies. Real data are read from ``STPREDICT_DATA_DIR`` or downloaded. The script needs the
dependency groups ``test`` and ``doc``. `make tutorials` runs all notebooks with `--fast`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).resolve().parent
TIMEOUT_S = 1200
"""Maximum run time of a cell."""
PROGRESS = re.compile(r"[^\n]*\d%\|[^\n]*\n?|^ +\n", re.MULTILINE)
"""A line of a progress bar, or the spaces that erase it, which are removed from the outputs."""
ORIGIN = re.compile(r"^/\S*/ipykernel_\d+/\d+\.py:\d+: (\w+: [^\n]*)\n(?:  [^\n]*\n)?", re.MULTILINE)
"""The location of a warning, which is removed, since the file name of a cell is meaningless to readers."""
SETTINGS = re.compile(r"^fast = False\b", re.MULTILINE)
"""The line of a notebook that decides between full and small settings."""
FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks to run; all by default")
    parser.add_argument("--fast", action="store_true", help="small settings")
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--in-place", action="store_true", help="write outputs to the notebooks")
    kept.add_argument("--out", type=Path, help="write executed copies to this folder")
    options = parser.parse_args()
    if options.fast and options.in_place:
        parser.error("results of small settings are not written to the notebooks: omit --fast or --in-place")
    chosen = choose(options.names, parser)
    folder = FOLDER if options.in_place else options.out
    prepare_environment()
    failed = [path.name for path in chosen if not run(path, folder, fast=options.fast)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def choose(names: list[str], parser: argparse.ArgumentParser) -> list[Path]:
    there = sorted(FOLDER.glob("*.ipynb"))
    chosen = [path for path in there if not names or any(is_meant(path, name) for name in names)]
    unknown = [name for name in names if not any(is_meant(path, name) for path in there)]
    if unknown:
        parser.error(f"no notebook is called {', '.join(unknown)} (there are: {', '.join(p.stem for p in there)})")
    return chosen


def is_meant(path: Path, name: str) -> bool:
    number, _, words = path.stem.partition("_")
    return Path(name).name.removesuffix(".ipynb") in {path.stem, number, words}


def prepare_environment() -> None:
    # hide tqdm's advice to install ipywidgets, and warnings of pandas about options that anndata sets
    os.environ["PYTHONWARNINGS"] = ",".join(
        ["ignore:IProgress not found", "ignore:The 'future.infer_string'", "ignore:The 'mode.chained_assignment'"]
    )
    data = os.environ.get("STPREDICT_DATA_DIR")
    if data:
        os.environ["STPREDICT_DATA_DIR"] = str(Path(data).expanduser().resolve())


def run(path: Path, folder: Path | None, *, fast: bool) -> bool:
    """Run a notebook; returns whether all cells ran. Outputs of a failed notebook are not written to this folder."""
    notebook = nbformat.read(path, as_version=4)
    if fast:
        use_small_settings(notebook)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tutorial-") as place, tempfile.TemporaryDirectory() as sockets:
        client = NotebookClient(
            notebook,
            # no network port, which other users of the machine could read
            km=AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel"),
            timeout=TIMEOUT_S,
            resources={"metadata": {"path": place}},
            record_timing=False,
            coalesce_streams=True,
        )
        error = None
        try:
            client.execute(cleanup_kc=True)  # this stops the kernel too
        except FAILURES as reason:
            error = str(reason)
        tidy_streams(notebook)
        private = [text for text in (place, str(FOLDER.parent), str(Path.home())) if text in outputs_of(notebook)]
    if error is None and private:
        error = f"outputs name folders of this machine: {', '.join(private)}"
    print(f"{path.name}: {'failed' if error else 'done'} after {time.monotonic() - started:.0f} s", flush=True)
    if error:
        print(error, file=sys.stderr, flush=True)
    if folder is not None and not (error and folder == FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
        write(notebook, folder / path.name)
    return error is None


def use_small_settings(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        cell.source = SETTINGS.sub("fast = True", cell.source)


def tidy_streams(notebook: nbformat.NotebookNode) -> None:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                text = PROGRESS.sub("", output.text.replace("\r", "\n")).lstrip("\n")
                output.text = ORIGIN.sub(r"\1\n", text)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text", " ")]


def outputs_of(notebook: nbformat.NotebookNode) -> str:
    return json.dumps([cell.get("outputs", []) for cell in notebook.cells])


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook without metadata that differ between machines."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    sys.exit(main())
