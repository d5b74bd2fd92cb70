"""The model against `transformers`, and properties that must hold; rows M1-M3, M10, M11, M13, M15.

Weights are copied into `GPT2LMHeadModel` and `LlamaForCausalLM`; logits must agree to 1e-5 in fp32.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from trainer.model.attention import attend
from trainer.model.norm import RMSNorm
from trainer.model.position import rotary_tables, rotate
from trainer.model.transformer import Transformer
from trainer.shapes import preset

SIZES = {"d_model": 32, "n_layer": 3, "n_head": 4, "vocab_size": 101, "context": 150}


def randomise(model: torch.nn.Module) -> None:
    """Give every parameter, gains and biases included, a value that shows when it is misplaced."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1


def tokens(batch: int = 2, length: int = 150) -> Tensor:
    return torch.randint(0, 101, (batch, length), generator=torch.Generator().manual_seed(2))


def gpt2_with_the_weights_of(model: Transformer) -> GPT2LMHeadModel:
    shape = model.shape
    reference = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=shape.vocab_size,
            n_positions=shape.context,
            n_embd=shape.d_model,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_inner=shape.d_ff,
            activation_function=shape.activation,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            attn_implementation="eager",
        )
    ).eval()
    theirs = reference.transformer
    copies = [
        (theirs.wte.weight, model.embedding),
        (theirs.wpe.weight, model.positions),
        (theirs.ln_f.weight, model.norm.weight),
        (theirs.ln_f.bias, model.norm.bias),
    ]
    for block, other in zip(model.blocks, theirs.h, strict=True):
        copies += [
            (other.ln_1.weight, block.attention_norm.weight),
            (other.ln_1.bias, block.attention_norm.bias),
            (other.attn.c_attn.weight, block.attention.qkv.weight.t()),
            (other.attn.c_attn.bias, block.attention.qkv.bias),
            (other.attn.c_proj.weight, block.attention.out.weight.t()),
            (other.attn.c_proj.bias, block.attention.out.bias),
            (other.ln_2.weight, block.feed_forward_norm.weight),
            (other.ln_2.bias, block.feed_forward_norm.bias),
            (other.mlp.c_fc.weight, block.feed_forward.up.weight.t()),
            (other.mlp.c_fc.bias, block.feed_forward.up.bias),
            (other.mlp.c_proj.weight, block.feed_forward.down.weight.t()),
            (other.mlp.c_proj.bias, block.feed_forward.down.bias),
        ]
    copy_all(copies)
    return reference


def llama_with_the_weights_of(model: Transformer) -> LlamaForCausalLM:
    shape = model.shape
    reference = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            max_position_embeddings=shape.context,
            hidden_size=shape.d_model,
            num_hidden_layers=shape.n_layer,
            num_attention_heads=shape.n_head,
            num_key_value_heads=shape.n_kv_head,
            intermediate_size=shape.d_ff,
            tie_word_embeddings=shape.tied_head,
            rms_norm_eps=1e-5,
            attn_implementation="eager",
        )
    ).eval()
    theirs = reference.model
    copies = [
        (theirs.embed_tokens.weight, model.embedding),
        (theirs.norm.weight, model.norm.weight),
        (reference.lm_head.weight, model.head_weight),
    ]
    kv = shape.n_kv_head * shape.d_head
    for block, other in zip(model.blocks, theirs.layers, strict=True):
        q, k, v = block.attention.qkv.weight.split((shape.d_attn, kv, kv))
        gate, up = block.feed_forward.up.weight.split(shape.d_ff)
        copies += [
            (other.input_layernorm.weight, block.attention_norm.weight),
            (other.self_attn.q_proj.weight, q),
            (other.self_attn.k_proj.weight, k),
            (other.self_attn.v_proj.weight, v),
            (other.self_attn.o_proj.weight, block.attention.out.weight),
            (other.post_attention_layernorm.weight, block.feed_forward_norm.weight),
            (other.mlp.gate_proj.weight, gate),
            (other.mlp.up_proj.weight, up),
            (other.mlp.down_proj.weight, block.feed_forward.down.weight),
        ]
    copy_all(copies)
    return reference


def test_a_head_with_a_bias_adds_it_to_the_logits_of_gpt2() -> None:
    """The model of diary 1: ReLU, tied head with a bias, which GPT-2 has not."""
    shape = preset("gpt", activation="relu", head_bias=True, **SIZES)
    model = Transformer(shape, seed=0, backend="block")
    randomise(model)
    with torch.no_grad():
        expected = gpt2_with_the_weights_of(model)(tokens()).logits + model.head_bias
        assert (model(tokens()) - expected).abs().max() < 1e-5
        assert model.head_bias.abs().max() > 0.1


