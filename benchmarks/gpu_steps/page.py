"""Write `gpu.md` from `gpu.json` alone. A value that is missing is shown as "not measured"."""

from __future__ import annotations

import statistics

from .cases import ENCODED, PLAIN, compiled_groups, eager_groups

NOT_MEASURED = "not measured"
TRIAL = "**A trial with tiny sizes on a CPU: these figures are not those of a GPU.**"
SPLIT = "<!-- scores from here: included by docs/results/her2st.md; the part above by docs/speed.md -->"
PRESENT, PAPER = "present recipe", "paper's recipe"
TRAINED = (
    *(("CP10k", PRESENT, seed) for seed in range(3)), ("CP10k", PAPER, 0),
    *(("panel CPM", PRESENT, seed) for seed in range(3)), ("panel CPM", PAPER, 0),
)  # fmt: skip
SCORES = ("gene_pearson", "gene_pearson_top50", "best50", "spot_pearson", "rmse")


def page(results):
    """Format the results as a page."""
    steps = results["steps"]
    lines = [
        "# Speed on a GPU",
        "",
        "Made by `python benchmarks/gpu.py`; `python benchmarks/gpu.py --page-only` writes this page from `gpu.json`.",
        "Rates are medians over rounds, with minimum and maximum in brackets.",
        "",
        *section("Targets", targets(steps)),
        *section("Tests on the GPU", step_lines(steps, "tests", tests)),
        *section("Peak rates of the device", step_lines(steps, "ceilings", ceilings)),
        *section("Networks", networks(steps)),
        *section("Training and prediction", step_lines(steps, "end_to_end", end_to_end)),
        *section("A frozen ViT-g", step_lines(steps, "encoder", encoder)),
        *section("Changes based on these figures", notes(results.get("notes", []))),
        SPLIT,
        "",
        "# `m2ost` trained on a GPU",
        "",
        *training(steps),
    ]
    return "\n".join(lines).rstrip() + "\n"


def section(title, lines):
    """A heading and the lines below it."""
    return [f"## {title}", "", *lines, ""]


def step_lines(steps, name, render):
    """Device and date of a step, and its results."""
    entry = steps.get(name)
    return [f"{NOT_MEASURED.capitalize()}."] if entry is None else [*origin(entry), *render(result_of(entry))]


def result_of(entry):
    """The results of a step, which may be partial or empty."""
    return (entry or {}).get("result") or {}


def origin(entry):
    """Device, date and versions of a step, and why it is incomplete."""
    if entry is None:
        return []
    versions = ", ".join(f"{name} {value}" for name, value in entry["versions"].items() if value)
    at = f" at revision {entry['revision']}" if entry["revision"] else ""
    lines = [TRIAL, ""] if entry["small"] else []
    lines += [f"{entry['device']}, {entry['date']}; {versions}{at}."]
    if entry["state"] != "done":
        lines += [f"This step is incomplete ({entry['state']}): {entry['reason']}."]
    elif entry["reason"]:
        lines += [f"Not measured: {entry['reason']}."]
    return [*lines, ""]


