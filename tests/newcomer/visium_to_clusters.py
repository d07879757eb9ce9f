"""Two Visium samples become held-out scores and clusters: ``visium_to_clusters.py sample_1 sample_2 map.png``."""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import scanpy as sc
import squidpy as sq

import stpredict as stp

train, test, picture = sys.argv[1:]

measured = stp.io.read_visium(train, patient="P1")
held_out = stp.io.read_visium(test, patient="P2")
predictor = stp.tl.fit(measured, "ridge_statistics")
stp.tl.predict(held_out, predictor)
scores = stp.tl.evaluate(held_out)
summary = stp.tl.summary(scores)

adata = held_out["predicted"]
sc.pp.pca(adata, n_comps=3)
sc.pp.neighbors(adata, n_neighbors=15, method="gauss")
sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, resolution=0.3)

best = scores["pearson"].idxmax()
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
titles = [
    "Leiden clusters of predicted expression",
    f"$\\it{{{best}}}$, predicted (held-out r = {scores['pearson'].max():.2f})",
]
for axis, color, title in zip(axes, ["leiden", best], titles, strict=True):
    sq.pl.spatial_scatter(adata, color=color, ax=axis, title=title)
figure.axes[-1].set_ylabel(adata.uns["predicted"]["units"])
figure.savefig(picture, dpi=150)
