"""Every command that README and pages show is executed, on one tiny sweep that is made once.

What is under a `<!-- run -->` comment runs in a folder of its own (`test_docs`); everything else
here, line by line, in a workplace where what the pages take for granted exists: a budget, a
finished sweep, a table. Commands that need a browser, a container engine or minutes are listed in
`INSTEAD`, with what is run in their place and why.
"""

from __future__ import annotations

import dataclasses
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from analysis.answer import fit_table
from orchestrator import cli, terminal
from orchestrator.budget import parse_budget
from orchestrator.designs.adaptive import prior_law
from orchestrator.display import SilentDisplay
from orchestrator.executors.synthetic import SyntheticExecutor, Truth
from orchestrator.outcome import Answer
from orchestrator.service import run_sweep
from orchestrator.session import RunRequest, prepare
from tests.docs.test_docs import ALL_PAGES, blocks, prose, verbs
from trainer.__main__ import main as train
from trainer.config import RunOptions
from trainer.run import run_trial

ROOT = Path(__file__).resolve().parents[2]
BUDGET = """\
name: my-sweep
budget: {flops: 4e9}
data: {corpus: "synthetic:simple", tokenizer: char, validation_tokens: 1k}
model: {context: 32}
training: {batch_tokens: 32, min_steps: 10, learning_rate: 0.003}
design: {levels: [5e7, 1.6e8, 5e8], sizes: 4, span: 3, tokens_per_parameter: 0.3}
run: {executor: inline}
checks: {diagnose: false}
tracking: {enabled: false}
"""
TRUTH = Truth(law=prior_law(5e8, 0.3), noise_sd=0.001, seed=0)
"""What the losses of the tiny sweep follow, so that there is an answer to read."""
SERVES = "serves until Ctrl-C: `make walk` opens it in a browser"
MINUTES = "trains for minutes"
JUDGES = "it judges this machine, not the page"
MODEL = "needs a model trained for real in MLflow: test_tracking.py has one"
SERVICE = "needs a service: tests/service has one"
FAR = "more than 300 times beyond the tiny sweep"
INSTEAD: dict[str, tuple[str | None, str]] = {
    ". .venv/bin/activate": (None, "these tests run in the environment already"),
    "docker build -f docker/Dockerfile -t isosweep .": (None, "no container engine"),
    "docker run --rm --init -v '$PWD/outputs:/home/sweep/outputs' isosweep run "
    "sweeps/quickstart.yaml -y": (
        "sweep run sweeps/quickstart.yaml -y",
        "no container engine; what it runs inside",
    ),
    "sweep init": ("sweep init fresh.yaml", "the workplace has a budget.yaml"),
    "sweep doctor": ("sweep doctor --help", JUDGES),
    "sweep doctor --bundle FILE.zip": ("sweep doctor --help", JUDGES),
    "sweep ui my-sweep": ("sweep ui --help", SERVES),
    "sweep ui quickstart": ("sweep ui --help", SERVES),
    "sweep ui --port 5000": ("sweep ui --help", SERVES),
    "sweep simulate budget.yaml --law skaling": (
        "sweep simulate budget.yaml --law skaling --replicates 2",
        "twenty simulated sweeps take a minute",
    ),
    "sweep extend NAME --budget +1e13": (
        "sweep extend other-sweep --budget +1e9 --later",
        MINUTES,
    ),
    "sweep serve": ("sweep serve --help", SERVES),
    "sweep serve --host 10.0.0.5 --expose": ("sweep serve --help", SERVES),
    "ssh -N -L 8765:127.0.0.1:8765 gpu-box '&'": (None, "no other machine"),
    "sweep submit budget.yaml --follow": ("sweep submit --help", SERVICE),
    "sweep submit budget.yaml --token-file gpu-box.token --follow": (
        "sweep submit --help",
        SERVICE,
    ),
    "sweep run budget.yaml --address 10.0.0.5:6379": ("sweep run --help", "needs a cluster"),
    "sweep predict quickstart --flops 1e14": ("sweep predict my-sweep --flops 2e9", FAR),
    "sweep predict my-sweep --flops 1e21": ("sweep predict my-sweep --flops 2e9", FAR),
    "sweep predict losses.csv --flops 1e21": ("sweep predict losses.csv --flops 2e9", FAR),
    "sweep predict novels-en --flops 1e13 --json": (
        "sweep predict my-sweep --flops 2e9 --json",
        FAR,
    ),
    "sweep fit --table losses.csv --target-flops 1e21": (
        "sweep fit --table losses.csv --target-flops 2e9",
        FAR,
    ),
    "sweep predict my-sweep --gpu-hours 5000": (
        "sweep predict my-sweep --gpu-hours 1 --device-flops 1e6 --mfu 0.5",
        f"{FAR}; the speed of a device is known only where a sweep ran on it",
    ),
    "sweep predict my-sweep --gpu-hours 5000 --device-flops 989e12 --mfu 0.4": (
        "sweep predict my-sweep --gpu-hours 1 --device-flops 1e6 --mfu 0.5",
        FAR,
    ),
    "sweep predict my-sweep --params 50M --tokens 1B": (
        "sweep predict my-sweep --params 20k --tokens 10k",
        FAR,
    ),
    "sweep predict my-sweep --params 50M": ("sweep predict my-sweep --params 20k", FAR),
    "sweep tune budget.yaml --flops 8e12 --sizes 3": ("sweep tune --help", MINUTES),
    "sweep fit novels-en-top --holdout top": (
        "sweep fit my-sweep --holdout top",
        "the novels' own sweep is not here: test_results.py fits its table",
    ),
    "sweep sync NAME --model": ("sweep sync --help", MODEL),
    "sweep sync quickstart --model": ("sweep sync --help", MODEL),
    "sweep run top.yaml -y": ("sweep run budget.yaml -y", MINUTES),
    "sweep tune budget.yaml": ("sweep tune --help", "sixteen runs: test_tuning.py makes them"),
    "sweep bench budget.yaml": ("sweep bench budget.yaml --seconds 0.1", "two seconds a size"),
    "python -m trainer sweeps/diaries/diary2-10.yaml --data outputs/data --out outputs/diary2-10": (
        "python -m trainer sweeps/diaries/diary2-10.yaml --describe",
        MINUTES,
    ),
    "sweep import runs.csv": (
        "sweep import losses.csv --out i.csv --unit tokens=1",
        "the table that is here",
    ),
    "sweep import wandb.csv": ("sweep import --help", "a file of W&B's: test_import.py has one"),
    "sweep import runs.jsonl": ("sweep import --help", "a file of W&B's: test_import.py has one"),
    "sweep import history.jsonl": (
        "sweep import --help",
        "a file of W&B's: test_import.py has one",
    ),
    "sweep import sqlite:///mlflow.db --experiment NAME": (
        "sweep import --help",
        "an MLflow store: test_import.py has one",
    ),
    "sweep fit --table losses.csv --map params=N": (
        "sweep fit --table losses.csv --map params_matmul=params_matmul",
        "the table that is here has our own columns",
    ),
}
STANDS_FOR = {
    "NAME": "my-sweep",
    "NAME/tuning": "my-sweep",
    "quickstart": "my-sweep",
    "novels-en": "my-sweep",
    "moe": "my-sweep",
    "dense-twin": "other-sweep",
    "sweeps/quickstart.yaml": "budget.yaml",
}
"""What a word is in the workplace; `TRIAL`, `TRIAL_ID` and `DATA_ID` are found there."""


