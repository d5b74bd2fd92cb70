"""What the pages of the walk show without hours of training: run by the product's own Python.

    python tests/walk/synthetic.py reports FOLDER    reports: identified, refused, running, mixed
    python tests/walk/synthetic.py sweep FOLDER      a sweep of 100 runs by a law, in MLflow

The losses follow a published law; nothing here is a measurement.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.answer import fit_table
from analysis.holdout import holdout_section
from analysis.published import BESIROGLU
from analysis.report import CurvePoint, NextRun, RecipeCheck, SweepFacts, write_report
from analysis.table import read_rows
from orchestrator.background import BackgroundProjection
from orchestrator.budget import parse_budget
from orchestrator.data import PreparedData
from orchestrator.display import SilentDisplay
from orchestrator.executors.base import Finished, Job
from orchestrator.hardware import Machine
from orchestrator.journal import read_state
from orchestrator.plan import make_plan
from orchestrator.service import run_sweep
from orchestrator.session import open_projection
from orchestrator.setting import Setting
from orchestrator.tracking.note import sweep_note
from trainer.flops import training_flops_per_token
from trainer.result import RunResult, RunStatus
from trainer.shapes import count_parameters

TARGET = 1e21
LONG = "a name of a run that goes on and on, <b>with signs</b> | and 漢字, further than any screen"


def frame(*, sizes: int, seeds: int, noise: float, levels: int) -> pd.DataFrame:
    """Runs of a law at several levels, some repeated, with what a mixture of experts counts."""
    rng = np.random.default_rng(11)
    rows = []
    for level in range(levels):
        flops = 1e18 * 10**level
        for N in BESIROGLU.optimum(flops).params * np.geomspace(1 / 4, 4, sizes):
            for seed in range(seeds):
                D = flops / (6 * N)
                loss = float(BESIROGLU.loss(N, D)) * math.exp(noise * rng.standard_normal())
                rows.append(
                    {
                        "trial_id": f"run{len(rows):03d}",
                        "level": level + 1,
                        "params_matmul": N,
                        "params_total": 1.08 * N + 2e7,
                        "params_active": 0.4 * N,
                        "tokens": D,
                        "flops": flops,
                        "loss": loss,
                        "bpb": loss / math.log(2) / 4.2,
                        "steps": round(D / 5e5),
                        "learning_rate": 3e-3 * (N / 1e8) ** -0.2,
                        "epochs": D / 4e11,
                        "seed": seed,
                        "wall_s": flops / 2e14,
                        "device": "an accelerator",
                        "excluded": "",
                    }
                )
    return pd.DataFrame(rows)


def facts(table: pd.DataFrame, **more: object) -> SweepFacts:
    """A sweep's words around a table."""
    labels = {r.trial_id: f"L{r.level} · {r.params_matmul:.3g}" for r in table.itertuples()}
    first = table["trial_id"].iloc[0]
    return SweepFacts(
        name="fineweb-llama",
        budget_flops=4e20,
        charged_flops=3.6e20,
        useful_flops=3.5e20,
        target_flops=TARGET,
        slot_hours=410.0,
        states={"completed": len(table)},
        family="llama, context 2048 tokens",
        recipe="learning rate step_law, batch 0.5M tokens",
        tokenizer="gpt2",
        corpus="a corpus",
        bytes_per_token=4.2,
        recipe_checks=[
            RecipeCheck(params=n, learning_rate=3e-3, losses={0.5: v, 1.0: v - 0.02, 2.0: v + 0.03})
            for n, v in ((3e7, 3.71), (1.1e8, 3.31))
        ],
        next_runs=[NextRun(params=2e8, tokens=5e9, flops=6e18, fold_before=1.6, fold_after=1.5)],
        method={"schedule": "cosine", "data": "a corpus", "tokenizer": "gpt2"},
        spending=[("Checks before the sweep", 2e17)],
        faults=["L2 · 3.1e+08: worker died, 1 attempt(s) lost"],
        commands=[("sweep resume fineweb-llama", "do what is left of it")],
        versions={"torch": "2.13.0"},
        hashes={"budget": "ab" * 32},
        labels={**labels, first: LONG},
        next_steps=["`sweep predict fineweb-llama --flops 1e+21` asks for another run."],
        **more,  # type: ignore[arg-type]
    )


def curves(table: pd.DataFrame) -> dict[str, list[CurvePoint]]:
    """A training curve for each run."""
    return {
        r.trial_id: [
            CurvePoint(
                step=s,
                tokens=r.tokens * s / 60,
                flops=r.flops * s / 60,
                loss=float(BESIROGLU.loss(r.params_matmul, r.tokens * s / 60)) + 1.5 / s,
            )
            for s in range(1, 61)
        ]
        for r in table.itertuples()
        if r.loss == r.loss
    }


