"""The forms that save most time together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from advconv_onnx.optimizer.contest import Choice

_WIDTH = 64
"""Selections kept from one site to the next."""

Interactions = Mapping[tuple[Choice, Choice], float]
"""Milliseconds that two choices save together beyond what each saves alone; negative if less."""


@dataclasses.dataclass(frozen=True)
class Win:
    """A form that was measured to be faster.

    Attributes:
        speedup: of the window, the site as it is over the form.
        saved: milliseconds per inference.
    """

    choice: Choice
    speedup: float
    saved: float


@dataclasses.dataclass(frozen=True)
class _Selection:
    saved: float = 0.0
    wins: tuple[Win, ...] = ()
    nodes: frozenset[str] = frozenset()

    def plus(self, win: Win, interactions: Interactions) -> _Selection:
        pairs = ((earlier.choice, win.choice) for earlier in self.wins)
        together = sum(interactions.get(pair, 0.0) for pair in pairs)
        return _Selection(
            self.saved + win.saved + together,
            (*self.wins, win),
            self.nodes | set(win.choice.nodes),
        )


def choose(wins: Sequence[Win], interactions: Interactions) -> tuple[Win, ...]:
    """Choose at most one form for every node, by a beam search along the graph.

    Args:
        wins: in graph order of their sites.
        interactions: of neighbours, the earlier one first; none means that savings add up.
    """
    beam = [_Selection()]
    for win in wins:
        nodes = set(win.choice.nodes)
        grown = [s.plus(win, interactions) for s in beam if s.nodes.isdisjoint(nodes)]
        beam = sorted([*beam, *grown], key=lambda selection: -selection.saved)[:_WIDTH]
    return beam[0].wins
