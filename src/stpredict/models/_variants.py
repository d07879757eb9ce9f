"""Named models as data: the file, the class, and the fields that differ from the defaults. Ensembles of them, too.

A new model is one row here and one file in this package; a new ensemble is one row. No network is defined or imported
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of the registry."""

    module: str
    """Module in ``package``."""
    model: str
    """Class of the network; the name of its configuration has the suffix ``Config``."""
    citation: str
    """Where it was published."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields that differ from the defaults of the configuration."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `stp.tl.FitConfig` whose defaults for this model differ from those of the class."""
    package: str = "stpredict.models"
    """Package of that file; empty if ``module`` is a full name."""

    @property
    def place(self) -> str:
        """Module and class, as text."""
        return f"{self.package}.{self.module}.{self.model}".removeprefix(".")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensemble:
    """One row of the registry of ensembles: models that are trained together, and whose predictions are averaged."""

    members: Mapping[str, float]
    """Weight of each model in the mean; the weights sum to 1."""
    citation: str
    """Where it was published."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields of the configurations of members that differ from those of the model."""


def timm_network(encoder: str, citation: str, size_px: int = 224) -> Variant:
    """The row of a plain image network, trained as Wang et al. (AAAI 2025) trained the networks they compare with."""
    return Variant(
        module="backbone",
        model="Backbone",
        citation=citation,
        overrides={"encoder": encoder, "size_px": size_px},
        recipe={**_PLAIN, "n_epochs": 100, "batch_size": 96, "lr": 1e-4},
    )


