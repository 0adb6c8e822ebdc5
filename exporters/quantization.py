"""A model with its layers in 8 bits, but for those that are to stay as they are.

QuantizeLinear and DequantizeLinear around each layer say what is computed; runtimes with integer
arithmetic replace the three by one kernel. Activations are uint8 with a zero point; weights are
int8 and symmetric, with a scale for each output channel. The graph is written by
``onnxruntime.quantization``; bodies of If, Loop and Scan stay as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorData

from advconv_onnx import model as files
from advconv_onnx.exporters.calibration import Range
from advconv_onnx.exporters.switches import Switches, alone
from advconv_onnx.quiet import quiet
from advconv_onnx.runtime.session import open_session

_WEIGHTED = {"Conv": (), "ConvTranspose": (), "Gemm": (2,), "MatMul": (2,)}
"""Layers with constant weights, and the ranks of these where only some are possible."""

WITHOUT_KERNEL = frozenset(("ConvTranspose",))
"""Layers for which ONNX Runtime's CPU provider has no integer kernel: it would compute them in
float32 from weights that are converted in each run (half as fast, onnxruntime 1.32)."""

_PLAIN = frozenset(
    ("Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid")
)
"""What ONNX Runtime's CPU provider has integer kernels for, besides."""

_FOLLOWING = frozenset(
    ("Clip", "Flatten", "MaxPool", "Pad", "Relu", "Reshape", "Resize", "Slice", "Split", "Squeeze",
     "Transpose", "Unsqueeze")
)  # fmt: skip
"""Operators that are in 8 bits where what they read is, as they move values only."""

_QUANTIZING = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
     "ConvInteger", "MatMulInteger")
)  # fmt: skip

_WIDE = ir.DataType.FLOAT


def is_quantized(model: ir.Model) -> bool:
    """Whether some part of it already is in 8 bits."""
    return any(node.op_type in _QUANTIZING for node in model.graph.all_nodes())


def layers(model: ir.Model, *, every: bool = False) -> list[ir.Node]:
    """What can be in 8 bits and computes, in the main graph of a float32 model.

    Args:
        model: its types inferred.
        every: those without an integer kernel too.
    """
    left_out = frozenset() if every else WITHOUT_KERNEL
    return [node for node in model.graph if node.op_type not in left_out and _is_layer(node)]


def _is_layer(node: ir.Node) -> bool:
    wide = all(value is not None and value.dtype == _WIDE for value in _floats(node))
    # The quantizer forgets what a Gemm multiplies its bias by (onnxruntime 1.32).
    scales_bias = node.op_type == "Gemm" and node.attributes.get_float("beta", 1.0) != 1
    if node.domain or not wide or scales_bias:
        return False
    if node.op_type in _WEIGHTED:
        shape = _constant_shape(node.inputs[1])
        ranks = _WEIGHTED[node.op_type]
        return shape is not None and (not ranks or len(shape) in ranks)
    return node.op_type in _PLAIN


def _floats(node: ir.Node) -> Iterator[ir.Value | None]:
    yield from (value for value in node.inputs if value is not None)
    yield from node.outputs


def _constant_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy().shape


def activations(model: ir.Model) -> list[str]:
    """Names of the tensors that layers, and what follows them, read and write."""
    nodes = [*layers(model, every=True), *_following(model)]
    values = dict.fromkeys(value for node in nodes for value in (*node.inputs, *node.outputs))
    return [
        value.name or ""
        for value in values
        if value is not None and value.dtype == _WIDE and _constant_shape(value) is None
    ]


def _following(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type in _FOLLOWING and not node.domain]


@dataclasses.dataclass(frozen=True, slots=True)
class Effect:
    """Differences in outputs relative to their range: the largest, and the root mean square."""

    largest: float
    mean: float


