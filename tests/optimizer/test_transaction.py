"""Transactions: kept whole or given up whole, with the reason on record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.optimizer.transaction import Fusing, attempt, fuse
from advconv_onnx.rewriter.builder import MERGED_NAMES, Builder
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.fusions.fold_affine import RULE as FOLD_AFFINE
from advconv_onnx.rewriter.fusions.fold_batchnorm import RULE as FOLD_BATCHNORM
from advconv_onnx.rewriter.fusions.fold_target import RULE as FOLD_TARGET
from advconv_onnx.rewriter.fusions.spell_gemm import RULE as SPELL_GEMM
from advconv_onnx.rewriter.fusions.spell_hardswish import RULE as SPELL_HARDSWISH
from advconv_onnx.rewriter.proposal import RULE_NAME, names_in
from advconv_onnx.rewriter.rule import Rule, Site
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

W, U, C = normal(4, 4, 3, 3), normal(2, 4, 1, 1, seed=1), normal(1, 4, 1, 1, seed=2)
STATISTICS = {"s": normal(4, seed=3), "b": normal(4, seed=4), "m": normal(4, seed=5)}
LONG = parse(
    """<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, 4, H, W] x) => (float[N, 2, P, Q] z, float[N, 4, R, S] side) {
        [conv] a = Conv <pads = [1, 1, 1, 1]> (x, w)
        [norm] d = BatchNormalization (a, s, b, m, v)
        [scale] e = Mul(d, c)
        [relu] f = Relu(e)
        [shift] h = Add(f, c)
        [last] z = Conv(h, u)
        [other] i = Conv <strides = [2, 2]> (x, w)
        [out] side = Add(i, c)
    }""",
    w=W, u=U, c=C, v=np.full(4, 2, np.float32), **STATISTICS,
)  # fmt: skip
X = normal(2, 4, 7, 6, seed=9)


def fused(model: ir.Model, rules: Iterable[Rule[Any]] = (), **options: Any) -> Fusing:
    return fuse(model, list(rules) or all_rules(), seed=0, **options)


def to_bytes(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def outputs(model: ir.Model, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = open_session(model, graph_optimizations=False, threads=1)
    return run_session(session, inputs or {"x": X})


def assert_equal(model: ir.Model, other: ir.Model, **inputs: np.ndarray) -> None:
    want, got = outputs(model, **inputs), outputs(other, **inputs)
    assert list(want) == list(got)
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=1e-5 * abs(array).max())


def test_rules_are_applied_until_none_applies() -> None:
    before = to_bytes(LONG)
    result = fused(LONG)
    assert [node.op_type for node in result.model.graph] == ["Conv", "Relu", "Conv", "Conv"]
    assert [(record.rule, record.nodes) for record in result.applied] == [
        ("fold_batchnorm", ("conv", "norm")),
        ("fold_affine", ("norm_fold_batchnorm", "scale")),
        ("fold_affine_forward", ("shift", "last")),
        ("fold_affine", ("other", "out")),
    ]
    assert all(record.status == "applied" and record.certificate for record in result.applied)
    assert not result.refused
    assert to_bytes(LONG) == before, "the model given stays as it is"
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    assert_equal(LONG, result.model)


def test_the_same_model_gives_the_same_bytes_and_a_second_run_changes_nothing() -> None:
    first, second = fused(LONG), fused(LONG.clone())
    assert to_bytes(first.model) == to_bytes(second.model)
    assert (first.applied, first.refused) == (second.applied, second.refused)
    again = fused(first.model)
    assert not again.applied
    assert to_bytes(again.model) == to_bytes(first.model)


def test_new_nodes_tell_where_they_come_from_and_names_stay_unique() -> None:
    model = fused(LONG).model
    names = [node.name for node in model.graph]
    values = [value.name for node in model.graph for value in node.outputs]
    assert len({*names, *values, *model.graph.initializers}) == len(names_in(model)) - 1  # less x
    first = model.graph.node(0)
    assert first.metadata_props[MERGED_NAMES] == "conv,norm,scale"
    assert first.metadata_props[RULE_NAME] == "fold_affine"
    assert [value.name for value in model.graph.outputs] == ["z", "side"]


def test_a_weight_that_two_convolutions_share_is_folded_for_each() -> None:
    initializers = fused(LONG).model.graph.initializers
    (alone, side) = (
        value.const_value.numpy()
        for value in initializers.values()
        if value.const_value.shape.numpy() == W.shape
    )
    assert not np.array_equal(alone, side)
    assert np.array_equal(side, W) or np.array_equal(alone, W), "an addition changes no weight"


def test_a_shared_weight_is_not_copied_where_the_model_may_not_grow() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 32, H, W] x) => (float[N, 32, P, Q] y, float[N, 32, R, S] z) {
            [one] a = Conv(x, w) [mul] y = Mul(a, c)
            [two] b = Conv <strides = [2, 2]> (x, w) [add] z = Add(b, c) }""",
        w=normal(32, 32, 3, 3), c=np.float32(2),
    )  # fmt: skip
    assert len(fused(model, [FOLD_AFFINE]).applied) == 2
    held = fused(model, [FOLD_AFFINE], may_grow=False)
    assert not held.applied
    assert {record.nodes for record in held.refused} == {("one", "mul"), ("two", "add")}
    assert "would grow by 36864 bytes" in held.refused[0].reason


