"""The forms that save most time together."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from advconv_onnx.optimizer.contest import Choice

_WIDTH = 512
"""Selections kept from one site to the next, of which no two leave the same open."""

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

    def left_open(self, nodes: Collection[str], choices: Collection[Choice]) -> object:
        """What later wins may depend on: these nodes, if taken, and these choices, if made."""
        made = (win.choice for win in self.wins)
        return self.nodes.intersection(nodes), frozenset(c for c in made if c in choices)


def choose(wins: Sequence[Win], interactions: Interactions) -> tuple[Win, ...]:
    """Choose at most one form for every node, along the graph.

    Of selections that leave later forms the same chances only the best is kept: without that, a
    beam fills with selections that differ far behind, and all exclude the same later form.

    Args:
        wins: in graph order of their sites.
        interactions: of neighbours, the earlier one first; none means that savings add up.
    """
    beam = [_Selection()]
    for index, win in enumerate(wins):
        nodes = set(win.choice.nodes)
        grown = [s.plus(win, interactions) for s in beam if s.nodes.isdisjoint(nodes)]
        later = {other.choice for other in wins[index + 1 :]}
        nodes_later = {name for choice in later for name in choice.nodes}
        open_choices = {one for one, other in interactions if other in later}
        best: dict[object, _Selection] = {}
        for selection in sorted([*beam, *grown], key=lambda selection: -selection.saved):
            best.setdefault(selection.left_open(nodes_later, open_choices), selection)
        beam = list(best.values())[:_WIDTH]
    return beam[0].wins
