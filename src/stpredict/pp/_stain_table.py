"""Map colours through a lookup table: one compiled loop, which releases the interpreter's lock.

Imported only where it is called, since importing numba takes half a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._numba import compile_loop

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEP = 5
"""Grey values between two nodes; it divides 255, so that white is a node."""
N_NODES = 255 // STEP + 1
"""Nodes along each channel."""
UNIT = 64
"""Steps of the table within a grey value."""


@compile_loop
def look_up(table: NDArray[np.uint16], pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Replace every colour of ``pixels`` ``(n, 3, m)`` by trilinear interpolation in whole numbers, halves rounded up.

    The table ``(N_NODES ** 3 * 4,)`` holds the colours of the nodes, red slowest, in ``1 / UNIT`` grey values; every
    fourth value is unused.
    """
    size = np.uint32(STEP)
    whole = np.uint32(STEP**3 * UNIT)
    up_r, up_g, up_b = np.uint32(4 * N_NODES**2), np.uint32(4 * N_NODES), np.uint32(4)
    node, rest = np.empty(256, np.uint32), np.empty(256, np.uint32)
    for value in range(256):
        node[value] = min(value // STEP, N_NODES - 2)
        rest[value] = value - STEP * node[value]
    for i in range(pixels.shape[0]):
        for j in range(pixels.shape[2]):
            red, green, blue = pixels[i, 0, j], pixels[i, 1, j], pixels[i, 2, j]
            r, g, b = rest[red], rest[green], rest[blue]
            r_, g_, b_ = size - r, size - g, size - b
            corner = node[red] * up_r + node[green] * up_g + node[blue] * up_b
            for c in range(3):
                at = corner + np.uint32(c)
                total = r_ * g_ * (b_ * table[at] + b * table[at + up_b])
                total += r_ * g * (b_ * table[at + up_g] + b * table[at + up_g + up_b])
                total += r * g_ * (b_ * table[at + up_r] + b * table[at + up_r + up_b])
                total += r * g * (b_ * table[at + up_r + up_g] + b * table[at + up_r + up_g + up_b])
                out[i, c, j] = (total + whole // np.uint32(2)) // whole
