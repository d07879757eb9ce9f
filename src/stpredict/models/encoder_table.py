"""Image encoders as data, one row each, and the table of them. No network is defined here.

Architectures, pooling and normalisation are those of the published loaders (TRIDENT and lazyslide-models) and model
cards, read in June 2026. Nothing of a row comes from what a hub says at run time. Shared machinery without an
underscore: `tl` reads rows too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from .._checks import encoders as check
from .._checks.calls import public

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

STATISTICS = "statistics"
"""Encoder without weights: colour and texture of the patch and of its central half."""
NOT_VERIFIED = "not verified"
_READ = "model card or loader, June 2026"
_HEST = "HEST-bench, April 2026, mean Pearson correlation"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5,) * 3, (0.5,) * 3)
_BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
_HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
_LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
_GENBIO = ((0.697, 0.575, 0.728), (0.188, 0.240, 0.187))
_OWN_CODE = "its loader is code of its own, which timm and transformers do not have"
_REMOTE_CODE = "its loader is code in its repository, and remote code is never run"


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRow:
    """One image encoder."""

    hub_id: str
    """Repository on the Hugging Face hub; empty if it has none."""
    n_features: int
    """Length of its output."""
    n_parameters: int | None = None
    """Number of parameters; None if it was not built."""
    library: Literal["timm", "transformers", ""] = "timm"
    """Library that has the architecture; empty for encoders that are not built here."""
    architecture: str = ""
    """Model of timm, or the stem of a model and configuration class of transformers."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``timm.create_model``, or fields of the configuration of transformers."""
    input_px: int | None = 224
    """Side in pixels of its input."""
    patch_px: int | None = None
    """Side in pixels of a token, and thereby of its smallest input."""
    dynamic: bool = True
    """Whether it also takes inputs whose side is another multiple of ``patch_px``."""
    pooling: Literal["model", "token", "cls", "cls+mean", "stage mean", ""] = "model"
    """From tokens to one vector: the network's own pooling, its class token, the class token beside the mean of the
    patch tokens, or the mean over the map of a stage."""
    n_prefix: int = 1
    """Number of tokens before the patch tokens: the class token and registers."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = _IMAGENET
    """Mean and standard deviation of the colours."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision on GPUs; a CPU computes in float32."""
    hest: float | None = None
    """Score in HEST-bench."""
    licence: str = NOT_VERIFIED
    """Licence of the weights."""
    commercial: str = NOT_VERIFIED
    """Whether the licence permits commercial use."""
    access: str = NOT_VERIFIED
    """``"open"``, or ``"gated"``: the hub asks for permission."""
    file: str = ""
    """File with the weights in the repository; empty for the usual names."""
    not_built: str = ""
    """Why it is not built here; empty if it is."""


def _vit(architecture: str, **options: Any) -> dict[str, Any]:
    """Library, architecture and options of a vision transformer of timm that takes inputs of several sizes."""
    return {"architecture": architecture, "options": {"img_size": 224, **options, "dynamic_img_size": True}}


def _kaiko(size: str, patch_px: int, n_features: int, n_parameters: int, architecture: str, **row: Any) -> EncoderRow:
    name = f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms"
    return EncoderRow(
        hub_id=name, n_features=n_features, n_parameters=n_parameters, patch_px=patch_px, normalization=_HALF,
        **_vit(architecture, **({"img_size": 518} if size == "l" else {})), **row,
    )  # fmt: skip


