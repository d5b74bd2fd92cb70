"""Ray Tune as the executor: real workers, a killed one, no socket off loopback, no chatter."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from orchestrator.errors import EnvironmentUnusable
from orchestrator.executors import ray_tune
from orchestrator.executors.base import (
    AtRung,
    ExecutorEvent,
    Finished,
    Interrupted,
    Job,
    Lost,
    Pruned,
    Race,
    Started,
)
from orchestrator.executors.inline import InlineExecutor
from orchestrator.executors.ray_cluster import PRIVATE, refuse_greed
from orchestrator.executors.ray_tune import RayTuneExecutor
from orchestrator.executors.worker import run_all, run_job
from orchestrator.pruning import FACTOR, RUNGS, goes_on
from orchestrator.trial_files import steps_executed
from trainer.config import OptimizerConfig, RunOptions, ScheduleConfig, TrainConfig
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource
from trainer.shapes import preset

PATIENCE_S = 600.0
"""How long a test waits for what must happen: only a broken executor waits so long."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of 60 kB."""
    folder = tmp_path_factory.mktemp("data")
    lines = (f"{i * i % 977} is a number, {i * 7 % 31} is another\n" for i in range(2000))
    (folder / "corpus.txt").write_text("".join(lines))
    return prepare(DataSource(corpus=str(folder / "corpus.txt")), cache_root=folder / "cache")


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayTuneExecutor]:
    """One private Ray for all tests of this file: starting it takes seconds. Its GPUs are not real:
    what is tested is who is given them."""
    with RayTuneExecutor(slots=2, cpus=2, gpus=2, log_dir=tmp_path_factory.mktemp("log")) as ray:
        yield ray


def job(data_dir: Path, folder: Path, *, steps: int, seed: int = 0) -> Job:
    config = TrainConfig(
        shape=preset("gpt", d_model=8, n_layer=1, n_head=1, vocab_size=256, context=32),
        data_digest=TokenData.open(data_dir).manifest.digest,
        steps=steps,
        batch_sequences=2,
        validation_tokens=256,
        seed=seed,
        optimizer=OptimizerConfig(learning_rate=0.01),
        schedule=ScheduleConfig(warmup_steps=5),
    )
    return Job(
        trial_id=config.trial_id,
        config=config,
        options=RunOptions(data_dir=data_dir, device="cpu", checkpoint_every_s=0.2),
        out_dir=folder / config.trial_id,
        stop_file=folder / "stop",
        cpus=1.0,
        gpus=0.0,
    )


def events_of(executor: RayTuneExecutor, jobs: int) -> list[ExecutorEvent]:
    """Events until `jobs` jobs have ended."""
    events: list[ExecutorEvent] = []
    while sum(not isinstance(event, Started | AtRung) for event in events) < jobs:
        event = executor.next_event(PATIENCE_S)
        assert event is not None, "nothing happened for ten minutes"
        events.append(event)
    return events


