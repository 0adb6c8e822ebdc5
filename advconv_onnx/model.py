"""Loading, checking and saving models: the only place that knows about files.

Models are ``onnx_ir.Model`` objects. Weights kept in external files stay there, memory-mapped,
until something reads them, so models over 2 GB load at once and are saved without ever being held
whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
from google.protobuf.message import DecodeError

from advconv_onnx import serialization, shape_inference
from advconv_onnx.errors import InputError
from advconv_onnx.records import Shape

INLINE_LIMIT = 1_900_000_000
"""Bytes of weights up to which they stay in the model file: protobuf stops at 2 GiB."""

RUNNABLE_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
"""Operator domains stock ONNX Runtime brings kernels for."""

_MOST_ELEMENTS = 1 << 36
"""Elements of an input beyond which a shape is a slip of the pen: no machine holds the result."""

_UNLISTED_SINCE = 4
"""The first IR version in which an initializer need not be a graph input."""

_SMALL_CONSTANT = 64
"""Elements up to which a constant may be a shape or axes, which inference wants to know."""

LISTED_INITIALIZERS = "advconv_onnx.listed_initializers"
"""Key of ``model.meta``: how many initializers the file also listed as graph inputs."""


def load(path: str | os.PathLike[str]) -> ir.Model:
    """Load an ONNX file as ``read`` does, with initializers that are no graph inputs.

    Old files list initializers as inputs too (mandatory below IR 4), and ONNX Runtime then treats
    every weight as unknown until each run. How many there were is left in
    ``model.meta[LISTED_INITIALIZERS]``.

    Raises:
        InputError: as ``read``.
    """
    model = read(path)
    listed = len(model.graph.inputs)
    ir_passes.RemoveInitializersFromInputsPass()(model)
    model.meta[LISTED_INITIALIZERS] = listed - len(model.graph.inputs)
    model.ir_version = max(model.ir_version, _UNLISTED_SINCE)
    return model


def read(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file as it is, leaving external data where it is until something needs it.

    Dimensions called "?" or below zero become unknown: two of them need not be equal. The default
    domain is called "", never "ai.onnx".

    Raises:
        InputError: the file is missing, unreadable, empty, truncated or no ONNX model; its opset is
            unknown; its graph reads something that nothing produces; or external data is missing.
    """
    file = Path(path)
    model = _parse(file)
    _shorten_default_domain(model)
    _check_opset(model, file)
    _check_graph(model, file)
    _check_weight_data(model, file)
    for value in model.graph.inputs:
        _forget_placeholders(value)
    return model


