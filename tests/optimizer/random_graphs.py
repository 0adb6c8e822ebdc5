"""Random valid graphs of convolutions and of what stands around them, each made from one integer.

A graph grows from its input: every step reads a value made so far, mostly the last, and adds a few
nodes whose shapes are known here, so that each graph runs. Weights are scaled so that no output is
degenerate. Dimensions may be dynamic, constants may be initializers or Constant nodes and may be
shared, values may have several readers and be outputs of the graph too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

OPSETS = tuple(range(11, 22))
MOST_ELEMENTS = 6000
"""Of a value: graphs are to be many, not large."""

_INT_MAX = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Value:
    """A float32 value and its shape in the one run that a graph is made for."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.shape[2:]


@dataclasses.dataclass(frozen=True)
class RandomGraph:
    """A model, and an input to run it with."""

    model: onnx.ModelProto
    x: NDArray[np.float32]


def random_graph(seed: int) -> RandomGraph:
    """The graph of an integer, always the same."""
    return _Growing(np.random.default_rng(seed)).finish()


class _Unfit(Exception):
    """A step that the value it was to read does not allow; nothing was added."""


class _Growing:
    """A graph while it grows."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.opset = self.pick(OPSETS)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.constants: dict[tuple[Any, ...], str] = {}
        self.constant_nodes = self.pick((0.0, 0.0, 0.5, 1.0))
        self.named_nodes = self.pick((0.0, 1.0, 1.0))
        self.count = 0
        spatial = self.ints(3, 8, self.pick((1, 2, 2, 2, 2, 3)))
        # As many channels as columns: a constant of that many values then fits both.
        channels = self.pick((1, 2, 3, 4, 6, 8, spatial[-1]))
        self.x = Value("x", (self.pick((1, 1, 2, 3)), channels, *spatial))
        self.pool = [self.x]

    def finish(self) -> RandomGraph:
        for _ in range(self.pick((2, 3, 4, 5, 6, 7))):
            self.grow()
        if len(self.pool) == 1:
            self.pool.append(relu(self, self.x))
        return RandomGraph(self.proto(), self.normal(self.x.shape) * 2)

    def grow(self) -> None:
        """Add one step to the graph, drawing another where one does not fit."""
        while True:
            x = self.pool[-1] if self.flip(0.75) else self.pick(self.pool)
            step = STEPS[self.rng.choice(len(STEPS), p=_WEIGHTS)]
            kept = len(self.nodes), len(self.initializers), dict(self.constants), list(self.pool)
            try:
                self.pool += [step(self, x)]
                return
            except _Unfit:
                del self.nodes[kept[0] :], self.initializers[kept[1] :]
                self.constants, self.pool = kept[2:]

    def proto(self) -> onnx.ModelProto:
        read = {name for node in self.nodes for name in node.input}
        made = self.pool[1:]
        unread = [value for value in made if value.name not in read]
        extra = [value for value in made if value.name in read and self.flip(0.08)]
        outputs = {value.name: value for value in (*unread, *extra)}
        names: tuple[Any, ...] = ("N", "C", "D", "H", "W")
        dynamic = self.pick((0.0, 0.0, 0.5, 1.0))
        dims = [
            names[axis] if axis != 1 and self.flip(dynamic) else size
            for axis, size in enumerate(self.x.shape)
        ]
        float32 = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", float32, dims)],
            # No claims about shapes of outputs, only their rank.
            [
                helper.make_tensor_value_info(name, float32, [None] * value.rank)
                for name, value in outputs.items()
            ],
            self.initializers,
        )
        imports = [helper.make_opsetid("", self.opset)]
        version = helper.find_min_ir_version_for(imports)
        return helper.make_model(graph, ir_version=version, opset_imports=imports)

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[self.rng.integers(len(choices))]

    def flip(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    def ints(self, low: int, high: int, count: int) -> list[int]:
        drawn: list[int] = self.rng.integers(low, high + 1, count).tolist()
        return drawn

    def normal(self, shape: Sequence[int], scale: float = 1.0) -> NDArray[np.float32]:
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def signed(self, shape: Sequence[int]) -> NDArray[np.float32]:
        """Factors and shifts: of both signs, and none near zero."""
        signs = self.rng.choice((-1, 1), shape)
        return (self.rng.uniform(0.5, 2, shape) * signs).astype(np.float32)

    def constant(self, array: Any, dtype: Any = np.float32, *, share: bool = False) -> str:
        """A constant in one of its spellings; a shared one may be an earlier one of its shape."""
        array = np.asarray(array, dtype)
        key = (array.shape, array.dtype.str)
        if share and key in self.constants and self.flip(0.2):
            return self.constants[key]
        name = self.fresh("c")
        tensor = onnx.numpy_helper.from_array(array, name)
        if self.flip(self.constant_nodes):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        if share:
            self.constants[key] = name
        return name

    def weight(self, shape: Sequence[int], scale: float) -> str:
        """A kernel; now and then a whole slice of it is zero."""
        if self.flip(0.85):
            return self.constant(self.normal(shape, scale), share=True)
        array = self.normal(shape, scale)
        axis = int(self.rng.integers(0, len(shape)))
        np.moveaxis(array, axis, 0)[self.pick((0, -1))] = 0
        return self.constant(array)

    def number(self, value: float) -> str:
        return self.constant(np.full(self.pick(((), (), (1,), (1, 1, 1))), value))

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def fresh(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def raw(self, op_type: str, *inputs: str | Value, **attributes: Any) -> str:
        """Add a node and return its output's name."""
        return self.several(op_type, 1, *inputs, **attributes)[0]

    def several(
        self, op_type: str, count: int, *inputs: str | Value, **attributes: Any
    ) -> list[str]:
        outputs = [self.fresh("v") for _ in range(count)]
        names = [value.name if isinstance(value, Value) else value for value in inputs]
        label = self.fresh("n") if self.flip(self.named_nodes) else None
        node = helper.make_node(op_type, names, outputs, label, **attributes)
        self.nodes.append(node)
        return outputs

    def node(
        self, shape: Sequence[int], op_type: str, *inputs: str | Value, **attributes: Any
    ) -> Value:
        """Add a node whose output has the given shape.

        Raises:
            _Unfit: that is too small or too large.
        """
        if min(shape, default=1) < 1 or math.prod(shape) > MOST_ELEMENTS:
            raise _Unfit
        return Value(self.raw(op_type, *inputs, **attributes), tuple(map(int, shape)))

    def either_order(self, *operands: str | Value) -> Sequence[str | Value]:
        return operands[::-1] if self.flip() else operands

    def reduced(self, op_type: str, x: str | Value, axes: Sequence[int], keepdims: int = 1) -> str:
        """A reduction, its axes given as the opset wants."""
        since = 13 if op_type == "ReduceSum" else 18
        if self.opset < since:
            return self.raw(op_type, x, axes=list(axes), keepdims=keepdims)
        return self.raw(op_type, x, self.integers(*axes), keepdims=keepdims)

    def squeezed(self, op_type: str, x: str | Value, *axes: int) -> str:
        if self.opset < 13:
            return self.raw(op_type, x, axes=list(axes))
        return self.raw(op_type, x, self.integers(*axes))

    def padded(self, x: Value, pads: Sequence[int], mode: str, value: float | None) -> Value:
        shape = [
            size + begin + end
            for size, begin, end in zip(x.shape, pads[: x.rank], pads[x.rank :], strict=True)
        ]
        given = [self.integers(*pads)]
        if value is not None:
            given.append(self.constant(value))
        return self.node(shape, "Pad", x, *given, mode=mode)

    def shape_of(self, x: Value) -> str:
        return self.raw("Shape", x)

    def size_of(self, x: Value, axis: int) -> str:
        """One size of a value as a vector of one, computed from its shape."""
        shape = self.shape_of(x)
        if self.flip():
            size = self.raw("Gather", shape, self.constant(axis, np.int64), axis=0)
            return self.squeezed("Unsqueeze", size, 0)
        if self.flip():
            return self.raw("Gather", shape, self.integers(axis), axis=0)
        return self.raw("Slice", shape, self.integers(axis), self.integers(axis + 1))

    def target(self, x: Value, sizes: Sequence[int], kept: Sequence[int] = ()) -> str:
        """A shape for Reshape: constant, or with the sizes of ``kept`` axes computed from ``x``."""
        if not kept or self.flip(0.4):
            return self.integers(*sizes)
        parts = [
            self.size_of(x, axis) if axis in kept else self.integers(size)
            for axis, size in enumerate(sizes)
        ]
        return self.raw("Concat", *parts, axis=0)


