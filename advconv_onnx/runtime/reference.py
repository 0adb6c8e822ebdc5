"""A float64 executor of whole ONNX models: the judge of every numeric comparison.

It is ``onnx.reference.ReferenceEvaluator`` with every floating-point value held in float64, and
with own kernels for the operators that the evaluator runs in Python loops (Conv, ConvTranspose,
pools) or computes wrongly (BatchNormalization before opset 14, Softmax before 13, Resize before 11,
negative pads).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun, RuntimeContextError
from onnx.reference.ops.op_cast import cast_to
from onnx.reference.ops.op_one_hot import OneHot as EvaluatorOneHot
from onnx.reference.ops.op_resize import Resize as EvaluatorResize

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime.kernels import (
    Array,
    Window,
    convolve,
    convolve_transposed,
    pool_average,
    pool_max,
    split_padding,
)
from advconv_onnx.runtime.loop import Loop


class Reference:
    """Runs a model in float64; results of integer and boolean type stay what they are.

    Float attributes keep the float32 value stored in the file. Operators of older opsets follow
    the opset the model declares. Small inputs only: the kernels are numpy.
    """

    def __init__(self, model: ir.Model) -> None:
        """Prepare a model, which stays as it is.

        Raises:
            CheckError: an operator has no float64 reference; the message names it.
        """
        light, weights = _without_large_weights(model)
        self._evaluator = _Evaluator(ir.to_proto(_inlined(light)))
        self._evaluator.rt_inits_.update(weights)
        self._outputs = tuple(value.name or "" for value in model.graph.outputs)

    def run(
        self, inputs: Mapping[str, Array], tensors: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Compute the outputs, or the named values of the main graph.

        Args:
            inputs: one array per graph input, of any float type for a float input.
            tensors: names of values to return; None for the graph's outputs.

        Raises:
            CheckError: an operator fails on these inputs, or has no float64 reference.
        """
        names = list(self._outputs if tensors is None else tensors)
        with np.errstate(all="ignore"):
            return dict(zip(names, self._evaluator.run(names, dict(inputs)), strict=True))


@dataclasses.dataclass(frozen=True, slots=True)
class _Weight:
    """A large weight of float type: an array, of which files make a copy, only when it is read."""

    tensor: ir.TensorProtocol


def _without_large_weights(model: ir.Model) -> tuple[ir.Model, dict[str, Any]]:
    """The model with its large weights as inputs, and those as ``_Weight``."""
    large = [
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype in _NARROW_TYPES
        and value.const_value.nbytes > _LARGE
    ]
    if not large:
        return model, {}
    light = model.clone()
    weights = {}
    for name in large:
        value = light.graph.initializers.pop(name)
        assert value.const_value is not None
        weights[name] = _Weight(value.const_value)
        value.const_value = None
        if value not in light.graph.inputs:
            light.graph.inputs.append(value)
    return light, weights


def _inlined(model: ir.Model) -> ir.Model:
    """The model itself, or a copy with its external data loaded."""
    tensors = (v.const_value for g in model.graphs() for v in g.initializers.values())
    if not any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
        return model
    copy = model.clone()
    ir.external_data.load_to_model(copy)
    return copy


