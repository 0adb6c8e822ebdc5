"""The pattern matrix: models that an optimizer of convolutional networks may fold.

The patterns are those that at least one tool folds, and those that cost nothing to fold and none
does. See ``pattern_traps`` for models that look like them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.pattern_checks import (
    C,
    Pattern,
    Positive,
    Weight,
    attribute,
    becomes,
    gone,
    nodes,
    operators,
    parameters,
)

# Weights that many patterns share.


def norm(channels: int = C, tag: str = "") -> dict[str, Weight]:
    """Scale, bias, mean and variance of a BatchNormalization."""
    return {
        f"s{tag}": (channels,),
        f"b{tag}": (channels,),
        f"m{tag}": (channels,),
        f"v{tag}": Positive((channels,)),
    }


def ints(*values: int) -> NDArray[np.int64]:
    """A 1-D int64 constant."""
    return np.array(values, np.int64)


def scalar(value: float) -> NDArray[np.float32]:
    """A float32 scalar."""
    return np.array(value, np.float32)


def _masked(shape: tuple[int, ...], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weights of both signs that are zero where ``kept`` is not."""
    values = np.random.default_rng(1).normal(size=shape) / 8
    return np.where(kept, values, 0).astype(np.float32)


def _border(size: int, inner: int) -> NDArray[np.bool_]:
    """Mask of a kernel that is zero around its inner part."""
    edge = (size - inner) // 2
    mask = np.zeros((size, size), bool)
    mask[edge : edge + inner, edge : edge + inner] = True
    return mask


def _holes(size: int, step: int) -> NDArray[np.bool_]:
    """Mask of a kernel that only every ``step``-th tap of is used."""
    line = np.arange(size) % step == 0
    return np.outer(line, line)


def _blocks(groups: int, channels: int) -> NDArray[np.bool_]:
    """Mask of a dense kernel that keeps groups apart."""
    line = np.arange(channels) // (channels // groups)
    return np.equal.outer(line, line)[:, :, None, None]


_BN = "y = BatchNormalization (c, s, b, m, v)"
_3X3: dict[str, Weight] = {"w": (C, C, 3, 3)}
_BIASED: dict[str, Weight] = {**_3X3, "wb": (C,)}
_DYNAMIC = "float[N,8,H,W] x"
_64 = "float[N,64,H,W] x"
"""Where groups of fewer channels would be slow."""
_1D = "float[N,8,L] x"
_3D = "float[N,8,D,H,W] x"
_FIXED = "float[N,8,8,8] x"
_NHWC = "float[N,H,W,8] x"
_TO_NHWC, _TO_NCHW = "Transpose <perm = [0, 2, 3, 1]>", "Transpose <perm = [0, 3, 1, 2]>"