Step = Callable[[_Growing, Value], Value]


def _image(x: Value) -> None:
    """Go on for values with a batch, channels and one to three spatial axes only."""
    if not 3 <= x.rank <= 5:
        raise _Unfit


def _window(g: _Growing, x: Value, largest: int) -> dict[str, Any]:
    """Kernel, strides, dilations and padding that fit an image."""
    axes = len(x.spatial)
    window: dict[str, Any] = {
        "kernel_shape": g.pick(([1] * axes, g.ints(1, largest, axes), [3] * axes)),
        "strides": g.pick(([1] * axes, [1] * axes, [2] * axes, g.ints(1, 3, axes))),
        "dilations": g.pick(([1] * axes, [1] * axes, g.ints(1, 2, axes))),
    }
    match g.pick(("none", "none", "pads", "pads", "same", "valid")):
        case "pads":
            tops = [(k - 1) * d for k, d in _kernels(window)]
            window["pads"] = [int(g.rng.integers(0, top + 1)) for top in (*tops, *tops)]
        case "same":
            window["auto_pad"] = g.pick(("SAME_UPPER", "SAME_LOWER"))
            window["dilations"] = [1] * axes  # ONNX Runtime takes no others with SAME.
        case "valid":
            window["auto_pad"] = "VALID"
    return window


def _kernels(window: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(window["kernel_shape"], window["dilations"], strict=True))


