"""Errors and warnings about comparing models: folds, entries, folders of results."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING, Any

from ..._checks.plain import in_order
from ..._checks.slides import quote
from ..._checks.training import warn
from ..._pixels import PATCH_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def several_seeds(seeds: object) -> list[int]:
    """The seeds as plain numbers; refuse one number, an empty list, fractions and repeated seeds."""
    found = in_order(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else None
    if found is None or not all(isinstance(seed, Integral) and not isinstance(seed, bool) for seed in found):
        msg = f"`seeds` is {seeds!r}; give a list of whole numbers, for instance `(0, 1, 2)`."
        raise ValueError(msg)
    if not found or len(set(found)) != len(found):
        msg = f"`seeds` is {tuple(map(int, found))}; give at least one, each once, for instance `(0, 1, 2)`."
        raise ValueError(msg)
    return [int(seed) for seed in found]


def same_comparison(place: Path, patch_version: int, stored: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse to mix results of other data or options, or of patches cut in another way, in one folder."""
    if patch_version != PATCH_VERSION:
        msg = (
            f"'{place}' was written when patches were cut in another way (version {patch_version}, now "
            f"{PATCH_VERSION}), so its results cannot be continued. Nothing was overwritten: give another `save_dir`, "
            "or delete that folder."
        )
        raise ValueError(msg)
    if differing := [name for name in values if stored.get(name) != values[name]]:
        msg = (
            f"'{place}' holds results with other {quote(differing)}. Nothing was overwritten: give another "
            "`save_dir`, or delete that folder."
        )
        raise ValueError(msg)


def one_domain_per_spot(domains: object) -> None:
    """Refuse the name of a column, and a table: the measured slides are not at hand."""
    if isinstance(domains, str) or hasattr(domains, "columns"):
        msg = (
            f"`domains` is {type(domains).__name__}, and a domain for each spot is needed. Give the column itself, for "
            "instance `sdata['observed'].obs['domain']`."
        )
        raise TypeError(msg)


def several_domains(n_domains: int, n_known: int, names: Sequence[str]) -> None:
    """Refuse domains of which no test slide has two."""
    if n_domains < 2:
        msg = (
            f"No test slide has two domains: `domains` has {n_known:,} spots with a domain ({quote(names)}). Give them "
            "by the names of the spots, for instance `sdata['observed'].obs['domain']`."
        )
        raise ValueError(msg)


def some_success(failures: Mapping[str, str], n_done: int) -> None:
    """Warn which cells failed; refuse if none is finished."""
    if not failures:
        return
    first = f"{quote(list(failures))}. The first error is {next(iter(failures.values()))!r}"
    if not n_done:
        msg = f"Every cell failed: {first}; the folders hold an `error.json` each."
        raise RuntimeError(msg)
    warn(
        f"{len(failures)} cells failed and are left out: {first}; their folders hold an `error.json`. Call "
        "`stp.tl.benchmark` again to try them again."
    )


def some_finished(busy: Sequence[str], n_done: int) -> None:
    """Warn which cells other processes are running; refuse if none is finished."""
    if not busy:
        return
    what = f"Another process is running {len(busy)} cells of this comparison: {quote(busy)}."
    if not n_done:
        msg = f"{what} None is finished yet; call `stp.tl.benchmark` again when some are."
        raise RuntimeError(msg)
    warn(f"{what} They are left out; call `stp.tl.benchmark` again when it has ended.")
