"""1x1 convolutions beside a pool: what is accepted is certified and equal, mistakes are found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import strategies as st

from advconv_onnx.algebra.certificate import NotEqual
from advconv_onnx.optimizer.prove import Disproved, Prover
from advconv_onnx.rewriter.averaging import Averaging
from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.forms import pool_pointwise
from advconv_onnx.rewriter.forms.pool_pointwise import (
    FORMS,
    PointwisePool,
    PointwisePoolDepthwise,
    PoolPointwise,
)
from advconv_onnx.rewriter.proposal import Proposal, propose
from tests.parsing import normal, parse
from tests.rewriter.forms.comparing import gap_after
from tests.rewriter.forms.sweeping import sweep

FORWARD, BEHIND, DEPTHWISE = FORMS


def network(
    pool: str, sizes: Any = (6, 5), *, behind: bool = False, batch: int = 1, **options: Any
) -> Any:
    """Conv then pool, or pool then Conv ``behind`` it; a pool reads u or x and makes z or u."""
    channels = options.get("channels", (8, 4))
    group, bias = options.get("group", 1), options.get("bias", 1)
    conv = f"Conv <group = {group}>"
    order = f"u = {conv} (x, w, b) z = {pool % 'u'}"
    if behind:
        order = f"u = {pool % 'x'} z = {conv} (u, w, b)"
    return parse(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        g (float[{batch}, {channels[0]}, {sizes[0]}, {sizes[1]}] x) => (float[] z) {{ {order} }}""",
        s=np.array([1, 1, *options.get("scales", (0.5, 0.5))], np.float32),
        w=normal(channels[1], channels[0] // group, 1, 1),
        b=normal(channels[1], seed=1) * np.float32(bias),
    )


def proposed(form: Any, model: ir.Model) -> Proposal:
    made = propose(form, model.graph[-1], 18)
    assert isinstance(made, Proposal), made
    return made


def averages(data: st.DataObject, *, strides: bool, uniform: bool) -> tuple[str, list[int], bool]:
    """An AveragePool, the least sizes for it, and whether it averages zeros."""
    kernel = [data.draw(st.integers(1, 5)) for _ in range(2)]
    step = [data.draw(st.integers(1, 4)) if strides else 1 for _ in range(2)]
    padded = data.draw(st.booleans())
    pads = [data.draw(st.integers(0, k - 1)) if padded else 0 for k in kernel * 2]
    counts = uniform or data.draw(st.booleans())
    more = f"pads = {pads}, count_include_pad = {int(counts)}"
    if not uniform and data.draw(st.booleans()):
        same = data.draw(st.sampled_from(("UPPER", "LOWER")))
        more, counts = f'auto_pad = "SAME_{same}"', False
    elif not counts and all(end + s <= k for end, s, k in zip(pads[2:], step, kernel, strict=True)):
        more += ", ceil_mode = 1"
    text = f"AveragePool <kernel_shape = {kernel}, strides = {step}, {more}> (%s)"
    return text, kernel, counts and any(pads)


def resizes(data: st.DataObject) -> tuple[str, list[float], bool]:
    mode = data.draw(st.sampled_from(("nearest", "linear", "cubic")))
    places = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    place = data.draw(st.sampled_from(places))
    scales = [data.draw(st.sampled_from((0.25, 0.5, 0.75))), data.draw(st.sampled_from((0.5, 1)))]
    text = f'Resize <mode = "{mode}", coordinate_transformation_mode = "{place}"> (%s, , s)'
    return text, scales, mode == "cubic"


def check(form: Any, model: ir.Model) -> None:
    assert "exact" in Prover({"": 18}, 0).certify(proposed(form, model.clone()))
    gap = gap_after(model, lambda root: propose(form, root, 18))
    assert gap is not None
    assert gap <= (1e-6 if form is DEPTHWISE else 1e-12)  # The mean is rounded to float32.


