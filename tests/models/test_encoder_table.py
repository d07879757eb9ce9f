"""Encoders of our table: every row on the meta device, made-up weights end to end, lists, and what is refused."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import nullcontext
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

import stpredict as stp
from stpredict import models
from stpredict.models import _encoder_networks, encoder_table
from stpredict.models.encoder import Encoder, default_weights, find_encoders
from stpredict.models.encoder_table import ENCODERS

pytest.importorskip("timm")
pytest.importorskip("transformers")

BUILT = [key for key, row in ENCODERS.items() if not row.not_built]
PUBLISHED = {  # width and millions of parameters
    "uni": (1024, 303), "uni2-h": (1536, 681), "virchow": (2560, 631), "virchow2": (2560, 631),
    "h-optimus-0": (1536, 1135), "h-optimus-1": (1536, 1135), "h0-mini": (768, 86), "gigapath": (1536, 1135),
    "kaiko-s16": (384, 21.7), "kaiko-s8": (384, 21.7), "kaiko-b16": (768, 86), "kaiko-b8": (768, 86),
    "kaiko-l14": (1024, 304), "lunit-s8": (384, 21.7), "gpfm": (1024, 303), "phikon": (768, 86),
    "phikon-v2": (1024, 303), "midnight": (3072, 1135), "resnet50-hest": (1024, 8.5),
}  # fmt: skip
VIT = {"img_size": 28, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0}
DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SHRUNKEN = {  # fields of the options, width
    "uni2-h": (VIT, 16),
    "virchow2": (VIT, 32),
    "h-optimus-0": (VIT, 16),
    "h0-mini": (VIT, 16),
    "phikon": ({**DINO, "intermediate_size": 24}, 16),
    "phikon-v2": ({**DINO, "patch_size": 14}, 16),
    "midnight": (DINO, 32),
    "resnet50-hest": ({}, 256),
}


def patches(n=3, size=28, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=draw)


@pytest.fixture
def shrunken(monkeypatch):
    """The rows with networks of a few thousand parameters in place of their own, else unchanged."""
    rows = {key: row for key, row in ENCODERS.items() if row.not_built}
    for key, (options, n_features) in SHRUNKEN.items():
        row = ENCODERS[key]
        architecture = "resnet10t" if key == "resnet50-hest" else row.architecture
        patch_px = 14 if key == "phikon-v2" else row.patch_px
        small = replace(
            row, options={**row.options, **options}, n_features=n_features, architecture=architecture,
            patch_px=patch_px, input_px=32 if key in ("phikon", "resnet50-hest") else 28,
        )  # fmt: skip
        rows[key] = replace(small, n_parameters=sum(p.numel() for p in network_of(key, small).parameters()))
    monkeypatch.setattr(encoder_table, "ENCODERS", rows)
    return rows


def network_of(key, row):
    """The network of a row without the checks, of random values."""
    if row.library == "transformers":
        net = _encoder_networks.TransformersTokens(key, row)
    else:
        net = _encoder_networks._create_timm(row)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape))
    return net.eval()


def save_as_published(net, folder):
    """Weights as the repository of an encoder has them: under the names of timm, or of transformers' files."""
    folder.mkdir(exist_ok=True)
    if isinstance(net, _encoder_networks.TransformersTokens):
        net.model.save_pretrained(folder)
        (folder / "config.json").unlink()  # not read: the architecture is that of the row
    else:
        save_file(net.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


@torch.no_grad()
def slow_features(net, row, given):
    """Features of one patch after the other, pooled by loops."""
    mean, std = row.normalization
    found = []
    for patch in given:
        pixels = torch.stack([(patch[c] / 255 - mean[c]) / std[c] for c in range(3)])[None]
        if row.pooling == "stage mean":
            found.append([float(channel.double().mean()) for channel in net(pixels)[0][0]])
            continue
        tokens = net.forward_features(pixels)[0]
        vector = tokens[0].tolist()
        if row.pooling == "cls+mean":
            patch_tokens = [token.tolist() for token in tokens[row.n_prefix :]]
            assert len(patch_tokens) == (patch.shape[-1] // row.patch_px) ** 2
            vector += [sum(column) / len(patch_tokens) for column in zip(*patch_tokens, strict=True)]
        found.append(vector)
    return torch.tensor(found)


# ---- the table


@pytest.mark.parametrize("key", BUILT)
def test_every_network_has_the_width_and_size_of_its_row(key):
    row, (n_features, millions) = ENCODERS[key], PUBLISHED[key]
    with torch.device("meta"):
        encoder = Encoder(key, "none", 224, frozen=True)
        assert encoder(torch.zeros(2, 3, 224, 224, dtype=torch.uint8)).shape == (2, n_features)
    n_parameters = sum(p.numel() for p in encoder.parameters())
    assert n_parameters == row.n_parameters == pytest.approx(millions * 1e6, rel=0.01)
    assert row.pooling == "stage mean" or encoder.net.num_prefix_tokens == row.n_prefix
    assert torch.tensor(row.normalization[0]).shape == encoder.mean.flatten().shape


def test_table():
    table = models.encoders()
    assert table.index.is_unique
    assert set(table.index[~table["loads"]]) == {
        "hibou-l", "openmidnight", "conch", "conch-v1.5", "musk", "ctranspath", "genbio-pathfm"
    }  # fmt: skip
    assert (table["why_not"].isna() == table["loads"]).all()
    assert table.loc["uni2-h", "hest"] == 0.4141
    assert table.loc[table["commercial"] == "yes", "licence"].isin(["Apache-2.0", "MIT"]).all()
    assert (table.loc[table["licence"] == "not verified", "licence_source"] == "not verified").all()
    assert table.loc[table["loads"], ["parameters", "mean", "std", "hub_id", "patch_px"]].notna().all(axis=None)


def test_networks_of_a_library_that_builds_something_else_are_refused(shrunken):
    shrunken["virchow2"] = replace(shrunken["virchow2"], n_parameters=2 * shrunken["virchow2"].n_parameters)
    with pytest.raises(ValueError, match=r"builds 'virchow2' with 32 features and [\d,]+ parameters; it has 32 and"):
        Encoder("virchow2", "none", 28, frozen=True)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="The encoder 'phikon' needs transformers: pip install"):
        Encoder("phikon", "none", 224, frozen=True)


# ---- weights


@pytest.mark.parametrize("key", SHRUNKEN)
def test_made_up_weights_end_to_end(key, shrunken, tmp_path):
    row = shrunken[key]
    net = network_of(key, row)
    path = save_as_published(net, tmp_path / "repository")
    torch.save(net.model.state_dict() if row.library == "transformers" else net.state_dict(), tmp_path / "w.pth")
    given = patches(size=row.input_px)
    expected = slow_features(net, row, given)
    assert expected.shape == (3, row.n_features)
    for weights in (path, tmp_path / "w.pth", f"local-dir:{tmp_path / 'repository'}"):
        encoder = Encoder(key, str(weights), row.input_px, frozen=True)
        assert not torch.allclose(encoder(given), expected, atol=0.1)
        assert encoder.load().startswith(f"{key}: ")
        torch.testing.assert_close(encoder(given), expected, atol=2e-4, rtol=2e-4)
        record = json.loads(json.dumps(encoder.record()))
        assert (record["encoder"], record["pooling"], record["precision"]) == (key, row.pooling, row.precision)
        assert len(record["weights"]) == 64
    tokens = encoder.tokens(given)
    assert tokens.shape == (3, tokens.shape[1], encoder.token_width)


def test_other_sizes_are_taken_or_resized(shrunken):
    assert Encoder("virchow2", "none", 42, frozen=True).input_px == 42  # three tokens of 14 px along a side
    assert Encoder("virchow2", "none", 43, frozen=True).input_px == 28
    assert Encoder("phikon", "none", 48, frozen=True).input_px == 32  # takes one size only
    for key in ("virchow2", "midnight"):
        assert Encoder(key, "none", 42, frozen=True)(patches(size=42)).shape == (3, 32)
    with pytest.raises(ValueError, match="`size_px` is 8; the smallest input of the encoder 'virchow2' is 14 px"):
        Encoder("virchow2", "none", 8, frozen=True)


def test_positions_of_another_grid_are_interpolated_as_transformers_does(shrunken, tmp_path):
    row = shrunken["midnight"]
    larger = network_of("midnight", replace(row, input_px=56))  # trained on 4 x 4 tokens
    encoder = Encoder("midnight", str(save_as_published(larger, tmp_path / "large")), 28, frozen=True)
    encoder.load()
    given = patches()
    torch.testing.assert_close(encoder(given), slow_features(larger, row, given), atol=2e-4, rtol=2e-4)


def test_weights_in_the_names_of_dinov2(shrunken, tmp_path):
    row = replace(
        shrunken["h-optimus-0"], architecture="vit_large_patch14_dinov2", n_prefix=1, n_parameters=None, file="G.pth",
    )  # fmt: skip
    net = network_of("gpfm", row)
    shrunken["gpfm"] = replace(row, n_parameters=sum(p.numel() for p in net.parameters()))
    torch.save({"mask_token": torch.zeros(1, 16), **net.state_dict()}, tmp_path / "G.pth")
    encoder = Encoder("gpfm", f"local-dir:{tmp_path}", 28, frozen=True)
    encoder.load()
    torch.testing.assert_close(
        encoder(patches()), slow_features(net, shrunken["gpfm"], patches()), atol=2e-4, rtol=2e-4
    )


def test_weights_of_another_encoder_are_refused(shrunken, tmp_path):
    for key, other in (("virchow2", "h0-mini"), ("midnight", "phikon-v2"), ("phikon", "midnight")):
        path = save_as_published(network_of(other, shrunken[other]), tmp_path / other)
        encoder = Encoder(key, str(path), 32, frozen=True)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        with pytest.raises(ValueError, match=rf"of another network than '{key}': \d+ of \d+ tensors missing"):
            encoder.load()
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("config.json", {"architecture": "x", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}),
        ("preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
    ],
)
def test_other_colours_beside_the_weights_are_refused(name, values, shrunken, tmp_path):
    save_as_published(network_of("virchow2", shrunken["virchow2"]), tmp_path)
    encoder = Encoder("virchow2", f"local-dir:{tmp_path}", 28, frozen=True)
    encoder.load()
    (tmp_path / name).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"normalises colours with the mean \[0.5, 0.5, 0.5\]; 'virchow2' was"):
        encoder.load()


