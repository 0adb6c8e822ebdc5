"""Models that look like a pattern of the matrix, where the usual fold changes what is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from benchmarks.pattern_checks import C, Pattern, Weight
from benchmarks.pattern_models import ints, norm, scalar

_3X3: dict[str, Weight] = {"w": (C, C, 3, 3)}
_SAME = "pads = [1, 1, 1, 1]"
_DYNAMIC, _FIXED = "float[N,8,H,W] x", "float[N,8,8,8] x"


def _trap(
    name: str,
    body: str,
    weights: Mapping[str, Weight],
    *,
    inputs: str = _DYNAMIC,
    outputs: str = "float y",
    opset: int = 18,
) -> Pattern:
    return Pattern("trap", name, body, weights, None, inputs, outputs, opset)


def _constants() -> Iterator[Pattern]:
    """Constants that are not one value per channel, or make the result larger."""
    for name, conv, shape in (
        ("[W] after Conv, W = C", f"Conv <{_SAME}>", (C,)),
        ("[1,W] after Conv, W = C", f"Conv <{_SAME}>", (1, C)),
        ("[H,1] after Conv, H = C", f"Conv <{_SAME}>", (C, 1)),
        ("[W] after ConvTranspose, W = C", f"ConvTranspose <{_SAME}>", (C,)),
    ):
        for op_type in ("Mul", "Add"):
            yield _trap(
                f"{op_type} of {name}",
                f"c = {conv} (x, w) y = {op_type} (c, k)",
                {**_3X3, "k": shape},
                inputs=_FIXED,
            )
    yield _trap(
        "Mul of [W] before Conv, W = C",
        "c = Mul (x, k) y = Conv (c, w)",
        {**_3X3, "k": (C,)},
        inputs=_FIXED,
    )
    yield _trap(
        "Mul before Conv that makes 8 channels of 1",
        "c = Mul (x, k) y = Conv (c, w)",
        {**_3X3, "k": (C, 1, 1)},
        inputs="float[N,1,H,W] x",
    )
    yield _trap(
        "Mul before Conv, channels unknown: 8 of 1",
        "c = Mul (x, k) y = Conv (c, w)",
        {**_3X3, "k": (C, 1, 1)},
        inputs="float[N,ONE,H,W] x",
    )
    for op_type in ("Mul", "Add"):
        yield _trap(
            f"{op_type} after Conv that makes 8 channels of 1",
            f"c = Conv (x, w) y = {op_type} (c, k)",
            {"w": (1, C, 3, 3), "k": (C, 1, 1)},
        )
        yield _trap(
            f"{op_type} after Conv that makes a batch of 2",
            f"c = Conv (x, w) y = {op_type} (c, k)",
            {**_3X3, "k": (2, C, 1, 1)},
            inputs="float[1,8,H,W] x",
        )
        yield _trap(
            f"{op_type} after Conv that adds a dimension",
            f"c = Conv (x, w) y = {op_type} (c, k)",
            {**_3X3, "k": (1, 1, 1, 1, 1)},
        )
    yield _trap(
        "Mul by ones that makes 8 channels of 1",
        "c = Mul (x, k) y = Relu (c)",
        {"k": np.ones((1, C, 1, 1), np.float32)},
        inputs="float[N,1,H,W] x",
    )
    yield _trap("constant / Conv", "c = Conv (x, w) y = Div (k, c)", {**_3X3, "k": scalar(2)})


def _borders() -> Iterator[Pattern]:
    """Zeros of a padding that the usual fold would change."""
    padded = f"y = Conv <{_SAME}> (c, w)"
    yield _trap("Add before a padded Conv", f"c = Add (x, k) {padded}", {**_3X3, "k": (C, 1, 1)})
    yield _trap("Sub before a padded Conv", f"c = Sub (x, k) {padded}", {**_3X3, "k": scalar(1)})
    yield _trap(
        "BatchNormalization before a padded Conv",
        f"c = BatchNormalization (x, s, b, m, v) {padded}",
        {**_3X3, **norm()},
    )
    yield _trap(
        "Add before Conv, auto_pad",
        'c = Add (x, k) y = Conv <auto_pad = "SAME_UPPER"> (c, w)',
        {**_3X3, "k": (C, 1, 1)},
    )
    yield _trap(
        "Add before ConvTranspose",
        "c = Add (x, k) y = ConvTranspose <strides = [2, 2]> (c, w)",
        {**_3X3, "k": (C, 1, 1)},
    )
    yield _trap(
        "padded 3x3 after 1x1 with a bias",
        f"c = Conv (x, w, wb) y = Conv <{_SAME}> (c, v)",
        {"w": (16, C, 1, 1), "wb": (16,), "v": (4, 16, 3, 3)},
    )
    yield _trap(
        "padded 1x1 after 1x1 with a bias",
        f"c = Conv (x, w, wb) y = Conv <{_SAME}> (c, v)",
        {"w": (16, C, 1, 1), "wb": (16,), "v": (4, 16, 1, 1)},
    )
    ring = ints(0, 0, 1, 1, 0, 0, 1, 1)
    yield _trap(
        "Pad with ones",
        "c = Pad (x, p, one) y = Conv (c, w)",
        {**_3X3, "p": ring, "one": scalar(1)},
    )
    yield _trap(
        "Pad by reflection",
        'c = Pad <mode = "reflect"> (x, p) y = Conv (c, w)',
        {**_3X3, "p": ring},
    )
    yield _trap(
        "Pad that crops, before a padded Conv",
        f"c = Pad (x, p) {padded}",
        {**_3X3, "p": ints(0, 0, -1, -1, 0, 0, -1, -1)},
    )
    yield _trap(
        "Pad that crops and pads",
        f"c = Pad (x, p) {padded}",
        {**_3X3, "p": ints(0, 0, -1, 2, 0, 0, 1, -1)},
    )
    yield _trap(
        "Pad of channels",
        "c = Pad (x, p) y = Conv (c, w)",
        {"w": (C, 10, 3, 3), "p": ints(0, 1, 0, 0, 0, 1, 0, 0)},
    )
    yield _trap(
        "Pad before Conv, auto_pad SAME",
        'c = Pad (x, p) y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (c, w)',
        {**_3X3, "p": ring},
    )
    yield _trap(
        "Pad before AveragePool that leaves padding out",
        f"c = Pad (x, p) y = AveragePool <kernel_shape = [3, 3], {_SAME}> (c)",
        {"p": ring},
    )
    yield _trap(
        "Pad with 0 before MaxPool",
        "c = Pad (x, p) y = MaxPool <kernel_shape = [3, 3]> (c)",
        {"p": ring},
    )
    yield _trap(
        "crop of a ConvTranspose past its padding",
        "c = ConvTranspose <strides = [2, 2], output_padding = [1, 1]> (x, w)"
        " y = Slice (c, starts, ends, axes)",
        {**_3X3, "starts": ints(0, 2), "ends": ints(-3, 10**6), "axes": ints(2, 3)},
    )


def _readers() -> Iterator[Pattern]:
    """Values that something else needs too, and numbers that are not constant."""
    yield _trap(
        "BatchNormalization of a Conv that is an output too",
        "c = Conv (x, w) y = BatchNormalization (c, s, b, m, v)",
        {**_3X3, **norm()},
        outputs="float y, float c",
    )
    yield _trap(
        "Mul of a Conv with two readers",
        "c = Conv (x, w) d = Mul (c, k) y = Sub (d, c)",
        {**_3X3, "k": (C, 1, 1)},
    )
    yield _trap(
        "Mul of one of two Convs with one weight",
        "c = Conv (x, w) d = Conv (x, w, wb) e = Mul (c, k) y = Sub (e, d)",
        {**_3X3, "wb": (C,), "k": (C, 1, 1)},
    )
    yield _trap(
        "Mul of a Conv by itself",
        f"c = Conv <{_SAME}> (x, w) y = Mul (c, c)",
        _3X3,
    )
    yield _trap(
        "Mul of a Conv by an input",
        "c = Conv (x, w) y = Mul (c, k)",
        _3X3,
        inputs="float[N,8,H,W] x, float[8,1,1] k",
    )
    yield _trap(
        "BatchNormalization in training mode",
        "c = Conv (x, w) y, rm, rv = BatchNormalization <training_mode = 1> (c, s, b, m, v)",
        {**_3X3, **norm()},
        outputs="float y",
    )
    yield _trap(
        "inner name used again in an If",
        "c = Conv (x, w) d = Mul (c, k) y = If (flag) <then_branch = then () =>"
        " (float[N,8,P,Q] t) { t = Add (c, d) }, else_branch = other () =>"
        " (float[N,8,P,Q] u) { u = Sub (c, d) }>",
        {**_3X3, "k": (C, 1, 1)},
        inputs="bool flag, float[N,8,H,W] x",
    )


def _lookalikes() -> Iterator[Pattern]:
    """One number or attribute away from a pattern."""
    numbers = {"three": 3.0, "two": 2.0, "zero": 0.0, "six": 6.0, "five": 5.0}
    for name, shift, most, divisor in (
        ("Clip to 5", "three", "five", "six"),
        ("Add of 2", "two", "six", "six"),
        ("Div by 5", "three", "six", "five"),
    ):
        body = (
            f"a = Add (x, {shift}) c = Clip (a, zero, {most}) d = Mul (x, c) y = Div (d, {divisor})"
        )
        used = {key: scalar(value) for key, value in numbers.items() if key in body}
        yield _trap(f"HardSwish, but {name}", body, used)
    yield _trap(
        "Transposes that are no pair",
        "a = Transpose <perm = [0, 2, 3, 1]> (x) c = Transpose <perm = [0, 2, 3, 1]> (a)"
        " y = Relu (c)",
        {},
    )
    yield _trap(
        "Reshape that moves sizes when H is not 8",
        "c = Reshape (x, s) y = Relu (c)",
        {"s": ints(-1, 8, 8, 8)},
        inputs="float[N,8,F,E] x",
    )
    yield _trap(
        "Slice with a step",
        "c = Slice (x, starts, ends, axes, steps) y = Relu (c)",
        {
            "starts": ints(-1),
            "ends": ints(-(2**63)),
            "axes": ints(3),
            "steps": ints(-1),
        },
    )
    yield _trap(
        "Reshape, Transpose, Reshape with channels outside: no SpaceToDepth",
        "a = Reshape (x, s1) c = Transpose <perm = [0, 1, 3, 5, 2, 4]> (a) y = Reshape (c, s2)",
        {"s1": ints(-1, 8, 4, 2, 4, 2), "s2": ints(-1, 32, 4, 4)},
        inputs=_FIXED,
    )
    yield _trap(
        "SpaceToBatch around a padded Conv",
        "a = Reshape (x, s1) c = Transpose <perm = [3, 5, 0, 1, 2, 4]> (a) d = Reshape (c, s2)"
        f" e = Conv <{_SAME}> (d, w) f = Reshape (e, s3)"
        " g = Transpose <perm = [2, 3, 4, 0, 5, 1]> (f) y = Reshape (g, s4)",
        {
            **_3X3,
            "s1": ints(2, 8, 4, 2, 4, 2),
            "s2": ints(8, 8, 4, 4),
            "s3": ints(2, 2, 2, 8, 4, 4),
            "s4": ints(2, 8, 8, 8),
        },
        inputs="float[2,8,8,8] x",
    )
    yield _trap(
        "sum of two branches, one shifted",
        f"a = Conv <{_SAME}> (x, w) c = Conv <pads = [0, 1, 2, 1]> (x, v) y = Add (a, c)",
        {**_3X3, "v": (C, C, 3, 3)},
    )
    yield _trap(
        "sum of two branches, one of one channel",
        f"a = Conv <{_SAME}> (x, w) c = Conv (x, v) y = Add (a, c)",
        {**_3X3, "v": (1, C, 1, 1)},
    )
    yield _trap(
        "Split, Convs, Concat in another order",
        "p, q = Split <axis = 1, num_outputs = 2> (x) a = Conv (p, w) c = Conv (q, v)"
        " y = Concat <axis = 1> (c, a)",
        {"w": (C, 4, 3, 3), "v": (C, 4, 3, 3)},
    )
    yield _trap(
        "zero border, auto_pad, strided, even kernel",
        'y = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (x, w)',
        {"w": np.pad(np.ones((C, C, 2, 2), np.float32), [(0, 0), (0, 0), (1, 1), (1, 1)])},
    )
    yield _trap(
        "BatchNormalization of variance 0",
        "c = Conv (x, w) y = BatchNormalization (c, s, b, m, v)",
        {**_3X3, **norm(), "v": np.zeros(C, np.float32)},
    )
    yield _trap(
        "Mul by 0",
        "c = Conv (x, w) y = Mul (c, k)",
        {**_3X3, "k": scalar(0)},
    )


def _versions() -> Iterator[Pattern]:
    """Results that need another opset than the model's."""
    yield _trap(
        "Reshape by computed sizes, opset 12",
        "a = Shape (x) c = Slice (a, zero, one) d = Concat <axis = 0> (c, rest)"
        " e = Reshape (x, d) f = Shape (e) g = Gather (f, first) h = Unsqueeze <axes = [0]> (g)"
        " i = Concat <axis = 0> (h, back) y = Reshape (e, i)",
        {
            "zero": ints(0),
            "one": ints(1),
            "rest": ints(8, -1),
            "first": np.array(0),
            "back": ints(-1),
        },
        outputs="float[N,Q] y",
        opset=12,
    )
    yield _trap(
        "Reshapes in a row, opset 12",
        "c = Reshape (x, s) d = Reshape (c, t) y = Relu (d)",
        {"s": ints(-1, 8, 64), "t": ints(0, 8, 8, 8)},
        inputs=_FIXED,
        opset=12,
    )
    yield _trap(
        "Softmax over all axes from 1 on, with a HardSwish to raise the opset for, opset 12",
        "a = Add (x, three) c = Clip (a, zero, six) d = Mul (x, c) e = Div (d, six)"
        " y = Softmax <axis = 1> (e)",
        {"three": scalar(3), "zero": scalar(0), "six": scalar(6)},
        opset=12,
    )
    yield _trap(
        "BatchNormalization of opset 9 after Conv, Dropout between",
        "c = Conv (x, w) d = Dropout <ratio = 0.5> (c) y = BatchNormalization (d, s, b, m, v)",
        {**_3X3, **norm()},
        opset=9,
    )


TRAPS: tuple[Pattern, ...] = tuple(
    trap for traps in (_constants, _borders, _readers, _lookalikes, _versions) for trap in traps()
)
