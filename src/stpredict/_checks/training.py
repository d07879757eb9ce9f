"""Errors and warnings about training: what is held out, what resumes, what a predictor has seen."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NoReturn

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


def warn(message: str) -> None:
    """Tell the user, at the line of their own code, what is unusual about a result that can still be used."""
    warnings.warn(message, UserWarning, skip_file_prefixes=(__file__.rsplit("_checks", 1)[0],))


def no_leak(shared: Sequence[str], *, allowed: bool) -> None:
    """Refuse to validate on a group that is also trained on."""
    if shared and not allowed:
        msg = (
            f"Validation slides share groups with training slides: {listed(shared)}. Scores would be too good. Name "
            "groups by `group_key`, hold out whole groups with `validate_on`, or accept it with "
            "`stp.tl.FitConfig(allow_leakage=True)`: the predictor then carries the mark."
        )
        raise ValueError(msg)


def several_slides(n_slides: int) -> None:
    """Refuse to hold out a slide where there is one only."""
    if n_slides < 2:
        msg = (
            "There is one slide only, so none can be held out. Use `stp.tl.FitConfig(validation='block')` to hold out "
            "blocks of it, or 'none'."
        )
        raise ValueError(msg)


def something_trained(n_slides: int, n_all: int) -> None:
    """Refuse to hold out everything."""
    if not n_slides:
        msg = f"All {n_all} slides are held out for validation, none is left to train on. Name fewer in `validate_on`."
        raise ValueError(msg)


def known_names(asked: Sequence[str], available: Sequence[str]) -> None:
    """Refuse to hold out what is not there."""
    names = [asked] if isinstance(asked, str) else list(asked)
    missing = [name for name in names if name not in available]
    if missing or not names or isinstance(asked, str):
        what = listed(missing or names) if names else "nothing"
        msg = f"`validate_on` names {what}; give a list out of {listed(available)}."
        raise ValueError(msg)


def can_be_student(model: str, *, steps: bool, needs_counts: bool) -> None:
    """Refuse self-training of models that take no steps, or that learn from counts, which no teacher gives."""
    if not steps or needs_counts:
        why = "is trained on counts, which no teacher gives" if needs_counts else "is not trained by steps"
        msg = (
            f"{model!r} {why}, so that it learns nothing from spots without measurements. Use `stp.tl.fit`, or a "
            "network such as 'deepspace'."
        )
        raise ValueError(msg)


def enough_spots(n_spots: int) -> None:
    """Refuse to train on next to nothing."""
    if n_spots < 8:
        msg = f"{n_spots} spots with counts are left to train on; at least 8 are needed. Give more slides or spots."
        raise ValueError(msg)


def enough_held(n_spots: int) -> None:
    """Refuse to validate where no correlation over spots can be computed."""
    if n_spots < 3:
        msg = (
            f"No more than {n_spots} spots of a slide are held out for validation; at least 3 are needed for a score. "
            "Hold out another slide with `validate_on`, give more spots, or use "
            "`stp.tl.FitConfig(validation='none')`."
        )
        raise ValueError(msg)


def counted_spots(n_kept: int, n_all: int) -> None:
    """Warn where spots hold no count at all, or next to none, and are left out."""
    if n_kept < n_all:
        warn(
            f"{n_all - n_kept} of {n_all} spots hold no count at all, or far fewer than their slide's median, and are "
            "left out of training (`min_library` of `stp.tl.FitConfig`)."
        )


def varying(constant: Sequence[str]) -> None:
    """Warn where genes do not vary, so that there is nothing to learn."""
    if constant:
        warn(f"{len(constant)} genes are constant over the training spots and cannot be learnt: {listed(constant)}.")


def in_every_slide(missing: Sequence[str], n_wanted: int) -> None:
    """Warn where some genes are not in every slide and are left out; refuse if that is all of them."""
    if len(missing) == n_wanted:
        msg = (
            f"None of the {n_wanted} genes asked for ({listed(missing)}) is in every slide. Give other `genes`, or "
            "other slides by `shapes_key`."
        )
        raise ValueError(msg)
    if missing:
        warn(f"{len(missing)} of {n_wanted} genes are not in every slide and are left out: {listed(missing)}.")


def finite_loss(loss: float, epoch: int) -> None:
    """Stop a training run that has diverged."""
    if not loss < float("inf"):
        msg = f"The loss became {loss} in epoch {epoch}. Lower `lr`, or train with `precision='32-true'`."
        raise FloatingPointError(msg)


def one_spot_fits(n_spots: int, error: Exception) -> None:
    """Say that halving the batch again and again did not help."""
    if n_spots <= 1:
        msg = (
            f"The memory of the device does not hold the network and a single spot ({error}). Use another `device` (or "
            "`accelerator` of `stp.tl.FitConfig`), free its memory, or take a smaller model."
        )
        raise MemoryError(msg) from error


def disk_holds(needed: int, free: int, folder: str) -> None:
    """Refuse to begin a temporary file that the disk cannot hold."""
    if needed > free:
        msg = (
            f"Patches of {needed / 1e9:.3g} GB exceed the memory budget, and the disk of {folder!r} has only "
            f"{free / 1e9:.3g} GB left for them. Raise `memory_bytes` of `stp.tl.FitConfig`, free some space, or let "
            "the environment variable TMPDIR name a folder with more."
        )
        raise OSError(msg)


def not_spilled(folder: str, error: OSError) -> NoReturn:
    """Say that patches could not be written to a temporary file."""
    msg = (
        f"Patches could not be written to a temporary file in {folder!r}: {error}. Raise `memory_bytes` of "
        "`stp.tl.FitConfig`, free some space, or let the environment variable TMPDIR name another folder."
    )
    raise OSError(msg) from error


def resumable(path: str, *, found: bool) -> None:
    """Refuse to resume what is not there."""
    if not found:
        msg = (
            f"No unfinished training at {path!r}. A run leaves one there when it is interrupted; start anew without "
            "`resume_from`, or load a finished predictor with `stp.tl.Predictor.load`."
        )
        raise FileNotFoundError(msg)


def same_run(differing: Sequence[str], path: str) -> None:
    """Refuse to resume a run with other data or options than it was begun with."""
    if differing:
        msg = (
            f"The training at {path!r} was begun with other {listed(differing)}. Resume it with what it was begun "
            "with, or start anew without `resume_from`."
        )
        raise ValueError(msg)


def not_writable(path: str, error: OSError) -> NoReturn:
    """Say, before training begins, that its result could not be saved."""
    msg = f"The predictor could not be saved to {path!r}: {error}. Give a folder you may write to as `save_dir`."
    raise OSError(msg) from error


def alone(path: str, *, held: bool) -> None:
    """Refuse to train into a folder that another process is training into."""
    if not held:
        msg = (
            f"Another process is training into {path!r} at this moment. Wait until it has ended, or give another "
            "folder as `save_dir`; by default the folder follows from data and options, so it trains the same."
        )
        raise RuntimeError(msg)


def device(name: str, there: Mapping[str, bool]) -> None:
    """Refuse a device that torch does not find."""
    if not there.get(name, True):
        found = [known for known, is_there in there.items() if is_there]
        msg = (
            f"torch finds no device for {name!r} here; it finds {listed(found)}. Take one of those, or 'auto'. If the "
            "machine has one, its driver or a build of torch for it is missing."
        )
        raise ValueError(msg)


def pretrained(encoders: Sequence[str]) -> None:
    """Warn where nothing is trained of an image encoder that has no weights either."""
    if encoders:
        warn(
            f"The image encoder {listed(encoders)} is frozen and its weights are random: what it says of a patch is of "
            "little use. Name weights (`weights='timm'`, or a file), or take `encoder='statistics'`."
        )


def not_checkpointed(path: str, error: Exception) -> None:
    """Warn where the state of a running training could not be written."""
    warn(
        f"The state of training could not be written to {path!r}: {error}. Training goes on, but could only be resumed "
        "from an older state. Free some space."
    )


def seen_resolution(um_per_px: float, seen: Sequence[float], name: str) -> None:
    """Warn where a slide is much coarser or finer than any that was trained on."""
    low, high = min(seen), max(seen)
    if not low / 1.5 <= um_per_px <= high * 1.5:
        warn(
            f"Slide {name!r} has {um_per_px:.3g} µm per pixel; the predictor was trained on {low:.3g} to {high:.3g}. "
            "Fields of view are matched in µm, but detail is not: do not trust this prediction without a check."
        )


def unseen_color(far: Mapping[str, tuple[float, float, float]], name: str, *, normalized: bool) -> None:
    """Warn where a slide's mean optical density (value, lowest and highest trained on) is far from the training's."""
    if far:
        shown = ", ".join(
            f"{channel} {value:.3f} (trained on {low:.3f} to {high:.3f})" for channel, (value, low, high) in far.items()
        )
        advice = (
            "Its stain was normalised already"
            if normalized
            else "Its stain or scanner differs: predict with `stain='reinhard'`, which gives it the colours trained on"
        )
        warn(
            f"The colours of slide {name!r} lie outside the training range: mean optical density {shown}. {advice}; "
            "check the prediction."
        )


def finite_features(features: Tensor) -> Tensor:
    """The features; refuse what an encoder made where it is not finite."""
    if not bool(features.isfinite().all()):
        msg = "The frozen encoder gives values that are not finite. Give other weights, or `precision='32-true'`."
        raise ValueError(msg)
    return features
