"""Predict many slides, on one machine or on a cluster, and record the state of each slide."""
