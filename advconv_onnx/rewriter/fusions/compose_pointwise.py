"""Compose a convolution and the 1x1 convolution that reads or feeds it, where that saves work.

    conv1x1(conv(x, w) + b, v) + c  =  conv(x, v w) + v b + c
    conv(conv1x1(x, v) + b, w) + c  =  conv(x, w v) + w b + c

with (v w)[m] = sum over the channels n between of v[m, n] w[n], for Conv and ConvTranspose and
groups of both; the result has the groups they share. The first is exact everywhere, borders
included, because a 1x1 convolution without padding treats every pixel alike; in the second a bias
between is missing in the padding, and a ConvTranspose spreads it unevenly. Refused for such a bias,
unless the composed weights are fewer (they count the multiplications per pixel), where a depthwise
convolution would become another (ONNX Runtime takes up to 3.6 times as long for fewer
multiplications) or groups no longer fit its blocks of 8 channels, for a padded or strided 1x1,
where padding makes the output larger than the input, and when something else reads the value
between. Elsewhere it is 1.6 to 3.7 times as fast (``benchmarks/structures.py``).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from advconv_onnx.rewriter.blocked import BLOCK
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.convolution import Array, Convolution
from advconv_onnx.rewriter.rule import NoSite, Refused, Rule, Site
from advconv_onnx.rewriter.walk import input_of, producer

Plan = tuple[Convolution, Convolution]


class ComposePointwise(Rule[Plan]):
    """Conv1x1(Conv(x)) -> Conv(x), and Conv(Conv1x1(x)) -> Conv(x)."""

    name = "compose_pointwise"
    roots = frozenset(("Conv", "ConvTranspose"))

    def find(self, root: ir.Node, opset: int) -> Site[Plan]:
        node = producer(root.inputs[0], "Conv", "ConvTranspose", graph=root.graph)
        first, second = Convolution.of(node), Convolution.of(root)
        if not _is_pointwise(second):
            _check_first_pointwise(first, second)
        taps = first.weight[0, 0].size * second.weight[0, 0].size
        groups = math.gcd(first.group, second.group)
        before = first.weight.size + second.weight.size
        after = second.out_channels * first.in_channels // groups * taps
        if after >= before:
            raise Refused(f"composed it would have {after} weights, more than the {before} of both")
        _check_fast_path(first if _is_pointwise(second) else second, first, second, groups)
        return Site((node, root), (first, second))

    def rewrite(self, op: Builder, plan: Plan) -> ir.Value:
        first, second = plan
        groups = math.gcd(first.group, second.group)
        blocks = _product(second.blocks(groups), first.blocks(groups))
        taps = second.blocks(groups)
        matrix = taps.reshape(*taps.shape[:3], -1).sum(axis=-1)
        through = np.einsum("gmn,gn->gm", matrix, first.bias.reshape(groups, -1)).reshape(-1)
        kernel = first if _is_pointwise(second) else second
        weight = kernel.from_blocks(blocks)
        return kernel.rebuild(op, first.x, weight, through + second.bias, group=groups)


def _check_fast_path(
    kernel: Convolution, first: Convolution, second: Convolution, groups: int
) -> None:
    """Refuse where ONNX Runtime has a faster kernel for the one with the taps than for both."""
    channels = math.gcd(kernel.in_channels, kernel.out_channels) // kernel.group
    if kernel.group > 1 and channels == 1:
        raise Refused("a depthwise convolution would become another, which is slower")
    composed = math.gcd(first.in_channels // groups, second.out_channels // groups)
    if groups > 1 and composed % BLOCK and not channels % BLOCK:
        raise Refused(f"the groups of the result do not fit blocks of {BLOCK} channels")


def _product(outer: Array, inner: Array) -> Array:
    """Blocks (g, M, N, ...) times blocks (g, N, C, ...), of which one has a single tap."""
    taps = max(outer.shape[3:], inner.shape[3:])
    product: Array = np.einsum(
        "gmns,gnct->gmcst",
        outer.reshape(*outer.shape[:3], -1),
        inner.reshape(*inner.shape[:3], -1),
    )
    product = product.reshape(*product.shape[:3], *taps)
    return product


def _is_pointwise(convolution: Convolution) -> bool:
    """Whether it has one tap, without strides or padding."""
    return (
        not convolution.transposed
        and convolution.weight[0, 0].size == 1
        and all(stride == 1 for stride in convolution.strides)
        and not convolution.is_padded
    )


def _check_first_pointwise(first: Convolution, second: Convolution) -> None:
    if not _is_pointwise(first):
        if second.weight[0, 0].size == 1:
            raise Refused("the 1x1 convolution is strided or padded")
        raise NoSite
    has_bias = input_of(first.node, 2) is not None
    if has_bias and second.transposed:
        raise Refused("a bias before a ConvTranspose reaches border pixels through fewer taps")
    if has_bias and second.is_padded:
        raise Refused("a bias before a padded convolution is missing in the padding")
    if second.auto_pad == "NOTSET" and not second.transposed:
        extents = zip(second.dilations, second.kernel, strict=True)
        added = np.array(second.pads).reshape(2, -1).sum(axis=0)
        if any(pad > d * (k - 1) for pad, (d, k) in zip(added, extents, strict=True)):
            raise Refused("padding makes the output larger than the input, where 1x1 is cheaper")


RULE = ComposePointwise()


def _model(nodes: str, constants: str, channels: int = 2, outs: str = "float[] z") -> str:
    weight = "float[4, 2, 1, 2] w = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8}"
    return f"""<ir_version: 8, opset_import: ["" : 15]>
    g (float[N, {channels}, H, W] x) => ({outs}) <{weight}, {constants}> {{ {nodes} }}"""


_U = "float[2, 1, 1, 1] v = {3, -2}"
_V = "float[2, 4, 1, 1] v = {1, 2, -3, 4, 5, 6, 7, -8}"

EXAMPLES = (
    _model("y = Conv <pads = [1, 0, 1, 1]> (x, w) z = Conv(y, v)", _V),
    _model(
        "y = Conv <strides = [2, 1]> (x, w, b) z = Conv(y, v, c)",
        f"{_V}, float[4] b = {{1, 2, 3, 4}}, float[2] c = {{5, 6}}",
    ),
    # 1x1 first: with a bias where nothing is padded, and without.
    _model(
        "y = Conv(x, v, c) z = Conv <dilations = [1, 2]> (y, w)", f"{_U}, float[2] c = {{5, 6}}", 1
    ),
    _model("y = Conv(x, v) z = Conv <strides = [2, 1], pads = [0, 1, 0, 0]> (y, w)", _U, 1),
    _model('y = Conv(x, v) z = Conv <auto_pad = "SAME_UPPER"> (y, w)', _U, 1),
    # Groups of both: 4 and 2 leave 2.
    _model(
        "y = Conv <group = 4> (x, k, b) z = Conv <group = 2> (y, v)",
        "float[8, 2, 2, 1] k = {" + ", ".join(str(n % 5 - 2) for n in range(32)) + "}, "
        "float[8] b = {1, 2, 3, 4, 1, 2, 3, 4}, "
        "float[2, 4, 1, 1] v = {1, 2, -3, 4, 5, -6, 7, 8}",
        8,
    ),
    # A ConvTranspose, before and after.
    _model(
        "y = ConvTranspose <strides = [2, 1]> (x, k, b) z = Conv(y, v)",
        f"{_V}, float[4] b = {{1, 2, 3, 4}}, "
        "float[2, 4, 1, 2] k = {1, -2, 3, 4, 5, -6, 7, 8, 1, 2, -3, 4, 5, 6, 7, -8}",
    ),
    _model(
        "y = Conv(x, v) z = ConvTranspose <strides = [2, 1], group = 2> (y, w)",
        "float[4, 1, 1, 1] v = {1, 2, -3, 4}",
        1,
        "float[N, 4, P, Q] z",
    ),
    """<ir_version: 8, opset_import: ["" : 15]> g (float[N, 1, L] x) => (float[N, 1, P] z)
    <float[3, 1, 2] w = {1, -2, 3, 4, 5, -6}, float[1, 3, 1] v = {1, 2, -3}> {
        y = Conv <auto_pad = "SAME_LOWER"> (x, w)
        z = Conv(y, v)
    }""",
)

NEAR_MISSES = (
    (
        _model(
            "y = Conv(x, v, c) z = Conv <pads = [0, 0, 0, 1]> (y, w)",
            f"{_U}, float[2] c = {{5, 6}}",
            1,
        ),
        "missing in the padding",
    ),
    (
        _model(
            "y = Conv(x, v, c) z = ConvTranspose(y, k)",
            f"{_U}, float[2] c = {{5, 6}}, float[2, 2, 1, 2] k = {{1, 2, 3, 4, 5, 6, 7, 8}}",
            1,
        ),
        "fewer taps",
    ),
    (_model("y = Conv(x, v) z = Conv <pads = [0, 1, 0, 1]> (y, w)", _U, 1), "larger than"),
    (_model("y = Conv(x, w) z = Conv <pads = [0, 0, 0, 1]> (y, v)", _V), "padded"),
    (_model("y = Conv(x, w) z = Conv <strides = [1, 2]> (y, v)", _V), "strided"),
    (
        _model(
            "y = Conv <group = 4> (x, k, b) z = Conv <group = 2> (y, v)",
            "float[4, 1, 2, 1] k = {1, -2, 3, 4, 5, -6, 7, 8}, float[4] b = {1, 2, 3, 4}, "
            "float[2, 2, 1, 1] v = {1, 2, -3, 4}",
            4,
        ),
        "depthwise",
    ),
    (
        _model("y = Conv(x, w) z = Conv(y, w2)", "float[1, 4, 2, 1] w2 = {1, 2, 3, 4, 5, 6, 7, 8}"),
        "",
    ),
    (
        _model(
            "y = Conv(x, u) z = Conv(y, v)",
            "float[1, 2, 1, 2] u = {1, 2, 3, 4}, float[4, 1, 1, 1] v = {1, 2, 3, 4}",
            outs="float[N, 4, P, Q] z",
        ),
        "more than",
    ),
    (
        _model("y = Conv(x, w) z = Conv(y, v) u = Relu(y)", _V, outs="float[] z, float[] u"),
        "also read by",
    ),
)
