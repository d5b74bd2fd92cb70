"""Sweeps whose workers share no disk with the driver: what goes through `run.storage`, and how."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from orchestrator.budget import parse_budget
from orchestrator.display import SilentDisplay
from orchestrator.errors import BadInput, EnvironmentUnusable
from orchestrator.executors import stored
from orchestrator.executors.base import (
    Blocked,
    ExecutorEvent,
    Finished,
    Interrupted,
    Job,
    Started,
)
from orchestrator.executors.inline import InlineExecutor
from orchestrator.executors.stored import StoredExecutor
from orchestrator.executors.worker import run_all, run_job
from orchestrator.service import run_sweep
from orchestrator.storage import Mirror, Storage, StorageRefused, bring_folder, patiently
from trainer.config import OptimizerConfig, RunOptions, ScheduleConfig, TrainConfig
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource
from trainer.shapes import preset


@pytest.fixture
def memory() -> Iterator[Storage]:
    """An object storage in this process's memory."""
    yield Storage("memory://bucket/lab")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the only node; storage is looked at all the time."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr(stored.tempfile, "tempdir", str(folder))
    monkeypatch.setattr(stored, "LEAST_PAUSE_S", 0.02)
    monkeypatch.setattr("orchestrator.executors.worker.STOP_POLL_S", 0.0)
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = DataSource(corpus="synthetic:addition?lines=2000", validation_fraction=0.2)
    return prepare(source, cache_root=tmp_path_factory.mktemp("data"))


def job(data_dir: Path, folder: Path, **changes: Any) -> Job:
    config = TrainConfig(
        shape=preset("gpt", d_model=8, n_layer=1, n_head=1, vocab_size=256, context=32),
        data_digest=TokenData.open(data_dir).manifest.digest,
        batch_sequences=2,
        validation_tokens=256,
        seed=0,
        optimizer=OptimizerConfig(learning_rate=0.01),
        **{"steps": 40, "schedule": ScheduleConfig(warmup_steps=5), **changes},
    )
    return Job(
        trial_id=config.trial_id,
        config=config,
        options=RunOptions(data_dir=data_dir, device="cpu", samples=False),
        out_dir=folder / "trials" / config.trial_id,
        stop_file=folder / "stop",
        cpus=1.0,
        gpus=0.0,
    )


class Watched(InlineExecutor):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Job] = []

    def submit(self, job: Job) -> None:
        self.given.append(job)
        super().submit(job)


def ends_of(asked: Job) -> list[ExecutorEvent]:
    """What a worker tells."""
    told: list[ExecutorEvent] = []
    run_all(asked, told.append)
    return told


def end_of(executor: StoredExecutor, asked: Job) -> ExecutorEvent:
    executor.submit(asked)
    assert executor.next_event(0) == Started(trial_id=asked.trial_id)
    event = executor.next_event(0)
    assert event is not None
    return event


def test_a_trial_through_a_storage_is_the_trial_at_home_and_its_weights_stay_there(
    memory: Storage, data_dir: Path, tmp_path: Path, node: Path
) -> None:
    here = job(data_dir, tmp_path / "driver")
    inner = Watched()
    with StoredExecutor(inner, memory, sweep="s") as executor:
        event = end_of(executor, here)
    assert isinstance(event, Finished)
    calm = run_job(dataclasses.replace(here, out_dir=tmp_path / "calm"))
    assert isinstance(calm, Finished)
    assert event.result.loss == calm.result.loss
    # Nothing that a worker gets names a place of the driver's machine.
    assert str(tmp_path).encode() not in pickle.dumps(inner.given)
    brought = {str(p.relative_to(here.out_dir)) for p in here.out_dir.rglob("*") if p.is_file()}
    assert {"config.json", "metrics.jsonl", "attempts.json", "result.json"} <= brought
    assert "checkpoints/step-00000040.json" in brought
    assert not any(name.endswith(".pt") for name in brought)
    there = memory.below("s", "trials", here.trial_id).listing()
    assert brought | {"checkpoints/step-00000040.pt"} == there.keys()
    # The node keeps the tokens for the next trial, and nothing else.
    assert {p.name for p in node.rglob("*.bin")} == {"train.bin", "validation.bin"}
    assert list(node.glob("isosweep-trial-*")) == []


