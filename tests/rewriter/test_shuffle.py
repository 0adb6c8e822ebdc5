"""Reading Reshape, Transpose, Reshape."""

from __future__ import annotations

import pytest

from advconv_onnx.rewriter.rule import NoSite
from advconv_onnx.rewriter.shuffle import Shuffle, shuffle_of
from tests.parsing import parse


def read(nodes: str) -> Shuffle:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 13]> g (float[N, 6, H, W] x) => (float[] z)
        <int64[5] s = {{0, 2, 3, 4, -1}}, int64[3] t = {{0, 6, -1}}, int64[1] n = {{0}},
         int64[1] one = {{1}}, int64[1] all = {{6}}, int64[1] rest = {{-1}},
         int64[1] two = {{2}}> {{ {nodes} }}"""
    )
    return shuffle_of(model.graph.node(-1))


_TRANSPOSE = "Transpose <perm = [0, 2, 1, 3, 4]>"


def test_constant_targets() -> None:
    found = read(f"a = Reshape(x, s) b = {_TRANSPOSE} (a) z = Reshape(b, t)")
    assert found.sizes == ("N", 6, "H", "W")
    assert found.split == ("N", 2, 3, 4, "!4")
    assert found.perm == (0, 2, 1, 3, 4)
    assert found.merged == ("N", 6, "!2")
    assert [node.op_type for node in found.nodes] == ["Reshape", "Transpose", "Reshape"]


def test_computed_targets_bring_their_nodes() -> None:
    found = read(
        "k = Shape(x) m = Slice(k, n, one) u = Concat <axis = 0> (m, all, rest)"
        f" a = Reshape(x, s) b = {_TRANSPOSE} (a) z = Reshape(b, u)"
    )
    assert found.merged[:2] == ("N", 6)
    assert [node.op_type for node in found.nodes[:3]] == ["Shape", "Slice", "Concat"]


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Reshape(x, s) z = Reshape(a, t)",
        "b = Transpose(x) z = Reshape(b, t)",
        "k = Shape(x) m = Mul(k, two) a = Reshape(x, m) b = Transpose(a) z = Reshape(b, t)",
    ],
)
def test_other_nodes(nodes: str) -> None:
    with pytest.raises(NoSite):
        read(nodes)
