"""Models of all rules, varied at random: what runs before runs after, with equal results.

The models are examples and near misses; a variant is one as often as the other: an operator or a
number is another one, a constant has another shape or is given at run time, operands change places,
a value in between is read.
"""

from __future__ import annotations

import collections
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from advconv_onnx.errors import CheckError
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.rewriter import fusions
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.simplify import settle
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

TOLERANCE = 1e-4
"""Of the largest output. A mistake shows as 1; cancellation in a few float32 layers as 1e-5."""

RAN = "ran"
"""Counts the variants that ran, beside the names of rules."""

RULES = sorted(info.name for info in pkgutil.iter_modules(fusions.__path__))

ARITHMETIC = ("Add", "Sub", "Mul", "Div")

Arrays = dict[str, np.ndarray]
Edit = Callable[[onnx.GraphProto, np.random.Generator], None]


def pick(rng: np.random.Generator, choices: Any) -> Any:
    """One of several; IndexError for none."""
    choices = list(choices)
    return choices[rng.integers(len(choices))] if choices else [][0]


def change_attribute(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    attribute = pick(rng, (a for node in graph.node for a in node.attribute))
    if attribute.ints and rng.random() < 0.5:
        attribute.ints[:] = rng.permutation(attribute.ints).tolist()
    elif attribute.ints:
        attribute.ints[rng.integers(len(attribute.ints))] += int(rng.choice((-1, 1)))
    elif attribute.type == onnx.AttributeProto.INT:
        # A flag stays a flag: runtimes disagree about a ``keepdims`` of 2.
        attribute.i = 1 - attribute.i if attribute.i in (0, 1) else attribute.i + 1
    elif attribute.type == onnx.AttributeProto.FLOAT:
        attribute.f *= 1.25


def change_operator(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    node = pick(rng, (node for node in graph.node if node.op_type in ARITHMETIC))
    node.op_type = pick(rng, ARITHMETIC)


def change_constant(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    tensor = pick(rng, graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # Some models hold the largest float there is.
            for factor in (-1, 1.25):
                array[rng.random(array.shape) < 0.3] *= array.dtype.type(factor)
    elif array.size and array.dtype.kind == "i":
        # Of an array, because it may hold the largest integer there is and wrap around.
        array.reshape(-1)[rng.integers(array.size, size=1)] += rng.choice((-1, 1), 1)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def draw_constants(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.size > 1:
            drawn = rng.uniform(0.2, 2, array.shape).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))


def reshape_constant(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    tensor = pick(rng, graph.initializer)
    array = numpy_helper.to_array(tensor)
    shapes = [(1, *array.shape), (*array.shape, 1), (array.size,), tuple(reversed(array.shape))]
    tensor.CopyFrom(numpy_helper.from_array(array.reshape(pick(rng, shapes)), tensor.name))


def give_constant_at_run_time(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    floats = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    tensor = pick(rng, floats)
    graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph.initializer.remove(tensor)


def swap_operands(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    node = pick(rng, (node for node in graph.node if len(node.input) == 2))
    node.input[:] = reversed(node.input)


def read_in_between(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    returned = {value.name for value in graph.output}
    known = {value.name: value for value in graph.value_info}
    names = [name for node in graph.node for name in node.output if name not in returned]
    graph.output.append(known[pick(rng, (name for name in names if name in known))])


def take_out_a_node(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Its readers read its input; a node that gives an output stays."""
    returned = {value.name for value in graph.output}
    node = pick(rng, (n for n in graph.node if n.input and not returned & set(n.output)))
    graph.node.remove(node)
    for reader in graph.node:
        reader.input[:] = [node.input[0] if n == node.output[0] else n for n in reader.input]


def put_in_a_node(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    index = int(rng.integers(len(graph.node)))
    reader = graph.node[index]
    position = int(rng.integers(max(len(reader.input), 1)))
    node = helper.make_node(
        pick(rng, ("Relu", "Neg", "Sigmoid", "Identity")), [reader.input[position]], ["put_in"]
    )
    reader.input[position] = "put_in"
    graph.node.insert(index, node)


def change_size(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    dims = [dim for value in graph.input for dim in value.type.tensor_type.shape.dim]
    dim = pick(rng, dims)
    if dim.dim_param or rng.random() < 0.3:
        dim.dim_value = int(rng.integers(1, 7))
    else:
        dim.dim_param = "D"


EDITS: tuple[Edit, ...] = (
    change_attribute,
    change_attribute,
    change_operator,
    change_constant,
    change_constant,
    draw_constants,
    reshape_constant,
    give_constant_at_run_time,
    swap_operands,
    read_in_between,
    take_out_a_node,
    put_in_a_node,
    change_size,
)


def vary(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto | None:
    """A model with one to three edits, its shapes not claimed; None where it is invalid."""
    varied = onnx.ModelProto()
    varied.CopyFrom(model)
    try:
        for edit in rng.choice(len(EDITS), rng.integers(1, 4)):
            EDITS[edit](varied.graph, rng)
        del varied.graph.value_info[:]
        for value in varied.graph.output:
            value.type.tensor_type.ClearField("shape")
        varied = onnx.shape_inference.infer_shapes(varied, check_type=True, strict_mode=True)
        onnx.checker.check_model(varied)
    except (
        IndexError,
        ValueError,
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
    ):
        return None
    return varied


def draw_inputs(model: onnx.ModelProto, rng: np.random.Generator) -> Arrays:
    sizes: dict[str, int] = collections.defaultdict(lambda: int(rng.integers(3, 8)))
    inputs = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [dim.dim_value or sizes[dim.dim_param] for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        drawn = rng.normal(size=shape, scale=2) if dtype.kind == "f" else rng.integers(0, 5, shape)
        inputs[value.name] = np.asarray(drawn).astype(dtype)
    return inputs


def run(model: ir.Model, inputs: Arrays) -> Arrays:
    used = {value.name for value in model.graph.inputs}
    session = open_session(model, graph_optimizations=False, threads=1)
    return run_session(session, {name: a for name, a in inputs.items() if name in used})


def assert_equal(wanted: Arrays, found: Arrays, text: str) -> None:
    assert list(found) == list(wanted), text
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), text
        if array.dtype.kind == "f" and array.size:
            scale = np.abs(array).max().astype(float)
            gap = np.abs(found[name].astype(float) - array.astype(float)).max()
            assert gap <= (TOLERANCE if array.dtype.itemsize > 2 else 2e-2) * scale, text
        else:
            assert np.array_equal(found[name], array), text


def check(varied: onnx.ModelProto, rng: np.random.Generator) -> Iterator[str]:
    """Fuse a variant by all rules and compare; yield the rules applied, nothing if it can't run."""
    text, inputs = onnx.printer.to_text(varied), draw_inputs(varied, rng)
    model = settle(ir.from_proto(varied))
    try:
        wanted, again = (run(ir.from_proto(varied), inputs) for _ in range(2))
    except CheckError:
        return
    if not all(np.isfinite(a).all() for a in wanted.values() if a.dtype.kind == "f"):
        return
    if not all(np.array_equal(array, again[name]) for name, array in wanted.items()):
        return  # Dropout in training draws at random.
    fused = fuse(model, all_rules(), seed=0)
    onnx.checker.check_model(ir.to_proto(fused.model))
    assert_equal(wanted, run(fused.model, inputs), text)
    yield RAN
    yield from (record.rule for record in fused.applied)


def sweep(rule: str, seed: int, count: int) -> None:
    """Check variants of a rule's models: ``count`` or more that run, some rewritten by it."""
    module = importlib.import_module(f"{fusions.__name__}.{rule}")
    misses = [text for text, _ in module.NEAR_MISSES]
    models = [
        onnx.shape_inference.infer_shapes(ir.to_proto(settle(ir.from_proto(parsed))))
        for parsed in map(onnx.parser.parse_model, (*module.EXAMPLES, *misses))
    ]
    rng = np.random.default_rng([seed, *rule.encode()])
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(50 * count):
        varied = vary(pick(rng, models), rng)
        if varied is not None:
            counts.update(set(check(varied, rng)))
        if counts[RAN] >= count and counts[rule] >= 2:
            return
    raise AssertionError(f"too few variants that run or are rewritten: {counts}")


@pytest.mark.parametrize("rule", RULES)
def test_variants_keep_their_results(rule: str) -> None:
    sweep(rule, seed=0, count=10)


@pytest.mark.long
@pytest.mark.parametrize("rule", RULES)
def test_many_variants_keep_their_results(rule: str) -> None:
    sweep(rule, seed=1, count=200)
