"""Expression at a resolution finer than a spot: superpixels, and training on sums over spots only."""
