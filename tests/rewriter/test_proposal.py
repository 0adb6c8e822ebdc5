"""A proposal changes nothing until it is committed, and never takes away what others read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import MERGED_NAMES, Builder
from advconv_onnx.rewriter.cut import cut
from advconv_onnx.rewriter.proposal import RULE_NAME, names_in, propose, unique
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import producer
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse
from tests.rewriter.additions import (
    TWO,
    MergeAdditions,
    Sum,
    additions,
    outcome,
    proposal,
    refusal,
)

X = normal(2, 3, 4, 5)

READ_IN_A_BODY = """p = Constant <value = bool {1}> () [if] v = If (p) <
    then_branch = t () => (float[] r) { [in] r = Relu(y) },
    else_branch = e () => (float[] s) { s = Relu(x) }>"""


class KeepFirst(MergeAdditions):
    """The first addition may stay for others."""

    def keeps(self, node: ir.Node) -> bool:
        return node.name == "one"


class NeedsMore(MergeAdditions):
    minimum_opset = 16


class Drop(MergeAdditions):
    """Returns what is there already."""

    def rewrite(self, op: Builder, plan: Sum) -> ir.Value:
        return plan[0]


class ThinkAgain(MergeAdditions):
    """Notices too late."""

    outcome: Exception = Refused("too late")

    def rewrite(self, op: Builder, plan: Sum) -> ir.Value:
        op.Neg(op.Neg(plan[0]))
        raise self.outcome


class ForgetThinking(ThinkAgain):
    outcome = NoSite()


def run(model: ir.Model) -> dict[str, np.ndarray]:
    return run_session(open_session(model, graph_optimizations=False, threads=1), {"x": X})


def to_bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def commit(rule: Rule[Any], model: ir.Model) -> None:
    """Apply a rule, and find all outputs as they were."""
    wanted = run(model)
    proposal(rule, model).commit(names_in(model))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    found = run(model)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-6)


def test_a_proposal_names_its_nodes_and_changes_nothing() -> None:
    model = additions(TWO)
    before = to_bytes(model)
    found = proposal(MergeAdditions(), model)
    assert found.names == ("one", "two")
    assert found.site.root.name == "two"
    cut(found, dict(model.opset_imports))
    assert to_bytes(model) == before


@pytest.mark.parametrize("rule", [ThinkAgain(), ForgetThinking()])
def test_what_comes_to_nothing_leaves_no_reader_behind(rule: ThinkAgain) -> None:
    model = additions(TWO)
    (x,) = model.graph.inputs
    found = proposal(MergeAdditions(), model)
    assert len(x.uses()) == 2
    found.discard()
    assert [reader.name for reader, _ in x.uses()] == ["one"]
    result = outcome(rule, model)
    assert (result and result.reason) == (str(rule.outcome) or None)
    assert [reader.name for reader, _ in x.uses()] == ["one"]


def test_a_commit_replaces_the_site_and_keeps_the_output() -> None:
    model = additions(TWO)
    commit(MergeAdditions(), model)
    (node,) = model.graph
    assert node.name == "two_merge_additions"
    assert node.metadata_props == {MERGED_NAMES: "one,two", RULE_NAME: "merge_additions"}
    assert [value.name for value in model.graph.outputs] == ["z"]
    weight = model.graph.initializers["a_2"]
    assert weight is node.inputs[1], "the name 'a' is taken"
    assert weight.const_value is not None
    assert weight.const_value.name == "a_2"


def test_names_go_back_to_the_model_as_it_was_given_and_none_is_used_twice() -> None:
    model = additions(f"{TWO.replace('z', 'v')} [three] z = Add(v, b)")
    taken = names_in(model)
    for name in ("two", "three"):
        (root,) = (node for node in model.graph if node.name == name)
        found = propose(MergeAdditions(), root, 15)
        assert found is not None
        found.commit(taken)
    (node,) = model.graph
    assert node.metadata_props[MERGED_NAMES] == "one,two,three"
    assert {"two_merge_additions", "three_merge_additions", "a_2", "a_3"} <= taken
    assert node.inputs[1].name == "a_3"


def test_a_replacement_that_exists_already_is_named_by_an_identity() -> None:
    model = additions(TWO, a=np.float32(0), b=np.float32(0))
    commit(Drop(), model)
    assert [node.op_type for node in model.graph] == ["Identity"]


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        (
            f"{TWO} [out] v = Relu(y)",
            "float[N, 3, H, W] z, float[N, 3, H, W] v",
            "'y' is also read by 'out'",
        ),
        (TWO, "float[N, 3, H, W] z, float[N, 3, H, W] y", "'y' is also an output of the graph"),
        (
            f"{TWO} {READ_IN_A_BODY}",
            "float[N, 3, H, W] z, float[N, 3, H, W] v",
            "'y' is also read by 'in'",
        ),
    ],
)
def test_other_readers_refuse_unless_the_rule_keeps_the_node(
    nodes: str, outputs: str, reason: str
) -> None:
    model = additions(nodes, outputs)
    result = refusal(MergeAdditions(), model)
    assert (result.names, result.reason) == (("one", "two"), reason)
    commit(KeepFirst(), model)
    names = {node.name for node in model.graph}
    assert "one" in names
    assert "two" not in names


def test_a_node_that_may_stay_goes_when_nobody_reads_it() -> None:
    model = additions(TWO)
    commit(KeepFirst(), model)
    assert [node.name for node in model.graph] == ["two_merge_additions"]


def test_a_second_output_in_use_is_refused() -> None:
    class Undrop(Rule[ir.Value]):
        name = "undrop"
        roots = frozenset(("Dropout",))

        def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
            assert root.inputs[0] is not None
            return Site((root,), root.inputs[0])

        def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
            return op.Relu(plan)

    model = additions("z, mask = Dropout(x)", "float[N, 3, H, W] z, bool[N, 3, H, W] mask")
    assert refusal(Undrop(), model).reason == "'mask' is also an output of the graph"


def test_reasons_of_find_and_opset_are_kept_and_no_site_is_silent() -> None:
    computed = additions("c = Neg(b) [one] y = Add(x, a) [two] z = Add(y, c)")
    result = refusal(MergeAdditions(), computed)
    assert (result.names, result.reason) == (("two",), "b is not constant")
    computed = additions("c = Neg(b) [one] y = Add(x, c) [two] z = Add(y, a)")
    assert outcome(MergeAdditions(), computed) is None
    assert refusal(NeedsMore(), additions(TWO)).reason == "needs opset 16, the model has 15"


def test_only_roots_of_the_default_domain_are_looked_at() -> None:
    class Look(MergeAdditions):
        def find(self, root: ir.Node, opset: int) -> Site[Sum]:
            raise Refused(f"{opset}")

    model = parse(
        """<ir_version: 8, opset_import: ["" : 15, "other" : 1]> g (float[3] x) => (float[3] z) {
            s = Sub(x, x) y = other.Add(s, s) [add] z = Add(y, y) }"""
    )
    result = refusal(Look(), model)
    assert (result.names, result.reason) == (("add",), "15")


def test_a_site_does_not_reach_across_graphs() -> None:
    """An addition in a body, of a sum outside: the body may not run, or run often."""
    model = additions(
        """[one] y = Add(x, a) p = Constant <value = bool {1}> () z = If (p) <
           then_branch = t () => (float[] r) { r = Add(y, b) },
           else_branch = e () => (float[] s) { s = Relu(x) }>"""
    )
    (body, _) = (graph for graph in model.graphs() if graph is not model.graph)
    assert propose(KeepFirst(), body.node(0), 15) is None


class Twins(Rule[tuple[ir.Value, ir.Value]]):
    """Relu(Neg(x)) and Neg(x), both wanted: Neg(x) is built anew."""

    name = "twins"
    roots = frozenset(("Relu",))

    def find(self, root: ir.Node, opset: int) -> Site[tuple[ir.Value, ir.Value]]:
        first = producer(root.inputs[0], "Neg")
        (x,), (y,) = first.inputs, first.outputs
        assert x is not None
        return Site((first, root), (x, y), outputs=(root.outputs[0], y))

    def rewrite(self, op: Builder, plan: tuple[ir.Value, ir.Value]) -> Sequence[ir.Value]:
        y = op.Neg(plan[0])
        return op.Relu(y), y


def test_a_site_may_replace_several_outputs_each_under_its_name() -> None:
    model = additions(
        "[one] y = Neg(x) [two] z = Relu(y)", "float[N, 3, H, W] z, float[N, 3, H, W] y"
    )
    commit(Twins(), model)
    assert [value.name for value in model.graph.outputs] == ["z", "y"]
    assert {node.metadata_props[MERGED_NAMES] for node in model.graph} == {"one,two"}


def test_new_values_between_new_nodes_get_names_of_their_own() -> None:
    class Detour(MergeAdditions):
        def rewrite(self, op: Builder, plan: Sum) -> ir.Value:
            x, array = plan
            return op.Neg(op.Sub(op.Neg(x), op.initializer(array, "y")))

    model = additions(TWO)
    commit(Detour(), model)
    nodes = [node.name for node in model.graph]
    assert nodes == [f"two_merge_additions{end}" for end in ("", "_2", "_3")]
    assert [node.outputs[0].name for node in model.graph] == [f"{n}_0" for n in nodes[:2]] + ["z"]


def test_names_in_finds_all_names() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 15, "local" : 1]> g (float[3] x) => (float[3] z)
           { [call] y = local.f(x) p = Constant <value = bool {1}> () [if] z = If (p) <
             then_branch = t () => (float[] r) { [in] r = Add(y, a) },
             else_branch = e () => (float[] s) { s = Relu(x) }> }
           <domain: "local", opset_import: ["" : 15]> f (u) => (v) { [inner] v = Relu(u) }""",
        a=np.float32(1),
    )
    given = {"x", "a", "y", "p", "z", "r", "s", "u", "v", "call", "if", "in", "inner"}
    assert given <= names_in(model)


def test_a_unique_name_is_taken_from_then_on() -> None:
    taken = {"w", "w_2"}
    assert [unique(name, taken) for name in ("w", "w", "v", "v")] == ["w_3", "w_4", "v", "v_2"]
    assert taken == {"w", "w_2", "w_3", "w_4", "v", "v_2"}
