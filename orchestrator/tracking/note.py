"""What a person reads at the top of a run's page in MLflow: short Markdown, from records alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.state import SweepState, TrialState
from orchestrator.units import format_count, format_flops

_VERDICTS = {"identified": "identified", "weak": "weakly identified", "not_identified": "refused"}


def sweep_note(state: SweepState) -> str:
    """The answer of a sweep, its numbers, and where the report is.

    Args:
        state: the sweep, with its last fit.
    """
    assert state.opened is not None
    name, fit = state.opened["name"], state.fit or {}
    data = state.opened["data"]
    status = fit.get("status", "not_identified")
    ratio, ends = fit.get("tokens_per_parameter"), fit.get("interval")
    unit = "bytes" if data.get("tokenizer") == "byte" else "tokens"
    if ratio is None:
        head = "## NOT IDENTIFIED: these runs do not determine the ratio"
    else:
        head = f"## {ratio:.3g} {unit} per parameter"
        head += f" [{ends[0]:.3g}, {ends[1]:.3g}]" if ends else ""
        head += f" at {format_flops(fit['flops'])} FLOPs" if fit.get("flops") else ""
    lines = [
        head,
        "",
        f"**{status}** ({_VERDICTS[status]}): {_literal(fit.get('message', ''))}",
        "",
    ]
    counts = [f"{n} {what}" for what, n in state.counts.items() if n]
    lines += [
        "| | |",
        "| :--- | :--- |",
        f"| Runs | {', '.join(counts)}; {fit.get('n_points', 0)} in the fit |",
        f"| Compute charged | {format_flops(state.charged_flops)} of "
        f"{format_flops(state.opened['budget_flops'])} FLOPs |",
        f"| Text | {_literal(str(data['source']))}, {_literal(str(data['tokenizer']))} |",
        "",
        "**The report: Artifacts, `report/report.html`** (`report.pdf` for paper; every figure in "
        "`report/figures`). The runs are nested below this one.",
        "",
        f"`sweep predict {name} --flops C` asks for another run; `sweep report {name}` writes the "
        "report again.",
    ]
    return "\n".join(lines)


def run_note(trial: TrialState, record: Mapping[str, Any]) -> str:
    """One run: what it trained, how it ended, why it is left out if it is.

    Args:
        trial: a trial that is over.
        record: its row of the loss table.
    """
    text = (
        f"N = {format_count(record['params_matmul'])} (matmul), "
        f"D = {format_count(record['tokens'])}, "
        f"C = {format_flops(record['flops'])} FLOPs, level {trial.level}, {trial.status.value}"
    )
    if record["loss"] is not None:
        text += f": **held-out loss {record['loss']:.4f}** nats per token"
    if record["excluded"]:
        text += f". Left out of the fit: {_literal(record['excluded'])}"
    return text + "."


def _literal(text: str) -> str:
    """Foreign text that Markdown shows as it is, on one line and in one cell."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", line)[:1500]
