"""Peak rates of the device: matrix products in three precisions, copies within the device and to it."""

from __future__ import annotations

import torch

from . import timing


def run(options, save):
    """Measure matrix products and copies, medians of five rounds."""
    n_rounds = 2 if options.small else 5
    result = {"matrix_tflops": {}, "copy_gb_per_s": {}}
    for precision in timing.DTYPES:
        rates = [timing.matrix_rate(precision, small=options.small) / 1e12 for _ in range(n_rounds)]
        result["matrix_tflops"][precision] = timing.median_range(rates)
        save(result)
    for name, (task, n_bytes) in copies(options.small).items():
        task()
        rates = [n_bytes / timing.seconds(task) / 1e9 for _ in range(n_rounds)]
        result["copy_gb_per_s"][name] = timing.median_range(rates)
        save(result)
    return result


def copies(small):
    """Copies by name, with the bytes that each moves; within the device every byte is read and written."""
    n = 1 << (20 if small else 30)
    source = torch.zeros(n, dtype=torch.uint8, device=timing.device())
    found = {"within the device (read and write)": (source.clone, 2 * n)}
    if torch.cuda.is_available():
        pinned, pageable = torch.zeros(n, dtype=torch.uint8).pin_memory(), torch.zeros(n, dtype=torch.uint8)
        found["from pinned memory to the device"] = (lambda: source.copy_(pinned, non_blocking=True), n)
        found["from pageable memory to the device"] = (lambda: source.copy_(pageable), n)
    return found
