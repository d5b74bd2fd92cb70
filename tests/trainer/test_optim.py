"""Parameter groups and numbers of AdamW; rows R1, R2."""

from __future__ import annotations

import pytest
import torch

from trainer.config import OptimizerConfig
from trainer.model.transformer import Transformer
from trainer.optim import Optimizer
from trainer.shapes import preset


def tiny(family: str = "gpt", **overrides: object) -> Transformer:
    return Transformer(
        preset(family, d_model=8, n_layer=1, n_head=2, vocab_size=11, context=4, **overrides),
        seed=0,
    )


@pytest.mark.parametrize(("family", "tied_head"), [("gpt", True), ("gpt", False), ("llama", False)])
def test_only_matrices_are_decayed(family: str, tied_head: bool) -> None:
    model = tiny(family, tied_head=tied_head)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    optimizer.step(0.1)
    # Without gradients the update is the decay alone.
    decayed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    matrices = {
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.feed_forward.up.weight",
        "blocks.0.feed_forward.down.weight",
    }
    assert decayed == matrices | (set() if tied_head else {"head"})
    for name in matrices:
        assert torch.allclose(model.get_parameter(name), before[name] * 0.95)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_hundred_steps_equal_torch(clip_norm: float) -> None:
    config = OptimizerConfig(
        learning_rate=3e-3, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.2, clip_norm=clip_norm
    )
    model = tiny()
    copies = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    ours = Optimizer(model, config)
    plain = [n for n in copies if n in ("embedding", "positions") or copies[n].ndim < 2]
    theirs = torch.optim.AdamW(
        [
            {"params": [p for n, p in copies.items() if n not in plain], "weight_decay": 0.2},
            {"params": [copies[n] for n in plain], "weight_decay": 0.0},
        ],
        betas=(0.8, 0.9),
        eps=1e-6,
        foreach=False,
        fused=False,
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(100):
        rate = 3e-3 * (step + 1) / 100
        for name, parameter in model.named_parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad += gradient
            copies[name].grad = gradient
        for group in theirs.param_groups:
            group["lr"] = rate
        largest = clip_norm or float("inf")
        expected = torch.nn.utils.clip_grad_norm_(list(copies.values()), largest)
        norm = ours.step(rate)
        theirs.step()
        assert norm == pytest.approx(expected.item(), rel=1e-6)
        assert norm > clip_norm
    for name, parameter in model.named_parameters():
        assert (parameter - copies[name]).abs().max() < 1e-6, name


def test_the_gradients_norm_is_at_most_the_limit_after_clipping() -> None:
    model = tiny()
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=1e-3, clip_norm=1.0))
    for parameter in model.parameters():
        parameter.grad += 3.0
    seen = []
    optimizer._parts["adam"].register_step_pre_hook(
        lambda *_: seen.append(float(torch.linalg.vector_norm(optimizer.flat_grad)))
    )
    before = optimizer.step(1e-3)
    assert before is not None
    assert before > 10
    assert seen == [pytest.approx(1.0, rel=1e-5)]
    assert seen[0] <= 1.0


def test_gradients_below_the_clipping_norm_are_left_alone() -> None:
    model = tiny()
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=1e-3, clip_norm=1.0))
    model.blocks[0].attention.out.weight.grad[0, 0] = 0.5
    seen = []
    optimizer._parts["adam"].register_step_pre_hook(
        lambda *_: seen.append(optimizer.flat_grad.max())
    )
    assert optimizer.step(1e-3) == 0.5
    assert seen == [0.5]


def test_the_parameters_are_views_of_one_aligned_array() -> None:
    model = tiny()
    values = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = Optimizer(model, OptimizerConfig(learning_rate=1e-3))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, values[name])
        assert parameter.untyped_storage().data_ptr() == optimizer.flat.data_ptr()
        assert parameter.data_ptr() % 64 == 0
    ids = torch.arange(10).view(2, 5)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    total = sum(float(p.grad.square().sum()) for p in model.parameters())
    assert float(optimizer.flat_grad.square().sum()) == pytest.approx(total, rel=1e-6)
    assert total > 0


def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened() -> None:
    config = OptimizerConfig(learning_rate=1e-2)
    ids = torch.arange(10).view(2, 5)

    def train(model: Transformer, optimizer: Optimizer, steps: int) -> None:
        for _ in range(steps):
            model.loss(ids[:, :-1], ids[:, 1:]).backward()
            optimizer.step(1e-2)

    straight = tiny()
    train(straight, Optimizer(straight, config), 6)
    first = tiny()
    optimizer = Optimizer(first, config)
    train(first, optimizer, 3)
    second = tiny()
    restored = Optimizer(second, config)
    second.load_state_dict(first.state_dict())
    restored.load_state_dict(optimizer.state_dict())
    train(second, restored, 3)
    for name, parameter in second.named_parameters():
        assert torch.equal(parameter, straight.get_parameter(name))