def test_a_weight_that_is_also_an_output_keeps_its_values() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 4, H, W] x) => (float[] z, float[4, 4, 3, 3] w)
        { y = Conv(x, w) z = Mul(y, c) }""",
        w=W,
        c=C,
    )
    result = fused(model)
    assert len(result.applied) == 1
    assert_equal(model, result.model)


def test_an_operator_goes_when_all_its_convolutions_have_taken_it() -> None:
    text = """<ir_version: 8, opset_import: ["" : 15]>
        g (float[N, 4, H, W] x) => (float[] z, float[] v) {
            [sub] y = Sub(x, c) [one] z = Conv(y, w) [two] v = Conv <OTHER> (y, w)
        }"""
    both = fused(parse(text.replace("OTHER", "strides = [2, 2]"), w=W, c=C))
    assert [node.op_type for node in both.model.graph] == ["Conv", "Conv"]
    assert_equal(parse(text.replace("OTHER", "strides = [2, 2]"), w=W, c=C), both.model)
    neither = fused(parse(text.replace("OTHER", "pads = [0, 0, 0, 1]"), w=W, c=C))
    assert not neither.applied, "the subtraction would stay, and be work for nothing"
    assert all("padding" in record.reason for record in neither.refused)


def test_banned_sites_are_left_out() -> None:
    site = ("fold_batchnorm", ("conv", "norm"))
    result = fused(LONG, [FOLD_BATCHNORM, FOLD_AFFINE], banned=[site])
    assert site not in {(record.rule, record.nodes) for record in result.applied}
    assert "BatchNormalization" in {node.op_type for node in result.model.graph}
    assert_equal(LONG, result.model)


def test_limited_runs_are_prefixes_of_the_whole() -> None:
    whole = fused(LONG).applied
    for limit in range(len(whole) + 1):
        result = fused(LONG, limit=limit)
        assert result.applied == whole[:limit]
        assert_equal(LONG, result.model)


def test_refused_sites_are_recorded_with_their_reason() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 4, H, W] x) => (float[] z) {
            [conv] a = Conv(x, w) [wide] d = Mul(a, c) [neg] e = Neg(d) [exp] f = Exp(e)
            [one] h = Add(f, one) [half] i = HardSigmoid <alpha = 0.16666667> (h)
            [mul] z = Mul(h, i) }""",
        w=W, c=normal(4), one=np.float32(1),
    )  # fmt: skip
    result = fused(model, [FOLD_AFFINE, SPELL_HARDSWISH])
    assert [(record.rule, record.nodes, record.status) for record in result.refused] == [
        ("fold_affine", ("wide",), "refused"),
        ("spell_hardswish", ("half", "mul"), "refused"),
    ]
    assert "one value per channel" in result.refused[0].reason
    assert result.wanted_opset == 14
    assert not result.applied


def test_refusals_that_a_later_pass_overtakes_are_forgotten() -> None:
    """Two equal products refuse each other until the pass over the rest has made them one."""
    model = parse(
        """<ir_version: 8, opset_import: ["" : 15]> g (float[N, 4, H, W] x) => (float[] z) {
            a = Conv(x, w) d = Mul(a, c) e = Mul(a, c) f = Relu(d) h = Abs(e) i = Add(f, h)
            j = Conv(i, u) z = Add(j, one) }""",
        w=W, c=C, u=U, one=np.float32(1),
    )  # fmt: skip
    result = fused(model)
    assert len(result.applied) == 2
    assert not result.refused
    assert_equal(model, result.model)


BODIES = """<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, 4, H, W] x, bool p) => (float[N, 4, P, Q] z) {
        a = Conv(x, w)
        z = If (p) <
            then_branch = t () => (float[N, 4, P, Q] r) { [in] q = Conv(x, w) [add] r = Add(q, c) },
            else_branch = e () => (float[N, 4, P, Q] k) { [mul] k = Mul(a, c) }>
    }"""


def test_rules_apply_inside_bodies_with_weights_from_outside() -> None:
    model = parse(BODIES, w=W, c=C)
    result = fused(model)
    assert [record.nodes for record in result.applied] == [("in", "add")]
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    for choice in (True, False):
        assert_equal(model, result.model, x=X, p=np.array(choice))


