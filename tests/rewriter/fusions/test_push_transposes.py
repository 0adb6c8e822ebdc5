"""Regions of push_transposes that end in several Transposes, and mutants of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx.parser
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter import permuting
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.push_transposes import PushTransposes
from advconv_onnx.rewriter.simplify import settle
from tests.rewriter.fusions.disproving import assert_disproved, mutate

_IN, _OUT = "Transpose <perm = [0, 2, 3, 1]>", "Transpose <perm = [0, 3, 1, 2]>"


def text(nodes: str, out: str = "float[] z") -> str:
    return f"""<ir_version: 8, opset_import: ["" : 13]>
    g (float[N, 4, H, W] x, float[N, 4, H, W] y) => ({out})
    <float[4] c = {{1, -2, 3, 4}}, int64[1] one = {{1}}, int64[1] three = {{3}},
     int64[8] p = {{0, 1, 2, 0, 0, 3, 4, 0}}> {{ {nodes} }}"""


def test_one_region_with_two_exits_is_rewritten_at_once() -> None:
    nodes = f"a = {_IN} (x) b = Relu(a) z = {_OUT} (b) d = Mul(b, c) v = {_OUT} (d)"
    model = settle(ir.from_proto(onnx.parser.parse_model(text(nodes, "float[] z, float[] v"))))
    fusing = fuse(model, [PushTransposes()], seed=0)
    assert len(fusing.applied) == 1
    assert sorted(node.op_type for node in fusing.model.graph) == ["Mul", "Relu"]


def test_a_region_across_blocks_is_rewritten() -> None:
    """As tf2onnx writes a residual block: each convolution between two Transposes."""
    nodes = f"""a = {_IN} (x) b = Relu(a) d = {_OUT} (b) e = MaxPool <kernel_shape = [1, 1]> (d)
        f = {_IN} (e) g = Add(f, b) h = {_OUT} (g) z = Abs(h)"""
    model = settle(ir.from_proto(onnx.parser.parse_model(text(nodes))))
    fusing = fuse(model, [PushTransposes()], seed=0)
    assert [node.op_type for node in fusing.model.graph] == ["Relu", "MaxPool", "Add", "Abs"]


def _wrong_order(self: PushTransposes, op: Builder, plan: Any) -> list[ir.Value]:
    return PushTransposes.rewrite(self, op, dataclasses.replace(plan, order=plan.inverse))


@pytest.mark.parametrize(
    "nodes",
    [
        f"a = {_IN} (x) b = Mul(a, c) z = {_OUT} (b)",
        f"a = {_IN} (x) b = {_IN} (y) d = Concat <axis = 3> (a, b) z = {_OUT} (d)",
        f"a = {_IN} (x) b = ReduceMean <axes = [1]> (a) d = Mul(a, b) z = {_OUT} (d)",
        f"a = {_IN} (x) b = Slice(a, one, three, one) z = {_OUT} (b)",
        f"a = {_IN} (x) b = Pad(a, p) z = {_OUT} (b)",
    ],
)
def test_axes_in_another_order_are_disproved(nodes: str) -> None:
    assert_disproved(mutate(PushTransposes, rewrite=_wrong_order), text(nodes))


@pytest.mark.parametrize(
    ("operator", "nodes"),
    [
        ("Concat", f"a = {_IN} (x) b = {_IN} (y) d = Concat <axis = 2> (a, b) z = {_OUT} (d)"),
        ("Pad", f"a = {_IN} (x) b = Pad(a, p) z = {_OUT} (b)"),
        ("Slice", f"a = {_IN} (x) b = Slice(a, one, three, one) z = {_OUT} (b)"),
    ],
)
def test_axes_that_are_not_renamed_are_disproved(
    monkeypatch: pytest.MonkeyPatch, operator: str, nodes: str
) -> None:
    condition, _ = permuting._KINDS[operator]
    monkeypatch.setitem(permuting._KINDS, operator, (condition, permuting._nothing))
    assert_disproved(PushTransposes(), text(nodes))
