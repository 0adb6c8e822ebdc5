"""Random graphs: whatever the rules do to them, the results in ONNX Runtime stay the same."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.optimizer.transaction import fuse
from advconv_onnx.records import Rewrite
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.simplify import tidy
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.reference import Reference
from advconv_onnx.runtime.session import open_session

TOLERANCE = 1e-4
"""Of the largest output. A mistake shows as 1; cancellation in a few float32 layers as 1e-5."""


class InvalidError(Exception):
    """The dice made no graph that runs."""


class Chain:
    """A graph that grows at its end, random in structure and weights."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.opset = self.pick(9, 13, 18, 20)
        spatial = self.ints(1, 7, self.pick(1, 2, 2, 2, 3))
        self.start = (self.pick(1, 2, 3), self.pick(1, 2, 3, 4, 6, spatial[-1]), *spatial)
        self.shape = self.start
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.last = "x"

    def __repr__(self) -> str:
        return onnx.printer.to_text(self.proto(self.start))

    def pick(self, *choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def flip(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    def ints(self, low: int, high: int, count: int) -> list[int]:
        return self.rng.integers(low, high + 1, count).tolist()

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = np.asarray(array, dtype)
        return name

    def normal(self, *shape: int) -> str:
        return self.constant(self.rng.standard_normal(shape))

    def node(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        output = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def append(self, op_type: str, *inputs: str, **attributes: Any) -> None:
        """Make a node the end of the chain."""
        self.last = self.node(op_type, *inputs, **attributes)
        try:
            inferred = onnx.shape_inference.infer_shapes(self.proto(self.start), strict_mode=True)
        except onnx.shape_inference.InferenceError as error:
            raise InvalidError from error
        self.shape = tuple(
            dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim
        )
        if min(self.shape, default=0) < 1 or np.prod(self.shape) > 20_000:
            raise InvalidError

    def operands(self, *operands: str) -> tuple[str, ...]:
        return tuple(reversed(operands)) if self.flip() else operands

    def proto(self, shape: tuple[int | str, ...]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", 1, shape)],
            [onnx.ValueInfoProto(name=self.last, type=onnx.helper.make_tensor_type_proto(1, None))],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        return helper.make_model(
            graph, ir_version=9, opset_imports=[helper.make_opsetid("", self.opset)]
        )


def affine(chain: Chain, elements: tuple[str, ...] = ("Add", "Sub", "Mul", "Div")) -> None:
    """Combine with a constant: mostly one value per channel, else of any shape that may work."""
    rank, channels = len(chain.shape), chain.shape[1]
    right = [(), (1,), (channels, *[1] * (rank - 2)), (1, channels, *[1] * (rank - 2))]
    odd = [
        (channels,),
        chain.shape[-1:],
        chain.shape[1:],
        (chain.shape[0], *[1] * (rank - 1)),
        (*[1] * (rank - 1), chain.shape[-1]),
        (1,) * (rank + 1),
        (1, 3, *[1] * (rank - 2)),
    ]
    shape = chain.pick(*right, *right, *right, *odd)
    values = chain.rng.uniform(0.5, 2, shape) * chain.rng.choice((-1, 1), shape)
    element = chain.pick(*elements)
    if chain.flip(0.1):
        values = np.full(shape, 0.0 if element in ("Add", "Sub") else 1.0)
    operands = chain.last, chain.constant(values)
    # A constant over the tensor would let float32 explode where the tensor is nearly zero.
    chain.append(element, *(operands if element == "Div" else chain.operands(*operands)))


def scale_and_shift(chain: Chain) -> None:
    affine(chain, ("Mul", "Div"))
    affine(chain, ("Add", "Sub"))


def batchnorm(chain: Chain) -> None:
    size = chain.shape[1]
    statistics = [chain.normal(size) for _ in range(3)]
    variance = chain.constant(chain.rng.uniform(0, 2, size) ** 4)
    epsilon = chain.pick(1e-5, 1e-3, 0.5)
    chain.append("BatchNormalization", chain.last, *statistics, variance, epsilon=epsilon)


def pad(chain: Chain) -> None:
    rank = len(chain.shape)
    pads = chain.ints(0, 2, 2 * rank)
    if chain.flip(0.8):
        pads[:2] = pads[rank : rank + 2] = [0, 0]
    mode = chain.pick("constant", "constant", "constant", "edge")
    value = chain.pick(0.0, 0.0, 0.0, 1.5)
    if chain.opset < 11:
        chain.append("Pad", chain.last, pads=pads, mode=mode, value=value)
    else:
        given = chain.constant(pads, np.int64), chain.constant(value)
        chain.append("Pad", chain.last, *given, mode=mode)


def convolution(chain: Chain) -> None:
    spatial, channels = len(chain.shape) - 2, chain.shape[1]
    group = chain.pick(*(g for g in (1, 1, 2, 3, channels) if channels % g == 0))
    # Behind a convolution 1x1 is as likely as not, and as many channels as pixels in a row.
    kernel = [1] * spatial if chain.flip() else chain.ints(1, 4, spatial)
    out = group * chain.pick(1, 2, 3)
    if chain.shape[-1] % group == 0 and chain.shape[-1] < 10 and chain.flip():
        out = chain.shape[-1]
    attributes: dict[str, Any] = {
        "group": group,
        "strides": chain.pick([1] * spatial, chain.ints(1, 3, spatial)),
        "dilations": chain.pick([1] * spatial, chain.ints(1, 3, spatial)),
    }
    bias = [chain.normal(out)] if chain.flip() else []
    padding = chain.pick("none", "none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID")
    if padding == "pads":
        attributes["pads"] = chain.ints(0, 3, 2 * spatial)
    elif padding != "none":
        attributes["auto_pad"] = padding
        attributes["dilations"] = [1] * spatial  # ONNX Runtime takes no others with SAME.
    if chain.flip(0.7):
        weight = chain.normal(out, channels // group, *kernel)
        chain.append("Conv", chain.last, weight, *bias, **attributes)
    else:
        if chain.flip():
            attributes["output_padding"] = [stride - 1 for stride in attributes["strides"]]
        weight = chain.normal(channels, out // group, *kernel)
        chain.append("ConvTranspose", chain.last, weight, *bias, **attributes)


def pointwise(chain: Chain) -> None:
    weight = chain.normal(chain.pick(1, 2, 3), chain.shape[1], *[1] * (len(chain.shape) - 2))
    chain.append("Conv", chain.last, weight)


def activation(chain: Chain) -> None:
    """A decomposed activation, its factors in any order, now and then with a wrong constant."""
    x = chain.last

    def number(value: float) -> str:
        value *= chain.pick(1, 1, 1, 1, 1, 1, 1, 1.25)
        return chain.constant(np.full(chain.pick((), (1,), (1, 1)), value))

    def scale(y: str, factor: float) -> str:
        if chain.flip():
            return chain.node("Div", y, number(1 / factor))
        return chain.node("Mul", *chain.operands(y, number(factor)))

    def product(first: str, second: str, factor: float) -> None:
        if chain.flip():
            first = scale(first, factor)
            chain.append("Mul", *chain.operands(first, second))
        else:
            y = chain.node("Mul", *chain.operands(first, second))
            chain.append("Mul", *chain.operands(y, number(factor)))

    match chain.pick("hardswish", "silu", "gelu"):
        case "hardswish":
            shifted = chain.node("Add", *chain.operands(x, number(3)))
            if chain.opset < 11:
                factor = chain.node("Clip", shifted, min=0.0, max=6.0)
            else:
                factor = chain.node("Clip", shifted, chain.constant(0.0), chain.constant(6.0))
            product(x, factor, 1 / 6)
        case "silu":
            power = chain.node("Exp", chain.node("Neg", x))
            chain.append("Div", x, chain.node("Add", *chain.operands(power, number(1))))
        case "gelu":
            error = chain.node("Erf", scale(x, 0.5**0.5))
            product(x, chain.node("Add", *chain.operands(error, number(1))), 0.5)


def resize(chain: Chain) -> None:
    spatial = len(chain.shape) - 2
    scales = chain.pick([2] * spatial, chain.ints(1, 3, spatial), [1.5] * spatial)
    mode = chain.pick("nearest", "nearest", "linear")
    if chain.opset < 11 or (mode == "linear" and spatial != 2):
        raise InvalidError  # ONNX Runtime's linear is for two axes.
    transformation = chain.pick(
        "half_pixel", "half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners"
    )
    attributes = {"mode": mode, "coordinate_transformation_mode": transformation}
    if mode == "nearest":
        attributes["nearest_mode"] = chain.pick("round_prefer_floor", "floor", "ceil")
    if chain.flip():
        sizes = [int(n * s) for n, s in zip(chain.shape[2:], scales, strict=True)]
        given = ["", "", chain.constant([*chain.shape[:2], *sizes], np.int64)]
    else:
        given = ["", chain.constant([1, 1, *scales])]
    chain.append("Resize", chain.last, *given, **attributes)


def gate(chain: Chain) -> None:
    """Squeeze and excite, with a residual around the gate."""
    x, rank = chain.last, len(chain.shape)
    axes = list(chain.pick(range(2, rank), range(2, rank), range(1, rank)))
    if chain.opset < 18:
        mean = chain.node("ReduceMean", x, axes=axes)
    else:
        mean = chain.node("ReduceMean", x, chain.constant(axes, np.int64))
    factor = chain.node("Sigmoid", mean)
    product = chain.node("Mul", *chain.operands(x, factor))
    chain.append("Add", *chain.operands(product, x))


CONVOLUTIONAL = (affine, affine, batchnorm, pad, pad, pointwise, *[convolution] * 4)
OTHER = (activation, activation, resize, gate, scale_and_shift)


def run(model: ir.Model, x: np.ndarray) -> np.ndarray | None:
    """The result in ONNX Runtime as the graph is written, else in float64; None for neither."""
    try:
        session = open_session(model, graph_optimizations=False, threads=1)
        (result,) = run_session(session, {"x": x}).values()
    except CheckError:
        try:
            (result,) = Reference(model).run({"x": x}).values()
        except CheckError:
            return None
    return np.asarray(result)


def random_chain(layers: tuple[Callable[[Chain], None], ...], seed: int) -> Chain | None:
    chain = Chain(np.random.default_rng(seed))
    try:
        for _ in range(chain.pick(2, 3, 4)):
            chain.pick(*layers)(chain)
    except InvalidError:
        return None
    return chain


def check(chain: Chain) -> tuple[Rewrite, ...]:
    """Fuse a chain and compare; return what was decided, nothing where the chain does not run."""
    names = ("N", chain.start[1], *(f"S{axis}" for axis in range(len(chain.start) - 2)))
    original = ir.from_proto(chain.proto(chain.pick(names, chain.start)))
    x = chain.rng.normal(size=chain.start).astype(np.float32) * 3
    wanted = run(original, x)
    if wanted is None or not np.isfinite(wanted).all() or not wanted.any():
        return ()
    model, _ = tidy(original)
    files.infer_shapes(model)
    fused = fuse(model, all_rules(), seed=0)
    onnx.checker.check_model(ir.to_proto(fused.model))
    found = run(fused.model, x)
    assert found is not None, chain
    assert found.shape == wanted.shape, chain
    assert abs(found - wanted).max() <= TOLERANCE * abs(wanted).max(), chain
    return (*fused.applied, *fused.refused)


def sweep(layers: tuple[Callable[[Chain], None], ...], seeds: range) -> collections.Counter[str]:
    """Check many chains; count the rewrites by rule, and those that only the proof prevented."""
    counts: collections.Counter[str] = collections.Counter()
    for seed in seeds:
        chain = random_chain(layers, seed)
        records = check(chain) if chain else ()
        counts.update(record.rule for record in records if record.status == "applied")
        counts["disproved"] += sum(record.status == "inaccurate" for record in records)
    return counts


FAMILIES = {
    CONVOLUTIONAL: (
        "compose_pointwise",
        "drop_neutral_constant",
        "fold_affine",
        "fold_affine_forward",
        "fold_batchnorm",
        "fold_pad",
    ),
    OTHER: (
        "factor_gate",
        "spell_affine",
        "spell_gelu",
        "spell_hardswish",
        "spell_resize",
        "spell_silu",
    ),
}


@pytest.mark.parametrize("layers", FAMILIES, ids=("convolutional", "other"))
def test_random_chains_keep_their_results(layers: Any) -> None:
    applied = sweep(layers, range(200))
    assert all(applied[rule] >= 3 for rule in FAMILIES[layers]), applied


@pytest.mark.long
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("layers", FAMILIES, ids=("convolutional", "other"))
def test_many_random_chains_keep_their_results(layers: Any, part: int) -> None:
    sweep(layers, range(1000 + 1000 * part, 2000 + 1000 * part))


def test_every_rule_is_swept() -> None:
    assert {rule.name for rule in all_rules()} == {rule for f in FAMILIES.values() for rule in f}
