"""Errors and warnings about comparing models: folds, entries, folders of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._checks.slides import listed
from ..._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def several_slides(n_slides: int) -> None:
    """Refuse to cross-validate on one slide."""
    if n_slides < 2:
        msg = (
            "There is one slide only, so no fold can be held out. Give further slides (a list of objects works); with "
            "one slide, train on a part of its spots: `stp.pp.split(sdata, by='block')`."
        )
        raise ValueError(msg)


def no_leak(shared: Sequence[str], *, one_group: bool, allowed: bool) -> None:
    """Refuse folds in which a group is on both sides."""
    if shared and not allowed:
        why = (
            "All slides are of one group, so folds can only be of sections"
            if one_group
            else "Folds of sections were asked for"
        )
        msg = (
            f"{why}, and {listed(shared)} would be both in training and in test: scores would be too good. Give slides "
            "of other groups (`group_key` names them), or pass `allow_leakage=True`: every result then carries the "
            "mark."
        )
        raise ValueError(msg)


def n_folds(asked: int, n_units: int) -> None:
    """Refuse more folds than there are groups, and fewer than two."""
    if not 2 <= asked <= n_units:
        msg = f"`n_folds` is {asked}; with {n_units} groups to hold out it must lie between 2 and {n_units}."
        raise ValueError(msg)


def no_other_folds(protocol: str | None, asked: bool) -> None:  # noqa: FBT001
    """Refuse folds that contradict a protocol."""
    if protocol is not None and asked:
        msg = f"`protocol={protocol!r}` fixes the folds. Leave `n_folds` and `by` out, or the protocol."
        raise ValueError(msg)


def enough_sections(n_slides: int, protocol: str) -> None:
    """Refuse a published split of too few sections."""
    if n_slides < 4:
        msg = f"`protocol={protocol!r}` splits sections by shares, and there are {n_slides}; give at least 4."
        raise ValueError(msg)


def some_models(labels: Sequence[str]) -> None:
    """Refuse to compare nothing."""
    if not labels:
        msg = "`models` is empty. Name some, for instance `['m2ost_tiny', 'encoder_ridge']` (`stp.models.available()`)."
        raise ValueError(msg)


def labels(names: Sequence[str]) -> None:
    """Refuse labels that repeat or cannot name a folder."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"Several models are called {listed(twice)}. Give a mapping of labels to `stp.tl.Entry(...)`."
        raise ValueError(msg)
    wrong = [name for name in names if not name or name[0] in "._" or set(name) & set('/\\:*?"<>|')]
    if wrong:
        msg = f"{listed(wrong)} cannot be the name of a folder. Give labels without slashes, not beginning with . or _."
        raise ValueError(msg)


def is_entry(label: str, value: object, kind: type) -> None:
    """Refuse what is no entry."""
    if not isinstance(value, kind):
        msg = f"{label!r} is {type(value).__name__}; give the name of a model, or `stp.tl.Entry(model=...)`."
        raise TypeError(msg)


def some_seeds(seeds: Sequence[int]) -> None:
    """Refuse no seed, and one twice."""
    if not seeds or len(set(seeds)) != len(seeds):
        msg = f"`seeds` is {tuple(seeds)}; give at least one, each once, for instance `(0, 1, 2)`."
        raise ValueError(msg)


def same_target(own: Mapping[str, object], common: Mapping[str, object], protocol: str) -> None:
    """Refuse a target other than that of a protocol."""
    differing = [name for name in own if own[name] != common[name]]
    if differing:
        msg = f"`protocol={protocol!r}` fixes the target, but `target` has another {listed(differing)}. Leave it out."
        raise ValueError(msg)


def same_comparison(differing: Sequence[str], place: Path) -> None:
    """Refuse to mix results of other data or options in one folder."""
    if differing:
        msg = (
            f"'{place}' holds results with other {listed(differing)}. Nothing was overwritten: give another "
            "`save_dir`, or delete that folder."
        )
        raise ValueError(msg)


def same_patches(stored: int, version: int, place: Path) -> None:
    """Refuse to mix results of patches that were cut by another version of the code."""
    if stored != version:
        msg = (
            f"'{place}' was written when patches were cut in another way (version {stored}, now {version}), so its "
            "results cannot be continued. Nothing was overwritten: give another `save_dir`, or delete that folder."
        )
        raise ValueError(msg)


def genes_everywhere(missing: Sequence[str]) -> None:
    """Refuse genes that some slide lacks: it could not be scored."""
    if missing:
        msg = f"{len(missing)} of the `genes` are not in every slide: {listed(missing)}. Leave them out."
        raise ValueError(msg)


def scorable(n_slides: int, fold: int) -> None:
    """Refuse a fold in which nothing can be scored."""
    if not n_slides:
        msg = f"No test slide of fold {fold} has 3 spots with counts of the predicted genes: nothing can be scored."
        raise ValueError(msg)


def finite(known: bool) -> None:  # noqa: FBT001
    """Refuse predictions that are no numbers."""
    if not known:
        msg = "The model predicts values that are not finite."
        raise ValueError(msg)


def some_success(failures: Mapping[str, str], n_done: int) -> None:
    """Say which cells failed; refuse to return nothing."""
    if not failures:
        return
    first = f"{listed(list(failures))}. The first said {next(iter(failures.values()))!r}"
    if not n_done:
        msg = f"Every cell failed: {first}; the folders hold an `error.json` each."
        raise RuntimeError(msg)
    warn(
        f"{len(failures)} cells failed and are left out: {first}; their folders hold an `error.json`. Call "
        "`stp.tl.benchmark` again to try them again."
    )


def some_finished(busy: Sequence[str], n_done: int) -> None:
    """Say which cells another process is at; refuse to return nothing."""
    if not busy:
        return
    what = f"Another process is at {len(busy)} cells of this comparison: {listed(busy)}."
    if not n_done:
        msg = f"{what} None is finished yet; call `stp.tl.benchmark` again when there are some."
        raise RuntimeError(msg)
    warn(f"{what} They are left out; call `stp.tl.benchmark` again when it has ended.")


def all_finished(busy: Sequence[str]) -> None:
    """Refuse to give scores of some folds only."""
    if busy:
        msg = (
            f"Another process is at the same cross-validation: {listed(busy)}. Call it again when that has ended; "
            "what is in `save_dir` is then read."
        )
        raise RuntimeError(msg)


def is_benchmark(found: bool, folder: Path) -> None:  # noqa: FBT001
    """Refuse a folder that holds no benchmark."""
    if not found:
        msg = f"No benchmark in '{folder}': there is no `benchmark.json`. Give the `save_dir` of `stp.tl.benchmark`."
        raise FileNotFoundError(msg)


def has_model(model: str, found: Sequence[str]) -> None:
    """Refuse a model that was not compared."""
    if model not in found:
        msg = f"No model {model!r} in this benchmark (found: {listed(found)})."
        raise ValueError(msg)


def has_seed(seed: int, found: Sequence[int]) -> None:
    """Refuse a seed that was not run."""
    if seed not in found:
        msg = f"No seed {seed} of this model (found: {', '.join(map(str, found))})."
        raise ValueError(msg)


def overwritable(key: str, layers: Sequence[str], *, ours: bool) -> None:
    """Refuse to overwrite a layer that was not cross-validated."""
    if key in layers and not ours:
        msg = f"Layer {key!r} exists and was not written by `stp.tl.cross_validate`. Give another `key_added`."
        raise ValueError(msg)
