"""FLOPs per token against torch's own counter; row M16."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainer.flops import six_n_flops_per_token, training_flops_per_token
from trainer.model.transformer import Transformer
from trainer.shapes import count_parameters, preset


@pytest.mark.parametrize("family", ["gpt", "llama"])
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_the_closed_formula_is_what_torch_counts(family: str, n_kv_head: int) -> None:
    shape = preset(
        family,
        d_model=32,
        n_layer=3,
        n_head=4,
        vocab_size=101,
        context=24,
        n_kv_head=n_kv_head,
    )
    model = Transformer(shape, seed=0, backend="explicit")
    ids = torch.zeros(5, 25, dtype=torch.long)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.loss(ids[:, :-1], ids[:, 1:])
    with FlopCounterMode(display=False) as step:
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
    tokens = 5 * 24
    flops = training_flops_per_token(shape)
    assert forward.get_total_flops() == flops.forward * tokens
    assert step.get_total_flops() == flops.total * tokens


def test_the_terms_are_six_per_weight_and_twelve_per_key() -> None:
    shape = preset("gpt", d_model=16, n_layer=2, n_head=2, vocab_size=256, context=128)
    flops = training_flops_per_token(shape)
    assert flops.matmul == 6 * count_parameters(shape).matmul == 61_440
    assert flops.attention == 12 * 2 * 16 * 128 == 49_152
    assert flops.attention_causal == 6 * 2 * 16 * 129
    assert flops.total == 110_592
    assert flops.causal == 61_440 + 24_768
    assert six_n_flops_per_token(10_240) == flops.matmul


def test_the_causal_count_is_the_scores_at_or_below_the_diagonal() -> None:
    shape = preset("gpt", d_model=16, n_layer=1, n_head=1, vocab_size=9, context=7)
    flops = training_flops_per_token(shape)
    visible = sum(t + 1 for t in range(7))
    assert flops.attention_causal * 7 == pytest.approx(flops.attention * 7 * visible / 49)
