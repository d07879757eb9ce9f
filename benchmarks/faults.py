"""Damage files of every reader and folders of our own, kill processes, run them in pairs and on a full disk.

``python benchmarks/faults.py`` takes about an hour on two cores; ``--mutations 300 --kills 16`` takes ten minutes.
With 0 of either, its results of an earlier run are kept. What is damaged, and how, is in ``tests/faults``; a smaller
campaign is among the tests. Every 25 mutations are in a process of their own, with a limit of memory, so that one
that crashes is counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "faults"))

import fault_campaign as campaign
import fault_cases as cases
import fault_processes as processes
import numpy as np

BATCH = 25
OUTCOMES = {
    "same": "the same result",
    "error": "one clear error of ours",
    "flagged": "another result, with a warning",
    "pixels": "other pixels, without a word (image files have no checksum of them)",
    "values": "other numbers or names, without a word (tables of measurements have no checksum)",
    "silent": "another result of a folder of our own, without a word",
    "foreign": "an exception of another library",
    "crash": "the process ended",
    "lost": "not to be used any more",
    "leftover": "files left over after the next call",
}
ALL = {**cases.READERS, **cases.FOLDERS}


def run_batch(name: str, root: str, seeds: range, wanted: dict[str, str], answers: str) -> None:
    """Run some mutations in this process, and append what came of each."""
    import torch

    torch.set_num_threads(1)
    logging.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + (6 << 30)  # beyond what threads reserve
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    original = Path(root) / "original" / name.replace(" ", "_")
    for seed in seeds:
        found = campaign.run(name, ALL[name], original, Path(root) / "place", wanted, seed, cases.DAMAGED.get(name, ""))
        with Path(answers).open("a", encoding="utf-8") as file:
            file.write(campaign.to_json(found) + "\n")


def undisturbed(name: str, root: str, answers: str) -> None:
    """Write a case, and note what reading it gives."""
    import torch

    torch.set_num_threads(1)
    original = Path(root) / "original" / name.replace(" ", "_")
    original.mkdir(parents=True)
    ALL[name].build(original)
    wanted = ALL[name].read(campaign.copy(original, Path(root) / "place"))
    Path(answers).write_text(json.dumps(wanted), encoding="utf-8")


def mutate(name: str, n: int, root: Path, context: Any) -> list[campaign.Result]:
    """What came of the first ``n`` mutations of a case."""
    noted = root / f"{name}.json".replace(" ", "_")
    first = context.Process(target=undisturbed, args=(name, str(root), str(noted)))
    first.start()
    first.join()
    wanted, results = json.loads(noted.read_text(encoding="utf-8")), []
    while len(results) < n:
        answers = root / "answers.jsonl"
        answers.unlink(missing_ok=True)
        seeds = range(len(results), min(len(results) + BATCH, n))
        process = context.Process(target=run_batch, args=(name, str(root), seeds, wanted, str(answers)))
        process.start()
        process.join(BATCH * 3 * campaign.MAX_S)
        stuck = process.is_alive()
        if stuck:
            process.kill()
            process.join()
        lines = answers.read_text(encoding="utf-8").splitlines() if answers.exists() else []
        results += [campaign.Result(**json.loads(line)) for line in lines]
        if len(lines) < len(seeds):
            why = "still running" if stuck else f"exit code {process.exitcode}"
            results.append(campaign.Result(case=name, mutation=f"seed {len(results)}", outcome="crash", detail=why))
    return results


def page(found: dict[str, Any]) -> str:
    """The tables."""
    counts = {part: Counter(each["outcome"] for each in found[part]) for part in ("mutations", "processes")}
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    text = ["# Faults", "", f"{found['date']}; {found['device']}; {versions}. Made by `python benchmarks/faults.py`."]
    what = (
        f"{len(found['mutations'])} mutations of files of every reader and of folders of our own, and "
        f"{len(found['processes'])} runs that were killed at a random moment, in pairs, or on a full disk."
    )
    text += ["", what, "", "| outcome | mutations | kills, pairs, full disks |", "|---|--:|--:|"]
    for key, words in OUTCOMES.items():
        text.append(f"| {words} | {counts['mutations'][key]} | {counts['processes'][key]} |")
    slow = [each for each in found["mutations"] if each["seconds"] > campaign.MAX_S]
    large = [each for each in found["mutations"] if each["bytes"] > campaign.MAX_BYTES]
    slowest = max((each["seconds"] for each in found["mutations"]), default=0.0)
    most = max((each["bytes"] for each in found["mutations"]), default=0) / 2**20
    limits = (
        f"Over {campaign.MAX_S:.0f} s: {len(slow)} (at most {slowest:.1f} s); over 1 GiB: {len(large)} (at most "
        f"{most:.0f} MiB)."
    )
    shown = ("same", "error", "flagged", "pixels", "values", "silent", "foreign", "crash")
    text += ["", limits, "", "## By input", "", f"| input | n | {' | '.join(shown)} |", f"|---|{'--:|' * 9}"]
    for name in ALL:
        of_case = Counter(each["outcome"] for each in found["mutations"] if each["case"] == name)
        text.append(f"| {name} | {of_case.total()} | {' | '.join(str(of_case[key]) for key in shown)} |")
    shown = ("same", "silent", "foreign", "lost", "leftover")
    text += ["", "## By operation", "", f"| operation | n | {' | '.join(shown)} |", f"|---|{'--:|' * (len(shown) + 1)}"]
    for name in processes.OPERATIONS:
        of_case = Counter(each["outcome"] for each in found["processes"] if each["case"] == name)
        text.append(f"| {name} | {of_case.total()} | {' | '.join(str(of_case[key]) for key in shown)} |")
    text += ["", *found["notes"]] if found.get("notes") else []
    return "\n".join(text) + "\n"


def main() -> None:
    """Run the campaign, and write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1500)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=ALL, default=list(ALL), help="inputs whose mutations are read")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(processes.PRELOAD))
    found: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"{os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("tifffile", "imagecodecs", "zarr", "h5py", "pyarrow", "pillow")},
        "seed": args.seed, "mutations": [], "processes": [],
    }  # fmt: skip
    for part, n in (("mutations", args.mutations), ("processes", args.kills)):
        if not n:
            found[part] = json.loads((args.out / "faults.json").read_text(encoding="utf-8"))[part]
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(args.only if args.mutations else ()):
            n = args.mutations // len(args.only) + (i < args.mutations % len(args.only))
            found["mutations"] += [asdict(each) for each in mutate(name, n, Path(folder), context)]
            print(name, Counter(e["outcome"] for e in found["mutations"] if e["case"] == name), flush=True)
            write(found, args.out)
        shop, rng = processes.Workshop(Path(folder) / "processes"), np.random.default_rng(args.seed)
        shop.root.mkdir()
        for i, name in enumerate(processes.OPERATIONS if args.kills else ()):
            n = args.kills // len(processes.OPERATIONS) + (i < args.kills % len(processes.OPERATIONS))
            results = [shop.kill(name, rng) for _ in range(n)]
            if n:
                results += [shop.pair(name), *(shop.full_disk(name, size) for size in processes.FULL_DISK_BYTES)]
            found["processes"] += [asdict(each) for each in results]
            print(name, Counter(each.outcome for each in results), flush=True)
            write(found, args.out)
    print(page(found))


def write(found: dict[str, Any], folder: Path) -> None:
    """Write JSON and page of what is known so far."""
    (folder / "faults.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "faults.md").write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
