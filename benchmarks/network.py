"""Speed of the networks, relative to the peak rate of matrix products on the same machine.

    python benchmarks/network.py [--full] [--out benchmarks]

Every measurement lies between two runs of a large matrix product in the same precision and is reported as a share of
its rate. Networks alternate over several rounds, since absolute times on shared machines are unreliable. A run takes
about two minutes on two cores, six with ``--full``, and downloads nothing; DenseNet-121 and ViT-B/16 are included if
timm is installed. This script measures on a CPU; `gpu.py` measures the same networks on a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import torch
from network_cases import GRAPHS, OTHERS, OURS, PLAIN, Case
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from stpredict import models
from stpredict.models import SpotBatch, m2ost

N_OUTPUTS = 250
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class OnePatch(nn.Module):
    """A network for single images, applied to the narrowest patch of each spot."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        """Predict expression."""
        return self.network(batch.patches[:, 0].float() / 255)

    def loss(self, batch):
        """Mean squared error."""
        return F.mse_loss(self(batch).float(), batch.targets)


def plain_attention(q, k, v, seen=None):
    """Attention as two matrix products, which stores all attention scores in memory."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def build(name):
    """A network with random weights, or None if its package is not installed."""
    if name in OTHERS:
        try:
            import timm
        except ImportError:
            return None
        return OnePatch(timm.create_model(OTHERS[name], pretrained=False, num_classes=N_OUTPUTS))
    return models.build(models.config(name.split(",")[0], N_OUTPUTS))


def spots(name, n, device):
    """A batch of random patches of the size that a network expects."""
    size = 224 if name in OTHERS else models.config(name.split(",")[0], N_OUTPUTS).size_px
    return SpotBatch(
        patches=torch.randint(0, 256, (n, 3, 3, size, size), dtype=torch.uint8, device=device),
        xy_um=torch.zeros(n, 2, device=device),
        slide=torch.zeros(n, dtype=torch.int64, device=device),
        targets=torch.randn(n, N_OUTPUTS, device=device),
    )


def size_and_cost(name):
    """Parameters, and multiply-accumulates of a forward pass per spot, counted on the meta device."""
    with torch.device("meta"):
        network = build(name)
    if network is None:
        return None
    with FlopCounterMode(display=False) as counter:  # in training mode: fused inference kernels are not counted
        network(spots(name, 2, "meta"))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2 / 2


def make_runner(case, n, device, backend="inductor"):
    """A function that runs one batch of a case; ``backend`` is used if the case is compiled."""
    network, batch = build(case.network).to(device), spots(case.network, n, device)
    if case.execution != "eager":
        mode = "reduce-overhead" if case.execution == GRAPHS and backend == "inductor" else None
        entry = "loss" if case.mode == "training" else "forward"
        setattr(network, entry, torch.compile(getattr(network, entry), mode=mode, backend=backend))
    lower = case.precision != "fp32"
    precision = torch.autocast(device, PRECISIONS[case.precision]) if lower else nullcontext()
    attention = patch.object(m2ost, "attend", plain_attention) if case.network == PLAIN else nullcontext()
    optimizer = torch.optim.AdamW(network.parameters(), fused=device == "cuda")

    def infer():
        with torch.inference_mode(), precision, attention:
            network(batch)

    def step():
        with precision, attention:
            loss = network.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    network.train(case.mode == "training")
    return step if case.mode == "training" else infer


