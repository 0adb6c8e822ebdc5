"""What every layer promises, found by presence and tried on its ``CASES``."""

from __future__ import annotations

import functools
import inspect as introspection

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
import pytest

from advconv_onnx.costs import add_costs
from advconv_onnx.inspection import inspect
from advconv_onnx.layers import Builder, pointwise_conv
from advconv_onnx.layers.activation import ACTIVATIONS
from advconv_onnx.layers.builder import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET
from advconv_onnx.layers.case import Case
from advconv_onnx.records import Costs
from advconv_onnx.runtime.reference import Reference
from tests.layers.building import (
    LAYERS,
    assert_equal,
    build,
    initial_parameters,
    random_parameters,
    reference,
    run,
)
from tests.parsing import normal

OPSETS = (OLDEST_OPSET, DEFAULT_OPSET, NEWEST_OPSET)

each_case = pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}-{index}")
        for name, module in LAYERS.items()
        for index, case in enumerate(module.CASES)
    ],
)
each_layer = pytest.mark.parametrize("name", LAYERS)

_WITH_FINISH = [name for name in LAYERS if name != "upsample"]


def symbolic(shape: tuple[int, ...]) -> tuple[int | str, ...]:
    return ("N", shape[1], *(f"S{axis}" for axis in range(len(shape) - 2)))


def compare(name: str, case: Case, tolerance: float, **options: object) -> None:
    """ONNX Runtime against the reference, with no weight left neutral."""
    weights = random_parameters(build(name, *case, **options))
    model = build(name, *case, **options, weights=weights)
    x = normal(*case.shape, seed=1).astype(model.graph.inputs[0].dtype.numpy())
    assert_equal(run(model, x), reference(name, x, weights, case.arguments), tolerance)


def test_all_layers_are_found() -> None:
    assert {"conv", "conv_transpose", "depthwise_separable_conv", "upsample"} <= LAYERS.keys()


@each_layer
def test_module_declares_the_contract(name: str) -> None:
    module = LAYERS[name]
    function = getattr(module, name)
    assert module.__doc__
    assert "Raises:" in (function.__doc__ or "")
    options = set(introspection.signature(function).parameters) - {"b", "x", "name", "like"}
    for other in (module.costs, module.reference):
        assert options <= set(introspection.signature(other).parameters)
    assert {len(case.shape) for case in module.CASES} == {3, 4, 5}


def shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, list[int]]]:
    """Type and shape of what nodes make, 0 for a size that is not known."""
    made = {output for node in graph.node for output in node.output}
    kinds = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.output)}
    return {
        name: (kinds[name].elem_type, [dim.dim_value for dim in kinds[name].shape.dim])
        for name in made
    }


@pytest.mark.parametrize("opset", OPSETS)
@each_case
def test_model_is_valid_and_its_shapes_are_those_of_strict_inference(
    name: str, case: Case, opset: int
) -> None:
    for shape in (case.shape, symbolic(case.shape)):
        proto = ir.to_proto(build(name, shape, case.arguments, opset=opset))
        onnx.checker.check_model(proto, full_check=True)
        written = shapes(proto.graph)
        del proto.graph.value_info[:]
        for dim in proto.graph.output[0].type.tensor_type.shape.dim:
            dim.Clear()
        inferred = shapes(
            onnx.shape_inference.infer_shapes(
                proto, check_type=True, strict_mode=True, data_prop=True
            ).graph
        )
        for value, (kind, sizes) in written.items():
            assert inferred[value][0] == kind
            known = [theirs or ours for ours, theirs in zip(sizes, inferred[value][1], strict=True)]
            assert sizes == known


@pytest.mark.parametrize("opset", OPSETS)
@each_case
def test_onnxruntime_equals_the_reference(name: str, case: Case, opset: int) -> None:
    compare(name, case, 1e-6, opset=opset)


@pytest.mark.parametrize("opset", OPSETS)
@each_case
def test_in_float16_too(name: str, case: Case, opset: int) -> None:
    compare(name, case, 4e-3, opset=opset, dtype="float16")


