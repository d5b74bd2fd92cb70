"""Workers that live and do not work: `stalled`, ended, tried again."""

from __future__ import annotations

import json
import signal

from faults.matrix import Trial, row
from faults.rayspecimen import RaySweep
from faults.specimen import Place

PATIENCE = "stalled_after: 8s"


@row("stopped-worker")
def test_a_stopped_worker_is_stalled_and_its_trial_goes_on(
    trial: Trial, place: Place, calm: Place
) -> None:
    hits = number = 0
    while hits < trial.times:
        sweep = RaySweep(place, f"out{number}", run=PATIENCE)
        number += 1
        for _ in range(min(3, trial.times - hits)):
            if not sweep.hit(signal.SIGSTOP, trial.random.randint(2, 40)):
                break
            hits += 1
            before = place.happened(sweep.outputs, "trial_lost")
            assert sweep.command.reaches(
                lambda o=sweep.outputs, n=before: place.happened(o, "trial_lost") > n, "its end"
            )
        sweep.finish()
        assert place.print_of(sweep.outputs) == calm.print_of()
    reasons = [e["data"]["reason"] for e in place.events("out0") if e["kind"] == "trial_stalled"]
    reasons = [reason for reason in reasons if "stood still at step" in reason]
    assert reasons
    waited = max(float(reason.split(" for ")[1].split(" s")[0]) for reason in reasons)
    trial.record(f"{hits} of {hits} found within {waited:.0f} s (deadline 8 s), identical")


@row("stuck-worker")
def test_a_worker_that_holds_still_leaves_its_stacks(
    trial: Trial, place: Place, calm: Place
) -> None:
    kinds = ("interpreter", "loop", "data")[: trial.times]
    for kind in kinds:
        once = place.folder / f"once-{kind}"
        once.touch()
        fault = {"kind": kind, "step": 60, "once": str(once)}
        sweep = RaySweep(place, kind, run=PATIENCE, inject=json.dumps(fault))
        sweep.finish()
        assert not once.exists(), "the fault was never met"
        assert place.happened(kind, "trial_stalled") == 1
        stacks = [p.read_text() for p in place.sweep_dir(kind).glob("trials/*/stacks*.txt")]
        assert any("stand_still" in text for text in stacks)
        assert place.print_of(kind) == calm.print_of()
    trial.record(f"{len(kinds)} of {len(kinds)} found, stacks kept, identical")
