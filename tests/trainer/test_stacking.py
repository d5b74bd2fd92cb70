"""Whether trials are stacked is decided once, written down, and then kept."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import stacking
from trainer.__main__ import EXIT_USAGE, main
from trainer.config import RunOptions, TrainConfig
from trainer.members import STACK_KEY
from trainer.result import RunResult
from trainer.stacking import LEAST_GAIN, Decision, decide, gain, run_all

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def options(options: RunOptions) -> RunOptions:
    return dataclasses.replace(options, samples=False)


def answer(monkeypatch: pytest.MonkeyPatch, found: float) -> list[int]:
    """Let the measurement find a gain; the list has an entry for each time it is asked."""
    asked: list[int] = []

    def measured(configs: list[TrainConfig], **_: object) -> float:
        asked.append(len(configs))
        return found

    monkeypatch.setattr(stacking, "gain", measured)
    return asked


def test_the_measured_gain_is_that_of_the_shape_whatever_the_numbers_of_steps(
    make_config: MakeConfig,
) -> None:
    configs = [make_config(seed=seed, steps=3) for seed in range(3)]
    found = gain(configs, seconds=0.0)
    assert math.isfinite(found)
    assert found > 0


@pytest.mark.parametrize(("found", "together"), [(LEAST_GAIN, True), (LEAST_GAIN - 0.01, False)])
def test_trials_are_stacked_where_the_measurement_says_that_it_pays(
    make_config: MakeConfig,
    options: RunOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: float,
    together: bool,
) -> None:
    answer(monkeypatch, found)
    configs = [make_config(seed=seed, steps=3) for seed in range(2)]
    results = run_all(configs, options, [tmp_path / "a", tmp_path / "b"], tmp_path / "stack.json")
    assert [STACK_KEY in result.versions for result in results] == [together, together]


def test_a_decision_is_kept_whatever_a_later_measurement_would_say(
    make_config: MakeConfig, options: RunOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [make_config(seed=seed) for seed in range(2)]
    record = tmp_path / "stack.json"
    answer(monkeypatch, 2.0)
    first = decide(configs, options, record)
    asked = answer(monkeypatch, 0.5)
    assert decide(configs, options, record) == first
    assert asked == []
    assert Decision(**json.loads(record.read_text())) == first
    others = [make_config(seed=seed) for seed in range(3)]
    assert not decide(others, options, record).together
    assert asked == [3]


@pytest.mark.parametrize("why", ["shapes", "prefixes", "alone"])
def test_what_cannot_be_stacked_is_trained_one_after_the_other_unmeasured(
    make_config: MakeConfig,
    options: RunOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    asked = answer(monkeypatch, 9.0)
    configs = [make_config(), make_config(family="llama")]
    if why == "prefixes":
        configs = [make_config(), make_config(seed=1)]
        options = dataclasses.replace(options, prefix_dir=tmp_path / "prefixes")
    elif why == "alone":
        configs = [make_config()]
    decision = decide(configs, options, tmp_path / "stack.json")
    assert not decision.together
    reasons = {"shapes": "shape must be the same", "prefixes": "prefixes", "alone": "a single"}
    assert reasons[why] in decision.reason
    assert asked == []


def test_the_command_line_trains_several_configurations(
    make_config: MakeConfig,
    token_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer(monkeypatch, 2.0)
    configs = [make_config(seed=seed, steps=3) for seed in range(2)]
    files = []
    for config in configs:
        files.append(tmp_path / f"{config.seed}.json")
        files[-1].write_text(config.to_json())
    out = tmp_path / "out"
    arguments = ["--data", str(token_dir), "--out", str(out), "--quiet", "--no-samples"]
    assert main([*map(str, files), *arguments, "--device", "cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for config in configs:
        result = RunResult.from_json((out / config.trial_id / "result.json").read_text())
        assert result.versions[STACK_KEY].startswith("2 members ")
        assert json.loads(result.to_json()) in printed
    files[1].write_text("{}")
    assert main([*map(str, files), *arguments]) == EXIT_USAGE
    assert "1.json is not a trial's configuration" in capsys.readouterr().err
