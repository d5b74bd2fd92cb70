"""Parameter groups and numbers of AdamW; row R1."""

from __future__ import annotations

import pytest
import torch

from trainer.config import OptimizerConfig
from trainer.model.transformer import Transformer
from trainer.optim import make_optimizer
from trainer.shapes import preset


@pytest.mark.parametrize(("family", "tied_head"), [("gpt", True), ("gpt", False), ("llama", False)])
def test_only_matrices_are_decayed(family: str, tied_head: bool) -> None:
    shape = preset(
        family, d_model=8, n_layer=1, n_head=2, vocab_size=11, context=4, tied_head=tied_head
    )
    model = Transformer(shape, seed=0)
    optimizer = make_optimizer(model, OptimizerConfig(learning_rate=1e-3, weight_decay=0.3))
    names = {id(p): n for n, p in model.named_parameters()}
    decayed, spared = ({names[id(p)] for p in g["params"]} for g in optimizer.param_groups)
    matrices = {
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.feed_forward.up.weight",
        "blocks.0.feed_forward.down.weight",
    }
    assert decayed == matrices | (set() if tied_head else {"head"})
    assert decayed | spared == set(names.values())
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0]


def test_a_hundred_steps_equal_torch_adamw() -> None:
    config = OptimizerConfig(learning_rate=3e-3, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.2)
    model = Transformer(
        preset("gpt", d_model=8, n_layer=1, n_head=1, vocab_size=11, context=4), seed=0
    )
    ours = make_optimizer(model, config)
    copies = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    plain = [n for n in copies if n in ("embedding", "positions") or copies[n].ndim < 2]
    theirs = torch.optim.AdamW(
        [
            {"params": [p for n, p in copies.items() if n not in plain], "weight_decay": 0.2},
            {"params": [copies[n] for n in plain], "weight_decay": 0.0},
        ],
        lr=3e-3,
        betas=(0.8, 0.9),
        eps=1e-6,
        foreach=False,
        fused=False,
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            copies[name].grad = parameter.grad.clone()
        ours.step()
        theirs.step()
    for name, parameter in model.named_parameters():
        assert (parameter - copies[name]).abs().max() < 1e-6, name
