"""Integer probes: proof that two small models are equal for all weights, by exact arithmetic.

Both sides of a rewrite that is affine in its weights are polynomials of low degree in weights and
inputs. With integers for all of them every product and sum is exact in float64, so the two sides
must agree to the bit. If they differ as polynomials of degree d, an output entry agrees by
accident with a probability of at most d / 254 (Schwartz-Zippel, values drawn from 254 integers); d
is at most 4 for the folds of this package, so that a difference escapes n independent draws with
less than (4 / 254) ** n, for three of them one in 250,000. A probe draws once for each of
``SHAPES`` shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime.reference import Reference

Numbers = NDArray[np.floating[Any]]

_BATCHES = (2, 1, 3, 1)
_MARGINS = (1, 4, 2, 0)

SHAPES = len(_BATCHES)
"""How many shapes a probe tries: batch 1 to 3, sizes equal to the channels, and sizes as small as
the kernel or 1, where a constant widens what it is combined with."""

_EPSILON = 2.0**-10
"""A BatchNormalization's epsilon in a probe: exact, and so is a power of four minus it."""

_LARGEST = 127
_SMALL_BATCH = 8
"""Up to this many channels that probe's batch equals them too."""

_SMALL_CHANNELS = 32
"""Up to this many channels a probe also tries images whose sides equal the channels."""

_WEIGHTS = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "BatchNormalization": (1, 2, 3),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
}
"""Inputs that are weights. Other constants, such as pads and scales, keep their values."""

_DIVISORS = {("Div", 1), ("BatchNormalization", 4)}
"""Inputs that are drawn as well, from the numbers by which all else stays exact."""


def integer_twin(model: ir.Model, rng: np.random.Generator) -> ir.Model:
    """A copy of a small model in float64 whose weights are random integers.

    Divisors become signed powers of two, and variances powers of four less epsilon, so that
    everything computed from them stays exact.
    """
    twin = model.clone()
    numbers: dict[ir.Value, Numbers] = {}

    def draw(value: ir.Value | None, generate: Callable[[int], Numbers]) -> None:
        """Once: a weight shared by two operators keeps its first numbers."""
        if value is not None and value.const_value is not None and value not in numbers:
            numbers[value] = generate(value.const_value.size)

    for node in twin.graph:
        if node.op_type == "BatchNormalization":
            node.attributes.add(ir.AttrFloat32("epsilon", _EPSILON))
            draw(node.inputs[4], lambda size: 4.0 ** rng.integers(-1, 2, size) - _EPSILON)
        if node.op_type == "Div":
            draw(
                node.inputs[1],
                lambda size: rng.choice((-1, 1), size) * 2.0 ** rng.integers(-4, 5, size),
            )
    for node in twin.graph:
        for index in _WEIGHTS.get(node.op_type, ()):
            if index < len(node.inputs):
                draw(node.inputs[index], lambda size: _integers(rng, size))
    for value in twin.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype.is_floating_point():
            array = numbers.get(value, tensor.numpy()).astype(np.float64)
            value.const_value = ir.tensor(array.reshape(tensor.shape.numpy()), name=value.name)
    outputs = (value for node in twin.graph for value in node.outputs)
    for value in (*twin.graph.inputs, *twin.graph.initializers.values(), *outputs):
        if value.dtype is not None and value.dtype.is_floating_point():
            value.type = ir.TensorType(ir.DataType.DOUBLE)
    return twin


