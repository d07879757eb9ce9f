"""Spatial domains of spots: graphs, features, the networks STAIG and MCGAE, and clustering. Arrays in, arrays out."""