def test_places_without_weights_are_refused(shrunken, tmp_path):
    (tmp_path / "notes.txt").write_text("no weights")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    for weights, words in [
        (f"local-dir:{tmp_path}", r"has none of 'model.safetensors', .* \(found: cut.safetensors, notes.txt\)"),
        (f"local-dir:{tmp_path}/no", r"\(found: no such folder\)"),
        (str(tmp_path / "cut.safetensors"), "is no complete safetensors file"),
        (str(tmp_path / "notes.txt"), "cannot be loaded without running code from it"),
        ("timm", "`weights` is 'timm', which has none for 'virchow2'. Give 'hub'"),
    ]:
        with pytest.raises(ValueError, match=words):
            Encoder("virchow2", weights, 28, frozen=True).load()
    with pytest.raises(ValueError, match="`weights` is 'hub', but timm names no repository for 'test_vit4'"):
        Encoder("test_vit4", "hub", 32, frozen=True).load()


# ---- the hub


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of the hub on a computer without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_offline_cache_and_revisions(shrunken, cache):
    with pytest.raises(ValueError, match=r"are not in the cache of this computer, .* `hf download paige-ai/Virchow2`"):
        Encoder("virchow2", "hub", 28, frozen=True).load()
    repository = cache / "models--paige-ai--Virchow2"
    (repository / "refs").mkdir(parents=True)
    nets = {}
    for letter, ref in (("a", "main"), ("b", "v2")):
        (repository / "refs" / ref).write_text(40 * letter)
        nets[letter] = network_of("virchow2", shrunken["virchow2"])
        (repository / "snapshots").mkdir(exist_ok=True)
        save_as_published(nets[letter], repository / "snapshots" / (40 * letter))
    for weights, letter in (("hub", "a"), ("hub@v2", "b"), (f"hub@{40 * 'b'}", "b"), ("hub:paige-ai/Virchow2@v2", "b")):
        encoder = Encoder("virchow2", weights, 28, frozen=True)
        assert encoder.load().startswith(f"virchow2: paige-ai/Virchow2@{12 * letter}, model.safetensors, SHA-256")
        assert (encoder.record()["hub_id"], encoder.record()["revision"]) == ("paige-ai/Virchow2", 40 * letter)
        torch.testing.assert_close(
            encoder(patches()), slow_features(nets[letter], shrunken["virchow2"], patches()), atol=2e-4, rtol=2e-4
        )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GatedRepoError", r"are gated, .* Accept the conditions on https://huggingface.co/paige-ai/Virchow2, run `hf"),
        ("RepositoryNotFoundError", "There is no 'paige-ai/Virchow2' on the Hugging Face hub, or it is private"),
        ("RevisionNotFoundError", "has no revision 'old'. Give a commit"),
        ("RemoteEntryNotFoundError", "has none of the files model.safetensors, pytorch_model.bin. Download"),
        ("LocalEntryNotFoundError", "the hub cannot be reached"),
        ("HfHubHTTPError", r"could not be read \(.*\). Give a local file"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(kind, words, shrunken, monkeypatch):
    error = getattr(errors, kind)

    def refuse(*args, **options):
        raise error.__new__(error)  # without the response that made it

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ValueError, match=words):
        Encoder("virchow2", "hub@old", 28, frozen=True).load()


