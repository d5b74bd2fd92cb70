"""`sweep tune`: runs at a few small sizes until their best learning rate is known, then the rule.

The search has a journal of its own in the sweep's folder. Its runs, finished and pruned, are the
only state: killed anywhere, the same command does what is left.
"""

from __future__ import annotations

import dataclasses
import signal
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.recipe import RateRule, SizeOptimum, TriedRun, rate_rule, size_optimum
from orchestrator.background import BackgroundProjection
from orchestrator.budget import changed_keys
from orchestrator.display import Display
from orchestrator.errors import Exit, Fault, StateRefused
from orchestrator.executors.base import STOP_FILE, Executor
from orchestrator.hardware import remember
from orchestrator.journal import JOURNAL, Journal, read_state
from orchestrator.opening import TUNING_FOLDER
from orchestrator.search import Space, Suggestion, Tried, suggest
from orchestrator.setting import Setting
from orchestrator.state import FINAL, EventKind, Purpose, SweepState, TrialState
from orchestrator.stopping import Stop
from orchestrator.trial import added_record
from orchestrator.trial_files import steps_executed
from orchestrator.trial_runner import TrialRunner
from orchestrator.tuning_space import LEAST_TRIALS, TunedSize, run_of, tuned_sizes

RATE_EXPONENT = 0.3
"""Where a size starts when a smaller one is known: its best rate times the ratio of sizes to this
power, between the published exponents 0.23 and 0.36."""
_PERSONAL = ("learning_rate", "batch_tokens", "recipe")
"""Keys of `training` that a search finds, and that may therefore change after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What a search was asked to do."""

    trials: int
    """Runs per size."""
    sizes: int
    """Number of sizes."""
    flops: float
    """Compute that it may charge."""
    with_batch: bool
    """Whether the batch is searched too."""
    estimated_s: float = 0.0
    """Expected duration, seconds, for whoever watches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """How a search ended."""

    exit_code: Exit
    """As the command's."""
    state: SweepState
    """The state of its journal."""
    optima: tuple[SizeOptimum, ...]
    """The best rate of every size that has a loss, ascending."""
    rule: RateRule | None
    """The rule through them; None when the search was stopped or no size has a loss."""
    trained: int
    """Runs that ended during this call."""

    @property
    def sound(self) -> bool:
        """Whether every size has its best rate inside what was tried."""
        return self.rule is not None and all(item.standing != "edge" for item in self.optima)


def tune(
    setting: Setting,
    search: Search,
    *,
    make_executor: Callable[[], Executor],
    tracker: BackgroundProjection | None,
    display: Display,
) -> Tuned:
    """Search, or go on with a search.

    Args:
        setting: of the main sweep; the search lives in a folder of its folder.
        search: what to try.
        make_executor: called only when there is something to train.
        tracker: MLflow's projection of the search, not yet started, and not ended here: its caller
            has the answer to close it with; None to do without.
        display: what listens.

    Raises:
        StateRefused: when the sweep has begun, or the search was begun with another budget or data.
        BadInput: when the money does not pay for it.
    """
    _refuse_begun(setting.sweep_dir)
    folder = setting.sweep_dir / TUNING_FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with Journal(folder) as journal:
        stop = Stop(folder / STOP_FILE)
        stop.forget_earlier()
        sizes = _open(setting, search, journal)
        runner = TrialRunner(
            _inside(setting, folder),
            journal,
            make_executor=make_executor,
            tracker=tracker,
            display=display,
            stop=stop,
        )
        if tracker is not None:
            tracker.show(journal.state)
            tracker.start()
        try:
            with runner, stop.listening():
                _train(setting, search, sizes, runner, stop)
            if stop.asked:
                journal.append(EventKind.SWEEP_INTERRUPTED, signal=stop.signal)
                code = Exit.INTERRUPTED if stop.signal == signal.SIGINT else Exit.TERMINATED
                return Tuned(
                    exit_code=code,
                    state=journal.state,
                    optima=(),
                    rule=None,
                    trained=runner.trained,
                )
            return _concluded(setting, sizes, journal, runner.trained)
        finally:
            display.close()


