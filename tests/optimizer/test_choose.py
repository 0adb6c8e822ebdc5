"""The choice of forms saves as much as any other that gives a node at most one form."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advconv_onnx.optimizer.choose import Win, choose
from advconv_onnx.optimizer.contest import Choice
from advconv_onnx.rewriter.forms import all_forms

FORM = all_forms()[0]


def win(name: str, nodes: str, saved: float) -> Win:
    return Win(Choice(FORM, name, tuple(nodes), ""), 1 + saved, saved)


def total(wins: tuple[Win, ...], interactions: dict[tuple[Choice, Choice], float]) -> float:
    pairs = itertools.combinations([w.choice for w in wins], 2)
    return sum(w.saved for w in wins) + sum(interactions.get(pair, 0.0) for pair in pairs)


def is_possible(wins: tuple[Win, ...]) -> bool:
    nodes = [node for w in wins for node in w.choice.nodes]
    return len(nodes) == len(set(nodes))


def test_a_node_gets_one_form_and_the_sum_counts() -> None:
    resize_and_conv, conv, resize = win("a", "rc", 3.0), win("b", "c", 2.0), win("d", "r", 2.0)
    assert set(choose([resize_and_conv, conv, resize], {})) == {conv, resize}
    assert choose([resize_and_conv, conv], {}) == (resize_and_conv,)


def test_neighbours_that_disturb_each_other_are_not_both_chosen() -> None:
    first, second = win("a", "a", 3.0), win("b", "b", 2.0)
    assert choose([first, second], {(first.choice, second.choice): -2.5}) == (first,)
    assert choose([first, second], {(first.choice, second.choice): -1.5}) == (first, second)


def test_what_loses_alone_may_win_together() -> None:
    first, second = win("a", "a", -1.0), win("b", "b", 0.5)
    assert choose([first, second], {(first.choice, second.choice): 2.0}) == (first, second)


def test_many_equal_beginnings_do_not_crowd_out_a_better_end() -> None:
    names = "abcdefghijkl"
    beginnings = [win(f"{name}{i}", name, 1 + i / 100) for name in names for i in range(4)]
    first, better = win("y", "yz", 1.0), win("z", "z", 1.5)
    chosen = choose([*beginnings, first, better], {})
    assert chosen == (*beginnings[3::4], better)


def test_nothing_to_choose_from() -> None:
    assert choose([], {}) == ()


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.data())
def test_no_other_choice_saves_more(data: st.DataObject) -> None:
    wins = [
        win(
            f"w{index}",
            "".join(data.draw(st.sets(st.sampled_from("abcdef"), min_size=1, max_size=3))),
            data.draw(st.integers(-2, 9)),
        )
        for index in range(data.draw(st.integers(1, 6)))
    ]
    choices = [w.choice for w in wins]
    interactions = {
        pair: float(data.draw(st.integers(-4, 4)))
        for pair in itertools.combinations(choices, 2)
        if data.draw(st.booleans())
    }
    subsets = itertools.chain.from_iterable(
        itertools.combinations(wins, count) for count in range(len(wins) + 1)
    )
    best = max(total(subset, interactions) for subset in subsets if is_possible(subset))
    chosen = choose(wins, interactions)
    assert is_possible(chosen)
    assert total(chosen, interactions) == pytest.approx(best)