def _after_conv() -> Iterator[Pattern]:
    one = nodes(1)
    group = "after Conv"

    def conv(
        name: str, body: str, weights: Mapping[str, Weight], inputs: str = _DYNAMIC
    ) -> Pattern:
        return Pattern(group, name, body, weights, one, inputs)

    yield conv("BatchNormalization", f"c = Conv (x, w) {_BN}", {**_3X3, **norm()})
    yield conv("BatchNormalization, bias", f"c = Conv (x, w, wb) {_BN}", {**_BIASED, **norm()})
    yield conv(
        "BatchNormalization, 4 groups",
        f"c = Conv <group = 4> (x, w) {_BN}",
        {"w": (C, 2, 3, 3), **norm()},
    )
    yield conv(
        "BatchNormalization, depthwise",
        f"c = Conv <group = 8, pads = [1, 1, 1, 1]> (x, w) {_BN}",
        {"w": (C, 1, 3, 3), **norm()},
    )
    yield conv(
        "BatchNormalization, dilated, strided, asymmetric pads",
        f"c = Conv <dilations = [2, 1], strides = [1, 2], pads = [0, 1, 2, 3]> (x, w) {_BN}",
        {**_3X3, **norm()},
    )
    yield conv(
        "BatchNormalization, auto_pad",
        f'c = Conv <auto_pad = "SAME_UPPER"> (x, w) {_BN}',
        {**_3X3, **norm()},
    )
    yield conv(
        "BatchNormalization, 1-D", f"c = Conv (x, w) {_BN}", {"w": (C, C, 3), **norm()}, inputs=_1D
    )
    yield conv(
        "BatchNormalization, 3-D",
        f"c = Conv (x, w) {_BN}",
        {"w": (C, C, 3, 3, 3), **norm()},
        inputs=_3D,
    )
    yield conv("Add [1,C,1,1]", "c = Conv (x, w) y = Add (c, k)", {**_3X3, "k": (1, C, 1, 1)})
    yield conv("Add, bias", "c = Conv (x, w, wb) y = Add (k, c)", {**_BIASED, "k": (C, 1, 1)})
    yield conv("Add scalar", "c = Conv (x, w) y = Add (c, k)", {**_3X3, "k": scalar(0.7)})
    yield conv("Sub", "c = Conv (x, w, wb) y = Sub (c, k)", {**_BIASED, "k": (C, 1, 1)})
    yield conv("constant - Conv", "c = Conv (x, w, wb) y = Sub (k, c)", {**_BIASED, "k": (C, 1, 1)})
    yield conv("Neg", "c = Conv (x, w, wb) y = Neg (c)", _BIASED)
    yield conv("Mul", "c = Conv (x, w, wb) y = Mul (c, k)", {**_BIASED, "k": (1, C, 1, 1)})
    yield conv("Mul scalar", "c = Conv (x, w, wb) y = Mul (k, c)", {**_BIASED, "k": scalar(-0.7)})
    yield conv(
        "Mul, 4 groups",
        "c = Conv <group = 4> (x, w) y = Mul (c, k)",
        {"w": (C, 2, 3, 3), "k": (C, 1, 1)},
    )
    yield conv("Div", "c = Conv (x, w, wb) y = Div (c, k)", {**_BIASED, "k": Positive((C, 1, 1))})
    chain: dict[str, Weight] = {
        **_3X3,
        "mean": (1, C, 1, 1),
        "deviation": Positive((1, C, 1, 1)),
        "gamma": (1, C, 1, 1),
        "beta": (1, C, 1, 1),
    }
    yield conv(
        "BatchNormalization spelled Sub, Div, Mul, Add",
        "c = Conv (x, w) d = Sub (c, mean) e = Div (d, deviation) f = Mul (e, gamma)"
        " y = Add (f, beta)",
        chain,
    )
    yield conv(
        "BatchNormalization spelled Sub, Sqrt, Div, Mul, Add",
        "c = Conv (x, w) d = Sub (c, mean) t = Add (deviation, epsilon) u = Sqrt (t)"
        " e = Div (d, u) f = Mul (gamma, e) y = Add (beta, f)",
        {**chain, "epsilon": scalar(1e-5)},
    )
    yield Pattern(
        group,
        "Mul, Add, then a residual Add",
        "c = Conv <pads = [1, 1, 1, 1]> (x, w) d = Mul (c, gamma) e = Add (d, beta) y = Add (e, z)",
        {**_3X3, "gamma": (C, 1, 1), "beta": (C, 1, 1)},
        nodes(2),
        inputs="float[N,8,H,W] x, float[N,8,H,W] z",
    )
    yield conv(
        "Mul, weights as Constant nodes",
        "w = Constant <value = float[1, 8, 1, 1] {1, -2, 3, 4, -5, 6, 7, 8}> ()"
        " k = Constant <value_float = 0.5> () c = Conv (x, w) y = Mul (c, k)",
        {},
    )
    yield conv(
        "BatchNormalization, weights computed",
        f"u = Mul (w, two) c = Conv (x, u) {_BN}",
        {**_3X3, "two": scalar(2), **norm()},
    )
    yield conv(
        "BatchNormalization, bias spelled CastLike",
        f"z = CastLike (zeros, x) c = Conv (x, w, z) {_BN}",
        {**_3X3, "zeros": np.zeros(C, np.float64), **norm()},
    )
    yield Pattern(
        group,
        "BatchNormalization after one of two readers of a weight",
        f"c = Conv (x, w) d = Conv <strides = [2, 2]> (x, w) {_BN}",
        {**_3X3, **norm()},
        gone("BatchNormalization"),
        outputs="float y, float d",
    )
    yield conv("BatchNormalization after Gemm", f"c = Gemm (x, w) {_BN}", _gemm(), inputs=_ROWS)
    yield conv(
        "Add after MatMul", "c = MatMul (x, w) y = Add (c, k)", _gemm() | {"k": (C,)}, inputs=_ROWS
    )


_ROWS = "float[N,8] x"


def _gemm() -> dict[str, Weight]:
    return {"w": (C, C), **norm()}


def _before_conv() -> Iterator[Pattern]:
    group = "before Conv"
    sites: tuple[tuple[str, str, dict[str, Weight]], ...] = (
        ("Mul", "c = Mul (x, k) y = Conv (c, w)", {"k": (C, 1, 1)}),
        ("Mul, padded", "c = Mul (x, k) y = Conv <pads = [1, 1, 1, 1]> (c, w)", {"k": (C, 1, 1)}),
        ("Div", "c = Div (x, k) y = Conv (c, w)", {"k": Positive((C, 1, 1))}),
        ("Add", "c = Add (x, k) y = Conv (c, w, wb)", {"k": (C, 1, 1), "wb": (C,)}),
        ("Sub", "c = Sub (x, k) y = Conv (c, w)", {"k": (1, C, 1, 1)}),
        ("Sub scalar", "c = Sub (x, k) y = Conv (c, w)", {"k": scalar(0.5)}),
        ("BatchNormalization", "c = BatchNormalization (x, s, b, m, v) y = Conv (c, w)", norm()),
        (
            "Sub, Mul: an image normalized",
            "c = Sub (x, k) d = Mul (c, t) y = Conv (d, w)",
            {"k": (C, 1, 1), "t": scalar(1 / 255)},
        ),
    )
    for name, body, weights in sites:
        yield Pattern(group, name, body, {**_3X3, **weights}, nodes(1))
    grouped: dict[str, Weight] = {"k": (C, 1, 1), "w": (C, 2, 3, 3)}
    yield Pattern(
        group, "Mul, 4 groups", "c = Mul (x, k) y = Conv <group = 4> (c, w)", grouped, nodes(1)
    )
    yield Pattern(
        group,
        "Mul, before ConvTranspose",
        "c = Mul (x, k) y = ConvTranspose <strides = [2, 2]> (c, w)",
        {"k": (C, 1, 1), "w": (C, 4, 3, 3)},
        nodes(1),
    )


