"""The one place that creates nodes, names, initializers and value infos."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import helper

from advconv_onnx.errors import InputError
from advconv_onnx.layers.initializers import Array, Weight, initializer
from advconv_onnx.model import format_shape, infer_shapes
from advconv_onnx.records import Dim, Shape

DEFAULT_OPSET = 20
OLDEST_OPSET, NEWEST_OPSET = 11, 24
"""From the first opset with today's Resize to the newest that ONNX Runtime 1.32 calls released."""

DTYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "float64": ir.DataType.DOUBLE,
}

# fmt: off
_FLOAT32_ONLY = {
    "Conv", "ConvTranspose", "GlobalAveragePool", "HardSigmoid", "HardSwish", "LeakyRelu", "Resize",
}
# fmt: on
"""Operators of the layers without a float64 kernel in ONNX Runtime's CPU provider. Those it has
none for in float16 it runs in float32 between casts."""

_FLOAT32_BEFORE = {"Clip": 12}
"""Operators that got their float64 kernel in a later opset than ``OLDEST_OPSET``."""

_ANY_TYPE = {"Concat", "Shape", "Slice", "Squeeze", "Sub", "Unsqueeze"}
"""Operators that run in every type: they move data, or calculate sizes."""

_MOST_NAMED = 20
"""Entries of a state dict that an error names one by one before it only counts."""


