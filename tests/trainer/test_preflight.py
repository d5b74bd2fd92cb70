"""What the trainer measures before a sweep: seconds a step in each arithmetic the device has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from trainer import preflight
from trainer.config import TrainConfig
from trainer.preflight import Request, answer
from trainer.probe import Speed


@pytest.mark.parametrize("has_bf16", [True, False])
def test_both_arithmetics_are_timed_in_turn_where_there_is_a_choice(
    has_bf16: bool,
    make_config: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([3.0, 1.0, 5.0, 2.0])
    order = []

    def timed(config: TrainConfig, **_: object) -> Speed:
        order.append((config.precision, config.batch_sequences))
        return Speed(seconds_per_step=next(times), tokens_per_s=1.0, flops_per_s=1.0, steps=5)

    monkeypatch.setattr(preflight, "measure", timed)
    monkeypatch.setattr(preflight.kernels, "has_bf16", lambda _: has_bf16)
    config = make_config(batch_sequences=512)
    reply = answer(Request(what="precision", config=dataclasses.asdict(config)))
    if has_bf16:
        assert reply.seconds_per_step == {"fp32": 4.0, "bf16": 1.5}
        assert order == [("fp32", 128), ("bf16", 128)] * 2
    else:
        assert reply.seconds_per_step == {}
        assert order == []
