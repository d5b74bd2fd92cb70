"""One trial from its configuration to its result, through any number of kills.

out_dir/config.json      what is trained
out_dir/metrics.jsonl    one line per logged point; written once
out_dir/attempts.json    what it has cost so far
out_dir/pulse.json       where it is, and how long it may be silent
out_dir/checkpoints/     the newest two, each with its digest
out_dir/samples.txt, predictions.json, logits.json   what the trained model says
out_dir/result.json      the result; the trial is over once it is there
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainer import device as devices
from trainer import kernels, parallel
from trainer.batches import TokenBatches
from trainer.config import Kernels, RunOptions, TrainConfig
from trainer.data.shards import TokenData
from trainer.durable import write_atomically
from trainer.evaluate import held_out_sequences
from trainer.execution import Execution, is_evaluation_step, kept_steps
from trainer.footprint import largest_micro_batch
from trainer.loop import Diverged, Training
from trainer.memory import keep_freed_memory
from trainer.metrics import ReplayMismatch, log_steps
from trainer.parallel import Group
from trainer.result import Interrupted, Progress, RunResult
from trainer.schedule import check_schedule

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
    stored = stored_result(config, out_dir)
    if stored is not None:
        return stored
    started = time.monotonic()
    data = TokenData.open(options.data_dir)
    check(config, data)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = devices.pick(options.device)
    devices.forget_peak(device)
    with parallel.group(device) as group:
        if config.batch_sequences % group.size:
            raise ValueError(
                f"batch_sequences must be a multiple of the {group.size} processes, got "
                f"{config.batch_sequences}"
            )
        chosen = kernels.settle(options.kernels, device, d_model=config.shape.d_model)
        kernels.use(chosen)
        training = _start(config, options, data, device=device, chosen=chosen, group=group)
        if not group.leads:
            return _follow(training, config, options, out_dir, group)
        out_dir.mkdir(parents=True, exist_ok=True)
        claim(config, out_dir)
        environment = describe(options, device, chosen, group)
        if training.micro_batch < config.batch_sequences // group.size:
            environment["micro_batch"] = str(training.micro_batch)
        run = Execution(config, options, out_dir, data, training, group, environment, started)
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
        order=config.order,
    )
    sequences = config.batch_sequences // group.size
    micro_batch = options.micro_batch_sequences or largest_micro_batch(
        config.shape,
        sequences=sequences,
        memory_bytes=options.memory_share * devices.memory_bytes(device),
    )
    return Training(
        config,
        batches,
        device=device,
        backend=chosen.attention,
        compiled=chosen.compiled,
        micro_batch_sequences=min(micro_batch, sequences),
        group=group,
    )


def _follow(
    training: Training, config: TrainConfig, options: RunOptions, out_dir: Path, group: Group
) -> RunResult:
    """Train in step with the leading process, which alone writes files."""
    state = group.from_leader(None)
    if state is not None:
        training.restore(state)
    watched = log_steps(config.steps, options.log_points) | kept_steps(config, options)
    try:
        while training.step < config.steps:
            training.advance()
            stop, save = group.any_of(False, False)
            evaluated = is_evaluation_step(training.step, config, options)
            # The leader reads losses here, and a divergence must stop everybody.
            if training.step in watched or stop or save or evaluated:
                training.read_losses()
            if evaluated and group.any_of(False)[0]:
                break
            if stop and training.step < config.steps:
                raise Interrupted(training.step)
    except Diverged:
        pass
    group.wait()
    return RunResult.from_json((out_dir / "result.json").read_text())


def stored_result(config: TrainConfig, out_dir: Path) -> RunResult | None:
    """The result that a trial's folder holds; None when the trial is not over."""
    path = out_dir / "result.json"
    if not path.exists():
        return None
    try:
        result = RunResult.from_json(path.read_text())
    except ValueError as error:
        _log.warning("%s is not a whole result (%s); the trial goes on", path, error)
        return None
    return result if result.trial_id == config.trial_id else None


def claim(config: TrainConfig, out_dir: Path) -> None:
    """Write the configuration into the trial's folder, or see that it is there.

    Raises:
        ValueError: when the folder belongs to another trial.
    """
    path = out_dir / "config.json"
    if not path.exists():
        write_atomically(path, config.to_json().encode())
        return
    there = TrainConfig.from_json(path.read_text()).trial_id
    if there != config.trial_id:
        raise ValueError(
            f"{out_dir} holds trial {there}, not {config.trial_id}; give each trial its own folder"
        )


def check(config: TrainConfig, data: TokenData) -> None:
    """See that a configuration fits its data and itself.

    Raises:
        ValueError: naming what does not fit.
    """
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


def describe(
    options: RunOptions, device: torch.device, chosen: Kernels, group: Group
) -> dict[str, str]:
    """What can change the last bits of a run: recorded with it, and compared when it goes on."""
    return {
        "device": devices.name_of(device),
        "threads": str(options.threads),
        "processes": str(group.size),
        **kernels.describe(chosen),
        **devices.versions(),
    }
