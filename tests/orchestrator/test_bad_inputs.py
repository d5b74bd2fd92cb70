"""The bad-input matrix: what a person sees for each wrong budget, corpus, table and command line.

Each row's cases are on record in `golden/inputs/`: the exit code and every line, with code,
`file:line:column`, the line itself and a caret where there is a file, the rule, what was found, the
remedy and the page. UPDATE_GOLDEN=1 writes them anew; read the difference.

| row | input | cases |
|---|---|---|
| 1 | no such file | `01-` |
| 2 | empty, or comments alone | `02-` |
| 3 | a list or a value at the top | `03-` |
| 4 | tabs as indentation | `04-` |
| 5 | bracket or quote never closed | `05-` |
| 6 | a key twice | `06-` |
| 7 | an unknown key | `07-` |
| 8 | `1e18` is a number | `08-` |
| 9 | units that are none | `09-` |
| 10 | amounts that are none | `10-` |
| 11 | a budget of 1e30 | `11-` |
| 12 | one level, two sizes | `12-` |
| 13 | one D/N everywhere | `13-` |
| 14 | `no`, `on`, `1:30`, `017` | `14-` |
| 15 | seeds that are none | `15-` |
| 16 | heads that do not divide the width, shapes and overrides unlike the family | `16-` |
| 17 | a vocabulary smaller than the tokenizer's | `17-` |
| 18 | names that are paths, pictures, novels | `18-` |
| 19 | YAML tags | `19-` |
| 20 | bombs of aliases, of bytes, of depth | `20-` |
| 21 | other encodings; a byte-order mark and CRLF are read | `21-` |
| 22 | two documents | `22-` |
| 23 | a corpus that is missing or is a folder without text | `23-` |
| 24 | a corpus that is empty or too short | `24-` |
| 25 | more tokens asked for than there are | `25-` |
| 26 | validation on training text | `26-` |
| 27 | token ids beyond the vocabulary | `test_damaged_tokens_are_refused_by_file_and_number` |
| 28 | token files of a wrong length, a damaged manifest | as 27 |
| 29 | compressed or broken files under a wrong name | `29-` |
| 30 | a table without the columns | `30-` |
| 31 | cells that are no numbers, other separators | `31-` |
| 32 | rows twice, rows that contradict each other | `32-` |
| 33 | columns in millions | `33-` |
| 34 | empty, ragged, marked, formula cells | `34-` |
| 35 | more GPUs than there are | `35-` |
| 36 | a tracking store that does not answer, with a password | `36-` |
| 37 | no sweep, a sweep of a newer release | `37-` |
| 38 | unknown verbs and options, contradictions | `38-` |
| 39 | a plan beyond its ceiling | `39-` |
| 40 | no price known | `40-` |
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from orchestrator import cli, quoting, terminal
from orchestrator.budget import parse_budget
from orchestrator.hardware import Machine
from orchestrator.tracking import store
from trainer.data.errors import DataError
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource

GOLDEN = Path(__file__).parent / "golden" / "inputs"
ROOT = Path(__file__).resolve().parents[2]
MINIMAL = "name: tiny\nbudget: {flops: 1e13}\n"
TEXT = "".join(f"line {i} of {i * i} and the rest of it\n" for i in range(9000))
SMALL = """\
name: small
budget: {flops: 8e12}
data: {corpus: a.txt, validation_tokens: 2048}
model: {context: 128}
training: {batch_tokens: 512, min_steps: 300}
design: {levels: [1e11, 3.2e11, 1.02e12], sizes: 5, span: 3, tokens_per_parameter: 150}
"""
POINTS = ", ".join(f"{{params: {n}k, tokens: {n * 100}k}}" for n in (8, 16, 32, 64, 128, 256))
GRID = [(n, d) for n in (1e6, 2e6, 4e6, 8e6) for d in (2e7, 8e7, 3e8)]
TABLE = "params,tokens,loss\n" + "".join(
    f"{n:.0f},{d:.0f},{1.7 + 400 / n**0.34 + 410 / d**0.28:.4f}\n" for n, d in GRID
)


@dataclass(frozen=True)
class Case:
    """A command and the files it meets."""

    arguments: tuple[str, ...]
    files: dict[str, str | bytes] = field(default_factory=dict)


def check(budget: str | bytes, **files: str | bytes) -> Case:
    return Case(("check", "budget.yaml"), {"budget.yaml": budget, "a.txt": TEXT, **files})


def more(line: str) -> Case:
    return check(f"{MINIMAL}{line}\n")


def fit(table: str | bytes, *options: str) -> Case:
    return Case(("fit", "--table", "t.csv", *options), {"t.csv": table})


REFUSED = {
    "01-missing": Case(("plan", "budgt.yaml"), {"budget.yaml": MINIMAL}),
    "02-empty": check(""),
    "02-comments": check("# nothing yet\n\n# still nothing\n"),
    "03-list": check("- name: tiny\n- budget: 1e13\n"),
    "03-value": check("hello\n"),
    "04-tab": check("name: tiny\nbudget:\n\tflops: 1e13\n"),
    "05-bracket": check("name: tiny\nbudget: {flops: 1e13\ndesign: {levels: 4}\n"),
    "05-quote": check('name: tiny\nbudget: {flops: "1e13}\n'),
    "06-twice": check(
        "name: tiny\nbudget: {flops: 1e13}\ndesign: {sizes: 5}\nbudget: {flops: 2}\n"
    ),
    "07-key": check("name: tiny\nbudegt: {flops: 1e13}\n"),
    "07-many": check(
        "name: a b\nbudget: {flops: -1, gpu_hours: 2}\nmodle: {}\n"
        "training: {learning_rate: steplw, warmup_fraction: 2}\n"
    ),
    "09-rate": check("name: tiny\nbudget: {flops: 1e18 FLOPS}\n"),
    "09-unit": check("name: tiny\nbudget: {flops: 1e18 jiffies}\n"),
    "09-type": check("name: tiny\nbudget: {flops: [1]}\n"),
    "10-negative": check("name: tiny\nbudget: {flops: -1e18}\n"),
    "10-zero": check("name: tiny\nbudget: {flops: 0}\n"),
    "10-nan": check("name: tiny\nbudget: {flops: .nan}\n"),
    "10-inf": check("name: tiny\nbudget: {flops: .inf}\n"),
    "12-sizes": more("design: {sizes: 2}"),
    "12-steps": check(SMALL.replace("1e11, 3.2e11, 1.02e12", "1e3, 1e4, 1e5")),
    "13-collinear": check(
        SMALL.partition("design")[0] + f"design: {{kind: file, points: [{POINTS}]}}\n"
    ),
    "13-one-ratio": more("design: {kind: grid, sizes: [1M, 4M], tokens_per_parameter: [20]}"),
    "14-no": more("training: {learning_rate: no}"),
    "14-on": more("design: {sizes: on}"),
    "14-sexagesimal": more("training: {weight_decay: 1:30}"),
    "15-fraction": more("training: {seeds: [1.5]}"),
    "15-huge": more("training: {seeds: [99999999999]}"),
    "16-heads": more("model: {shapes: [{d_model: 100, n_layer: 2, n_head: 8}]}"),
    "16-rotary": more("model: {shapes: [{d_model: 12, n_layer: 4, n_head: 4}]}"),
    "16-point": more(
        "model: {family: femto}\ndesign: {kind: file, "
        "points: [{shape: {d_model: 21, n_layer: 1, n_head: 3}, tokens: 1M}]}"
    ),
    "16-latent": more("model: {family: deepseek, position: learned}"),
    "17-vocabulary": check(
        SMALL.replace(
            "{context", "{family: hf, config: {model_type: llama, vocab_size: 9}, context"
        )
    ),
    "18-path": check("name: ../../x\nbudget: {flops: 1}\n"),
    "18-shell": check('name: "; touch x"\nbudget: {flops: 1}\n'),
    "18-option": check('name: "-rf"\nbudget: {flops: 1}\n'),
    "18-emoji": check('name: "sweep 🚀"\nbudget: {flops: 1}\n'),
    "18-long": check(f"name: {'x' * 300}\nbudget: {{flops: 1}}\n"),
    "19-tag": check('name: !!python/object/apply:os.system ["touch x"]\nbudget: {flops: 1}\n'),
    "20-aliases": check(MINIMAL + "a: &a 1\nb: [" + ",".join(["*a"] * 101) + "]\n"),
    "20-large": check(MINIMAL + "#" * 10_000_000),
    "20-deep": check(MINIMAL + "data: " + "[" * 30 + "]" * 30 + "\n"),
    "21-utf16": check(MINIMAL.encode("utf-16")),
    "21-latin1": check("name: café\n".encode("latin-1")),
    "22-two": check(MINIMAL + "---\nname: second\n"),
    "23-missing": check(SMALL.replace("a.txt", "nowhere/b.txt")),
    "23-folder": check(SMALL.replace("a.txt", "folder"), **{"folder/.hidden": ""}),
    "24-empty": check(SMALL, **{"a.txt": ""}),
    "24-short": check(SMALL, **{"a.txt": "too short\n"}),
    "24-tokenizer": check(SMALL.replace("{corpus", "{tokenizer: byt, corpus")),
    "26-same": check(SMALL.replace("{corpus", "{validation: a.txt, corpus")),
    "29-gzip": check(SMALL, **{"a.txt": b"\x1f\x8b\x08\x00" + bytes(range(200)) * 100}),
    "29-parquet": check(
        SMALL.replace("a.txt", "a.parquet"), **{"a.parquet": b"PAR1" + bytes(range(200))}
    ),
    "30-columns": fit("width,seen,final\n1,2,3\n"),
    "30-map": fit(TABLE, "--map", "params=width"),
    "31-cells": fit("params,tokens,loss\n1e6,2e7,inf\n1e6,2e7,-3\n1e6,2e7,\n1e6,4e7,abc\n"),
    "31-comma": fit('params,tokens,loss\n1e6,2e7,"2,31"\n'),
    "31-thousands": fit('params,tokens,loss\n"1,000,000",2e7,3.1\n'),
    "31-semicolons": fit("params;tokens;loss\n1e6;2e7;3,1\n"),
    "32-contradiction": fit("params,tokens,loss,seed\n1e6,2e7,3.1,0\n1e6,4e7,3,0\n1e6,2e7,3.2,0\n"),
    "33-millions": fit("params,tokens,loss\n1,2e7,3.1\n2,2e7,3.0\n4,8e7,2.9\n"),
    "33-decades": fit("params,tokens,loss\n1e6,2e7,3.1\n2e6,2,3.0\n4e6,8e9,2.9\n"),
    "34-empty": fit(""),
    "34-header": fit("params,tokens,loss\n"),
    "34-ragged": fit("params,tokens,loss\n1e6,2e7,3.1\n1e6,4e7\n1e6,4e7,3.0,9,9\n"),
    "34-formula": fit("params,tokens,loss\n=1+1,2e7,3.1\n"),
    "34-binary": fit(b"\x00\xff\xfe" * 50),
    "35-gpus": check(SMALL + "run: {gpus_per_trial: 99}\n"),
    "35-cores": check(SMALL + "run: {cpus_per_trial: 9999}\n"),
    "36-password": Case(
        ("import", "http://me:hunter2@127.0.0.1:1", "--experiment", "x", "--out", "o.csv")
    ),
    "37-none": Case(("resume", "x"), {"outputs/x/notes.txt": ""}),
    "37-newer": Case(("status", "x"), {"outputs/x/journal.jsonl": ""}),
    "38-verb": Case(("rnu", "budget.yaml"), {"budget.yaml": MINIMAL}),
    "38-both": Case(("fit", "x", "--table", "t.csv"), {"t.csv": TABLE}),
    "38-option": Case(("plan", "budget.yaml", "--set", "a.b=c"), {"budget.yaml": MINIMAL}),
    "38-missing": Case(("plan",)),
    "38-executor": Case(("run", "budget.yaml", "--executor", "slurm"), {"budget.yaml": SMALL}),
}
ACCEPTED = {
    "08-float": check(SMALL + "target: {flops: 1e18}\n"),
    "11-astronomic": check(SMALL.replace("8e12", "1e30").partition("design")[0]),
    "12-level": check(SMALL.replace("1e11, 3.2e11, 1.02e12", "1.02e12")),
    "14-octal": check(SMALL.replace("sizes: 5", "sizes: 007")),
    "21-crlf": check(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode()),
    "25-epochs": check(SMALL),
    "39-ceiling": check(SMALL.replace("8e12", "2e12")),
}
USAGE = {"38-verb", "38-option", "38-missing"}
"""Printed by the parser of the command line, which knows the nearest word and needs no code."""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a command in this process, in a folder of its own; gives exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    # What a plan warns of depends on how many trials run at a time.
    monkeypatch.setattr(quoting, "detect", lambda: Machine(cores=1, gpus=()))
    monkeypatch.setattr(store, "_ENVIRONMENT", {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(name, "100")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")

    def run(case: Case) -> tuple[int, str, str]:
        for name, content in case.files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        out, err = io.StringIO(), io.StringIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["sweep", *case.arguments])
            for console, stream in ((terminal.out, out), (terminal.err, err)):
                patch.setattr(console, "file", stream)
                patch.setattr(console, "_width", 100)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    cli.main()
                    code = 0
                except SystemExit as end:
                    code = int(end.code or 0)
        shown = err.getvalue().replace(str(tmp_path), "FOLDER")
        return code, out.getvalue(), re.sub(r" of \d+ (GPUs|CPU|cores)", r" of N \1", shown)

    return run


def on_record(name: str, case: Case, code: int, shown: str) -> None:
    """Compare what was shown with the record."""
    text = f"$ sweep {' '.join(case.arguments)}\n{shown.rstrip()}\nexit {code}\n"
    golden = GOLDEN / f"{name}.txt"
    if "UPDATE_GOLDEN" in os.environ:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_input_gets_the_error_on_record(name: str, sweep: object, tmp_path: Path) -> None:
    case = REFUSED[name]
    if name == "37-newer":
        of_a_newer_release(tmp_path / "outputs" / "x")
        case = Case(case.arguments)
    code, out, err = sweep(case)  # type: ignore[operator]
    assert out == ""
    assert "Traceback" not in err
    assert code == (3 if name == "36-password" else 5 if name == "37-newer" else 2)
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert {
        path for path in written - set(case.files) if not path.startswith("outputs/x/")
    } == set()
    if name not in USAGE:
        assert re.match(r"error\[SWP-\d{4}\]: ", err)
        assert err.count("\n  help: ") == err.count("error[SWP-")
        pages = err.rstrip().splitlines()[-1].removeprefix("read more: ").split(", ")
        assert all((ROOT / page).is_file() for page in pages)
        if case.arguments[0] == "check" and "corpus" not in err and "budget.yaml:" in err:
            assert "^" in err or "must be given" in err
    assert "hunter2" not in err
    on_record(name, case, code, err)


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_unusual_input_is_read_and_what_is_odd_about_it_is_said(
    name: str, sweep: object
) -> None:
    code, out, err = sweep(ACCEPTED[name])  # type: ignore[operator]
    assert code == 0
    on_record(name, ACCEPTED[name], code, err + out)


def of_a_newer_release(sweep_dir: Path) -> None:
    """A journal whose one event this release does not know."""
    record = {"data": {}, "kind": "sweep_dreamt", "seq": 0, "time": 0.0}
    body = json.dumps(record, sort_keys=True, separators=(",", ":"))
    sweep_dir.mkdir(parents=True)
    line = f'{{"crc":"{zlib.crc32(body.encode()):08x}",{body[1:]}\n'
    (sweep_dir / "journal.jsonl").write_text(line)


def test_every_row_of_the_matrix_has_a_case() -> None:
    rows = {int(name[:2]) for name in (*REFUSED, *ACCEPTED)} | {27, 28, 40}
    assert rows == set(range(1, 41))
    assert __doc__ is not None
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", __doc__, flags=re.MULTILINE)}
    assert listed == rows


def test_compute_is_a_number_however_it_is_written() -> None:
    for text in ("1e18", "1.0e18", "1E18", "1e+18", "'1e18'", "1 EFLOP"):
        assert parse_budget(f"name: x\nbudget: {{flops: {text}}}\n").budget.flops == 1e18


def test_equal_rows_count_once_and_are_named(sweep: object) -> None:
    copied = TABLE + TABLE.splitlines()[1] + "\n"
    _, out, err = sweep(fit(copied))  # type: ignore[operator]
    assert "1 rows repeat an earlier row exactly and are excluded" in out + err


def test_without_a_price_no_cost_is_shown(sweep: object) -> None:
    files = {"budget.yaml": SMALL, "a.txt": TEXT}
    _, out, _ = sweep(Case(("plan", "budget.yaml"), files))  # type: ignore[operator]
    assert "Level 1" in out
    assert "price" not in out
    priced = {**files, "budget.yaml": SMALL.replace("8e12}", "8e12, price_per_hour: 1000}")}
    _, out, _ = sweep(Case(("plan", "budget.yaml"), priced))  # type: ignore[operator]
    assert "1000 per" in out or "1,000" in out or "price" in out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "bytes"),
        (lambda file: file.write_bytes(b""), "bytes"),
        (lambda file: file.unlink(), "tokens"),
        (
            lambda file: np.full(file.stat().st_size // 2, 300, "<u2").tofile(file),
            "SHA-256",
        ),
    ],
    ids=["odd length", "empty", "gone", "id beyond the vocabulary"],
)
def test_damaged_tokens_are_refused_by_file_and_number(
    damage: object, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    folder = prepare(DataSource(corpus="a.txt").resolved(tmp_path), cache_root=tmp_path / "data")
    file = max(folder.glob("*.bin"), key=lambda path: path.stat().st_size)
    damage(file)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as error:
        TokenData.open(folder).verify()
    assert error.value.rule in ("tokens-damaged", "tokens-missing")