class Quantization:
    """All the ways to have some layers of one model in 8 bits.

    Attributes:
        layers: the names of those that can be.
        impossible: the names of those that cannot, as they have infinite values.
    """

    def __init__(
        self,
        model: ir.Model,
        ranges: Mapping[str, Range],
        weight_bits: int,
        *,
        every: bool = False,
    ) -> None:
        """Keep what all ways have in common.

        Args:
            model: float32, its shapes inferred; stays as it is.
            ranges: of its ``activations``.
            weight_bits: 8, or 7 for processors whose 16-bit sums of two products saturate.
            every: put layers without an integer kernel in 8 bits too.
        """
        self._model = ir.external_data.load_to_model(model.clone())
        self._weight_bits = weight_bits
        finite = {name for name, limits in ranges.items() if np.isfinite(limits).all()}
        self._ranges = {
            name: TensorData(
                lowest=np.float32(ranges[name][0]), highest=np.float32(ranges[name][1])
            )
            for name in finite
        }
        wanted = layers(model, every=every)
        infinite = ranges.keys() - finite

        def is_usable(node: ir.Node) -> bool:
            return infinite.isdisjoint(v.name or "" for v in _floats(node) if v is not None)

        usable = [node.name or "" for node in wanted if is_usable(node)]
        following = [node.name or "" for node in _following(model) if is_usable(node)]
        self.layers = usable
        self.impossible = [node.name or "" for node in wanted if not is_usable(node)]
        self._usable = [*usable, *following]

    def without(self, kept: Collection[str]) -> ir.Model:
        """The model with all layers in 8 bits but those that are kept."""
        # Rounding does what most activations do. Bodies may read what is before one, though.
        bodies = any(True for node in self._model.graph for _ in files.bodies(node))
        return self._quantized(kept, activations_stay=bodies)

    def _quantized(self, kept: Collection[str], *, activations_stay: bool) -> ir.Model:
        chosen = [name for name in self._usable if name not in kept]
        with _silence():
            quantizer = QDQQuantizer(
                ir.to_proto(self._model),
                per_channel=True,
                reduce_range=self._weight_bits == 7,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=dict(self._ranges),
                nodes_to_quantize=chosen,
                nodes_to_exclude=[],
                op_types_to_quantize=[*_WEIGHTED, *_PLAIN, *_FOLLOWING],
                extra_options={
                    "QDQKeepRemovableActivations": activations_stay,
                    "TensorQuantOverrides": dict(_overrides(self._model)),
                },
            )
            quantizer.quantize_model()
        model: ir.Model = ir.from_proto(quantizer.model.model)
        model.graph.sort()
        files.infer_shapes(model)
        return model

    def effects(
        self, samples: Sequence[Mapping[str, np.ndarray]], threads: int | None
    ) -> dict[str, Effect]:
        """What each layer alone in 8 bits changes in the outputs."""
        session = open_session(self._with_switches(), threads=threads)
        found: dict[str, list[Effect]] = {name: [] for name in self.layers}
        for inputs in samples:
            pairs = alone(session, inputs, len(self.layers))
            for name, (exact, changed) in zip(self.layers, pairs, strict=True):
                found[name] += [_effect(exact[output], changed[output]) for output in exact]
        return {
            name: Effect(max(e.largest for e in each), float(np.mean([e.mean for e in each])))
            for name, each in found.items()
        }

    def _with_switches(self) -> ir.Model:
        """A copy in which each layer can be let be in 8 bits.

        The result of a layer is rounded by what reads it.
        """
        copy = self._quantized((), activations_stay=True)
        graph = copy.graph
        switches = Switches(graph, len(self.layers))
        plain = {node.name: node for node in self._model.graph}
        rows = {name: index for index, name in enumerate(self.layers)}
        readers = [node for node in graph if node.name in rows]
        for node in readers:
            switch = switches.of(rows[node.name or ""], node.name or "")
            for index, value in enumerate(node.inputs):
                original = plain[node.name].inputs[index]
                exact = _before_rounding(graph, value, original)
                if value is None or exact is None:
                    continue
                chosen = switches.choose(exact, value, switch, f"{node.name} {index}")
                node.replace_input_with(index, chosen)
        for node in [node for node in graph if node.name in plain and node.name not in rows]:
            for index, value in enumerate(node.inputs):
                exact = _before_rounding(graph, value, None)
                if exact is not None:
                    node.replace_input_with(index, exact)
        for index, output in enumerate(graph.outputs):
            exact = _before_rounding(graph, output, None)
            if exact is not None:
                exact.name, output.name = output.name, exact.name
                graph.outputs[index] = exact
        graph.sort()
        return copy


def _before_rounding(
    graph: ir.Graph, value: ir.Value | None, original: ir.Value | None
) -> ir.Value | None:
    """What a value was before it went through 8 bits, None if it did not.

    Args:
        graph: gets weights as they were.
        value: the result of a DequantizeLinear, or another.
        original: the same in the model that was quantized, if it may be a constant.
    """
    dequantize = value.producer() if value is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    stored = dequantize.inputs[0]
    quantize = stored.producer() if stored is not None else None
    if quantize is not None:
        return quantize.inputs[0]
    if original is None or original.const_value is None:
        return None
    return _constant(graph, f"{original.name} exact", original.const_value.numpy())


def _constant(graph: ir.Graph, name: str, array: np.ndarray | np.generic) -> ir.Value:
    if name not in graph.initializers:
        tensor = ir.tensor(np.asarray(array), name=name)
        graph.register_initializer(ir.Value(name=name, const_value=tensor))
    return graph.initializers[name]


def _effect(exact: np.ndarray, changed: np.ndarray) -> Effect:
    finite = np.isfinite(exact) & np.isfinite(changed)
    values = exact[finite].astype(np.float64)
    if not values.size:
        return Effect(0.0, 0.0)
    change = np.abs(values - changed[finite]) / (float(np.ptp(values)) or 1.0)
    return Effect(float(change.max()), float(np.sqrt(np.square(change).mean())))


def _overrides(model: ir.Model) -> Iterator[tuple[str, list[dict[str, int]]]]:
    """The axis of the scales where it is not the usual one.

    The output channels of a grouped ConvTranspose lie on no single axis of its weights. Its
    scales are by input channel, which is as fine, and for a depthwise one the same; the bias then
    can only have as many scales if there are as many outputs, else there is one for all weights.
    """
    for node in model.graph:
        group = node.attributes.get_int("group", 1)
        shape = _constant_shape(node.inputs[1]) if node.op_type == "ConvTranspose" else None
        if shape is None or group == 1:
            continue
        has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
        by_input = not has_bias or shape[0] == shape[1] * group
        assert node.inputs[1] is not None
        yield node.inputs[1].name or "", [{"axis": 0} if by_input else {"symmetric": True}]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what the library prints and warns of to itself."""
    with (
        quiet(""),
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield
