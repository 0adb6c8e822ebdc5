"""The convolution-like layers of a model: kind, geometry, costs and receptive field."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fractions import Fraction

import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
from onnxscript.optimizer import fold_constants

from advconv_onnx import model as model_files
from advconv_onnx.costs import ReceptiveField, convolution_costs, effective_kernel, element_count
from advconv_onnx.errors import InputError
from advconv_onnx.geometry import RESIZES, constants, resize_scales, shape_of
from advconv_onnx.quiet import quiet
from advconv_onnx.records import Costs, Inspection, Layer, Shape

_WEIGHT = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
_BIAS = {"Conv": 2, "ConvTranspose": 2, "QLinearConv": 8}

# fmt: off
_ELEMENTWISE = {
    "Abs", "Add", "And", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu",
    "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LRN", "LeakyRelu",
    "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not",
    "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Shrink",
    "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh",
    "ThresholdedRelu", "Where",
}
# fmt: on
"""Operators whose result at one place depends only on that place (on its channels, for LRN)."""

_PATH = "advconv.path"
_NAME = "advconv.name"
"""Metadata in which a node of the working copy remembers where it was and what it was called."""

_Axes = tuple[ReceptiveField | None, ...]
"""Receptive field along each axis of a tensor, None along an axis that is not local."""

_Fields = _Axes | None
"""() for a tensor that no graph input reaches; None for one of which nothing is known."""


def inspect(model: ir.Model) -> Inspection:
    """Describe every convolution-like node of a model, which stays as it is.

    Nodes in If, Loop and Scan bodies count once each, however often they run; those in local
    functions once per call.

    Raises:
        InputError: the model's local functions call each other in a circle.
    """
    nodes, fields = _examine(model, _WEIGHT)
    layers = {node: _layer(node, fields) for node in nodes}
    stored = {key: size for node in nodes for key, size in _stored(node, fields)}
    return Inspection(
        layers=tuple(layers.values()),
        separable=tuple(_separable_pairs(layers, fields)),
        parameters=_total(stored.values()),
        macs=_total(layer.costs.macs for layer in layers.values()),
    )


def find(model: ir.Model, name: str) -> tuple[Layer, tuple[ir.Node, ...]]:
    """One layer, and the nodes it consists of in a copy of the model with all shapes inferred.

    The nodes know their opset as ``version``.

    Args:
        model: stays as it is.
        name: a node as ``inspect`` lists it, or a Resize; where several have the name, or none,
            the name of its output. "graph: " may be in front of either.

    Raises:
        InputError: none or several layers have this name; and as ``inspect``.
    """
    nodes, fields = _examine(model, (*_WEIGHT, *RESIZES))
    found = [node for node in nodes if name in _with_graph(node, _name(node))]
    if len(found) != 1:
        made = [n for n in found or nodes if name in _with_graph(n, n.outputs[0].name)]
        found = made or found
    if not found:
        known = [_name(node) for node in nodes]
        near = difflib.get_close_matches(name, known, cutoff=0.4) or known[:3]
        use = " or ".join(f"'{other}'" for other in near)
        advice = f"did you mean {use}?" if use else "the model has no such layer at all"
        raise InputError(f"no convolution or Resize is called '{name}'; {advice}")
    if len(found) > 1:
        outputs = ", ".join(f"'{_with_graph(node, node.outputs[0].name)[-1]}'" for node in found)
        raise InputError(
            f"{len(found)} layers are called '{name}'; use the name of an output instead: {outputs}"
        )
    [node] = found
    if node.op_type in RESIZES:
        return _resize_layer(node, fields), (node,)
    return _layer(node, fields), (*_upsampling_before(node), node)


def _with_graph(node: ir.Node, name: str | None) -> list[str]:
    """A name in a node's graph, and the same with that graph in front if it is not the main one."""
    path = node.metadata_props[_PATH]
    return [name or "", *([f"{path}: {name}"] if path else [])]


