"""Parameter counts against built modules and published figures; rows M14, M15, M16."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from trainer.model.transformer import Transformer
from trainer.shapes import ModelShape, count_parameters, preset


def shapes() -> list[ModelShape]:
    found = []
    for family, position, norm, activation in itertools.product(
        ("gpt", "llama"),
        ("none", "learned", "sinusoidal", "rotary"),
        ("layernorm", "rmsnorm"),
        ("relu", "gelu", "silu", "swiglu"),
    ):
        found.append(
            preset(
                family,
                d_model=24,
                n_layer=3,
                n_head=6,
                vocab_size=97,
                context=20,
                position=position,
                norm=norm,
                activation=activation,
            )
        )
    return found


@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("n_kv_head", [1, 2, 6])
def test_counted_parameters_equal_the_built_modules(tied_head: bool, n_kv_head: int) -> None:
    for shape in shapes():
        shape = dataclasses.replace(shape, tied_head=tied_head, n_kv_head=n_kv_head)
        built = Transformer(shape, seed=0)
        counts = count_parameters(shape)
        assert sum(p.numel() for p in built.parameters()) == counts.total, shape
        of_blocks = sum(p.numel() for p in built.blocks.parameters())
        assert of_blocks + sum(p.numel() for p in built.norm.parameters()) == counts.body, shape
        matrices = sum(p.numel() for p in built.blocks.parameters() if p.ndim == 2)
        assert matrices + 97 * 24 == counts.matmul == counts.matmul_active, shape
        assert counts.active == counts.total


def test_gpt2_small_has_its_published_size() -> None:
    shape = preset("gpt", d_model=768, n_layer=12, n_head=12, vocab_size=50257, context=1024)
    assert count_parameters(shape).total == 124_439_808


def test_llama_7b_has_its_published_size() -> None:
    shape = preset(
        "llama", d_model=4096, n_layer=32, n_head=32, vocab_size=32000, context=2048, d_ff=11008
    )
    assert count_parameters(shape).total == 6_738_415_616


def test_the_llama_preset_rounds_its_gated_width_to_a_multiple_of_8() -> None:
    widths = {
        d: preset("llama", d_model=d, n_layer=1, n_head=1, vocab_size=256, context=8).d_ff
        for d in (2, 8, 16, 32, 64, 128)
    }
    assert widths == {2: 8, 8: 24, 16: 40, 32: 88, 64: 168, 128: 344}


def test_an_ungated_override_of_llama_gets_the_plain_width() -> None:
    shape = preset(
        "llama", d_model=16, n_layer=1, n_head=1, vocab_size=256, context=8, activation="gelu"
    )
    assert shape.d_ff == 64


def test_heads_that_do_not_divide_the_width_are_refused_with_the_nearest_values() -> None:
    with pytest.raises(ValueError, match=r"n_head=3 or 5, or d_model=28 or 32"):
        preset("gpt", d_model=30, n_layer=1, n_head=4, vocab_size=256, context=8)
    with pytest.raises(ValueError, match=r"n_kv_head must divide n_head"):
        preset("llama", d_model=24, n_layer=1, n_head=6, vocab_size=9, context=8, n_kv_head=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 0}, "n_layer must be a positive whole number, got 0"),
        ({"d_ff": 8.5}, r"d_ff must be a positive whole number, got 8\.5"),
        ({"norm": "batchnorm"}, "norm must be one of layernorm, rmsnorm, got 'batchnorm'"),
        ({"position": "rotary", "n_head": 8, "n_kv_head": 8}, "even head size"),
        ({"width": 3}, "unknown model field width; valid fields: d_model"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changes: dict, message: str) -> None:
    sizes = {"d_model": 8, "n_layer": 1, "n_head": 1, "vocab_size": 9, "context": 8}
    with pytest.raises(ValueError, match=message):
        preset("gpt", **{**sizes, **changes})


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="family must be one of gpt, llama"):
        preset("rnn", d_model=8, n_layer=1, n_head=1, vocab_size=9, context=8)
