"""How fast the networks are, as a share of what the machine can do at all.

    python benchmarks/network.py [--full] [--out benchmarks]

Every time is taken between two runs of a large matrix product in the same precision, and reported as a share of it;
networks take turns, several rounds, since times on shared machines mean little. About two minutes on
two cores, six with ``--full``. No downloads; DenseNet-121 and ViT-B/16 are rows where timm is installed. On a CPU;
`gpu.py` measures the same networks on a GPU.
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
    """A network of one image, on the narrowest patch of each spot."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, batch):
        """Predict."""
        return self.network(batch.patches[:, 0].float() / 255)

    def loss(self, batch):
        """Mean squared error."""
        return F.mse_loss(self(batch).float(), batch.targets)


def materialised(q, k, v, seen=None):
    """Attention as two products, with all scores in memory between them."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def build(name):
    """A network with random weights, or None where its package is not installed."""
    if name in OTHERS:
        try:
            import timm
        except ImportError:
            return None
        return OnePatch(timm.create_model(OTHERS[name], pretrained=False, num_classes=N_OUTPUTS))
    return models.build(models.config(name.split(",")[0], N_OUTPUTS))


def spots(name, n, device):
    """Random bytes of the size that a network takes."""
    size = 224 if name in OTHERS else models.config(name.split(",")[0], N_OUTPUTS).size_px
    return SpotBatch(
        patches=torch.randint(0, 256, (n, 3, 3, size, size), dtype=torch.uint8, device=device),
        xy_um=torch.zeros(n, 2, device=device),
        slide=torch.zeros(n, dtype=torch.int64, device=device),
        targets=torch.randn(n, N_OUTPUTS, device=device),
    )


def size_and_cost(name):
    """Parameters, and multiplications of one spot forward; counted on meta tensors, where attention is not hidden."""
    with torch.device("meta"):
        network = build(name)
    if network is None:
        return None
    with FlopCounterMode(display=False) as counter:  # in training mode: timm and torch have uncounted paths without
        network(spots(name, 2, "meta"))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2 / 2


def runner(case, n, device, backend="inductor"):
    """A function that does one batch of a case; ``backend`` compiles it, where it is compiled."""
    network, batch = build(case.network).to(device), spots(case.network, n, device)
    if case.execution != "eager":
        mode = "reduce-overhead" if case.execution == GRAPHS and backend == "inductor" else None
        entry = "loss" if case.mode == "training" else "forward"
        setattr(network, entry, torch.compile(getattr(network, entry), mode=mode, backend=backend))
    lower = case.precision != "fp32"
    precision = torch.autocast(device, PRECISIONS[case.precision]) if lower else nullcontext()
    attention = patch.object(m2ost, "attend", materialised) if case.network == PLAIN else nullcontext()
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
    """How long a function takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak(precision, device):
    """Operations a second in a large matrix product."""
    side, times = (8192, 10) if device == "cuda" else (2048, 2)
    x = torch.ones(side, side, device=device, dtype=PRECISIONS[precision])
    torch.mm(x, x)
    return 2 * side**3 * times / seconds(lambda: [torch.mm(x, x) for _ in range(times)], device)


def rounds_of(cases, n, n_rounds, device, costs):
    """Shares of the peak and spots a second of every case, by round; the cases take turns."""
    runners = {case: runner(case, n, device) for case in cases}
    for function in runners.values():
        seconds(function, device)
    found = {case: [] for case in cases}
    for _, case in itertools.product(range(n_rounds), cases):
        before = peak(case.precision, device)
        took = seconds(runners[case], device)
        best = (before + peak(case.precision, device)) / 2
        operations = 2 * n * costs[case.network][1] * (3 if case.mode == "training" else 1)
        found[case].append((operations / took / best, n / took))
    return found


def summary(values):
    """Median, least and most."""
    return [round(x, 4) for x in (statistics.median(values), min(values), max(values))]


def reason_to_skip(case, quick, costs):
    """Why a case is not run, or nothing."""
    if costs.get(case.network) is None:
        return "not installed"
    if case.precision == "bf16" and not native_bf16():
        return "not measured, this CPU has no native bf16"
    if case.execution == "compiled" and (quick or case.network != "m2ost_tiny" or case.mode == "training"):
        return "not measured; on a CPU only inference of `m2ost_tiny` is compiled, with --full"
    return ""


def native_bf16():
    """Whether this CPU multiplies bfloat16 by itself."""
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "bf16" in flags.read_text()


