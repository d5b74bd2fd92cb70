"""One trial from its configuration to its result, through any number of kills.

out_dir/config.json      what is trained
out_dir/metrics.jsonl    one line per logged point; written once
out_dir/attempts.json    what it has cost so far
out_dir/checkpoints/     the newest two, each with its digest
out_dir/samples.txt, predictions.json, logits.json   what the trained model says
out_dir/result.json      the result; the trial is over once it is there
"""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from trainer import attempts as bills
from trainer import checkpoint, kernels, parallel, plateau, prefix
from trainer.attempts import Attempts
from trainer.batches import TokenBatches
from trainer.config import TRAINER_VERSION, RunOptions, TrainConfig
from trainer.conversions import bits_per_byte
from trainer.data.shards import TokenData
from trainer.durable import write_atomically
from trainer.evaluate import evaluate, held_out_sequences
from trainer.flops import training_flops_per_token
from trainer.kernels import Kernels
from trainer.loop import Diverged, Training
from trainer.memory import keep_freed_memory, peak_resident_bytes
from trainer.metrics import Line, Metrics, ReplayMismatch
from trainer.observations import observe
from trainer.parallel import Group
from trainer.result import Interrupted, Progress, RunResult, RunStatus
from trainer.schedule import check_schedule, multiplier

__all__ = ["Interrupted", "Progress", "ReplayMismatch", "run_trial"]

_log = logging.getLogger(__name__)


