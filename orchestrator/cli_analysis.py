"""The verbs on measurements: fit, report, plot, predict, compare."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.errors import BadInput, Exit, Fault
from orchestrator.terminal import (
    AsJson,
    Mapping,
    Measured,
    Outputs,
    SweepName,
    find_sweep,
    out,
    parse_mapping,
    print_json,
)
from orchestrator.units import parse_count, parse_flops

if TYPE_CHECKING:
    from analysis.priors import Prior


class Format(StrEnum):
    """Formats of a report, by their keys in `analysis.report.folder.FORMATS`."""

    HTML = "html"
    PDF = "pdf"
    MARKDOWN = "md"
    NOTEBOOK = "ipynb"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    LATEX = "tex"
    BIBTEX = "bib"


def register(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    for verb in (fit, report, plot, predict, compare):
        app.command()(verb)


def fit(
    sweep: Annotated[
        str | None, typer.Argument(help="A sweep's name, folder or budget file; or a table.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="Any CSV or parquet of params, tokens, loss.")
    ] = None,
    mapping: Mapping = None,
    target_flops: Annotated[
        str | None,
        typer.Option(
            "--target-flops", "--target", help="Compute that the ratio is wanted at, e.g. 1e21."
        ),
    ] = None,
    convention: Annotated[
        str, typer.Option(help="Which parameters are N: matmul, total, body, active.")
    ] = "matmul",
    huber_delta: Annotated[
        float | None,
        typer.Option(help="Width of the Huber objective in ln loss; default: from the residuals."),
    ] = None,
    law: Annotated[
        str | None,
        typer.Option(
            help="What must answer: chinchilla, skaling, tied, pinned, isoflop; or a law with "
            "columns of its own: data_constrained, batch_steps, schedule, moe_experts, "
            "moe_granularity, moe_sparsity, overtraining, kaplan, farseer."
        ),
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option(help="top: also forecast the dearest level from the rest, and score it."),
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="What is known beforehand, e.g. alpha=0.34+-0.05 (or beta, E); off by default."
        ),
    ] = None,
    report_dir: Annotated[
        Path | None, typer.Option("--report", help="Also write a report into this folder.")
    ] = None,
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Fit the scaling law to a sweep, or to any table."""
    from orchestrator.fitting import fit_any_table, fit_sweep, fit_with_family
    from orchestrator.measurements import is_table

    if (table is None) == (sweep is None):
        raise BadInput(
            Fault(
                code="SWP-1303",
                rule="`sweep fit` needs a sweep or --table FILE, one of them",
                remedy="sweep fit quickstart, or: sweep fit --table losses.csv",
            )
        )
    _check_choices(law, holdout)
    if sweep is not None and is_table(sweep):
        table, sweep = Path(sweep), None
    if law is not None and _is_family(law):
        _check_plain(law, {"--holdout": holdout, "--prior": prior, "--report": report_dir})
        if sweep is not None:
            _check_only_for_tables(mapping, convention, report_dir)
        result = fit_with_family(
            find_sweep(sweep, outputs) if sweep is not None else table,  # type: ignore[arg-type]
            law,
            mapping=parse_mapping(mapping or []),
            target_flops=_flops(target_flops, "--target-flops"),
            convention=convention,
            huber_delta=huber_delta,
        )
    elif sweep is not None:
        _check_only_for_tables(mapping, convention, report_dir)
        result = fit_sweep(
            find_sweep(sweep, outputs),
            target_flops=_flops(target_flops, "--target-flops"),
            huber_delta=huber_delta,
            law=law,
            holdout=bool(holdout),
            priors=_priors(prior),
        )
    else:
        assert table is not None
        result = fit_any_table(
            table,
            mapping=parse_mapping(mapping or []),
            target_flops=_flops(target_flops, "--target-flops"),
            convention=convention,
            huber_delta=huber_delta,
            law=law,
            holdout=bool(holdout),
            priors=_priors(prior),
            report_dir=report_dir,
        )
    if as_json:
        print_json(result)
    elif law is not None and _is_family(law):
        from orchestrator.views import print_family_fit

        print_family_fit(out, result, law)
    else:
        from orchestrator.views import print_fit

        print_fit(out, result)
        if "holdout" in result:
            out.print(f"  {result['holdout']['message']}", markup=False, soft_wrap=True)
    refused = result["status"] == "not_identified"
    raise typer.Exit(int(Exit.WITH_FAILURES if refused else Exit.COMPLETE))