def _conv_transpose() -> Iterator[Pattern]:
    group = "after ConvTranspose"
    up = "ConvTranspose <strides = [2, 2]"
    for name, body, weights in (
        ("BatchNormalization", f"c = {up}> (x, w) {_BN}", norm()),
        ("BatchNormalization, bias", f"c = {up}> (x, w, wb) {_BN}", {"wb": (C,), **norm()}),
        (
            "BatchNormalization, output_padding",
            f"c = {up}, pads = [1, 1, 1, 1], output_padding = [1, 1]> (x, w) {_BN}",
            norm(),
        ),
        (
            "BatchNormalization, auto_pad",
            f'c = {up}, auto_pad = "SAME_UPPER"> (x, w) {_BN}',
            norm(),
        ),
        ("Add", f"c = {up}> (x, w) y = Add (c, k)", {"k": (1, C, 1, 1)}),
        ("Add, bias", f"c = {up}> (x, w, wb) y = Add (k, c)", {"k": (C, 1, 1), "wb": (C,)}),
        ("Mul", f"c = {up}> (x, w) y = Mul (c, k)", {"k": (C, 1, 1)}),
        ("Mul, bias", f"c = {up}> (x, w, wb) y = Mul (c, k)", {"k": (C, 1, 1), "wb": (C,)}),
        ("Sub", f"c = {up}> (x, w) y = Sub (c, k)", {"k": (C, 1, 1)}),
        ("Div", f"c = {up}> (x, w) y = Div (c, k)", {"k": Positive((C, 1, 1))}),
    ):
        yield Pattern(group, name, body, {"w": (C, C, 3, 3), **weights}, nodes(1))
    yield Pattern(
        group,
        "BatchNormalization, 4 groups",
        f"c = {up}, group = 4> (x, w) {_BN}",
        {"w": (C, 2, 3, 3), **norm()},
        nodes(1),
    )
    yield Pattern(
        group,
        "BatchNormalization, depthwise 1-D",
        f"c = ConvTranspose <strides = [2], group = 8> (x, w) {_BN}",
        {"w": (C, 1, 4), **norm()},
        nodes(1),
        inputs=_1D,
    )
    yield Pattern(
        group,
        "crop spelled Slice",
        f"c = {up}> (x, w) y = Slice (c, starts, ends, axes)",
        {"w": (C, C, 4, 4), "starts": ints(1, 1), "ends": ints(-1, -1), "axes": ints(2, 3)},
        nodes(1),
    )
    yield Pattern(
        group,
        "crop spelled Pad",
        f"c = {up}> (x, w) y = Pad (c, pads)",
        {"w": (C, C, 4, 4), "pads": ints(0, 0, -1, -1, 0, 0, -1, -1)},
        nodes(1),
    )


def _pads() -> Iterator[Pattern]:
    group = "Pad"
    padded = ints(0, 0, 1, 2, 0, 0, 3, 0)
    conv = "y = Conv (c, w)"

    def pad(name: str, body: str, weights: Mapping[str, Weight], inputs: str = _DYNAMIC) -> Pattern:
        return Pattern(group, name, body, weights, nodes(1), inputs)

    yield pad("Conv", f"c = Pad (x, p) {conv}", {**_3X3, "p": padded})
    yield pad(
        "Conv with pads",
        "c = Pad (x, p) y = Conv <pads = [1, 1, 0, 0]> (c, w)",
        {**_3X3, "p": padded},
    )
    yield pad(
        "Conv, axes",
        f"c = Pad (x, p, , axes) {conv}",
        {**_3X3, "p": ints(1, 2, 3, 0), "axes": ints(2, -1)},
    )
    yield pad(
        "Conv, auto_pad VALID",
        'c = Pad (x, p) y = Conv <auto_pad = "VALID"> (c, w)',
        {**_3X3, "p": padded},
    )
    yield pad(
        "Conv, depthwise and strided",
        "c = Pad (x, p, zero) y = Conv <group = 8, strides = [2, 2]> (c, w)",
        {"w": (C, 1, 3, 3), "p": padded, "zero": scalar(0)},
    )
    yield pad(
        "Conv, 1-D",
        f"c = Pad (x, p) {conv}",
        {"w": (C, C, 3), "p": ints(0, 0, 2, 0, 0, 0)},
        inputs=_1D,
    )

    yield pad(
        "AveragePool, count_include_pad",
        "c = Pad (x, p)"
        " y = AveragePool <kernel_shape = [3, 3], count_include_pad = 1, strides = [2, 2]> (c)",
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)},
    )
    yield pad(
        "MaxPool, padded with -inf",
        "c = Pad (x, p, lowest) y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (c)",
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "lowest": scalar(-np.inf)},
    )
    yield pad(
        "twice, then Conv",
        f"d = Pad (x, p) c = Pad (d, q) {conv}",
        {**_3X3, "p": ints(0, 0, 1, 0, 0, 0, 1, 0), "q": ints(0, 0, 0, 1, 0, 0, 0, 2)},
    )