def _examine(
    model: ir.Model, op_types: Collection[str]
) -> tuple[list[ir.Node], dict[ir.Value, _Fields]]:
    """Nodes of a copy of the model whose shapes are inferred, and the fields of its values."""
    copy = _inlined_copy(model)
    # Listed before folding, which drops branches that are never taken.
    nodes = [
        node
        for _, graph in model_files.graphs(copy)
        for node in graph
        if node.domain == "" and node.op_type in op_types
    ]
    _settle_shapes(copy)
    fields: dict[ir.Value, _Fields] = {
        value: None if value.shape is None else (ReceptiveField(),) * len(value.shape)
        for value in copy.graph.inputs
    }
    _propagate(copy.graph, fields)
    return nodes, fields


def _inlined_copy(model: ir.Model) -> ir.Model:
    """A copy without local functions, each node marked with its opset, and where it came from."""
    copy = model.clone()
    for path, graph in model_files.graphs(copy):
        for node in graph:
            node.metadata_props[_PATH] = path
    # The pass refuses functions written for another opset: such a body stays apart.
    same_opset = {
        key
        for key, function in copy.functions.items()
        if all(copy.opset_imports.get(d, v) == v for d, v in function.opset_imports.items())
    }
    try:
        ir_passes.InlinePass(lambda function: function.identifier() in same_opset)(copy)
    except ir.passes.PreconditionError as error:
        raise InputError(f"the model's local functions are recursive: {error}") from error
    opsets = {f"{f.domain}::{f.name}": f.opset_imports.get("") for f in copy.functions.values()}
    for path, graph in model_files.graphs(copy):
        for node in graph:
            node.metadata_props[_NAME] = node.name or node.outputs[0].name or node.op_type
            node.version = opsets.get(path.partition("/")[0], model_files.opset(copy))
    return copy


def _settle_shapes(model: ir.Model) -> None:
    """Infer shapes, if need be through what the model computes about shapes: small constants."""
    if not _has_unknown_size(model):
        return
    model_files.infer_shapes(model)
    if not _has_unknown_size(model):
        return
    # It reports each operator it leaves alone as a warning; here that is no event.
    with quiet("onnxscript.optimizer._constant_folding"):
        fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=1024,
            output_size_limit=1024,
            # Left alone by default, but exporters make padding amounts of it.
            should_fold=lambda node: True if node.op_type == "ConstantOfShape" else None,
        )
    model_files.infer_shapes(model)


def _has_unknown_size(model: ir.Model) -> bool:
    """Whether a size is neither a number nor one that an input names."""
    given = {dim for value in model.graph.inputs for dim in value.shape or ()}
    shapes = (v.shape for _, graph in model_files.graphs(model) for n in graph for v in n.outputs)
    return any(
        shape is None or any(not isinstance(dim, int) and dim not in given for dim in shape)
        for shape in shapes
    )


# Rows


def _resize_layer(node: ir.Node, fields: dict[ir.Value, _Fields]) -> Layer:
    output = node.outputs[0]
    shapes = shape_of(node.inputs[0]), shape_of(output)
    enlarges = all(scale is not None and scale >= 1 for scale in resize_scales(node))
    return Layer(
        name=_name(node),
        nodes=(_name(node),),
        graph=node.metadata_props[_PATH],
        kind="upsampling" if enlarges else "resizing",
        kernel_shape=None,
        effective_kernel=None,
        strides=(),
        dilations=(),
        group=1,
        input_shape=shapes[0],
        output_shape=shapes[1],
        costs=Costs(0, 0, _moved(*shapes, _itemsize(output))),
        receptive_field=_extents(output, fields),
    )


