"""Names, scopes, rollback, weights and existing graphs of the builder."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.layers import Builder, activation, conv, depthwise_separable_conv, linear
from advconv_onnx.layers.builder import NEWEST_OPSET, OLDEST_OPSET
from advconv_onnx.runtime.session import open_session
from tests.parsing import normal, parse


def new(shape: tuple[int | str, ...] = (1, 4, 8, 8), **options: object) -> tuple[Builder, ir.Value]:
    b = Builder(**options)
    return b, b.input("x", shape)


def names(b: Builder) -> list[str | None]:
    return [node.name for node in b.model().graph]


def test_layers_are_numbered_by_family() -> None:
    b, x = new()
    x = conv(b, conv(b, x, 4, 1), 4, 1)
    activation(b, x, "Relu")
    assert names(b) == ["conv", "conv_1", "relu"]


def test_scopes_nest_and_name_weights_as_torch_does() -> None:
    b, x = new()
    with b.scope("layer1"), b.scope("0"):
        conv(b, x, 2, name="conv1", bias=False, batch_norm=True)
    assert names(b) == ["layer1.0.conv1", "layer1.0.conv1.norm"]
    assert list(b.model().graph.initializers)[:2] == [
        "layer1.0.conv1.weight",
        "layer1.0.conv1.norm.weight",
    ]


def test_a_scope_may_be_entered_again_but_a_name_used_once() -> None:
    b, x = new()
    for name in ("a", "b"):
        with b.scope("block"):
            x = conv(b, x, 4, 1, name=name)
    with b.scope("block"), pytest.raises(InputError, match=r"'block\.a'.* has this name already"):
        conv(b, x, 4, 1, name="a")


def test_a_refused_layer_leaves_nothing_behind() -> None:
    b, x = new()
    with pytest.raises(InputError, match=r"depthwise_separable_conv '.*'.*pointwise.*channels=0"):
        depthwise_separable_conv(b, x, 0)
    assert names(b) == []
    assert not b.model().graph.initializers
    conv(b, x, 4, 1)
    assert names(b) == ["conv"]
    assert [use.name for use in x.consumers()] == ["conv"]


def test_a_failing_initializer_leaves_nothing_behind_either() -> None:
    def fail(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        raise ZeroDivisionError

    b, x = new()
    with pytest.raises(ZeroDivisionError):
        conv(b, x, 4, 1, weight=fail, name="a")
    conv(b, x, 4, 1, name="a")
    assert names(b) == ["a"]


def test_weights_depend_on_seed_and_name_only() -> None:
    b, x = new()
    first = conv(b, x, 4, 1, name="first")
    conv(b, first, 4, 1, name="second")
    alone, y = new()
    conv(alone, y, 4, 1, name="second")
    other, z = new(seed=1)
    conv(other, z, 4, 1, name="second")

    def weight(b: Builder) -> np.ndarray:
        return b.model().graph.initializers["second.weight"].const_value.numpy()

    np.testing.assert_array_equal(weight(b), weight(alone))
    assert not np.array_equal(weight(b), weight(other))


def test_given_weights_are_taken_and_faults_listed_in_one_error() -> None:
    weights = {
        "a.weight": np.ones((4, 4, 1, 1), np.float64),
        "a.bias": np.ones(3, np.float32),
        "c.weight": np.ones((8, 4), np.float32),
        "stray": np.ones(1, np.float32),
    }
    b, x = new(weights=weights)
    conv(b, x, 4, 1, name="a")
    conv(b, x, 4, 1, name="b", bias=False)
    linear(b, b.input("z", (1, 8)), 4, name="c")
    with pytest.raises(InputError) as raised:
        b.model()
    for part in ("missing b.weight", "misshapen a.bias (3, needs 4), c.weight", "unexpected stray"):
        assert part in str(raised.value)
    weights["a.bias"] = np.ones(4, np.float32)
    del weights["stray"], weights["c.weight"]
    b, x = new(weights=weights)
    conv(b, x, 4, 1, name="a")
    stored = b.model().graph.initializers["a.weight"].const_value
    assert stored.dtype == ir.DataType.FLOAT
    assert stored.numpy().sum() == 16


def test_continues_an_existing_graph_without_touching_its_names() -> None:
    model = parse(
        '<ir_version: 8, opset_import: ["" : 15]>'
        "g (float[N,3,8,8] x) => (float[N,3,8,8] conv) { conv = Relu(x) }"
    )
    b = Builder.inside(model)
    y = conv(b, b.value("conv"), 2, 3)
    b.output(y, "features")
    assert b.model() is model
    assert [node.name for node in model.graph][-1] == "conv_1"
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    outputs = open_session(model).run(None, {"x": np.ones((2, 3, 8, 8), np.float32)})
    assert [output.shape for output in outputs] == [(2, 3, 8, 8), (2, 2, 6, 6)]
    with pytest.raises(InputError, match="no value 'z'; it has x"):
        b.value("z")


def test_avoids_the_names_of_exported_parameters_and_lists_no_output_twice() -> None:
    inputs = {"x": ("N", 3, 8, 8), "conv.weight": (3, 3, 1, 1)}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", list(inputs), ["y"], "/conv/Conv")],
        "export",
        [onnx.helper.make_tensor_value_info(n, 1, shape) for n, shape in inputs.items()],
        [onnx.helper.make_tensor_value_info("y", 1, ("N", 3, 8, 8))],
        [onnx.numpy_helper.from_array(normal(3, 3, 1, 1), "conv.weight")],
    )
    opsets = [onnx.helper.make_opsetid("", 15)]
    model = ir.from_proto(onnx.helper.make_model(graph, ir_version=3, opset_imports=opsets))
    b = Builder.inside(model)
    b.output(conv(b, b.value("y"), 2, 3), "z")
    assert "conv_1.weight" in model.graph.initializers
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    with pytest.raises(InputError, match="'y' is an output already"):
        b.output(b.value("y"), "other")


def test_values_of_another_builder_are_refused() -> None:
    _, x = new()
    b, _ = new()
    with pytest.raises(InputError, match="'x' belongs to another graph; use one builder"):
        conv(b, x, 2)
    with pytest.raises(InputError, match="'x' belongs to another graph"):
        b.output(x)


def test_numbers_beyond_the_type_are_refused() -> None:
    b, x = new(dtype="float16")
    with pytest.raises(
        InputError, match=r"'conv\.weight' holds 100000, beyond float16; use a wider"
    ):
        conv(b, x, 4, 1, weight=np.full((4, 4, 1, 1), 1e5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda b: Builder(opset=OLDEST_OPSET - 1), f"opset {OLDEST_OPSET - 1}: layers exist for"),
        (lambda b: Builder(opset=NEWEST_OPSET + 1), f"{OLDEST_OPSET} to {NEWEST_OPSET}"),
        (lambda b: Builder(dtype="int8"), "dtype 'int8': use one of float32"),
        (lambda b: b.input("y", (1, 0, 4)), "sizes must be at least 1, got 1x0x4"),
        (lambda b: b.input("x", (1, 4)), "the graph has this name already"),
        (lambda b: b.input("", (1, 4)), "it needs a name"),
        (lambda b: b.input("y", (1, 4, "a b", 4)), "'a b' is no size, name or expression"),
        (lambda b: (b.input("r.weight", (1,)), conv(b, b.value("x"), 2, name="r")), "already"),
        (lambda b: Builder(seed=-1), "seed -1: give a number from 0 up"),
        (lambda b: b.input("y", (1, 4), "float8"), "dtype 'float8': use one of"),
        (lambda b: b.output(b.value("x"), "y"), "'x' is an input; add a layer first"),
        (lambda b: b.output(conv(b, b.value("x"), 2), "x"), "the graph has this name already"),
        (lambda b: linear(b, b.input("y", ("N", "C", 2)), 3), "give at least one feature"),
        (lambda b: conv(b, b.input("y", (1, "C", 9)), 3), "channels of 'y' .* are unknown"),
        (lambda b: conv(b, b.input("y", (1, 9)), 3), "one to three spatial axes"),
        (
            lambda b: conv(b, b.input("d", (1, 4, 8, 8), "float64"), 3),
            r"no double kernel for Conv; use float32 or float16, or Builder\(for_onnx",
        ),
    ],
)
def test_refuses_with_a_remedy(make: object, message: str) -> None:
    b, _ = new()
    with pytest.raises(InputError, match=message):
        make(b)


def test_other_runtimes_may_have_the_kernels() -> None:
    b, x = new(dtype="float64", for_onnxruntime=False)
    b.output(conv(b, x, 2, batch_norm=True, activation="HardSwish"))
    onnx.checker.check_model(ir.to_proto(b.model()), full_check=True)
    assert {v.dtype for v in b.model().graph.initializers.values()} == {ir.DataType.DOUBLE}
