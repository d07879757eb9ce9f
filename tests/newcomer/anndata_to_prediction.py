"""An AnnData of one sample predicts another: ``python anndata_to_prediction.py one.h5ad two.h5ad GENE map.png``."""

from __future__ import annotations

import sys

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc
import squidpy as sq

import stpredict as stp

train, test, gene, picture = sys.argv[1:]

predictor = stp.tl.fit(train, "ridge_statistics")
adata = ad.read_h5ad(test)
stp.tl.predict(adata, predictor)
scores = stp.tl.evaluate(adata)

adata.layers["observed"] = adata.X.copy()
sc.pp.normalize_total(adata, target_sum=1e4, layer="observed")
sc.pp.log1p(adata, layer="observed")
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
name = f"$\\it{{{gene}}}$"
titles = {"observed": f"{name}, observed", "predicted": f"{name}, predicted (r = {scores.loc[gene, 'pearson']:.2f})"}
low, high = np.quantile(adata[:, gene].layers["observed"], [0.01, 0.99])
for axis, (layer, title) in zip(axes, titles.items(), strict=True):
    sq.pl.spatial_scatter(adata, color=gene, layer=layer, ax=axis, title=title, vmin=low, vmax=high)
    figure.axes[-1].set_ylabel("log1p CP10k")
figure.savefig(picture, dpi=150)
