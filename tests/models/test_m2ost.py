"""The network of the paper: geometry of its tokens, its attention, its masks."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from torch.utils.flop_counter import FlopCounterMode

from stpredict.models import M2OST, M2OSTConfig
from stpredict.models.m2ost import (
    ChannelMixing,
    CrossAttention,
    NestedEmbedding,
    SelfAttention,
    center,
    key_mask,
)


def small(**overrides):
    return M2OSTConfig(**{"n_outputs": 4, "dim": 12, "depth": 1, "size_px": 32, "patch_size": 8, **overrides})


def embedded(layer, patches):
    """The tokens of each scale, its grids one after the other."""
    return [torch.cat(grids, dim=1) for grids in layer(patches)]


# ---- nested tokens


@pytest.mark.parametrize("n_scales", [1, 2, 3, 4])
def test_scale_i_has_i_plus_one_grids(n_scales):
    tokens = embedded(NestedEmbedding(6, 8, n_scales), torch.rand(2, n_scales, 3, 32, 32))
    assert [tuple(x.shape) for x in tokens] == [(2, (i + 1) * 16, 6) for i in range(n_scales)]


def test_finest_tokens_see_exactly_the_central_quarter():
    embed, pixels = NestedEmbedding(6, 8, 3), torch.rand(1, 3, 3, 32, 32)
    around = pixels.clone()
    around[:, 2] = torch.rand(3, 32, 32)
    around[:, 2, :, 12:20, 12:20] = pixels[:, 2, :, 12:20, 12:20]
    before, after = embedded(embed, pixels)[2][0], embedded(embed, around)[2][0]
    assert torch.equal(before[:16], after[:16])
    assert (before[32:] != after[32:]).any(dim=1).all()


@pytest.mark.parametrize(("scale", "grid"), [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)])
def test_each_token_sees_its_own_window(scale, grid):
    """Grid 0 of a scale is its finest; token (row 1, column 2) of four by four."""
    pixels = torch.rand(1, 3, 3, 32, 32, requires_grad=True)
    token = grid * 16 + 1 * 4 + 2
    embedded(NestedEmbedding(6, 8, 3), pixels)[scale][0, token].sum().backward()
    side = 8 // 2 ** (scale - grid)
    first = (32 - 4 * side) // 2
    expected = torch.zeros(3, 3, 32, 32, dtype=torch.bool)
    expected[scale, :, first + side : first + 2 * side, first + 2 * side : first + 3 * side] = True
    assert torch.equal(pixels.grad[0] != 0, expected)


def test_scales_share_the_embedder_of_a_token_size():
    image = torch.rand(1, 1, 3, 32, 32).expand(1, 3, 3, 32, 32)
    tokens = embedded(NestedEmbedding(6, 8, 3), image)
    torch.testing.assert_close(tokens[0], tokens[1][:, 16:])
    torch.testing.assert_close(tokens[1], tokens[2][:, 16:])


def test_center_is_a_view():
    image = torch.arange(16).reshape(4, 4)
    assert center(image, 2).tolist() == [[5, 6], [9, 10]]
    assert center(image, 1).data_ptr() == image.data_ptr()


def test_impossible_configurations_are_refused():
    for overrides, match in [
        ({"size_px": 36}, r"`size_px` is 36 and `patch_size` is 8, which does not divide it. Give one of 1, 2, 3"),
        ({"patch_size": 2, "size_px": 8}, r"2 / 4 is not a whole number of pixels. Give a multiple of 4"),
        ({"patch_size": 4, "size_px": 12}, r"does not begin at a whole pixel.*such as 16"),
        ({"heads": 5}, "`dim` is 12 and `heads` is 5"),
        ({"fov_spots": ()}, "narrowest field of view first"),
        ({"fov_spots": (2.0, 1.0)}, "each wider than the last"),
        ({"fov_spots": (0.0, 1.0)}, "numbers above 0"),
        ({"fov_spots": (1.0, float("nan"))}, "numbers above 0"),
        ({"depth": 0}, "`depth` is 0"),
        ({"mask_rate": 1.0}, "`mask_rate` is 1.0"),
        ({"dropout": -0.1}, "`dropout` is -0.1"),
        ({"mlp_ratio": 0.0}, "`mlp_ratio` is 0.0"),
        ({"context": "slide"}, "`context` is 'slide'; allowed: 'spot'"),
    ]:
        with pytest.raises(ValueError, match=match):
            small(**overrides)


def test_wrong_types_are_refused():
    for overrides, match in [
        ({"dim": 12.0}, r"`dim` is 12.0 \(float\)"),
        ({"heads": True}, r"`heads` is True \(bool\)"),
        ({"mask_rate": "0.1"}, r"`mask_rate` is '0.1' \(str\)"),
        ({"fov_spots": [1.0, 2.0]}, "give a tuple of numbers"),
    ]:
        with pytest.raises(TypeError, match=match):
            small(**overrides)


# ---- attention


def softmax_attention(q, k, v, weight=1.0):
    scores = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).exp() * weight
    return scores / scores.sum(dim=-1, keepdim=True) @ v


def heads_of(x, h=3):
    return rearrange(x, "b n (qkv h d) -> qkv b h n d", qkv=3, h=h)


def test_self_attention_is_softmax_attention():
    layer, x = SelfAttention(12, 3, 0.0, 0.0), torch.randn(2, 5, 12)
    expected = layer.out(rearrange(softmax_attention(*heads_of(layer.qkv(x))), "b h n d -> b n (h d)"))
    torch.testing.assert_close(layer(x), expected)


def test_hidden_keys_count_for_nothing_and_the_rest_sums_to_one():
    layer, x = SelfAttention(12, 3, 0.6, 0.0), torch.randn(2, 9, 12)
    torch.manual_seed(3)
    seen = key_mask(torch.empty(2, 3, 9, 4), 0.6)
    assert not seen.all()
    mixed = softmax_attention(*heads_of(layer.qkv(x)), weight=seen.float())
    torch.manual_seed(3)
    torch.testing.assert_close(layer(x), layer.out(rearrange(mixed, "b h n d -> b n (h d)")))


def test_mask_never_hides_the_class_token_and_has_its_rate():
    seen = key_mask(torch.empty(200, 4, 51, 1), 0.3)
    assert seen.shape == (200, 4, 1, 51)
    assert seen[..., 0].all()
    assert float(seen[..., 1:].float().mean()) == pytest.approx(0.7, abs=0.01)
    assert len({tuple(row.tolist()) for row in seen.flatten(0, 2)}) == 800  # drawn anew for each spot and head


def test_masks_act_in_training_only(spots):
    model, batch = M2OST(small(mask_rate=0.5)), spots()
    torch.nn.init.normal_(model.head.weight)
    assert not torch.equal(model(batch), model(batch))
    plain = M2OST(small(mask_rate=0.0))
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(batch), plain(batch))


def test_cross_attention_is_the_weighted_sum_of_equation_1():
    layer = CrossAttention(12, 3, 3, 0.0)
    torch.nn.init.normal_(layer.weights)
    xs = [torch.randn(2, n, 12) for n in (4, 5, 6)]
    q, k, v = zip(*(heads_of(p(norm(x))) for x, norm, p in zip(xs, layer.norms, layer.qkv, strict=True)), strict=True)
    for i, (first, second) in enumerate([(1, 2), (0, 2), (0, 1)]):
        omega = layer.weights[i]
        heard = omega[0] * softmax_attention(q[i], k[first], v[first])
        heard = heard + omega[1] * softmax_attention(q[i], k[second], v[second])
        expected = xs[i] + layer.outs[i](rearrange(heard, "b h n d -> b n (h d)"))
        torch.testing.assert_close(layer(xs)[i], expected)


def test_channel_mixing_starts_near_identity_and_gates_whole_channels():
    layer, xs = ChannelMixing(12, 2, 0.0), [torch.randn(2, n, 12) for n in (4, 8)]
    gates = [y / x for x, y in zip(xs, layer(xs), strict=True)]
    for gate in gates:
        torch.testing.assert_close(gate, gate[:, :1].expand_as(gate))
        assert (gate - 1).abs().max() < 0.2


def test_every_scale_reaches_every_class_token():
    """Through cross-level attention, in one block, with the channel gates held open."""
    model = M2OST(small())
    model.blocks[0].channels = torch.nn.Identity()
    torch.nn.init.normal_(model.head.weight)
    pixels = torch.rand(1, 3, 3, 32, 32, requires_grad=True)
    xs = model.blocks[0](model._tokens(pixels))
    for x in xs:
        gradient = torch.autograd.grad(x[:, 0].pow(2).sum(), pixels, retain_graph=True)[0]
        assert all(gradient[0, scale].any() for scale in range(3))


# ---- start


def test_initialize_from_takes_the_mean_of_the_targets(spots):
    model, batch = M2OST(small()).eval(), spots(12)
    model.initialize_from([batch])
    torch.testing.assert_close(model(batch), batch.targets.mean(dim=0).expand(12, -1))


# ---- size


def test_size_and_cost_of_the_paper_s_network(spots):
    with torch.device("meta"):
        model = M2OST(M2OSTConfig(n_outputs=250)).eval()
    learnt = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(learnt.values()) == 6_791_122
    outside = sum(n for name, n in learnt.items() if not name.startswith(("cls", "positions")))
    assert outside == pytest.approx(6.81e6, rel=0.04)  # the paper's figure, which leaves these out
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(spots(1, size_px=224).to("meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(3.98e9, rel=0.01)
