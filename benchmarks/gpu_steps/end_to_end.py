"""Speed of fit and predict from end to end, relative to reading, transfer and the network alone.

This measures the code that `tl.fit` and `tl.predict` run after resolving a SpatialData object, without writing a table,
on slides that need no SpatialData. Levels of the image are numpy arrays or, if zarr is installed, zarr arrays on disk.
The parts alone are measured in the same rounds; the slowest part is the bottleneck.
"""

from __future__ import annotations

import itertools
import resource
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from stpredict import models

from . import slides, timing
from .package import (
    REPLACED,
    BatchLimit,
    FitConfig,
    TargetSpec,
    device_batches,
    make_fabric,
    plan_training,
    predict_slide,
    read_pieces,
    start_limit,
    to_device,
    train_members,
)
from .record import reason_of

SIDE_PX, N_GENES, N_EPOCHS = 8192, 250, 4
SMALL = {"dim": 12, "depth": 1, "size_px": 32}
"""Options of a network in a trial."""
BLOCK_MIB = 64


def run(options, save):
    """Measure fit and predict from memory and from zarr, then the handling of out-of-memory errors."""
    slide = slides.generated_slide(1000 if options.small else SIDE_PX, 30 if options.small else N_GENES)
    _, height, width = slide.levels[0].pixels.shape
    result = {"slide": f"{len(slide.xy_px)} spots on {height} x {width} px"}
    sources = {"memory": slide}
    if "zarr" in REPLACED or not find_spec("zarr"):
        result["left_out"] = "prediction from zarr: zarr is not installed"
    else:
        sources["zarr"] = with_zarr_levels(slide, options.scratch / "levels")
    predictors = {}
    for name in ("m2ost", "m2ost_tiny"):
        result.setdefault("fit", {})[name], predictors[name] = measure_fit(slide, name, options)
        save(result)
    for (name, predictor), (source, given) in itertools.product(predictors.items(), sources.items()):
        result.setdefault("predict", {})[f"{name}, {source}"] = measure_predict(given, predictor, options)
        save(result)
    for what, check in {"predict": check_halving_in_prediction, "fit": check_halving_in_training}.items():
        try:
            found = check(slide, predictors["m2ost"], options)
        except RuntimeError as error:
            found = {"failed": reason_of(error)}
        result.setdefault("out_of_memory", {})[what] = found
        save(result)
    return result


def with_zarr_levels(slide, folder):
    """The same slide with its levels as zarr arrays on disk, in chunks of 512 pixels."""
    import zarr

    levels = []
    for i, level in enumerate(slide.levels):
        shape = level.pixels.shape
        chunks = (shape[0], min(512, shape[1]), min(512, shape[2]))
        array = zarr.create_array(str(folder / str(i)), shape=shape, chunks=chunks, dtype="uint8")
        array[:] = level.pixels
        levels.append(replace(level, pixels=zarr.open_array(str(folder / str(i)), mode="r")))
    return replace(slide, levels=tuple(levels))


def measure_fit(slide, name, options):
    """Seconds of a fit by part, and the speed of an epoch relative to its parts alone."""
    n_epochs = 2 if options.small else N_EPOCHS
    config = FitConfig(n_epochs=n_epochs, validation="none", progress=False)
    shape = SMALL if options.small else None
    genes = list(slide.genes)
    run = plan_training([slide], name, config=config, target=TargetSpec(), genes=genes, model_options=shape)
    reset_peak_memory()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        total_s, predictor = time_call(lambda: train_members(run, Path(folder) / "predictor"))
    memory = peak_memory()
    reading_s, pieces = time_call(lambda: list(read_pieces(slide, predictor.patch)))
    epochs = predictor.history["spots_per_s"].to_numpy()
    alone = measure_epoch_parts(predictor, pieces, config.batch_size)
    epoch = float(np.median(epochs[1:]))
    limit = min(alone, key=alone.get)
    return {
        "n_spots": len(slide.xy_px), "epochs": n_epochs, "batch": config.batch_size, "total_s": round(total_s, 2),
        "reading_s": round(reading_s, 2), "epochs_s": round(float((len(slide.xy_px) / epochs).sum()), 2),
        "epoch_spots_per_s": timing.median_range(epochs[1:].tolist()), "alone_spots_per_s": alone, "limit": limit,
        "share_of_limit": epoch / alone[limit], **memory,
    }, predictor  # fmt: skip