def _integers(rng: np.random.Generator, size: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Non-zero integers up to ``_LARGEST`` of both signs."""
    signs = rng.choice((-1, 1), size)
    return (signs * rng.integers(1, _LARGEST + 1, size)).astype(np.float64)


def integer_inputs(
    model: ir.Model, rng: np.random.Generator, keep_shapes: bool
) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs for a small model, of ``SHAPES`` different shapes.

    Batches and sizes are small ones of our own choice, equal where the model's dimensions are known
    to be equal; channels and sizes of 1 stay.

    Args:
        model: its graph's inputs may have unknown shapes.
        rng: the source of randomness.
        keep_shapes: sizes that the model fixes stay as they are.
    """
    extent = _kernel_extent(model)
    for index in range(SHAPES):
        chosen: dict[object, int] = _named_channels(model)
        arrays = {}
        for value in model.graph.inputs:
            shape = []
            for axis, dim in enumerate(_dims(value)):
                fixed = isinstance(dim, int) and (axis == 1 or dim == 1 or keep_shapes)
                if isinstance(dim, int) and fixed:
                    shape.append(dim)
                    continue
                # A name means one size everywhere, a number may stand for two things.
                key = dim if isinstance(dim, str) else (axis == 0, dim) if dim else (value, axis)
                shape.append(
                    chosen.setdefault(key, _choose(index, axis, len(chosen), extent, value))
                )
            arrays[value.name or ""] = _of_type(_numbers(rng, tuple(shape), value), value)
        yield arrays


def _numbers(
    rng: np.random.Generator, shape: tuple[int, ...], value: ir.Value
) -> NDArray[np.float64]:
    """Integers, or one for all elements of a read-only array if only its shape is looked at."""
    if value.uses() and all(node.op_type in ("Shape", "Size") for node, _ in value.uses()):
        return np.broadcast_to(np.float64(1), shape)
    return _integers(rng, shape)


def _named_channels(model: ir.Model) -> dict[object, int]:
    """Names of dimensions that a convolution requires to be of some size."""
    found: dict[object, int] = {}
    for value in model.graph.inputs:
        channels, dims = _channels_read(value), _dims(value)
        if channels is not None and isinstance(dims[1], str):
            found[dims[1]] = channels
    return found


def _of_type(array: NDArray[np.float64], value: ir.Value) -> NDArray[Any]:
    """Whole numbers in the type of an input; floats stay float64."""
    if value.dtype is None or value.dtype.is_floating_point():
        return array
    return (array > 0) if value.dtype == ir.DataType.BOOL else array.astype(value.dtype.numpy())


def _choose(index: int, axis: int, count: int, extent: int, value: ir.Value) -> int:
    channels = _dims(value)[1] if len(_dims(value)) > 1 else None
    if index == 1 and isinstance(channels, int) and channels <= _SMALL_CHANNELS:
        if axis == 0:
            return channels if channels <= _SMALL_BATCH else 1
        if extent <= channels:
            return channels
    if axis == 0:
        return _BATCHES[index]
    # Different sizes for all axes, but for the smallest.
    return extent + _MARGINS[index] + (count if _MARGINS[index] else 0)


def _kernel_extent(model: ir.Model) -> int:
    """The widest dilated kernel of a small model."""
    extent = 1
    for node in model.graph:
        if node.op_type in ("Conv", "ConvTranspose"):
            kernel = _weight_shape(node)[2:]
            dilations = node.attributes.get_ints("dilations", [1] * len(kernel))
            extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
            extent = max(extent, *extents)
    return extent


def _weight_shape(node: ir.Node) -> tuple[int, ...]:
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    return tuple(weight.const_value.shape.numpy())


def _dims(value: ir.Value) -> tuple[int | str | None, ...]:
    """Dimensions of an input: as declared, or what the convolution that reads it requires."""
    if value.shape is not None:
        dims = tuple(dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in value.shape)
        channels = _channels_read(value)
        return dims if channels is None or dims[1] else (dims[0], channels, *dims[2:])
    for node, index in _convolutions_after(value):
        if index == 0:
            return (None, _channels(node), *[None] * (len(_weight_shape(node)) - 2))
    return (None, 3, None, None)


def _channels_read(value: ir.Value) -> int | None:
    """The channels that a convolution requires of its input, None for another value."""
    for node, index in value.uses():
        if node.op_type in ("Conv", "ConvTranspose") and index == 0:
            return _channels(node)
    return None


def _channels(node: ir.Node) -> int:
    weight = _weight_shape(node)
    group = node.attributes.get_int("group", 1)
    return weight[0] if node.op_type == "ConvTranspose" else weight[1] * group


def _convolutions_after(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Convolutions that read a value, also through element-wise operators."""
    for node, index in value.uses():
        if node.op_type in ("Conv", "ConvTranspose"):
            yield node, index
        else:
            for output in node.outputs:
                yield from _convolutions_after(output)


def structure(model: ir.Model) -> object:
    """What a probe of a small model depends on: everything but the numbers of its weights."""
    numbers: dict[ir.Value, int] = {}
    redrawn = {
        value
        for node in model.graph
        for index, value in enumerate(node.inputs)
        if index in _WEIGHTS.get(node.op_type, ()) or (node.op_type, index) in _DIVISORS
    }

    def number(value: ir.Value | None) -> int:
        return -1 if value is None else numbers.setdefault(value, len(numbers))

    nodes = tuple(
        (
            node.op_type,
            tuple(map(number, node.inputs)),
            tuple(map(number, node.outputs)),
            tuple((name, _spelled(node.attributes[name])) for name in sorted(node.attributes)),
        )
        for node in model.graph
    )
    symbols: dict[object, object] = {None: None}

    def dims(value: ir.Value) -> tuple[object, ...]:
        return tuple(
            dim if isinstance(dim, int) else symbols.setdefault(dim, f"d{len(symbols)}")
            for dim in _dims(value)
        )

    values = tuple(
        (str(value.dtype), dims(value), _content(value, value in redrawn)) for value in numbers
    )
    return nodes, values


def _spelled(attribute: ir.Attr) -> object:
    """What two attributes that mean the same have in common; two bodies never do."""
    is_body = attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return object() if is_body else repr(attribute.value)


def _content(value: ir.Value, redrawn: bool) -> object:
    tensor = value.const_value
    if tensor is None:
        return None
    return tuple(tensor.shape.numpy()) if redrawn else tensor.numpy().tobytes()


def difference(
    before: ir.Model, after: ir.Model, inputs: Mapping[str, NDArray[np.float64]]
) -> tuple[float, float] | None:
    """Largest difference of any output in float64, and the largest value of the first model's.

    Returns:
        An infinite difference where shapes or NaN and infinity positions differ; None when
        ``before`` itself does not run on these inputs.

    Raises:
        CheckError: ``before`` runs and ``after`` does not.
    """
    try:
        wanted = Reference(before).run(inputs)
    except CheckError:
        return None
    names = {value.name for value in after.graph.inputs}
    found = Reference(after).run({n: a for n, a in inputs.items() if n in names})
    gaps = [_gap(wanted[name], found[name]) for name in wanted]
    return max(gap for gap, _ in gaps), max(largest for _, largest in gaps)


def _gap(wanted: Any, found: Any) -> tuple[float, float]:
    """Largest difference of two arrays, and the largest value of the first."""
    if not np.array_equal(np.isfinite(wanted), np.isfinite(found)):
        return float("inf"), 1.0
    finite = np.isfinite(wanted)
    gap = np.abs(np.subtract(wanted, found, dtype=np.float64))[finite].max(initial=0.0)
    return float(gap), float(np.abs(wanted)[finite].max(initial=0.0))
