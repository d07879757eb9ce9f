from ._benchmark import benchmark_genes, benchmark_scores
from ._benchmark_maps import benchmark_maps, benchmark_pca
from ._domains import domains
from ._expression import expression
from ._history import history
from ._learning_curve import learning_curve
from ._patches import patches
from ._pca import pca
from ._scores import scores

__all__ = [
    "benchmark_genes",
    "benchmark_maps",
    "benchmark_pca",
    "benchmark_scores",
    "domains",
    "expression",
    "history",
    "learning_curve",
    "patches",
    "pca",
    "scores",
]
