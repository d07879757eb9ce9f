"""The rows of the comparison: models, sizes and training recipes, small enough for two CPU cores."""

from __future__ import annotations

import stpredict as stp

PX = 64
"""Side in pixels of the patches of networks that are trained from scratch."""
IMAGENET = "tf_efficientnet_lite0"
"""Encoder of models that need a frozen one: EfficientNet-Lite0 with the ImageNet weights that `weights.py` writes."""
SMALL_M2OST = {"dim": 96, "depth": 2, "size_px": PX, "mlp_ratio": 2.0}
"""M2OST as narrow and shallow as `m2ost_tiny`, on smaller patches."""
SHORT = {"n_epochs": 8, "lr": 5e-4, "batch_size": 32, "validation": "none"}
"""Training of networks of single spots from scratch: the same CPU budget for all, not that of their papers."""
HEAVY = {**SHORT, "n_epochs": 4}
"""Training of networks that take several times as long per spot."""
SECTIONS = {"n_epochs": 150, "lr": 5e-4, "patience": 50}
"""Training of networks of whole sections, which take one or two steps per epoch."""


def entry(model, note, recipe=None, **options):
    """One row and the description of its configuration."""
    return stp.tl.Entry(model, options=options, recipe=recipe or {}), note


def rows(weights):
    """Entries and descriptions by label; without ImageNet weights, models that need them use patch statistics."""
    imagenet = {"encoder": IMAGENET, "weights": weights} if weights else {"encoder": "statistics"}
    frozen = "frozen EfficientNet-Lite0 (ImageNet)" if weights else "patch statistics"
    narrow = f"width 96, 2 blocks, {PX} px"
    found = {
        "mean_profile": entry("mean_profile", "mean profile of the training spots"),
        "ridge_color": entry("ridge_color", "ridge regression on colour statistics"),
        "knn_spatial": entry("knn_spatial", "position on the slide, no image"),
        "ridge_statistics": entry("ridge_statistics", "default options"),
        "nuclei_ridge": entry("nuclei_ridge", "default options"),
        "m2ost_statistics": entry("m2ost_statistics", "the default of `tl.fit`, default options"),
        "m2ost_tiny": entry("m2ost_tiny", "default options"),
        "m2ost_ridge": entry("m2ost_ridge", "default options"),
        "encoder_ridge": entry("encoder_ridge", "patch statistics, 112 px", size_px=112),
        "encoder_mlp": entry("encoder_mlp", "patch statistics, 112 px", size_px=112),
        "m2ost": entry("m2ost", narrow, SHORT, **SMALL_M2OST),
        "m2ost_plain_embedding": entry("m2ost_plain_embedding", f"Table 1; {narrow}", SHORT, **SMALL_M2OST),
        "m2ost_joint_attention": entry("m2ost_joint_attention", f"Table 1; {narrow}", SHORT, **SMALL_M2OST),
        "m2ost_concat": entry("m2ost_concat", f"Table 1; {narrow}", SHORT, **SMALL_M2OST),
        "m2ost_dense": entry("m2ost_dense", f"Table 1; {narrow}", SHORT, **SMALL_M2OST),
        "m2ost, scale 0": entry("m2ost", f"Table 2; {narrow}", SHORT, **SMALL_M2OST, fov_spots=(1.5,)),
        "m2ost, scale 1": entry("m2ost", f"Table 2; {narrow}", SHORT, **SMALL_M2OST, fov_spots=(3.0,)),
        "m2ost, scale 2": entry("m2ost", f"Table 2; {narrow}", SHORT, **SMALL_M2OST, fov_spots=(6.0,)),
        "m2ost_reference": entry("m2ost_reference", f"2 blocks, {PX} px", SHORT, depth=2, size_px=PX),
        "m2ort": entry("m2ort", f"2 blocks, {PX} px", SHORT, depth=2, size_px=PX),
        "stnet": entry("stnet", f"DenseNet-121 from scratch, {PX} px", HEAVY, size_px=PX),
        "deepspace": entry("deepspace", f"DenseNet-121 (the paper's second) from scratch, {PX} px", HEAVY,
                           backbone="densenet121", size_px=PX),
        "resnet50": entry("resnet50", f"from scratch, {PX} px", HEAVY, size_px=PX),
        "vit_b_16": entry("vit_b_16", f"ViT-Ti/16, {PX} px", SHORT, encoder="vit_tiny_patch16_224", size_px=PX),
        "swin_t": entry("swin_t", f"from scratch, {PX} px", HEAVY, size_px=PX),
        "convnext_t": entry("convnext_t", f"ConvNeXt-Atto, {PX} px", SHORT, encoder="convnext_atto", size_px=PX),
        "crossvit_small": entry("crossvit_small", "CrossViT-9, 120 px", {**SHORT, "n_epochs": 2},
                                encoder="crossvit_9_240", size_px=120),
        "bleep": entry("bleep", f"{frozen}, 112 px", {"n_epochs": 60}, **imagenet, frozen=True, size_px=112),
        "histogene": entry(
            "histogene", "width 128, 2 layers, 32 px", SECTIONS, dim=128, depth=2, heads=4, mlp_dim=256, size_px=32
        ),
        "hist2st": entry(
            "hist2st", "2 + 2 layers, 28 px, 2 views", {**SECTIONS, "n_epochs": 60},
            depth=2, graph_depth=2, heads=4, mlp_dim=128, size_px=28, n_views=2,
        ),
        "triplex": entry(
            "triplex", f"resnet18 from scratch, 120 px; {frozen} for context, 24 px", {**SECTIONS, "n_epochs": 2},
            dim=128, view_encoder=imagenet["encoder"], view_weights=imagenet.get("weights", "none"), view_px=32,
            section_depth=2, around_depth=2, section_heads=4, around_heads=4, size_px=120,
        ),
        "istar": entry("istar", "superpixel statistics, 64 px, 1 member", {"n_epochs": 60, "n_members": 1},
                       size_px=64, cells=8),
        "deepspot": entry("deepspot", f"{frozen}, 64 px, width 256, 2 + 2 networks", {**SECTIONS, "n_epochs": 40},
                          **imagenet, size_px=64, dim=256, members=2),
        "hexst": entry("hexst", f"{frozen}, 112 px", **imagenet, size_px=112),
        "stflow": entry("stflow", f"{frozen}, 112 px", {**SECTIONS, "n_epochs": 80}, **imagenet, size_px=112),
    }  # fmt: skip
    if weights:
        encoder = {"encoder_ridge": imagenet}
        found["m2ost_encoder, ImageNet"] = entry("m2ost_encoder", f"m2ost_ridge and {frozen}, 112 px", **encoder)
        found["encoder_ridge, ImageNet"] = entry("encoder_ridge", f"{frozen}, 112 px", **imagenet, size_px=112)
        found["encoder_mlp, ImageNet"] = entry("encoder_mlp", f"{frozen}, 112 px", **imagenet, size_px=112)
    return found
