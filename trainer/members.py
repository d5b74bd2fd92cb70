"""Several trials of one shape, trained in one process as one stack.

Each trial has its folder, files, checkpoints and result as if `run_trial` had trained it, its
losses equal to those of training it alone up to rounding (1e-5 relative over tens of steps;
it grows with the steps as between two machines). The stack is recorded with each result, since
its members decide the last bits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from trainer import checkpoint, kernels, run
from trainer import device as devices
from trainer.batches import TokenBatches
from trainer.config import Kernels, RunOptions, TrainConfig
from trainer.data.shards import TokenData
from trainer.execution import Execution
from trainer.loop import Diverged
from trainer.memory import keep_freed_memory
from trainer.parallel import Group
from trainer.result import Interrupted, Progress, RunResult, RunStatus
from trainer.stack import Member, Stack, why_not

STACK_KEY = "stacked_with"
"""Where `RunResult.versions` names the stack: the number of its members and a digest of them."""


def run_members(
    configs: Sequence[TrainConfig],
    options: RunOptions,
    out_dirs: Sequence[Path],
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_result: Callable[[RunResult], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[RunResult]:
    """Train trials of one shape together, or go on with them, or return what is there.

    Seeds, lengths, schedules and the optimiser's numbers may differ. A member that has done its
    steps or diverged leaves the stack. Interrupted and started again with the same members, it
    gives the same bits: all go on from the newest step at which each has a whole checkpoint.

    Args:
        configs: what to train.
        options: where and how; without `prefix_dir`.
        out_dirs: the trials' folders, in the same order.
        on_progress: called at every logged point of every member.
        on_result: told each member's result as soon as it is stored, or found stored.
        should_stop: asked after every step; when it says true, checkpoints are written and
            `Interrupted` raised.

    Returns:
        The results, in the same order. Of a member's `wall_s`, the time spent together counts in
        equal shares.

    Raises:
        ValueError: when the configurations cannot be stacked (`trainer.stack.why_not`), or one
            does not fit the data, its folder or itself.
        Interrupted: after `should_stop` said true.
        ReplayMismatch: when a step trained again gives another loss than the first time.
        torch.OutOfMemoryError: when the stack does not fit; train fewer at once.
        OSError: when the disk is full or not writable.
    """
    _check_together(configs, options, out_dirs)
    places = list(zip(configs, out_dirs, strict=True))
    tell = on_result or (lambda _: None)
    found = {out: run.stored_result(config, out) for config, out in places}
    left = [(config, out) for config, out in places if found[out] is None]
    for result in found.values():
        if result is not None:
            tell(result)
    if left:
        batch = _Batch(left, options, stack_name(configs), tell)
        found.update(batch.to_the_end(on_progress or (lambda _: None), should_stop))
    return [result for out in out_dirs if (result := found[out]) is not None]


def stack_name(configs: Sequence[TrainConfig]) -> str:
    """Name of a stack: how many members it has, and a digest of which, in their order."""
    joined = " ".join(config.trial_id for config in configs)
    return f"{len(configs)} members {hashlib.sha256(joined.encode()).hexdigest()[:16]}"


def choose_kernels(config: TrainConfig, device: torch.device) -> Kernels:
    """As for a run alone; but one call computes all members' products, so a call's cost is small.

    (d = 16, 32 members on Zen 5: a step of 28 ms with oneDNN, 35 with MKL.)
    """
    width = max(config.shape.d_model, kernels.ONEDNN_WIDTH)
    return kernels.choose(device, d_model=width)


def build(
    configs: Sequence[TrainConfig], data: TokenData, *, device: torch.device, chosen: Kernels
) -> list[Member]:
    """The members at step 0, each with its own order of the tokens."""
    return [
        Member(
            config,
            TokenBatches(
                data.train,
                context=config.shape.context,
                batch_sequences=config.batch_sequences,
                seed=config.seed,
                order=config.order,
            ),
            device=device,
            backend=chosen.attention,
        )
        for config in configs
    ]


class _Shares:
    """A clock of which K runs that share a process each see a K-th."""

    def __init__(self, runs: int) -> None:
        self.runs, self._seen, self._last = runs, 0.0, time.monotonic()

    def __call__(self) -> float:
        now = time.monotonic()
        self._seen += (now - self._last) / self.runs
        self._last = now
        return self._seen

    def leave(self) -> None:
        """One run fewer from now on; the last one keeps the whole clock."""
        self()
        self.runs = max(1, self.runs - 1)


class _Batch:
    """One attempt at the trials that are left."""

    def __init__(
        self,
        left: Sequence[tuple[TrainConfig, Path]],
        options: RunOptions,
        name: str,
        tell: Callable[[RunResult], None],
    ) -> None:
        self.options, self.clock, self.tell = options, _Shares(len(left)), tell
        data = TokenData.open(options.data_dir)
        for config, _ in left:
            run.check(config, data)
        torch.set_num_threads(options.threads)
        keep_freed_memory()
        device = devices.pick(options.device)
        self.chosen = choose_kernels(left[0][0], device)
        kernels.use(self.chosen)
        members = build([c for c, _ in left], data, device=device, chosen=self.chosen)
        for config, out in left:
            out.mkdir(parents=True, exist_ok=True)
            run.claim(config, out)
        environment = run.describe(options, device, self.chosen, Group())
        environment[STACK_KEY] = name
        common, rejected = _common_step(left)
        for _, out in left:
            checkpoint.forget_after(out / "checkpoints", common)
        self.active = [
            Execution(
                member.config,
                options,
                out,
                data,
                member,
                Group(),
                environment,
                self.clock(),
                clock=self.clock,
                resume_at=lambda step: step <= common,
            )
            for member, (_, out) in zip(members, left, strict=True)
        ]
        for execution, reason in ((e, rejected.get(e.out_dir)) for e in self.active):
            if reason is not None:
                execution.note(f"checkpoint passed over: {reason}")
        self.members = dict(zip((e.out_dir for e in self.active), members, strict=True))
        self.results: dict[Path, RunResult] = {}

    def to_the_end(
        self,
        on_progress: Callable[[Progress], None],
        should_stop: Callable[[], bool] | None,
    ) -> dict[Path, RunResult]:
        """Train, evaluate and store the result of every member; by folder."""
        try:
            self.conclude({e: None for e in self.active if _is_done(e)})
            while self.active:
                self.train_until_one_ends(on_progress, should_stop or (lambda: False))
        finally:
            for execution in self.active:
                execution.close()
        return self.results

    def train_until_one_ends(
        self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> None:
        """Do the steps of the present members; conclude those that end."""
        members = [self.members[e.out_dir] for e in self.active]
        stack = Stack(members, backend=self.chosen.attention)
        saved_at, every = time.monotonic(), self.options.checkpoint_every_s
        ended: dict[Execution, Diverged | None] = {}
        while not ended:
            stack.advance()
            for execution in self.active:
                try:
                    execution.count_step(on_progress)
                except Diverged as error:
                    ended[execution] = error
                else:
                    if _is_done(execution):
                        ended[execution] = None
            stop = should_stop()
            due = every > 0 and time.monotonic() - saved_at >= every
            if not (ended or stop or due):
                continue
            # Who leaves changes the others' last bits. So the others are on the disk at this step
            # before a result says that one has left; started again they train on without it.
            for execution in self.active:
                if ended.get(execution) is None:
                    try:
                        execution.save()
                    except Diverged as error:
                        ended[execution] = error
            saved_at = time.monotonic()
            if stop and len(ended) < len(self.active):
                self.conclude(ended)
                raise Interrupted(max(e.training.step for e in self.active))
        self.conclude(ended)

    def conclude(self, ended: dict[Execution, Diverged | None]) -> None:
        """Evaluate and store the members that are done or diverged; the others stay."""
        for execution, diverged in ended.items():
            # The others stand still while one is evaluated: that must not look like a stall.
            for other in self.active:
                other.expect_evaluation()
            try:
                if diverged is not None:
                    raise diverged
                result = execution.finish()
            except Diverged as error:
                result = execution.result(RunStatus.DIVERGED, message=str(error))
            execution.close()
            execution.conclude(result)
            self.results[execution.out_dir] = result
            self.active.remove(execution)
            self.clock.leave()
            self.tell(result)


def _is_done(execution: Execution) -> bool:
    return execution.training.step == execution.config.steps


def _common_step(left: Sequence[tuple[TrainConfig, Path]]) -> tuple[int, dict[Path, str]]:
    """Newest step at which every trial has a whole checkpoint, 0 for none; what was passed over."""
    folders = {out: out / "checkpoints" for _, out in left}
    shared = set.intersection(*(set(checkpoint.steps(f)) for f in folders.values()))
    rejected: dict[Path, str] = {}
    for step in sorted(shared, reverse=True):
        is_whole = True
        for config, out in left:
            try:
                checkpoint.load(folders[out], step, owner=config.trial_id)
            except checkpoint.NoGoodCheckpoint as error:
                rejected[out] = str(error)
                is_whole = False
        if is_whole:
            return step, rejected
    return 0, rejected


def _check_together(
    configs: Sequence[TrainConfig], options: RunOptions, out_dirs: Sequence[Path]
) -> None:
    if not configs or len(configs) != len(out_dirs) or len(set(out_dirs)) != len(out_dirs):
        raise ValueError(
            f"members must be one or more, each with a folder of its own; got {len(configs)} "
            f"configurations and {len(set(out_dirs))} folders"
        )
    if (reason := why_not(configs)) is not None:
        raise ValueError(f"these trials cannot be trained as one stack: {reason}; train them alone")
    if options.prefix_dir is not None:
        raise ValueError(
            "members of a stack cannot share prefixes with other runs; train them alone, or "
            "without prefix_dir"
        )
