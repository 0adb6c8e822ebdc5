"""Proofs: every rule passes on its site, and every way of getting it wrong is disproved.

A mutant is a rule with one mistake of the kind that people make. Those that must fail are the
measure of this whole package: if one of them were proved, a wrong model could ship.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.optimizer.prove import Disproved, prove
from advconv_onnx.rewriter.affine import Affine, batchnorm
from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.fusions.compose_pointwise import ComposePointwise
from advconv_onnx.rewriter.fusions.drop_neutral_constant import DropNeutralConstant
from advconv_onnx.rewriter.fusions.factor_gate import FactorGate
from advconv_onnx.rewriter.fusions.fold_affine import FoldAffine
from advconv_onnx.rewriter.fusions.fold_affine_forward import FoldAffineForward
from advconv_onnx.rewriter.fusions.fold_batchnorm import FoldBatchnorm
from advconv_onnx.rewriter.fusions.fold_pad import FoldPad
from advconv_onnx.rewriter.fusions.spell_affine import SpellAffine
from advconv_onnx.rewriter.fusions.spell_gelu import SpellGelu
from advconv_onnx.rewriter.fusions.spell_global_pool import SpellGlobalPool
from advconv_onnx.rewriter.fusions.spell_hardswish import SpellHardswish
from advconv_onnx.rewriter.fusions.spell_resize import SpellResize
from advconv_onnx.rewriter.fusions.spell_silu import SpellSilu
from advconv_onnx.rewriter.rule import Matcher, Proposal, Rule
from tests.parsing import normal, parse


def proposal(rule: Rule, model: ir.Model) -> tuple[Matcher, Proposal]:
    """The one proposal that a rule makes for a model."""
    matcher = Matcher(rule)
    made = [matcher.propose(model, model.graph, node) for node in model.graph]
    (found,) = [one for one in made if one is not None]
    assert isinstance(found, Proposal), found.reason
    return matcher, found


def certificate(rule: Rule, model: ir.Model, seed: int = 0) -> str:
    return prove(*proposal(rule, model), dict(model.opset_imports), seed)


def site(nodes: str, x: str = "N, 4, H, W", opset: int = 15, **weights: Any) -> ir.Model:
    arrays = {name: np.asarray(w, getattr(w, "dtype", np.float32)) for name, w in weights.items()}
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[{x}] x) => (float[] z)'
    return parse(f"{text} {{ {nodes} }}".replace("<>", ""), **arrays)


@dataclasses.dataclass(frozen=True)
class Case:
    """A mutant and a site where its mistake matters."""

    name: str
    mutant: Rule
    model: Callable[[], ir.Model]


def mutate(parent: type[Rule], **methods: Any) -> Rule:
    """A rule with other methods; they may call ``parent``'s."""
    return type("Mutant", (parent,), methods)()  # type: ignore[no-any-return]


C, S = normal(4, seed=2), np.array([1.5, -2, 0.5, 3], np.float32)
PER_CHANNEL = C.reshape(4, 1, 1)
SQUARE, BIAS = normal(4, 4, 2, 3), normal(4, seed=1)
GROUPED = normal(4, 2, 2, 3)


# Folding an operator behind a convolution into it


def fold_affine(change: Callable[[Convolution, Affine], tuple[Any, Any]]) -> Rule:
    """The rule with other new weights and another new bias."""

    def rewrite(self: Rule, op: Any, site: Any, plan: Any) -> ir.Value:
        return plan[0].rebuild(op, site["x"], *change(*plan))

    return mutate(FoldAffine, rewrite=rewrite)


def keep_attributes_but(name: str) -> Rule:
    def rewrite(self: Rule, op: Any, site: Any, plan: Any) -> ir.Value:
        convolution, affine = plan
        attributes = dict(convolution.node.attributes.items())
        del attributes[name]
        weight = convolution.scale_output(affine.scale).reshape(convolution.weight.shape)
        bias = convolution.bias * affine.scale + affine.shift
        values = [
            op.initializer(array.astype(np.float32), name)
            for array, name in ((weight, "w"), (bias, "b"))
        ]
        return getattr(op, convolution.node.op_type)(site["x"], *values, **attributes)

    return mutate(FoldAffine, rewrite=rewrite)


def read_as_channels(parent: type[Rule]) -> Rule:
    """Take any constant with the right number of values for one value per channel."""

    def check(self: Rule, site: Any) -> Any:
        array = site["c"].const_value.numpy()
        convolution = Convolution.of(site["y"].producer())
        values = np.resize(array.reshape(-1).astype(np.float64), convolution.out_channels)
        one, zero = np.ones(len(values)), np.zeros(len(values))
        return convolution, Affine(values, zero) if site.root.op_type == "Mul" else Affine(
            one, values
        )

    return mutate(parent, check=check)


def swap_operands(self: Rule, site: Any) -> Any:
    convolution, affine = FoldAffine.check(FoldAffine(), site)
    return convolution, Affine(-affine.scale, -affine.shift)


def divide_as_multiply(self: Rule, site: Any) -> Any:
    convolution, affine = FoldAffine.check(FoldAffine(), site)
    return convolution, Affine(1 / affine.scale, affine.shift)


