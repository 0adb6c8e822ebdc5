"""Layers in 8 bits: judged by onnx's own evaluator, which knows nothing of integer kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from advconv_onnx.exporters.calibration import Sample, ranges
from advconv_onnx.exporters.quantization import Quantization, activations, is_quantized, layers
from advconv_onnx.rewriter.simplify import raise_opset, settle
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.reference import Reference
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse

BIAS = {"b": normal(8, seed=9)}
KINDS = {
    "dense": ("z = Conv <pads = [1, 1, 1, 1]> (x, w, b)", (8, 4, 3, 3), BIAS),
    "depthwise": ("z = Conv <group = 4> (x, w, b)", (8, 1, 3, 3), BIAS),
    "dilated": ("z = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (x, w)", (8, 4, 3, 3), {}),
    "grouped": ("z = Conv <group = 2, strides = [2, 2]> (x, w, b)", (8, 2, 3, 3), BIAS),
    "transposed": ("z = ConvTranspose <strides = [2, 2]> (x, w, b)", (4, 8, 3, 3), BIAS),
    "transposed depthwise": (
        "z = ConvTranspose <strides = [2, 2], group = 4> (x, w, b)",
        (4, 1, 4, 4),
        {"b": normal(4, seed=9)},
    ),
    "transposed grouped": (
        "z = ConvTranspose <strides = [2, 2], group = 2> (x, w, b)",
        (4, 4, 3, 3),
        BIAS,
    ),
    "transposed grouped without bias": (
        "z = ConvTranspose <strides = [2, 2], group = 2> (x, w)",
        (4, 4, 3, 3),
        {},
    ),
    "linear": ("f = Flatten (x) z = Gemm <transB = 1> (f, w, b)", (8, 4 * 9 * 10), BIAS),
    "linear with a factor": (
        "f = Flatten (x) z = Gemm <alpha = 0.5> (f, w, b)",
        (4 * 9 * 10, 8),
        BIAS,
    ),
    "product": ("z = MatMul (x, w)", (10, 8), {}),
}


def build(nodes: str, opset: int = 13, **weights: np.ndarray) -> ir.Model:
    head = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2, 4, 9, 10] x) => (float z)'
    return settle(parse(f"{head} {{ {nodes} }}", **weights))


def samples(number: int = 4) -> list[Sample]:
    return [Sample({"x": normal(2, 4, 9, 10, seed=seed)}) for seed in range(number)]


def quantized(model: ir.Model, bits: int = 8) -> Quantization:
    found = ranges(model, activations(model), samples(), "minmax")
    return Quantization(model, found, bits, every=True)


def relative(want: np.ndarray, got: np.ndarray) -> float:
    return float(np.abs(want - got).max() / np.ptp(want))


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return run_session(open_session(model), {"x": x})["z"]


def evaluate(model: ir.Model, x: np.ndarray) -> np.ndarray:
    newer = ir.to_proto(raise_opset(model, 21))  # the evaluator has QuantizeLinear since 19
    if any(node.attributes.get_int("group", 1) > 1 for node in model.graph):
        # The evaluator's ConvTranspose is wrong with groups, its Conv takes seconds (onnx 1.23).
        return Reference(ir.from_proto(newer)).run({"x": x})["z"]
    [result] = ReferenceEvaluator(newer).run(None, {"x": x})
    return np.asarray(result)


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer(kind: str, bits: int) -> None:
    nodes, shape, others = KINDS[kind]
    weights = normal(*shape, seed=1) * np.geomspace(0.1, 1, shape[0]).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    model = build(nodes, w=weights.astype(np.float32), **others)
    quantization = quantized(model, bits)
    assert len(quantization.layers) == 1
    result = quantization.without(())
    stored = [v.const_value for v in result.graph.initializers.values()]
    [found] = [t for t in stored if t is not None and tuple(t.shape) == shape]
    assert found.dtype == ir.DataType.INT8
    assert np.abs(found.numpy().astype(int)).max() == {7: 64, 8: 127}[bits]
    x = samples()[1].inputs["x"]
    assert relative(run(model, x), run(result, x)) < {7: 0.03, 8: 0.02}[bits]
    # One step of the output where a sum falls between two.
    assert relative(evaluate(result, x), run(result, x)) < 1.5 / 255


def test_scales_are_by_output_channel() -> None:
    for kind, count in (("dense", 8), ("transposed", 8), ("linear", 8), ("depthwise", 8)):
        nodes, shape, others = KINDS[kind]
        result = quantized(build(nodes, w=normal(*shape), **others)).without(())
        [node] = [n for n in result.graph if n.op_type in ("Conv", "ConvTranspose", "Gemm")]
        weights = node.inputs[1]
        assert weights is not None
        producer = weights.producer()
        assert producer is not None
        assert producer.op_type == "DequantizeLinear"
        scale = producer.inputs[1]
        assert scale is not None
        assert scale.const_value is not None
        assert scale.const_value.size == count, kind


TWO = "a = Conv <pads = [1, 1, 1, 1]> (x, w) r = Relu (a) z = Conv <pads = [1, 1, 1, 1]> (r, v)"
WEIGHTS = {"w": normal(4, 4, 3, 3, seed=1), "v": normal(4, 4, 3, 3, seed=2)}


def test_what_is_kept_stays_as_it_was() -> None:
    quantization = quantized(build(TWO, **WEIGHTS))
    names = quantization.layers
    half = quantization.without(names[:1])
    types = {v.const_value.dtype for v in half.graph.initializers.values() if v.const_value}
    kept = [v.const_value for v in half.graph.initializers.values() if v.name == "w"]
    assert len(kept) == 1
    assert ir.DataType.INT8 in types
    x = samples()[0].inputs["x"]
    assert relative(evaluate(half, x), run(half, x)) < 1.5 / 255


def test_rounding_does_what_an_activation_does() -> None:
    operators = [node.op_type for node in quantized(build(TWO, **WEIGHTS)).without(()).graph]
    assert "Relu" not in operators


def test_an_activation_stays_where_a_body_reads_what_is_before_it() -> None:
    body = "t () => (float[2, 4, 9, 10] k) {{ k = {} (a) }}"
    branches = f"then_branch = {body.format('Neg')}, else_branch = {body.format('Abs')}"
    nodes = TWO.replace("z =", "c =") + (
        f" s = ReduceSum <keepdims = 0> (x) p = Greater (s, o) i = If (p) <{branches}>"
        " z = Add (c, i)"
    )
    model = build(nodes, **WEIGHTS, o=np.float32(0))
    result = quantized(model).without(())
    assert "Relu" in [node.op_type for node in result.graph]
    for seed in range(4):
        x = normal(2, 4, 9, 10, seed=seed)
        assert relative(run(model, x), run(result, x)) < 0.05


def test_the_effect_of_a_layer_is_that_of_its_rounding() -> None:
    model = build("z = Conv <pads = [1, 1, 1, 1]> (x, w)", w=WEIGHTS["w"])
    quantization = quantized(model)
    result, [name] = quantization.without(()), quantization.layers
    x = samples()[0].inputs["x"]
    # Without the rounding of its result, which belongs to the layer that reads it.
    conv = next(node for node in result.graph if node.op_type == "Conv")
    result.graph.outputs[0].name, conv.outputs[0].name = "rounded", "z"
    result.graph.outputs[0] = conv.outputs[0]
    want = relative(run(model, x), evaluate(result, x))
    effect = quantization.effects([{"x": x}], None)[name]
    assert effect.largest == pytest.approx(want, rel=1e-3)
    assert 0 < effect.mean < effect.largest


def test_a_layer_with_outliers_is_found() -> None:
    far = "h = Add (a, far) n = Add (h, back) z = Conv <pads = [1, 1, 1, 1]> (n, v)"
    nodes = f"a = Conv <pads = [1, 1, 1, 1]> (x, w) {far}"
    model = build(nodes, **WEIGHTS, far=np.float32(2000), back=np.float32(-2000))
    effects = quantized(model).effects([samples()[0].inputs], None)
    worst = max(effects, key=lambda name: effects[name].mean)
    assert next(node.op_type for node in layers(model) if node.name == worst) == "Add"


def test_infinite_values_keep_a_layer_in_float32() -> None:
    nodes = "a = Conv <pads = [1, 1, 1, 1]> (x, w) h = Sub (a, far) s = Sigmoid (h) z = Add (s, x)"
    model = build(nodes, w=WEIGHTS["w"], far=np.float32(np.inf))
    quantization = quantized(model)
    types = {node.name: node.op_type for node in model.graph}
    assert [types[name] for name in quantization.layers] == ["Conv", "Add"]
    assert [types[name] for name in quantization.impossible] == ["Sigmoid"]
    x = samples()[0].inputs["x"]
    assert relative(run(model, x), run(quantization.without(()), x)) < 0.02


def test_only_layers_with_integer_kernels_unless_every_one_is_wanted() -> None:
    nodes, shape, others = KINDS["transposed"]
    model = build(nodes, w=normal(*shape), **others)
    assert not layers(model)
    assert not Quantization(model, {}, 8).layers
    assert [node.op_type for node in layers(model, every=True)] == ["ConvTranspose"]


def test_what_is_quantized_already_is_known() -> None:
    model = build(TWO, **WEIGHTS)
    assert not is_quantized(model)
    assert is_quantized(quantized(model).without(()))


def test_only_constant_weights_in_float32_make_a_layer() -> None:
    model = build("t = Transpose <perm = [0, 1, 3, 2]> (x) m = MatMul (x, t) z = Conv (m, w)",
                  w=normal(4, 4, 1, 1))  # fmt: skip
    assert [node.op_type for node in layers(model)] == ["Conv"]


def test_a_gemm_that_scales_its_bias_stays() -> None:
    nodes = "f = Flatten (x) z = Gemm <{}> (f, w, b)"
    assert not layers(build(nodes.format("beta = 2.0"), w=normal(360, 8), **BIAS))
    assert layers(build(nodes.format("beta = 1.0"), w=normal(360, 8), **BIAS))
