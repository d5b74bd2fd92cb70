"""Which paths of a budget mean a folder that only its writer has."""

from __future__ import annotations

from pathlib import Path

from orchestrator.budget import Budget
from orchestrator.design_section import FileDesign
from orchestrator.errors import BadInput, Fault
from trainer.data.source import corpus_kind


def relative_paths(budget: Budget) -> list[str]:
    """Every relative path in a budget, as `key: path`."""
    data, model, training = budget.data, budget.model, budget.training
    corpora = (data.corpus,) if isinstance(data.corpus, str) else data.corpus
    local = corpora if len(corpora) > 1 or corpus_kind(corpora[0]) == "local" else ()
    named = [("data.corpus", path) for path in local]
    if data.validation is not None and not data.validation.startswith("split:"):
        named.append(("data.validation", data.validation))
    if data.tokenizer.startswith("."):
        named.append(("data.tokenizer", data.tokenizer))
    if isinstance(training.recipe, str):
        named.append(("training.recipe", training.recipe))
    if isinstance(model.config, str):
        named.append(("model.config", model.config))
    if model.code_path is not None:
        named.append(("model.code_path", model.code_path))
    if isinstance(budget.design, FileDesign) and budget.design.path is not None:
        named.append(("design.path", budget.design.path))
    return [f"{key}: {path}" for key, path in named if not Path(path).expanduser().is_absolute()]


def base_of(budget: Budget, base: str | None) -> Path:
    """The folder that a budget's relative paths are taken from, on this machine.

    Args:
        budget: what was handed in.
        base: the folder that its sender named.

    Raises:
        BadInput: when it has relative paths, and the folder is not named or not here.
    """
    relative = relative_paths(budget)
    if base is not None and Path(base).is_absolute() and Path(base).is_dir():
        return Path(base)
    if not relative:
        return Path("/")
    found = "no folder was named" if base is None else f"there is no folder {base} on this machine"
    raise BadInput(
        Fault(
            code="SWP-6007",
            rule=f"the service reads files of its own machine, and {found} that these relative "
            "paths could be taken from",
            place="; ".join(relative),
            remedy="copy the files to the service's machine and write their absolute paths there",
        )
    )