# ---- lists


def test_features_of_a_list_are_side_by_side(shrunken, tmp_path):
    path = save_as_published(network_of("virchow2", shrunken["virchow2"]), tmp_path / "v")
    names, weights = ("virchow2", "statistics", "test_vit"), (str(path), "none", "none")
    together = Encoder(names, weights, 28, frozen=True)
    assert together.load().startswith("virchow2: ")
    given = patches()
    torch.testing.assert_close(together(given), torch.cat([part(given) for part in together.parts], dim=1))
    assert together.n_features == 32 + 54 + 64
    record = together.record()
    assert record["encoder"] == list(names)
    assert [len(weights) for weights in record["weights"]] == [64, 0, 0]
    assert find_encoders(torch.nn.ModuleDict({"views": together})) == {"views": together}
    assert [part.is_random for part in together.parts] == [False, False, True]


def test_default_weights_are_the_published_ones():
    names = ("uni2-h", "statistics", "test_vit")
    assert default_weights(names) == ("hub", "none", "timm") == tuple(default_weights(name) for name in names)


def test_lists_in_configurations():
    shape = models.config("encoder_ridge", 4, {"encoder": ["uni2-h", "statistics"], "weights": ["hub", "none"]})
    assert shape.encoder == ("uni2-h", "statistics")
    assert models.config_from_dict(json.loads(json.dumps(models.config_to_dict(shape)))) == shape
    assert models.config("uni2-h", 4).encoder == "uni2-h"
    for options, error, words in [
        ({"encoder": ["uni", "uni"]}, ValueError, r"`encoder` has 'uni' twice \(given: \['uni', 'uni'\]\)"),
        ({"encoder": ["uni", "given"]}, ValueError, "'given' is for embeddings alone"),
        ({"encoder": []}, ValueError, "`encoder` is an empty list"),
        ({"encoder": ["uni", 3]}, TypeError, r"`encoder` is 3 \(int\)"),
        ({"encoder": "uni", "weights": ["hub", "hub"]}, ValueError, "`weights` has 2 entries and `encoder` 1"),
        ({"encoder": "conch"}, ValueError, r"'conch' is not built here: its loader is code of its own, .*features_key"),
        ({"encoder": ["uni", "hibou-l"]}, ValueError, "'hibou-l' is not built here: .* remote code is never run"),
    ]:
        with pytest.raises(error, match=words):
            models.config("encoder_ridge", 4, options)


