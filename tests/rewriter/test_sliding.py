"""How kernels slide: pads however they are given, and kernels that lose taps."""

from __future__ import annotations

import numpy as np
import pytest

from advconv_onnx.rewriter.convolution import Convolution
from advconv_onnx.rewriter.rule import Refused
from advconv_onnx.rewriter.sliding import Sliding, alike
from tests.parsing import normal, parse


def convolution(
    attributes: str = "", op: str = "Conv", shape: tuple[int, ...] = (4, 4, 3, 2)
) -> Convolution:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 15]> g (float[1, 4, 9, 9] x) => (float[] z)
        {{ z = {op} {f"<{attributes}>" if attributes else ""} (x, w) }}""",
        w=normal(*shape),
    )
    return Convolution.of(model.graph.node(0))


@pytest.mark.parametrize(
    ("attributes", "begins", "ends"),
    [
        ("", (0, 0), (0, 0)),
        ("pads = [1, 2, 3, 4]", (1, 2), (3, 4)),
        ('auto_pad = "VALID"', (0, 0), (0, 0)),
        # The odd cell of an even kernel goes where the name says.
        ('auto_pad = "SAME_UPPER"', (1, 0), (1, 1)),
        ('auto_pad = "SAME_LOWER"', (1, 1), (1, 0)),
        ('auto_pad = "SAME_UPPER", dilations = [2, 3]', (2, 1), (2, 2)),
    ],
)
def test_pads(attributes: str, begins: tuple[int, ...], ends: tuple[int, ...]) -> None:
    sliding = Sliding.of(convolution(attributes))
    assert (sliding.begins, sliding.ends) == (begins, ends)
    assert sliding.attributes["pads"] == [*begins, *ends]
    grown = all(growth == 0 for growth in sliding.growth)
    assert grown == ("SAME" in attributes)


@pytest.mark.parametrize(
    ("attributes", "op"),
    [
        ('auto_pad = "SAME_UPPER", strides = [1, 2]', "Conv"),
        ('auto_pad = "SAME_LOWER"', "ConvTranspose"),
    ],
)
def test_pads_that_depend_on_the_size_are_refused(attributes: str, op: str) -> None:
    with pytest.raises(Refused, match="input's size"):
        Sliding.of(convolution(attributes, op))


def test_defaults_are_alike() -> None:
    plain = convolution()
    written = "group = 1, strides = [1, 1], dilations = [1, 1], pads = [0, 0, 0, 0]"
    assert alike(plain, convolution(written))
    assert alike(plain, convolution(shape=(7, 4, 3, 2)))


@pytest.mark.parametrize(
    "other",
    [
        convolution("strides = [2, 1]"),
        convolution("dilations = [1, 2]"),
        convolution("pads = [0, 1, 0, 0]"),
        convolution('auto_pad = "SAME_UPPER"'),
        convolution("group = 2", shape=(4, 2, 3, 2)),
        convolution(shape=(4, 4, 2, 3)),
        convolution(op="ConvTranspose"),
    ],
)
def test_what_slides_differently_is_not_alike(other: Convolution) -> None:
    assert not alike(convolution(), other)


def test_output_padding_counts() -> None:
    one, other = (
        convolution(f"strides = [2, 2]{more}", "ConvTranspose")
        for more in ("", ", output_padding = [1, 0]")
    )
    assert not alike(one, other)


def test_taps_lost_do_not_move_those_that_stay() -> None:
    """Taps keep their offsets, and the output its size, whatever is used and padded."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        taps, dilation, begin, end = (int(n) for n in rng.integers((1, 1, 0, 0), (8, 4, 9, 9)))
        sliding = Sliding((taps,), (1,), (dilation,), (begin,), (end,))
        used = sorted(rng.choice(taps, rng.integers(1, taps + 1), replace=False).tolist())
        kept = sliding.kept_taps(0, used)
        own = sliding.trimmed([kept])
        assert set(used) <= set(range(taps)[kept])
        offsets = [dilation * tap - begin for tap in range(taps)[kept]]
        assert [own.dilations[0] * t - own.begins[0] for t in range(own.kernel[0])] == offsets
        assert own.growth == sliding.growth
        assert min(*own.begins, *own.ends) >= 0
