"""The state that a sweep goes on with: locked, changed, moved, spent."""

from __future__ import annotations

import shutil
import signal

from faults.matrix import Trial, row
from faults.specimen import Place, Zygote


@row("second-driver")
def test_a_sweep_has_one_driver_and_a_dead_ones_lock_is_free(
    trial: Trial, place: Place, calm: Place
) -> None:
    place.budget()
    first = place.run(patches={"linger": {"seconds": 0.01}})
    assert first.reaches(lambda: place.steps_logged() >= 1, "the first point")
    second = place.run()
    assert second.wait() == 5, second.err
    assert "SWP-5001" in second.err
    assert f"process {first.pid}" in second.err
    first.kill()
    holder = place.sweep_dir() / ".lock.holder"
    assert holder.exists()
    holder.write_text("process 1 since for ever")  # the number is somebody else's now
    place.finish(place.run())
    assert place.print_of() == calm.print_of()
    trial.record("exit 5 with the holder; the dead one's lock taken over, identical")


@row("data-changed")
def test_other_tokens_are_refused_and_another_place_is_not(
    trial: Trial, place: Place, calm: Place, zygote: Zygote
) -> None:
    place.budget()
    command = place.run()
    assert command.reaches(lambda: place.seen("out", "trials/*/result.json") >= 1, "a trial")
    command.kill()
    corpus = place.folder / "corpus.txt"
    whole = corpus.read_bytes()
    corpus.write_bytes(b"X" + whole[1:])
    refused = place.run()
    assert refused.wait() == 5, refused.err
    assert "SWP-5005" in refused.err
    corpus.write_bytes(whole)
    moved = Place(place.folder / "moved", zygote)
    moved.budget()
    shutil.move(place.folder / "out", moved.folder / "out")
    moved.finish(moved.run())
    assert moved.print_of() == calm.print_of()
    trial.record("exit 5 naming the data; moved: identical")


@row("budget-changed")
def test_what_a_sweep_means_stays_and_how_it_runs_may_change(
    trial: Trial, place: Place, calm: Place
) -> None:
    place.budget()
    command = place.run()
    assert command.reaches(lambda: place.seen("out", "trials/*/result.json") >= 1, "a trial")
    command.kill()
    place.budget(replace=("learning_rate: 0.01", "learning_rate: 0.02"))
    refused = place.run()
    assert refused.wait() == 5, refused.err
    assert "SWP-5004" in refused.err
    assert "learning_rate" in refused.err
    place.budget(retries=9, run="stalled_after: 20min")
    place.finish(place.run())
    assert place.print_of() == calm.print_of()
    trial.record("exit 5 naming the key; a changed `run:` goes on, identical")


@row("retry-storm")
def test_the_ceiling_holds_in_a_storm_of_retries(trial: Trial, place: Place) -> None:
    # Just above the plan: the storm must meet the ceiling.
    place.budget(flops="9e9", replace=("checkpoint_every: 0.15s", "checkpoint_every: 1h"))
    deaths = 0
    while True:
        command = place.run(patches={"die_at": {"share": 0.9}})
        code = command.wait()
        if code != -signal.SIGKILL:
            break
        deaths += 1
        assert deaths < 40, "the storm goes on for ever"
    assert code == 4, command.err
    reply = command.reply
    charged = reply["charged_flops"] / reply["budget_flops"]
    assert 0.5 < charged <= 1.0
    trial.record(f"{deaths} deaths, charged {charged:.2f} of the ceiling, exit 4")
