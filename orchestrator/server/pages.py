"""The web page: the list of sweeps, and one sweep's board, drawn on the server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from orchestrator.board import Quote, count_words, level_name, seconds_left
from orchestrator.errors import SweepError
from orchestrator.operations import list_sweeps, log_lines, present_state, standing
from orchestrator.server import files
from orchestrator.server.access import TOKEN_FILE, Access
from orchestrator.server.api import Shop
from orchestrator.server.problems import status_of
from orchestrator.state import FINAL, SweepState, TrialState
from orchestrator.submission import read_record
from orchestrator.units import format_count, format_duration, format_flops
from orchestrator.watching import quote_of, running_trials
from trainer.shapes import count_parameters

SHOWN_TRIALS = 500
"""Rows of the table of trials; the interface gives all."""
SHOWN_EVENTS = 12
"""Lines of what happened last."""

_VERDICTS = {
    "identified": "identified",
    "weak": "weakly identified",
    "not_identified": "not identified",
}
_STANDINGS = {
    "running": "running",
    "starting": "starting",
    "finished": "finished",
    "stopped": "stopped",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """How much of something is done, for a bar and for words."""

    done: float
    total: float
    words: str


def router(shop: Shop, access: Access) -> APIRouter:
    """The pages on the sweeps of one folder."""
    routes = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    draw = _environment()

    def page(template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        return HTMLResponse(draw.get_template(template).render(values), status_code=status)

    @routes.get("/")
    def sweeps() -> HTMLResponse:
        rows = [_sweep_row(item) for item in list_sweeps(shop.outputs)]
        return page("sweeps.html.j2", title="Sweeps", sweeps=rows)

    @routes.get("/sweeps/{name}")
    def sweep(name: str) -> HTMLResponse:
        try:
            return page("sweep.html.j2", **sweep_values(shop.sweep(name)))
        except SweepError as error:
            faults = [str(fault) for fault in error.faults]
            return page("error.html.j2", status_of(error), title=name[:100], faults=faults)

    @routes.get("/login")
    def login() -> HTMLResponse:
        return page("login.html.j2", title="Log in", file=TOKEN_FILE, wrong=False)

    @routes.post("/login")
    async def enter(request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=4)
        if not access.is_token(form.get("token", [""])[0].strip()):
            return page("login.html.j2", 401, title="Log in", file=TOKEN_FILE, wrong=True)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            access.cookie_name, access.cookie_value, httponly=True, samesite="strict", path="/"
        )
        return answer

    @routes.post("/logout")
    def leave() -> Response:
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(access.cookie_name, httponly=True, samesite="strict", path="/")
        return answer

    @routes.get("/style.css")
    def style() -> Response:
        return Response(draw.get_template("style.css").render(), media_type="text/css")

    @routes.get("/fresh.js")
    def script() -> Response:
        return Response(draw.get_template("fresh.js").render(), media_type="text/javascript")

    return routes


def sweep_values(sweep_dir: Path) -> dict[str, Any]:
    """Everything that the page of a sweep says."""
    state = present_state(sweep_dir)
    stands = standing(sweep_dir, state)
    opened = state.opened or {}
    record = read_record(sweep_dir) or {}
    trials = list(state.trials.values())
    return {
        "title": str(opened.get("name", sweep_dir.name)),
        "name": sweep_dir.name,
        "standing": _STANDINGS[stands],
        "live": stands in ("running", "starting"),
        "answer": _answer(state.fit),
        "money": _money(state),
        "time_left": _time_left(sweep_dir, state) if stands == "running" else "",
        "counts": count_words(trials),
        "levels": [
            {
                "name": level_name(level),
                "flops": f"{'' if level.even else 'up to '}{format_flops(level.flops)}",
                "centre": f"{level.tokens_per_parameter:.3g}",
                "reason": level.reason,
                "share": _level_share([state.trials[t] for t in level.trial_ids]),
            }
            for level in state.levels
        ],
        "running": _running(sweep_dir, state) if stands == "running" else [],
        "trials": [_trial_row(trial) for trial in trials[:SHOWN_TRIALS]],
        "hidden": max(0, len(trials) - SHOWN_TRIALS),
        "files": files.listed(sweep_dir),
        "events": list(log_lines(sweep_dir))[-SHOWN_EVENTS:][::-1] if state.opened else [],
        "faults": record.get("faults", []) if stands == "stopped" else [],
        "clock": time.strftime("%H:%M:%S"),
    }


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator.server", "templates"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _sweep_row(item: Mapping[str, Any]) -> dict[str, Any]:
    done, total = item["trials"]["completed"], sum(item["trials"].values())
    ratio, interval = item["tokens_per_parameter"], item["interval"]
    return {
        "name": item["name"],
        "standing": _STANDINGS[item["standing"]],
        "trials": f"{done} of {total}" if total else "none yet",
        "money": None
        if not item["budget_flops"]
        else _share_of(item["charged_flops"], item["budget_flops"]),
        "ratio": _ratio(ratio, interval) if ratio else "",
        "verdict": _VERDICTS.get(item["verdict"] or "", ""),
    }


def _share_of(charged: float, budget: float) -> _Share:
    return _Share(
        done=min(charged, budget),
        total=budget,
        words=f"{format_flops(charged)} of {format_flops(budget)} FLOPs ({charged / budget:.0%})",
    )


def _ratio(ratio: float, interval: list[float] | None) -> str:
    between = f" [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else ""
    return f"{ratio:.3g}{between}"


def _answer(fit: Mapping[str, Any] | None) -> dict[str, str]:
    if fit is None:
        return {"tone": "none", "badge": "no fit yet", "ratio": "", "message": ""}
    ratio = fit.get("tokens_per_parameter")
    return {
        "tone": fit["status"],
        "badge": _VERDICTS.get(fit["status"], fit["status"]),
        "ratio": f"{ratio:.3g}" if ratio else "",
        "interval": "between {:.3g} and {:.3g} (90 % interval), from {} runs".format(
            *fit["interval"], fit["n_points"]
        )
        if ratio and fit.get("interval")
        else "",
        "message": fit["message"],
    }


def _money(state: SweepState) -> _Share | None:
    if state.opened is None:
        return None
    return _share_of(state.charged_flops, state.opened["budget_flops"])


def _time_left(sweep_dir: Path, state: SweepState) -> str:
    if state.opened is None or not (sweep_dir / "plan.json").exists():
        return ""
    quote: Quote = quote_of(sweep_dir, state)
    shorter, longer = seconds_left(state, running_trials(sweep_dir, state), quote)
    low, high = format_duration(shorter), format_duration(longer)
    return f"about {low} left" if low == high else f"{low} to {high} left"


def _level_share(trials: list[TrialState]) -> _Share:
    over = sum(trial.status in FINAL for trial in trials)
    return _Share(done=over, total=max(1, len(trials)), words=count_words(trials))


def _running(sweep_dir: Path, state: SweepState) -> list[dict[str, Any]]:
    rows = []
    for trial_id, progress in running_trials(sweep_dir, state).items():
        trial = state.trials[trial_id]
        steps = trial.config.steps
        rows.append(
            {
                "label": trial.label,
                "share": _Share(
                    done=progress.step,
                    total=steps,
                    words=f"step {progress.step:,} of {steps:,}",
                ),
                "loss": "" if progress.loss is None else f"{progress.loss:.3f}",
                "speed": format_count(progress.tokens_per_s) if progress.tokens_per_s else "",
            }
        )
    return rows


def _trial_row(trial: TrialState) -> dict[str, str]:
    params = count_parameters(trial.config.shape).matmul
    loss = trial.result.loss if trial.result else None
    remarks = [trial.reason] if trial.reason else []
    if trial.cached_from:
        remarks.append(f"taken over from {trial.cached_from}")
    if trial.attempts > 1:
        remarks.append(f"{trial.attempts} attempts")
    return {
        "id": trial.trial_id,
        "label": trial.label,
        "level": str(trial.level or trial.purpose.value),
        "params": format_count(params),
        "tokens": format_count(trial.config.tokens),
        "ratio": f"{trial.config.tokens / params:.3g}",
        "rate": f"{trial.config.optimizer.learning_rate:.3g}",
        "loss": "" if loss is None else f"{loss:.4f}",
        "status": trial.status.value,
        "remarks": "; ".join(remarks),
    }