def runs_of(state: SweepState, size: TunedSize) -> list[TrialState]:
    """Runs of one size, in the order in which they were asked for."""
    return [t for t in state.trials.values() if t.config.shape == size.shape]


def _train(
    setting: Setting,
    search: Search,
    sizes: Sequence[TunedSize],
    runner: TrialRunner,
    stop: Stop,
) -> None:
    """Ask and train until every size has its runs, or the money is spent."""
    runner.unpaid += [t for t in runner.state.trials if not runner.state.is_final(t)]
    paid = True
    while not stop.asked:
        while paid and len(runner.in_flight) < setting.hardware.slots:
            trial_id = (
                runner.unpaid.pop(0) if runner.unpaid else _ask(setting, search, sizes, runner)
            )
            if trial_id is None:
                break
            if not runner.take_over(trial_id):
                paid = runner.dispatch(trial_id)
                if not paid:
                    runner.unpaid.insert(0, trial_id)
        if not runner.in_flight:
            if runner.unpaid:
                executed = {t: steps_executed(runner.folder(t)) for t in runner.unpaid}
                runner.append(
                    EventKind.BUDGET_SPENT, trial_ids=runner.unpaid, steps_executed=executed
                )
            return
        runner.watch()
        paid = True
    runner.watch()


def _ask(
    setting: Setting, search: Search, sizes: Sequence[TunedSize], runner: TrialRunner
) -> str | None:
    """The next run of the first size that lacks some; None when all have theirs."""
    for number, size in enumerate(sizes):
        runs = runs_of(runner.state, size)
        if len(runs) >= search.trials:
            continue
        smaller = sizes[number - 1] if number else None
        space = Space(
            centre=_centre(runner.state, size, smaller),
            centre_batch=size.centre_batch,
            batches=len(size.batches),
        )
        asked = _fresh(setting, size, space, [_tried(size, run) for run in runs], runner.state)
        trial = run_of(setting.budget, setting.data.facts, setting.hardware, size, asked)
        runner.append(
            EventKind.TRIALS_ADDED, purpose=Purpose.TUNE.value, trials=[added_record(trial)]
        )
        return trial.trial_id
    return None


def _fresh(
    setting: Setting,
    size: TunedSize,
    space: Space,
    tried: list[Tried],
    state: SweepState,
) -> Suggestion:
    """A suggestion that is no run that exists: the same run twice would teach nothing."""
    seed = setting.budget.training.seeds[0]
    for attempt in range(20):
        asked = suggest(space, tried, seed=seed + 1000 * attempt)
        trial = run_of(setting.budget, setting.data.facts, setting.hardware, size, asked)
        if trial.trial_id not in state.trials:
            return asked
    # Every suggestion is taken, as when the hard limits leave one rate: a neighbour will do.
    return Suggestion(learning_rate=asked.learning_rate * 0.9, batch=asked.batch)


def _centre(state: SweepState, size: TunedSize, smaller: TunedSize | None) -> float:
    """Where a size starts: at its own first run, or moved there from the smaller size's best."""
    own = runs_of(state, size)
    if own:
        return own[0].config.optimizer.learning_rate
    runs = runs_of(state, smaller) if smaller else []
    losses = [
        (run.result.loss, run.config.optimizer.learning_rate)
        for run in runs
        if run.result is not None and run.result.loss is not None
    ]
    if smaller is None or len(losses) < LEAST_TRIALS - 1:
        return size.learning_rate
    return min(losses)[1] * (size.params / smaller.params) ** -RATE_EXPONENT


def _tried(size: TunedSize, run: TrialState) -> Tried:
    return Tried(
        learning_rate=run.config.optimizer.learning_rate,
        batch=size.batches.index(run.config.batch_tokens),
        loss=run.result.loss if run.result else None,
        over=run.status in FINAL,
        rungs=run.rungs,
    )