def table(head, rows, n_text=1):
    """A table; the first ``n_text`` columns are text, the others numbers."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * n_text}{'--:|' * (len(head) - n_text)}"]
    return [*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)]


def format_range(values, digits=2):
    """Format median (minimum to maximum), or "not measured"."""
    if values is None:
        return NOT_MEASURED
    median, least, most = (f"{value:,.{digits}f}" for value in values)
    return f"{median} ({least} to {most})"


def number(value, form="{:.2f}"):
    """Format a number, or "not measured"."""
    return NOT_MEASURED if value is None else form.format(value)


def reason(row):
    """The reason why a row has no value."""
    return (
        f"{NOT_MEASURED}: {row.get('left_out') or row['failed']}"
        if row.keys() & {"left_out", "failed"}
        else NOT_MEASURED
    )


def targets(steps):
    """Targets and measured values."""
    rows = [
        ("inference of `m2ost`, share of the bf16 matrix product", 0.35, best_row(steps, "inference", "share")),
        ("training of `m2ost`, share of the bf16 matrix product", 0.25, best_row(steps, "training", "share")),
        ("inference of `m2ost`, speed relative to plain fp32", 10.0, best_row(steps, "inference", "over_plain")),
        ("training of `m2ost`, speed relative to plain fp32", 10.0, best_row(steps, "training", "over_plain")),
        *(end_to_end_target(steps, source) for source in ("memory", "zarr")),
    ]
    judged = [(what, f"{least:g}", number(value), verdict(value, least)) for what, least, value in rows]
    lines = [
        "Values are the best of all ways to run the network. `m2ost, plain` runs attention as two matrix products in",
        "fp32. The bottleneck of a prediction is the slowest of reading, transfer and network alone.",
        "",
    ]
    return [*lines, *table(("", "target", "measured", ""), judged)]


def verdict(value, least):
    """Whether a target was reached."""
    return NOT_MEASURED if value is None else ("reached" if value >= least else "missed")


def best_row(steps, mode, key):
    """The best median of `m2ost` in bf16 on a GPU, or None."""
    measured = [
        row[key][0]
        for name in ("networks", "compiled")
        if name in steps and not steps[name]["small"]
        for row in result_of(steps[name]).get("rows", [])
        if (row["network"], row["mode"], row["precision"]) == ("m2ost", mode, "bf16") and key in row
    ]
    return max(measured, default=None)


def end_to_end_target(steps, source):
    """Speed of a prediction relative to its bottleneck; None if it was not measured on a GPU."""
    entry = steps.get("end_to_end")
    row = None if entry is None or entry["small"] else result_of(entry).get("predict", {}).get(f"m2ost, {source}")
    what = f"prediction with `m2ost` from {source}, speed relative to its bottleneck"
    if row is None:
        return what, 0.8, None
    return f"{what} ({row['limit']})", 0.8, row["share_of_limit"][0]


def tests(result):
    """Results of `pytest -m gpu`."""
    if "passed" not in result:
        return [f"`pytest -m gpu`: {NOT_MEASURED}."]
    lines = [f"`pytest -m gpu`: {result['passed']} passed, {result['failed']} failed, {result['skipped']} skipped."]
    return [*lines, *(["", *(f"- failed: `{name}`" for name in result["failures"])] if result["failures"] else [])]


def ceilings(result):
    """Rates of matrix products and copies."""
    products, copied = result.get("matrix_tflops", {}), result.get("copy_gb_per_s", {})
    places = (
        "within the device (read and write)",
        "from pinned memory to the device",
        "from pageable memory to the device",
    )
    rows = [
        *(
            (f"matrix product, {name}, TFLOP/s", format_range(products.get(name), 1))
            for name in ("bf16", "tf32", "fp32")
        ),
        *((f"copy {place}, GB/s", format_range(copied.get(place), 1)) for place in places),
    ]
    return table(("", "measured"), rows)


def networks(steps):
    """All networks of both steps, with their sizes."""
    if not steps.keys() & {"networks", "compiled"}:
        return [f"{NOT_MEASURED.capitalize()}."]
    lines, rows, sizes = [], {}, {}
    for name in ("networks", "compiled"):
        lines += origin(steps.get(name))
        result = result_of(steps.get(name))
        sizes |= result.get("networks", {})
        rows |= {(name, *key_of(row)): row for row in result.get("rows", [])}
    lines += [
        "The share of the matrix product is the rate of operations divided by that of a large matrix product of the",
        "same precision, measured before and after. Operations are counted from the architecture, including attention;",
        "a training step counts as three forward passes. DenseNet-121 and ViT-B/16 process one patch per spot, M2OST",
        "three.",
        "",
    ]
    known = [(name, f"{x['parameters']:,}", f"{x['macs'] / 1e9:.2f}") for name, x in sizes.items() if x]
    if known:
        lines += [*table(("network", "parameters", "GMAC per spot"), known), ""]
    body = []
    for step, groups in (("networks", eager_groups()), ("compiled", compiled_groups())):
        for group, (case, batch) in ((some, pair) for some in groups for pair in some):
            if step == "compiled" and case.network == PLAIN:
                continue  # measured there too, but only as the reference
            row = rows.get((step, case.network, case.mode, case.precision, case.execution, batch), {})
            share = format_range(row["share"]) if "share" in row else reason(row)
            compared = case.network != PLAIN and any(other.network == PLAIN for other, _ in group)
            body.append((
                case.network, case.mode, case.precision, case.execution, row.get("batch", batch), share,
                format_range(row.get("spots_per_s"), 0), format_range(row.get("over_plain"), 1) if compared else "",
            ))  # fmt: skip
    head = ("network", "mode", "precision", "execution", "batch", "share of the matrix product", "spots/s",
            "relative to plain fp32")  # fmt: skip
    return lines + table(head, body, n_text=4)


def key_of(row):
    """Key of a row."""
    return tuple(row[key] for key in ("network", "mode", "precision", "execution", "planned_batch"))


def end_to_end(result):
    """Fit and predict, their parts, and peak memory."""
    lines = [f"Generated tissue: {result['slide']}." if "slide" in result else "Generated tissue."]
    lines += [
        "Predictions are not written to a table. The bottleneck is the slowest of reading, transfer and network alone.",
        "",
    ]
    names = [f"{model}, {source}" for model in ("m2ost", "m2ost_tiny") for source in ("memory", "zarr")]
    head = (
        "prediction, spots/s",
        "total",
        "reading",
        "transfer",
        "network",
        "bottleneck",
        "relative to it",
        "batch",
        "GPU, MiB",
    )
    body = []
    for name in names:
        row = result.get("predict", {}).get(name, {})
        rates = row.get("spots_per_s", {})
        cells = [format_range(rates.get(part), 0) for part in ("predict", "reading", "transfer", "network")]
        cells += [row.get("limit", NOT_MEASURED), format_range(row.get("share_of_limit"))]
        body.append((name, *cells, row.get("batch", NOT_MEASURED), row.get("gpu_mib", NOT_MEASURED)))
    lines += [*table(head, body), ""]
    head = ("fit, from memory", "total, s", "reading, s", "epochs, s", "epoch, spots/s", "transfer", "network",
            "bottleneck", "relative to it", "GPU, MiB")  # fmt: skip
    body = []
    for name in ("m2ost", "m2ost_tiny"):
        row = result.get("fit", {}).get(name, {})
        alone = row.get("alone_spots_per_s", {})
        cells = [number(row.get(key), "{:.1f}") for key in ("total_s", "reading_s", "epochs_s")]
        cells += [format_range(row.get("epoch_spots_per_s"), 0)]
        cells += [number(alone.get(part), "{:.0f}") for part in ("transfer", "network")]
        cells += [row.get("limit", NOT_MEASURED), number(row.get("share_of_limit")), row.get("gpu_mib", NOT_MEASURED)]
        body.append((name, *cells))
    lines += [*table(head, body), "", *out_of_memory(result.get("out_of_memory", {}))]
    parts = [row for kind in ("fit", "predict") for row in result.get(kind, {}).values()]
    return [
        *lines,
        f"- Peak memory of the process, MiB: {max((row['process_mib'] for row in parts), default=NOT_MEASURED)}.",
    ]


def out_of_memory(result):
    """Handling of out-of-memory errors."""
    lines = []
    predicted, trained = result.get("predict"), result.get("fit")
    if predicted and "failed" not in predicted:
        lines += [
            f"- Prediction if {predicted['tried']} spots do not fit the memory: batches of {predicted['found']}. The",
            f"  largest difference is {predicted['largest_difference']:.2g}; the range of predictions is",
            f"  {predicted['predicted_range']:.2g}.",
        ]
    else:
        lines += [f"- Prediction if memory runs out: {reason(predicted or {})}."]
    if trained and "failed" not in trained:
        lines += [
            f"- Training if {trained['batch']} spots do not fit the memory: parts of at most {trained['largest_part']}",
            f"  spots. The loss is {trained['loss_when_halved']:.5f}, and {trained['loss']:.5f} without the limit.",
        ]
    else:
        lines += [f"- Training if memory runs out: {reason(trained or {})}."]
    return lines


def encoder(result):
    """Speed of the frozen encoder."""
    rows = {(row["precision"], row["batch"]): row for row in result.get("rows", [])}
    lines = []
    if result.get("macs"):
        lines += [
            f"`{result['encoder']}`: {result['parameters']:,} parameters, {result['macs'] / 1e9:.0f} GMAC per patch.",
            "",
        ]
    body = []
    for key in dict.fromkeys([*ENCODED, *rows]):
        row = rows.get(key, {})
        share = format_range(row["share"]) if "share" in row else reason(row)
        body.append((key[0], key[1], share, format_range(row.get("spots_per_s"), 1)))
    return lines + table(("precision", "batch", "share of the matrix product", "patches/s"), body)


def notes(given):
    """Changes based on these figures: prediction, change, and the measurement after it."""
    return [f"- {note}" for note in given] or ["None yet."]


def training(steps):
    """Scores of the trained network."""
    lines, rows = [], {}
    for name in ("training", "seeds"):
        lines += origin(steps.get(name))
        rows |= {(row["space"], row["recipe"], row["seed"]): row for row in result_of(steps.get(name)).get("rows", [])}
    lines += [
        "The full-size network alone, trained on C2 to C4 of her2st and scored on C5 as in `her2st_c5.md`, which has",
        "the noise ceilings.",
        "",
        "- Present recipe: the default of `stp.tl.fit`, without validation slides, for at most 100 epochs or two",
        "  minutes.",
        "- Paper's recipe: Adam with learning rate 1e-4, batches of 96 spots, genes (not components) as targets, no",
        "  stain jitter, no warm-up, no moving average. The betas (0.9, 0.99) and the cosine decay of the learning",
        "  rate are those of `stp.tl.fit`.",
        "",
    ]
    if not steps.keys() & {"training", "seeds"}:
        return [*lines, f"{NOT_MEASURED.capitalize()}."]
    body, baselines = [], {}
    for key in TRAINED:
        row = rows.get(key, {})
        cells = [number(row["scores"][name], "{:.3f}") if "scores" in row else "" for name in SCORES]
        cells[0] = cells[0] or reason(row)
        speed = format_range(row.get("train_spots_per_s"), 0)
        body.append((key[0], key[1], key[2], row.get("epochs", NOT_MEASURED), speed, *cells))
        for name, values in row.get("baselines", {}).items():
            baselines.setdefault((key[0], name), values)
    body += [(space, name, "", "", "", *(number(values[score], "{:.3f}") for score in SCORES))
             for (space, name), values in baselines.items()]  # fmt: skip
    head = ("space", "recipe", "seed", "epochs", "training, spots/s", "gene-wise PCC", "top 50 variable", "best 50",
            "spot-wise PCC", "RMSE per spot")  # fmt: skip
    return [*lines, *table(head, body, n_text=2), *seed_lines(rows)]


def seed_lines(rows):
    """Mean and standard deviation over seeds, if there are several."""
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
