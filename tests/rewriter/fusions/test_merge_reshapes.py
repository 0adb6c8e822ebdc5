"""Mutants of merge_reshapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.fusions.merge_reshapes import MergeReshapes
from advconv_onnx.rewriter.rule import Site
from tests.rewriter.fusions.disproving import assert_disproved, mutate


def _ends_like_the_last(self: MergeReshapes, root: ir.Node, opset: int) -> Site[Any]:
    """A size of 0 is kept from the first input instead of the last."""
    site = MergeReshapes.find(self, root, opset)
    target = root.inputs[1]
    assert target is not None
    assert target.const_value is not None
    own = tuple(target.const_value.numpy().tolist())
    return dataclasses.replace(site, plan=dataclasses.replace(site.plan, ints=own))


def _reversed(self: MergeReshapes, op: Builder, plan: Any) -> ir.Value:
    return MergeReshapes.rewrite(self, op, dataclasses.replace(plan, ints=plan.ints[::-1]))


def _dropped(self: MergeReshapes, op: Builder, plan: Any) -> ir.Value:
    x: ir.Value = plan.x
    return x


_TWO = "int64[2] s = {-1, 4}, int64[2] t = {0, 4}, int64[2] w = {-1, 12}, int64[1] a = {2}"


@pytest.mark.parametrize(
    ("methods", "nodes"),
    [
        ({"find": _ends_like_the_last}, "y = Reshape(x, s) z = Reshape(y, t)"),
        ({"rewrite": _reversed}, "y = Reshape(x, s) z = Reshape(y, w)"),
        ({"rewrite": _dropped}, "y = Reshape(x, s) z = Reshape(y, w)"),
        ({"rewrite": _dropped}, "y = Unsqueeze(x, a) z = Unsqueeze(y, a)"),
    ],
)
def test_mutant_is_disproved(methods: dict[str, Any], nodes: str) -> None:
    assert_disproved(
        mutate(MergeReshapes, **methods),
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, 3, 4] x) => (float[] z) <{_TWO}> {{ {nodes} }}""",
    )