def run_trial(
    config: TrainConfig,
    options: RunOptions,
    out_dir: Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RunResult:
    """Train one trial, or go on with it, or return the result that is already there.

    On the same device, thread count and library versions the result does not depend on where the
    trial was interrupted, bit for bit.

    Args:
        config: what to train.
        options: where and how.
        out_dir: the trial's folder; created when missing.
        on_progress: called at every logged point.
        should_stop: asked after every step, so it must be cheap; when it says true, a checkpoint
            is written and `Interrupted` raised.

    Returns:
        The result; its status is DIVERGED when a loss became non-finite.

    Raises:
        ValueError: when the configuration does not fit the data, the folder or itself.
        Interrupted: after `should_stop` said true.
        ReplayMismatch: when a step trained again gives another loss than the first time.
        OSError: when the disk is full or not writable.
    """
    stored = _stored_result(config, out_dir)
    if stored is not None:
        return stored
    started = time.monotonic()
    data = TokenData.open(options.data_dir)
    _check(config, data)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = _device(options.device)
    with parallel.group(device) as group:
        if config.batch_sequences % group.size:
            raise ValueError(
                f"batch_sequences must be a multiple of the {group.size} processes, got "
                f"{config.batch_sequences}"
            )
        chosen = kernels.choose(device, d_model=config.shape.d_model)
        kernels.use(chosen)
        training = _start(config, options, data, device=device, chosen=chosen, group=group)
        if not group.leads:
            return _follow(training, config, options, out_dir, group)
        out_dir.mkdir(parents=True, exist_ok=True)
        _claim(config, out_dir)
        environment = _environment(options, device, chosen, group)
        run = _Run(config, options, out_dir, data, training, group, environment, started)
        return run.to_the_end(on_progress or (lambda _: None), should_stop or (lambda: False))


def _start(
    config: TrainConfig,
    options: RunOptions,
    data: TokenData,
    *,
    device: torch.device,
    chosen: Kernels,
    group: Group,
) -> Training:
    batches = TokenBatches(
        data.train,
        context=config.shape.context,
        batch_sequences=config.batch_sequences,
        seed=config.seed,
    )
    return Training(
        config,
        batches,
        device=device,
        backend=chosen.attention,
        micro_batch_sequences=options.micro_batch_sequences,
        group=group,
    )


def _follow(
    training: Training, config: TrainConfig, options: RunOptions, out_dir: Path, group: Group
) -> RunResult:
    """Train in step with the leading process, which alone writes files."""
    state = group.from_leader(None)
    if state is not None:
        training.restore(state)
    watched = log_steps(config.steps, options.log_points) | _kept_steps(config, options)
    try:
        while training.step < config.steps:
            training.advance()
            stop, save = group.any_of(False, False)
            # The leader reads losses here, and a divergence must stop everybody.
            if training.step in watched or stop or save:
                training.read_losses()
            if stop and training.step < config.steps:
                raise Interrupted(training.step)
    except Diverged:
        pass
    group.wait()
    return RunResult.from_json((out_dir / "result.json").read_text())


def _kept_steps(config: TrainConfig, options: RunOptions) -> frozenset[int]:
    if options.prefix_dir is None:
        return frozenset()
    return prefix.steps_to_keep(config, options.prefix_steps)


def log_steps(steps: int, points: int) -> frozenset[int]:
    """Steps after which a line is logged: about `points`, evenly spaced, always the last."""
    points = max(1, min(points, steps))
    return frozenset(math.ceil(i * steps / points) for i in range(1, points + 1))


class _Run:
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
    ) -> None:
        self.config, self.options, self.out_dir, self.data = config, options, out_dir, data
        self.training, self.group, self.environment = training, group, environment
        self.started = started
        self.flops_per_token = training_flops_per_token(config.shape).total
        self.before = bills.read(out_dir / "attempts.json")
        self.executed = 0
        self.train_s = 0.0
        self.notes: list[str] = []
        self.prefix_steps = 0
        self.logged = log_steps(config.steps, options.log_points)
        self.metrics = Metrics(out_dir / "metrics.jsonl")
        self.charge(sync=True)
        self.resume()
        if self.training.step > 0:
            self.prefix_steps = self.before.prefix_steps
        self.inherit()
        self.charge(sync=True)
        if group.size > 1:
            group.from_leader(self.training.state())

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
            self.charge(sync=True)
            self.metrics.sync()
            self.metrics.close()
        write_atomically(self.out_dir / "result.json", result.to_json().encode())
        self.group.wait()
        return result

    def train(
        self, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> None:
        """Do all steps that are left."""
        config, training = self.config, self.training
        kept = _kept_steps(config, self.options)
        saved_at = point_at = time.monotonic()
        point_step = training.step
        every = self.options.checkpoint_every_s
        while training.step < config.steps:
            training.advance()
            self.executed += 1
            now = time.monotonic()
            stop, due = self.group.any_of(should_stop(), every > 0 and now - saved_at >= every)
            if training.step in self.logged:
                self.train_s += now - point_at
                rate = (training.step - point_step) * config.batch_tokens / (now - point_at)
                self.log(rate, on_progress)
                point_at, point_step = time.monotonic(), training.step
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

    def log(self, tokens_per_s: float, on_progress: Callable[[Progress], None]) -> None:
        """Record the point at the present step and tell it."""
        self.training.read_losses()
        line = self.line(self.training.step)
        line["tokens_per_s"] = tokens_per_s
        if (load := self.training.take_router_load()) is not None:
            line["router_load"] = load
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

    def resume(self) -> None:
        """Go to the newest whole checkpoint; say so when it is not the newest."""
        try:
            loaded = checkpoint.load_newest(
                self.out_dir / "checkpoints", owner=self.config.trial_id
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

    def bill(self) -> Attempts:
        """What the trial has cost, this attempt included."""
        return Attempts(
            attempts=self.before.attempts + 1,
            steps_executed=self.before.steps_executed + self.executed,
            prefix_steps=self.prefix_steps,
            wall_s=self.before.wall_s + time.monotonic() - self.started,
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
            peak_memory_bytes=_peak_memory_bytes(self.training.device),
            device=_device_name(self.training.device),
            threads=self.options.threads,
            attempts=bill.attempts,
            versions=self.environment,
            notes=bill.notes,
        )


def _stored_result(config: TrainConfig, out_dir: Path) -> RunResult | None:
    path = out_dir / "result.json"
    if not path.exists():
        return None
    try:
        result = RunResult.from_json(path.read_text())
    except ValueError as error:
        _log.warning("%s is not a whole result (%s); the trial goes on", path, error)
        return None
    return result if result.trial_id == config.trial_id else None


def _claim(config: TrainConfig, out_dir: Path) -> None:
    path = out_dir / "config.json"
    if not path.exists():
        write_atomically(path, config.to_json().encode())
        return
    there = TrainConfig.from_json(path.read_text()).trial_id
    if there != config.trial_id:
        raise ValueError(
            f"{out_dir} holds trial {there}, not {config.trial_id}; give each trial its own folder"
        )


def _check(config: TrainConfig, data: TokenData) -> None:
    manifest = data.manifest
    if config.data_digest != manifest.digest:
        raise ValueError(
            f"the trial was planned for data {config.data_digest}, the folder holds "
            f"{manifest.digest}; prepare the same data again or plan again"
        )
    if config.shape.vocab_size < manifest.vocab_size:
        raise ValueError(
            f"vocab_size must be at least the tokenizer's {manifest.vocab_size}, got "
            f"{config.shape.vocab_size}"
        )
    if config.steps < 1 or config.batch_sequences < 1:
        raise ValueError(
            f"steps and batch_sequences must be at least 1, got {config.steps} and "
            f"{config.batch_sequences}"
        )
    check_schedule(config.steps, config.schedule)
    held_out_sequences(
        manifest.validation_tokens, count=config.validation_tokens, context=config.shape.context
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU; use cpu or auto")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def _environment(
    options: RunOptions, device: torch.device, chosen: Kernels, group: Group
) -> dict[str, str]:
    return {
        "device": _device_name(device),
        "threads": str(options.threads),
        "processes": str(group.size),
        "attention": chosen.attention,
        "products": chosen.products,
        **_versions(),
    }


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "trainer": str(TRAINER_VERSION),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()