def test_fused_attention_keeps_no_score_matrix_for_the_backward_pass() -> None:
    """4 sequences, 2 heads, 256 positions: the explicit form keeps T^2 numbers per head."""
    kept = {}
    for backend in ("explicit", "block", "sdpa"):
        q, k, v = (torch.randn(4, 2, 256, 8, requires_grad=True) for _ in range(3))
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, into=sizes: into.append(x.numel()) or x, lambda x: x
        ):
            attend(q, k, v, backend=backend).sum().backward()
        kept[backend] = sum(sizes)
    assert kept["explicit"] > 4 * 2 * 256 * 256
    assert kept["sdpa"] < 0.2 * kept["explicit"]
    # Only the blocks at or below the diagonal.
    assert kept["block"] < 0.8 * kept["explicit"]


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rotary_scores_depend_on_the_distance_to_ten_digits(layout: str) -> None:
    cos, sin = rotary_tables(600, 16, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 16, generator=generator, dtype=torch.float64).expand(2, 600, 1, 16)
    turned_q, turned_k = (rotate(x, cos, sin, layout=layout)[:, 0] for x in (q, k))
    assert (turned_q.norm(dim=-1) - q[:, 0].norm(dim=-1)).abs().max() < 1e-10
    scores = turned_q @ turned_k.T
    for shift in (0, 1, 17, 300):
        diagonal = scores.diagonal(shift)
        assert (diagonal - diagonal[0]).abs().max() < 1e-10