def wait_for_steps(out_dir: Path) -> None:
    """Wait until a trial has logged a step and written a checkpoint."""
    deadline = time.monotonic() + PATIENCE_S
    while not list(out_dir.glob("checkpoints/*")) or not (out_dir / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers() -> list[psutil.Process]:
    """Processes that run trials."""
    family = psutil.Process().children(recursive=True)
    return [process for process in family if "ImplicitFunc" in " ".join(process.cmdline())]


def test_a_trial_whose_worker_is_killed_is_lost_and_goes_on_to_the_same_loss(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    disturbed = job(data_dir, tmp_path / "ray", steps=6000)
    executor.submit(disturbed)
    wait_for_steps(disturbed.out_dir)
    killed = workers()
    for process in killed:
        process.kill()
    assert killed
    first = events_of(executor, 1)
    assert [type(event) for event in first] == [Started, Lost]
    executor.submit(disturbed)
    second = events_of(executor, 1)[-1]
    assert isinstance(second, Finished)
    calm = run_job(dataclasses.replace(disturbed, out_dir=tmp_path / "calm"))
    assert isinstance(calm, Finished)
    assert second.result.loss == calm.result.loss
    assert second.result.attempts == 2
    assert second.result.steps_executed >= calm.result.steps_executed


def test_a_stack_whose_worker_is_killed_is_lost_whole_and_goes_on_to_the_same_losses(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    def stack(folder: Path) -> Job:
        jobs = tuple(job(data_dir, folder, steps=2500, seed=seed) for seed in (1, 2))
        return dataclasses.replace(jobs[0], stack=jobs)

    disturbed = stack(tmp_path / "ray")
    executor.submit(disturbed)
    wait_for_steps(disturbed.stack[1].out_dir)
    for process in workers():
        process.kill()
    names = [one.trial_id for one in disturbed.stack]
    first = events_of(executor, 2)
    assert [type(event) for event in first] == [Started, Started, Lost, Lost]
    assert [event.trial_id for event in first] == 2 * names
    executor.submit(disturbed)
    second = [event for event in events_of(executor, 2) if isinstance(event, Finished)]
    calm: list[ExecutorEvent] = []
    run_all(stack(tmp_path / "calm"), calm.append)
    for name, event, alone in zip(names, second, calm, strict=True):
        assert isinstance(alone, Finished)
        assert (event.trial_id, event.result.loss) == (name, alone.result.loss)
        assert event.result.attempts == 2


def test_workers_stay_warm_between_trials(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    executor.submit(job(data_dir, tmp_path, steps=5, seed=1))
    events_of(executor, 1)
    before = {process.pid for process in workers()}
    for seed in (2, 3, 4):
        executor.submit(job(data_dir, tmp_path, steps=5, seed=seed))
    assert all(isinstance(e, Finished | Started) for e in events_of(executor, 3))
    after = {process.pid for process in workers()}
    assert before & after
    assert len(after) <= 2


def test_a_trial_that_fails_is_a_result_and_not_a_lost_worker(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    good = job(data_dir, tmp_path, steps=5, seed=9)
    wrong = dataclasses.replace(good, config=dataclasses.replace(good.config, data_digest="0" * 64))
    executor.submit(wrong)
    event = events_of(executor, 1)[-1]
    assert isinstance(event, Finished)
    assert event.result.status == "failed"
    assert "planned for data 000" in event.result.message


def test_a_trial_that_is_over_leaves_no_statistics_in_the_memory_of_the_driver(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    short = job(data_dir, tmp_path, steps=5, seed=41)
    executor.submit(short)
    events_of(executor, 1)
    trial = executor._placed[short.trial_id]
    deadline = time.monotonic() + PATIENCE_S
    while not trial.is_finished() or trial.metric_analysis or trial.metric_n_steps:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert trial.last_result


def test_a_stop_file_interrupts_running_trials(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    long = job(data_dir, tmp_path, steps=1_000_000, seed=5)
    executor.submit(long)
    wait_for_steps(long.out_dir)
    long.stop_file.touch()
    assert isinstance(events_of(executor, 1)[-1], Interrupted)


def test_a_trial_that_lags_behind_its_race_is_ended_at_a_rung_and_its_worker_goes_on(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    def raced(rate: float, race: Race) -> Job:
        plain = job(data_dir, tmp_path, steps=400, seed=7)
        config = dataclasses.replace(plain.config, optimizer=OptimizerConfig(learning_rate=rate))
        options = dataclasses.replace(plain.options, log_points=20, samples=False)
        return dataclasses.replace(
            plain,
            trial_id=config.trial_id,
            config=config,
            options=options,
            out_dir=tmp_path / config.trial_id,
            race=race,
        )

    good = raced(0.01, Race(group="a", protected=True))
    executor.submit(good)
    first = events_of(executor, 1)
    assert [type(event) for event in first] == [Started, AtRung, AtRung, Finished]
    earlier = tuple((e.trial_id, e.percent, e.loss) for e in first if isinstance(e, AtRung))
    assert [percent for _, percent, _ in earlier] == [25, 50]
    hopeless = raced(1e-7, Race(group="a", earlier=earlier))
    executor.submit(hopeless)
    assert [type(event) for event in events_of(executor, 1)] == [Started, AtRung, Pruned]
    assert steps_executed(hopeless.out_dir) == 100
    alone = raced(1e-6, Race(group="b"))
    executor.submit(alone)
    assert isinstance(events_of(executor, 1)[-1], Finished)
    inline = InlineExecutor()
    again = dataclasses.replace(hopeless, out_dir=tmp_path / "inline")
    inline.submit(again)
    events = [inline.next_event(1) for _ in range(3)]
    assert [type(event) for event in events] == [Started, AtRung, Pruned]


def test_a_request_that_the_cluster_cannot_meet_is_refused_before_it_is_made(
    executor: RayTuneExecutor, data_dir: Path, tmp_path: Path
) -> None:
    greedy = dataclasses.replace(job(data_dir, tmp_path, steps=5), gpus=8.0)
    with pytest.raises(EnvironmentUnusable, match=r"8 GPUs, the largest .* has 2"):
        executor.submit(greedy)


def test_gpus_must_be_on_one_node() -> None:
    nodes = [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 64.0}]
    refuse_greed(nodes, cpus=4, gpus=2)
    for cpus, gpus, said in ((1, 4, "4 GPUs, .* has 2"), (8, 1, "8 CPUs"), (65, 0, "65 CPUs")):
        with pytest.raises(EnvironmentUnusable, match=f"SWP-3002(?s:.*)asks for {said}"):
            refuse_greed(nodes, cpus=cpus, gpus=gpus)


def test_nothing_listens_off_loopback(executor: RayTuneExecutor) -> None:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    addresses = {ipaddress.ip_address(ip.removeprefix("::ffff:")) for ip in listening}
    assert {address for address in addresses if not address.is_loopback} == set()


def test_a_cluster_that_does_not_answer_is_an_environment_error(tmp_path: Path) -> None:
    """In a process of its own: this one is already connected."""
    import subprocess
    import sys

    script = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.executors.ray_tune import RayTuneExecutor\n"
        "from orchestrator.errors import EnvironmentUnusable\n"
        "try:\n"
        "    RayTuneExecutor(slots=1, cpus=1, gpus=0, log_dir=Path(sys.argv[1]),\n"
        "                    address='127.0.0.1:1').__enter__()\n"
        "except EnvironmentUnusable as error:\n"
        "    print(error.faults[0].code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.strip() == "SWP-3001", done.stderr


def test_the_rule_at_a_rung_is_the_one_of_ray_tunes_scheduler(executor: RayTuneExecutor) -> None:
    """Against `ASHAScheduler` itself, on losses of 60 trials at both rungs.

    After the executor has started: a process must not import Ray before a private one is set up.
    """
    assert executor
    from ray.tune.schedulers import ASHAScheduler

    asha = ASHAScheduler(
        time_attr="percent",
        metric="loss",
        mode="min",
        max_t=100,
        grace_period=RUNGS[0],
        reduction_factor=FACTOR,
    )
    rng = np.random.default_rng(3)
    before: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    decisions = []
    for number in range(60):
        trial = SimpleNamespace(trial_id=str(number))
        asha.on_trial_add(None, trial)
        for rung in RUNGS:
            value = float(rng.normal(3 - rung / 50, 0.1))
            theirs = asha.on_trial_result(None, trial, {"percent": rung, "loss": value})
            ours = goes_on(value, before[rung])
            before[rung].append(value)
            assert ours == (theirs == "CONTINUE")
            decisions.append(ours)
            if not ours:
                break
    assert 20 < sum(decisions) < len(decisions) - 20


def test_a_private_ray_is_refused_where_ray_was_imported_without_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    late = RayTuneExecutor(slots=1, cpus=1, gpus=0, log_dir=tmp_path)
    for name in PRIVATE:
        others = {key: value for key, value in PRIVATE.items() if key != name}
        for key, value in others.items():
            monkeypatch.setenv(key, value)
        monkeypatch.delenv(name, raising=False)
        with pytest.raises(EnvironmentUnusable, match=f"(?s)before Ray is imported.*{name}="):
            late.__enter__()
    assert not list(tmp_path.iterdir())


def test_a_second_private_ray_of_a_process_has_the_token_that_ray_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", *PRIVATE):
        monkeypatch.setenv(name, "")  # put back afterwards
    monkeypatch.setattr(ray_tune, "connect", lambda *_: None)
    monkeypatch.setattr(ray_tune, "living_nodes", list)
    tokens = []
    for name in ("first", "second"):
        executor = RayTuneExecutor(slots=1, cpus=1, gpus=0, log_dir=tmp_path)
        executor._temporary = tmp_path / name
        executor._temporary.mkdir()
        executor._start_ray()
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert token.parent == executor._temporary
        assert token.stat().st_mode & 0o777 == 0o600
        tokens.append(token.read_text())
    assert tokens[0] == tokens[1] != ""