def test_names_that_nobody_knows_are_refused():
    for name, words in [
        ("uni2h", r"There is no encoder 'uni2h' \(nearest: 'uni2-h', "),
        ("Virchow-2", r"nearest: 'virchow2', "),
        ("hf-hub:MahmoodLab/UNI2-h", "Its key is 'uni2-h': give `encoder='uni2-h', weights='hub'`"),
        ("hf-hub:someone/else", "architectures are not read from a repository or folder"),
    ]:
        with pytest.raises(ValueError, match=words):
            Encoder(name, "none", 32, frozen=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("encoder_ridge", {}),
        ("encoder_mlp", {}),
        ("bleep", {"frozen": True}),
        ("resnet50", {"frozen": True}),
        ("stflow", {"n_features": 1}),
        ("hexst", {}),
        ("deepspot", {}),
        ("triplex", {}),
    ],
)
def test_models_take_lists(name, options, spots):
    key = "view_encoder" if name == "triplex" else "encoder"
    options = options | {key: ["statistics", "test_vit"], "size_px": 32}
    if name == "triplex":
        options |= {"target_encoder": "test_efficientnet", "view_px": 32, "dim": 16}
    model = models.build(models.config(name, 4, options))
    some = spots(n=6, n_scales=len(model.config.fov_spots))
    some.group, some.features = some.slide, model.eval().encode(some)
    model.initialize_from(iter([some]))
    assert model(some).shape == (6, 4)
    assert some.features.shape[-1] == (54 + 64) * (3 if name in ("encoder_ridge", "encoder_mlp") else 1)


