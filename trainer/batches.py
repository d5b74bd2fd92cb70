"""Which tokens step s trains on: a pure function of (seed, step), with no state to lose.

The corpus is cut into windows of T + 1 tokens that overlap by one, so that every token but the
first of a window is a target once per epoch. Each epoch visits all windows in a permuted order;
from the second epoch on the cuts are shifted, so that windows differ between epochs. The
permutation is a keyed Feistel network on the window numbers (Luby & Rackoff 1988): any batch is
computed alone, without the memory or the time of a shuffled list, and the order depends on no
library's random generator.

In random order a window begins at any token, drawn independently, and wraps around the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import Order

FEISTEL_ROUNDS = 4
"""Rounds of the network: four make it indistinguishable from a random permutation."""

_BLOCK_TOKENS, _BLOCK_STEPS = 2**18, 64
"""Most tokens and steps gathered at once, to spread the fixed costs over several steps."""


class TokenBatches:
    """Training batches of a token array.

    Args:
        tokens: [n] token ids, uint16 or uint32, usually memory-mapped.
        context: tokens T of a sequence.
        batch_sequences: sequences B of a step.
        seed: of the order.
        order: permuted epochs, or independent draws with wrap-around.

    Raises:
        ValueError: when the corpus is shorter than one window.
    """

    def __init__(
        self,
        tokens: NDArray[Any],
        *,
        context: int,
        batch_sequences: int,
        seed: int,
        order: Order = "epochs",
    ) -> None:
        if len(tokens) < context + 1:
            raise ValueError(
                f"the training tokens must hold at least context + 1 = {context + 1}, "
                f"got {len(tokens)}; shorten the context or add text"
            )
        self._tokens = tokens
        self._context = context
        self._batch = batch_sequences
        self._seed = seed
        self._random = order == "random"
        spare = len(tokens) // context - 1
        self._can_shift = spare >= 1
        self.windows = spare if self._can_shift else (len(tokens) - 1) // context
        step_tokens = batch_sequences * (context + 1)
        self._block_steps = min(_BLOCK_STEPS, max(1, _BLOCK_TOKENS // step_tokens))
        self._block_start = -1
        self._block: NDArray[np.int64] = np.empty((0, batch_sequences, context + 1), np.int64)
        self._within = np.arange(context + 1)

    def at(self, step: int) -> NDArray[np.int64]:
        """The batch of one step.

        Returns:
            [B, T + 1] token ids: inputs are all but the last column, targets all but the first.
        """
        start = step - step % self._block_steps
        if start != self._block_start:
            positions = self.starts(start, self._block_steps)[..., None] + self._within
            if self._random:
                positions %= len(self._tokens)
            self._block = self._tokens[positions].astype(np.int64)
            self._block_start = start
        return self._block[step - start]

    def starts(self, step: int, steps: int) -> NDArray[np.int64]:
        """Position of the first token of every sequence of some steps, [steps, B]."""
        first = step * self._batch
        samples = np.arange(first, first + steps * self._batch)
        if self._random:
            key = _mix(np.array([self._seed], np.uint64))
            drawn = _mix(_mix(samples.astype(np.uint64)) ^ key) % np.uint64(len(self._tokens))
            return drawn.astype(np.int64).reshape(steps, self._batch)
        epochs, indices = np.divmod(samples, self.windows)
        out = np.empty(len(samples), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            key = _mix(np.array([self._seed, epoch], np.uint64))
            window = permute(indices[chosen], self.windows, key=int(key[0] ^ _mix(key[1:])[0]))
            shift = 0
            if epoch > 0 and self._can_shift:
                shift = int(_mix(key[:1] + key[1:])[0] % np.uint64(self._context))
            out[chosen] = window * self._context + shift
        return out.reshape(steps, self._batch)


def batches_per_epoch(tokens: int, *, context: int, batch_sequences: int) -> int:
    """Batches of one pass over some tokens cut into whole windows, the last one perhaps smaller.

    Args:
        tokens: tokens of the split.
        context: tokens of a window.
        batch_sequences: windows of a batch.
    """
    return -(-(tokens // context) // batch_sequences)


def inputs_and_targets(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Split windows [B, T + 1] into inputs [B, T] and the token that follows each of them."""
    return ids[:, :-1], ids[:, 1:]


def permute(indices: NDArray[Any], size: int, *, key: int) -> NDArray[np.int64]:
    """Images of some indices under a keyed permutation of range(size).

    The Feistel network permutes the next larger power of four; an image outside the range is sent
    through it again until it falls inside (cycle walking, Black & Rogaway 2002).

    Args:
        indices: values in [0, size).
        size: number of elements permuted.
        key: chooses the permutation.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    round_keys = _mix(np.arange(FEISTEL_ROUNDS, dtype=np.uint64) + np.uint64(key))
    values = indices.astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        walking = values[outside]
        left, right = walking >> half, walking & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        values[outside] = left << half | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The 64-bit finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
