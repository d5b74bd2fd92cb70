"""Counts the parameters and FLOPs of models of other code, by building them.

Parameters are those of the built module. FLOPs are counted by torch in two short forward passes:
per token they are a + b T, with a for the products with weights and b for attention over T
positions, full score matrix, so two lengths give the cost at any context. (Attention that sees a
window only is counted as if it saw everything: so `transformers` computes it with a mask.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from inspect import Parameter as Argument
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.counts import ParameterCounts
from trainer.foreign import HF, ForeignShape
from trainer.model.module import FAULTS, called, transformers_module, user_build

_SHORT, _LONG = 4, 8
"""Tokens of the two passes."""


def count_transformers(config: Mapping[str, Any], *, context: int) -> ForeignShape:
    """Count a causal language model of `transformers`.

    Args:
        config: the whole configuration (`trainer.transformers_config.whole_config`).
        context: tokens of a sequence.

    Raises:
        ValueError: when it cannot be built or computed.
    """
    arguments = dict(config)

    def make() -> nn.Module:
        module = transformers_module(arguments)
        if hasattr(module, "set_experts_implementation"):
            # The fused kernel is invisible to the counter; this one computes the chosen experts.
            choose: Any = module.set_experts_implementation
            choose("batched_mm")
        return module

    return _count(HF, arguments, make, context=context)


def count_user(
    family: str, arguments: Mapping[str, Any], *, vocab_size: int, context: int, folder: str = ""
) -> ForeignShape:
    """Count a module of the user's own.

    Args:
        family: `package.module:build`; the module's code is run.
        arguments: of `build`; `vocab_size` and `context` are added where it takes them.
        vocab_size: ids of the tokenizer.
        context: tokens of a sequence.
        folder: that the module is imported from before anywhere else.

    Raises:
        ValueError: when it cannot be imported, built or computed, or has too few logits.
    """
    build, source = user_build(family, folder)
    takes = signature(build).parameters.values()
    named = {argument.name for argument in takes if argument.kind is not Argument.VAR_KEYWORD}
    given = {"vocab_size": vocab_size, "context": context}
    whole = {**{key: value for key, value in given.items() if key in named}, **arguments}
    shape = _count(
        family,
        whole,
        lambda: called(family, build, whole),
        context=context,
        source=source,
        folder=folder,
    )
    if shape.vocab_size < vocab_size:
        raise ValueError(
            f"{family} must give a logit for each of the tokenizer's {vocab_size} ids, got "
            f"{shape.vocab_size}; let `build` take `vocab_size`"
        )
    return shape


def _count(
    family: str,
    arguments: dict[str, Any],
    make: Callable[[], nn.Module],
    *,
    context: int,
    source: str = "",
    folder: str = "",
) -> ForeignShape:
    described = arguments.get("model_type", family) if family == HF else f"{family}({arguments})"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = _computable(_without_memory(make).eval())
        flops = {}
        for length in (_SHORT, _LONG):
            flops[length], vocabulary = _forward_flops(module, length, described)
        tables, tied, counts = _parameters(module, vocabulary)
    per_token = {length: total / length for length, total in flops.items()}
    attention = max(0.0, (per_token[_LONG] - per_token[_SHORT]) / (_LONG - _SHORT))
    weights = per_token[_LONG] - attention * _LONG
    matmul = counts.matmul
    rows = [width for size, width in tables if size == vocabulary]
    if not tied and rows and weights / 2 - matmul > 0.5 * vocabulary * rows[0]:
        # The head uses the embedding's weights without owning them.
        matmul += vocabulary * rows[0]
    matmul_active = min(matmul, round(weights / 2))
    return ForeignShape(
        family=family,
        arguments=json.dumps(arguments, sort_keys=True),
        vocab_size=vocabulary,
        context=context,
        source=source,
        folder=folder,
        d_model=(rows or [width for _, width in tables] or [0])[0],
        n_layer=max((len(m) for m in module.modules() if isinstance(m, nn.ModuleList)), default=1),
        counts=ParameterCounts(
            total=counts.total,
            body=counts.body,
            embedding=counts.embedding,
            head=counts.head,
            matmul=matmul,
            active=counts.total - (matmul - matmul_active),
            matmul_active=matmul_active,
        ),
        weight_flops=weights,
        attention_flops=attention,
    )


def _without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    """Build on the meta device, where tensors have shapes only; on the CPU where that fails."""
    try:
        with torch.device("meta"):
            return make()
    except ValueError:
        # A constructor that reads values cannot run there; a fault of its own shows here again.
        return make()


def _parameters(
    module: nn.Module, vocabulary: int
) -> tuple[list[tuple[int, int]], bool, ParameterCounts]:
    """Sizes of the look-up tables, whether a head shares one, and the counts by component."""
    owners: dict[int, list[nn.Module]] = {}
    sizes: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for parameter in owner.parameters(recurse=False):
            if parameter.requires_grad:
                owners.setdefault(id(parameter), []).append(owner)
                sizes[id(parameter)] = parameter
    is_table = {key: any(isinstance(o, nn.Embedding) for o in own) for key, own in owners.items()}
    shapes = [sizes[key].shape for key, table in is_table.items() if table]
    tables = [(rows, width) for rows, width in shapes]
    shared = {
        key
        for key, table in is_table.items()
        if table and not all(isinstance(o, nn.Embedding) for o in owners[key])
    }
    heads = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and layer.out_features == vocabulary
    ][-1:]
    total = sum(p.numel() for p in sizes.values())
    embedding = sum(sizes[key].numel() for key, table in is_table.items() if table)
    head = sum(
        sizes[key].numel()
        for key, own in owners.items()
        if not is_table[key] and any(owner in heads for owner in own)
    )
    if not sizes:
        raise ValueError("a model must have parameters to train, got none")
    matmul = sum(
        p.numel()
        for key, p in sizes.items()
        if p.ndim >= 2 and (not is_table[key] or key in shared)
    )
    counts = ParameterCounts(
        total=total,
        body=total - embedding - head,
        embedding=embedding,
        head=head,
        matmul=matmul,
        active=total,
        matmul_active=matmul,
    )
    return tables, bool(shared), counts


def _computable(module: nn.Module) -> nn.Module:
    """Give a module of the meta device zeros, of which a parameter takes the memory of one."""
    new: dict[int, tuple[Tensor, Tensor]] = {}
    zero = torch.zeros(())
    for owner in module.modules():
        for name, old in (*owner._parameters.items(), *owner._buffers.items()):
            if old is None or not old.is_meta:
                continue
            if id(old) not in new:
                # The old tensor is kept too: its id must not be given to another one.
                if isinstance(old, nn.Parameter):
                    values = nn.Parameter(zero.to(old.dtype).expand(old.shape), old.requires_grad)
                    new[id(old)] = old, values
                else:
                    new[id(old)] = old, torch.zeros_like(old, device="cpu")
            setattr(owner, name, new[id(old)][1])
    return module


def _forward_flops(module: nn.Module, length: int, described: str) -> tuple[int, int]:
    """FLOPs of a forward pass of one sequence, and the number of logits of a position."""
    tokens = torch.arange(length)[None] % 2
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        try:
            output = module(tokens)
        except FAULTS as error:
            raise ValueError(
                f"{described} must compute tokens [1, {length}]: {type(error).__name__}: {error}"
            ) from error
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != (1, length):
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"{described} must return logits [B, T, V], or an object that has them as .logits, for "
            f"tokens [1, {length}]; got {found}"
        )
    return counter.get_total_flops(), logits.shape[2]