def test_a_value_that_a_body_reads_is_not_folded_away() -> None:
    """The convolution outside feeds an addition outside and, unseen in its graph, a body."""
    text = BODIES.replace("a = Conv(x, w)", "a = Conv(x, w) [sum] y = Add(a, c)")
    model = parse(text.replace("x, w) [add]", "y, v) [add]"), w=W, c=C, v=normal(4, 4, 1, 1))
    files.infer_shapes(model)
    result = fused(model)
    assert "also read by" in " ".join(record.reason for record in result.refused)
    for choice in (True, False):
        assert_equal(model, result.model, x=X, p=np.array(choice))


class Rename(Rule[ir.Value]):
    """Matches its own replacement for ever."""

    name = "rename"
    roots = frozenset(("Relu",))
    affine_in_weights = False

    def find(self, root: ir.Node, opset: int) -> Site[ir.Value]:
        assert root.inputs[0] is not None
        return Site((root,), root.inputs[0])

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        return op.Relu(plan)


class Break(Rename):
    """Is wrong."""

    name = "break"

    def rewrite(self, op: Builder, plan: ir.Value) -> ir.Value:
        return op.Neg(plan)


class BreakNormalization(Break):
    name = "break_normalization"
    roots = frozenset(("BatchNormalization",))


@pytest.mark.parametrize("banned", [(), (("break_normalization", ("norm",)),)])
def test_a_rewrite_given_up_does_not_stand_in_the_way_of_another(banned: Any) -> None:
    result = fused(LONG, [BreakNormalization(), *all_rules()], banned=banned)
    assert [record.rule for record in result.refused] == ["break_normalization"] * (not banned)
    assert result.applied[0].rule == "fold_batchnorm"
    assert to_bytes(result.model) == to_bytes(fused(LONG).model)


def test_a_rule_that_matches_its_own_replacement_runs_out_of_fuel() -> None:
    result = fused(LONG, [Rename()])
    assert 1 < len(result.applied) < 100
    assert_equal(LONG, result.model)


def test_a_disproved_site_stays_and_is_tried_once() -> None:
    result = fused(LONG, [Break(), *all_rules()])
    (broken,) = [record for record in result.refused if record.rule == "break"]
    assert broken.status == "inaccurate"
    assert "difference" in broken.reason
    assert "Relu" in {node.op_type for node in result.model.graph}
    assert_equal(LONG, result.model)


def drop_last(model: ir.Model) -> ir.Model:
    model.graph.outputs.pop()
    model.graph.remove(model.graph.node(-1))
    return model


def accept(model: ir.Model) -> None:
    """Keep whatever comes."""


def test_an_attempt_that_passes_its_check_is_kept() -> None:
    changed, record = attempt("drop", LONG, drop_last, accept)
    assert len(changed.graph) == len(LONG.graph) - 1
    assert (record.rule, record.status, record.reason) == ("drop", "applied", "8 -> 7 nodes")


@pytest.mark.parametrize(
    "error",
    [
        CheckError("killed"),
        ir.passes.PassError("no\nsort"),
        ValueError("bad"),
        RuntimeError("C++ says no"),
        KeyError("name"),
        AssertionError("internal"),
    ],
)
@pytest.mark.parametrize("where", ["change", "check"])
def test_a_failing_attempt_leaves_the_model_and_says_why(error: Exception, where: str) -> None:
    before = to_bytes(LONG)

    def fail(model: ir.Model) -> Any:
        drop_last(model)
        raise error

    steps = (fail, accept) if where == "change" else (drop_last, fail)
    model, record = attempt("drop", LONG, *steps)
    assert model is LONG
    assert to_bytes(LONG) == before
    assert record.status == "refused"
    assert record.reason == " ".join(str(error).split())


def test_an_interrupted_attempt_is_no_refusal() -> None:
    def interrupt(model: ir.Model) -> ir.Model:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("drop", LONG, interrupt, accept)


def test_a_site_that_does_not_run_yet_is_tried_again_when_its_shape_is_known() -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 13]> g (float[N, 17] x) => (float[] z)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] many = {17}> {
            s = Shape(x)
            n = Slice(s, zero, one)
            t = Concat <axis = 0> (n, many)
            y = Reshape(x, t)
            v = Relu(y)
            u = MatMul(v, w)
            z = Add(u, c)
        }""",
        w=normal(17, 2),
        c=normal(2),
    )
    fusing = fuse(model, [FOLD_TARGET, SPELL_GEMM], seed=0)
    assert [record.rule for record in fusing.applied] == ["fold_target", "spell_gemm"]
    assert not fusing.refused