def conv_then(element: str, attributes: str = "", w: Any = SQUARE, c: Any = PER_CHANNEL, **o: Any):
    bias = o.pop("b", BIAS)
    text = f"y = Conv <{attributes}> (x, w, b) z = {element}(y, c)"
    return lambda: site(text, w=w, b=bias, c=c, **o)


def transposed_then(element: str, attributes: str, w: Any = GROUPED, c: Any = PER_CHANNEL):
    text = f"y = ConvTranspose <{attributes}> (x, w, b) z = {element}(y, c)"
    return lambda: site(text, w=w, b=np.resize(BIAS, c.size), c=c)


def first_group_for_all(convolution: Convolution, affine: Affine) -> tuple[Any, Any]:
    size = len(affine.scale) // convolution.group
    scale = affine.scale[:size].reshape(1, -1, *[1] * (convolution.rank - 2))
    return convolution.weight * scale, convolution.bias * affine.scale + affine.shift


def build(dtype: Any, **extra: Any) -> Rule:
    """The right weights, but of type ``dtype``, or with further attributes."""

    def rewrite(self: Rule, op: Any, site: Any, plan: Any) -> ir.Value:
        v, a = plan
        weight = v.scale_output(a.scale).reshape(v.weight.shape)
        values = ((weight, "w"), (v.bias * a.scale + a.shift, "b"))
        inputs = [op.initializer(array.astype(dtype), name) for array, name in values]
        return op.Conv(site["x"], *inputs, **dict(v.node.attributes.items()), **extra)

    return mutate(FoldAffine, rewrite=rewrite)


def rounded(v: Convolution, a: Affine) -> tuple[Any, Any]:
    """Weights that lose digits, which integers do not show."""
    return v.scale_output(a.scale).astype(np.float16), v.bias * a.scale + a.shift


def small_bias_dropped(v: Convolution, a: Affine) -> tuple[Any, Any]:
    bias = v.bias * a.scale + a.shift
    return v.scale_output(a.scale), np.where(abs(bias) < 10, 0, bias)


