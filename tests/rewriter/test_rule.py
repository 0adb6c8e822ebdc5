"""The machinery of rules: matching, cutting out, committing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.rule import (
    MERGED_NAMES,
    RULE_NAME,
    Matcher,
    NoSite,
    Proposal,
    Refusal,
    Refused,
    Rule,
    Site,
    commit,
    cut,
    names_in,
)
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

HEAD = '<ir_version: 8, opset_import: ["" : 15]> g (float[N, 3, H, W] x)'
X = normal(2, 3, 4, 5)


class MergeAdditions(Rule):
    """(x + a) + b -> x + (a + b)."""

    name = "merge_additions"

    def patterns(self) -> Iterable[Callable[..., Any]]:
        return [lambda op, x, a, b: op.Add(op.Add(x, a), b)]

    def check(self, site: Site) -> np.ndarray:
        if site["a"].const_value is None:
            raise NoSite
        if site["b"].const_value is None:
            raise Refused("b is not constant")
        return site["a"].const_value.numpy() + site["b"].const_value.numpy()

    def rewrite(self, op: Any, site: Site, plan: np.ndarray) -> ir.Value:
        return op.Add(site["x"], op.initializer(plan, "a"))


class KeepFirst(MergeAdditions):
    """The first addition may stay for others."""

    def keeps(self, node: ir.Node) -> bool:
        return True


class NeedsMore(MergeAdditions):
    minimum_opset = 16


class Drop(MergeAdditions):
    """Returns what is there already."""

    def rewrite(self, op: Any, site: Site, plan: np.ndarray) -> ir.Value:
        return site["x"]


def model_of(nodes: str, outputs: str = "float[N, 3, H, W] z", **constants: Any) -> ir.Model:
    given = {"a": np.float32(2), "b": normal(3, 1, 1), **constants}
    return parse(f"{HEAD} => ({outputs}) {{ {nodes} }}", **given)


TWO = "[one] y = Add(x, a) [two] z = Add(y, b)"


def propose(rule: Rule, model: ir.Model) -> Proposal | Refusal | None:
    found = [Matcher(rule).propose(model, model.graph, node) for node in model.graph]
    results = [result for result in found if result is not None]
    assert len(results) < 2
    return results[0] if results else None


def run(model: ir.Model) -> dict[str, np.ndarray]:
    return run_session(open_session(model, graph_optimizations=False, threads=1), {"x": X})


def test_a_proposal_names_its_nodes_and_changes_nothing() -> None:
    model = model_of(TWO)
    before = ir.to_proto(model).SerializeToString()
    proposal = propose(MergeAdditions(), model)
    assert isinstance(proposal, Proposal)
    assert proposal.names == ("one", "two")
    assert proposal.site.root.name == "two"
    cut(proposal, dict(model.opset_imports))
    assert ir.to_proto(model).SerializeToString() == before


def test_a_discarded_or_refused_proposal_leaves_no_reader_behind() -> None:
    class Late(MergeAdditions):
        def rewrite(self, op: Any, site: Site, plan: np.ndarray) -> ir.Value:
            op.Neg(site["x"])
            raise Refused("too late")

    model = model_of(TWO)
    proposal = propose(MergeAdditions(), model)
    assert len(model.graph.inputs[0].uses()) == 2
    proposal.discard()
    assert propose(Late(), model).reason == "too late"
    assert [reader.name for reader, _ in model.graph.inputs[0].uses()] == ["one"]


def test_a_cut_runs_on_both_sides_with_the_same_names() -> None:
    model = model_of(f"[zero] q = Relu(x) {TWO.replace('x,', 'q,')} [end] u = Neg(z)", "float[] u")
    before, after = cut(propose(MergeAdditions(), model), dict(model.opset_imports))
    for side in (before, after):
        assert [value.name for value in side.graph.inputs] == ["q"]
        assert [value.name for value in side.graph.outputs] == ["z"]
        session = open_session(side, threads=1)
        np.testing.assert_allclose(
            run_session(session, {"q": abs(X)})["z"], abs(X) + 2 + normal(3, 1, 1), rtol=1e-6
        )
    assert [node.op_type for node in before.graph] == ["Add", "Add"]
    assert [node.op_type for node in after.graph] == ["Add"]


def test_a_commit_replaces_the_site_and_keeps_the_output() -> None:
    model = model_of(TWO)
    wanted = run(model)
    commit(model.graph, propose(MergeAdditions(), model), names_in(model))
    (node,) = model.graph
    assert node.name == "two_merge_additions"
    assert node.metadata_props == {MERGED_NAMES: "one,two", RULE_NAME: "merge_additions"}
    assert [value.name for value in model.graph.outputs] == ["z"]
    assert "a_2" in model.graph.initializers, "the name 'a' is taken"
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(run(model)["z"], wanted["z"], rtol=1e-6)


def test_merged_names_go_back_to_the_model_as_it_was_given() -> None:
    model = model_of(f"{TWO.replace('z', 'v')} [three] z = Add(v, b)")
    taken = names_in(model)
    for name in ("two", "three"):
        (root,) = (node for node in model.graph if node.name == name)
        proposal = Matcher(MergeAdditions()).propose(model, model.graph, root)
        commit(model.graph, proposal, taken)
    (node,) = model.graph
    assert node.metadata_props[MERGED_NAMES] == "one,two,three"


def test_a_replacement_that_exists_already_is_named_by_an_identity() -> None:
    model = model_of(TWO, a=np.float32(0), b=np.float32(0))
    commit(model.graph, propose(Drop(), model), names_in(model))
    assert [node.op_type for node in model.graph] == ["Identity"]
    assert np.array_equal(run(model)["z"], X)


@pytest.mark.parametrize(
    ("nodes", "outputs", "reason"),
    [
        (f"{TWO} [out] v = Relu(y)", "float[] z, float[] v", "'y' is also read by 'out'"),
        (TWO, "float[] z, float[] y", "'y' is also an output"),
        (
            f"{TWO} p = Constant <value = bool {{1}}> () [if] v = If (p) <"
            "then_branch = t () => (float[] r) { [in] r = Relu(y) },"
            "else_branch = e () => (float[] s) { s = Relu(x) }>",
            "float[] z, float[] v",
            "'y' is also read by 'in'",
        ),
    ],
)
def test_other_readers_refuse_unless_the_rule_keeps_the_node(
    nodes: str, outputs: str, reason: str
) -> None:
    model = model_of(nodes, outputs)
    refusal = propose(MergeAdditions(), model)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
    assert refusal.names == ("one", "two")
    wanted = run(model)
    commit(model.graph, propose(KeepFirst(), model), names_in(model))
    assert "one" in {node.name for node in model.graph}
    onnx.checker.check_model(ir.to_proto(model))
    for name, array in run(model).items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-6)


def test_reasons_of_check_and_opset_are_kept_and_no_site_is_silent() -> None:
    computed = "c = Neg(b) [one] y = Add(x, a) [two] z = Add(y, c)"
    assert propose(MergeAdditions(), model_of(computed)).reason == "b is not constant"
    computed = "c = Neg(b) [one] y = Add(x, c) [two] z = Add(y, a)"
    assert propose(MergeAdditions(), model_of(computed)) is None
    assert propose(NeedsMore(), model_of(TWO)).reason == "needs opset 16, the model has 15"


def test_a_second_output_in_use_is_refused() -> None:
    class Dropped(MergeAdditions):
        def patterns(self) -> Iterable[Callable[..., Any]]:
            return [lambda op, x, a: op.Dropout(op.Add(x, a))]

        def check(self, site: Site) -> None:
            pass

    model = model_of("y = Add(x, a) [drop] z, mask = Dropout(y)", "float[] z, bool[] mask")
    refusal = propose(Dropped(), model)
    assert isinstance(refusal, Refusal)
    assert "'mask', a second output, is in use" in refusal.reason


def test_a_pattern_does_not_reach_across_graphs() -> None:
    """An addition in a body, of a sum outside: the body may not run, or run often."""
    model = model_of(
        "y = Add(x, a) p = Constant <value = bool {1}> () z = If (p) <"
        "then_branch = t () => (float[] r) { r = Add(y, b) },"
        "else_branch = e () => (float[] s) { s = Relu(x) }>"
    )
    (body, _) = (graph for graph in model.graphs() if graph is not model.graph)
    assert Matcher(KeepFirst()).propose(model, body, body.node(0)) is None


def test_names_in_finds_all_names() -> None:
    model = model_of(
        "y = Add(x, a) p = Constant <value = bool {1}> () [if] z = If (p) <"
        "then_branch = t () => (float[] r) { [in] r = Add(y, b) },"
        "else_branch = e () => (float[] s) { s = Relu(x) }>"
    )
    assert {"x", "a", "b", "y", "p", "if", "z", "in", "r", "s"} <= names_in(model)