def all_cases():
    """Every row."""
    for mode in ("inference", "training"):
        yield Case(network=PLAIN, mode=mode)
        for name, precision, execution in itertools.product([*OURS, *OTHERS], PRECISIONS, ["eager", "compiled"]):
            if execution == "eager" or name in OURS:
                yield Case(network=name, mode=mode, precision=precision, execution=execution)


def over_plain(found):
    """Spots a second of m2ost over those of the plain version, round by round."""
    plain = {case.mode: values for case, values in found.items() if case.network == PLAIN}
    rows = []
    for case, values in found.items():
        if case.network == "m2ost":
            ratios = [ours[1] / theirs[1] for ours, theirs in zip(values, plain[case.mode], strict=True)]
            row = {"mode": case.mode, "precision": case.precision, "execution": case.execution}
            rows.append({**row, "ratio": summary(ratios)})
    return rows


def measure(*, quick):
    """Everything, on the CPU."""
    costs = {name: size_and_cost(name) for name in (*OURS, *OTHERS)}
    costs[PLAIN] = costs["m2ost"]
    n = 8 if quick else 16
    cases = list(all_cases())
    skipped = {case: reason_to_skip(case, quick, costs) for case in cases}
    found = {}
    for mode, n_rounds in (("inference", 3 if quick else 5), ("training", 2 if quick else 3)):
        chosen = [case for case in cases if case.mode == mode and not skipped[case]]
        found |= rounds_of(chosen, n, n_rounds, "cpu", costs)
    rows = []
    for case in cases:
        row = {"network": case.network, "mode": case.mode, "precision": case.precision, "execution": case.execution}
        values = found.get(case)
        if values is None:
            rows.append(row | {"skipped": skipped[case]})
        else:
            shares, speeds = zip(*values, strict=True)
            rows.append(row | {"share": summary(shares), "spots_per_s": summary(speeds)})
    sizes = {name: {"parameters": c[0], "macs": c[1]} for name, c in costs.items() if c and name != PLAIN}
    return {**about(), "batch": n, "networks": sizes, "rows": rows, "over_plain": over_plain(found)}


def about():
    """Where and when."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": cpu,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_gflops": {"fp32": round(peak("fp32", "cpu") / 1e9, 1)},
    }


def spread(values, digits):
    """Median, with least and most behind it, as text."""
    median, least, most = (f"{value:.{digits}f}" for value in values)
    return f"{median} ({least} to {most})"


def left_out(rows):
    """One line for every precision and way to run that something kept from being measured."""
    found = {}
    for row in rows:
        if "skipped" in row:
            found.setdefault((row["precision"], row["execution"], row["skipped"]), {})[row["network"]] = None
    return [f"{precision}, {run}: {', '.join(names)}: {why}." for (precision, run, why), names in found.items()]


def table(results):
    """The results as lines of a page."""
    lines = [
        f"{results['date']}; {results['device']} ({results['capability']}, {results['threads']} threads), torch",
        f"{results['torch']}; {results['batch']} spots a batch; matrix peak in GFLOP/s, one run: "
        + ", ".join(f"{value} {name}" for name, value in results["peak_gflops"].items())
        + ".",
        "",
        "| network | parameters | GMAC a spot |",
        "|---|---|---|",
        *(f"| {name} | {x['parameters']:,} | {x['macs'] / 1e9:.2f} |" for name, x in results["networks"].items()),
        "",
        "| network | | precision | run | share of the matrix peak | spots/s |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        if "share" in row:
            label = " | ".join(row[key] for key in ("network", "mode", "precision", "execution"))
            lines.append(f"| {label} | {spread(row['share'], 2)} | {spread(row['spots_per_s'], 1)} |")
    lines += ["", *(f"- {line}" for line in left_out(results["rows"]))]
    lines += ["", "Spots a second of `m2ost` over `m2ost, plain` in fp32, round by round:", ""]
    for row in results["over_plain"]:
        lines.append(f"- {row['mode']}, {row['precision']}, {row['execution']}: {spread(row['ratio'], 2)}")
    return lines


def markdown(results):
    """The results as a page."""
    lines = [
        "# Speed of the networks",
        "",
        "Made by `python benchmarks/network.py`. Median, least and most over rounds in which the networks take turns.",
        "The share is of a large matrix product of the same precision, run right before and after. Operations are",
        "counted as the architecture has them, attention included; a training step counts as three forward passes.",
        "`m2ost, plain` is the same network with attention as two products and a softmax between them.",
        "DenseNet-121 and ViT-B/16 see one patch of a spot, ours three.",
        "",
    ]
    return "\n".join([*lines, "## CPU", "", *table(results["cpu"]), ""])


def main():
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more rounds, larger batches, a compiled network")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    results = {"cpu": measure(quick=not arguments.full)}
    (arguments.out / "network.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "network.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
