"""Compute what a sink lacks, in this process or on a cluster, with a progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import _keys as keys
from ..._progress import progress_bar
from .cluster import compute_on_cluster
from .partitions import compute_positions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distributed import Client
    from numpy.typing import NDArray

    from .partitions import SpotTask
    from .plan import PredictionPlan
    from .sinks import Sink


def compute_missing(
    sink: Sink, plan: PredictionPlan, task: SpotTask, client: Client | None, *, verb: str, progress: bool
) -> None:
    """Compute what the sink lacks, here or on a cluster; ``verb`` says in the progress bar what is done."""
    ranges = sink.missing_ranges()
    n, n_missing = len(plan.order), sum(stop - start for start, stop in ranges)
    name = plan.slides[0].name if len(plan.slides) == 1 else f"{len(plan.slides)} slides"
    with progress_bar(total=n, initial=n - n_missing, desc=f"{verb} {name}", unit="spot", progress=progress) as bar:
        if client is not None and ranges:
            compute_on_cluster(client, plan, task, sink, bar.update)
            return
        for start, stop in ranges:
            sink.write(start, _update_bar(compute_positions(plan, task, start, stop), bar))


def _update_bar(pieces: Iterable[dict[str, NDArray[Any]]], bar: Any) -> Iterator[dict[str, NDArray[Any]]]:
    for piece in pieces:
        yield piece
        bar.update(len(piece[keys.AT_BORDER]))
