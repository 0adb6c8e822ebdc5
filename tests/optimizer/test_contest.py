"""Contests: equal for equal places, told apart otherwise, and forms made one after another."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.optimizer.contest import (
    Choice,
    Contest,
    Next,
    apply,
    find_choices,
    site_contests,
)
from advconv_onnx.optimizer.prove import Prover
from advconv_onnx.rewriter.forms.form import Form
from advconv_onnx.rewriter.forms.split_concat import FORMS as SPLITS
from advconv_onnx.rewriter.forms.winograd_rows import FORMS as ROWS
from tests.rewriter.test_fusions import parse

_NUMBERS = ", ".join(str(n % 5 - 2) for n in range(8 * 8 * 9))
CONV = "Conv <pads = [1, 1, 1, 1]>"


def network(nodes: str) -> ir.Model:
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[1, 8, 16, 16] x, float[1, 8, 16, 16] q, float[1, 8, 8, 8] p) => (float[] z)
        <float[8, 8, 3, 3] w = {{{_NUMBERS}}}, float[8, 16, 3, 3] v = {{{_NUMBERS}, {_NUMBERS}}},
         float[8, 16, 3, 3] u = {{{_NUMBERS}, {_NUMBERS}}}, float[4] s = {{1, 1, 2, 2}}>
        {{ {nodes} }}"""
    )


def choices(model: ir.Model, *forms: Form[Any]) -> list[Choice]:
    found, _ = find_choices(model, forms, Prover(dict(model.opset_imports), 0))
    return found


def test_sites_that_differ_in_weights_only_are_one_contest() -> None:
    model = network(f"a = {CONV} (x, w) b = Sin (a) c = {CONV} (b, w) d = Sin (c) z = Cos (d)")
    [contest] = site_contests(model, choices(model, ROWS[1]))
    assert len(contest.sites) == 2
    assert {site["winograd_rows_4"][0].root for site in contest.sites} == {
        model.graph[0].name,
        model.graph[2].name,
    }


def test_different_sites_of_one_window_are_told_apart() -> None:
    model = network(f"k = Concat <axis = 1> (x, q) a = {CONV} (k, v) z = Sin (a)")
    found = site_contests(model, choices(model, ROWS[1], SPLITS[0]))
    assert {tuple(contest.variants) for contest in found} == {
        ("winograd_rows_4",),
        ("split_concat",),
    }
    assert len({contest.signature for contest in found}) == 2
    one, other = (repr([node.op_type for node in c.window.graph]) for c in found)
    assert one == other


def test_two_convolutions_in_each_others_windows_are_told_apart() -> None:
    model = network(f"a = {CONV} (x, w) b = Relu (a) z = {CONV} (b, w)")
    found = choices(model, ROWS[1])
    pair = {"a": (found[0],), "b": (found[1],)}
    both = Contest.of(model, pair)
    assert both.signature == Contest.of(model, {"a, b": tuple(found), **pair}).signature
    assert both.signature != Contest.of(model, {"b": (found[1],), "a": (found[0],)}).signature


def test_what_a_form_makes_gets_forms_of_its_own() -> None:
    model = network(f"k = Concat <axis = 1> (x, q) a = {CONV} (k, v) z = Sin (a)")
    [contest] = site_contests(model, choices(model, SPLITS[0]))
    made = [n for n in contest.model("split_concat").graph if n.op_type == "Conv"]
    assert len(made) == 2
    known = {node.name for node in contest.window.graph}
    new = [n.name for n in contest.model("split_concat").graph if n.name not in known]
    then = tuple(Next(new.index(conv.name), ROWS[1], "proved") for conv in made)
    deeper = contest.with_forms_after("split_concat", then)
    name = "split_concat + winograd_rows_4 + winograd_rows_4"
    assert list(deeper.variants) == ["split_concat", name]
    assert deeper.variants[name][0].proof.endswith("proved; proved")
    groups = [n.attributes.get_int("group", 1) for n in deeper.model(name).graph]
    assert groups.count(6) == 2
    assert deeper.signature == contest.signature


def test_a_choice_that_does_not_fit_changes_nothing() -> None:
    model = network(f"a = {CONV} (x, w) z = Sin (a)")
    [choice] = choices(model, ROWS[1])
    other = network("a = Cos (x) z = Sin (a)")
    assert apply(other, choice) == "the site is another one now"
    contest = Contest(other, {"rows": (choice,)}, ())
    with pytest.raises(CheckError, match="another"):
        contest.model("rows")


def test_a_check_can_forbid_a_rewrite() -> None:
    model = network(f"a = {CONV} (x, w) z = Sin (a)")
    [choice] = choices(model, ROWS[1])
    assert apply(model, choice, lambda proposal: "no") == "no"
    assert [node.op_type for node in model.graph] == ["Conv", "Sin"]


def test_a_place_without_a_variant_stays_without_its_followers() -> None:
    model = network(f"k = Concat <axis = 1> (x, q) a = {CONV} (k, v) z = Sin (a)")
    [contest] = site_contests(model, choices(model, SPLITS[0]))
    bare = dataclasses.replace(contest, sites=(contest.variants, {}))
    deeper = bare.with_forms_after("split_concat", (Next(0, ROWS[1], "proved"),))
    assert [len(site) for site in deeper.sites] == [2, 0]


def test_forms_that_follow_know_the_shapes_of_what_was_made() -> None:
    resize = 'r = Resize <mode = "linear"> (p, , s)'
    model = network(f"{resize} k = Concat <axis = 1> (x, r) a = {CONV} (k, v) z = Sin (a)")
    [contest] = site_contests(model, choices(model, SPLITS[0]))
    variant = contest.model("split_concat")
    known = {node.name for node in contest.window.graph}
    made = [node.name for node in variant.graph if node.name not in known]
    followers = find_choices(variant, [ROWS[1]], Prover(dict(model.opset_imports), 0), made)[0]
    assert len(followers) == 2
    for follower in followers:
        then = Next(made.index(follower.root), follower.form, follower.certificate)
        deeper = contest.with_forms_after("split_concat", (then,))
        operators = [node.op_type for node in deeper.model(f"split_concat + {ROWS[1].name}").graph]
        assert operators.count("Conv") > 6