def in_blocks(page: Path) -> list[str]:
    """Lines of the shell blocks of a page, but of those that `test_docs` runs whole."""
    shell = [b for b in blocks(page) if b.language == "sh" and not b.runs]
    lines = [line for b in shell for line in b.text.replace("\\\n", " ").splitlines()]
    return [
        line for line in (shlex.join(shlex.split(line, comments=True)) for line in lines) if line
    ]


def in_text(page: Path) -> list[str]:
    """Whole commands in running text: a verb with every argument that it needs, and more."""
    spans = re.findall(r"`(sweep [a-z]+ [^`|]+|docker build [^`]+)`", prose(page))
    return [span for span in spans if span.startswith("docker") or _is_whole(span.split())]


def _is_whole(words: list[str]) -> bool:
    command = verbs()[words[1]]
    options = {name: item for item in command.params for name in item.opts}
    if words[-1] in ("--help", "--schema"):
        return True
    arguments, rest = 0, iter(words[2:])
    for word in rest:
        if word not in options:
            arguments += 1
        elif not options[word].is_flag and next(rest, None) is None:
            return False
    needed = [p for p in command.params if p.param_type_name == "argument" and p.required]
    return len(words) > 2 and arguments >= len(needed)


PAGES = [
    page
    for page in (ROOT / "README.md", *ALL_PAGES)
    if "reference" not in page.parts and page.name != "CHANGELOG.md"
]
SHOWN = list(dict.fromkeys(c for page in PAGES for c in (*in_blocks(page), *in_text(page))))
"""Every command, once."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages take for granted."""
    place = tmp_path_factory.mktemp("workplace")
    (place / "budget.yaml").write_text(BUDGET)
    request = RunRequest(
        budget=parse_budget(BUDGET),
        text=BUDGET,
        base=place,
        outputs=place / "outputs",
        ask=False,
        quiet=True,
    )
    setting = prepare(request).setting
    outcome = run_sweep(
        setting,
        make_executor=lambda: SyntheticExecutor(TRUTH),
        tracker=None,
        display=SilentDisplay(),
        answer=Answer(resamples=50, interim=False),
    )
    assert outcome.fit is not None
    assert outcome.fit["optimum"], "the pages show what a sweep with an answer prints"
    shutil.copytree(place / "outputs/my-sweep", place / "outputs/other-sweep")
    shutil.copy(place / "outputs/my-sweep/losses.csv", place)
    (place / "sweeps").symlink_to(ROOT / "sweeps")
    (place / "tokens").symlink_to(setting.data.folder)
    # One of its trials is trained for real: its folder is shown and trained again on the pages.
    trial = next(iter(outcome.state.trials.values()))
    config = trial.config
    run_trial(
        config,
        RunOptions(data_dir=setting.data.folder, samples=False),
        setting.sweep_dir / "trials" / trial.trial_id,
    )
    for name, seed in (("config", 3), ("seed-0", 0), ("seed-1", 1), ("seed-2", 2)):
        one = dataclasses.replace(config, seed=seed)
        (place / f"{name}.json").write_text(one.to_json())
    return place


