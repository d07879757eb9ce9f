"""All measurements on a GPU, in one command of at most eight minutes.

    python benchmarks/gpu.py [--data her2st/data] [--out benchmarks] [--minutes 8]
    python benchmarks/gpu.py --small --out /tmp/trial      # every step with tiny sizes on a CPU, a minute
    python benchmarks/gpu.py --only networks               # only one step
    python benchmarks/gpu.py --page-only                   # gpu.md from gpu.json, without measuring

``--data`` is the ``data`` folder of the her2st repository. Needs torch and numpy; steps that need a missing package are
skipped and report its name. The most important steps run first, each in a process of its own that is stopped at its
time limit. ``gpu.json`` is written after every step and every part of a step, ``gpu.md`` after every step. Steps that
were finished on the same device are kept, unless ``--again`` is given.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from gpu_steps import record
from gpu_steps.page import page

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: its module and function, and its time limit."""

    module: str
    seconds: float
    function: str = "run"


STEPS = {
    "tests": Step(module="device_tests", seconds=75),
    "ceilings": Step(module="ceilings", seconds=20),
    "networks": Step(module="networks", seconds=90),
    "training": Step(module="training", seconds=150),
    "end_to_end": Step(module="end_to_end", seconds=75),
    "encoder": Step(module="encoder", seconds=40),
    "compiled": Step(module="networks", seconds=120, function="run_compiled"),
    "seeds": Step(module="training", seconds=240, function="run_more_seeds"),
}
"""Steps by importance, with their time limits in seconds; unused time is available to later steps."""
MIN_S, GRACE_S = 15, 10
"""A step is not started if less time is left, and is stopped this long after its time limit."""
TRIAL_S = 24 * 3600
"""A trial has no time limit in practice: the machine may be busy."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that every step receives."""

    small: bool
    data: Path | None
    scratch: Path
    deadline: float
    """Value of `time.monotonic` at which the step should be finished."""


def about(arguments):
    """Device, date and versions of a step."""
    return record.about(small=arguments.small, given_revision=arguments.revision)


def stopped_entry(arguments):
    """The entry of a step that has started; it remains if the step is stopped."""
    return about(arguments) | {"state": record.STOPPED, "reason": "time limit reached", "seconds": 0, "result": {}}


def run_step(name, arguments):
    """Run one step in this process and write its entry after every part."""
    entry = stopped_entry(arguments)
    started = time.monotonic()
    options = Options(
        small=arguments.small,
        data=arguments.data,
        scratch=arguments.scratch,
        deadline=started + arguments.seconds,
    )

    def save(result, **state):
        """Write the results so far, which remain if the process is stopped."""
        seconds = round(time.monotonic() - started, 1)
        record.write_entry(arguments.out, name, entry | {"seconds": seconds, "result": result} | state)

    try:
        module = import_module(f"gpu_steps.{STEPS[name].module}")
        result = getattr(module, STEPS[name].function)(options, save)
    except Exception as error:
        partial = record.read(arguments.out)["steps"][name]["result"]
        is_missing = isinstance(error, ImportError) and not (error.name or "").startswith("stpredict")
        state = record.LEFT_OUT if is_missing else record.FAILED
        save(partial, state=state, reason=record.reason_of(error))
        raise
    else:
        reason = result.get("left_out") or result.get("stopped")
        whole = "left_out" not in result or len(result) > 1
        state = record.STOPPED if "stopped" in result else (record.DONE if whole else record.LEFT_OUT)
        save(result, state=state, reason=reason)


