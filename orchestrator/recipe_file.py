"""`recipe.yaml`: what a search found, written for people and read back by `training.recipe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from analysis.recipe import RateRule, SizeOptimum
from orchestrator.budget import Budget
from orchestrator.errors import BadInput, Fault
from orchestrator.journal import write_atomic
from orchestrator.points import with_points
from orchestrator.training_section import Recipe
from orchestrator.units import format_count

RECIPE_FILE = "recipe.yaml"


def with_files(budget: Budget, base: Path) -> Budget:
    """The budget with everything that it names by path written in: points and recipe.

    Args:
        budget: what was asked for.
        base: folder that relative paths are taken from.

    Raises:
        BadInput: when a file is missing, unreadable or wrong.
    """
    return with_recipe(with_points(budget, base), base)


def with_recipe(budget: Budget, base: Path) -> Budget:
    """The budget with its recipe's rules in place of its own; other budgets as they are.

    Raises:
        BadInput: when the recipe is missing, unreadable or wrong.
    """
    asked = budget.training.recipe
    if asked is None:
        return budget
    recipe = read_recipe(base / asked) if isinstance(asked, str) else asked
    changes: dict[str, object] = {"learning_rate": recipe.learning_rate, "recipe": recipe}
    if recipe.batch_tokens is not None:
        if isinstance(asked, str) and "batch_tokens" in budget.training.model_fields_set:
            raise _two_batches(asked, budget.training.batch_tokens, recipe.batch_tokens)
        changes["batch_tokens"] = recipe.batch_tokens
    return budget.model_copy(update={"training": budget.training.model_copy(update=changes)})


def _two_batches(recipe: str, own: float | str, found: float | str) -> BadInput:
    return BadInput(
        Fault(
            code="SWP-1207",
            rule=f"the recipe's batch ({found}) was searched together with its rate; a budget that "
            f"uses it has no `batch_tokens` of its own, got {own}",
            place=f"training.recipe: {recipe}",
            remedy="take `batch_tokens` out of the budget, or out of the recipe",
        )
    )


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        BadInput: when it is missing, unreadable or wrong.
    """
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        problem = f"is not UTF-8 YAML: {error}"
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        problem = f"is wrong at `{where}`: {first['msg'].removeprefix('Value error, ')}"
    raise BadInput(
        Fault(
            code="SWP-1207",
            rule=f"the recipe must be one that `sweep tune` wrote; it {problem}",
            place=f"training.recipe: {path}",
            remedy="run `sweep tune` again, or write learning_rate, batch_tokens and origin in it",
        )
    )


def write_recipe(
    path: Path, *, name: str, rule: RateRule, optima: Sequence[SizeOptimum], runs: int
) -> Recipe:
    """Write what a search found.

    Args:
        path: file to write.
        name: the sweep it was searched for.
        rule: the rule.
        optima: the best rate of each size.
        runs: how many runs it rests on.

    Returns:
        What was written.
    """
    at = " and ".join(
        f"{best.learning_rate:.3g} at N = {format_count(best.params)}" for best in optima
    )
    batch = rule.batch_text
    recipe = Recipe(
        learning_rate=rule.learning_rate_text,
        batch_tokens=batch,
        origin=f"sweep tune {name}: {runs} runs, best {at}",
    )
    record = recipe.model_dump(mode="json", exclude_none=True)
    head = "# Found by `sweep tune`. Use it with `training: {recipe: <this file>}` in a budget.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, head + yaml.safe_dump(record, sort_keys=False, width=1000))
    return recipe
