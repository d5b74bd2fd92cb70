"""The tiny sweep that faults are done to, and what may be seen of it from outside."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from orchestrator.collect import WALL_CLOCK_COLUMNS

BUDGET = """\
name: tiny
budget: {{flops: {flops}}}
data: {{corpus: corpus.txt, validation_tokens: 2048}}
model: {{context: 32, family: gpt}}
training: {{batch_tokens: 512, min_steps: 30, learning_rate: 0.01}}
design: {{levels: [1.5e9, 4e9], sizes: 3, span: 2, tokens_per_parameter: 12}}
run: {{executor: {executor}, checkpoint_every: 0.15s, retries: {retries}{run}}}
checks: {{diagnose: false}}
tracking: {{enabled: {tracking}{uri}}}
"""
WORDS = tuple("abcdefghijklmnopqrstuvwxyz"[i % 26 :][: 2 + i % 5] for i in range(29))
PATIENCE_S = 900.0
"""How long a test waits for what must happen: only a broken product waits so long, on a machine
that others use as well."""
SOURCE = Path(__file__).parents[2]


def corpus(folder: Path) -> None:
    """Write the specimen's text. Kept sweeps of earlier releases rest on it: it stays as it is."""
    text = " ".join(WORDS[(i * i + i // 7) % len(WORDS)] for i in range(60_000))
    lines = [text[i : i + 400] for i in range(0, len(text), 400)]
    (folder / "corpus.txt").write_text("\n".join(lines))


def until(condition: Callable[[], bool], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Wait for something that can be observed."""
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {patience_s:.0f} s: {what}")
        time.sleep(0.002)


class Zygote:
    """The warm process that becomes the commands."""

    def __init__(self) -> None:
        path = f"{SOURCE}{os.pathsep}{SOURCE / 'tests'}"
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
        }
        environment.pop("SWEEP_DEBUG", None)
        self.common: dict[str, dict[str, Any]] = {}
        """Patches that every command gets."""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=SOURCE,
        )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        assert self._out.readline() == "ready\n"

    def fork(self, request: dict[str, Any]) -> int:
        """Start a command."""
        self._in.write(json.dumps(request) + "\n")
        self._in.flush()
        return int(self._out.readline())

    def close(self) -> None:
        """End it and every child."""
        self._in.close()
        self._process.wait(60)
        self._out.close()


class Command:
    """One running command."""

    def __init__(self, pid: int, files: Path) -> None:
        self.pid, self.files = pid, files

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return self.files.with_suffix(".exit").exists()

    @property
    def exit_code(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        return int(self.files.with_suffix(".exit").read_text())

    @property
    def out(self) -> str:
        """What it printed on stdout."""
        return self.files.with_suffix(".out").read_text()

    @property
    def err(self) -> str:
        """What it printed on stderr."""
        path = self.files.with_suffix(".err")
        return path.read_text() if path.exists() else ""

    @property
    def reply(self) -> dict[str, Any]:
        """Its JSON document."""
        return dict(json.loads(self.out))

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for its end; returns the exit code."""
        try:
            until(lambda: self.ended, f"end of process {self.pid}", patience_s=patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says: {self.err[-2000:]}") from None
        return self.exit_code

    def reaches(self, condition: Callable[[], bool], what: str) -> bool:
        """Wait until something is seen, or the command is over (then False)."""
        until(lambda: condition() or self.ended, what)
        return not self.ended

    def signal(self, number: int) -> None:
        """Send a signal to it alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def family(self) -> list[psutil.Process]:
        """It and every process that descends from it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        return []


class Place:
    """A workplace: a corpus, a budget file and any number of outputs folders."""

    def __init__(self, folder: Path, zygote: Zygote, template: Path | None = None) -> None:
        self.folder, self._zygote, self._template = folder, zygote, template
        self._count = 0
        self.whole_answer = False
        """Whether sweeps end with the whole bootstrap and report: most rows are not about them."""
        folder.mkdir(parents=True, exist_ok=True)
        corpus(folder)
        self.budget()

    def budget(
        self,
        *,
        executor: str = "inline",
        retries: int = 3,
        run: str = "",
        tracking: bool = False,
        uri: str = "",
        flops: str = "3e10",
        replace: tuple[str, str] = ("", ""),
    ) -> None:
        """Write the budget file."""
        text = BUDGET.format(
            executor=executor,
            retries=retries,
            run=f", {run}" if run else "",
            tracking=str(tracking).lower(),
            uri=f", uri: '{uri}'" if uri else "",
            flops=flops,
        )
        before, after = replace
        assert before in text
        (self.folder / "budget.yaml").write_text(text.replace(before, after) if before else text)

    def sweep(self, *arguments: str, **options: Any) -> Command:
        """Start `sweep ARGUMENTS`."""
        return self.command("orchestrator.cli:main", *arguments, **options)

    def run(self, outputs: str = "out", *arguments: str, **options: Any) -> Command:
        """Start `sweep run budget.yaml`."""
        if self._template is not None and not (self.folder / outputs).exists():
            (self.folder / outputs).mkdir()
            shutil.copy2(self._template, self.folder / outputs / "mlflow.db")
        given = arguments or ("-y", "--json")
        return self.sweep("run", "budget.yaml", "--outputs", outputs, *given, **options)

    def resume(self, outputs: str = "out", **options: Any) -> Command:
        """Start `sweep resume tiny`."""
        return self.sweep("resume", "tiny", "--outputs", outputs, "--json", **options)

    def command(
        self,
        entry: str,
        *arguments: str,
        program: str = "sweep",
        patches: dict[str, dict[str, Any]] | None = None,
        env: dict[str, str] | None = None,
        stdout: str = "",
        stderr: str = "",
    ) -> Command:
        """Start anything that the zygote can become."""
        self._count += 1
        patches = dict(patches or {})
        if not self.whole_answer and arguments[:1] in (("run",), ("resume",)):
            patches["small_answer"] = {}
        files = self.folder / f"command-{self._count}.exit"
        pid = self._zygote.fork(
            {
                "entry": entry,
                "program": program,
                "arguments": list(arguments),
                "cwd": str(self.folder),
                "env": env or {},
                "stdout": stdout or str(files.with_suffix(".out")),
                "stderr": stderr or str(files.with_suffix(".err")),
                "exit_file": str(files),
                "patches": {**patches, **self._zygote.common},
            }
        )
        return Command(pid, files)

    def finish(self, command: Command) -> dict[str, Any]:
        """Wait for a command that must succeed (a refused fit of six tiny runs is a success)."""
        code = command.wait()
        assert code in (0, 1), f"exit {code}: {command.err}"
        return command.reply

    def sweep_dir(self, outputs: str = "out") -> Path:
        """The sweep's folder."""
        return self.folder / outputs / "tiny"

    def seen(self, outputs: str, pattern: str) -> int:
        """How many files of the sweep match."""
        return len(list(self.sweep_dir(outputs).glob(pattern)))

    def events(self, outputs: str = "out") -> list[dict[str, Any]]:
        """Whole lines of the journal."""
        path = self.sweep_dir(outputs) / "journal.jsonl"
        content = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]

    def happened(self, outputs: str, kind: str) -> int:
        """How often an event stands in the journal."""
        return sum(event["kind"] == kind for event in self.events(outputs))

    def steps_logged(self, outputs: str = "out") -> int:
        """Lines of all trials' metrics."""
        files = self.sweep_dir(outputs).glob("trials/*/metrics.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    def print_of(self, outputs: str = "out") -> str:
        """SHA-256 of the loss table without its wall-clock columns."""
        return table_print(self.sweep_dir(outputs) / "losses.csv")

    def rows(self, outputs: str = "out") -> list[dict[str, str]]:
        """The loss table."""
        with (self.sweep_dir(outputs) / "losses.csv").open() as file:
            return list(csv.DictReader(file))

    def runs(self, outputs: str = "out", database: Path | None = None) -> list[dict[str, Any]]:
        """The sweep's trials in MLflow's database: one entry per run."""
        sweep_id = self.events(outputs)[0]["data"]["sweep_id"]
        return mlflow_runs(database or self.folder / outputs / "mlflow.db", sweep_id)


def table_print(path: Path) -> str:
    """SHA-256 of a loss table without its wall-clock columns."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    kept = [{k: v for k, v in row.items() if k not in WALL_CLOCK_COLUMNS} for row in rows]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def mlflow_runs(database: Path, sweep_id: str) -> list[dict[str, Any]]:
    """Children of a sweep's runs: trial, status, and how many metric values each holds."""
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        parents = {
            run
            for (run,) in connection.execute(
                "select t.run_uuid from tags t join runs r on r.run_uuid = t.run_uuid and "
                "r.lifecycle_stage = 'active' where key = 'sweep.id' and t.value = ?",
                (sweep_id,),
            )
        }
        assert parents, "the sweep has no run in MLflow"
        found = connection.execute(
            "select r.run_uuid, r.status, t.value, p.value from runs r "
            "join tags t on t.run_uuid = r.run_uuid and t.key = 'sweep.trial_id' "
            "join tags p on p.run_uuid = r.run_uuid and p.key = 'mlflow.parentRunId' "
            "where r.lifecycle_stage = 'active'"
        )
        return [
            {
                "run": run,
                "status": status,
                "trial_id": trial_id,
                "values": _values(connection, run),
                "parents": len(parents),
            }
            for run, status, trial_id, parent in found
            if parent in parents
        ]


def _values(connection: sqlite3.Connection, run: str) -> list[tuple[str, int, float]]:
    query = "select key, step, value from metrics where run_uuid = ? order by key, step, timestamp"
    return [tuple(row) for row in connection.execute(query, (run,))]


def expected_values(sweep_dir: Path, trial_id: str) -> int:
    """How many per-step values of a trial the tracker must hold."""
    names = (
        "loss",
        "tokens",
        "flops",
        "learning_rate",
        "grad_norm",
        "tokens_per_s",
        "validation_loss",
        "validation_bpb",
    )
    text = (sweep_dir / "trials" / trial_id / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    # The last step has a line for its loss and one for its evaluation: a value is held once.
    return len({(name, line["step"]) for line in lines for name in names if name in line})


def of_this_machine(place: Path) -> Iterator[psutil.Process]:
    """Processes that work under a folder or name it: what a sweep may have left behind."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and (
                process.cwd().startswith(str(place)) or str(place) in " ".join(process.cmdline())
            ):
                yield process
