"""Ten defects of the third diary's program, each shown absent here.

D1 rotary angles, D2 mixed heads, D3 a block without its residual, D4 a router that cannot learn,
D5 experts computed in vain, D6 a truncated normal that is nearly uniform, D7 optimiser state in
bfloat16, D8 clipping and accumulation, D9 a nucleus above one, D10 a count by hand. The bugs that
the diary itself found (targets, mask, softmax axis) are mutants in `test_diagnose.py`.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import OptimizerConfig
from trainer.generate import Sampling
from trainer.model.attention import LatentCausalAttention
from trainer.model.feedforward import MixtureOfExperts
from trainer.model.initial import initialise
from trainer.model.position import rotary_tables, rotate
from trainer.model.transformer import Block, Transformer
from trainer.optim import Optimizer
from trainer.shapes import Experts, LatentAttention, ModelShape, count_parameters, preset

SIZES = {"d_model": 16, "n_layer": 2, "n_head": 4, "vocab_size": 50, "context": 24}
LATENT = LatentAttention(q_latent=8, kv_latent=8, d_content=6, d_rotary=4, d_value=10)
EXPERTS = Experts(n_routed=3, n_shared=2, top_k=2, d_expert=64, gumbel=1.0, temperature=0.1)


def diary_shape(**changes: object) -> ModelShape:
    fields = {"activation": "learned_gelu", "latent": LATENT, "experts": EXPERTS, **changes}
    return preset("deepseek", **{**SIZES, **fields})


def stream(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def test_d1_every_channel_pair_turns_at_its_own_rate_and_keeps_its_norm() -> None:
    cos, sin = rotary_tables(64, 16, dtype=torch.float64)
    angles = torch.atan2(sin[1], cos[1])
    assert angles.tolist() == pytest.approx([10_000 ** (-2 * pair / 16) for pair in range(8)])
    x = stream(64, 1, 16).double()
    turned = rotate(x, cos, sin, layout="interleaved")
    assert (turned.norm(dim=-1) - x.norm(dim=-1)).abs().max() < 1e-10


def test_d2_permuting_heads_changes_nothing() -> None:
    shape = diary_shape()
    one, other = (LatentCausalAttention(shape, backend="block") for _ in range(2))
    order = [2, 0, 3, 1]

    def by_head(weight: Tensor, *, rows: bool) -> Tensor:
        if rows:
            return weight.view(4, -1, weight.shape[1])[order].reshape(weight.shape)
        return weight.view(weight.shape[0], 4, -1)[:, order].reshape(weight.shape)

    with torch.no_grad():
        state = {name: torch.randn_like(p) * 0.3 for name, p in one.named_parameters()}
        one.load_state_dict(state, strict=False)
        for name in ("q_up.weight", "kv_up.weight"):
            state[name] = by_head(state[name], rows=True)
        state["out.weight"] = by_head(state["out.weight"], rows=False)
        other.load_state_dict(state, strict=False)
        x = stream(2, 20, 16)
        assert one(x).abs().max() > 0.01
        assert (one(x) - other(x)).abs().max() < 1e-5


def test_d3_a_block_that_adds_nothing_is_the_identity() -> None:
    block = Block(diary_shape(), backend="block", dropout=0.0)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            silent = name.endswith("out.weight") or ".down" in name
            parameter.normal_() if not silent else parameter.zero_()
    x = stream(2, 20, 16)
    assert torch.equal(block(x), x)


def test_d4_the_router_learns_and_evaluation_has_no_noise() -> None:
    mixture = MixtureOfExperts(diary_shape())
    with torch.no_grad():
        for parameter in mixture.parameters():
            if parameter.ndim:
                parameter.normal_(0, 0.3)
    x = stream(40, 16)
    mixture.train()(x).square().sum().backward()
    assert mixture.router.grad is not None
    assert mixture.router.grad.norm() > 0
    mixture.eval()
    assert torch.equal(mixture(x), mixture(x))


def test_d5_only_chosen_experts_are_computed_and_each_has_two_matrices() -> None:
    mixture = MixtureOfExperts(diary_shape()).eval()
    torch.nn.init.normal_(mixture.router)
    torch.nn.init.normal_(mixture.up)
    torch.nn.init.normal_(mixture.down)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        mixture(stream(40, 16))
    # Two shared experts and two of three routed ones, two products of d x 4 d; and the router.
    assert counted.get_total_flops() == 2 * 40 * (4 * 2 * 16 * 64 + 16 * 3)
    weights = sum(p.numel() for p in mixture.parameters() if p.ndim >= 2)
    assert weights == (3 + 2) * 2 * 16 * 64 + 16 * 3


def test_d6_a_truncated_normal_has_the_spread_that_was_asked() -> None:
    layer = torch.nn.Module()
    layer.w = torch.nn.Parameter(torch.empty(400, 600))
    initialise(layer, n_layer=1, seed=0, scheme="truncated")
    std = math.sqrt(2 / 1000)
    assert layer.w.std().item() == pytest.approx(std, rel=0.02)
    # Nearly uniform weights would have a kurtosis of 1.8, a normal cut at three has 2.84.
    kurtosis = (layer.w / layer.w.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(2.84, abs=0.05)


def test_d7_bfloat16_reaches_no_weight_and_no_optimiser_state() -> None:
    model = Transformer(diary_shape(), seed=0, backend="block")
    optimizer = Optimizer(model, OptimizerConfig(name="adam", learning_rate=1e-3))
    ids = torch.randint(0, 50, (2, 25), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    optimizer.step(1e-3)
    kept = [x for part in optimizer.state_dict().values() for m in part["state"].values()
            for x in m.values() if isinstance(x, Tensor)]  # fmt: skip
    assert len(kept) >= 3
    assert {x.dtype for x in [*kept, *model.parameters(), loss]} == {torch.float32}


def test_d8_clipping_scales_the_whole_gradient_and_parts_are_averaged() -> None:
    model = Transformer(diary_shape(), seed=0, backend="block").eval()
    ids = torch.randint(0, 50, (4, 25), generator=torch.Generator().manual_seed(0))
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    whole = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=1e-3, clip_norm=1e-3))
    for part in ids.split(1):
        (model.loss(part[:, :-1], part[:, 1:]) / 4).backward()
    seen: list[Tensor] = []
    optimizer._parts["adam"].register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in model.parameters())
    )
    norm = optimizer.step(1e-3)
    assert norm is not None
    expected = math.sqrt(sum(float(g.square().sum()) for g in whole if g is not None))
    assert float(norm) == pytest.approx(expected, rel=1e-5)
    for clipped, gradient in zip(seen, whole, strict=True):
        if gradient is not None:
            assert (clipped - gradient * (1e-3 / expected)).abs().max() < 1e-6


@pytest.mark.parametrize("top_p", [50.0, 1.01, 0.0])
def test_d9_a_nucleus_outside_zero_to_one_is_refused(top_p: float) -> None:
    with pytest.raises(ValueError, match=r"top_p must lie in \(0, 1\]"):
        Sampling(top_p=top_p)


def test_d10_declared_and_counted_parameters_are_compared_at_every_start() -> None:
    for experts in (EXPERTS, dataclasses.replace(EXPERTS, n_shared=0, top_k=3)):
        shape = diary_shape(experts=experts)
        built = sum(p.numel() for p in Transformer(shape, seed=0).parameters())
        assert built == count_parameters(shape).total
