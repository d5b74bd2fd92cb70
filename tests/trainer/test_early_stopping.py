"""Runs that end at their best: patience, the best weights, kills in between; rows R8, R10, X10."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer import checkpoint, execution
from trainer.batches import TokenBatches
from trainer.config import EarlyStopping, OptimizerConfig, RunOptions, ScheduleConfig, TrainConfig
from trainer.evaluate import Evaluation
from trainer.identity import identity_record
from trainer.metrics import ReplayMismatch
from trainer.result import Interrupted, RunResult, RunStatus
from trainer.run import run_trial

MakeConfig = Callable[..., TrainConfig]
SCRIPT = [5.0, 4.0, 3.0, 3.1, 3.2, 3.05, 3.3, 3.4, 2.0, 1.0]
"""The best of the first eight is the third; patience 5 ends the run there."""
TIMED = ("tokens_per_s", "time")


@pytest.fixture
def options(options: RunOptions) -> RunOptions:
    return dataclasses.replace(options, samples=False)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out losses by script: the n-th evaluation of weights never seen before is SCRIPT[n]."""
    seen: dict[bytes, float] = {}

    def by_script(model: Any, tokens: Any, *, count: int) -> Evaluation:
        weights = model.embedding.detach().numpy().tobytes()
        loss = seen.setdefault(weights, SCRIPT[min(len(seen), len(SCRIPT) - 1)])
        return Evaluation(loss=loss, loss_se=0.01, tokens=count)

    monkeypatch.setattr(execution, "evaluate", by_script)


def stopping(make_config: MakeConfig, **changes: Any) -> TrainConfig:
    return make_config(early_stopping=EarlyStopping(every_steps=3, patience=5), **changes)


def stop_after(*steps: int) -> Iterator[Callable[[], bool]]:
    for limit in steps:
        left = iter(range(limit - 1, -1, -1))
        yield lambda left=left: next(left) == 0


def science(result: RunResult) -> tuple[Any, ...]:
    return (result.loss, result.loss_se, result.best_step, result.steps, result.train_loss)


def lines(folder: Path) -> list[dict]:
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in found]


