"""The builder records nodes, and gives every replaced output a node of its own."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import MERGED_NAMES, Builder, scaled


@pytest.fixture
def op() -> Builder:
    return Builder(15, ["one", "two", "one"])


@pytest.fixture
def x() -> ir.Value:
    return ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT))


def test_any_operator_is_a_method_and_remembers_what_it_came_from(op: Builder, x: ir.Value) -> None:
    y = op.LeakyRelu(op.Relu(x), alpha=0.5)
    relu, leaky = op.nodes
    assert (relu.op_type, leaky.op_type) == ("Relu", "LeakyRelu")
    assert y is leaky.outputs[0]
    assert leaky.inputs[0] is relu.outputs[0]
    assert leaky.attributes.get_float("alpha") == 0.5
    assert {node.metadata_props[MERGED_NAMES] for node in op.nodes} == {"one,two"}
    assert op.opset == 15


def test_trailing_absent_inputs_are_left_out_others_stay(op: Builder, x: ir.Value) -> None:
    node = op.node("Resize", [x, None, x, None, None], {}, num_outputs=2)
    assert tuple(node.inputs) == (x, None, x)
    assert len(node.outputs) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
def test_an_initializer_knows_its_array_type_and_shape(op: Builder, dtype: type) -> None:
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    value = op.initializer(array, "w")
    assert op.initializers == [value]
    assert value.const_value is not None
    assert value.name == value.const_value.name == "w"
    assert value.shape == ir.Shape([2, 3])
    assert value.dtype is not None
    assert value.dtype.numpy() == dtype
    assert np.array_equal(value.const_value.numpy(), array)


def test_every_output_gets_a_node_of_its_own(op: Builder, x: ir.Value) -> None:
    y = op.Relu(x)
    weight = op.initializer(np.ones(3, np.float32), "w")
    first, *others = op.own([y, y, x, weight])
    assert first is y
    assert [value.producer().op_type for value in others] == ["Identity"] * 3
    assert [value.producer().inputs[0] for value in others] == [y, x, weight]
    assert len(op.nodes) == 4, "all are recorded"


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(None, np.float32), (ir.DataType.FLOAT, np.float32), (ir.DataType.FLOAT16, np.float16)],
)
def test_scaled_multiplies_in_the_type_asked_for(
    op: Builder, x: ir.Value, dtype: ir.DataType | None, wanted: type
) -> None:
    like = ir.Value(name="like", type=ir.TensorType(dtype) if dtype else None)
    assert scaled(op, x, 1.0, like) is x
    assert not op.nodes
    node = scaled(op, x, 0.5, like).producer()
    assert node is not None
    assert node.op_type == "Mul"
    assert node.inputs[0] is x
    factor = node.inputs[1].const_value.numpy()
    assert (factor.dtype, factor.shape, float(factor)) == (wanted, (), 0.5)
