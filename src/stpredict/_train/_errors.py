"""Errors about training: validation spots, devices, memory and disk, and losses that diverge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .._checks.slides import quote
from .._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FUNCTION_STRATEGIES = ("ddp_spawn", "ddp_fork", "ddp_notebook")
"""Strategies of Lightning Fabric that need a function to start processes with."""


def check_leakage(shared: Sequence[str], *, allowed: bool) -> None:
    """Refuse to validate on a group that is also trained on."""
    if shared and not allowed:
        msg = (
            f"Validation slides share groups with training slides: {quote(shared)}. Scores would be too good. Name "
            "groups by `group_key`, hold out whole groups with `validate_on`, or accept it with "
            "`stp.tl.FitConfig(allow_leakage=True)`: the predictor then carries the mark."
        )
        raise ValueError(msg)


def check_several_slides(n_slides: int) -> None:
    """Refuse to hold out the only slide."""
    if n_slides < 2:
        msg = (
            "There is one slide only, so none can be held out. Use `stp.tl.FitConfig(validation='block')` to hold out "
            "blocks of it, or 'none'."
        )
        raise ValueError(msg)


def check_some_training(n_slides: int, n_all: int) -> None:
    """Refuse to hold out all slides."""
    if not n_slides:
        msg = f"All {n_all} slides are held out for validation, none is left to train on. Name fewer in `validate_on`."
        raise ValueError(msg)


def check_validate_on(names: Sequence[str], available: Sequence[str]) -> None:
    """Refuse names that are neither a slide nor a group."""
    wrong = [names] if isinstance(names, str) else [name for name in names if name not in available]
    if wrong or not names:
        what = quote(wrong) if names else "nothing"
        msg = f"`validate_on` names {what}; give a list out of {quote(available)}."
        raise ValueError(msg)


def check_launch(devices: int, strategy: str, *, is_script: bool) -> None:
    """Refuse several devices where the script that asks for them cannot be started once for each of them."""
    if strategy in FUNCTION_STRATEGIES:
        msg = (
            f"`strategy={strategy!r}` starts processes for a function, which is not possible here. Take 'ddp', which "
            "starts the script once for every device, or leave `strategy` out."
        )
        raise ValueError(msg)
    if not is_script:
        msg = (
            f"`devices={devices}` starts the script once for every device and machine, but this is a notebook, an "
            "interactive session, `python -c` or a worker process. Save the call as a script and run it with `python` "
            "or `torchrun`, or take `devices=1` and `num_nodes=1`."
        )
        raise ValueError(msg)


def warn_forked() -> None:
    """Warn that a forked process computes on one thread."""
    warn(
        "This process was forked from one that had loaded stpredict. The threads of PyTorch do not survive a fork, so "
        "it computes on one thread. Start processes with `multiprocessing.get_context('spawn')` to use all cores."
    )


def check_loss(loss: float, epoch: int) -> None:
    """Stop a training run that has diverged."""
    if not loss < float("inf"):
        msg = f"The loss became {loss} in epoch {epoch}. Lower `lr`, or train with `precision='32-true'`."
        raise FloatingPointError(msg)


def check_finite_features(*, finite: bool) -> None:
    """Refuse encoder features that are not finite."""
    if not finite:
        msg = "The frozen encoder gives values that are not finite. Give other weights, or `precision='32-true'`."
        raise ValueError(msg)


def check_one_spot_fits(n_spots: int, error: Exception) -> None:
    """Refuse a network that does not fit the device with a single spot."""
    if n_spots <= 1:
        msg = (
            f"The memory of the device does not hold the network and a single spot ({error}). Use another `device` (or "
            "`accelerator` of `stp.tl.FitConfig`), free its memory, or take a smaller model."
        )
        raise MemoryError(msg) from error


def check_disk_space(needed: int, free: int, folder: str) -> None:
    """Refuse a temporary file that the disk cannot hold."""
    if needed > free:
        msg = (
            f"Patches of {needed / 1e9:.3g} GB exceed the memory budget, and the disk of {folder!r} has only "
            f"{free / 1e9:.3g} GB left for them. Raise `memory_bytes` of `stp.tl.FitConfig`, free some space, or let "
            "the environment variable TMPDIR name a folder with more."
        )
        raise OSError(msg)


def patches_not_written(folder: str, error: OSError) -> NoReturn:
    """Say that patches could not be written to a temporary file."""
    msg = (
        f"Patches could not be written to a temporary file in {folder!r}: {error}. Raise `memory_bytes` of "
        "`stp.tl.FitConfig`, free some space, or let the environment variable TMPDIR name another folder."
    )
    raise OSError(msg) from error


def check_device(name: str, available: Mapping[str, bool]) -> None:
    """Refuse a device that torch does not find."""
    if not available.get(name, True):
        found = [known for known, is_there in available.items() if is_there]
        msg = (
            f"torch finds no device for {name!r} here; it finds {quote(found)}. Take one of those, or 'auto'. If the "
            "machine has one, its driver or a build of torch for it is missing."
        )
        raise ValueError(msg)
