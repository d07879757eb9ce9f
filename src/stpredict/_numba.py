"""Compilation by numba. Imported only by modules with compiled loops, since importing numba takes half a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable


def compile_loop[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of loops at its first call; it releases the interpreter's lock.

    The machine code is kept on disk, beside the package or in the user's cache (or in ``NUMBA_CACHE_DIR``). Where none
    of these can be written, as in a read-only container, each process compiles anew, which takes seconds.
    """
    try:
        return cast("Callable[P, R]", njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba: "no locator available"
        return cast("Callable[P, R]", njit(nogil=True)(function))
