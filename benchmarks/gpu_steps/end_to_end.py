"""Fit and predict from end to end, against reading, transfer and the network alone.

Measured is what `tl.fit` and `tl.predict` do once they have found slides in a SpatialData object, without writing a
table: the same code, on slides that need no SpatialData. Levels of the image are numpy arrays or, where zarr is
installed, zarr arrays on disk. What the parts reach alone is measured in the same rounds, and the slowest part is the
limit.
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
    make_fabric,
    plan_training,
    predict_slide,
    read_pieces,
    send_batches,
    start_limit,
    to_device,
    train_planned,
)
from .record import reason_of

SIDE_PX, N_GENES, N_EPOCHS = 8192, 250, 4
SMALL = {"dim": 12, "depth": 1, "size_px": 32}
"""Of a network in a trial."""
BLOCK_MIB = 64


def run(options, save):
    """Fit and predict from memory and from zarr, then what happens when memory runs out."""
    slide = slides.generated_slide(1000 if options.small else SIDE_PX, 30 if options.small else N_GENES)
    _, height, width = slide.levels[0].pixels.shape
    result = {"slide": f"{len(slide.xy_px)} spots on {height} x {width} px"}
    sources = {"memory": slide}
    if "zarr" in REPLACED or not find_spec("zarr"):
        result["left_out"] = "from a store: zarr is not installed"
    else:
        sources["zarr"] = stored(slide, options.scratch / "levels")
    predictors = {}
    for name in ("m2ost", "m2ost_tiny"):
        result.setdefault("fit", {})[name], predictors[name] = fit_parts(slide, name, options)
        save(result)
    for (name, predictor), (source, given) in itertools.product(predictors.items(), sources.items()):
        result.setdefault("predict", {})[f"{name}, {source}"] = predict_parts(given, predictor, options)
        save(result)
    for what, check in {"predict": halved_in_prediction, "fit": halved_in_training}.items():
        try:
            found = check(slide, predictors["m2ost"], options)
        except RuntimeError as error:
            found = {"failed": reason_of(error)}
        result.setdefault("out_of_memory", {})[what] = found
        save(result)
    return result


def stored(slide, folder):
    """The same slide with its levels in zarr arrays on disk, chunks of 512 pixels."""
    import zarr

    levels = []
    for i, level in enumerate(slide.levels):
        shape = level.pixels.shape
        chunks = (shape[0], min(512, shape[1]), min(512, shape[2]))
        array = zarr.create_array(str(folder / str(i)), shape=shape, chunks=chunks, dtype="uint8")
        array[:] = level.pixels
        levels.append(replace(level, pixels=zarr.open_array(str(folder / str(i)), mode="r")))
    return replace(slide, levels=tuple(levels))


def fit_parts(slide, name, options):
    """Seconds of a fit by part, and the speed of an epoch against what its parts reach alone."""
    n_epochs = 2 if options.small else N_EPOCHS
    config = FitConfig(n_epochs=n_epochs, validation="none", progress=False)
    shape = SMALL if options.small else None
    genes = list(slide.genes)
    run = plan_training([slide], name, config=config, target=TargetSpec(), genes=genes, model_options=shape)
    begin_memory()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        total_s, predictor = timed(lambda: train_planned(run, Path(folder) / "predictor"))
    memory = peak_memory()
    reading_s, pieces = timed(lambda: list(read_pieces(slide, predictor.patch)))
    epochs = predictor.history["spots_per_s"].to_numpy()
    alone = parts_of_epoch(predictor, pieces, config.batch_size)
    epoch = float(np.median(epochs[1:]))
    limit = min(alone, key=alone.get)
    return {
        "n_spots": len(slide.xy_px), "epochs": n_epochs, "batch": config.batch_size, "total_s": round(total_s, 2),
        "reading_s": round(reading_s, 2), "epochs_s": round(float((len(slide.xy_px) / epochs).sum()), 2),
        "epoch_spots_per_s": timing.spread(epochs[1:].tolist()), "alone_spots_per_s": alone, "limit": limit,
        "share_of_limit": epoch / alone[limit], **memory,
    }, predictor  # fmt: skip


def parts_of_epoch(predictor, pieces, batch_size):
    """Spots a second of gathering and sending batches alone, and of training steps on one batch that is there."""
    fabric = make_fabric(FitConfig())
    n_outputs = predictor.members[0].targets.n_outputs
    columns = {
        name: torch.cat([getattr(piece.spots, name) for piece in pieces]) for name in ("patches", "xy_um", "slide")
    }
    spots = models.SpotBatch(**columns, targets=torch.zeros(len(columns["slide"]), n_outputs))
    order = torch.randperm(len(spots)).split(batch_size)
    model = predictor.members[0].network.to(fabric.device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    batch = next(send_batches(spots, order, fabric.device))

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
    list(send_batches(spots, order, fabric.device))
    sending_s = timing.seconds(lambda: [len(each) for each in send_batches(spots, order, fabric.device)])
    return {"transfer": len(spots) / sending_s, "network": len(batch) / step_s}


def predict_parts(slide, predictor, options):
    """Spots a second of a prediction, and of reading, transfer and the network alone, in rounds."""
    fabric = make_fabric(FitConfig())
    limit = start_limit(fabric)
    begin_memory()
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
        task()  # warm
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
        "n_spots": n, "batch": limit.size, "spots_per_s": {part: timing.spread(v) for part, v in rates.items()},
        "limit": slowest, "share_of_limit": timing.spread(shares), **memory,
    }  # fmt: skip


def halved_in_prediction(slide, predictor, options):  # noqa: ARG001  (as the other check)
    """Predict in batches that do not fit, and compare with what was predicted while there was memory for them."""
    fabric = make_fabric(FitConfig())
    spots = to_device(next(iter(read_pieces(slide, predictor.patch, piece_bytes=1 << 28))).spots, fabric.device)
    n = min(len(spots), start_limit(fabric).size)
    spots = replace(spots, patches=spots.patches[:n], xy_um=spots.xy_um[:n], slide=spots.slide[:n])
    limit = BatchLimit(n)
    wanted = predictor(spots, fabric, batch_size=BatchLimit(n))
    network = predictor.members[0].network
    with LessMemory(lambda: predictor(spots, fabric, batch_size=BatchLimit(n)), network, "forward", n):
        found = predictor(spots, fabric, batch_size=limit)
    return {"tried": n, "found": limit.size, "largest_difference": float(np.abs(found - wanted).max()),
            "predicted_range": float(np.ptp(wanted))}  # fmt: skip


def halved_in_training(slide, predictor, options):
    """Train one epoch with steps that do not fit, and compare the loss with that of an epoch that does."""
    n = 8 if options.small else 256
    config = FitConfig(n_epochs=1, batch_size=n, validation="none", warmup_epochs=0.0, progress=False)
    shape = {"mask_rate": 0.0, **(SMALL if options.small else {})}  # masks are drawn anew for each part
    genes = list(slide.genes)
    run = plan_training([slide], "m2ost", config=config, target=TargetSpec(), genes=genes, model_options=shape)

    def loss():
        """The loss of the epoch."""
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            return float(train_planned(run, Path(folder) / "predictor").history["train_loss"].iloc[-1])

    wanted = loss()
    with LessMemory(loss, type(predictor.members[0].network), "loss", n) as sizes:
        found = loss()
    return {"batch": n, "largest_part": max(sizes, default=None), "loss": wanted, "loss_when_halved": found}


class LessMemory:
    """Let memory run out at batches of ``n`` spots: by a limit on a GPU, by an error that is raised on a CPU.

    Yields the sizes of batches that went through.
    """

    def __init__(self, task, owner, method, n):
        self.task, self.owner, self.method, self.n = task, owner, method, n

    def __enter__(self):
        self.original, self.sizes = getattr(self.owner, self.method), []
        self.own = self.method in vars(self.owner)
        if torch.cuda.is_available():
            self.set_limit()
        setattr(self.owner, self.method, self.watched())
        return self.sizes

    def set_limit(self):
        """Allow what is held now, and 60 % of what the task needs beyond it."""
        torch.cuda.empty_cache()
        held = torch.cuda.memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        self.task()
        needed = torch.cuda.max_memory_reserved() - held
        torch.cuda.empty_cache()
        allowed = (held + max(0.6 * needed, BLOCK_MIB << 20)) / torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed))

    def watched(self):
        """The method, noting what goes through; without a GPU it refuses ``n`` spots."""
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


def timed(task):
    """Seconds of a task, and what it returns."""
    given = []
    return timing.seconds(lambda: given.append(task())), given[0]


def begin_memory():
    """Forget earlier peaks of GPU memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory():
    """Largest memory of the GPU since `begin_memory`, and of the process since it began, in MiB."""
    found = {"process_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    if torch.cuda.is_available():
        found["gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found
