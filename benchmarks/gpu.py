"""Everything that is worth measuring on a GPU, in one command of at most eight minutes.

    python benchmarks/gpu.py [--data her2st/data] [--out benchmarks] [--minutes 8]
    python benchmarks/gpu.py --small --out /tmp/trial      # every step with tiny sizes on a CPU, in two minutes
    python benchmarks/gpu.py --only networks               # one step again
    python benchmarks/gpu.py --page-only                   # gpu.md from gpu.json, without measuring

``--data`` is the ``data`` folder of the her2st repository. Needs torch and numpy; steps that need more say what is
missing and are left out. Steps run in the order of their value, each in a process of its own that is stopped when its
time is over. ``gpu.json`` is written anew after every step and every part of a step, then ``gpu.md``. Steps that this
device has finished already are kept, unless ``--again``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from gpu_steps import record
from gpu_steps.page import page

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: where it is, and how long it may take."""

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
"""By value, with the most seconds of each; what one does not use is left for those after it."""
LEAST_S, GRACE_S = 15, 10
"""A step is not begun with less time, and is stopped when it takes so much longer than it may."""
TRIAL_S = 24 * 3600
"""A trial has no time limit in practice: the machine may be busy."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a step is told."""

    small: bool
    data: Path | None
    scratch: Path
    deadline: float
    """`time.monotonic` when it should be done."""


def about(arguments):
    """Where, when and with what a step is run."""
    return record.about(small=arguments.small, given_revision=arguments.revision)


def stopped(arguments):
    """The entry of a step that has begun: what stays of it if it is stopped."""
    return about(arguments) | {"state": record.STOPPED, "reason": "its time was over", "seconds": 0, "result": {}}


def run_step(name, arguments):
    """Run one step in this process, and write its entry after every part."""
    entry = stopped(arguments)
    started = time.monotonic()
    options = Options(
        small=arguments.small,
        data=arguments.data,
        scratch=arguments.scratch,
        deadline=started + arguments.seconds,
    )

    def save(result, **state):
        """Write what is known so far; a process that is stopped leaves it as it is."""
        seconds = round(time.monotonic() - started, 1)
        record.put(arguments.out, name, entry | {"seconds": seconds, "result": result} | state)

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
    """Run one step in a new process, and stop it when its time is over."""
    command = [sys.executable, __file__, "--child", name, "--out", str(arguments.out), "--scratch", str(scratch)]
    command += ["--seconds", str(seconds), *(["--small"] if arguments.small else [])]
    for option, value in (("--data", arguments.data), ("--revision", arguments.revision)):
        command += [] if value is None else [option, str(value)]
    record.put(arguments.out, name, stopped(arguments))
    child = subprocess.Popen(command, start_new_session=True)
    try:
        code = child.wait(seconds + GRACE_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)  # with the processes that it started
            child.wait()
    entry = record.read(arguments.out)["steps"][name]
    if code not in (0, None) and entry["state"] == record.STOPPED:
        reason = f"the process ended with code {code}"
        record.put(arguments.out, name, entry | {"state": record.FAILED, "reason": reason})


def is_finished(entry, arguments):
    """Whether an entry is whole, and of this device and kind of run."""
    if entry is None or arguments.again or arguments.only:
        return False
    same = (entry["device"], entry["small"]) == (record.device_name(), arguments.small)
    return same and entry["state"] == record.DONE


def run_all(arguments):
    """Run the steps that are asked for, as far as the time goes."""
    deadline = time.monotonic() + (TRIAL_S if arguments.small else 60 * arguments.minutes)
    with tempfile.TemporaryDirectory(prefix="stpredict-gpu-") as scratch:
        for name in arguments.only or STEPS:
            if is_finished(record.read(arguments.out)["steps"].get(name), arguments):
                print(f"{name}: kept", flush=True)
                continue
            longest = TRIAL_S if arguments.small else STEPS[name].seconds
            seconds = min(longest, deadline - time.monotonic() - GRACE_S)
            if seconds < LEAST_S:
                leave_out(name, arguments)
            else:
                run_in_process(name, arguments, seconds, Path(scratch))
            entry = record.read(arguments.out)["steps"][name]
            print(f"{name}: {entry['state']}, {entry['seconds']} s. {entry['reason'] or ''}", flush=True)
            write_page(arguments.out)


def leave_out(name, arguments):
    """Note that there is no time for a step, unless an earlier run has part of it."""
    if name not in record.read(arguments.out)["steps"]:
        left_out = {"state": record.LEFT_OUT, "reason": "no time left"}
        record.put(arguments.out, name, stopped(arguments) | left_out)


def write_page(folder):
    """Write the page from what the folder holds."""
    (folder / "gpu.md").write_text(page(record.read(folder)))


def parsed():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="`data` folder of the her2st repository")
    parser.add_argument("--out", type=Path, help="where gpu.json and gpu.md are written (default: beside this file)")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--small", action="store_true", help="a trial on a CPU, with tiny sizes; needs --out")
    parser.add_argument("--only", nargs="+", choices=STEPS, metavar="STEP", help=f"some of {', '.join(STEPS)}")
    parser.add_argument("--again", action="store_true", help="measure again what is there already")
    parser.add_argument("--page-only", action="store_true", help="only write gpu.md from gpu.json")
    parser.add_argument("--revision", help="the revision of this copy, where git does not know it")
    for name in ("--child", "--scratch", "--seconds"):  # how this script calls itself
        kind = {"--child": str, "--scratch": Path, "--seconds": float}[name]
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.small and (arguments.out is None or arguments.out.resolve() == HERE.resolve()):
        parser.error("--small needs --out, another folder than that of the committed page")
    arguments.out = arguments.out or HERE
    if arguments.data is not None:
        places = [place for place in (arguments.data, arguments.data / "data") if (place / "ST-imgs").is_dir()]
        if not places:
            parser.error("--data has no folder ST-imgs: it is the `data` folder of the her2st repository")
        arguments.data = places[0].resolve()
    return parser, arguments


def main():
    """Measure, or write the page."""
    parser, arguments = parsed()
    if find_spec("stpredict") is None:  # a copy of the repository where nothing is installed
        sys.path.insert(0, str(HERE.parent / "src"))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
    if arguments.page_only:
        write_page(arguments.out)
        return
    if arguments.small:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for one
    elif record.device_name().startswith("CPU"):
        parser.error("torch finds no GPU; --small tries every step on a CPU")
    if arguments.child:
        run_step(arguments.child, arguments)
    else:
        run_all(arguments)


if __name__ == "__main__":
    main()
