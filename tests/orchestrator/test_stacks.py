"""Trials of one shape that are trained as one stack: settled once, journalled, and kept.

Which trials are candidates, that a measurement decides, and that kills, resumes, money and caches
leave a stack what it was.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.budget import parse_budget
from orchestrator.display import SilentDisplay
from orchestrator.executors.base import Blocked, Finished, Interrupted, Job
from orchestrator.executors.worker import run_all
from orchestrator.hardware import Machine
from orchestrator.journal import read_state
from orchestrator.outcome import Answer
from orchestrator.plan import make_plan
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.stacks import LARGEST, PAYS, WORTH_S, candidates, settle_stacks
from orchestrator.state import TrialStatus
from orchestrator.trial import Hardware, Trial
from trainer.config import OptimizerConfig, RunOptions, ScheduleConfig, TrainConfig
from trainer.data.facts import DataFacts
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource
from trainer.members import STACK_KEY
from trainer.preflight import Request, answer
from trainer.shapes import preset

QUICK = Answer(resamples=20, interim=False, report=False)
REPLICATED = """\
name: small
budget: {flops: 2.4e13}
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300, seeds: [0, 1, 2, 3]}
design: {levels: [1e11, 3.2e11], sizes: 5, span: 3, tokens_per_parameter: 150}
checks: {diagnose: false}
"""


class Measured:
    """A trainer that finds one gain for every stack, and how many it was asked about."""

    def __init__(self, gain: float | None) -> None:
        self.gain, self.asked = gain, 0

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        json.dumps(request)
        self.asked += len(request["stacks"])
        return {"stacks": [{"gain": self.gain, "reason": "measured"} for _ in request["stacks"]]}


def run(setting: Setting, executor: Any, ask: Any) -> Outcome:
    return run_sweep(
        setting,
        make_executor=lambda: executor,
        tracker=None,
        display=SilentDisplay(),
        answer=QUICK,
        ask=ask,
    )


@pytest.fixture
def trials(facts: DataFacts, hardware: Hardware) -> list[Trial]:
    """The first level of a replicated budget: five sizes, four seeds each."""
    plan = make_plan(parse_budget(REPLICATED), facts, hardware)
    return [trial for trial in plan.trials if trial.level == 1]


def test_candidates_are_trials_of_one_shape_cut_so_that_the_slots_stay_busy(
    trials: list[Trial],
) -> None:
    found = candidates(trials, slots=2)
    assert all(len({trial.config.shape for trial in stack}) == 1 for stack in found)
    assert [len(stack) for stack in found] == [4] * 5
    assert [len(stack) for stack in candidates(trials, slots=8)] == [2] * 10
    (one_shape,) = (stack for stack in found if trials[0] in stack)
    assert [len(stack) for stack in candidates(one_shape, slots=1)] == [4]
    assert [len(stack) for stack in candidates(one_shape, slots=64)] == [2, 2]
    many = [
        dataclasses.replace(trials[0], config=dataclasses.replace(trials[0].config, seed=seed))
        for seed in range(2 * LARGEST + 1)
    ]
    assert [len(stack) for stack in candidates(many, slots=1)] == [11, 11, 11]


def changed(trial: Trial, **changes: Any) -> Trial:
    return dataclasses.replace(trial, config=dataclasses.replace(trial.config, **changes))


@pytest.mark.parametrize("why", ["bf16", "trunks", "width", "batch", "alone"])
def test_what_gains_nothing_or_cannot_be_stacked_is_no_candidate(
    trials: list[Trial], why: str
) -> None:
    first, second = trials[0], changed(trials[0], seed=9)
    assert candidates([first, second], slots=1)
    wide = dataclasses.replace(first.config.shape, d_model=128)
    others = {
        "bf16": [changed(t, precision="bf16") for t in (first, second)],
        "trunks": [changed(t, schedule=ScheduleConfig(name="wsd")) for t in (first, second)],
        "width": [changed(t, shape=wide) for t in (first, second)],
        "batch": [first, changed(second, batch_sequences=9)],
        "alone": [first],
    }
    assert candidates(others[why], slots=1) == []


@pytest.mark.parametrize(("gain", "together"), [(PAYS, True), (PAYS - 0.01, False), (None, False)])
def test_a_measurement_decides(trials: list[Trial], gain: float | None, together: bool) -> None:
    ask = Measured(gain)
    found = settle_stacks(trials, parse_budget(REPLICATED), Machine(cores=2, gpus=()), ask, slots=2)
    assert [stack["together"] for stack in found] == [together] * 5
    assert sorted(t for stack in found for t in stack["trials"]) == sorted(
        trial.trial_id for trial in trials
    )


def test_nothing_is_measured_where_little_can_be_won_or_the_machines_are_others(
    trials: list[Trial],
) -> None:
    ask, machine = Measured(9.0), Machine(cores=2, gpus=())
    short = [dataclasses.replace(trial, estimated_s=WORTH_S / 20) for trial in trials]
    assert settle_stacks(short, parse_budget(REPLICATED), machine, ask, slots=2) == []
    cluster = parse_budget(REPLICATED + "run: {address: 'host:6379'}\n")
    assert settle_stacks(trials, cluster, machine, ask, slots=2) == []
    assert ask.asked == 0


def test_the_trainer_judges_real_stacks_and_says_what_forbids_one(trials: list[Trial]) -> None:
    shape = preset("gpt", d_model=8, n_layer=1, n_head=1, vocab_size=256, context=16)
    good = [changed(trials[0], shape=shape, seed=seed).config for seed in (0, 1)]
    bad = [good[0], dataclasses.replace(good[1], dropout=0.1)]
    request = {
        "what": "stacks",
        "stacks": [[json.loads(c.to_json()) for c in stack] for stack in (good, bad)],
    }
    measured, forbidden = answer(Request(**request)).stacks
    assert measured.gain is not None
    assert measured.gain > 0
    assert forbidden.gain is None
    assert "dropout" in forbidden.reason


# --- a sweep


def test_a_stack_is_one_job_and_a_sweep_that_goes_on_keeps_it_unmeasured(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    class Died(BaseException):
        pass

    def die(job: Job) -> None:
        if len(fake_executor.submitted) - len(fake_executor.jobs) > 2:
            raise Died

    ask, setting = Measured(2.0), make_setting(REPLICATED)
    fake_executor.before = die
    with pytest.raises(Died):
        run(setting, fake_executor, ask)
    assert [len(stack) for stack in fake_executor.stacks[:5]] == [4] * 5
    state = read_state(setting.sweep_dir)
    assert all(t.trial_id in t.stack for t in state.trials.values())
    refusing, second = Measured(None), type(fake_executor)()
    outcome = run(setting, second, refusing)
    # The first level goes on in the stacks it was planned with, the second is measured anew.
    assert [len(stack) for stack in second.stacks] == [4, 4, 4] + [0] * 20
    assert {t.status for t in outcome.state.trials.values()} == {TrialStatus.COMPLETED}
    assert refusing.asked == 5


def test_trials_go_alone_without_a_measurement(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    run(make_setting(REPLICATED), fake_executor, None)
    assert fake_executor.stacks == [[]] * 40


def test_a_worker_that_dies_loses_its_whole_stack_which_goes_on_as_the_same_one(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting(REPLICATED)
    free = run(make_setting(REPLICATED), type(fake_executor)(), Measured(2.0))
    first = free.state.levels[0].trial_ids[0]
    stack = free.state.trials[first].stack
    (setting.sweep_dir / "journal.jsonl").unlink()
    fake_executor.losses = {first: 2}
    outcome = run(setting, fake_executor, Measured(2.0))
    assert fake_executor.stacks.count(list(stack)) == 3
    assert {outcome.state.trials[t].losses_of_workers for t in stack} == {2}
    assert {outcome.state.trials[t].attempts for t in stack} == {3}
    assert {t.status for t in outcome.state.trials.values()} == {TrialStatus.COMPLETED}


def test_a_stack_whose_workers_keep_dying_is_abandoned_trial_by_trial(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting(REPLICATED + "run: {retries: 1}\n")
    first = setting.plan.trials[0].trial_id
    fake_executor.losses = {first: 99}
    outcome = run(setting, fake_executor, Measured(2.0))
    stack = outcome.state.trials[first].stack
    assert {outcome.state.trials[t].status for t in stack} == {TrialStatus.ABANDONED}
    assert fake_executor.stacks.count(list(stack)) == 2
    others = [t for t in outcome.state.trials if t not in stack]
    assert {outcome.state.trials[t].status for t in others} == {TrialStatus.COMPLETED}


def test_where_the_money_does_not_pay_for_a_stack_its_trials_go_alone(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting(REPLICATED.replace("[1e11, 3.2e11]", "[1e11]"))
    cost = sum(trial.cost_flops for trial in setting.plan.trials)
    short = cost - 0.5 * setting.plan.trials[-1].cost_flops
    plan = dataclasses.replace(setting.plan, budget_flops=short)
    outcome = run(dataclasses.replace(setting, plan=plan), fake_executor, Measured(2.0))
    states = [t.status for t in outcome.state.trials.values()]
    assert states.count(TrialStatus.UNAFFORDABLE) == 1
    assert states.count(TrialStatus.COMPLETED) == 19
    assert [len(stack) for stack in fake_executor.stacks] == [4, 4, 4, 4, 0, 0, 0]
    assert outcome.state.charged_flops <= short


def test_what_another_sweep_trained_takes_no_part_in_a_stack(
    make_setting: Callable[..., Setting], fake_executor: Any, tmp_path: Path
) -> None:
    setting = make_setting(REPLICATED)
    first = setting.plan.trials[0]
    other = setting.outputs / "other" / "trials" / first.trial_id
    other.mkdir(parents=True)
    result = fake_executor.outcome(
        Job(
            trial_id=first.trial_id,
            config=first.config,
            options=RunOptions(data_dir=tmp_path),
            out_dir=other,
            stop_file=tmp_path / "stop",
            cpus=1,
            gpus=0,
        )
    ).result
    for name, text in (("config", first.config.to_json()), ("result", result.to_json())):
        (other / f"{name}.json").write_text(text)
    (other / "metrics.jsonl").touch()
    outcome = run(setting, fake_executor, Measured(2.0))
    stack = outcome.state.trials[first.trial_id].stack
    assert outcome.state.trials[first.trial_id].cached_from == "other"
    assert [t for t in stack if t != first.trial_id] in fake_executor.stacks
    assert first.trial_id not in fake_executor.submitted


# --- in a worker


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of 20 kB."""
    folder = tmp_path_factory.mktemp("data")
    lines = (f"{i * i % 977} is a number, {i * 7 % 31} is another\n" for i in range(700))
    (folder / "corpus.txt").write_text("".join(lines))
    return prepare(DataSource(corpus=str(folder / "corpus.txt")), cache_root=folder / "cache")