def test_both_rotary_layouts_are_llamas_up_to_the_order_of_channels() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cos, sin = rotary_tables(20, 8)
    x = torch.randn(2, 20, 3, 8, generator=torch.Generator().manual_seed(0))
    twice = (torch.cat((table, table), dim=-1)[None] for table in (cos, sin))
    expected, _ = apply_rotary_pos_emb(x, x, *twice, unsqueeze_dim=2)
    assert (rotate(x, cos, sin, layout="half") - expected).abs().max() < 1e-6
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    shuffled = torch.empty_like(x)
    shuffled[..., order] = x
    found = rotate(shuffled, cos, sin, layout="interleaved")[..., order]
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_llamas(dtype: torch.dtype) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    ours, theirs = RMSNorm(64), LlamaRMSNorm(64, eps=1e-5)
    gains = torch.randn(64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours.weight.copy_(gains)
        theirs.weight.copy_(gains)
    x = (torch.randn(5, 64, generator=torch.Generator().manual_seed(1)) * 1e-3).to(dtype)
    found, expected = ours(x), theirs(x)
    assert found.dtype == dtype
    assert (found.float() - expected.float()).abs().max() <= 2**-7 * (
        dtype == torch.bfloat16
    ) * 3 + (1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_gradients_of_rms_norm_are_llamas(
    dtype: torch.dtype, tolerance: float, scale: float
) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    source = torch.Generator().manual_seed(2)
    gains, upstream = torch.randn(64, generator=source), torch.randn(2, 5, 64, generator=source)
    values = (torch.randn(2, 5, 64, generator=source) * scale).to(dtype)
    gradients = []
    for norm in (RMSNorm(64), LlamaRMSNorm(64, eps=1e-5)):
        with torch.no_grad():
            norm.weight.copy_(gains)
        x = values.clone().requires_grad_()
        norm(x).backward(upstream.to(dtype))
        assert x.grad is not None
        assert norm.weight.grad is not None
        gradients.append((x.grad.float(), norm.weight.grad.float()))
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize(("d_model", "n_head", "loss"), [(16, 2, 18.4), (128, 8, 83.9)])
def test_the_first_diarys_own_initialisation_starts_far_above_a_uniform_guess(
    d_model: int, n_head: int, loss: float
) -> None:
    """A tied embedding and positions from N(0, 1): 18.4 and 83.9 nats instead of ln 50257."""
    sizes = {"n_layer": 2, "vocab_size": 50_257, "context": 64}
    shape = preset(
        "gpt", d_model=d_model, n_head=n_head, activation="relu", head_bias=True, **sizes
    )
    model = Transformer(shape, seed=0, init="gpt2")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50_257, (4, 65), generator=generator)
    with torch.no_grad():
        sound = model.loss(ids[:, :-1], ids[:, 1:])
        model.embedding.normal_(generator=generator)
        model.positions.normal_(generator=generator)
        broken = model.loss(ids[:, :-1], ids[:, 1:])
    assert abs(sound.item() - math.log(50_257)) < 0.1
    assert broken.item() == pytest.approx(loss, rel=0.1)


def copy_all(copies: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for theirs, ours in copies:
            assert theirs.shape == ours.shape
            theirs.copy_(ours)


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
@pytest.mark.parametrize("backend", ["sdpa", "block", "explicit"])
def test_gpt_logits_equal_those_of_gpt2(activation: str, backend: str) -> None:
    model = Transformer(preset("gpt", activation=activation, **SIZES), seed=0, backend=backend)
    randomise(model)
    with torch.no_grad():
        expected = gpt2_with_the_weights_of(model)(tokens()).logits
        assert (model(tokens()) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("backend", ["sdpa", "block", "explicit"])
def test_llama_logits_equal_those_of_llama(n_kv_head: int, backend: str) -> None:
    shape = preset("llama", n_kv_head=n_kv_head, **SIZES)
    model = Transformer(shape, seed=0, backend=backend)
    randomise(model)
    with torch.no_grad():
        expected = llama_with_the_weights_of(model)(tokens()).logits
        assert (model(tokens()) - expected).abs().max() < 1e-5


def test_the_gradients_equal_those_of_gpt2() -> None:
    model = Transformer(preset("gpt", **SIZES), seed=0, backend="block")
    randomise(model)
    reference = gpt2_with_the_weights_of(model)
    ids = tokens(length=151)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    logits = reference(ids[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    theirs = reference.transformer.h[1].attn.c_attn.weight.grad.t()
    ours = model.blocks[1].attention.qkv.weight.grad
    assert (ours - theirs).abs().max() < 1e-6
    assert (model.embedding.grad - reference.transformer.wte.weight.grad).abs().max() < 1e-6


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_all_attention_backends_agree_in_values_and_gradients(length: int) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 4, length, 8), (2, 2, length, 8), (2, 2, length, 8))
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    weight = torch.randn(2, 4, length, 8, generator=generator, dtype=torch.float64)
    found = {}
    for backend in ("explicit", "block", "sdpa"):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        out = attend(q, k, v, backend=backend)
        (out * weight).sum().backward()
        found[backend] = (out, q.grad, k.grad, v.grad)
    for backend in ("block", "sdpa"):
        for ours, expected in zip(found[backend], found["explicit"], strict=True):
            assert (ours - expected).abs().max() < 1e-12


@pytest.mark.parametrize("family", ["gpt", "llama"])
@pytest.mark.parametrize("backend", ["sdpa", "block", "explicit"])
def test_no_logit_depends_on_a_later_token(family: str, backend: str) -> None:
    model = Transformer(preset(family, **SIZES), seed=0, backend=backend)
    ids = tokens()
    for moved in (0, 63, 64, 149):
        changed = ids.clone()
        changed[:, moved:] = (changed[:, moved:] + 1) % 101
        with torch.no_grad():
            before, after = model(ids), model(changed)
        assert torch.equal(before[:, :moved], after[:, :moved])
        assert not torch.equal(before[:, moved], after[:, moved])


@pytest.mark.parametrize("family", ["gpt", "llama"])
@pytest.mark.parametrize("d_model", [8, 64])
@pytest.mark.parametrize("n_layer", [1, 8])
@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("position", ["none", "learned", "sinusoidal", "rotary"])
def test_the_first_loss_is_that_of_a_uniform_guess(
    family: str, d_model: int, n_layer: int, tied_head: bool, position: str
) -> None:
    shape = preset(
        family,
        d_model=d_model,
        n_layer=n_layer,
        n_head=2,
        vocab_size=256,
        context=32,
        tied_head=tied_head,
        position=position,
    )
    ids = torch.randint(0, 256, (8, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = Transformer(shape, seed=0).loss(ids[:, :-1], ids[:, 1:])
    assert abs(loss.item() - math.log(256)) < 0.5


def test_initial_weights_depend_on_the_seed_alone() -> None:
    shape = preset("gpt", **SIZES)
    torch.manual_seed(5)
    one = Transformer(shape, seed=7, backend="block").state_dict()
    torch.manual_seed(6)
    same = Transformer(shape, seed=7, backend="sdpa").state_dict()
    other = Transformer(shape, seed=8).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding"], other["embedding"])


def test_rms_norm_accumulates_in_fp32() -> None:
    norm = RMSNorm(512)
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(0)) * 300
    narrow = norm(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    expected = x.bfloat16().double()
    expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert (narrow.double() - expected).abs().max() < 0.02
    assert (norm(x.bfloat16().float()).double() - expected).abs().max() < 1e-6


def test_rotation_keeps_norms_and_scores_depend_on_distance_only() -> None:
    cos, sin = (table.double() for table in rotary_tables(64, 16))
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(2, 1, 1, 16, generator=generator, dtype=torch.float64)
    q, k = one.expand(2, 64, 1, 16)
    turned_q, turned_k = (rotate(x, cos, sin, layout="half")[:, 0] for x in (q, k))
    # The angles' cosines and sines are fp32 numbers, so norms hold to their rounding.
    assert (turned_q.norm(dim=-1) - q[:, 0].norm(dim=-1)).abs().max() < 1e-6
    scores = turned_q @ turned_k.T
    for shift in range(64):
        diagonal = scores.diagonal(shift)
        assert (diagonal - diagonal[0]).abs().max() < 1e-5
    assert (scores[0, 1:] - scores[0, 0]).abs().min() > 1e-3