def report(
    sweep: Measured,
    folder: Annotated[
        Path | None,
        typer.Option("--out", help="Of a table: the folder to write; default: NAME-report."),
    ] = None,
    wanted: Annotated[
        Format, typer.Option("--format", help="Print the path of this one; all are written.")
    ] = Format.HTML,
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Write a sweep's report again from its journal, or the report of a table."""
    from analysis.report.folder import FORMATS
    from orchestrator.fitting import report_sweep, report_table

    source = _find(sweep, outputs)
    if source.is_dir():
        path = report_sweep(source)
    else:
        path = report_table(source, folder or source.with_name(f"{source.stem}-report"))
    files = {name: str(path.with_name(file)) for name, file in FORMATS.items()}
    if as_json:
        print_json({"schema": "sweep.report/1", "report": str(path), "files": files})
    else:
        out.print(files[wanted.value], markup=False, soft_wrap=True)


def plot(sweep: SweepName, outputs: Outputs = Path("outputs"), as_json: AsJson = False) -> None:
    """Draw a sweep's figures again and list them."""
    from orchestrator.fitting import report_sweep

    folder = report_sweep(find_sweep(sweep, outputs)).parent / "figures"
    figures = sorted(str(path) for path in folder.iterdir() if path.suffix in (".png", ".svg"))
    if as_json:
        print_json({"schema": "sweep.plot/1", "figures": figures})
    else:
        for path in figures:
            out.print(path, soft_wrap=True)


def predict(
    sweep: Measured,
    flops: Annotated[str | None, typer.Option(help="Compute of the run, e.g. 1e21.")] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(help="Hours of one device, by its measured or given speed.")
    ] = None,
    params: Annotated[str | None, typer.Option(help="Its parameters N, e.g. 50M.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Its tokens D, e.g. 1B.")] = None,
    loss: Annotated[
        float | None, typer.Option(help="A loss to reach, in the unit of the runs.")
    ] = None,
    device_flops: Annotated[
        float | None, typer.Option(help="Peak FLOPs per second of one device, e.g. 989e12.")
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the peak that training reaches, e.g. 0.4.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Also write the run as a file for `python -m trainer`."),
    ] = None,
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Predict a run that was not made: its optimum, its loss, or the compute it takes."""
    from orchestrator.forecast import Question
    from orchestrator.forecast import predict as forecast
    from orchestrator.measurements import read_measurements
    from orchestrator.ready_run import ready_run, write_config
    from orchestrator.views import prediction_lines, ready_lines

    runs = read_measurements(_find(sweep, outputs))
    question = Question(
        flops=_flops(flops, "--flops"),
        gpu_hours=_positive(gpu_hours, "--gpu-hours"),
        params=_count(params, "--params"),
        tokens=_count(tokens, "--tokens"),
        loss=loss,
        device_flops=_positive(device_flops, "--device-flops"),
        mfu=_positive(mfu, "--mfu"),
    )
    record = forecast(runs, question)
    lines = prediction_lines(record)
    if config is not None:
        ready = ready_run(runs, record)
        write_config(ready, config)
        record |= {"config": str(config), "remarks": list(ready.remarks)}
        lines += ready_lines(ready.trial, config, ready.data_dir, ready.remarks)
    if as_json:
        print_json(record)
        return
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def compare(
    first: Measured,
    second: Annotated[str, typer.Argument(help="Another sweep or table.", metavar="OTHER")],
    outputs: Outputs = Path("outputs"),
    as_json: AsJson = False,
) -> None:
    """Compare two sweeps or tables at equal compute: which reaches the lower loss, by how much."""
    from orchestrator.forecast import compare as compare_runs
    from orchestrator.measurements import read_measurements
    from orchestrator.views import comparison_lines

    record = compare_runs(*(read_measurements(_find(name, outputs)) for name in (first, second)))
    if as_json:
        print_json(record)
        return
    for line in comparison_lines(record, first, second):
        out.print(line, markup=False, soft_wrap=True)


def _find(name: str, outputs: Path) -> Path:
    """A sweep's folder, or a table file as it is named."""
    from orchestrator.measurements import is_table

    return Path(name) if is_table(name) else find_sweep(name, outputs)


def _check_only_for_tables(
    mapping: list[str] | None, convention: str, report_dir: Path | None
) -> None:
    """A sweep knows its columns, reports every convention, and has a report."""
    given = {
        "--map": bool(mapping),
        "--convention": convention != "matmul",
        "--report": report_dir is not None,
    }
    for option, is_given in given.items():
        if is_given:
            raise BadInput(
                Fault(
                    code="SWP-1343",
                    rule=f"{option} is for tables; a sweep's columns, conventions and report are "
                    "its own",
                    place=option,
                    remedy="leave it out, or fit the sweep's table: "
                    "sweep fit --table outputs/NAME/losses.csv",
                )
            )


def _check_choices(law: str | None, holdout: str | None) -> None:
    from analysis.families import FAMILIES
    from analysis.study import HEADLINES

    if law is not None and law not in (*HEADLINES, *FAMILIES):
        raise BadInput(
            Fault(
                code="SWP-1330",
                rule=f"a law is one of {', '.join((*HEADLINES, *FAMILIES))}",
                place=f"--law {law}",
                remedy="for example --law skaling",
            )
        )
    if holdout not in (None, "top"):
        raise BadInput(
            Fault(
                code="SWP-1331",
                rule="what can be held out is the dearest level: top",
                place=f"--holdout {holdout}",
                remedy="--holdout top",
            )
        )


def _is_family(law: str) -> bool:
    from analysis.families import FAMILIES

    return law in FAMILIES


def _check_plain(law: str, given: dict[str, object]) -> None:
    """A law over columns of its own has neither hold-out of a level, priors nor report."""
    for option, value in given.items():
        if value:
            raise BadInput(
                Fault(
                    code="SWP-1333",
                    rule=f"{option} is for the laws of N and D alone",
                    place=f"{option}, --law {law}",
                    remedy="leave it out, or ask for chinchilla, skaling, tied or pinned",
                )
            )


def _priors(texts: list[str] | None) -> tuple[Prior, ...]:
    from analysis.priors import parse_prior

    try:
        given = tuple(map(parse_prior, texts or []))
        if len({p.parameter for p in given}) < len(given):
            raise ValueError("each parameter takes one prior")
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1332",
                rule=str(error),
                place=f"--prior {' --prior '.join(texts or [])}",
                remedy="for example --prior alpha=0.34+-0.05",
            )
        ) from None
    return given


def _flops(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        value = parse_flops(text)
        if value <= 0:
            raise ValueError(f"must be greater than 0, got {value:g}")
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1307",
                rule=f"a target must be an amount of compute: {error}",
                place=f"{option} {text}",
                remedy=f"for example {option} 1e21",
            )
        ) from None
    return value


def _count(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    try:
        value = parse_count(text)
        if value <= 0:
            raise ValueError(f"must be greater than 0, got {value:g}")
    except ValueError as error:
        raise BadInput(
            Fault(
                code="SWP-1314",
                rule=f"a size is a positive count: {error}",
                place=f"{option} {text}",
                remedy="for example 50M, 1.5B or 1e9",
            )
        ) from None
    return value


def _positive(value: float | None, option: str) -> float | None:
    if value is None or 0 < value < math.inf:
        return value
    raise BadInput(
        Fault(
            code="SWP-1314",
            rule="a quantity is positive and finite",
            place=f"{option} {value:g}",
            remedy=f"for example {option} 0.4"
            if option == "--mfu"
            else f"for example {option} 1000",
        )
    )
