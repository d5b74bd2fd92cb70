"""Runs of one size share the trunk of their training: many token counts, little more than one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.budget import parse_budget
from orchestrator.data import prepare_data
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput
from orchestrator.executors.inline import InlineExecutor
from orchestrator.hardware import Machine
from orchestrator.plan import Plan, make_plan
from orchestrator.rounds import _per_decade
from orchestrator.service import Outcome, run_sweep
from orchestrator.setting import Setting
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts

TEXT = """\
name: {name}
budget: {{flops: 1e11}}
data: {{corpus: corpus.txt, validation_tokens: 2048}}
model: {{context: 32, family: gpt}}
training: {{schedule: wsd, {warmup}, batch_tokens: 64, min_steps: 20, learning_rate: 0.01}}
design: {{kind: ladder, sizes: [2.8k, 4k, 5.5k], multiples: [0.5, 1, 2], tokens_per_parameter: 3}}
run: {{executor: inline}}
"""


@pytest.fixture
def run(
    tmp_path: Path, hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run a ladder of three sizes and three token counts for real, in this process."""
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 20)
    monkeypatch.setattr(
        "orchestrator.outcome.write_report", lambda out_dir, **_: out_dir / "report.html"
    )
    text = "".join(f"{i * i % 977} is a number, {i * 7 % 31} is another\n" for i in range(3000))
    (tmp_path / "corpus.txt").write_text(text)

    def run_it(name: str, outputs: str, warmup: str) -> Outcome:
        text = TEXT.format(name=name, warmup=warmup)
        budget = parse_budget(text)
        data = prepare_data(budget, tmp_path, tmp_path / outputs)
        setting = Setting(
            budget=budget,
            budget_text=text,
            base=tmp_path,
            plan=make_plan(budget, data.facts, hardware),
            sweep_dir=tmp_path / outputs / name,
            outputs=tmp_path / outputs,
            data=data,
            hardware=hardware,
            machine=Machine(cores=2, gpus=()),
        )
        return run_sweep(
            setting, make_executor=InlineExecutor, tracker=None, display=SilentDisplay()
        )

    return run_it


def test_several_token_counts_of_a_size_cost_one_trunk_and_their_cooldowns(
    run: Callable[..., Outcome],
) -> None:
    shared = run("shared", "a", "warmup_steps: 5").state
    alone = run("alone", "b", "warmup_fraction: 0.05").state
    assert shared.counts["completed"] == alone.counts["completed"] == 9
    inherited = [t.result.prefix_steps for t in shared.trials.values() if t.result]
    assert sum(steps > 0 for steps in inherited) == 6
    assert [t.result.prefix_steps for t in alone.trials.values() if t.result] == [0] * 9
    whole = sum(trial.cost_flops for trial in shared.trials.values())
    assert shared.charged_flops < 0.75 * whole
    assert alone.charged_flops == pytest.approx(sum(t.cost_flops for t in alone.trials.values()))


def test_a_branch_ends_where_it_would_have_ended_alone(run: Callable[..., Outcome]) -> None:
    """The long run first, then the short one from its trunk; and the short one by itself."""
    together = run("together", "a", "warmup_steps: 5").state
    again = run("again", "b", "warmup_steps: 5").state
    losses = {t.trial_id: t.result.loss for t in together.trials.values() if t.result}
    assert losses == {t.trial_id: t.result.loss for t in again.trials.values() if t.result}


