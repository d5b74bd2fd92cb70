"""Train one trial, or several together: `python -m trainer CONFIG.json ... --data DIR --out DIR`.

An experiment's file (`EXPERIMENT.yaml`, see `trainer.experiment`) does as well; its corpus is
prepared under DIR, unless it lies there already. Several configurations of one shape are trained
as one stack where a short measurement says that it pays (small models); each has its folder,
named after its `trial_id`, under the output folder. `--describe` says what one experiment would be,
`--against` where it differs from another one.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from trainer.config import EarlyStopping, RunOptions, TrainConfig
from trainer.result import Interrupted, Progress, RunResult, RunStatus

if TYPE_CHECKING:
    from trainer.experiment import Experiment

EXIT_DIVERGED = 1
EXIT_USAGE = 2


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, train, print the result as JSON on stdout.

    Returns:
        0 when completed, 1 when diverged, 2 for a wrong input, 128 + n after signal n.
    """
    options = _parse(arguments)
    found = []
    experiments: list[Experiment | None] = []
    for file in options.config:
        try:
            experiments.append(_experiment(file, options))
            if options.describe or options.against:
                _look(experiments[-1], file, options)
            else:
                found.append(_job(file, experiments[-1], options))
        except (OSError, ValueError, TypeError, KeyError) as error:
            print(f"error: {file} is not a trial's configuration: {error}", file=sys.stderr)  # noqa: T201
            return EXIT_USAGE
    if options.describe or options.against:
        return 0
    configs, where = [config for config, _ in found], found[0][1]
    if any(run_options != where for _, run_options in found):
        print("error: several trials must train on the same corpus", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    stop = threading.Event()
    received: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        received.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    # torch is imported only now, so that --help and wrong input answer at once.
    from trainer.run import run_trial
    from trainer.stacking import run_all

    on_progress = None if options.quiet else _print_progress
    try:
        if len(configs) == 1:
            results = [
                run_trial(
                    configs[0],
                    where,
                    options.out,
                    on_progress=on_progress,
                    should_stop=stop.is_set,
                )
            ]
        else:
            results = run_all(
                configs,
                where,
                [options.out / config.trial_id for config in configs],
                options.out / "stack.json",
                on_progress=on_progress,
                should_stop=stop.is_set,
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)  # noqa: T201
        return 128 + received[0]
    texts = [result.to_json() for result in results]
    listed = ",\n".join(texts)
    print(listed if len(texts) == 1 else f"[{listed}]")  # noqa: T201
    if options.plot and len(results) == 1:
        _plot(where.data_dir, options.out)
    for experiment, result in zip(experiments, results, strict=True):
        if experiment is not None and not options.quiet:
            _compare(experiment, result)
    completed = all(result.status is RunStatus.COMPLETED for result in results)
    return 0 if completed else EXIT_DIVERGED


def _experiment(file: Path, options: argparse.Namespace) -> Experiment | None:
    """Read an experiment, changed by settings; a hypothesis is held against its base.

    None for a trial's configuration, which is neither described nor compared nor changed.
    """
    if file.suffix not in (".yaml", ".yml"):
        if options.describe or options.against or options.set:
            raise ValueError("only an experiment (a YAML file) is described, compared or changed")
        return None
    from trainer.experiment import check_variation, parse_experiment

    experiment = parse_experiment(file.read_text(), changes=dict(map(_setting, options.set)))
    if experiment.varies is not None:
        base = parse_experiment((file.parent / experiment.varies.base).read_text())
        check_variation(experiment, base)
    return experiment


def _setting(text: str) -> tuple[str, Any]:
    """Split `KEY=VALUE`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes KEY=VALUE, such as model.n_layer=1, got {text!r}")
    return key, yaml.safe_load(value)


def _job(
    file: Path, experiment: Experiment | None, options: argparse.Namespace
) -> tuple[TrainConfig, RunOptions]:
    """What to train and how."""
    config, folder = _config_and_data(file, experiment, options)
    if options.patience:
        if not options.evaluate_every:
            raise ValueError("--patience counts evaluations: give --evaluate-every STEPS too")
        stopping = EarlyStopping(every_steps=options.evaluate_every, patience=options.patience)
        config = dataclasses.replace(config, early_stopping=stopping)
    reported = None if experiment is None else experiment.reported
    planned = None if reported is None else reported.planned_steps
    return config, RunOptions(
        data_dir=folder,
        device=options.device,
        threads=options.threads,
        checkpoint_every_s=options.checkpoint_every,
        log_points=options.log_points,
        evaluate_every_steps=options.evaluate_every,
        planned_steps=planned or 0,
        samples=not options.no_samples,
    )


def _config_and_data(
    file: Path, experiment: Experiment | None, options: argparse.Namespace
) -> tuple[TrainConfig, Path]:
    """What to train and the folder of its token files, from a configuration or an experiment."""
    if options.data is None or options.out is None:
        raise ValueError("training needs --data and --out")
    if experiment is None:
        return TrainConfig.from_json(file.read_text()), options.data
    from trainer.data.shards import TokenData, prepare

    folder = prepare(experiment.data.resolved(file.parent), cache_root=options.data)
    manifest = TokenData.open(folder).manifest
    config = experiment.config(data_digest=manifest.digest, vocab_size=manifest.vocab_size)
    return config, folder


def _look(experiment: Experiment | None, file: Path, options: argparse.Namespace) -> None:
    """Print what an experiment is, or where it differs from another one."""
    assert experiment is not None
    from trainer.data.errors import DataError
    from trainer.data.facts import facts
    from trainer.description import describe
    from trainer.experiment import differences, parse_experiment

    if options.against:
        found = differences(parse_experiment(options.against.read_text()), experiment)
        for key, (before, after) in found.items():
            print(f"{key}: {before} -> {after}")  # noqa: T201
        print(f"{len(found)} differences")  # noqa: T201
        return
    unique, absent = None, ""
    try:
        source = experiment.data.resolved(file.parent)
        unique = facts(source, cache_root=options.data).train_tokens
    except DataError as error:
        absent = f"tokens       not known: {error}"
    lines = describe(experiment, unique_tokens=unique).lines()
    print("\n".join([*lines, absent] if absent else lines))  # noqa: T201


def _plot(data_dir: Path, out_dir: Path) -> None:
    from trainer.curves import plot_curves
    from trainer.data.shards import TokenData

    manifest = TokenData.open(data_dir).manifest
    levels = {"ln V": manifest.uniform_entropy, "H1": manifest.train_unigram_entropy}
    plot_curves(out_dir, levels={**levels, "H2": manifest.train_bigram_entropy})


def _compare(experiment: Experiment, result: RunResult) -> None:
    """Say on stderr what was declared or reported and what came out."""
    if experiment.target is not None and result.loss is not None:
        print(experiment.target.verdict(result.loss), file=sys.stderr)  # noqa: T201
    if experiment.reported is None:
        return
    for name, stated, found in (
        ("training", experiment.reported.train_loss, result.train_loss),
        ("held-out", experiment.reported.validation_loss, result.loss),
    ):
        if stated is not None and found is not None:
            print(f"{name} loss {found:.4f}, reported {stated:.4f}", file=sys.stderr)  # noqa: T201


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument(
        "config",
        type=Path,
        nargs="+",
        metavar="CONFIG",
        help="a TrainConfig as JSON, or an experiment (sweeps/diaries/) as YAML",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with the token files; of an experiment, the folder to prepare them under",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the trial's folder; of several, the folder of theirs",
    )
    parser.add_argument(
        "--describe", action="store_true", help="say what an experiment is, and train nothing"
    )
    parser.add_argument(
        "--against", type=Path, metavar="EXPERIMENT", help="list the differences, train nothing"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of an experiment, such as model.n_layer=1; may be repeated",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--checkpoint-every", type=float, default=30.0, metavar="SECONDS", help="0: only the last"
    )
    parser.add_argument("--log-points", type=int, default=200, help="lines of metrics.jsonl")
    parser.add_argument(
        "--evaluate-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="evaluate on the held-out tokens while training, too (default: only at the end)",
    )
    parser.add_argument(
        "--patience",
        type=int,
        default=0,
        metavar="N",
        help="stop after N evaluations without a new best; the result is that of the best",
    )
    parser.add_argument("--no-samples", action="store_true", help="no samples after training")
    parser.add_argument("--plot", action="store_true", help="draw curves.png into the folder")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    return parser.parse_args(arguments)


def _print_progress(progress: Progress) -> None:
    print(  # noqa: T201
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f}  "
        f"{progress.tokens_per_s:,.0f} tokens/s",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