def _layer(node: ir.Node, fields: dict[ir.Value, _Fields]) -> Layer:
    window = _Window.of(node)
    upsampling = _upsampling_before(node)
    weight, bias, output = _weight(node), _bias(node), node.outputs[0]
    costs = convolution_costs(
        shape_of(node.inputs[0]),
        shape_of(weight),
        shape_of(output),
        bias=element_count(shape_of(bias)) or 0,
        transposed=node.op_type == "ConvTranspose",
        itemsizes=(_itemsize(node.inputs[0]), _itemsize(weight), _itemsize(output)),
    )
    parameters = _total(size for _, size in _stored(node, fields))
    return Layer(
        name=_name(node),
        nodes=tuple(map(_name, (*upsampling, node))),
        graph=node.metadata_props[_PATH],
        kind=_kind(node, upsampled=bool(upsampling)),
        kernel_shape=window.kernel,
        effective_kernel=window.extent,
        strides=window.strides,
        dilations=window.dilations,
        group=node.attributes.get_int("group", 1),
        input_shape=shape_of((*upsampling, node)[0].inputs[0]),
        output_shape=shape_of(output),
        costs=dataclasses.replace(costs, parameters=parameters),
        receptive_field=_extents(output, fields),
    )


def _moved(read: Shape | None, written: Shape | None, itemsize: float) -> int | None:
    elements = _total((element_count(read), element_count(written)))
    return None if elements is None else math.ceil(elements * itemsize)


def _extents(output: ir.Value, fields: dict[ir.Value, _Fields]) -> tuple[int, ...] | None:
    field = (fields.get(output) or ())[2:]
    sizes = tuple(axis.size for axis in field if axis)
    return sizes if sizes and len(sizes) == len(field) else None


def _name(node: ir.Node) -> str:
    return node.metadata_props[_NAME]


def _kind(node: ir.Node, *, upsampled: bool) -> str:
    window = _Window.of(node)
    group = node.attributes.get_int("group", 1)
    weight_shape = shape_of(_weight(node))
    if node.op_type == "ConvTranspose":
        kind = "transposed"
    elif upsampled:
        kind = "upsample+convolution"
    elif group > 1:
        kind = "depthwise" if weight_shape and weight_shape[1] == 1 else "grouped"
    else:
        kind = "pointwise" if window.kernel and set(window.kernel) == {1} else "dense"
    return kind if window.extent == window.kernel else f"dilated {kind}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Window:
    """Geometry of a convolution or pooling; ``kernel`` is None where unknown."""

    kernel: tuple[int, ...] | None
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node) -> _Window:
        weight_shape = shape_of(_weight(node)) if node.op_type in _WEIGHT else None
        dims = node.attributes.get_ints("kernel_shape", (weight_shape or ())[2:])
        kernel = tuple(dim for dim in dims if isinstance(dim, int))
        rank = len(dims) or len((shape_of(node.inputs[0]) or ())[2:])
        return cls(
            kernel if kernel and len(kernel) == rank else None,
            tuple(node.attributes.get_ints("strides", (1,) * rank)),
            tuple(node.attributes.get_ints("dilations", (1,) * rank)),
        )

    @property
    def extent(self) -> tuple[int, ...] | None:
        return self.kernel and effective_kernel(self.kernel, self.dilations)


def _upsampling_before(node: ir.Node) -> tuple[ir.Node, ...]:
    """The enlarging Resize, and the Pad behind it, that feed nothing but this convolution."""
    if node.op_type == "ConvTranspose":
        return ()
    first = _sole_producer(node)
    pads = (first,) if first is not None and first.op_type == "Pad" else ()
    resize = _sole_producer(first) if first is not None and pads else first
    if resize is None or resize.op_type not in RESIZES:
        return ()
    scales = [scale or 0 for scale in resize_scales(resize)[2:]]
    enlarges = min(scales, default=0) >= 1 and max(scales) > 1
    return (resize, *pads) if enlarges else ()


def _sole_producer(node: ir.Node) -> ir.Node | None:
    """Where a node's first input comes from, if nothing else reads it."""
    value = node.inputs[0]
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    producer = value.producer()
    return producer if producer is not None and producer.graph is node.graph else None


def _separable_pairs(
    layers: dict[ir.Node, Layer], fields: dict[ir.Value, _Fields]
) -> Iterator[tuple[int, int]]:
    rows = {node: row for row, node in enumerate(layers)}
    for node, layer in layers.items():
        source = _elementwise_source(node, fields) if layer.kind == "pointwise" else None
        if source in layers and layers[source].kind.endswith("depthwise"):
            yield rows[source], rows[node]


