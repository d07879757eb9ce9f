"""How public functions take arguments and answer mistakes: by the nearest name, without our own frames."""

from __future__ import annotations

import dis
import logging
import os
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from .names import nearest
from .plain import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

PACKAGE = str(Path(__file__).parents[1])
FULL = "STPREDICT_TRACEBACK"
"""Environment variable; ``1`` shows whole tracebacks."""
RAISE = dis.opmap["RAISE_VARARGS"]

logger = logging.getLogger(__name__)


def public[**P, R](function: Callable[P, R], **fields_of: Sequence[str]) -> Callable[P, R]:
    """Let a function of the API answer mistakes; ``fields_of`` an argument are names that belong into it."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})
        except Exception as error:
            known = signature(function).parameters
            if isinstance(error, TypeError) and (unknown := [name for name in kwargs if name not in known]):
                raise TypeError(_advice(function, unknown[0], fields_of)) from None
            if not _is_answer(error) or os.environ.get(FULL) == "1":
                raise
            logger.debug("Whole traceback of an error that is shown short", exc_info=True)
            raise error.with_traceback(None) from None  # STPREDICT_TRACEBACK=1 shows the whole traceback

    return call


def takes_fields[**P, R](**fields_of: Sequence[str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`public` for a function with arguments that take fields by name."""
    return lambda function: public(function, **fields_of)


def _advice(function: Callable[..., object], name: str, fields_of: dict[str, Sequence[str]]) -> str:
    """The message about a keyword that a function does not take."""
    name_of = function.__qualname__.removesuffix(".__init__")
    place = "stp.tl.FitConfig" if name_of == "FitConfig" else f"stp.{function.__module__.split('.')[1]}.{name_of}"
    parameters = [each for each in signature(function).parameters if each not in ("self", "cls", "given")]
    argument_of = {each: argument for argument, fields in fields_of.items() for each in fields}
    near = nearest(name, [*parameters, *argument_of], n=1)
    if near and (meant := near[0]) not in parameters:
        meant = f"{argument_of[meant]}={{{meant!r}: …}}"
    elif near:
        meant = f"{meant}=…"
    hint = f" Did you mean `{meant}`?" if near else ""
    return f"`{place}` has no argument {name!r}.{hint} It takes: {', '.join(parameters)}."


def _is_answer(error: Exception) -> bool:
    """Whether an error was raised by a statement of this package, and not by something that it called."""
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not last.tb_frame.f_code.co_filename.startswith(PACKAGE):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] == RAISE
