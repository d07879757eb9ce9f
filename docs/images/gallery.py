"""Draw the figures of docs/gallery.md with the code on that page: `python docs/images/gallery.py`.

The sections of her2st are fetched unless they are there.
The code blocks run in order, in one namespace. The current figure after a block is saved as the image above the block;
a block without an image above it only prepares data. Given names of images as arguments, the script saves only these.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[1]
PARTS = re.compile(
    r"^```(?:\{figure\} (?P<image>\S+)|(?P<python>python))\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
DPI, MOST_BYTES = 200, 600_000


def blocks() -> Iterator[tuple[str | None, str]]:
    """Yield the code blocks of the page, each with the image above it, or None."""
    image = None
    for part in PARTS.finditer((DOCS / "gallery.md").read_text(encoding="utf-8")):
        if part["python"]:
            yield image, part["text"]
        image = part["image"]


def save(path: Path) -> None:
    """Save the current figure as a JPEG without loss of colour resolution, which keeps tissue small and text sharp."""
    from matplotlib import pyplot as plt

    plt.savefig(path, dpi=DPI, pil_kwargs={"quality": 90, "subsampling": 0, "optimize": True})


def main(names: list[str]) -> None:
    """Run the code of the page."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    space: dict[str, object] = {"__name__": "gallery"}
    for image, code in blocks():
        plt.close("all")
        exec(compile(code, image or "set-up", "exec"), space)
        if image and (not names or Path(image).stem in names):
            (DOCS / image).parent.mkdir(exist_ok=True)
            save(DOCS / image)


if __name__ == "__main__":
    main(sys.argv[1:])
