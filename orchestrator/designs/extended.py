"""A design whose sweep was given more money than it began with.

What it has asked for stays as it was. Once it has nothing more to ask for, the new money goes into
batches that sharpen the answer most per FLOP, whatever the design was.
"""

from __future__ import annotations

from orchestrator.design_section import AdaptiveDesign
from orchestrator.designs.adaptive import OVERLAP, Adaptive
from orchestrator.designs.base import Designer, Ground, Measured, Progress, Round


class Extended:
    """The first design as it began, then adaptive batches."""

    learns = True
    rounds: int | None = None

    def __init__(self, first: Designer, settings: AdaptiveDesign, ground: Ground) -> None:
        """Bind it.

        Args:
            first: the design, bound to the money that the sweep began with.
            settings: of the batches.
            ground: what can be trained with all the money there is now.
        """
        self._first = first
        self._settings = settings
        self._ground = ground

    def lag(self, number: int, measured: Measured) -> int:
        """As the first design; batches after one that knows its rounds, as batches do."""
        known = self._first.rounds
        if known is None or number <= known:
            return self._first.lag(number, measured)
        return self.expected_lag(number)

    def expected_lag(self, number: int) -> int:
        """As the first design's; of batches after one that knows its rounds, as `lag`."""
        known = self._first.rounds
        if known is None or number <= known:
            return self._first.expected_lag(number)
        return min(number - known - 1, OVERLAP)

    def propose(self, progress: Progress) -> Round | None:
        """The first design's next round; when it has none, a batch."""
        asked = self._first.propose(progress)
        if asked is not None or not progress.opened:
            return asked
        # No dearer than what was tried: far beyond it a design is a guess.
        dearest = max(item.cost_flops for item in progress.opened)
        batches = Adaptive(
            self._settings,
            self._ground,
            after=progress.rounds if self._first.rounds is None else self._first.rounds,
            dearest=dearest,
        )
        return batches.propose(progress)