_SWIGLU: Mapping[str, Any] = {"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
_VIRCHOW: Mapping[str, Any] = {"init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **_SWIGLU}
_OPTIMUS: Mapping[str, Any] = {
    **_vit("vit_giant_patch14_reg4_dinov2", global_pool="token", init_values=1e-5),
    "n_features": 1536, "n_parameters": 1_134_774_272, "patch_px": 14, "pooling": "token", "n_prefix": 5,
    "normalization": _BIOPTIMUS, "precision": "fp16",
}  # fmt: skip
_NC_ND: Mapping[str, Any] = {"licence": "CC-BY-NC-ND", "commercial": "no", "access": "gated"}
_APACHE: Mapping[str, Any] = {"licence": "Apache-2.0", "commercial": "yes"}
_NC: Mapping[str, Any] = {"licence": "non-commercial", "commercial": "no"}
_ABSENT: Mapping[str, Any] = {"library": "", "pooling": "", "normalization": None, "not_built": _OWN_CODE}

ENCODERS: Mapping[str, EncoderRow] = MappingProxyType(
    {
        "uni": EncoderRow(
            hub_id="MahmoodLab/uni", n_features=1024, n_parameters=303_350_784, patch_px=16, precision="fp16",
            hest=0.3873, **_vit("vit_large_patch16_224", patch_size=16, init_values=1e-5), **_NC_ND,
        ),
        "uni2-h": EncoderRow(
            hub_id="MahmoodLab/UNI2-h", n_features=1536, n_parameters=681_394_176, patch_px=14, n_prefix=9,
            precision="bf16", hest=0.4141, **_NC_ND,
            **_vit(
                "vit_giant_patch14_224", patch_size=14, depth=24, num_heads=24, init_values=1e-5, embed_dim=1536,
                mlp_ratio=2.66667 * 2, no_embed_class=True, reg_tokens=8, **_SWIGLU,
            ),
        ),
        "virchow": EncoderRow(
            hub_id="paige-ai/Virchow", n_features=2560, n_parameters=631_229_184, patch_px=14, pooling="cls+mean",
            precision="fp16", hest=0.4061, access="gated", **_APACHE, **_vit("vit_huge_patch14_224", **_VIRCHOW),
        ),
        "virchow2": EncoderRow(
            hub_id="paige-ai/Virchow2", n_features=2560, n_parameters=631_239_424, patch_px=14, pooling="cls+mean",
            n_prefix=5, precision="fp16", hest=0.4034, **_NC_ND,
            **_vit("vit_huge_patch14_224", **_VIRCHOW, reg_tokens=4),
        ),
        "h-optimus-0": EncoderRow(
            hub_id="bioptimus/H-optimus-0", hest=0.4150, access="open", **_APACHE, **_OPTIMUS,
        ),
        "h-optimus-1": EncoderRow(hub_id="bioptimus/H-optimus-1", hest=0.4229, **_NC_ND, **_OPTIMUS),
        "h0-mini": EncoderRow(  # the MLP ratio follows from the published 86 M parameters
            hub_id="bioptimus/H0-mini", n_features=768, n_parameters=85_739_520, patch_px=14, pooling="cls",
            n_prefix=5, normalization=_BIOPTIMUS, precision="fp16", hest=0.3958, **_NC_ND,
            **_vit("vit_base_patch14_reg4_dinov2", init_values=1e-5, mlp_ratio=5.33334, global_pool="", **_SWIGLU),
        ),
        "gigapath": EncoderRow(
            hub_id="prov-gigapath/prov-gigapath", n_features=1536, n_parameters=1_134_953_984, patch_px=16,
            precision="fp16", hest=0.3875, licence="Apache-2.0 with conditions", commercial="research only",
            access="gated",
            **_vit(
                "vit_giant_patch14_dinov2", patch_size=16, embed_dim=1536, depth=40, num_heads=24, mlp_ratio=5.33334
            ),
        ),
        "kaiko-s16": _kaiko("s", 16, 384, 21_665_664, "vit_small_patch16_224"),
        "kaiko-s8": _kaiko("s", 8, 384, 21_670_272, "vit_small_patch8_224"),
        "kaiko-b16": _kaiko("b", 16, 768, 85_798_656, "vit_base_patch16_224"),
        "kaiko-b8": _kaiko("b", 8, 768, 85_807_872, "vit_base_patch8_224"),
        "kaiko-l14": _kaiko("l", 14, 1024, 304_370_688, "vit_large_patch14_reg4_dinov2", n_prefix=5),
        "lunit-s8": EncoderRow(
            hub_id="1aurent/vit_small_patch8_224.lunit_dino", n_features=384, n_parameters=21_670_272, patch_px=8,
            normalization=_LUNIT, **_vit("vit_small_patch8_224"),
        ),
        "gpfm": EncoderRow(
            hub_id="majiabo/GPFM", file="GPFM.pth", n_features=1024, n_parameters=303_227_904, patch_px=14,
            precision="fp16", hest=0.3793, **_vit("vit_large_patch14_dinov2", init_values=1e-5), **_NC,
        ),
        "phikon": EncoderRow(
            hub_id="owkin/phikon", library="transformers", architecture="ViT", n_features=768,
            n_parameters=85_798_656, patch_px=16, dynamic=False, pooling="cls", **_NC,
        ),
        "phikon-v2": EncoderRow(
            hub_id="owkin/phikon-v2", library="transformers", architecture="Dinov2", n_features=1024,
            n_parameters=303_350_784, patch_px=16, pooling="cls", hest=0.3747, **_NC,
            options={
                "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 16,
                "use_mask_token": False,
            },
        ),
        "midnight": EncoderRow(
            hub_id="kaiko-ai/midnight", library="transformers", architecture="Dinov2", n_features=3072,
            n_parameters=1_134_769_664, patch_px=14, pooling="cls+mean", normalization=_HALF, precision="fp16",
            hest=0.3952, licence="MIT", commercial="yes", access="open",
            options={
                "hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "patch_size": 14,
                "use_swiglu_ffn": True, "use_mask_token": False,
            },
        ),
        "resnet50-hest": EncoderRow(
            hub_id="timm/resnet50.tv_in1k", architecture="resnet50.tv_in1k", n_features=1024,
            n_parameters=8_543_296, patch_px=32, pooling="stage mean", n_prefix=0, hest=0.3253, licence="BSD",
            options={"features_only": True, "out_indices": (3,)},
        ),
        "hibou-l": EncoderRow(
            hub_id="histai/hibou-L", n_features=1024, patch_px=14, hest=0.3881, access="gated", **_APACHE,
            **{**_ABSENT, "normalization": _HIBOU, "not_built": _REMOTE_CODE},
        ),
        "openmidnight": EncoderRow(
            hub_id="SophontAI/OpenMidnight", file="teacher_checkpoint_load.pt", n_features=1536, patch_px=14,
            precision="fp16", hest=0.3912, access="gated", **_APACHE, **{**_ABSENT, "normalization": _IMAGENET},
        ),
        "conch": EncoderRow(hub_id="MahmoodLab/conch", n_features=512, input_px=None, **_NC, **_ABSENT),
        "conch-v1.5": EncoderRow(
            hub_id="MahmoodLab/conchv1_5", n_features=768, input_px=448, hest=0.3792, **_NC, **_ABSENT
        ),
        "musk": EncoderRow(hub_id="xiangjx/musk", n_features=1024, input_px=384, **_NC, **_ABSENT),
        "ctranspath": EncoderRow(
            hub_id="", n_features=768, input_px=None, hest=0.3468, licence="GPL-3", **_ABSENT
        ),
        "genbio-pathfm": EncoderRow(
            hub_id="genbio-ai/genbio-pathfm", n_features=4608, precision="bf16", **_NC,
            **{**_ABSENT, "normalization": _GENBIO},
        ),
    }
)  # fmt: skip
"""All rows by key."""


@public
def encoders() -> pd.DataFrame:
    """List pathology foundation models and other image encoders that ``encoder=`` takes.

    Others are listed too if their features can be brought in.

    No weights are required, and this function downloads nothing. The rows are facts of published loaders, model cards
    and HEST-bench, read in June 2026; what was not read is ``"not verified"``. Read the licence on the page of the
    encoder before use. Encoders that need code of their own are not built (``loads`` is False): compute their features
    elsewhere, read them with `stp.io.read_embeddings`, and name them by ``features_key``. Besides these keys,
    ``encoder=`` takes any model name of timm and ``"statistics"``.

    Returns
    -------
    One row for each key: ``hub_id``, ``parameters``, ``n_features``, ``input_px`` and ``patch_px`` (side of the input
    and of a token in pixels), ``pooling``, ``mean`` and ``std`` of the colours, ``precision`` on GPUs, ``hest`` with
    ``hest_source``, ``licence``, ``commercial`` (``"yes"``, ``"no"``, ``"research only"`` or ``"not verified"``),
    ``access`` (``"open"``, ``"gated"`` or ``"not verified"``), ``licence_source``, ``library``, ``loads``, and
    ``why_not`` for those that are not built.

    Examples
    --------
    >>> from stpredict import models
    >>> models.encoders().loc["uni2-h", ["pooling", "precision", "licence", "commercial"]].tolist()
    ['model', 'bf16', 'CC-BY-NC-ND', 'no']
    """
    import pandas as pd

    columns = {
        "hub_id": "string", "parameters": "Int64", "n_features": "Int64", "input_px": "Int64", "patch_px": "Int64",
        "pooling": "string", "mean": "object", "std": "object", "precision": "string", "hest": "Float64",
        "hest_source": "string", "licence": "string", "commercial": "string", "access": "string",
        "licence_source": "string", "library": "string", "loads": "bool", "why_not": "string",
    }  # fmt: skip
    rows = {}
    for key, row in ENCODERS.items():
        mean, std = row.normalization or (None, None)
        rows[key] = {
            "hub_id": row.hub_id or None, "parameters": row.n_parameters, "n_features": row.n_features,
            "input_px": row.input_px, "patch_px": row.patch_px, "pooling": row.pooling or None, "mean": mean,
            "std": std, "precision": row.precision, "hest": row.hest, "hest_source": row.hest and _HEST,
            "licence": row.licence, "commercial": row.commercial, "access": row.access,
            "licence_source": NOT_VERIFIED if row.licence == NOT_VERIFIED else _READ, "library": row.library or None,
            "loads": not row.not_built, "why_not": row.not_built or None,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").astype(columns).rename_axis("encoder")


def keys() -> list[str]:
    """All keys."""
    return list(ENCODERS)


def encoder_row(name: str) -> EncoderRow | None:
    """The row of a key; None for other names."""
    return ENCODERS.get(name)


def check_choice(encoder: str | tuple[str, ...], weights: str | tuple[str, ...]) -> None:
    """Refuse lists that make no sense, and encoders that are not built here."""
    check.encoder_list(encoder, weights)
    for name in (encoder,) if isinstance(encoder, str) else encoder:
        if (row := encoder_row(name)) is not None:
            check.builds(name, row.not_built)


def find_key(name: str) -> str | None:
    """The key of an encoder by its key or its repository on the hub, in any spelling of the latter; None if none."""
    if name in ENCODERS:
        return name
    repository = name.removeprefix("hf-hub:").removeprefix("hf_hub:").lower()
    return next((key for key, row in ENCODERS.items() if row.hub_id.lower() == repository), None)
