"""Speed of the networks, relative to a matrix product of the same precision, measured before and after.

The networks of one group alternate in every round. Networks, batches and operation counts are those of
`benchmarks/network.py`, which measures on a CPU.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from functools import cache

import network
import torch
from network_cases import PLAIN, Case

from . import timing
from .cases import BATCH, SMALL_BATCH, compiled_groups, eager_groups
from .record import reason_of

NOT_IN_TRIAL = "not part of a trial with --small"
ROUND_S = 0.15
"""Minimum seconds that a network runs in one round."""


def run(options, save):
    """Measure all eager networks."""
    return measure_groups(options, save, eager_groups())


def run_compiled(options, save):
    """Measure networks that are compiled or run as CUDA graphs."""
    return measure_groups(options, save, compiled_groups())


def measure_groups(options, save, groups):
    """Rows of all groups until the deadline; a case that fails is a row with the reason."""
    torch.backends.cudnn.allow_tf32 = False  # so that convolutions in fp32 do not use TF32
    rows, sizes = [], {}
    result = {"rows": rows, "networks": sizes}
    for group in groups:
        if time.monotonic() > options.deadline:
            rows += [row_key(*pair) | {"left_out": "no time left"} for pair in group]
            continue
        if options.small and not any(in_trial(*pair) for pair in group if pair[0].network != PLAIN):
            rows += [row_key(*pair) | {"left_out": NOT_IN_TRIAL} for pair in group]
            continue
        for name in dict.fromkeys(name_of(case) for case, _ in group):
            if name not in sizes:
                sizes[name] = size_of(name)
        rows += measure_group(group, sizes, options)
        release()
        save(result)
    return result


def name_of(case):
    """The network that has the size and cost of a case: `m2ost` for its plain version."""
    return "m2ost" if case.network == PLAIN else case.network


@cache
def size_of(name):
    """Parameters and multiply-accumulates per spot; None if the network cannot be built."""
    found = network.size_and_cost(name)
    return None if found is None else {"parameters": found[0], "macs": found[1]}


def row_key(case, planned_batch, batch=None):
    """Key of a row (the case and its planned batch size), and the batch size of the measurement."""
    return {
        "network": case.network, "mode": case.mode, "precision": case.precision, "execution": case.execution,
        "planned_batch": planned_batch, "batch": batch or planned_batch,
    }  # fmt: skip


def measure_group(group, sizes, options):
    """One row for each case of a group; if memory runs out, the batch size of the group is halved."""
    shrink = 1
    while True:
        batch = 1 if options.small else max(1, group[0][1] // shrink)
        try:
            return time_cases(group, batch, sizes, options)
        except torch.OutOfMemoryError as error:
            if batch == 1:
                return failed_rows(group, error)
        except Exception as error:  # noqa: BLE001  (GPUs and compilers raise various errors; the other groups go on)
            return failed_rows(group, error)
        release()
        shrink *= 2


def failed_rows(group, error):
    """Rows with the reason why a group was not measured."""
    return [row_key(*pair) | {"failed": reason_of(error)} for pair in group]


def time_cases(group, batch, sizes, options):
    """Shares and speeds of the cases of a group, which alternate."""
    runners, rows = {}, {}
    for case, planned_batch in group:
        rows[case] = row_key(case, planned_batch, batch)
        if sizes[name_of(case)] is None:
            rows[case]["left_out"] = "timm is not installed"
        elif options.small and not in_trial(case, planned_batch):
            rows[case]["left_out"] = NOT_IN_TRIAL
        else:
            runners |= warm_up(case, batch, rows[case], options)
    found = defaultdict(list)
    for _, case in itertools.product(range(1 if options.small else 5), runners):
        macs = sizes[name_of(case)]["macs"] * (3 if case.mode == "training" else 1)
        found[case].append(time_round(*runners[case], case, 2 * macs * batch, options))
    for case, values in found.items():
        shares, per_batch = zip(*values, strict=True)
        speeds = [batch / s for s in per_batch]
        rows[case] |= {"share": timing.median_range(shares), "spots_per_s": timing.median_range(speeds)}
        plain = found.get(Case(network=PLAIN, mode=case.mode))
        if plain and case.network != PLAIN:
            ratios = [theirs[1] / mine[1] for theirs, mine in zip(plain, values, strict=True)]
            rows[case]["over_plain"] = timing.median_range(ratios)
    return list(rows.values())


def in_trial(case, planned_batch):
    """Whether a case is fast enough for a trial on a CPU, which emulates bf16 and compiles slowly."""
    if case.execution != "eager":
        return (case.network, planned_batch) == ("m2ost_tiny", SMALL_BATCH)
    others = {"DenseNet-121": ("inference",), PLAIN: BATCH, "m2ost": BATCH}
    return case.network == "m2ost_tiny" or (case.precision == "fp32" and case.mode in others.get(case.network, ()))


def warm_up(case, batch, row, options):
    """The warmed-up runner of a case and its number of repeats; if it fails, nothing, and the reason in the row."""
    before = time.perf_counter()
    try:
        task = network.make_runner(case, batch, timing.device(), backend="eager" if options.small else "inductor")
        for _ in range(1 if options.small else 3):
            task()
        timing.synchronize()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (compilers raise various errors; the other cases are still measured)
        row["failed"] = reason_of(error)
        return {}
    row["start_s"] = round(time.perf_counter() - before, 1)
    return {case: (task, 1 if options.small else timing.repeats(task, ROUND_S))}


def time_round(task, times, case, operations, options):
    """Share of the matrix product, and seconds per batch, of one round."""
    before = timing.matrix_rate(case.precision, small=options.small)
    took = timing.seconds_each(task, times)
    peak = statistics.mean((before, timing.matrix_rate(case.precision, small=options.small)))
    return operations / took / peak, took


def release():
    """Discard compiled code and free memory."""
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
