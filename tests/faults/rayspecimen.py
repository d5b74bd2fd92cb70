"""The tiny sweep on real Ray, with its workers in reach."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

from faults.specimen import SOURCE, Command, Place, of_this_machine, until


class RaySweep:
    """A sweep whose trials Ray's workers train; everything of it has the place in its name."""

    def __init__(self, place: Place, outputs: str, *, run: str = "", inject: str = "") -> None:
        self.place, self.outputs = place, outputs
        place.budget(executor="ray", retries=60, run=run or "stalled_after: 5min")
        (place.folder / "t").mkdir(exist_ok=True)
        env = {"TMPDIR": str(place.folder / "t"), "RAY_TMPDIR": str(place.folder)}
        if inject:
            here = str(Path(__file__).parent / "inject")
            paths = os.pathsep.join((here, str(SOURCE), str(SOURCE / "tests")))
            env |= {"PYTHONPATH": paths, "FAULTS": inject}
        self.command: Command = place.run(outputs, env=env)

    def finish(self) -> dict[str, object]:
        """Wait for the end."""
        return self.place.finish(self.command)

    def workers(self) -> dict[str, psutil.Process]:
        """Workers that train, by the trial whose metrics they hold open."""
        found = {}
        for process in self.command.family():
            with contextlib.suppress(psutil.Error):
                for file in process.open_files():
                    if file.path.endswith("metrics.jsonl"):
                        found[Path(file.path).parent.name] = process
        return found

    def lines(self, trial_id: str) -> int:
        """Points that a trial has logged."""
        path = self.place.sweep_dir(self.outputs) / "trials" / trial_id / "metrics.jsonl"
        return path.read_bytes().count(b"\n")

    def trains(self, more: int) -> bool:
        """Wait until the trials have logged so many more points; False when the sweep ended."""
        wanted = self.place.steps_logged(self.outputs) + more
        return self.command.reaches(
            lambda: self.place.steps_logged(self.outputs) >= wanted, f"{more} more points"
        )

    def hit(self, number: int, more: int) -> bool:
        """Send a signal to a worker that trains, some points on; False when the sweep ended."""
        if not self.trains(more):
            return False
        while not self.command.ended:
            for process in self.workers().values():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
                    return True
            time.sleep(0.01)
        return False

    def replayed(self) -> int:
        """Steps trained more than once."""
        results = [
            event["data"]["result"]
            for event in self.place.events(self.outputs)
            if event["kind"] == "trial_finished"
        ]
        return sum(result["steps_executed"] - result["steps"] for result in results)

    @staticmethod
    def left_behind(place: Place, *, patience_s: float = 30.0) -> list[str]:
        """Processes of a place that still live after a while."""
        me = psutil.Process()
        mine = {me.pid, *(parent.pid for parent in me.parents())}

        def alive() -> list[str]:
            return [
                " ".join(p.cmdline())[:120]
                for p in of_this_machine(place.folder)
                if p.pid not in mine
            ]

        with contextlib.suppress(AssertionError):
            until(lambda: not alive(), "no process left", patience_s=patience_s)
        return alive()
