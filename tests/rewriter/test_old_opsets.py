"""Rules look at every node of every opset: parameters of old ones must not make them fail."""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.simplify import settle

NODES = (
    "y = Reshape <shape = [2, -1]> (x) z = Reshape <shape = [-1]> (y)",
    "y = Concat(x, x) z = Concat(y, x)",
    "y = Pad <paddings = [0, 0, 0, 0]> (x) z = Pad <paddings = [0, 0, 1, 1]> (y)",
    "z = Slice <starts = [0], ends = [2147483647]> (x)",
    "y = Squeeze <axes = [0]> (x) z = Squeeze(y)",
    'y = Cast <to = "DOUBLE"> (x) z = Cast <to = "FLOAT"> (y)',
    'y = Shape(x) v = Gather(y, i) z = Cast <to = "FLOAT"> (v)',
    "z = Upsample <height_scale = 1.0, width_scale = 1.0> (x)",
    "z = Dropout <is_test = 1> (x)",
    "y = Split <axis = 0> (x) z = Concat <axis = 0> (y)",
    "z = Tile(x, c, c)",
    "y = MatMul(x, x) z = Add <broadcast = 1> (y, c)",
    "z = GRU <hidden_size = 2> (x, x, x)",
    "y = Transpose(x) z = Transpose(y)",
)


@pytest.mark.parametrize("opset", [1, 2, 4, 5])
@pytest.mark.parametrize("nodes", NODES)
def test_no_rule_fails_on_an_old_spelling(nodes: str, opset: int) -> None:
    text = f"""<ir_version: 3, opset_import: ["" : {opset}]> g (float[4, 4] x) => (float[] z)
    <float c = {{1}}, int64 i = {{1}}> {{ {nodes} }}"""
    model = settle(ir.from_proto(onnx.parser.parse_model(text)))
    fusing = fuse(model, all_rules(), seed=0)
    assert [value.name for value in fusing.model.graph.outputs] == ["z"]
