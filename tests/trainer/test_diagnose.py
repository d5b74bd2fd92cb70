"""Sound models pass every check; each known mistake fails one; rows X3, R12, T9, M13."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer import batches, diagnose
from trainer.config import TrainConfig
from trainer.data.shards import TokenData
from trainer.diagnose import Check
from trainer.flops import training_flops_per_token
from trainer.model import attention
from trainer.model.transformer import Block, Transformer
from trainer.shapes import preset

MakeConfig = Callable[..., TrainConfig]
SIZES = {"d_model": 32, "n_layer": 2, "n_head": 4, "vocab_size": 256, "context": 32}


def failed(checks: tuple[Check, ...]) -> set[str]:
    return {check.name for check in checks if not check.passed}


@pytest.fixture
def ids(token_data: TokenData) -> Tensor:
    return torch.from_numpy(token_data.train[: 33 * 4].astype("int64")).view(4, 33)


@pytest.fixture
def model() -> Transformer:
    return Transformer(preset("gpt", **SIZES), seed=0, backend="explicit").eval()


@pytest.mark.parametrize("family", ["gpt", "llama", "deepseek"])
def test_sound_models_pass_every_check(
    family: str,
    make_config: MakeConfig,
    token_data: TokenData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if family != "gpt":
        monkeypatch.setattr(diagnose, "OVERFIT_TOKENS", 512)
    config = make_config(shape=preset(family, **SIZES))
    checks = diagnose.diagnose(config, token_data.train)
    assert failed(checks) == set(), checks
    assert [check.name for check in checks] == [
        *("first loss", "targets", "causality", "gradient", "overfitting", "recital")
    ]


def test_embeddings_of_variance_one_are_noticed(model: Transformer, ids: Tensor) -> None:
    with torch.no_grad():
        model.embedding.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    check = diagnose.check_first_loss(model, ids)
    assert not check.passed
    assert "ln V = 5.545" in check.message


def test_a_missing_mask_is_noticed(
    model: Transformer, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diagnose.check_causality(model, ids).passed

    def no_mask(start: int, end: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.zeros(end - start, end, dtype=dtype, device=device)

    monkeypatch.setattr(attention, "_causal_mask", no_mask)
    check = diagnose.check_causality(model, ids)
    assert not check.passed
    assert "moved the logits at position 0" in check.message


def test_a_softmax_over_the_wrong_axis_is_noticed(
    model: Transformer, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over_queries(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        scores = torch.bmm(q, k.transpose(1, 2)) * scale
        mask = attention._causal_mask(0, q.shape[1], q.dtype, q.device)
        return torch.bmm((scores + mask).softmax(1), v)

    monkeypatch.setattr(attention, "_explicit", over_queries)
    assert not diagnose.check_causality(model, ids).passed


def test_a_model_that_ignores_its_last_token_is_noticed(
    model: Transformer, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    see = Transformer.hidden

    def late(model: Transformer, tokens: Tensor) -> Tensor:
        return see(model, torch.cat((tokens[:, :1], tokens[:, :-1]), dim=1))

    monkeypatch.setattr(Transformer, "hidden", late)
    check = diagnose.check_causality(model, ids)
    assert not check.passed
    assert check.message == "changing token 1 did not move its own logits"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ids: (ids[:, :-1], ids[:, :-1]),
        lambda ids: (ids[:, :-2], ids[:, 2:]),
        lambda ids: (ids[:, 1:], ids[:, :-1]),
        lambda ids: (ids[:, 1:-1], ids[:, 2:]),
    ],
)
def test_wrongly_shifted_targets_are_noticed(
    wrong: Callable, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diagnose.check_targets(ids).passed
    monkeypatch.setattr(diagnose, "inputs_and_targets", wrong)
    check = diagnose.check_targets(ids)
    assert not check.passed
    assert "are not what follows" in check.message


def test_the_loop_and_the_checks_share_one_shift() -> None:
    from trainer import loop

    assert loop.inputs_and_targets is batches.inputs_and_targets is diagnose.inputs_and_targets


def test_a_detached_residual_is_noticed(
    model: Transformer, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert diagnose.check_gradient(model, ids).passed

    def detached(block: Block, x: Tensor, cache: object = None) -> Tensor:
        x = x.detach() + block.attention(block.attention_norm(x))
        return x + block.feed_forward(block.feed_forward_norm(x))

    monkeypatch.setattr(Block, "forward", detached)
    check = diagnose.check_gradient(Transformer(model.shape, seed=0), ids)
    assert not check.passed
    assert "slope by gradient" in check.message


def test_a_model_that_cannot_learn_is_noticed(
    token_data: TokenData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnose, "OVERFIT_STEPS", 15)
    shape = preset("gpt", **SIZES)
    rows = torch.from_numpy(token_data.train[: 33 * 90].astype("int64")).view(90, 33)
    learnt, recital = diagnose.check_overfitting(Transformer(shape, seed=0), rows)
    assert not learnt.passed
    assert "after 15 steps" in learnt.message
    assert not recital.passed


def test_the_reference_shape_keeps_the_parts_and_changes_the_sizes() -> None:
    for family in ("gpt", "llama", "femto", "deepseek"):
        shape = preset(family, **SIZES)
        small = diagnose.reference_shape(shape)
        assert (small.d_model, small.n_layer, small.context) == (64, 2, 32)
        for name in ("position", "norm", "activation", "tied_head", "bias", "residual"):
            assert getattr(small, name) == getattr(shape, name)
        assert (small.latent is None) == (shape.latent is None)
        assert (small.experts is None) == (shape.experts is None)
    grouped = dataclasses.replace(preset("llama", **SIZES), n_kv_head=1)
    assert diagnose.reference_shape(grouped).n_kv_head == 1


def test_learning_by_heart_reports_its_cost_and_is_left_out_where_it_costs_too_much(
    make_config: MakeConfig, token_data: TokenData
) -> None:
    config = make_config(shape=preset("gpt", **SIZES))
    checks = diagnose.diagnose(config, token_data.train, allowed_flops=1e9)
    assert [check.name for check in checks] == ["first loss", "targets", "causality", "gradient"]
    rows = torch.from_numpy(token_data.train[: 33 * 4].astype("int64")).view(4, 33)
    shape = preset("gpt", **SIZES)
    learnt, _ = diagnose.check_overfitting(Transformer(shape, seed=0), rows, steps=2)
    assert learnt.flops == 2 * 4 * 32 * training_flops_per_token(shape).total
    assert "within 2" in learnt.message
