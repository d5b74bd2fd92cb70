"""Several trials of one shape as one stack: each is what training it alone gives.

The reference is `run_trial` on the same configuration; equality is 1e-5 relative, in losses,
gradient norms, held-out loss and its standard error.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from trainer import checkpoint
from trainer.config import OptimizerConfig, RunOptions, ScheduleConfig, TrainConfig
from trainer.members import STACK_KEY, run_members
from trainer.result import Interrupted, Progress, RunStatus
from trainer.run import run_trial
from trainer.shapes import preset

MakeConfig = Callable[..., TrainConfig]
TOLERANCE = 1e-5


@pytest.fixture
def options(options: RunOptions) -> RunOptions:
    """Without samples, which take longer than these trainings."""
    return dataclasses.replace(options, samples=False)


def lines(folder: Path) -> list[dict]:
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def science(folder: Path) -> dict:
    """What a clock does not decide: the result, and the logged points."""
    record = json.loads((folder / "result.json").read_text())
    clocked = ("wall_s", "tokens_per_s", "peak_memory_bytes", "attempts", "steps_executed")
    points = [
        {k: v for k, v in p.items() if k not in ("tokens_per_s", "time")} for p in lines(folder)
    ]
    return {"points": points, **{k: v for k, v in record.items() if k not in clocked}}


def members_of(make_config: MakeConfig, family: str = "gpt") -> list[TrainConfig]:
    """Four members: other seeds, rates, lengths, schedules and clipping."""
    base = make_config(family=family, steps=24)
    rate = base.optimizer.learning_rate
    return [
        base,
        dataclasses.replace(base, seed=7),
        dataclasses.replace(
            base,
            seed=3,
            steps=40,
            optimizer=OptimizerConfig(
                learning_rate=rate / 3, weight_decay=0.3, beta2=0.99, clip_norm=0.1
            ),
            schedule=ScheduleConfig(name="wsd", warmup_steps=2, cooldown_steps=8),
        ),
        dataclasses.replace(
            base, steps=31, optimizer=OptimizerConfig(learning_rate=rate, clip_norm=0.0)
        ),
    ]


def folders(root: Path, configs: Sequence[TrainConfig]) -> list[Path]:
    return [root / str(number) for number in range(len(configs))]


class StopAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt", {}),
        ("femto", {}),
        ("llama", {}),
        ("gpt", {"position": "sinusoidal", "n_kv_head": 1, "head_bias": True, "bias": True}),
    ],
)
def test_members_equal_runs_trained_alone(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, family: str, changes: dict
) -> None:
    configs = members_of(make_config, family)
    configs = [
        dataclasses.replace(c, shape=dataclasses.replace(c.shape, **changes)) for c in configs
    ]
    results = run_members(configs, options, folders(tmp_path, configs))
    for config, result, folder in zip(configs, results, folders(tmp_path, configs), strict=True):
        alone = run_trial(config, options, tmp_path / "alone" / folder.name)
        assert (result.status, result.steps) == (RunStatus.COMPLETED, config.steps)
        for name in ("loss", "loss_se", "bpb", "train_loss", "flops"):
            assert getattr(result, name) == pytest.approx(getattr(alone, name), rel=TOLERANCE)
        points, expected = lines(folder), lines(tmp_path / "alone" / folder.name)
        assert [p["step"] for p in points] == [p["step"] for p in expected]
        for point, other in zip(points, expected, strict=True):
            assert point.keys() == other.keys()
            for name in ("loss", "learning_rate", "grad_norm", "validation_loss"):
                if other.get(name) is None:
                    assert point.get(name) is None
                else:
                    assert point[name] == pytest.approx(other[name], rel=TOLERANCE)


def test_adam_whose_decay_is_in_the_gradient_equals_a_run_alone(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    configs = [
        make_config(
            seed=seed,
            optimizer=OptimizerConfig(
                name="adam", learning_rate=1e-3, weight_decay=0.5, decay_all=True
            ),
        )
        for seed in range(2)
    ]
    results = run_members(configs, options, folders(tmp_path, configs))
    alone = [run_trial(c, options, tmp_path / f"alone-{c.seed}") for c in configs]
    assert [r.loss for r in results] == pytest.approx([r.loss for r in alone], rel=TOLERANCE)


def test_a_member_that_diverges_leaves_the_others_as_they_are(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    good = [make_config(seed=seed) for seed in range(2)]
    bad = make_config(
        seed=5,
        optimizer=OptimizerConfig(learning_rate=1e30, clip_norm=0.0),
        schedule=ScheduleConfig(name="cosine"),
    )
    configs = [good[0], bad, good[1]]
    results = run_members(configs, options, folders(tmp_path, configs))
    assert [r.status for r in results] == [
        RunStatus.COMPLETED,
        RunStatus.DIVERGED,
        RunStatus.COMPLETED,
    ]
    assert "was nan at step" in results[1].message or "was inf at step" in results[1].message
    for number in (0, 2):
        alone = run_trial(configs[number], options, tmp_path / f"alone-{number}")
        assert results[number].loss == pytest.approx(alone.loss, rel=TOLERANCE)
        for name in ("loss", "grad_norm"):
            mine, expected = (
                [point[name] for point in lines(folder) if name in point]
                for folder in (tmp_path / str(number), tmp_path / f"alone-{number}")
            )
            assert mine == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("stops", [(5,), (24, 3, 9), (1, 30)])
def test_a_stack_interrupted_anywhere_gives_the_same_bits(
    make_config: MakeConfig,
    options: RunOptions,
    tmp_path: Path,
    stops: tuple[int, ...],
) -> None:
    configs = members_of(make_config)
    run_members(configs, options, folders(tmp_path / "whole", configs))
    broken = folders(tmp_path / "broken", configs)
    for steps in stops:
        with pytest.raises(Interrupted):
            run_members(configs, options, broken, should_stop=StopAfter(steps))
    results = run_members(configs, options, broken)
    for undisturbed, folder in zip(folders(tmp_path / "whole", configs), broken, strict=True):
        assert science(folder) == science(undisturbed)
    assert results[2].attempts == len(stops) + 1
    assert run_members(configs, options, broken) == results


def test_a_stack_killed_after_a_member_has_ended_goes_on_with_the_others_from_there(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.steps == 40 and progress.step == 28:
            raise Killed

    configs = members_of(make_config)  # of 24, 24, 40 and 31 steps
    whole, broken = folders(tmp_path / "whole", configs), folders(tmp_path / "broken", configs)
    run_members(configs, options, whole)
    with pytest.raises(Killed):
        run_members(configs, options, broken, on_progress=kill)
    assert [(out / "result.json").exists() for out in broken] == [True, True, False, False]
    results = run_members(configs, options, broken)
    for undisturbed, folder in zip(whole, broken, strict=True):
        assert science(folder) == science(undisturbed)
    assert results[2].steps_executed == 28 + 40 - 24


def test_a_stack_goes_on_from_the_newest_step_that_all_members_have(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    configs = [make_config(seed=seed, steps=40) for seed in range(3)]
    whole, broken = folders(tmp_path / "whole", configs), folders(tmp_path / "broken", configs)
    run_members(configs, options, whole)
    for steps in (10, 10):
        with pytest.raises(Interrupted):
            run_members(configs, options, broken, should_stop=StopAfter(steps))
    # As after a kill between the second member's checkpoint and the third's.
    (broken[2] / "checkpoints" / "step-00000020.json").unlink()
    newer = broken[0] / "checkpoints" / "step-00000020.pt"
    assert checkpoint.steps(broken[0] / "checkpoints") == [10, 20]
    run_members(configs, options, broken)
    assert not newer.exists()
    for undisturbed, folder in zip(whole, broken, strict=True):
        assert science(folder)["points"] == science(undisturbed)["points"]
    executed = json.loads((broken[0] / "result.json").read_text())["steps_executed"]
    assert executed == 50


def test_a_damaged_checkpoint_of_one_member_sends_all_back_and_is_told(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    configs = [make_config(seed=seed) for seed in range(2)]
    outs = folders(tmp_path, configs)
    with pytest.raises(Interrupted):
        run_members(configs, options, outs, should_stop=StopAfter(10))
    path = outs[1] / "checkpoints" / "step-00000010.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    results = run_members(configs, options, outs)
    assert [r.steps_executed for r in results] == [40, 40]
    assert any("SHA-256" in note for note in results[1].notes)


def test_a_member_can_go_on_alone(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    configs = [make_config(seed=seed) for seed in range(3)]
    outs = folders(tmp_path, configs)
    with pytest.raises(Interrupted):
        run_members(configs, options, outs, should_stop=StopAfter(12))
    result = run_trial(configs[1], options, outs[1])
    alone = run_trial(configs[1], options, tmp_path / "alone")
    assert result.loss == pytest.approx(alone.loss, rel=TOLERANCE)
    assert result.steps_executed == 30
    assert any("the last bits may differ" in note for note in result.notes)


def test_a_checkpoint_holds_one_member_and_not_the_stack(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    configs = [make_config(seed=seed) for seed in range(8)]
    run_members(configs, options, folders(tmp_path, configs))
    run_trial(configs[0], options, tmp_path / "alone")
    sizes = [
        (folder / "checkpoints" / "step-00000030.pt").stat().st_size
        for folder in (tmp_path / "0", tmp_path / "alone")
    ]
    assert sizes[0] < 1.2 * sizes[1]


def test_time_spent_together_is_charged_once(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    configs = [make_config(seed=seed, steps=10 + seed) for seed in range(4)]
    started = time.monotonic()
    results = run_members(configs, options, folders(tmp_path, configs))
    elapsed = time.monotonic() - started
    assert 0.0 < sum(r.wall_s for r in results) <= elapsed


def test_the_stack_and_its_members_are_recorded(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    configs = [make_config(seed=seed, steps=3) for seed in range(3)]
    all_three = run_members(configs, options, folders(tmp_path / "3", configs))
    two = run_members(configs[:2], options, folders(tmp_path / "2", configs[:2]))
    names = {r.versions[STACK_KEY] for r in all_three}
    assert len(names) == 1
    assert names.pop().startswith("3 members ")
    assert two[0].versions[STACK_KEY] != all_three[0].versions[STACK_KEY]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dropout": 0.1}, "dropout"),
        ({"precision": "bf16"}, "fp32 only, got bf16"),
        ({"batch_sequences": 2}, "batch_sequences must be the same in all members, got 4 and 2"),
        ({"optimizer": OptimizerConfig(name="muon", learning_rate=1e-3)}, "muon"),
        (
            {
                "shape": preset(
                    "deepseek", d_model=16, n_layer=2, n_head=2, vocab_size=256, context=32
                )
            },
            "stack",
        ),
    ],
)
def test_what_cannot_be_stacked_is_refused_before_any_file_is_written(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, changes: dict, reason: str
) -> None:
    configs = [make_config(), make_config(**changes)]
    with pytest.raises(ValueError, match=reason):
        run_members(configs, options, folders(tmp_path, configs))
    assert list(tmp_path.iterdir()) == []


def test_in_double_precision_a_member_is_its_run_alone_over_hundreds_of_steps(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path
) -> None:
    """In fp32, training at a high rate grows one ulp to a percent of the loss; the sums are one."""
    shape = preset("llama", d_model=32, n_layer=1, n_head=2, vocab_size=256, context=32)
    configs = [make_config(steps=200, shape=shape, seed=seed) for seed in (1, 2)]
    torch.set_default_dtype(torch.float64)
    try:
        results = run_members(configs, options, folders(tmp_path, configs))
        alone = [run_trial(c, options, tmp_path / f"alone-{c.seed}") for c in configs]
    finally:
        torch.set_default_dtype(torch.float32)
    for result, other in zip(results, alone, strict=True):
        assert result.loss == pytest.approx(other.loss, rel=1e-8)