_PLAIN = {"weight_decay": 0.0, "stain_jitter": 0.0, "brightness_jitter": 0.0}
_NO_JITTER = {"stain_jitter": 0.0, "brightness_jitter": 0.0}
_BASELINE = "stpredict"
_HEST = "Jaume et al., NeurIPS 2024, arXiv 2406.16192"
_SECTIONS = {**_PLAIN, "flips": False}
_M2OST = "Wang et al., AAAI 2025, arXiv 2409.15092"
_TABLE_1: tuple[Mapping[str, Any], ...] = (  # each row removes one part more than the row before
    {"embedding": "plain"},
    {"embedding": "plain", "within": "joint"},
    {"embedding": "plain", "within": "joint", "between": "concat"},
    {"embedding": "plain", "within": "joint", "between": "concat", "channels": "dense"},
)
_TINY: Mapping[str, Any] = {
    "dim": 96, "depth": 2, "size_px": 112, "mlp_ratio": 2.0, "fov_spots": (1.5, 3.0, 9.0), "stain": "reinhard",
}  # fmt: skip
_M2ORT: Mapping[str, Mapping[str, Any]] = {
    "": {},
    "_base": {"dim": 256, "depth": 8, "heads": 12, "mlp_dim": 512},
    "_large": {"dim": 384, "depth": 12, "heads": 18, "mlp_dim": 768},
}
VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "m2ost": Variant(module="m2ost", model="M2OST", citation=_M2OST),
        "m2ost_small": Variant(module="m2ost", model="M2OST", citation=_M2OST, overrides={"dim": 96, "mlp_ratio": 2.0}),
        "m2ost_tiny": Variant(
            module="m2ost", model="M2OST", citation=_M2OST, overrides=_TINY, recipe={"validation": "none"}
        ),
        "m2ost_reference": Variant(
            module="m2ost_reference", model="M2OSTReference", citation=f"{_M2OST}, code at 60fd90a"
        ),
        **{
            f"m2ost_{name}": Variant(module="m2ost", model="M2OST", citation=f"{_M2OST}, Table 1", overrides=overrides)
            for name, overrides in zip(("plain_embedding", "joint_attention", "concat", "dense"), _TABLE_1, strict=True)
        },
        **{
            f"m2ort{name}": Variant(
                module="m2ort",
                model="M2ORT",
                citation="Wang et al., arXiv 2401.10608",
                overrides=overrides,
                recipe={**_PLAIN, "n_epochs": 200, "batch_size": 96, "lr": 1e-4},
            )
            for name, overrides in _M2ORT.items()
        },
        "resnet50": timm_network("resnet50", "He et al., CVPR 2016, arXiv 1512.03385"),
        "vit_b_16": timm_network("vit_base_patch16_224", "Dosovitskiy et al., ICLR 2021, arXiv 2010.11929"),
        "swin_t": timm_network("swin_tiny_patch4_window7_224", "Liu et al., ICCV 2021, arXiv 2103.14030"),
        "convnext_t": timm_network("convnext_tiny", "Liu et al., CVPR 2022, arXiv 2201.03545"),
        "crossvit_small": timm_network("crossvit_small_240", "Chen et al., ICCV 2021, arXiv 2103.14899", 240),
        "stnet": Variant(
            module="stnet",
            model="STNet",
            citation="He et al., Nat. Biomed. Eng. 2020, doi 10.1038/s41551-020-0578-x",
            recipe={**_PLAIN, "n_epochs": 50, "lr": 1e-4},
        ),
        "deepspace": Variant(
            module="deepspace",
            model="DeepSpaCE",
            citation="Monjo et al., Sci. Rep. 2022, doi 10.1038/s41598-022-07685-4",
            recipe={"n_epochs": 10, "batch_size": 128, "lr": 1e-4, "weight_decay": 1e-4, "patience": 5},
        ),
        "encoder_ridge": Variant(module="encoder_ridge", model="EncoderRidge", citation=_HEST),
        "encoder_mlp": Variant(
            module="encoder_mlp",
            model="EncoderMLP",
            citation="Chen et al., Nat. Med. 2024, doi 10.1038/s41591-024-02857-3",
            recipe={"n_epochs": 60, "lr": 1e-3},
        ),
        "bleep": Variant(
            module="bleep",
            model="BLEEP",
            citation="Xie et al., NeurIPS 2023, arXiv 2306.01859",
            recipe={"n_epochs": 150, "batch_size": 256, "lr": 1e-3, "weight_decay": 1e-3, **_NO_JITTER},
        ),
        "mean_profile": Variant(module="baselines", model="MeanProfile", citation=_BASELINE),
        "ridge_color": Variant(module="baselines", model="RidgeColor", citation=_BASELINE),
        "ridge_statistics": Variant(module="ridge_statistics", model="RidgeStatistics", citation=_BASELINE),
        "nuclei_ridge": Variant(module="nuclei_ridge", model="NucleiRidge", citation=_BASELINE),
        "knn_spatial": Variant(module="baselines", model="KNNSpatial", citation=_BASELINE),
        "triplex": Variant(
            module="triplex",
            model="TRIPLEX",
            citation="Chung et al., CVPR 2024, arXiv 2403.07592",
            recipe={"n_epochs": 200, "window": 256, "lr": 1e-4, "patience": 20},
        ),
        "histogene": Variant(
            module="histogene",
            model="HisToGene",
            citation="Pang et al., bioRxiv 2021, doi 10.1101/2021.11.28.470212",
            recipe={**_SECTIONS, "lr": 1e-5, "n_epochs": 100, "patience": 100},
        ),
        "hist2st": Variant(
            module="hist2st",
            model="Hist2ST",
            citation="Zeng et al., Brief. Bioinform. 2022, doi 10.1093/bib/bbac297",
            recipe={**_SECTIONS, "lr": 1e-5, "n_epochs": 350, "patience": 350},
        ),
        "stflow": Variant(
            module="stflow",
            model="STFlow",
            citation="Huang et al., ICML 2025, arXiv 2506.05361",
            recipe={**_SECTIONS, "n_epochs": 500, "patience": 100},
        ),
        "hexst": Variant(
            module="hexst",
            model="HEXST",
            citation="Byeon and Kwak, arXiv 2605.04682",
            recipe={**_SECTIONS, "n_epochs": 150, "validation": "none"},
        ),
        "deepspot": Variant(
            module="deepspot",
            model="DeepSpot",
            citation="Nonchev et al., medRxiv 2025, doi 10.1101/2025.02.09.25321567",
            recipe={"lr": 1e-4, "weight_decay": 1e-6, "n_epochs": 200, "patience": 20},
        ),
        "istar": Variant(
            module="istar",
            model="IStar",
            citation="Zhang et al., Nat. Biotechnol. 2024, doi 10.1038/s41587-023-02019-9",
            recipe={
                "n_members": 5,
                "n_epochs": 400,
                "batch_size": 128,
                "lr": 1e-4,
                "weight_decay": 0.0,
                "patience": 50,
            },
        ),
    }
)
_AS_SCANNED: Mapping[str, Mapping[str, Any]] = {"m2ost_tiny": {"stain": "none"}}
ENSEMBLES: Mapping[str, Ensemble] = MappingProxyType(
    {
        "m2ost_statistics": Ensemble(members={"m2ost_tiny": 0.5, "ridge_statistics": 0.5}, citation=_M2OST),
        "m2ost_ridge": Ensemble(
            members={"m2ost_tiny": 0.3, "ridge_statistics": 0.7}, citation=_M2OST, options=_AS_SCANNED
        ),
        "m2ost_encoder": Ensemble(
            members={"m2ost_tiny": 0.15, "ridge_statistics": 0.35, "encoder_ridge": 0.5},
            citation=f"{_M2OST}; {_HEST}",
            options={**_AS_SCANNED, "encoder_ridge": {"size_px": 112}},
        ),
    }
)
DEFAULT = "m2ost_statistics"
"""The model of `stp.tl.fit` unless another is named."""
