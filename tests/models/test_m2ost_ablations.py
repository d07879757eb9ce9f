"""What Tables 1 and 2 of the paper take away: what takes its place, what it costs, and that each can be had alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import stpredict
from stpredict import models
from stpredict.models import M2OST, M2OSTConfig
from stpredict.models.m2ost import PlainEmbedding, Stacked

TABLE_1 = ["m2ost", "m2ost_plain_embedding", "m2ost_joint_attention", "m2ost_concat", "m2ost_dense"]
SWITCHES = {
    "embedding": ("nested", "plain"),
    "within": ("scale", "joint"),
    "between": ("cross", "concat", "sum"),
    "channels": ("mixing", "dense"),
}


def small(**overrides):
    return M2OSTConfig(**{"n_outputs": 4, "dim": 12, "depth": 1, "size_px": 32, "patch_size": 8, **overrides})


def on_meta(name):
    with torch.device("meta"):
        return models.build(models.config(name, 250)).eval()


def learnt(name):
    parameters = on_meta(name).named_parameters()
    return sum(p.numel() for part, p in parameters if not part.startswith(("cls", "positions")))


def multiplications(name, spots):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(name)(spots(1, size_px=224).to("meta"))
    return counter.get_total_flops() / 2


def test_rows_are_cumulative():
    shapes = [models.config(name, 4) for name in TABLE_1]
    changed = [
        {switch for switch, values in SWITCHES.items() if getattr(shape, switch) != values[0]} for shape in shapes
    ]
    assert changed == [set(), *({*list(SWITCHES)[:n]} for n in (1, 2, 3, 4))]
    assert {shape.between for shape in shapes} == {"cross", "concat"}


def test_changes_in_size_are_those_of_the_table():
    """Of 6.81, 7.76, 12.88, 10.66, 10.66 M; ours has one linear map a token and MLPs of its own for every scale."""
    sizes = [learnt(name) for name in TABLE_1]
    assert sizes == [6_564_178, 6_813_010, 11_235_922, 9_459_514, 9_459_514]


def test_what_the_table_says_took_the_place_of_each_part():
    """The joint layer of the published widths, and the dense network, have the sizes that the differences demand."""
    scale = 3 * (3 * 192 * 192 + 192 * 192 + 192) + 49_856  # ITMM and the shared FFN (specs of the published code)
    joint = 4 * 576 * 576 + 576 + (576 * 384 + 384) + (384 * 576 + 576) + 4 * 576
    assert 4 * (joint - scale) == pytest.approx((12.88 - 7.76) * 1e6, rel=0.005)
    layer = models.build(models.config("m2ost_joint_attention", 4)).blocks[0].joint
    assert sum(p.numel() for p in layer.parameters()) == joint


def test_dense_channels_cost_what_the_table_says(spots):
    concat, dense = (multiplications(name, spots) for name in TABLE_1[3:])
    assert (dense - concat) / 1e9 == pytest.approx(2.07 - 1.72, abs=0.005)


PAIRS = [  # every choice beside every other at least once
    ("nested", "scale", "cross", "mixing"), ("nested", "joint", "concat", "dense"), ("nested", "scale", "sum", "dense"),
    ("plain", "joint", "cross", "dense"), ("plain", "scale", "concat", "mixing"), ("plain", "joint", "sum", "mixing"),
]  # fmt: skip


@pytest.mark.parametrize("values", PAIRS, ids="-".join)
def test_every_pair_of_choices_works_and_learns(values, spots):
    model = M2OST(small(**dict(zip(SWITCHES, values, strict=True))))
    torch.nn.init.normal_(model.head.weight)
    model.loss(spots()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("windows", "embedding"), [((3.0,), "nested"), ((6.0,), "plain"), ((1.5, 6.0), "nested"), ((3.0, 6.0), "plain")]
)
def test_subsets_of_scales_work(windows, embedding, spots):
    model = M2OST(small(fov_spots=windows, embedding=embedding))
    batch = spots(n_scales=len(windows))
    model.initialize_from([batch])
    torch.testing.assert_close(model.head(torch.zeros(1, 12 * len(windows)))[0], batch.targets.mean(dim=0))
    model.loss(batch).backward()
    assert model.eval()(batch).shape == (3, 4)


def test_a_subset_of_scales_is_read_at_its_own_windows():
    sdata = stpredict.datasets.synthetic(n_slides=2, n_side=4)
    config = stpredict.tl.FitConfig(n_epochs=1, progress=False, validation="none")
    options = {"dim": 12, "depth": 1, "size_px": 32, "patch_size": 8, "fov_spots": (3.0, 6.0)}
    predictor = stpredict.tl.fit(sdata, "m2ost_dense", config=config, model_options=options)
    assert predictor.patch.fov_um == (300.0, 600.0)


# ---- the parts


def test_plain_tokens_are_those_of_a_strided_convolution():
    layer, pixels = PlainEmbedding(6, 8, 2), torch.rand(2, 2, 3, 32, 32)
    for scale, (grid,) in enumerate(layer(pixels)):
        embed = layer.embedders[scale]
        weight = embed.weight.reshape(6, 3, 8, 8)
        expected = F.conv2d(pixels[:, scale] * 2 - 1, weight, embed.bias, stride=8).flatten(2).transpose(1, 2)
        torch.testing.assert_close(grid, expected, atol=1e-5, rtol=1e-5)


def test_plain_tokens_need_no_size_that_halves():
    """Two pixels are no quarter of a whole number of them, which only nested tokens mind."""
    assert small(patch_size=2, embedding="plain").patch_size == 2
    with pytest.raises(ValueError, match="not a whole number of pixels"):
        small(patch_size=2)
    with pytest.raises(ValueError, match=r"`size_px` is 36 and `patch_size` is 8"):
        small(size_px=36, embedding="plain")


def test_stacked_tokens_meet_at_the_same_position_and_keep_their_length():
    class Sum(torch.nn.Module):
        def forward(self, y):
            return y.sum(dim=-1, keepdim=True).expand_as(y).clone()

    xs = [torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[10.0], [20.0], [30.0]]])]
    short, long = Stacked(Sum())(xs)
    assert short.flatten().tolist() == [1 + 11, 2 + 22]
    assert long.flatten().tolist() == [10 + 11, 20 + 22, 30 + 30]


def test_same_position_is_the_same_place_where_windows_double():
    """Finest tokens first: position t shows one place of the slide at every scale that has it."""
    seen = []
    for scale in range(3):
        pixels = torch.rand(1, 3, 3, 32, 32, requires_grad=True)
        tokens = torch.cat(M2OST(small()).embed(pixels)[scale], dim=1)
        tokens[0, 6].sum().backward()
        rows, columns = pixels.grad[0, scale].sum(dim=0).nonzero().T
        pixel_um = 2.0**scale
        seen.append([((x.min() - 16) * pixel_um, (x.max() + 1 - 16) * pixel_um) for x in (rows, columns)])
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize(("between", "meet"), [("cross", True), ("concat", False), ("sum", False)])
def test_without_cross_attention_scales_meet_only_at_the_head(between, meet):
    model = M2OST(small(between=between))
    model.blocks[0].channels = torch.nn.Identity()
    pixels = torch.rand(1, 3, 3, 32, 32, requires_grad=True)
    xs = model.blocks[0](model._tokens(pixels))
    gradient = torch.autograd.grad(xs[0][:, 0].pow(2).sum(), pixels)[0]
    assert [bool(gradient[0, scale].any()) for scale in range(3)] == [True, meet, meet]


def test_summed_class_tokens_have_one_width():
    assert M2OST(small(between="sum")).head.in_features == 12
    assert M2OST(small(between="concat")).head.in_features == 36


@pytest.mark.parametrize("switch", SWITCHES)
def test_unknown_words_are_refused(switch):
    with pytest.raises(ValueError, match=f"`{switch}` is 'other'; allowed: '{SWITCHES[switch][0]}'"):
        small(**{switch: "other"})
