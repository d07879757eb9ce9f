from ._precision import unit_pixels
from .contract import FloatLinear, SpotBatch, SpotModel
from .encoder_table import encoders
from .m2ost import M2OST, M2OSTConfig
from .m2ost_reference import M2OSTReference, M2OSTReferenceConfig, from_released
from .macs import available
from .model_config import ModelConfig
from .pretrained_registry import pretrained
from .registry import DEFAULT, build, config, config_from_dict, config_to_dict, recipe, register

__all__ = [
    "DEFAULT",
    "M2OST",
    "FloatLinear",
    "M2OSTConfig",
    "M2OSTReference",
    "M2OSTReferenceConfig",
    "ModelConfig",
    "SpotBatch",
    "SpotModel",
    "available",
    "build",
    "config",
    "config_from_dict",
    "config_to_dict",
    "encoders",
    "from_released",
    "pretrained",
    "recipe",
    "register",
    "unit_pixels",
]
