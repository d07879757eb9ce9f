"""Speed of the networks, as a share of the matrix product of the same precision, measured right before and after.

Networks of one group take turns, round by round. What `benchmarks/network.py` measures on a CPU is measured here with
the same networks, batches and operation counts.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict

import network
import torch
from network_cases import PLAIN, Case

from . import timing
from .cases import BATCH, SMALL_BATCH, compiled_groups, eager_groups
from .record import reason_of

NOT_IN_TRIAL = "not part of a trial with --small"
ROUND_S = 0.15
"""How long a network runs in one round, at least."""


def run(options, save):
    """Measure every network without a compiler."""
    return measured(options, save, eager_groups())


def run_compiled(options, save):
    """Measure networks that are compiled, or replayed as CUDA graphs."""
    return measured(options, save, compiled_groups())


def measured(options, save, groups):
    """Rows of all groups, until the time is over; a case that fails is a row with the reason."""
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, in convolutions too
    rows, sizes = [], {}
    result = {"rows": rows, "networks": sizes}
    for group in groups:
        if time.monotonic() > options.deadline:
            rows += [label(*pair) | {"left_out": "no time left"} for pair in group]
            continue
        if options.small and not any(in_trial(*pair) for pair in group if pair[0].network != PLAIN):
            rows += [label(*pair) | {"left_out": NOT_IN_TRIAL} for pair in group]
            continue
        for case, _ in group:
            sizes.setdefault(name_of(case), size_of(case))
        rows += rows_of(group, sizes, options)
        release()
        save(result)
    return result


def name_of(case):
    """The network of a case; the plain version has the size and cost of `m2ost`."""
    return "m2ost" if case.network == PLAIN else case.network


def size_of(case):
    """Parameters, and multiply-accumulates of one spot; None where the network cannot be built here."""
    found = network.size_and_cost(name_of(case))
    return None if found is None else {"parameters": found[0], "macs": found[1]}


def label(case, planned, batch=None):
    """What identifies a row: the case and the batch that was planned; and the batch that it was measured with."""
    return {
        "network": case.network, "mode": case.mode, "precision": case.precision, "execution": case.execution,
        "planned_batch": planned, "batch": batch or planned,
    }  # fmt: skip


def rows_of(group, sizes, options):
    """One row for each case of a group. Where memory runs out, the group is measured with half the batch."""
    shrink = 1
    while True:
        batch = 1 if options.small else max(1, group[0][1] // shrink)
        try:
            return timed_rows(group, batch, sizes, options)
        except torch.OutOfMemoryError as error:
            if batch == 1:
                return failed_rows(group, error)
        except Exception as error:  # noqa: BLE001  (what a GPU or a compiler raises; other groups are still measured)
            return failed_rows(group, error)
        release()
        shrink *= 2


def failed_rows(group, error):
    """Rows that say why a group was not measured."""
    return [label(*pair) | {"failed": reason_of(error)} for pair in group]


def timed_rows(group, batch, sizes, options):
    """Shares and speeds of cases that take turns."""
    runners, rows = {}, {}
    for case, planned in group:
        rows[case] = label(case, planned, batch)
        if sizes[name_of(case)] is None:
            rows[case]["left_out"] = "timm is not installed"
        elif options.small and not in_trial(case, planned):
            rows[case]["left_out"] = NOT_IN_TRIAL
        else:
            runners |= started(case, batch, rows[case], options)
    found = defaultdict(list)
    for _, case in itertools.product(range(1 if options.small else 5), runners):
        macs = sizes[name_of(case)]["macs"] * (3 if case.mode == "training" else 1)
        found[case].append(one_round(*runners[case], case, 2 * macs * batch, options))
    for case, values in found.items():
        shares, per_batch = zip(*values, strict=True)
        rows[case] |= {"share": timing.spread(shares), "spots_per_s": timing.spread([batch / s for s in per_batch])}
        plain = found.get(Case(network=PLAIN, mode=case.mode))
        if plain and case.network != PLAIN:
            ratios = [theirs[1] / mine[1] for theirs, mine in zip(plain, values, strict=True)]
            rows[case]["over_plain"] = timing.spread(ratios)
    return list(rows.values())


def in_trial(case, planned):
    """Whether a case is quick enough for a trial on a CPU, which emulates bf16 and compiles slowly."""
    if case.execution != "eager":
        return (case.network, planned) == ("m2ost_tiny", SMALL_BATCH)
    others = {"DenseNet-121": ("inference",), PLAIN: BATCH, "m2ost": BATCH}
    return case.network == "m2ost_tiny" or (case.precision == "fp32" and case.mode in others.get(case.network, ()))


def started(case, batch, row, options):
    """The warm runner of a case with its number of repeats; nothing, but a reason in the row, where it fails."""
    before = time.perf_counter()
    try:
        task = network.runner(case, batch, timing.device(), backend="eager" if options.small else "inductor")
        for _ in range(1 if options.small else 3):
            task()
        timing.synchronize()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (compilers raise anything; the other cases are still measured)
        row["failed"] = reason_of(error)
        return {}
    row["start_s"] = round(time.perf_counter() - before, 1)
    return {case: (task, 1 if options.small else timing.repeats(task, ROUND_S))}


def one_round(task, times, case, operations, options):
    """Share of the matrix product, and seconds a batch, of one round."""
    before = timing.matrix_rate(case.precision, small=options.small)
    took = timing.seconds_each(task, times)
    peak = statistics.mean((before, timing.matrix_rate(case.precision, small=options.small)))
    return operations / took / peak, took


def release():
    """Forget what was compiled, and give memory back."""
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
