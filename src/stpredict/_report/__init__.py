"""The HTML page of a benchmark: page, charts, tables, text and style. It may use `pl` and `tl`."""
