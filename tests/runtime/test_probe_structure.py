"""Sites share a probe exactly if they differ in nothing but the weights that the probe draws."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.runtime.probe import integer_twin, structure
from tests.parsing import normal, parse

TEXT = """<ir_version: 8, opset_import: ["" : 18]> g (float[N,8,H,W] x) => (float[N,8,P,Q] y) {
    a = Pad (x, p) c = Conv (a, w) d = BatchNormalization (c, s, b, m, v) y = Div (d, k) }"""


def site(text: str = TEXT, seed: int = 0, channels: int = 8, pad: int = 1) -> ir.Model:
    rng = np.random.default_rng(seed)
    return parse(
        text,
        p=np.array([0, 0, pad, pad, 0, 0, pad, pad]),
        w=normal(channels, 8, 3, 3, seed=seed),
        s=normal(channels, seed=seed + 1),
        b=normal(channels, seed=seed + 2),
        m=normal(channels, seed=seed + 3),
        v=rng.uniform(0.5, 2, channels).astype(np.float32),
        k=rng.uniform(0.5, 2, (channels, 1, 1)).astype(np.float32),
    )


def test_weights_make_no_difference() -> None:
    assert structure(site(seed=0)) == structure(site(seed=9))


def test_all_that_is_drawn_is_left_out() -> None:
    """The probe's own numbers in place of the weights: the same probe again."""
    model = site()
    twins = [integer_twin(model, np.random.default_rng(seed)) for seed in (0, 1)]
    assert structure(twins[0]) == structure(twins[1])


@pytest.mark.parametrize(
    "other",
    [
        site(channels=4),
        site(pad=2),
        site(TEXT.replace("Conv (", "Conv <strides = [2, 2]> (")),
        site(TEXT.replace("(d, k)", "(k, d)")),
        site(TEXT.replace("[N,8,H,W]", "[N,8,H,H]")),
        site(TEXT.replace("Div", "Mul")),
    ],
    ids=["channels", "pads", "strides", "operands", "dimensions", "operator"],
)
def test_everything_else_does(other: ir.Model) -> None:
    assert structure(other) != structure(site())