def _kernels() -> Iterator[Pattern]:
    group = "kernel"
    full = C * C * 9
    padded = "pads = [2, 2, 2, 2]"
    yield Pattern(
        group,
        "zero border",
        f"y = Conv <{padded}> (x, w)",
        {"w": _masked((C, C, 5, 5), _border(5, 3))},
        parameters(full),
    )
    yield Pattern(
        group,
        "zero border on one side",
        "y = Conv <pads = [1, 1, 1, 1]> (x, w)",
        {"w": _masked((C, C, 3, 3), np.outer([True] * 3, [True, True, False]))},
        parameters(C * C * 6),
    )
    yield Pattern(
        group,
        "zero border, ConvTranspose",
        "y = ConvTranspose <strides = [2, 2]> (x, w)",
        {"w": _masked((C, C, 5, 5), _border(5, 3))},
        parameters(full),
    )
    yield Pattern(
        group,
        "zeros between: a dilated kernel",
        f"y = Conv <{padded}> (x, w)",
        {"w": _masked((C, C, 5, 5), _holes(5, 2))},
        parameters(full),
    )
    yield Pattern(
        group,
        "block-diagonal: grouped",
        "y = Conv <pads = [1, 1, 1, 1]> (x, w)",
        {"w": _masked((64, 64, 3, 3), _blocks(4, 64))},
        attribute("Conv", "group", 4),
        inputs=_64,
    )
    yield Pattern(
        group,
        "diagonal: depthwise",
        "y = Conv (x, w, wb)",
        {"w": _masked((C, C, 3, 3), _blocks(8, C)), "wb": (C,)},
        attribute("Conv", "group", 8),
    )
    yield Pattern(
        group,
        "stride-1 ConvTranspose: Conv",
        "y = ConvTranspose (x, w, wb)",
        {"w": (64, 64, 3, 3), "wb": (64,)},
        becomes("Conv"),
        inputs=_64,
    )
    yield Pattern(
        group,
        "stride-1 ConvTranspose, 2 groups, pads: Conv",
        "y = ConvTranspose <group = 2, pads = [1, 1, 0, 1]> (x, w)",
        {"w": (64, 32, 3, 3)},
        becomes("Conv"),
        inputs=_64,
    )
    yield Pattern(
        group,
        "ConvTranspose, kernel = stride: 1x1 Conv",
        "y = ConvTranspose <strides = [2, 2]> (x, w)",
        {"w": (C, 4, 2, 2)},
        gone("ConvTranspose"),
    )


def _chains() -> Iterator[Pattern]:
    group = "Conv after Conv"
    yield Pattern(
        group,
        "1x1 after 1x1",
        "c = Conv (x, w, wb) y = Conv (c, v, vb)",
        {"w": (16, C, 1, 1), "wb": (16,), "v": (C, 16, 1, 1), "vb": (C,)},
        nodes(1),
    )
    yield Pattern(
        group,
        "1x1 after 3x3, fewer channels",
        "c = Conv <pads = [1, 1, 1, 1]> (x, w, wb) y = Conv (c, v)",
        {"w": (16, C, 3, 3), "wb": (16,), "v": (4, 16, 1, 1)},
        nodes(1),
    )
    yield Pattern(
        group,
        "3x3 after 1x1, fewer channels",
        "c = Conv (x, w) y = Conv <pads = [1, 1, 1, 1]> (c, v, vb)",
        {"w": (16, C, 1, 1), "v": (4, 16, 3, 3), "vb": (4,)},
        nodes(1),
    )
    yield Pattern(
        group,
        "depthwise, then 1x1 to one channel",
        "c = Conv <group = 8, pads = [1, 1, 1, 1]> (x, w) y = Conv (c, v)",
        {"w": (C, 1, 3, 3), "v": (1, C, 1, 1)},
        nodes(1),
    )
    yield Pattern(
        group,
        "1x1 after ConvTranspose, fewer channels",
        "c = ConvTranspose <strides = [2, 2]> (x, w) y = Conv (c, v)",
        {"w": (C, 16, 3, 3), "v": (4, 16, 1, 1)},
        nodes(1),
    )
    yield Pattern(
        group,
        "channel shuffle between 1x1",
        "c = Conv (x, w) d = Reshape (c, split) e = Transpose <perm = [0, 2, 1, 3, 4]> (d)"
        " f = Reshape (e, joined) y = Conv (f, v)",
        {
            "w": (C, C, 1, 1),
            "v": (C, C, 1, 1),
            "split": ints(-1, 2, 4, 8, 8),
            "joined": ints(-1, 8, 8, 8),
        },
        nodes(2),
        inputs=_FIXED,
    )