def test_a_stopped_trial_goes_on_elsewhere_from_what_it_left_at_the_storage(
    memory: Storage, data_dir: Path, tmp_path: Path, node: Path
) -> None:
    here = job(data_dir, tmp_path / "driver", steps=500)
    here.stop_file.parent.mkdir(parents=True)
    with StoredExecutor(InlineExecutor(), memory, sweep="s") as executor:
        here.stop_file.touch()
        assert isinstance(end_of(executor, here), Interrupted)
    here.stop_file.unlink()
    assert memory.below("s").has("stop")
    (manifest,) = (here.out_dir / "checkpoints").glob("*.json")
    done = int(manifest.stem.removeprefix("step-"))
    assert 0 < done < 500
    for path in sorted(node.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with StoredExecutor(InlineExecutor(), memory, sweep="s") as executor:
        event = end_of(executor, here)
    assert isinstance(event, Finished)
    assert (event.result.attempts, event.result.steps_executed) == (2, 500)
    calm = run_job(dataclasses.replace(here, out_dir=tmp_path / "calm"))
    assert isinstance(calm, Finished)
    assert event.result.loss == calm.result.loss


def test_runs_of_one_trajectory_share_their_prefix_through_the_storage(
    memory: Storage, data_dir: Path, tmp_path: Path
) -> None:
    def trunk(steps: int) -> Job:
        schedule = ScheduleConfig(name="wsd", warmup_steps=5, cooldown_steps=10)
        plain = job(data_dir, tmp_path / "driver", steps=steps, schedule=schedule)
        options = dataclasses.replace(plain.options, prefix_dir=tmp_path / "prefixes")
        return dataclasses.replace(plain, options=options)

    with StoredExecutor(InlineExecutor(), memory, sweep="s") as executor:
        first, second = (end_of(executor, trunk(steps)) for steps in (40, 60))
    assert isinstance(first, Finished)
    assert isinstance(second, Finished)
    assert (second.result.prefix_steps, second.result.steps_executed) == (30, 30)
    shared = memory.below("prefixes", trunk(40).config.trajectory_id).listing()
    assert {"step-00000030.pt", "step-00000050.pt"} <= shared.keys()


def test_a_stack_through_a_storage_leaves_each_member_its_files(
    memory: Storage, data_dir: Path, tmp_path: Path
) -> None:
    members = tuple(job(data_dir, tmp_path / "driver", steps=steps) for steps in (10, 20))
    with StoredExecutor(InlineExecutor(), memory, sweep="s") as executor:
        executor.submit(dataclasses.replace(members[0], stack=members))
        events = [executor.next_event(0) for _ in range(4)]
    ended = [event for event in events if isinstance(event, Finished)]
    assert [event.trial_id for event in ended] == [one.trial_id for one in members]
    for one in members:
        assert (one.out_dir / "result.json").exists()
        assert "result.json" in memory.below("s", "trials", one.trial_id).listing()


def test_what_proves_others_whole_is_sent_after_them_and_removed_before_them(
    memory: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts: list[str] = []
    for verb in ("send", "remove"):
        real = getattr(Storage, verb)

        def spied(self: Storage, *names: Any, real: Any = real, verb: str = verb) -> None:
            acts.append(f"{verb} {names[-1]}")
            real(self, *names)

        monkeypatch.setattr(Storage, verb, spied)
    names = ["checkpoints/step-00000007.pt", "checkpoints/step-00000007.json"]
    for name in ("result.json", *reversed(names), "metrics.jsonl", ".metrics.tmp"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_text(name)
    mirror = Mirror(tmp_path / "t", memory)
    mirror.push()
    order = ["metrics.jsonl", *names, "result.json"]
    assert acts == [f"send {name}" for name in order]
    mirror.push()
    assert acts[4:] == []
    for name in names:
        (tmp_path / "t" / name).unlink()
    mirror.push()
    assert acts[4:] == [f"remove {name}" for name in reversed(names)]
    # What another writer left there is not ours to remove.
    acts.clear()
    shared = Mirror(tmp_path / "t", memory, alone=False)
    shared.push()
    (tmp_path / "t" / "metrics.jsonl").unlink()
    shared.push()
    assert not any(act.startswith("remove") for act in acts)


@pytest.mark.parametrize("url", ["memory://lab", "file://{folder}/new/lab"])
def test_a_storage_that_works_is_left_as_it_was(url: str, tmp_path: Path) -> None:
    storage = Storage(url.format(folder=tmp_path))
    storage.check()
    assert storage.listing() == {}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///proc/isosweep", "cannot write, read and remove"),
        ("nowhere://bucket/lab", "Protocol not known: nowhere"),
    ],
)
def test_a_storage_without_access_is_one_error_before_any_training(url: str, said: str) -> None:
    with pytest.raises(EnvironmentUnusable, match=said) as caught:
        Storage(url).check()
    (fault,) = caught.value.faults
    assert (fault.code, fault.place) == ("SWP-3007", "run.storage")
    assert url in fault.rule


def test_a_worker_that_cannot_reach_the_storage_ends_the_sweep_and_not_the_trial(
    make_setting: Callable[..., Any], fake_executor: Any
) -> None:
    said = "s3://lab: cannot read manifest.json: Forbidden"
    fake_executor.outcome = lambda asked: Blocked(
        trial_id=asked.trial_id, reason=said, by_storage=True
    )
    with pytest.raises(EnvironmentUnusable, match=r"SWP-3007(?s:.*)Forbidden"):
        run_sweep(
            make_setting(),
            make_executor=lambda: fake_executor,
            tracker=None,
            display=SilentDisplay(),
        )


def test_tokens_that_are_not_there_block_the_attempt(
    memory: Storage, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.PATIENCE_S", 0.0)
    here = job(data_dir, tmp_path)
    remote = stored._without_paths(here, memory, "s")
    (event,) = ends_of(remote)
    assert isinstance(event, Blocked)
    assert event.by_storage
    assert "there is no manifest.json" in event.reason


def test_tokens_that_come_over_damaged_are_not_trained_on(
    memory: Storage, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.storage.PATIENCE_S", 0.0)
    for path in data_dir.rglob("*"):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[0] ^= path.name == "train.bin"
            name = str(path.relative_to(data_dir))
            memory.below("data", data_dir.name).put(name, bytes(content))
    (event,) = ends_of(stored._without_paths(job(data_dir, tmp_path), memory, "s"))
    assert isinstance(event, Blocked)
    assert "token files came over damaged" in event.reason
    with pytest.raises(StorageRefused, match=r"there is no nothing\.json"):
        bring_folder(memory, tmp_path / "x", last="nothing.json")


def test_a_refusal_is_tried_again_for_a_minute() -> None:
    waited: list[float] = []
    calls = 0

    def refuse_thrice() -> None:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise StorageRefused("busy")

    patiently(refuse_thrice, pause=waited.append, clock=lambda: sum(waited))
    assert waited == [0.5, 1.0, 2.0]
    calls = -1000
    with pytest.raises(StorageRefused, match="busy"):
        patiently(refuse_thrice, pause=waited.append, clock=lambda: sum(waited))
    assert sum(waited) < 3.5 + 60


@pytest.mark.parametrize(
    ("url", "said"),
    [("bucket/lab", "must be a URL"), ("s3://key:secret@bucket/lab", "must hold no credentials")],
)
def test_a_storage_is_a_url_without_credentials(url: str, said: str) -> None:
    text = f"name: a\nbudget: {{flops: 1e18}}\nrun: {{storage: '{url}'}}\n"
    with pytest.raises(BadInput, match=said):
        parse_budget(text)
