"""What libraries raise about damaged files, and how it is told. Which file it was is said where it is read."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DECODER_ERRORS: Final = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    SyntaxError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What libraries raise that decode a damaged file.

Some have classes of their own, most of which are among these: errors of pandas, zarr, tifffile and json are ValueError,
those of PIL OSError or SyntaxError, those of XML SyntaxError, those of codecs RuntimeError.
"""
MAX_LETTERS: Final = 300
"""How much of the message of a library is kept."""


class UnreadableFileError(ValueError):
    """A file of measurements or pixels that is damaged, or holds something else than it should."""


def describe(error: BaseException) -> str:
    """The message of an error in one line, with its class where the message alone says little."""
    text = " ".join(str(error).split()).rstrip(".")
    text = text if len(text) <= MAX_LETTERS else f"{text[:MAX_LETTERS]}…"
    if isinstance(error, MemoryError):
        return f"it asks for more memory than there is ({text})" if text else "it asks for more memory than there is"
    plain = isinstance(error, OSError | ValueError | RuntimeError | SyntaxError)
    return text if text and plain else f"{type(error).__name__} {text}".rstrip()


def compute_pixels(pixels: Any, what: str, *, alone: bool = False) -> NDArray[Any]:
    """Decode pixels that dask reads from a store; ``alone`` without its threads."""
    try:
        return np.asarray(pixels.compute(scheduler="synchronous") if alone else pixels)
    except UnreadableFileError:
        raise
    except DECODER_ERRORS as reason:
        msg = (
            f"Pixels cannot be read ({what}): {describe(reason)}. Bytes of the store are missing or wrong: copy or "
            "fetch it again."
        )
        raise UnreadableFileError(msg) from reason
