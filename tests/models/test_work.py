"""What a forward pass of the network does, counted and not timed; and that it computes what a plain one does."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from stpredict import models
from stpredict.models import M2OST, M2OSTConfig
from stpredict.models._layers import add_residual, attend
from stpredict.models.m2ost import weighted_sum

ATTENTION = "_scaled_dot_product"


class Calls(TorchDispatchMode):
    """Counts operators, and notes the size of every new floating point tensor."""

    def __init__(self):
        super().__init__()
        self.names, self.made = Counter(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.names[func.overloadpacket.__name__] += 1
        if isinstance(made, torch.Tensor) and made.is_floating_point() and not func.is_view:
            self.made.append(made.numel())
        return made

    def attention(self):
        return sum(n for name, n in self.names.items() if name.startswith(ATTENTION))


def small(**overrides):
    return M2OSTConfig(**{"n_outputs": 4, "dim": 12, "depth": 2, "size_px": 32, "patch_size": 8, **overrides})


# ---- a slow network that is obviously right


def plain_attention(q, k, v, heads):
    """One query head after the other, all scores held."""
    answers = []
    for part in range(heads):
        width = q.shape[-1] // heads
        one = slice(part * width, (part + 1) * width)
        scores = torch.einsum("bmd,bnd->bmn", q[..., one], k[..., one]) / width**0.5
        answers.append(torch.einsum("bmn,bnd->bmd", scores.softmax(dim=-1), v[..., one]))
    return torch.cat(answers, dim=-1)


def plain_tokens(model, pixels):
    """Class token and grids of each scale, cut out token by token."""
    xs = []
    for i in range(pixels.shape[1]):
        tokens = [model.cls[i][:, 0].expand(len(pixels), -1)]
        for k in range(i, -1, -1):
            size, embed, side = model.embed.sizes[k], model.embed.embedders[k], pixels.shape[-1]
            first, last = (side - side // 2**k) // 2, (side + side // 2**k) // 2
            for y in range(first, last, size):
                for x in range(first, last, size):
                    window = pixels[:, i, :, y : y + size, x : x + size].flatten(1)
                    tokens.append(F.linear(window * 2 - 1, embed.weight, embed.bias))
        xs.append(torch.stack(tokens, dim=1) + model.positions[i])
    return xs


def plain_block(block, xs, heads):
    """The four sublayers of a block, by the paper's equations."""
    mixed = []
    for x, (norm, attention), mlp in zip(xs, block.within, block.mlp, strict=True):
        q, k, v = attention.qkv(norm(x)).chunk(3, dim=-1)
        y = x + attention.out(plain_attention(q, k, v, heads))
        mixed.append(y + mlp(y))
    between, asked = block.between, mixed
    qkv = [
        project(norm(x)).chunk(3, dim=-1) for x, norm, project in zip(asked, between.norms, between.qkv, strict=True)
    ]
    xs = []
    for i, x in enumerate(asked):
        others = [j for j in range(len(asked)) if j != i]
        answers = [plain_attention(qkv[i][0], qkv[j][1], qkv[j][2], heads) for j in others]
        heard = sum(weight * answer for weight, answer in zip(between.weights[i], answers, strict=True))
        xs.append(x + between.outs[i](heard))
    gates = 2 * torch.sigmoid(block.channels.gate(torch.cat([x.mean(dim=1) for x in xs], dim=-1)))
    return [x * gate[:, None] for x, gate in zip(xs, gates.chunk(len(xs), dim=-1), strict=True)]


def plain_network(model, patches):
    xs = plain_tokens(model, patches / 255)
    for block in model.blocks:
        xs = plain_block(block, xs, model.config.heads)
    return model.head(torch.cat([norm(x[:, 0]) for x, norm in zip(xs, model.norms, strict=True)], dim=-1))


@pytest.mark.parametrize("n_scales", [2, 3])
def test_outputs_and_gradients_are_those_of_a_plain_network(n_scales, spots):
    torch.manual_seed(n_scales)
    model = M2OST(small(fov_spots=(1.0, 2.0, 4.0, 8.0)[:n_scales], mask_rate=0.0, patch_size=8))
    torch.nn.init.normal_(model.head.weight)
    for block in model.blocks:
        torch.nn.init.normal_(block.between.weights)
    batch = spots(n_scales=n_scales)
    gradients = []
    for y in (model(batch), plain_network(model, batch.patches)):
        gradients.append(torch.autograd.grad((y - batch.targets).pow(2).mean(), list(model.parameters())))
    torch.testing.assert_close(model(batch), plain_network(model, batch.patches), atol=1e-5, rtol=1e-5)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours / plain.abs().max(), plain / plain.abs().max(), atol=1e-5, rtol=0)


