"""One rule for all readers: what a file asks for is compared with the memory before any of it is allocated."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARE: Final = 0.5
"""Largest share of the memory that a reader may need, unless ``max_memory_gb`` is given."""
CONTAINER_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
BLOCK_BYTES: Final = 600
"""About what dask needs for each block of an image."""

# a context variable, since the limit is needed wherever a file says how large it is, twenty functions below a reader
_given_gb: ContextVar[float | None] = ContextVar("max_memory_gb", default=None)


class TooLargeError(ValueError):
    """A file that asks for more memory than a reader may use."""


@contextmanager
def memory_limit(max_memory_gb: float | None) -> Iterator[None]:
    """Let a limit hold within a block; None is the default share of the memory."""
    if max_memory_gb is not None and not 0 < max_memory_gb < float("inf"):
        msg = f"`max_memory_gb` is {max_memory_gb!r}. Give gigabytes, above 0, or None for half of the memory."
        raise ValueError(msg)
    token = _given_gb.set(max_memory_gb)
    try:
        yield
    finally:
        _given_gb.reset(token)


def memory_limited[**P, R](read: Callable[P, R]) -> Callable[P, R]:
    """Let the argument ``max_memory_gb`` of a reader hold while it runs."""

    @wraps(read)
    def read_within_limit(*args: P.args, **kwargs: P.kwargs) -> R:
        given = kwargs.get("max_memory_gb")
        with memory_limit(given):  # type: ignore[arg-type]  # of keywords without names only `object` is known
            return read(*args, **kwargs)

    return read_within_limit


def memory_bytes() -> int:
    """Memory of this machine, or less if a container or the limits of the process allow less."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in CONTAINER_LIMITS:
        try:
            found.append(int(Path(path).read_text("ascii")))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return min(found)


def limit_bytes() -> int:
    """How much memory a reader may need at once."""
    given = _given_gb.get()
    return int(SHARE * memory_bytes() if given is None else given * 1e9)


def require_memory(n_bytes: int, what: str, advice: str = "See whether the file is damaged") -> None:
    """Refuse what needs more memory than a reader may use; nothing of it has been allocated yet."""
    limit = limit_bytes()
    if n_bytes > limit:
        given = "half of the memory" if _given_gb.get() is None else "what `max_memory_gb` allows"
        msg = (
            f"{what} needs about {n_bytes / 1e9:,.2f} GB of memory, and at most {limit / 1e9:,.2f} GB are used "
            f"({given}). {advice}, or raise the limit by `max_memory_gb`."
        )
        raise TooLargeError(msg)


def require_memory_for_image(
    shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int, block_px: int, what: str
) -> None:
    """Refuse a lazy image ``(c, y, x)`` whose chunks, list of blocks or coordinates do not fit into memory."""
    chunk_bytes, n_blocks = itemsize * shape[0], 1
    for length, chunk in zip(shape[1:], chunks[1:], strict=True):
        chunk_bytes *= chunk
        n_blocks *= -(-length // max(chunk, block_px))
    n_bytes = 3 * chunk_bytes + BLOCK_BYTES * n_blocks + 24 * sum(shape[1:])
    size = f"{shape[2]:,} x {shape[1]:,} px in chunks of {chunks[2]:,} x {chunks[1]:,}"
    require_memory(n_bytes, f"{what} ({size})")
