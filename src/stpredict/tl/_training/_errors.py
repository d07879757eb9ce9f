"""Errors and warnings about a training run: its genes and spots, its checkpoint, and what a predictor is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..._checks.slides import quote
from ..._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_student(model: str, *, trainable: bool, needs_counts: bool) -> None:
    """Refuse self-training of models without trainable parameters, or that learn from counts."""
    if not trainable or needs_counts:
        why = "is trained on counts, which a teacher does not predict" if needs_counts else "is not trained by steps"
        msg = (
            f"{model!r} {why}, so it learns nothing from spots without measurements. Use `stp.tl.fit`, or a network "
            "such as 'deepspace'."
        )
        raise ValueError(msg)


def check_enough_spots(n_spots: int) -> None:
    """Refuse to train on next to nothing."""
    if n_spots < 8:
        msg = f"{n_spots} spots with counts are left to train on; at least 8 are needed. Give more slides or spots."
        raise ValueError(msg)


def check_enough_validation_spots(n_spots: int) -> None:
    """Refuse validation spots that are too few for a correlation."""
    if n_spots < 3:
        msg = (
            f"No more than {n_spots} spots of a slide are held out for validation; at least 3 are needed for a score. "
            "Hold out another slide with `validate_on`, give more spots, or use "
            "`stp.tl.FitConfig(validation='none')`."
        )
        raise ValueError(msg)


def warn_low_count_spots(n_kept: int, n_all: int) -> None:
    """Warn that spots with few or no counts are left out."""
    if n_kept < n_all:
        warn(
            f"{n_all - n_kept} of {n_all} spots hold no count at all, or far fewer than their slide's median, and are "
            "left out of training (`min_library` of `stp.tl.FitConfig`)."
        )


def warn_constant_genes(constant: Sequence[str]) -> None:
    """Warn about genes that do not vary."""
    if constant:
        warn(f"{len(constant)} genes are constant over the training spots and cannot be learnt: {quote(constant)}.")


def check_shared_genes(missing: Sequence[str], n_requested: int) -> None:
    """Warn about genes that are not in every slide and left out; refuse if that is all of them."""
    if len(missing) == n_requested:
        msg = (
            f"None of the {n_requested} genes asked for ({quote(missing)}) is in every slide. Give other `genes`, or "
            "other slides by `shapes_key`."
        )
        raise ValueError(msg)
    if missing:
        warn(f"{len(missing)} of {n_requested} genes are not in every slide and are left out: {quote(missing)}.")


def warn_random_encoder(encoders: Sequence[str]) -> None:
    """Warn about frozen image encoders with random weights."""
    if encoders:
        warn(
            f"The image encoder {quote(encoders)} is frozen and its weights are random, so its features are of little "
            "use. Name weights (`weights='timm'`, or a file), or take `encoder='statistics'`."
        )


def check_checkpoint_exists(path: str, *, found: bool) -> None:
    """Refuse to resume without a checkpoint."""
    if not found:
        msg = (
            f"No unfinished training at {path!r}. A run leaves one there when it is interrupted; start anew without "
            "`resume_from`, or load a finished predictor with `stp.tl.Predictor.load`."
        )
        raise FileNotFoundError(msg)


def check_same_run(differing: Sequence[str], path: str) -> None:
    """Refuse to resume a run with other data or options."""
    if differing:
        msg = (
            f"The training at {path!r} was begun with other {quote(differing)}. Resume it with what it was begun "
            "with, or start anew without `resume_from`."
        )
        raise ValueError(msg)


def check_same_patches(begun: int, current: int, path: str) -> None:
    """Refuse to resume a run whose patches were cut by another version of the code."""
    if begun != current:
        msg = (
            f"The training at {path!r} was begun with patches of version {begun}, and this stpredict cuts patches of "
            f"version {current}, which differ. Start anew without `resume_from`, or install the version it was begun "
            "with."
        )
        raise ValueError(msg)


def folder_not_writable(path: str, error: OSError) -> NoReturn:
    """Say, before training begins, that its result could not be saved."""
    msg = f"The predictor could not be saved to {path!r}: {error}. Give a folder you may write to as `save_dir`."
    raise OSError(msg) from error


def check_only_process(path: str, *, locked: bool) -> None:
    """Refuse to train into a folder that another process is training into."""
    if not locked:
        msg = (
            f"Another process is training into {path!r} at this moment. Wait until it has ended, or give another "
            "folder as `save_dir`; by default the folder follows from data and options, so it trains the same."
        )
        raise RuntimeError(msg)


def warn_checkpoint_not_written(path: str, error: Exception) -> None:
    """Warn that the state of a running training could not be written."""
    warn(
        f"The state of training could not be written to {path!r}: {error}. Training goes on, but could only be resumed "
        "from an older state. Free some space."
    )