def _elementwise_source(node: ir.Node, fields: dict[ir.Value, _Fields]) -> ir.Node | None:
    """The node that feeds this one, only this one, and through element-wise operators only."""
    sources: set[ir.Node] = set()
    between: set[ir.Node] = set()
    pending = [node.inputs[0]]
    while pending:
        value = pending.pop()
        producer = value.producer() if value is not None else None
        if producer is None:
            return None
        if producer in between or producer in sources:
            continue
        if producer.domain == "" and producer.op_type in _ELEMENTWISE:
            between.add(producer)
            pending += [v for v in producer.inputs if v is not None and _look_up(v, fields) != ()]
        else:
            sources.add(producer)
    inside = {*between, node}
    closed = all(
        not value.is_graph_output() and inside.issuperset(value.consumers())
        for part in (*between, *sources)
        for value in part.outputs
    )
    return sources.pop() if closed and len(sources) == 1 else None


def _stored(node: ir.Node, fields: dict[ir.Value, _Fields]) -> Iterator[tuple[int, int | None]]:
    """Identity and size of the weight and bias the model stores; computed ones are not stored."""
    for value in (_weight(node), _bias(node)):
        if value is not None and _look_up(value, fields) == ():
            stored = ir.convenience.get_const_tensor(value) or value
            yield id(stored), element_count(shape_of(value))


def _weight(node: ir.Node) -> ir.Value | None:
    return node.inputs[_WEIGHT[node.op_type]]


def _bias(node: ir.Node) -> ir.Value | None:
    index = _BIAS.get(node.op_type, len(node.inputs))
    return node.inputs[index] if index < len(node.inputs) else None