def _parse(file: Path) -> ir.Model:
    try:
        if file.stat().st_size == 0:
            raise InputError(f"'{file}' is empty; export the model again")
        return ir.load(file, format="protobuf")
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read '{file}': {reason}; check the path") from error
    except (
        DecodeError,
        ir.serde.SerdeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise InputError(
            f"'{file}' is no ONNX model, or is truncated: it does not parse as protobuf; "
            "export or download it again"
        ) from error


def _shorten_default_domain(model: ir.Model) -> None:
    parts: list[ir.Model | ir.Function] = [model, *model.functions.values()]
    for part in parts:
        if "ai.onnx" in part.opset_imports:
            part.opset_imports[""] = part.opset_imports.pop("ai.onnx")


def _check_opset(model: ir.Model, file: Path) -> None:
    if "" not in model.opset_imports:
        raise InputError(
            f"'{file}' is no ONNX model: it imports no operator set of the default domain"
        )
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset(model) <= newest:
        raise InputError(
            f"'{file}' uses opset {opset(model)}, the installed onnx {onnx.__version__} knows 1 to "
            f"{newest}; upgrade onnx or export with an older opset"
        )


def _check_graph(model: ir.Model, file: Path) -> None:
    if not model.graph.outputs:
        raise InputError(f"'{file}' has no outputs; it is truncated or no complete model")
    for where, graph in graphs(model):
        place = f" in '{where}'" if where else ""
        for node in graph:
            for value in node.inputs:
                if value is not None and not _is_defined(value):
                    raise InputError(
                        f"'{file}': node '{node.name}' ({node.op_type}){place} reads "
                        f"'{value.name}', which nothing produces; export the model again"
                    )
        for value in graph.outputs:
            if not _is_defined(value):
                raise InputError(
                    f"'{file}': nothing produces the output '{value.name}'{place}; "
                    "export the model again"
                )


def _is_defined(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def _check_weight_data(model: ir.Model, file: Path) -> None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                _check_external_data(value.const_value, f"'{file}'", f"'{value.name}'")
            elif value.const_value is not None:
                _check_inline_data(value.const_value, f"'{file}'", f"'{value.name}'")


def _check_inline_data(tensor: ir.TensorProtocol, file: str, name: str) -> None:
    try:
        tensor.numpy()
    except (ValueError, TypeError, AssertionError) as error:
        shape = format_shape(tuple(tensor.shape.numpy()))
        raise InputError(
            f"{file}: the data of initializer {name} does not fit its shape ({shape}); "
            "export the model again"
        ) from error


def _check_external_data(tensor: ir.ExternalTensor, file: str, name: str) -> None:
    if os.path.isabs(tensor.location) or ".." in Path(tensor.location).parts:
        raise InputError(
            f"{file}: external data of {name} points outside the model's folder "
            f"('{tensor.location}'); move the data beside the model"
        )
    data = Path(tensor.path)
    if not data.is_file():
        raise InputError(
            f"{file}: external data file '{tensor.location}' of initializer {name} is missing; "
            "put it beside the model"
        )
    if tensor.length not in (None, tensor.nbytes):
        raise InputError(
            f"{file}: initializer {name} takes {tensor.nbytes} bytes, the model says that external "
            f"data holds {tensor.length}; export it again"
        )
    end = (tensor.offset or 0) + tensor.nbytes
    if data.stat().st_size < end:
        raise InputError(
            f"{file}: external data file '{tensor.location}' has {data.stat().st_size} bytes, "
            f"initializer {name} needs {end}; it is truncated, copy it again"
        )


def _forget_placeholders(value: ir.Value) -> None:
    if value.shape is not None:
        value.shape = ir.Shape(
            None if dim == ir.SymbolicDim("?") or (isinstance(dim, int) and dim < 0) else dim
            for dim in value.shape
        )


def load_runnable(path: str | os.PathLike[str], shapes: Mapping[str, Shape]) -> ir.Model:
    """Load a model that is going to be run, with new shapes for some of its inputs.

    Raises:
        InputError: as ``load``, ``check_domains``, ``check_weights`` and ``override_inputs``.
    """
    model = load_reshaped(path, shapes)
    check_domains(model, str(path))
    return model


def load_reshaped(path: str | os.PathLike[str], shapes: Mapping[str, Shape]) -> ir.Model:
    """Load a model whose weights are numbers, with new shapes for some of its inputs.

    Raises:
        InputError: as ``load``, ``check_weights`` and ``override_inputs``.
    """
    model = load(path)
    check_weights(model, str(path))
    override_inputs(model, shapes)
    return model


def reshaped(path: Path, shapes: Mapping[str, Shape], target: Path) -> Path:
    """The file itself or, given shapes, a copy at ``target`` with no more than them changed.

    Raises:
        InputError: as ``read``, ``override_inputs`` and ``save``.
    """
    if not shapes:
        return path
    copy = read(path)
    override_inputs(copy, shapes)
    save(copy, target)
    return target


def check_weights(model: ir.Model, name: str) -> None:
    """Refuse a model with NaN among its weights: no comparison could prove anything about it.

    Raises:
        InputError: naming the initializer and how many of its values are NaN.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or not tensor.dtype.is_floating_point():
                continue
            bad = int(np.isnan(tensor.numpy().astype(np.float32, copy=False)).sum())
            if bad:
                raise InputError(
                    f"'{name}': initializer '{value.name}' has {bad} NaN of {tensor.size} values; "
                    "the model was not trained or saved correctly, export it again"
                )


def check_domains(model: ir.Model, name: str) -> None:
    """Refuse operators that no ONNX Runtime kernel and no function of the model implements.

    Raises:
        InputError: naming the operator, its domain and a node that uses it.
    """
    if node := custom_node(model):
        raise InputError(
            f"'{name}': operator {node.domain}.{node.op_type} (node '{node.name}') needs a "
            "custom-operator library, which this tool does not load; export the model "
            "without it, or with the operator as a local function"
        )


def custom_node(model: ir.Model) -> ir.Node | None:
    """The first node that only a custom-operator library could run, None when there is none."""
    functions = {(function.domain, function.name) for function in model.functions.values()}
    for _, graph in graphs(model):
        for node in graph:
            if node.domain not in RUNNABLE_DOMAINS and (node.domain, node.op_type) not in functions:
                return node
    return None


def save(model: ir.Model, path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Write a model whole or not at all: written beside, flushed to disk, then renamed.

    Weights go to ``PATH.data`` when they exceed ``INLINE_LIMIT`` or already were external. A link
    is followed.

    Returns:
        The files written: the model, and its data if that is a file of its own.

    Raises:
        InputError: the file cannot be written; nothing is left behind.
    """
    file = Path(path).resolve() if os.path.islink(path) else Path(path)
    written = []
    with staging_folder(file) as folder:
        external = f"{file.name}.data" if _wants_external_data(model) else None
        try:
            if external:
                ir.save(model, folder / file.name, format="protobuf", external_data=external)
            else:
                with open(folder / file.name, "wb") as staged:
                    serialization.write(model, staged)
            # The data first: a model must never name weights that are not there yet.
            for name in filter(None, (external, file.name)):
                if (folder / name).exists():
                    _flush(folder / name)
                    os.replace(folder / name, file.parent / name)
                    written.append(file.parent / name)
        except OSError as error:
            raise _unwritable(file, error) from error
    return tuple(reversed(written))


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file as ``write_bytes`` does."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all; a link is followed.

    Raises:
        InputError: the file cannot be written; nothing is left behind.
    """
    file = Path(path).resolve() if os.path.islink(path) else Path(path)
    with staging_folder(file) as folder:
        try:
            (folder / file.name).write_bytes(content)
            _flush(folder / file.name)
            os.replace(folder / file.name, file)
        except OSError as error:
            raise _unwritable(file, error) from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse an output path that cannot be written, before any work is done for it.

    Raises:
        InputError: the folder is missing or read-only, or the path is a folder or a device.
    """
    with staging_folder(Path(path)):
        pass


def check_output(
    path: str | os.PathLike[str], source: str | os.PathLike[str], model: ir.Model
) -> None:
    """Refuse an output path that cannot be written, or would replace a part of the input.

    Args:
        path: of the output; its data may go beside it.
        source: file of the input model.
        model: which was read from it.

    Raises:
        InputError: as ``check_writable``, or the path is part of the input model.
    """
    for output in (Path(path), Path(f"{path}.data")):
        if any(is_same_file(output, part) for part in (Path(source), *data_files(model))):
            raise InputError(
                f"'{output}' is part of the input model, which is never modified; name another -o"
            )
    check_writable(path)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, through links too, even if it is not there yet."""
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


@contextlib.contextmanager
def staging_folder(file: Path) -> Iterator[Path]:
    """A folder beside a file, or a new folder, to write into before it is renamed.

    Raises:
        InputError: the folder above is missing or read-only, or there is something else already.
    """
    # Renaming would replace a device or a pipe instead of writing to it.
    if file.exists() and not file.is_file():
        kind = "a folder" if file.is_dir() else "no regular file"
        raise InputError(f"cannot write '{file}': it is {kind}; name a file")
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    except OSError as error:
        raise _unwritable(file, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish_folder(folder: Path, target: Path) -> tuple[Path, ...]:
    """Give a finished staging folder its name; return the files in it."""
    folder.chmod(0o755)  # a temporary folder is its maker's alone
    folder.rename(target)
    return tuple(sorted(path for path in target.rglob("*") if path.is_file()))


def _unwritable(file: Path, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"cannot write '{file}': {reason}; choose another place")


def _flush(file: Path) -> None:
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def _wants_external_data(model: ir.Model) -> bool:
    tensors = [v.const_value for g in model.graphs() for v in g.initializers.values()]
    external = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    return external or weight_bytes(model) > INLINE_LIMIT


def data_files(model: ir.Model) -> set[Path]:
    """The files that hold a model's external data."""
    tensors = (v.const_value for g in model.graphs() for v in g.initializers.values())
    return {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all constants of a model, initializers or nodes, those of bodies included."""
    tensors = [v.const_value for g in model.graphs() for v in g.initializers.values()]
    for graph in model.graphs():
        for node in graph:
            if node.op_type == "Constant" and "value" in node.attributes:
                tensors.append(node.attributes["value"].as_tensor())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def opset(model: ir.Model) -> int:
    """Version of the default operator set."""
    return model.opset_imports.get("", 0) or 0


def graphs(model: ir.Model) -> Iterator[tuple[str, ir.Graph]]:
    """Every graph of a model with its path: "" is the main one, "if_1/then_branch" a body.

    Local functions follow, under their qualified name.
    """
    yield from _graphs_below("", model.graph)
    for function in model.functions.values():
        yield from _graphs_below(f"{function.domain}::{function.name}", function.graph)


def _graphs_below(path: str, graph: ir.Graph) -> Iterator[tuple[str, ir.Graph]]:
    yield path, graph
    for node in graph:
        for name, body in bodies(node):
            below = f"{node.name or node.op_type}/{name}"
            yield from _graphs_below(f"{path}/{below}" if path else below, body)


def bodies(node: ir.Node) -> Iterator[tuple[str, ir.Graph]]:
    """The graphs a node itself holds, each with the name of its attribute."""
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            continue  # A function's parameter has no value here.
        if attribute.type == ir.AttributeType.GRAPH:
            yield name, attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for body in attribute.as_graphs():
                yield name, body


def count_nodes(model: ir.Model) -> int:
    """Operators of a model, those in bodies and functions included, Constant nodes left out."""
    return sum(node.op_type != "Constant" for _, graph in graphs(model) for node in graph)


def override_inputs(model: ir.Model, shapes: Mapping[str, Shape]) -> None:
    """Give graph inputs new shapes, in place, and infer all other shapes again.

    An int fixes a dimension; a name or None leaves it dynamic. Where a named dimension is fixed,
    other inputs with a dimension of that name follow.

    Raises:
        InputError: no such input, another rank, or a size below 1.
    """
    inputs = {value.name or "": value for value in model.graph.inputs}
    overridden = [(_overridable(inputs, name, shape), shape) for name, shape in shapes.items()]
    bound: dict[str, int] = {}
    for value, shape in overridden:
        for old, new in zip(value.shape or (), shape, strict=False):
            if isinstance(old, ir.SymbolicDim) and old.value and isinstance(new, int):
                bound[old.value] = new
        value.shape = ir.Shape(shape)
    for name, value in inputs.items():
        if name not in shapes and value.shape is not None:
            value.shape = ir.Shape(
                bound.get(dim.value or "", dim) if isinstance(dim, ir.SymbolicDim) else dim
                for dim in value.shape
            )
    if shapes:
        forget_shapes(model)
        infer_shapes(model)


def _overridable(inputs: Mapping[str, ir.Value], name: str, shape: Shape) -> ir.Value:
    if name not in inputs:
        known = ", ".join(f"'{known}'" for known in inputs)
        raise InputError(f"--input '{name}': the model has no such input; it has {known}")
    value = inputs[name]
    if value.shape is not None and len(value.shape) != len(shape):
        raise InputError(
            f"--input '{name}': {len(shape)} dimensions given, the model's input has "
            f"{len(value.shape)} ({format_shape(value.shape)})"
        )
    sizes = [dim for dim in shape if isinstance(dim, int)]
    if any(size < 1 for size in sizes):
        raise InputError(f"--input '{name}': sizes must be at least 1, got {format_shape(shape)}")
    if math.prod(sizes) > _MOST_ELEMENTS:
        raise InputError(
            f"--input '{name}': {format_shape(shape)} is more than {_MOST_ELEMENTS} elements; "
            "give smaller sizes"
        )
    return value


def format_shape(shape: ir.Shape | Shape) -> str:
    """Spell a shape the way ``--input`` reads it: ``1x3xHxW``, "?" for an unknown dimension."""
    dims = (dim.value if isinstance(dim, ir.SymbolicDim) else dim for dim in shape)
    return "x".join("?" if dim is None else str(dim) for dim in dims)


def forget_shapes(model: ir.Model) -> None:
    """Drop every shape that inference can find again; types and the rank of outputs stay."""
    for _, graph in graphs(model):
        for node in graph:
            for value in node.outputs:
                # The checker insists on a shape for outputs, if only of unknown sizes.
                known = value.shape is not None and value.is_graph_output()
                value.shape = ir.Shape([None] * len(value.shape or ())) if known else None


def infer_shapes(model: ir.Model) -> None:
    """Infer the shapes and types of all values, in place; what cannot be inferred stays unknown."""
    _forget_made_up_names(model)
    with _small_constants_in_bodies(model):
        shape_inference.infer(model)
        if _rank_reshaped(model):
            shape_inference.infer(model)


def _rank_reshaped(model: ir.Model) -> bool:
    """Give results of Reshape the rank their computed target has, which inference does not do."""
    found = False
    for _, graph in graphs(model):
        for node in graph:
            if node.op_type == "Reshape" and not node.domain and node.outputs[0].shape is None:
                target = node.inputs[1] if len(node.inputs) > 1 else None  # an attribute once
                size = target.shape[0] if target is not None and target.shape else None
                if isinstance(size, int):
                    node.outputs[0].shape = ir.Shape([None] * size)
                    found = True
    return found


def _forget_made_up_names(model: ir.Model) -> None:
    """Drop names that an earlier inference gave to sizes: now they may be known to be others."""
    for _, graph in graphs(model):
        for node in graph:
            for value in node.outputs:
                if value.shape is not None and not value.is_graph_output():
                    value.shape = ir.Shape(map(_without_made_up_name, value.shape))


def _without_made_up_name(dim: int | ir.SymbolicDim) -> int | ir.SymbolicDim | None:
    is_made_up = isinstance(dim, ir.SymbolicDim) and (dim.value or "").startswith("unk__")
    return None if is_made_up else dim


@contextlib.contextmanager
def _small_constants_in_bodies(model: ir.Model) -> Iterator[None]:
    """Give bodies copies of the small constants they read from outside, for a while.

    Inference does not look for the axes of an Unsqueeze or the shape of a Reshape out there.
    """
    readings: list[tuple[ir.Node, int, ir.Value]] = []
    copies: list[tuple[ir.Graph, ir.Value]] = []
    for path, graph in graphs(model):
        own: dict[ir.Value, ir.Value] = {}
        for node in graph if path else ():
            for index, value in enumerate(node.inputs):
                if value is None:
                    continue
                if value not in own:
                    if not _is_small_constant_from_outside(value, graph):
                        continue
                    own[value] = ir.Value(
                        name=value.name,
                        shape=value.shape,
                        type=value.type,
                        const_value=value.const_value,
                    )
                    graph.register_initializer(own[value])
                    copies.append((graph, own[value]))
                readings.append((node, index, value))
                node.replace_input_with(index, own[value])
    try:
        yield
    finally:
        for node, index, value in readings:
            node.replace_input_with(index, value)
        for graph, value in copies:
            graph.initializers.pop(value.name or "")


def _is_small_constant_from_outside(value: ir.Value, graph: ir.Graph) -> bool:
    tensor = value.const_value
    is_constant = tensor is not None and value.is_initializer() and not value.is_graph_input()
    return (
        is_constant
        and tensor is not None
        and tensor.size <= _SMALL_CONSTANT
        and value.graph is not graph
        and value.name not in graph.initializers
    )


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