class _Evaluator(ReferenceEvaluator):
    """The evaluator of a graph, a body or a function, with every float widened to float64."""

    def __init__(self, proto: Any, **options: Any) -> None:
        super().__init__(proto, **{**options, "new_ops": list(_OPERATORS)})

    def _load_impl(self, node: onnx.NodeProto, input_types: Any = None) -> Any:
        _refuse_ignored_attributes(node)
        try:
            return super()._load_impl(node, input_types)
        except RuntimeContextError:
            raise  # The caller retries with the types of the inputs.
        except Exception as error:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise CheckError(
                f"operator {operator} (node '{node.name}') has no float64 reference; "
                "compare with the original in ONNX Runtime instead"
            ) from error

    def run(  # The remaining options of the evaluator check annotations.
        self,
        output_names: Sequence[str] | None,
        feed_inputs: dict[str, Any],
        attributes: dict[str, Any] | None = None,
        *_options: Any,
        **_named_options: Any,
    ) -> list[Any]:
        values: dict[str, Any] = {"": None, **self.rt_inits_, **feed_inputs}
        if self._has_bodies():  # They read from here, some of them very often.
            values = {name: _widen(value) for name, value in values.items()}
        wanted = list(output_names or self.output_names)
        expiring = self._expiring(wanted)
        for index, node in enumerate(self.rt_nodes_):
            for name, value in zip(node.output, self._run_node(node, values, attributes)):  # noqa: B905
                values[name] = value
            for name in expiring.get(index, ()):
                del values[name]
        return [_widen(values[name]) for name in wanted]

    def _has_bodies(self) -> bool:
        return any(node.need_context() for node in self.rt_nodes_)

    def _expiring(self, wanted: Sequence[str]) -> dict[int, list[str]]:
        """Values by the node that reads them last: kept to the end they take gigabytes."""
        if self._has_bodies():
            return {}  # A body may read any of them.
        last = {name: i for i, node in enumerate(self.rt_nodes_) for name in node.input if name}
        expiring: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in wanted:
                expiring.setdefault(index, []).append(name)
        return expiring

    def _run_node(
        self, node: Any, values: dict[str, Any], attributes: dict[str, Any] | None
    ) -> list[Any]:
        # Weights become float64 here and one at a time: all at once they take gigabytes.
        inputs = [_widen(values[name]) for name in node.input]
        options: dict[str, Any] = {"context": values} if node.need_context() else {}
        if node.has_linked_attribute and attributes:
            options["linked_attributes"] = attributes
        try:
            results = node.run(*inputs, **options)
        except CheckError:
            raise
        except Exception as error:
            raise CheckError(
                f"operator {node.op_type} (node '{node.onnx_node.name}') fails in the float64 "
                f"reference: {' '.join(str(error).split())}"
            ) from error
        if any(_is_narrow(result) for result in results) and any(
            getattr(value, "dtype", None) == np.float64 and value.size for value in inputs
        ):
            raise CheckError(
                f"operator {node.op_type} (node '{node.onnx_node.name}') has no float64 reference: "
                "it computes in a narrower type; compare with the original in ONNX Runtime instead"
            )
        return [_widen(result) for result in results]


def _is_narrow(value: Any) -> bool:
    return getattr(value, "dtype", None) in _NARROW


def _widen(value: Any) -> Any:
    if isinstance(value, _Weight):
        value = value.tensor.numpy()
    if isinstance(value, list):
        return [_widen(item) for item in value]
    return value.astype(np.float64) if _is_narrow(value) else value


_LARGE = 1 << 16
"""Bytes of a weight that is not copied into the evaluator."""

_NARROW_TYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_NARROW = tuple(data_type.numpy() for data_type in _NARROW_TYPES)

_IGNORED = ("activation_alpha", "activation_beta", "clip", "input_forget", "activations")
"""Attributes of recurrent operators that the evaluator accepts and does not use."""

_USUAL_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def _refuse_ignored_attributes(node: onnx.NodeProto) -> None:
    if node.domain or node.op_type not in ("RNN", *_USUAL_ACTIVATIONS):
        return
    used = []
    for attribute in node.attribute:
        usual = _USUAL_ACTIVATIONS.get(node.op_type, ["Tanh"])
        stated = [text.decode() for text in attribute.strings]
        is_default = attribute.name == "activations" and stated in (usual, usual * 2)
        if attribute.name in _IGNORED and not is_default:
            used.append(attribute.name)
    if len(node.input) > 4 and node.input[4]:
        used.append("sequence_lens")
    if used:
        raise CheckError(
            f"operator {node.op_type} (node '{node.name}') has no float64 reference with "
            f"{', '.join(used)}; compare with the original in ONNX Runtime instead"
        )


class Conv(OpRun):
    """Conv of all opsets."""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, **a: Any) -> tuple[Array]:
        window = Window.from_attributes(
            x.shape[2:], weight.shape[2:], a["strides"], a["dilations"], a["pads"], a["auto_pad"]
        )
        return (convolve(x, weight, bias, window, a["group"]),)


