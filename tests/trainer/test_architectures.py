"""Latent attention, experts, activations, presets and the diaries' counts.

Rows M1, M3-M14, M16 of the feature table; references are `transformers`' DeepSeek-V3 and Mixtral.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    DeepseekV3MoE,
    DeepseekV3RotaryEmbedding,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from trainer.flops import training_flops_per_token
from trainer.model.attention import LatentCausalAttention, LayerCache
from trainer.model.feedforward import FeedForward, LearnedGELU, MixtureOfExperts
from trainer.model.initial import STD
from trainer.model.transformer import Transformer
from trainer.shapes import (
    Experts,
    LatentAttention,
    ModelShape,
    count_parameters,
    preset,
)

LATENT = LatentAttention(q_latent=12, kv_latent=8, d_content=6, d_rotary=4, d_value=10)
EXPERTS = Experts(n_routed=5, n_shared=2, top_k=2, d_expert=7)
SIZES = {"d_model": 16, "n_layer": 2, "n_head": 4, "vocab_size": 50, "context": 24}


def noisy(module: torch.nn.Module, std: float = 0.3) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module


def stream(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def diary_1(d: int, heads: int, d_ff: int, layers: int, **overrides: object) -> ModelShape:
    return preset(
        "gpt",
        d_model=d,
        n_head=heads,
        d_ff=d_ff,
        n_layer=layers,
        **{
            "vocab_size": 50_257,
            "context": 512,
            "activation": "relu",
            "head_bias": True,
            **overrides,
        },
    )


def diary_2(d: int, layers: int, heads: int, vocabulary: int = 256) -> ModelShape:
    return preset(
        "femto", d_model=d, n_layer=layers, n_head=heads, vocab_size=vocabulary, context=64
    )


@pytest.mark.parametrize(
    ("shape", "total"),
    [
        (diary_1(64, 4, 256, 2), 3_399_569),
        (diary_1(16, 2, 64, 2), 869_153),
        (diary_1(128, 8, 512, 4), 7_342_033),
        (diary_1(256, 8, 1024, 4), 16_206_673),
        (diary_1(256, 8, 1024, 8), 19_365_713),
        (diary_1(512, 8, 2048, 12), 63_873_617),
        (diary_1(512, 8, 2048, 12, position="rotary"), 63_611_473),
        (diary_2(32, 4, 2), 67_136),
        (diary_2(64, 4, 4), 232_320),
        (diary_2(64, 4, 4, 15), 201_231),
        (diary_2(64, 6, 4), 331_904),
        (diary_2(80, 6, 4), 506_976),
        (diary_2(128, 6, 8), 1_253_376),
        (diary_2(256, 8, 8), 6_443_776),
        (diary_2(160, 8, 8, 566), 2_652_406),
    ],
)
def test_the_diaries_models_have_the_counted_sizes(shape: ModelShape, total: int) -> None:
    assert count_parameters(shape).total == total
    if total < 1_000_000:
        built = Transformer(shape, seed=0)
        assert sum(p.numel() for p in built.parameters()) == total


def test_the_first_diarys_models_are_almost_all_embedding() -> None:
    assert count_parameters(diary_1(16, 2, 64, 2)).body == 6_592
    assert count_parameters(diary_1(128, 8, 512, 4)).body == 793_344


def test_latent_attention_and_experts_at_the_third_diarys_sizes_have_the_published_counts() -> None:
    shape = preset(
        "deepseek",
        d_model=512,
        n_head=8,
        n_layer=1,
        vocab_size=1,
        context=1,
        latent=LatentAttention(q_latent=8, kv_latent=16, d_content=512, d_rotary=128, d_value=512),
        experts=Experts(n_routed=3, n_shared=2, top_k=2, d_expert=2048),
    )
    norms_head_and_embedding = 3 * 512 + 2 * 512
    assert count_parameters(shape).total == 2_347_032 + 15_730_176 + norms_head_and_embedding


def all_shapes() -> list[ModelShape]:
    latent = {"latent": LATENT, "position": "rotary"}
    llama = {"family": "llama", **SIZES}
    gpt = {"family": "gpt", **SIZES}
    return [
        preset(**{**gpt, "activation": "learned_gelu"}),
        preset(**{**gpt, "qkv_bias": False, "head_bias": True, "tied_head": False}),
        preset(**{**gpt, "residual": "normed"}),
        preset(**{**llama, "rotary_layout": "interleaved", "qkv_bias": True}),
        preset(**{**llama, **latent}),
        preset(**{**llama, "latent": dataclasses.replace(LATENT, q_latent=None)}),
        preset(**{**llama, "experts": EXPERTS}),
        preset(**{**llama, "experts": dataclasses.replace(EXPERTS, n_shared=0, top_k=5)}),
        preset(**{**gpt, "experts": EXPERTS, "activation": "gelu"}),
        preset(**{**gpt, "experts": EXPERTS, "activation": "learned_gelu"}),
        preset("femto", **SIZES),
        preset("deepseek", **SIZES),
    ]


@pytest.mark.parametrize("shape", all_shapes())
def test_counts_flops_first_loss_and_causality_hold_for_every_part(shape: ModelShape) -> None:
    model = Transformer(shape, seed=0, backend="explicit")
    counts = count_parameters(shape)
    assert sum(p.numel() for p in model.parameters()) == counts.total
    ids = torch.randint(0, 50, (3, 25), generator=torch.Generator().manual_seed(0))
    model.eval()
    with FlopCounterMode(display=False) as step:
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
    assert step.get_total_flops() == training_flops_per_token(shape).total * 3 * 24
    with torch.no_grad():
        assert abs(model.loss(ids[:, :-1], ids[:, 1:]).item() - math.log(50)) < 0.5
        changed = ids.clone()
        changed[:, 11:] = (changed[:, 11:] + 1) % 50
        before, after = model(ids[:, :-1]), model(changed[:, :-1])
        assert (before - after)[:, :11].abs().max() < 1e-6
        assert (before - after)[:, 11].abs().max() > 1e-4
        other = Transformer(shape, seed=0, backend="block").eval()
        assert (other(ids[:, :-1]) - before).abs().max() < 1e-5


@pytest.mark.parametrize("shape", all_shapes())
def test_generating_from_a_cache_gives_the_logits_of_a_full_pass(shape: ModelShape) -> None:
    model = noisy(Transformer(shape, seed=0, backend="block"), 0.2).eval()
    ids = torch.randint(0, 50, (2, 20), generator=torch.Generator().manual_seed(0))
    caches = [LayerCache() for _ in model.blocks]
    with torch.no_grad():
        full = model(ids)
        pieces = [ids[:, :9], ids[:, 9:10], ids[:, 10:11], ids[:, 11:]]
        found = torch.cat([model.logits(model.hidden(piece, caches)) for piece in pieces], dim=1)
    assert (found - full).abs().max() < 1e-5
    assert caches[0].length == 20


def test_the_latent_cache_holds_one_latent_and_one_rotary_key_per_token() -> None:
    attention = LatentCausalAttention(preset("llama", latent=LATENT, **SIZES), backend="block")
    cache = LayerCache()
    attention(stream(1, 15, 16), cache)
    assert cache.parts is not None
    assert sum(part.numel() for part in cache.parts) == 15 * (8 + 4)


@pytest.mark.parametrize("q_latent", [None, 12])
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_latent_attention_equals_deepseek_v3s(q_latent: int | None, layout: str) -> None:
    shape = preset(
        "llama",
        latent=dataclasses.replace(LATENT, q_latent=q_latent),
        rotary_layout=layout,
        **SIZES,
    )
    ours = noisy(LatentCausalAttention(shape, backend="block"))
    config = DeepseekV3Config(
        hidden_size=16,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=q_latent,
        kv_lora_rank=8,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=10,
        rope_interleave=layout == "interleaved",
        max_position_embeddings=24,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
    )
    theirs = DeepseekV3Attention(config, layer_idx=0).eval()
    copies = [
        (theirs.kv_a_proj_with_mqa.weight, ours.kv_down.weight),
        (theirs.kv_a_layernorm.weight, ours.kv_norm.weight),
        (theirs.kv_b_proj.weight, ours.kv_up.weight),
        (theirs.o_proj.weight, ours.out.weight),
    ]
    if q_latent is None:
        copies.append((theirs.q_proj.weight, ours.q_up.weight))
    else:
        copies += [
            (theirs.q_a_proj.weight, ours.q_down.weight),
            (theirs.q_a_layernorm.weight, ours.q_norm.weight),
            (theirs.q_b_proj.weight, ours.q_up.weight),
        ]
    with torch.no_grad():
        for target, source in copies:
            assert target.shape == source.shape
            target.copy_(source)
    # DeepSeek's latent norms have an epsilon of their own.
    for norm in (theirs.kv_a_layernorm, getattr(theirs, "q_a_layernorm", None)):
        if norm is not None:
            norm.variance_epsilon = 1e-5
    x = stream(2, 20, 16)
    angles = DeepseekV3RotaryEmbedding(config)(x, torch.arange(20)[None])
    mask = torch.full((20, 20), -math.inf).triu(1)[None, None]
    with torch.no_grad():
        expected = theirs(x, angles, mask)[0]
        assert (ours(x) - expected).abs().max() < 1e-5


def test_the_mixture_equals_deepseek_v3s() -> None:
    experts = dataclasses.replace(EXPERTS, router="sigmoid", balance="bias")
    shape = preset("deepseek", **{**SIZES, "experts": experts})
    ours = noisy(MixtureOfExperts(shape)).eval()
    ours.choice_bias.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1, -0.1]))
    config = DeepseekV3Config(
        hidden_size=16,
        moe_intermediate_size=7,
        n_routed_experts=5,
        n_shared_experts=2,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
        hidden_act="silu",
        experts_implementation="eager",
    )
    theirs = DeepseekV3MoE(config).eval()
    gate, up = ours.shared.up.weight.chunk(2)
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router)
        theirs.gate.e_score_correction_bias.copy_(ours.choice_bias)
        theirs.experts.gate_up_proj.copy_(ours.up)
        theirs.experts.down_proj.copy_(ours.down)
        theirs.shared_experts.gate_proj.weight.copy_(gate)
        theirs.shared_experts.up_proj.weight.copy_(up)
        theirs.shared_experts.down_proj.weight.copy_(ours.shared.down.weight)
        x = stream(2, 20, 16)
        assert (ours(x) - theirs(x)).abs().max() < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_only_the_chosen_experts_contribute_and_the_router_gets_a_gradient(activation: str) -> None:
    shape = preset("llama", activation=activation, experts=EXPERTS, **SIZES)
    mixture = noisy(MixtureOfExperts(shape))
    x = stream(40, 16)
    out = mixture(x)
    chosen, weights = mixture.route(x)
    assert torch.allclose(weights.sum(-1), torch.ones(40))
    dense = torch.zeros_like(x)
    for expert in range(5):
        hidden = mixture.activations[0](x @ mixture.up[expert].T) @ mixture.down[expert].T
        dense += hidden * ((chosen == expert) * weights).sum(-1, keepdim=True)
    assert (out - dense - mixture.shared(x)).abs().max() < 1e-5
    out.square().sum().backward()
    assert mixture.router.grad.norm() > 0


def test_the_auxiliary_loss_is_mixtrals() -> None:
    shape = preset("llama", experts=dataclasses.replace(EXPERTS, n_shared=0), **SIZES)
    mixture = noisy(MixtureOfExperts(shape), 1.0)
    x = stream(64, 16)
    mixture(x)
    logits = x @ mixture.router.T
    expected = load_balancing_loss_func((logits,), 5, 2)
    assert abs(mixture.auxiliary_loss.item() - expected.item()) < 1e-6
    with torch.no_grad():
        mixture.router.zero_()
    mixture(x)
    assert mixture.auxiliary_loss.item() == pytest.approx(2.0)


@pytest.mark.parametrize("balance", ["bias", "auxiliary"])
def test_balancing_evens_out_the_load(balance: str) -> None:
    rate = 0.02 if balance == "bias" else 0.1
    experts = dataclasses.replace(
        EXPERTS, n_shared=0, router="sigmoid", balance=balance, balance_rate=rate
    )
    shape = preset("deepseek", **{**SIZES, "experts": experts})
    mixture = noisy(MixtureOfExperts(shape))
    optimizer = torch.optim.Adam([mixture.router], lr=0.02)
    generator = torch.Generator().manual_seed(0)
    loads = []
    for _ in range(200):
        # Tokens with a common direction make an untrained router prefer some experts.
        x = torch.randn(256, 16, generator=generator) + 1.0
        mixture(x)
        if balance == "auxiliary":
            optimizer.zero_grad()
            mixture.auxiliary_loss.backward()
            optimizer.step()
        loads.append(float(mixture.load.max() / mixture.load.mean()))
        mixture.balance()
    assert loads[0] > 1.8
    assert sum(loads[-20:]) / 20 < 1.5


def test_gumbel_noise_is_seeded_and_absent_in_evaluation() -> None:
    shape = preset("llama", experts=dataclasses.replace(EXPERTS, gumbel=1.0), **SIZES)
    mixture = noisy(MixtureOfExperts(shape))
    x = stream(40, 16)

    def chosen(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return mixture.route(x)[0]

    assert torch.equal(chosen(1), chosen(1))
    assert not torch.equal(chosen(1), chosen(2))
    mixture.eval()
    assert torch.equal(chosen(1), chosen(2))


def test_a_gumbel_router_learns_and_a_low_temperature_sharpens_its_weights() -> None:
    x = stream(40, 16)
    spread = {}
    for temperature in (1.0, 0.1):
        experts = dataclasses.replace(EXPERTS, gumbel=1.0, temperature=temperature)
        mixture = noisy(MixtureOfExperts(preset("llama", experts=experts, **SIZES)))
        torch.manual_seed(0)
        mixture(x).square().sum().backward()
        assert mixture.router.grad.norm() > 0
        torch.manual_seed(0)
        spread[temperature] = mixture.route(x)
    # The same noise chooses the same experts; only their weights differ.
    assert torch.equal(spread[1.0][0], spread[0.1][0])
    assert spread[0.1][1].max(-1).values.mean() > spread[1.0][1].max(-1).values.mean() + 0.1


def test_learned_gelu_starts_as_gelu_and_learns_both_scalars() -> None:
    activation = LearnedGELU()
    x = stream(50)
    assert torch.equal(activation(x), torch.nn.functional.gelu(x))
    activation(x).sum().backward()
    assert activation.mean.grad.abs() > 0
    assert activation.scale.grad.abs() > 0


def test_dropout_acts_in_training_only_and_keeps_the_mean() -> None:
    shape = preset("gpt", **SIZES)
    model = Transformer(shape, seed=0, dropout=0.4)
    ids = torch.zeros(1, 24, dtype=torch.long)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))
    layer = FeedForward(shape, d_ff=4000, bias=False, dropout=0.4).train()
    x = stream(1, 16)
    torch.manual_seed(0)
    mean = torch.stack([layer(x) for _ in range(300)]).mean(0)
    exact = layer.eval()(x)
    assert (mean - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_the_truncated_scheme_has_the_target_spread_and_is_cut(family: str) -> None:
    shape = preset(family, d_model=128, n_layer=1, n_head=2, vocab_size=256, context=8)
    model = Transformer(shape, seed=0, init="truncated")
    for layer in (model.blocks[0].feed_forward.up, model.blocks[0].attention.out):
        weight = layer.weight
        std = math.sqrt(2 / sum(weight.shape))
        assert weight.std().item() == pytest.approx(std, rel=0.02)
        # The uncut normal is wider by 1.35 %, and is cut at three of its deviations.
        assert weight.abs().max() <= 3 * std * 1.0137
        assert weight.abs().max() > 2.8 * std


def test_the_schemes_draw_what_they_promise() -> None:
    shape = preset("gpt", d_model=128, n_layer=8, n_head=2, vocab_size=256, context=8)
    scaled, gpt2, femto = (
        Transformer(shape, seed=0, init=scheme).blocks[0] for scheme in ("scaled", "gpt2", "femto")
    )
    assert scaled.attention.qkv.weight.std().item() == pytest.approx(0.5 * 128**-0.5, rel=0.02)
    assert scaled.feed_forward.down.weight.std().item() == pytest.approx(
        0.5 * 512**-0.5 / 4, rel=0.02
    )
    assert gpt2.feed_forward.up.weight.std().item() == pytest.approx(STD, rel=0.02)
    assert gpt2.attention.out.weight.std().item() == pytest.approx(STD / 4, rel=0.02)
    assert femto.attention.out.weight.std().item() == pytest.approx(STD, rel=0.02)
    assert femto.attention_norm.weight.std().item() == pytest.approx(STD, rel=0.3)
    assert (gpt2.attention_norm.weight == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": dataclasses.replace(EXPERTS, top_k=6)}, "top_k must not exceed n_routed"),
        ({"experts": dataclasses.replace(EXPERTS, top_k=0)}, "top_k must be at least 1"),
        ({"experts": dataclasses.replace(EXPERTS, n_shared=-1)}, "n_shared must be at least 0"),
        ({"experts": dataclasses.replace(EXPERTS, router="hash")}, "router must be one of"),
        ({"experts": dataclasses.replace(EXPERTS, gumbel=-1.0)}, "must not be negative"),
        (
            {"experts": dataclasses.replace(EXPERTS, temperature=0.0)},
            "temperature must be positive",
        ),
        ({"latent": dataclasses.replace(LATENT, kv_latent=17)}, "between 1 and d_model = 16"),
        ({"latent": dataclasses.replace(LATENT, q_latent=0)}, "between 1 and d_model = 16"),
        ({"latent": dataclasses.replace(LATENT, d_rotary=3)}, "d_rotary must be even"),
        ({"latent": dataclasses.replace(LATENT, d_value=0)}, "d_value must be at least 1"),
        ({"latent": LATENT, "position": "learned"}, "latent attention needs position = rotary"),
        ({"residual": "post"}, "residual must be one of stream, normed"),
    ],
)
def test_parts_that_cannot_be_built_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset("llama", **{**SIZES, **changes})
