"""Speed of a ViT-g/14 with random weights as frozen encoder of `stpredict`."""

from __future__ import annotations

import statistics
import time
from importlib.util import find_spec

import torch

from stpredict import models

from . import timing
from .cases import ENCODED
from .package import macs
from .record import reason_of

NAME, SIZE_PX = "vit_giant_patch14_dinov2", 224
SMALL_NAME, SMALL_PX = "test_vit", 32


def run(options, save):
    """Patches per second, and share of the rate of matrix products, in bf16 and fp32."""
    if find_spec("timm") is None:
        return {"left_out": "timm is not installed"}
    name, size_px = (SMALL_NAME, SMALL_PX) if options.small else (NAME, SIZE_PX)
    shape = models.config("encoder_ridge", 5, {"encoder": name, "fov_spots": (2.0,), "size_px": size_px})
    with torch.device(timing.device()):  # drawing a billion random weights is faster on a GPU
        model = models.build(shape)
    model = model.to(timing.device()).eval()
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    result = {"encoder": name, "parameters": n_parameters, "macs": macs(shape), "rows": []}
    for precision, batch in ENCODED:
        row = {"precision": precision, "batch": 2 if options.small else batch}
        if time.monotonic() > options.deadline:
            row["left_out"] = "no time left"
        else:
            try:
                row |= measure_speed(model, size_px, row, result["macs"], options)
            except RuntimeError as error:
                row["failed"] = reason_of(error)
        result["rows"].append(row)
        save(result)
    return result


def measure_speed(model, size_px, row, n_macs, options):
    """Speed for one precision and batch size; every round lies between two matrix products."""
    n, place = row["batch"], timing.device()
    batch = models.SpotBatch(
        patches=torch.randint(0, 256, (n, 1, 3, size_px, size_px), dtype=torch.uint8, device=place),
        xy_um=torch.zeros(n, 2, device=place),
        slide=torch.zeros(n, dtype=torch.int64, device=place),
    )

    def encode():
        """Encode one batch."""
        with torch.inference_mode(), torch.autocast(place, torch.bfloat16, enabled=row["precision"] == "bf16"):
            model.encode(batch)

    encode()
    shares, speeds = [], []
    for _ in range(2 if options.small else 5):
        before = timing.matrix_rate(row["precision"], small=options.small)
        took = timing.seconds_each(encode, 1 if options.small else 2)
        peak = statistics.mean((before, timing.matrix_rate(row["precision"], small=options.small)))
        shares.append(2 * n_macs * n / took / peak)
        speeds.append(n / took)
    return {"share": timing.median_range(shares), "spots_per_s": timing.median_range(speeds)}
