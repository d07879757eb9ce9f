"""Image encoders: their weights from files, their normalisation, and that frozen ones stay as they are."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from stpredict.models._frozen import ScaleEncoder
from stpredict.models.encoder import Encoder
from stpredict.models.image_statistics import patch_statistics

timm = pytest.importorskip("timm")

NET = "test_resnet"  # 0.5 M parameters, batch normalisation


def patches(n=3, size=32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=draw)


@pytest.fixture
def theirs():
    """A network of timm with a head, as its checkpoints have; statistics unlike a fresh one's."""
    net = timm.create_model(NET)
    with torch.no_grad():
        net(torch.randn(8, 3, 32, 32))
    return net.eval()


@pytest.fixture(params=["safetensors", "pth", "pth with more"])
def checkpoint(request, tmp_path, theirs):
    state = theirs.state_dict()
    path = tmp_path / f"weights.{request.param.split()[0]}"
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if "more" in request.param else state, path)
    return path


def test_local_checkpoint_gives_the_features_of_its_network(checkpoint, theirs):
    encoder = Encoder(NET, str(checkpoint), 32, frozen=True)
    before = encoder(patches())
    said = encoder.load()
    assert said == f"{NET}: {checkpoint}, SHA-256 of the tensors {encoder.record()['weights'][:16]}"
    config = theirs.pretrained_cfg
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    seen = (patches().float() / 255 - mean) / std
    expected = theirs.forward_head(theirs.forward_features(seen), pre_logits=True)
    torch.testing.assert_close(encoder(patches()), expected.detach())
    assert not torch.allclose(before, expected)


def test_weights_are_loaded_only_when_asked(tmp_path):
    encoder = Encoder(NET, str(tmp_path / "none.pth"), 32, frozen=True)
    with pytest.raises(ValueError, match=r"`weights` is '.*none.pth', which is not a file. Give 'none', 'timm'"):
        encoder.load()


def test_nothing_to_load():
    for name, weights in ((NET, "none"), ("statistics", "timm")):
        assert Encoder(name, weights, 32, frozen=True).load() == ""


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    state = timm.create_model("test_vit").state_dict()
    torch.save(state, path)
    encoder = Encoder(NET, str(path), 32, frozen=True)
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=r"of another network than 'test_resnet': \d+ of \d+ tensors missing"):
        encoder.load()
    assert all(torch.equal(value, kept[name]) for name, value in encoder.state_dict().items())


def test_one_tensor_of_another_shape_is_refused(tmp_path, theirs):
    state = theirs.state_dict()
    name = next(iter(state))
    save_file({**state, name: torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=rf"1 of another shape \['{name}'\]"):
        Encoder(NET, str(tmp_path / "w.safetensors"), 32, frozen=True).load()


def test_record_tells_weights_and_normalisation_apart(tmp_path, theirs):
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    random, first, second = (
        Encoder(NET, str(weights), 32, frozen=True)
        for weights in ("none", tmp_path / "w.safetensors", tmp_path / "w.pth")
    )
    for encoder in (random, first, second):
        encoder.load()
    record = json.loads(json.dumps(first.record()))
    assert record == second.record() == {**random.record(), "weights": record["weights"]}
    assert (random.record()["weights"], len(record["weights"])) == ("", 64)
    assert (record["encoder"], record["input_px"], record["pooling"]) == (NET, 32, "model")
    assert record["mean"] == pytest.approx(theirs.pretrained_cfg["mean"])
    with torch.no_grad():
        first.net.conv1[0].weight.mul_(2)
    save_file(first.net.state_dict(), tmp_path / "other.safetensors")
    other = Encoder(NET, str(tmp_path / "other.safetensors"), 32, frozen=True)
    other.load()
    assert other.record()["weights"] != record["weights"]


class Code:
    """What a pickle can do to those who load it."""

    def __reduce__(self):
        return print, ("this ran",)


@pytest.mark.parametrize("content", ["code", "module", "nothing"])
def test_files_with_code_are_refused(tmp_path, theirs, content, capsys):
    path = tmp_path / "weights.pth"
    if content in ("code", "module"):
        torch.save({"code": Code()} if content == "code" else theirs, path)
    else:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="without running code from it"):
        Encoder(NET, str(path), 32, frozen=True).load()
    assert "this ran" not in capsys.readouterr().out


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="has no named tensors"):
        Encoder(NET, str(tmp_path / "w.pth"), 32, frozen=True).load()


def test_names_that_timm_does_not_know_are_refused():
    with pytest.raises(ValueError, match=r"There is no encoder 'resnet5O' \(nearest: .*'resnet50'"):
        Encoder("resnet5O", "none", 32, frozen=True)


def test_statistics_are_those_of_one_scale():
    encoder = Encoder("statistics", "none", 16, frozen=True)
    given = patches(size=16)
    assert encoder.n_features == 54
    torch.testing.assert_close(encoder(given), patch_statistics(given[:, None], 0.5))


def test_frozen_stays_as_it_is():
    encoder = Encoder(NET, "none", 32, frozen=True)
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert not any(p.requires_grad for p in encoder.parameters())
    first = encoder(patches())  # never told to be in eval mode
    holder = torch.nn.Sequential(encoder).train()
    assert not any(part.training for part in encoder.modules())
    assert torch.equal(holder(patches()), first)
    assert all(torch.equal(value, kept[name]) for name, value in encoder.state_dict().items())


def test_trainable_learns():
    encoder = Encoder(NET, "none", 32, frozen=False).train()
    encoder(patches()).sum().backward()
    assert all(p.requires_grad for p in encoder.parameters())
    assert any(p.grad is not None and p.grad.any() for p in encoder.parameters())
    assert encoder.net.training


@pytest.mark.parametrize(
    ("name", "size", "seen"), [("test_vit", 64, 64), ("resnet10t", 40, 40), ("efficientformer_l1", 32, 224)]
)
def test_size_that_a_network_cannot_take_is_changed(name, size, seen):
    encoder = Encoder(name, "none", size, frozen=True)
    assert encoder.input_px == seen
    assert encoder(patches(2, size)).shape == (2, encoder.n_features)


def test_uint8_and_unit_float_are_the_same():
    encoder = Encoder(NET, "none", 32, frozen=True)
    torch.testing.assert_close(encoder(patches().float() / 255), encoder(patches()), atol=1e-5, rtol=1e-5)


def test_scales_are_described_side_by_side(batch_of_two_scales):
    views = ScaleEncoder(NET, "none", 0, 32, 2)
    given = views(batch_of_two_scales)
    assert given.shape == (3, views.n_features)
    for scale, part in enumerate(given.chunk(2, dim=1)):
        torch.testing.assert_close(part, views.encoder(batch_of_two_scales.patches[:, scale]))


def test_given_features_need_no_encoder(batch_of_two_scales):
    views = ScaleEncoder("given", "none", 17, 32, 2)
    assert views(batch_of_two_scales) is None
    assert (views.n_features, len(views.state_dict())) == (17, 0)


@pytest.fixture
def batch_of_two_scales(spots):
    return spots(n_scales=2)