def check_all(data: st.DataObject) -> None:
    batch, group = data.draw(st.integers(1, 3)), data.draw(st.sampled_from((1, 2)))
    more = [data.draw(st.integers(0, 6)) for _ in range(2)]
    kind = data.draw(st.sampled_from(("average", "global", "resize")))
    options: dict[str, Any] = {"batch": batch, "group": group}
    if kind == "global":
        sizes = [1 + n for n in more]
        check(FORWARD, network("GlobalAveragePool(%s)", sizes, channels=(4, 6), **options))
    elif kind == "resize":
        pool, options["scales"], rounded = resizes(data)
        # The float64 reference rounds cubic weights, so that they add up to 1 only nearly.
        sizes, options["bias"] = [4 + n for n in more], not rounded
        check(FORWARD, network(pool, sizes, **options))
        check(BEHIND, network(pool, sizes, behind=True, channels=(36, 4), **options))
    else:
        pool, least, zeros = averages(data, strides=True, uniform=False)
        sizes = [k + n for k, n in zip(least, more, strict=True)]
        check(FORWARD, network(pool, sizes, channels=(4, 6), bias=not zeros, **options))
        pool, least, zeros = averages(data, strides=False, uniform=False)
        sizes = [k + n for k, n in zip(least, more, strict=True)]
        check(BEHIND, network(pool, sizes, behind=True, bias=not zeros, **options))
        pool, least, _ = averages(data, strides=False, uniform=True)
        sizes = [k + n for k, n in zip(least, more, strict=True)]
        check(DEPTHWISE, network(pool, sizes, behind=True, **options))


test_certified_and_equal, test_certified_and_equal_long = sweep(check_all, st.data(), 25, 400)


HALF = "AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (%s)"
COUNTED = "AveragePool <kernel_shape = [3, 2], pads = [1, 1, 0, 0], count_include_pad = 1> (%s)"


@pytest.mark.parametrize("pool", [HALF, 'Resize <mode = "linear"> (%s, , s)'])
def test_dynamic_sizes_are_certified_as_all_sizes(pool: str) -> None:
    certificate = Prover({"": 18}, 0).certify(proposed(FORWARD, network(pool, ("H", "W"))))
    assert certificate.count("which prove all others") == 4


def test_a_bias_does_not_pass_weights_that_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Averaging.operator
    monkeypatch.setattr(Averaging, "operator", lambda *a: own(*a).scaled(2))
    with pytest.raises(NotEqual, match="constant"):
        list(FORWARD.certify(FORWARD.find(network(HALF).graph[-1], 18).plan))


def test_depthwise_taps_are_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = DEPTHWISE.find(network(COUNTED, behind=True).graph[-1], 18).plan
    assert list(DEPTHWISE.certify(plan))
    right = plan.pool.averaging
    for wrong in (
        {"begins": right.ends, "ends": right.begins},
        {"kernel": (2, 2)},
    ):
        mistake = dataclasses.replace(right, **wrong)
        monkeypatch.setattr(pool_pointwise, "_averaging", lambda _, mistake=mistake: mistake)
        with pytest.raises(NotEqual):
            list(DEPTHWISE.certify(plan))


class NoBias(PoolPointwise):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        y = plan.pool.apply(op, plan.convolution.x)
        return op.Conv(y, op.initializer(plan.convolution.weight, "w"))


class NoPads(PoolPointwise):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        y = op.AveragePool(plan.convolution.x, kernel_shape=[2, 2], strides=[2, 2])
        return plan.convolution.rebuild(op, y, plan.convolution.weight, plan.convolution.bias)


class BiasThroughZeros(PointwisePool):
    def _check_bias(self, pool: Any, convolution: Any) -> None:
        pass


class BiasInFront(PointwisePoolDepthwise):
    def rewrite(self, op: Builder, plan: Any) -> ir.Value:
        y = self._convolve(op, plan, plan.convolution.bias)
        mean = np.full((plan.convolution.out_channels, 1, 3, 2), 1 / 6, np.float32)
        group = plan.convolution.out_channels
        return op.Conv(y, op.initializer(mean, "mean"), group=group, pads=[1, 1, 0, 0])


@pytest.mark.parametrize(
    ("mutant", "pool"),
    [
        (NoBias, HALF),
        (NoPads, HALF.replace("> (", ", pads = [1, 0, 1, 0]> (")),
        (BiasThroughZeros, COUNTED),
        (BiasInFront, COUNTED),
    ],
)
def test_mistakes_are_found(mutant: type[Any], pool: str) -> None:
    model = network(pool, behind=issubclass(mutant, PointwisePool))
    with pytest.raises(Disproved):
        Prover({"": 18}, 0).prove(proposed(mutant(), model.clone()))