class ConvTranspose(OpRun):
    """ConvTranspose of all opsets."""

    def _run(self, x: Array, weight: Array, bias: Array | None = None, **a: Any) -> tuple[Array]:
        kernel, auto_pad = weight.shape[2:], a["auto_pad"]
        same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
        window = Window.from_attributes(
            x.shape[2:], kernel, a["strides"], a["dilations"], None if same else a["pads"], None
        )
        extra = a["output_padding"] or [0] * len(kernel)
        full = [
            (n - 1) * stride + extent + more
            for n, stride, extent, more in zip(
                x.shape[2:], window.strides, window.extent, extra, strict=True
            )
        ]
        if a["output_shape"]:
            wanted = a["output_shape"][-len(kernel) :]
        elif same:
            wanted = [n * stride for n, stride in zip(x.shape[2:], window.strides, strict=True)]
        else:
            wanted = [n - b - e for n, b, e in zip(full, window.begin, window.end, strict=True)]
            return (convolve_transposed(x, weight, bias, window, a["group"], wanted),)
        totals = [max(0, n - size) for n, size in zip(full, wanted, strict=True)]
        begin, end = split_padding(totals, auto_pad)
        window = Window(window.kernel, window.strides, window.dilations, begin, end)
        return (convolve_transposed(x, weight, bias, window, a["group"], wanted),)


class MaxPool(OpRun):
    """MaxPool of all opsets, without its output of indices."""

    def _run(self, x: Array, **a: Any) -> tuple[Array]:
        if len(self.output) > 1:
            raise NotImplementedError("indices are not computed")
        return (pool_max(x, _pool_window(x, a), ceil_mode=bool(a["ceil_mode"])),)


class AveragePool(OpRun):
    """AveragePool of all opsets."""

    def _run(self, x: Array, **a: Any) -> tuple[Array]:
        window, ceil_mode = _pool_window(x, a), bool(a["ceil_mode"])
        include_pad = bool(a["count_include_pad"])
        return (pool_average(x, window, ceil_mode=ceil_mode, count_include_pad=include_pad),)


def _pool_window(x: Array, a: dict[str, Any]) -> Window:
    return Window.from_attributes(
        x.shape[2:], a["kernel_shape"], a["strides"], a["dilations"], a["pads"], a["auto_pad"]
    )


class GlobalMaxPool(OpRun):
    """GlobalMaxPool; the evaluator's is for two spatial axes only."""

    def _run(self, x: Array) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class BatchNormalization(OpRun):
    """BatchNormalization since opset 7: before 14 more than one output means training."""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **a: Any
    ) -> tuple[Array, ...]:
        channels = (1, x.shape[1], *[1] * (x.ndim - 2))
        training = a["training_mode"] or sum(map(bool, self.output)) > 1
        if training:
            axes = (0, *range(2, x.ndim))
            batch_mean, batch_variance = x.mean(axis=axes), x.var(axis=axes)
            momentum = a["momentum"]
            running = (
                mean * momentum + batch_mean * (1 - momentum),
                variance * momentum + batch_variance * (1 - momentum),
            )
            mean, variance = batch_mean, batch_variance
        factor = scale / np.sqrt(variance + a["epsilon"])
        y = (x - mean.reshape(channels)) * factor.reshape(channels) + bias.reshape(channels)
        return (y, *running) if training else (y,)


class Cast(OpRun):
    """Cast, where every float type means float64."""

    def _run(self, x: Array, to: Any = None, **a: Any) -> tuple[Array]:
        if to in _NARROW_TYPES and x.dtype.kind in "fiub":
            return (x.astype(np.float64),)
        return (cast_to(x, to, a["saturate"], a["round_mode"]),)


class Pad(OpRun):
    """Pad of all opsets; the evaluator does not know negative pads, which take elements away."""

    def _run(self, x: Array, *inputs: Array | None, **a: Any) -> tuple[Array]:
        pads, value, axes = (*inputs, None, None, None)[:3]
        if not inputs:
            pads, value = a.get("pads") or a["paddings"], a.get("value")
        where = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
        amounts = np.zeros((2, x.ndim), np.int64)
        amounts[:, where] = np.asarray(pads).reshape(2, -1)
        begins, ends = np.maximum(-amounts, 0)
        kept = x[tuple(map(slice, begins, np.array(x.shape) - ends))]
        widths = np.maximum(amounts, 0).T
        mode: Any = a.get("mode") or "constant"
        filling = {"constant_values": 0 if value is None else value} if mode == "constant" else {}
        return (np.pad(kept, widths, mode=mode, **filling).astype(x.dtype),)