def _branches() -> Iterator[Pattern]:
    group = "parallel Convs"
    one, same = nodes(1), "pads = [1, 1, 1, 1]"
    yield Pattern(
        group,
        "Split, Convs, Concat: grouped",
        "p, q = Split <axis = 1, num_outputs = 2> (x) a = Conv (p, w) c = Conv (q, v)"
        " y = Concat <axis = 1> (a, c)",
        {"w": (32, 32, 3, 3), "v": (32, 32, 3, 3)},
        one,
        inputs=_64,
    )
    yield Pattern(
        group,
        "Concat of Convs of one input",
        "a = Conv (x, w, wb) c = Conv (x, v) y = Concat <axis = 1> (a, c)",
        {**_BIASED, "v": (4, C, 3, 3)},
        one,
    )
    yield Pattern(
        group,
        "sum of 3x3 and 1x1",
        f"a = Conv <{same}> (x, w) c = Conv (x, v, vb) y = Add (a, c)",
        {**_3X3, "v": (C, C, 1, 1), "vb": (C,)},
        one,
    )
    yield Pattern(
        group,
        "sum of 3x3 and its input",
        f"a = Conv <{same}> (x, w) y = Add (a, x)",
        _3X3,
        one,
    )
    yield Pattern(
        group,
        "RepVGG: 3x3, 1x1 and identity, each normalized",
        f"a = Conv <{same}> (x, w) d = BatchNormalization (a, s, b, m, v)"
        " e = Conv (x, u) f = BatchNormalization (e, s2, b2, m2, v2)"
        " g = BatchNormalization (x, s3, b3, m3, v3) h = Add (d, f) i = Add (h, g) y = Relu (i)",
        {**_3X3, "u": (C, C, 1, 1), **norm(), **norm(tag="2"), **norm(tag="3")},
        nodes(2),
    )
    yield Pattern(
        group,
        "MobileOne: depthwise, strided",
        f"a = Conv <group = 8, strides = [2, 2], {same}> (x, w) d = BatchNormalization"
        " (a, s, b, m, v) e = Conv <group = 8, strides = [2, 2]> (x, u)"
        " f = BatchNormalization (e, s2, b2, m2, v2) y = Add (d, f)",
        {"w": (C, 1, 3, 3), "u": (C, 1, 1, 1), **norm(), **norm(tag="2")},
        one,
    )
    yield Pattern(
        group,
        "sum of two dilated branches, 1-D",
        "a = Conv <pads = [1, 1]> (x, w) c = Conv <dilations = [2], pads = [2, 2]> (x, v)"
        " y = Add (a, c)",
        {"w": (C, C, 3), "v": (C, C, 3)},
        one,
        inputs=_1D,
    )
    yield Pattern(
        group,
        "sum of two branches equally dilated",
        "a = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (x, w)"
        " c = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (x, v) y = Add (a, c)",
        {**_3X3, "v": (C, C, 3, 3)},
        one,
    )
    yield Pattern(
        group,
        "difference of two ConvTransposes",
        "a = ConvTranspose <strides = [2, 2]> (x, w) c = ConvTranspose <strides = [2, 2]> (x, v)"
        " y = Sub (a, c)",
        {**_3X3, "v": (C, C, 3, 3)},
        one,
    )
    yield Pattern(
        group,
        "the same Conv twice",
        "a = Conv (x, w) c = Conv (x, w) y = Mul (a, c)",
        _3X3,
        nodes(2),
    )


