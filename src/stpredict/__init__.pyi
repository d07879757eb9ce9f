from . import datasets, io, metrics, models, pl, pp, tl

__all__ = ["datasets", "io", "metrics", "models", "pl", "pp", "tl"]

__version__: str