def measure_epoch_parts(predictor, pieces, batch_size):
    """Spots per second of transferring batches alone, and of training steps on one batch on the device."""
    fabric = make_fabric(FitConfig())
    n_outputs = predictor.members[0].targets.n_outputs
    columns = {
        name: torch.cat([getattr(piece.spots, name) for piece in pieces]) for name in ("patches", "xy_um", "slide")
    }
    spots = models.SpotBatch(**columns, targets=torch.zeros(len(columns["slide"]), n_outputs))
    order = torch.randperm(len(spots)).split(batch_size)
    model = predictor.members[0].network.to(fabric.device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    batch = next(device_batches(spots, order, fabric.device))

    def step():
        """One training step, without augmentation."""
        with fabric.autocast():
            loss = model.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    before = {key: value.clone() for key, value in model.state_dict().items()}
    step()
    step_s = timing.seconds_each(step, timing.repeats(step, 0.3))
    model.load_state_dict(before)
    model.eval()
    list(device_batches(spots, order, fabric.device))
    sending_s = timing.seconds(lambda: [len(each) for each in device_batches(spots, order, fabric.device)])
    return {"transfer": len(spots) / sending_s, "network": len(batch) / step_s}


def measure_predict(slide, predictor, options):
    """Spots per second of prediction, and of reading, transfer and the network alone, in rounds."""
    fabric = make_fabric(FitConfig())
    limit = start_limit(fabric)
    reset_peak_memory()
    predict_slide(slide, predictor)
    memory = peak_memory()
    pieces = list(read_pieces(slide, predictor.patch))
    there = [to_device(piece.spots, fabric.device) for piece in pieces]
    parts = {
        "predict": lambda: predict_slide(slide, predictor),
        "reading": lambda: [len(piece.rows) for piece in read_pieces(slide, predictor.patch)],
        "transfer": lambda: [len(to_device(piece.spots, fabric.device)) for piece in pieces],
        "network": lambda: [predictor(spots, fabric, batch_size=limit) for spots in there],
    }
    for task in parts.values():
        task()  # warm-up
    n, names, rates = len(slide.xy_px), list(parts), {part: [] for part in parts}
    for i in range(2 if options.small else 5):
        if i and time.monotonic() > options.deadline:
            break
        for part in names[i % 4 :] + names[: i % 4]:
            rates[part].append(n / timing.seconds(parts[part]))
    medians = {part: float(np.median(values)) for part, values in rates.items()}
    slowest = min(names[1:], key=medians.get)
    shares = [ours / alone for ours, alone in zip(rates["predict"], rates[slowest], strict=True)]
    return {
        "n_spots": n, "batch": limit.size, "spots_per_s": {part: timing.median_range(v) for part, v in rates.items()},
        "limit": slowest, "share_of_limit": timing.median_range(shares), **memory,
    }  # fmt: skip


def check_halving_in_prediction(slide, predictor, options):  # noqa: ARG001  (same signature as the other check)
    """Predict in batches that do not fit the memory, and compare with the prediction in batches that fit."""
    fabric = make_fabric(FitConfig())
    spots = to_device(next(iter(read_pieces(slide, predictor.patch, piece_bytes=1 << 28))).spots, fabric.device)
    n = min(len(spots), start_limit(fabric).size)
    spots = replace(spots, patches=spots.patches[:n], xy_um=spots.xy_um[:n], slide=spots.slide[:n])
    limit = BatchLimit(n)
    wanted = predictor(spots, fabric, batch_size=BatchLimit(n))
    network = predictor.members[0].network
    with LimitedMemory(lambda: predictor(spots, fabric, batch_size=BatchLimit(n)), network, "forward", n):
        found = predictor(spots, fabric, batch_size=limit)
    return {"tried": n, "found": limit.size, "largest_difference": float(np.abs(found - wanted).max()),
            "predicted_range": float(np.ptp(wanted))}  # fmt: skip


def check_halving_in_training(slide, predictor, options):
    """Train one epoch with batches that do not fit the memory, and compare its loss with that of batches that fit."""
    n = 8 if options.small else 256
    config = FitConfig(n_epochs=1, batch_size=n, validation="none", warmup_epochs=0.0, progress=False)
    shape = {"mask_rate": 0.0, **(SMALL if options.small else {})}  # masks would be drawn for each part
    genes = list(slide.genes)
    run = plan_training([slide], "m2ost", config=config, target=TargetSpec(), genes=genes, model_options=shape)

    def loss():
        """The loss of the epoch."""
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            return float(train_members(run, Path(folder) / "predictor").history["train_loss"].iloc[-1])

    wanted = loss()
    with LimitedMemory(loss, type(predictor.members[0].network), "loss", n) as sizes:
        found = loss()
    return {"batch": n, "largest_part": max(sizes, default=None), "loss": wanted, "loss_when_halved": found}


class LimitedMemory:
    """Makes memory run out at batches of ``n`` spots: by a memory limit on a GPU, by a raised error on a CPU.

    Yields the sizes of the batches that succeeded.
    """

    def __init__(self, task, owner, method, n):
        self.task, self.owner, self.method, self.n = task, owner, method, n

    def __enter__(self):
        self.original, self.sizes = getattr(self.owner, self.method), []
        self.own = self.method in vars(self.owner)
        if torch.cuda.is_available():
            self.set_limit()
        setattr(self.owner, self.method, self.recording_method())
        return self.sizes

    def set_limit(self):
        """Limit memory to what is used now and 60 % of what the task needs in addition."""
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        self.task()
        needed = torch.cuda.max_memory_reserved() - held
        torch.cuda.empty_cache()
        allowed = (held + max(0.6 * needed, BLOCK_MIB << 20)) / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed))

    def recording_method(self):
        """The method, which records the sizes of batches that succeed; without a GPU it fails for ``n`` spots."""
        original, sizes, n, has_gpu = self.original, self.sizes, self.n, torch.cuda.is_available()

        def method(*args):
            batch = args[-1]
            if not has_gpu and len(batch) >= n:
                msg = "out of memory (a trial without a GPU)"
                raise torch.OutOfMemoryError(msg)
            given = original(*args)
            sizes.append(len(batch))
            return given

        return method

    def __exit__(self, *_):
        if self.own or isinstance(self.owner, type):
            setattr(self.owner, self.method, self.original)
        else:
            delattr(self.owner, self.method)
        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()


def time_call(task):
    """Seconds of a task, and its result."""
    given = []
    return timing.seconds(lambda: given.append(task())), given[0]


def reset_peak_memory():
    """Reset the peak of GPU memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory():
    """Peak memory in MiB: of the GPU since `reset_peak_memory`, of the process since its start."""
    found = {"process_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    if torch.cuda.is_available():
        found["gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found
