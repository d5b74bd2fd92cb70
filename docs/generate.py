"""Write the generated pages: budget.yaml, the commands, errors, the Python reference, notebooks.

python docs/generate.py           write the pages
python docs/generate.py --check   write nothing; exit 1 when a page is not current
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import typer

import analysis
from orchestrator.budget import json_schema
from orchestrator.cli import app
from trainer.recipe import LEARNING_RATE_RULES, batch_tokens, learning_rate

HERE = Path(__file__).resolve().parent
NOTE = "<!-- Written by docs/generate.py: change the code, then run `make docs`. -->"
_BOUNDS = (
    ("minimum", "≥ {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "≤ {}"),
    ("exclusiveMaximum", "< {}"),
)
_QUANTITIES = {
    "flops": "FLOPs > 0",
    "wall_clock": "duration with unit",
    "checkpoint_every": "duration with unit",
}
"""Keys whose unit the schema cannot say."""
_ROOMS = {
    "10": "The budget file as YAML",
    "11": "The budget file as a budget",
    "12": "A plan that cannot be",
    "13": "Options of the command",
    "20": "The corpus",
    "30": "The environment",
    "40": "A loss table, an import",
    "50": "The state of a sweep",
    "60": "The service",
    "70": "A defect of ours",
}
"""Headings of the index of errors, by the first two digits of a code."""
TRAINER = {
    "ModelShape": "trainer.shapes",
    "preset": "trainer.shapes",
    "count_parameters": "trainer.shapes",
    "training_flops_per_token": "trainer.flops",
    "TrainConfig": "trainer.config",
    "OptimizerConfig": "trainer.config",
    "ScheduleConfig": "trainer.config",
    "RunOptions": "trainer.config",
    "DataSource": "trainer.data.source",
    "prepare": "trainer.data.shards",
    "TokenData": "trainer.data.shards",
    "run_trial": "trainer.run",
    "RunResult": "trainer.result",
    "run_members": "trainer.members",
    "run_all": "trainer.stacking",
    "gain": "trainer.stacking",
}
"""Public names of the trainer and where they live: a shape, a configuration, tokens, a run."""
_WORDS = {"bool": "", "Path": "PATH", "str": "TEXT", "int": "NUMBER", "float": "NUMBER"}


def pages() -> dict[Path, str]:
    """Every generated page, and every figure of a notebook, by its path."""
    return {
        **notebook_pages(),
        HERE / "reference" / "budget.md": budget_page(json_schema()),
        HERE / "reference" / "commands.md": commands_page(typer.main.get_command(app)),
        HERE / "errors.md": errors_page(HERE / "errors"),
        **python_pages(),
    }


def _beside(name: str) -> Any:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_pages() -> dict[Path, str]:
    """The Python reference, from the docstrings of the source."""
    api = _beside("api")
    return {
        HERE / "reference" / "python-analysis.md": api.page(
            "Python: analysis",
            f"{NOTE}\n\nWhat `import analysis` offers: from any table of parameters, tokens and "
            "loss to an answer. It needs neither torch nor Ray nor MLflow. "
            "[Fit a table](../howto/fit-a-table.md#from-python) begins with it.",
            {name: f"analysis.{home}" for name, home in sorted(analysis._HOMES.items())},
        ),
        HERE / "reference" / "python-trainer.md": api.page(
            "Python: trainer",
            f"{NOTE}\n\nWhat describes and runs one training run, alone or under a sweep. "
            "[Use the trainer alone](../howto/trainer-alone.md) has a whole example.",
            TRAINER,
        ),
    }


def notebook_pages() -> dict[Path, str]:
    """Notebooks as Markdown with the outputs that they hold, and their figures."""
    notebook = _beside("notebook")
    found = {}
    for path in sorted((HERE / "notebooks").glob("*.ipynb")):
        figure = HERE / "images" / f"{path.stem}.svg"
        text, drawing = notebook.page(
            notebook.read(path), source=path.name, picture=f"../images/{figure.name}"
        )
        found |= {path.with_suffix(".md"): text, figure: drawing}
    return found


def budget_page(schema: dict[str, Any]) -> str:
    """The reference of budget.yaml.

    Args:
        schema: its JSON Schema.
    """
    definitions = schema["$defs"]
    lines = [
        "# budget.yaml",
        "",
        NOTE,
        "",
        "Every key, its form, its default and its meaning. `sweep check --schema` prints the same "
        "as JSON Schema for an editor; `sweep plan budget.yaml --show-defaults` prints your file "
        "with every default filled in.",
        "",
        "Amounts may be written as people write them: counts as `50M` or `1.5B`, compute as "
        "`1e18` or `2 EFLOP`, durations with their unit as `24h`, `90min` or `1h30m`. An unknown "
        "key, a key that stands twice and a YAML tag are errors; all faults of a file are "
        "reported at once, with line and column.",
        "",
        f"| key | form | default | meaning |\n|---|---|---|---|\n{_row('name', schema, True)}",
        "",
    ]
    for name, field in schema["properties"].items():
        kinds = _references(field)
        if not kinds:
            continue
        lines += [f"## {name}", ""]
        if len(kinds) > 1:
            lines += [_text(field["description"]), ""]
        for kind in kinds:
            section = definitions[kind]
            if len(kinds) > 1:
                lines += [f"### {name}, kind: {_kind(section)}", ""]
            lines += [_text(section["description"]), ""]
            if name in schema["required"]:
                lines += ["This section must be given.", ""]
            lines += _table(section, definitions)
    lines += _rules()
    return "\n".join(lines).rstrip() + "\n"


def _references(field: dict[str, Any]) -> list[str]:
    """Names of the definitions that a field refers to, itself or as alternatives."""
    choices = [field, *field.get("oneOf", []), *field.get("anyOf", [])]
    return [item["$ref"].rsplit("/", 1)[1] for item in choices if "$ref" in item]


def _kind(section: dict[str, Any]) -> str:
    kind = section["properties"]["kind"]
    return f"{kind['const']} (the default)" if "default" in kind else str(kind["const"])


def _table(section: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """The keys of a section, and below them those of the mappings that it lists."""
    required = section.get("required", [])
    lines = ["| key | form | default | meaning |", "|---|---|---|---|"]
    lines += [_row(key, section, key in required) for key in section["properties"]]
    lines.append("")
    for key, field in section["properties"].items():
        lists = [item for item in (field, *field.get("anyOf", [])) if item.get("type") == "array"]
        for item in lists:
            for name in _references(item["items"]):
                lines += [f"Each item of `{key}`:", "", *_table(definitions[name], definitions)]
        for name in _references(field):
            lines += [f"Keys of `{key}`:", "", *_table(definitions[name], definitions)]
    return lines


def _row(key: str, section: dict[str, Any], required: bool) -> str:
    field = section["properties"][key]
    default = "required" if required else _default(field.get("default"))
    form = _QUANTITIES.get(key) or _form(field)
    return f"| `{key}` | {form} | {default} | {_text(field.get('description', ''))} |"


def _default(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:.6g}`"
    return f"`{value}`"


def _form(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_form(item) for item in field["anyOf"] if item.get("type") != "null")
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if "$ref" in field:
        return "mapping"
    if field.get("type") == "array":
        return f"list of {_form(field['items'])}"
    word = {
        "integer": "whole number",
        "boolean": "`true`, `false`",
        "string": "text",
        "object": "mapping",
    }
    bounds = [form.format(_number(field[key])) for key, form in _BOUNDS if key in field]
    return " ".join([word.get(field["type"], field["type"]), *[", ".join(bounds)] * bool(bounds)])


def _number(value: float) -> str:
    return f"{value:,.10g}"


def _rules() -> list[str]:
    """The named rules of the recipe, in their own words."""
    size: dict[str, float] = {"params": 1e8, "tokens": 2e9, "flops": 1.2e18}
    rates = [
        (rule, learning_rate(rule, batch_tokens=1e5, **size).source.removeprefix(f"{rule}: "))
        for rule in LEARNING_RATE_RULES
    ]
    batch = batch_tokens("steplaw", context=1024, **size).source.removeprefix("steplaw: ")
    return [
        "## Named learning-rate rules",
        "",
        "A rule is evaluated at every trial's own N and D and held between the bounds that it "
        "was tried in; the plan says where it was held.",
        "",
        *[f"- `{name}`: {_text(words)}" for name, words in rates],
        "",
        f"`batch_tokens: auto` is {batch}, at most D/2000 so that a run has 2,000 steps, and at "
        "least one sequence.",
    ]


def commands_page(group: Any) -> str:
    """The reference of the commands.

    Args:
        group: the command tree.
    """
    lines = [
        "# Commands",
        "",
        NOTE,
        "",
        "`sweep VERB --help` prints the same. Results go to stdout, progress and errors to "
        "stderr. With `--json` a verb prints one JSON document, whose `schema` names its form, "
        "and nothing else on stdout. [Exit codes](exit-codes.md) are the same for every verb.",
        "",
    ]
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        lines += [f"## sweep {name}", "", _text(command.help), "", "```text"]
        lines += [" ".join(["sweep", name, *map(_usage, arguments), "[OPTIONS]"]), "```", ""]
        rows = [
            f"| {_names(item)} | {_option_default(item)} | {_text(item.help or '')} |"
            for item in (*arguments, *options)
            if "--help" not in item.opts
        ]
        if rows:
            lines += ["| argument or option | default | meaning |", "|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def errors_page(folder: Path) -> str:
    """The index of the pages about error codes.

    Args:
        folder: where `SWP-xxxx.md` lie; the first line of each is its code and rule, the paragraph
            that begins with "What to do" its remedy.
    """
    lines = [
        "# Errors and their remedies",
        "",
        NOTE,
        "",
        "Every error carries a code and ends with the page to read. It stands on stderr with its "
        "place (where there is a file: line and column, the line itself and a caret), the rule, "
        "what was found, and what to do; nothing is on stdout then, and the "
        "[exit code](reference/exit-codes.md) follows the same table for every verb.",
    ]
    room = ""
    for path in sorted(folder.glob("SWP-*.md")):
        text = path.read_text(encoding="utf-8")
        rule = text.splitlines()[0].partition(": ")[2]
        remedy = text.partition("**What to do.** ")[2].strip().replace("](../", "](")
        if path.stem[4:6] != room:
            room = path.stem[4:6]
            lines += ["", f"## {_ROOMS[room]}", "", "| code | rule | remedy |", "|---|---|---|"]
        link = f"[{path.stem}](errors/{path.name})"
        lines.append(f"| {link} | {rule} | {_text(remedy)} |")
    return "\n".join(lines) + "\n"


def _usage(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    return word if argument.required else f"[{word}]"


def _names(item: Any) -> str:
    if item.param_type_name == "argument":
        return f"`{item.metavar or item.name.upper()}`"
    words = "" if item.is_flag else " " + _word(item)
    return ", ".join(f"`{name}{words}`" for name in item.opts)


def _word(item: Any) -> str:
    annotation = getattr(item.type_descriptor, "annotation", None)
    return _WORDS.get(getattr(annotation, "__name__", ""), "TEXT")


def _option_default(item: Any) -> str:
    variable = f", or `${item.envvar}`" if item.envvar else ""
    if item.required:
        return "required"
    if item.default in (None, False, ()):
        return "–" + variable
    return f"`{item.default}`{variable}"


def _text(words: str | None) -> str:
    return " ".join((words or "").split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` compare them; returns the exit code."""
    stale = [
        path
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(HERE.parent)} is not current: run `make docs`\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