def stack_of(data_dir: Path, folder: Path, **changes: Any) -> Job:
    jobs = []
    for seed in range(3):
        config = TrainConfig(
            shape=preset("gpt", d_model=8, n_layer=1, n_head=1, vocab_size=256, context=16),
            data_digest=TokenData.open(data_dir).manifest.digest,
            steps=10 + 5 * seed,
            batch_sequences=2,
            validation_tokens=64,
            seed=seed,
            optimizer=OptimizerConfig(learning_rate=0.01),
            schedule=ScheduleConfig(),
        )
        config = dataclasses.replace(config, **(changes if seed == 1 else {}))
        jobs.append(
            Job(
                trial_id=config.trial_id,
                config=config,
                options=RunOptions(data_dir=data_dir, device="cpu", samples=False),
                out_dir=folder / str(seed),
                stop_file=folder / "stop",
                cpus=1.0,
                gpus=0.0,
            )
        )
    return dataclasses.replace(jobs[0], stack=tuple(jobs))


def ends(job: Job) -> list[Any]:
    told: list[Any] = []
    run_all(job, told.append)
    return told


def test_a_worker_trains_a_stack_and_tells_each_end_when_it_comes(
    data_dir: Path, tmp_path: Path
) -> None:
    job = stack_of(data_dir, tmp_path)
    told = ends(job)
    assert [end.trial_id for end in told] == [one.trial_id for one in job.stack]
    assert all(isinstance(end, Finished) and STACK_KEY in end.result.versions for end in told)
    for one, end in zip(job.stack, told, strict=True):
        (alone,) = ends(dataclasses.replace(one, out_dir=tmp_path / "alone" / one.out_dir.name))
        assert end.result.loss == pytest.approx(alone.result.loss, rel=1e-5)