def _slid(x: Value, window: dict[str, Any], *, ceil: bool = False) -> list[int]:
    """Spatial sizes after a window has slid over an image."""
    axes = len(x.spatial)
    pads = window.get("pads", [0] * 2 * axes)
    sizes = []
    for axis, size in enumerate(x.spatial):
        stride = window["strides"][axis]
        if window.get("auto_pad", "").startswith("SAME"):
            sizes.append(-(-size // stride))
            continue
        kernel, dilation = _kernels(window)[axis]
        room = size + pads[axis] + pads[axis + axes] - (kernel - 1) * dilation - 1
        if room < 0:
            raise _Unfit
        count = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (count - 1) * stride >= size + pads[axis]:
            raise _Unfit  # A window that begins in the padding is left out by some, not by all.
        sizes.append(count)
    return sizes


def convolution(g: _Growing, x: Value) -> Value:
    """Conv: dense, grouped or depthwise, with or without bias."""
    _image(x)
    window = _window(g, x, 4)
    group, out = _groups(g, x)
    kernel = window["kernel_shape"]
    fan_in = x.channels // group * math.prod(kernel)
    weight = g.weight((out, x.channels // group, *kernel), fan_in**-0.5)
    bias = [g.constant(g.normal((out,)), share=True)] if g.flip() else []
    if g.flip(0.3):
        window.pop("kernel_shape")
        sizes = _slid(x, {**window, "kernel_shape": kernel})
    else:
        sizes = _slid(x, window)
    shape = (x.shape[0], out, *sizes)
    return g.node(shape, "Conv", x, weight, *bias, group=group, **window)


def _groups(g: _Growing, x: Value) -> tuple[int, int]:
    divisors = [n for n in (2, 3, 4, x.channels, x.channels) if x.channels % n == 0]
    group = g.pick((1, 1, 1, *divisors))
    out = group * g.pick((1, 1, 2, 3)) if group > 1 else g.pick((1, 2, 3, 4, 6, x.shape[-1]))
    return group, out


def transposed_convolution(g: _Growing, x: Value) -> Value:
    """ConvTranspose, with any padding."""
    _image(x)
    window = _window(g, x, 3)
    group, out = _groups(g, x)
    axes = range(len(x.spatial))
    kernel, strides = window["kernel_shape"], window["strides"]
    fan_in = x.channels // group * math.prod(kernel) / math.prod(strides)
    weight = g.constant(
        g.normal((x.channels, out // group, *kernel), max(fan_in, 1) ** -0.5), share=True
    )
    bias = [g.constant(g.normal((out,)), share=True)] if g.flip() else []
    extra = [0 for _ in axes]
    if g.flip(0.3) and not window.get("auto_pad"):
        extra = window["output_padding"] = [stride - 1 for stride in strides]
    if window.get("auto_pad", "").startswith("SAME"):
        if any(k < s for k, s in zip(kernel, strides, strict=True)):
            raise _Unfit  # The output cannot be filled.
        sizes = [size * stride for size, stride in zip(x.spatial, strides, strict=True)]
    else:
        pads = window.get("pads", [0] * 2 * len(axes))
        sizes = [
            (x.spatial[a] - 1) * strides[a] + (k - 1) * d + 1 + extra[a] - pads[a]
            - pads[a + len(axes)]
            for a, (k, d) in enumerate(_kernels(window))
        ]  # fmt: skip
    shape = (x.shape[0], out, *sizes)
    return g.node(shape, "ConvTranspose", x, weight, *bias, group=group, **window)


def pointwise(g: _Growing, x: Value) -> Value:
    """A 1x1 convolution."""
    _image(x)
    out = g.pick((1, 2, 3, 4, 8))
    scale = x.channels**-0.5
    weight = g.constant(g.normal((out, x.channels, *[1] * len(x.spatial)), scale), share=True)
    bias = [g.constant(g.normal((out,)), share=True)] if g.flip() else []
    return g.node((x.shape[0], out, *x.spatial), "Conv", x, weight, *bias)


def separable(g: _Growing, x: Value) -> Value:
    """A depthwise convolution with a pointwise one behind it, and what may stand between."""
    _image(x)
    axes = len(x.spatial)
    weight = g.constant(g.normal((x.channels, 1, *[3] * axes), 3 ** (-axes / 2)))
    pads = [1] * 2 * axes
    y = g.node(x.shape, "Conv", x, weight, group=x.channels, pads=pads)
    for step in g.pick(((), (affine,), (batch_norm,), (batch_norm, relu))):
        y = step(g, y)
    return pointwise(g, y)


def block(g: _Growing, x: Value) -> Value:
    """A convolution with what folds into it, or nearly does, before and behind it."""
    for step in g.pick(((), (), (pad,), (affine,), (batch_norm,), (relu,))):
        x = step(g, x)
    x = g.pick((convolution, convolution, transposed_convolution, pointwise))(g, x)
    for _ in range(g.pick((1, 1, 2, 3))):
        x = g.pick((affine, affine, batch_norm, crop, spelled_activation, pointwise, relu))(g, x)
        if g.flip(0.1):
            g.pool.append(x)  # Others may read it, or it is an output.
    return x


def batch_norm(g: _Growing, x: Value) -> Value:
    """BatchNormalization of inference."""
    if x.rank < 2:
        raise _Unfit
    size = (x.channels,)
    statistics = [g.constant(array) for array in (g.signed(size), g.normal(size), g.normal(size))]
    variance = g.constant(g.rng.uniform(0.5, 4, size), share=False)
    epsilon = g.pick((1e-5, 1e-3, 0.5))
    return g.node(x.shape, "BatchNormalization", x, *statistics, variance, epsilon=epsilon)


def affine(g: _Growing, x: Value) -> Value:
    """Add, Sub, Mul or Div and a constant, mostly one value per channel."""
    if x.rank < 2:
        raise _Unfit
    rest = [1] * (x.rank - 2)
    usual = [(), (1,), (x.channels, *rest), (1, x.channels, *rest)]
    # A vector runs along the last axis, even where it has as many values as there are channels.
    odd = [x.shape[-1:], x.shape[1:], (x.shape[0], *[1] * (x.rank - 1)), x.shape]
    shape = g.pick((*usual, *usual, *odd, (1,) * x.rank))
    op_type = g.pick(("Add", "Sub", "Mul", "Div"))
    if g.flip(0.1):
        constant = g.constant(np.full(shape, 0.0 if op_type in ("Add", "Sub") else 1.0))
    else:
        constant = g.constant(g.signed(shape), share=True)
    # A constant over the value would explode where that is nearly zero.
    operands = (x, constant) if op_type == "Div" else g.either_order(x, constant)
    return g.node(x.shape, op_type, *operands)


def scale_and_shift(g: _Growing, x: Value) -> Value:
    """A factor and then a shift per channel."""
    if x.rank < 3:
        raise _Unfit
    shape = (x.channels, *[1] * (x.rank - 2))
    scaled = g.node(x.shape, "Mul", *g.either_order(x, g.constant(g.signed(shape))))
    return g.node(x.shape, "Add", *g.either_order(scaled, g.constant(g.signed(shape))))


def relu(g: _Growing, x: Value) -> Value:
    return g.node(x.shape, "Relu", x)


def activation(g: _Growing, x: Value) -> Value:
    """An activation as one operator."""
    choices: list[tuple[str, dict[str, Any]]] = [
        ("LeakyRelu", {"alpha": 0.1}),
        ("Sigmoid", {}),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        ("HardSigmoid", {}),
        ("Tanh", {}),
        ("Elu", {}),
        ("Softplus", {}),
        ("Erf", {}),
        ("Abs", {}),
        ("Neg", {}),
    ]
    if g.opset >= 14:
        choices.append(("HardSwish", {}))
    if g.opset >= 18:
        choices.append(("Mish", {}))
    if g.opset >= 20:
        choices += [("Gelu", {}), ("Gelu", {"approximate": "tanh"})]
    op_type, attributes = g.pick(choices)
    return g.node(x.shape, op_type, x, **attributes)


def clip(g: _Growing, x: Value) -> Value:
    """Clip, or the operators that do the same."""
    low, high = g.pick(((0.0, 6.0), (-1.0, 1.0), (0.0, 1.0)))
    match g.pick(("clip", "min-max", "max-min", "open")):
        case "clip":
            return g.node(x.shape, "Clip", x, g.constant(low), g.constant(high))
        case "open":
            return g.node(x.shape, "Clip", x, g.constant(low))
        case "min-max":
            y = g.raw("Max", *g.either_order(x, g.number(low)))
            return _same(g, x, "Min", *g.either_order(y, g.number(high)))
        case _:
            y = g.raw("Min", *g.either_order(x, g.number(high)))
            return _same(g, x, "Max", *g.either_order(y, g.number(low)))


def _same(g: _Growing, x: Value, op_type: str, *inputs: str | Value, **attributes: Any) -> Value:
    """A node that keeps the shape, whose number constants must not widen it."""
    if x.rank < 3:
        raise _Unfit
    return g.node(x.shape, op_type, *inputs, **attributes)


def spelled_activation(g: _Growing, x: Value) -> Value:
    """An activation spelled with several operators, now and then with a wrong constant."""

    def number(value: float) -> str:
        return g.number(value * g.pick((1, 1, 1, 1, 1, 1.25)))

    def scaled(y: str | Value, factor: float) -> str:
        if g.flip():
            return g.raw("Div", y, number(1 / factor))
        return g.raw("Mul", *g.either_order(y, number(factor)))

    def product(first: str | Value, second: str, factor: float) -> Value:
        match g.pick(("first", "second", "after")):
            case "first":
                return _same(g, x, "Mul", *g.either_order(scaled(first, factor), second))
            case "second":
                return _same(g, x, "Mul", *g.either_order(first, scaled(second, factor)))
            case _:
                y = g.raw("Mul", *g.either_order(first, second))
                return _same(g, x, "Mul", *g.either_order(y, number(factor)))

    def sigmoid(y: str | Value) -> str:
        if g.flip():
            return g.raw("Sigmoid", y)
        power = g.raw("Exp", g.raw("Neg", y))
        below = g.raw("Add", *g.either_order(power, number(1)))
        return g.raw("Reciprocal", below) if g.flip() else g.raw("Div", number(1), below)

    match g.pick(("hardswish", "hardsigmoid", "silu", "silu", "gelu", "tanh", "leaky", "mish")):
        case "hardswish":
            shifted = g.raw("Add", *g.either_order(x, number(3)))
            limits = g.constant(0.0), g.constant(6.0)
            return product(x, g.raw("Clip", shifted, *limits), 1 / 6)
        case "hardsigmoid":
            y = g.raw("HardSigmoid", x, alpha=1 / 6, beta=0.5)
            return _same(g, x, "Mul", *g.either_order(x, y))
        case "silu":
            return _same(g, x, "Mul", *g.either_order(x, sigmoid(x)))
        case "gelu":
            error = g.raw("Erf", scaled(x, 0.5**0.5))
            return product(x, g.raw("Add", *g.either_order(error, number(1))), 0.5)
        case "tanh":
            cube = g.raw("Pow", x, g.number(3))
            inner = g.raw("Add", *g.either_order(x, scaled(cube, 0.044715)))
            rise = g.raw("Tanh", scaled(inner, (2 / np.pi) ** 0.5))
            return product(x, g.raw("Add", *g.either_order(rise, number(1))), 0.5)
        case "leaky":
            return _same(g, x, "Max", *g.either_order(x, scaled(x, 0.1)))
        case _:
            rise = g.raw("Tanh", g.raw("Softplus", x))
            return _same(g, x, "Mul", *g.either_order(x, rise))


def power(g: _Growing, x: Value) -> Value:
    """A square, or a root of it with something added."""
    exponent = g.pick((2.0, 2.0, 1.0, 0.5))
    if exponent == 0.5:
        positive = g.raw("Add", g.raw("Abs", x), g.number(1))
        return _same(g, x, "Pow", positive, g.number(exponent))
    return _same(g, x, "Pow", g.raw("Tanh", x), g.number(exponent))


def softmax(g: _Growing, x: Value) -> Value:
    """Softmax along one axis, or spelled out."""
    axis = int(g.rng.integers(1, x.rank)) if x.rank > 1 else 0
    if g.flip():
        # Before opset 13 all axes from this one on are one.
        return g.node(x.shape, g.pick(("Softmax", "Softmax", "LogSoftmax")), x, axis=axis)
    lowered = g.raw("Sub", x, g.reduced("ReduceMax", x, [axis]))
    powers = g.raw("Exp", lowered)
    return g.node(x.shape, "Div", powers, g.reduced("ReduceSum", powers, [axis]))


def residual(g: _Growing, x: Value) -> Value:
    """Combine with an earlier value of the same shape."""
    others = [y for y in g.pool if y.shape == x.shape]
    return g.node(x.shape, g.pick(("Add", "Add", "Sub", "Mul")), x, g.pick(others or [x]))


def gate(g: _Growing, x: Value) -> Value:
    """Squeeze and excite, in its spellings; perhaps with a residual around the gate."""
    _image(x)
    if g.flip():
        mean = g.raw("GlobalAveragePool", x)
    else:
        mean = g.reduced("ReduceMean", x, range(2, x.rank))
    pooled = Value(mean, (*x.shape[:2], *[1] * len(x.spatial)))
    factor = g.raw(g.pick(("Sigmoid", "HardSigmoid")), pointwise_to(g, pooled, x.channels))
    product = g.node(x.shape, "Mul", *g.either_order(x, factor))
    return g.node(x.shape, "Add", *g.either_order(product, x)) if g.flip() else product


def pointwise_to(g: _Growing, x: Value, out: int) -> Value:
    scale = x.channels**-0.5
    weight = g.constant(g.normal((out, x.channels, *[1] * len(x.spatial)), scale))
    return g.node((x.shape[0], out, *x.spatial), "Conv", x, weight)


def pool(g: _Growing, x: Value) -> Value:
    """MaxPool or AveragePool."""
    _image(x)
    window = _window(g, x, 3)
    kernel = window["kernel_shape"]
    if "pads" in window:
        window["pads"] = [min(p, k // 2) for p, k in zip(window["pads"], kernel * 2, strict=True)]
    if "auto_pad" in window and any(np.less(kernel, window["strides"])):
        raise _Unfit  # ONNX Runtime finds that SAME pads by less than nothing.
    op_type = g.pick(("MaxPool", "AveragePool"))
    if op_type == "AveragePool":
        if g.opset < 19:
            window["dilations"] = [1] * len(x.spatial)
        window["count_include_pad"] = int(g.flip())
    ceil = g.flip(0.2) and "auto_pad" not in window and op_type == "MaxPool"
    sizes = _slid(x, window, ceil=ceil)
    if op_type == "AveragePool" and g.opset < 19:
        del window["dilations"]
    shape = (*x.shape[:2], *sizes)
    return g.node(shape, op_type, x, **window, **({"ceil_mode": 1} if ceil else {}))


def global_pool(g: _Growing, x: Value) -> Value:
    """A mean or maximum over all pixels."""
    _image(x)
    shape = (*x.shape[:2], *[1] * len(x.spatial))
    axes = range(2, x.rank)
    match g.pick(("operator", "reduction", "negative", "flat")):
        case "operator":
            return g.node(shape, g.pick(("GlobalAveragePool", "GlobalMaxPool")), x)
        case "flat":
            flat = g.raw("Reshape", x, g.target(x, (*x.shape[:2], -1), kept=(0,)))
            return Value(g.reduced("ReduceMean", flat, [2], keepdims=0), x.shape[:2])
        case "negative":
            axes = range(-len(x.spatial), 0)
    return Value(g.reduced(g.pick(("ReduceMean", "ReduceMax", "ReduceSum")), x, axes), shape)


def pad(g: _Growing, x: Value) -> Value:
    """Pad, mostly pixels and with zeros."""
    pads = g.ints(0, 2, 2 * x.rank)
    if g.flip(0.8):
        pads[:2] = pads[x.rank : x.rank + 2] = [0, 0]
    mode = g.pick(("constant", "constant", "constant", "edge", "reflect"))
    if mode == "reflect" and any(size < 3 for size in x.shape):
        raise _Unfit
    if mode == "constant" and g.flip(0.2):
        pads = [p - 1 if size > 3 else p for p, size in zip(pads, x.shape * 2, strict=True)]
    value = g.pick((None, 0.0, 0.0, 1.5)) if mode == "constant" else None
    return g.padded(x, pads, mode, value)


def crop(g: _Growing, x: Value) -> Value:
    """Slice along some axes."""
    axes = sorted(g.rng.choice(x.rank, size=g.pick((1, min(2, x.rank))), replace=False).tolist())
    starts, ends, steps, shape = [], [], [], list(x.shape)
    for axis in axes:
        start = int(g.rng.integers(0, max(x.shape[axis] // 2, 1)))
        end = int(g.rng.integers(start + 1, x.shape[axis] + 1))
        step = g.pick((1, 1, 1, 2))
        if end == x.shape[axis]:
            end = g.pick((end, _INT_MAX))
        elif g.flip(0.3):
            end -= x.shape[axis]
        shape[axis] = len(range(*slice(start, end).indices(x.shape[axis])[:2], step))
        starts.append(start)
        ends.append(end)
        steps.append(step)
    given = [g.integers(*values) for values in (starts, ends, axes)]
    if steps != [1] * len(axes) or g.flip():
        given.append(g.integers(*steps))
    return g.node(shape, "Slice", x, *given)


def transpose(g: _Growing, x: Value) -> Value:
    """A permutation, or channels moved last and back with something between."""
    if x.rank < 3 or g.flip(0.4):
        order = g.rng.permutation(x.rank).tolist()
        return g.node([x.shape[axis] for axis in order], "Transpose", x, perm=order)
    there, back = [0, *range(2, x.rank), 1], [0, x.rank - 1, *range(1, x.rank - 1)]
    y = g.node([x.shape[axis] for axis in there], "Transpose", x, perm=there)
    y = g.pick((relu, affine, activation, spelled_activation, lambda g, y: y))(g, y)
    return g.node(x.shape, "Transpose", y, perm=back)


def shuffle(g: _Growing, x: Value) -> Value:
    """Channel shuffle by Reshape and Transpose."""
    _image(x)
    divisors = [n for n in (2, 3, 4) if x.channels % n == 0]
    if not divisors:
        raise _Unfit
    group = g.pick(divisors)
    split = (x.shape[0], group, x.channels // group, *x.spatial)
    wide = Value(g.raw("Reshape", x, g.target(x, split, kept=(0,))), split)
    order = [0, 2, 1, *range(3, wide.rank)]
    turned = Value(g.raw("Transpose", wide, perm=order), tuple(split[axis] for axis in order))
    return g.node(x.shape, "Reshape", turned, g.target(x, x.shape, kept=(0, *range(2, x.rank))))


def rearrange(g: _Growing, x: Value) -> Value:
    """DepthToSpace or SpaceToDepth, or pixel shuffle spelled out."""
    if x.rank != 4:
        raise _Unfit
    n, c, h, w = x.shape
    if g.flip() and h % 2 == w % 2 == 0:
        return g.node((n, c * 4, h // 2, w // 2), "SpaceToDepth", x, blocksize=2)
    if c % 4:
        raise _Unfit
    shape = (n, c // 4, h * 2, w * 2)
    if g.flip():
        return g.node(shape, "DepthToSpace", x, blocksize=2, mode=g.pick(("DCR", "CRD")))
    crd = g.flip()
    split = (n, c // 4, 2, 2, h, w) if crd else (n, 2, 2, c // 4, h, w)
    wide = g.raw("Reshape", x, g.target(x, split, kept=(0,)))
    turned = g.raw("Transpose", wide, perm=[0, 1, 4, 2, 5, 3] if crd else [0, 3, 4, 1, 5, 2])
    return g.node(shape, "Reshape", turned, g.integers(*shape))


def reshape(g: _Growing, x: Value) -> Value:
    """To a matrix and back, or there only; with constants or with sizes computed from shapes."""
    if x.rank < 2:
        raise _Unfit
    size = math.prod(x.shape[1:])
    match g.pick(("there", "flatten", "back", "back", "self")):
        case "there":
            target = g.target(x, (x.shape[0], -1), kept=(0,))
            return g.node((x.shape[0], size), "Reshape", x, target)
        case "flatten":
            return g.node((x.shape[0], size), "Flatten", x)
        case "back":
            y = Value(g.raw("Reshape", x, g.integers(0, -1)), (x.shape[0], size))
            y = g.pick((relu, activation, lambda g, y: y))(g, y)
            return g.node(x.shape, "Reshape", y, g.target(x, x.shape, kept=range(x.rank)))
        case _:
            return g.node(x.shape, "Reshape", x, g.shape_of(x))


def expand(g: _Growing, x: Value) -> Value:
    """Axes of size 1 put in, perhaps taken out again."""
    axis = int(g.rng.integers(0, x.rank + 1))
    wide = g.squeezed("Unsqueeze", x, axis)
    if g.flip(0.3) and x.rank < 5:
        return Value(wide, (*x.shape[:axis], 1, *x.shape[axis:]))
    y = g.raw(g.pick(("Relu", "Sigmoid", "Identity")), wide)
    return Value(g.squeezed("Squeeze", y, axis), x.shape)


def squeeze(g: _Growing, x: Value) -> Value:
    """An axis of size 1 taken out."""
    axes = [axis for axis, size in enumerate(x.shape) if size == 1 and axis]
    if not axes:
        raise _Unfit
    axis = g.pick(axes)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return Value(g.squeezed("Squeeze", x, axis if g.flip() else axis - x.rank), shape)


def split_and_join(g: _Growing, x: Value) -> Value:
    """Split, something on each part, Concat in some order."""
    axis = int(g.rng.integers(0, x.rank))
    size = x.shape[axis]
    if size < 2:
        raise _Unfit
    first = int(g.rng.integers(1, size))
    sizes = [first, size - first]
    if g.opset < 13:
        names = g.several("Split", 2, x, axis=axis, split=sizes)
    else:
        names = g.several("Split", 2, x, g.integers(*sizes), axis=axis)
    parts = [
        Value(name, (*x.shape[:axis], part, *x.shape[axis + 1 :]))
        for name, part in zip(names, sizes, strict=True)
    ]
    if g.flip(0.7):
        step = g.pick((relu, affine, batch_norm, activation))
        parts = [step(g, part) if g.flip(0.7) else part for part in parts]
    if g.flip(0.3):
        parts.reverse()
    return g.node(x.shape, "Concat", *parts, axis=axis - g.pick((0, x.rank)))


def branches(g: _Growing, x: Value) -> Value:
    """Two convolutions of one value, joined."""
    first, second = (g.pick((convolution, pointwise, batch_norm, relu))(g, x) for _ in range(2))
    if first.shape == second.shape and g.flip():
        return g.node(first.shape, "Add", first, second)
    if (first.shape[0], *first.spatial) != (second.shape[0], *second.spatial):
        raise _Unfit
    shape = (first.shape[0], first.channels + second.channels, *first.spatial)
    return g.node(shape, "Concat", first, second, axis=1)


def join(g: _Growing, x: Value) -> Value:
    """Concat with an earlier value, or with a constant."""
    axis = int(g.rng.integers(0, x.rank))
    others = [y for y in g.pool if y.shape == x.shape]
    other: str | Value = g.pick(others or [x])
    if g.flip(0.3):
        other = g.constant(g.normal(x.shape))
    shape = list(x.shape)
    shape[axis] *= 2
    return g.node(shape, "Concat", *g.either_order(x, other), axis=axis)


def resize(g: _Growing, x: Value) -> Value:
    """Resize by scales, or to sizes that may be computed from the shape."""
    _image(x)
    axes = len(x.spatial)
    scales = g.pick(([2] * axes, [2] * axes, [1] * axes, g.ints(1, 3, axes)))
    mode = g.pick(("nearest", "nearest", "linear"))
    if mode == "linear" and axes != 2:
        raise _Unfit  # ONNX Runtime's is for two axes.
    transformation = g.pick(("half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners"))
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation}
    if mode == "nearest":
        attributes["nearest_mode"] = g.pick(("round_prefer_floor", "floor", "ceil"))
    sizes = [size * scale for size, scale in zip(x.spatial, scales, strict=True)]
    nothing = "" if g.opset >= 13 else g.constant(np.zeros(0))
    match g.pick(("scales", "sizes", "computed")):
        case "scales":
            given = [nothing, g.constant([1, 1, *scales])]
        case "sizes":
            given = [nothing, nothing, g.integers(*x.shape[:2], *sizes)]
        case _:
            shape = g.shape_of(x)
            head = g.raw("Slice", shape, g.integers(0), g.integers(2), g.integers(0))
            tail = g.raw("Slice", shape, g.integers(2), g.integers(_INT_MAX), g.integers(0))
            grown = g.raw("Mul", tail, g.integers(*scales))
            given = [nothing, nothing, g.raw("Concat", head, grown, axis=0)]
    return g.node((*x.shape[:2], *sizes), "Resize", x, *given, **attributes)


def cast(g: _Growing, x: Value) -> Value:
    """Casts that lose nothing, with or without something in double precision between."""
    if g.flip(0.3):
        return g.node(x.shape, "Cast", x, to=onnx.TensorProto.FLOAT)
    y = g.raw("Cast", x, to=onnx.TensorProto.DOUBLE)
    if g.flip():
        y = g.raw(g.pick(("Relu", "Sigmoid", "Neg")), y)
    return g.node(x.shape, "Cast", y, to=onnx.TensorProto.FLOAT)


def nothing(g: _Growing, x: Value) -> Value:
    """An operator that changes nothing."""
    match g.pick(("identity", "dropout", "add", "mul", "expand")):
        case "identity":
            return g.node(x.shape, "Identity", x)
        case "dropout":
            return g.node(x.shape, "Dropout", x)
        case "add":
            return _same(g, x, "Add", *g.either_order(x, g.number(0)))
        case "mul":
            return _same(g, x, "Mul", *g.either_order(x, g.number(1)))
        case _:
            return g.node(x.shape, "Expand", x, g.shape_of(x))


def normalization(g: _Growing, x: Value) -> Value:
    """InstanceNormalization, or a normalization over some axes spelled out."""
    _image(x)
    if math.prod(x.spatial) < 6:
        raise _Unfit  # Over so few values it would magnify rounding.
    per_channel = g.constant(g.signed((x.channels,))), g.constant(g.signed((x.channels,)))
    if g.flip(0.3):
        return g.node(x.shape, "InstanceNormalization", x, *per_channel, epsilon=0.1)
    axes = g.pick(([*range(2, x.rank)], [*range(1, x.rank)], [1], [x.rank - 1]))
    centred = g.raw("Sub", x, g.reduced("ReduceMean", x, axes))
    squares = g.raw("Pow", centred, g.number(2)) if g.flip() else g.raw("Mul", centred, centred)
    variance = g.raw("Add", g.reduced("ReduceMean", squares, axes), g.number(0.1))
    y = g.node(x.shape, "Div", centred, g.raw("Sqrt", variance))
    return g.pick((affine, scale_and_shift, lambda g, y: y))(g, y)


def pair(g: _Growing, x: Value) -> Value:
    """Two steps that may be one."""
    first, second = g.pick(
        ((relu, relu), (relu, clip), (clip, relu), (clip, clip), (resize, resize), (pad, pool))
    )
    return second(g, first(g, x))


def parametric(g: _Growing, x: Value) -> Value:
    """PRelu, or the logarithm of a Softmax."""
    _image(x)
    if g.flip():
        slope = g.constant(g.rng.uniform(0.1, 0.5, (x.channels, *[1] * len(x.spatial))))
        return g.node(x.shape, "PRelu", x, slope)
    return g.node(x.shape, "Log", g.raw("Softmax", x, axis=-1))


def split_convolutions(g: _Growing, x: Value) -> Value:
    """A convolution of each half of the channels: a grouped one spelled out."""
    _image(x)
    if x.channels % 2:
        raise _Unfit
    half, axes = x.channels // 2, len(x.spatial)
    if g.opset < 13:
        parts = g.several("Split", 2, x, axis=1, split=[half, half])
    else:
        parts = g.several("Split", 2, x, g.integers(half, half), axis=1)
    out, pads = g.pick((1, 2, half)), [g.pick((0, 1))] * 2 * axes
    weights = [g.weight((out, half, *[1] * axes), half**-0.5) for _ in parts]
    shape = (x.shape[0], out, *(size + 2 * pads[0] for size in x.spatial))
    made = [
        g.node(shape, "Conv", part, weight, pads=pads)
        for part, weight in zip(parts, weights, strict=True)
    ]
    return g.node((x.shape[0], 2 * out, *shape[2:]), "Concat", *made, axis=1)


def linear(g: _Growing, x: Value) -> Value:
    """Gemm or MatMul with Add on a matrix."""
    if x.rank != 2:
        raise _Unfit
    rows, columns = x.shape
    out = g.pick((1, 3, 4))
    bias = g.constant(g.normal((out,)))
    if g.flip():
        transposed = g.flip()
        shape = (out, columns) if transposed else (columns, out)
        weight = g.constant(g.normal(shape, columns**-0.5))
        return g.node((rows, out), "Gemm", x, weight, bias, transB=int(transposed))
    weight = g.constant(g.normal((columns, out), columns**-0.5))
    y = g.raw("MatMul", x, weight)
    return g.node((rows, out), "Add", *g.either_order(y, bias))


_CHANCES: dict[Step, int] = {
    block: 25,
    convolution: 8,
    transposed_convolution: 4,
    pointwise: 4,
    separable: 3,
    batch_norm: 6,
    affine: 10,
    scale_and_shift: 3,
    relu: 3,
    activation: 4,
    spelled_activation: 5,
    clip: 2,
    power: 1,
    softmax: 2,
    residual: 3,
    gate: 2,
    pool: 3,
    global_pool: 2,
    pad: 4,
    crop: 3,
    transpose: 4,
    shuffle: 2,
    rearrange: 2,
    reshape: 3,
    expand: 2,
    squeeze: 2,
    split_and_join: 3,
    branches: 4,
    join: 2,
    resize: 3,
    cast: 2,
    nothing: 3,
    linear: 4,
    normalization: 3,
    pair: 3,
    parametric: 2,
    split_convolutions: 2,
}
STEPS = tuple(_CHANCES)
_WEIGHTS = np.array(list(_CHANCES.values())) / sum(_CHANCES.values())
