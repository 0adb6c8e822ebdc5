"""Maps between each other: every spelling gives the same, or says what it cannot do."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import onnx_ir as ir
import pytest

from advconv_onnx.rewriter.builder import Builder
from advconv_onnx.rewriter.interleave import Interleave, Spelling
from advconv_onnx.rewriter.rule import Refused
from advconv_onnx.runtime.reference import Reference

ANY: tuple[Spelling, ...] = ("depth_to_space", "channels_last", "rows", "planes")
TWO_AXES = ANY[1:]
CUT = Interleave(2, 3, (2, 2), (3, 4), ((1, 2), (0, 1)))
COLUMNS = Interleave(2, 3, (1, 2), (4, 3), ((0, 1), (0, 0)))
CASES = [
    pytest.param(case, spelling, spelling in able, id=f"{case.steps}-{spelling}")
    for case, able in (
        (Interleave(2, 3, (3, 3), (2, 3), ((0, 0), (0, 0))), ANY),
        (CUT, ANY),
        (Interleave(2, 3, (2, 3), (3, 2), ((1, 0), (0, 2))), TWO_AXES),
        (Interleave(2, 3, (3, 1), (2, 5), ((0, 0), (1, 1))), TWO_AXES),
        (COLUMNS, TWO_AXES),
        (Interleave(2, 3, (1, 1), (4, 5), ((1, 1), (0, 2))), ANY),
        (Interleave(2, 3, (3,), (5,), ((1, 1),)), ("channels_last", "planes")),
        (Interleave(2, 3, (2, 1, 3), (2, 3, 2), ((0, 1), (1, 0), (0, 0))), ("channels_last",)),
    )
    for spelling in ANY
]


def spelled(made: Interleave, spelling: Spelling, parts: np.ndarray) -> np.ndarray:
    """What a spelling makes of the parts."""
    op = Builder(13, [])
    given = {f"part{index}": part for index, part in enumerate(parts)}
    inputs = [ir.Value(name=name, type=ir.TensorType(ir.DataType.DOUBLE)) for name in given]
    y = op.Identity(made.spelled(spelling, op, inputs))
    constants = op.initializers
    for index, constant in enumerate(constants):
        constant.name = f"constant{index}"
    graph = ir.Graph(inputs, [y], nodes=op.nodes, initializers=constants, opset_imports={"": 13})
    [result] = Reference(ir.Model(graph, ir_version=8)).run(given).values()
    return result


def example(case: Interleave) -> tuple[np.ndarray, np.ndarray]:
    """Maps of all different numbers, and the result by its definition."""
    assert None not in case.sizes
    sizes = np.array(case.sizes) * case.steps
    parts = np.arange(6.0 * np.prod(sizes)).reshape(-1, 2, 3, *case.sizes)
    y = np.zeros((2, 3, *sizes))
    for cell, part in zip(itertools.product(*map(range, case.steps)), parts, strict=True):
        y[:, :, *(slice(a, None, s) for a, s in zip(cell, case.steps, strict=True))] = part
    kept = (slice(a, n - b) for (a, b), n in zip(case.cuts, sizes, strict=True))
    return parts, y[:, :, *kept]


@pytest.mark.parametrize(("case", "spelling", "is_able"), CASES)
def test_result(case: Interleave, spelling: Spelling, is_able: bool) -> None:
    parts, y = example(case)
    if is_able:
        assert np.array_equal(spelled(case, spelling, parts), y)
        return
    with pytest.raises(Refused, match=r"spatial axes"):
        spelled(case, spelling, parts)


@pytest.mark.parametrize("spelling", ["depth_to_space", "channels_last"])
def test_one_part_may_hold_all_maps(spelling: Spelling) -> None:
    parts, y = example(CUT)
    stacked = np.concatenate(parts, axis=1)[None]
    assert np.array_equal(spelled(CUT, spelling, stacked), y)


@pytest.mark.parametrize(
    ("batch", "sizes", "able"),
    [
        (None, (3, 4), ANY),
        (2, (None, 4), ANY),
        (None, (None, 4), ("depth_to_space", "rows", "planes")),
        (None, (3, None), ("depth_to_space", "rows")),
        (2, (None, None), ("depth_to_space",)),
    ],
)
def test_dynamic_sizes(batch: int | None, sizes: tuple[int | None, ...], able: object) -> None:
    parts, y = example(CUT)
    for spelling in ANY:
        made = dataclasses.replace(CUT, batch=batch, sizes=sizes)
        if spelling in able:
            assert np.array_equal(spelled(made, spelling, parts), y)
            continue
        with pytest.raises(Refused, match="dynamic"):
            spelled(made, spelling, parts)


def test_columns_put_between_each_other_need_no_size() -> None:
    parts, y = example(COLUMNS)
    made = dataclasses.replace(COLUMNS, batch=None, sizes=(None, None))
    assert np.array_equal(spelled(made, "channels_last", parts), y)