@pytest.mark.usefixtures("scripted")
def test_patience_5_stops_5_evaluations_after_the_best_and_keeps_its_weights(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    result = run_trial(stopping(make_config), options, tmp_path)
    assert result.status is RunStatus.COMPLETED
    assert (result.loss, result.best_step) == (3.0, 9)
    assert (result.steps, result.planned_steps) == (24, 30)
    assert "stopped early: 24 of 30 planned steps were run" in result.notes
    assert checkpoint.steps(tmp_path / "best") == [9]
    evaluated = [line["step"] for line in lines(tmp_path) if "validation_loss" in line]
    assert evaluated == list(range(3, 25, 3))


def test_the_best_file_holds_the_weights_of_the_best_step(
    make_config: MakeConfig,
    options: RunOptions,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    plain = make_config()
    with pytest.raises(Interrupted):
        run_trial(plain, options, tmp_path / "plain", should_stop=next(stop_after(9)))
    at_9 = checkpoint.load(tmp_path / "plain" / "checkpoints", 9, owner=plain.trial_id).state
    request.getfixturevalue("scripted")
    config = stopping(make_config)
    run_trial(config, options, tmp_path / "stopped")
    best = checkpoint.load(tmp_path / "stopped" / "best", 9, owner=config.trial_id).state
    assert all(bool((best["model"][name] == at_9["model"][name]).all()) for name in best["model"])


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("kills", [(2, 5, 4, 8), (9, 1), (23,), (24,)])
def test_kills_change_neither_the_stop_nor_the_best(
    kills: tuple[int, ...], make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = stopping(make_config)
    undisturbed = run_trial(config, options, tmp_path / "undisturbed")
    for stop in stop_after(*kills):
        try:
            run_trial(config, options, tmp_path / "killed", should_stop=stop)
        except Interrupted:
            continue
    result = run_trial(config, options, tmp_path / "killed")
    assert science(result) == science(undisturbed)
    assert lines(tmp_path / "killed") == lines(tmp_path / "undisturbed")


@pytest.mark.usefixtures("scripted")
def test_a_replay_past_a_later_best_ends_the_same(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    """The newest checkpoint is older than the best file: the run was killed between them."""
    config = stopping(make_config)
    undisturbed = run_trial(config, options, tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    for stop in stop_after(7, 4):
        with pytest.raises(Interrupted):
            run_trial(config, options, folder, should_stop=stop)
    for path in (folder / "checkpoints").glob("step-00000011.*"):
        path.unlink()
    result = run_trial(config, options, folder)
    assert science(result) == science(undisturbed)
    assert result.steps_executed == 7 + 4 + 17


@pytest.mark.usefixtures("scripted")
def test_a_damaged_best_file_costs_the_steps_to_it_again_and_says_so(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = stopping(make_config)
    undisturbed = run_trial(config, options, tmp_path / "undisturbed")
    folder = tmp_path / "damaged"
    with pytest.raises(Interrupted):
        run_trial(config, options, folder, should_stop=next(stop_after(14)))
    (folder / "best" / "step-00000009.pt").write_bytes(b"")
    result = run_trial(config, options, folder)
    assert science(result) == science(undisturbed)
    assert any("training again from step 0" in note for note in result.notes)


def test_evaluations_on_the_way_change_no_weight_and_are_replayed_bit_for_bit(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    plain = run_trial(config, options, tmp_path / "plain")
    watching = dataclasses.replace(options, evaluate_every_steps=7)
    watched = run_trial(config, watching, tmp_path / "watched")
    assert (watched.loss, watched.train_loss) == (plain.loss, plain.train_loss)
    found = lines(tmp_path / "watched")
    evaluated = [line["step"] for line in found if "validation_loss" in line]
    assert evaluated == [7, 14, 21, 28, 30]
    assert not (tmp_path / "watched" / "best").exists()
    (tmp_path / "watched" / "result.json").unlink()
    for path in (tmp_path / "watched" / "checkpoints").iterdir():
        path.unlink()
    stored = (tmp_path / "watched" / "metrics.jsonl").read_text()
    first = json.loads(next(t for t in stored.splitlines() if "validation_loss" in t))
    changed = {**first, "validation_loss": first["validation_loss"] + 1e-14}
    (tmp_path / "watched" / "metrics.jsonl").write_text(
        stored.replace(json.dumps(first), json.dumps(changed))
    )
    with pytest.raises(ReplayMismatch, match="replaying step 7 gave"):
        run_trial(config, watching, tmp_path / "watched")


def test_a_run_that_memorises_is_told_that_its_validation_rises(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config(
        steps=240,
        batch_sequences=1,
        optimizer=OptimizerConfig(learning_rate=3e-2, weight_decay=0.0),
        schedule=ScheduleConfig(name="wsd"),
    )
    watching = dataclasses.replace(options, evaluate_every_steps=20, samples=False)
    with pytest.MonkeyPatch.context() as patch:
        first = TokenBatches.at
        patch.setattr(TokenBatches, "at", lambda batches, step: first(batches, 0))
        result = run_trial(config, watching, tmp_path)
    assert [n.split(":")[0] for n in result.notes if n.startswith("validation")] == [
        "validation rising"
    ]


def test_early_stopping_is_part_of_the_identity_and_its_absence_is_not(
    make_config: MakeConfig,
) -> None:
    plain = make_config()
    assert make_config(early_stopping=None).trial_id == plain.trial_id
    before_it_existed = json.loads(plain.to_json())
    del before_it_existed["early_stopping"]
    assert TrainConfig.from_dict(before_it_existed) == plain
    assert "early_stopping" not in identity_record(plain)
    wsd = ScheduleConfig(name="wsd", cooldown_steps=3)
    found = [plain, stopping(make_config), stopping(make_config, schedule=wsd)]
    found.append(make_config(early_stopping=EarlyStopping(every_steps=3, patience=4)))
    assert len({config.trial_id for config in found}) == len(found)
    assert TrainConfig.from_json(found[1].to_json()) == found[1]
    longer = stopping(make_config, schedule=wsd, steps=40)
    assert longer.trajectory_id != found[2].trajectory_id


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"every_steps": 0, "patience": 1}, "every_steps must be at least 1, got 0"),
        ({"every_steps": 1, "patience": 0}, "patience must be at least 1, got 0"),
        ({"every_steps": 1, "patience": 1, "min_delta": -1.0}, "min_delta must not be negative"),
    ],
)
def test_impossible_patience_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**fields)


def test_dropout_is_off_when_the_training_loss_is_measured_again(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    quiet = run_trial(make_config(), options, tmp_path / "quiet")
    assert quiet.train_loss_without_noise is None
    noisy = run_trial(make_config(dropout=0.5), options, tmp_path / "noisy")
    assert noisy.train_loss is not None
    assert noisy.train_loss_without_noise is not None
    assert noisy.train_loss_without_noise < noisy.train_loss
