"""One attempt at a trial: train, log, evaluate, save and resume, and the result at the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer import attempts as bills
from trainer import checkpoint, curve, device, plateau, prefix
from trainer.attempts import Attempts
from trainer.config import RunOptions, TrainConfig
from trainer.conversions import bits_per_byte
from trainer.data.shards import TokenData
from trainer.durable import write_atomically
from trainer.evaluate import Evaluation, evaluate
from trainer.flops import training_flops_per_token
from trainer.footprint import CHECKPOINTS_KEPT
from trainer.loop import Diverged, Training
from trainer.metrics import Line, Metrics, log_steps
from trainer.observations import observe, record_first_batch
from trainer.parallel import Group
from trainer.pulse import Heart
from trainer.result import Interrupted, Progress, RunResult, RunStatus
from trainer.schedule import multiplier

_log = logging.getLogger(__name__)


def kept_steps(config: TrainConfig, options: RunOptions) -> frozenset[int]:
    """Steps whose state other runs of the trajectory will want."""
    if options.prefix_dir is None:
        return frozenset()
    return prefix.steps_to_keep(config, options.prefix_steps)


def is_evaluation_step(step: int, config: TrainConfig, options: RunOptions) -> bool:
    """Whether the held-out tokens are evaluated after a step that is not the last."""
    stopping = config.early_stopping
    every = options.evaluate_every_steps if stopping is None else stopping.every_steps
    return every > 0 and step % every == 0 and step < config.steps


class Execution:
    """One attempt at a trial."""

    def __init__(
        self,
        config: TrainConfig,
        options: RunOptions,
        out_dir: Path,
        data: TokenData,
        training: Training,
        group: Group,
        environment: dict[str, str],
        started: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        resume_at: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.config, self.options, self.out_dir, self.data = config, options, out_dir, data
        self.training, self.group, self.environment = training, group, environment
        self.started, self.clock = started, clock
        self.flops_per_token = training_flops_per_token(config.shape).total
        self.executed = 0
        self.train_s = 0.0
        self.notes: list[str] = []
        self.before = self.bill_so_far()
        self.prefix_steps = 0
        self.history: list[tuple[int, float]] = []
        self.logged = log_steps(config.steps, options.log_points)
        self.metrics = Metrics(out_dir / "metrics.jsonl")
        self.charge(sync=True)
        self.resume(resume_at)
        if self.training.step > 0:
            self.prefix_steps = self.before.prefix_steps
        self.inherit()
        self.charge(sync=True)
        if group.size > 1:
            group.from_leader(self.training.state())
        self.heart = Heart(
            out_dir, attempt=self.before.attempts + 1, patience_s=options.stalled_after_s
        )
        self.start_point()

    def to_the_end(
        self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> RunResult:
        """Train, evaluate and store the result."""
        try:
            self.train(on_progress, should_stop)
            result = self.finish()
        except Diverged as error:
            result = self.result(RunStatus.DIVERGED, message=str(error))
        finally:
            self.close()
        self.conclude(result)
        self.group.wait()
        return result

    def close(self) -> None:
        """Bring bill and metrics to the disk; nothing is logged after."""
        self.heart.close()
        self.charge(sync=True)
        self.metrics.sync()
        self.metrics.close()

    def conclude(self, result: RunResult) -> None:
        """Store the result: the trial is over."""
        write_atomically(self.out_dir / "result.json", result.to_json().encode())

    @property
    def is_over(self) -> bool:
        """Whether no step is left to do."""
        stopping = self.config.early_stopping
        return self.training.step >= self.config.steps or (
            stopping is not None
            and curve.out_of_patience(
                self.history, patience=stopping.patience, min_delta=stopping.min_delta
            )
        )

    def train(
        self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> None:
        """Do all steps that are left."""
        config, training = self.config, self.training
        kept = kept_steps(config, self.options)
        saved_at = time.monotonic()
        every = self.options.checkpoint_every_s
        if self.options.samples and training.step == 0:
            record_first_batch(training.batches.at(0), self.data, self.out_dir)
        while not self.is_over:
            training.advance()
            elapsed = time.monotonic() - saved_at
            stop, due = self.group.any_of(should_stop(), every > 0 and elapsed >= every)
            self.count_step(on_progress)
            if is_evaluation_step(training.step, config, self.options):
                self.evaluate_on_the_way()
            if training.step in kept:
                self.keep_prefix()
            if self.is_over:
                break
            if stop:
                self.save()
                raise Interrupted(training.step)
            if due:
                self.save()
                saved_at = time.monotonic()
        if self.executed:
            self.save()
        if training.halvings:
            self.note(
                f"memory did not suffice for {training.micro_batch * 2**training.halvings} "
                "sequences at once; the batch was cut into micro-batches of "
                f"{training.micro_batch}: the last bits may differ"
            )

    def start_point(self) -> None:
        """Begin the stretch of steps that the next logged point sums up."""
        self.point_at, self.point_step = self.clock(), self.training.step

    def count_step(self, on_progress: Callable[[Progress], None]) -> None:
        """Take note of the step just done, and log it where it is a point.

        Raises:
            Diverged: when a loss of the logged stretch is not finite.
        """
        self.executed += 1
        self.heart.step(self.training.step)
        if self.training.step in self.logged:
            spent = self.clock() - self.point_at
            self.train_s += spent
            steps = self.training.step - self.point_step
            self.log(steps * self.config.batch_tokens / spent, on_progress)
            self.start_point()

    def log(self, tokens_per_s: float, on_progress: Callable[[Progress], None]) -> None:
        """Record the point at the present step and tell it."""
        self.training.read_losses()
        line = self.line(self.training.step)
        line["tokens_per_s"] = tokens_per_s
        if (load := self.training.take_expert_load()) is not None:
            # Of the busiest expert over the mean one: 1 is even.
            line["router_load"] = max(load) * len(load)
            line["expert_load"] = load
        self.metrics.record(line)
        self.charge(sync=False)
        on_progress(
            Progress(
                trial_id=self.config.trial_id,
                step=self.training.step,
                steps=self.config.steps,
                tokens=line["tokens"],
                loss=line["loss"],
                tokens_per_s=tokens_per_s,
            )
        )

    def line(self, step: int) -> Line:
        """The measurements of a logged step, which may lie in a prefix that another run trained."""
        config, training = self.config, self.training
        previous = max((s for s in self.logged if s < step), default=0)
        rate = multiplier(step - 1, config.steps, config.schedule)
        return {
            **self.place(step),
            "loss": training.mean_loss(previous, step),
            "learning_rate": config.optimizer.learning_rate * rate,
            "grad_norm": training.grad_norms[step - 1],
            "tokens_per_s": None,
            "micro_batch": training.micro_batch,
        }

    def place(self, step: int) -> Line:
        """Where and when a line of the metrics was measured."""
        tokens = step * self.config.batch_tokens
        return {
            "step": step,
            "tokens": tokens,
            "flops": tokens * self.flops_per_token,
            "time": time.time(),
        }

    def evaluate_on_the_way(self) -> None:
        """Evaluate, and tell the other processes whether the run is over."""
        self.training.read_losses()
        failure = None
        try:
            self.evaluate()
        except Diverged as error:
            failure = error
        self.group.any_of(failure is not None or self.is_over)
        if failure is not None:
            raise failure

    def expect_evaluation(self) -> None:
        """Announce that no step is done for as long as an evaluation may take."""
        steps = self.config.validation_tokens / self.config.batch_tokens
        self.heart.expect(self.training.step, steps=steps)

    def evaluate(self) -> Evaluation:
        """Held-out loss of the present weights; recorded, and kept with them if it is the best."""
        config, step = self.config, self.training.step
        self.expect_evaluation()
        held_out = evaluate(
            self.training.model, self.data.validation, count=config.validation_tokens
        )
        if not math.isfinite(held_out.loss):
            raise Diverged(step, "held-out loss", held_out.loss)
        self.metrics.record(
            {
                **self.place(step),
                "validation_loss": held_out.loss,
                "validation_bpb": self.bits_per_byte(held_out.loss),
                "micro_batch": self.training.micro_batch,
            }
        )
        if not self.history or self.history[-1][0] < step:
            self.history.append((step, held_out.loss))
        if config.early_stopping is not None and self.best_step == step:
            self.save_to("best", kept=1)
        return held_out

    @property
    def best_step(self) -> int:
        """Step whose weights are the result."""
        stopping = self.config.early_stopping
        if stopping is None or not self.history:
            return self.training.step
        return curve.best(self.history, min_delta=stopping.min_delta)[0]

    def bits_per_byte(self, loss: float) -> float:
        """A held-out loss in bits per byte of the held-out text."""
        manifest = self.data.manifest
        return bits_per_byte(
            loss, tokens=manifest.validation_tokens, text_bytes=manifest.validation_bytes
        )

    def keep_prefix(self) -> None:
        """Leave the present state to longer runs of the same trajectory."""
        assert self.options.prefix_dir is not None
        state = self.training.state()
        prefix.keep(self.options.prefix_dir, self.config, state, environment=self.environment)

    def finish(self) -> RunResult:
        """Evaluate the trained model on the held-out tokens, and say what the run has shown."""
        config, training = self.config, self.training
        held_out, steps = self.evaluate(), training.step
        best_step = self.best_step
        if best_step != steps:
            training.restore_weights(self.best_state())
            held_out = evaluate(
                training.model, self.data.validation, count=config.validation_tokens
            )
        without_noise = self.train_loss_without_noise()
        repetition = None
        if self.options.samples:
            repetition = observe(training.model, self.data, self.out_dir)
        tenth = 9 * steps // 10
        train_loss = training.mean_loss(tenth, steps)
        self.note_findings(train_loss, repetition)
        return self.result(
            RunStatus.COMPLETED,
            loss=held_out.loss,
            loss_se=held_out.loss_se if math.isfinite(held_out.loss_se) else None,
            bpb=self.bits_per_byte(held_out.loss),
            train_loss=train_loss,
            train_loss_without_noise=without_noise,
            best_step=best_step,
            grad_norm=sum(training.grad_norms[tenth:]) / (steps - tenth),
            router_load=self.router_load,
            repetition=repetition,
        )

    def note_findings(self, train_loss: float, repetition: float | None) -> None:
        """Note what a reader of the result must know."""
        manifest, options = self.data.manifest, self.options
        steps = self.training.step
        found = [
            plateau.label(
                train_loss,
                uniform=manifest.uniform_entropy,
                unigram=manifest.train_unigram_entropy,
            ),
            plateau.climb(self.logged_losses()),
            plateau.degenerate(repetition),
            plateau.lopsided(self.router_load),
            *curve.findings(
                self.history, steps=steps, planned=options.planned_steps or self.config.steps
            ),
        ]
        for text in found:
            if text is not None and text not in self.before.notes:
                self.note(text)

    @property
    def router_load(self) -> float | None:
        """The latest recorded load of the busiest expert over the mean one."""
        loads = [line["router_load"] for line in self.metrics.lines if "router_load" in line]
        return loads[-1] if loads else None

    def logged_losses(self) -> list[float]:
        """Training losses of the logged points, in order."""
        return [line["loss"] for line in self.metrics.lines if "loss" in line]

    def train_loss_without_noise(self) -> float | None:
        """Loss on training tokens as evaluation computes it; None where training has no noise.

        Only that can be compared with the held-out loss: dropout alone raises the one above it.
        """
        if not self.training.is_noisy:
            return None
        count = min(self.config.validation_tokens, len(self.data.train) - 1)
        found = evaluate(self.training.model, self.data.train, count=count)
        if self.config.dropout > 0 and not any("dropout" in note for note in self.before.notes):
            self.note(
                f"dropout: logged training losses are with dropout; without it the loss is "
                f"{found.loss:.4f} on the first {found.tokens:,} training tokens"
            )
        return found.loss

    def save(self) -> None:
        """Write a checkpoint to go on from."""
        self.save_to("checkpoints", kept=CHECKPOINTS_KEPT)

    def save_to(self, folder: str, *, kept: int) -> None:
        """Write a checkpoint; the metrics up to it are on disk first."""
        self.metrics.sync()
        self.charge(sync=True)
        checkpoint.save(
            self.out_dir / folder,
            {**self.training.state(), "history": self.history},
            step=self.training.step,
            owner=self.config.trial_id,
            environment=self.environment,
            kept=kept,
        )

    def best_state(self) -> dict[str, Any]:
        """The state at the best evaluation.

        Raises:
            NoGoodCheckpoint: when its file is not whole.
        """
        owner = self.config.trial_id
        return checkpoint.load(self.out_dir / "best", self.best_step, owner=owner).state

    def resume(self, wanted: Callable[[int], bool]) -> None:
        """Go to the newest whole checkpoint at a wanted step; say so when it is not the newest."""
        try:
            loaded = checkpoint.load_newest(
                self.out_dir / "checkpoints", owner=self.config.trial_id, wanted=wanted
            )
            if loaded is not None:
                self.take_history(loaded)
        except checkpoint.NoGoodCheckpoint as error:
            self.note(f"no checkpoint is whole, training again from step 0: {error}")
            return
        if loaded is None:
            return
        for reason in loaded.rejected:
            self.note(f"checkpoint passed over: {reason}")
        if loaded.manifest.environment != self.environment:
            self.note(
                f"resumed at step {loaded.manifest.step} under {self.environment}, saved under "
                f"{loaded.manifest.environment}: the last bits may differ"
            )
        self.training.restore(loaded.state)

    def take_history(self, loaded: checkpoint.Loaded) -> None:
        """Take over the evaluations before a checkpoint; the best one's weights must be there.

        Raises:
            NoGoodCheckpoint: when they are not, and no later best will replace them.
        """
        self.history = [(step, loss) for step, loss in loaded.state.get("history", [])]
        if self.config.early_stopping is None or not self.history:
            return
        if max(checkpoint.steps(self.out_dir / "best"), default=0) <= loaded.manifest.step:
            try:
                self.best_state()
            except checkpoint.NoGoodCheckpoint:
                self.history = []
                raise

    def inherit(self) -> None:
        """Start from a stored prefix where that is further than the trial's own checkpoint."""
        if self.options.prefix_dir is None:
            return
        loaded = prefix.longest(self.options.prefix_dir, self.config, environment=self.environment)
        if loaded is None or loaded.manifest.step <= self.training.step:
            return
        self.prefix_steps += loaded.manifest.step - self.training.step
        self.training.restore(loaded.state)
        for step in sorted(self.logged):
            if step <= self.training.step:
                self.metrics.record(self.line(step))

    def note(self, text: str) -> None:
        """Announce something and keep it for the result."""
        _log.warning("trial %s: %s", self.config.trial_id, text)
        self.notes.append(text)

    def bill_so_far(self) -> Attempts:
        """What earlier attempts cost; one that a power cut destroyed begins anew, and says so."""
        path = self.out_dir / "attempts.json"
        try:
            return bills.read(path)
        except ValueError as error:
            self.note(f"the bill of earlier attempts is lost, a new one begins: {error}")
            return Attempts()

    def bill(self) -> Attempts:
        """What the trial has cost, this attempt included."""
        return Attempts(
            attempts=self.before.attempts + 1,
            steps_executed=self.before.steps_executed + self.executed,
            prefix_steps=self.prefix_steps,
            wall_s=self.before.wall_s + self.clock() - self.started,
            notes=(*self.before.notes, *self.notes),
        )

    def charge(self, *, sync: bool) -> None:
        """Write the bill."""
        bills.write(self.out_dir / "attempts.json", self.bill(), sync=sync)

    def result(
        self,
        status: RunStatus,
        *,
        message: str = "",
        loss: float | None = None,
        loss_se: float | None = None,
        bpb: float | None = None,
        train_loss: float | None = None,
        **measured: Any,
    ) -> RunResult:
        """The trial's record."""
        bill, training = self.bill(), self.training
        steps = training.step
        tokens = steps * self.config.batch_tokens
        trained = self.executed * self.config.batch_tokens
        return RunResult(
            trial_id=self.config.trial_id,
            status=status,
            message=message,
            loss=loss,
            loss_se=loss_se,
            bpb=bpb,
            train_loss=train_loss,
            tokens=tokens,
            steps=steps,
            planned_steps=self.options.planned_steps or self.config.steps,
            steps_executed=bill.steps_executed,
            prefix_steps=bill.prefix_steps,
            flops=tokens * self.flops_per_token,
            wall_s=bill.wall_s,
            tokens_per_s=trained / self.train_s if self.train_s > 0 else 0.0,
            peak_memory_bytes=device.peak_memory_bytes(self.training.device),
            device=device.name_of(self.training.device),
            devices=self.options.devices,
            threads=self.options.threads,
            attempts=bill.attempts,
            versions=self.environment,
            micro_batch_sequences=min(training.micro_batch, self.config.batch_sequences),
            micro_batch_halvings=training.halvings,
            notes=bill.notes,
            **measured,
        )
