"""Simulated sweeps: the real loop against a known truth."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.budget import parse_budget
from orchestrator.cli import app
from orchestrator.errors import BadInput
from orchestrator.plan import make_plan
from orchestrator.simulate import named_law, simulate
from orchestrator.trial import Hardware
from trainer.data.facts import DataFacts

BUDGET = (
    "name: small\nbudget: {flops: 8e12}\nmodel: {context: 128}\n"
    "training: {batch_tokens: 512, min_steps: 300}\n"
    "design: {levels: 3, sizes: 5, span: 3, tokens_per_parameter: 150}\n"
)


def test_without_noise_the_answer_is_the_truth_and_with_more_noise_it_is_wider(
    facts: DataFacts, hardware: Hardware
) -> None:
    budget = parse_budget(BUDGET)
    quiet, loud = (
        simulate(
            budget, facts, hardware, law="chinchilla", noise_sd=sd, replicates=1, resamples=0
        ).to_dict()
        for sd in (1e-5, 2e-3)
    )
    assert quiet["answered"] == 1
    assert quiet["bias_ln_ratio"] == pytest.approx(0.0, abs=0.02)
    assert quiet["width_95"] < loud["width_95"]
    assert quiet["trials"] == 15


def test_a_simulation_is_a_function_of_its_seed(facts: DataFacts, hardware: Hardware) -> None:
    budget = parse_budget(BUDGET)
    first, again, other = (
        simulate(
            budget, facts, hardware, law="skaling", replicates=1, resamples=0, seed=seed
        ).replicates
        for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


def test_a_law_may_be_given_by_its_numbers(facts: DataFacts, hardware: Hardware) -> None:
    plan = make_plan(parse_budget(BUDGET), facts, hardware)
    law = named_law("E=1.5, A=400,B=2000,alpha=.35,beta=.37,k=.5", plan)
    assert (law.E, law.k) == (1.5, 0.5)
    assert named_law("skaling", plan).k == 0.5
    named = named_law("chinchilla", plan)
    top = plan.levels[-1].flops
    assert math.isclose(named.optimum(top).tokens_per_parameter, 150)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("chinchila", "SWP-1320"),
        ("E=1,A=2", "missing: B, alpha, beta"),
        ("E=1,A=2,B=3,alpha=.3,beta=.3,gamma=1", "unknown: gamma"),
        ("E=1,A=-2,B=3,alpha=.3,beta=.3", "must be >= 0"),
    ],
)
def test_a_law_that_is_none_is_refused(
    text: str, rule: str, facts: DataFacts, hardware: Hardware
) -> None:
    with pytest.raises(BadInput, match=rule):
        named_law(text, make_plan(parse_budget(BUDGET), facts, hardware))


def test_the_verb_speaks_to_people_and_prints_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    monkeypatch.setattr("orchestrator.cli_designs.out", Console(file=said))
    path = tmp_path / "b.yaml"
    path.write_text(BUDGET)
    common = ["simulate", str(path), "--replicates", "1", "--outputs", str(tmp_path / "o")]
    spoken = CliRunner().invoke(app, common)
    assert spoken.exit_code == 0, spoken.output
    assert "covers the truth" in " ".join(said.getvalue().split())
    document = CliRunner().invoke(app, [*common, "--json"])
    record = json.loads(document.stdout)
    assert record["schema"] == "sweep.simulate/1"
    assert record["replicates"] == 1
    assert record["fold_95"] == pytest.approx(math.exp(record["width_95"]))
    assert record["coverage_95_interval"][0] <= record["coverage_95"]


def test_what_made_answers_weak_is_said_by_rule(facts: DataFacts, hardware: Hardware) -> None:
    far = parse_budget(BUDGET + "target: {flops: 5e13}\n")
    found = simulate(far, facts, hardware, law="chinchilla", replicates=2, resamples=0).to_dict()
    assert found["status"]["identified"] == 0.0
    (reach,) = [reason for reason in found["reasons"] if reason["rule"] == "R3"]
    assert reach["share"] == 1.0
    assert "the target is" in reach["message"]


def test_a_plan_may_be_rehearsed_as_it_is_and_with_the_adaptive_design(
    tmp_path: Path, facts: DataFacts, hardware: Hardware
) -> None:
    path = tmp_path / "b.yaml"
    path.write_text(BUDGET)
    command = ["plan", str(path), "--outputs", str(tmp_path / "o"), "--expect", "--json"]
    expected = json.loads(CliRunner().invoke(app, command).stdout)["expected"]
    assert expected["trials"] == 15
    assert expected["adaptive"]["trials"] > 30
    assert expected["adaptive"]["fold_95"] < expected["fold_95"]
    alone = json.loads(
        CliRunner().invoke(
            app, ["simulate", str(path), "--outputs", str(tmp_path / "o"), "--json",
                  "--replicates", "3"]
        ).stdout
    )  # fmt: skip
    assert alone["fold_95"] == pytest.approx(expected["fold_95"])
