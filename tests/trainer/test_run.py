"""A trial from configuration to result, through interruptions, kills and damage.

Rows R11, R14, X7, X10.

Promise under test: whatever was killed when, the result and the logged losses are those of an
undisturbed run, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config import Kernels, OptimizerConfig, RunOptions, ScheduleConfig, TrainConfig
from trainer.data.shards import TokenData
from trainer.flops import training_flops_per_token
from trainer.footprint import checkpoint_bytes
from trainer.metrics import Metrics
from trainer.result import Interrupted, Progress, RunResult, RunStatus
from trainer.run import ReplayMismatch, log_steps, run_trial

MakeConfig = Callable[..., TrainConfig]
TIMED = ("tokens_per_s", "time")


def lines(folder: Path) -> list[dict]:
    """The logged points without what a clock decides."""
    found = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in found]


def science(result: RunResult) -> dict:
    """The part of a result that must not depend on interruptions."""
    names = (
        "trial_id",
        "status",
        "loss",
        "loss_se",
        "bpb",
        "train_loss",
        "tokens",
        "steps",
        "flops",
    )
    return {name: getattr(result, name) for name in names}


class StopAfter:
    """Says stop after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def test_a_trial_trains_evaluates_and_stores_its_result(
    make_config: MakeConfig, options: RunOptions, token_data: TokenData, tmp_path: Path
) -> None:
    config = make_config()
    seen: list[Progress] = []
    result = run_trial(config, options, tmp_path, on_progress=seen.append)
    assert result.status is RunStatus.COMPLETED
    assert result.is_datum
    assert result.loss is not None
    assert 1.0 < result.loss < 4.0
    assert result.tokens == config.tokens == 30 * 4 * 32
    assert result.flops == result.tokens * training_flops_per_token(config.shape).total
    assert (result.steps, result.steps_executed, result.attempts) == (30, 30, 1)
    manifest = token_data.manifest
    bytes_per_token = manifest.validation_bytes / manifest.validation_tokens
    assert result.bpb == pytest.approx(result.loss / 0.6931471805599453 / bytes_per_token)
    assert [note.split(":")[0] for note in result.notes] == [
        "unigram plateau",
        "degenerate greedy text",
    ]
    assert result.repetition is not None
    assert result.repetition > 0.9
    assert (result.best_step, result.planned_steps) == (30, 30)
    assert (result.micro_batch_sequences, result.micro_batch_halvings) == (4, 0)
    assert RunResult.from_json((tmp_path / "result.json").read_text()) == result
    assert TrainConfig.from_json((tmp_path / "config.json").read_text()) == config
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [*range(3, 31, 3), 30]
    assert found[-1]["validation_loss"] == result.loss
    assert found[-1]["validation_bpb"] == result.bpb
    assert found[-2]["loss"] == result.train_loss < found[0]["loss"]
    assert [p.step for p in seen] == list(range(3, 31, 3))
    assert seen[0].loss == found[0]["loss"]
    assert seen[0].tokens == found[0]["tokens"] == 3 * 128
    assert found[0]["flops"] == found[0]["tokens"] * training_flops_per_token(config.shape).total
    assert found[0]["learning_rate"] == 1e-2
    assert found[0]["grad_norm"] > 0
    assert result.grad_norm is not None
    assert result.grad_norm == pytest.approx(found[-2]["grad_norm"], rel=0.5)
    assert result.router_load is None


