"""The modules that other code builds: a `transformers` class, or a function of the user's."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from trainer.foreign import HF, ForeignShape

FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What code that is not ours may raise for arguments that it cannot take."""


def build_module(shape: ForeignShape) -> nn.Module:
    """Build a module, its weights drawn from torch's global generator.

    Raises:
        ValueError: when it cannot be built, or its code is not what the shape was counted with.
    """
    arguments = json.loads(shape.arguments)
    if shape.family == HF:
        return transformers_module(arguments)
    build, source = user_build(shape.family, shape.folder)
    if source != shape.source:
        raise ValueError(
            f"the code of {shape.family} must be that of the plan, with SHA-256 "
            f"{shape.source[:12]}, got {source[:12]}; plan again under another name"
        )
    return called(shape.family, build, arguments)


def transformers_module(arguments: dict[str, Any]) -> nn.Module:
    """A causal language model of `transformers` with random weights; nothing is downloaded.

    Args:
        arguments: a whole configuration, its `model_type` included.

    Raises:
        ValueError: when its class refuses it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(arguments)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    # Code that comes with a configuration is refused where it is read; here it is not looked for.
    try:
        model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except FAULTS as error:
        raise ValueError(
            f"{type(config).__name__} must describe a model that can be built: "
            f"{type(error).__name__}: {error}"
        ) from error
    return model


def user_build(family: str, folder: str) -> tuple[Callable[..., Any], str]:
    """Import `package.module:build`; this runs the module's code.

    Args:
        family: module and function, with a colon between them.
        folder: imported from there before anywhere else; empty: as Python finds it.

    Returns:
        The function, and the SHA-256 of the module's source file.

    Raises:
        ValueError: when there is no such module, function or file.
    """
    name, _, attribute = family.partition(":")
    try:
        with _importing(name, folder):
            module = importlib.import_module(name)
    except ImportError as error:
        where = f"{folder} or among the installed packages" if folder else "the installed packages"
        raise ValueError(
            f"the module {name} must be importable from {where}: {error}"
            + ("" if folder else "; a file beside the budget needs model.code_path")
        ) from error
    build = getattr(module, attribute, None)
    if not callable(build):
        found = "nothing of that name" if build is None else type(build).__name__
        raise ValueError(f"{attribute} in {name} must be a function, got {found}")
    if module.__file__ is None:
        raise ValueError(f"the module {name} must be a file, so that its source can be recorded")
    return build, hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()


def called(family: str, build: Callable[..., Any], arguments: dict[str, Any]) -> nn.Module:
    """Call the user's function.

    Raises:
        ValueError: when it does not take the arguments, or returns no module.
    """
    try:
        built = build(**arguments)
    except FAULTS as error:
        raise ValueError(
            f"{family} must build a module of the arguments {arguments}: {type(error).__name__}: "
            f"{error}"
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{family} must return a torch.nn.Module, got {type(built).__name__}")
    return built


@contextmanager
def _importing(name: str, folder: str) -> Iterator[None]:
    if not folder:
        yield
        return
    namesake = sys.modules.get(name)
    if namesake is not None and not _lies_in(namesake.__file__, folder):
        # Imported from elsewhere before, in this process, for another budget.
        del sys.modules[name]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _lies_in(file: str | None, folder: str) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(Path(folder).resolve())
