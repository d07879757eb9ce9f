"""A slide file becomes a map, by a predictor of a registry: ``slide_to_map.py slide.svs predictor GENE map.png``."""

from __future__ import annotations

import sys

import stpredict as stp

slide, predictor, gene, picture = sys.argv[1:]

sdata = stp.tl.predict(slide, predictor)
axes = stp.pl.expression(sdata, gene)
figure = axes[0].figure
figure.savefig(picture, dpi=150)