def test_the_same_seed_gives_the_same_run_and_another_one_a_spread(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    results = [
        run_trial(make_config(seed=seed), options, tmp_path / str(number))
        for number, seed in enumerate((0, 0, 1, 2))
    ]
    assert science(results[0]) == science(results[1])
    assert lines(tmp_path / "0") == lines(tmp_path / "1")
    assert len({result.loss for result in results}) == 3


def test_cost_and_machine_are_in_every_record(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    """Diary 2 lost the elapsed time of three of its twelve runs."""
    result = run_trial(make_config(), dataclasses.replace(options, devices=0.25), tmp_path)
    assert result.devices == 0.25
    assert result.wall_s > 0
    assert result.tokens_per_s > 0
    assert result.peak_memory_bytes > 10**7
    assert result.device
    assert result.threads == 1
    assert result.step_ms == pytest.approx(1000 * 128 / result.tokens_per_s)
    assert dataclasses.replace(result, tokens_per_s=0.0).step_ms is None
    assert {"torch", "python", "attention"} <= set(result.versions)


def test_a_run_with_dropout_says_its_training_loss_without_it(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    """Held-out below training loss is no sign of health when dropout is in only one of them."""
    config = make_config(dropout=0.5, steps=150)
    result = run_trial(config, options, tmp_path)
    assert result.loss is not None
    assert result.train_loss is not None
    assert result.train_loss > result.loss + 0.04
    (note,) = (note for note in result.notes if note.startswith("dropout: "))
    evaluated = float(note.split("the loss is ")[1].split()[0])
    assert evaluated == pytest.approx(result.loss, abs=0.1)
    assert "on the first 512 training tokens" in note


def test_a_finished_trial_is_not_trained_again(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    result = run_trial(make_config(), options, tmp_path)
    elsewhere = dataclasses.replace(options, data_dir=tmp_path / "absent")
    assert run_trial(make_config(), elsewhere, tmp_path) == result


@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_interrupting_anywhere_changes_no_bit(
    family: str, make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config(family=family)
    undisturbed = run_trial(config, options, tmp_path / "undisturbed")
    folder = tmp_path / "interrupted"
    for steps in (1, 4, 6, 7):
        with pytest.raises(Interrupted, match="interrupted after step"):
            run_trial(config, options, folder, should_stop=StopAfter(steps))
    result = run_trial(config, options, folder)
    assert science(result) == science(undisturbed)
    assert lines(folder) == lines(tmp_path / "undisturbed")
    assert (result.attempts, result.steps_executed) == (5, 30)


def test_a_replayed_step_is_compared_and_not_written_again(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    with pytest.raises(Interrupted):
        run_trial(config, options, tmp_path, should_stop=StopAfter(5))
    earlier = (tmp_path / "checkpoints").rename(tmp_path / "earlier")
    with pytest.raises(Interrupted):
        run_trial(config, options, tmp_path, should_stop=StopAfter(20))
    before = (tmp_path / "metrics.jsonl").read_text()
    assert len(before.splitlines()) == 6
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "checkpoints").rmdir()
    earlier.rename(tmp_path / "checkpoints")
    result = run_trial(config, options, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)
    assert [line["step"] for line in lines(tmp_path)] == [*range(3, 31, 3), 30]
    assert result.steps_executed == 5 + 20 + 25


def test_a_replay_that_differs_stops_the_trial(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    with pytest.raises(Interrupted):
        run_trial(config, options, tmp_path, should_stop=StopAfter(8))
    path = tmp_path / "metrics.jsonl"
    stored = [json.loads(text) for text in path.read_text().splitlines()]
    stored[1]["loss"] += 1e-15
    path.write_text("".join(json.dumps(line) + "\n" for line in stored))
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        checkpoint.unlink()
    with pytest.raises(ReplayMismatch, match=r"replaying step 6 gave the loss") as caught:
        run_trial(config, options, tmp_path)
    assert caught.value.stored == stored[1]["loss"] != caught.value.replayed


def test_a_torn_last_line_is_dropped_and_written_again(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    with pytest.raises(Interrupted):
        run_trial(config, options, tmp_path, should_stop=StopAfter(7))
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 9, "lo')
    run_trial(config, options, tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [*range(3, 31, 3), 30]


def test_a_broken_line_in_the_middle_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\nnonsense\n{"step": 2, "loss": 2.0}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not JSON"):
        Metrics(path)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_falls_back_and_is_noted(
    damage: str, make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    undisturbed = run_trial(config, options, tmp_path / "undisturbed")
    folder = tmp_path / "damaged"
    for steps in (5, 6):
        with pytest.raises(Interrupted):
            run_trial(config, options, folder, should_stop=StopAfter(steps))
    newest = folder / "checkpoints" / "step-00000011.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content if damage == "flipped" else content[:100])
    result = run_trial(config, options, folder)
    assert science(result) == science(undisturbed)
    assert lines(folder) == lines(tmp_path / "undisturbed")
    assert result.steps_executed == 5 + 6 + 25
    passed_over = [note for note in result.notes if "checkpoint" in note]
    assert len(passed_over) == 1
    assert "step-00000011.pt" in passed_over[0]


def test_a_trial_without_a_whole_checkpoint_starts_again_and_says_so(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    with pytest.raises(Interrupted):
        run_trial(config, options, tmp_path, should_stop=StopAfter(5))
    (tmp_path / "checkpoints" / "step-00000005.pt").write_bytes(b"")
    result = run_trial(config, options, tmp_path)
    assert result.status is RunStatus.COMPLETED
    assert "training again from step 0" in result.notes[0]
    assert result.steps_executed == 35


def test_a_kill_during_evaluation_costs_no_training(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    first = run_trial(config, options, tmp_path)
    (tmp_path / "result.json").unlink()
    again = run_trial(config, options, tmp_path)
    assert science(again) == science(first)
    assert again.steps_executed == 30
    assert again.attempts == 2
    assert len(lines(tmp_path)) == 11


@pytest.mark.parametrize("checkpoint_every", [0.05, 0.0])
def test_a_killed_process_goes_on_to_the_undisturbed_result(
    checkpoint_every: float, make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config(steps=400, validation_tokens=320)
    options = dataclasses.replace(options, log_points=100)
    undisturbed = run_trial(config, options, tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    config_file = tmp_path / "config.json"
    config_file.write_text(config.to_json())
    command = [sys.executable, "-m", "trainer", str(config_file), "--data", str(options.data_dir)]
    command += ["--out", str(folder), "--device", "cpu", "--log-points", "100"]
    command += ["--checkpoint-every", str(checkpoint_every)]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("step ") and int(text.split()[1].split("/")[0]) >= 120:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "result.json").exists()
    result = run_trial(config, options, folder)
    assert science(result) == science(undisturbed)
    assert lines(folder) == lines(tmp_path / "undisturbed")
    assert result.attempts == 2
    # At most the steps since the last logged point escape the count: here 3.
    replayed = 0 if checkpoint_every else 120
    assert 400 + replayed <= result.steps_executed < 800


def test_a_run_whose_loss_explodes_is_diverged_and_no_datum(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config(
        optimizer=OptimizerConfig(learning_rate=1e25, clip_norm=0.0),
        schedule=ScheduleConfig(name="cosine"),
    )
    result = run_trial(config, options, tmp_path)
    assert result.status is RunStatus.DIVERGED
    assert result.loss is None
    assert not result.is_datum
    assert "training loss was" in result.message
    assert 0 < result.steps < 30
    assert run_trial(config, options, tmp_path) == result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_digest": "f" * 64}, "planned for data ffff"),
        ({"steps": 0}, "steps and batch_sequences must be at least 1"),
        ({"schedule": ScheduleConfig(name="wsd", cooldown_steps=31)}, "must fit into the run"),
        ({"validation_tokens": 10**9}, "validation_tokens must lie between"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_before_training(
    changes: dict, message: str, make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run_trial(make_config(**changes), options, tmp_path / "trial")
    assert not (tmp_path / "trial" / "metrics.jsonl").exists()


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    config = dataclasses.replace(config, shape=dataclasses.replace(config.shape, vocab_size=255))
    with pytest.raises(
        ValueError, match="vocab_size must be at least the tokenizer's 256, got 255"
    ):
        run_trial(config, options, tmp_path)


def test_a_folder_of_another_trial_is_refused(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    run_trial(make_config(), options, tmp_path)
    with pytest.raises(ValueError, match="give each trial its own folder"):
        run_trial(make_config(seed=1), options, tmp_path)


def test_log_steps_are_even_and_end_with_the_last() -> None:
    assert log_steps(30, 10) == frozenset(range(3, 31, 3))
    assert log_steps(7, 200) == frozenset(range(1, 8))
    assert max(log_steps(1001, 200)) == 1001
    assert len(log_steps(1001, 200)) == 200
    assert log_steps(5, 0) == frozenset({5})


def test_the_command_line_reports_wrong_input_without_a_traceback(tmp_path: Path) -> None:
    from trainer.__main__ import EXIT_USAGE, main

    broken = tmp_path / "config.json"
    broken.write_text("{}")
    assert main([str(broken), "--data", str(tmp_path), "--out", str(tmp_path)]) == EXIT_USAGE


def test_a_checkpoint_takes_the_disk_that_was_estimated(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    config = make_config()
    run_trial(config, options, tmp_path)
    (size,) = {path.stat().st_size for path in (tmp_path / "checkpoints").glob("*.pt")}
    # Tensors' names and the archive's frame come on top: some 60 kB at any size.
    assert 0 <= size - checkpoint_bytes(config.shape) < 1e5


def test_given_kernels_are_used_and_recorded_and_a_change_on_the_way_is_told(
    make_config: Callable[..., TrainConfig], options: RunOptions, tmp_path: Path
) -> None:
    given = Kernels(attention="sdpa", products="mkl", head_chunk=0.25)
    chosen = dataclasses.replace(options, kernels=given, samples=False)
    with pytest.raises(Interrupted):
        run_trial(make_config(), chosen, tmp_path, should_stop=lambda: True)
    result = run_trial(make_config(), dataclasses.replace(chosen, kernels=None), tmp_path)
    assert "attention" in result.versions
    note = result.notes[0]
    assert "'attention': 'sdpa'" in note
    assert "the last bits may differ" in note
    again = run_trial(make_config(), chosen, tmp_path / "again")
    assert (again.versions["attention"], again.versions["head_chunk"]) == ("sdpa", "0.25")
    assert again.loss == pytest.approx(result.loss, rel=1e-4)
    assert again.trial_id == result.trial_id


def test_a_run_compiles_its_steps_where_its_kernels_say_so(
    make_config: Callable[..., TrainConfig],
    options: RunOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = Kernels(attention="sdpa", products="mkl", compiled=True)

    def refuse(*_: object, compiled: bool, **__: object) -> None:
        raise RuntimeError(f"compiled: {compiled}")

    monkeypatch.setattr("trainer.run.Training", refuse)
    with pytest.raises(RuntimeError, match="compiled: True"):
        run_trial(make_config(), dataclasses.replace(options, kernels=given), tmp_path)