def negative_scale_cut(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.scale_output(np.maximum(a.scale, 0)), v.bias * a.scale + a.shift


ADD_SHIFT = conv_then("Add")
MULTIPLY = conv_then("Mul", "pads = [1, 1, 1, 1]")
FOLD_AFFINE = (
    ("shift of the wrong sign", lambda v, a: (v.weight, v.bias - a.shift), ADD_SHIFT),
    ("shift forgotten", lambda v, a: (v.weight, v.bias), ADD_SHIFT),
    ("old bias forgotten", lambda v, a: (v.weight, a.shift), ADD_SHIFT),
    ("shift of the first channel", lambda v, a: (v.weight, v.bias + a.shift[0]), ADD_SHIFT),
    ("channels reversed", lambda v, a: (v.weight, v.bias + a.shift[::-1]), ADD_SHIFT),
    ("shift added to weights", lambda v, a: (v.weight + a.shift[0], v.bias), ADD_SHIFT),
    ("scale forgotten", lambda v, a: (v.weight, v.bias * a.scale), MULTIPLY),
    ("bias not scaled", lambda v, a: (v.scale_output(a.scale), v.bias), MULTIPLY),
    ("bias scaled twice", lambda v, a: (v.scale_output(a.scale), v.bias * a.scale**2), MULTIPLY),
    ("inputs scaled", lambda v, a: (v.scale_input(a.scale), v.bias * a.scale), MULTIPLY),
    ("scale reversed", lambda v, a: (v.scale_output(a.scale[::-1]), v.bias * a.scale), MULTIPLY),
    ("scale squared", lambda v, a: (v.scale_output(a.scale**2), v.bias * a.scale), MULTIPLY),
    ("absolute scale", lambda v, a: (v.scale_output(abs(a.scale)), v.bias * a.scale), MULTIPLY),
    (
        "kernel flipped",
        lambda v, a: (v.scale_output(a.scale)[..., ::-1], v.bias * a.scale),
        MULTIPLY,
    ),
    ("weights rounded to float16", rounded, MULTIPLY),
    ("small bias dropped", small_bias_dropped, ADD_SHIFT),
    ("negative scales cut", negative_scale_cut, MULTIPLY),
    (
        "group ignored in ConvTranspose",
        first_group_for_all,
        transposed_then("Mul", "group = 2, strides = [2, 1]"),
    ),
    (
        "inputs of ConvTranspose scaled",
        lambda v, a: (v.scale_input(a.scale), v.bias * a.scale),
        transposed_then("Mul", "group = 2"),
    ),
)
ATTRIBUTES = (
    ("strides", conv_then("Add", "strides = [2, 1]")),
    ("dilations", conv_then("Add", "dilations = [1, 2]")),
    ("pads", conv_then("Add", "pads = [0, 0, 0, 1]")),
    ("auto_pad", conv_then("Add", 'auto_pad = "SAME_LOWER"')),
    ("group", transposed_then("Add", "group = 2", c=PER_CHANNEL)),
    (
        "output_padding",
        transposed_then("Add", "group = 2, strides = [2, 2], output_padding = [1, 0]"),
    ),
    ("output_shape", transposed_then("Add", "group = 2, strides = [2, 2], output_shape = [9, 9]")),
)
CONSTANTS = (
    # W == C: four values along the width or the height, of an image that may be four pixels wide.
    ("(W,)", conv_then("Add", c=C)),
    ("(H, 1)", conv_then("Mul", c=C.reshape(4, 1))),
    ("(W,) where the width is the only 4", conv_then("Add", c=C, x="1, 4, 9, 6")),
    ("(W,) behind a 1x1 convolution", conv_then("Mul", c=C, w=normal(4, 4, 1, 1))),
    ("(N, 1, 1, 1)", conv_then("Add", c=C.reshape(4, 1, 1, 1), x="4, 4, H, W")),
    ("(N, 1, 1, 1) of two", conv_then("Add", c=C[:2].reshape(2, 1, 1, 1))),
    ("(1, 1, C, 1, 1)", conv_then("Add", c=C.reshape(1, 1, 4, 1, 1))),
    ("that widens the channels", conv_then("Add", w=SQUARE[:1], b=BIAS[:1])),
    (
        "(1, W) in one dimension",
        lambda: site(
            "y = Conv(x, w) z = Add(y, c)", "N, 4, L", w=normal(4, 4, 1), c=C.reshape(1, 4)
        ),
    ),
)


def cases_of_fold_affine() -> Iterator[Case]:
    for name, change, model in FOLD_AFFINE:
        yield Case(name, fold_affine(change), model)
    for name, model in ATTRIBUTES:
        yield Case(f"{name} dropped", keep_attributes_but(name), model)
    for name, model in CONSTANTS:
        yield Case(f"constant {name} per channel", read_as_channels(FoldAffine), model)
    yield Case("weights of another type", build(np.float64), MULTIPLY)
    yield Case("weights of a narrower type", build(np.float16), MULTIPLY)
    yield Case("an attribute that Conv lacks", build(np.float32, alpha=1.0), MULTIPLY)
    wider = mutate(
        FoldAffine,
        check=lambda self, site: Convolution.of(site["y"].producer()),
        rewrite=lambda self, op, site, v: v.rebuild(op, site["x"], v.weight, v.bias + C),
    )
    yield Case("bias wider than the weight", wider, conv_then("Add", w=SQUARE[:1], b=BIAS[:1]))
    yield Case(
        "c - y as y - c",
        mutate(FoldAffine, check=swap_operands),
        lambda: site("y = Conv(x, w) z = Sub(c, y)", w=SQUARE, c=PER_CHANNEL),
    )
    yield Case(
        "division as product", mutate(FoldAffine, check=divide_as_multiply), conv_then("Div")
    )


# BatchNormalization


def normalize(attributes: str = "", conv: str = "Conv", outputs: str = "z", opset: int = 15):
    rng = np.random.default_rng(5)
    statistics = {
        "s": rng.normal(size=4), "c": rng.normal(size=4), "m": rng.normal(size=4),
        "v": rng.uniform(0.5, 2, 4),
    }  # fmt: skip
    w = SQUARE if conv == "Conv" else GROUPED
    group = "" if conv == "Conv" else "<group = 2>"
    return lambda: site(
        f"y = {conv} {group} (x, w, b) "
        f"{outputs} = BatchNormalization <{attributes}> (y, s, c, m, v)",
        w=w, b=BIAS, opset=opset, **{k: a.astype(np.float32) for k, a in statistics.items()},
    )  # fmt: skip


def read_statistics(node: ir.Node) -> tuple[np.ndarray, ...]:
    return tuple(value.const_value.numpy().astype(np.float64) for value in node.inputs[1:5])


def batchnorm_by(read: Callable[..., Affine]) -> Rule:
    def check(self: Rule, site: Any) -> Any:
        epsilon = site.root.attributes.get_float("epsilon", 1e-5)
        affine = read(*read_statistics(site.root), epsilon)
        return Convolution.of(site["y"].producer()), affine

    return mutate(FoldBatchnorm, check=check)


def ratio(s: Any, v: Any, e: float) -> Any:
    return s / np.sqrt(v + e)


PLAIN = normalize()
BATCHNORM = (
    (
        "epsilon forgotten",
        lambda s, c, m, v, e: Affine(ratio(s, v, 0), c - m * ratio(s, v, 0)),
        PLAIN,
    ),
    (
        "epsilon of the default",
        lambda s, c, m, v, e: Affine(ratio(s, v, 1e-5), c - m * ratio(s, v, 1e-5)),
        normalize("epsilon = 0.001"),
    ),
    (
        "epsilon outside the root",
        lambda s, c, m, v, e: Affine(s / (np.sqrt(v) + e), c - m * s / (np.sqrt(v) + e)),
        PLAIN,
    ),
    ("no root", lambda s, c, m, v, e: Affine(s / (v + e), c - m * s / (v + e)), PLAIN),
    ("mean added", lambda s, c, m, v, e: Affine(ratio(s, v, e), c + m * ratio(s, v, e)), PLAIN),
    ("mean not scaled", lambda s, c, m, v, e: Affine(ratio(s, v, e), c - m), PLAIN),
    ("mean forgotten", lambda s, c, m, v, e: Affine(ratio(s, v, e), c), PLAIN),
    ("bias forgotten", lambda s, c, m, v, e: Affine(ratio(s, v, e), -m * ratio(s, v, e)), PLAIN),
    (
        "scale forgotten",
        lambda s, c, m, v, e: Affine(ratio(1, v, e), c - m * ratio(1, v, e)),
        PLAIN,
    ),
    (
        "training mode",
        lambda s, c, m, v, e: Affine(ratio(s, v, e), c - m * ratio(s, v, e)),
        normalize("training_mode = 1"),
    ),
    (
        "training mode of old opsets: five outputs",
        lambda s, c, m, v, e: Affine(ratio(s, v, e), c - m * ratio(s, v, e)),
        normalize(outputs="z, p, q, r, t", opset=9),
    ),
)


def cases_of_fold_batchnorm() -> Iterator[Case]:
    for name, read, model in BATCHNORM:
        yield Case(name, batchnorm_by(read), model)

    def ignore_group(self: Rule, op: Any, site: Any, plan: Any) -> ir.Value:
        return plan[0].rebuild(op, site["x"], *first_group_for_all(*plan))

    yield Case(
        "group ignored",
        mutate(FoldBatchnorm, rewrite=ignore_group),
        normalize(conv="ConvTranspose"),
    )


# Folding an operator in front of a convolution into it


def before_conv(element: str, attributes: str = "", conv: str = "Conv", w: Any = SQUARE, **o: Any):
    c = o.pop("c", PER_CHANNEL)
    return lambda: site(f"y = {element}(x, c) z = {conv} <{attributes}> (y, w)", w=w, c=c, **o)


def forward(change: Callable[[Convolution, Affine], tuple[Any, Any]]) -> Rule:
    """The rule without its refusals, with other new weights and another bias."""

    def check(self: Rule, site: Any) -> Any:
        convolution, node = Convolution.of(site.root), site["y"].producer()
        if node.op_type == "BatchNormalization":
            return convolution, batchnorm(node)
        channels = convolution.in_channels
        values = np.resize(site["c"].const_value.numpy().reshape(-1), channels).astype(np.float64)
        one, zero = np.ones(channels), np.zeros(channels)
        return convolution, Affine(values, zero) if node.op_type == "Mul" else Affine(one, values)

    def rewrite(self: Rule, op: Any, site: Any, plan: Any) -> ir.Value:
        return plan[0].rebuild(op, site["x"], *change(*plan))

    return mutate(FoldAffineForward, check=check, rewrite=rewrite)


def right(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.scale_input(a.scale), v.bias + v.response_to(a.shift)


def response_to_first_group(v: Convolution, a: Affine) -> tuple[Any, Any]:
    sums = v.weight.reshape(len(v.weight), v.weight.shape[1], -1).sum(-1)
    return v.weight, v.bias + sums @ a.shift[: v.weight.shape[1]]


def scale_of_first_group(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.weight * a.scale[: v.weight.shape[1]].reshape(1, -1, 1, 1), v.bias


def response_of_one_tap(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.weight, v.bias + v.weight[:, :, 0, 0] @ a.shift


def outputs_scaled(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.scale_output(a.scale), v.bias


def shift_at_output(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.weight, v.bias + a.shift


def sums_of_transposed(v: Convolution, a: Affine) -> tuple[Any, Any]:
    return v.weight, v.bias + a.shift @ v.weight.sum((2, 3))


FORWARD = (
    ("shift through padding", right, before_conv("Add", "pads = [0, 1, 0, 0]")),
    ("shift through padding at the end", right, before_conv("Add", "pads = [0, 0, 0, 1]")),
    ("shift through auto_pad", right, before_conv("Add", 'auto_pad = "SAME_UPPER"')),
    (
        "shift through a transposed convolution",
        sums_of_transposed,
        before_conv("Add", conv="ConvTranspose"),
    ),
    (
        "shift through a strided transposed convolution",
        sums_of_transposed,
        before_conv("Add", "strides = [2, 2]", conv="ConvTranspose"),
    ),
    ("group ignored", response_to_first_group, before_conv("Add", "group = 2", w=GROUPED)),
    ("scale of the first group", scale_of_first_group, before_conv("Mul", "group = 2", w=GROUPED)),
    ("one tap", response_of_one_tap, before_conv("Add")),
    ("shift at the output", shift_at_output, before_conv("Add")),
    ("outputs scaled", outputs_scaled, before_conv("Mul")),
    ("constant (W,)", right, before_conv("Mul", c=C)),
    ("constant (W,) added before a 1x1", right, before_conv("Add", c=C, w=normal(4, 4, 1, 1))),
    ("constant that widens the input", right, before_conv("Mul", x="N, 1, H, W")),
    (
        "constant that widens the input to a depthwise convolution",
        right,
        before_conv("Mul", "group = 4", w=normal(4, 1, 3, 3), x="N, 1, H, W"),
    ),
)


def cases_of_fold_affine_forward() -> Iterator[Case]:
    for name, change, model in FORWARD:
        yield Case(name, forward(change), model)


# Pad


def pad_then(
    conv: str = "Conv",
    attributes: str = "",
    p: Any = (0, 0, 1, 2, 0, 0, 3, 0),
    pad: str = "",
    **o: Any,
):
    given = {"p": np.array(p, np.int64), "v": np.float32(o.pop("v", 0))}
    text = f"y = Pad <{pad}> (x, p, v) z = {conv} <{attributes}> (y, w)"
    return lambda: site(text, opset=18, w=o.pop("w", SQUARE), **given, **o)


def fold_pad(change: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Rule:
    """The rule without its refusals: ``change(pads, padding, strides)`` gives the new pads."""

    def check(self: Rule, site: Any) -> Any:
        convolution = Convolution.of(site.root)
        rank = convolution.rank
        padding = site["y"].producer().inputs[1].const_value.numpy().reshape(2, rank)[:, 2:]
        pads = np.array(convolution.pads).reshape(2, -1)
        strides = np.array(site.root.attributes.get_ints("strides", [1] * (rank - 2)))
        return convolution, change(pads, padding, strides).ravel().tolist()

    return mutate(FoldPad, check=check)


def padded(pads: Any, padding: Any, strides: Any) -> Any:
    return pads + padding


def cropped(pads: Any, padding: Any, strides: Any) -> Any:
    return pads - padding * strides


TRANSPOSED = "strides = [2, 3], pads = [2, 6, 6, 0]"
PAD = (
    ("ends swapped", lambda q, p, s: q + p[::-1], pad_then()),
    ("axes swapped", lambda q, p, s: q + p[:, ::-1], pad_then()),
    ("interleaved", lambda q, p, s: (q + p).T, pad_then()),
    ("old pads forgotten", lambda q, p, s: p, pad_then(attributes="pads = [0, 1, 1, 0]")),
    ("padding forgotten", lambda q, p, s: q, pad_then()),
    ("padding times stride", lambda q, p, s: q + p * s, pad_then(attributes="strides = [2, 1]")),
    ("a value of one", padded, pad_then(v=1)),
    ("reflected", padded, pad_then(p=[0, 0, 1, 1, 0, 0, 1, 1], pad='mode = "reflect"')),
    ("edge", padded, pad_then(pad='mode = "edge"')),
    ("wrapped", padded, pad_then(p=[0, 0, 1, 1, 0, 0, 1, 1], pad='mode = "wrap"')),
    ("padded batch", padded, pad_then(p=[1, 0, 1, 2, 0, 0, 3, 0])),
    ("padded channels", padded, pad_then(p=[0, 1, 1, 2, 0, 0, 3, 0], x="N, 3, H, W")),
    ("before SAME_UPPER", padded, pad_then(attributes='auto_pad = "SAME_UPPER"')),
    (
        "before SAME_LOWER with strides",
        padded,
        pad_then(attributes='auto_pad = "SAME_LOWER", strides = [2, 2]'),
    ),
    (
        "stride forgotten in ConvTranspose",
        lambda q, p, s: q - p,
        pad_then("ConvTranspose", TRANSPOSED),
    ),
    (
        "added in ConvTranspose",
        lambda q, p, s: q + p * s,
        pad_then("ConvTranspose", TRANSPOSED),
    ),
    (
        "strides of ConvTranspose swapped",
        lambda q, p, s: np.maximum(0, q - p * s[::-1]),
        pad_then("ConvTranspose", TRANSPOSED),
    ),
    (
        "pads of ConvTranspose cut at zero",
        lambda q, p, s: np.maximum(0, q - p * s),
        pad_then("ConvTranspose", "strides = [2, 2], pads = [1, 1, 1, 1]"),
    ),
    (
        "before a ConvTranspose with a fixed output",
        cropped,
        pad_then("ConvTranspose", "strides = [2, 3], pads = [2, 6, 6, 0], output_shape = [12, 15]"),
    ),
)


def cases_of_fold_pad() -> Iterator[Case]:
    for name, change, model in PAD:
        yield Case(name, fold_pad(change), model)


# Composing two convolutions


def two_convs(first: str = "", second: str = "", w: Any = SQUARE, u: Any = None, **o: Any):
    u = normal(2, 4, 1, 1, seed=3) if u is None else u
    text = f"y = Conv <{first}> (x, w, b) z = Conv <{second}> (y, u, c)"
    return lambda: site(text, w=w, b=BIAS, u=u, c=BIAS[: len(u)], **o)


def compose(change: Callable[[Convolution, Convolution], tuple[Any, Any]]) -> Rule:
    def check(self: Rule, site: Any) -> Any:
        return Convolution.of(site["y"].producer()), Convolution.of(site.root)

    def rewrite(self: Rule, op: Any, site: Any, plan: Any) -> ir.Value:
        return plan[0].rebuild(op, site["x"], *change(*plan))

    return mutate(ComposePointwise, check=check, rewrite=rewrite)


def matrix(v: Convolution) -> np.ndarray:
    return v.weight.reshape(len(v.weight), -1)


def composed(first: Convolution, second: Convolution) -> tuple[Any, Any]:
    weight = np.tensordot(matrix(second), first.weight, axes=1)
    return weight, matrix(second) @ first.bias + second.bias


COMPOSE = (
    (
        "matrix transposed",
        lambda f, s: (np.tensordot(matrix(s).T, f.weight, 1), matrix(s).T @ f.bias + s.bias),
        two_convs(u=normal(4, 4, 1, 1)),
    ),
    ("first bias forgotten", lambda f, s: (composed(f, s)[0], s.bias), two_convs()),
    (
        "first bias not composed",
        lambda f, s: (composed(f, s)[0], f.bias[: len(s.bias)] + s.bias),
        two_convs(),
    ),
    (
        "second bias forgotten",
        lambda f, s: (composed(f, s)[0], matrix(s) @ f.bias),
        two_convs(),
    ),
    ("padding between", composed, two_convs(second="pads = [0, 0, 0, 1]")),
    ("padding on all sides", composed, two_convs("pads = [1, 1, 1, 1]", "pads = [1, 1, 1, 1]")),
    ("a stride behind", composed, two_convs(second="strides = [2, 2]")),
    ("a group in front", composed, two_convs("group = 2", w=GROUPED)),
    (
        "a group behind",
        lambda f, s: (np.tensordot(np.tile(matrix(s), 2), f.weight, 1), s.bias),
        two_convs(second="group = 2", u=normal(4, 2, 1, 1)),
    ),
)


def cases_of_compose_pointwise() -> Iterator[Case]:
    for name, change, model in COMPOSE:
        yield Case(name, compose(change), model)


# Rewrites that are not affine


def spell(parent: type[Rule], build: Callable[[Any, ir.Value], ir.Value], plan: Any = None) -> Rule:
    """A rule that takes every match, and writes ``build(op, x)``."""
    return mutate(
        parent,
        check=lambda self, site: plan,
        rewrite=lambda self, op, site, plan: build(op, site["x"]),
    )


def one(op: Any, value: float = 1) -> ir.Value:
    return op.initializer(np.float32(value), "value")


HARDSWISH = "a = Add(x, t) b = Clip(a, lo, hi) d = Mul(x, b) z = Div(d, q)"


def hardswish(three: float = 3, low: float = 0, high: float = 6, six: float = 6, opset: int = 15):
    return lambda: site(HARDSWISH, opset=opset, t=three, lo=low, hi=high, q=six)


def gelu(half: float = 0.5, root: float = 2**0.5, opset: int = 20):
    text = "a = Div(x, r) b = Erf(a) d = Add(b, one) e = Mul(x, d) z = Mul(e, h)"
    return lambda: site(text, opset=opset, r=root, one=1, h=half)


def gelu_tanh():
    return site(
        "a = Pow(x, t) b = Mul(k, a) d = Add(x, b) e = Mul(d, s) f = Tanh(e) i = Add(f, one) "
        "j = Mul(x, i) z = Mul(j, h)",
        opset=20, t=3, k=0.044715, s=0.797884583, one=1, h=0.5,
    )  # fmt: skip


def silu(one: float = 1):
    return lambda: site("a = Neg(x) b = Exp(a) d = Add(b, one) z = Div(x, d)", one=one)


def resize(attributes: str, x: str = "N, 4, H, W", scales: Any = (1, 1, 2, 3)):
    scales = np.array(scales, np.float32)
    return lambda: site(f"z = Resize <{attributes}> (x, , s)", x, 18, s=scales)


def as_resize(scales: tuple[int, ...] = (1, 1, 2, 3), **attributes: str):
    def build(op: Any, x: ir.Value) -> ir.Value:
        given = op.initializer(np.array(scales, np.float32), "s")
        return op.Resize(x, None, given, **attributes)

    return build


def to_hardswish(op: Any, x: ir.Value) -> ir.Value:
    return op.HardSwish(x)


def reduce(axes: str = "2, 3", keep: int = 1, x: str = "N, 4, H, W"):
    return lambda: site(f"z = ReduceMean <axes = [{axes}], keepdims = {keep}> (x)", x, 13)


def gate(shape: str = "N, 3, 1, 1", x: str = "N, 3, H, W"):
    return lambda: parse(
        f'<ir_version: 8, opset_import: ["" : 13]> g (float[{x}] x, float[{shape}] g) => '
        "(float[] z) { a = Mul(x, g) z = Add(x, a) }"
    )


def gated(build: Callable[[Any, ir.Value, ir.Value], ir.Value]) -> Rule:
    return mutate(
        FactorGate,
        check=lambda self, site: None,
        rewrite=lambda self, op, site, plan: build(op, site["x"], site["g"]),
    )


def scaled_and_shifted(x: str = "N, 4, H, W", c: Any = PER_CHANNEL):
    return lambda: site("y = Mul(x, a) z = Add(y, c)", x, a=S.reshape(4, 1, 1), c=c)


def spell_affine(change: Callable[[Affine], Affine]) -> Rule:
    def rewrite(self: Rule, op: Any, site: Any, plan: Affine) -> ir.Value:
        return SpellAffine.rewrite(SpellAffine(), op, site, change(plan))

    return mutate(SpellAffine, rewrite=rewrite)


def spell_affine_carelessly() -> Rule:
    def check(self: Rule, site: Any) -> Affine:
        a, c = (site[name].const_value.numpy().reshape(-1).astype(np.float64) for name in "ac")
        return Affine(a, np.resize(c, len(a)))

    return mutate(SpellAffine, check=check)


def neutral(constant: Any, x: str, element: str = "Add"):
    return lambda: site(f"z = {element}(x, c)", x, c=constant)


FLOOR = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
ZEROS = np.zeros(4, np.float32)


def cases_of_other_rules() -> Iterator[Case]:
    for name, parent, model in (
        ("HardSwish before opset 14", SpellHardswish, hardswish(opset=13)),
        ("Gelu before opset 20", SpellGelu, gelu(opset=19)),
    ):
        yield Case(name, mutate(parent, minimum_opset=1), model)
    for name, model in (
        ("divided by 5", hardswish(six=5)),
        ("clipped at 6.01", hardswish(high=6.01)),
        ("clipped below 0", hardswish(low=-0.01)),
        ("shifted by 2.99", hardswish(three=2.99)),
        ("constants that are pairwise swapped", hardswish(three=6, six=3)),
        ("HardSigmoid of the default alpha", lambda: site("a = HardSigmoid(x) z = Mul(x, a)")),
    ):
        yield Case(f"HardSwish {name}", spell(SpellHardswish, to_hardswish), model)
    right = hardswish()
    yield Case(
        "Relu6", spell(SpellHardswish, lambda op, x: op.Clip(x, one(op, 0), one(op, 6))), right
    )
    yield Case("HardSigmoid", spell(SpellHardswish, lambda op, x: op.HardSigmoid(x)), right)

    def spell_gelu(approximate: str) -> Rule:
        return spell(SpellGelu, lambda op, x: op.Gelu(x, approximate=approximate))

    yield Case("tanh for erf", spell_gelu("tanh"), gelu())
    yield Case("erf for tanh", spell_gelu("none"), gelu_tanh)
    yield Case("Gelu with another half", spell_gelu("none"), gelu(half=0.4999))
    yield Case("Gelu with another root", spell_gelu("none"), gelu(root=1.702**0.5))
    sigmoid = spell(SpellSilu, lambda op, x: op.Mul(x, op.Sigmoid(x)))
    yield Case("SiLU with another one", sigmoid, silu(1.01))
    yield Case("Sigmoid for SiLU", spell(SpellSilu, lambda op, x: op.Sigmoid(x)), silu())
    yield Case("HardSwish for SiLU", spell(SpellSilu, to_hardswish), silu())
    yield Case(
        "Swish of another alpha", sigmoid, lambda: site("z = Swish <alpha = 1.01> (x)", opset=24)
    )

    pool = spell(SpellGlobalPool, lambda op, x: op.GlobalAveragePool(x))
    yield Case("mean over one axis", pool, reduce("2"))
    yield Case("mean over channels", pool, reduce("1"))
    yield Case("mean over everything", pool, reduce("0, 1, 2, 3"))
    yield Case("mean without keepdims", pool, reduce(keep=0))
    yield Case("mean over two of three axes", pool, reduce("2, 3", x="N, 4, D, H, W"))
    maximum = spell(SpellGlobalPool, lambda op, x: op.GlobalMaxPool(x))
    yield Case("maximum for mean", maximum, reduce())

    floor = as_resize(**FLOOR)
    linear = as_resize(mode="linear", coordinate_transformation_mode="half_pixel")
    for name, build, model in (
        ("ceil as floor", floor, resize('mode = "nearest", nearest_mode = "ceil"')),
        (
            "aligned corners as floor",
            floor,
            resize('mode = "nearest", coordinate_transformation_mode = "align_corners"'),
        ),
        ("scale 1.5 as floor", as_resize((1, 1, 2, 2), **FLOOR), resize("", scales=(1, 1, 1.5, 2))),
        ("scales swapped", as_resize((1, 1, 3, 2), **FLOOR), resize("")),
        ("linear as nearest", floor, resize('mode = "linear"')),
        (
            "asymmetric as half_pixel",
            linear,
            resize('mode = "linear", coordinate_transformation_mode = "asymmetric"'),
        ),
        (
            "aligned corners as half_pixel",
            linear,
            resize('mode = "linear", coordinate_transformation_mode = "align_corners"'),
        ),
        ("cubic as linear", linear, resize('mode = "cubic"')),
        (
            "shrinking, rounded down",
            as_resize((1, 1, 0.25, 0.25), **FLOOR),
            resize("", scales=(1, 1, 0.25, 0.25)),
        ),
        (
            "sizes as scales that only fit one size",
            floor,
            lambda: site("z = Resize(x, , , n)", "N, 4, H, W", 18, n=np.array([1, 4, 10, 21])),
        ),
        (
            "one pixel, which pytorch_half_pixel treats apart",
            as_resize((1, 1, 0.5, 0.5), mode="linear", coordinate_transformation_mode="half_pixel"),
            resize(
                'mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"',
                "1, 4, 2, 3",
                (1, 1, 0.5, 0.5),
            ),
        ),
    ):
        yield Case(f"Resize: {name}", spell(SpellResize, build), model)

    yield Case("gate without x", gated(lambda op, x, g: op.Mul(x, g)), gate())
    yield Case("gate minus one", gated(lambda op, x, g: op.Mul(x, op.Sub(g, one(op)))), gate())
    yield Case("x plus one", gated(lambda op, x, g: op.Mul(g, op.Add(x, one(op)))), gate())
    careless = gated(lambda op, x, g: op.Mul(x, op.Add(g, one(op, 1.001))))
    yield Case("gate plus nearly one", careless, gate())

    for name, change in (
        ("shift scaled", lambda a: Affine(a.scale, a.shift * a.scale)),
        ("shift of the wrong sign", lambda a: Affine(a.scale, -a.shift)),
        ("scale forgotten", lambda a: Affine(np.ones(4), a.shift)),
        ("channels reversed", lambda a: Affine(a.scale[::-1], a.shift)),
    ):
        yield Case(f"spell_affine: {name}", spell_affine(change), scaled_and_shifted())
    careless = spell_affine_carelessly()
    yield Case("spell_affine: constant (W,)", careless, scaled_and_shifted(c=C))
    yield Case("spell_affine: constant that widens", careless, scaled_and_shifted("N, 1, H, W"))

    drop = mutate(DropNeutralConstant, check=lambda self, site: None)
    for name, model in (
        ("0.001 dropped", neutral(0.001, "N, 4, H, W")),
        ("one channel that is not zero dropped", neutral(np.array([0, 0, 0, 1e-3]), "N, 8, 4")),
        ("zeros that widen the channels dropped", neutral(ZEROS.reshape(4, 1, 1), "N, 1, H, W")),
        ("zeros that widen the batch dropped", neutral(ZEROS.reshape(4, 1, 1, 1), "N, 4, H, W")),
        ("zeros that add an axis dropped", neutral(ZEROS.reshape(1, 1, 1, 1, 4), "N, 2, H, 4")),
        ("zeros that widen some sizes dropped", neutral(ZEROS, "N, 2, H, W")),
        ("zeros that widen some other sizes dropped", neutral(ZEROS.reshape(4, 1), "N, 2, H, W")),
        ("zeros that widen sequences of one dropped", neutral(ZEROS, "N, S")),
    ):
        yield Case(f"neutral: {name}", drop, model)


CASES = [
    *cases_of_fold_affine(),
    *cases_of_fold_batchnorm(),
    *cases_of_fold_affine_forward(),
    *cases_of_fold_pad(),
    *cases_of_compose_pointwise(),
    *cases_of_other_rules(),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_mutant_is_disproved(case: Case) -> None:
    with pytest.raises(Disproved) as evidence:
        certificate(case.mutant, case.model())
    assert "\n" not in str(evidence.value)
    assert "shapes tried" not in str(evidence.value), "the site itself must run"


@pytest.mark.long
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_mutant_is_disproved_whatever_the_seed(case: Case) -> None:
    model = case.model()
    matcher, made = proposal(case.mutant, model)
    for seed in range(1, 40):
        with pytest.raises(Disproved):
            prove(matcher, made, dict(model.opset_imports), seed)


RIGHT = (
    (FoldAffine(), conv_then("Add")),
    (FoldAffine(), transposed_then("Mul", "group = 2, strides = [2, 1], output_padding = [1, 0]")),
    (FoldAffine(), conv_then("Div", 'auto_pad = "SAME_LOWER"', c=PER_CHANNEL.reshape(1, 4, 1, 1))),
    (FoldBatchnorm(), normalize("epsilon = 0.001")),
    (FoldAffineForward(), before_conv("Add", "group = 2", w=GROUPED)),
    (FoldPad(), pad_then("ConvTranspose", "strides = [2, 3], pads = [2, 6, 6, 0]")),
    (ComposePointwise(), two_convs("pads = [1, 1, 0, 0]")),
    (SpellHardswish(), hardswish()),
    (SpellGelu(), gelu_tanh),
    (FactorGate(), gate()),
    (SpellAffine(), scaled_and_shifted()),
)


@pytest.mark.parametrize(("rule", "model"), RIGHT)
def test_the_rule_itself_is_proved_whatever_the_seed(
    rule: Rule, model: Callable[[], ir.Model]
) -> None:
    for seed in range(5):
        found = certificate(rule, model(), seed)
        assert found == certificate(rule, model(), seed)
        assert ("integer probe exact on" in found) == rule.affine_in_weights


def test_a_site_that_does_not_run_proves_nothing() -> None:
    """The constant fits one width, which the probe, free to choose, does not choose."""
    model = site(
        "y = Conv <pads = [0, 2, 0, 2]> (x, w) z = Mul(y, c)",
        "1, 4, 7, 18",
        w=SQUARE,
        c=np.ones((1, 20)),
    )
    with pytest.raises(Disproved, match="on none of the shapes tried"):
        certificate(read_as_channels(FoldAffine), model)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_float_types_are_proved_with_integers_too(dtype: Any) -> None:
    weights = {"w": SQUARE.astype(dtype), "c": np.full((4, 1, 1), 2, dtype)}
    name = {np.float64: "double", np.float16: "float16"}[dtype]
    model = parse(
        f'<ir_version: 8, opset_import: ["" : 15]> g ({name}[N, 4, H, W] x) => ({name}[] z)'
        "{ y = Conv(x, w) z = Mul(y, c) }",
        **weights,
    )
    assert "exact on 4 shapes; float64 difference 0e+00" in certificate(FoldAffine(), model)


@pytest.mark.parametrize("name", ["w", "w_bias", "n0_0", "z_1"])
def test_names_of_the_graph_do_not_clash_with_those_of_the_proof(name: str) -> None:
    for rule, text, weights in (
        (FoldAffine(), "y = Conv(x, v) z = Add(y, c)", {"v": SQUARE, "c": PER_CHANNEL}),
        (SpellSilu(), "a = Neg(x) b = Exp(a) d = Add(b, c) z = Div(x, d)", {"c": np.float32(1)}),
        (SpellAffine(), "y = Mul(x, v) z = Add(y, c)", {"v": PER_CHANNEL, "c": PER_CHANNEL}),
    ):
        model = site(text, **weights)
        model.graph.inputs[0].name = {"w": "v", "w_bias": "v_bias"}.get(name, name)
        if "v" in weights:
            model.graph.initializers["v"].name = "v" if name != "w" else "k"
        model.graph.node(-1).outputs[0].name = "scale"
        certificate(rule, model)