def reports(folder: Path) -> None:
    """Write four reports below a folder."""
    good = frame(sizes=7, seeds=1, noise=0.0015, levels=3)
    mixed = frame(sizes=5, seeds=2, noise=0.004, levels=3)
    mixed.loc[3, ["excluded", "loss"]] = ["diverged: loss became non-finite at step 812", math.nan]
    mixed.loc[17, ["excluded", "loss"]] = ["loss spiked", 6.2]
    one = good[good["level"] == 1]
    going = good[good["level"] < 3]
    words = "Sweep still running when this was written: 14 of 21 runs are over, level 3"
    for name, table, more in (
        ("identified", good, {}),
        ("mixed", mixed, {}),
        ("refused", one, {}),
        ("running", going, {"unfinished": words}),
    ):
        runs = read_rows(table)
        report = fit_table(runs, target_flops=TARGET, resamples=200)
        fit = {**report.to_dict(), **holdout_section(runs, report, resamples=100)}
        out = folder / name
        write_report(
            out, fit=fit, table=runs, curves=curves(table), sweep=facts(table, **more),
            page_only=name in ("refused", "running"),
        )  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(fit))


HUNDRED = """\
name: hundred
budget: {flops: 1e16}
target: {flops: 1e16}
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300, seeds: [0, 1, 2, 3]}
design: {levels: [1e11, 3.2e11, 1e12, 3.2e12, 1e13], sizes: 5, span: 3, tokens_per_parameter: 150}
"""


def sweep(folder: Path) -> None:
    """A finished sweep of 100 runs by a law, with metrics, projected into MLflow."""
    fakes = _fakes()
    budget = parse_budget(HUNDRED)
    record = {
        "digest": fakes.FACTS.digest,
        "train_tokens": fakes.FACTS.train_tokens,
        "bytes_per_token": 1.0,
        "source": "embedded: source code of Python",
        "tokenizer": "byte",
    }
    setting = Setting(
        budget=budget,
        budget_text=HUNDRED,
        base=folder,
        plan=make_plan(budget, fakes.FACTS, fakes.HARDWARE),
        sweep_dir=folder / budget.name,
        outputs=folder,
        data=PreparedData(folder=folder / "data", facts=fakes.FACTS, record=record),
        hardware=fakes.HARDWARE,
        machine=Machine(cores=2, gpus=()),
    )
    executor = fakes.FakeExecutor()
    executor.outcome = _trained
    run_sweep(
        setting,
        make_executor=lambda: executor,
        tracker=BackgroundProjection(lambda: open_projection(budget, folder, setting.sweep_dir)),
        display=SilentDisplay(),
    )
    projection = open_projection(budget, folder, setting.sweep_dir)
    state = read_state(setting.sweep_dir)
    projection.finish(state, note=sweep_note(state), report=setting.sweep_dir / "report")


def _fakes() -> Any:
    """The fakes of the orchestrator's tests."""
    path = Path(__file__).resolve().parents[1] / "orchestrator" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fakes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _trained(job: Job) -> Finished:
    """A run by the law of the fakes: its result, and the points on the way to it."""
    config = job.config
    n = count_parameters(config.shape).matmul
    per_step = training_flops_per_token(config.shape).total * config.batch_tokens
    noise = np.random.default_rng(config.seed + n).standard_normal(41) * 0.003

    def loss(tokens: float, i: int) -> float:
        return (0.9 + 60 * n**-0.45 + 500 * tokens**-0.45) * math.exp(noise[i])

    lines = []
    for i in range(1, 41):
        step = config.steps * i // 40
        lines.append(
            {
                "step": step,
                "tokens": step * config.batch_tokens,
                "flops": step * per_step,
                "loss": loss(step * config.batch_tokens, i) + 0.4 / i,
                "learning_rate": config.optimizer.learning_rate * (1 - 0.95 * i / 40),
                "grad_norm": 0.5 + 1 / i,
                "tokens_per_s": 5e4,
                "time": 1.7e9 + i,
            }
        )
    final = loss(config.tokens, 0)
    lines.append({"step": config.steps, "validation_loss": final, "time": 1.7e9 + 41})
    job.out_dir.mkdir(parents=True, exist_ok=True)
    (job.out_dir / "metrics.jsonl").write_text("".join(json.dumps(v) + "\n" for v in lines))
    return Finished(
        trial_id=job.trial_id,
        result=RunResult(
            trial_id=config.trial_id,
            status=RunStatus.COMPLETED,
            loss=final,
            loss_se=0.002,
            bpb=final / math.log(2),
            tokens=config.tokens,
            steps=config.steps,
            steps_executed=config.steps,
            flops=per_step * config.steps,
            wall_s=per_step * config.steps / 2e10,
            tokens_per_s=5e4,
            peak_memory_bytes=400_000_000 + 16 * n,
            device="cpu core",
        ),
    )


if __name__ == "__main__":
    {"reports": reports, "sweep": sweep}[sys.argv[1]](Path(sys.argv[2]))
