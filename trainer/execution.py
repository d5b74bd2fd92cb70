"""One attempt at a trial: train, log, evaluate, save and resume, and the result at the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from trainer import attempts as bills
from trainer import checkpoint, device, plateau, prefix
from trainer.attempts import Attempts
from trainer.config import RunOptions, TrainConfig
from trainer.conversions import bits_per_byte
from trainer.data.shards import TokenData
from trainer.durable import write_atomically
from trainer.evaluate import evaluate
from trainer.flops import training_flops_per_token
from trainer.loop import Diverged, Training
from trainer.metrics import Line, Metrics, ReplayMismatch, log_steps
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
        while training.step < config.steps:
            training.advance()
            elapsed = time.monotonic() - saved_at
            stop, due = self.group.any_of(should_stop(), every > 0 and elapsed >= every)
            self.count_step(on_progress)
            if training.step in kept:
                self.keep_prefix()
            if training.step == config.steps:
                break
            if stop:
                self.save()
                raise Interrupted(training.step)
            if due:
                self.save()
                saved_at = time.monotonic()
        if self.executed:
            self.save()
        whole = self.options.micro_batch_sequences or config.batch_sequences
        if training.micro_batch < whole:
            self.note(
                f"memory did not suffice for {whole} sequences at once; the batch was cut into "
                f"micro-batches of {training.micro_batch}: the last bits may differ"
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
        tokens = step * config.batch_tokens
        previous = max((s for s in self.logged if s < step), default=0)
        rate = multiplier(step - 1, config.steps, config.schedule)
        clips = config.optimizer.clip_norm > 0
        return {
            "step": step,
            "tokens": tokens,
            "flops": tokens * self.flops_per_token,
            "loss": training.mean_loss(previous, step),
            "learning_rate": config.optimizer.learning_rate * rate,
            "grad_norm": training.grad_norms[step - 1] if clips else None,
            "tokens_per_s": None,
            "time": time.time(),
        }

    def keep_prefix(self) -> None:
        """Leave the present state to longer runs of the same trajectory."""
        assert self.options.prefix_dir is not None
        state = self.training.state()
        prefix.keep(self.options.prefix_dir, self.config, state, environment=self.environment)

    def finish(self) -> RunResult:
        """Evaluate the trained model on the held-out tokens."""
        config, manifest = self.config, self.data.manifest
        self.heart.expect(config.steps, steps=config.validation_tokens / config.batch_tokens)
        held_out = evaluate(
            self.training.model, self.data.validation, count=config.validation_tokens
        )
        if not math.isfinite(held_out.loss):
            raise Diverged(config.steps, "held-out loss", held_out.loss)
        bpb = bits_per_byte(
            held_out.loss,
            tokens=manifest.validation_tokens,
            text_bytes=manifest.validation_bytes,
        )
        self.record_validation(held_out.loss, bpb)
        self.note_dropout()
        if self.options.samples:
            observe(self.training.model, self.data, self.out_dir)
        train_loss = self.training.mean_loss(9 * config.steps // 10, config.steps)
        stuck = plateau.label(
            train_loss,
            uniform=manifest.uniform_entropy,
            unigram=manifest.train_unigram_entropy,
        )
        if stuck is not None and stuck not in self.before.notes:
            self.note(stuck)
        return self.result(
            RunStatus.COMPLETED,
            loss=held_out.loss,
            loss_se=held_out.loss_se if math.isfinite(held_out.loss_se) else None,
            bpb=bpb,
            train_loss=train_loss,
        )

    def note_dropout(self) -> None:
        """Say what the training loss is without dropout, where it is measured with it.

        Only that can be compared with the held-out loss: dropout alone raises the one above it.
        """
        if self.config.dropout == 0 or any("dropout" in note for note in self.before.notes):
            return
        count = min(self.config.validation_tokens, len(self.data.train) - 1)
        found = evaluate(self.training.model, self.data.train, count=count)
        self.note(
            f"dropout: logged training losses are with dropout; without it the loss is "
            f"{found.loss:.4f} on the first {found.tokens:,} training tokens"
        )

    def record_validation(self, loss: float, bpb: float) -> None:
        """Write the last line, or compare it with the one that is there."""
        earlier = [line for line in self.metrics.lines if "validation_loss" in line]
        if earlier:
            if earlier[-1]["validation_loss"] != loss:
                raise ReplayMismatch(self.config.steps, earlier[-1]["validation_loss"], loss)
            return
        self.metrics.append(
            {
                "step": self.config.steps,
                "tokens": self.config.tokens,
                "flops": self.config.tokens * self.flops_per_token,
                "validation_loss": loss,
                "validation_bpb": bpb,
                "time": time.time(),
            }
        )

    def save(self) -> None:
        """Write a checkpoint; the metrics up to it are on disk first."""
        self.metrics.sync()
        self.charge(sync=True)
        checkpoint.save(
            self.out_dir / "checkpoints",
            self.training.state(),
            step=self.training.step,
            owner=self.config.trial_id,
            environment=self.environment,
        )

    def resume(self, wanted: Callable[[int], bool]) -> None:
        """Go to the newest whole checkpoint at a wanted step; say so when it is not the newest."""
        try:
            loaded = checkpoint.load_newest(
                self.out_dir / "checkpoints", owner=self.config.trial_id, wanted=wanted
            )
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
    ) -> RunResult:
        """The trial's record."""
        bill, steps = self.bill(), self.training.step
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
            steps_executed=bill.steps_executed,
            prefix_steps=bill.prefix_steps,
            flops=tokens * self.flops_per_token,
            wall_s=bill.wall_s,
            tokens_per_s=trained / self.train_s if self.train_s > 0 else 0.0,
            peak_memory_bytes=device.peak_memory_bytes(self.training.device),
            device=device.name_of(self.training.device),
            threads=self.options.threads,
            attempts=bill.attempts,
            versions=self.environment,
            notes=bill.notes,
        )
