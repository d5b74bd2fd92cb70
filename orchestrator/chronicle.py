"""The journal in words: one short line per event, for `sweep logs` and `--verbose`."""

from __future__ import annotations

from orchestrator.state import Event, EventKind, SweepState
from orchestrator.units import format_flops


def words(event: Event, state: SweepState) -> str:
    """An event in a few words.

    Args:
        event: the event.
        state: of its sweep, for the labels of trials.
    """
    data = event.data
    trial = state.trials.get(data.get("trial_id", ""))
    label = trial.label if trial else ""
    match event.kind:
        case EventKind.SWEEP_OPENED:
            return f"begun: {data['name']}, {format_flops(data['budget_flops'])} FLOPs"
        case EventKind.LEVEL_OPENED:
            centre = data["centre"]
            return (
                f"level {data['level']}: {len(data['trials'])} trials of "
                f"{format_flops(data['flops'])} FLOPs, centred on "
                f"{centre['tokens_per_parameter']:.3g} ({centre['reason']})"
            )
        case EventKind.TRIALS_ADDED:
            labels = ", ".join(record["label"] for record in data["trials"])
            return f"to {data['purpose']}: {labels}"
        case EventKind.TRIAL_AT_RUNG:
            return f"{label}: training loss {data['loss']:.4f} at {data['percent']} %"
        case EventKind.TRIAL_PRUNED:
            return f"{label}: ended early, it lagged behind"
        case EventKind.TRIAL_STARTED:
            return f"{label}: started"
        case EventKind.TRIAL_FINISHED:
            result = data["result"]
            loss = "" if result["loss"] is None else f", loss {result['loss']:.4f}"
            return f"{label}: {result['status']}{loss} {result['message']}".rstrip()
        case EventKind.TRIAL_CACHED:
            return f"{label}: taken over from {data['source']}"
        case EventKind.TRIAL_STALLED | EventKind.TRIAL_LOST | EventKind.TRIAL_ABANDONED:
            return f"{label}: {event.kind.value.removeprefix('trial_')}, {data['reason']}"
        case EventKind.TRIAL_RESET:
            return f"{label}: to be trained anew"
        case EventKind.RECIPE_VERIFIED:
            found = "passed" if data["passed"] else "FAILED"
            return f"recipe check {found}: {'; '.join(data['messages'])}"
        case EventKind.FORECAST_FROZEN:
            low, high = data["prediction_interval"]
            return f"forecast frozen: loss {data['loss']:.4f} [{low:.4f}, {high:.4f}]"
        case EventKind.FORECAST_SCORED:
            return str(data["message"])
        case EventKind.PRECISION_REACHED:
            return f"precise enough: {data['message']}"
        case EventKind.BUDGET_EXTENDED:
            return f"budget raised to {format_flops(data['budget_flops'])} FLOPs"
        case EventKind.BUDGET_SPENT:
            return f"budget spent: {len(data['trial_ids'])} trials left out"
        case EventKind.SWEEP_EXAMINED:
            checks = data["checks"]
            failed = [check["name"] for check in checks if not check["passed"]]
            verdict = f"failed: {', '.join(failed)}" if failed else "passed"
            return f"{len(checks)} checks of the architecture in {data['seconds']:.1f} s: {verdict}"
        case EventKind.SWEEP_FITTED:
            return f"fitted {data['n_points']} runs: {data['message']}"
        case EventKind.SWEEP_INTERRUPTED:
            return f"stopped by signal {data['signal']}"
        case EventKind.SWEEP_FINISHED:
            return f"finished, exit code {data['exit_code']}"
