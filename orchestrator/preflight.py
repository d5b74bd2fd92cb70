"""Before a sweep spends: is its architecture sound, and which arithmetic pays on this machine.

Both are asked of a process of the trainer's (`trainer.preflight`), once per sweep, and their
answers are frozen in the journal: a sweep that goes on goes on with them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.budget import Budget
from orchestrator.display import Display
from orchestrator.errors import BadInput, EnvironmentUnusable, Fault
from orchestrator.hardware import Machine, placement_of
from orchestrator.journal import Journal, write_atomic
from orchestrator.plan import Plan
from orchestrator.setting import Setting
from orchestrator.state import EventKind
from orchestrator.sweep_files import FIRST_BATCH
from orchestrator.trial import Hardware, Trial
from trainer.config import Kernels, Precision, TrainConfig

SHARE_OF_BUDGET = 0.05
"""Most of the budget that learning by heart may cost."""

PAYS = 1.2
"""How much faster than fp32 bf16 must be to be chosen: below that, noise would decide."""

NARROW = 64
"""Width below which bf16 is not tried on a CPU: casts cost more there than its products save."""

WORTH_S = 120.0
"""Expected seconds of a sweep below which its kernels are not measured."""

_DEADLINE_S = 600.0

_REMEDIES = {
    "first loss": "draw the initial weights smaller (0.02 for an embedding that is also the head)",
    "targets": "targets must be the inputs shifted by one token",
    "causality": "a position may attend to itself and to earlier ones only: look at the mask, and "
    "at the axis of the softmax",
    "gradient": "something cuts the gradient: look for a detached tensor on the residual stream",
    "overfitting": "an architecture that cannot learn 3,000 tokens by heart learns no corpus: look "
    "at the residual stream, the norms and the initial weights",
    "recital": "what was learnt is not what generation computes: compare the cached with the full "
    "forward pass",
}

Ask = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Sends a request to `trainer.preflight`; the reply as plain values."""