def _resizing() -> Iterator[Pattern]:
    group = "Resize"
    yield Pattern(
        group,
        "by 1",
        'c = Resize <mode = "linear"> (x, , scales) y = Relu (c)',
        {"scales": np.ones(4, np.float32)},
        nodes(1),
    )
    yield Pattern(
        group,
        "to its own size",
        'c = Resize <mode = "nearest"> (x, , , sizes) y = Relu (c)',
        {"sizes": ints(2, 8, 8, 8)},
        nodes(1),
        inputs="float[2,8,8,8] x",
    )
    yield Pattern(
        group,
        "to twice its size, computed",
        "one = Constant <value_ints = [1]> () size = Shape <start = 2> (x) twice = Mul (size, two)"
        " outer = Shape <end = 2> (x) sizes = Concat <axis = 0> (outer, twice)"
        ' y = Resize <mode = "nearest"> (x, , , sizes)',
        {"two": ints(2)},
        nodes(1),
    )
    yield Pattern(
        group,
        "nearest by 2, then 3x3: no Resize",
        'c = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",'
        ' nearest_mode = "floor"> (x, , scales) y = Conv <pads = [1, 1, 1, 1]> (c, w)',
        {**_3X3, "scales": np.array([1, 1, 2, 2], np.float32)},
        gone("Resize"),
    )
    yield Pattern(
        group,
        "bilinear by 2, then 1x1 to fewer channels: 1x1 first",
        'c = Resize <mode = "linear"> (x, , scales) y = Conv (c, w)',
        {"w": (2, C, 1, 1), "scales": np.array([1, 1, 2, 2], np.float32)},
        lambda model: model.graph.node[-1].op_type == "Resize",
    )


def _spellings() -> Iterator[Pattern]:
    group = "spelled out"
    steps = {"three": scalar(3), "zero": scalar(0), "six": scalar(6), "sixth": scalar(1 / 6)}
    for name, body, opset in (
        (
            "(Add, Clip, Mul, Div)",
            "a = Add (x, three) c = Clip (a, zero, six) d = Mul (x, c) y = Div (d, six)",
            18,
        ),
        (
            "(Add, Clip, Div, Mul)",
            "a = Add (x, three) c = Clip (a, zero, six) d = Div (c, six) y = Mul (d, x)",
            18,
        ),
        (
            "(HardSigmoid, Mul)",
            "a = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (x, a)",
            18,
        ),
        (
            ", opset 12",
            "a = Add (three, x) c = Clip (a, zero, six) d = Mul (c, sixth) y = Mul (x, d)",
            12,
        ),
    ):
        used = {key: value for key, value in steps.items() if key in body}
        label = f"HardSwish {name}" if name.startswith("(") else f"HardSwish{name}"
        yield Pattern(group, label, body, used, becomes("HardSwish"), opset=opset)
    yield Pattern(
        group,
        "HardSigmoid (Add, Clip, Div)",
        "a = Add (x, three) c = Clip (a, zero, six) y = Div (c, six)",
        {key: steps[key] for key in ("three", "zero", "six")},
        becomes("HardSigmoid"),
    )
    yield Pattern(
        group,
        "GELU (Div, Erf, Add, Mul, Mul), opset 20",
        "a = Div (x, root) c = Erf (a) d = Add (c, one) e = Mul (x, d) y = Mul (e, half)",
        {"root": scalar(2**0.5), "one": scalar(1), "half": scalar(0.5)},
        becomes("Gelu"),
        opset=20,
    )
    yield Pattern(
        group,
        "PRelu (two Relus): a maximum or one operator",
        "p = Relu (x) n = Neg (x) q = Relu (n) r = Mul (q, k) y = Sub (p, r)",
        {"k": np.linspace(0.1, 0.8, C, dtype=np.float32).reshape(C, 1, 1)},
        nodes(2),
    )
    yield Pattern(
        group,
        "LeakyRelu (Mul, Max)",
        "a = Mul (x, k) y = Max (x, a)",
        {"k": scalar(0.1)},
        becomes("LeakyRelu"),
    )
    yield Pattern(
        group,
        "GlobalAveragePool (ReduceMean)",
        "y = ReduceMean (x, axes)",
        {"axes": ints(2, 3)},
        becomes("GlobalAveragePool"),
    )
    yield Pattern(
        group,
        "BatchNormalization (Mul, Add) after an activation",
        "c = Conv (x, w) d = HardSwish (c) e = Mul (d, k) y = Add (e, t)",
        {**_3X3, "k": (C, 1, 1), "t": scalar(0.5)},
        nodes(3),
    )
    yield Pattern(
        group,
        "dilated Conv (SpaceToBatch, Conv, BatchToSpace)",
        "a = Reshape (x, s1) c = Transpose <perm = [3, 5, 0, 1, 2, 4]> (a) d = Reshape (c, s2)"
        " e = Conv (d, w) f = Reshape (e, s3) g = Transpose <perm = [2, 3, 4, 0, 5, 1]> (f)"
        " y = Reshape (g, s4)",
        {
            **_3X3,
            "s1": ints(2, 8, 4, 2, 4, 2),
            "s2": ints(8, 8, 4, 4),
            "s3": ints(2, 2, 2, 8, 2, 2),
            "s4": ints(2, 8, 4, 4),
        },
        nodes(1),
        inputs="float[2,8,8,8] x",
    )
    for name, perm, first, last, channels, size in (
        ("SpaceToDepth", [0, 3, 5, 1, 2, 4], (8, 4, 2, 4, 2), (32, 4, 4), 8, 8),
        ("DepthToSpace, DCR", [0, 3, 4, 1, 5, 2], (2, 2, 8, 4, 4), (8, 8, 8), 32, 4),
        ("DepthToSpace, CRD", [0, 1, 4, 2, 5, 3], (8, 2, 2, 4, 4), (8, 8, 8), 32, 4),
    ):
        yield Pattern(
            group,
            f"{name} (Reshape, Transpose, Reshape)",
            f"a = Reshape (x, s1) c = Transpose <perm = {perm}> (a) y = Reshape (c, s2)",
            {"s1": ints(-1, *first), "s2": ints(-1, *last)},
            becomes(name.split(",")[0]),
            inputs=f"float[N,{channels},{size},{size}] x",
        )
    yield Pattern(
        group,
        "PixelUnshuffle (Reshape, Transpose, Reshape), then Conv",
        "a = Reshape (x, s1) c = Transpose <perm = [0, 1, 3, 5, 2, 4]> (a) d = Reshape (c, s2)"
        " y = Conv (d, w)",
        {"w": (C, 32, 3, 3), "s1": ints(-1, 8, 4, 2, 4, 2), "s2": ints(-1, 32, 4, 4)},
        nodes(2),
        inputs=_FIXED,
    )


