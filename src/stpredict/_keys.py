"""Every name that stpredict reads from or writes to a container, and nothing else.

A string key of a SpatialData or AnnData is spelled here and nowhere else.
"""

from __future__ import annotations

from typing import Final

ATTRS: Final = "stpredict"
"""Namespace in ``sdata.attrs`` and ``table.uns``."""

READER: Final = "spatialdata_io_reader"
"""Which reader of spatialdata-io made an object, in ``sdata.attrs``."""

# sdata.attrs["stpredict"]
UM_PER_PX: Final = "um_per_px"
UM_PER_PX_FROM: Final = "um_per_px_from"
PREDICTOR: Final = "predictor"
GRID: Final = "grid"
RASTER: Final = "raster"
STAIN: Final = "stain"
SLIDE: Final = "slide"
ANNOTATIONS: Final = "annotations"
QUALITY: Final = "quality"
ALIGNMENT: Final = "alignment"
CENTRE_OFFSET: Final = "centre_offset_nm"
PSEUDO_SPOTS: Final = "pseudo_spots"
PLATFORM: Final = "platform"

# attributes of the zarr group that `predict` streams to
PATCH_VERSION: Final = "patch_version"

# shapes
TISSUE: Final = "tissue"
NAME: Final = "name"
CLASS: Final = "class"

# tables
OBSERVED: Final = "observed"
PREDICTED: Final = "predicted"
SUPER_RESOLVED: Final = "super_resolved"
IMPUTED: Final = "imputed"
EMBEDDINGS: Final = "embeddings"

# obs
REGION: Final = "region"
SPOT_ID: Final = "spot_id"
SECTION: Final = "section"
PATIENT: Final = "patient"
LABEL: Final = "label"
ARRAY_ROW: Final = "array_row"
ARRAY_COL: Final = "array_col"
SPLIT: Final = "split"
AT_BORDER: Final = "at_border"
FOLD: Final = "fold"
GROUP: Final = "group"
SPOT: Final = "spot"
UNLIKE: Final = "unlike_training"
IMAGE_DISTANCE: Final = "image_distance"
TOTAL_COUNTS: Final = "total_counts"
IN_TISSUE: Final = "in_tissue"
MEASURED: Final = "measured"
IMAGE_QUALITY: Final = "image_quality"
DOMAIN: Final = "domain"

# layers
CROSS_VALIDATED: Final = "cross_validated"
LOWER: Final = "predicted_lower"
UPPER: Final = "predicted_upper"
STANDARD_ERROR: Final = "standard_error"

# obsm, var, varm, uns
FEATURE_TYPES: Final = "feature_types"
GENE_EXPRESSION: Final = "Gene Expression"
LIBRARY: Final = "library"
LOG1P: Final = "log1p"
SPATIAL: Final = "spatial"
IMAGES: Final = "images"
HIRES: Final = "hires"
SCALEFACTORS: Final = "scalefactors"
HIRES_SCALE: Final = "tissue_hires_scalef"
SPOT_DIAMETER: Final = "spot_diameter_fullres"
MICRONS_PER_PIXEL: Final = "microns_per_pixel"
METADATA: Final = "metadata"
SOURCE_IMAGE: Final = "source_image_path"
COLOR: Final = "color"
TARGET: Final = "target"
GENES: Final = "genes"
TRAIN_MEAN: Final = "train_mean"
RIDGE_COLOR: Final = "ridge_color"
EVALUATION: Final = "evaluation"
NOISE: Final = "noise"
FOLDS: Final = "folds"
MEMBERS: Final = "members"
PREDICTABILITY: Final = "predictability"
STEP_UM: Final = "step_um"