def _concluded(
    setting: Setting, sizes: Sequence[TunedSize], journal: Journal, trained: int
) -> Tuned:
    state = journal.state
    found = []
    for size in sizes:
        runs = [
            TriedRun(
                learning_rate=run.config.optimizer.learning_rate,
                batch_tokens=run.config.batch_tokens,
                loss=run.result.loss if run.result else None,
            )
            for run in runs_of(state, size)
            if run.status in FINAL
        ]
        if any(run.loss is not None for run in runs):
            found.append(size_optimum(size.params, runs))
    rule = rate_rule(found) if found else None
    remember(setting.outputs, setting.hardware.throughput, state.trials.values())
    tuned = Tuned(
        exit_code=Exit.COMPLETE, state=state, optima=tuple(found), rule=rule, trained=trained
    )
    code = Exit.COMPLETE if tuned.sound and len(found) == len(sizes) else Exit.WITH_FAILURES
    if not state.finished:
        journal.append(EventKind.SWEEP_FINISHED, exit_code=int(code))
    return Tuned(
        exit_code=code, state=journal.state, optima=tuple(found), rule=rule, trained=trained
    )


def _open(setting: Setting, search: Search, journal: Journal) -> tuple[TunedSize, ...]:
    """Begin a search, or check that this is the one that was begun."""
    opened, budget, data = journal.state.opened, setting.budget, setting.data
    science = _search_science(budget.science())
    if opened is None:
        sizes = tuned_sizes(
            budget,
            data.facts,
            setting.hardware,
            setting.plan,
            sizes=search.sizes,
            trials=search.trials,
            flops=search.flops,
            with_batch=search.with_batch,
        )
        journal.append(
            EventKind.SWEEP_OPENED,
            sweep_id=uuid.uuid4().hex,
            name=f"{budget.name}/{TUNING_FOLDER}",
            base=str(setting.base),
            budget_flops=search.flops,
            target_flops=setting.plan.target_flops,
            science=science,
            data=data.record,
            sizes=[size.to_record() for size in sizes],
            search={
                "flops": search.flops,
                "estimated_s": search.estimated_s,
                "slots": setting.hardware.slots,
            },
        )
        return sizes
    if search.flops > opened["budget_flops"]:
        journal.append(EventKind.BUDGET_EXTENDED, budget_flops=search.flops)
    changes = changed_keys(opened["science"], science)
    if opened["data"]["digest"] != data.record["digest"]:
        changes.append("the tokens of data.corpus")
    if changes:
        raise StateRefused(
            Fault(
                code="SWP-5011",
                rule="a search goes on with the budget it began with; changed: "
                + "; ".join(changes),
                place=str(journal.sweep_dir),
                remedy="give the budget another `name`, or remove the folder to search again",
            )
        )
    return tuple(TunedSize.from_record(record) for record in opened["sizes"])


def _search_science(science: Mapping[str, Any]) -> dict[str, Any]:
    """What a search rests on: everything but what it finds, and what only the main sweep uses."""
    kept = {key: value for key, value in science.items() if key in ("data", "model")}
    training = {k: v for k, v in science["training"].items() if k not in _PERSONAL}
    return {**kept, "training": training}


def _refuse_begun(sweep_dir: Path) -> None:
    if (sweep_dir / JOURNAL).exists() and read_state(sweep_dir).opened is not None:
        raise StateRefused(
            Fault(
                code="SWP-5012",
                rule="a recipe is tuned before its sweep begins: a begun sweep keeps its recipe",
                place=str(sweep_dir),
                remedy="give the budget another `name`, tune that, and run it: finished trials are "
                "taken over where the recipe agrees",
            )
        )


def _inside(setting: Setting, folder: Path) -> Setting:
    # Its journal holds no measured kernels: a search that goes on computes by the rule, as before.
    return dataclasses.replace(setting, sweep_dir=folder, kernels=())
