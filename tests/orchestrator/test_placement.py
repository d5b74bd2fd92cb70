"""What one trial is given of the devices, and what that costs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.budget import parse_budget
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput, EnvironmentUnusable
from orchestrator.executors.base import Finished, Job
from orchestrator.hardware import (
    HARDWARE_FILE,
    Machine,
    hardware_for,
    keep,
    placement_of,
    refuse_missing_gpus,
)
from orchestrator.journal import read_state
from orchestrator.outcome import _facts
from orchestrator.plan import make_plan
from orchestrator.service import run_sweep
from orchestrator.session import executor_for
from orchestrator.setting import Setting
from orchestrator.throughput import CPU_CORE, GPU, StepTime, calibrate
from orchestrator.views import at_a_time
from tests.orchestrator.conftest import completed
from trainer.data.facts import DataFacts
from trainer.shapes import count_parameters

EIGHT = Machine(cores=32, gpus=("a gpu",) * 8)
BY_SIZE = "gpus_by_size: [{up_to: 1M, gpus: 0.25}, {up_to: 100M, gpus: 1}, {gpus: 4}]"


def budget_of(run: str, spending: str = "flops: 1e19") -> Any:
    return parse_budget(
        f"name: a\nbudget: {{{spending}, price_per_hour: 2}}\nmodel: {{context: 128}}\n"
        "training: {batch_tokens: 65536, min_steps: 50}\n"
        f"design: {{levels: 3, sizes: 4, span: 4}}\nrun: {{{run}}}\n"
    )


@pytest.mark.parametrize(
    ("run", "machine", "params", "gpus", "devices"),
    [
        ("", EIGHT, 1e6, 1.0, 1.0),
        ("gpus_per_trial: 0.25", EIGHT, 1e9, 0.25, 0.25),
        ("gpus_per_trial: 4", EIGHT, 1e3, 4.0, 4.0),
        ("gpus_per_trial: 0, cpus_per_trial: 2", EIGHT, 1e6, 0.0, 2.0),
        ("", Machine(cores=2, gpus=()), 1e6, 0.0, 1.0),
        (BY_SIZE, EIGHT, 1e6, 0.25, 0.25),
        (BY_SIZE, EIGHT, 1.1e6, 1.0, 1.0),
        (BY_SIZE, EIGHT, 2e8, 4.0, 4.0),
    ],
)
def test_a_trial_is_given_what_the_budget_says_for_its_size(
    run: str, machine: Machine, params: float, gpus: float, devices: float
) -> None:
    placement = placement_of(budget_of(run), machine)
    assert placement.gpus_of(params, batch_sequences=8) == gpus
    assert placement.devices_of(params, batch_sequences=8) == devices


def test_a_batch_that_cannot_be_shared_by_all_gpus_takes_and_pays_fewer() -> None:
    placement = placement_of(budget_of("gpus_per_trial: 4"), EIGHT)
    assert placement.devices_of(1e9, batch_sequences=6) == 3
    assert placement.devices_of(1e9, batch_sequences=7) == 1


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("[{up_to: 1M, gpus: 1}]", "none in the last entry alone, got 1e\\+06"),
        ("[{up_to: 2M, gpus: 1}, {up_to: 1M, gpus: 2}, {gpus: 4}]", "got 2e\\+06, 1e\\+06, none"),
        ("[{gpus: 1}, {gpus: 2}]", "got none, none"),
        ("[{gpus: 1.5}]", "a part of one GPU or a whole number of them, got 1.5"),
        ("[{gpus: 0}]", "greater than 0"),
        ("[]", "gpus_by_size"),
        ("[{gpus: 1}], gpus_per_trial: 1", "exclude each other, got both"),
    ],
)
def test_shares_that_leave_a_size_without_its_gpus_are_refused(rules: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        budget_of(f"gpus_by_size: {rules}")


def test_as_many_trials_run_at_a_time_as_the_smallest_share_allows(tmp_path: Path) -> None:
    assert hardware_for(budget_of(BY_SIZE), tmp_path, EIGHT).slots == 32
    assert hardware_for(budget_of("gpus_per_trial: 2"), tmp_path, EIGHT).slots == 4
    assert hardware_for(budget_of("slots: 3"), tmp_path, EIGHT).slots == 3


def test_the_largest_share_must_fit_the_machine(tmp_path: Path) -> None:
    two = Machine(cores=8, gpus=("a gpu",) * 2)
    with pytest.raises(BadInput, match=r"SWP-1202(?s:.*)asks for 4 of 2 GPUs"):
        hardware_for(budget_of(BY_SIZE), tmp_path, two)
    with pytest.raises(EnvironmentUnusable, match="asks for 4 GPUs, this machine has 2"):
        refuse_missing_gpus(budget_of(BY_SIZE), two)


def test_workers_are_kept_only_where_all_sizes_ask_for_the_same(tmp_path: Path) -> None:
    same = "gpus_by_size: [{up_to: 1M, gpus: 1}, {gpus: 1}]"
    for run, warm in ((BY_SIZE, False), (same, True)):
        assert executor_for(budget_of(run), EIGHT, 1, tmp_path)._warm is warm  # type: ignore[attr-defined]


def test_a_private_ray_has_the_gpus_of_the_budget_and_no_more(tmp_path: Path) -> None:
    budget = budget_of(BY_SIZE, "gpus: 4, wall_clock: 1h")
    assert executor_for(budget, EIGHT, 1, tmp_path)._gpus == 4  # type: ignore[attr-defined]
    assert executor_for(budget_of(BY_SIZE), EIGHT, 1, tmp_path)._gpus == 8  # type: ignore[attr-defined]


@pytest.mark.parametrize(("gpus", "hours"), [(0.25, 24), (1, 24), (4, 24)])
def test_gpu_hours_are_hours_of_gpus_and_not_of_trials(
    gpus: float, hours: float, tmp_path: Path, facts: DataFacts
) -> None:
    budget = budget_of(f"gpus_per_trial: {gpus}", f"gpu_hours: {hours}")
    plan = make_plan(budget, facts, hardware_for(budget, tmp_path, EIGHT))
    occupied = sum(trial.estimated_s * gpus for trial in plan.trials) / 3600
    assert {trial.devices for trial in plan.trials} == {gpus}
    assert plan.device_hours == pytest.approx(occupied)
    assert 0.85 * hours < plan.device_hours <= hours
    assert plan.price == pytest.approx(2 * occupied)


def test_core_hours_are_hours_of_cores_and_not_of_trials(tmp_path: Path, facts: DataFacts) -> None:
    budget = parse_budget(
        "name: a\nbudget: {cpu_hours: 0.1}\nmodel: {context: 128}\n"
        "training: {batch_tokens: 512, min_steps: 50}\n"
        "design: {levels: 2, sizes: 3, span: 2, tokens_per_parameter: 150}\n"
        "run: {cpus_per_trial: 2}\n"
    )
    plan = make_plan(budget, facts, hardware_for(budget, tmp_path, Machine(cores=8, gpus=())))
    assert 0.08 < sum(2 * trial.estimated_s for trial in plan.trials) / 3600 <= 0.1


def test_more_gpus_take_the_arithmetic_of_a_step_and_not_its_overhead() -> None:
    one = GPU.step_s(n_layer=12, flops_per_step=1e14)
    four = GPU.step_s(n_layer=12, flops_per_step=1e14, devices=4)
    overhead = GPU.step_overhead_s + 12 * GPU.layer_overhead_s
    assert four - overhead == pytest.approx((one - overhead) / 4)


def test_a_speed_measured_on_several_devices_is_that_of_one(tmp_path: Path) -> None:
    def step(flops: float, devices: float) -> StepTime:
        seconds = CPU_CORE.step_s(n_layer=4, flops_per_step=flops, devices=2 * devices)
        return StepTime(n_layer=4, flops_per_step=flops, seconds=seconds, devices=devices)

    sizes = (1e9, 1e10, 1e11)
    found = {d: calibrate(CPU_CORE, [step(f, d) for f in sizes]) for d in (1, 4)}
    assert found[1].flops_per_s == pytest.approx(2 * CPU_CORE.flops_per_s)
    assert found[4].flops_per_s == pytest.approx(found[1].flops_per_s)

    keep(tmp_path, CPU_CORE, [step(f, 4) for f in sizes])
    kept = json.loads((tmp_path / HARDWARE_FILE).read_text())
    assert kept["flops_per_s"] == pytest.approx(found[1].flops_per_s)


def test_jobs_ask_for_the_gpus_of_their_size_and_record_what_they_occupy(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    jobs: list[Job] = []
    fake_executor.before = jobs.append
    fake_executor.outcome = lambda job: Finished(
        trial_id=job.trial_id,
        result=dataclasses.replace(completed(job.config), devices=job.options.devices),
    )
    plain = make_setting()
    sizes = sorted({trial.counts.matmul for trial in plain.plan.trials})
    bound = sizes[len(sizes) // 2]
    rules = f"gpus_by_size: [{{up_to: {bound:g}, gpus: 0.5}}, {{gpus: 2}}]"
    text = plain.budget_text.replace("flops: 8e12", "flops: 8e12\n  price_per_hour: 1000")
    setting = make_setting(text + f"run: {{{rules}}}\n")
    run_sweep(
        dataclasses.replace(setting, machine=Machine(cores=2, gpus=("A", "B"))),
        make_executor=lambda: fake_executor,
        tracker=None,
        display=SilentDisplay(),
    )
    small = {count_parameters(job.config.shape).matmul <= bound: job for job in jobs}
    assert set(small) == {True, False}
    for job in jobs:
        fits = count_parameters(job.config.shape).matmul <= bound
        expected = 0.5 if fits else float(job.processes)
        assert job.gpus == job.options.devices == expected
        assert job.processes == 1 or not fits
        assert job.options.device == "cuda"

    # Each of them took two seconds: what is billed are the GPUs, not the trials.
    found = _facts(read_state(setting.sweep_dir), setting.sweep_dir, setting.budget)
    assert found.slot_hours == pytest.approx(2 * len(jobs) / 3600)
    assert found.price == pytest.approx(1000 * 2 / 3600 * sum(job.gpus for job in jobs))


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("", "8 x gpu at a time"),
        ("gpus_per_trial: 0.25", "0.25 x gpu each, up to 32 at a time"),
        ("gpus_per_trial: 4", "4 x gpu each, up to 2 at a time"),
        (
            BY_SIZE.replace("100M", "900M").replace("1M", "300M"),
            "0.25 to 4 x gpu each, up to 32 at a time",
        ),
        # No size of the plan is so small as to ask for a quarter.
        (BY_SIZE.replace("1M", "1k").replace("100M", "1T"), "8 x gpu at a time"),
    ],
)
def test_a_plan_says_how_many_trials_run_at_a_time_and_on_what(
    run: str, said: str, tmp_path: Path, facts: DataFacts
) -> None:
    budget = budget_of(run, "flops: 1e21")
    plan = make_plan(budget, facts, hardware_for(budget, tmp_path, EIGHT))
    assert at_a_time(plan, "gpu") == said
