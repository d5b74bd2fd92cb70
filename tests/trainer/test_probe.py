"""The speed probe trains real steps and reports consistent figures; kernels are chosen by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainer import kernels, probe
from trainer.config import Kernels, TrainConfig
from trainer.flops import training_flops_per_token
from trainer.preflight import Request, answer
from trainer.probe import LEAST_GAIN, alternatives, compare, measure

RULE = Kernels(attention="block", products="mkl")


def test_a_probe_measures_at_least_five_steps(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    speed = measure(config, seconds=0.0)
    assert speed.steps == 5
    assert speed.tokens_per_s == pytest.approx(config.batch_tokens / speed.seconds_per_step)
    per_token = training_flops_per_token(config.shape).total
    assert speed.flops_per_s == pytest.approx(speed.tokens_per_s * per_token)


@pytest.fixture
def paces(monkeypatch: pytest.MonkeyPatch) -> dict[Kernels, float]:
    """Seconds of a step by kernels, instead of a stopwatch; 1 where nothing is said."""
    said: dict[Kernels, float] = {}
    monkeypatch.setattr(kernels, "choose", lambda *_, **__: RULE)
    monkeypatch.setattr(kernels, "onednn_is_lossless", lambda: True)
    monkeypatch.setattr(probe, "_turn", lambda _, chosen, *__, **___: said.get(chosen, 1.0))
    return said


def test_the_rule_stands_where_nothing_is_faster(
    make_config: Callable[..., TrainConfig], paces: dict[Kernels, float]
) -> None:
    paces[dataclasses.replace(RULE, attention="sdpa")] = 1.0 / (LEAST_GAIN - 0.01)
    choice = compare(make_config(), seconds=0.0)
    assert choice.kernels == RULE
    assert choice.gains == {
        "attention in blocks of 32": 1.0,
        "attention sdpa": pytest.approx(LEAST_GAIN - 0.01),
        "products onednn": 1.0,
        "head x 0.25": 1.0,
    }


def test_what_is_faster_replaces_its_part_of_the_rule_the_fastest_first(
    make_config: Callable[..., TrainConfig], paces: dict[Kernels, float]
) -> None:
    shape = dataclasses.replace(make_config().shape, context=128)
    config = make_config(shape=shape, batch_sequences=16)
    paces[dataclasses.replace(RULE, attention_rows=32)] = 0.8
    paces[dataclasses.replace(RULE, attention_rows=128)] = 0.7
    paces[dataclasses.replace(RULE, products="onednn")] = 0.5
    paces[dataclasses.replace(RULE, head_chunk=4.0)] = 0.9
    choice = compare(config, seconds=0.0)
    assert choice.kernels == Kernels(
        attention="block", products="onednn", attention_rows=128, head_chunk=4.0
    )


def test_narrow_arithmetic_and_lossy_libraries_leave_the_products_alone(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(kernels, "onednn_is_lossless", lambda: True)
    assert "products onednn" in alternatives(RULE, make_config(), cpu)
    assert "products onednn" not in alternatives(RULE, make_config(precision="bf16"), cpu)
    monkeypatch.setattr(kernels, "onednn_is_lossless", lambda: False)
    assert "products onednn" not in alternatives(RULE, make_config(), cpu)


def test_on_a_gpu_a_step_may_be_compiled_where_nothing_lives_outside_of_a_graph(
    make_config: Callable[..., TrainConfig],
) -> None:
    gpu = torch.device("cuda")
    assert list(alternatives(RULE, make_config(), gpu)) == ["compiled"]
    assert alternatives(RULE, make_config(dropout=0.1), gpu) == {}
    assert alternatives(RULE, make_config(family="deepseek"), gpu) == {}


@pytest.mark.parametrize(("steps", "compiled"), [(1000, True), (40, False)])
def test_a_compilation_must_earn_its_seconds_twice(
    make_config: Callable[..., TrainConfig],
    paces: dict[Kernels, float],
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    compiled: bool,
) -> None:
    """Half a second saved a step; the compilation, the first step, takes 20 s."""
    other = dataclasses.replace(RULE, compiled=True)
    monkeypatch.setattr(probe, "alternatives", lambda *_: {"compiled": other})
    turns = {True: iter([20.0, *[0.5] * 99]), False: iter([1.0] * 99)}
    monkeypatch.setattr(probe, "_turn", lambda _, chosen, *__, **___: next(turns[chosen.compiled]))
    monkeypatch.setattr(probe, "Training", lambda *_, **__: None)
    assert compare(make_config(steps=steps), seconds=0.0).kernels.compiled is compiled


def test_real_steps_are_measured_of_every_alternative(
    make_config: Callable[..., TrainConfig],
) -> None:
    request: dict[str, Any] = {"what": "kernels", "configs": [dataclasses.asdict(make_config())]}
    (choice,) = answer(Request(**request)).choices
    assert {"attention in blocks of 32", "attention sdpa", "head x 0.25"} <= choice.gains.keys()
    assert all(gain > 0 for gain in choice.gains.values())
    kernels.use(RULE)