def ask(request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a process of the trainer's.

    Raises:
        EnvironmentUnusable: when it ends without an answer.
    """
    threads = str(request["threads"])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainer.preflight"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            timeout=_DEADLINE_S,
            env={**os.environ, "OMP_NUM_THREADS": threads},
        )
        trouble = "" if done.returncode == 0 else done.stderr.strip()[-2000:] or "no message"
    except subprocess.TimeoutExpired:
        trouble = f"no answer within {_DEADLINE_S:.0f} s"
    if trouble:
        raise EnvironmentUnusable(
            Fault(
                code="SWP-3010",
                rule=f"the trainer must be able to run before a sweep begins: {trouble}",
                place="python -m trainer.preflight",
                remedy="`sweep doctor` looks at the installation; `checks: {diagnose: false}` "
                "leaves the checks out",
            )
        )
    return dict(json.loads(done.stdout))


def admit(setting: Setting, journal: Journal, display: Display, ask: Ask) -> None:
    """Check the architecture on the sweep's own data, unless the journal says it has passed.

    The outcome is journalled with what it cost, and the first batch written beside the journal.

    Raises:
        BadInput: naming the first check that failed, what was found and what to do.
        EnvironmentUnusable: when the trainer cannot run.
    """
    smallest = min(setting.plan.trials, key=lambda trial: trial.counts.total, default=None)
    if smallest is None or not setting.budget.checks.diagnose:
        return
    key = _key(smallest.config)
    known = journal.state.examination
    if known is None or known["key"] != key or not _passed(known):
        reply = ask(
            {
                "what": "architecture",
                "config": dataclasses.asdict(smallest.config),
                "data_dir": str(setting.data.folder),
                "threads": max(1, int(setting.budget.run.cpus_per_trial)),
                "allowed_flops": SHARE_OF_BUDGET * setting.plan.budget_flops,
            }
        )
        write_atomic(setting.sweep_dir / FIRST_BATCH, reply["first_batch"])
        journal.append(
            EventKind.SWEEP_EXAMINED, key=key, checks=reply["checks"], seconds=reply["seconds"]
        )
        display.note(_summary(reply))
        known = journal.state.examination
    assert known is not None
    failed = [check for check in known["checks"] if not check["passed"]]
    if failed:
        raise BadInput(
            [
                Fault(
                    code="SWP-1240",
                    rule=f"a model must pass the check `{check['name']}` before a sweep: "
                    f"{check['message']}",
                    place="model",
                    remedy=f"{_REMEDIES[check['name']]}; `checks: {{diagnose: false}}` sweeps it "
                    "all the same",
                )
                for check in failed
            ]
        )


def settle_precision(
    budget: Budget, plan: Plan, hardware: Hardware, machine: Machine, ask: Ask
) -> tuple[Precision, dict[str, float]]:
    """The arithmetic that `precision: auto` means for a sweep on this machine.

    On processors and GPUs that have bf16 a few steps of the dearest planned trial are timed in
    both; bf16 must be faster by a fifth. On a CPU narrow models stay in fp32 unmeasured, and on a
    cluster, whose machines are not this one, the hardware's usual arithmetic is taken.

    Returns:
        The arithmetic, and the seconds a step in each that was measured.
    """
    gpus = placement_of(budget, machine).on_gpus
    dearest: Trial | None = max(plan.trials, key=lambda trial: trial.flops, default=None)
    if budget.training.precision != "auto" or budget.run.address is not None or dearest is None:
        return hardware.precision, {}
    if not gpus and dearest.config.shape.d_model < NARROW:
        return "fp32", {}
    reply = ask(
        {
            "what": "precision",
            "config": dataclasses.asdict(dearest.config),
            "device": "cuda" if gpus else "cpu",
            "threads": max(1, int(budget.run.cpus_per_trial)),
        }
    )
    seconds = reply["seconds_per_step"]
    pays = bool(seconds) and seconds["fp32"] >= PAYS * seconds["bf16"]
    return ("bf16" if pays else "fp32"), seconds


def settle_kernels(
    budget: Budget, plan: Plan, machine: Machine, ask: Ask
) -> tuple[dict[str, Any], ...]:
    """Which implementations a sweep's runs use, where another choice than the rule's is faster.

    The rule's choice is held against its alternatives at the narrowest and at the dearest planned
    trial; a run takes what was found at the width that is nearer to its own (`kernels_for`). It is
    measured once and journalled: a sweep that goes on computes as before. A sweep of less than two
    minutes would not earn the seconds that this takes; on a cluster the machines are not this one.

    Returns:
        Of each width `d_model`, the `kernels` and the `gains` that were measured; or nothing.
    """
    if budget.run.address is not None or plan.estimated_s < WORTH_S or not plan.trials:
        return ()
    narrowest = min(plan.trials, key=lambda trial: trial.config.shape.d_model)
    dearest = max(plan.trials, key=lambda trial: trial.flops)
    configs = {trial.config.shape.d_model: trial.config for trial in (narrowest, dearest)}
    reply = ask(
        {
            "what": "kernels",
            "configs": [dataclasses.asdict(config) for config in configs.values()],
            "device": "cuda" if placement_of(budget, machine).on_gpus else "cpu",
            "threads": max(1, int(budget.run.cpus_per_trial)),
        }
    )
    return tuple(
        {"d_model": width, **choice}
        for width, choice in zip(configs, reply["choices"], strict=True)
    )


def kernels_for(measured: Sequence[Mapping[str, Any]], width: int) -> Kernels | None:
    """The implementations of a run of some width; None for the trainer's rule."""
    if not measured:
        return None
    nearest = min(measured, key=lambda found: abs(math.log(found["d_model"] / width)))
    return Kernels(**nearest["kernels"])


def _key(config: TrainConfig) -> str:
    """What the outcome of the checks depends on: architecture, initial weights, data, trainer."""
    record = dataclasses.asdict(config)
    parts = {name: record[name] for name in ("shape", "init", "data_digest", "trainer_version")}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _passed(examination: Mapping[str, Any]) -> bool:
    return all(check["passed"] for check in examination["checks"])


def _summary(reply: Mapping[str, Any]) -> str:
    checks = reply["checks"]
    good = sum(check["passed"] for check in checks)
    said = f"Checks of the architecture: {good} of {len(checks)} passed in {reply['seconds']:.1f} s"
    names = {check["name"] for check in checks}
    if "gradient" in names and "overfitting" not in names:
        said += (
            f"; learning a batch by heart was left out (over {SHARE_OF_BUDGET:.0%} of the budget)"
        )
    return said
