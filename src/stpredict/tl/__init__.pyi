from ._adapt import adapt
from ._benchmarking.benchmark import Benchmark, benchmark
from ._benchmarking.cross_validate import cross_validate
from ._benchmarking.entry import Entry
from ._calibrate import calibrate
from ._cohort.runner import predict_cohort
from ._describe import describe
from ._domain_scores import domain_scores
from ._domains import domains
from ._embed import embed
from ._evaluate import evaluate
from ._fit import fit
from ._impute import impute
from ._options import FitConfig, PatchSpec, PredictOptions, Selection
from ._predict import predict
from ._predictability.predictability import predictability
from ._predictor.predictor import Predictor
from ._predictor.provenance import Provenance
from ._pretrain import pretrain
from ._raster import rasterize
from ._score_intervals import score_intervals
from ._self_train import self_train
from ._summary import summary
from ._super_resolution.super_resolve import super_resolve

__all__ = [
    "Benchmark",
    "Entry",
    "FitConfig",
    "PatchSpec",
    "PredictOptions",
    "Predictor",
    "Provenance",
    "Selection",
    "adapt",
    "benchmark",
    "calibrate",
    "cross_validate",
    "describe",
    "domain_scores",
    "domains",
    "embed",
    "evaluate",
    "fit",
    "impute",
    "predict",
    "predict_cohort",
    "predictability",
    "pretrain",
    "rasterize",
    "score_intervals",
    "self_train",
    "summary",
    "super_resolve",
]
