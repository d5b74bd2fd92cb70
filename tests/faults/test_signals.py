"""Signals and pipes: a sweep that is asked to end does so with its code, and leaves nothing."""

from __future__ import annotations

import os
import signal

from faults.matrix import Trial, row
from faults.rayspecimen import RaySweep
from faults.specimen import Place, until


def stopped_and_resumed(
    trial: Trial, place: Place, calm: Place, numbers: tuple[int, ...], code: int
) -> None:
    """Stop a sweep at seeded places; it ends with its code, leaves nobody, and goes on."""
    place.budget()
    for index in range(trial.times):
        outputs = f"out{index}"
        command = place.run(outputs, patches={"linger": {"seconds": 0.005}})
        lines = trial.random.randint(1, 250)
        assert command.reaches(lambda n=lines, o=outputs: place.steps_logged(o) >= n, "steps")
        command.signal(numbers[0])
        for number in numbers[1:]:
            until(lambda o=outputs: place.seen(o, "stop") == 1, "the first signal is taken")
            command.signal(number)
        assert command.wait() == code, command.err
        assert "Traceback" not in command.err
        assert not (place.sweep_dir(outputs) / "fit.json").exists()
        assert RaySweep.left_behind(place) == []
        place.finish(place.resume(outputs))
        assert place.print_of(outputs) == calm.print_of()
    trial.record(f"{trial.times} of {trial.times}: exit {code}, 0 processes left, identical")


@row("ctrl-c")
def test_ctrl_c_stops_with_a_checkpoint(trial: Trial, place: Place, calm: Place) -> None:
    stopped_and_resumed(trial, place, calm, (signal.SIGINT,), 130)


@row("ctrl-c-twice")
def test_a_second_ctrl_c_ends_at_once(trial: Trial, place: Place, calm: Place) -> None:
    stopped_and_resumed(trial, place, calm, (signal.SIGINT, signal.SIGINT), 130)


@row("sigterm")
def test_sigterm_stops_with_a_checkpoint(trial: Trial, place: Place, calm: Place) -> None:
    stopped_and_resumed(trial, place, calm, (signal.SIGTERM,), 143)


@row("terminal-gone")
def test_a_closed_terminal_stops_with_a_checkpoint(trial: Trial, place: Place, calm: Place) -> None:
    stopped_and_resumed(trial, place, calm, (signal.SIGHUP,), 143)


@row("ray-ctrl-c")
def test_ctrl_c_ends_ray_and_its_workers(trial: Trial, place: Place, calm: Place) -> None:
    for index in range(trial.times):
        sweep = RaySweep(place, f"out{index}")
        assert sweep.trains(trial.random.randint(2, 40))
        sweep.command.signal(signal.SIGINT)
        assert sweep.command.wait() == 130, sweep.command.err
        assert RaySweep.left_behind(place) == []
        RaySweep(place, f"out{index}").finish()
        assert place.print_of(f"out{index}") == calm.print_of()
    trial.record(f"{trial.times} of {trial.times}: 0 processes left after 30 s, identical")


@row("pipe-gone")
def test_a_sweep_that_nobody_listens_to_goes_on(trial: Trial, place: Place, calm: Place) -> None:
    place.budget()
    pipe = place.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    command = place.run(stderr=str(pipe))
    command.reaches(lambda: place.steps_logged() >= 1, "the first point")
    os.close(reader)
    place.finish(command)
    assert place.print_of() == calm.print_of()
    trial.record("table identical")


@row("output-gone")
def test_a_closed_pipe_ends_a_printing_verb_without_a_trace(trial: Trial, calm: Place) -> None:
    pipe = calm.folder / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    command = calm.sweep(
        "logs", "tiny", "--outputs", "out", stdout=str(pipe), patches={"slow_start": {}}
    )
    until(lambda: (calm.folder / command.files.with_suffix(".err").name).exists(), "its start")
    os.close(reader)
    (calm.folder / "go").touch()
    command.wait()
    assert "Traceback" not in command.err
    assert "SWP-7000" not in command.err
    trial.record(f"exit {command.exit_code}, no traceback")
