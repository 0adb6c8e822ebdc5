"""Loop for the float64 reference, as the operator's definition has it.

onnx's own does not run where the condition is left out, concatenates what iterations collect
instead of stacking it, and lets values from outside replace states and constants of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_loop import Loop as EvaluatorLoop

Array = NDArray[Any]


class Loop(EvaluatorLoop):
    """Loop of all opsets."""

    body: ReferenceEvaluator

    def _run(
        self,
        M: Array | None = None,  # noqa: N803 - the name in the definition
        cond: Array | None = None,
        *states: Any,
        context: Mapping[str, Any] | None = None,
        attributes: dict[str, Any] | None = None,
        **_body: Any,
    ) -> tuple[Any, ...]:
        body, current = self.body, list(states)
        counter, condition, *names = body.input_names
        outside = _visible(context, body)
        collected: list[list[Any]] = []
        goes_on, count = _is_true(cond), 0
        while goes_on and (M is None or count < M.item()):
            given = {
                counter: np.full(_shape(body.input_types[0]), count, np.int64),
                condition: np.full(_shape(body.input_types[1]), True),
                **dict(zip(names, current, strict=True)),
            }
            results = list(body.run(None, outside | given, attributes=attributes))
            goes_on, count = _is_true(results[0]), count + 1
            current = results[1 : len(states) + 1]
            collected.append(results[len(states) + 1 :])
        kinds = body.output_types[len(states) + 1 :]
        if collected:
            stacks = [np.stack(values) for values in zip(*collected, strict=True)]
        else:
            stacks = [_nothing(kind) for kind in kinds]
        return (*current, *stacks)


def _visible(context: Mapping[str, Any] | None, body: ReferenceEvaluator) -> dict[str, Any]:
    """Values from outside that no constant of the body hides."""
    own = body.rt_inits_
    return {name: value for name, value in (context or {}).items() if name not in own}


def _is_true(condition: Array | None) -> bool:
    return condition is None or bool(np.all(condition))


def _nothing(kind: Any) -> Array:
    """What no iteration has collected; all floats are float64 here."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
    return np.empty((0, *_shape(kind)), dtype if dtype.kind in "iub" else np.float64)


def _shape(kind: Any) -> tuple[int, ...]:
    """The declared shape, 0 where a size is not known."""
    return tuple(dim.dim_value for dim in kind.tensor_type.shape.dim)
