"""Train the members of a predictor: the plan, checkpoints, pseudo-labels and provenance."""