class Split(OpRun):
    """Split of all opsets; the evaluator takes sizes that do not add up."""

    def _run(self, x: Array, split: Array | None = None, **a: Any) -> tuple[Array, ...]:
        axis, parts = a.get("axis") or 0, len(self.output)
        given = a.get("split") if split is None else split
        size = -(-x.shape[axis] // parts)
        sizes = [size] * (parts - 1) + [x.shape[axis] - size * (parts - 1)]
        sizes = sizes if given is None else [int(number) for number in given]
        if sum(sizes) != x.shape[axis] or min(sizes) < 0:
            raise ValueError(f"the parts {sizes} are not all of {x.shape[axis]}")
        return tuple(np.split(x, np.cumsum(sizes)[:-1], axis=axis))


class Resize(EvaluatorResize):
    """Resize; that of opset 10 takes (x, scales) and samples asymmetrically.

    With aligned corners and a fractional scale the evaluator aligns a corner that no pixel has: it
    takes size * scale without the floor.
    """

    old_behaviour: ClassVar[dict[str, str]] = {
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }

    def _run(  # type: ignore[override]
        self, x: Array, *inputs: Array | None, **a: Any
    ) -> tuple[Array]:
        if self.run_params["opsets"][""] < 11:
            a |= self.old_behaviour
            inputs = (None, *inputs)
        roi, scales, sizes = (*inputs, None, None, None)[:3]
        # Exporters spell "not given" as an empty tensor too.
        scales = None if scales is None or scales.size == 0 else scales
        if scales is not None and a.get("coordinate_transformation_mode") == "align_corners":
            axes = list(a.get("axes") or range(x.ndim))
            sizes = np.floor(np.array(x.shape)[axes] * scales.astype(np.float32)).astype(np.int64)
            scales = None
        return super()._run(x, roi, scales, sizes, **a)  # type: ignore


class Softmax(OpRun):
    """Softmax of all opsets: before 13 it runs over all axes from ``axis`` on, taken as one."""

    def _run(self, x: Array, axis: int) -> tuple[Array]:
        if self.run_params["opsets"][""] >= 13:
            return (self._compute(x, axis),)
        # The evaluator fills in the default of the newest opset, which is another.
        axis = axis % x.ndim if self.onnx_node.attribute else 1
        rows = int(np.prod(x.shape[:axis], dtype=np.int64))
        return (self._compute(x.reshape(rows, -1), -1).reshape(x.shape),)

    def _compute(self, x: Array, axis: int) -> Array:
        powers = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


class LogSoftmax(Softmax):
    """LogSoftmax of all opsets."""

    def _compute(self, x: Array, axis: int) -> Array:
        lowered = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
        return np.asarray(lowered - np.log(np.exp(lowered).sum(axis=axis, keepdims=True)))


class OneHot(EvaluatorOneHot):
    """OneHot, also with a depth that is a tensor of one element."""

    def _run(  # type: ignore[override]
        self, indices: Array, depth: Array, values: Array, **a: Any
    ) -> tuple[Array]:
        return super()._run(indices, depth.reshape(()), values, **a)  # type: ignore


class GatherElements(OpRun):
    """GatherElements, also where the indices cover a part of the data only."""

    def _run(self, x: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        axis %= x.ndim
        covered = tuple(
            slice(None) if position == axis else slice(size)
            for position, size in enumerate(indices.shape)
        )
        return (np.take_along_axis(x[covered], indices % x.shape[axis], axis),)


_OPERATORS = (
    Conv,
    ConvTranspose,
    MaxPool,
    AveragePool,
    GlobalMaxPool,
    BatchNormalization,
    Cast,
    Pad,
    Resize,
    Split,
    Softmax,
    LogSoftmax,
    GatherElements,
    Loop,
    OneHot,
)
