"""Train one trial, or several together: `python -m trainer CONFIG.json ... --data DIR --out DIR`.

An experiment's file (`EXPERIMENT.yaml`, see `trainer.experiment`) does as well; its corpus is
prepared under DIR, unless it lies there already. Several configurations of one shape are trained
as one stack where a short measurement says that it pays (small models); each has its folder,
named after its `trial_id`, under the output folder.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from trainer.config import RunOptions, TrainConfig
from trainer.result import Interrupted, Progress, RunStatus

EXIT_DIVERGED = 1
EXIT_USAGE = 2


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, train, print the result as JSON on stdout.

    Returns:
        0 when completed, 1 when diverged, 2 for a wrong input, 128 + n after signal n.
    """
    options = _parse(arguments)
    found = []
    for file in options.config:
        try:
            found.append(_config_and_data(file, options.data))
        except (OSError, ValueError, TypeError, KeyError) as error:
            print(f"error: {file} is not a trial's configuration: {error}", file=sys.stderr)  # noqa: T201
            return EXIT_USAGE
    configs = [config for config, _ in found]
    if len({data_dir for _, data_dir in found}) > 1:
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

    where = RunOptions(
        data_dir=found[0][1],
        device=options.device,
        threads=options.threads,
        checkpoint_every_s=options.checkpoint_every,
        log_points=options.log_points,
        samples=not options.no_samples,
    )
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
    completed = all(result.status is RunStatus.COMPLETED for result in results)
    return 0 if completed else EXIT_DIVERGED


def _config_and_data(file: Path, data: Path) -> tuple[TrainConfig, Path]:
    """What to train and the folder of its token files, from a configuration or an experiment."""
    if file.suffix not in (".yaml", ".yml"):
        return TrainConfig.from_json(file.read_text()), data
    from trainer.data.shards import TokenData, prepare
    from trainer.experiment import parse_experiment

    experiment = parse_experiment(file.read_text())
    folder = prepare(experiment.data.resolved(file.parent), cache_root=data)
    manifest = TokenData.open(folder).manifest
    config = experiment.config(data_digest=manifest.digest, vocab_size=manifest.vocab_size)
    return config, folder


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
        required=True,
        help="folder with the token files; of an experiment, the folder to prepare them under",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the trial's folder; of several, the folder of theirs",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument(
        "--checkpoint-every", type=float, default=30.0, metavar="SECONDS", help="0: only the last"
    )
    parser.add_argument("--log-points", type=int, default=200, help="lines of metrics.jsonl")
    parser.add_argument("--no-samples", action="store_true", help="no samples after training")
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