def test_both_kernels_of_attention_agree():
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    coarse = attend(*(x.bfloat16() for x in (q, k, v)))
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), attend(q, k, v), atol=0.03, rtol=0.03)


def test_bfloat16_stays_near_float32(spots):
    model = M2OST(small()).eval()
    torch.nn.init.normal_(model.head.weight, std=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = model(spots())
    assert (coarse - model(spots())).abs().mean() < 0.02 * model(spots()).abs().max()


def test_sums_in_place_keep_the_finer_precision():
    x, change = torch.randn(4), torch.randn(4)
    assert torch.equal(add_residual(x, change.clone()), x + change)
    coarse = add_residual(x, change.bfloat16())
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, x + change.bfloat16())


def test_weighted_sum():
    xs, weights = list(torch.randn(3, 2, 5)), torch.tensor([1.0, -2.0, 0.5])
    kept = [x.clone() for x in xs]
    torch.testing.assert_close(weighted_sum(xs, weights), torch.einsum("i,ijk->jk", weights, torch.stack(kept)))
    assert all(torch.equal(x, y) for x, y in zip(xs, kept, strict=True))


# ---- work


@pytest.mark.parametrize("n_scales", [1, 3])
def test_one_call_of_attention_per_scale_within_and_one_between(n_scales, spots):
    model = M2OST(small(fov_spots=(1.0, 2.0, 4.0, 8.0)[:n_scales]))
    for train in (False, True):
        with Calls() as calls, torch.no_grad():
            model.train(train)(spots(n_scales=n_scales))
        assert calls.attention() == 2 * (n_scales + (n_scales if n_scales > 1 else 0))


def test_bytes_become_numbers_once(spots):
    """One copy in floating point of all scales, and besides only of the centres that finer tokens see."""
    batch = spots()
    with Calls() as calls, torch.no_grad():
        M2OST(small())(batch)
    assert [n for n in calls.made if n >= batch.patches[:, 0].numel()] == [batch.patches.numel()]


def test_no_scores_of_all_queries_and_keys_are_held(spots):
    with Calls() as calls, torch.no_grad():
        M2OST(small(patch_size=4)).eval()(spots())
    tokens = 1 + 3 * 64  # of the widest scale; three spots, three heads
    assert max(calls.made) < 3 * 3 * tokens**2


MULTIPLICATIONS = {  # of one spot at 250 outputs, attention counted
    "m2ost": 3.981e9,
    "m2ost_small": 1.641e9,
    "m2ost_tiny": 0.1127e9,
    "m2ost_reference": 4.31e9,
}


@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_multiplications_of_one_spot(name, spots):
    config = models.config(name, 250)
    with torch.device("meta"):
        model = models.build(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(spots(1, size_px=config.size_px).to("meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(MULTIPLICATIONS[name], rel=0.001)


def test_names_and_shapes_of_saved_weights():
    """Predictors that are saved today must load tomorrow."""
    options = {"dim": 12, "depth": 1, "size_px": 32, "patch_size": 8}
    model = models.build(models.config("m2ost", 4, options))
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    expected = {"head.weight": (4, 36), "head.bias": (4,)}
    for i in range(3):
        linear = {
            "mlp.{}.1": (12, 12),
            "mlp.{}.4": (12, 12),
            "between.outs.{}.0": (12, 12),
            "within.{}.1.out.0": (12, 12),
        }
        norms = ("blocks.0.within.{}.0", "blocks.0.mlp.{}.0", "blocks.0.between.norms.{}", "norms.{}")
        expected |= {f"cls.{i}": (1, 1, 12), f"positions.{i}": (1, 1 + 16 * (i + 1), 12)}
        expected |= {f"blocks.0.{name.format(i)}.weight": shape for name, shape in linear.items()}
        expected |= {f"blocks.0.{name.format(i)}.bias": (12,) for name in linear}
        expected |= {f"{name.format(i)}.{kind}": (12,) for name in norms for kind in ("weight", "bias")}
        expected |= {f"blocks.0.{name}.{i}.{rest}": (36, 12) for name, rest in (("between.qkv", "weight"),)}
        expected[f"blocks.0.within.{i}.1.qkv.weight"] = (36, 12)
        expected |= {f"embed.embedders.{i}.weight": (12, 3 * (8 >> i) ** 2), f"embed.embedders.{i}.bias": (12,)}
    expected |= {"blocks.0.between.weights": (3, 2)}
    gate = {
        "0.weight": (36,),
        "0.bias": (36,),
        "1.weight": (24, 36),
        "1.bias": (24,),
        "4.weight": (36, 24),
        "4.bias": (36,),
    }
    expected |= {f"blocks.0.channels.gate.{name}": shape for name, shape in gate.items()}
    assert shapes == expected