def _itemsize(value: ir.Value | None) -> float:
    """Bytes per element; where the type is unknown so is the shape, and any size does."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    source = value if tensor is None else tensor
    return source.dtype.itemsize if source is not None and source.dtype is not None else 4


def _total(counts: Iterable[int | None]) -> int | None:
    known = list(counts)
    return None if None in known else sum(filter(None, known))


# Receptive fields


def _propagate(graph: ir.Graph, fields: dict[ir.Value, _Fields]) -> None:
    """Add the fields of all values computed in a graph and in the bodies below it."""
    for node in graph:
        bodies = [
            a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH
        ]
        for body in bodies:
            _propagate(body, fields)
        inputs = [_look_up(value, fields) for value in node.inputs if value is not None]
        for index, output in enumerate(node.outputs):
            if not bodies:
                fields[output] = _output_fields(node, inputs)
            elif node.op_type == "If":
                fields[output] = _merge([_look_up(body.outputs[index], fields) for body in bodies])
            else:
                fields[output] = None


def _look_up(value: ir.Value, fields: dict[ir.Value, _Fields]) -> _Fields:
    return () if value.const_value is not None else fields.get(value)


def _output_fields(node: ir.Node, inputs: list[_Fields]) -> _Fields:
    if node.op_type in ("Shape", "Size") or all(tensor == () for tensor in inputs):
        return ()
    if node.domain != "" or None in inputs:
        return None
    if node.op_type in _ELEMENTWISE:
        return _merge(inputs)
    data = _merge(inputs) if node.op_type == "Concat" else inputs[0]
    rule = _RULES.get(node.op_type)
    return rule(node, data) if rule and data else None


def _merge(tensors: Sequence[_Fields]) -> _Fields:
    """Fields where tensors meet, broadcast as ONNX does: the larger of each axis."""
    known = [tensor for tensor in tensors if tensor is not None]
    if len(known) < len(tensors):
        return None
    rank = max(map(len, known), default=0)
    columns = [[t[axis] for t in known if len(t) >= -axis] for axis in range(-rank, 0)]
    return tuple(_largest(column) for column in columns)


def _largest(fields: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    known = [field for field in fields if field is not None]
    return max(known, key=lambda field: field.size) if len(known) == len(fields) else None


def _slide(node: ir.Node, data: _Axes) -> _Fields:
    """Convolution and pooling: a window along the spatial axes, across all channels."""
    window = _Window.of(node)
    if window.extent is None or len(window.extent) != len(data) - 2:
        return None
    spread = node.op_type == "ConvTranspose"
    steps = zip(data[2:], window.extent, window.strides, strict=True)
    spatial = [
        field and (field.through(k, upscale=s) if spread else field.through(k, stride=s))
        for field, k, s in steps
    ]
    return (data[0], None, *spatial)


def _resize(node: ir.Node, data: _Axes) -> _Fields:
    """Interpolation, which reads 1, 2 or 4 neighbours, then repetition by p of every q-th."""
    mode = node.attributes.get_string("mode", "nearest")
    antialias = node.attributes.get_int("antialias", 0)
    crops = node.attributes.get_string("coordinate_transformation_mode") == "tf_crop_and_resize"
    support = {"nearest": 1, "linear": 2, "cubic": 4}.get(mode)
    if support is None or antialias or crops:
        return None
    scales = resize_scales(node) or (None,) * len(data)
    return tuple(_rescaled(f, scale, support) for f, scale in zip(data, scales, strict=True))


def _rescaled(
    field: ReceptiveField | None, scale: Fraction | None, support: int
) -> ReceptiveField | None:
    if field is None or scale is None or scale == 1:
        return field if scale else None
    p, q = scale.as_integer_ratio()
    return field.through(support).through(p, upscale=p, stride=q)


def _concat(node: ir.Node, data: _Axes) -> _Fields:
    return _without(data, [node.attributes.get_int("axis", 1)])


def _split(node: ir.Node, data: _Axes) -> _Fields:
    return _without(data, [node.attributes.get_int("axis", 0)])


def _slice(node: ir.Node, data: _Axes) -> _Fields:
    """Shifted copies may meet again, where the larger field would be too small: those are lost."""
    axes = constants(node, "axes", 3)
    return _without(data, axes or range(len(data)))


def _without(data: _Axes, axes: Iterable[float]) -> _Axes:
    lost = {int(axis) % len(data) for axis in axes}
    return tuple(None if axis in lost else field for axis, field in enumerate(data))


def _transpose(node: ir.Node, data: _Axes) -> _Fields:
    return tuple(data[axis] for axis in node.attributes.get_ints("perm", range(len(data))[::-1]))


def _unsqueeze(node: ir.Node, data: _Axes) -> _Fields:
    axes = constants(node, "axes", 1)
    rank = len(data) + len(axes)
    added = {int(axis) % rank for axis in axes}
    rest = iter(data)
    return tuple(None if axis in added else next(rest) for axis in range(rank)) if axes else None


def _squeeze(node: ir.Node, data: _Axes) -> _Fields:
    gone = {int(axis) % len(data) for axis in constants(node, "axes", 1)}
    return tuple(field for axis, field in enumerate(data) if axis not in gone) if gone else None


def _pad(node: ir.Node, data: _Axes) -> _Fields:
    return None if node.attributes.get_string("mode", "constant") == "wrap" else data


def _depth_to_space(node: ir.Node, data: _Axes) -> _Fields:
    block = node.attributes.get_int("blocksize", 1)
    return (data[0], None, *(f and f.through(block, upscale=block) for f in data[2:]))


def _space_to_depth(node: ir.Node, data: _Axes) -> _Fields:
    block = node.attributes.get_int("blocksize", 1)
    return (data[0], None, *(f and f.through(block, stride=block) for f in data[2:]))


_RULES: dict[str, Callable[[ir.Node, _Axes], _Fields]] = {
    **dict.fromkeys((*_WEIGHT, "AveragePool", "LpPool", "MaxPool"), _slide),
    **dict.fromkeys(RESIZES, _resize),
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Pad": _pad,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What each remaining local operator does to the fields of its data; all others are not local."""
