"""`gpu.md`, written from `gpu.json` and from nothing else. What has no figure says "not measured"."""

from __future__ import annotations

import statistics

from .cases import ENCODED, PLAIN, compiled_groups, eager_groups

NOT_MEASURED = "not measured"
TRIAL = "**A trial with tiny sizes on a CPU: these figures say nothing about a GPU.**"
SPLIT = "<!-- scores from here: read by docs/results.md; what is above by docs/speed.md -->"
PRESENT, PAPER = "present recipe", "paper's recipe"
TRAINED = (
    *(("CP10k", PRESENT, seed) for seed in range(3)), ("CP10k", PAPER, 0),
    *(("panel CPM", PRESENT, seed) for seed in range(3)), ("panel CPM", PAPER, 0),
)  # fmt: skip
SCORES = ("gene_pearson", "gene_pearson_top50", "best50", "spot_pearson", "rmse")


def page(results):
    """The page as text."""
    steps = results["steps"]
    lines = [
        "# Speed on a GPU",
        "",
        "Made by `python benchmarks/gpu.py`; `python benchmarks/gpu.py --page-only` writes this page from `gpu.json`.",
        "Rates are medians over rounds, with least and most in brackets.",
        "",
        *section("Targets", targets(steps)),
        *section("Tests on the GPU", step_lines(steps, "tests", tests)),
        *section("What the device can do", step_lines(steps, "ceilings", ceilings)),
        *section("Networks", networks(steps)),
        *section("From end to end", step_lines(steps, "end_to_end", end_to_end)),
        *section("A frozen ViT-g", step_lines(steps, "encoder", encoder)),
        *section("Changes made by these figures", notes(results.get("notes", []))),
        SPLIT,
        "",
        "# `m2ost` trained on a GPU",
        "",
        *training(steps),
    ]
    return "\n".join(lines).rstrip() + "\n"


def section(title, lines):
    """A heading with lines below it."""
    return [f"## {title}", "", *lines, ""]


def step_lines(steps, name, render):
    """Where and when a step was run, and what it found."""
    entry = steps.get(name)
    return [*origin(entry), *render(found(entry))]


def found(entry):
    """The result of a step, which may be partial, or nothing."""
    return (entry or {}).get("result") or {}


def origin(entry):
    """Device, date and versions of a step, and why it is not whole."""
    if entry is None:
        return []
    versions = ", ".join(f"{name} {value}" for name, value in entry["versions"].items() if value)
    at = f" at revision {entry['revision']}" if entry["revision"] else ""
    lines = [TRIAL, ""] if entry["small"] else []
    lines += [f"{entry['device']}, {entry['date']}; {versions}{at}."]
    if entry["state"] != "done":
        lines += [f"This step is not whole ({entry['state']}): {entry['reason']}."]
    elif entry["reason"]:
        lines += [f"Left out: {entry['reason']}."]
    return [*lines, ""]