def test_a_stack_killed_after_a_member_ended_goes_on_to_the_same_bits(
    data_dir: Path, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(end: Any) -> None:
        raise Killed

    whole = [end.result.loss for end in ends(stack_of(data_dir, tmp_path / "whole"))]
    job = stack_of(data_dir, tmp_path / "broken")
    with pytest.raises(Killed):
        run_all(job, kill)
    results = [end.result for end in ends(job)]
    assert [result.loss for result in results] == whole
    assert [result.attempts for result in results] == [1, 2, 2]


def test_members_of_a_stack_that_are_asked_to_stop_are_interrupted(
    data_dir: Path, tmp_path: Path
) -> None:
    job = stack_of(data_dir, tmp_path)
    job.stop_file.touch()
    assert [type(end) for end in ends(job)] == [Interrupted] * 3
    assert [len(list(one.out_dir.glob("checkpoints/*.pt"))) for one in job.stack] == [1, 1, 1]


def test_a_member_at_fault_fails_and_the_others_go_on_alone(data_dir: Path, tmp_path: Path) -> None:
    told = ends(stack_of(data_dir, tmp_path, data_digest="0" * 64))
    assert [end.result.status for end in told] == ["completed", "failed", "completed"]
    assert "planned for data 000" in told[1].result.message
    assert STACK_KEY not in told[0].result.versions


def test_a_disk_that_refuses_blocks_every_member_and_blames_none(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "file"))

    monkeypatch.setattr("trainer.checkpoint.write_atomically", full)
    told = ends(stack_of(data_dir, tmp_path))
    assert [type(end) for end in told] == [Blocked] * 3
    assert "No space left" in told[2].reason