def run_in_process(name, arguments, seconds, scratch):
    """Run one step in a new process and stop it at its time limit."""
    command = [sys.executable, __file__, "--child", name, "--out", str(arguments.out), "--scratch", str(scratch)]
    command += ["--seconds", str(seconds), *(["--small"] if arguments.small else [])]
    for option, value in (("--data", arguments.data), ("--revision", arguments.revision)):
        command += [] if value is None else [option, str(value)]
    record.write_entry(arguments.out, name, stopped_entry(arguments))
    child = subprocess.Popen(command, start_new_session=True)
    try:
        code = child.wait(seconds + GRACE_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # including its child processes
            child.wait()
    entry = record.read(arguments.out)["steps"][name]
    if code not in (0, None) and entry["state"] == record.STOPPED:
        reason = f"the process ended with code {code}"
        record.write_entry(arguments.out, name, entry | {"state": record.FAILED, "reason": reason})


def run_here(name, arguments, seconds, scratch):
    """Run one step of a trial in this process, which has imported everything; a failure is in its entry."""
    record.write_entry(arguments.out, name, stopped_entry(arguments))
    try:
        run_step(name, argparse.Namespace(**{**vars(arguments), "seconds": seconds, "scratch": scratch}))
    except Exception:  # noqa: BLE001  (the next step is tried, as if this one had had a process of its own)
        traceback.print_exc()


def is_finished(entry, arguments):
    """Whether an entry is complete, for this device and kind of run."""
    if entry is None or arguments.again or arguments.only:
        return False
    same = (entry["device"], entry["small"]) == (record.device_name(), arguments.small)
    return same and entry["state"] == record.DONE


def run_all(arguments):
    """Run the requested steps until the time is used up."""
    deadline = time.monotonic() + (TRIAL_S if arguments.small else 60 * arguments.minutes)
    with tempfile.TemporaryDirectory(prefix="stpredict-gpu-") as scratch:
        for name in arguments.only or STEPS:
            if is_finished(record.read(arguments.out)["steps"].get(name), arguments):
                print(f"{name}: kept", flush=True)
                continue
            limit = TRIAL_S if arguments.small else STEPS[name].seconds
            seconds = min(limit, deadline - time.monotonic() - GRACE_S)
            if seconds < MIN_S:
                record_skipped(name, arguments)
            else:
                run = run_here if arguments.small else run_in_process
                run(name, arguments, seconds, Path(scratch))
            entry = record.read(arguments.out)["steps"][name]
            print(f"{name}: {entry['state']}, {entry['seconds']} s. {entry['reason'] or ''}", flush=True)
            write_page(arguments.out)


def record_skipped(name, arguments):
    """Record that there was no time for a step, unless an earlier run has a part of it."""
    if name not in record.read(arguments.out)["steps"]:
        left_out = {"state": record.LEFT_OUT, "reason": "no time left"}
        record.write_entry(arguments.out, name, stopped_entry(arguments) | left_out)


def write_page(folder):
    """Write the page from the results in the folder."""
    (folder / "gpu.md").write_text(page(record.read(folder)))


def parse_arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="`data` folder of the her2st repository")
    parser.add_argument("--out", type=Path, help="where gpu.json and gpu.md are written (default: beside this file)")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit of the whole run")
    parser.add_argument("--small", action="store_true", help="trial run on a CPU with tiny sizes; needs --out")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=f"one or more of {', '.join(STEPS)}")
    parser.add_argument("--again", action="store_true", help="repeat steps that are already finished")
    parser.add_argument("--page-only", action="store_true", help="only write gpu.md from gpu.json")
    parser.add_argument("--revision", help="revision of this copy, if git does not know it")
    for name in ("--child", "--scratch", "--seconds"):  # used when this script starts a step
        kind = {"--child": str, "--scratch": Path, "--seconds": float}[name]
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.small and (arguments.out is None or arguments.out.resolve() == HERE.resolve()):
        parser.error("--small needs --out, a folder other than that of the committed page")
    arguments.out = arguments.out or HERE
    if arguments.data is not None:
        places = [place for place in (arguments.data, arguments.data / "data") if (place / "ST-imgs").is_dir()]
        if not places:
            parser.error("--data has no folder ST-imgs: it is the `data` folder of the her2st repository")
        arguments.data = places[0].resolve()
    return parser, arguments


def main():
    """Run the steps, or only write the page."""
    parser, arguments = parse_arguments()
    if find_spec("stpredict") is None:  # in a copy of the repository without installation
        sys.path.insert(0, str(HERE.parent / "src"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
    if arguments.page_only:
        write_page(arguments.out)
        return
    if arguments.small:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch initialises CUDA
    elif record.device_name().startswith("CPU"):
        parser.error("torch finds no GPU; --small tries every step on a CPU")
    if arguments.child:
        run_step(arguments.child, arguments)
    else:
        run_all(arguments)


if __name__ == "__main__":
    main()