def test_a_plan_says_when_runs_cannot_share_a_trunk(
    run: Callable[..., Outcome], tmp_path: Path, hardware: Hardware
) -> None:
    for warmup, warned in (("warmup_fraction: 0.05", True), ("warmup_steps: 5", False)):
        budget = parse_budget(TEXT.format(name="x", warmup=warmup))
        data = prepare_data(budget, tmp_path, tmp_path / "c")
        plan = make_plan(budget, data.facts, hardware)
        assert any("share no trunk" in line for line in plan.warnings) is warned


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        ("batch_tokens", "0.58 * D**0.571"),
        ("learning_rate", "D**-0.4"),
        ("weight_decay", "1e4 / D"),
    ],
)
def test_a_trunk_whose_rules_depend_on_tokens_is_refused_before_training(
    tmp_path: Path, hardware: Hardware, key: str, rule: str
) -> None:
    rules = {"batch_tokens": "64", "learning_rate": "0.01", "weight_decay": "0.1", key: f'"{rule}"'}
    written = ", ".join(f"{name}: {value}" for name, value in rules.items())
    text = TEXT.replace("batch_tokens: 64", written).replace(", learning_rate: 0.01}}", "}}")
    words = "".join(f"{i * i % 977} is a number, {i * 7 % 31} is another\n" for i in range(3000))
    (tmp_path / "corpus.txt").write_text(words)

    def plan(warmup: str) -> Plan:
        budget = parse_budget(text.format(name="x", warmup=warmup))
        data = prepare_data(budget, tmp_path, tmp_path / "outputs")
        return make_plan(budget, data.facts, hardware)

    with pytest.raises(BadInput, match="the 3 runs of N = ") as caught:
        plan("warmup_steps: 5")
    fault = caught.value.faults[0]
    assert (fault.code, fault.place) == ("SWP-1210", f"training.{key}")
    assert f"{key} ({rule}) from " in fault.rule
    assert f"give {key} as a number" in fault.remedy
    # The same warmup for every run, without asking for a trunk: a warning, and a plan.
    assert any("share no trunk" in line for line in plan('warmup_fraction: "5*B/D"').warnings)


def steps_per_run(design: str, facts: DataFacts, hardware: Hardware) -> tuple[float, Plan]:
    """Steps trained with shared trunks over those of independent runs, cooldowns of 10 %."""
    plan = make_plan(
        parse_budget(
            "name: shared\nbudget: {flops: 1e20}\nmodel: {context: 128}\n"
            "training: {schedule: wsd, warmup_steps: 20, cooldown_fraction: 0.1, "
            "batch_tokens: 512, min_steps: 300, learning_rate: 0.01}\n"
            f"design: {{{design}, tokens_per_parameter: 150}}\n"
        ),
        facts,
        hardware,
    )
    trunks: dict[str, list[tuple[float, float]]] = {}
    for trial in plan.trials:
        tail = trial.config.schedule.cooldown_steps / trial.config.steps
        trunks.setdefault(trial.config.trajectory_id, []).append(
            (trial.flops * (1 - tail), trial.flops * tail)
        )
    shared = sum(max(t for t, _ in runs) + sum(c for _, c in runs) for runs in trunks.values())
    return shared / sum(trial.flops for trial in plan.trials), plan


@pytest.mark.parametrize(
    ("design", "wanted"),
    [("levels: 4", 8), ("levels: 5, sizes: 7", 7), ("levels: 5, sizes: 8, span: 3", 8)],
)
def test_levels_share_trunks_and_keep_their_sizes_apart(
    design: str, wanted: int, facts: DataFacts, hardware: Hardware
) -> None:
    share, plan = steps_per_run(design, facts, hardware)
    assert share <= 0.85
    for level in plan.levels:
        sizes = sorted(trial.counts.matmul for trial in level.trials)
        assert len(set(sizes)) == wanted


def test_a_coarser_ladder_shares_more(
    facts: DataFacts, hardware: Hardware, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse, _ = steps_per_run("levels: 5", facts, hardware)
    monkeypatch.setattr("orchestrator.rounds.COARSE_PER_DECADE", 8)
    fine, _ = steps_per_run("levels: 5", facts, hardware)
    assert coarse < fine


@pytest.mark.parametrize(
    ("design", "per_decade"),
    [
        ("levels: 4", 6),
        ("levels: 4, sizes: 9", 8),
        ("levels: 4, span: 2.5", 8),
        ("kind: adaptive", 8),
    ],
)
def test_the_ladder_of_sizes_is_coarse_only_where_a_level_has_room(
    design: str, per_decade: int
) -> None:
    text = f"name: a\nbudget: {{flops: 1e15}}\ndesign: {{{design}}}\n"
    assert _per_decade(parse_budget(text).design) == per_decade
