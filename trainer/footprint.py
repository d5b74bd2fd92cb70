"""How much memory a training step needs, and a checkpoint of disk, before it is run.

Weights, gradients and two moments in fp32, the activations that one backward pass keeps, and the
logits of one chunk of the head. A rough upper estimate: per token and layer about 16 widths and 3
feed-forward widths, and one score per head and position.
"""

from __future__ import annotations

from trainer.foreign import ForeignShape
from trainer.shapes import Shape, count_parameters

HEADROOM = 0.8
"""Share of the memory that an estimate may fill; the rest is libraries and error."""

CHECKPOINTS_KEPT = 2
"""Newest checkpoints that a trial's folder holds, so that one damaged file costs one interval."""

_CHUNK_ROWS = 1024
"""Rows of logits at a time, and their gradient (`trainer.model.loss`)."""


def training_bytes(shape: Shape, *, sequences: int) -> float:
    """Memory of training with some sequences in one forward and backward pass."""
    tokens = sequences * shape.context
    if isinstance(shape, ForeignShape):
        # Its insides are not known: heads of 32 channels and a feed-forward of 4 widths.
        heads, d_ff = max(1, shape.d_model // 32), 4 * shape.d_model
    else:
        experts = shape.experts
        d_ff = shape.d_ff if experts is None else experts.d_expert * experts.met
        heads = shape.n_head
    per_layer = 16 * shape.d_model + 3 * d_ff + heads * shape.context
    logits = 2 * shape.vocab_size * min(tokens, _CHUNK_ROWS)
    state = 16.0 * count_parameters(shape).total
    return state + 4.0 * (tokens * shape.n_layer * per_layer + logits)


def checkpoint_bytes(shape: Shape) -> float:
    """Size of one checkpoint on disk: weights and the optimiser's two moments, all in fp32."""
    return 12.0 * count_parameters(shape).total


def largest_micro_batch(shape: Shape, *, sequences: int, memory_bytes: float) -> int:
    """The largest part of a batch whose training is expected to fit.

    The batch is halved until it fits; what does not fit even as one sequence is left to try.

    Args:
        shape: the model.
        sequences: of the whole batch on one device.
        memory_bytes: memory that the run may use.
    """
    part = sequences
    while part > 1 and training_bytes(shape, sequences=part) > HEADROOM * memory_bytes:
        part = -(-part // 2)
    return part