def _layouts() -> Iterator[Pattern]:
    group = "layout"

    def nhwc(name: str, body: str, weights: Mapping[str, Weight], most: int) -> Pattern:
        return Pattern(group, name, body, weights, nodes(most), inputs=_NHWC)

    yield nhwc(
        "NHWC: Conv, Relu, Conv",
        f"a = {_TO_NCHW} (x) c = Conv (a, w) d = {_TO_NHWC} (c) e = Relu (d)"
        f" f = {_TO_NCHW} (e) g = Conv (f, w) y = {_TO_NHWC} (g)",
        _3X3,
        5,
    )
    yield nhwc(
        "NHWC: Conv, bias, Relu",
        f"a = {_TO_NCHW} (x) c = Conv (a, w) d = {_TO_NHWC} (c) e = Add (d, k) f = Relu (e)"
        f" y = {_TO_NCHW} (f)",
        {**_3X3, "k": (C,)},
        3,
    )
    yield nhwc(
        "NHWC: residual Add between Convs",
        f"a = {_TO_NCHW} (x) c = Conv (a, w) d = {_TO_NHWC} (c) g = Conv (a, u)"
        f" h = {_TO_NHWC} (g) i = Mul (d, h) y = {_TO_NCHW} (i)",
        {**_3X3, "u": (C, C, 3, 3)},
        4,
    )
    yield nhwc(
        "NHWC: Concat of Convs",
        f"a = {_TO_NCHW} (x) c = Conv (a, w) d = {_TO_NHWC} (c) g = Relu (c)"
        f" h = {_TO_NHWC} (g) i = Concat <axis = -1> (d, h) y = {_TO_NCHW} (i)",
        _3X3,
        4,
    )
    yield Pattern(
        group,
        "NHWC: ReduceMean of a Conv",
        f"a = {_TO_NCHW} (x) c = Conv (a, w) d = {_TO_NHWC} (c)"
        " e = ReduceMean <keepdims = 0> (d, axes) y = Relu (e)",
        {**_3X3, "axes": ints(1, 2)},
        lambda model: operators(model)["Transpose"] == 1,
        inputs=_NHWC,
    )
    yield Pattern(
        group,
        "Transpose pair",
        f"a = {_TO_NHWC} (x) c = {_TO_NCHW} (a) y = Relu (c)",
        {},
        nodes(1),
    )
    yield Pattern(
        group,
        "two Transposes to one",
        f"a = {_TO_NHWC} (x) y = Transpose <perm = [0, 2, 1, 3]> (a)",
        {},
        nodes(1),
    )
    yield Pattern(
        group,
        "Softmax over channels, then NHWC: over the last axis",
        f"a = Softmax <axis = 1> (x) y = {_TO_NHWC} (a)",
        {},
        lambda model: model.graph.node[-1].op_type == "Softmax",
    )