class Builder:
    """Builds a graph, or continues an existing one, node by node.

    Names come from scopes and are joined with dots, the way torch names parameters: a convolution
    called "conv1" in the scope "layer1.0" has the weight "layer1.0.conv1.weight". Weights that are
    drawn depend on the seed and on their own name only, not on what else is in the graph.

    >>> from advconv_onnx.layers import conv
    >>> b = Builder()
    >>> y = conv(b, b.input("x", ("N", 3, "H", "W")), 8, 3, pads=1, activation="Relu")
    >>> b.output(y, "y")
    >>> [node.name for node in b.model().graph]
    ['conv', 'conv.relu']
    """

    def __init__(
        self,
        name: str = "advconv",
        *,
        opset: int = DEFAULT_OPSET,
        dtype: str = "float32",
        seed: int = 0,
        weights: Mapping[str, Array] | None = None,
        for_onnxruntime: bool = True,
    ) -> None:
        """Start an empty graph.

        Args:
            name: of the graph.
            opset: version of the default operator set, ``OLDEST_OPSET`` to ``NEWEST_OPSET``.
            dtype: of inputs that do not say otherwise: float32, float16 or float64.
            seed: same seed, same weights.
            weights: arrays by full name. Where given, every parameter comes from here, and
                ``model`` raises unless names and shapes fit exactly.
            for_onnxruntime: refuse operators that ONNX Runtime's CPU provider cannot run in the
                type at hand; False for other runtimes.

        Raises:
            InputError: an opset or type that is not supported.
        """
        if opset not in range(OLDEST_OPSET, NEWEST_OPSET + 1):
            raise InputError(f"opset {opset}: layers exist for {OLDEST_OPSET} to {NEWEST_OPSET}")
        if seed < 0:
            raise InputError(f"seed {seed}: give a number from 0 up")
        if dtype not in DTYPES:
            raise InputError(f"dtype '{dtype}': use one of {', '.join(DTYPES)}")
        self.opset = opset
        self._dtype = DTYPES[dtype]
        self._seed = seed
        self._weights = weights
        self._faults: dict[str, list[str]] = {"missing": [], "misshapen": []}
        self._unused = set(weights or ())
        self._for_onnxruntime = for_onnxruntime
        self._scope = ""
        self._names: set[str] = set()
        self._reserved: set[str] = set()  # by layers, for their main nodes
        self._model = ir.Model(
            ir.Graph([], [], nodes=[], name=name, opset_imports={"": opset}),
            ir_version=helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
            producer_name="advconv-onnx",
            producer_version=version("advconv-onnx"),
        )

    @classmethod
    def inside(cls, model: ir.Model, *, seed: int = 0, for_onnxruntime: bool = True) -> Builder:
        """Continue an existing model in place: its values are inputs of new layers.

        Shapes are inferred. New names differ from those the graph has. What reads a value goes on
        reading it until the caller says otherwise, with ``onnx_ir.convenience``.

        Raises:
            InputError: the model's opset is not supported.
        """
        builder = cls(
            opset=model.opset_imports.get("", 0), seed=seed, for_onnxruntime=for_onnxruntime
        )
        infer_shapes(model)
        # Older files list initializers as inputs, which new ones would not be.
        model.ir_version = max(model.ir_version, 4)
        builder._model = model
        values = [*model.graph.inputs, *model.graph.initializers.values()]
        values += [output for node in model.graph.all_nodes() for output in node.outputs]
        builder._names = {value.name or "" for value in values}
        builder._names |= {node.name or "" for node in model.graph.all_nodes()}
        return builder

    def value(self, name: str) -> ir.Value:
        """Find a value of the graph by name.

        Raises:
            InputError: there is none.
        """
        graph = self._model.graph
        values = {value.name or "": value for value in graph.inputs}
        values |= {value.name or "": value for node in graph for value in node.outputs}
        if name not in values:
            raise InputError(f"the graph has no value '{name}'; it has {_listing(list(values))}")
        return values[name]

    def input(self, name: str, shape: Shape, dtype: str | None = None) -> ir.Value:
        """Add a graph input: batch, channels, sizes. A str or None leaves a dimension dynamic.

        Raises:
            InputError: a size below 1, an unknown type, or a name that is taken.
        """
        if any(isinstance(dim, int) and dim < 1 for dim in shape):
            raise InputError(f"input '{name}': sizes must be at least 1, got {format_shape(shape)}")
        for dim in shape:
            _check_symbol(name, dim)
        if dtype is not None and dtype not in DTYPES:
            raise InputError(f"input '{name}': dtype '{dtype}': use one of {', '.join(DTYPES)}")
        self._take(f"input '{name}'", name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(shape),
            type=ir.TensorType(DTYPES[dtype] if dtype else self._dtype),
        )
        self._model.graph.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str | None = None) -> None:
        """Make a value a graph output, renamed if ``name`` is given.

        Raises:
            InputError: the name is taken, or the value is an output already, belongs to another
                graph, or is a graph input, which keeps its name.
        """
        self._check_own(value)
        if value.is_graph_output():
            raise InputError(f"output '{name}': '{value.name}' is an output already")
        if name is not None and name != value.name:
            if value.is_graph_input():
                raise InputError(f"output '{name}': '{value.name}' is an input; add a layer first")
            self._take(f"output '{name}'", name)
            value.name = name
        self._model.graph.outputs.append(value)

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of everything made inside; scopes nest and may be entered again."""
        with self._absolute_scope(self._full(name)):
            yield

    @contextlib.contextmanager
    def layer(self, kind: str, name: str | None) -> Iterator[None]:
        """A scope for one layer, of its own; a layer that is refused leaves nothing behind.

        Args:
            kind: what errors call the layer, and its name where none is given: "conv", "conv_1" ...
            name: None, or a name that nothing in the enclosing scope has.

        Raises:
            InputError: the name is taken, or the layer is refused: then its name is put in front.
        """
        graph = self._model.graph
        nodes, initializers = len(graph), set(graph.initializers)
        names, reserved = set(self._names), set(self._reserved)
        full = self._full(name) if name else self._unique_scope(self._full(kind))
        try:
            if self._is_scope_taken(full):
                raise InputError("the graph has this name already; use another")
            self._reserved.add(full)
            with self._absolute_scope(full):
                yield
        except BaseException as error:
            graph.remove(list(graph)[nodes:], safe=True)
            for added in set(graph.initializers) - initializers:
                del graph.initializers[added]
            self._names, self._reserved = names, reserved
            if isinstance(error, InputError):
                raise InputError(f"{kind} '{full}': {error}") from error
            raise

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shape: Iterable[int | ir.SymbolicDim],
        *,
        name: str = "",
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Add a node with one output.

        Args:
            op_type: an operator of the default domain.
            inputs: None for one that is left out.
            shape: of the output, as far as it is known.
            name: within the scope; "" for the scope's own, which suits a layer's main node.
            dtype: of the output; that of the first input by default.
            attributes: as in the ONNX specification; None leaves one out.

        Raises:
            InputError: ONNX Runtime has no kernel for this operator in this type, or an input
                belongs to another graph.
        """
        for value in inputs:
            self._check_own(value)
        calculated = inputs[0].dtype if inputs[0] is not None else None
        self._check_kernel(op_type, calculated)
        unique = self._full(name)
        if unique in self._reserved:
            self._reserved.remove(unique)
        else:
            unique = self._unique(unique)
        self._names.add(unique)
        node = ir.node(
            op_type,
            inputs,
            attributes={key: value for key, value in attributes.items() if value is not None},
            name=unique,
        )
        [output] = node.outputs
        output.name = unique
        output.shape = ir.Shape(shape)
        kind = dtype or calculated
        output.type = None if kind is None else ir.TensorType(kind)
        self._model.graph.append(node)
        return output

    def parameter(
        self, name: str, shape: Sequence[int], weight: Weight, dtype: ir.DataType | None
    ) -> ir.Value:
        """Add an initializer: drawn, given by the caller, or found in ``weights``.

        Args:
            name: within the scope, as in torch: weight, bias, running_mean, running_var.
            shape: what the layer needs.
            weight: numbers, an initializer, or the name of one.
            dtype: the type it is stored in.

        Raises:
            InputError: an array of another shape, of no numbers or of numbers beyond ``dtype``, an
                initializer that does not exist, or a name that is taken.
        """
        full, wanted = self._full(name), tuple(shape)
        self._take(name, full)
        if self._weights is not None:
            array = self._given(full, wanted)
        else:
            if callable(weight) or isinstance(weight, str):
                rng = np.random.default_rng([self._seed, zlib.crc32(full.encode())])
                weight = initializer(weight)(rng, wanted)
            array = _numbers(name, weight)
            if array.shape != wanted:
                raise InputError(
                    f"{name} has shape {format_shape(array.shape)}, "
                    f"the layer needs {format_shape(wanted)}"
                )
        return self._initializer(full, array, dtype)

    def constant(self, name: str, array: Array, dtype: ir.DataType | None = None) -> ir.Value:
        """Add an initializer that is no parameter: a limit, a scale, a size."""
        full = self._unique(self._full(name))
        self._names.add(full)
        return self._initializer(full, array, dtype)

    def model(self) -> ir.Model:
        """The model as built so far.

        Raises:
            InputError: ``weights`` were given and do not fit; all faults are in the one message.
        """
        faults = [
            f"{kind} {_listing(names)}"
            for kind, names in (*self._faults.items(), ("unexpected", sorted(self._unused)))
            if names
        ]
        if faults:
            raise InputError(
                f"the weights do not fit '{self._model.graph.name}': {'; '.join(faults)}"
            )
        return self._model

    def _given(self, name: str, shape: tuple[int, ...]) -> Array:
        assert self._weights is not None
        self._unused.discard(name)
        if name not in self._weights:
            self._faults["missing"].append(name)
            return np.zeros(shape, np.float32)
        array = _numbers(name, self._weights[name])
        if array.shape != shape:
            found, wanted = (format_shape(s) or "scalar" for s in (array.shape, shape))
            self._faults["misshapen"].append(f"{name} ({found}, needs {wanted})")
            return np.zeros(shape, np.float32)
        return array

    def _initializer(self, name: str, array: Array, dtype: ir.DataType | None) -> ir.Value:
        with np.errstate(over="ignore"):
            stored = array if dtype is None else array.astype(dtype.numpy(), copy=False)
        if stored.itemsize < array.itemsize and np.isinf(stored).sum() > np.isinf(array).sum():
            raise InputError(
                f"'{name}' holds {np.abs(array).max():g}, beyond {stored.dtype}; use a wider dtype"
            )
        tensor = ir.tensor(np.ascontiguousarray(stored).reshape(array.shape), name=name)
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._model.graph.register_initializer(value)
        return value

    def _check_kernel(self, op_type: str, dtype: ir.DataType | None) -> None:
        if not self._for_onnxruntime or op_type in _ANY_TYPE:
            return
        if dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return
        narrow = op_type in _FLOAT32_ONLY or self.opset < _FLOAT32_BEFORE.get(op_type, 0)
        if dtype != ir.DataType.DOUBLE or narrow:
            kind = "untyped" if dtype is None else str(dtype).lower()
            raise InputError(
                f"ONNX Runtime has no {kind} kernel for {op_type}; use float32 or float16, "
                "or Builder(for_onnxruntime=False) for another runtime"
            )

    @contextlib.contextmanager
    def _absolute_scope(self, name: str) -> Iterator[None]:
        outer, self._scope = self._scope, name
        try:
            yield
        finally:
            self._scope = outer

    def _full(self, name: str) -> str:
        return ".".join(filter(None, (self._scope, name)))

    def _take(self, what: str, name: str) -> None:
        if not name or self._is_taken(name):
            reason = "the graph has this name already" if name else "it needs a name"
            raise InputError(f"{what}: {reason}; use another")
        self._names.add(name)

    def _is_taken(self, name: str) -> bool:
        return name in self._names or name in self._reserved

    def _is_scope_taken(self, name: str) -> bool:
        inside = f"{name}."
        return self._is_taken(name) or any(taken.startswith(inside) for taken in self._names)

    def _unique(self, name: str) -> str:
        return _first(lambda candidate: not self._is_taken(candidate), name)

    def _unique_scope(self, name: str) -> str:
        return _first(lambda candidate: not self._is_scope_taken(candidate), name)

    def _check_own(self, value: ir.Value | None) -> None:
        if value is not None and value.graph is not self._model.graph:
            raise InputError(f"'{value.name}' belongs to another graph; use one builder for both")


def _first(suits: Callable[[str], bool], name: str) -> str:
    """The name itself if it suits, else with the first number that makes it so."""
    numbered = (f"{name}_{number}" for number in itertools.count(1))
    return next(filter(suits, itertools.chain(filter(None, [name]), numbered)))


def _check_symbol(name: str, dim: Dim) -> None:
    """Refuse a name that cannot be calculated with."""
    try:
        if isinstance(dim, str):
            ir.SymbolicDim(dim) + 1
    except ValueError as error:
        raise InputError(
            f"input '{name}': dimension '{dim}' is no size, name or expression of names"
        ) from error


def _numbers(name: str, weight: Any) -> Array:
    """A weight as an array.

    Raises:
        InputError: it is not made of real numbers.
    """
    try:
        array = np.asarray(weight)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "fiu":
        kind = type(weight).__name__ if array.dtype == object else array.dtype
        raise InputError(f"{name} is {kind}, not made of real numbers; give an array")
    return array


def _listing(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