def here(command: str, workplace: Path) -> list[str]:
    """A command's words, as they are in the workplace."""
    (trained,) = workplace.glob("outputs/my-sweep/trials/*/config.json")
    (data,) = (workplace / "outputs/data").glob("*/")
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command)]
    found = (("TRIAL_ID", trained.parent.name), ("DATA_ID", data.name))
    for placeholder, value in (*found, ("TRIAL", trained.parent.name)):
        words = [word.replace(placeholder, value) for word in words]
    return words


@pytest.mark.parametrize("command", SHOWN)
def test_a_command_that_is_shown_works(
    command: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = INSTEAD.get(command, (command, ""))
    if run is None:
        return
    if run.startswith("make "):
        subprocess.run(["make", "--dry-run", *run.split()[1:]], cwd=ROOT, check=True)
        return
    words = here(run, workplace)
    printed = io.StringIO()
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("sys.argv", words)
    # The intervals that are printed are no subject here.
    monkeypatch.setitem(fit_table.__kwdefaults__, "resamples", 50)
    monkeypatch.setattr("orchestrator.outcome.RESAMPLES", 50)
    for console in (terminal.out, terminal.err):
        monkeypatch.setattr(console, "_file", printed)
    if words[:3] == ["python", "-m", "trainer"]:
        code: Any = train([*words[3:], *([] if "--describe" in words else ["--no-samples"])])
    else:
        assert words[0] == "sweep", f"no command of ours: {command}"
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
    assert code in (0, None), printed.getvalue()


def test_what_is_run_in_the_place_of_a_command_is_still_shown_somewhere() -> None:
    assert set(INSTEAD) - set(SHOWN) == set()


def test_no_command_hides_in_a_block_that_is_not_run() -> None:
    commands = re.compile(r"^(?:sweep|make|python -m|docker) ", flags=re.MULTILINE)
    for page in PAGES:
        for block in blocks(page):
            if block.language not in ("sh", "yaml", "python"):
                assert not commands.search(block.text), block.name
