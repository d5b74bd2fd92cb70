"""Before a sweep spends: checks of the architecture, the arithmetic that pays; rows T9, R12."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.budget import parse_budget
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput, EnvironmentUnusable, Exit
from orchestrator.executors.base import STOP_FILE
from orchestrator.hardware import Machine
from orchestrator.journal import read_events, read_state
from orchestrator.operations import log_lines, stop
from orchestrator.outcome import Answer, _facts
from orchestrator.plan import make_plan
from orchestrator.preflight import (
    WORTH_S,
    _summary,
    ask,
    kernels_for,
    settle_kernels,
    settle_precision,
)
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.state import EventKind
from orchestrator.sweep_files import FIRST_BATCH
from orchestrator.tracking.projection import Projection
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource

QUICK = Answer(resamples=20, interim=False, report=False)
SOUND = {
    "checks": [
        {"name": "first loss", "passed": True, "message": "5.5 is ln V", "flops": 0.0},
        {"name": "overfitting", "passed": True, "message": "learnt", "flops": 1e9},
    ],
    "first_batch": "input a, target b",
    "seconds": 2.5,
}


class Asked:
    """A trainer that always gives the same answer, and the requests that it got."""

    def __init__(self, reply: Mapping[str, Any]) -> None:
        self.reply, self.requests = reply, []

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        json.dumps(request)
        self.requests.append(dict(request))
        return json.loads(json.dumps(self.reply))


def run(setting: Setting, executor: Any, ask: Any) -> Outcome:
    return run_sweep(
        setting,
        make_executor=lambda: executor,
        tracker=None,
        display=SilentDisplay(),
        answer=QUICK,
        ask=ask,
    )


def test_the_checks_run_once_and_stand_in_the_journal_with_their_cost(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting, asked = make_setting(), Asked(SOUND)
    free = run(make_setting(), fake_executor, None)
    (setting.sweep_dir / "journal.jsonl").unlink()
    outcome = run(setting, type(fake_executor)(), asked)
    assert outcome.state.charged_flops == free.state.charged_flops + 1e9
    (request,) = asked.requests
    sizes = [trial.counts.total for trial in setting.plan.trials]
    smallest = setting.plan.trials[sizes.index(min(sizes))]
    assert request["config"]["shape"] == dataclasses.asdict(smallest.config.shape)
    assert request["allowed_flops"] == 0.05 * 8e12
    kinds = [event.kind for event in read_events(setting.sweep_dir)]
    assert kinds[:2] == [EventKind.SWEEP_OPENED, EventKind.SWEEP_EXAMINED]
    assert (setting.sweep_dir / FIRST_BATCH).read_text() == SOUND["first_batch"]
    said = list(log_lines(setting.sweep_dir))[1]
    assert said.endswith("2 checks of the architecture in 2.5 s: passed")
    facts = _facts_of(setting)
    assert facts.examination[0] == "first loss: passed; 5.5 is ln V"


def test_a_check_that_the_budget_is_too_small_for_is_said_to_be_left_out() -> None:
    def said(*names: str) -> str:
        return _summary({"checks": [{"name": n, "passed": True} for n in names], "seconds": 0.2})

    left_out = said("first loss", "targets", "causality", "gradient")
    assert left_out.startswith("Checks of the architecture: 4 of 4 passed in 0.2 s; learning a ")
    assert left_out.endswith("left out (over 5% of the budget)")
    assert said("gradient", "overfitting").endswith("2 of 2 passed in 0.2 s")
    assert said("first loss", "targets", "causality").endswith("3 of 3 passed in 0.2 s")


def _facts_of(setting: Setting) -> Any:
    (setting.sweep_dir / "losses.csv").touch()
    return _facts(read_state(setting.sweep_dir), setting.sweep_dir, setting.budget)


def test_a_sweep_that_goes_on_is_not_checked_again(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    class Died(BaseException):
        pass

    def die(job: Any) -> None:
        raise Died

    setting, asked = make_setting(), Asked(SOUND)
    fake_executor.before = die
    with pytest.raises(Died):
        run(setting, fake_executor, asked)
    run(setting, type(fake_executor)(), asked)
    assert len(asked.requests) == 1


def test_a_stop_during_the_checks_ends_the_sweep_before_its_first_trial(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()

    def stopped_meanwhile(request: Mapping[str, Any]) -> dict[str, Any]:
        assert stop(setting.sweep_dir)
        return dict(SOUND)

    outcome = run(setting, fake_executor, stopped_meanwhile)
    assert outcome.exit_code is Exit.INTERRUPTED
    assert (outcome.trained, fake_executor.submitted) == (0, [])
    assert not (setting.sweep_dir / STOP_FILE).exists()
    again = run(setting, type(fake_executor)(), stopped_meanwhile)
    assert again.state.finished, "the checks have passed and are not made again"


def test_a_stop_that_a_killed_driver_left_behind_stops_nobody(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    setting.sweep_dir.mkdir(parents=True)
    (setting.sweep_dir / STOP_FILE).touch()
    assert run(setting, fake_executor, Asked(SOUND)).state.finished


def test_a_failed_check_ends_the_sweep_before_it_begins_and_is_tried_again(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    failed = {"name": "causality", "passed": False, "message": "moved position 3", "flops": 0.0}
    setting, asked = make_setting(), Asked({**SOUND, "checks": [SOUND["checks"][0], failed]})
    with pytest.raises(BadInput, match="`causality` before a sweep: moved position 3") as caught:
        run(setting, fake_executor, asked)
    (fault,) = caught.value.faults
    assert fault.code == "SWP-1240"
    assert "look at the mask" in fault.remedy
    assert fake_executor.submitted == []
    mended = Asked(SOUND)
    assert run(setting, fake_executor, mended).state.counts["completed"] == 15
    assert len(mended.requests) == 1


def test_the_checks_can_be_left_out_and_change_no_trial(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    text = make_setting().budget_text + "checks: {diagnose: false}\n"
    setting, asked = make_setting(text), Asked(SOUND)
    assert setting.budget.digest == make_setting().budget.digest
    run(setting, fake_executor, asked)
    assert asked.requests == []


def test_the_checks_and_the_first_batch_are_in_mlflow(
    make_setting: Callable[..., Setting], fake_executor: Any, tmp_path: Path
) -> None:
    setting = make_setting()
    outcome = run(setting, fake_executor, Asked(SOUND))
    projection = Projection(
        uri=f"sqlite:///{tmp_path / 'mlflow.db'}",
        experiment="checks",
        artifacts=tmp_path / "artifacts",
        sweep_dir=setting.sweep_dir,
    )
    projection.sync(dataclasses.replace(outcome.state, trials={}))
    (text,) = (tmp_path / "artifacts").rglob("checks.txt")
    assert text.read_text().splitlines()[0] == "passed  first loss: 5.5 is ln V"
    (batch,) = (tmp_path / "artifacts").rglob(FIRST_BATCH)
    assert batch.read_text() == SOUND["first_batch"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"fp32": 1.0, "bf16": 0.5}, "bf16"),
        ({"fp32": 1.0, "bf16": 0.9}, "fp32"),
        ({"fp32": 1.0, "bf16": 3.0}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_bf16_is_chosen_where_it_is_measured_a_fifth_faster(
    seconds: dict, expected: str, make_setting: Callable[..., Setting]
) -> None:
    setting = make_setting()
    asked = Asked({"seconds_per_step": seconds})
    gpu = Machine(cores=2, gpus=("a gpu",))
    arguments = (setting.budget, setting.plan, setting.hardware, gpu, asked)
    assert settle_precision(*arguments) == (expected, seconds)
    (request,) = asked.requests
    assert request["device"] == "cuda"
    dearest = max(setting.plan.trials, key=lambda trial: trial.flops)
    assert request["config"]["shape"] == dataclasses.asdict(dearest.config.shape)


def test_narrow_models_on_a_cpu_stay_in_fp32_unmeasured(
    make_setting: Callable[..., Setting],
) -> None:
    setting, asked = make_setting(), Asked({"seconds_per_step": {"fp32": 1.0, "bf16": 0.1}})
    settled = settle_precision(
        setting.budget, setting.plan, setting.hardware, setting.machine, asked
    )
    assert settled == ("fp32", {})
    assert asked.requests == []


@pytest.mark.parametrize("asked_for", ["training: {precision: fp32", "run: {address: auto}"])
def test_a_stated_precision_and_a_cluster_are_not_measured(
    asked_for: str, make_setting: Callable[..., Setting]
) -> None:
    text = make_setting().budget_text
    if asked_for.startswith("training"):
        text = text.replace("training: {", f"{asked_for}, ")
    else:
        text += asked_for + "\n"
    budget = parse_budget(text)
    setting, asked = make_setting(), Asked({})
    gpu = Machine(cores=2, gpus=("a gpu",))
    assert settle_precision(budget, setting.plan, setting.hardware, gpu, asked) == ("fp32", {})
    assert asked.requests == []


def test_the_precision_is_frozen_in_the_journal_and_in_every_trial(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = make_setting()
    hardware = dataclasses.replace(setting.hardware, precision="bf16")
    setting = dataclasses.replace(
        setting,
        hardware=hardware,
        plan=make_plan(setting.budget, setting.data.facts, hardware),
        precision_seconds={"fp32": 2.0, "bf16": 1.0},
    )
    outcome = run(setting, fake_executor, None)
    assert outcome.state.opened is not None
    assert outcome.state.opened["precision"] == "bf16"
    assert outcome.state.opened["precision_seconds"] == {"fp32": 2.0, "bf16": 1.0}
    assert {t.config.precision for t in outcome.state.trials.values()} == {"bf16"}


FOUND = [
    {"d_model": 16, "kernels": {"attention": "block", "products": "mkl"}, "gains": {"x": 1.0}},
    {"d_model": 64, "kernels": {"attention": "sdpa", "products": "onednn"}, "gains": {"x": 1.4}},
]


def test_kernels_are_measured_at_the_narrowest_and_the_dearest_trial(
    make_setting: Callable[..., Setting],
) -> None:
    setting = make_setting()
    choices = [{"kernels": f["kernels"], "gains": f["gains"]} for f in FOUND]
    asked = Asked({"choices": choices})
    settled = settle_kernels(setting.budget, setting.plan, setting.machine, asked)
    (request,) = asked.requests
    widths = [config["shape"]["d_model"] for config in request["configs"]]
    assert widths[0] == min(t.config.shape.d_model for t in setting.plan.trials)
    dearest = max(setting.plan.trials, key=lambda trial: trial.flops)
    assert widths[1] == dearest.config.shape.d_model
    assert [found["d_model"] for found in settled] == widths
    assert [found["kernels"] for found in settled] == [f["kernels"] for f in FOUND]


def test_kernels_of_a_short_sweep_and_of_a_cluster_are_those_of_the_rule(
    make_setting: Callable[..., Setting],
) -> None:
    setting, asked = make_setting(), Asked({})
    short = dataclasses.replace(setting.plan, estimated_s=WORTH_S - 1)
    assert settle_kernels(setting.budget, short, setting.machine, asked) == ()
    cluster = parse_budget(setting.budget_text + "run: {address: auto}\n")
    assert settle_kernels(cluster, setting.plan, setting.machine, asked) == ()
    assert asked.requests == []


def test_a_run_takes_the_kernels_of_the_width_nearest_to_its_own() -> None:
    assert kernels_for([], 16) is None
    taken = [kernels_for(FOUND, width) for width in (8, 31, 33, 500)]
    assert [kernels.attention for kernels in taken if kernels] == ["block", "block", "sdpa", "sdpa"]


def test_measured_kernels_are_frozen_in_the_journal_and_handed_to_every_run(
    make_setting: Callable[..., Setting], fake_executor: Any
) -> None:
    setting = dataclasses.replace(make_setting(), kernels=tuple(FOUND))
    given = {}

    def look(job: Any) -> None:
        given[job.config.shape.d_model] = job.options.kernels

    fake_executor.before = look
    outcome = run(setting, fake_executor, None)
    assert outcome.state.opened is not None
    assert outcome.state.opened["kernels"] == FOUND
    assert given == {width: kernels_for(FOUND, width) for width in given}
    assert len(given) > 1
    untold = run(make_setting(), type(fake_executor)(), None)
    assert untold.state.trials.keys() == outcome.state.trials.keys()


def test_the_trainer_answers_about_a_real_corpus(
    make_setting: Callable[..., Setting], tmp_path: Path
) -> None:
    """One process of the trainer's: sound parts pass, the first batch is its text."""
    source = DataSource(corpus="synthetic:addition?lines=2000", validation_fraction=0.2)
    folder = prepare(source, cache_root=tmp_path)
    trial = min(make_setting().plan.trials, key=lambda t: t.counts.total)
    config = dataclasses.replace(trial.config, data_digest=TokenData.open(folder).manifest.digest)
    reply = ask(
        {
            "what": "architecture",
            "config": dataclasses.asdict(config),
            "data_dir": str(folder),
            "threads": 1,
            "allowed_flops": 1.0,
        }
    )
    # Learning by heart costs more than one FLOP, so it is left out.
    assert [check["name"] for check in reply["checks"]] == [
        *("first loss", "targets", "causality", "gradient")
    ]
    assert all(check["passed"] for check in reply["checks"])
    _, read, said, *_ = re.split(r"=== .*\n|--- .*\n", reply["first_batch"])
    assert len(read) > 100
    assert read[1:-2] == said[:-3]


def test_a_trainer_that_cannot_run_is_an_environment_error() -> None:
    with pytest.raises(EnvironmentUnusable, match=r"(?s)SWP-3010.*TypeError"):
        ask({"what": "architecture", "config": {}, "threads": 1, "nonsense": 1})
