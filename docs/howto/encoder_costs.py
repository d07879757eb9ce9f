"""The table of the page "Choose an encoder": `python docs/howto/encoder_costs.py` writes it into the page.

Multiply-accumulates are counted on the meta device, without weights, for one patch of 224 px; half a minute.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from stpredict import models
from stpredict.models.macs import macs

PAGE = Path(__file__).with_name("encoders.md")
MARKED = re.compile(r"(?<=<!-- table -->\n\n).*(?=\n<!-- end of table -->)", flags=re.DOTALL)
HEAD = """\
| `encoder=` | features | parameters | GMACs per 1,000 spots | HEST | licence of the weights | commercial use | access |
|---|--:|--:|--:|--:|---|---|---|
"""


def gmacs(key):
    """Billions of multiply-accumulates for 1,000 spots with one field of view."""
    return 1000 * macs(models.config("resnet50", 1, {"encoder": key, "frozen": True})) / 1e9


def line(key, row, cost):
    """A row of the table; ``cost`` is None for encoders that are not built."""
    size = "" if pd.isna(row.parameters) else f"{row.parameters / 1e6:,.0f} M"
    counted = "" if cost is None else f"{cost:,.0f}"
    hest = "" if pd.isna(row.hest) else f"{row.hest:.3f}"
    name = f"`{key}`" if row.loads else f"`{key}` (bring features)"
    return (
        f"| {name} | {row.n_features} | {size} | {counted} | {hest} "
        f"| {row.licence} | {row.commercial} | {row.access} |\n"
    )


def main():
    """Write the table."""
    rows = models.encoders().sort_values(["loads", "hest"], ascending=False, kind="stable")
    table = HEAD + "".join(line(key, row, gmacs(key) if row.loads else None) for key, row in rows.iterrows())
    PAGE.write_text(MARKED.sub(lambda _: table, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