def seconds(function, device):
    """Seconds that a function takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def matrix_rate(precision, device):
    """Operations per second of a large matrix product."""
    side, times = (8192, 10) if device == "cuda" else (2048, 2)
    x = torch.ones(side, side, device=device, dtype=PRECISIONS[precision])
    torch.mm(x, x)
    return 2 * side**3 * times / seconds(lambda: [torch.mm(x, x) for _ in range(times)], device)


def measure_rounds(cases, n, n_rounds, device, costs):
    """Share of the peak rate and spots per second of every case in every round; the cases alternate."""
    runners = {case: make_runner(case, n, device) for case in cases}
    for function in runners.values():
        seconds(function, device)
    found = {case: [] for case in cases}
    for _, case in itertools.product(range(n_rounds), cases):
        before = matrix_rate(case.precision, device)
        took = seconds(runners[case], device)
        best = (before + matrix_rate(case.precision, device)) / 2
        operations = 2 * n * costs[case.network][1] * (3 if case.mode == "training" else 1)
        found[case].append((operations / took / best, n / took))
    return found


def median_range(values):
    """Median, minimum and maximum."""
    return [round(x, 4) for x in (statistics.median(values), min(values), max(values))]


def reason_to_skip(case, quick, costs):
    """Reason why a case is not run, or an empty string."""
    if costs.get(case.network) is None:
        return "not installed"
    if case.precision == "bf16" and not native_bf16():
        return "not measured; this CPU has no native bf16"
    if case.execution == "compiled" and (quick or case.network != "m2ost_tiny" or case.mode == "training"):
        return "not measured; on a CPU only inference of `m2ost_tiny` is compiled (with `--full`)"
    return ""


def native_bf16():
    """Whether this CPU has native bfloat16 instructions."""
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "bf16" in flags.read_text()


def all_cases():
    """All cases, in the order of the table."""
    for mode in ("inference", "training"):
        yield Case(network=PLAIN, mode=mode)
        for name, precision, execution in itertools.product([*OURS, *OTHERS], PRECISIONS, ["eager", "compiled"]):
            if execution == "eager" or name in OURS:
                yield Case(network=name, mode=mode, precision=precision, execution=execution)


def speed_over_plain(found):
    """Speed of m2ost divided by that of the plain version of the same round."""
    plain = {case.mode: values for case, values in found.items() if case.network == PLAIN}
    rows = []
    for case, values in found.items():
        if case.network == "m2ost":
            ratios = [ours[1] / theirs[1] for ours, theirs in zip(values, plain[case.mode], strict=True)]
            row = {"mode": case.mode, "precision": case.precision, "execution": case.execution}
            rows.append({**row, "ratio": median_range(ratios)})
    return rows


def measure_all(*, quick):
    """Measure all cases on the CPU."""
    costs = {name: size_and_cost(name) for name in (*OURS, *OTHERS)}
    costs[PLAIN] = costs["m2ost"]
    n = 8 if quick else 16
    cases = list(all_cases())
    skipped = {case: reason_to_skip(case, quick, costs) for case in cases}
    found = {}
    for mode, n_rounds in (("inference", 3 if quick else 5), ("training", 2 if quick else 3)):
        chosen = [case for case in cases if case.mode == mode and not skipped[case]]
        found |= measure_rounds(chosen, n, n_rounds, "cpu", costs)
    rows = []
    for case in cases:
        row = {"network": case.network, "mode": case.mode, "precision": case.precision, "execution": case.execution}
        values = found.get(case)
        if values is None:
            rows.append(row | {"skipped": skipped[case]})
        else:
            shares, speeds = zip(*values, strict=True)
            rows.append(row | {"share": median_range(shares), "spots_per_s": median_range(speeds)})
    sizes = {name: {"parameters": c[0], "macs": c[1]} for name, c in costs.items() if c and name != PLAIN}
    return {**run_info(), "batch": n, "networks": sizes, "rows": rows, "over_plain": speed_over_plain(found)}


def run_info():
    """Date, device and versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": cpu,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_gflops": {"fp32": round(matrix_rate("fp32", "cpu") / 1e9, 1)},
    }


def format_range(values, digits):
    """Format median (minimum to maximum)."""
    median, least, most = (f"{value:.{digits}f}" for value in values)
    return f"{median} ({least} to {most})"


def skipped_lines(rows):
    """One line for each combination of precision and execution that was not measured, with the reason."""
    found = {}
    for row in rows:
        if "skipped" in row:
            found.setdefault((row["precision"], row["execution"], row["skipped"]), {})[row["network"]] = None
    return [f"{precision}, {run}: {', '.join(names)}: {why}." for (precision, run, why), names in found.items()]


def table(results):
    """Format the results as lines of the page."""
    lines = [
        f"{results['date']}; {results['device']} ({results['capability']}, {results['threads']} threads), torch",
        f"{results['torch']}; batches of {results['batch']} spots; peak of matrix products (one run), GFLOP/s: "
        + ", ".join(f"{value} {name}" for name, value in results["peak_gflops"].items())
        + ".",
        "",
        "| network | parameters | GMAC per spot |",
        "|---|---|---|",
        *(f"| {name} | {x['parameters']:,} | {x['macs'] / 1e9:.2f} |" for name, x in results["networks"].items()),
        "",
        "| network | mode | precision | execution | share of the matrix peak | spots/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        if "share" in row:
            label = " | ".join(row[key] for key in ("network", "mode", "precision", "execution"))
            lines.append(f"| {label} | {format_range(row['share'], 2)} | {format_range(row['spots_per_s'], 1)} |")
    lines += ["", *(f"- {line}" for line in skipped_lines(results["rows"]))]
    lines += ["", "Speed of `m2ost` divided by that of `m2ost, plain` in fp32, within rounds:", ""]
    for row in results["over_plain"]:
        lines.append(f"- {row['mode']}, {row['precision']}, {row['execution']}: {format_range(row['ratio'], 2)}")
    return lines


def markdown(results):
    """Format the results as a page."""
    lines = [
        "# Speed of the networks",
        "",
        "Made by `python benchmarks/network.py`. Medians (minimum to maximum) over rounds in which the networks",
        "alternate. The share of the matrix peak is the rate of operations divided by that of a large matrix product",
        "of the same precision, measured before and after. Operations are counted from the architecture, including",
        "attention; a training step counts as three forward passes. `m2ost, plain` is the same network with attention",
        "as two matrix products and a softmax. DenseNet-121 and ViT-B/16 process one patch per spot, M2OST three.",
        "",
    ]
    return "\n".join([*lines, "## CPU", "", *table(results["cpu"]), ""])


def main():
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more rounds, larger batches and a compiled network")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    results = {"cpu": measure_all(quick=not arguments.full)}
    (arguments.out / "network.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "network.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
