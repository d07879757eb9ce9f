"""Compare models on the same folds: folds, entries, cells of the comparison, results and summaries."""