def _doing_nothing() -> Iterator[Pattern]:
    group = "no-op"
    one = nodes(1)
    for name, body, weights in (
        ("Pad by 0", "c = Pad (x, p) y = Relu (c)", {"p": ints(*[0] * 8)}),
        (
            "Slice of everything",
            "c = Slice (x, starts, ends) y = Relu (c)",
            {"starts": ints(0, 0), "ends": ints(2**63 - 1, 2**63 - 1)},
        ),
        ("Transpose in order", "c = Transpose <perm = [0, 1, 2, 3]> (x) y = Relu (c)", {}),
        ("Dropout", "c = Dropout (x) y = Relu (c)", {}),
        ("Cast to the same type", "c = Cast <to = 1> (x) y = Relu (c)", {}),
        ("Concat of one", "c = Concat <axis = 1> (x) y = Relu (c)", {}),
        (
            "Mul by 1, Add of 0",
            "c = Mul (x, k) d = Add (c, z) y = Relu (d)",
            {"k": scalar(1), "z": np.zeros((1, C, 1, 1), np.float32)},
        ),
        (
            "Squeeze of Unsqueeze",
            "c = Unsqueeze (x, axes) d = Squeeze (c, axes) y = Relu (d)",
            {"axes": ints(2)},
        ),
        ("Relu of Relu", "c = Relu (x) y = Relu (c)", {}),
        (
            "Clip of Relu6",
            "c = Relu (x) y = Clip (c, zero, six)",
            {"zero": scalar(0), "six": scalar(6)},
        ),
    ):
        yield Pattern(group, name, body, weights, one)
    yield Pattern(
        group,
        "Reshape to its own shape",
        "c = Reshape (x, s) y = Relu (c)",
        {"s": ints(0, 0, 0, -1)},
        one,
    )
    yield Pattern(
        group,
        "Reshape of Reshape",
        "c = Reshape (x, s) y = Reshape (c, t)",
        {"s": ints(-1, 8, 64), "t": ints(-1, 512)},
        one,
        inputs=_FIXED,
    )
    yield Pattern(
        group,
        "flattening by Shape, Gather, Unsqueeze, Concat, Reshape",
        "a = Shape (x) c = Gather (a, zero) d = Unsqueeze (c, zeros)"
        " e = Concat <axis = 0> (d, rest) y = Reshape (x, e)",
        {"zero": np.array(0), "zeros": ints(0), "rest": ints(-1)},
        one,
    )


def _inner() -> Iterator[Pattern]:
    group = "inside"
    normless = gone("BatchNormalization")
    branch = "{ c = Conv (x, w) t = BatchNormalization (c, s, b, m, v) }"
    yield Pattern(
        group,
        "branches of an If, weights outside",
        f"y = If (flag) <then_branch = then () => (float[N,8,P,Q] t) {branch},"
        " else_branch = other () => (float[N,8,P,Q] u) { u = Conv (x, w) }>",
        {**_3X3, **norm()},
        normless,
        inputs="bool flag, float[N,8,H,W] x",
    )
    yield Pattern(
        group,
        "body of a Loop, weights outside",
        "y = Loop (three, , x) <body = step (int64 i, bool k, float[N,8,H,W] a)"
        " => (bool l, float[N,8,H,W] e) { l = Identity (k)"
        " c = Conv <pads = [1, 1, 1, 1]> (a, w) e = BatchNormalization (c, s, b, m, v) }>",
        {**_3X3, **norm(), "three": np.array(3)},
        normless,
        outputs="float[N,8,H,W] y",
    )
    yield Pattern(
        group,
        "body of a Scan",
        "y = Scan <num_scan_inputs = 1, body = step (float[8,H,W] a) => (float[8,P,Q] e) {"
        " d = Unsqueeze (a, zeros) c = Conv (d, w) f = BatchNormalization (c, s, b, m, v)"
        " e = Squeeze (f, zeros) }> (x)",
        {**_3X3, **norm(), "zeros": ints(0)},
        normless,
    )
    yield Pattern(
        group,
        "a local function",
        "y = local.block (x, w, s, b, m, v)",
        {**_3X3, **norm()},
        normless,
        functions='<domain: "local", opset_import: ["" : 18]> block (x, w, s, b, m, v) => (y)'
        f" {{ c = Conv (x, w) {_BN} }}",
    )
    yield Pattern(
        group,
        "a Loop's Squeeze, Unsqueeze and Cast pairs",
        "y = Loop (three, , x) <body = step (int64 i, bool k, float[N,8,H,W] a)"
        " => (bool l, float[N,8,H,W] e) { l = Identity (k) c = Unsqueeze (a, zeros)"
        " d = Squeeze (c, zeros) f = Cast <to = 1> (d) e = Relu (f) }>",
        {"three": np.array(3), "zeros": ints(0)},
        gone("Squeeze", "Unsqueeze", "Cast"),
        outputs="float[N,8,H,W] y",
    )
    yield Pattern(
        group,
        "an If whose condition is constant",
        "flag = Constant <value = bool {1}> () y = If (flag) <then_branch = then () =>"
        " (float[N,8,P,Q] t) { t = Conv (x, w) }, else_branch = other () =>"
        " (float[N,8,P,Q] u) { u = Relu (x) }>",
        _3X3,
        nodes(1),
    )


PATTERNS: tuple[Pattern, ...] = tuple(
    pattern
    for patterns in (
        _after_conv,
        _before_conv,
        _conv_transpose,
        _pads,
        _kernels,
        _chains,
        _branches,
        _resizing,
        _spellings,
        _layouts,
        _doing_nothing,
        _inner,
    )
    for pattern in patterns()
)