@each_case
def test_in_float64_too(name: str, case: Case) -> None:
    options = {"dtype": "float64", "for_onnxruntime": False}
    weights = random_parameters(build(name, *case, **options))
    x = normal(*case.shape, seed=1).astype(np.float64)
    found = Reference(build(name, *case, **options, weights=weights)).run({"x": x})["y"]
    assert found.dtype == np.float64
    # Attributes and, in the evaluator's Resize, positions have the precision of float32.
    assert_equal(found, reference(name, x, weights, case.arguments), 1e-6)


@pytest.mark.parametrize("opset", OPSETS)
@each_case
def test_batch_and_size_may_stay_symbolic(name: str, case: Case, opset: int) -> None:
    shape = symbolic(case.shape)
    weights = random_parameters(build(name, shape, case.arguments))
    model = build(name, shape, case.arguments, opset=opset, weights=weights)
    for more in (0, 3):
        x = normal(case.shape[0] + more, case.shape[1], *(n + more for n in case.shape[2:]))
        found = run(model, x)
        assert_equal(found, reference(name, x, weights, case.arguments), 1e-6)
        sizes = dict(zip(shape, x.shape, strict=True))
        written = [
            dim if isinstance(dim, int) else dim.evaluate(sizes)
            for dim in model.graph.outputs[0].shape
        ]
        assert written == list(found.shape)


@each_case
def test_costs_are_those_that_inspect_finds(name: str, case: Case) -> None:
    expected = LAYERS[name].costs(case.shape, **case.arguments)
    rows = inspect(build(name, *case)).layers
    if not rows:
        assert (expected.costs.parameters, expected.costs.macs) == (0, 0)
        return
    total = functools.reduce(add_costs, (row.costs for row in rows))
    assert expected.costs == total
    assert expected.effective_kernel == rows[0].effective_kernel
    assert expected.receptive_field == rows[-1].receptive_field
    halves = LAYERS[name].costs(case.shape, **case.arguments, itemsize=2)
    assert halves.costs.bytes * 2 == expected.costs.bytes
    open_batch = LAYERS[name].costs(("N", *case.shape[1:]), **case.arguments)
    assert open_batch.costs == Costs(expected.costs.parameters, macs=None, bytes=None)


@pytest.mark.parametrize("case", LAYERS["upsample"].CASES)
def test_costs_of_upsample_show_behind_it(case: Case) -> None:
    b = Builder()
    y = LAYERS["upsample"].upsample(b, b.input("x", case.shape), **case.arguments)
    b.output(pointwise_conv(b, y, 1))
    [row] = inspect(b.model()).layers
    found = LAYERS["upsample"].costs(case.shape, **case.arguments)
    assert found.receptive_field == row.receptive_field
    assert found.costs.bytes == 4 * (np.prod(case.shape) + np.prod([*y.shape]))


@each_case
def test_same_seed_same_bytes(name: str, case: Case) -> None:
    def serialized(seed: int) -> bytes:
        return ir.to_proto(build(name, *case, seed=seed)).SerializeToString(deterministic=True)

    assert serialized(1) == serialized(1)
    assert (serialized(1) == serialized(2)) == (name == "upsample")


@pytest.mark.parametrize("name", _WITH_FINISH)
def test_weights_may_be_given_as_arrays(name: str) -> None:
    case = LAYERS[name].CASES[0]
    weights = random_parameters(build(name, *case))
    options = {key.removeprefix("layer."): array for key, array in weights.items()}
    if name == "depthwise_separable_conv":
        options = {
            "depthwise_weight": options["depthwise.weight"],
            "pointwise_weight": options["pointwise.weight"],
            "bias": options["pointwise.bias"],
        }
    found = initial_parameters(build(name, case.shape, {**case.arguments, **options}))
    assert found.keys() == weights.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize("kind", [None, *ACTIVATIONS])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", _WITH_FINISH)
def test_any_activation_and_batch_norm_may_follow(
    name: str, batch_norm: bool, kind: str | None
) -> None:
    shape, arguments = LAYERS[name].CASES[0]
    options = {**arguments, "batch_norm": batch_norm, "activation": kind}
    compare(name, Case(shape, options), 1e-6)