def table(head, rows, n_text=1):
    """A table; the first columns are text, the others numbers."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * n_text}{'--:|' * (len(head) - n_text)}"]
    return [*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)]


def spread(values, digits=2):
    """Median with least and most, or "not measured"."""
    if values is None:
        return NOT_MEASURED
    median, least, most = (f"{value:,.{digits}f}" for value in values)
    return f"{median} ({least} to {most})"


def number(value, form="{:.2f}"):
    """A number, or "not measured"."""
    return NOT_MEASURED if value is None else form.format(value)


def reason(row):
    """Why a row has no figure."""
    return (
        f"{NOT_MEASURED}: {row.get('left_out') or row['failed']}"
        if row.keys() & {"left_out", "failed"}
        else NOT_MEASURED
    )


def targets(steps):
    """What was aimed at, and what was reached."""
    rows = [
        ("inference of `m2ost`, share of the bf16 matrix product", 0.35, best_row(steps, "inference", "share")),
        ("training of `m2ost`, share of the bf16 matrix product", 0.25, best_row(steps, "training", "share")),
        ("inference of `m2ost`, times plain fp32", 10.0, best_row(steps, "inference", "over_plain")),
        ("training of `m2ost`, times plain fp32", 10.0, best_row(steps, "training", "over_plain")),
        *(end_to_end_target(steps, source) for source in ("memory", "zarr")),
    ]
    judged = [(what, f"{least:g}", number(value), verdict(value, least)) for what, least, value in rows]
    lines = ["The best of all ways to run the network. `m2ost, plain` has attention as two products in fp32.", ""]
    return [*lines, *table(("", "target", "found", ""), judged)]


def verdict(value, least):
    """Whether a target is reached."""
    return NOT_MEASURED if value is None else ("reached" if value >= least else "missed")


def best_row(steps, mode, key):
    """The best median of `m2ost` in bf16 on a GPU; None where there is none."""
    measured = [
        row[key][0]
        for name in ("networks", "compiled")
        if name in steps and not steps[name]["small"]
        for row in found(steps[name]).get("rows", [])
        if (row["network"], row["mode"], row["precision"]) == ("m2ost", mode, "bf16") and key in row
    ]
    return max(measured, default=None)


def end_to_end_target(steps, source):
    """What a prediction reaches of the part that limits it; no figure where it was not measured on a GPU."""
    entry = steps.get("end_to_end")
    row = None if entry is None or entry["small"] else found(entry).get("predict", {}).get(f"m2ost, {source}")
    what = f"prediction with `m2ost` from {source}, share of what"
    if row is None:
        return f"{what} limits it alone", 0.8, None
    return f"{what} limits it alone ({row['limit']})", 0.8, row["share_of_limit"][0]


def tests(result):
    """How `pytest -m gpu` went."""
    if "passed" not in result:
        return [f"`pytest -m gpu`: {NOT_MEASURED}."]
    lines = [f"`pytest -m gpu`: {result['passed']} passed, {result['failed']} failed, {result['skipped']} skipped."]
    return [*lines, *(["", *(f"- failed: `{name}`" for name in result["failures"])] if result["failures"] else [])]


def ceilings(result):
    """Matrix products and copies."""
    products, copied = result.get("matrix_tflops", {}), result.get("copy_gb_per_s", {})
    places = (
        "within the device (read and write)",
        "from pinned memory to the device",
        "from pageable memory to the device",
    )
    rows = [(f"matrix product, {name}, TFLOP/s", spread(products.get(name), 1)) for name in ("bf16", "tf32", "fp32")]
    return table(("", "found"), rows + [(f"copy {place}, GB/s", spread(copied.get(place), 1)) for place in places])


def networks(steps):
    """All rows of both steps, with their sizes."""
    lines, rows, sizes = [], {}, {}
    for name in ("networks", "compiled"):
        lines += origin(steps.get(name))
        result = found(steps.get(name))
        sizes |= result.get("networks", {})
        rows |= {(name, *key_of(row)): row for row in result.get("rows", [])}
    lines += [
        "The share is of a large matrix product of the same precision, measured right before and after. Operations are",
        "counted as the architecture has them, attention included; a training step counts as three forward passes.",
        "DenseNet-121 and ViT-B/16 see one patch of a spot, ours three.",
        "",
    ]
    known = [(name, f"{x['parameters']:,}", f"{x['macs'] / 1e9:.2f}") for name, x in sizes.items() if x]
    if known:
        lines += [*table(("network", "parameters", "GMAC a spot"), known), ""]
    body = []
    for step, groups in (("networks", eager_groups()), ("compiled", compiled_groups())):
        for group, (case, batch) in ((some, pair) for some in groups for pair in some):
            if step == "compiled" and case.network == PLAIN:
                continue  # measured there too, but only to be compared with
            row = rows.get((step, case.network, case.mode, case.precision, case.execution, batch), {})
            share = spread(row["share"]) if "share" in row else reason(row)
            compared = case.network != PLAIN and any(other.network == PLAIN for other, _ in group)
            body.append((
                case.network, case.mode, case.precision, case.execution, row.get("batch", batch), share,
                spread(row.get("spots_per_s"), 0), spread(row.get("over_plain"), 1) if compared else "",
            ))  # fmt: skip
    head = ("network", "", "precision", "run", "batch", "share of the matrix product", "spots/s", "times plain fp32")
    return lines + table(head, body, n_text=4)


def key_of(row):
    """What identifies a row."""
    return tuple(row[key] for key in ("network", "mode", "precision", "execution", "planned_batch"))


def end_to_end(result):
    """Fit and predict, their parts, and memory."""
    lines = [f"Generated tissue: {result['slide']}." if "slide" in result else "Generated tissue."]
    lines += [
        "Predictions are not written into a table. The limit is the slowest of reading, transfer and network alone.",
        "",
    ]
    names = [f"{model}, {source}" for model in ("m2ost", "m2ost_tiny") for source in ("memory", "zarr")]
    head = (
        "prediction, spots/s",
        "whole",
        "reading",
        "transfer",
        "network",
        "limit",
        "share of it",
        "batch",
        "GPU, MiB",
    )
    body = []
    for name in names:
        row = result.get("predict", {}).get(name, {})
        rates = row.get("spots_per_s", {})
        cells = [spread(rates.get(part), 0) for part in ("predict", "reading", "transfer", "network")]
        cells += [row.get("limit", NOT_MEASURED), spread(row.get("share_of_limit"))]
        body.append((name, *cells, row.get("batch", NOT_MEASURED), row.get("gpu_mib", NOT_MEASURED)))
    lines += [*table(head, body), ""]
    head = ("fit, from memory", "whole, s", "reading, s", "epochs, s", "epoch, spots/s", "transfer", "network", "limit",
            "share of it", "GPU, MiB")  # fmt: skip
    body = []
    for name in ("m2ost", "m2ost_tiny"):
        row = result.get("fit", {}).get(name, {})
        alone = row.get("alone_spots_per_s", {})
        cells = [number(row.get(key), "{:.1f}") for key in ("total_s", "reading_s", "epochs_s")]
        cells += [spread(row.get("epoch_spots_per_s"), 0)]
        cells += [number(alone.get(part), "{:.0f}") for part in ("transfer", "network")]
        cells += [row.get("limit", NOT_MEASURED), number(row.get("share_of_limit")), row.get("gpu_mib", NOT_MEASURED)]
        body.append((name, *cells))
    lines += [*table(head, body), "", *out_of_memory(result.get("out_of_memory", {}))]
    parts = [row for kind in ("fit", "predict") for row in result.get(kind, {}).values()]
    return [
        *lines,
        f"- Largest memory of the process, MiB: {max((row['process_mib'] for row in parts), default=NOT_MEASURED)}.",
    ]


def out_of_memory(result):
    """What happened where memory ran out."""
    lines = []
    predicted, trained = result.get("predict"), result.get("fit")
    if predicted and "failed" not in predicted:
        lines += [
            f"- Prediction where {predicted['tried']} spots do not fit: batches of {predicted['found']}. The largest",
            f"  difference is {predicted['largest_difference']:.2g}; predictions span",
            f"  {predicted['predicted_range']:.2g}.",
        ]
    else:
        lines += [f"- Prediction where memory runs out: {reason(predicted or {})}."]
    if trained and "failed" not in trained:
        lines += [
            f"- Training where {trained['batch']} spots do not fit: parts of {trained['largest_part']} at most; loss",
            f"  {trained['loss_when_halved']:.5f} where it is {trained['loss']:.5f} without the limit.",
        ]
    else:
        lines += [f"- Training where memory runs out: {reason(trained or {})}."]
    return lines


def encoder(result):
    """Speed of the frozen encoder."""
    rows = {(row["precision"], row["batch"]): row for row in result.get("rows", [])}
    lines = []
    if result.get("macs"):
        lines += [
            f"`{result['encoder']}`: {result['parameters']:,} parameters, {result['macs'] / 1e9:.0f} GMAC a patch.",
            "",
        ]
    body = []
    for key in dict.fromkeys([*ENCODED, *rows]):
        row = rows.get(key, {})
        share = spread(row["share"]) if "share" in row else reason(row)
        body.append((key[0], key[1], share, spread(row.get("spots_per_s"), 1)))
    return lines + table(("precision", "batch", "share of the matrix product", "patches/s"), body)


def notes(given):
    """What was changed by these figures: a prediction, the change, and the measurement after it."""
    return [f"- {note}" for note in given] or ["None yet: no change was made by figures of a GPU."]


def training(steps):
    """Scores of the trained network."""
    lines, rows = [], {}
    for name in ("training", "seeds"):
        lines += origin(steps.get(name))
        rows |= {(row["space"], row["recipe"], row["seed"]): row for row in found(steps.get(name)).get("rows", [])}
    lines += [
        "Full size, the network alone, trained on C2 to C4 of her2st and scored on C5 as in `her2st_c5.md`,",
        "which has the noise ceilings.",
        "",
        "- Present recipe: that of `stp.tl.fit`, nothing held out, at most 100 epochs or two minutes.",
        "- Paper's recipe: Adam at 1e-4, batches of 96 spots, the genes themselves as targets, no stain jitter, no",
        "  warm-up, no moving average. The betas (0.9, 0.99) and the cosine decay of the learning rate are ours.",
        "",
    ]
    body, baselines = [], {}
    for key in TRAINED:
        row = rows.get(key, {})
        cells = [number(row["scores"][name], "{:.3f}") if "scores" in row else "" for name in SCORES]
        cells[0] = cells[0] or reason(row)
        speed = spread(row.get("train_spots_per_s"), 0)
        body.append((key[0], key[1], key[2], row.get("epochs", NOT_MEASURED), speed, *cells))
        for name, values in row.get("baselines", {}).items():
            baselines.setdefault((key[0], name), values)
    body += [(space, name, "", "", "", *(number(values[score], "{:.3f}") for score in SCORES))
             for (space, name), values in baselines.items()]  # fmt: skip
    head = ("space", "", "seed", "epochs", "training, spots/s", "gene-wise PCC", "top 50 variable", "best 50",
            "spot-wise PCC", "RMSE a spot")  # fmt: skip
    return [*lines, *table(head, body, n_text=2), *between_seeds(rows)]


def between_seeds(rows):
    """Mean and standard deviation over seeds, where there are several."""
    lines = []
    for space in ("CP10k", "panel CPM"):
        values = [
            row["scores"]["gene_pearson"]
            for key, row in rows.items()
            if key[:2] == (space, PRESENT) and "scores" in row
        ]
        if len(values) > 1:
            mean, deviation = statistics.mean(values), statistics.stdev(values)
            lines += [
                f"- {space}, {len(values)} seeds of the present recipe: gene-wise PCC {mean:.3f} ± {deviation:.3f}."
            ]
    return ["", *lines] if lines else []
