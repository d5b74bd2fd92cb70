"""From a budget's `data:` section to token files on disk; the data room's errors as ours."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.budget import Budget, Data
from orchestrator.errors import BadInput, Fault
from trainer.data.errors import DataError
from trainer.data.facts import DataFacts, facts, require
from trainer.data.shards import OnProgress, TokenData, prepare
from trainer.data.source import DataSource

DATA_FOLDER = "data"
CODE = "SWP-2001"
"""Every fault of a corpus; its rule names which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedData:
    """Token files and what is known of them."""

    folder: Path
    """Folder of the token files."""
    facts: DataFacts
    """Counts."""
    record: dict[str, Any]
    """The manifest as plain values, for the journal."""


def source_of(budget: Budget, base: Path) -> DataSource:
    """The data source that a budget names; relative paths are taken from `base`.

    Raises:
        BadInput: for a corpus or tokenizer that cannot be.
    """
    data = budget.data
    try:
        return DataSource(
            corpus=data.corpus,
            text_column=data.text_column,
            tokenizer=data.tokenizer,
            validation=data.validation,
            validation_fraction=data.validation_fraction,
        ).resolved(base)
    except DataError as error:
        raise BadInput(fault_of(error)) from error


def facts_of(budget: Budget, base: Path, outputs: Path) -> DataFacts:
    """Counts of a budget's corpus, estimated where it was never tokenised.

    Raises:
        BadInput: when the corpus is missing, empty, too short, or overlaps its validation text.
    """
    try:
        known = facts(source_of(budget, base), cache_root=outputs / DATA_FOLDER)
        require(known, context=budget.model.context)
    except DataError as error:
        raise BadInput(fault_of(error)) from error
    return known


def prepare_data(
    budget: Budget, base: Path, outputs: Path, *, on_progress: OnProgress | None = None
) -> PreparedData:
    """Tokenise a budget's corpus, or find it tokenised.

    Raises:
        BadInput: as `facts_of`, and when a file cannot be read as text.
    """
    try:
        folder = prepare(
            source_of(budget, base), cache_root=outputs / DATA_FOLDER, on_progress=on_progress
        )
        manifest = TokenData.open(folder).manifest
        known = facts(source_of(budget, base), cache_root=outputs / DATA_FOLDER)
        require(known, context=budget.model.context)
    except DataError as error:
        raise BadInput(fault_of(error)) from error
    return PreparedData(folder=folder, facts=known, record=dataclasses.asdict(manifest))


def fault_of(error: DataError) -> Fault:
    """A data error as a fault of the budget."""
    place = f"data.{error.place}" if error.place in Data.model_fields else error.place
    return Fault(
        code=CODE, rule=f"{error.message} ({error.rule})", place=place, remedy=error.remedy
    )