def test_linear_probe_on_a_list_standardises_its_features(spots):
    model = models.build(models.config("resnet50", 4, {"encoder": ("statistics", "test_vit"), "size_px": 32,
                                                       "frozen": True}))  # fmt: skip
    some = spots(n=8, n_scales=1)
    model.initialize_from(iter([some]))
    features = model.encode(some)
    torch.testing.assert_close(model.standard(features).mean(dim=0), torch.zeros(54 + 64), atol=1e-3, rtol=0)


# ---- use


def test_passes_shrink_when_memory_runs_out(shrunken, monkeypatch):
    encoder, sizes = Encoder("virchow2", "none", 28, frozen=True), []
    whole = encoder(patches(11))
    forward = encoder.net.forward

    def with_little_memory(pixels):
        sizes.append(len(pixels))
        if len(pixels) > 3:
            raise torch.OutOfMemoryError
        return forward(pixels)

    monkeypatch.setattr(encoder.net, "forward", with_little_memory)
    torch.testing.assert_close(encoder(patches(11)), whole)
    assert sizes == [11, 6, 3, 3, 3, 2]
    monkeypatch.setattr(encoder.net, "forward", lambda pixels: torch.zeros(len(pixels), 5, 7))
    with pytest.raises(ValueError, match=r"'virchow2' returned the shape \(2, 14\); \(b, 32\) was expected"):
        encoder(patches(2))


def test_precision_is_that_of_the_row_whatever_surrounds_it(shrunken, monkeypatch):
    encoder = Encoder("uni2-h", "none", 28, frozen=True)
    alone = encoder(patches())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(patches()), alone)
    asked = []
    monkeypatch.setattr(torch, "autocast", lambda device, **options: asked.append(options) or nullcontext())
    for supported, key, expected in [
        (True, "uni2-h", {"dtype": torch.bfloat16}),
        (False, "uni2-h", {"enabled": False}),
        (True, "virchow2", {"dtype": torch.float16}),
        (True, "phikon", {"enabled": False}),
    ]:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        with Encoder(key, "none", 32, frozen=True)._precision(torch.device("cuda")):
            assert asked.pop() == expected


def test_a_predictor_needs_no_hub(shrunken, tmp_path, monkeypatch):
    path = save_as_published(network_of("midnight", shrunken["midnight"]), tmp_path / "midnight")
    sdata = stp.datasets.synthetic(n_slides=2, n_side=5)
    options = {"encoder": ["midnight", "statistics"], "weights": [str(path), "none"], "size_px": 28}
    predictor = stp.tl.fit(
        sdata, "encoder_ridge", model_options=options, shapes_key=["S0_spots"], save_dir=tmp_path / "predictor",
        config=stp.tl.FitConfig(accelerator="cpu", precision="32-true", progress=False),
    )  # fmt: skip
    path.unlink()

    def refuse(*args, **options):
        msg = "the network was used"
        raise AssertionError(msg)

    monkeypatch.setattr(socket, "socket", refuse)
    again = stp.tl.Predictor.load(tmp_path / "predictor")
    record = again.provenance.encoders["encoder"]
    assert record == json.loads(json.dumps(predictor.provenance.encoders["encoder"]))
    assert record["encoder"] == ["midnight", "statistics"]
    assert [len(weights) for weights in record["weights"]] == [64, 0]
    assert again.provenance.pretrained["encoder"].startswith("midnight: ")
    tables = []
    for each in (predictor, again):
        stp.tl.predict(sdata, each, shapes_key="S1_spots", device="cpu", precision="32-true", progress=False)
        tables.append(sdata["predicted"].X.copy())
    assert (tables[0] == tables[1]).all()
